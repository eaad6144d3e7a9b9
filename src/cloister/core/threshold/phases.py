"""The phases of a ceremony: one table, and the phase as a function of chain facts and the block number alone (G4-G12).

::

    COMMIT    dealers put digests on chain; nobody shows a dealing yet
    SHOW      dealings go from dealers to receivers; receivers complain of what did not come or does not fit
    PUBLISH   dealers that somebody complained of publish the whole dealing
    OBJECT    receivers that saw a dealing only now complain if their share in it is bad
    ANSWER    dealers open, in public, the shares that were called bad
    CONFIRM   Q is fixed; receivers store their shares and confirm (MPK, transcript, Q)
    DONE      enough receivers confirmed the same: the committee is in office
    FAILED    too few dealers, too few equal confirmations, or cancelled: nothing changed

Every phase but the last two ends at its deadline, or before when nothing more can come. Nothing is remembered: a
member that was away, or that starts again, finds the phase in the facts. The contract decides by the same rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import astuple, dataclass
from enum import Enum
from itertools import pairwise
from typing import Final

from cloister.core.encoding.hexes import need_uint
from cloister.core.errors import CloisterError, ThresholdError, define
from cloister.core.threshold.dealing import Ceremony
from cloister.core.threshold.facts import Confirmation, Facts, Fault, Pair

BAD_DEADLINES = define(
    "threshold.deadlines",
    ThresholdError,
    check="the deadlines of a ceremony are block numbers, each later than the one before",
    remedy="read the ceremony again by proof",
)
CANCELLED = define(
    "threshold.cancelled",
    ThresholdError,
    check="the contract did not cancel the ceremony",
    remedy="nothing changed; the committee in office keeps its key, and a new ceremony may open",
    status=409,
)
TOO_FEW_COMMITTED = define(
    "threshold.too_few_committed",
    ThresholdError,
    check="at least t dealers committed before the deadline (G4; in a resharing the t of the old committee)",
    remedy="nothing changed; see which gatekeepers run, then open the ceremony again",
    status=503,
)
TOO_FEW_CONFIRMED = define(
    "threshold.too_few_confirmed",
    ThresholdError,
    check="at least t receivers confirmed the same result before the deadline (G12)",
    remedy="nothing changed and the new shares are erased; see which gatekeepers run, then open the ceremony again",
    status=503,
)


class Kind(Enum):
    """What a ceremony is for. ``found``: the first key. ``reshare``: same key, next term. ``rotate``: a new key."""

    FOUND = "found"
    RESHARE = "reshare"
    ROTATE = "rotate"


class Phase(Enum):
    """Where a ceremony stands, for everybody."""

    COMMIT = "commit"
    SHOW = "show"
    PUBLISH = "publish"
    OBJECT = "object"
    ANSWER = "answer"
    CONFIRM = "confirm"
    DONE = "done"
    FAILED = "failed"


class End(Enum):
    """How a phase ends."""

    SETTLED = "nothing more can come"
    EXPIRED = "the deadline, with enough"
    TOO_FEW = "the deadline, with too few"
    CANCELLED = "the contract cancelled the ceremony"


# The whole machine. A pair that is absent cannot happen: SHOW to ANSWER need nobody in particular, so never too few.
TRANSITIONS: Final[dict[tuple[Phase, End], Phase]] = {
    (Phase.COMMIT, End.SETTLED): Phase.SHOW,
    (Phase.COMMIT, End.EXPIRED): Phase.SHOW,
    (Phase.COMMIT, End.TOO_FEW): Phase.FAILED,
    (Phase.COMMIT, End.CANCELLED): Phase.FAILED,
    (Phase.SHOW, End.SETTLED): Phase.PUBLISH,
    (Phase.SHOW, End.EXPIRED): Phase.PUBLISH,
    (Phase.SHOW, End.CANCELLED): Phase.FAILED,
    (Phase.PUBLISH, End.SETTLED): Phase.OBJECT,
    (Phase.PUBLISH, End.EXPIRED): Phase.OBJECT,
    (Phase.PUBLISH, End.CANCELLED): Phase.FAILED,
    (Phase.OBJECT, End.SETTLED): Phase.ANSWER,
    (Phase.OBJECT, End.EXPIRED): Phase.ANSWER,
    (Phase.OBJECT, End.CANCELLED): Phase.FAILED,
    (Phase.ANSWER, End.SETTLED): Phase.CONFIRM,
    (Phase.ANSWER, End.EXPIRED): Phase.CONFIRM,
    (Phase.ANSWER, End.CANCELLED): Phase.FAILED,
    (Phase.CONFIRM, End.SETTLED): Phase.DONE,
    (Phase.CONFIRM, End.EXPIRED): Phase.DONE,
    (Phase.CONFIRM, End.TOO_FEW): Phase.FAILED,
    (Phase.CONFIRM, End.CANCELLED): Phase.FAILED,
}
ORDER: Final = tuple(Phase)


@dataclass(frozen=True, slots=True)
class Deadlines:
    """The last block of each phase: what that block holds still counts. Raises ThresholdError unless they rise."""

    commit_by: int
    show_by: int
    publish_by: int
    object_by: int
    answer_by: int
    confirm_by: int

    def __post_init__(self) -> None:
        blocks = astuple(self)
        for block in blocks:
            need_uint("deadline", block, 64)
        if not all(one < next_one for one, next_one in pairwise(blocks)):
            raise BAD_DEADLINES(expected="block numbers that rise", found=str(blocks))

    @classmethod
    def after(cls, opened: int, window: int) -> Deadlines:
        """One window of blocks for each phase, from the block that opened the ceremony. Raises ThresholdError."""
        return cls(*(opened + window * (i + 1) for i in range(6)))

    def of(self, phase: Phase) -> int:
        """The last block of a phase that ends. Raises KeyError for DONE and FAILED: that is our mistake."""
        by_phase: dict[Phase, int] = dict(zip(ORDER, astuple(self), strict=False))
        return by_phase[phase]


def phase_at(ceremony: Ceremony, deadlines: Deadlines, facts: Facts, number: int) -> Phase:
    """The phase after block ``number``, whose state says ``facts``."""
    return _walk(ceremony, deadlines, facts, number)[0]


def why_failed(ceremony: Ceremony, deadlines: Deadlines, facts: Facts, number: int) -> CloisterError:
    """The rule by which the ceremony failed. Raises RuntimeError if it did not: that is our mistake."""
    phase, last, end = _walk(ceremony, deadlines, facts, number)
    if phase is not Phase.FAILED:
        raise RuntimeError("this ceremony did not fail")
    if end is End.CANCELLED:
        return CANCELLED(expected="a ceremony that runs", found=f"cancelled in phase {last.value}")
    if last is Phase.COMMIT:
        return TOO_FEW_COMMITTED(expected=f"{ceremony.quorum} dealers", found=str(sorted(facts.committed)))
    counts = sorted(Counter(facts.confirmed.values()).values(), reverse=True)
    return TOO_FEW_CONFIRMED(expected=f"{ceremony.threshold} equal confirmations", found=str(counts))


def agreed_value(ceremony: Ceremony, facts: Facts) -> Confirmation | None:
    """The one value that t receivers confirmed, or None. Values are counted apart: a liar's stops nobody (G11).

    Two values with t each can only come from t liars: then neither counts.
    """
    counts = Counter(facts.confirmed.values())
    enough = [value for value, count in counts.items() if count >= ceremony.threshold]
    return enough[0] if len(enough) == 1 else None


def waiting_openings(facts: Facts) -> set[Pair]:
    """(dealer, receiver) of the shares that were called bad, of dealers that published, and are not open yet."""
    bad = {pair for pair, fault in facts.complaints.items() if fault is Fault.BAD_SHARE and pair[0] in facts.published}
    return bad - set(facts.opened)


def late_viewers(facts: Facts) -> set[int]:
    """Receivers that saw a dealing only when it was published, and have not said that they have no objection."""
    pairs = {
        pair for pair, fault in facts.complaints.items() if fault is Fault.NOT_SHOWN and pair[0] in facts.published
    }
    return {receiver for _, receiver in pairs} - facts.settled


def _walk(ceremony: Ceremony, deadlines: Deadlines, facts: Facts, number: int) -> tuple[Phase, Phase, End | None]:
    """(phase, the phase before it, how that one ended)."""
    phase = last = Phase.COMMIT
    ended: End | None = None
    while phase not in (Phase.DONE, Phase.FAILED):
        end = _end(ceremony, deadlines, facts, number, phase)
        if end is None:
            break
        phase, last, ended = TRANSITIONS[(phase, end)], phase, end
    return phase, last, ended


def _end(ceremony: Ceremony, deadlines: Deadlines, facts: Facts, number: int, phase: Phase) -> End | None:
    if _SETTLED[phase](ceremony, facts):
        return End.SETTLED
    if facts.cancelled:
        return End.CANCELLED
    if number >= deadlines.of(phase):
        short = phase is Phase.COMMIT and len(facts.committed) < ceremony.quorum
        short = short or (phase is Phase.CONFIRM and agreed_value(ceremony, facts) is None)
        return End.TOO_FEW if short else End.EXPIRED
    return None


def _all_confirmed(ceremony: Ceremony, facts: Facts) -> bool:
    return len(facts.confirmed) == len(ceremony.members) and len(set(facts.confirmed.values())) == 1


_SETTLED: Final[dict[Phase, Callable[[Ceremony, Facts], bool]]] = {
    Phase.COMMIT: lambda ceremony, facts: len(facts.committed) == ceremony.dealers,
    Phase.SHOW: lambda ceremony, facts: len(facts.content) == len(ceremony.members),
    Phase.PUBLISH: lambda _, facts: {dealer for dealer, _ in facts.complaints} <= facts.published,
    Phase.OBJECT: lambda _, facts: not late_viewers(facts),
    Phase.ANSWER: lambda _, facts: not waiting_openings(facts),
    Phase.CONFIRM: _all_confirmed,
}
