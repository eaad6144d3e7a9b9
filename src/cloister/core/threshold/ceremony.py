"""A key generation as one member lives it: phases, one transition table, one refusal per rule (spec/sharing.md 2).

::

    COMMIT    digests of dealings go on chain; nobody shows a dealing yet
    REVEAL    every digest is on chain; dealings are asked of their dealers and checked
    CONFIRM   every dealing is in and fits; members confirm (MPK, transcript) on chain
    DONE      all n members confirmed the same: the share may be used
    ABORTED   a guilty dealer, a deadline, or confirmations that differ: nothing of this ceremony is ever used

The machine is driven by proven chain events and by dealings that peers hand over. It has no clock: the caller aborts
at the deadline. It is rebuilt after a crash from what was stored before committing (own dealing, transport private
key) by feeding the chain's events again: events that were seen before and say the same change nothing.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from cloister.core.encoding.hexes import need_bytes, to_hex
from cloister.core.errors import CloisterError, ThresholdError, define
from cloister.core.threshold.dkg import Ceremony, Dealing, KeyShare, check_digest, finish, own_key, verify_dealing
from cloister.core.threshold.groups import G2_SIZE


class Phase(Enum):
    """Where the ceremony stands for this member."""

    COMMIT = "commit"
    REVEAL = "reveal"
    CONFIRM = "confirm"
    DONE = "done"
    ABORTED = "aborted"


class Event(Enum):
    """What can happen."""

    COMMITMENT = "a member's digest on chain"
    DEALING = "a member's dealing"
    CONFIRMATION = "a member's confirmation on chain"
    ABORT = "an abort"


# (phase, event) -> the phase once every member's event of that kind is in. A pair that is absent is refused.
# A fast member may confirm while we still collect dealings; such a confirmation is kept and compared later.
TRANSITIONS: Final[dict[tuple[Phase, Event], Phase]] = {
    (Phase.COMMIT, Event.COMMITMENT): Phase.REVEAL,
    (Phase.REVEAL, Event.DEALING): Phase.CONFIRM,
    (Phase.REVEAL, Event.CONFIRMATION): Phase.REVEAL,
    (Phase.CONFIRM, Event.CONFIRMATION): Phase.DONE,
    (Phase.COMMIT, Event.ABORT): Phase.ABORTED,
    (Phase.REVEAL, Event.ABORT): Phase.ABORTED,
    (Phase.CONFIRM, Event.ABORT): Phase.ABORTED,
}

WRONG_PHASE = define(
    "threshold.wrong_phase",
    ThresholdError,
    check="an event belongs to the phase that the ceremony is in",
    remedy="read the chain up to the same block as the peer, then ask again",
    status=409,
)
TOO_EARLY = define(
    "threshold.too_early",
    ThresholdError,
    check="a dealing is shown only after every member's digest is on chain",
    remedy="wait for the remaining digests; showing it now would let the last member choose the key",
    status=409,
)
COMMITMENT_CHANGED = define(
    "threshold.commitment_changed",
    ThresholdError,
    check="a member commits once and never differently",
    remedy="one of two chain views is wrong; stop and compare endpoints",
)
NOT_MY_COMMITMENT = define(
    "threshold.not_my_commitment",
    ThresholdError,
    check="the digest on chain under our index is that of our own dealing",
    remedy="someone else acts in this seat, or the stored dealing was lost; abort the ceremony",
)
CONFIRMATION_DIFFERS = define(
    "threshold.confirmation_differs",
    ThresholdError,
    check="every member confirms the same master key and transcript",
    remedy="the ceremony is void; keep the dealings as evidence and start again",
)
NOT_CONFIRMED = define(
    "threshold.not_confirmed",
    ThresholdError,
    check="a share is used only after all n members confirmed",
    remedy="wait for the missing confirmations, or abort at the deadline",
    status=409,
)


class Run:
    """One member's side of one ceremony.

    ``dealing`` is this member's own (from ``deal``), stored together with ``dkg_private`` (32 bytes) before its digest
    goes on chain. Attributes: phase; reason: why it was aborted, or "".
    """

    def __init__(self, ceremony: Ceremony, my_index: int, dealing: Dealing, dkg_private: bytes) -> None:
        """Raises ThresholdError if the dealing or the private key is not this member's for this ceremony."""
        own_key(ceremony, my_index, dkg_private)
        verify_dealing(ceremony, dealing)
        self.ceremony, self.my_index, self.phase, self.reason = ceremony, my_index, Phase.COMMIT, ""
        self.digest = dealing.digest(ceremony)
        check_digest(ceremony, my_index, dealing, self.digest)
        self._private: bytes | None = dkg_private
        self._dealing = dealing
        self._committed: dict[int, bytes] = {}
        self._dealings: dict[int, Dealing] = {}
        self._confirmed: dict[int, tuple[bytes, bytes]] = {}
        self._share: KeyShare | None = None

    def __repr__(self) -> str:
        return f"Run(ceremony={to_hex(self.ceremony.id)[:10]}…, member={self.my_index}, phase={self.phase.value})"

    def missing(self) -> list[int]:
        """Indexes that this phase still waits for."""
        waiting: dict[Phase, dict[int, object]] = {
            Phase.COMMIT: dict(self._committed),
            Phase.REVEAL: dict(self._dealings),
            Phase.CONFIRM: dict(self._confirmed),
        }
        have = waiting.get(self.phase)
        return [] if have is None else [m.index for m in self.ceremony.members if m.index not in have]

    def on_commitment(self, index: int, digest: bytes) -> None:
        """A member's digest (32 bytes) was put on chain. Raises ThresholdError.

        A different digest under our own index aborts: the seat is not ours alone.
        """
        self.ceremony.member(index)
        need_bytes("digest", digest, 32)
        if index in self._committed:
            if self._committed[index] != digest:
                raise COMMITMENT_CHANGED(expected=to_hex(self._committed[index]), found=to_hex(digest))
            return
        after = self._allowed(Event.COMMITMENT)
        if index == self.my_index and digest != self.digest:
            raise self._void(NOT_MY_COMMITMENT(expected=to_hex(self.digest), found=to_hex(digest)))
        self._committed[index] = digest
        self._advance(after)
        if self.phase is Phase.REVEAL:
            self.on_dealing(self._dealing)

    def my_dealing(self) -> Dealing:
        """Our dealing, to hand to a member that asks. Raises ThresholdError before every digest is on chain."""
        if self.phase not in (Phase.REVEAL, Phase.CONFIRM, Phase.DONE):
            raise TOO_EARLY(expected="phase reveal or later", found=f"phase {self.phase.value}")
        return self._dealing

    def on_dealing(self, dealing: Dealing) -> None:
        """A dealing came in. Raises ThresholdError.

        1. its digest is the committed one (else only refused: a carrier may have lied); 2. it verifies; 3. with the
        last one, our shares open and fit. A failure in 2 or 3 proves the dealer's guilt and aborts.
        """
        if self._dealings.get(dealing.dealer) == dealing:
            return
        if self.phase is Phase.COMMIT:
            raise TOO_EARLY(expected="every digest on chain first", found=f"missing {self.missing()}")
        after = self._allowed(Event.DEALING)
        self.ceremony.member(dealing.dealer)
        check_digest(self.ceremony, dealing.dealer, dealing, self._committed[dealing.dealer])  # 1
        try:
            verify_dealing(self.ceremony, dealing)  # 2
            self._dealings[dealing.dealer] = dealing
            if not self.missing():
                self._finish()  # 3
        except CloisterError as error:
            raise self._void(error) from None
        self._advance(after)
        if self.phase is Phase.CONFIRM:
            self._compare()

    def confirmation(self) -> tuple[bytes, bytes]:
        """(MPK, transcript) to confirm on chain. Store ``share_to_store`` durably first. Raises ThresholdError."""
        share = self.share_to_store()
        return share.public.mpk, share.public.transcript

    def on_confirmation(self, index: int, mpk: bytes, transcript: bytes) -> None:
        """A member confirmed on chain. Raises ThresholdError, and aborts, if members confirm different results."""
        self.ceremony.member(index)
        said = (need_bytes("mpk", mpk, G2_SIZE), need_bytes("transcript", transcript, 32))
        if self._confirmed.get(index) == said:
            return
        self._allowed(Event.CONFIRMATION)
        if index in self._confirmed:
            raise self._void(CONFIRMATION_DIFFERS(expected=f"one confirmation of member {index}", found="two"))
        self._confirmed[index] = said
        if self.phase is Phase.CONFIRM:
            self._compare()

    def share_to_store(self) -> KeyShare:
        """Our share, to be sealed at rest before we confirm. Raises ThresholdError outside CONFIRM and DONE."""
        if self._share is None or self.phase not in (Phase.CONFIRM, Phase.DONE):
            raise NOT_CONFIRMED(expected="phase confirm or later", found=f"phase {self.phase.value}")
        return self._share

    def share(self) -> KeyShare:
        """Our share, to be used. Raises ThresholdError before all n members confirmed."""
        if self._share is None or self.phase is not Phase.DONE:
            raise NOT_CONFIRMED(expected="phase done", found=f"phase {self.phase.value}, missing {self.missing()}")
        return self._share

    def abort(self, reason: str) -> None:
        """Give the ceremony up (deadline, order of the chain). Raises ThresholdError once it is DONE or ABORTED."""
        self._advance(self._allowed(Event.ABORT), force=True)
        self.reason = reason

    def _allowed(self, event: Event) -> Phase:
        after = TRANSITIONS.get((self.phase, event))
        if after is None:
            raise WRONG_PHASE(expected=f"a phase that takes {event.value}", found=f"phase {self.phase.value}")
        return after

    def _advance(self, after: Phase, *, force: bool = False) -> None:
        """Move if nothing is missing. Leaving the ceremony, either way, drops the transport key."""
        if force or not self.missing():
            self.phase = after
        if self.phase in (Phase.DONE, Phase.ABORTED):
            self._private = None
        if self.phase is Phase.ABORTED:
            self._share = None

    def _void(self, error: CloisterError) -> CloisterError:
        self.abort(str(error))
        return error

    def _finish(self) -> None:
        if self._private is None:
            raise RuntimeError("the transport key was dropped before the ceremony ended")
        self._share = finish(self.ceremony, self._dealings, self._committed, self.my_index, self._private)

    def _compare(self) -> None:
        mine = self.confirmation()
        others = sorted(index for index, said in self._confirmed.items() if said != mine)
        if others:
            raise self._void(CONFIRMATION_DIFFERS(expected="our result from all", found=f"another from {others}"))
        self._advance(TRANSITIONS[(self.phase, Event.CONFIRMATION)])
