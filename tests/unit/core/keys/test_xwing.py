"""X-Wing: the draft's published answer, the library's own X-Wing, and what altered keys and encapsulations come to."""

from __future__ import annotations

import os
from hashlib import shake_256

import pytest
from cryptography.hazmat.primitives import hpke as library
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.errors import CloisterError
from cloister.core.keys import hpke
from cloister.core.keys.xwing import ENC_SIZE, PUBLIC_SIZE, SEED_SIZE, XWingKey, encapsulate

# draft-connolly-cfrg-xwing-kem-10, appendix C, first vector: seed, both ends of the public key, ct, ss.
SEED = "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26"
PUBLIC_ENDS = (
    "e2236b35a8c24b39b10aa1323a96a919a2ced88400633a7b07131713fc14b2b5",
    "2ea179fe722f06cc03de5b69859edb06eff389b27dce59844570216223593d4ba32d9abac8cd049040ef6534",
)
SHARED = "d2df0522128f09dd8e2c92b1e905c793d8f57a54c3da25861f10bf4ca613e384"
ENC = """
b83aa828d4d62b9a83ceffe1d3d3bb1ef31264643c070c5798927e41fb07914a273f8f96
e7826cd5375a283d7da885304c5de0516a0f0654243dc5b97f8bfeb831f68251219aabdd
723bc6512041acbaef8af44265524942b902e68ffd23221cda70b1b55d776a92d1143ea3
a0c475f63ee6890157c7116dae3f62bf72f60acd2bb8cc31ce2ba0de364f52b8ed38c79d
719715963a5dd3842d8e8b43ab704e4759b5327bf027c63c8fa857c4908d5a8a7b88ac7f
2be394d93c3706ddd4e698cc6ce370101f4d0213254238b4a2e8821b6e414a1cf20f6c12
44b699046f5a01caa0a1a55516300b40d2048c77cc73afba79afeea9d2c0118bdf2adb88
70dc328c5516cc45b1a2058141039e2c90a110a9e16b318dfb53bd49a126d6b73f215787
517b8917cc01cabd107d06859854ee8b4f9861c226d3764c87339ab16c3667d2f49384e5
5456dd40414b70a6af841585f4c90c68725d57704ee8ee7ce6e2f9be582dbee985e038ff
c346ebfb4e22158b6c84374a9ab4a44e1f91de5aac5197f89bc5e5442f51f9a5937b102b
a3beaebf6e1c58380a4a5fedce4a4e5026f88f528f59ffd2db41752b3a3d90efabe46389
9b7d40870c530c8841e8712b733668ed033adbfafb2d49d37a44d4064e5863eb0af0a08d
47b3cc888373bc05f7a33b841bc2587c57eb69554e8a3767b7506917b6b70498727f16ea
c1a36ec8d8cfaf751549f2277db277e8a55a9a5106b23a0206b4721fa9b3048552c5bd5b
594d6e247f38c18c591aea7f56249c72ce7b117afcc3a8621582f9cf71787e183dee0936
7976e98409ad9217a497df888042384d7707a6b78f5f7fb8409e3b535175373461b77600
2d799cbad62860be70573ecbe13b246e0da7e93a52168e0fb6a9756b895ef7f0147a0dc8
1bfa644b088a9228160c0f9acf1379a2941cd28c06ebc80e44e17aa2f8177010afd78a97
ce0868d1629ebb294c5151812c583daeb88685220f4da9118112e07041fcc24d5564a99f
dbde28869fe0722387d7a9a4d16e1cc8555917e09944aa5ebaaaec2cf62693afad42a3f5
18fce67d273cc6c9fb5472b380e8573ec7de06a3ba2fd5f931d725b493026cb0acbd3fe6
2d00e4c790d965d7a03a3c0b4222ba8c2a9a16e2ac658f572ae0e746eafc4feba023576f
08942278a041fb82a70a595d5bacbf297ce2029898a71e5c3b0d1c6228b485b1ade509b3
5fbca7eca97b2132e7cb6bc465375146b7dceac969308ac0c2ac89e7863eb8943015b243
14cafb9c7c0e85fe543d56658c213632599efabfc1ec49dd8c88547bb2cc40c9d38cbd30
99b4547840560531d0188cd1e9c23a0ebee0a03d5577d66b1d2bcb4baaf21cc7fef1e038
06ca96299df0dfbc56e1b2b43e4fc20c37f834c4af62127e7dae86c3c25a2f696ac8b589
dec71d595bfbe94b5ed4bc07d800b330796fda89edb77be0294136139354eb8cd3759157
8f9c600dd9be8ec6219fdd507adf3397ed4d68707b8d13b24ce4cd8fb22851bfe9d63240
7f31ed6f7cb1600de56f17576740ce2a32fc5145030145cfb97e63e0e41d354274a079d3
e6fb2e15
"""
KEY = XWingKey(bytes(range(32)))


def code(work: object) -> str:
    with pytest.raises(CloisterError) as caught:
        work()  # type: ignore[operator]
    return caught.value.code


def test_the_drafts_answer_is_reproduced() -> None:
    key = XWingKey(bytes.fromhex(SEED))
    assert len(key.public) == PUBLIC_SIZE
    assert key.public.hex().startswith(PUBLIC_ENDS[0])
    assert key.public.hex().endswith(PUBLIC_ENDS[1])
    assert key.decapsulate(bytes.fromhex(ENC)).hex() == SHARED


@settings(max_examples=20)
@given(seed=st.binary(min_size=32, max_size=32))
def test_both_ends_share_a_secret(seed: bytes) -> None:
    key = XWingKey(seed)
    enc, shared = encapsulate(key.public, os.urandom)
    assert (len(enc), len(shared)) == (ENC_SIZE, 32)
    assert key.decapsulate(enc) == shared
    assert encapsulate(key.public, os.urandom)[1] != shared


def test_the_librarys_own_x_wing_opens_ours() -> None:
    """HPKE in base mode under the same suite: an implementation that is not ours."""
    mlkem, x25519 = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
    private = library.MLKEM768X25519PrivateKey(mlkem, x25519)
    public = mlkem.public_key().public_bytes_raw() + x25519.public_key().public_bytes_raw()
    enc, ours = hpke.setup_sender(public, b"info", rng=os.urandom)
    suite = library.Suite(library.KEM.MLKEM768_X25519, library.KDF.HKDF_SHA256, library.AEAD.AES_256_GCM)
    assert suite.decrypt(enc + ours.seal_at(0, b"", b"hello"), private, b"info") == b"hello"


def test_we_open_what_the_librarys_own_x_wing_sealed() -> None:
    expanded = shake_256(bytes(range(32))).digest(96)
    x25519 = X25519PrivateKey.from_private_bytes(expanded[64:])
    private = library.MLKEM768X25519PrivateKey(MLKEM768PrivateKey.from_seed_bytes(expanded[:64]), x25519)
    suite = library.Suite(library.KEM.MLKEM768_X25519, library.KDF.HKDF_SHA256, library.AEAD.AES_256_GCM)
    sealed = suite.encrypt(b"hello", private.public_key(), b"info")
    context = hpke.setup_recipient(sealed[:ENC_SIZE], KEY, b"info")
    assert context.open_at(0, b"", sealed[ENC_SIZE:]) == b"hello"


@pytest.mark.parametrize("part", ["mlkem", "x25519"])
def test_an_altered_encapsulation_gives_another_secret(part: str) -> None:
    enc, shared = encapsulate(KEY.public, os.urandom)
    for at in range(0, 1088, 97) if part == "mlkem" else range(1088, 1119, 7):
        altered = bytearray(enc)
        altered[at] ^= 1
        assert KEY.decapsulate(bytes(altered)) != shared


def test_a_point_of_low_order_is_refused_on_both_sides() -> None:
    enc, _ = encapsulate(KEY.public, os.urandom)
    assert code(lambda: KEY.decapsulate(enc[:1088] + bytes(32))) == "seal.xwing_key"
    assert code(lambda: encapsulate(KEY.public[:1184] + bytes(32), os.urandom)) == "seal.xwing_key"


def test_a_public_key_whose_numbers_are_too_large_is_refused() -> None:
    """FIPS 203 7.2: the modulus check."""
    assert code(lambda: encapsulate(b"\xff" * 1184 + KEY.public[1184:], os.urandom)) == "seal.xwing_key"


@pytest.mark.parametrize("change", [-1, 1, -100])
def test_sizes_are_exact(change: int) -> None:
    assert code(lambda: XWingKey(bytes(SEED_SIZE + change) if SEED_SIZE + change > 0 else b"")) == "encoding.size"
    assert code(lambda: encapsulate(bytes(PUBLIC_SIZE + change), os.urandom)) == "encoding.size"
    assert code(lambda: KEY.decapsulate(bytes(ENC_SIZE + change))) == "encoding.size"


def test_a_key_does_not_show_itself() -> None:
    assert repr(KEY) == f"XWingKey(0x{KEY.public[-32:].hex()})"
    assert bytes(range(32)).hex() not in repr(KEY)


# --- as a KEM of HPKE ---


@pytest.mark.parametrize("psk", [None, b"p" * 32])
def test_contexts_of_both_ends_agree_in_everything(psk: bytes | None) -> None:
    name = b"name" if psk else b""
    enc, sender = hpke.setup_sender(KEY.public, b"info", psk=psk, psk_id=name, rng=os.urandom)
    recipient = hpke.Recipient(KEY, b"info")
    context = recipient.context(enc, psk=psk, psk_id=name)
    assert recipient.public == KEY.public
    assert context.open_at(7, b"aad", sender.seal_at(7, b"aad", b"text")) == b"text"
    for size in (32, 100):
        assert context.export(b"label", size) == sender.export(b"label", size)


@pytest.mark.parametrize(
    ("why", "info", "psk", "name"),
    [
        ("another info", b"other", b"p" * 32, b"name"),
        ("another psk", b"info", b"q" * 32, b"name"),
        ("another name of the psk", b"info", b"p" * 32, b"other"),
        ("no psk", b"info", None, b""),
    ],
)
def test_another_set_up_opens_nothing(why: str, info: bytes, psk: bytes | None, name: bytes) -> None:
    enc, sender = hpke.setup_sender(KEY.public, b"info", psk=b"p" * 32, psk_id=b"name", rng=os.urandom)
    context = hpke.setup_recipient(enc, KEY, info, psk=psk, psk_id=name)
    assert code(lambda: context.open_at(0, b"", sender.seal_at(0, b"", b"text"))) == "seal.hpke_open", why


def test_the_suites_are_separate_although_the_secret_is_the_same() -> None:
    shared = os.urandom(32)
    info = hpke._extract(b"", b"info_hash", b"")
    classic, hybrid = (hpke._schedule(shared, info, None, b"", suite) for suite in (hpke._SUITE, hpke._XWING))
    assert classic.export(b"x", 32) != hybrid.export(b"x", 32)
    assert code(lambda: hybrid.open_at(0, b"", classic.seal_at(0, b"", b"text"))) == "seal.hpke_open"


@settings(max_examples=60)
@given(public=st.binary(min_size=0, max_size=1300))
def test_garbage_is_no_public_key(public: bytes) -> None:
    assert code(lambda: encapsulate(public, os.urandom)) in ("encoding.size", "seal.xwing_key")
