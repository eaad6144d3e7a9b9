"""Pretend NVIDIA devices: a device PKI of five, SPDM exchanges, and signed reference manifests. Keys are made once."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from lxml import etree
from signxml.algorithms import CanonicalizationMethod, DigestAlgorithm, SignatureConstructionMethod, SignatureMethod
from signxml.signer import XMLSigner

from cloister.core.attestation.model import Evidence
from cloister.core.attestation.roots import Roots
from cloister.devnet.tee.x509build import DAY, Issuer, certificate, der_octets, der_oid, der_sequence
from support.hardware import NOW

FWID_OID = "2.23.133.5.4.1"
SHA384_OID = "2.16.840.1.101.3.4.2.2"
DRIVER, VBIOS = "580.159.03", "96.00.74.00.20"
NONCE = hashlib.sha256(b"a nonce of the CPU").digest()
MODE = json.dumps({"cc": "on", "devtools": "off"}).encode()
SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
HASH = "http://www.w3.org/2001/04/xmlenc#sha384"


def opaque_field(kind: int, value: bytes) -> bytes:
    """Type, size, value."""
    return struct.pack("<HH", kind, len(value)) + value


@cache
def key(name: str) -> ec.EllipticCurvePrivateKey:
    """A P-384 key of this test run."""
    del name
    return ec.generate_private_key(ec.SECP384R1())


def _authority(common: str, issuer: Issuer | None, below: int, end: int = NOW + 900 * DAY) -> Issuer:
    made = certificate(
        common,
        key(common).public_key(),
        issuer or key(common),
        start=NOW - DAY,
        end=end,
        authority=None if issuer is None else below,
        root=issuer is None,
        digest=hashes.SHA384(),
    )
    return Issuer(made, key(common))


@lru_cache(maxsize=1)
def device_root() -> Issuer:
    """The pretend NVIDIA Device Identity CA."""
    return _authority("Device Identity CA", None, 3)


@cache
def authorities(chip: str, name: str) -> tuple[Issuer, Issuer, Issuer]:
    """Identity, provisioner, and the device's own authority."""
    identity = _authority(f"NVIDIA {chip} Identity", device_root(), 2)
    provisioner = _authority(f"NVIDIA {chip} Provisioner ICA 1", identity, 1)
    return identity, provisioner, _authority(f"{chip} A01 GSP BROM {name}", provisioner, 0)


@cache
def rim_root(name: str = "RIM root") -> Issuer:
    """A pretend root of manifests."""
    return _authority(name, None, 1)


def nvidia_roots() -> Roots:
    """Both, pinned."""
    prints = {"nvidia": device_root(), "nvidia-rim": rim_root()}
    return Roots.of({vendor: [hashlib.sha256(root.der).digest()] for vendor, root in prints.items()})


@dataclass
class Device:
    """One GPU or switch. ``measurements``: index from 0 -> 48 bytes; ``fields``: opaque type -> value."""

    chip: str = "GH100"
    name: str = "one"
    measurements: dict[int, bytes] = field(default_factory=dict)
    fields: dict[int, bytes] = field(default_factory=dict)
    fwid: bytes = hashlib.sha384(b"firmware").digest()

    def __post_init__(self) -> None:
        count = 64 if self.chip.startswith("G") else 31
        self.measurements = {i: hashlib.sha384(b"%d" % i).digest() for i in range(count)} | self.measurements
        honest = {6: bytes.fromhex("0074009620000000"), 11: b"\x55", 20: self.fwid, 21: b"\x55", 36: b"\0\0"}
        honest |= {3: DRIVER.encode() + b"\0"} if self.chip.startswith("G") else {}
        self.fields = honest | self.fields

    @property
    def leaf_key(self) -> ec.EllipticCurvePrivateKey:
        """The key that signs exchanges."""
        return key(f"leaf {self.chip} {self.name}")

    def chain(self, **leaf: Any) -> list[bytes]:
        """PEM blocks, leaf first. ``leaf`` replaces arguments of the leaf's certificate."""
        identity, provisioner, device = authorities(self.chip, self.name)
        arguments: dict[str, Any] = {
            "start": NOW - DAY,
            "end": NOW + 800 * DAY,
            "extensions": [(FWID_OID, fwid_extension(self.fwid))],
            "digest": hashes.SHA384(),
        }
        common = leaf.pop("common", f"{self.chip} A01 GSP FMC LF")
        made = certificate(common, self.leaf_key.public_key(), device, **(arguments | leaf))
        all_of_them = [
            made,
            device.certificate,
            provisioner.certificate,
            identity.certificate,
            device_root().certificate,
        ]
        return [one.public_bytes(Encoding.PEM) for one in all_of_them]

    def exchange(self, nonce: bytes = NONCE, **changes: bytes) -> bytes:
        """Request and signed response. ``changes`` replace parts by name."""
        blocks = b"".join(
            bytes([i + 1, 1]) + struct.pack("<HBH", 51, 1, 48) + value for i, value in sorted(self.measurements.items())
        )
        opaque = b"".join(opaque_field(kind, value) for kind, value in self.fields.items())
        parts = {
            "request": bytes.fromhex("11e001ff"),
            "nonce": nonce,
            "slot": b"\0",
            "head": bytes.fromhex("11600000"),
            "count": bytes([len(self.measurements)]),
            "size": len(blocks).to_bytes(3, "little"),
            "blocks": blocks,
            "own_nonce": bytes(32),
            "opaque_size": len(opaque).to_bytes(2, "little"),
            "opaque": opaque,
        } | changes
        if "blocks" in changes and "size" not in changes:
            parts["size"] = len(changes["blocks"]).to_bytes(3, "little")
        if "opaque" in changes and "opaque_size" not in changes:
            parts["opaque_size"] = len(changes["opaque"]).to_bytes(2, "little")
        message = b"".join(parts.values())
        r, s = decode_dss_signature(self.leaf_key.sign(message, ec.ECDSA(hashes.SHA384())))
        return message + r.to_bytes(48, "big") + s.to_bytes(48, "big")

    def evidence(self, nonce: bytes = NONCE, **changes: bytes | None) -> Evidence:
        """Evidence with golden manifests and mode. ``changes`` replace aux parts; None drops one."""
        gpu = self.chip.startswith("G")
        aux: dict[str, bytes | None] = {"chain": b"".join(self.chain()), "vbios_rim": self.vbios_manifest()}
        aux |= {"driver_rim": self.driver_manifest(), "mode": MODE} if gpu else {}
        kept = {name: part for name, part in (aux | changes).items() if part is not None}
        return Evidence("nvidia-gpu" if gpu else "nvidia-switch", self.exchange(nonce), kept)

    def driver_manifest(self, **changes: Any) -> bytes:
        """The golden values of the even measurements from 8."""
        golden = {i: [value] for i, value in self.measurements.items() if i >= 8 and i % 2 == 0}
        return manifest(**({"version": DRIVER, "product": self.chip, "golden": golden} | changes))

    def vbios_manifest(self, **changes: Any) -> bytes:
        """The golden values of the first measurements, with an alternative each, and of number 35."""
        golden = {i: [bytes(48), value] for i, value in self.measurements.items() if i < 8}
        golden |= {35: [bytes(48)]} if self.chip.startswith("G") else {}  # the decoder is off: it is not compared
        return manifest(**({"version": VBIOS.lower(), "product": self.chip, "golden": golden} | changes))


def fwid_extension(fwid: bytes) -> bytes:
    """DICE: the firmware's hash, after its algorithm."""
    return der_sequence(der_sequence(der_oid(SHA384_OID), der_octets(fwid)))


def swid(version: str, product: str, golden: dict[int, list[bytes]], indices: int = 64) -> etree._Element:
    """An unsigned SWID tag."""
    root = etree.Element(f"{{{SWID}}}SoftwareIdentity", nsmap={None: SWID, "ns2": HASH}, name=product, version="1.0")
    etree.SubElement(root, f"{{{SWID}}}Entity", name="pretend", role="softwareCreator")
    etree.SubElement(root, f"{{{SWID}}}Meta", colloquialVersion=version, product=product, edition="GPU")
    payload = etree.SubElement(root, f"{{{SWID}}}Payload")
    for index in range(indices):
        values = golden.get(index, [bytes(48)])
        one = etree.SubElement(payload, f"{{{SWID}}}Resource", type="Measurement", index=str(index))
        one.set("active", str(index in golden))
        one.set("alternatives", str(len(values)))
        for place, value in enumerate(values):
            one.set(f"{{{HASH}}}Hash{place}", value.hex())
    return root


def rim_chain(root: Issuer, end: int = NOW + 90 * DAY, start: int = NOW - DAY) -> list[Any]:
    """Signer, middle, root."""
    middle = _authority(f"Reference Value L3 {root.certificate.serial_number % 10**9}", root, 0)
    leaf = certificate(
        "RIM signer", key("RIM signer").public_key(), middle, start=start, end=end, digest=hashes.SHA384()
    )
    return [leaf, middle.certificate, root.certificate]


def sign(tag: etree._Element, chain: list[Any], **settings: Any) -> bytes:
    """The tag with an enveloped signature, as NVIDIA signs."""
    arguments: dict[str, Any] = {
        "method": SignatureConstructionMethod.enveloped,
        "signature_algorithm": SignatureMethod.ECDSA_SHA384,
        "digest_algorithm": DigestAlgorithm.SHA384,
        "c14n_algorithm": CanonicalizationMethod.CANONICAL_XML_1_1,
    }
    signer = XMLSigner(**(arguments | settings))
    pem = b"".join(one.public_bytes(Encoding.PEM) for one in chain).decode()
    done = signer.sign(tag, key=key("RIM signer"), cert=pem)
    return bytes(etree.tostring(done))


def manifest(
    version: str,
    product: str,
    golden: dict[int, list[bytes]],
    root: Issuer | None = None,
    end: int = NOW + 90 * DAY,
    start: int = NOW - DAY,
) -> bytes:
    """A signed manifest under the pretend root."""
    return sign(swid(version, product, golden), rim_chain(root or rim_root(), end, start))


def printed_by(*devices: Device) -> Any:
    """nvattest and nvidia-smi of a machine with these GPUs: arguments in, standard output out."""

    def programs(arguments: Any) -> bytes:
        if arguments[0] == "nvidia-smi":
            return {"-f": b"CC status: ON\n", "-d": b"DevTools Mode: OFF\n"}[arguments[2]]
        nonce = bytes.fromhex(arguments[-1])
        rows = [
            {
                "arch": "HOPPER",
                "evidence": base64.b64encode(one.exchange(nonce)).decode(),
                "certificate": base64.b64encode(b"".join(one.chain())).decode(),
            }
            for one in devices
        ]
        return json.dumps({"result_code": 0, "evidences": rows}).encode()

    return programs
