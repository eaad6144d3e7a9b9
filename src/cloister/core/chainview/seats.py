"""What the Gatekeepers contract asks of candidates and ceremonies, as numbers (spec/gatekeepers.md).

Apart from ``ceremonies``, so that who only reads numbers need not hold the mathematics of sharing.
"""

from __future__ import annotations

from dataclasses import dataclass

from cloister.core.chainview.layout import Layout
from cloister.core.chainview.words import Slots, Struct


@dataclass(frozen=True, slots=True)
class RulesRecord:
    """The contract's parameters: tokens in wei, times in blocks."""

    ceremony_blocks: int
    term_blocks: int
    refresh_blocks: int
    rotation_blocks: int
    erase_delay: int
    unbonding_blocks: int
    min_stake: int
    absence_slash: int


def read_rules(slots: Slots, layout: Layout) -> RulesRecord:
    """The contract's parameters."""
    place = layout.variable("_rules")
    at = Struct(layout, place.type, slots, [place.slot])
    return RulesRecord(
        ceremony_blocks=at.number("ceremonyBlocks"),
        term_blocks=at.number("termBlocks"),
        refresh_blocks=at.number("refreshBlocks"),
        rotation_blocks=at.number("rotationBlocks"),
        erase_delay=at.number("eraseDelay"),
        unbonding_blocks=at.number("unbondingBlocks"),
        min_stake=at.number("minStake"),
        absence_slash=at.number("absenceSlash"),
    )
