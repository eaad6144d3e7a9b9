"""A pretend Intel: PCK chain, TCB info, QE identity, revocation lists, and TDX v4 quotes (Intel DCAP formats).

SGX quotes are in ``sgx``; they hang on the same chain.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloister.devnet.tee.store import Store
from cloister.devnet.tee.x509build import (
    DAY,
    Issuer,
    certificate,
    der,
    der_boolean,
    der_integer,
    der_octets,
    der_oid,
    der_sequence,
    moment,
    revocation_list,
)

SGX_EXTENSION: Final = "1.2.840.113741.1.13.1"
FMSPC: Final = bytes.fromhex("c10157e50000")
PCE_ID: Final = bytes(2)
PCE_SVN: Final = 13
EVALUATION_NUMBER: Final = 18
CPU_SVN: Final = bytes((5, 5, 2, 2, 4, 1, 0, 5) + (0,) * 8)
TEE_TCB_SVN: Final = bytes((5, 1, 2) + (0,) * 13)
TD_ATTRIBUTES: Final = bytes.fromhex("0000001000000000")
DEBUG_ATTRIBUTES: Final = bytes.fromhex("0100001000000000")
XFAM: Final = bytes.fromhex("e702060000000000")
MR_SEAM: Final = hashlib.sha384(b"cloister devnet TDX module").digest()
QE_SIGNER: Final = hashlib.sha256(b"cloister devnet quoting enclave signer").digest()
QE_ENCLAVE: Final = hashlib.sha256(b"cloister devnet quoting enclave").digest()
QE_VENDOR: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
COLLATERAL_DAYS: Final = 30
Edit = Callable[[dict[str, Any]], None]


class Intel:
    """Root, PCK authority and TCB signer of one devnet."""

    vendor = "intel"

    def __init__(self, store: Store, now: int) -> None:
        start, end = now - DAY, now + 20 * 365 * DAY
        self._store = store
        root_key = store.ec_key("intel-root", ec.SECP256R1())
        root = store.certificate(
            "intel-root",
            lambda: certificate(
                "Simulated SGX Root CA",
                root_key.public_key(),
                root_key,
                start=start,
                end=end,
                root=True,
                digest=hashes.SHA256(),
            ),
        )
        self.root = Issuer(root, root_key)
        authority_key = store.ec_key("intel-pck-ca", ec.SECP256R1())
        authority = store.certificate(
            "intel-pck-ca",
            lambda: certificate(
                "Simulated SGX PCK Platform CA",
                authority_key.public_key(),
                self.root,
                start=start,
                end=end,
                authority=0,
                digest=hashes.SHA256(),
            ),
        )
        self.authority = Issuer(authority, authority_key)

    def collateral(
        self, now: int, tcb_info: Edit = lambda _: None, qe_identity: Edit = lambda _: None, revoked: Sequence[int] = ()
    ) -> bytes:
        """The nine QuoteCollateralV3 fields as JSON, issued an hour before ``now``, for 30 days.

        ``tcb_info``, ``qe_identity``: change these before they are signed. ``revoked``: serial numbers of PCKs.
        """
        start, end = now - 3600, now + COLLATERAL_DAYS * DAY
        key = self._store.ec_key("intel-tcb", ec.SECP256R1())
        signer = certificate(
            "Simulated SGX TCB Signing",
            key.public_key(),
            self.root,
            start=now - DAY,
            end=end + DAY,
            digest=hashes.SHA256(),
        )
        chain = Issuer(signer, key).pem + self.root.pem
        levels, enclave = _tcb_info(start, end), _qe_identity(start, end)
        tcb_info(levels)
        qe_identity(enclave)
        levels_text, enclave_text = _json(levels), _json(enclave)
        fields = {
            "pck_crl_issuer_chain": self.authority.pem + self.root.pem,
            "root_ca_crl": revocation_list(self.root, start, end).hex(),
            "pck_crl": revocation_list(self.authority, start, end, revoked).hex(),
            "tcb_info_issuer_chain": chain,
            "tcb_info": levels_text,
            "tcb_info_signature": sign_raw(key, levels_text.encode()).hex(),
            "qe_identity_issuer_chain": chain,
            "qe_identity": enclave_text,
            "qe_identity_signature": sign_raw(key, enclave_text.encode()).hex(),
        }
        return json.dumps(fields).encode()

    def platform(self, name: str, now: int, fmspc: bytes = FMSPC) -> Platform:
        """The machine of this name: its PCK certificate, its quoting enclave. ``fmspc``: 6 bytes, the CPU's model."""
        seed = self._store.secret(f"intel-platform-{name}", 32)
        ppid, instance = (hashlib.sha256(label + seed).digest()[:16] for label in (b"ppid", b"instance"))
        key = self._store.ec_key(f"intel-pck-{name}", ec.SECP256R1())
        pck = certificate(
            "Simulated SGX PCK Certificate",
            key.public_key(),
            self.authority,
            start=now - DAY,
            end=now + 5 * 365 * DAY,
            extensions=[(SGX_EXTENSION, pck_extension(ppid, instance, fmspc))],
            digest=hashes.SHA256(),
        )
        chain = Issuer(pck, key).pem + self.authority.pem + self.root.pem
        return Platform(key, chain.encode(), ec.generate_private_key(ec.SECP256R1()), pck.serial_number)


@dataclass(frozen=True, slots=True)
class Platform:
    """One machine: PCK key and chain, and the attestation key of its quoting enclave."""

    pck: ec.EllipticCurvePrivateKey
    chain: bytes
    attestation: ec.EllipticCurvePrivateKey
    serial: int

    def quote(self, mrtd: bytes, report_data: bytes, attributes: bytes = TD_ATTRIBUTES) -> bytes:
        """A TDX v4 quote over a TD of this MRTD (48 bytes), RTMRs zero, and 64 bytes of report data."""
        signed = _header() + td_report(mrtd, report_data, attributes)
        head, enclave = self.signature(signed)
        certification = enclave + self.certificates()
        head += struct.pack("<HI", 6, len(certification))
        return signed + struct.pack("<I", len(head) + len(certification)) + head + certification

    def signature(self, signed: bytes) -> tuple[bytes, bytes]:
        """(signature and attestation key, the quoting enclave's signed report about that key)."""
        public = self.attestation.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
        auth = bytes(range(32))
        enclave = _qe_report(hashlib.sha256(public + auth).digest())
        about = enclave + sign_raw(self.pck, enclave) + struct.pack("<H", len(auth)) + auth
        return sign_raw(self.attestation, signed) + public, about

    def certificates(self) -> bytes:
        """The PCK chain as certification data of type 5."""
        return struct.pack("<HI", 5, len(self.chain)) + self.chain


def sign_raw(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """ECDSA P-256 over SHA-256 as r || s, 64 bytes; the same for the same data, as a machine certifies its QE once."""
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def pck_extension(ppid: bytes, instance: bytes, fmspc: bytes = FMSPC) -> bytes:
    """The SGX extension of a PCK certificate (Intel PCK certificate profile 1.5, table 3)."""

    def item(suffix: str, value: bytes) -> bytes:
        return der_sequence(der_oid(f"{SGX_EXTENSION}.{suffix}"), value)

    components = [item(f"2.{place}", der_integer(svn)) for place, svn in enumerate(CPU_SVN, start=1)]
    tcb = der_sequence(*components, item("2.17", der_integer(PCE_SVN)), item("2.18", der_octets(CPU_SVN)))
    flags = [item(f"7.{place}", der_boolean(False)) for place in (1, 2, 3)]  # dynamic platform, cached keys, SMT
    return der_sequence(
        item("1", der_octets(ppid)),
        item("2", tcb),
        item("3", der_octets(PCE_ID)),
        item("4", der_octets(fmspc)),
        item("5", der(0x0A, b"\x01")),
        item("6", der_octets(instance)),
        item("7", der_sequence(*flags)),
    )


def td_report(mrtd: bytes, report_data: bytes, attributes: bytes) -> bytes:
    """The 584-byte TD report body of a v4 quote."""
    if len(mrtd) != 48 or len(report_data) != 64:
        raise TypeError("a TD report holds 48 bytes of MRTD and 64 of report data")
    zero = bytes(48)
    seam = TEE_TCB_SVN + MR_SEAM + zero + bytes(8)
    return seam + attributes + XFAM + mrtd + 3 * zero + 4 * zero + report_data


def _header() -> bytes:
    return struct.pack("<HHIHH", 4, 2, 0x81, 0, 0) + QE_VENDOR + bytes(20)


def _qe_report(commitment: bytes) -> bytes:
    attributes = bytes.fromhex("1500000000000000e700000000000000")
    head = CPU_SVN + bytes(4) + bytes(28) + attributes + QE_ENCLAVE + bytes(32) + QE_SIGNER + bytes(96)
    return head + struct.pack("<HH", 2, 6) + bytes(60) + commitment + bytes(32)


def _tcb_info(start: int, end: int) -> dict[str, Any]:
    module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    level = {"tcb": {"isvsvn": 4}, "tcbDate": _stamp(start - 90 * DAY), "tcbStatus": "UpToDate"}
    components = [{"svn": svn} for svn in CPU_SVN]
    tdx = [{"svn": svn} for svn in (TEE_TCB_SVN[0], 0, *TEE_TCB_SVN[2:])]
    tcb = {"sgxtcbcomponents": components, "pcesvn": PCE_SVN, "tdxtcbcomponents": tdx}
    return {
        "id": "TDX",
        "version": 3,
        "issueDate": _stamp(start),
        "nextUpdate": _stamp(end),
        "fmspc": FMSPC.hex().upper(),
        "pceId": PCE_ID.hex(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": EVALUATION_NUMBER,
        "tdxModule": module,
        "tdxModuleIdentities": [{"id": "TDX_01", **module, "tcbLevels": [level]}],
        "tcbLevels": [{"tcb": tcb, "tcbDate": _stamp(start - 90 * DAY), "tcbStatus": "UpToDate"}],
    }


def _qe_identity(start: int, end: int) -> dict[str, Any]:
    return {
        "id": "TD_QE",
        "version": 2,
        "issueDate": _stamp(start),
        "nextUpdate": _stamp(end),
        "tcbEvaluationDataNumber": EVALUATION_NUMBER,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11" + "00" * 15,
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": QE_SIGNER.hex().upper(),
        "isvprodid": 2,
        "tcbLevels": [{"tcb": {"isvsvn": 4}, "tcbDate": _stamp(start - 90 * DAY), "tcbStatus": "UpToDate"}],
    }


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _stamp(seconds: int) -> str:
    return moment(seconds).strftime("%Y-%m-%dT%H:%M:%SZ")
