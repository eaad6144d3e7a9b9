"""What a dealer hands out: who deals to whom, commitments, proof of possession, sealed shares (spec/sharing.md 1).

Shared by key generation (``dkg.py``) and resharing (``reshare.py``).

Share transport is HPKE base mode (RFC 9180) DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM to per-ceremony
keys. The HPKE library draws its ephemeral key from the operating system, not from ``rng``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from py_arkworks_bls12381 import G2Point, Scalar

from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context, digest, frame
from cloister.core.encoding.hexes import from_hex, need_bytes, need_fields, need_uint, to_hex
from cloister.core.errors import CloisterError, ThresholdError, define
from cloister.core.threshold.groups import (
    CHALLENGE_SIZE,
    G2_PLAIN_SIZE,
    MAX_MEMBERS,
    SCALAR_SIZE,
    Rng,
    g2_evaluate,
    g2_from_plain,
    g2_times,
    plain_bytes,
    random_scalar,
    scalar_bytes,
    scalar_from_bytes,
    short_challenge,
    to_bytes,
)

PROOF_SIZE: Final = CHALLENGE_SIZE + SCALAR_SIZE
MAX_DEALT: Final = 1 << 16
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
BAD_SHARE = define(
    "threshold.bad_share",
    ThresholdError,
    check="the share that a dealer sent opens, and fits the dealer's commitments",
    remedy="abort, keep the dealing as evidence, and start again without this dealer",
)
OTHER_SECRET = define(
    "threshold.other_secret",
    ThresholdError,
    check="in a resharing a dealer deals its own share of the term in office, no other secret (R1)",
    remedy="the dealer is not qualified; the others go on without it",
)
BAD_TRANSPORT_KEY = define(
    "threshold.transport_key",
    ThresholdError,
    check="a member's per-ceremony X25519 key is usable, and our private key is the half of ours",
    remedy="the member registers a fresh key in a new ceremony",
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
    """Who deals to whom: an id (32 bytes, never used twice), the threshold t, receivers 1..n in order, the term.

    Here the receivers are the dealers too; a ``Resharing`` has dealers of its own. Raises ThresholdError.
    binding: 32 bytes that commit to all of it, so that two views of who deals never mix; made once.
    """

    id: bytes
    threshold: int
    members: tuple[Member, ...]
    term: int = 1
    binding: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._check()
        object.__setattr__(self, "binding", self._bound())

    def _check(self) -> None:
        need_bytes("ceremony id", self.id, 32)
        need_uint("term", self.term, 64)
        n = len(self.members)
        if not 1 <= n <= MAX_MEMBERS or not 1 <= need_uint("threshold", self.threshold, 16) <= n:
            raise BAD_CEREMONY(expected="1 <= t <= n <= 64", found=f"t = {self.threshold}, n = {n}")
        if [m.index for m in self.members] != list(range(1, n + 1)):
            raise BAD_CEREMONY(expected="indexes 1..n in order", found="others")
        if len({m.address for m in self.members}) != n or len({m.dkg_key for m in self.members}) != n:
            raise BAD_CEREMONY(expected="distinct addresses and transport keys", found="one used twice")

    @property
    def dealers(self) -> int:
        """How many dealers there are: 1..dealers."""
        return len(self.members)

    @property
    def quorum(self) -> int:
        """How many dealers must be qualified (spec/gatekeepers.md G9)."""
        return self.threshold

    def _bound(self) -> bytes:
        """Over id, threshold and every member."""
        seats = [m.index.to_bytes(2, "big") + m.address + m.dkg_key for m in self.members]
        return digest(Context.DKG_CEREMONY, self.id, self.threshold.to_bytes(2, "big"), *seats)

    def member(self, index: int) -> Member:
        """The member with this index. Raises ThresholdError."""
        if not 1 <= need_uint("member index", index, 16) <= len(self.members):
            raise BAD_CEREMONY(expected=f"a member index in 1..{len(self.members)}", found=str(index))
        return self.members[index - 1]

    def constant(self, dealer: int) -> bytes | None:
        """What this dealer's first commitment must be (96 bytes); None: anything that it can prove."""
        return None

    def weights(self, qualified: Sequence[int]) -> list[Scalar] | None:
        """What each qualified dealer's polynomial counts in the joint one; None: one each."""
        return None

    def check_mpk(self, mpk: bytes) -> None:
        """Raise ThresholdError if the ceremony may not end in this master key. Any will do here."""


@dataclass(frozen=True, slots=True)
class Dealing:
    """One member's contribution: t commitments (192 bytes), proof of possession (48), n sealed shares (80 each).

    Nothing in it is secret. Sizes are checked here (EncodingError, ThresholdError), the rest by ``verify_dealing``.
    """

    dealer: int
    commitments: tuple[bytes, ...]
    proof: bytes
    shares: tuple[bytes, ...]

    def __post_init__(self) -> None:
        need_uint("dealer", self.dealer, 16)
        need_bytes("proof", self.proof, PROOF_SIZE)
        for name, items, size in (
            ("commitments", self.commitments, G2_PLAIN_SIZE),
            ("shares", self.shares, SHARE_SIZE),
        ):
            if not isinstance(items, tuple) or not 1 <= len(items) <= MAX_MEMBERS:
                raise BAD_SHAPE(expected=f"1 to {MAX_MEMBERS} {name}", found="another number")
            for item in items:
                need_bytes(name, item, size)

    def digest(self, ceremony: Ceremony) -> bytes:
        """The 32 bytes that the dealer puts on chain before anybody shows a dealing (spec/sharing.md 2)."""
        return hashlib.sha256(self.framed(ceremony)).digest()

    def framed(self, ceremony: Ceremony) -> bytes:
        """The frame of DKG_DEALING whose SHA-256 is the digest: what an accused dealer publishes (G7)."""
        parts = (b"".join(self.commitments), self.proof, b"".join(self.shares))
        return frame(Context.DKG_DEALING, ceremony.binding, self.dealer.to_bytes(2, "big"), *parts)

    @classmethod
    def from_frame(cls, data: bytes) -> Dealing:
        """Read a published frame back. Raises EncodingError, ThresholdError; whose it is, its digest says."""
        parts: list[bytes] = []
        rest = data.removeprefix(Context.DKG_DEALING.lead)
        while rest and len(parts) < 6:
            size = int.from_bytes(rest[:4], "big")
            parts.append(rest[4 : 4 + size])
            rest = rest[4 + size :]
        if rest or len(parts) != 5 or len(parts[1]) != 2:
            raise BAD_SHAPE(expected="the frame of a dealing", found=f"{len(data)} other bytes")
        commitments, shares = _pieces(parts[2], G2_PLAIN_SIZE), _pieces(parts[4], SHARE_SIZE)
        return cls(int.from_bytes(parts[1], "big"), commitments, parts[3], shares)

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
            _hex_list("commitments", data["commitments"], G2_PLAIN_SIZE),
            from_hex(data["proof"], PROOF_SIZE, name="proof"),
            _hex_list("shares", data["shares"], SHARE_SIZE),
        )


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


def transcript_of(ceremony: Ceremony, committed: Mapping[int, bytes]) -> bytes:
    """32 bytes over the digests of the qualified dealers, in order, each with its index (spec/gatekeepers.md G11)."""
    parts = (index.to_bytes(2, "big") + committed[index] for index in sorted(committed))
    return digest(Context.DKG_TRANSCRIPT, ceremony.binding, *parts)


@lru_cache(maxsize=MAX_MEMBERS)
def commitments_of(ceremony: Ceremony, dealing: Dealing) -> tuple[G2Point, ...]:
    """The checked points of a dealing; public data, so the cache saves a second check. Raises ThresholdError.

    1. dealer, t and n fit the ceremony; 2. every commitment is a good point; 3. the first one is what it must be
    (resharing: the dealer's share key); 4. the proof of possession holds.
    """
    n, t = len(ceremony.members), ceremony.threshold
    if not 1 <= dealing.dealer <= ceremony.dealers or len(dealing.commitments) != t or len(dealing.shares) != n:  # 1
        found = f"dealer {dealing.dealer}, {len(dealing.commitments)} and {len(dealing.shares)}"
        raise BAD_SHAPE(expected=f"dealer in 1..{ceremony.dealers}, {t} commitments, {n} shares", found=found)
    name = f"commitment of dealer {dealing.dealer}"
    points = tuple(g2_from_plain(item, name) for item in dealing.commitments)  # 2
    constant = ceremony.constant(dealing.dealer)
    if constant is not None and to_bytes(points[0]) != constant:  # 3
        raise OTHER_SECRET(expected=f"the share key of old member {dealing.dealer}", found="another point")
    _check_proof(ceremony, dealing, points[0])  # 4
    return points


# Proof of possession: Schnorr in G2, challenge bound to ceremony, dealer and all commitments (spec/sharing.md 1).


def _challenge(ceremony: Ceremony, dealer: int, commitments: Sequence[bytes], nonce: bytes) -> bytes:
    return short_challenge(Context.DKG_PROOF, ceremony.binding, dealer.to_bytes(2, "big"), b"".join(commitments), nonce)


def _scalar_of(challenge: bytes) -> Scalar:
    return scalar_from_bytes(bytes(SCALAR_SIZE - CHALLENGE_SIZE) + challenge, "challenge")


def prove(ceremony: Ceremony, dealer: int, commitments: Sequence[bytes], secret: Scalar, nonce: Scalar) -> bytes:
    """48 bytes that prove possession of the first coefficient. The nonce is used once."""
    challenge = _challenge(ceremony, dealer, commitments, plain_bytes(g2_times(nonce)))
    return challenge + scalar_bytes(nonce + _scalar_of(challenge) * secret)


def _check_proof(ceremony: Ceremony, dealing: Dealing, first: G2Point) -> None:
    name = f"a proof of dealer {dealing.dealer}"
    try:
        challenge = dealing.proof[:CHALLENGE_SIZE]
        answer = scalar_from_bytes(dealing.proof[CHALLENGE_SIZE:])
        nonce = plain_bytes(g2_times(answer) - first * _scalar_of(challenge))
    except CloisterError:
        raise BAD_PROOF(expected=name, found="no proof at all") from None
    if _challenge(ceremony, dealing.dealer, dealing.commitments, nonce) != challenge:
        raise BAD_PROOF(expected=name, found="a proof of something else")


# Shares: f(j) for member j, sealed to j's key of this ceremony.


def evaluate(polynomial: Sequence[Scalar], x: int) -> Scalar:
    """f(x) for a member index x, by Horner."""
    at, total = Scalar(x), Scalar(0)
    for coefficient in reversed(polynomial):
        total = total * at + coefficient
    return total


def share_info(ceremony: Ceremony, dealer: int, receiver: int, commitments: Sequence[bytes]) -> bytes:
    """HPKE info of one sealed share: ceremony, dealer, receiver and all commitments."""
    pair = (dealer.to_bytes(2, "big"), receiver.to_bytes(2, "big"))
    hashed = hashlib.sha256(b"".join(commitments)).digest()
    return frame(Context.DKG_SHARE_TRANSPORT, ceremony.binding, *pair, hashed)


def seal_share(ceremony: Ceremony, dealer: int, to: Member, commitments: Sequence[bytes], value: Scalar) -> bytes:
    """80 bytes that only ``to`` can open. Raises ThresholdError if its key is a weak point."""
    info = share_info(ceremony, dealer, to.index, commitments)
    try:
        return _SUITE.encrypt(scalar_bytes(value), X25519PublicKey.from_public_bytes(to.dkg_key), info)
    except ValueError:
        raise BAD_TRANSPORT_KEY(expected=f"a usable key of member {to.index}", found="a weak point") from None


def open_share(ceremony: Ceremony, dealing: Dealing, me: int, private: X25519PrivateKey) -> Scalar:
    """The share that a dealing holds for member ``me``. Raises ThresholdError if it does not open."""
    info = share_info(ceremony, dealing.dealer, me, dealing.commitments)
    try:
        return scalar_from_bytes(_SUITE.decrypt(dealing.shares[me - 1], private, info))
    except (InvalidTag, ValueError, CloisterError):
        raise BAD_SHARE(
            expected=f"a share for member {me} from dealer {dealing.dealer}", found="a ciphertext that does not open"
        ) from None


def require_fit(ceremony: Ceremony, dealing: Dealing, receiver: int, value: Scalar) -> None:
    """Raise ThresholdError unless g2^value is what the dealing's commitments say of this receiver's share."""
    if g2_times(value) != g2_evaluate(commitments_of(ceremony, dealing), receiver):
        found = f"wrong shares from dealers [{dealing.dealer}]"
        raise BAD_SHARE(expected=f"a share for member {receiver} that fits the commitments", found=found)


@dataclass(frozen=True, slots=True)
class Dealt:
    """A dealer's own side: its dealing, and the polynomial (t scalars of 32 bytes, hidden from repr) behind it.

    The polynomial is kept until no complaint can come, to open shares in public (G7); then it is erased.
    """

    dealing: Dealing
    polynomial: tuple[bytes, ...] = field(repr=False)

    def share(self, receiver: int) -> bytes:
        """f(receiver), 32 bytes. Raises ThresholdError for a value that no receiver takes (zero)."""
        coefficients = [scalar_from_bytes(item, "coefficient") for item in self.polynomial]
        value = scalar_bytes(evaluate(coefficients, receiver))
        scalar_from_bytes(value, "opened share")
        return value

    def to_bytes(self) -> bytes:
        """Canonical JSON with the polynomial inside: for sealing at rest only, never for a log or a wire."""
        return jcs.encode({"dealing": self.dealing.to_json(), "polynomial": [to_hex(a) for a in self.polynomial]})

    @classmethod
    def from_bytes(cls, data: bytes) -> Dealt:
        """Parse ``to_bytes`` output; the polynomial must be that of the commitments. Raises CloisterError."""
        body = need_fields("dealt", jcs.decode(data, max_size=MAX_DEALT), {"dealing", "polynomial"})
        dealing = Dealing.from_json(body["dealing"])
        polynomial = _hex_list("polynomial", body["polynomial"], SCALAR_SIZE)
        points = tuple(plain_bytes(g2_times(scalar_from_bytes(a, "coefficient"))) for a in polynomial)
        if points != dealing.commitments:
            raise BAD_SHAPE(expected="the polynomial behind the commitments", found="another")
        return cls(dealing, polynomial)


def make_dealing(
    ceremony: Ceremony, index: int, rng: Rng, *, first: Scalar | None = None, strict: bool = True
) -> Dealt:
    """A fresh dealing of dealer ``index``. Raises ThresholdError.

    1. draw t coefficients (the first may be given: a share that is dealt again); 2. commit to each; 3. prove possession
    of the first; 4. seal f(j) to every receiver j. A receiver whose transport key is unusable stops a strict dealing,
    and gets 80 zero bytes in any other: it must not be able to stop the committee (G2).
    """
    drawn = [random_scalar(rng) for _ in range(ceremony.threshold - (first is not None))]  # 1
    polynomial = drawn if first is None else [first, *drawn]
    commitments = tuple(plain_bytes(g2_times(a)) for a in polynomial)  # 2
    proof = prove(ceremony, index, commitments, polynomial[0], random_scalar(rng))  # 3
    shares = []
    for member in ceremony.members:  # 4
        try:
            shares.append(seal_share(ceremony, index, member, commitments, evaluate(polynomial, member.index)))
        except ThresholdError:
            if strict:
                raise
            shares.append(bytes(SHARE_SIZE))
    return Dealt(Dealing(index, commitments, proof, tuple(shares)), tuple(scalar_bytes(a) for a in polynomial))


def _pieces(data: bytes, size: int) -> tuple[bytes, ...]:
    return tuple(data[i : i + size] for i in range(0, len(data), size))


def _hex_list(name: str, value: object, size: int) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MEMBERS:
        raise BAD_SHAPE(expected=f"{name} as a list of 1 to {MAX_MEMBERS}", found=type(value).__name__)
    return tuple(from_hex(item, size, name=name) for item in value)
