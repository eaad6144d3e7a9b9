"""X.509 chains as the vendors use them, root first (RFC 5280 6.1, cut down to what these chains need).

No name constraints, no policies: a chain here is short, starts at a pinned root, and each step is checked for
issuer name and signature, dates, certificate rights and path length.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.utils import CryptographyDeprecationWarning

from cloister.core.attestation.refusals import BAD_CERTIFICATE, MALFORMED, OUT_OF_DATE, REVOKED, fail_closed

MAX_CERTIFICATE: Final = 8192
MAX_CHAIN: Final = 8
MAX_CRL: Final = 65536
STRONG: Final = (hashes.SHA384,)
COMMON: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
Digests = tuple[type[hashes.HashAlgorithm], ...]
# No "-" between: a dash would let each BEGIN without an END search to the end of the text, in quadratic time.
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")


def load(der: bytes, name: str) -> x509.Certificate:
    """One DER certificate of at most 8 KiB. Raises AttestationError (attestation.malformed)."""
    if not isinstance(der, bytes) or not 0 < len(der) <= MAX_CERTIFICATE:
        raise MALFORMED(expected=f"{name} certificate of 1 to {MAX_CERTIFICATE} bytes", found="another size")
    try:
        with warnings.catch_warnings():  # AMD numbers every VCEK 0
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            return _whole(x509.load_der_x509_certificate(der))
    except Exception as error:
        raise MALFORMED(expected=f"{name} certificate in DER", found=type(error).__name__) from None


def load_pem_chain(text: bytes, name: str) -> list[x509.Certificate]:
    """The certificates of a PEM text, in order. Raises AttestationError if there are none or more than 8."""
    blocks = _PEM.findall(text)
    if not 0 < len(blocks) <= MAX_CHAIN:
        raise MALFORMED(expected=f"1 to {MAX_CHAIN} certificates in {name}", found=str(len(blocks)))
    try:
        return [_whole(x509.load_pem_x509_certificate(block)) for block in blocks]
    except Exception as error:
        raise MALFORMED(expected=f"{name} in PEM", found=type(error).__name__) from None


def _whole(certificate: x509.Certificate) -> x509.Certificate:
    """The library reads names late, and raises its own error then; so they are read where errors are caught.

    A signature is whole bytes. The library lets a count of unused bits pass that says otherwise: a second spelling."""
    _ = certificate.subject, certificate.issuer
    if certificate.public_bytes(Encoding.DER)[-len(certificate.signature) - 1] != 0:
        raise ValueError("a signature with unused bits")
    return certificate


def need_valid_at(certificate: x509.Certificate, now: int) -> int:
    """Check notBefore <= now <= notAfter (Unix seconds); returns notAfter. Raises attestation.expired."""
    start = int(certificate.not_valid_before_utc.timestamp())
    end = int(certificate.not_valid_after_utc.timestamp())
    if not start <= now <= end:
        raise OUT_OF_DATE(expected=f"{_name(certificate)} valid from {start} to {end}", found=str(now))
    return end


def need_ca(certificate: x509.Certificate, below: int) -> None:
    """Check that it may issue with ``below`` further CA certificates under it. Raises attestation.certificate."""
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound as error:
        raise BAD_CERTIFICATE(expected=f"{_name(certificate)} marked as an authority", found=str(error)) from None
    room = basic.path_length is None or basic.path_length >= below
    if not (basic.ca and usage.key_cert_sign and room):
        raise BAD_CERTIFICATE(expected=f"{_name(certificate)} may issue {below} levels", found="it may not")


def need_issued(certificate: x509.Certificate, issuer: x509.Certificate, digests: Digests = STRONG) -> None:
    """Check issuer name and signature over one of ``digests``. Raises attestation.certificate."""
    if not isinstance(certificate.signature_hash_algorithm, digests):
        allowed = " or ".join(digest.__name__ for digest in digests)
        raise BAD_CERTIFICATE(expected=f"{_name(certificate)} signed over {allowed}", found="another hash")
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError) as error:
        expected = f"{_name(certificate)} issued by {_name(issuer)}"
        raise BAD_CERTIFICATE(expected=expected, found=type(error).__name__) from None


@lru_cache(maxsize=256)
@fail_closed  # extensions, too, are read late
def linked(chain: tuple[bytes, ...], digests: Digests = STRONG) -> tuple[x509.Certificate, ...]:
    """A chain in DER, root first, checked in all that does not depend on the time; a few are remembered.

    Dates and the root are the caller's checks: the root first, so that nobody else's chains are remembered.
    Raises AttestationError (attestation.malformed, attestation.certificate).
    """
    if not 2 <= len(chain) <= MAX_CHAIN:
        raise BAD_CERTIFICATE(expected=f"a chain of 2 to {MAX_CHAIN}", found=str(len(chain)))
    loaded = tuple(load(der, "chain") for der in chain)
    _need_rights(loaded)
    for certificate, issuer in zip(chain, (chain[0], *chain[:-1]), strict=True):
        _link(certificate, issuer, digests)
    return loaded


@lru_cache(maxsize=512)
def _link(certificate: bytes, issuer: bytes, digests: Digests) -> None:
    """``need_issued`` of two certificates in DER, remembered: a new leaf under known authorities costs one signature.

    Only links that hold are remembered, and dates are no part of a link."""
    need_issued(load(certificate, "chain"), load(issuer, "chain"), digests)


def _need_rights(chain: Sequence[x509.Certificate]) -> None:
    issuers, leaf = chain[:-1], chain[-1]
    for place, issuer in enumerate(issuers):
        need_ca(issuer, below=len(issuers) - place - 1)
    _need_leaf(leaf)


def need_not_revoked(der: bytes, chain: Sequence[x509.Certificate], now: int) -> int:
    """Check a chain, root first, against one revocation list in DER; returns the last second at which the list counts.

    The list must be signed by an authority of the chain; it judges what that authority issued. Raises
    attestation.malformed, attestation.certificate, attestation.expired, attestation.revoked.
    """
    revoked = _load_crl(der)
    issuers = [place for place, one in enumerate(chain[:-1]) if one.subject == revoked.issuer]
    if not issuers or not revoked.is_signature_valid(chain[issuers[0]].public_key()):  # type: ignore[arg-type]
        raise BAD_CERTIFICATE(expected="a revocation list signed by an authority of the chain", found="another")
    start, end = revoked.last_update_utc, revoked.next_update_utc
    if end is None or not int(start.timestamp()) <= now < int(end.timestamp()):
        raise OUT_OF_DATE(expected=f"a revocation list valid from {start} to {end}", found=str(now))
    subject = chain[issuers[0] + 1]
    if revoked.get_revoked_certificate_by_serial_number(subject.serial_number) is not None:
        raise REVOKED(expected=f"{_name(subject)} not revoked", found="revoked")
    return int(end.timestamp()) - 1


def _load_crl(der: bytes) -> x509.CertificateRevocationList:
    if not isinstance(der, bytes) or not 0 < len(der) <= MAX_CRL:
        raise MALFORMED(expected=f"a revocation list of 1 to {MAX_CRL} bytes", found="another size")
    try:
        made = x509.load_der_x509_crl(der)
        _ = made.issuer, made.last_update_utc, made.next_update_utc
    except Exception as error:
        raise MALFORMED(expected="a revocation list in DER", found=type(error).__name__) from None
    return made


def need_p384(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """The certificate's P-384 key. Raises attestation.certificate for any other key."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise BAD_CERTIFICATE(expected=f"{_name(certificate)} holds a P-384 key", found=type(key).__name__)
    return key


def common_name(certificate: x509.Certificate) -> str:
    """The subject's only common name, or "" if there is not exactly one."""
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""


def _need_leaf(leaf: x509.Certificate) -> None:
    basic = [e.value for e in leaf.extensions if isinstance(e.value, x509.BasicConstraints)]
    if any(b.ca for b in basic):
        raise BAD_CERTIFICATE(expected=f"{_name(leaf)} is no authority", found="it is one")


def _name(certificate: x509.Certificate) -> str:
    return common_name(certificate)[:64] or "a certificate"
