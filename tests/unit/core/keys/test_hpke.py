"""HPKE: the same bytes as pyhpke in both directions, the RFC's KEM answer, and every refusal."""

from __future__ import annotations

import os
from typing import Any

import pytest
from cryptography.hazmat.primitives import hpke as library
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey

from cloister.core.errors import EncodingError, SealError
from cloister.core.keys import hpke

SUITE = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES256_GCM)
PSK_MODES = [(None, b""), (b"p" * 32, b"name of the key")]
SMALL = st.binary(max_size=200)


def keypair(raw: bytes | None = None) -> tuple[X25519PrivateKey, bytes]:
    key = hpke.private_key(raw or os.urandom(32))
    return key, key.public_key().public_bytes_raw()


def theirs_recipient(enc: bytes, key: X25519PrivateKey, info: bytes, psk: bytes | None, psk_id: bytes) -> Any:
    return SUITE.create_recipient_context(
        enc, KEMKey.from_pyca_cryptography_key(key), info, psk=psk or b"", psk_id=psk_id
    )


def theirs_sender(public: bytes, info: bytes, psk: bytes | None, psk_id: bytes) -> tuple[bytes, Any]:
    key = KEMKey.from_pyca_cryptography_key(X25519PublicKey.from_public_bytes(public))
    return SUITE.create_sender_context(key, info, psk=psk or b"", psk_id=psk_id)


@pytest.mark.parametrize(("psk", "psk_id"), PSK_MODES, ids=["base", "psk"])
def test_pyhpke_opens_what_we_seal_message_by_message(psk: bytes | None, psk_id: bytes) -> None:
    key, public = keypair()
    enc, ours = hpke.setup_sender(public, b"info", psk=psk, psk_id=psk_id, rng=os.urandom)
    other = theirs_recipient(enc, key, b"info", psk, psk_id)
    for seq in range(300):  # crosses a byte of the sequence number
        aad, text = b"aad%d" % seq, b"x" * seq
        assert other.open(ours.seal_at(seq, aad, text), aad) == text
    assert other.export(b"context", 77) == ours.export(b"context", 77)


@pytest.mark.parametrize(("psk", "psk_id"), PSK_MODES, ids=["base", "psk"])
def test_we_open_what_pyhpke_seals_message_by_message(psk: bytes | None, psk_id: bytes) -> None:
    key, public = keypair()
    enc, other = theirs_sender(public, b"info", psk, psk_id)
    ours = hpke.setup_recipient(enc, key, b"info", psk=psk, psk_id=psk_id)
    for seq in range(300):
        assert ours.open_at(seq, b"", other.seal(b"text", b"")) == b"text"
    assert other.export(b"", 32) == ours.export(b"", 32)


@settings(max_examples=40, deadline=None)
@given(info=SMALL, aad=SMALL, text=SMALL, psk=st.none() | st.binary(min_size=32, max_size=80), label=SMALL)
def test_both_implementations_agree_on_any_input(
    info: bytes, aad: bytes, text: bytes, psk: bytes | None, label: bytes
) -> None:
    key, public = keypair()
    psk_id = b"id" if psk else b""
    enc, ours = hpke.setup_sender(public, info, psk=psk, psk_id=psk_id, rng=os.urandom)
    other = theirs_recipient(enc, key, info, psk, psk_id)
    assert other.open(ours.seal_at(0, aad, text), aad) == text
    assert other.export(label, 40) == ours.export(label, 40)


def test_the_librarys_one_shot_mode_opens_our_first_message() -> None:
    key, public = keypair()
    enc, ours = hpke.setup_sender(public, b"info", rng=os.urandom)
    suite = library.Suite(library.KEM.X25519, library.KDF.HKDF_SHA256, library.AEAD.AES_256_GCM)
    assert suite.decrypt(enc + ours.seal_at(0, b"", b"hello"), key, b"info") == b"hello"


def test_kem_gives_the_shared_secret_of_rfc_9180_a_1_1() -> None:
    ephemeral = hpke.private_key(bytes.fromhex("52c4a758a802cd8b936eceea314432798d5baf2d7e9235dc084ab1b9cfa2f736"))
    receiver = bytes.fromhex("3948cfe0ad1ddb695d780e59077195da6c56506b027329794ab02bca80815c4d")
    enc = ephemeral.public_key().public_bytes_raw()
    assert enc.hex() == "37fda3567bdbd628e88668c3c8d7e97d1d1253b6d4ea6d44c150f741f1bf4431"
    expected = "fe0e18c9f024ce43799ae393c7e8fe8fce9d218875e8227b0187c04e7d2ea1fc"
    assert hpke._shared(ephemeral, receiver, enc + receiver).hex() == expected


def test_set_up_is_a_function_of_its_randomness() -> None:
    _, public = keypair(b"\7" * 32)
    first = hpke.setup_sender(public, b"i", rng=lambda n: b"\5" * n)
    again = hpke.setup_sender(public, b"i", rng=lambda n: b"\5" * n)
    assert first[0] == again[0]
    assert first[1].export(b"x", 32) == again[1].export(b"x", 32)


def test_messages_open_in_any_order_by_their_number() -> None:
    key, public = keypair()
    enc, sender = hpke.setup_sender(public, b"", rng=os.urandom)
    receiver = hpke.Recipient(key, b"").context(enc)
    sealed = {seq: sender.seal_at(seq, b"", b"%d" % seq) for seq in (0, 1, 255, 256, 2**32, 2**64 - 1)}
    for seq in sorted(sealed, reverse=True):
        assert receiver.open_at(seq, b"", sealed[seq]) == b"%d" % seq


@pytest.mark.parametrize(
    "sentence",
    ["another info", "another psk", "another psk id", "no psk", "another key", "another number", "another aad"],
)
def test_opening_refuses_when_one_thing_differs(sentence: str) -> None:
    key, public = keypair()
    args: dict[str, Any] = {"psk": b"p" * 32, "psk_id": b"id"}
    enc, sender = hpke.setup_sender(public, b"info", rng=os.urandom, **args)
    sealed = sender.seal_at(3, b"aad", b"text")
    info, seq, aad = b"info", 3, b"aad"
    if sentence == "another info":
        info = b"inf0"
    elif sentence == "another psk":
        args["psk"] = b"q" * 32
    elif sentence == "another psk id":
        args["psk_id"] = b"ie"
    elif sentence == "no psk":
        args = {}
    elif sentence == "another key":
        key, _ = keypair()
    elif sentence == "another number":
        seq = 4
    else:
        aad = b"aae"
    with pytest.raises(SealError, match=r"seal\.hpke_open"):
        hpke.setup_recipient(enc, key, info, **args).open_at(seq, aad, sealed)


def test_every_flipped_byte_of_a_ciphertext_is_refused() -> None:
    key, public = keypair()
    enc, sender = hpke.setup_sender(public, b"", rng=os.urandom)
    receiver, sealed = hpke.setup_recipient(enc, key, b""), sender.seal_at(0, b"", b"some text")
    for i in range(len(sealed)):
        broken = sealed[:i] + bytes([sealed[i] ^ 0x40]) + sealed[i + 1 :]
        with pytest.raises(SealError):
            receiver.open_at(0, b"", broken)


@given(st.binary(max_size=64))
def test_garbage_is_refused_by_name(garbage: bytes) -> None:
    context = hpke.Context(b"k" * 32, b"n" * 12, b"e" * 32)
    with pytest.raises(SealError, match=r"seal\.hpke_open"):
        context.open_at(0, b"", garbage)


LOW_ORDER = ["00" * 32, "01" + "00" * 31, "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"]


@pytest.mark.parametrize("point", LOW_ORDER)
def test_points_of_low_order_are_refused_on_both_sides(point: str) -> None:
    with pytest.raises(SealError, match=r"seal\.hpke_key"):
        hpke.setup_sender(bytes.fromhex(point), b"", rng=os.urandom)
    with pytest.raises(SealError, match=r"seal\.hpke_key"):
        hpke.setup_recipient(bytes.fromhex(point), os.urandom(32), b"")


def test_an_enc_with_its_ignored_top_bit_set_gives_another_context() -> None:
    key, public = keypair()
    enc, sender = hpke.setup_sender(public, b"", rng=os.urandom)
    twin = enc[:31] + bytes([enc[31] ^ 0x80])  # the same point to X25519
    with pytest.raises(SealError):
        hpke.setup_recipient(twin, key, b"").open_at(0, b"", sender.seal_at(0, b"", b""))


@pytest.mark.parametrize(("psk", "psk_id"), [(b"p" * 32, b""), (None, b"id"), (b"short", b"id"), (b"", b"id")], ids=str)
def test_a_psk_needs_its_name_and_its_length(psk: bytes | None, psk_id: bytes) -> None:
    with pytest.raises(SealError, match=r"seal\.hpke_psk"):
        hpke.setup_sender(keypair()[1], b"", psk=psk, psk_id=psk_id, rng=os.urandom)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_keys_of_another_size_are_refused(size: int) -> None:
    with pytest.raises(EncodingError):
        hpke.setup_sender(b"\1" * size, b"", rng=os.urandom)
    with pytest.raises(EncodingError):
        hpke.setup_recipient(b"\1" * size, os.urandom(32), b"")
    with pytest.raises(EncodingError):
        hpke.private_key(b"\1" * size)


@pytest.mark.parametrize("seq", [-1, 2**64])
def test_message_numbers_outside_u64_are_refused(seq: int) -> None:
    context = hpke.Context(b"k" * 32, b"n" * 12, b"e" * 32)
    with pytest.raises(EncodingError):
        context.seal_at(seq, b"", b"")


@pytest.mark.parametrize("length", [0, -1, 255 * 32 + 1])
def test_an_impossible_export_length_is_a_programming_error(length: int) -> None:
    with pytest.raises(ValueError, match="export length"):
        hpke.Context(b"k" * 32, b"n" * 12, b"e" * 32).export(b"", length)


def test_nothing_secret_is_printed() -> None:
    key, public = keypair(b"\7" * 32)
    _, context = hpke.setup_sender(public, b"", rng=os.urandom)
    assert repr(context) == "Context(secret)"
    assert repr(hpke.Recipient(key, b"")) == f"Recipient(0x{public.hex()})"


@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 65, 255 * 32])
def test_exports_of_every_length_are_those_of_pyhpke(length: int) -> None:
    key, public = keypair()
    enc, ours = hpke.setup_sender(public, b"info", rng=os.urandom)
    assert ours.export(b"context", length) == theirs_recipient(enc, key, b"info", None, b"").export(b"context", length)


@pytest.mark.parametrize("length", [0, -1, 255 * 32 + 1])
def test_an_export_of_no_length_or_too_much_is_a_programmers_mistake(length: int) -> None:
    _, public = keypair()
    _, ours = hpke.setup_sender(public, b"info", rng=os.urandom)
    with pytest.raises(ValueError, match="export length"):
        ours.export(b"context", length)


@pytest.mark.parametrize("seq", [0, 1, 2**32, 2**64 - 1])
def test_message_numbers_of_64_bits(seq: int) -> None:
    key, public = keypair()
    enc, ours = hpke.setup_sender(public, b"info", rng=os.urandom)
    other = theirs_recipient(enc, key, b"info", None, b"")
    other._seq = seq
    assert other.open(ours.seal_at(seq, b"", b"text"), b"") == b"text"


@pytest.mark.parametrize("seq", [-1, 2**64, 2**96])
def test_message_numbers_beyond_are_refused_at_both_ends(seq: int) -> None:
    """A number that wrapped would use a nonce again."""
    _, public = keypair()
    _, ours = hpke.setup_sender(public, b"info", rng=os.urandom)
    with pytest.raises(EncodingError, match=r"encoding\.size"):
        ours.seal_at(seq, b"", b"text")
    with pytest.raises(EncodingError, match=r"encoding\.size"):
        ours.open_at(seq, b"", b"text" * 10)


@given(st.sets(st.integers(0, 2**64 - 1), min_size=2, max_size=20))
def test_no_two_numbers_share_a_nonce(numbers: set[int]) -> None:
    context = hpke.Context(b"k" * 32, b"\xa5" * 12, b"e" * 32)
    assert len({context._nonce(seq) for seq in numbers}) == len(numbers)
    assert all(len(context._nonce(seq)) == 12 for seq in numbers)
