"""Evidence -> Claims -> Verdict: the nouns (spec/attestation.md). No I/O, no clock: ``now`` and roots are arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context, frame
from cloister.core.encoding.hexes import from_hex, need_bytes, need_fields, need_uint, to_hex

_AUX_SIZES = {"event_log": 1 << 20}
ROLES = ("worker", "gatekeeper", "faces")


@dataclass(frozen=True, slots=True)
class Binding:
    """What the report data commits to: which node, in which role, on which network, this boot, how fresh.

    ``report_data`` is SHA-512 over frame(REPORT_DATA, JCS(to_json())): 64 bytes, the size of every TEE's field.
    Attributes: network (network id, or the genesis id for founding gatekeepers; 32 bytes), role (one of ROLES),
    node (20-byte address of the node's secp256k1 key), keys (name -> public key bytes: "transport" G1 compressed,
    "dkg" X25519), boot (32 random bytes per process start), config (32-byte hash of the whole configuration),
    checkpoint (32-byte block hash seen lately), nonce (32 bytes chosen by whoever asks, or zero).
    """

    network: bytes
    role: str
    node: bytes
    boot: bytes
    config: bytes
    checkpoint: bytes
    nonce: bytes
    keys: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("network", "boot", "config", "checkpoint", "nonce"):
            need_bytes(name, getattr(self, name), 32)
        need_bytes("node", self.node, 20)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, bytes as hex."""
        plain = {n: to_hex(getattr(self, n)) for n in ("network", "node", "boot", "config", "checkpoint", "nonce")}
        return {**plain, "role": self.role, "keys": {k: to_hex(v) for k, v in self.keys.items()}}

    @classmethod
    def from_json(cls, value: object) -> Binding:
        """Parse ``to_json`` output. Raises EncodingError."""
        names = {"network", "node", "boot", "config", "checkpoint", "nonce", "role", "keys"}
        data = need_fields("binding", value, names)
        keys = data["keys"] if isinstance(data["keys"], dict) and len(data["keys"]) <= 8 else {}
        return cls(
            role=str(data["role"])[:32],
            node=from_hex(data["node"], 20, name="node"),
            keys={str(k)[:32]: from_hex(v, name=k, max_size=2048) for k, v in keys.items()},
            **{n: from_hex(data[n], 32, name=n) for n in ("network", "boot", "config", "checkpoint", "nonce")},
        )

    def report_data(self) -> bytes:
        """The 64 bytes for the TEE's report-data field."""
        import hashlib

        return hashlib.sha512(frame(Context.REPORT_DATA, jcs.encode(self.to_json()))).digest()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a node shows. ``blob``: quote, report or document. ``aux``: certificates and collateral, by name.

    Kinds and the parts of each: spec/attestation.md 1. For example, aux of tdx: the nine QuoteCollateralV3 fields as
    one JSON text under "collateral"; of snp: "vek", "intermediate", "ark" (DER); of nitro: none.
    """

    kind: str
    blob: bytes
    aux: Mapping[str, bytes] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, bytes as hex."""
        return {"kind": self.kind, "blob": to_hex(self.blob), "aux": {k: to_hex(v) for k, v in self.aux.items()}}

    @classmethod
    def from_json(cls, value: object) -> Evidence:
        """Parse ``to_json`` output. Raises EncodingError; sizes are capped (blob 16 KiB, aux 64 KiB, logs 1 MiB)."""
        data = need_fields("evidence", value, {"kind", "blob", "aux"})
        aux = data["aux"] if isinstance(data["aux"], dict) and len(data["aux"]) <= 16 else {}
        return cls(
            kind=str(data["kind"])[:32],
            blob=from_hex(data["blob"], name="blob", max_size=16384),
            aux={str(k)[:64]: from_hex(v, name=str(k)[:64], max_size=_AUX_SIZES.get(k, 65536)) for k, v in aux.items()},
        )


@dataclass(frozen=True, slots=True)
class Claims:
    """What authentic evidence says. Produced only by a kind's verifier after its signature chain held.

    vendor_class: the trust roots involved ("intel", "amd", "aws", ...). measurements: register name -> bytes.
    fresh_until: Unix seconds after which the evidence proves nothing (earliest collateral or leaf expiry).
    """

    kind: str
    vendor_class: str
    generation: str
    platform_id: bytes
    measurements: Mapping[str, bytes]
    debug: bool
    tcb_status: str
    advisories: tuple[str, ...]
    report_data: bytes
    fresh_until: int
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Check:
    """One numbered step of a verdict."""

    number: int
    code: str
    check: str
    expected: str
    found: str
    remedy: str
    ok: bool

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {n: getattr(self, n) for n in ("number", "code", "check", "expected", "found", "remedy", "ok")}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Ordered checks, and the claims if the evidence was authentic. Accepted only if every check is ok."""

    checks: tuple[Check, ...]
    claims: Claims | None

    @property
    def accepted(self) -> bool:
        """True when there is at least one check, all are ok, and claims exist. For display; code uses ``require``."""
        return bool(self.checks) and self.claims is not None and all(c.ok for c in self.checks)


def measurement_id(role: str, measurement: bytes) -> bytes:
    """The 32-byte name of (role, launch measurement) under which policy lists it on chain."""
    from cloister.core.encoding.contexts import digest

    need_uint("measurement length", len(measurement), 8)
    return digest(Context.MEASUREMENT, role.encode(), measurement)
