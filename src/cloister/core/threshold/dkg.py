"""Distributed key generation: Feldman VSS from every member, commit before reveal (spec/sharing.md 1-3).

``deal`` makes one member's dealing, ``verify_dealing`` checks what everybody can check, ``finish`` gives a member its
share and ``replay`` gives an outsider the public result. Nobody ever holds the master secret, and no function here
puts shares together. Order and phases of a ceremony are in ``ceremony.py``.

Share transport is HPKE base mode (RFC 9180) DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM to per-ceremony
keys. The HPKE library draws its ephemeral key from the operating system, not from ``rng``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from py_arkworks_bls12381 import G2Point, Scalar

from cloister.core.encoding.contexts import Context, digest, frame
from cloister.core.encoding.hexes import from_hex, need_bytes, need_fields, need_uint, to_hex
from cloister.core.errors import CloisterError, ThresholdError, define
from cloister.core.threshold.groups import (
    G2,
    G2_SIZE,
    MAX_MEMBERS,
    Rng,
    g2_evaluate,
    g2_from_bytes,
    g2_sum,
    hash_to_scalar,
    random_scalar,
    scalar_bytes,
    scalar_from_bytes,
    to_bytes,
)
from cloister.core.threshold.shares import KeyShare, PublicShares

__all__ = [
    "Ceremony",
    "Dealing",
    "KeyShare",
    "Member",
    "PublicShares",
    "check_digest",
    "deal",
    "finish",
    "own_key",
    "replay",
    "verify_dealing",
]

PROOF_SIZE: Final = 64
SHARE_SIZE: Final = 32 + 32 + 16  # HPKE encapsulation, the share, the tag
_SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)

BAD_CEREMONY = define(
    "threshold.ceremony",
    ThresholdError,
    check="a ceremony has members 1..n in order, distinct addresses and transport keys, and 1 <= t <= n <= 64",
    remedy="build the ceremony from the proven chain records only",
)
BAD_SHAPE = define(
    "threshold.dealing_shape",
    ThresholdError,
    check="a dealing has t commitments, n shares and the dealer's index",
    remedy="ask the dealer again; a dealing is for one ceremony",
)
BAD_PROOF = define(
    "threshold.possession",
    ThresholdError,
    check="the dealer proves that it knows the secret behind its first commitment, for this ceremony",
    remedy="abort and remove this dealer: the key was copied, replayed or made from others' keys",
)
DEALING_CHANGED = define(
    "threshold.dealing_changed",
    ThresholdError,
    check="a dealing has the digest that its dealer put on chain before any dealing was shown",
    remedy="ask the dealer itself; if it repeats, abort and remove the dealer",
)
DEALINGS_MISSING = define(
    "threshold.dealings_missing",
    ThresholdError,
    check="there is one dealing and one committed digest for every member, and for nobody else",
    remedy="wait for the members named, or abort at the deadline",
)
BAD_SHARE = define(
    "threshold.bad_share",
    ThresholdError,
    check="the share that a dealer sent opens, and fits the dealer's commitments",
    remedy="abort, keep the dealing as evidence, and start again without this dealer",
)
BAD_TRANSPORT_KEY = define(
    "threshold.transport_key",
    ThresholdError,
    check="a member's per-ceremony X25519 key is usable, and our private key is the half of ours",
    remedy="the member registers a fresh key in a new ceremony",
)
DEGENERATE = define(
    "threshold.degenerate",
    ThresholdError,
    check="the master key and every share key differ from the identity",
    remedy="abort: honest dealings give this with negligible chance",
)


@dataclass(frozen=True, slots=True)
class Member:
    """One seat: index 1..n, EVM address (20 bytes), X25519 public key made for this ceremony alone (32 bytes)."""

    index: int
    address: bytes
    dkg_key: bytes

    def __post_init__(self) -> None:
        need_uint("member index", self.index, 16)
        need_bytes("member address", self.address, 20)
        need_bytes("member transport key", self.dkg_key, 32)


@dataclass(frozen=True, slots=True)
class Ceremony:
    """Who deals: an id (32 bytes, never used twice), the threshold t, members 1..n in order. Raises ThresholdError."""

    id: bytes
    threshold: int
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        need_bytes("ceremony id", self.id, 32)
        n = len(self.members)
        if not 1 <= n <= MAX_MEMBERS or not 1 <= need_uint("threshold", self.threshold, 16) <= n:
            raise BAD_CEREMONY(expected="1 <= t <= n <= 64", found=f"t = {self.threshold}, n = {n}")
        if [m.index for m in self.members] != list(range(1, n + 1)):
            raise BAD_CEREMONY(expected="indexes 1..n in order", found="others")
        if len({m.address for m in self.members}) != n or len({m.dkg_key for m in self.members}) != n:
            raise BAD_CEREMONY(expected="distinct addresses and transport keys", found="one used twice")

    @property
    def binding(self) -> bytes:
        """32 bytes that commit to id, threshold and every member: two views of who deals never mix."""
        seats = [m.index.to_bytes(2, "big") + m.address + m.dkg_key for m in self.members]
        return digest(Context.DKG_CEREMONY, self.id, self.threshold.to_bytes(2, "big"), *seats)

    def member(self, index: int) -> Member:
        """The member with this index. Raises ThresholdError."""
        if not 1 <= need_uint("member index", index, 16) <= len(self.members):
            raise BAD_CEREMONY(expected=f"a member index in 1..{len(self.members)}", found=str(index))
        return self.members[index - 1]


@dataclass(frozen=True, slots=True)
class Dealing:
    """One member's contribution: t commitments (96 bytes), proof of possession (64), n sealed shares (80 each).

    Nothing in it is secret. Sizes are checked here (EncodingError, ThresholdError), the rest by ``verify_dealing``.
    """

    dealer: int
    commitments: tuple[bytes, ...]
    proof: bytes
    shares: tuple[bytes, ...]

    def __post_init__(self) -> None:
        need_uint("dealer", self.dealer, 16)
        need_bytes("proof", self.proof, PROOF_SIZE)
        for name, items, size in (("commitments", self.commitments, G2_SIZE), ("shares", self.shares, SHARE_SIZE)):
            if not isinstance(items, tuple) or not 1 <= len(items) <= MAX_MEMBERS:
                raise BAD_SHAPE(expected=f"1 to {MAX_MEMBERS} {name}", found="another number")
            for item in items:
                need_bytes(name, item, size)

    def digest(self, ceremony: Ceremony) -> bytes:
        """The 32 bytes that the dealer puts on chain before anybody shows a dealing (spec/sharing.md 2)."""
        parts = (b"".join(self.commitments), self.proof, b"".join(self.shares))
        return digest(Context.DKG_DEALING, ceremony.binding, self.dealer.to_bytes(2, "big"), *parts)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return {
            "dealer": self.dealer,
            "commitments": [to_hex(item) for item in self.commitments],
            "proof": to_hex(self.proof),
            "shares": [to_hex(item) for item in self.shares],
        }

    @classmethod
    def from_json(cls, value: object) -> Dealing:
        """Parse ``to_json`` output. Raises EncodingError, ThresholdError."""
        data = need_fields("dealing", value, {"dealer", "commitments", "proof", "shares"})
        return cls(
            need_uint("dealer", data["dealer"], 16),
            _hex_list("commitments", data["commitments"], G2_SIZE),
            from_hex(data["proof"], PROOF_SIZE, name="proof"),
            _hex_list("shares", data["shares"], SHARE_SIZE),
        )


def deal(ceremony: Ceremony, index: int, rng: Rng) -> Dealing:
    """A fresh dealing of member ``index``. The polynomial lives and dies in this call. Raises ThresholdError.

    1. draw t coefficients; 2. commit to each; 3. prove possession of the first; 4. seal f(j) to every member j.
    """
    ceremony.member(index)
    polynomial = [random_scalar(rng) for _ in range(ceremony.threshold)]  # 1
    commitments = tuple(to_bytes(G2 * a) for a in polynomial)  # 2
    proof = _prove(ceremony, index, commitments, polynomial[0], random_scalar(rng))  # 3
    shares = tuple(  # 4
        _seal_share(ceremony, index, member, commitments, _evaluate(polynomial, member.index))
        for member in ceremony.members
    )
    return Dealing(index, commitments, proof, shares)


def verify_dealing(ceremony: Ceremony, dealing: Dealing) -> None:
    """Check what everybody can check. Raises ThresholdError.

    1. dealer, t and n fit the ceremony; 2. every commitment is a good point; 3. the proof of possession holds.
    Sealed shares are checked by their receivers, in ``finish``.
    """
    _commitments(ceremony, dealing)


def finish(
    ceremony: Ceremony,
    dealings: Mapping[int, Dealing],
    committed: Mapping[int, bytes],
    my_index: int,
    dkg_private: bytes,
) -> KeyShare:
    """Member ``my_index``'s share and the public result. Raises ThresholdError, with the dealer named.

    1. our private key (X25519, 32 bytes) is the half of our registered key; 2-4. as ``replay``; 5. every share sent to
    us opens; 6. the sum fits our share key; if not, the dealers whose shares do not fit are named.
    """
    private = own_key(ceremony, my_index, dkg_private)  # 1
    public = replay(ceremony, dealings, committed)  # 2-4
    received = {dealer: _open_share(ceremony, dealings[dealer], my_index, private) for dealer in sorted(dealings)}  # 5
    total = Scalar(0)
    for value in received.values():
        total = total + value
    if total.is_zero() or to_bytes(G2 * total) != public.share_key(my_index):  # 6
        _name_dealers(ceremony, dealings, my_index, received)
    return KeyShare(my_index, scalar_bytes(total), public)


def replay(ceremony: Ceremony, dealings: Mapping[int, Dealing], committed: Mapping[int, bytes]) -> PublicShares:
    """The public result, from public data alone: MPK, share keys, transcript. Raises ThresholdError.

    ``committed`` are the digests that were on chain before the reveal.
    2. a dealing and a digest from every member; 3. each dealing has its digest; 4. each dealing verifies.
    """
    _all_present(ceremony, dealings, committed)  # 2
    for index in sorted(dealings):  # 3
        check_digest(ceremony, index, dealings[index], committed[index])
    points = [_commitments(ceremony, dealings[index]) for index in sorted(dealings)]  # 4
    joint = [g2_sum([row[k] for row in points]) for k in range(ceremony.threshold)]
    keys = [g2_evaluate(joint, member.index) for member in ceremony.members]
    try:
        mpk, share_keys = to_bytes(joint[0]), tuple(to_bytes(key) for key in keys)
    except CloisterError:
        raise DEGENERATE(expected="keys other than the identity", found="the identity") from None
    return PublicShares(mpk, share_keys, _transcript(ceremony, committed))


def own_key(ceremony: Ceremony, my_index: int, dkg_private: bytes) -> X25519PrivateKey:
    """The X25519 key of 32 private bytes. Raises ThresholdError unless it is the half of member ``my_index``'s key."""
    private = X25519PrivateKey.from_private_bytes(need_bytes("transport private key", dkg_private, 32))
    if private.public_key().public_bytes_raw() != ceremony.member(my_index).dkg_key:
        raise BAD_TRANSPORT_KEY(expected=f"the private half of member {my_index}'s key", found="another key")
    return private


def check_digest(ceremony: Ceremony, index: int, dealing: Dealing, committed: bytes) -> None:
    """Raise ThresholdError unless the dealing is ``index``'s and has the digest that was committed."""
    if dealing.dealer != index:
        raise DEALING_CHANGED(expected=f"the dealing of member {index}", found=f"that of {dealing.dealer}")
    found = dealing.digest(ceremony)
    if found != committed:
        raise DEALING_CHANGED(expected=f"digest {to_hex(committed)} of member {index}", found=to_hex(found))


def _all_present(ceremony: Ceremony, dealings: Mapping[int, Dealing], committed: Mapping[int, bytes]) -> None:
    wanted = {member.index for member in ceremony.members}
    for name, given in (("dealings", dealings), ("digests", committed)):
        missing, strange = sorted(wanted - set(given)), sorted(set(given) - wanted)
        if missing or strange:
            raise DEALINGS_MISSING(
                expected=f"{name} of members 1..{len(wanted)}", found=f"missing {missing}, strangers {strange}"
            )


def _transcript(ceremony: Ceremony, committed: Mapping[int, bytes]) -> bytes:
    return digest(Context.DKG_TRANSCRIPT, ceremony.binding, *(committed[i] for i in sorted(committed)))


@lru_cache(maxsize=MAX_MEMBERS)
def _commitments(ceremony: Ceremony, dealing: Dealing) -> tuple[G2Point, ...]:
    """The checked points of a dealing; public data, so the cache saves a second check in ``finish``."""
    n, t = len(ceremony.members), ceremony.threshold
    if not 1 <= dealing.dealer <= n or len(dealing.commitments) != t or len(dealing.shares) != n:  # 1
        found = f"dealer {dealing.dealer}, {len(dealing.commitments)} and {len(dealing.shares)}"
        raise BAD_SHAPE(expected=f"dealer in 1..{n}, {t} commitments, {n} shares", found=found)
    name = f"commitment of dealer {dealing.dealer}"
    points = tuple(g2_from_bytes(item, name) for item in dealing.commitments)  # 2
    _check_proof(ceremony, dealing, points[0])  # 3
    return points


# Proof of possession: Schnorr in G2, challenge bound to ceremony, dealer and all commitments (spec/sharing.md 1).


def _challenge(ceremony: Ceremony, dealer: int, commitments: Sequence[bytes], nonce: bytes) -> Scalar:
    return hash_to_scalar(Context.DKG_PROOF, ceremony.binding, dealer.to_bytes(2, "big"), b"".join(commitments), nonce)


def _prove(ceremony: Ceremony, dealer: int, commitments: Sequence[bytes], secret: Scalar, nonce: Scalar) -> bytes:
    challenge = _challenge(ceremony, dealer, commitments, to_bytes(G2 * nonce))
    return scalar_bytes(challenge) + scalar_bytes(nonce + challenge * secret)


def _check_proof(ceremony: Ceremony, dealing: Dealing, first: G2Point) -> None:
    name = f"a proof of dealer {dealing.dealer}"
    try:
        challenge = scalar_from_bytes(dealing.proof[:32])
        answer = scalar_from_bytes(dealing.proof[32:])
        nonce = to_bytes(G2 * answer - first * challenge)
    except CloisterError:
        raise BAD_PROOF(expected=name, found="no proof at all") from None
    if _challenge(ceremony, dealing.dealer, dealing.commitments, nonce) != challenge:
        raise BAD_PROOF(expected=name, found="a proof of something else")


# Shares: f(j) for member j, sealed to j's key of this ceremony.


def _evaluate(polynomial: Sequence[Scalar], x: int) -> Scalar:
    at, total = Scalar(x), Scalar(0)
    for coefficient in reversed(polynomial):
        total = total * at + coefficient
    return total


def _info(ceremony: Ceremony, dealer: int, receiver: int, commitments: Sequence[bytes]) -> bytes:
    pair = (dealer.to_bytes(2, "big"), receiver.to_bytes(2, "big"))
    hashed = hashlib.sha256(b"".join(commitments)).digest()
    return frame(Context.DKG_SHARE_TRANSPORT, ceremony.binding, *pair, hashed)


def _seal_share(ceremony: Ceremony, dealer: int, to: Member, commitments: Sequence[bytes], value: Scalar) -> bytes:
    info = _info(ceremony, dealer, to.index, commitments)
    try:
        return _SUITE.encrypt(scalar_bytes(value), X25519PublicKey.from_public_bytes(to.dkg_key), info)
    except ValueError:
        raise BAD_TRANSPORT_KEY(expected=f"a usable key of member {to.index}", found="a weak point") from None


def _open_share(ceremony: Ceremony, dealing: Dealing, me: int, private: X25519PrivateKey) -> Scalar:
    info = _info(ceremony, dealing.dealer, me, dealing.commitments)
    try:
        return scalar_from_bytes(_SUITE.decrypt(dealing.shares[me - 1], private, info))
    except (InvalidTag, ValueError, CloisterError):
        raise BAD_SHARE(
            expected=f"a share for member {me} from dealer {dealing.dealer}", found="a ciphertext that does not open"
        ) from None


def _name_dealers(ceremony: Ceremony, dealings: Mapping[int, Dealing], me: int, received: Mapping[int, Scalar]) -> None:
    bad = [
        dealer
        for dealer, value in received.items()
        if G2 * value != g2_evaluate(_commitments(ceremony, dealings[dealer]), me)
    ]
    raise BAD_SHARE(expected="shares that fit the commitments", found=f"wrong shares from dealers {bad}")


def _hex_list(name: str, value: object, size: int) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MEMBERS:
        raise BAD_SHAPE(expected=f"{name} as a list of 1 to {MAX_MEMBERS}", found=type(value).__name__)
    return tuple(from_hex(item, size, name=name) for item in value)
