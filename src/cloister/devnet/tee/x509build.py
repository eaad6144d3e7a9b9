"""Certificates and revocation lists in the shapes of the vendors, and the little DER that their extensions need."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

ORGANISATION = "Cloister devnet (simulated hardware)"
DAY = 86400
PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who signs: name, key, and the certificate that goes into chains."""

    certificate: x509.Certificate
    key: PrivateKey

    @property
    def der(self) -> bytes:
        """The certificate in DER."""
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> str:
        """The certificate in PEM."""
        return self.certificate.public_bytes(Encoding.PEM).decode()


def name(common: str) -> x509.Name:
    """A subject that says what it is."""
    return x509.Name(
        [
            x509.NameAttribute(x509.NameOID.COMMON_NAME, common),
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, ORGANISATION),
        ]
    )


def certificate(
    common: str,
    key: PublicKey,
    issuer: Issuer | PrivateKey,
    *,
    start: int,
    end: int,
    authority: int | None = None,
    root: bool = False,
    extensions: Sequence[tuple[str, bytes]] = (),
    digest: hashes.SHA256 | hashes.SHA384,
) -> x509.Certificate:
    """One certificate, valid from ``start`` to ``end`` (Unix seconds).

    ``issuer``: a bare key makes a self-signed one. ``authority``: path length of an authority (None: a leaf; a root
    has no limit). ``extensions``: (OID, raw value) pairs. RSA issuers sign with PSS and a 48-byte salt.
    """
    is_authority = root or authority is not None
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(common))
        .issuer_name(issuer.certificate.subject if isinstance(issuer, Issuer) else name(common))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment(start))
        .not_valid_after(moment(end))
        .add_extension(_usage(is_authority), critical=True)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )
    for oid, raw in extensions:
        builder = builder.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), raw), critical=False)
    signer = issuer.key if isinstance(issuer, Issuer) else issuer
    if isinstance(signer, rsa.RSAPrivateKey):
        return builder.sign(signer, digest, rsa_padding=padding.PSS(padding.MGF1(digest), 48))
    return builder.sign(signer, digest)


def revocation_list(issuer: Issuer, start: int, end: int, revoked: Sequence[int] = ()) -> bytes:
    """A CRL in DER over these serial numbers, valid from ``start`` to ``end``."""
    identifier = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(moment(start))
        .next_update(moment(end))
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    )
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment(start)).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(Encoding.DER)


def moment(seconds: int) -> datetime.datetime:
    """Unix seconds as UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def der(tag: int, content: bytes) -> bytes:
    """One DER value (X.690 8.1): tag, length, content."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content


def der_integer(value: int) -> bytes:
    """INTEGER, not negative."""
    return der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def der_octets(value: bytes) -> bytes:
    """OCTET STRING."""
    return der(0x04, value)


def der_boolean(value: bool) -> bytes:
    """BOOLEAN."""
    return der(0x01, b"\xff" if value else b"\x00")


def der_sequence(*items: bytes) -> bytes:
    """SEQUENCE."""
    return der(0x30, b"".join(items))


def der_oid(text: str) -> bytes:
    """OBJECT IDENTIFIER (X.690 8.19)."""
    first, second, *rest = (int(part) for part in text.split("."))
    return der(0x06, b"".join(_base128(arc) for arc in (40 * first + second, *rest)))


def _base128(arc: int) -> bytes:
    digits = [arc & 0x7F]
    while arc := arc >> 7:
        digits.append(arc & 0x7F | 0x80)
    return bytes(reversed(digits))


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
