"""Oblivious HTTP: RFC 9458 Appendix A byte for byte, every AEAD both ways, and a refusal for every changed bit."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey

from cloister.core.envelope import ohttp, ohttp_client
from cloister.core.envelope.ohttp import KeyConfig, Recipient
from cloister.core.errors import CloisterError
from cloister.core.keys import hpke
from cloister.core.keys.xwing import XWingKey

RFC = json.loads((Path(__file__).parents[4] / "spec/vectors/ohttp.json").read_text())["rfc9458"]
AEADS = sorted(hpke.AEADS)
CAP = 1 << 20


def rfc(name: str) -> bytes:
    """A value of the appendix."""
    return bytes.fromhex(RFC[name][2:])


def pair(suites: tuple[tuple[int, int], ...] = ohttp.OFFERED, key_id: int = 7) -> tuple[KeyConfig, Recipient]:
    """A fresh key."""
    secret = os.urandom(32)
    config = KeyConfig(key_id, hpke.private_key(secret).public_key().public_bytes_raw(), suites)
    return config, Recipient(secret, config)


def code_of(work: Any) -> str:
    with pytest.raises(CloisterError) as caught:
        work()
    return caught.value.code


# --- the RFC ---


def test_appendix_a_is_reproduced_byte_for_byte() -> None:
    config = ohttp_client.decode_config(rfc("key_config"))
    assert config.encode() == rfc("key_config")
    assert config.suites == ((1, 1), (1, 3))
    data, sent = ohttp_client.encapsulate(config, rfc("request"), lambda size: rfc("client_ephemeral"))
    assert data == rfc("encapsulated_request")
    text, came = Recipient(rfc("gateway_key"), config).open(data, max_size=CAP)
    assert text == rfc("request")
    nonce = rfc("encapsulated_response")[:16]
    assert came.seal_response(rfc("response"), lambda size: nonce) == rfc("encapsulated_response")
    assert sent.open_response(rfc("encapsulated_response"), max_size=CAP) == rfc("response")


def test_the_request_of_appendix_a_opens_in_another_implementation() -> None:
    """pyhpke, with the RFC's info text written out here."""
    suite = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES128_GCM)
    key = KEMKey.from_pyca_cryptography_key(hpke.private_key(rfc("gateway_key")))
    data = rfc("encapsulated_request")
    info = b"message/bhttp request\0" + bytes.fromhex("01002000010001")
    context = suite.create_recipient_context(data[7:39], key, info)
    assert context.open(data[39:], b"") == rfc("request")


THEIRS = {1: AEADId.AES128_GCM, 2: AEADId.AES256_GCM, 3: AEADId.CHACHA20_POLY1305}


@pytest.mark.parametrize("aead", AEADS)
def test_every_aead_is_that_of_another_implementation(aead: int) -> None:
    suite = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, THEIRS[aead])
    secret = os.urandom(32)
    config = KeyConfig(9, hpke.private_key(secret).public_key().public_bytes_raw())
    data, sent = ohttp_client.encapsulate(config, b"text", os.urandom, aead=aead)
    key = KEMKey.from_pyca_cryptography_key(hpke.private_key(secret))
    context = suite.create_recipient_context(data[7:39], key, b"message/bhttp request\0" + data[:7])
    assert context.open(data[39:], b"") == b"text"
    assert context.export(b"message/bhttp response", 32) == sent.context.export(b"message/bhttp response", 32)


# --- both ends ---


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(AEADS), st.binary(max_size=400), st.binary(max_size=400))
def test_both_ends_understand_each_other(aead: int, asked: bytes, told: bytes) -> None:
    config, recipient = pair()
    data, sent = ohttp_client.encapsulate(config, asked, os.urandom, aead=aead)
    text, came = recipient.open(data, max_size=CAP)
    assert text == asked
    assert sent.open_response(came.seal_response(told, os.urandom), max_size=CAP) == told
    assert sent.enc == came.enc == data[7:39]


def test_the_client_takes_the_first_aead_that_it_speaks() -> None:
    config, _ = pair(((2, 1), (1, 0xFFFF), (1, hpke.CHACHA20_POLY1305), (1, hpke.AES_256_GCM)))
    assert ohttp_client.choose(config) == hpke.CHACHA20_POLY1305
    assert ohttp_client.encapsulate(config, b"", os.urandom)[0][5:7] == b"\0\3"


def test_a_key_without_an_aead_that_we_speak_is_refused() -> None:
    config, _ = pair(((1, 0xFFFF), (2, 1)))
    assert code_of(lambda: ohttp_client.encapsulate(config, b"", os.urandom)) == "ohttp.suite"


def test_an_aead_that_the_key_does_not_offer_is_refused_at_both_ends() -> None:
    config, recipient = pair(((1, hpke.AES_256_GCM),))
    assert code_of(lambda: ohttp_client.encapsulate(config, b"", os.urandom, aead=hpke.AES_128_GCM)) == "ohttp.suite"
    wider = KeyConfig(config.key_id, config.public)
    data, _ = ohttp_client.encapsulate(wider, b"", os.urandom, aead=hpke.AES_128_GCM)
    assert code_of(lambda: recipient.open(data, max_size=CAP)) == "ohttp.suite"


def test_two_answers_to_one_request_share_no_nonce() -> None:
    config, recipient = pair()
    _, came = recipient.open(ohttp_client.encapsulate(config, b"", os.urandom)[0], max_size=CAP)
    one, two = came.seal_response(b"same", os.urandom), came.seal_response(b"same", os.urandom)
    assert one[:32] != two[:32]
    assert one[32:] != two[32:]


def test_an_answer_opens_for_its_request_alone() -> None:
    config, recipient = pair()
    (one, first), (two, second) = (ohttp_client.encapsulate(config, b"x", os.urandom) for _ in range(2))
    told = recipient.open(one, max_size=CAP)[1].seal_response(b"answer", os.urandom)
    assert first.open_response(told, max_size=CAP) == b"answer"
    assert code_of(lambda: second.open_response(told, max_size=CAP)) == "ohttp.not_authentic"
    assert recipient.open(two, max_size=CAP)[0] == b"x"


def test_the_message_may_hold_what_its_exchange_exports() -> None:
    config, recipient = pair()
    data, _ = ohttp_client.encapsulate_with(config, lambda exchange: exchange.context.export(b"name", 32), os.urandom)
    text, came = recipient.open(data, max_size=CAP)
    assert text == came.context.export(b"name", 32)


# --- damage ---


def test_no_bit_of_a_request_can_be_changed() -> None:
    config, recipient = pair()
    data, _ = ohttp_client.encapsulate(config, b"question", os.urandom)
    for place in [*range(56), *range(56, len(data) * 8, 7)]:
        bad = bytearray(data)
        bad[place // 8] ^= 1 << place % 8
        code = code_of(lambda bad=bytes(bad): recipient.open(bad, max_size=CAP))
        assert code == (
            "ohttp.key_unknown" if place < 8 else "ohttp.suite" if place < 56 else "ohttp.not_authentic"
        ) or (
            code == "ohttp.not_authentic"  # another AEAD that the key offers
        )


def test_no_bit_of_an_answer_can_be_changed() -> None:
    config, recipient = pair()
    data, sent = ohttp_client.encapsulate(config, b"question", os.urandom)
    told = recipient.open(data, max_size=CAP)[1].seal_response(b"answer", os.urandom)
    for place in range(0, len(told) * 8, 3):
        bad = bytearray(told)
        bad[place // 8] ^= 1 << place % 8
        assert code_of(lambda bad=bytes(bad): sent.open_response(bad, max_size=CAP)) == "ohttp.not_authentic"


def test_a_cut_or_grown_message_is_refused() -> None:
    config, recipient = pair()
    data, sent = ohttp_client.encapsulate(config, b"question", os.urandom)
    told = recipient.open(data, max_size=CAP)[1].seal_response(b"answer", os.urandom)
    for size in range(len(data)):
        code = code_of(lambda size=size: recipient.open(data[:size], max_size=CAP))
        assert code == ("ohttp.malformed" if size < 55 else "ohttp.not_authentic")
    for size in range(len(told)):
        code = code_of(lambda size=size: sent.open_response(told[:size], max_size=CAP))
        assert code == ("ohttp.malformed" if size < 48 else "ohttp.not_authentic")
    assert code_of(lambda: recipient.open(data + b"\0", max_size=CAP)) == "ohttp.not_authentic"
    assert code_of(lambda: sent.open_response(told + b"\0", max_size=CAP)) == "ohttp.not_authentic"


def test_caps_come_before_everything_else() -> None:
    config, recipient = pair()
    data, sent = ohttp_client.encapsulate(config, b"question", os.urandom)
    assert code_of(lambda: recipient.open(data, max_size=len(data) - 1)) == "ohttp.too_large"
    assert code_of(lambda: sent.open_response(bytes(100), max_size=99)) == "ohttp.too_large"


def test_a_request_with_a_weak_point_is_refused() -> None:
    """The X25519 point of low order, which would make the secret known to all."""
    config, recipient = pair()
    data, _ = ohttp_client.encapsulate(config, b"question", os.urandom)
    assert code_of(lambda: recipient.open(data[:7] + bytes(32) + data[39:], max_size=CAP)) == "ohttp.not_authentic"


def test_a_weak_key_is_not_sealed_to() -> None:
    assert code_of(lambda: ohttp_client.encapsulate(KeyConfig(1, bytes(32)), b"", os.urandom)) == "seal.hpke_key"


def test_a_recipient_with_another_key_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="another key"):
        Recipient(os.urandom(32), pair()[0])


# --- X-Wing ---


@settings(max_examples=6, deadline=None)
@given(st.sampled_from(AEADS), st.binary(max_size=100))
def test_both_ends_understand_each_other_by_x_wing(aead: int, asked: bytes) -> None:
    config = KeyConfig(7, XWingKey(SEED).public)
    recipient = Recipient(XWingKey(SEED), config)
    data, sent = ohttp_client.encapsulate(config, asked, os.urandom, aead=aead)
    assert data[1:3] == b"\x64\x7a"
    text, came = recipient.open(data, max_size=CAP)
    assert (text, came.enc, came.name) == (asked, data[7:1127], sha256(data[7:1127]).digest())
    assert sent.open_response(came.seal_response(b"told", os.urandom), max_size=CAP) == b"told"


def test_the_vector_of_the_other_client_opens_here() -> None:
    made = json.loads((Path(__file__).parents[4] / "spec/vectors/xwing.json").read_text())["ohttp"]
    given = json.loads((Path(__file__).parents[4] / "spec/vectors/callers.json").read_text())["xwing"]
    config = ohttp_client.decode_config(bytes.fromhex(made["config"][2:]))
    recipient = Recipient(XWingKey(bytes.fromhex(given["seed"][2:])), config)
    text, came = recipient.open(bytes.fromhex(made["encapsulated_request"][2:]), max_size=CAP)
    assert text == made["request"].encode()
    answer = bytes.fromhex(made["encapsulated_response"][2:])
    assert came.seal_response(made["response"].encode(), lambda size: answer[:size]) == answer


def test_a_request_to_one_kem_is_none_to_the_other() -> None:
    classic, recipient = pair(key_id=1)
    hybrid = KeyConfig(1, XWingKey(SEED).public)
    for config, other in ((hybrid, recipient), (classic, Recipient(XWingKey(SEED), hybrid))):
        data, _ = ohttp_client.encapsulate(config, bytes(1200), os.urandom)
        assert code_of(lambda data=data, other=other: other.open(data, max_size=CAP)) == "ohttp.suite"


# --- key configurations ---


def test_key_configurations_are_read_as_written() -> None:
    configs = (*(pair(key_id=number)[0] for number in (0, 1, 255)), KeyConfig(129, XWingKey(SEED).public))
    assert ohttp_client.decode_configs(ohttp.encode_configs(configs)) == configs
    assert ohttp_client.decode_configs(b"") == ()


def test_configurations_of_other_kems_are_left_out() -> None:
    ours = pair()[0]
    p256 = b"\x01\x00\x10" + bytes(65) + b"\0\4\0\1\0\1"
    listed = len(p256).to_bytes(2, "big") + p256 + ohttp.encode_configs((ours,))
    assert ohttp_client.decode_configs(listed) == (ours,)
    assert code_of(lambda: ohttp_client.decode_config(p256)) == "ohttp.suite"


SEED = bytes(range(32))
XWING = KeyConfig(1, XWingKey(SEED).public, ((1, 1),)).encode()
GOOD = b"\x01\x00\x20" + b"\x09" * 32 + b"\0\4\0\1\0\1"
BAD_CONFIGS = {
    "nothing": b"",
    "a key that is cut": GOOD[:20],
    "no algorithms": GOOD[:35] + b"\0\0",
    "half a pair": GOOD[:35] + b"\0\2\0\1",
    "a length that says too much": GOOD[:36] + b"\x08" + GOOD[37:],
    "bytes behind it": GOOD + b"\0",
    "too many algorithms": GOOD[:35] + b"\0\x60" + b"\0\1\0\1" * 24,
    "a key of X-Wing that is cut": XWING[:1200],
    "a key of X-Wing as long as one of X25519": b"\x01\x64\x7a" + GOOD[3:],
    "a key of X-Wing without algorithms": XWING[:1219] + b"\0\0",
    "bytes behind a key of X-Wing": XWING + b"\0",
    "a key of X25519 as long as one of X-Wing": b"\x01\x00\x20" + XWING[3:],
}


@pytest.mark.parametrize("what", BAD_CONFIGS)
def test_a_key_configuration_is_refused_with(what: str) -> None:
    assert code_of(lambda: ohttp_client.decode_config(BAD_CONFIGS[what])) == "ohttp.malformed"


@pytest.mark.parametrize("data", [b"\0", b"\0\x29" + GOOD[:-1], b"\0\1\0", (b"\0\x29" + GOOD) * 17])
def test_a_list_of_configurations_is_refused(data: bytes) -> None:
    assert code_of(lambda: ohttp_client.decode_configs(data)) == "ohttp.malformed"
