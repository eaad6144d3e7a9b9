"""What lies beside evidence: certificates, collateral, revocation lists, logs and manifests, told apart by content.

Nothing here is believed: a kind's verifier checks every part. A part that fits nowhere is a refusal, so that a wrong
file is noticed. PCS replies are kept as the exact text that Intel signed; JSON is never written again.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning
from dcap_qvl import parse_quote

from cloister.core.attestation import dcap, eventlog, ocsp
from cloister.core.attestation.certificates import common_name, load, load_pem_chain
from cloister.core.encoding.hexes import from_hex
from cloister.core.errors import CloisterError, EncodingError, define

MAX_PART: Final = 1 << 20
MAX_PARTS: Final = 32
MAX_CERTIFICATES: Final = 32
_PEM: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,32})-----[^-]+-----END \1-----")
_VERSION: Final = re.compile(rb'colloquialVersion="([0-9A-Fa-f.]{1,32})"')
_TCB_SIGNER: Final = "Intel SGX TCB Signing"

UNREADABLE = define(
    "attestation.input",
    EncodingError,
    check="the file holds evidence, or something that belongs beside it, in a form that this program reads",
    remedy="give the evidence as raw bytes, hex, base64 or JSON, and each part beside it with --collateral",
)


@dataclass(slots=True)
class Parts:
    """What was found, in the order of the files. ``named``: parts that said themselves what they are."""

    named: dict[str, bytes] = field(default_factory=dict)
    certificates: list[x509.Certificate] = field(default_factory=list)
    revocations: list[bytes] = field(default_factory=list)
    replies: dict[str, tuple[str, str]] = field(default_factory=dict)
    manifests: list[bytes] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    binary_log: bytes | None = None
    signature: bytes | None = None


def add(parts: Parts, data: bytes) -> None:
    """Sort one file of at most 1 MiB into ``parts``. Raises EncodingError (attestation.input)."""
    if not 0 < len(data) <= MAX_PART:
        raise UNREADABLE(expected=f"a part of 1 to {MAX_PART} bytes", found=f"{len(data)} bytes")
    text = data.strip()
    if text[:1] in (b"{", b"["):
        _add_json(parts, text)
    elif _PEM.search(text):
        _add_pem(parts, text)
    elif text[:1] == b"<":
        parts.manifests.append(data)
    elif ocsp.is_answer(data):
        parts.answers.append(data)
    elif data[:1] == b"\x30":
        _add_der(parts, data)
    elif eventlog.SIGNATURE in data[:64]:
        parts.binary_log = data
    elif re.fullmatch(rb"(?:0x)?[0-9a-fA-F]+", text) and len(text) % 2 == 0:
        add(parts, bytes.fromhex(text.decode().removeprefix("0x")))
    elif len(data) in (256, 384, 512):
        parts.signature = data
    else:
        raise UNREADABLE(
            expected="a certificate, collateral, CRL, OCSP answer, log or manifest", found=f"{len(data)} other bytes"
        )


def add_certificate(parts: Parts, certificate: x509.Certificate) -> None:
    """Keep one certificate. Raises EncodingError if there are over 32."""
    if len(parts.certificates) >= MAX_CERTIFICATES:
        raise UNREADABLE(expected=f"at most {MAX_CERTIFICATES} certificates", found="more")
    parts.certificates.append(certificate)


def amd_chain(parts: Parts) -> dict[str, bytes]:
    """The SNP parts: "vek", then the authority that issued it, then that one's, and a revocation list of theirs."""
    chosen = [c for c in parts.certificates if common_name(c) in ("SEV-VCEK", "SEV-VLEK")][:1]
    found = {"vek": to_der(chosen[0])} if chosen else {}
    for name, prefix in (("intermediate", "SEV-"), ("ark", "ARK-")):
        known = [c for c in parts.certificates if common_name(c).startswith(prefix) and c not in chosen]
        issuer = chosen[-1].issuer if chosen else None
        # What fits comes first; what does not is still shown to the verifier, which names the misfit.
        for one in sorted(known, key=lambda c: c.subject != issuer)[:1]:
            found[name], chosen = to_der(one), [*chosen, one]
    if parts.revocations:
        found["crl"] = _fitting_crl(parts.revocations, chosen)
    return found | {k: v for k, v in parts.named.items() if k in ("vek", "intermediate", "ark", "crl")}


def dcap_collateral(parts: Parts, quote: bytes) -> dict[str, bytes]:
    """The DCAP collateral as given, or put together from raw PCS replies; empty if there is none of it."""
    if "collateral" in parts.named:
        return {"collateral": parts.named["collateral"]}
    fields = {**_replied(parts), **_crls(parts)}
    if not fields:
        return {}
    given = parts.certificates
    signers = [c for c in given if common_name(c) == _TCB_SIGNER] + [c for c in given if c.issuer == c.subject]
    if signers and len(signers) > 1:
        chain = _pem(dict.fromkeys(signers))
        fields |= {"tcb_info_issuer_chain": chain, "qe_identity_issuer_chain": chain}
    fields["pck_crl_issuer_chain"] = _pck_issuers(quote)
    return {"collateral": json.dumps(fields).encode()}


def pem_chain(certificates: Sequence[x509.Certificate]) -> bytes:
    """PEM, leaf first: the one that issued no other, then upwards. Certificates that do not fit come last."""
    left = list(dict.fromkeys(certificates))
    issuers = [c.issuer for c in left if c.issuer != c.subject]
    chain = [c for c in left if c.subject not in issuers][:1]
    while chain:
        following = [c for c in left if c not in chain and c.subject == chain[-1].issuer][:1]
        if not following:
            break
        chain += following
    return _pem([*chain, *(c for c in left if c not in chain)]).encode()


def device_manifests(parts: Parts) -> dict[str, bytes]:
    """Manifests by what their version looks like: five pairs are a VBIOS, fewer numbers a driver."""
    found: dict[str, bytes] = {}
    for data in parts.manifests:
        version = _VERSION.search(data)
        found["vbios_rim" if version and version[1].count(b".") == 4 else "driver_rim"] = data
    return found


def pcs_reply(text: str) -> tuple[str, str, str]:
    """(field, signed text, signature) of a PCS reply about TCB info or an enclave identity.

    The signed bytes are the exact slice of the reply. Raises EncodingError (attestation.input).
    """
    names = {"tcbInfo": "tcb_info", "enclaveIdentity": "qe_identity"}
    found = re.match(r'\{\s*"(tcbInfo|enclaveIdentity)"\s*:\s*', text)
    if not found:
        raise UNREADABLE(expected="a PCS reply", found="other JSON")
    try:
        _, end = json.JSONDecoder().raw_decode(text, found.end())
        rest = json.loads("{" + text[end:].lstrip().removeprefix(","))
    except (ValueError, RecursionError):
        raise UNREADABLE(expected="a PCS reply", found="broken JSON") from None
    signature = rest.get("signature")
    if not isinstance(signature, str) or len(signature) > 256:
        raise UNREADABLE(expected="a PCS reply with a signature", found=type(signature).__name__)
    return names[found[1]], text[found.end() : end], signature


def _add_json(parts: Parts, text: bytes) -> None:
    value = load_json(text)
    if isinstance(value, list):
        parts.named["event_log"] = text
    elif set(value) >= dcap.FIELDS:
        parts.named["collateral"] = text
    elif {"tcbInfo"} <= set(value) or {"enclaveIdentity"} <= set(value):
        name, signed, signature = pcs_reply(text.decode("utf-8"))
        parts.replies[name] = (signed, signature)
    elif set(value) <= {"cc", "devtools"}:
        parts.named["mode"] = text
    elif value and all(isinstance(v, str) and v.startswith("0x") for v in value.values()) and len(value) <= 16:
        parts.named |= {str(k)[:64]: from_hex(v, name=str(k)[:64], max_size=MAX_PART) for k, v in value.items()}
    else:
        raise UNREADABLE(expected="collateral, a PCS reply, a log or named parts", found="other JSON")


def load_json(text: bytes) -> Any:
    """JSON of UTF-8 text, an object or a list. Raises EncodingError (attestation.input)."""
    try:
        value = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UNREADABLE(expected="JSON", found=type(error).__name__) from None
    if not isinstance(value, (dict, list)):
        raise UNREADABLE(expected="a JSON object or list", found=type(value).__name__)
    return value


def _add_pem(parts: Parts, text: bytes) -> None:
    for block in _PEM.finditer(text):
        if block[1] == b"CERTIFICATE":
            add_certificate(parts, _loaded(block[0]))
        elif block[1] == b"X509 CRL":
            parts.revocations.append(_crl(block[0]).public_bytes(Encoding.DER))
        else:
            raise UNREADABLE(expected="certificates and CRLs in PEM", found=block[1].decode())


def _loaded(block: bytes) -> x509.Certificate:
    try:
        with warnings.catch_warnings():  # AMD numbers every VCEK 0
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            return load_pem_chain(block, "the file")[0]
    except CloisterError as error:
        raise UNREADABLE(expected="a certificate", found=error.found) from None


def _add_der(parts: Parts, data: bytes) -> None:
    try:
        add_certificate(parts, load(data, "the"))
        return
    except CloisterError as error:
        if isinstance(error, EncodingError):
            raise
    try:
        parts.revocations.append(_crl(data).public_bytes(Encoding.DER))
    except EncodingError:
        if len(data) > 512:
            raise
        parts.signature = data  # a DER signature


def _crl(data: bytes) -> x509.CertificateRevocationList:
    try:
        made = x509.load_pem_x509_crl(data) if data[:1] == b"-" else x509.load_der_x509_crl(data)
        _ = made.issuer  # the library reads it late
        return made
    except Exception as error:
        raise UNREADABLE(expected="a certificate or CRL", found=type(error).__name__) from None


def _fitting_crl(revocations: Sequence[bytes], chain: Sequence[x509.Certificate]) -> bytes:
    names = [c.subject for c in chain]
    fitting = [one for one in revocations if _crl(one).issuer in names]
    return (fitting or list(revocations))[0]


def _replied(parts: Parts) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, (signed, signature) in parts.replies.items():
        fields |= {name: signed, f"{name}_signature": signature}
    return fields


def _crls(parts: Parts) -> dict[str, str]:
    fields: dict[str, str] = {}
    for one in parts.revocations:
        names = _crl(one).issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        root = any("Root" in str(name.value) for name in names)
        fields["root_ca_crl" if root else "pck_crl"] = one.hex()
    return fields


def _pck_issuers(quote: bytes) -> str:
    """The certificates above the PCK, as the quote brings them; empty if it brings none."""
    try:
        chain = bytes(parse_quote(quote).cert_chain_pem_bytes() or b"")
    except Exception:
        return ""
    return "\n".join(block[0].decode() for block in list(_PEM.finditer(chain))[1:]) + "\n"


def to_der(certificate: x509.Certificate) -> bytes:
    """DER of a certificate."""
    return certificate.public_bytes(Encoding.DER)


def _pem(certificates: Sequence[x509.Certificate] | dict[x509.Certificate, None]) -> str:
    return "".join(one.public_bytes(Encoding.PEM).decode() for one in certificates)
