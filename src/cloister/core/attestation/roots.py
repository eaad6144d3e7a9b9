"""Trust roots: which root certificates count, by vendor class (spec/attestation.md 2).

A root is pinned by the SHA-256 of its DER. Simulated evidence differs from real evidence in nothing but its root;
so production takes vendor roots and no others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from cloister.core.attestation.refusals import UNPINNED_ROOT
from cloister.core.encoding.hexes import BAD_FIELD, from_hex, need_bytes, to_hex
from cloister.core.errors import AttestationError, define
from cloister.core.policy.committee import VENDORS

MAX_ROOTS: Final = 16

SIMULATED_ROOT = define(
    "attestation.simulated_root",
    AttestationError,
    check="a production policy pins vendor roots only",
    remedy="remove the root, or run the network in devnet mode",
    status=403,
)

VENDOR_ROOTS: Final[Mapping[str, Mapping[str, str]]] = {
    "intel": {"Intel SGX Root CA": "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"},
    "amd": {
        "ARK-Milan": "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
        "ARK-Genoa": "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
        "ARK-Turin": "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
    },
    "aws": {"AWS Nitro Enclaves Root G1": "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"},
    "nvidia": {"NVIDIA Device Identity CA": "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48"},
    "nvidia-rim": {"NVIDIA CoRIM signing Root CA": "12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1"},
}


@dataclass(frozen=True, slots=True)
class Roots:
    """Vendor class -> SHA-256 fingerprints (32 bytes each) of root certificates in DER. Immutable."""

    fingerprints: Mapping[str, frozenset[bytes]]

    def __post_init__(self) -> None:
        for vendor, prints in self.fingerprints.items():
            if vendor not in VENDORS or len(prints) > MAX_ROOTS:
                raise BAD_FIELD(
                    expected=f"at most {MAX_ROOTS} roots of {', '.join(VENDORS)}", found=f"{len(prints)} of {vendor}"
                )
            for one in prints:
                need_bytes(f"root of {vendor}", one, 32)

    @classmethod
    def of(cls, roots: Mapping[str, Iterable[bytes]]) -> Self:
        """Roots from vendor -> fingerprints. Raises EncodingError for unknown vendors and wrong sizes."""
        return cls({vendor: frozenset(prints) for vendor, prints in roots.items()})

    @classmethod
    def production(cls) -> Self:
        """The vendors' own roots, and nothing else."""
        return cls.of({v: [bytes.fromhex(h) for h in names.values()] for v, names in VENDOR_ROOTS.items()})

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Parse ``to_json`` output. Raises EncodingError."""
        if not isinstance(value, dict) or not all(isinstance(v, list) for v in value.values()):
            raise BAD_FIELD(expected="roots as {vendor: [sha256 hex]}", found=type(value).__name__)
        if any(len(prints) > MAX_ROOTS for prints in value.values()):
            raise BAD_FIELD(expected=f"at most {MAX_ROOTS} roots per vendor", found="more")
        return cls.of({str(v)[:32]: [from_hex(p, 32, name="root") for p in prints] for v, prints in value.items()})

    def to_json(self) -> dict[str, list[str]]:
        """JSON-ready: vendor -> sorted hex."""
        return {vendor: sorted(map(to_hex, prints)) for vendor, prints in sorted(self.fingerprints.items())}

    def require(self, vendor: str, der: bytes) -> bytes:
        """The fingerprint of ``der`` if it is pinned for ``vendor``. Raises AttestationError (attestation.root)."""
        fingerprint = hashlib.sha256(der).digest()
        pinned = self.fingerprints.get(vendor, frozenset())
        if fingerprint not in pinned:
            names = ", ".join(p.hex()[:16] for p in sorted(pinned)) or "none"
            raise UNPINNED_ROOT(expected=f"{vendor} root in {names}", found=fingerprint.hex()[:16])
        return fingerprint

    def require_production(self) -> None:
        """Raise AttestationError (attestation.simulated_root) if any root is not a vendor's own."""
        real = Roots.production().fingerprints
        for vendor, prints in self.fingerprints.items():
            for extra in sorted(prints - real.get(vendor, frozenset())):
                raise SIMULATED_ROOT(expected=f"a root that {vendor} publishes", found=extra.hex()[:16])
