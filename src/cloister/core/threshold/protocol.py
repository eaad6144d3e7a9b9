"""One member's side of a ceremony: found, reshare or rotate (spec/gatekeepers.md G1-G14, R1-R4).

``Member.advance(facts, number)`` takes what the chain says at a final block and gives the actions that are due. There
is no clock and no I/O, and nothing else drives it but dealings that peers hand over (``on_dealing``). The phases, their
meaning and the one transition table are in ``phases.py``; here is what a member does in each.

Rule of use: after every ``advance`` and ``on_dealing`` store ``kept()`` durably, then carry out the actions. A member
that is rebuilt from what was stored at any step asks for the same actions again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cloister.core.encoding.hexes import need_uint
from cloister.core.errors import CloisterError, ThresholdError, define
from cloister.core.threshold.actions import (
    Action,
    CommitDealing,
    Complain,
    Confirm,
    Content,
    EraseOld,
    ErasePolynomial,
    EraseTransport,
    Fail,
    FetchDealing,
    OpenShare,
    Publish,
    ShowDealing,
    TakeOffice,
)
from cloister.core.threshold.complaints import (
    NOT_COMMITTED,
    TOO_MANY_COMPLAINTS,
    judge,
    open_publicly,
    qualified,
    require_qualified,
)
from cloister.core.threshold.dealing import BAD_CEREMONY, Ceremony, Dealing, Dealt, check_digest, own_key
from cloister.core.threshold.dkg import DEALINGS_MISSING, deal_kept, finish_over
from cloister.core.threshold.facts import Complaint, Confirmation, Facts, Fault, bits_of
from cloister.core.threshold.groups import Rng
from cloister.core.threshold.kept import MAX_REASON, Kept
from cloister.core.threshold.phases import Deadlines, Kind, Phase, agreed_value, phase_at, why_failed
from cloister.core.threshold.reshare import NOT_THE_DEALER, Resharing, deal_again
from cloister.core.threshold.shares import KeyShare

ERASE_AFTER: Final = 8
"""Blocks from the end to the erasure of the transport key (G2)."""

BACKWARDS = define(
    "threshold.backwards",
    ThresholdError,
    check="a member is driven by ever later final blocks",
    remedy="feed blocks in order; an endpoint that goes back below finality lies",
)
WRONG_PHASE = define(
    "threshold.wrong_phase",
    ThresholdError,
    check="a member gives up only while nobody counts on its share",
    remedy="it confirmed: keep the share, and leave the committee at the next resharing",
    status=409,
)
TOO_EARLY = define(
    "threshold.too_early",
    ThresholdError,
    check="a dealing is shown only when no further digest can come (phase SHOW)",
    remedy="wait for the end of phase COMMIT; showing it now would let the last dealer choose the key",
    status=409,
)
CONFIRMATION_DIFFERS = define(
    "threshold.confirmation_differs",
    ThresholdError,
    check="what t receivers confirmed is what this member computed",
    remedy="this member uses no share; compare its chain endpoints with the others', and keep the dealings as evidence",
)
GAVE_UP = define(
    "threshold.gave_up",
    ThresholdError,
    check="this member takes part to the end",
    remedy="it gave up for the reason shown; the others go on without it, the next ceremony is a new start",
    status=409,
)
NO_TRANSPORT_KEY = define(
    "threshold.no_transport_key",
    ThresholdError,
    check="a receiver holds the transport key that it registered for this ceremony",
    remedy="the disk was lost or rolled back: this member sits out, accuses nobody, and registers anew next time",
    status=500,
)
NOT_MY_CONFIRMATION = define(
    "threshold.not_my_confirmation",
    ThresholdError,
    check="what stands on chain under our seat is what we confirmed",
    remedy="someone else acts in this seat: stop, and replace the member's key",
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One member's place in a ceremony. ``dealer`` and ``receiver`` are its indexes, 0 where it has none.

    Build one only after the evidence of every receiver, its transport key included, was verified: a dealer deals as
    soon as it is driven.
    ``erase_delay``: blocks from the end to the erasure of the old term's shares (R4). Raises ThresholdError.
    """

    kind: Kind
    ceremony: Ceremony
    deadlines: Deadlines
    dealer: int
    receiver: int
    erase_delay: int = 64

    def __post_init__(self) -> None:
        need_uint("erase delay", self.erase_delay, 32)
        dealers, receivers = self.ceremony.dealers, len(self.ceremony.members)
        if not (0 <= self.dealer <= dealers and 0 <= self.receiver <= receivers and self.dealer + self.receiver):
            found = f"dealer {self.dealer}, receiver {self.receiver}"
            raise BAD_CEREMONY(expected=f"a seat among {dealers} dealers and {receivers} receivers", found=found)
        if (self.kind is Kind.RESHARE) != isinstance(self.ceremony, Resharing):
            raise BAD_CEREMONY(expected=f"a ceremony of kind {self.kind.value}", found=type(self.ceremony).__name__)
        if self.kind is not Kind.RESHARE and self.dealer != self.receiver:
            raise BAD_CEREMONY(expected="one seat to deal and receive in", found=f"{self.dealer} and {self.receiver}")


class Member:
    """Attributes: setting; phase: of the last block seen."""

    def __init__(self, setting: Setting, kept: Kept, rng: Rng, *, old_share: KeyShare | None = None) -> None:
        """``old_share``: in a resharing, a dealer's share of the term in office. Raises ThresholdError.

        1. what was kept is of this ceremony; 2. the transport key is the half of the registered one; 3. the share to
        deal is of our seat.
        """
        kept.require_for(setting.ceremony)  # 1
        self._key = None
        if setting.receiver and kept.private is not None:
            self._key = own_key(setting.ceremony, setting.receiver, kept.private)  # 2
        if old_share is not None and old_share.index != setting.dealer:  # 3
            raise NOT_THE_DEALER(expected=f"the share of old member {setting.dealer}", found=f"of {old_share.index}")
        self.setting, self.phase = setting, Phase.COMMIT
        self._kept, self._rng, self._old = kept, rng, old_share
        self._dealings = {dealing.dealer: dealing for dealing in kept.dealings}
        self._faults: dict[int, Fault | None] = {}
        self._facts, self._number = Facts(), -1
        self._value: Confirmation | None = None

    def __repr__(self) -> str:
        seat = f"dealer={self.setting.dealer}, receiver={self.setting.receiver}"
        return f"Member({self.setting.kind.value}, {seat}, phase={self.phase.value})"

    def kept(self) -> Kept:
        """What must be durable before the actions of the last step are carried out (G13)."""
        return self._kept.with_(dealings=tuple(self._dealings[i] for i in sorted(self._dealings)))

    def advance(self, facts: Facts, number: int) -> list[Action]:
        """What is due after final block ``number``, whose state says ``facts``. Raises ThresholdError.

        1. the facts can be facts of this ceremony; 2. they keep what earlier ones said; 3. the block is not earlier.
        """
        facts.check(self.setting.ceremony)  # 1
        facts.require_later_than(self._facts)  # 2
        if number < self._number:  # 3
            raise BACKWARDS(expected=f"block {self._number} or later", found=str(number))
        self._facts, self._number = facts, number
        self.phase = phase_at(self.setting.ceremony, self.setting.deadlines, facts, number)
        if self.phase in (Phase.DONE, Phase.FAILED) and self._kept.ended is None:
            self._kept = self._kept.with_(ended=number)
        if self._kept.aborted and self.phase is not Phase.FAILED:
            return self._gone()
        self._own_dealing_counts()
        return _STEPS[self.phase](self)

    def on_dealing(self, dealing: Dealing) -> None:
        """A dealing came in, from anybody. Raises ThresholdError.

        1. not before every digest that counts is final; 2. its dealer committed; 3. it has the committed digest. What
        is wrong with it beyond that is for a complaint, not for a refusal.
        """
        if self.phase is Phase.COMMIT:  # 1
            raise TOO_EARLY(expected="every digest on chain first", found="phase commit")
        digest = self._facts.committed.get(dealing.dealer)
        if digest is None:  # 2
            raise NOT_COMMITTED(expected=f"a digest of dealer {dealing.dealer}", found="none")
        check_digest(self.setting.ceremony, dealing.dealer, dealing, digest)  # 3
        self._dealings[dealing.dealer] = dealing

    def my_dealing(self) -> Dealing:
        """Our dealing, to show to whoever asks. Raises ThresholdError before SHOW, or if we have none that counts."""
        return self.dealing(self.setting.dealer)

    def dealing(self, dealer: int) -> Dealing:
        """A dealing that we hold, ours or a peer's, to show to whoever asks. Raises as ``my_dealing``."""
        if self.phase is Phase.COMMIT:
            raise TOO_EARLY(expected="phase show or later", found="phase commit")
        if dealer not in self._dealings:
            raise NOT_COMMITTED(expected=f"a dealing of dealer {dealer} with its digest", found="none here")
        return self._dealings[dealer]

    def abort(self, reason: str) -> None:
        """Give up, for good: nothing more is said, new secrets are dropped. The others may go on.

        Raises ThresholdError once our confirmation is on chain, for others count on our share, and after the end.
        """
        if self.phase in (Phase.DONE, Phase.FAILED) or self.setting.receiver in self._facts.confirmed:
            raise WRONG_PHASE(expected="a ceremony that we have not confirmed", found=f"phase {self.phase.value}")
        self._kept = self._kept.with_(aborted=(reason or "no reason")[:MAX_REASON], dealt=None, share=None)

    # --- what a member does in each phase ---

    def _commit(self) -> list[Action]:
        me = self.setting.dealer
        if not me or me in self._facts.committed:
            return []
        if self._kept.dealt is None:
            self._kept = self._kept.with_(dealt=self._deal())
        assert self._kept.dealt is not None  # noqa: S101 - set above
        return [CommitDealing(self._kept.dealt.dealing.digest(self.setting.ceremony))]

    def _show(self) -> list[Action]:
        actions, waits = [*self._showing(), *self._fetching()], False
        if self._key is None:
            return actions
        me = self.setting.receiver
        for dealer in sorted(self._facts.committed):
            fault, said = self._fault(dealer), self._facts.complaints.get((dealer, me), 0)
            if fault is None or said >= fault:
                continue
            waits = True
            if dealer in self._dealings or self._number >= self._patience():
                actions.append(Complain(Complaint(dealer, me, fault)))
        if not waits and me not in self._facts.content:
            actions.append(Content(1))
        return actions

    def _publish(self) -> list[Action]:
        me, actions = self.setting.dealer, [*self._showing(), *self._fetching()]
        if me in self._dealings and self._facts.of_dealer(me) and me not in self._facts.published:
            actions.append(Publish(self._dealings[me]))
        return actions

    def _object(self) -> list[Action]:
        me, actions, waits = self.setting.receiver, [*self._showing(), *self._fetching()], False
        unseen = [d for d in sorted(self._facts.published) if self._facts.complaints.get((d, me)) is Fault.NOT_SHOWN]
        if self._key is None or not unseen or me in self._facts.settled:
            return actions
        for dealer in unseen:
            if dealer not in self._dealings:
                waits = True
            elif self._fault(dealer) is Fault.BAD_SHARE:
                waits = True
                actions.append(Complain(Complaint(dealer, me, Fault.BAD_SHARE)))
        return actions if waits else [*actions, Content(2)]

    def _answer(self) -> list[Action]:
        actions, dealt = [*self._showing(), *self._fetching()], self._kept.dealt
        if dealt is None or self.setting.dealer not in self._facts.published:
            return actions
        try:
            opened = open_publicly(self.setting.ceremony, self._facts, dealt)
        except ThresholdError as error:
            if error.code != TOO_MANY_COMPLAINTS.code:
                raise
            return actions  # out: opening t shares would open the secret behind them
        return [*actions, *(OpenShare(one) for one in opened)]

    def _confirm(self) -> list[Action]:
        actions = self._without_polynomial()
        me, problem = self.setting.receiver, self._finish()
        if problem is not None:
            return [*actions, *self._showing(), *self._fetching(), *problem]
        if self._value is not None:
            said = self._facts.confirmed.get(me)
            if said is None:
                actions.append(Confirm(self._value))
            elif said != self._value:
                actions.append(Fail(NOT_MY_CONFIRMATION(expected="our result", found="another under our seat")))
        return [*actions, *self._showing()]

    def _done(self) -> list[Action]:
        actions = self._without_polynomial()
        agreed = agreed_value(self.setting.ceremony, self._facts)
        problem = self._finish() if self._kept.share is None else None
        share = self._kept.share
        if problem is not None:
            actions += [*self._fetching(), *problem]
        elif share is not None and agreed is not None:
            if (share.public.mpk, share.public.transcript) == (agreed.mpk, agreed.transcript):
                actions.append(TakeOffice(share))
            else:
                found = "another from the receivers"
                actions.append(Fail(CONFIRMATION_DIFFERS(expected="our result from t receivers", found=found)))
        return [*actions, *self._showing(), *self._erasing()]

    def _failed(self) -> list[Action]:
        self._kept = self._kept.with_(dealt=None, share=None)
        setting = self.setting
        reason = why_failed(setting.ceremony, setting.deadlines, self._facts, self._number)
        return [Fail(reason), *self._erasing()]

    def _gone(self) -> list[Action]:
        erasing = self._erasing() if self.phase is Phase.DONE else []
        return [Fail(GAVE_UP(expected="a member that takes part", found=self._kept.aborted)), *erasing]

    # --- parts of it ---

    def _deal(self) -> Dealt:
        ceremony = self.setting.ceremony
        if not isinstance(ceremony, Resharing):
            return deal_kept(ceremony, self.setting.dealer, self._rng)
        if self._old is None:
            raise NOT_THE_DEALER(expected=f"the share of old member {self.setting.dealer}", found="none")
        return deal_again(ceremony, self._old, self._rng)

    def _own_dealing_counts(self) -> None:
        """Our stored dealing is shown only if its digest is the one on chain: one dealing per ceremony (G13)."""
        me, dealt = self.setting.dealer, self._kept.dealt
        if self.phase is Phase.COMMIT or dealt is None or me in self._dealings:
            return
        if self._facts.committed.get(me) == dealt.dealing.digest(self.setting.ceremony):
            self._dealings[me] = dealt.dealing

    def _showing(self) -> list[Action]:
        mine = self._dealings.get(self.setting.dealer)
        return [] if mine is None else [ShowDealing(mine)]

    def _fetching(self) -> list[Action]:
        if not self.setting.receiver:
            return []
        missing = [dealer for dealer in sorted(self._facts.committed) if dealer not in self._dealings]
        facts = self._facts
        return [FetchDealing(dealer, facts.committed[dealer], dealer in facts.published) for dealer in missing]

    def _patience(self) -> int:
        """The block from which a dealing that did not come is complained of: half of the window is left to land it."""
        deadlines = self.setting.deadlines
        return (deadlines.commit_by + deadlines.show_by + 1) // 2

    def _fault(self, dealer: int) -> Fault | None:
        dealing, key = self._dealings.get(dealer), self._key
        if dealing is None or key is None:
            return Fault.NOT_SHOWN
        if dealer not in self._faults:
            digest, me = self._facts.committed[dealer], self.setting.receiver
            self._faults[dealer] = judge(self.setting.ceremony, dealer, digest, dealing, me, key)
        return self._faults[dealer]

    def _without_polynomial(self) -> list[Action]:
        if self._kept.dealt is None:
            return []
        self._kept = self._kept.with_(dealt=None)
        return [ErasePolynomial()]

    def _finish(self) -> list[Action] | None:
        """Make our share, once. None: it is there, or we are no receiver. Else what stands in the way."""
        if not self.setting.receiver or self._value is not None:
            return None
        if self._key is None or self._kept.private is None:
            return [Fail(NO_TRANSPORT_KEY(expected="the private half of our key", found="none"))]
        try:
            share, bits = self._share_over_qualified(self._kept.private)
        except CloisterError as error:
            return [] if error.code == DEALINGS_MISSING.code else [Fail(error)]
        self._kept = self._kept.with_(share=share)
        self._value = Confirmation(share.public.mpk, share.public.transcript, bits)
        return None

    def _share_over_qualified(self, private: bytes) -> tuple[KeyShare, int]:
        ceremony, facts, me = self.setting.ceremony, self._facts, self.setting.receiver
        chosen = require_qualified(ceremony, qualified(ceremony, facts, self._dealings))
        dealings = {dealer: self._dealings[dealer] for dealer in chosen}
        committed = {dealer: facts.committed[dealer] for dealer in chosen}
        opened = {dealer: value for (dealer, one), value in facts.opened.items() if one == me and dealer in chosen}
        return finish_over(ceremony, dealings, committed, opened, me, private), bits_of(chosen)

    def _erasing(self) -> list[Action]:
        """What the end, once final, lets us erase. A receiver that lacks its share keeps its key for R4's time."""
        setting, ended, actions = self.setting, self._kept.ended or 0, list[Action]()
        late = self.phase is Phase.DONE and self._kept.share is None and not self._kept.aborted
        wait = max(ERASE_AFTER, setting.erase_delay) if late and setting.receiver else ERASE_AFTER
        if self._number >= ended + wait and self._kept.private is not None:
            self._kept, self._key = self._kept.with_(private=None), None
            actions.append(EraseTransport())
        over = self.phase is Phase.DONE and self._number >= ended + setting.erase_delay
        if over and isinstance(setting.ceremony, Resharing) and setting.dealer:
            actions.append(EraseOld(setting.ceremony.old.term))
        return actions


_STEPS: Final[dict[Phase, Callable[[Member], list[Action]]]] = {
    Phase.COMMIT: Member._commit,
    Phase.SHOW: Member._show,
    Phase.PUBLISH: Member._publish,
    Phase.OBJECT: Member._object,
    Phase.ANSWER: Member._answer,
    Phase.CONFIRM: Member._confirm,
    Phase.DONE: Member._done,
    Phase.FAILED: Member._failed,
}
