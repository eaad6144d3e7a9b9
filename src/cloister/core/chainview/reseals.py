"""Under which master epoch each agent counts, as ``Reseals`` and ``Agents`` keep it (spec/epochs.md 13).

An agent counts under the epoch of its birth until a statement, or its owner, moves it on. Words of proven storage slots
become numbers; a missing entry is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloister.core.chainview.layout import Layout, add, data_slot, mapping_slot
from cloister.core.chainview.words import Slots, Struct
from cloister.core.encoding.hexes import need_uint
from cloister.core.encoding.identity import Epochs
from cloister.core.state.rows import Head

_U64 = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class CountedAgent:
    """An agent (32-byte id) with its epoch, the master epoch that it counts under, the epochs that its secrets were set
    under (None: none are set), and the agent epoch below which its state is left behind."""

    agent: bytes
    epoch: int
    counted: int
    secrets: Epochs | None
    wiped_below: int


def read_born_in(slots: Slots, layout: Layout, tokens: Sequence[int]) -> tuple[int, ...]:
    """The master epoch of each agent's birth (by token id), from the Agents contract; 0 for no such agent."""
    return tuple(word & _U64 for word in _words(slots, layout, "bornIn", tokens))


def read_moved_to(slots: Slots, layout: Layout, tokens: Sequence[int]) -> tuple[int, ...]:
    """The master epoch that each agent was moved on to, from the Reseals contract; 0 for one that was not."""
    return tuple(word & _U64 for word in _words(slots, layout, "_movedTo", tokens))


def read_born_under(slots: Slots, layout: Layout, epoch: int) -> int:
    """How many agents were born under a master epoch, from the Agents contract."""
    return _words(slots, layout, "bornUnder", [epoch])[0]


def read_moved(slots: Slots, layout: Layout, epoch: int) -> int:
    """How many more agents were moved to a master epoch than away from it, from the Reseals contract."""
    places = [_slot(layout, label, epoch) for label in ("_arrived", "_left")]
    arrived, left = slots.get(places)
    return arrived - left


def read_acceptance_count(slots: Slots, layout: Layout) -> int:
    """How often owners accepted a head, of all agents, from the Reseals contract (spec/state.md 13)."""
    return slots.get([layout.variable("_acceptances").slot])[0]


def read_acceptances(slots: Slots, layout: Layout, start: int, end: int) -> tuple[tuple[bytes, Head], ...]:
    """Agents (32-byte ids) of acceptances number ``start`` to ``end`` - 1, each with the head accepted last of it."""
    first, table = data_slot(layout.variable("_acceptances").slot), layout.variable("_accepted")
    agents = [word.to_bytes(32, "big") for word in slots.get([add(first, n) for n in range(start, end)])]
    at = Struct(layout, layout.value_type(table), slots, [mapping_slot(table.slot, agent) for agent in agents])
    found = []
    for at.index, agent in enumerate(agents):
        epochs = Epochs(
            at.number("agentEpoch"), at.number("clusterEpoch"), at.number("masterEpoch"), at.word("cluster")
        )
        found.append((agent, Head(epochs, at.number("height"), at.word("parent"), at.word("head"))))
    return tuple(found)


def _words(slots: Slots, layout: Layout, label: str, keys: Sequence[int]) -> Sequence[int]:
    return slots.get([_slot(layout, label, key) for key in keys])


def _slot(layout: Layout, label: str, key: int) -> int:
    return mapping_slot(layout.variable(label).slot, need_uint("key", key, 256).to_bytes(32, "big"))
