"""Write spec/vectors/sharing.json: known answers for spec/sharing.md and gatekeepers.md R1-R2, from a fixed source.

    python spec/vectors/gen_sharing.py           write the file
    python spec/vectors/gen_sharing.py --check   exit 1 if the file differs

Every secret in it is a test value. Second checkers: py_ecc and pyhpke (tests/unit/core/threshold), noble-curves
(sdk/typescript/tests/threshold.test.ts). The sealed shares are made again with pyhpke and fixed ephemeral keys,
because our HPKE library draws its own.
"""

from __future__ import annotations

import hashlib
import json
import sys
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
from cloister.core.threshold.dkg import Ceremony, Dealing, KeyShare, Member, deal, finish, finish_over
from cloister.core.threshold.ibe import DerivedKey, encrypt
from cloister.core.threshold.partial import Partial, TransportKey, evaluate, recover
from cloister.core.threshold.reshare import Resharing, deal_again

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


def _sealed_again(ceremony: Ceremony, dealing: Dealing, keys: list[X25519PrivateKey], seed: str = "hpke") -> Dealing:
    ours, shares = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM), []
    for receiver, key in enumerate(keys, 1):
        info = info_of(ceremony, dealing, receiver)
        value = ours.decrypt(dealing.shares[receiver - 1], key, info)
        ephemeral = X25519PrivateKey.from_private_bytes(stream(f"{seed}/{dealing.dealer}/{receiver}")(32))
        pair = KEMKeyPair(
            KEMKey.from_pyca_cryptography_key(ephemeral), KEMKey.from_pyca_cryptography_key(ephemeral.public_key())
        )
        to = KEMKey.from_pyca_cryptography_key(key.public_key())
        enc, context = SUITE.create_sender_context(to, info, eks=pair)
        shares.append(enc + context.seal(value))
    return replace(dealing, shares=tuple(shares))


def _members(seed: str, count: int) -> tuple[tuple[Member, ...], list[X25519PrivateKey]]:
    rng = stream(seed)
    keys = [X25519PrivateKey.from_private_bytes(rng(32)) for _ in range(count)]
    return tuple(Member(i, rng(20), key.public_key().public_bytes_raw()) for i, key in enumerate(keys, 1)), keys


def _result(
    ceremony: Ceremony, dealings: dict[int, Dealing], shares: list[KeyShare], keys: list[X25519PrivateKey]
) -> dict[str, Any]:
    """What every ceremony has, as JSON."""
    seats = [
        {"index": m.index, "address": to_hex(m.address), "dkg_key": to_hex(m.dkg_key), "dkg_private": to_hex(raw)}
        for m, raw in zip(ceremony.members, (key.private_bytes_raw() for key in keys), strict=True)
    ]
    return {
        "id": to_hex(ceremony.id),
        "threshold": ceremony.threshold,
        "members": seats,
        "binding": to_hex(ceremony.binding),
        "dealings": [dealing.to_json() for dealing in dealings.values()],
        "digests": [to_hex(dealing.digest(ceremony)) for dealing in dealings.values()],
        "public": shares[0].public.to_json(),
        "secrets": [to_hex(share.secret) for share in shares],
    }


def _ceremony() -> tuple[dict[str, Any], list[KeyShare]]:
    rng = stream("ceremony")
    keys = [X25519PrivateKey.from_private_bytes(rng(32)) for _ in range(N)]
    members = tuple(Member(i, rng(20), key.public_key().public_bytes_raw()) for i, key in enumerate(keys, 1))
    ceremony = Ceremony(rng(32), T, members)
    dealings = {i: _sealed_again(ceremony, deal(ceremony, i, rng), keys) for i in range(1, N + 1)}
    committed = {i: dealing.digest(ceremony) for i, dealing in dealings.items()}
    shares = [finish(ceremony, dealings, committed, i, key.private_bytes_raw()) for i, key in enumerate(keys, 1)]
    bent = _bent(ceremony, dealings[1], dealings[2])
    return _result(ceremony, dealings, shares, keys) | {"refused": bent}, shares


def _bent(ceremony: Ceremony, one: Dealing, other: Dealing) -> list[dict[str, Any]]:
    """Dealings that everybody refuses, or that one receiver complains of, each with the code."""
    swapped = (one.shares[1], one.shares[0], *one.shares[2:])
    proof = bytes([*one.proof[:-1], one.proof[-1] ^ 1])
    outside = (one.commitments[0], bytes(192), *one.commitments[2:])
    first = one.commitments[0]
    turned = (first[48:96] + first[:48] + first[144:] + first[96:144], *one.commitments[1:])
    bad = {
        "a proof with one bit changed": (replace(one, proof=proof), 0, "threshold.possession"),
        "another dealer's proof": (replace(one, proof=other.proof), 0, "threshold.possession"),
        "under another dealer's index": (replace(one, dealer=2), 0, "threshold.possession"),
        "another last commitment": (
            replace(one, commitments=(*one.commitments[:-1], other.commitments[-1])), 0, "threshold.possession",
        ),
        "a commitment to nothing": (replace(one, commitments=outside), 0, "threshold.point"),
        "a commitment with its numbers in another order": (replace(one, commitments=turned), 0, "threshold.point"),
        "one commitment less": (replace(one, commitments=one.commitments[:-1]), 0, "threshold.dealing_shape"),
        "shares in another order": (replace(one, shares=swapped), 1, "threshold.bad_share"),
        "a share of another dealing": (replace(one, shares=other.shares), 3, "threshold.bad_share"),
    }  # fmt: skip
    return [
        {"why": why, "dealing": dealing.to_json(), "receiver": receiver, "code": code}
        for why, (dealing, receiver, code) in bad.items()
    ]


def _resharing(old: list[KeyShare], addresses: tuple[bytes, ...]) -> dict[str, Any]:
    """Three of the four deal again to five others, with another threshold: the same key (R1, R2)."""
    members, keys = _members("resharing members", 5)
    ceremony = Resharing(
        stream("resharing")(32), 4, members, 2, old=old[0].public, old_threshold=T, old_members=addresses
    )
    rng, chosen = stream("resharing dealings"), (1, 2, 4)
    dealt = {i: deal_again(ceremony, old[i - 1], rng).dealing for i in chosen}
    dealings = {i: _sealed_again(ceremony, dealing, keys, "hpke again") for i, dealing in dealt.items()}
    committed = {i: dealing.digest(ceremony) for i, dealing in dealings.items()}
    shares = [
        finish_over(ceremony, dealings, committed, {}, i, key.private_bytes_raw()) for i, key in enumerate(keys, 1)
    ]
    return _result(ceremony, dealings, shares, keys)


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
        "refused": _bent_partials(shares[0], identity, partials, transport, rng),
        "symmetric": {
            "context": Context.SECRETS.value,
            "info": to_hex(b"slot 1"),
            "key": to_hex(key.symmetric(Context.SECRETS, b"slot 1")),
        },
    }
    return fields, key


def _bent_partials(
    share: KeyShare, identity: bytes, good: list[Partial], transport: TransportKey, rng: Callable[[int], bytes]
) -> list[dict[str, Any]]:
    """Partials of member 1 that do not fit its share key, the identity or the transport key."""
    other = TransportKey.generate(rng)
    bad = {
        "for another identity": evaluate(share, b"another identity", transport.public, rng),
        "for another transport key": evaluate(share, identity, other.public, rng),
        "of another member": replace(good[1], index=1),
        "with e2 of another r": replace(good[0], e2=good[1].e2),
        "with e1 of another r": replace(good[0], e1=good[1].e1),
        "with e3 negated": replace(good[0], e3=bytes([good[0].e3[0] ^ 0x20]) + good[0].e3[1:]),
    }
    return [{"why": why, "partial": partial.to_json()} for why, partial in bad.items()]


def build() -> dict[str, Any]:
    """The whole file as a JSON value."""
    ceremony, shares = _ceremony()
    addresses = tuple(bytes.fromhex(seat["address"][2:]) for seat in ceremony["members"])
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
        "resharing": _resharing(shares, addresses),
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


def main(arguments: list[str]) -> int:
    """The command line."""
    text = json.dumps(build(), indent=1) + "\n"
    if arguments == ["--check"]:
        same = PATH.read_text(encoding="utf-8") == text
        print("sharing.json matches" if same else "sharing.json differs; run this without --check")
        return 0 if same else 1
    PATH.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
