"""Writes sharing.json: known answers for spec/sharing.md, from a fixed random source.

Run it from the repository root: ``python spec/vectors/gen_sharing.py``. Every secret in it is a test value.
The sealed shares are made again with pyhpke and fixed ephemeral keys, because our HPKE library draws its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMKey, KEMKeyPair

from cloister.core.encoding.contexts import Context, frame
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.identity import AgentVersion, Purpose
from cloister.core.keys.seal import seal
from cloister.core.threshold import groups as g
from cloister.core.threshold.dkg import Ceremony, Dealing, KeyShare, Member, deal, finish
from cloister.core.threshold.ibe import DerivedKey, encrypt
from cloister.core.threshold.partial import TransportKey, evaluate, recover

PATH = Path(__file__).with_name("sharing.json")
N, T = 4, 3
SUITE = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES256_GCM)


def stream(seed: str) -> Callable[[int], bytes]:
    """SHAKE-256 of seed and call number."""
    calls = 0

    def read(size: int) -> bytes:
        nonlocal calls
        calls += 1
        return hashlib.shake_256(f"{seed}/{calls}".encode()).digest(size)

    return read


def info_of(ceremony: Ceremony, dealing: Dealing, receiver: int) -> bytes:
    """HPKE info of one sealed share, written out from spec/sharing.md 1."""
    joined = b"".join(dealing.commitments)
    indexes = (dealing.dealer.to_bytes(2, "big"), receiver.to_bytes(2, "big"))
    return frame(Context.DKG_SHARE_TRANSPORT, ceremony.binding, *indexes, hashlib.sha256(joined).digest())


def _sealed_again(ceremony: Ceremony, dealing: Dealing, keys: list[X25519PrivateKey]) -> Dealing:
    ours, shares = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM), []
    for receiver, key in enumerate(keys, 1):
        info = info_of(ceremony, dealing, receiver)
        value = ours.decrypt(dealing.shares[receiver - 1], key, info)
        ephemeral = X25519PrivateKey.from_private_bytes(stream(f"hpke/{dealing.dealer}/{receiver}")(32))
        pair = KEMKeyPair(
            KEMKey.from_pyca_cryptography_key(ephemeral), KEMKey.from_pyca_cryptography_key(ephemeral.public_key())
        )
        to = KEMKey.from_pyca_cryptography_key(key.public_key())
        enc, context = SUITE.create_sender_context(to, info, eks=pair)
        shares.append(enc + context.seal(value))
    return replace(dealing, shares=tuple(shares))


def _ceremony() -> tuple[dict[str, Any], list[KeyShare]]:
    rng = stream("ceremony")
    keys = [X25519PrivateKey.from_private_bytes(rng(32)) for _ in range(N)]
    members = tuple(Member(i, rng(20), key.public_key().public_bytes_raw()) for i, key in enumerate(keys, 1))
    ceremony = Ceremony(rng(32), T, members)
    dealings = {i: _sealed_again(ceremony, deal(ceremony, i, rng), keys) for i in range(1, N + 1)}
    committed = {i: dealing.digest(ceremony) for i, dealing in dealings.items()}
    shares = [finish(ceremony, dealings, committed, i, key.private_bytes_raw()) for i, key in enumerate(keys, 1)]
    seats = [
        {"index": m.index, "address": to_hex(m.address), "dkg_key": to_hex(m.dkg_key), "dkg_private": to_hex(raw)}
        for m, raw in zip(members, (key.private_bytes_raw() for key in keys), strict=True)
    ]
    fields = {
        "id": to_hex(ceremony.id),
        "threshold": T,
        "members": seats,
        "binding": to_hex(ceremony.binding),
        "dealings": [dealing.to_json() for dealing in dealings.values()],
        "digests": [to_hex(digest) for digest in committed.values()],
        "public": shares[0].public.to_json(),
        "secrets": [to_hex(share.secret) for share in shares],
    }
    return fields, shares


def _derivation(shares: list[KeyShare], identity: bytes) -> tuple[dict[str, Any], DerivedKey]:
    rng = stream("derivation")
    transport = TransportKey.generate(rng)
    partials = [evaluate(share, identity, transport.public, rng) for share in shares]
    key = recover(partials, T, shares[0].public, identity, transport)
    fields = {
        "identity": to_hex(identity),
        "h": to_hex(g.to_bytes(g.hash_identity(identity))),
        "transport_private": to_hex(transport.private),
        "transport_public": to_hex(transport.public),
        "partials": [partial.to_json() for partial in partials],
        "key": to_hex(key.point),
        "symmetric": {
            "context": Context.SECRETS.value,
            "info": to_hex(b"slot 1"),
            "key": to_hex(key.symmetric(Context.SECRETS, b"slot 1")),
        },
    }
    return fields, key


def build() -> dict[str, Any]:
    """The whole file as a JSON value."""
    ceremony, shares = _ceremony()
    agent = AgentVersion(b"\x01" * 32, 1, b"\x02" * 32, 0, b"\x03" * 32, 7)
    identity = bytes(agent.key(Purpose.SECRETS))
    derivation, key = _derivation(shares, identity)
    mpk, sealing = shares[0].public.mpk, stream("ibe")
    sealed = encrypt(mpk, identity, b"an API key", b"slot 1", sealing)
    rng = stream("seal")
    blob = seal(key.symmetric(Context.SECRETS, b"slot 1"), Context.SECRETS, b"place", b"plain", rng)
    return {
        "dst": g.DST.decode(),
        "scalar": {
            "context": Context.IBE_SCALAR.value,
            "parts": [to_hex(b"one"), to_hex(b"")],
            "value": to_hex(g.scalar_bytes(g.hash_to_scalar(Context.IBE_SCALAR, b"one", b""))),
        },
        "gt_generator_sha256": to_hex(hashlib.sha256(g.pairing_bytes(g.G1, g.G2)).digest()),
        "ceremony": ceremony,
        "derivation": derivation,
        "ibe": {
            "sigma": to_hex(stream("ibe")(32)),
            "message": to_hex(b"an API key"),
            "aad": to_hex(b"slot 1"),
            "ciphertext": to_hex(sealed),
        },
        "seal": {
            "key": derivation["symmetric"]["key"],
            "context": Context.SECRETS.value,
            "aad": to_hex(b"place"),
            "plaintext": to_hex(b"plain"),
            "blob": to_hex(blob),
        },
    }


if __name__ == "__main__":
    PATH.write_text(json.dumps(build(), indent=1) + "\n")
