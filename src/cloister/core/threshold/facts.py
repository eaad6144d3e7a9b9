"""What the chain knows of one ceremony (spec/gatekeepers.md G3-G11), as a member reads it by proof at a final block.

The contract takes each entry once, from the seat that it concerns, and only in its phase. So entries are only ever
added; one that changes or goes away says that an endpoint lies or that finality broke.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from cloister.core.encoding.hexes import need_bytes, need_uint, to_hex
from cloister.core.errors import ThresholdError, define
from cloister.core.threshold.dealing import Ceremony
from cloister.core.threshold.groups import G2_SIZE, SCALAR_SIZE

Pair = tuple[int, int]
"""(dealer, receiver), both from 1."""

BAD_FACTS = define(
    "threshold.facts",
    ThresholdError,
    check="facts of a ceremony name seats of this ceremony only, and fit each other as the contract's rules say",
    remedy="read the ceremony again by proof; if it repeats, an endpoint lies or the layout is another contract's",
)
FACTS_CHANGED = define(
    "threshold.facts_changed",
    ThresholdError,
    check="a later block keeps every fact of an earlier final one",
    remedy="one of two chain views is wrong, or finality broke: stop and compare endpoints",
)


class Fault(IntEnum):
    """What a receiver complains of (G5). The greater one counts."""

    NOT_SHOWN = 1
    BAD_SHARE = 2


@dataclass(frozen=True, slots=True)
class Complaint:
    """Receiver's complaint of a dealer."""

    dealer: int
    receiver: int
    fault: Fault


@dataclass(frozen=True, slots=True)
class OpenedShare:
    """A dealer's public answer to a complaint of a bad share: f(receiver), 32 bytes big-endian. No longer a secret."""

    dealer: int
    receiver: int
    value: bytes

    def __post_init__(self) -> None:
        need_bytes("opened share", self.value, SCALAR_SIZE)


@dataclass(frozen=True, slots=True)
class Confirmation:
    """What a receiver confirms: MPK (96 bytes), transcript (32 bytes), Q as bits (bit i - 1: dealer i is qualified)."""

    mpk: bytes
    transcript: bytes
    qualified: int

    def __post_init__(self) -> None:
        need_bytes("mpk", self.mpk, G2_SIZE)
        need_bytes("transcript", self.transcript, 32)
        need_uint("qualified", self.qualified, 64)

    def dealers(self) -> tuple[int, ...]:
        """The indexes of Q, in order."""
        return tuple(i + 1 for i in range(64) if self.qualified >> i & 1)


def bits_of(dealers: tuple[int, ...]) -> int:
    """Q as bits."""
    return sum(1 << (index - 1) for index in dealers)


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the contract keeps of one ceremony, at one block.

    committed: digest (32 bytes) by dealer. complaints: fault by (dealer, receiver). published: dealers whose dealing
    went on chain as call data. opened: opened shares (32 bytes) by (dealer, receiver). content: receivers that have no
    further complaint in SHOW; settled: the same in OBJECT. confirmed: by receiver. cancelled: the contract ended it.
    """

    committed: Mapping[int, bytes] = field(default_factory=dict)
    complaints: Mapping[Pair, Fault] = field(default_factory=dict)
    published: frozenset[int] = frozenset()
    opened: Mapping[Pair, bytes] = field(default_factory=dict)
    content: frozenset[int] = frozenset()
    settled: frozenset[int] = frozenset()
    confirmed: Mapping[int, Confirmation] = field(default_factory=dict)
    cancelled: bool = False

    def check(self, ceremony: Ceremony) -> None:
        """Raise ThresholdError unless the facts can be facts of this ceremony.

        1. seats exist; 2. sizes; 3. only committed dealers are accused, 4. only accused ones publish, 5. only bad
        shares are opened.
        """
        dealers, receivers = range(1, ceremony.dealers + 1), range(1, len(ceremony.members) + 1)
        pairs = [*self.complaints, *self.opened]
        named_dealers = {*self.committed, *self.published, *(dealer for dealer, _ in pairs)}
        named_receivers = {*self.content, *self.settled, *self.confirmed, *(receiver for _, receiver in pairs)}
        if not named_dealers <= set(dealers) or not named_receivers <= set(receivers):  # 1
            found = f"dealers {sorted(named_dealers)}, receivers {sorted(named_receivers)}"
            raise BAD_FACTS(expected=f"dealers in 1..{len(dealers)}, receivers in 1..{len(receivers)}", found=found)
        for digest in self.committed.values():  # 2
            need_bytes("digest", digest, 32)
        for value in self.opened.values():
            need_bytes("opened share", value, SCALAR_SIZE)
        accused = {dealer for dealer, _ in self.complaints}
        bad = {pair for pair, fault in self.complaints.items() if fault is Fault.BAD_SHARE}
        if not accused <= set(self.committed):  # 3
            raise BAD_FACTS(expected="complaints of dealers that committed", found=f"of {sorted(accused)}")
        if not self.published <= accused:  # 4
            raise BAD_FACTS(expected="publications of accused dealers", found=f"of {sorted(self.published)}")
        if not set(self.opened) <= bad:  # 5
            raise BAD_FACTS(expected="openings of shares that were called bad", found=f"of {sorted(self.opened)}")

    def require_later_than(self, earlier: Facts) -> None:
        """Raise ThresholdError (threshold.facts_changed) if something that ``earlier`` knew is gone or different."""
        _require_kept("commitment", earlier.committed, self.committed)
        _require_kept("opened share", earlier.opened, self.opened)
        _require_kept("confirmation", earlier.confirmed, self.confirmed)
        for pair, fault in earlier.complaints.items():
            if self.complaints.get(pair, 0) < fault:
                raise FACTS_CHANGED(expected=f"the complaint of {pair}", found="none, or a lesser one")
        gone = earlier.published - self.published | earlier.content - self.content | earlier.settled - self.settled
        if gone or earlier.cancelled > self.cancelled:
            raise FACTS_CHANGED(expected="what was said before", found=f"without that of {sorted(gone)}")

    def of_dealer(self, dealer: int) -> dict[int, Fault]:
        """Faults by receiver that complained of this dealer."""
        return {receiver: fault for (one, receiver), fault in self.complaints.items() if one == dealer}


def _require_kept(name: str, before: Mapping[Any, Any], now: Mapping[Any, Any]) -> None:
    for key, value in before.items():
        if now.get(key) != value:
            raise FACTS_CHANGED(expected=f"the {name} of {key} as before", found=_text(now.get(key)))


def _text(value: object) -> str:
    return to_hex(value) if isinstance(value, bytes) else "none" if value is None else "another"
