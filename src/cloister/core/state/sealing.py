"""Names and values of agent state under the agent's ``state`` key (spec/state.md 1).

The fabric sees a pseudorandom stored key and a sealed blob. Blob layout::

    u8 1 | u64 height | salt 32 | wrapped data key 48 | AES-256-GCM(u16 name length | name | value)

Each write has a fresh data key. It is wrapped under HMAC-SHA256(state key, frame(STATE_DATA_KEY, "wrap", salt)), so
every AES key here is used once and the nonce is zero. AAD of both = frame(STATE_DATA_KEY, identity, stored key, u64
height): a blob opens only at its place, for its agent version, at its height.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from cloister.core.encoding.contexts import Context, frame
from cloister.core.encoding.hexes import need_bytes, need_uint
from cloister.core.errors import StateError, define

Rng = Callable[[int], bytes]

MAX_NAME = 256
MAX_SEALED = 512 * 1024
_VERSION = 1
_NONCE = bytes(12)
_HEADER = 1 + 8 + 32 + 48
OVERHEAD = _HEADER + 2 + MAX_NAME + 16
MAX_PLAIN = MAX_SEALED - OVERHEAD

BAD_NAME = define(
    "state.bad_name",
    StateError,
    check="a state key is 1 to 256 bytes of UTF-8 text",
    remedy="use a shorter key, and text rather than bytes",
)
TOO_LARGE = define(
    "state.too_large",
    StateError,
    check="a value, a commit and an agent's whole state are within their caps",
    remedy="delete what is not needed, or put large data into a blob and keep its digest",
    status=413,
)
TAMPERED = define(
    "state.tampered",
    StateError,
    check="a stored blob is the one that this agent wrote at this place",
    remedy="the store was damaged or altered: restore it from a newer copy",
    status=502,
)


def check_name(name: object) -> str:
    """The name, if it may be a state key. Raises StateError state.bad_name."""
    if not isinstance(name, str) or not name:
        raise BAD_NAME(expected="text of at least one byte", found="empty text" if name == "" else type(name).__name__)
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise BAD_NAME(expected="valid Unicode", found="a lone surrogate") from None
    if size > MAX_NAME:
        raise BAD_NAME(expected=f"at most {MAX_NAME} bytes", found=f"{size} bytes")
    return name


# What the framed messages of this module begin with, up to the length of their last part.
_NAME: Final = Context.STATE_KEY_NAME.lead
_REQUEST: Final = frame(Context.STATE_KEY_NAME, b"request")
_WRAP: Final = frame(Context.STATE_DATA_KEY, b"wrap")


@dataclass(frozen=True, slots=True)
class Opened:
    """A blob's plain content: its height, its plain name ("" for records of our own) and its value."""

    height: int
    name: str
    value: bytes


class StateKeys:
    """What one agent version's ``state`` key does: names, seals, opens. Never shows the key."""

    __slots__ = ("_aad_lead", "_keyed", "_tag_key", "_tags", "identity")

    def __init__(self, state_key: bytes, identity: bytes) -> None:
        """``state_key``: 32 bytes derived for purpose STATE. ``identity``: bytes(KeyIdentity) it was derived for."""
        self._keyed = HMAC(need_bytes("state key", state_key, 32), SHA256())
        self.identity = bytes(identity)
        self._aad_lead = frame(Context.STATE_DATA_KEY, self.identity)
        self._tag_key = self._mac(frame(Context.STATE_KEY_NAME, b"request key"))
        self._tags = self._tag_key, HMAC(self._tag_key, SHA256())

    def __repr__(self) -> str:
        return "StateKeys(<secret>)"

    def name(self, key: str) -> str:
        """The stored key of a plain name: 32 hex digits. Raises StateError state.bad_name."""
        return self._mac(_NAME + _part(check_name(key).encode()))[:16].hex()

    def tag_key(self) -> bytes:
        """The key of request tags of an agent that was first sealed under this key: 32 bytes. A re-seal carries it."""
        return self._tag_key

    def request_tag(self, request_id: str, tag_key: bytes = b"") -> bytes:
        """16 bytes that stand for a request id in the index. ``tag_key``: a carried one, else this key's own."""
        key = tag_key or self._tag_key
        known, keyed = self._tags
        if not hmac.compare_digest(
            known, key
        ):  # a re-sealed state: its tags are always asked for under the carried key
            keyed = HMAC(key, SHA256())
            self._tags = key, keyed
        return _finish(keyed.copy(), _REQUEST + _part(request_id.encode()))[:16]

    def seal(self, name: str, value: bytes, height: int, rng: Rng) -> bytes:
        """Seal a value for ``name`` at ``height``. Raises StateError (bad_name, too_large)."""
        return self.seal_at(self.name(name), name, value, height, rng)

    def open(self, name: str, blob: bytes, stored: str = "") -> bytes:
        """The value that was sealed for ``name``. ``stored``: its stored key, if the caller has made it already.

        Raises StateError state.tampered."""
        opened = self.open_at(stored or self.name(name), blob)
        if opened.name != name:
            raise TAMPERED(expected="the name that was asked for", found="another one")
        return opened.value

    def seal_at(self, stored: str, name: str, value: bytes, height: int, rng: Rng) -> bytes:
        """Seal for a stored key; ``name`` is "" for records of our own (head, buckets, jobs)."""
        if len(value) > MAX_PLAIN:
            raise TOO_LARGE(expected=f"a value of at most {MAX_PLAIN} bytes", found=f"{len(value)} bytes")
        plain_name = name.encode()
        salt, data_key = need_bytes("salt", rng(32), 32), need_bytes("data key", rng(32), 32)
        aad = self._aad(stored, need_uint("height", height, 64))
        wrapped = AESGCM(self._wrap_key(salt)).encrypt(_NONCE, data_key, aad)
        plain = len(plain_name).to_bytes(2, "big") + plain_name + value
        header = bytes([_VERSION]) + height.to_bytes(8, "big") + salt + wrapped
        return header + AESGCM(data_key).encrypt(_NONCE, plain, aad)

    def open_at(self, stored: str, blob: bytes) -> Opened:
        """Open what was sealed for a stored key. Raises StateError state.tampered for anything else."""
        if not _HEADER + 2 + 16 <= len(blob) <= MAX_SEALED or blob[0] != _VERSION:
            raise TAMPERED(expected="a sealed blob, version 1", found=f"{len(blob)} bytes of another form")
        height = int.from_bytes(blob[1:9], "big")
        aad = self._aad(stored, height)
        try:
            data_key = AESGCM(self._wrap_key(blob[9:41])).decrypt(_NONCE, blob[41:_HEADER], aad)
            plain = AESGCM(data_key).decrypt(_NONCE, blob[_HEADER:], aad)
        except InvalidTag:
            raise TAMPERED(expected="a blob sealed here by this agent", found="one that does not open") from None
        size = int.from_bytes(plain[:2], "big")
        return Opened(height, plain[2 : 2 + size].decode(), plain[2 + size :])

    def _aad(self, stored: str, height: int) -> bytes:
        return b"%b%b\0\0\0\x08%b" % (self._aad_lead, _part(stored.encode()), height.to_bytes(8, "big"))

    def _wrap_key(self, salt: bytes) -> bytes:
        return self._mac(_WRAP + _part(salt))

    def _mac(self, data: bytes) -> bytes:
        return _finish(self._keyed.copy(), data)


def _part(data: bytes) -> bytes:
    """One part of a frame."""
    return len(data).to_bytes(4, "big") + data


def _finish(keyed: HMAC, data: bytes) -> bytes:
    """HMAC of a copy that was keyed once: OpenSSL 3 looks its algorithm up anew for each keying, 20 times the cost."""
    keyed.update(data)
    return keyed.finalize()


def job_slot(queue: str) -> str:
    """The place a job's body is sealed for."""
    return f"j.{queue}"


def job_request_id(blob: bytes) -> str:
    """The request id under which a job's effects are committed: it repeats with the job, whoever delivers it."""
    return hashlib.sha256(blob).hexdigest()[:32]
