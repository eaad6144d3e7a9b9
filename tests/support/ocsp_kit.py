"""The OCSP service of the pretend NVIDIA: answers about certificates of ``nvidia_kit``, honest or not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloister.core.attestation import nvidia, rim
from cloister.core.attestation.certificates import common_name, load_pem_chain
from cloister.core.attestation.model import Evidence
from cloister.devnet.tee.x509build import DAY, moment
from support.hardware import NOW
from support.nvidia_kit import key

Pair = tuple[x509.Certificate, x509.Certificate]
GOOD, REVOKED, UNKNOWN = ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED, ocsp.OCSPCertStatus.UNKNOWN


def pairs_of(evidence: Evidence) -> list[Pair]:
    """(certificate, issuer) that the vendor answers for."""
    chain = load_pem_chain(evidence.aux["chain"], "chain")[::-1]
    names = sorted({"driver_rim", "vbios_rim"} & set(evidence.aux))
    return nvidia.issued_by_vendor(chain, [rim.signers(evidence.aux[name]) for name in names])


@cache
def responder(
    issuer: x509.Certificate,
    purposes: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.OCSP_SIGNING,),
    start: int = NOW - DAY,
    end: int = NOW + 30 * DAY,
    signer: str = "",
) -> x509.Certificate:
    """A responder's certificate under an authority. ``signer``: another key that signs it."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pretend OCSP responder")]))
        .issuer_name(issuer.subject)
        .public_key(key("OCSP responder").public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment(start))
        .not_valid_after(moment(end))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    if purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    return builder.sign(key(signer or common_name(issuer)), hashes.SHA384())


def answer(
    pair: Pair,
    *,
    status: ocsp.OCSPCertStatus = GOOD,
    reason: x509.ReasonFlags | None = None,
    start: int = NOW - 60,
    end: int | None = NOW + DAY,
    algorithm: Any = None,
    by_issuer: bool = False,
    certificate: x509.Certificate | None = None,
    digest: Any = None,
    by_name: bool = False,
    issuer: x509.Certificate | None = None,
    show: bool = True,
) -> bytes:
    """One answer in DER. Defaults are honest: a responder of the issuer, good, for a day."""
    subject, authority = pair
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=subject,
        issuer=issuer or authority,
        algorithm=algorithm or hashes.SHA384(),
        cert_status=status,
        this_update=moment(start),
        next_update=None if end is None else moment(end),
        revocation_time=moment(start) if status is REVOKED else None,
        revocation_reason=reason,
    )
    who = authority if by_issuer else certificate or responder(authority)
    encoding = ocsp.OCSPResponderEncoding.NAME if by_name else ocsp.OCSPResponderEncoding.HASH
    builder = builder.responder_id(encoding, who)
    if show and not by_issuer:
        builder = builder.certificates([who])
    signer = key(common_name(authority)) if by_issuer else key("OCSP responder")
    return builder.sign(signer, digest or hashes.SHA384()).public_bytes(Encoding.DER)


def answers(pairs: Sequence[Pair], **changes: Any) -> bytes:
    """Answers about all of them."""
    return b"".join(answer(pair, **changes) for pair in pairs)


def refusal(status: ocsp.OCSPResponseStatus = ocsp.OCSPResponseStatus.TRY_LATER) -> bytes:
    """An answer that is none."""
    return ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)
