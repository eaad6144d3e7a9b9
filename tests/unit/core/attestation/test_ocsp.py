"""Revocation of NVIDIA's certificates: good answers count, bad ones have names, and policy may demand them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as x509_ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.attestation import kinds, nvidia, ocsp
from cloister.core.attestation.intake import read
from cloister.core.attestation.model import Claims, Evidence
from cloister.core.attestation.policy import shipped
from cloister.core.errors import AttestationError, CloisterError
from cloister.devnet.tee.x509build import DAY
from support.hardware import NOW
from support.nvidia_kit import Device, nvidia_roots
from support.ocsp_kit import REVOKED, UNKNOWN, answer, answers, pairs_of, refusal, responder


@lru_cache(maxsize=4)
def gpu() -> Evidence:
    """A GPU with both manifests, without OCSP answers."""
    return Device().evidence()


@lru_cache(maxsize=4)
def pairs() -> tuple[Any, ...]:
    return tuple(pairs_of(gpu()))


def verify(data: bytes | None, now: int = NOW, evidence: Evidence | None = None) -> Claims:
    one = evidence or gpu()
    aux = dict(one.aux) if data is None else {**one.aux, "ocsp": data}
    return kinds.verify(dataclasses.replace(one, aux=aux), nvidia_roots(), now)


def refused(step: Callable[[], object]) -> AttestationError:
    with pytest.raises(AttestationError) as caught:
        step()
    assert caught.value.remedy
    return caught.value


def with_bad(place: int, bad: bytes) -> bytes:
    """Honest answers, but one."""
    return b"".join(bad if i == place else answer(pair) for i, pair in enumerate(pairs()))


# --- good answers ---


def test_three_of_the_chain_and_two_of_each_manifest_are_asked_about() -> None:
    names = [ocsp.common_name(certificate) for certificate, _ in pairs()]
    assert names[:3] == ["NVIDIA GH100 Identity", "NVIDIA GH100 Provisioner ICA 1", "GH100 A01 GSP BROM one"]
    assert len(names) == 3 + 2 * 2
    assert names.count("RIM signer") == 2


def test_good_answers_about_everything() -> None:
    claims = verify(answers(pairs()))
    assert claims.details["revocation"] == "good"
    assert claims.fresh_until == NOW + DAY - 1


def test_answers_may_be_partial_or_absent_unless_policy_demands_them() -> None:
    for data, said in ((None, "not checked"), (answers(pairs()[:3]), "partial")):
        claims = verify(data)
        assert claims.details["revocation"] == said
        rules = dict(shipped("strict").kinds["nvidia-gpu"])
        assert refused(lambda c=claims, r=rules: nvidia.check_gpu(c, r)).found == said  # type: ignore[misc]
        nvidia.check_gpu(claims, {**rules, "require_ocsp": False})
    nvidia.check_gpu(verify(answers(pairs())), shipped("strict").kinds["nvidia-gpu"])


def test_a_switch_is_held_to_the_same() -> None:
    switch = Device("LS10").evidence()
    good = verify(answers(pairs_of(switch)), evidence=switch)
    rules = shipped("strict").kinds["nvidia-switch"]
    nvidia.check_switch(good, rules)
    assert refused(lambda: nvidia.check_switch(verify(None, evidence=switch), rules)).code == "attestation.platform"


WAYS: dict[str, dict[str, Any]] = {
    "the authority itself signed": {"by_issuer": True},
    "certificate ids over SHA-256": {"algorithm": hashes.SHA256()},
    "certificate ids over SHA-1, as RFC 5019 has it": {"algorithm": hashes.SHA1()},  # noqa: S303 - an identifier
    "a signature over SHA-256": {"digest": hashes.SHA256()},
    "the responder by name": {"by_name": True},
    "no next update": {"end": None},
}


@pytest.mark.parametrize("way", WAYS)
def test_ways_of_a_good_answer(way: str) -> None:
    assert verify(answers(pairs(), **WAYS[way])).details["revocation"] == "good"


def test_order_and_repetition_do_not_matter() -> None:
    backwards = answers(pairs()[::-1]) + answer(pairs()[0])
    assert verify(backwards).details["revocation"] == "good"


# --- dates ---

EDGES: dict[str, tuple[dict[str, Any], int, bool]] = {
    "the last second": ({}, NOW + DAY - 1, True),
    "the next update": ({}, NOW + DAY, False),
    "a minute before it was made": ({"start": NOW + 60}, NOW, True),
    "more than a minute before": ({"start": NOW + 61}, NOW, False),
    "without a next update, a day": ({"end": None}, NOW - 60 + DAY, True),
    "without a next update, a day and a second": ({"end": None}, NOW - 60 + DAY + 1, False),
    "a far next update, seven days": ({"end": NOW + 300 * DAY}, NOW - 60 + 7 * DAY, True),
    "a far next update, seven days and a second": ({"end": NOW + 300 * DAY}, NOW - 60 + 7 * DAY + 1, False),
    "an answer of last year": ({"start": NOW - 400 * DAY, "end": NOW - 399 * DAY}, NOW, False),
}


@pytest.mark.parametrize("edge", EDGES)
def test_answers_count_for_a_while(edge: str) -> None:
    changes, now, good = EDGES[edge]
    data = answers(pairs(), **changes)
    if good:
        assert verify(data, now).details["revocation"] == "good"
    else:
        assert refused(lambda: verify(data, now)).code == "attestation.expired"


@pytest.mark.parametrize(("start", "end"), [(NOW + 1, NOW + DAY), (NOW - DAY, NOW - 1)])
def test_a_responder_out_of_its_dates_is_refused(start: int, end: int) -> None:
    bad = answer(pairs()[0], certificate=responder(pairs()[0][1], start=start, end=end))
    assert refused(lambda: verify(with_bad(0, bad))).code == "attestation.expired"


# --- bad answers, one of them among good ones ---

REASONS = [None, *x509.ReasonFlags]


@pytest.mark.parametrize("place", range(7))
def test_one_revoked_certificate_anywhere_is_enough(place: int) -> None:
    bad = answer(pairs()[place], status=REVOKED, reason=x509.ReasonFlags.key_compromise)
    error = refused(lambda: verify(with_bad(place, bad)))
    assert error.code == "attestation.revoked"
    assert "keyCompromise" in error.found


@pytest.mark.parametrize("reason", [r for r in REASONS if r is None or r.name != "remove_from_crl"])
def test_every_reason_is_a_reason(reason: x509.ReasonFlags | None) -> None:
    bad = answer(pairs()[1], status=REVOKED, reason=reason)
    held = reason is x509.ReasonFlags.certificate_hold
    expected = "attestation.on_hold" if held else "attestation.revoked"
    assert refused(lambda: verify(with_bad(1, bad))).code == expected


def test_a_good_answer_does_not_outweigh_a_bad_one() -> None:
    bad = answer(pairs()[1], status=REVOKED)
    assert refused(lambda: verify(answers(pairs()) + bad)).code == "attestation.revoked"
    assert refused(lambda: verify(bad + answers(pairs()))).code == "attestation.revoked"


def _other() -> Any:
    """A pair of another GPU."""
    return pairs_of(Device(name="two").evidence())[2]


def forged(data: bytes) -> bytes:
    """The same answer with one bit of its signature changed."""
    signature = x509_ocsp.load_der_ocsp_response(data).signature
    return data.replace(signature, signature[:-1] + bytes([signature[-1] ^ 1]))


BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "the vendor does not know it": (lambda: answer(pairs()[0], status=UNKNOWN), "attestation.revocation_unknown"),
    "about another device": (lambda: answer(_other()), "attestation.ocsp"),
    "about another issuer of that number": (
        lambda: answer(pairs()[0], issuer=pairs()[3][1]), "attestation.ocsp"),
    "another signature": (lambda: forged(answer(pairs()[0])), "attestation.ocsp"),
    "a responder of another authority": (
        lambda: answer(pairs()[0], certificate=responder(pairs()[1][1])), "attestation.certificate"),
    "a responder that a stranger certified": (
        lambda: answer(pairs()[0], certificate=responder(pairs()[0][1], signer="a stranger")),
        "attestation.certificate"),
    "a responder without a purpose": (
        lambda: answer(pairs()[0], certificate=responder(pairs()[0][1], ())), "attestation.ocsp"),
    "a responder for mail": (
        lambda: answer(pairs()[0], certificate=responder(
            pairs()[0][1], (ExtendedKeyUsageOID.EMAIL_PROTECTION,))), "attestation.ocsp"),
    "a responder for any purpose": (
        lambda: answer(pairs()[0], certificate=responder(
            pairs()[0][1], (ExtendedKeyUsageOID.OCSP_SIGNING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE))),
        "attestation.ocsp"),
    "a delegate that is not shown": (lambda: answer(pairs()[0], show=False), "attestation.ocsp"),
    "the service is busy": (refusal, "attestation.ocsp"),
    "the service asks for a signature": (
        lambda: refusal(x509_ocsp.OCSPResponseStatus.SIG_REQUIRED), "attestation.ocsp"),
    "a certificate instead": (lambda: pairs()[0][0].public_bytes(Encoding.DER), "attestation.malformed"),
    "an empty sequence": (lambda: b"\x30\x00", "attestation.malformed"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_bad_answers_have_names(what: str) -> None:
    make, code = BAD[what]
    assert refused(lambda: verify(with_bad(0, make()))).code == code
    assert refused(lambda: verify(make())).code == code


def test_the_device_cannot_speak_for_its_vendor() -> None:
    """A responder that the device's own authority certified says nothing about what the vendor issued."""
    own = pairs()[2][0]
    bad = answer(pairs()[2], certificate=responder(own))
    assert refused(lambda: verify(with_bad(2, bad))).code == "attestation.certificate"


# --- shape ---

SHAPES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "a byte behind": lambda d: d + b"\0",
    "cut off": lambda d: d[:-1],
    "a byte in front": lambda d: b"\0" + d,
    "seventeen": lambda d: d[: len(ocsp.split(d)[0])] * 17,
    "an indefinite length": lambda d: b"\x30\x80" + d[4:],
    "a long form of a short length": lambda _: b"\x30\x81\x05\x0a\x01\x00\x00\x00",
    "a length of three bytes": lambda d: b"\x30\x83\x00" + d[2:],
}


@pytest.mark.parametrize("what", SHAPES)
def test_answers_of_another_shape(what: str) -> None:
    data = SHAPES[what](answers(pairs()))
    assert refused(lambda: verify(data)).code == "attestation.malformed"


def test_an_answer_over_eight_kib_is_not_parsed() -> None:
    big = b"\x30\x82\x20\x01" + bytes(0x2001)
    assert refused(lambda: ocsp.split(big)).code == "attestation.malformed"


@lru_cache(maxsize=1)
def _revoked() -> bytes:
    return answer(pairs()[0], status=REVOKED)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_no_flipped_bit_makes_another_good_answer(data: st.DataObject) -> None:
    raw = bytearray(_revoked())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(CloisterError):
        verify(bytes(raw))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_is_refused_and_never_more(data: bytes) -> None:
    for raw in (data, b"\x30" + data, b"\x30\x82" + len(data).to_bytes(2, "big") + data):
        assert refused(lambda raw=raw: verify(raw)).code.startswith("attestation.")  # type: ignore[misc]


# --- files ---


def test_answers_come_in_files_beside_the_evidence() -> None:
    plain = Evidence(gpu().kind, gpu().blob, {})
    beside = [gpu().aux["chain"], gpu().aux["driver_rim"], gpu().aux["vbios_rim"], gpu().aux["mode"]]
    singles = [answer(pair) for pair in pairs()]
    for files in (singles, [b"".join(singles)], [b"".join(singles).hex().encode()]):
        taken = read(plain.blob, [*beside, *files], "nvidia-gpu").evidence
        assert kinds.verify(taken, nvidia_roots(), NOW).details["revocation"] == "good"


def test_an_answer_is_told_from_a_certificate_a_list_and_a_signature() -> None:
    assert ocsp.is_answer(answer(pairs()[0]))
    for other in (
        pairs()[0][0].public_bytes(Encoding.DER),
        refusal(),
        b"",
        b"\x30",
        b"\x30\x06\x02\x01\x01\x02\x01\x01",
    ):
        assert not ocsp.is_answer(other)
