"""Master epochs as the Gatekeepers contract keeps them, and which of them is in use (spec/gatekeepers.md M1-M4).

Apart from ``ceremonies``, so that who only uses keys need not hold the mathematics of sharing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from cloister.core.chainview.layout import Layout, add, mapping_slot
from cloister.core.chainview.words import BAD_RECORD, Slots, Struct
from cloister.core.encoding.hexes import need_uint
from cloister.core.errors import ChainViewError, define

NOT_IN_USE = define(
    "chainview.master_epoch",
    ChainViewError,
    check="a master epoch is used from its resume on, and the one before it until then (M2)",
    remedy="wait until t gatekeepers have resumed the new epoch; `cloister gatekeeper status` shows it",
    status=503,
)


class EpochState(IntEnum):
    """What a master epoch's key may be used for (M2-M4).

    RELEASED: the first epoch, since the founding. PAUSED: no key for writing; a later epoch waits for ``resume``, an
    earlier one serves re-sealing while a later one is RESUMED. RESUMED: writes go here. DESTROYED: nothing, for good.
    """

    NONE = 0
    RELEASED = 1
    PAUSED = 2
    RESUMED = 3
    DESTROYED = 4


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """A master epoch: its state, its key, and the ceremony and term whose shares hold it now. Blocks are 0 if unset."""

    epoch: int
    state: EpochState
    ceremony: int
    term: int
    confirmed_at: int
    resumed_at: int
    destroyed_at: int
    transcript: bytes
    mpk: bytes


def in_use(newest: EpochRecord, before: EpochRecord | None) -> EpochRecord:
    """The master epoch whose keys leases carry now. ``before``: the epoch below ``newest``; None below the first.

    1. the newest, once it is released or resumed; 2. until then the one before it, which was paused by the rotation and
    whose leases run on. Raises ChainViewError (chainview.master_epoch): a key that is not resumed is used by nobody."""
    if newest.state in (EpochState.RELEASED, EpochState.RESUMED):  # 1
        return newest
    paused = newest.state is EpochState.PAUSED and before is not None and before.epoch + 1 == newest.epoch
    if paused and before is not None and before.state is EpochState.PAUSED:  # 2
        return before
    raise NOT_IN_USE(expected="an epoch that was resumed", found=f"epoch {newest.epoch} {newest.state.name.lower()}")


def read_master(slots: Slots, layout: Layout) -> EpochRecord:
    """The master epoch whose keys leases carry now: ``in_use`` of the newest two. Raises ChainViewError."""
    place = layout.variable("_committee")
    number = Struct(layout, place.type, slots, [place.slot]).number("masterEpoch")
    numbers = [n for n in (number, number - 1) if n > 0]
    slots.get([slot for n in numbers for slot in _words(layout, n)])  # in one proof
    newest, *before = [read_epoch(slots, layout, n) for n in numbers or [0]]
    return in_use(newest, before[0] if before else None)


def read_epoch(slots: Slots, layout: Layout, epoch: int) -> EpochRecord:
    """A master epoch; its state is NONE if there is none of that number yet. Raises ChainViewError."""
    table = layout.variable("_epochs")
    at = Struct(layout, layout.value_type(table), slots, [_words(layout, epoch)[0]])
    state = at.number("state")
    if state > max(EpochState):
        raise BAD_RECORD(expected="a known state of an epoch", found=str(state))
    return EpochRecord(
        epoch=epoch,
        state=EpochState(state),
        ceremony=at.number("ceremony"),
        term=at.number("term"),
        confirmed_at=at.number("confirmedAt"),
        resumed_at=at.number("resumedAt"),
        destroyed_at=at.number("destroyedAt"),
        transcript=at.word("transcript"),
        mpk=at.words("mpk"),
    )


def read_term_height(slots: Slots, layout: Layout, term: int) -> int:
    """The block that put a term in office; 0 for one that never was."""
    table = layout.variable("_terms")
    base = mapping_slot(table.slot, need_uint("term", term, 64).to_bytes(32, "big"))
    return Struct(layout, layout.value_type(table), slots, [base]).number("height")


def _words(layout: Layout, epoch: int) -> list[int]:
    table = layout.variable("_epochs")
    base = mapping_slot(table.slot, need_uint("epoch", epoch, 64).to_bytes(32, "big"))
    return [add(base, i) for i in range(layout.words(layout.value_type(table)))]
