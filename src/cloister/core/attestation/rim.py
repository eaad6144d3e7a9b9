"""Reference integrity manifests: the golden measurements that NVIDIA publishes as signed SWID tags in XML.

Sources: ISO/IEC 19770-2, TCG Reference Integrity Manifest Information Model, W3C XML Signature 1.1; spec 11. The XML
libraries are loaded on first use: only who verifies GPU evidence needs the extra ``gpu``.
"""

from __future__ import annotations

import base64
import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from cryptography import x509

from cloister.core.attestation.certificates import MAX_CHAIN, linked, need_p384, need_valid_at
from cloister.core.attestation.refusals import MALFORMED, fail_closed
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError, define

VENDOR: Final = "nvidia-rim"
MAX_MANIFEST: Final = 65536
MAX_ALTERNATIVES: Final = 16
MAX_INDEX: Final = 255
_SWID: Final = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
_HASH: Final = "{http://www.w3.org/2001/04/xmlenc#sha384}Hash"
_DSIG: Final = "{http://www.w3.org/2000/09/xmldsig#}"
_KEY_INFO: Final = f"{_DSIG}KeyInfo/{_DSIG}X509Data/{_DSIG}X509Certificate"

BAD_MANIFEST = define(
    "attestation.rim",
    AttestationError,
    check="the reference manifest is signed by its vendor and is of this device's very versions",
    remedy="fetch the manifests of the driver and VBIOS versions that the device reports",
)
NO_XML = define(
    "attestation.no_xml",
    AttestationError,
    check="this program can read signed XML",
    remedy="install the extra gpu: pip install 'cloister[gpu]'",
)


@dataclass(frozen=True, slots=True)
class Manifest:
    """An authentic manifest. golden: index -> the 48-byte values that are all right there; only active ones.

    version: driver or VBIOS version; product: chip; fresh_until: Unix seconds, the earliest end of the chain; chain:
    of the signer, root first.
    """

    version: str
    product: str
    golden: Mapping[int, frozenset[bytes]]
    fresh_until: int
    chain: tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class _Signed:
    version: str
    product: str
    golden: Mapping[int, frozenset[bytes]]
    chain: tuple[bytes, ...]


@fail_closed
def read(data: bytes, roots: Roots, now: int) -> Manifest:
    """The manifest, if its signature and chain hold and its root is pinned for "nvidia-rim".

    Args: data (XML, at most 64 KiB), now (Unix seconds). Raises AttestationError.
    """
    if not 0 < len(data) <= MAX_MANIFEST:
        raise MALFORMED(expected=f"a manifest of at most {MAX_MANIFEST} bytes", found=f"{len(data)} bytes")
    # 1. One signature over the whole tag, by the first certificate; each manifest is opened once and remembered.
    signed = _opened(data)
    # 2. The root is pinned, and the chain holds.
    roots.require(VENDOR, signed.chain[0])
    chain = linked(signed.chain)
    # 3. Dates.
    fresh_until = min(need_valid_at(certificate, now) for certificate in chain)
    return Manifest(signed.version, signed.product, signed.golden, fresh_until, chain)


@fail_closed
def signers(data: bytes) -> tuple[x509.Certificate, ...]:
    """The chain of a signed manifest, root first, in all that depends on no time and no root: to ask OCSP about it.

    Raises AttestationError."""
    if not 0 < len(data) <= MAX_MANIFEST:
        raise MALFORMED(expected=f"a manifest of at most {MAX_MANIFEST} bytes", found=f"{len(data)} bytes")
    return linked(_opened(data).chain)


@lru_cache(maxsize=32)
def _opened(data: bytes) -> _Signed:
    etree, verifier, configuration, failures = _libraries()
    # No entities, no DTD, no network: a manifest is plain elements and attributes.
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    try:
        root = etree.fromstring(data.strip(), parser)
    except etree.XMLSyntaxError:
        raise BAD_MANIFEST(expected="XML", found="something else") from None
    if root.getroottree().docinfo.doctype:
        raise BAD_MANIFEST(expected="XML without a document type", found="one with it")
    signatures = list(root.iter(f"{_DSIG}Signature"))
    if len(signatures) != 1 or signatures[0].getparent() is not root:
        raise BAD_MANIFEST(expected="one signature, inside the tag", found=str(len(signatures)))
    chain = _chain(signatures[0])
    leaf = linked(chain)[-1]
    need_p384(leaf)
    # The signer's dates are checked with its chain's, for every use; here the time is one at which it was valid.
    settings = configuration(leaf.not_valid_before_utc + datetime.timedelta(seconds=1))
    try:
        result = verifier.verify(root, x509_cert=leaf, expect_config=settings, parser=parser)
    except failures as error:
        raise BAD_MANIFEST(expected="the signer's signature over the tag", found=type(error).__name__) from None
    # Only what the signature covers is read.
    return _Signed(*_content(result.signed_xml), chain)


def _libraries() -> tuple[Any, Any, Any, Any]:
    try:
        from lxml import etree
        from signxml.algorithms import DigestAlgorithm, SignatureMethod
        from signxml.exceptions import SignXMLException
        from signxml.verifier import SignatureConfiguration, XMLVerifier
    except ImportError:
        raise NO_XML(expected="lxml and signxml", found="one is missing") from None

    def configuration(at: datetime.datetime) -> Any:
        return SignatureConfiguration(
            require_x509=True,
            location="./",
            expect_references=1,
            signature_methods=frozenset({SignatureMethod.ECDSA_SHA384}),
            digest_algorithms=frozenset({DigestAlgorithm.SHA384}),
            verification_time=at,
        )

    return etree, XMLVerifier(), configuration, (SignXMLException, ValueError, etree.LxmlError)


def _chain(signature: Any) -> tuple[bytes, ...]:
    texts = [element.text or "" for element in signature.findall(_KEY_INFO)]
    if not 2 <= len(texts) <= MAX_CHAIN:
        raise BAD_MANIFEST(expected=f"2 to {MAX_CHAIN} certificates", found=str(len(texts)))
    return tuple(base64.b64decode("".join(text.split()), validate=True) for text in reversed(texts))


def _content(tag: Any) -> tuple[str, str, dict[int, frozenset[bytes]]]:
    metas, payloads = tag.findall(f"{_SWID}Meta"), tag.findall(f"{_SWID}Payload")
    if tag.tag != f"{_SWID}SoftwareIdentity" or len(metas) != 1 or len(payloads) != 1:
        raise BAD_MANIFEST(expected="a SWID tag with one Meta and one Payload", found=f"{len(metas)}, {len(payloads)}")
    version, product = metas[0].get("colloquialVersion", ""), metas[0].get("product", "")
    golden: dict[int, frozenset[bytes]] = {}
    for resource in payloads[0].findall(f"{_SWID}Resource"):
        index = resource.get("index", "")
        if resource.get("type") != "Measurement" or not index.isdecimal() or len(index) > 3:
            raise BAD_MANIFEST(expected="resources that are numbered measurements", found=index[:16] or "another")
        if resource.get("active") == "False":
            continue
        if int(index) > MAX_INDEX or int(index) in golden:
            raise BAD_MANIFEST(expected="each measurement once", found=index)
        golden[int(index)] = _alternatives(resource)
    if not golden:
        raise BAD_MANIFEST(expected="active measurements", found="none")
    return version, product, golden


def _alternatives(resource: Any) -> frozenset[bytes]:
    count = resource.get("alternatives", "")
    if not count.isdecimal() or not 0 < int(count[:4]) <= MAX_ALTERNATIVES or resource.get("active") != "True":
        raise BAD_MANIFEST(expected=f"1 to {MAX_ALTERNATIVES} alternatives of an active measurement", found=count[:16])
    values = [bytes.fromhex(resource.get(f"{_HASH}{place}", "")) for place in range(int(count))]
    if any(len(value) != 48 for value in values):
        raise BAD_MANIFEST(expected="alternatives of 48 bytes", found="another size")
    return frozenset(values)
