"""What a ceremony leaves behind in public: who dealt to whom, and the dealings of the qualified set.

The 32-byte transcript hash on chain commits to all of it (spec/gatekeepers.md G11). So whoever holds that hash and the
MPK by proof takes the share keys of a term from anybody: a new member that is to receive shares, and clients.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloister.core.encoding import jcs
from cloister.core.encoding.hexes import from_hex, need_bytes, need_fields, need_uint, to_hex
from cloister.core.errors import ThresholdError, define
from cloister.core.threshold.dealing import BAD_CEREMONY, Ceremony, Dealing, Member, transcript_of
from cloister.core.threshold.dkg import replay_over
from cloister.core.threshold.groups import MAX_MEMBERS
from cloister.core.threshold.reshare import Resharing
from cloister.core.threshold.shares import PublicShares

MAX_TRANSCRIPT = 1 << 22

OTHER_TRANSCRIPT = define(
    "threshold.transcript",
    ThresholdError,
    check="a ceremony's public record has the transcript hash and the master key that stand on chain",
    remedy="ask another member for it; who sent this one lies or mixed up two ceremonies",
)


@dataclass(frozen=True, slots=True)
class Transcript:
    """A finished ceremony: the ceremony, and the dealings of Q by dealer."""

    ceremony: Ceremony
    dealings: Mapping[int, Dealing]

    def hash(self) -> bytes:
        """The transcript hash that follows from the record: 32 bytes."""
        digests = {index: dealing.digest(self.ceremony) for index, dealing in self.dealings.items()}
        return transcript_of(self.ceremony, digests)

    def public_shares(self, transcript: bytes, mpk: bytes) -> PublicShares:
        """The share keys of the term. ``transcript``, ``mpk``: as proven on chain. Raises ThresholdError.

        1. the record has this hash: so it is the very ceremony that t receivers confirmed; 2. the dealings verify and
        give shares; 3. their master key is the proven one.
        """
        if not hmac.compare_digest(self.hash(), need_bytes("transcript", transcript, 32)):  # 1
            raise OTHER_TRANSCRIPT(expected=to_hex(transcript), found=to_hex(self.hash()))
        committed = {index: dealing.digest(self.ceremony) for index, dealing in self.dealings.items()}
        public = replay_over(self.ceremony, self.dealings, committed)  # 2
        if public.mpk != mpk:  # 3
            raise OTHER_TRANSCRIPT(expected=f"MPK {to_hex(mpk)[:18]}…", found=to_hex(public.mpk)[:18] + "…")
        return public

    def to_json(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return {
            "ceremony": ceremony_to_json(self.ceremony),
            "dealings": [self.dealings[index].to_json() for index in sorted(self.dealings)],
        }

    @classmethod
    def from_json(cls, value: object) -> Transcript:
        """Parse ``to_json`` output. Raises EncodingError, ThresholdError."""
        data = need_fields("transcript", value, {"ceremony", "dealings"})
        items = data["dealings"]
        if not isinstance(items, list) or len(items) > MAX_MEMBERS:
            raise BAD_CEREMONY(expected=f"at most {MAX_MEMBERS} dealings", found=type(items).__name__)
        dealings = [Dealing.from_json(item) for item in items]
        if len({dealing.dealer for dealing in dealings}) != len(dealings):
            raise BAD_CEREMONY(expected="one dealing per dealer", found="two of one")
        return cls(ceremony_from_json(data["ceremony"]), {dealing.dealer: dealing for dealing in dealings})

    def to_bytes(self) -> bytes:
        """Canonical JSON; nothing in it is secret."""
        return jcs.encode(self.to_json())

    @classmethod
    def from_bytes(cls, data: bytes) -> Transcript:
        """Parse ``to_bytes`` output. Raises EncodingError, ThresholdError."""
        return cls.from_json(jcs.decode(data, max_size=MAX_TRANSCRIPT))


def ceremony_to_json(ceremony: Ceremony) -> dict[str, Any]:
    """Everything that the binding of a ceremony commits to. ``old`` is null but in a resharing."""
    old: dict[str, Any] | None = None
    if isinstance(ceremony, Resharing):
        old = {
            "threshold": ceremony.old_threshold,
            "members": [to_hex(member) for member in ceremony.old_members],
            "public": ceremony.old.to_json(),
        }
    return {
        "id": to_hex(ceremony.id),
        "threshold": ceremony.threshold,
        "term": ceremony.term,
        "members": [{"address": to_hex(m.address), "key": to_hex(m.dkg_key)} for m in ceremony.members],
        "old": old,
    }


def ceremony_from_json(value: object) -> Ceremony:
    """Parse ``ceremony_to_json`` output. Raises EncodingError, ThresholdError."""
    data = need_fields("ceremony", value, {"id", "threshold", "term", "members", "old"})
    members = tuple(_member(i, item) for i, item in enumerate(_few("members", data["members"]), 1))
    base = (
        from_hex(data["id"], 32, name="ceremony id"),
        need_uint("threshold", data["threshold"], 16),
        members,
        need_uint("term", data["term"], 64),
    )
    if data["old"] is None:
        return Ceremony(*base)
    old = need_fields("old committee", data["old"], {"threshold", "members", "public"})
    return Resharing(
        *base,
        old=PublicShares.from_json(old["public"]),
        old_threshold=need_uint("old threshold", old["threshold"], 16),
        old_members=tuple(from_hex(item, 20, name="old member") for item in _few("old members", old["members"])),
    )


def _member(index: int, value: object) -> Member:
    data = need_fields("member", value, {"address", "key"})
    return Member(index, from_hex(data["address"], 20, name="address"), from_hex(data["key"], 32, name="key"))


def _few(name: str, value: object) -> list[Any]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MEMBERS:
        raise BAD_CEREMONY(expected=f"{name}: a list of 1 to {MAX_MEMBERS}", found=type(value).__name__)
    return value
