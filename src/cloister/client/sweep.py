"""How far agents have moved to a new master key: counted by proof, waivers by the endpoint's logs (epochs.md 7, 13).

Statements of t members, or an owner's waiver, move an agent on. The contract counts both together; only its events tell
one from the other, and events are claims of the endpoint. Nothing rests on them: they are for people.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cloister.chain.abi import BAD_ANSWER
from cloister.chain.events import decode_event, topic
from cloister.chain.logs import get_logs
from cloister.core.chainview.ceremonies import EpochState
from cloister.core.chainview.reseals import read_born_in, read_born_under, read_moved, read_moved_to
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError

if TYPE_CHECKING:
    from cloister.chain.seats import SeatedState
    from cloister.client.client import Client

NAME: Final = "Reseals"
_SPAN, _MOST = 1 << 16, 1 << 16


@dataclass(frozen=True, slots=True)
class Sweep:
    """Agents on their way from master epoch ``old`` to ``new``. ``waiting`` and ``moved`` are proven.

    ``waived``: of those moved, as the endpoint's logs say; None if it did not say. ``agent``: where the one agent asked
    about stands: waiting, re-sealed, waived, moved (nobody says which of both) or born (under the new key)."""

    old: int
    new: int
    waiting: int
    moved: int
    waived: int | None
    agent: str

    @property
    def resealed(self) -> int | None:
        """How many were re-sealed; None where nobody says how many were waived."""
        return None if self.waived is None else self.moved - self.waived

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "from": self.old,
            "to": self.new,
            "waiting": self.waiting,
            "moved": self.moved,
            "resealed": self.resealed,
            "waived": self.waived,
            "this_agent": self.agent,
        }


def sweep_words(facts: dict[str, Any]) -> str:
    """``Sweep.to_json`` in one line for people."""
    whole, waived = facts["waiting"] + facts["moved"], facts["waived"]
    split = "" if waived is None else f" ({facts['resealed']} re-sealed, {waived} waived)"
    place = facts["this_agent"]
    told = "this one was made under the new key" if place == "born" else f"this one: {place}"
    return f"{facts['moved']} of {whole} agents moved from epoch {facts['from']} to {facts['to']}{split}; {told}"


async def sweep_of(client: Client, token_id: int) -> Sweep | None:
    """The sweep that runs now, and where an agent stands in it; None while one master epoch lives.

    Raises ChainError, ChainViewError. 1. two epochs live; 2. counts and the agent's place, by proof; 3. waivers, as far
    as the endpoint says, and never more of them than moved."""
    view = await client.resolver.view()
    state, new = view.state, (await view.state.master()).epoch
    if new < 2 or NAME not in client.network.genesis.contracts:
        return None
    older, newest = await asyncio.gather(state.epoch_record(new - 1), state.epoch_record(new))
    if older.state in (EpochState.NONE, EpochState.DESTROYED):  # 1
        return None
    born, left, moved = await _counts(state, new)  # 2
    place, counted = await _place(state, token_id, new)
    told = await _waivers(client, newest.confirmed_at, view.checkpoint.number, new)  # 3
    waived = None if told is None or len(told) > moved else len(told)
    if place == "moved" and waived is not None:
        place = "waived" if token_id in (told or ()) else "re-sealed"
    return Sweep(new - 1, new, born + left, moved, waived, place if counted else "waiting")


async def _counts(state: SeatedState, new: int) -> tuple[int, int, int]:
    """(born under the old epoch, moved to it less moved away, moved to the new one)."""
    return await asyncio.gather(
        state.read("Agents", lambda s, at: read_born_under(s, at, new - 1)),
        state.read(NAME, lambda s, at: read_moved(s, at, new - 1)),
        state.read(NAME, lambda s, at: read_moved(s, at, new)),
    )


async def _place(state: SeatedState, token_id: int, new: int) -> tuple[str, bool]:
    """(born or moved, whether it counts under the new epoch)."""
    (born,), (later,) = await asyncio.gather(
        state.read("Agents", lambda s, at: read_born_in(s, at, [token_id])),
        state.read(NAME, lambda s, at: read_moved_to(s, at, [token_id])),
    )
    return ("moved" if later else "born"), (later or born) >= new


async def _waivers(client: Client, since: int, until: int, new: int) -> frozenset[int] | None:
    """Token ids whose owners waived, as the endpoint says; None if it does not say."""
    try:
        address = client.address(NAME)
        logs = await get_logs(
            client.rpc, address, [to_hex(topic(NAME, "MovedOn"))], since, until, span=_SPAN, most=_MOST
        )
        return _waived(logs, new)
    except CloisterError:
        return None


def _waived(logs: Sequence[Any], new: int) -> frozenset[int]:
    """Raises ChainError or EncodingError for logs of another form."""
    if not all(isinstance(log, dict) for log in logs):
        raise BAD_ANSWER(expected="logs", found="something else")
    moves = [decode_event(NAME, log)[1] for log in logs]
    return frozenset(int(said["tokenId"]) for said in moves if said["waived"] and said["to"] == new)
