"""An agent's state under several epochs, five members that remember heads, and a store that fails when told to."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from cloister.core.encoding.identity import AgentVersion, Epochs, Purpose
from cloister.core.encoding.signatures import Signed
from cloister.core.encoding.statements import StateHead
from cloister.core.errors import CloisterError
from cloister.core.state.endorse import Answer
from cloister.core.state.heads import HEAD_SLOT, Link, genesis_head
from cloister.core.state.rows import Head
from cloister.core.state.sealing import StateKeys
from cloister.core.state.table import HeadTable
from cloister.fabric.embedded.limits import UNAVAILABLE
from cloister.fabric.ports import Entry, Fabric, Rev, State, Tx
from cloister.worker.reseal import Resealer, Sealed
from cloister.worker.state import AgentState
from support.state_kit import AGENT, at, counter_rng, member

QUORUM, LOAD = 4, 3
NETWORK = bytes([1]) * 32


def version(epochs: Epochs) -> AgentVersion:
    """The test agent at these epochs."""
    return epochs.version(NETWORK, AGENT)


def state_keys(epochs: Epochs) -> StateKeys:
    """Its state keys there: as far apart as keys of other epochs are."""
    identity = bytes(version(epochs).key(Purpose.STATE))
    return StateKeys(hashlib.sha256(b"state key" + identity).digest(), identity)


class Crash(Exception):  # noqa: N818 - what a killed process does
    """The process ended here."""


class Store:
    """The real store. ``crash_at`` n: the n-th commit from now ends the process, before or after it is done."""

    def __init__(self, real: State) -> None:
        self._real = real
        self.commits = 0
        self.crash_at: int | None = None
        self.after = False
        self.biggest = 0

    async def get(self, agent: str, key: str) -> Entry | None:
        """One entry."""
        return await self._real.get(agent, key)

    async def scan(self, agent: str, prefix: str, limit: int = 1000) -> list[tuple[str, Entry]]:
        """Entries."""
        return await self._real.scan(agent, prefix, limit)

    async def history(self, agent: str, key: str, limit: int = 16) -> list[Entry]:
        """Older entries."""
        return await self._real.history(agent, key, limit)

    async def commit(self, agent: str, tx: Tx) -> dict[str, Rev]:
        """Commit, or crash."""
        self.commits += 1
        self.biggest = max(self.biggest, sum(len(p.value or b"") for p in tx.puts.values()))
        crash = self.crash_at is not None and self.commits >= self.crash_at
        if crash and not self.after:
            raise Crash
        revs = await self._real.commit(agent, tx)
        if crash:
            raise Crash
        return revs


@dataclass
class Shop:
    """One agent, one store, five members. ``away``: members that are not reached with heads of the epochs ``away_for``.

    ``secrets``: what ``carry`` makes of what the old state keeps."""

    fabric: Fabric
    tables: list[HeadTable] = field(default_factory=lambda: [HeadTable(merged=True) for _ in range(5)])
    away: set[int] = field(default_factory=set)
    away_for: Epochs | None = None
    secrets: dict[bytes | None, bytes | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = Store(self.fabric.state)
        self.fabric.state = self.store
        self._writes = 0
        self._seeds = 0

    def rng(self) -> object:
        """Random bytes that no other part of the test draws."""
        self._seeds += 1
        return counter_rng(self._seeds.to_bytes(4, "big"))

    def answers(self) -> list[Answer]:
        """What the members that are there remember."""
        found = [(n, self.tables[n].get(AGENT)) for n in range(5)]
        return [
            Answer(member(n), 0, bytes(32)) if h is None else Answer(member(n), h.height, h.head, h.epochs)
            for n, h in found
        ]

    async def endorse(self, epochs: Epochs, links: Sequence[Link]) -> Signed:
        """As gatekeepers do: head by head; the last one needs four."""
        genesis = genesis_head(bytes(version(epochs).key(Purpose.STATE)))
        refused: list[CloisterError] = []
        count = 0
        for link in links:
            count = 0
            for n in set(range(5)) - (self.away if epochs == self.away_for else set()):
                try:
                    self.tables[n].propose(AGENT, Head(epochs, link.height, link.parent, link.head), genesis=genesis)
                    count += 1
                except CloisterError as error:
                    refused.append(error)
        if count < QUORUM:
            raise refused[-1] if refused else UNAVAILABLE(expected="four members", found=str(count))
        last = links[-1]
        head = (epochs.of, epochs.master, epochs.cluster, epochs.agent, last.height, last.parent, last.head)
        return Signed(StateHead(1, AGENT, *head), ())

    def sealed(self) -> Epochs | None:
        """Where the state is, as at least three members say."""
        said = [table.sealed(AGENT) for table in self.tables]
        return next((e for e in set(said) if said.count(e) >= LOAD), None)

    async def state(self, epochs: Epochs) -> AgentState:
        """The agent's state under these epochs, loaded as a worker does."""
        state = AgentState(self.store, state_keys(epochs), AGENT.hex(), self.rng())  # type: ignore[arg-type]
        await state.load(self.answers(), LOAD, over=epochs[:3] > (1, 1, 1))
        return state

    async def write(self, state: AgentState, **values: bytes) -> str:
        """One commit; returns its request id."""
        self._writes += 1
        name = f"w{self._writes}"
        tx = await state.begin(name)
        for key, value in values.items():
            await tx.put(key, value)
        await tx.commit(name)
        return name

    async def endorsed(self, state: AgentState, epochs: Epochs) -> None:
        """Let the committee endorse what waits."""
        record = (await state.snapshot()).record
        await self.endorse(epochs, record.links())
        state.endorsed(record.height)

    def resealer(
        self, new: Epochs, old: Epochs | None, *, holder: str = "one", answers: Sequence[Answer] | None = None
    ) -> Resealer:
        """A worker's re-seal from the old epochs."""

        async def carry(name: bytes | None) -> bytes | None:
            return self.secrets.get(name)

        told = self.answers() if answers is None else answers
        return Resealer(
            self.fabric,
            AGENT.hex(),
            holder,
            None if old is None else Sealed(state_keys(old), old, told, LOAD),
            state_keys(new),
            new,
            endorse=self.endorse,
            carry=carry,
            rng=self.rng(),  # type: ignore[arg-type]
        )

    async def reseal(self, new: Epochs, **options: object) -> None:
        """Move the state from wherever it is."""
        await self.resealer(new, self.sealed(), **options).run()  # type: ignore[arg-type]

    async def contents(self, epochs: Epochs) -> dict[str, bytes | None]:
        """All values under these epochs."""
        state = await self.state(epochs)
        tx = await state.begin(f"read{self._seeds}")
        return {name: await tx.get(name) for name in await tx.list()}

    async def places(self) -> set[str]:
        """Every stored key of the agent."""
        return {key for key, _ in await self.store.scan(AGENT.hex(), "", 10_000)}

    async def head_blob(self) -> Entry | None:
        """The head record as the host sees it."""
        return await self.store.get(AGENT.hex(), HEAD_SLOT)


ONE, TWO, THREE, FOUR = at(1), at(2), at(3), at(4)
