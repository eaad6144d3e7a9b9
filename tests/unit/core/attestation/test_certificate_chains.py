"""Chains: what the three chains of Intel's collateral must be, what a link is, and what is remembered of it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.attestation import certificates, dcap, kinds
from cloister.core.attestation.intake import read
from cloister.core.attestation.model import Evidence
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError, CloisterError
from cloister.devnet.tee import intel
from cloister.devnet.tee.x509build import DAY, Issuer, certificate, moment, name, revocation_list
from support import windows
from support.hardware import NOW
from support.samples import pretended

WIDE = {"start": NOW - DAY, "end": NOW + DAY}
CHAINS = ("tcb_info_issuer_chain", "qe_identity_issuer_chain", "pck_crl_issuer_chain")


def _code(step: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as caught:
        step()
    return caught.value.code


@lru_cache(maxsize=64)
def _key(label: str) -> ec.EllipticCurvePrivateKey:
    del label
    return ec.generate_private_key(ec.SECP384R1())


def _issuer(label: str, above: Issuer | None, **more: Any) -> Issuer:
    arguments: dict[str, Any] = {**WIDE, "root": above is None, "digest": hashes.SHA384()} | more
    key = _key(label)
    return Issuer(certificate(label, key.public_key(), above or key, **arguments), key)


# -- the chains of collateral -------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _world() -> windows.IntelWorld:
    return windows.IntelWorld({})


@lru_cache(maxsize=1)
def _fields() -> dict[str, str]:
    return dict(json.loads(_world().collateral()))


@lru_cache(maxsize=1)
def _stranger() -> windows.IntelWorld:
    """The same vendor, keys and names, but every certificate made again: another root by its bytes."""
    return windows.IntelWorld({})


def _verify(**fields: str) -> object:
    quote = _world().platform.quote(bytes(48), bytes(64))
    collateral = json.dumps(_fields() | fields).encode()
    return kinds.verify(Evidence("tdx", quote, {"collateral": collateral}), _world().roots(), NOW)


def _pems(chain: str) -> list[str]:
    return [block + "-----END CERTIFICATE-----\n" for block in chain.split("-----END CERTIFICATE-----\n") if block]


def _own(name_: str) -> list[str]:
    return _pems(_fields()[name_])


def _middle() -> str:
    """An authority that the pinned root issued, but that issued nothing of the collateral."""
    key = ec.generate_private_key(ec.SECP256R1())
    made = certificate("Bystander", key.public_key(), _world().root, authority=0, digest=hashes.SHA256(), **WIDE)
    return Issuer(made, key).pem


BROKEN: dict[str, Callable[[list[str]], list[str]]] = {
    "the root of another": lambda chain: [chain[0], _stranger().root.pem],
    "no root": lambda chain: chain[:1],
    "the root alone": lambda chain: chain[1:],
    "root first": lambda chain: chain[::-1],
    "a bystander between": lambda chain: [chain[0], _middle(), chain[1]],
    "a bystander in front": lambda chain: [_middle(), *chain],
    "a bystander in the place of the first": lambda chain: [_middle(), chain[1]],
    "the first twice": lambda chain: [chain[0], *chain],
    "nine certificates": lambda chain: chain + [chain[1]] * 7,
    "no certificate": lambda chain: [],
    "no PEM": lambda chain: ["nothing"],
}


@pytest.mark.parametrize("field", CHAINS)
@pytest.mark.parametrize("sentence", BROKEN)
def test_a_broken_chain_in_collateral_is_refused(field: str, sentence: str) -> None:
    text = "".join(BROKEN[sentence](_own(field)))
    assert text != _fields()[field]
    found = _code(lambda: _verify(**{field: text}))
    assert found in ("attestation.certificate", "attestation.root", "attestation.malformed", "attestation.tdx_quote")


def test_whole_chains_and_text_between_them_are_good() -> None:
    assert _verify()
    for field in CHAINS:
        chain = _own(field)
        for text in ("\n".join(chain), "said\n" + chain[0] + "between\n" + chain[1] + "behind"):
            assert _verify(**{field: text}) == _verify(), field
        assert _verify(**{field: "".join(chain) + chain[1]}) == _verify(), "a root may stand there twice"


def test_the_chain_of_the_revocation_list_is_that_of_its_signer() -> None:
    """dcap-qvl never reads that chain: before it was checked, anything could stand there."""
    assert _code(lambda: _verify(pck_crl_issuer_chain=_fields()["tcb_info_issuer_chain"])) == "attestation.certificate"
    key = ec.generate_private_key(ec.SECP256R1())
    ca = _world().authority.certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
    twin = certificate(str(ca), key.public_key(), _world().root, authority=0, digest=hashes.SHA256(), **WIDE)
    chain = Issuer(twin, key).pem + _world().root.pem  # the right name, another key
    assert _code(lambda: _verify(pck_crl_issuer_chain=chain)) == "attestation.certificate"


def test_a_list_of_another_signer_is_refused_though_its_chain_fits_it() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    ca = certificate("Another CA", key.public_key(), _world().root, authority=0, digest=hashes.SHA256(), **WIDE)
    issuer = Issuer(ca, key)
    fields = {
        "pck_crl_issuer_chain": issuer.pem + _world().root.pem,
        "pck_crl": revocation_list(issuer, NOW - DAY, NOW + DAY).hex(),
    }
    assert _code(lambda: _verify(**fields)) == "attestation.tdx_quote"


def test_a_revoked_machine_is_refused() -> None:
    world = _world()
    listed = revocation_list(world.authority, NOW - DAY, NOW + DAY, [world.platform.serial])
    assert _code(lambda: _verify(pck_crl=listed.hex())) == "attestation.tdx_quote"
    other = revocation_list(world.authority, NOW - DAY, NOW + DAY, [world.platform.serial + 1])
    assert _verify(pck_crl=other.hex())


def test_the_window_of_chains_is_the_narrowest_of_all_certificates() -> None:
    narrow = (NOW - 11, NOW + 13)
    for element in ("crl signer", "tcb signer", "qe signer", "root"):
        data = windows.IntelWorld({element: narrow}).collateral()
        assert dcap.need_chains(data) == narrow
    assert dcap.need_chains(_world().collateral()) == windows.WIDE


# -- links, and what is remembered of them ------------------------------------------------------------------------


def _chain(depth: int = 3, **leaf: Any) -> tuple[bytes, ...]:
    made = [_issuer("top", None)]
    for place in range(depth - 2):
        made.append(_issuer(f"middle {place}", made[-1], authority=depth - 3 - place))
    made.append(_issuer("leaf", made[-1], **leaf))
    return tuple(one.der for one in made)


@pytest.mark.parametrize("depth", range(2, 9))
def test_chains_of_two_to_eight_hold(depth: int) -> None:
    loaded = certificates.linked(_chain(depth))
    assert [certificates.common_name(one) for one in (loaded[0], loaded[-1])] == ["top", "leaf"]
    if depth > 2:
        for place in range(depth):
            with pytest.raises(AttestationError):
                certificates.linked(_chain(depth)[:place] + _chain(depth)[place + 1 :][::-1])


def test_orders_other_than_root_to_leaf_are_refused() -> None:
    chain = _chain(4)
    for wrong in (chain[::-1], (chain[0], *chain[2:]), (*chain[:2], chain[3]), (chain[1], *chain[1:]), chain[1:]):
        assert _code(lambda wrong=wrong: certificates.linked(wrong)) == "attestation.certificate"  # type: ignore[misc]


RIGHTS: dict[str, Callable[[], tuple[bytes, ...]]] = {
    "an authority without room below it": lambda: _with_middle(authority=0, extra=True),
    "a leaf that issues": lambda: _with_middle(authority=None),
    "an authority at the end": lambda: _chain(3, authority=0),
    "a link over SHA-256 where SHA-384 is demanded": lambda: _chain(3, digest=hashes.SHA256()),
}


def _with_middle(authority: int | None, *, extra: bool = False) -> tuple[bytes, ...]:
    top = _issuer("top", None)
    made = [top, _issuer("middle", top, authority=authority)]
    if extra:
        made.append(_issuer("below", made[-1], authority=0))
    made.append(_issuer("leaf", made[-1]))
    return tuple(one.der for one in made)


@pytest.mark.parametrize("sentence", RIGHTS)
def test_rights_are_checked_at_every_place(sentence: str) -> None:
    chain = RIGHTS[sentence]()
    for _ in range(2):  # a refusal is not remembered as a success
        assert _code(lambda: certificates.linked(chain)) == "attestation.certificate"


def test_a_link_over_a_weaker_hash_counts_only_where_it_is_allowed() -> None:
    chain = _chain(3, digest=hashes.SHA256())
    assert certificates.linked(chain, certificates.COMMON)
    assert _code(lambda: certificates.linked(chain)) == "attestation.certificate"
    assert certificates.linked(chain, certificates.COMMON), "the strict question does not spoil the other one's memory"


def test_a_known_link_does_not_vouch_for_another_leaf() -> None:
    """The links above are remembered; the leaf's own is checked for each leaf."""
    good = _chain(3)
    certificates.linked(good)
    forger = _key("forger")
    fake_issuer = Issuer(certificates.load(good[1], "middle"), forger)  # the right name, the wrong key
    forged = certificate("leaf", _key("leaf").public_key(), fake_issuer, digest=hashes.SHA384(), **WIDE)
    assert _code(lambda: certificates.linked((*good[:2], Issuer(forged, forger).der))) == "attestation.certificate"


def test_what_is_remembered_is_bounded() -> None:
    for cache in (certificates.linked, certificates._link, dcap.open_collateral, dcap.need_chains, dcap.need_same_root):
        assert 0 < (cache.cache_info().maxsize or 0) <= 512
    top = _issuer("top", None)
    for _ in range(40):
        certificates.linked((top.der, _issuer("leaf", top).der))
    assert certificates._link.cache_info().currsize <= 512


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_damage_to_any_certificate_breaks_the_chain_or_changes_no_signed_byte(data: st.DataObject) -> None:
    chain = list(_chain_once())
    place = data.draw(st.integers(1, 2))
    at = data.draw(st.integers(0, len(chain[place]) - 1))
    bit = data.draw(st.integers(0, 7))
    bad = bytearray(chain[place])
    bad[at] ^= 1 << bit
    honest, chain[place] = chain[place], bytes(bad)
    try:
        loaded = certificates.linked(tuple(chain))
    except AttestationError:
        return
    before = x509.load_der_x509_certificate(honest)
    assert loaded[place].tbs_certificate_bytes == before.tbs_certificate_bytes


@lru_cache(maxsize=1)
def _chain_once() -> tuple[bytes, ...]:
    return _chain(3)


# -- dates at their edges, for a list without an end --------------------------------------------------------------


def test_a_revocation_list_must_say_when_it_ends() -> None:
    top = _issuer("top", None)
    leaf = _issuer("leaf", top)
    chain = [one.certificate for one in (top, leaf)]
    good = revocation_list(top, NOW - DAY, NOW + DAY)
    assert certificates.need_not_revoked(good, chain, NOW) == NOW + DAY - 1
    listed = revocation_list(top, NOW - DAY, NOW + DAY, [leaf.certificate.serial_number])
    assert _code(lambda: certificates.need_not_revoked(listed, chain, NOW)) == "attestation.revoked"
    other = _issuer("other", None)
    foreign = revocation_list(Issuer(top.certificate, other.key), NOW - DAY, NOW + DAY)
    assert _code(lambda: certificates.need_not_revoked(foreign, chain, NOW)) == "attestation.certificate"


def test_names_with_two_common_names_are_no_name() -> None:
    key = _key("two names")
    both = x509.Name([*name("one"), x509.NameAttribute(x509.NameOID.COMMON_NAME, "two")])
    made = (
        x509.CertificateBuilder()
        .subject_name(both)
        .issuer_name(both)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(moment(NOW))
        .not_valid_after(moment(NOW + DAY))
        .sign(key, hashes.SHA384())
    )
    assert certificates.common_name(made) == ""
    assert certificates.common_name(_issuer("top", None).certificate) == "top"
    assert _code(lambda: certificates.need_ca(made, 0)) == "attestation.certificate"


def test_the_pinned_root_decides_not_its_name() -> None:
    """Same names and keys, other bytes: only the pinned certificate counts."""
    quote = _stranger().platform.quote(bytes(48), bytes(64))
    evidence = Evidence("tdx", quote, {"collateral": _stranger().collateral()})
    assert kinds.verify(evidence, _stranger().roots(), NOW)
    assert _code(lambda: kinds.verify(evidence, _world().roots(), NOW)) == "attestation.root"
    mixed = Evidence("tdx", quote, {"collateral": json.dumps(_fields()).encode()})
    assert _code(lambda: kinds.verify(mixed, _world().roots(), NOW)) == "attestation.root"
    assert _world().roots() != Roots.production()
    assert intel.FMSPC.hex().upper() == "C10157E50000"


@pytest.mark.parametrize("part", ["vek", "intermediate", "ark", "crl"])
def test_damaged_certificates_in_files_are_refused_by_name_or_read(part: str) -> None:
    """Names are read late by the library: what it raises then must not come out of the reader of files."""
    sample = pretended("snp")
    others = [data for name_, data in sample.evidence.aux.items() if name_ != part]
    honest = sample.part(part)
    refused = 0
    for place in range(0, len(honest), 3):
        bad = bytearray(honest)
        bad[place] ^= 1 << place % 8
        try:
            read(sample.evidence.blob, [bytes(bad), *others])
        except CloisterError as error:
            refused += bool(error.remedy)
    assert refused > 10


# -- one spelling of a signature ----------------------------------------------------------------------------------


@pytest.mark.parametrize("unused", range(1, 8))
def test_a_signature_with_unused_bits_is_no_certificate(unused: int) -> None:
    """Found by flipping every byte of a real manifest: the library reads such a count and goes on."""
    made = _issuer("leaf", _issuer("root", None)).certificate
    good = made.public_bytes(Encoding.DER)
    place = len(good) - len(made.signature) - 1
    assert good[place] == 0
    assert certificates.load(good, "test") == made
    bad = good[:place] + bytes([unused]) + good[place + 1 :]
    assert _code(lambda: certificates.load(bad, "test")) == "attestation.malformed"
    armour = x509.load_pem_x509_certificate(made.public_bytes(Encoding.PEM)).public_bytes(Encoding.PEM)
    spoilt = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(bad) + b"-----END CERTIFICATE-----\n"
    assert certificates.load_pem_chain(armour, "test") == [made]
    assert _code(lambda: certificates.load_pem_chain(spoilt, "test")) == "attestation.malformed"
