"""OCSP answers that travel with evidence: signed, about a certificate of it, of this time, good (RFC 6960; spec 11.8).

An answer counts only under the authority that issued the certificate in question: it signed the answer itself, or it
issued the responder's certificate for that purpose. The authority's own chain to a pinned root is the caller's check.
Nobody's nonce is in an answer that travels: dates alone say how fresh it is.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from cloister.core.attestation.certificates import COMMON, common_name, load, need_issued, need_valid_at
from cloister.core.attestation.refusals import MALFORMED, OUT_OF_DATE, REVOKED
from cloister.core.errors import AttestationError, define

MAX_ANSWERS: Final = 16
MAX_ANSWER: Final = 8192
MAX_CERTIFICATES: Final = 4
MAX_SINGLE: Final = 4
MAX_SKEW_S: Final = 60
MAX_AGE_S: Final = 7 * 86400
NO_END_S: Final = 86400
Pair = tuple[x509.Certificate, x509.Certificate]

BAD_OCSP = define(
    "attestation.ocsp",
    AttestationError,
    check="each OCSP answer is signed for the authority of a certificate of this very evidence",
    remedy="ask the vendor's OCSP service again for the certificates of this evidence",
)
ON_HOLD = define(
    "attestation.on_hold",
    AttestationError,
    check="no certificate of the chain is on hold",
    remedy="the vendor suspended the key: ask the vendor, or use another device until the hold ends",
    status=403,
)
UNKNOWN = define(
    "attestation.revocation_unknown",
    AttestationError,
    check="the vendor's OCSP service knows every certificate that it is asked about",
    remedy="ask the service of this certificate's own vendor",
    status=403,
)


def check(answers: bytes, pairs: Sequence[Pair], now: int) -> tuple[frozenset[int], int]:
    """Which of ``pairs`` (certificate, its issuer) have a good answer, and the last second at which all answers count.

    Args: answers (OCSP responses in DER, one behind another: 1 to 16), now (Unix seconds). An answer about none of the
    pairs is refused: it was swapped. Raises attestation.ocsp, .revoked, .on_hold, .revocation_unknown, .expired,
    .certificate, .malformed.
    """
    covered: set[int] = set()
    ends: list[int] = []
    for data in split(answers):
        for place, single in _about(data, pairs):
            signer = _signed(data, pairs[place][1].public_bytes(Encoding.DER))
            ends.append(need_valid_at(load(signer, "the responder's"), now))
            ends.append(_judge(single, pairs[place][0], now))
            covered.add(place)
    return frozenset(covered), min(ends)


def split(data: bytes) -> list[bytes]:
    """A run of 1 to 16 DER sequences, of at most 8 KiB each, to the last byte. Raises attestation.malformed."""
    found: list[bytes] = []
    at = 0
    while at < len(data) and len(found) <= MAX_ANSWERS:
        end = at + _length(data[at : at + 4])
        found.append(data[at:end])
        at = end
    if at != len(data) or not 0 < len(found) <= MAX_ANSWERS or any(len(one) > MAX_ANSWER for one in found):
        raise MALFORMED(expected=f"1 to {MAX_ANSWERS} OCSP answers", found=f"{len(found)} in {len(data)} bytes")
    return found


def is_answer(data: bytes) -> bool:
    """Whether bytes begin like a successful OCSP response: SEQUENCE, then ENUMERATED 0. For telling files apart."""
    start = 2 + (data[1] & 0x7F if data[1:2] >= b"\x80" else 0)
    return data[:1] == b"\x30" and data[start : start + 3] == b"\x0a\x01\x00"


def _length(head: bytes) -> int:
    """Size of a DER SEQUENCE with its head; 1 << 20 for anything else."""
    if len(head) < 2 or head[0] != 0x30:
        return 1 << 20
    if head[1] < 0x80:
        return 2 + head[1]
    if head[1] == 0x81 and len(head) > 2 and head[2] >= 0x80:
        return 3 + head[2]
    if head[1] == 0x82 and len(head) > 3 and head[2]:
        return 4 + int.from_bytes(head[2:4], "big")
    return 1 << 20


def _about(data: bytes, pairs: Sequence[Pair]) -> list[tuple[int, Any]]:
    """The places of the certificates that an answer is about, with what it says of each."""
    try:
        answer = ocsp.load_der_ocsp_response(data)
        if answer.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise BAD_OCSP(expected="a successful answer", found=answer.response_status.name.lower())
        singles = list(answer.responses)
    except (ValueError, TypeError) as error:
        raise MALFORMED(expected="an OCSP answer", found=type(error).__name__) from None
    if not 0 < len(singles) <= MAX_SINGLE:
        raise BAD_OCSP(expected=f"an answer about 1 to {MAX_SINGLE} certificates", found=str(len(singles)))
    found = [(place, single) for single in singles for place, pair in enumerate(pairs) if _names(single, pair)]
    if len({id(single) for _, single in found}) != len(singles):
        raise BAD_OCSP(expected="an answer about a certificate of this evidence", found=f"serial {_serials(singles)}")
    return found


def _serials(singles: Sequence[Any]) -> str:
    return ", ".join(f"{single.serial_number:x}"[:24] for single in singles)


def _names(single: Any, pair: Pair) -> bool:
    certificate, issuer = pair
    if single.serial_number != certificate.serial_number or single.hash_algorithm.name not in (
        "sha1",
        "sha256",
        "sha384",
    ):
        return False
    name, key = (
        hashlib.new(single.hash_algorithm.name, part).digest()
        for part in (issuer.subject.public_bytes(), _bits(issuer))
    )
    return hmac.compare_digest(name, single.issuer_name_hash) and hmac.compare_digest(key, single.issuer_key_hash)


def _bits(certificate: x509.Certificate) -> bytes:
    """The content of the public key's bit string."""
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    if isinstance(key, rsa.RSAPublicKey):
        return key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    raise BAD_OCSP(expected="an authority with an EC or RSA key", found=type(key).__name__)


def _judge(single: Any, certificate: x509.Certificate, now: int) -> int:
    """1. dates; 2. status. Returns the last second at which it counts."""
    name = common_name(certificate)[:48] or "a certificate"
    start = int(single.this_update_utc.timestamp())
    until = single.next_update_utc
    end = min(start + MAX_AGE_S, start + NO_END_S if until is None else int(until.timestamp()) - 1)
    if not start - MAX_SKEW_S <= now <= end:  # 1
        raise OUT_OF_DATE(expected=f"an OCSP answer about {name} valid from {start} to {end}", found=str(now))
    status = single.certificate_status  # 2
    if status is ocsp.OCSPCertStatus.GOOD:
        return end
    if status is not ocsp.OCSPCertStatus.REVOKED:
        raise UNKNOWN(expected=f"{name} known to its vendor", found="unknown")
    reason = single.revocation_reason
    if reason is x509.ReasonFlags.certificate_hold:
        raise ON_HOLD(expected=f"{name} not on hold", found="on hold")
    raise REVOKED(expected=f"{name} not revoked", found=f"revoked: {reason.value}" if reason else "revoked")


@lru_cache(maxsize=64)
def _signed(data: bytes, issuer_der: bytes) -> bytes:
    """The signer's certificate (DER), if it may speak for this issuer and signed the answer. Time is not judged here.

    1. the issuer itself, or the first certificate inside, issued by it for OCSP; 2. the answer names that signer; 3.
    its signature.
    """
    answer, issuer = ocsp.load_der_ocsp_response(data), load(issuer_der, "the issuer's")
    inside = answer.certificates
    if len(inside) > MAX_CERTIFICATES:
        raise BAD_OCSP(expected=f"at most {MAX_CERTIFICATES} certificates in an answer", found=str(len(inside)))
    signer = inside[0] if inside else issuer
    if signer != issuer:  # 1
        need_issued(signer, issuer, COMMON)
        _need_responder(signer)
    named = answer.responder_name == signer.subject or answer.responder_key_hash == hashlib.sha1(_bits(signer)).digest()  # noqa: S324 - an identifier of RFC 6960 4.2.1, not a proof
    if not named:  # 2
        raise BAD_OCSP(expected="an answer that names its signer", found="another responder")
    _need_signature(answer, signer.public_key())  # 3
    return signer.public_bytes(Encoding.DER)


def _need_responder(signer: x509.Certificate) -> None:
    try:
        purposes = list(signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        purposes = []
    if purposes != [ExtendedKeyUsageOID.OCSP_SIGNING]:
        raise BAD_OCSP(expected="a responder certified for OCSP and nothing else", found=f"{len(purposes)} purposes")


def _need_signature(answer: ocsp.OCSPResponse, key: object) -> None:
    digest = answer.signature_hash_algorithm
    if not isinstance(digest, (hashes.SHA256, hashes.SHA384, hashes.SHA512)):
        raise BAD_OCSP(expected="a signature over SHA-256 or stronger", found="another hash")
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(answer.signature, answer.tbs_response_bytes, ec.ECDSA(digest))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(answer.signature, answer.tbs_response_bytes, padding.PKCS1v15(), digest)
        else:
            raise BAD_OCSP(expected="a responder with an EC or RSA key", found=type(key).__name__)
    except InvalidSignature:
        raise BAD_OCSP(expected="the responder's signature over the answer", found="none") from None
