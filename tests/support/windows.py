"""Pretend vendors whose every certificate, list and table has a window of validity of its own, for every kind.

``evidence(kind, windows)`` is good evidence in which each element is valid as ``windows`` says, or for days around NOW.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from cloister.core.attestation.model import Evidence
from cloister.core.attestation.roots import Roots
from cloister.devnet.tee import amd, aws, intel
from cloister.devnet.tee.x509build import DAY, Issuer, certificate, der_oid, der_sequence, revocation_list
from support.azure_kit import SNP, TDX, hcl_report, rsa_machine, runtime_data, td_report
from support.hardware import MEASUREMENT, NOW, chip, factory
from support.intel_kit import fold, runtime_event, sgx_body
from support.nvidia_kit import DRIVER, FWID_OID, MODE, VBIOS, Device, fwid_extension, key, sign, swid
from support.tpm_kit import AK_USAGE, machine, quote_parts, tpm_evidence

Window = tuple[int, int]
Windows = Mapping[str, Window]
Made = tuple[Evidence, Roots]
WIDE: Window = (NOW - 3 * DAY, NOW + 3 * DAY)
REPORT = bytes(range(64))
INTEL = (
    "root",
    "pck ca",
    "pck",
    "root crl",
    "pck crl",
    "crl signer",
    "tcb signer",
    "qe signer",
    "tcb info",
    "qe identity",
)
AMD = ("ark", "ask", "vek", "crl")
ELEMENTS: dict[str, tuple[str, ...]] = {
    "tdx": INTEL,
    "sgx": INTEL,
    "dstack": INTEL,
    "snp": AMD,
    "nitro": ("root", "region", "instance", "leaf"),
    "azure-snp": AMD,
    "azure-tdx": INTEL,
    "tpm": ("root", "issuer", "ak"),
    "nvidia-gpu": ("root", "identity", "provisioner", "device", "leaf", "rim root", "rim issuer", "rim signer"),
    "nvidia-switch": ("root", "identity", "provisioner", "device", "leaf", "rim root", "rim issuer", "rim signer"),
}
LISTS = ("root crl", "pck crl", "crl", "tcb info", "qe identity")  # the second of their end is already too late


def evidence(kind: str, windows: Windows) -> Made:
    """Evidence, and the roots that pin it. KeyError for an element that the kind does not have."""
    unknown = set(windows) - set(ELEMENTS[kind])
    if unknown:
        raise KeyError(unknown)
    return MAKERS[kind](windows)


def _roots(**certificates: bytes) -> Roots:
    names = {name.replace("_", "-"): der for name, der in certificates.items()}
    return Roots.of({vendor: [hashlib.sha256(der).digest()] for vendor, der in names.items()})


@lru_cache(maxsize=64)
def _p256(name: str) -> ec.EllipticCurvePrivateKey:
    del name
    return ec.generate_private_key(ec.SECP256R1())


class _Builder:
    """Certificates by the element's name, each in its window."""

    def __init__(self, windows: Windows, digest: hashes.SHA256 | hashes.SHA384) -> None:
        self._windows, self._digest = windows, digest

    def window(self, element: str) -> Window:
        return self._windows.get(element, WIDE)

    def made(self, element: str, common: str, own: Any, issuer: Issuer | None, **more: Any) -> Issuer:
        start, end = self.window(element)
        arguments = {"start": start, "end": end, "root": issuer is None, "digest": self._digest} | more
        return Issuer(certificate(common, own.public_key(), issuer or own, **arguments), own)


class IntelWorld:
    """Intel with chosen windows: collateral, and a platform."""

    def __init__(self, windows: Windows) -> None:
        self._build = _Builder(windows, hashes.SHA256())
        self.root = self._build.made("root", "SGX Root CA", _p256("root"), None)
        ca = ("SGX PCK Platform CA", _p256("pck ca"), self.root)
        self.authority = self._build.made("pck ca", *ca, authority=0)
        self._crl_signer = self._build.made("crl signer", *ca, authority=0)  # the same authority, certified once more
        extension = intel.pck_extension(bytes(16), bytes(range(16)))
        own = [(intel.SGX_EXTENSION, extension)]
        pck = self._build.made("pck", "SGX PCK Certificate", _p256("pck"), self.authority, extensions=own)
        chain = pck.pem + self.authority.pem + self.root.pem
        self.platform = intel.Platform(
            _p256("pck"), chain.encode(), _p256("attestation"), pck.certificate.serial_number
        )

    def collateral(self, tee: str = "tdx") -> bytes:
        """The nine fields."""
        signers = {n: self._build.made(n, "SGX TCB Signing", _p256(n), self.root) for n in ("tcb signer", "qe signer")}
        tables = {"tcb_info": self._tcb_info(tee), "qe_identity": self._qe_identity(tee)}
        fields: dict[str, str] = {
            "pck_crl_issuer_chain": self._crl_signer.pem + self.root.pem,
            "root_ca_crl": revocation_list(self.root, *self._build.window("root crl")).hex(),
            "pck_crl": revocation_list(self.authority, *self._build.window("pck crl")).hex(),
        }
        for name, signer in zip(tables, signers.values(), strict=True):
            text = json.dumps(tables[name])
            fields[f"{name}_issuer_chain"] = signer.pem + self.root.pem
            fields[name] = text
            fields[f"{name}_signature"] = intel.sign_raw(signer.key, text.encode()).hex()  # type: ignore[arg-type]
        return json.dumps(fields).encode()

    def _tcb_info(self, tee: str) -> dict[str, Any]:
        table = intel._tcb_info(*self._build.window("tcb info"))
        if tee == "sgx":
            for name in ("tdxModule", "tdxModuleIdentities"):
                table.pop(name)
            for level in table["tcbLevels"]:
                level["tcb"].pop("tdxtcbcomponents")
            table["id"] = "SGX"
        return table

    def _qe_identity(self, tee: str) -> dict[str, Any]:
        return intel._qe_identity(*self._build.window("qe identity")) | {"id": "QE" if tee == "sgx" else "TD_QE"}

    def roots(self) -> Roots:
        return _roots(intel=self.root.der)

    def sgx_quote(self) -> bytes:
        """A version 3 quote of the platform."""
        signed = struct.pack("<HHIHH", 3, 2, 0, 8, 13) + intel.QE_VENDOR + bytes(20) + sgx_body()
        head, about = self.platform.signature(signed)
        data = head + about + self.platform.certificates()
        return signed + struct.pack("<I", len(data)) + data

    def tdx_quote(self, rtmr3: bytes) -> bytes:
        """A version 4 quote with this RTMR3."""
        body = bytearray(intel.td_report(MEASUREMENT, REPORT, intel.TD_ATTRIBUTES))
        body[472:520] = rtmr3
        signed = intel._header() + bytes(body)
        head, about = self.platform.signature(signed)
        inner = about + self.platform.certificates()
        data = head + struct.pack("<HI", 6, len(inner)) + inner
        return signed + struct.pack("<I", len(data)) + data


def _tdx(windows: Windows) -> Made:
    world = IntelWorld(windows)
    quote = world.platform.quote(MEASUREMENT, REPORT)
    return Evidence("tdx", quote, {"collateral": world.collateral()}), world.roots()


def _sgx(windows: Windows) -> Made:
    world = IntelWorld(windows)
    return Evidence("sgx", world.sgx_quote(), {"collateral": world.collateral("sgx")}), world.roots()


def _dstack(windows: Windows) -> Made:
    world = IntelWorld(windows)
    boot = [("app-id", b"a" * 20), ("compose-hash", b"c" * 32), ("boot-mr-done", b"")]
    events = [runtime_event(name, payload) for name, payload in boot]
    log = json.dumps([{k: v for k, v in event.items() if k != "_digest"} for event in events]).encode()
    quote = world.tdx_quote(fold(event["_digest"] for event in events))
    return Evidence("dstack", quote, {"collateral": world.collateral(), "event_log": log}), world.roots()


def _amd(windows: Windows) -> tuple[dict[str, bytes], amd.Chip, Roots]:
    build, vendor, own = _Builder(windows, hashes.SHA384()), factory().amd, chip()
    assert isinstance(vendor.root.key, rsa.RSAPrivateKey)
    ark = build.made("ark", "ARK-Genoa", vendor.root.key, None)
    ask = build.made("ask", "SEV-Genoa", vendor.signing.key, ark, authority=0)
    old = x509.load_der_x509_certificate(own.certificates["vek"])
    kept = [
        (one.oid.dotted_string, one.value.value)
        for one in old.extensions
        if isinstance(one.value, x509.UnrecognizedExtension)
    ]
    vek = build.made("vek", "SEV-VCEK", own.key, ask, extensions=kept)
    parts = {"vek": vek.der, "intermediate": ask.der, "ark": ark.der}
    parts["crl"] = revocation_list(ark, *build.window("crl"))
    return parts, own, _roots(amd=ark.der)


def _snp(windows: Windows) -> Made:
    parts, own, roots = _amd(windows)
    return Evidence("snp", own.report(MEASUREMENT, REPORT), parts), roots


def _nitro(windows: Windows) -> Made:
    build = _Builder(windows, hashes.SHA384())
    root = build.made("root", "nitro root", key("aws root"), None)
    region = build.made("region", "region", key("aws region"), root, authority=1)
    instance = build.made("instance", "instance", key("aws instance"), region, authority=0)
    leaf = build.made("leaf", "leaf", key("aws leaf"), instance)
    payload = {
        "module_id": "i-1",
        "digest": "SHA384",
        "timestamp": NOW * 1000,
        "pcrs": {index: bytes([index + 1]) * 48 for index in range(16)},
        "certificate": leaf.der,
        "cabundle": [root.der, region.der, instance.der],
        "public_key": None,
        "user_data": REPORT,
        "nonce": None,
    }
    return Evidence("nitro", aws.sign_cose(key("aws leaf"), cbor2.dumps(payload))), _roots(aws=root.der)


def _azure(hardware: Callable[[bytes], tuple[bytes, dict[str, bytes]]], kind: int) -> Evidence:
    tpm = rsa_machine()
    text = runtime_data(tpm.ak)
    report, aux = hardware(hashlib.sha256(text).digest().ljust(64, b"\0"))
    name = "azure-snp" if kind == SNP else "azure-tdx"
    return Evidence(name, hcl_report(report, kind, text), {**quote_parts(tpm), **aux})


def _azure_snp(windows: Windows) -> Made:
    parts, own, roots = _amd(windows)
    return _azure(lambda committed: (own.report(MEASUREMENT, committed), parts), SNP), roots


def _azure_tdx(windows: Windows) -> Made:
    world = IntelWorld(windows)

    def hardware(committed: bytes) -> tuple[bytes, dict[str, bytes]]:
        quote = world.platform.quote(MEASUREMENT, committed)
        return td_report(quote), {"td_quote": quote, "collateral": world.collateral()}

    return _azure(hardware, TDX), world.roots()


def _tpm(windows: Windows) -> Made:
    build, soft = _Builder(windows, hashes.SHA384()), machine()
    root = build.made("root", "TPM root", key("tpm root"), None)
    issuer = build.made("issuer", "TPM issuer", key("tpm issuer"), root, authority=0)
    purpose = [("2.5.29.37", der_sequence(der_oid(AK_USAGE)))]
    leaf = build.made("ak", "a TPM key", soft.ak, issuer, extensions=purpose)
    chain = (leaf.pem + issuer.pem + root.pem).encode()
    return tpm_evidence(soft, ak_chain=chain), _roots(tpm=root.der)


def _nvidia(chip_name: str) -> Callable[[Windows], Made]:
    def make(windows: Windows) -> Made:
        build, device = _Builder(windows, hashes.SHA384()), Device(chip_name)
        root = build.made("root", "Device Identity CA", key("nv root"), None)
        identity = build.made("identity", f"NVIDIA {chip_name} Identity", key("nv identity"), root, authority=2)
        provisioner = build.made("provisioner", "Provisioner", key("nv provisioner"), identity, authority=1)
        brom = build.made("device", f"{chip_name} A01 GSP BROM", key("nv device"), provisioner, authority=0)
        own = [(FWID_OID, fwid_extension(device.fwid))]
        leaf = build.made("leaf", f"{chip_name} A01 GSP FMC LF", device.leaf_key, brom, extensions=own)
        rim_root = build.made("rim root", "RIM root", key("RIM root"), None)
        issuer = build.made("rim issuer", "RIM issuer", key("RIM issuer"), rim_root, authority=0)
        signer = build.made("rim signer", "RIM signer", key("RIM signer"), issuer)
        signers = [one.certificate for one in (signer, issuer, rim_root)]
        chain = "".join(one.pem for one in (leaf, brom, provisioner, identity, root)).encode()
        aux = {"chain": chain, "vbios_rim": sign(swid(VBIOS.lower(), chip_name, _golden(device, 0, 8)), signers)}
        if chip_name.startswith("G"):
            aux |= {"driver_rim": sign(swid(DRIVER, chip_name, _golden(device, 8, 20)), signers), "mode": MODE}
        return device.evidence(**aux), _roots(nvidia=root.der, nvidia_rim=rim_root.der)

    return make


def _golden(device: Device, first: int, end: int) -> dict[int, list[bytes]]:
    return {index: [value] for index, value in device.measurements.items() if first <= index < end}


MAKERS: dict[str, Callable[[Windows], Made]] = {
    "tdx": _tdx,
    "sgx": _sgx,
    "dstack": _dstack,
    "snp": _snp,
    "nitro": _nitro,
    "azure-snp": _azure_snp,
    "azure-tdx": _azure_tdx,
    "tpm": _tpm,
    "nvidia-gpu": _nvidia("GH100"),
    "nvidia-switch": _nvidia("LS10"),
}
