"""Pages of an agent's log, sealed to its owner's key and chained per boot of a worker (spec/owner.md 2-4).

::

    "CLL1" | u8 flags | worker 20 | boot 32 | u64 number | u64 first line | u32 lines | u64 host ms | previous 32
    | owner's key 32 | enc 32 | ciphertext | signature 65

The name of a page is a digest of all but the signature; the worker signs it, the next page names it. So a store can
neither write a page nor leave one out, reorder or repeat one unseen.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cloister.core.encoding.contexts import Context, digest, frame
from cloister.core.encoding.signatures import verify_signer
from cloister.core.errors import CloisterError, SealError, define
from cloister.core.keys.hpke import Rng, setup_recipient, setup_sender

LAST: Final = 1
MAX_PAGE: Final = 256 << 10
MAX_LINES: Final = 4096
PAD: Final = 1024
_MAGIC: Final = b"CLL1"
_HEADER: Final = struct.Struct(">4sB20s32sQQIQ32s32s32s")
_SIGNATURE: Final = 65

BAD_PAGE = define(
    "seal.log_page",
    SealError,
    check="a page of an agent's log is whole, signed by the worker that it names, and opens to lines",
    remedy="ask another worker; whoever keeps the log altered it",
)


@dataclass(frozen=True, slots=True)
class Page:
    """A page without its lines. ``number``: from 0 in its boot; ``first``: number of its first line; ``previous``: the
    name of the page before, zeros for the first; ``key``: the owner's; ``sealed``: the ciphertext."""

    flags: int
    worker: bytes
    boot: bytes
    number: int
    first: int
    lines: int
    host_ms: int
    previous: bytes
    key: bytes
    enc: bytes
    sealed: bytes

    def header(self) -> bytes:
        """Everything before the ciphertext: its associated data."""
        fields = (self.flags, self.worker, self.boot, self.number, self.first, self.lines, self.host_ms)
        return _HEADER.pack(_MAGIC, *fields, self.previous, self.key, self.enc)

    def name(self, network: bytes, agent: bytes) -> bytes:
        """What the worker signs and the next page names. 32 bytes."""
        return digest(Context.AGENT_LOG, network, agent, self.header(), self.sealed)


def seal_page(blank: Page, lines: list[bytes], network: bytes, agent: bytes, rng: Rng) -> Page:
    """The page with these lines (JSON each), sealed to its key. Raises SealError for a weak key."""
    enc, context = setup_sender(blank.key, frame(Context.AGENT_LOG, network, agent), rng=rng)
    plain = b"[" + b",".join(lines) + b"]"
    plain += b" " * (-len(plain) % PAD)
    fields = {name: getattr(blank, name) for name in Page.__slots__} | {"enc": enc, "lines": len(lines), "sealed": b""}
    page = Page(**fields)
    return Page(**(fields | {"sealed": context.seal_at(0, page.header(), plain)}))


def encode_page(page: Page, signature: bytes) -> bytes:
    """The bytes that are kept."""
    return page.header() + page.sealed + signature


def host_time(data: bytes) -> int:
    """When a page was made, by its host's clock: only to choose which is dropped first. 0 for what is no page."""
    return int(_HEADER.unpack_from(data)[7]) if len(data) >= _HEADER.size and data[:4] == _MAGIC else 0


def parse_page(data: bytes, network: bytes, agent: bytes) -> tuple[Page, bytes]:
    """(page, name) of kept bytes. Raises SealError (seal.log_page) unless the worker that it names signed it."""
    if not _HEADER.size + 16 + _SIGNATURE <= len(data) <= MAX_PAGE or data[:4] != _MAGIC:
        raise BAD_PAGE(expected="a page", found=f"{len(data)} bytes of another form")
    fields: list[Any] = [*_HEADER.unpack_from(data)[1:], data[_HEADER.size : -_SIGNATURE]]
    page = Page(*fields)
    name = page.name(network, agent)
    try:
        verify_signer(name, data[-_SIGNATURE:], page.worker)
    except CloisterError:
        raise BAD_PAGE(expected="the signature of its worker", found="another") from None
    return page, name


def open_page(page: Page, key: X25519PrivateKey, network: bytes, agent: bytes) -> list[tuple[int, str, str]]:
    """Lines as (host ms, level, text). Raises SealError (seal.hpke_open for another key, seal.log_page)."""
    context = setup_recipient(page.enc, key, frame(Context.AGENT_LOG, network, agent))
    plain = context.open_at(0, page.header(), page.sealed)
    try:
        lines = [_line(line) for line in json.loads(plain)]
    except (ValueError, TypeError, RecursionError):
        raise BAD_PAGE(expected="a list of lines", found="another form") from None
    if len(lines) != page.lines:
        raise BAD_PAGE(expected=f"{page.lines} lines", found=str(len(lines)))
    return lines


def _line(value: Any) -> tuple[int, str, str]:
    ms, level, text = value
    if not isinstance(ms, int) or not isinstance(level, str) or not isinstance(text, str):
        raise TypeError("a line is [ms, level, text]")
    return ms, level, text
