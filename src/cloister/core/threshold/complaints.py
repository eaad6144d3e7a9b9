"""Who complains of whom, how a dealer answers, and who is qualified after it (spec/gatekeepers.md G5-G10, G14).

An honest receiver never calls the share of an honest dealer bad: it does so only of a dealing with the committed
digest, sealed to a key that fits the registered one. So an honest dealer opens shares of lying receivers only, at
most t - 1 of them, and what becomes public tells nothing that they did not have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cloister.core.errors import CloisterError, ThresholdError, define
from cloister.core.threshold.dealing import Ceremony, Dealing, Dealt, check_digest, commitments_of, open_share
from cloister.core.threshold.dealing import require_fit as fit
from cloister.core.threshold.dkg import DEALINGS_MISSING, TOO_FEW_QUALIFIED
from cloister.core.threshold.facts import Complaint, Confirmation, Facts, Fault, OpenedShare
from cloister.core.threshold.groups import scalar_from_bytes

__all__ = [
    "Complaint",
    "Confirmation",
    "Facts",
    "Fault",
    "OpenedShare",
    "Standing",
    "absentees",
    "judge",
    "open_publicly",
    "qualified",
    "require_opened",
    "require_qualified",
]

NOT_COMMITTED = define(
    "threshold.not_committed",
    ThresholdError,
    check="a qualified dealer put the digest of its dealing on chain in time (G3)",
    remedy="the ceremony goes on without this dealer, which is slashed as absent",
)
NOT_PUBLISHED = define(
    "threshold.not_published",
    ThresholdError,
    check="an accused dealer published its dealing in time (G7)",
    remedy="the ceremony goes on without this dealer, which is slashed as absent",
)
NOT_OPENED = define(
    "threshold.not_opened",
    ThresholdError,
    check="an accused dealer opened every share that was called bad, in time (G7)",
    remedy="the ceremony goes on without this dealer, which is slashed as absent",
)
WRONG_OPENING = define(
    "threshold.wrong_opening",
    ThresholdError,
    check="a share that was opened in public fits the dealer's commitments (G9)",
    remedy="the dealer is guilty; the ceremony goes on without it",
)
TOO_MANY_COMPLAINTS = define(
    "threshold.too_many_complaints",
    ThresholdError,
    check="fewer than t receivers call a dealer's shares bad: t opened shares would open its secret (G7)",
    remedy="the dealer opens nothing and is out; this many complaints mean a broken dealer or t broken receivers",
)


def judge(
    ceremony: Ceremony, dealer: int, digest: bytes, dealing: Dealing | None, me: int, private: X25519PrivateKey
) -> Fault | None:
    """What receiver ``me`` complains of after seeing (or not) the dealing of a dealer that committed; None: nothing.

    1. no dealing, another digest, or one that does not verify: not shown, so that everybody gets to see it;
    2. our share does not open or does not fit: bad share. ``private`` MUST be the half of our registered key
    (``own_key``): with another one every honest dealer would be accused, and would open our share to everybody.
    """
    if dealing is None:
        return Fault.NOT_SHOWN
    try:
        check_digest(ceremony, dealer, dealing, digest)  # 1
        commitments_of(ceremony, dealing)
    except CloisterError:
        return Fault.NOT_SHOWN
    try:
        fit(ceremony, dealing, me, open_share(ceremony, dealing, me, private))  # 2
    except CloisterError:
        return Fault.BAD_SHARE
    return None


def open_publicly(ceremony: Ceremony, facts: Facts, dealt: Dealt) -> tuple[OpenedShare, ...]:
    """What an accused dealer opens now: every share that was called bad and is not open yet. Raises ThresholdError.

    1. its dealing is published; 2. fewer than t receivers call its shares bad.
    """
    dealer = dealt.dealing.dealer
    bad = sorted(receiver for receiver, fault in facts.of_dealer(dealer).items() if fault is Fault.BAD_SHARE)
    if bad and dealer not in facts.published:  # 1
        raise NOT_PUBLISHED(expected=f"the dealing of {dealer} on chain first", found="not there")
    _require_few(ceremony, dealer, len(bad))  # 2
    return tuple(OpenedShare(dealer, j, dealt.share(j)) for j in bad if (dealer, j) not in facts.opened)


def require_opened(ceremony: Ceremony, dealing: Dealing, opened: OpenedShare) -> None:
    """Raise ThresholdError (threshold.wrong_opening) unless the opened share fits the dealing's commitments."""
    try:
        value = scalar_from_bytes(opened.value, "opened share")
        fit(ceremony, dealing, opened.receiver, value)
    except CloisterError:
        found = f"another value from dealer {opened.dealer}"
        raise WRONG_OPENING(expected=f"the share of receiver {opened.receiver}", found=found) from None


@dataclass(frozen=True, slots=True)
class Standing:
    """The outcome of the complaints: Q in order, and why each other dealer is not in it."""

    qualified: tuple[int, ...]
    out: Mapping[int, CloisterError]


def qualified(ceremony: Ceremony, facts: Facts, dealings: Mapping[int, Dealing]) -> Standing:
    """Q (G9): what everybody computes alike from the chain and the dealings that the committed digests name.

    ``dealings`` by dealer; those of dealers that the chain already puts out are not needed. Per dealer:
    1. it committed; 2. accused, it published; 3. fewer than t shares were called bad, and each was opened;
    4. its dealing has the digest and verifies (R1 included); 5. every opened share fits.
    Raises ThresholdError (threshold.dealings_missing) if a dealing is needed and not there, or not the one committed.
    """
    out: dict[int, CloisterError] = {}
    for dealer in range(1, ceremony.dealers + 1):
        try:
            _require_answered(ceremony, facts, dealer)  # 1-3
        except CloisterError as error:
            out[dealer] = error
    standing = [dealer for dealer in range(1, ceremony.dealers + 1) if dealer not in out]
    missing = [dealer for dealer in standing if dealer not in dealings]
    if missing:
        raise DEALINGS_MISSING(expected=f"the dealings of {standing}", found=f"missing {missing}")
    for dealer in standing:
        check_digest(ceremony, dealer, dealings[dealer], facts.committed[dealer])  # 4
        try:
            commitments_of(ceremony, dealings[dealer])
            for (one, receiver), value in facts.opened.items():  # 5
                if one == dealer:
                    require_opened(ceremony, dealings[dealer], OpenedShare(dealer, receiver, value))
        except CloisterError as error:
            out[dealer] = error
    return Standing(tuple(dealer for dealer in standing if dealer not in out), out)


def require_qualified(ceremony: Ceremony, standing: Standing) -> tuple[int, ...]:
    """Q, if it is large enough (G9). Raises ThresholdError (threshold.too_few_qualified)."""
    if len(standing.qualified) < ceremony.quorum:
        why = ", ".join(f"{dealer}: {error.code}" for dealer, error in sorted(standing.out.items()))
        raise TOO_FEW_QUALIFIED(expected=f"at least {ceremony.quorum}", found=f"{standing.qualified}; {why}")
    return standing.qualified


def absentees(ceremony: Ceremony, facts: Facts, agreed: Confirmation) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Who is slashed after a ceremony that ended in ``agreed`` (G14): dealers not in Q, receivers not of that word."""
    named = agreed.dealers()
    dealers = tuple(i for i in range(1, ceremony.dealers + 1) if i not in named)
    return dealers, tuple(m.index for m in ceremony.members if facts.confirmed.get(m.index) != agreed)


def _require_answered(ceremony: Ceremony, facts: Facts, dealer: int) -> None:
    if dealer not in facts.committed:  # 1
        raise NOT_COMMITTED(expected=f"a digest of dealer {dealer}", found="none")
    faults = facts.of_dealer(dealer)
    if faults and dealer not in facts.published:  # 2
        raise NOT_PUBLISHED(expected=f"the dealing of {dealer} on chain", found=f"complaints of {sorted(faults)} alone")
    bad = sorted(receiver for receiver, fault in faults.items() if fault is Fault.BAD_SHARE)
    _require_few(ceremony, dealer, len(bad))  # 3
    closed = [receiver for receiver in bad if (dealer, receiver) not in facts.opened]
    if closed:
        raise NOT_OPENED(expected=f"the shares of {bad} from dealer {dealer}", found=f"not those of {closed}")


def _require_few(ceremony: Ceremony, dealer: int, bad: int) -> None:
    if bad >= ceremony.threshold:
        found = f"{bad} of dealer {dealer}"
        raise TOO_MANY_COMPLAINTS(expected=f"at most {ceremony.threshold - 1} bad shares", found=found)
