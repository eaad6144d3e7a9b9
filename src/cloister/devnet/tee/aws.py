"""A pretend AWS: a P-384 chain, and Nitro attestation documents with leaves of three hours (RFC 9052 COSE_Sign1)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Final

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from cloister.devnet.tee.store import Store
from cloister.devnet.tee.x509build import DAY, Issuer, certificate

LEAF_SECONDS: Final = 3 * 3600
MAX_REQUEST: Final = 4096


class Aws:
    """Root and regional authority of one devnet."""

    vendor = "aws"

    def __init__(self, store: Store, now: int) -> None:
        start, end = now - DAY, now + 20 * 365 * DAY
        self._store = store
        root_key = store.ec_key("aws-root", ec.SECP384R1())
        root = store.certificate(
            "aws-root",
            lambda: certificate(
                "simulated.nitro-enclaves",
                root_key.public_key(),
                root_key,
                start=start,
                end=end,
                root=True,
                digest=hashes.SHA384(),
            ),
        )
        self.root = Issuer(root, root_key)

    def instance(self, name: str, now: int) -> Instance:
        """The instance of this name, with an authority of its own under a regional one."""
        regional = self._authority("aws-region", "devnet-1.simulated.nitro-enclaves", self.root, 1, now)
        module = hashlib.sha256(self._store.secret(f"aws-instance-{name}", 32)).hexdigest()
        identity = f"i-{module[:17]}"
        own = self._authority(f"aws-{name}", f"{identity}.devnet-1.simulated.nitro-enclaves", regional, 0, now)
        return Instance(f"{identity}-enc{module[17:33]}", own, (self.root.der, regional.der, own.der))

    def _authority(self, label: str, common: str, issuer: Issuer, below: int, now: int) -> Issuer:
        key = self._store.ec_key(label, ec.SECP384R1())
        made = certificate(
            common,
            key.public_key(),
            issuer,
            start=now - DAY,
            end=now + 5 * 365 * DAY,
            authority=below,
            digest=hashes.SHA384(),
        )
        return Issuer(made, key)


@dataclass(frozen=True, slots=True)
class Instance:
    """One machine with one enclave."""

    module_id: str
    authority: Issuer
    bundle: tuple[bytes, ...]

    def document(self, pcrs: dict[int, bytes], now: int, **optional: bytes | None) -> bytes:
        """A signed document. ``pcrs``: index -> 48 bytes, else zero. ``optional``: user_data, nonce, public_key."""
        key = ec.generate_private_key(ec.SECP384R1())
        leaf = certificate(
            self.module_id,
            key.public_key(),
            self.authority,
            start=now - 60,
            end=now - 60 + LEAF_SECONDS,
            digest=hashes.SHA384(),
        )
        payload: dict[str, Any] = {
            "module_id": self.module_id,
            "digest": "SHA384",
            "timestamp": now * 1000,
            "pcrs": {index: pcrs.get(index, bytes(48)) for index in range(16)},
            "certificate": leaf.public_bytes(Encoding.DER),
            "cabundle": list(self.bundle),
            "public_key": None,
            "user_data": None,
            "nonce": None,
        } | optional
        return sign_cose(key, cbor2.dumps(payload))

    def answer(self, request: bytes, pcrs: dict[int, bytes], now: int) -> bytes:
        """What the security module answers: DescribeNSM and Attestation; anything else is an error, as on hardware."""
        try:
            wanted = cbor2.loads(request, max_depth=8) if len(request) <= MAX_REQUEST else None
        except Exception:
            wanted = None
        if wanted == "DescribeNSM":
            described = {"version_major": 1, "version_minor": 0, "version_patch": 0, "module_id": self.module_id}
            limits = {"max_pcrs": 32, "locked_pcrs": list(range(16)), "digest": "SHA384"}
            return cbor2.dumps({"DescribeNSM": described | limits})
        inner = wanted.get("Attestation") if isinstance(wanted, dict) else None
        names = {"user_data": 512, "nonce": 512, "public_key": 1024}
        if not isinstance(inner, dict) or not set(inner) <= set(names):
            return cbor2.dumps({"Error": "InvalidOperation"})
        if not all(v is None or (isinstance(v, bytes) and len(v) <= names[k]) for k, v in inner.items()):
            return cbor2.dumps({"Error": "InvalidArgument"})
        return cbor2.dumps({"Attestation": {"document": self.document(pcrs, now, **inner)}})


def sign_cose(key: ec.EllipticCurvePrivateKey, payload: bytes) -> bytes:
    """COSE_Sign1 with ES384, untagged as the hardware gives it."""
    protected = cbor2.dumps({1: -35})
    signed = cbor2.dumps(["Signature1", protected, b"", payload])
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA384())))
    return cbor2.dumps([protected, {}, payload, r.to_bytes(48, "big") + s.to_bytes(48, "big")])
