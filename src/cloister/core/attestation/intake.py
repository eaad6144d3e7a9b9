"""From a file to Evidence: raw bytes, hex, base64, and the JSON forms that tools of the field write (DESIGN 6).

Pure: bytes in, Evidence out. The kind is told by content unless it is given. Reading believes nothing and refuses
only what it cannot read; whether evidence is genuine and complete is the verifier's business.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from cloister.core.attestation import kinds, parts
from cloister.core.attestation.certificates import common_name
from cloister.core.attestation.devices import MAX_DEVICES
from cloister.core.attestation.model import Binding, Claims, Evidence
from cloister.core.attestation.parts import UNREADABLE, Parts
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError

MAX_FILE: Final = 2 << 20
SNP_SIZE: Final = 1184
_AZURE: Final = {"az-snp": "azure-snp", "az-tdx": "azure-tdx"}
_HCL_KINDS: Final = {2: "azure-snp", 4: "azure-tdx"}
_DCAP: Final = ("tdx", "sgx", "dstack")
_SCALE_KINDS: Final = {0: "dstack", 2: "nitro", 3: "snp"}


@dataclass(frozen=True, slots=True)
class Intake:
    """What a file held. ``binding``: what the report data commits to, if it is said. ``devices``: those beside it."""

    evidence: Evidence
    binding: Binding | None = None
    devices: tuple[Evidence, ...] = ()


def read(data: bytes, beside: Sequence[bytes] = (), kind: str | None = None) -> Intake:
    """Evidence of one file and of the files beside it.

    Args: data (at most 2 MiB), beside (at most 32 files of 1 MiB), kind (one of ``kinds.KINDS``; None: told by
    content). Raises EncodingError (attestation.input, encoding.*).
    """
    if not 0 < len(data) <= MAX_FILE or len(beside) > parts.MAX_PARTS:
        raise UNREADABLE(expected=f"1 to {MAX_FILE} bytes and at most {parts.MAX_PARTS} files beside", found="more")
    if kind is not None and kind not in kinds.KINDS:
        raise UNREADABLE(expected=f"a kind of {', '.join(sorted(kinds.KINDS))}", found=kind[:32])
    found = Parts()
    for one in beside:
        parts.add(found, one)
    try:
        taken = _take(data, found)
        if taken.evidence.kind == "":
            taken = replace(taken, evidence=replace(taken.evidence, kind=kind or detect(taken.evidence.blob, found)))
        elif kind is not None:
            taken = replace(taken, evidence=replace(taken.evidence, kind=kind))
        return replace(taken, evidence=_complete(taken.evidence, found))
    except (CloisterError, RecursionError) as error:
        if isinstance(error, CloisterError) and not error.code.startswith("attestation.malformed"):
            raise
        raise UNREADABLE(expected="evidence", found=str(error)[:200]) from None


def detect(blob: bytes, found: Parts | None = None) -> str:
    """The kind of bare evidence, by its first bytes. Raises EncodingError (attestation.input)."""
    version, tee = int.from_bytes(blob[:2], "little"), int.from_bytes(blob[4:8], "little")
    if len(blob) == SNP_SIZE and int.from_bytes(blob[:4], "little") in (2, 3, 4, 5):
        return "snp"
    if len(blob) > 436 and version in (3, 4, 5) and tee in (0, 0x81):
        return _of_intel(tee, found)
    if blob[:1] == b"\x84" or blob[:2] == b"\xd2\x84":
        return "nitro"
    if blob[:4] == b"HCLA" and len(blob) > 1228:
        return _HCL_KINDS.get(int.from_bytes(blob[1224:1228], "little"), "azure-snp")
    if blob[:6] == bytes.fromhex("ff5443478018"):
        return "tpm"
    if blob[:2] == bytes.fromhex("11e0"):
        switch = any("LS10" in common_name(c) for c in (found.certificates if found else ()))
        return "nvidia-switch" if switch else "nvidia-gpu"
    raise UNREADABLE(expected="evidence of a known kind", found=f"{len(blob)} bytes that begin {blob[:8].hex()}")


def claims_json(claims: Claims) -> dict[str, Any]:
    """Claims, JSON-ready: bytes as 0x-hex. Names as in DESIGN section 6."""
    return {
        "tee": claims.kind,
        "vendor": claims.vendor_class,
        "generation": claims.generation,
        "platform_id": to_hex(claims.platform_id),
        "measurements": {name: to_hex(value) for name, value in claims.measurements.items()},
        "debug": claims.debug,
        "tcb_status": claims.tcb_status,
        "advisories": list(claims.advisories),
        "report_data": to_hex(claims.report_data),
        "fresh_until": claims.fresh_until,
        "details": plain(claims.details),
    }


def plain(value: Any) -> Any:
    """Any value of claims as JSON: bytes as hex, tuples as lists, keys as texts."""
    if isinstance(value, bytes):
        return to_hex(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _of_intel(tee: int, found: Parts | None) -> str:
    if tee == 0:
        return "sgx"
    return "dstack" if found and "event_log" in found.named else "tdx"


def _take(data: bytes, found: Parts) -> Intake:
    text = data.strip()
    if text[:1] in (b"{", b"["):
        return _of_json(parts.load_json(text), found)
    return _of_bytes(_decoded(data, text), found)


def _decoded(data: bytes, text: bytes) -> bytes:
    """Hex, then base64, then the bytes themselves."""
    compact = b"".join(text.split())
    if re.fullmatch(rb"(?:0x)?(?:[0-9a-fA-F]{2})+", compact):
        return bytes.fromhex(compact.decode().removeprefix("0x"))
    if re.fullmatch(rb"[A-Za-z0-9+/_-]{64,}={0,2}", compact):
        return _base64(compact.decode(), "the file")
    return data


def _of_bytes(blob: bytes, found: Parts) -> Intake:
    if _is_scale(blob):
        return _of_scale(blob, found)
    return Intake(Evidence("", blob))


def _is_scale(blob: bytes) -> bool:
    """Whether a dstack wrapper could begin here: its evidence looks like the kind that it names."""
    if len(blob) < 1024 or blob[0] != 0 or blob[1] not in _SCALE_KINDS:
        return False
    size, start = _compact(blob, 2)
    try:
        inner = detect(blob[start : start + size])
    except CloisterError:
        return False
    return inner == _SCALE_KINDS[blob[1]].replace("dstack", "tdx")


def _of_json(value: Any, found: Parts) -> Intake:
    if isinstance(value, list):
        if len(value) != 1 or not isinstance(value[0], dict):
            raise UNREADABLE(expected="evidence of one device", found=f"a list of {len(value)}")
        return _of_device(value[0], found)
    names = set(value)
    if {"kind", "blob", "aux"} <= names:
        return Intake(Evidence.from_json(value))
    if {"platform", "evidence"} <= names:
        return _of_azure(value, found)
    if isinstance(value.get("evidence"), dict):
        return _of_bundle(value)
    if {"certificate", "evidence"} <= names:
        return _of_device(value, found)
    if "quote" in names:
        return _of_dstack(value, found)
    if "attestation" in names:
        return _of_scale(_hex(value["attestation"], "attestation"), found)
    if {"message", "signature", "pcrs"} <= names:
        found.named |= _tpm_parts(value, "signature")
        return Intake(Evidence("tpm", _hex(value["message"], "message")))
    raise UNREADABLE(expected="a known form of evidence", found=f"fields {', '.join(sorted(map(str, names)))}"[:200])


def _of_bundle(value: Mapping[str, Any]) -> Intake:
    """Our own bundles: devices only with the binding that names them."""
    binding, devices = value.get("binding"), value.get("devices", [])
    if not isinstance(devices, list) or len(devices) > MAX_DEVICES or (devices and binding is None):
        raise UNREADABLE(expected=f"at most {MAX_DEVICES} devices, with a binding", found="others")
    return Intake(
        Evidence.from_json(value["evidence"]),
        None if binding is None else Binding.from_json(binding),
        tuple(Evidence.from_json(one) for one in devices),
    )


def _of_dstack(value: Mapping[str, Any], found: Parts) -> Intake:
    quote = value["quote"]
    blob = _hex(quote, "quote") if _is_hex(quote) else _base64(quote, "quote")
    log = value.get("event_log")
    if log:
        found.named["event_log"] = log.encode() if isinstance(log, str) else json.dumps(log).encode()
    return Intake(Evidence("", blob))


def _of_azure(value: Mapping[str, Any], found: Parts) -> Intake:
    inner = value["evidence"]
    kind = _AZURE.get(str(value["platform"]))
    if kind is None or not isinstance(inner, dict) or not isinstance(inner.get("tpm_quote"), dict):
        raise UNREADABLE(expected="platform az-snp or az-tdx with a TPM quote", found=str(value["platform"])[:32])
    quote = inner["tpm_quote"]
    found.named |= {"quote": _hex(quote.get("message"), "message"), **_tpm_parts(quote, "signature")}
    if "vcek" in inner:
        parts.add(found, _base64(inner["vcek"], "vcek"))
    if "td_quote" in inner:
        found.named["td_quote"] = _base64(inner["td_quote"], "td_quote")
    return Intake(Evidence(kind, _base64(inner.get("hcl_report"), "hcl_report")))


def _tpm_parts(quote: Mapping[str, Any], name: str) -> dict[str, bytes]:
    pcrs = quote.get("pcrs")
    if not isinstance(pcrs, list) or len(pcrs) > 64:
        raise UNREADABLE(expected="a list of PCR values", found=type(pcrs).__name__)
    return {name: _hex(quote.get("signature"), "signature"), "pcrs": b"".join(_hex(v, "PCR") for v in pcrs)}


def _of_device(value: Mapping[str, Any], found: Parts) -> Intake:
    chain = _base64(value.get("certificate"), "certificate")
    parts.add(found, chain)
    switch = value.get("arch") == "LS10"
    return Intake(Evidence("nvidia-switch" if switch else "nvidia-gpu", _base64(value.get("evidence"), "evidence")))


def _of_scale(blob: bytes, found: Parts) -> Intake:
    """dstack's wrapper: version 0, variant, compact length, evidence; certificates or a log follow."""
    size, start = _compact(blob, 2)
    kind = _SCALE_KINDS.get(blob[1]) if len(blob) > 2 and blob[0] == 0 else None
    if kind is None or start + size > len(blob):
        raise UNREADABLE(expected="a dstack attestation, version 0", found=blob[:4].hex())
    rest = blob[start + size :]
    if kind == "snp":
        for block in re.findall(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----", rest[:65536]):
            parts.add(found, block)
    if kind == "dstack":
        found.named["event_log"] = _scale_log(rest)
    return Intake(Evidence(kind, blob[start : start + size]))


def _scale_log(data: bytes) -> bytes:
    """The events of a dstack attestation as a JSON log: register, type, digest, name, payload."""
    count, at = _compact(data, 0)
    events: list[dict[str, Any]] = []
    if count > 4096:
        raise UNREADABLE(expected="at most 4096 events", found=str(count))
    for _ in range(count):
        register, kind = int.from_bytes(data[at : at + 4], "little"), int.from_bytes(data[at + 4 : at + 8], "little")
        at, fields = at + 8, []
        for _ in range(3):
            size, start = _compact(data, at)
            if start + size > len(data):
                raise UNREADABLE(expected="an event log of the declared size", found="a shorter one")
            fields.append(data[start : start + size])
            at = start + size
        digest, name, payload = fields
        text = name.decode("utf-8", "replace")
        events.append(
            {"imr": register, "event_type": kind, "digest": digest.hex(), "event": text, "event_payload": payload.hex()}
        )
    return json.dumps(events).encode()


def _compact(data: bytes, at: int) -> tuple[int, int]:
    """A SCALE compact integer of up to four bytes: (value, where it ends)."""
    if at >= len(data):
        raise UNREADABLE(expected="a length", found="the end")
    width = {0: 1, 1: 2, 2: 4}.get(data[at] & 3)
    if width is None or at + width > len(data):
        raise UNREADABLE(expected="a length of at most four bytes", found=data[at : at + 4].hex())
    return int.from_bytes(data[at : at + width], "little") >> 2, at + width


def _complete(evidence: Evidence, found: Parts) -> Evidence:
    """The evidence with the parts of its kind, those it brought itself first."""
    wanted = _beside(evidence, found)
    return replace(evidence, aux={**wanted, **evidence.aux})


def _beside(evidence: Evidence, found: Parts) -> dict[str, bytes]:
    kind = evidence.kind
    log = {"event_log": found.binary_log} if found.binary_log else {}
    if kind in _DCAP:
        logs = {n: found.named[n] for n in ("event_log",) if n in found.named and kind == "dstack"}
        return {**parts.dcap_collateral(found, evidence.blob), **(log if kind == "tdx" else {}), **logs}
    if kind == "snp":
        return parts.amd_chain(found)
    if kind.startswith("azure-"):
        return _azure_parts(kind, found)
    if kind == "tpm":
        return _tpm_beside(found)
    if kind.startswith("nvidia-"):
        chain = {"chain": parts.pem_chain(found.certificates)} if found.certificates else {}
        mode = {"mode": found.named["mode"]} if "mode" in found.named else {}
        answers = {"ocsp": b"".join(found.answers)} if found.answers else {}
        return {**chain, **parts.device_manifests(found), **answers, **mode}
    return {}


def _azure_parts(kind: str, found: Parts) -> dict[str, bytes]:
    names = ("quote", "signature", "pcrs", "report_data", "td_quote")
    tpm = {name: found.named[name] for name in names if name in found.named}
    log = {"event_log": found.binary_log} if found.binary_log else {}
    if kind == "azure-snp":
        return {**tpm, **log, **parts.amd_chain(found)}
    return {**tpm, **log, **parts.dcap_collateral(found, tpm.get("td_quote", b""))}


def _tpm_beside(found: Parts) -> dict[str, bytes]:
    names = ("signature", "pcrs", "ak", "report_data", "ek_chain", "ak_chain")
    wanted = {name: found.named[name] for name in names if name in found.named}
    if found.binary_log:
        wanted["event_log"] = found.binary_log
    if found.signature:
        wanted.setdefault("signature", found.signature)
    if found.certificates and not {"ek_chain", "ak_chain"} & set(wanted):
        wanted["ek_chain" if "ak" in wanted else "ak_chain"] = parts.pem_chain(found.certificates)
    return wanted


def _is_hex(text: object) -> bool:
    return isinstance(text, str) and re.fullmatch(r"(?:0x)?(?:[0-9a-fA-F]{2})+", text) is not None


def _hex(text: object, name: str) -> bytes:
    if not isinstance(text, str) or len(text) > MAX_FILE or not _is_hex(text):
        raise UNREADABLE(expected=f"{name} in hex", found=type(text).__name__)
    return bytes.fromhex(text.removeprefix("0x"))


def _base64(text: object, name: str) -> bytes:
    if not isinstance(text, str) or not 0 < len(text) <= MAX_FILE:
        raise UNREADABLE(expected=f"{name} in base64", found=type(text).__name__)
    plain_text = text.replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(plain_text + "=" * (-len(plain_text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise UNREADABLE(expected=f"{name} in base64", found="another text") from None
