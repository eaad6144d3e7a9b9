"""What a ceremony leaves behind: public share keys for everybody, one secret share per member (spec/sharing.md 3)."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import Any

from cloister.core.encoding import jcs
from cloister.core.encoding.hexes import from_hex, need_bytes, need_fields, need_uint, to_hex
from cloister.core.encoding.terms import term_field, term_of
from cloister.core.errors import ThresholdError, define
from cloister.core.threshold.groups import G2_SIZE, MAX_MEMBERS, g2_times, scalar_from_bytes, to_bytes

MAX_JSON = 1 << 16

BAD_SHARE_KEYS = define(
    "threshold.share_keys",
    ThresholdError,
    check=f"public shares hold 1 to {MAX_MEMBERS} share keys and the member asked for is one of them",
    remedy="read the public shares of this network again",
)
SHARE_MISMATCH = define(
    "threshold.share_mismatch",
    ThresholdError,
    check="a secret share belongs to its public share key",
    remedy="the share is from another ceremony or damaged; restore it or wait for a resharing",
    status=500,
)


OTHER_TERM = define(
    "threshold.other_term",
    ThresholdError,
    check="shares, partials and share keys that are used together are of one term (R3)",
    remedy="fetch the committee in office again; what an earlier term holds is of no use in a later one",
    status=409,
)


@dataclass(frozen=True, slots=True)
class PublicShares:
    """MPK (96 bytes), share keys of members 1..n in order (96 bytes each), transcript hash (32 bytes), term.

    Sizes are checked here, points when they are used. Raises EncodingError, ThresholdError.
    """

    mpk: bytes
    share_keys: tuple[bytes, ...]
    transcript: bytes
    term: int = 1

    def __post_init__(self) -> None:
        need_bytes("mpk", self.mpk, G2_SIZE)
        need_bytes("transcript", self.transcript, 32)
        need_uint("term", self.term, 64)
        if not isinstance(self.share_keys, tuple) or not 1 <= len(self.share_keys) <= MAX_MEMBERS:
            raise BAD_SHARE_KEYS(expected=f"1 to {MAX_MEMBERS} share keys", found="another number")
        for key in self.share_keys:
            need_bytes("share key", key, G2_SIZE)

    def __repr__(self) -> str:
        return f"PublicShares(mpk={to_hex(self.mpk)[:18]}…, n={len(self.share_keys)}, term={self.term})"

    def share_key(self, index: int) -> bytes:
        """The share key of member ``index`` (1..n). Raises ThresholdError."""
        if not 1 <= need_uint("index", index, 16) <= len(self.share_keys):
            raise BAD_SHARE_KEYS(expected=f"an index in 1..{len(self.share_keys)}", found=str(index))
        return self.share_keys[index - 1]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready fields."""
        keys = [to_hex(key) for key in self.share_keys]
        body = {"mpk": to_hex(self.mpk), "share_keys": keys, "transcript": to_hex(self.transcript)}
        return body | term_field(self.term)

    @classmethod
    def from_json(cls, value: object) -> PublicShares:
        """Parse ``to_json`` output. Raises EncodingError, ThresholdError."""
        term = term_of("public shares", value)
        data = need_fields("public shares", value, {"mpk", "share_keys", "transcript"} | set(term_field(term)))
        keys = data["share_keys"]
        if not isinstance(keys, list) or len(keys) > MAX_MEMBERS:
            raise BAD_SHARE_KEYS(expected=f"a list of at most {MAX_MEMBERS}", found=type(keys).__name__)
        return cls(
            from_hex(data["mpk"], G2_SIZE, name="mpk"),
            tuple(from_hex(key, G2_SIZE, name="share key") for key in keys),
            from_hex(data["transcript"], 32, name="transcript"),
            term,
        )


@dataclass(frozen=True, slots=True, eq=False)
class KeyShare:
    """Member ``index``'s secret share (32 bytes, hidden from repr) with the public shares it belongs to."""

    index: int
    secret: bytes = field(repr=False)
    public: PublicShares

    def __post_init__(self) -> None:
        self.public.share_key(self.index)
        need_bytes("share", self.secret, 32)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, KeyShare):
            return NotImplemented
        same = hmac.compare_digest(self.secret, other.secret)
        return same and (self.index, self.public) == (other.index, other.public)

    def __hash__(self) -> int:
        return hash((self.index, self.public))

    def verify(self) -> None:
        """Raise ThresholdError unless g2^secret is this member's share key."""
        if to_bytes(g2_times(scalar_from_bytes(self.secret, "share"))) != self.public.share_key(self.index):
            raise SHARE_MISMATCH(expected=f"the share of member {self.index}", found="another value")

    def to_bytes(self) -> bytes:
        """Canonical JSON with the secret inside: for sealing at rest only, never for a log or a wire."""
        body = {"index": self.index, "secret": to_hex(self.secret), "public": self.public.to_json()}
        return jcs.encode(body)

    @classmethod
    def from_bytes(cls, data: bytes) -> KeyShare:
        """Parse ``to_bytes`` output and verify it. Raises EncodingError, ThresholdError."""
        body = need_fields("key share", jcs.decode(data, max_size=MAX_JSON), {"index", "secret", "public"})
        secret = from_hex(body["secret"], 32, name="secret")
        share = cls(need_uint("index", body["index"], 16), secret, PublicShares.from_json(body["public"]))
        share.verify()
        return share
