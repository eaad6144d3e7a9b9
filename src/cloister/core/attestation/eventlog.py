"""Measured-boot logs in the TCG2 crypto-agile format, and their replay (TCG PC Client Platform Firmware Profile 10.2).

The same format serves TPM logs (index = PCR) and confidential-computing logs (CCEL; index 1 to 4 = RTMR 0 to 3). A log
is believed only as far as its replay equals what the hardware signed. What an event's data says is not checked here.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cloister.core.attestation.reader import Reader
from cloister.core.attestation.refusals import MALFORMED
from cloister.core.errors import AttestationError, define

MAX_LOG: Final = 1 << 20
MAX_EVENTS: Final = 4096
EV_NO_ACTION: Final = 3
END: Final = 0xFFFFFFFF  # the unused rest of a CCEL area
SIGNATURE: Final = b"Spec ID Event03\0"
STARTUP: Final = b"StartupLocality\0"
SHA384: Final = 0x000C
HASHES: Final[Mapping[int, str]] = {0x000B: "sha256", SHA384: "sha384"}
_MAX_INDEX: Final = 31

BAD_REPLAY = define(
    "attestation.event_log",
    AttestationError,
    check="the measured-boot log replays to the values that the hardware signed",
    remedy="read the log and the quote in the same boot, and send both complete and in order",
)


@dataclass(frozen=True, slots=True)
class Event:
    """One event. index: PCR or CCEL measurement register; digests: hash algorithm id -> value."""

    index: int
    kind: int
    digests: Mapping[int, bytes]
    data: bytes


def parse(log: bytes) -> tuple[Event, ...]:
    """The events after the header, at most 4096 of 1 MiB. Raises attestation.malformed."""
    if not 0 < len(log) <= MAX_LOG:
        raise MALFORMED(expected=f"an event log of at most {MAX_LOG} bytes", found=f"{len(log)} bytes")
    at = Reader(log, "the event log", "little")
    sizes = _header(at)
    events: list[Event] = []
    while at.more():
        index = at.number(4)
        if index == END:
            break
        if len(events) == MAX_EVENTS or index > _MAX_INDEX:
            raise MALFORMED(expected=f"at most {MAX_EVENTS} events of registers to {_MAX_INDEX}", found=str(index))
        events.append(_event(at, index, sizes))
    return tuple(events)


def replay(events: tuple[Event, ...], algorithm: int) -> dict[int, bytes]:
    """Register -> value after all events, for one of HASHES. Registers without an event are not in it."""
    name = HASHES[algorithm]
    size = hashlib.new(name).digest_size
    values: dict[int, bytes] = {}
    for event in events:
        if event.kind == EV_NO_ACTION:
            if event.index == 0 and event.data[:16] == STARTUP and len(event.data) == 17 and 0 not in values:
                values[0] = event.data[16:].rjust(size, b"\0")
            continue
        if algorithm not in event.digests:
            raise MALFORMED(expected=f"a {name} digest in every event", found="an event without one")
        before = values.get(event.index, bytes(size))
        values[event.index] = hashlib.new(name, before + event.digests[algorithm]).digest()
    return values


def replay_pcrs(log: bytes) -> tuple[dict[tuple[int, int], bytes], int]:
    """(hash, PCR) -> value in every known bank that the log has, and the number of its events. Raises as ``parse``."""
    events = parse(log)
    banks = [a for a in HASHES if events and a in events[-1].digests]
    return {(bank, i): value for bank in banks for i, value in replay(events, bank).items()}, len(events)


def _header(at: Reader) -> dict[int, int]:
    index, kind, _, size = at.number(4), at.number(4), at.take(20), at.number(4)
    if index > 1 or kind != EV_NO_ACTION or size > 256:  # 1 in a CCEL
        raise MALFORMED(expected="a log that begins with its description", found=f"register {index}, type {kind}")
    inner = Reader(at.take(size), "the log's description", "little")
    if inner.take(16) != SIGNATURE:
        raise MALFORMED(expected="Spec ID Event03", found="another version")
    inner.take(8)
    count = inner.number(4)
    if not 0 < count <= 8:
        raise MALFORMED(expected="1 to 8 hash algorithms", found=str(count))
    sizes = {inner.number(2): inner.number(2) for _ in range(count)}
    inner.take(inner.number(1))
    inner.end()
    if len(sizes) != count or any(not 0 < s <= 64 for s in sizes.values()):
        raise MALFORMED(expected="each hash algorithm once", found="another description")
    if any(sizes[a] != hashlib.new(HASHES[a]).digest_size for a in HASHES if a in sizes):
        raise MALFORMED(expected="hash algorithms of their sizes", found="another size")
    return sizes


def _event(at: Reader, index: int, sizes: Mapping[int, int]) -> Event:
    kind, count = at.number(4), at.number(4)
    if count > len(sizes):
        raise MALFORMED(expected=f"at most {len(sizes)} digests in an event", found=str(count))
    digests: dict[int, bytes] = {}
    for _ in range(count):
        algorithm = at.number(2)
        if algorithm not in sizes or algorithm in digests:
            raise MALFORMED(expected="digests of the described algorithms", found=f"{algorithm:04x}")
        digests[algorithm] = at.take(sizes[algorithm])
    return Event(index, kind, digests, at.take(at.number(4)))


def replay_rtmrs(log: bytes) -> tuple[list[bytes], int]:
    """RTMR0 to RTMR3 after a CCEL, and the number of its events. Raises as ``parse``."""
    events = parse(log)
    values = replay(events, SHA384)
    if not set(values) <= {1, 2, 3, 4}:
        raise MALFORMED(expected="events of registers 1 to 4", found=", ".join(map(str, sorted(values))))
    return [values.get(place + 1, bytes(48)) for place in range(4)], len(events)


def need_rtmrs(log: bytes, signed: Sequence[bytes]) -> int:
    """The number of events, if a CCEL replays to these four values. Raises attestation.event_log for the first that
    differs."""
    values, count = replay_rtmrs(log)
    need_equal(values, signed)
    return count


def need_equal(values: Sequence[bytes], signed: Sequence[bytes]) -> None:
    """RTMR by RTMR. Raises attestation.event_log."""
    for place, (ours, theirs) in enumerate(zip(values, signed, strict=True)):
        if not hmac.compare_digest(ours, theirs):
            raise BAD_REPLAY(expected=f"RTMR{place} {theirs.hex()[:32]}", found=ours.hex()[:32])
