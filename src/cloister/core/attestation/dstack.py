"""dstack guests: a TDX quote, and the event log that says what RTMR3 means (spec/attestation.md 16).

The log travels as JSON. Digests of runtime events are always computed again from name and payload, never believed:
otherwise a host could relabel a payload. A "lite" log leaves them out. Trust ends with the first of ``boot-mr-done``
and ``system-ready``: what comes after may be said by the app itself, and is reported as such.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloister.core.attestation import dcap, eventlog, tdx
from cloister.core.attestation.model import Claims, Evidence
from cloister.core.attestation.refusals import MALFORMED, fail_closed, need_listed
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError, define

RUNTIME: Final = 0x08000001
RUNTIME_REGISTER: Final = 3
END_OF_BOOT: Final = ("boot-mr-done", "system-ready")
UNIQUE: Final = ("app-id", "compose-hash", "instance-id")
SIZES: Final = {"app-id": (20,), "compose-hash": (32,), "instance-id": (20, 0)}  # an instance may go without a name
MAX_NAME: Final = 128
MAX_PAYLOAD: Final = 65536
_KEYS: Final = {"imr", "event_type", "digest", "event", "event_payload", "version"}
_NEEDED: Final = {"imr", "event_type", "event", "event_payload"}
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2})*")

BAD_IDENTITY = define(
    "attestation.dstack_identity",
    AttestationError,
    check="the guest measured its app id and compose hash once each, before the end of its boot",
    remedy="start the guest from a dstack image that measures them; an app cannot add them later",
    status=403,
)


@dataclass(frozen=True, slots=True)
class Event:
    """One event. register: RTMR 0 to 3. digest: 48 bytes, computed for runtime events, stored for the others."""

    register: int
    kind: int
    digest: bytes
    name: str
    payload: bytes

    @property
    def runtime(self) -> bool:
        """Whether the guest's own software emitted it."""
        return self.kind == RUNTIME


@dataclass(frozen=True, slots=True)
class Boot:
    """What a log says about the boot. events: trusted runtime events in order; later: names of those after it."""

    events: tuple[Event, ...]
    later: tuple[str, ...]

    def payload(self, name: str) -> bytes:
        """The payload of a trusted event, empty if there is none."""
        return next((event.payload for event in self.events if event.name == name), b"")


@fail_closed
def verify(evidence: Evidence, roots: Roots, now: int) -> Claims:
    """Claims of an authentic quote with a log that explains it.

    Args: evidence (blob: TDX quote; aux: "collateral" and "event_log", JSON), roots (uses "intel"), now (Unix
    seconds). Raises AttestationError.
    """
    # 1. Names; sizes are checked where they are read.
    if set(evidence.aux) != {"collateral", "event_log"}:
        found = ", ".join(sorted(evidence.aux)) or "nothing"
        raise MALFORMED(expected="collateral and event_log beside the quote", found=found)
    # 2. The quote, as of any TDX guest.
    claims = tdx.verify(Evidence("tdx", evidence.blob, {"collateral": evidence.aux["collateral"]}), roots, now)
    # 3. The log parses; digests of runtime events are ours.
    events = parse(evidence.aux["event_log"])
    # 4. All four RTMRs replay.
    eventlog.need_equal(replay(events), [claims.measurements[name] for name in tdx.RTMRS])
    # 5. App id and compose hash, once each, before the end of the boot.
    boot = read_boot(events)
    # 6. Claims.
    return _claims(claims, boot, len(events))


def launch_measurement(claims: Claims) -> bytes:
    """48 bytes: SHA-384(MRTD || RTMR0 || RTMR1 || RTMR2 || fold of the boot's runtime events but instance-id).

    RTMR3 itself differs by instance and grows while the app runs, so it cannot be listed.
    """
    parts = [claims.measurements[name] for name in ("mrtd", "rtmr0", "rtmr1", "rtmr2", "boot_events")]
    return hashlib.sha384(b"".join(parts)).digest()


def check_platform(claims: Claims, rules: Mapping[str, Any]) -> None:
    """The demands on an Intel platform, and on the app. Raises AttestationError (attestation.platform)."""
    dcap.check_platform(claims, rules)
    need_listed("compose hash", claims.measurements["compose_hash"].hex(), rules["compose_hashes"])
    need_listed("dstack app", claims.measurements["app_id"].hex(), rules["apps"])


def parse(log: bytes) -> tuple[Event, ...]:
    """The events of a JSON log of at most 1 MiB and 4096 events. Raises attestation.malformed."""
    if not 0 < len(log) <= eventlog.MAX_LOG:
        raise MALFORMED(expected=f"an event log of at most {eventlog.MAX_LOG} bytes", found=f"{len(log)} bytes")
    try:
        items = json.loads(log.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise MALFORMED(expected="an event log in JSON", found=type(error).__name__) from None
    if not isinstance(items, list) or not 0 < len(items) <= eventlog.MAX_EVENTS:
        raise MALFORMED(expected=f"a list of 1 to {eventlog.MAX_EVENTS} events", found=type(items).__name__)
    return tuple(map(_event, items))


def replay(events: Sequence[Event]) -> list[bytes]:
    """RTMR0 to RTMR3 after these events."""
    values = [bytes(48)] * 4
    for event in events:
        values[event.register] = hashlib.sha384(values[event.register] + event.digest).digest()
    return values


def digest(name: str, payload: bytes, version: int = 1) -> bytes:
    """The 48-byte digest of a runtime event: version 1 hashes type, name and payload, version 2 canonical JSON."""
    if version == 2:
        fields = {"name": name, "payload": payload.hex(), "type": RUNTIME}
        return hashlib.sha384(json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()).digest()
    return hashlib.sha384(RUNTIME.to_bytes(4, "little") + b":" + name.encode() + b":" + payload).digest()


def read_boot(events: Sequence[Event]) -> Boot:
    """The trusted part of the runtime events. Raises attestation.dstack_identity."""
    runtime = [event for event in events if event.runtime]
    names = [event.name for event in runtime]
    ends = [names.index(end) for end in END_OF_BOOT if end in names]
    if not ends:
        raise BAD_IDENTITY(expected=f"an event {' or '.join(END_OF_BOOT)}", found="none")
    cut = min(ends)
    for name in UNIQUE:
        if names.count(name) > 1:
            raise BAD_IDENTITY(expected=f"one event {name}", found=str(names.count(name)))
        if name in names[cut:] or (name not in names and name != "instance-id"):
            raise BAD_IDENTITY(expected=f"{name} before {names[cut]}", found="later" if name in names else "none")
    boot = Boot(tuple(runtime[:cut]), tuple(names[cut + 1 :]))
    for name, sizes in SIZES.items():
        if len(boot.payload(name)) not in sizes:
            raise BAD_IDENTITY(expected=f"{name} of {sizes[0]} bytes", found=str(len(boot.payload(name))))
    return boot


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise MALFORMED(expected="each field once", found="a field twice")
    return fields


def _event(item: object) -> Event:
    if not isinstance(item, dict) or not _NEEDED <= set(item) <= _KEYS:
        raise MALFORMED(expected=f"an event with {', '.join(sorted(_NEEDED))}", found="other fields")
    register, kind, name = item["imr"], item["event_type"], item["event"]
    if type(register) is not int or type(kind) is not int or not 0 <= register <= 3 or not 0 <= kind < 1 << 32:
        raise MALFORMED(expected="an event of RTMR 0 to 3", found=f"{register!r}, type {kind!r}"[:64])
    # A name with a colon could move the border between name and payload in a version 1 digest.
    if not isinstance(name, str) or len(name) > MAX_NAME or ":" in name or not name.isprintable():
        raise MALFORMED(expected=f"an event name of at most {MAX_NAME} printable characters, no colon", found="another")
    payload = _bytes("event_payload", item["event_payload"], MAX_PAYLOAD)
    stored = _bytes("digest", item.get("digest") or "", 48)
    if (kind == RUNTIME) != (register == RUNTIME_REGISTER):
        raise MALFORMED(expected="runtime events in RTMR3, and no others there", found=f"{kind:#x} in RTMR{register}")
    if kind == RUNTIME:
        return Event(register, kind, _recomputed(name, payload, stored, item.get("version")), name, payload)
    if len(stored) != 48 or "version" in item:
        raise MALFORMED(expected="a boot event with a digest of 48 bytes", found=f"{len(stored)} bytes")
    return Event(register, kind, stored, name, payload)


def _recomputed(name: str, payload: bytes, stored: bytes, version: object) -> bytes:
    if version not in (None, 1, 2) or isinstance(version, bool):
        raise MALFORMED(expected="event version 1 or 2", found=repr(version)[:32])
    known = (1, 2) if version is None else (int(str(version)),)
    ours = [digest(name, payload, one) for one in known]
    if not stored:
        return ours[0]
    for one in ours:
        if hmac.compare_digest(one, stored):
            return one
    raise eventlog.BAD_REPLAY(expected=f"the digest of {name[:32]} and its payload", found=stored.hex()[:32])


def _bytes(name: str, text: object, limit: int) -> bytes:
    if not isinstance(text, str) or len(text) > 2 * limit or not _HEX.fullmatch(text):
        raise MALFORMED(expected=f"{name} in hex, at most {limit} bytes", found=type(text).__name__)
    return bytes.fromhex(text)


def _claims(claims: Claims, boot: Boot, count: int) -> Claims:
    fold = bytes(48)
    for event in boot.events:
        if event.name != "instance-id":
            fold = hashlib.sha384(fold + event.digest).digest()
    ids = {name.replace("-", "_"): boot.payload(name) for name in UNIQUE}
    return dataclasses.replace(
        claims,
        kind="dstack",
        measurements={**claims.measurements, **ids, "boot_events": fold},
        details={
            **claims.details,
            "log_events": count,
            "boot": tuple(event.name for event in boot.events),
            "after_boot": boot.later,
        },
    )
