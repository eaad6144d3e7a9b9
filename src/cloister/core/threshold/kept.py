"""What a member of a ceremony keeps on disk, whole, after every step (spec/gatekeepers.md G13). Secret: seal it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Final

from cloister.core.encoding import jcs
from cloister.core.encoding.hexes import from_hex, need_bytes, need_fields, need_uint, to_hex
from cloister.core.errors import ThresholdError, define
from cloister.core.threshold.dealing import Ceremony, Dealing, Dealt
from cloister.core.threshold.groups import MAX_MEMBERS
from cloister.core.threshold.shares import KeyShare

MAX_KEPT: Final = 1 << 22
MAX_REASON: Final = 512

OTHER_CEREMONY = define(
    "threshold.other_ceremony",
    ThresholdError,
    check="what was kept belongs to the ceremony that goes on",
    remedy="keep one file per ceremony; never deal in a ceremony from another one's file",
    status=409,
)
BAD_KEPT = define(
    "threshold.kept",
    ThresholdError,
    check="what a member kept of a ceremony reads back as it was written",
    remedy="the disk was damaged or changed; this member sits the ceremony out",
    status=500,
)


@dataclass(frozen=True, slots=True)
class Kept:
    """binding: of the ceremony (32 bytes). private: transport key (32 bytes). dealt: our dealing and polynomial.

    dealings: those that have their committed digest. share: ours, once made. ended: the first block at which we saw
    the end. aborted: why this member gave up, or "".
    """

    binding: bytes
    private: bytes | None = field(default=None, repr=False)
    dealt: Dealt | None = None
    dealings: tuple[Dealing, ...] = ()
    share: KeyShare | None = field(default=None, repr=False)
    ended: int | None = None
    aborted: str = ""

    @classmethod
    def fresh(cls, ceremony: Ceremony, private: bytes | None) -> Kept:
        """What a member has when the ceremony opens: its transport key, or None if it is no receiver."""
        return cls(ceremony.binding, None if private is None else need_bytes("transport private key", private, 32))

    def require_for(self, ceremony: Ceremony) -> None:
        """Raise ThresholdError (threshold.other_ceremony) unless it was kept in this ceremony."""
        if self.binding != ceremony.binding:
            raise OTHER_CEREMONY(expected=to_hex(ceremony.binding), found=to_hex(self.binding))

    def with_(self, **changes: Any) -> Kept:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def to_bytes(self) -> bytes:
        """Canonical JSON with every secret inside: for sealing at rest only, never for a log or a wire."""
        return jcs.encode(
            {
                "binding": to_hex(self.binding),
                "private": None if self.private is None else to_hex(self.private),
                "dealt": None if self.dealt is None else to_hex(self.dealt.to_bytes()),
                "dealings": [dealing.to_json() for dealing in self.dealings],
                "share": None if self.share is None else to_hex(self.share.to_bytes()),
                "ended": self.ended,
                "aborted": self.aborted,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Kept:
        """Parse ``to_bytes`` output. Raises EncodingError, ThresholdError."""
        names = {"binding", "private", "dealt", "dealings", "share", "ended", "aborted"}
        body = need_fields("kept", jcs.decode(data, max_size=MAX_KEPT), names)
        dealings, ended, aborted = body["dealings"], body["ended"], body["aborted"]
        if not isinstance(dealings, list) or len(dealings) > MAX_MEMBERS:
            raise BAD_KEPT(expected=f"a list of at most {MAX_MEMBERS} dealings", found=type(dealings).__name__)
        if not isinstance(aborted, str) or len(aborted) > MAX_REASON:
            raise BAD_KEPT(expected="a short reason", found=type(aborted).__name__)
        dealt, share = _blob(body, "dealt"), _blob(body, "share")
        private = body["private"]
        return cls(
            from_hex(body["binding"], 32, name="binding"),
            None if private is None else from_hex(private, 32, name="private"),
            None if dealt is None else Dealt.from_bytes(dealt),
            tuple(Dealing.from_json(item) for item in dealings),
            None if share is None else KeyShare.from_bytes(share),
            None if ended is None else need_uint("ended", ended, 64),
            aborted,
        )


def _blob(body: dict[str, Any], name: str) -> bytes | None:
    return None if body[name] is None else from_hex(body[name], name=name)
