"""Policy as data: what evidence must show, and the network's parameters (spec/policy.md).

A policy is canonical JSON with exactly the fields of ``policies/schema.json``; its hash is on chain. Reading is
strict: unknown fields, floats and out-of-range numbers are refused. A production policy holds vendor roots only.
"""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Self

from cloister.core.attestation.roots import Roots
from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context, digest
from cloister.core.errors import CloisterError
from cloister.core.policy.committee import BAD_POLICY, DIVERSE, CommitteeRules

MODES: Final = ("devnet", "production")
SHIPPED: Final = ("strict", "cloud")
VERSION: Final = 1
MAX_SIZE: Final = 65536
MAX_LISTED: Final = 256

Field = Callable[[str, Any], Any]


def _refuse(name: str, expected: str, found: object) -> CloisterError:
    return BAD_POLICY(expected=f"{name}: {expected}", found=repr(found)[:80])


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _refuse(name, "true or false", value)
    return value


def _number(low: int, high: int) -> Field:
    def read(name: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise _refuse(name, f"an integer from {low} to {high}", value)
        return value

    return read


def _texts(name: str, value: Any) -> tuple[str, ...]:
    good = isinstance(value, (list, tuple)) and len(value) <= 256
    if not good or not all(isinstance(v, str) and 0 < len(v) <= 64 for v in value) or len(set(value)) != len(value):
        raise _refuse(name, "a list of different short texts", value)
    return tuple(value)


def _floors(name: str, value: Any) -> dict[str, dict[str, int]]:
    if not isinstance(value, dict) or len(value) > 16:
        raise _refuse(name, "{generation: {component: least version}}", value)
    return {gen: _floor(f"{name}.{gen}", parts) for gen, parts in value.items()}


def _floor(name: str, value: Any) -> dict[str, int]:
    known = {"fmc", "bootloader", "tee", "snp", "microcode"}
    if not isinstance(value, dict) or not set(value) <= known:
        raise _refuse(name, f"components of {sorted(known)}", value)
    return {part: _number(0, 65535)(f"{name}.{part}", least) for part, least in value.items()}


def _version(name: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,5}){0,3}", value):
        raise _refuse(name, "a dotted version", value)
    return value


def _roles(*possible: str) -> Field:
    def read(name: str, value: Any) -> tuple[str, ...]:
        roles = _texts(name, value)
        if not set(roles) <= set(possible):
            raise _refuse(name, f"roles of {', '.join(possible)}", value)
        return roles

    return read


def _ids(*sizes: int) -> Field:
    """Different byte strings of these sizes, in lower-case hex without 0x. An empty list lists nothing: any counts."""

    def read(name: str, value: Any) -> tuple[str, ...]:
        good = isinstance(value, (list, tuple)) and len(value) <= MAX_LISTED and len(set(map(str, value))) == len(value)
        if not good or not all(_is_hex(one, sizes) for one in value):
            raise _refuse(name, f"a list of different hex texts of {' or '.join(map(str, sizes))} bytes", value)
        return tuple(value)

    return read


def _is_hex(value: Any, sizes: tuple[int, ...]) -> bool:
    return isinstance(value, str) and len(value) // 2 in sizes and re.fullmatch(r"(?:[0-9a-f]{2})+", value) is not None


def _grace(name: str, value: Any) -> dict[str, int]:
    if not isinstance(value, dict) or len(value) > 16 or "Revoked" in value:
        raise _refuse(name, "{TCB status: days after its date}, never for Revoked", value)
    return {_texts(name, (status,))[0]: _number(1, 3650)(f"{name}.{status}", days) for status, days in value.items()}


def _signers(name: str, value: Any) -> dict[str, dict[str, int]]:
    if not isinstance(value, dict) or len(value) > MAX_LISTED or not all(_is_hex(one, (32,)) for one in value):
        raise _refuse(name, "{MRSIGNER in hex: {isv_prod_id, min_isv_svn}}", value)
    known = {"isv_prod_id", "min_isv_svn"}
    items = {signer: _object(f"{name}.{signer[:8]}", parts, known) for signer, parts in value.items()}
    return {signer: {k: _number(0, 65535)(k, parts[k]) for k in sorted(known)} for signer, parts in items.items()}


_INTEL: Final[dict[str, Field]] = {
    "tcb": _texts,
    "grace": _grace,
    "allow_dynamic_platform": _flag,
    "allow_cached_keys": _flag,
    "allow_smt_enabled": _flag,
    "min_tcb_evaluation_number": _number(0, 1 << 31),
    "platforms": _ids(16),
    "owners": _ids(16),
}
KIND_RULES: Final[dict[str, dict[str, Field]]] = {
    "tdx": _INTEL,
    "sgx": {**_INTEL, "signers": _signers},
    "dstack": {**_INTEL, "compose_hashes": _ids(32), "apps": _ids(20)},
    "snp": {
        "tcb": _texts,
        "max_vmpl": _number(0, 3),
        "allow_migration_agent": _flag,
        "allow_smt_enabled": _flag,
        "minimum_tcb": _floors,
        "require_crl": _flag,
        "chips": _ids(8, 64),
        "owners": _texts,
        "id_keys": _ids(48),
        "author_keys": _ids(48),
    },
    "nitro": {"tcb": _texts},
    "tpm": {"tcb": _texts, "roles": _roles("worker")},  # it hides nothing: never in a committee
    "nvidia-gpu": {
        "tcb": _texts,
        "allow_unsaid_mode": _flag,
        "allow_missing_fwid": _flag,
        "require_ocsp": _flag,
        "features": _texts,
        "minimum_driver": _version,
    },
    "nvidia-switch": {"tcb": _texts, "allow_missing_fwid": _flag, "require_ocsp": _flag},
}
for _inner in ("snp", "tdx"):
    KIND_RULES[f"azure-{_inner}"] = {**KIND_RULES[_inner], "allow_secure_boot_off": _flag}


@dataclass(frozen=True, slots=True)
class NetworkParameters:
    """Numbers that gatekeepers, workers and clients must agree on. Blocks unless the name says seconds (_s)."""

    period_blocks: int
    lease_blocks: int
    max_agents_per_worker: int
    measurement_delay: int
    max_checkpoint_age_s: int
    seats: int

    def __post_init__(self) -> None:
        ranges = {"measurement_delay": (0, 1 << 32), "seats": (1, 64), "max_checkpoint_age_s": (1, 86400)}
        for one in fields(self):
            _number(*ranges.get(one.name, (1, 1 << 32)))(f"network.{one.name}", getattr(self, one.name))
        if self.lease_blocks != 2 * self.period_blocks:
            raise _refuse("network.lease_blocks", "two periods", self.lease_blocks)


@dataclass(frozen=True, slots=True)
class Policy:
    """What evidence must show. Build with ``from_json``, ``shipped`` or ``devnet``.

    Attributes: name (for people), mode ("devnet" or "production"), roots (pinned roots by vendor), kinds (kind ->
    rules of KIND_RULES; a kind that is absent is refused), refused_generations (AMD product or Intel FMSPC),
    refused_advisories, max_evidence_age_s (where evidence carries a time), committee (vendors behind it), network.
    """

    name: str
    mode: str
    roots: Roots
    kinds: Mapping[str, Mapping[str, Any]]
    refused_generations: tuple[str, ...]
    refused_advisories: tuple[str, ...]
    max_evidence_age_s: int
    committee: CommitteeRules
    network: NetworkParameters
    _hash: bytes = field(default=b"", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 0 < len(self.name) <= 64:
            raise _refuse("name", "a short text", self.name)
        if self.mode not in MODES:
            raise _refuse("mode", " or ".join(MODES), self.mode)
        if self.mode == "production":
            self.roots.require_production()
        _texts("refused_generations", self.refused_generations)
        _texts("refused_advisories", self.refused_advisories)
        _number(1, 86400)("max_evidence_age_s", self.max_evidence_age_s)
        for kind, rules in self.kinds.items():
            _rules(kind, rules)

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Parse ``to_json`` output. Raises PolicyError, EncodingError or AttestationError (simulated root)."""
        names = {f.name for f in fields(cls) if f.init} | {"version"}
        data = _object("policy", value, names)
        if data["version"] != VERSION:
            raise _refuse("version", str(VERSION), data["version"])
        parameters = _object("network", data["network"], {f.name for f in fields(NetworkParameters)})
        kinds = data["kinds"]
        if not isinstance(kinds, dict):
            raise _refuse("kinds", "{kind: rules}", kinds)
        return cls(
            name=data["name"],
            mode=data["mode"],
            roots=Roots.from_json(data["roots"]),
            kinds={str(kind)[:32]: _rules(kind, rules) for kind, rules in kinds.items()},
            refused_generations=_texts("refused_generations", data["refused_generations"]),
            refused_advisories=_texts("refused_advisories", data["refused_advisories"]),
            max_evidence_age_s=data["max_evidence_age_s"],
            committee=CommitteeRules.from_json(data["committee"]),
            network=NetworkParameters(**parameters),
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse the canonical bytes that are on chain. Raises as ``from_json``, and EncodingError."""
        return cls.from_json(jcs.decode(data, max_size=MAX_SIZE))

    def to_json(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return {
            "version": VERSION,
            "name": self.name,
            "mode": self.mode,
            "roots": self.roots.to_json(),
            "kinds": {kind: _plain(rules) for kind, rules in self.kinds.items()},
            "refused_generations": list(self.refused_generations),
            "refused_advisories": list(self.refused_advisories),
            "max_evidence_age_s": self.max_evidence_age_s,
            "committee": asdict(self.committee),
            "network": asdict(self.network),
        }

    def encode(self) -> bytes:
        """Canonical bytes."""
        return jcs.encode(self.to_json())

    def hash(self) -> bytes:
        """digest(POLICY, canonical bytes): 32 bytes, as on chain. Made once: a policy does not change."""
        if not self._hash:
            object.__setattr__(self, "_hash", digest(Context.POLICY, self.encode()))
        return self._hash


def shipped(name: str) -> Policy:
    """A policy of this package: "strict" or "cloud". Raises PolicyError for another name."""
    if name not in SHIPPED:
        raise _refuse("name", " or ".join(SHIPPED), name)
    return Policy.from_json(json.loads(_data(f"{name}.json")))


def schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of a policy, for editors and other languages."""
    return dict(json.loads(_data("schema.json")))


def devnet(roots: Roots, **network: int) -> Policy:
    """The policy of a devnet under its own simulated roots. ``network`` overrides single network parameters."""
    defaults = {"period_blocks": 300, "max_agents_per_worker": 256, "measurement_delay": 5}
    defaults |= {"max_checkpoint_age_s": 120, "seats": 2} | network
    defaults.setdefault("lease_blocks", 2 * defaults["period_blocks"])
    cloud = shipped("cloud")
    return Policy(
        name="devnet",
        mode="devnet",
        roots=roots,
        kinds={**cloud.kinds, "tpm": {"tcb": ("Unrated",), "roles": ("worker",)}},
        refused_generations=cloud.refused_generations,
        refused_advisories=cloud.refused_advisories,
        max_evidence_age_s=cloud.max_evidence_age_s,
        committee=DIVERSE,
        network=NetworkParameters(**defaults),
    )


def _data(file: str) -> bytes:
    data = pkgutil.get_data("cloister.core.attestation", f"policies/{file}")
    if data is None:
        raise RuntimeError(f"the package lacks policies/{file}")
    return data


def _object(name: str, value: Any, names: set[str]) -> dict[str, Any]:
    if not isinstance(value, dict) or set(value) != names:
        found = sorted(map(str, value)) if isinstance(value, dict) else type(value).__name__
        raise _refuse(name, f"fields {sorted(names)}", found)
    return value


def _rules(kind: str, rules: Any) -> dict[str, Any]:
    known = KIND_RULES.get(kind)
    if known is None:
        raise _refuse("kinds", f"kinds of {sorted(KIND_RULES)}", kind)
    data = _object(f"kinds.{kind}", dict(rules) if isinstance(rules, Mapping) else rules, set(known))
    return {name: read(f"kinds.{kind}.{name}", data[name]) for name, read in known.items()}


def _plain(rules: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in rules.items()}
