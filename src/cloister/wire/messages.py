"""The shapes of the gatekeeper API (spec/gatekeeper-api.md), shared by gatekeepers, workers and clients.

Each class is one JSON object: ``to_json`` gives JSON-ready fields, ``from_json`` parses them and refuses whatever is
not exactly that shape (EncodingError). Bytes are 0x-hex. Lists have caps, checked before their items are read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from cloister.core.attestation.model import Binding, Evidence
from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context, digest
from cloister.core.encoding.hexes import from_hex, need_bytes, need_fields, need_uint, to_hex
from cloister.core.encoding.identity import EPOCH_FIELDS, Epochs, Purpose
from cloister.core.encoding.signatures import MAX_MEMBERS, Signed
from cloister.core.encoding.statements import Checkpoint, HeartBeat, Lease, Statement, WorkerAdmission
from cloister.core.encoding.terms import term_field, term_of
from cloister.core.errors import EncodingError, TransportError, define

MAX_BODY = 1 << 20
MAX_PARTIALS, MAX_OLD = 16, 4
SIGNATURE = 65

S = TypeVar("S", bound=Statement)
T = TypeVar("T")

BAD_MESSAGE = define(
    "wire.message",
    EncodingError,
    check="a message is one JSON object of the documented shape, without duplicate keys",
    remedy="compare the message with spec/gatekeeper-api.md",
)
TOO_LARGE = define(
    "wire.too_large",
    TransportError,
    check="a body is at most 1 MiB",
    remedy="send less in one request",
    status=413,
)


def parse_json(data: bytes, *, max_size: int = MAX_BODY) -> Any:
    """JSON of a body. Raises EncodingError for other bytes, duplicate keys or numbers beyond all bounds,
    TransportError above ``max_size``."""
    if len(data) > max_size:
        raise TOO_LARGE(expected=f"at most {max_size} bytes", found=f"{len(data)} bytes")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise BAD_MESSAGE(expected="JSON", found=type(error).__name__) from None


def dump_json(value: Any) -> bytes:
    """JSON bytes of an answer."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def signed_to_json(signed: Signed) -> dict[str, Any]:
    """{"statement": fields, "signatures": [hex]}."""
    return {"statement": signed.statement.to_json(), "signatures": [to_hex(s) for s in signed.signatures]}


def signed_from_json(kind: type[Statement], value: object) -> Signed:
    """Parse ``signed_to_json``. Raises EncodingError. The signatures are *not* verified here."""
    data = need_fields("signed statement", value, {"statement", "signatures"})
    signatures = need_list("signatures", data["signatures"], MAX_MEMBERS)
    return Signed(
        kind.from_json(data["statement"]), tuple(from_hex(s, SIGNATURE, name="signature") for s in signatures)
    )


@dataclass(frozen=True, slots=True)
class Info:
    """GET /v1/info. ``index`` 0: no seat. ``network`` is None until the master key is confirmed."""

    member: bytes
    index: int
    term: int
    network: bytes | None
    genesis: bytes
    vendor: str
    ready: bool
    head: int

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        network = None if self.network is None else to_hex(self.network)
        return {
            "member": to_hex(self.member),
            "index": self.index,
            "term": self.term,
            "network": network,
            "genesis": to_hex(self.genesis),
            "vendor": self.vendor,
            "ready": self.ready,
            "head": self.head,
        }

    @classmethod
    def from_json(cls, value: object) -> Info:
        """Parse ``to_json`` output."""
        names = {"member", "index", "term", "network", "genesis", "vendor", "ready", "head"}
        data = need_fields("info", value, names)
        network = None if data["network"] is None else from_hex(data["network"], 32, name="network")
        return cls(
            member=from_hex(data["member"], 20, name="member"),
            index=need_uint("index", data["index"], 16),
            term=need_uint("term", data["term"], 64),
            network=network,
            genesis=from_hex(data["genesis"], 32, name="genesis"),
            vendor=_text("vendor", data["vendor"]),
            ready=_flag("ready", data["ready"]),
            head=need_uint("head", data["head"], 64),
        )


@dataclass(frozen=True, slots=True)
class Shown:
    """Evidence and the binding that its report data commits to."""

    evidence: Evidence
    binding: Binding

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"evidence": self.evidence.to_json(), "binding": self.binding.to_json()}

    @classmethod
    def from_json(cls, value: object) -> Shown:
        """Parse ``to_json`` output."""
        data = need_fields("shown evidence", value, {"evidence", "binding"})
        return cls(Evidence.from_json(data["evidence"]), Binding.from_json(data["binding"]))

    def digest(self) -> bytes:
        """The 32-byte ``evidenceHash`` that a candidate writes on chain."""
        return digest(Context.EVIDENCE, jcs.encode(self.to_json()))


@dataclass(frozen=True, slots=True)
class SignedBy:
    """One statement with one member's signature, under the statement's own name: {checkpoint|…, signature}."""

    statement: Statement
    signature: bytes

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {_WIRE_NAME[type(self.statement)]: self.statement.to_json(), "signature": to_hex(self.signature)}

    @classmethod
    def from_json(cls, kind: type[Statement], value: object) -> SignedBy:
        """Parse ``to_json`` output of a statement of ``kind``."""
        name = _WIRE_NAME[kind]
        data = need_fields(name, value, {name, "signature"})
        return cls(kind.from_json(data[name]), from_hex(data["signature"], SIGNATURE, name="signature"))


_WIRE_NAME: dict[type[Statement], str] = {
    Checkpoint: "checkpoint",
    WorkerAdmission: "admission",
    HeartBeat: "heartbeat",
    Lease: "lease",
}


@dataclass(frozen=True, slots=True)
class AdmissionRequest:
    """POST /v1/admission: a worker shows evidence and names its operator (20-byte address)."""

    shown: Shown
    operator: bytes
    checkpoint: Signed

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        extra = {"operator": to_hex(self.operator), "checkpoint": signed_to_json(self.checkpoint)}
        return {**self.shown.to_json(), **extra}

    @classmethod
    def from_json(cls, value: object) -> AdmissionRequest:
        """Parse ``to_json`` output."""
        data = need_fields("admission request", value, {"evidence", "binding", "operator", "checkpoint"})
        return cls(
            Shown.from_json({n: data[n] for n in ("evidence", "binding")}),
            from_hex(data["operator"], 20, name="operator"),
            signed_from_json(Checkpoint, data["checkpoint"]),
        )


@dataclass(frozen=True, slots=True)
class KeysRequest:
    """POST /v1/keys: a worker shows evidence and names the agent (32-byte id) whose keys it wants.

    ``code``: the code hash of the canary, for a lease of that version; None: of the version in force."""

    shown: Shown
    agent: bytes
    checkpoint: Signed
    code: bytes | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        extra = {"agent": to_hex(self.agent), "checkpoint": signed_to_json(self.checkpoint)}
        asked = {} if self.code is None else {"code_hash": to_hex(self.code)}
        return {**self.shown.to_json(), **extra, **asked}

    @classmethod
    def from_json(cls, value: object) -> KeysRequest:
        """Parse ``to_json`` output."""
        asked = {"code_hash"} if isinstance(value, dict) and "code_hash" in value else set()
        data = need_fields("keys request", value, {"evidence", "binding", "agent", "checkpoint", *asked})
        return cls(
            Shown.from_json({n: data[n] for n in ("evidence", "binding")}),
            from_hex(data["agent"], 32, name="agent"),
            signed_from_json(Checkpoint, data["checkpoint"]),
            from_hex(data["code_hash"], 32, name="code hash") if asked else None,
        )


@dataclass(frozen=True, slots=True)
class KeyPartial:
    """One member's encrypted partial of one key: member index, and E1 (48), E2 (96), E3 (48) compressed points.

    ``term``: of the share that made it (spec/gatekeepers.md R3)."""

    purpose: Purpose
    period: int
    index: int
    e1: bytes
    e2: bytes
    e3: bytes
    term: int = 1

    def __post_init__(self) -> None:
        need_uint("term", self.term, 64)
        need_uint("period", self.period, 64)
        need_uint("index", self.index, 16)
        for name, size in (("e1", 48), ("e2", 96), ("e3", 48)):
            need_bytes(name, getattr(self, name), size)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        points = {n: to_hex(getattr(self, n)) for n in ("e1", "e2", "e3")}
        where = {"purpose": int(self.purpose), "period": self.period, "index": self.index}
        return {**where, **points, **term_field(self.term)}

    @classmethod
    def from_json(cls, value: object) -> KeyPartial:
        """Parse ``to_json`` output."""
        term = term_of("partial", value)
        data = need_fields("partial", value, {"purpose", "period", "index", "e1", "e2", "e3"} | set(term_field(term)))
        number = need_uint("purpose", data["purpose"], 8)
        if number not in (p.value for p in Purpose):
            raise BAD_MESSAGE(expected="a purpose of core/encoding/identity.py", found=str(number))
        points = {n: from_hex(data[n], name=n, max_size=96) for n in ("e1", "e2", "e3")}
        return cls(Purpose(number), data["period"], data["index"], **points, term=term)


@dataclass(frozen=True, slots=True)
class OldPartial:
    """A partial of a key of earlier epochs, for re-sealing alone (spec/epochs.md 5): `state` or `secrets`."""

    epochs: Epochs
    partial: KeyPartial

    def __post_init__(self) -> None:
        if self.partial.purpose not in (Purpose.STATE, Purpose.SECRETS) or self.partial.period:
            raise BAD_MESSAGE(expected="a key of state or secrets", found=self.partial.purpose.name.lower())

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**self.epochs.to_json(), "partial": self.partial.to_json()}

    @classmethod
    def from_json(cls, value: object) -> OldPartial:
        """Parse ``to_json`` output."""
        data = need_fields("old partial", value, {*EPOCH_FIELDS, "partial"})
        return cls(Epochs.from_json(data), KeyPartial.from_json(data["partial"]))


@dataclass(frozen=True, slots=True)
class KeysAnswer:
    """One member's answer to a keys request. ``old``: keys of the epochs that the agent must be re-sealed from."""

    lease: Lease
    lease_signature: bytes
    partials: tuple[KeyPartial, ...]
    old: tuple[OldPartial, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "lease": self.lease.to_json(),
            "lease_signature": to_hex(self.lease_signature),
            "partials": [p.to_json() for p in self.partials],
            "old": [p.to_json() for p in self.old],
        }

    @classmethod
    def from_json(cls, value: object) -> KeysAnswer:
        """Parse ``to_json`` output."""
        data = need_fields("keys answer", value, {"lease", "lease_signature", "partials", "old"})
        return cls(
            Lease.from_json(data["lease"]),
            from_hex(data["lease_signature"], SIGNATURE, name="lease signature"),
            tuple(KeyPartial.from_json(p) for p in need_list("partials", data["partials"], MAX_PARTIALS)),
            tuple(OldPartial.from_json(p) for p in need_list("old partials", data["old"], MAX_OLD)),
        )


@dataclass(frozen=True, slots=True)
class HeartbeatRequest:
    """POST /v1/heartbeat: the worker's 32-byte nonce."""

    nonce: bytes

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"nonce": to_hex(self.nonce)}

    @classmethod
    def from_json(cls, value: object) -> HeartbeatRequest:
        """Parse ``to_json`` output."""
        data = need_fields("heartbeat request", value, {"nonce"})
        return cls(from_hex(data["nonce"], 32, name="nonce"))


def parse(kind: Callable[[object], T], body: bytes) -> T:
    """``kind`` (a ``from_json``) of a body, whatever the body is. Raises CloisterError."""
    return kind(parse_json(body))


def need_list(name: str, value: object, cap: int) -> list[Any]:
    """The value, if it is a list of at most ``cap`` items. Raises EncodingError."""
    if not isinstance(value, list) or len(value) > cap:
        found = f"{len(value)} items" if isinstance(value, list) else type(value).__name__
        raise BAD_MESSAGE(expected=f"{name} as a list of at most {cap}", found=found)
    return value


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > 64:
        raise BAD_MESSAGE(expected=f"{name} as a short text", found=type(value).__name__)
    return value


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise BAD_MESSAGE(expected=f"{name} as true or false", found=type(value).__name__)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise BAD_MESSAGE(expected="each key once", found="a duplicate key")
    return data


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        _refuse(text[:20])
    return number


def _refuse(text: str) -> Any:
    raise BAD_MESSAGE(expected="JSON numbers", found=text)
