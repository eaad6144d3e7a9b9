"""spec/vectors/sharing.json: our code gives it, and a second implementation (py_ecc, hashlib, pyhpke) agrees."""

from __future__ import annotations

import hashlib
import hmac
import importlib.util
import json
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from py_ecc import optimized_bls12_381 as ecc
from py_ecc.bls.hash_to_curve import hash_to_G1
from py_ecc.bls.point_compression import compress_G1, compress_G2, decompress_G1, decompress_G2
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey

from cloister.core.encoding.contexts import Context, frame
from cloister.core.keys.seal import open_sealed
from cloister.core.threshold import groups as g
from cloister.core.threshold.dkg import Ceremony, Dealing, Member, PublicShares, finish, replay
from cloister.core.threshold.ibe import DerivedKey, decrypt
from cloister.core.threshold.partial import Partial, TransportKey, recover

SHA256: Any = hashlib.sha256
G1, G2, add, multiply = ecc.G1, ecc.G2, ecc.add, ecc.multiply  # type: ignore[attr-defined]
FQ2, b2, is_on_curve = ecc.FQ2, ecc.b2, ecc.is_on_curve  # type: ignore[attr-defined]
normalize, pairing, curve_order = ecc.normalize, ecc.pairing, ecc.curve_order  # type: ignore[attr-defined]

VECTORS = Path(__file__).parents[4] / "spec" / "vectors"
FILE: dict[str, Any] = json.loads((VECTORS / "sharing.json").read_text())
CEREMONY, DERIVATION, IBE = FILE["ceremony"], FILE["derivation"], FILE["ibe"]
FIELD = 0x1A0111EA397FE69A4B1BA7B6434BACD764774B84F38512BF6730D2A0F6B0F6241EABFFFEB153FFFFB9FEFFFFFFFFAAAB


def raw(text: str) -> bytes:
    return bytes.fromhex(text[2:])


MPK, IDENTITY = raw(CEREMONY["public"]["mpk"]), raw(DERIVATION["identity"])


# Our code gives the file


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gen_sharing", VECTORS / "gen_sharing.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generator_still_gives_the_file() -> None:
    assert _generator().build() == FILE


def _ceremony() -> tuple[Ceremony, dict[int, Dealing], dict[int, bytes]]:
    members = tuple(Member(m["index"], raw(m["address"]), raw(m["dkg_key"])) for m in CEREMONY["members"])
    dealings = {d["dealer"]: Dealing.from_json(d) for d in CEREMONY["dealings"]}
    digests = dict(enumerate(map(raw, CEREMONY["digests"]), 1))
    return Ceremony(raw(CEREMONY["id"]), CEREMONY["threshold"], members), dealings, digests


def test_we_replay_the_ceremony_from_the_file() -> None:
    ceremony, dealings, digests = _ceremony()
    public = PublicShares.from_json(CEREMONY["public"])
    assert replay(ceremony, dealings, digests) == public
    for member, secret in zip(CEREMONY["members"], CEREMONY["secrets"], strict=True):
        share = finish(ceremony, dealings, digests, member["index"], raw(member["dkg_private"]))
        assert (share.secret, share.public) == (raw(secret), public)


def test_we_recover_open_and_unseal_from_the_file() -> None:
    transport = TransportKey(raw(DERIVATION["transport_public"]), raw(DERIVATION["transport_private"]))
    partials = [Partial.from_json(p) for p in DERIVATION["partials"]]
    key = recover(partials[1:], CEREMONY["threshold"], PublicShares.from_json(CEREMONY["public"]), IDENTITY, transport)
    assert key == DerivedKey(raw(DERIVATION["key"]))
    assert decrypt(key, MPK, IDENTITY, raw(IBE["ciphertext"]), raw(IBE["aad"])) == raw(IBE["message"])
    blob, sealing = FILE["seal"]["blob"], Context(FILE["seal"]["context"])
    assert open_sealed(raw(FILE["seal"]["key"]), sealing, raw(FILE["seal"]["aad"]), raw(blob)) == b"plain"


# The second implementation agrees


def sha(context: str, *parts: bytes) -> bytes:
    return hashlib.sha256(framed(context, *parts)).digest()


def framed(context: str, *parts: bytes) -> bytes:
    return context.encode() + b"\0" + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def to_scalar(context: str, *parts: bytes) -> int:
    return int.from_bytes(hashlib.sha512(framed(context, *parts)).digest()[:48], "big") % int(curve_order)


def hkdf(ikm: bytes, salt: bytes, info: bytes) -> bytes:
    return hmac.digest(hmac.digest(salt or bytes(32), ikm, "sha256"), info + b"\x01", "sha256")


def g1_bytes(point: Any) -> bytes:
    return int(compress_G1(point)).to_bytes(48, "big")


def g2_bytes(point: Any) -> bytes:
    high, low = compress_G2(point)
    return int(high).to_bytes(48, "big") + int(low).to_bytes(48, "big")


def g1_point(data: bytes) -> Any:
    return decompress_G1(int.from_bytes(data, "big"))  # type: ignore[arg-type]


def g2_point(data: bytes) -> Any:
    return decompress_G2((int.from_bytes(data[:48], "big"), int.from_bytes(data[48:], "big")))  # type: ignore[arg-type]


def plain_g2_point(data: bytes) -> Any:
    """x.c0, x.c1, y.c0, y.c1 of 48 bytes each."""
    n = [int.from_bytes(data[at : at + 48], "big") for at in range(0, 192, 48)]
    point = (FQ2(n[:2]), FQ2(n[2:]), FQ2.one())
    assert is_on_curve(point, b2)
    return point


def plain_g2_bytes(point: Any) -> bytes:
    x, y = normalize(point)
    return b"".join(int(c).to_bytes(48, "big") for c in (*x.coeffs, *y.coeffs))


def gt_bytes(p: Any, q: Any) -> bytes:
    """spec/sharing.md 6. py_ecc: exponent (p^12 - 1)/r, positive x, Fp12 = Fp[w]/(w^12 - 2 w^6 + 2), u = w^6 - 1."""
    value = (pairing(q, p) ** 3).inv()
    flat = [int(c) for c in value.coeffs]
    order = [(half + 2 * i) for half in (0, 1) for i in range(3)]
    pairs = [((flat[k] + flat[k + 6]) % FIELD, flat[k + 6]) for k in order]
    return b"".join(c.to_bytes(48, "little") for pair in pairs for c in pair)


@lru_cache(maxsize=1)
def h_of_identity() -> Any:
    return hash_to_G1(IDENTITY, FILE["dst"].encode(), SHA256)


def lagrange(indexes: list[int]) -> list[int]:
    result = []
    for i in indexes:
        above, below = 1, 1
        for j in indexes:
            if i != j:
                above, below = above * j % curve_order, below * (j - i) % curve_order
        result.append(above * pow(below, -1, curve_order) % curve_order)
    return result


def master_secret(indexes: list[int]) -> int:
    """Only a test may put shares together."""
    shares = [int(CEREMONY["secrets"][i - 1], 16) for i in indexes]
    return sum(w * s for w, s in zip(lagrange(indexes), shares, strict=True)) % int(curve_order)


def test_hash_to_curve_and_the_derived_key_agree() -> None:
    h = h_of_identity()
    assert g1_bytes(h) == raw(DERIVATION["h"])
    assert g1_bytes(multiply(h, master_secret([1, 3, 4]))) == raw(DERIVATION["key"])


def test_the_master_key_agrees_with_every_t_shares() -> None:
    secret = master_secret([1, 2, 3])
    assert {master_secret(s) for s in ([1, 2, 4], [2, 3, 4], [4, 1, 3])} == {secret}
    assert master_secret([1, 2]) != secret
    assert g2_bytes(multiply(G2, secret)) == MPK
    firsts = [plain_g2_point(raw(d["commitments"][0])) for d in CEREMONY["dealings"]]
    total = firsts[0]
    for point in firsts[1:]:
        total = add(total, point)
    assert g2_bytes(total) == MPK


def test_lagrange_agrees() -> None:
    for indexes in ([1], [1, 2, 3], [2, 5, 64], [7, 1, 9, 30]):
        assert [int(x) for x in g.lagrange_at_zero(indexes)] == lagrange(indexes)


def test_every_share_key_is_its_shares() -> None:
    for secret, key in zip(CEREMONY["secrets"], CEREMONY["public"]["share_keys"], strict=True):
        assert g2_bytes(multiply(G2, int(secret, 16))) == raw(key)


def test_binding_digests_and_transcript_agree() -> None:
    seats = [m["index"].to_bytes(2, "big") + raw(m["address"]) + raw(m["dkg_key"]) for m in CEREMONY["members"]]
    binding = sha("cloister/v1/dkg/ceremony", raw(CEREMONY["id"]), b"\0\3", *seats)
    assert binding == raw(CEREMONY["binding"])
    digests = []
    for d in CEREMONY["dealings"]:
        joined = [b"".join(map(raw, d[name])) for name in ("commitments", "shares")]
        index = d["dealer"].to_bytes(2, "big")
        digests.append(sha("cloister/v1/dkg/dealing", binding, index, joined[0], raw(d["proof"]), joined[1]))
    assert digests == [raw(digest) for digest in CEREMONY["digests"]]
    named = [index.to_bytes(2, "big") + digest for index, digest in enumerate(digests, 1)]
    assert sha("cloister/v1/dkg/transcript", binding, *named) == raw(CEREMONY["public"]["transcript"])


def test_the_proof_of_possession_agrees() -> None:
    dealing = CEREMONY["dealings"][1]
    c, z = int(dealing["proof"][2:34], 16), int(dealing["proof"][34:], 16)
    first = plain_g2_point(raw(dealing["commitments"][0]))
    nonce = plain_g2_bytes(add(multiply(G2, z), multiply(first, int(curve_order) - c)))
    joined = b"".join(map(raw, dealing["commitments"]))
    said = framed("cloister/v1/dkg/proof-of-possession", raw(CEREMONY["binding"]), b"\0\2", joined, nonce)
    assert int.from_bytes(hashlib.sha512(said).digest()[:16], "big") == c


def test_sealed_shares_open_with_pyhpke() -> None:
    suite = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES256_GCM)
    total = 0
    key = X25519PrivateKey.from_private_bytes(raw(CEREMONY["members"][1]["dkg_private"]))
    for d in CEREMONY["dealings"]:
        joined = hashlib.sha256(b"".join(map(raw, d["commitments"]))).digest()
        parts = (raw(CEREMONY["binding"]), d["dealer"].to_bytes(2, "big"), b"\0\2", joined)
        info = framed("cloister/v1/dkg/share-transport", *parts)
        sealed = raw(d["shares"][1])
        context = suite.create_recipient_context(sealed[:32], KEMKey.from_pyca_cryptography_key(key), info)
        total += int.from_bytes(context.open(sealed[32:]), "big")
    assert total % int(curve_order) == int(CEREMONY["secrets"][1], 16)


def test_a_partial_opens_to_the_share_of_the_key() -> None:
    partial, x = DERIVATION["partials"][2], int(DERIVATION["transport_private"], 16)
    mask = multiply(g1_point(raw(partial["e1"])), int(curve_order) - x)
    assert g1_bytes(multiply(G1, x)) == raw(DERIVATION["transport_public"])
    opened = add(g1_point(raw(partial["e3"])), mask)
    assert normalize(opened) == normalize(multiply(h_of_identity(), int(CEREMONY["secrets"][2], 16)))


def test_symmetric_keys_and_scalars_agree() -> None:
    s = DERIVATION["symmetric"]
    info = framed("cloister/v1/derived-key", s["context"].encode(), raw(s["info"]))
    assert hkdf(raw(DERIVATION["key"]), b"", info) == raw(s["key"])
    scalar = FILE["scalar"]
    assert to_scalar(scalar["context"], *map(raw, scalar["parts"])) == int(scalar["value"], 16)
    assert framed("cloister/v1/secrets", b"a", b"") == frame(Context.SECRETS, b"a", b"")


def test_the_identity_based_ciphertext_agrees() -> None:
    """Both ways at once: built from sigma with the public key, mask from the holder's pairing."""
    ciphertext, sigma = raw(IBE["ciphertext"]), raw(IBE["sigma"])
    aad, message = raw(IBE["aad"]), raw(IBE["message"])
    r = to_scalar("cloister/v1/ibe/scalar", sigma, MPK, IDENTITY, aad, message)
    u = g2_bytes(multiply(G2, r))
    pairing_bytes = gt_bytes(g1_point(raw(DERIVATION["key"])), g2_point(u))
    v = bytes(a ^ b for a, b in zip(sigma, sha("cloister/v1/ibe/mask", pairing_bytes), strict=True))
    key = hkdf(sigma, b"", framed("cloister/v1/ibe/body", u))
    bound = framed("cloister/v1/ibe/ciphertext", MPK, IDENTITY, aad, u, v)
    assert ciphertext == b"\x01" + u + v + AESGCM(key).encrypt(bytes(12), message, bound)


def test_pairing_bytes_agree() -> None:
    found = gt_bytes(G1, G2)
    assert found == g.pairing_bytes(g.G1, g.G2)
    assert hashlib.sha256(found).digest() == raw(FILE["gt_generator_sha256"])


@pytest.mark.parametrize("identity", [b"a", b"\0" * 300])
def test_hash_to_curve_agrees_on_other_identities(identity: bytes) -> None:
    assert g1_bytes(hash_to_G1(identity, g.DST, SHA256)) == g.to_bytes(g.hash_identity(identity))
