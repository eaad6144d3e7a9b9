"""What a worker and its gateway say to each other over frames (spec/gateway-api.md 9).

A worker connects and announces itself: worker, boot, seats. It announces again whenever its seats change; each
announcement replaces the one before. The gateway then opens streams towards it, of these kinds:

- ``CALL``: agent (32 bytes) ‖ sealed request record. Answer: the sealed response stream, in chunks of any size.
- ``EVIDENCE``: nonce (32 bytes). Answer: JSON {evidence, binding}.
- ``STATUS``: nothing. Answer: a JSON object for operators.
- ``ANSWER``: chain id (8 bytes) ‖ agent (32 bytes) ‖ index (8 bytes). Answer: JSON of ``wire.anchor.Ready``.
- ``OBLIVIOUS``: agent (32 bytes) ‖ encapsulated request. Answer: the encapsulated response (spec/ohttp.md).
- ``OBLIVIOUS_CHUNKED``: as ``OBLIVIOUS``, of chunked Oblivious HTTP: the response comes as it is made.
- ``OBLIVIOUS_KEYS``: agent (32 bytes). Answer: JSON {keys: [ObliviousKey]}.
- ``RECEIPT``: u8 (1 receipt, 2 proof) ‖ receipt id (32 bytes). Answer: JSON of spec/receipts.md 15.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final

from cloister.core.encoding.hexes import from_hex, need_fields, need_uint, need_version, to_hex
from cloister.core.envelope.certificate import Seat
from cloister.core.errors import TransportError, define

# Of one page; and how many pages tell all seats of a worker.
MAX_SEATS: Final = 1024
MAX_ANNOUNCEMENT: Final = 8 << 20
MAX_PAGES: Final = 16
_FRAME: Final = 512

BAD_ANNOUNCEMENT = define(
    "wire.announcement",
    TransportError,
    check="a worker announces itself, and seats of its own boot",
    remedy="run the worker and the gateway in the same version",
)


class Kind(IntEnum):
    """Kinds of streams that a gateway opens towards a worker. Numbers are on the wire."""

    CALL = 1
    EVIDENCE = 2
    STATUS = 3
    RECEIPT = 4
    ANSWER = 5
    OBLIVIOUS = 6
    OBLIVIOUS_KEYS = 7
    OBLIVIOUS_CHUNKED = 8


@dataclass(frozen=True, slots=True)
class Announcement:
    """worker: 20-byte address. boot: 32 bytes. seats: what it serves now, unverified; all, or one page of ``pages``."""

    worker: bytes
    boot: bytes
    seats: tuple[Seat, ...]
    page: int = 0
    pages: int = 1

    def encode(self) -> bytes:
        """JSON bytes for an ANNOUNCE frame."""
        seats = [seat.to_json() for seat in self.seats]
        value = {"v": 1, "worker": to_hex(self.worker), "boot": to_hex(self.boot), "seats": seats}
        if self.pages > 1:
            value |= {"page": self.page, "pages": self.pages}
        return json.dumps(value, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Announcement:
        """Parse. Raises EncodingError or TransportError (wire.announcement)."""
        said = _json(data)
        paged = {"page", "pages"} if isinstance(said, dict) and "pages" in said else set()
        value = need_fields("announcement", said, {"v", "worker", "boot", "seats", *paged})
        page, pages = (need_uint("pages", value[name], 16) for name in ("page", "pages")) if paged else (0, 1)
        if paged and not (2 <= pages <= MAX_PAGES and page < pages):
            raise BAD_ANNOUNCEMENT(expected=f"a page of 2 to {MAX_PAGES}", found=f"{page} of {pages}")
        need_version("announcement", value["v"], 1)
        seats = value["seats"]
        if not isinstance(seats, list) or len(seats) > MAX_SEATS:
            raise BAD_ANNOUNCEMENT(expected=f"at most {MAX_SEATS} seats", found="something else")
        worker, boot = from_hex(value["worker"], 20, name="worker"), from_hex(value["boot"], 32, name="boot")
        parsed = tuple(Seat.from_json(seat) for seat in seats)
        if any(s.certificate.boot != boot or s.certificate.worker != worker for s in parsed):
            raise BAD_ANNOUNCEMENT(expected="seats of this worker and boot", found="a seat of another")
        return cls(worker, boot, parsed, page, pages)

    def split(self) -> tuple[Announcement, ...]:
        """As few pages as hold these seats, in order; what ``MAX_PAGES`` of them do not hold is left out."""
        pages: list[list[Seat]] = [[]]
        size = 0
        for seat in self.seats:
            length = len(json.dumps(seat.to_json(), separators=(",", ":"))) + 1
            if len(pages[-1]) == MAX_SEATS or size + length > MAX_ANNOUNCEMENT - _FRAME:
                pages.append([])
                size = 0
            pages[-1].append(seat)
            size += length
        kept = pages[:MAX_PAGES]
        return tuple(replace(self, seats=tuple(one), page=at, pages=len(kept)) for at, one in enumerate(kept))


def call_payload(agent: bytes, record: bytes) -> bytes:
    """The payload of a CALL stream."""
    return agent + record


def split_call(payload: bytes) -> tuple[bytes, bytes]:
    """(agent 32 bytes, record) of a CALL stream. Raises TransportError."""
    if len(payload) < 32:
        raise BAD_ANNOUNCEMENT(expected="an agent id and a record", found=f"{len(payload)} bytes")
    return payload[:32], payload[32:]


def _json(data: bytes) -> Any:
    if len(data) > MAX_ANNOUNCEMENT:
        raise BAD_ANNOUNCEMENT(expected=f"at most {MAX_ANNOUNCEMENT} bytes", found=f"{len(data)} bytes")
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise BAD_ANNOUNCEMENT(expected="JSON", found=f"{len(data)} other bytes") from None
