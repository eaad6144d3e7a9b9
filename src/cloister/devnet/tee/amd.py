"""A pretend AMD: ARK, ASK, a VCEK per chip, and SEV-SNP reports of version 3 (AMD 56860, 57230)."""

from __future__ import annotations

import hashlib
import struct
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from cloister.devnet.tee.store import Store
from cloister.devnet.tee.x509build import DAY, Issuer, certificate, der, der_integer

OID: Final = "1.3.6.1.4.1.3704.1"
GENERATION: Final = "Genoa"
TCB: Final = {"bootloader": 10, "tee": 0, "snp": 25, "microcode": 88}
GUIDS: Final = {
    "vek": uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd"),
    "intermediate": uuid.UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782"),
    "ark": uuid.UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae"),
}
POLICY: Final = 1 << 17
DEBUG_POLICY: Final = POLICY | 1 << 19


class Amd:
    """Root and signing key of one devnet's chips."""

    vendor = "amd"

    def __init__(self, store: Store, now: int) -> None:
        start, end = now - DAY, now + 20 * 365 * DAY
        self._store = store
        with ThreadPoolExecutor(2) as pool:  # two RSA-4096 keys, about a second each, once
            root_key, signing_key = pool.map(store.rsa_key, ("amd-ark", "amd-ask"))
        root = store.certificate(
            "amd-ark",
            lambda: certificate(
                f"ARK-{GENERATION}",
                root_key.public_key(),
                root_key,
                start=start,
                end=end,
                root=True,
                digest=hashes.SHA384(),
            ),
        )
        self.root = Issuer(root, root_key)
        signing = store.certificate(
            "amd-ask",
            lambda: certificate(
                f"SEV-{GENERATION}",
                signing_key.public_key(),
                self.root,
                start=start,
                end=end,
                authority=0,
                digest=hashes.SHA384(),
            ),
        )
        self.signing = Issuer(signing, signing_key)

    def chip(self, name: str, now: int) -> Chip:
        """The chip of this name: its VCEK for the current TCB."""
        chip_id = hashlib.sha512(b"chip" + self._store.secret(f"amd-chip-{name}", 32)).digest()
        key = self._store.ec_key(f"amd-vcek-{name}", ec.SECP384R1())
        extensions = [
            (f"{OID}.1", der_integer(0)),
            (f"{OID}.2", der(0x16, GENERATION.encode())),
            (f"{OID}.3.1", der_integer(TCB["bootloader"])),
            (f"{OID}.3.2", der_integer(TCB["tee"])),
            (f"{OID}.3.3", der_integer(TCB["snp"])),
            (f"{OID}.3.8", der_integer(TCB["microcode"])),
            (f"{OID}.4", chip_id),
        ]
        vcek = certificate(
            "SEV-VCEK",
            key.public_key(),
            self.signing,
            start=now - DAY,
            end=now + 7 * 365 * DAY,
            extensions=extensions,
            digest=hashes.SHA384(),
        )
        certificates = {
            "vek": vcek.public_bytes(Encoding.DER),
            "intermediate": self.signing.der,
            "ark": self.root.der,
        }
        return Chip(chip_id, key, certificates)


@dataclass(frozen=True, slots=True)
class Chip:
    """One machine's chip."""

    chip_id: bytes
    key: ec.EllipticCurvePrivateKey
    certificates: dict[str, bytes]

    def report(self, measurement: bytes, report_data: bytes, *, policy: int = POLICY, vmpl: int = 0) -> bytes:
        """A signed report over a guest of this launch measurement (48 bytes) and 64 bytes of report data."""
        if len(measurement) != 48 or len(report_data) != 64:
            raise TypeError("an SNP report holds 48 bytes of measurement and 64 of report data")
        tcb = bytes((TCB["bootloader"], TCB["tee"], 0, 0, 0, 0, TCB["snp"], TCB["microcode"]))
        head = struct.pack("<IIQ", 3, 0, policy) + bytes(32) + struct.pack("<II", vmpl, 1)
        head += tcb + struct.pack("<Q", 0x24) + bytes(8) + report_data + measurement
        head += bytes(32 + 48 + 48 + 32) + b"\xff" * 32 + tcb + bytes((0x19, 0x11, 1)) + bytes(21)
        head += self.chip_id + tcb + bytes(8) + tcb
        signed = head.ljust(672, b"\0")
        r, s = decode_dss_signature(self.key.sign(signed, ec.ECDSA(hashes.SHA384())))
        return (signed + r.to_bytes(72, "little") + s.to_bytes(72, "little")).ljust(1184, b"\0")

    def table(self) -> bytes:
        """The certificates as the host's table (GHCB 2.0 4.1.8.1)."""
        entries, bodies, offset = b"", b"", 24 * (len(GUIDS) + 1)
        for name, guid in GUIDS.items():
            body = self.certificates[name]
            entries += guid.bytes + struct.pack("<II", offset + len(bodies), len(body))
            bodies += body
        return entries + bytes(24) + bodies
