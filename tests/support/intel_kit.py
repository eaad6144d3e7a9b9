"""SGX quotes, chosen TDX registers and boot logs of the simulated Intel, for tests."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterable
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cloister.core.attestation.model import Evidence
from cloister.devnet.tee import intel
from cloister.devnet.tee.x509build import DAY, Issuer, certificate
from support.hardware import NOW, collateral, factory, platform

MRENCLAVE = hashlib.sha256(b"the enclave").digest()
MRSIGNER = hashlib.sha256(b"its signer").digest()
ATTRIBUTES = bytes.fromhex("0500000000000000e700000000000000")
REPORT = bytes(range(64))
RUNTIME = 0x08000001
Change = Callable[[dict[str, Any]], None]


def sgx_body(report_data: bytes = REPORT, attributes: bytes = ATTRIBUTES, product: int = 3, version: int = 7) -> bytes:
    """The 384-byte report of an enclave."""
    head = intel.CPU_SVN + bytes(4) + bytes(28) + attributes + MRENCLAVE + bytes(32) + MRSIGNER + bytes(96)
    return head + struct.pack("<HH", product, version) + bytes(60) + report_data


def sgx_quote(body: bytes | None = None, version: int = 3) -> bytes:
    """A quote of the simulated platform over an enclave's report."""
    header = struct.pack("<HHIHH", version, 2, 0, 8, 13) + intel.QE_VENDOR + bytes(20)
    return _signed(header + (body or sgx_body()))


def tdx_quote(rtmrs: Iterable[bytes], report_data: bytes = REPORT, mrtd: bytes = bytes(48)) -> bytes:
    """A TDX v4 quote whose RTMRs are these four."""
    body = bytearray(intel.td_report(mrtd, report_data, intel.TD_ATTRIBUTES))
    body[328:520] = b"".join(rtmrs)
    return _signed4(struct.pack("<HHIHH", 4, 2, 0x81, 0, 0) + intel.QE_VENDOR + bytes(20) + bytes(body))


def _signature(signed: bytes) -> tuple[bytes, bytes, bytes]:
    own = platform()
    public = own.attestation.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
    auth = bytes(range(32))
    enclave = intel._qe_report(hashlib.sha256(public + auth).digest())
    certification = enclave + intel.sign_raw(own.pck, enclave) + struct.pack("<H", 32) + auth
    return intel.sign_raw(own.attestation, signed) + public, certification, own.chain


def _signed(signed: bytes) -> bytes:
    head, certification, chain = _signature(signed)
    data = head + certification + struct.pack("<HI", 5, len(chain)) + chain
    return signed + struct.pack("<I", len(data)) + data


def _signed4(signed: bytes) -> bytes:
    head, certification, chain = _signature(signed)
    inner = certification + struct.pack("<HI", 5, len(chain)) + chain
    data = head + struct.pack("<HI", 6, len(inner)) + inner
    return signed + struct.pack("<I", len(data)) + data


def changed(**changes: Change) -> bytes:
    """Collateral whose tcb_info or qe_identity is changed and signed again by the simulated vendor."""
    key = ec.generate_private_key(ec.SECP256R1())
    root = factory().intel.root
    signer = certificate("TCB", key.public_key(), root, start=NOW - DAY, end=NOW + 40 * DAY, digest=hashes.SHA256())
    fields = json.loads(collateral())
    for name in ("tcb_info", "qe_identity"):
        value = json.loads(fields[name])
        changes.get(name, lambda _: None)(value)
        text = json.dumps(value)
        fields[name], fields[f"{name}_signature"] = text, intel.sign_raw(key, text.encode()).hex()
        fields[f"{name}_issuer_chain"] = Issuer(signer, key).pem + root.pem
    return json.dumps(fields).encode()


def sgx_collateral(tcb: Change = lambda _: None, enclave: Change = lambda _: None) -> bytes:
    """Collateral for SGX quotes of the simulated platform."""

    def to_sgx(value: dict[str, Any]) -> None:
        for name in ("tdxModule", "tdxModuleIdentities"):
            value.pop(name, None)
        value["id"] = "SGX"
        for level in value["tcbLevels"]:
            level["tcb"].pop("tdxtcbcomponents", None)
        tcb(value)

    def to_qe(value: dict[str, Any]) -> None:
        value["id"] = "QE"
        enclave(value)

    return changed(tcb_info=to_sgx, qe_identity=to_qe)


def sgx_evidence(body: bytes | None = None, aux: bytes | None = None) -> Evidence:
    """Evidence of the simulated enclave."""
    return Evidence("sgx", sgx_quote(body), {"collateral": aux or sgx_collateral()})


def fold(digests: Iterable[bytes]) -> bytes:
    """An RTMR after these digests."""
    value = bytes(48)
    for one in digests:
        value = hashlib.sha384(value + one).digest()
    return value


def ccel(events: Iterable[tuple[int, int, bytes]], filler: int = 64) -> bytes:
    """A CCEL of (register index, type, data) with SHA-384 digests of the data."""
    described = b"Spec ID Event03\0" + bytes(4) + bytes([0, 2, 0, 2]) + struct.pack("<IHHB", 1, 0x0C, 48, 0)
    log = struct.pack("<II", 1, 3) + bytes(20) + struct.pack("<I", len(described)) + described
    for index, kind, data in events:
        log += struct.pack("<IIIH", index, kind, 1, 0x0C) + hashlib.sha384(data).digest()
        log += struct.pack("<I", len(data)) + data
    return log + b"\xff" * filler


def runtime_event(name: str, payload: bytes, *, lite: bool = False, version: int | None = None) -> dict[str, Any]:
    """One dstack runtime event as JSON, made from its formula."""
    event = {"imr": 3, "event_type": RUNTIME, "event": name, "event_payload": payload.hex()}
    if version == 2:
        text = f'{{"name":{json.dumps(name)},"payload":"{payload.hex()}","type":{RUNTIME}}}'
        digest = hashlib.sha384(text.encode()).digest()
    else:
        digest = hashlib.sha384(b"\x01\x00\x00\x08:" + name.encode() + b":" + payload).digest()
    event |= {"digest": "" if lite else digest.hex()}
    if version is not None:
        event["version"] = version
    return event | {"_digest": digest}


def dstack_evidence(events: list[dict[str, Any]], boot: int = 2) -> Evidence:
    """A quote whose RTMRs are those of these runtime events and of ``boot`` firmware events per register, and both
    logs in one."""
    firmware = [(place, hashlib.sha384(bytes([place, n])).digest()) for n in range(boot) for place in range(3)]
    rtmrs = [fold(d for r, d in firmware if r == place) for place in range(3)]
    rtmrs.append(fold(event["_digest"] for event in events))
    log = [{"imr": r, "event_type": 1, "digest": d.hex(), "event": "", "event_payload": "00"} for r, d in firmware]
    log += [{k: v for k, v in event.items() if k != "_digest"} for event in events]
    return Evidence("dstack", tdx_quote(rtmrs), {"collateral": collateral(), "event_log": json.dumps(log).encode()})
