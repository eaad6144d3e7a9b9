"""A TPM 2.0 in software for tests: keys, quotes, credential activation, certificates, boot logs. Keys are made once.

It is written from the TPM's side, so it shares no code with the verifier but the certificate builder of the devnet.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode
from cryptography.hazmat.primitives.serialization import Encoding

from cloister.core.attestation.model import Evidence
from cloister.core.attestation.roots import Roots
from cloister.devnet.tee.x509build import DAY, Issuer, certificate, der_oid, der_sequence
from support.hardware import NOW

SHA256, SHA384 = 0x000B, 0x000C
AK_ATTRIBUTES = 0x00050072  # fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign
EK_USAGE, AK_USAGE = "2.23.133.8.1", "2.23.133.8.3"
REPORT = bytes(range(64))
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def sized(data: bytes) -> bytes:
    """TPM2B."""
    return len(data).to_bytes(2, "big") + data


def public_area(key: Key, attributes: int = AK_ATTRIBUTES, scheme: int | None = None, digest: int = SHA256) -> bytes:
    """TPMT_PUBLIC of a signing key without a policy. ``scheme`` defaults to ECDSA or RSASSA; 0x10 is none."""
    public = key.public_key()
    head = (0x0023 if isinstance(public, ec.EllipticCurvePublicKey) else 0x0001).to_bytes(2, "big")
    head += digest.to_bytes(2, "big") + attributes.to_bytes(4, "big") + sized(b"") + (0x0010).to_bytes(2, "big")
    chosen = scheme or (0x0018 if isinstance(public, ec.EllipticCurvePublicKey) else 0x0014)
    head += chosen.to_bytes(2, "big") + (b"" if chosen == 0x0010 else digest.to_bytes(2, "big"))
    if isinstance(public, rsa.RSAPublicKey):
        modulus = public.public_numbers().n.to_bytes(public.key_size // 8, "big")
        return head + public.key_size.to_bytes(2, "big") + bytes(4) + sized(modulus)
    numbers, width = public.public_numbers(), public.key_size // 8
    curve = {256: 3, 384: 4}[public.key_size]
    points = b"".join(sized(part.to_bytes(width, "big")) for part in (numbers.x, numbers.y))
    return head + curve.to_bytes(2, "big") + (0x0010).to_bytes(2, "big") + points


def name_of(public: bytes) -> bytes:
    """nameAlg and the hash of the public area."""
    return (
        public[2:4]
        + hashlib.new({SHA256: "sha256", SHA384: "sha384"}[int.from_bytes(public[2:4], "big")], public).digest()
    )


@dataclass
class SoftTpm:
    """One TPM: its attestation key, its PCRs (SHA-256 bank), and counters."""

    ak: Key
    pcrs: dict[int, bytes] = field(default_factory=lambda: {i: bytes(32) for i in range(24)})
    resets: int = 7
    restarts: int = 2

    def extend(self, index: int, digest: bytes) -> None:
        """TPM2_PCR_Extend."""
        self.pcrs[index] = hashlib.sha256(self.pcrs[index] + digest).digest()

    def message(self, data: bytes, chosen: tuple[int, ...], **changes: Any) -> bytes:
        """TPMS_ATTEST. ``changes`` replace single fields by name."""
        bits = sum(1 << i for i in chosen).to_bytes(3, "little")
        fields: dict[str, bytes] = {
            "magic": bytes.fromhex("ff544347"),
            "type": bytes.fromhex("8018"),
            "signer": sized(b"\x00\x0b" + bytes(32)),
            "extra": sized(data),
            "clock": (123456).to_bytes(8, "big"),
            "resets": self.resets.to_bytes(4, "big"),
            "restarts": self.restarts.to_bytes(4, "big"),
            "safe": b"\1",
            "firmware": bytes.fromhex("2019102300163636"),
            "selection": (1).to_bytes(4, "big") + SHA256.to_bytes(2, "big") + b"\3" + bits,
            "digest": sized(hashlib.sha256(self.values(chosen)).digest()),
        }
        return b"".join((fields | changes).values())

    def values(self, chosen: tuple[int, ...]) -> bytes:
        """The PCR values, joined."""
        return b"".join(self.pcrs[i] for i in chosen)

    def sign(self, message: bytes, *, pss: bool = False) -> bytes:
        """The attestation key's plain signature."""
        if isinstance(self.ak, ec.EllipticCurvePrivateKey):
            digest: hashes.HashAlgorithm = hashes.SHA384() if self.ak.key_size == 384 else hashes.SHA256()
            return self.ak.sign(message, ec.ECDSA(digest))
        scheme: Any = padding.PSS(padding.MGF1(hashes.SHA256()), 32) if pss else padding.PKCS1v15()
        return self.ak.sign(message, scheme, hashes.SHA256())


def activate(ek: Key, ak_name: bytes, credential: bytes, encrypted: bytes) -> bytes:
    """TPM2_ActivateCredential: the secret. Raises ValueError if the integrity value is wrong."""
    digest: Any = hashes.SHA384() if ek.key_size in (384, 3072) else hashes.SHA256()
    seed = _unwrap(ek, digest, encrypted[2:])
    size = int.from_bytes(credential[2:4], "big")
    tag, hidden = credential[4 : 4 + size], credential[4 + size :]
    integrity = _kdf(digest, seed, b"INTEGRITY\0", b"", 8 * digest.digest_size)
    if not hmac.compare_digest(tag, hmac.digest(integrity, hidden + ak_name, digest.name)):
        raise ValueError("integrity")
    key = _kdf(digest, seed, b"STORAGE\0", ak_name, 256 if digest.name == "sha384" else 128)
    cipher = Cipher(algorithms.AES(key), CFB(bytes(16))).decryptor()
    plain = cipher.update(hidden) + cipher.finalize()
    return plain[2:]


def _unwrap(ek: Key, digest: Any, encrypted: bytes) -> bytes:
    if isinstance(ek, rsa.RSAPrivateKey):
        return ek.decrypt(encrypted, padding.OAEP(padding.MGF1(digest), digest, b"IDENTITY\0"))
    width = ek.key_size // 8
    x, y = encrypted[2 : 2 + width], encrypted[4 + width :]
    point = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), ek.curve).public_key()
    mine = ek.public_key().public_numbers().x.to_bytes(width, "big")
    z = ek.exchange(ec.ECDH(), point)
    return hashlib.new(digest.name, b"\0\0\0\1" + z + b"IDENTITY\0" + x + mine).digest()


def _kdf(digest: Any, key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    fixed = label + context + bits.to_bytes(4, "big")
    return KBKDFHMAC(
        digest, Mode.CounterMode, bits // 8, 4, None, CounterLocation.BeforeFixed, None, None, fixed
    ).derive(key)


@dataclass(frozen=True)
class Vendor:
    """A TPM maker: a root and an issuing authority, P-384 over SHA-384."""

    root: Issuer
    authority: Issuer

    def leaf(self, key: Any, usage: str | None, start: int = NOW - DAY, end: int = NOW + DAY) -> str:
        """A PEM chain, leaf first, for this key."""
        purpose = [("2.5.29.37", der_sequence(der_oid(usage)))] if usage else []
        made = certificate(
            "a TPM key", key, self.authority, start=start, end=end, extensions=purpose, digest=hashes.SHA384()
        )
        return made.public_bytes(Encoding.PEM).decode() + self.authority.pem + self.root.pem


@lru_cache(maxsize=1)
def vendor() -> Vendor:
    """The TPM maker of this test run."""
    keys = [ec.generate_private_key(ec.SECP384R1()) for _ in range(2)]
    root = Issuer(
        certificate(
            "TPM root",
            keys[0].public_key(),
            keys[0],
            start=NOW - 9 * DAY,
            end=NOW + 9 * DAY,
            root=True,
            digest=hashes.SHA384(),
        ),
        keys[0],
    )
    middle = certificate(
        "TPM issuer",
        keys[1].public_key(),
        root,
        start=NOW - 5 * DAY,
        end=NOW + 5 * DAY,
        authority=0,
        digest=hashes.SHA384(),
    )
    return Vendor(root, Issuer(middle, keys[1]))


def tpm_roots() -> Roots:
    """The test vendor's root, pinned for "tpm"."""
    return Roots.of({"tpm": [hashlib.sha256(vendor().root.der).digest()]})


@cache
def keys(kind: str) -> Key:
    """A key of this test run: "p256", "p384", "rsa", "rsa-ek", "p256-ek", "rsa3072"."""
    if kind.startswith("rsa"):
        return rsa.generate_private_key(65537, 3072 if kind == "rsa3072" else 2048)
    return ec.generate_private_key(ec.SECP384R1() if kind.startswith("p384") else ec.SECP256R1())


CHOSEN = (0, 1, 2, 3, 4, 5, 6, 7, 15, 23)


def machine(kind: str = "p256") -> SoftTpm:
    """A TPM after a boot that measured something into PCR 4 and 15."""
    tpm = SoftTpm(keys(kind))
    tpm.extend(4, hashlib.sha256(b"kernel").digest())
    tpm.extend(15, hashlib.sha256(b"image").digest())
    return tpm


def quote_parts(tpm: SoftTpm, report: bytes = REPORT, chosen: tuple[int, ...] = CHOSEN) -> dict[str, bytes]:
    """quote, signature, pcrs and report_data as aux parts; extra data is SHA-256 of the report data."""
    message = tpm.message(hashlib.sha256(report).digest(), chosen)
    return {"quote": message, "signature": tpm.sign(message), "pcrs": tpm.values(chosen), "report_data": report}


def tpm_evidence(
    tpm: SoftTpm | None = None, report: bytes = REPORT, chosen: tuple[int, ...] = CHOSEN, **changes: bytes | None
) -> Evidence:
    """Evidence with a certified attestation key. ``changes`` replace aux parts; None drops one."""
    tpm = tpm or machine()
    honest = quote_parts(tpm, report, chosen)
    blob = honest.pop("quote")
    parts: dict[str, bytes | None] = {**honest, "ak_chain": vendor().leaf(tpm.ak.public_key(), AK_USAGE).encode()}
    kept = {name: part for name, part in (parts | changes).items() if part is not None}
    return Evidence("tpm", blob, kept)


def boot_log(*events: tuple[int, int, bytes], banks: tuple[int, ...] = (SHA256,)) -> bytes:
    """A TCG2 log of (PCR, type, data); each digest is the hash of the data."""
    sizes = {SHA256: 32, SHA384: 48}
    described = b"Spec ID Event03\0" + bytes(4) + bytes((0, 2, 0, 2)) + len(banks).to_bytes(4, "little")
    described += b"".join(b.to_bytes(2, "little") + sizes[b].to_bytes(2, "little") for b in banks) + b"\0"
    log = bytes(4) + (3).to_bytes(4, "little") + bytes(20) + len(described).to_bytes(4, "little") + described
    for index, kind, data in events:
        log += index.to_bytes(4, "little") + kind.to_bytes(4, "little") + len(banks).to_bytes(4, "little")
        for bank in banks:
            log += bank.to_bytes(2, "little") + hashlib.new({SHA256: "sha256", SHA384: "sha384"}[bank], data).digest()
        log += len(data).to_bytes(4, "little") + data
    return log


def rng(size: int) -> bytes:
    """Random bytes for challenges in tests."""
    return os.urandom(size)
