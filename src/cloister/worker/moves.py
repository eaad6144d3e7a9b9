"""Which agents of this worker are being re-sealed: in the background, a few at once (spec/epochs.md 7).

Every agent that placement puts here is leased and loaded, called or asleep; so sleeping ones are re-sealed too, paced
by ``AT_ONCE``. While an agent moves, its requests are refused with ``epoch.resealing``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

from cloister.core.chainview.records import AgentRecord
from cloister.core.encoding.contexts import Context
from cloister.core.encoding.identity import AgentVersion, Epochs, Purpose
from cloister.core.encoding.signatures import Signed
from cloister.core.errors import CloisterError
from cloister.core.state.endorse import Answer
from cloister.core.state.heads import Link
from cloister.core.state.sealing import Rng, StateKeys
from cloister.core.threshold.ibe import DerivedKey
from cloister.fabric.ports import Fabric
from cloister.wire.heads import HeadMove
from cloister.worker.carried import carry
from cloister.worker.leases import AgentKeys
from cloister.worker.reseal import RESEALING, Progress, Resealer, Sealed

AT_ONCE = 2

Endorse = Callable[[AgentKeys, Sequence[HeadMove]], Awaitable[Signed]]


class Moves:
    """Re-seals in progress, by agent. ``refuse`` says so, or why the last one failed."""

    def __init__(self, worker: bytes, fabric: Fabric, endorse: Endorse, rng: Rng) -> None:
        self._worker, self._fabric, self._endorse, self._rng = worker, fabric, endorse, rng
        self._running: dict[bytes, tuple[asyncio.Task[None], Resealer]] = {}
        self._failed: dict[bytes, CloisterError] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._free = asyncio.Semaphore(AT_ONCE)

    def progress(self) -> Mapping[bytes, Progress]:
        """How far each is."""
        return {agent: resealer.progress for agent, (_, resealer) in self._running.items()}

    def refuse(self, agent: bytes) -> None:
        """Raise epoch.resealing while the agent moves, and once what its last move failed with."""
        running = self._running.get(agent)
        if running is not None:
            at = running[1].progress
            raise RESEALING(expected="state under the present epochs", found=f"{at.done} of {at.total} values moved")
        failed = self._failed.pop(agent, None)
        if failed is not None:
            raise failed

    def begin(self, agent: bytes, keys: AgentKeys, record: AgentRecord, answers: Sequence[Answer], quorum: int) -> None:
        """Begin to re-seal from ``keys.old`` to the keys of the lease; nothing if it runs already."""
        if agent in self._running:
            return
        old = keys.old.get(Purpose.STATE)
        sealed = None if old is None else Sealed(_keys(old.version, old.key), old.version.epochs, answers, quorum)
        resealer = Resealer(
            self._fabric,
            agent.hex(),
            self._worker.hex(),
            sealed,
            state_keys(keys),
            keys.version.epochs,
            endorse=partial(self._endorsed, agent, keys),
            carry=lambda name: carry(self._fabric.blobs, keys, record, name, self._rng),
            rng=self._rng,
        )
        self._running[agent] = asyncio.ensure_future(self._run(agent, resealer)), resealer

    def keep(self, agents: Collection[bytes]) -> None:
        """Stop moving all others: what was written stays, and the next holder goes on from it."""
        for agent in [a for a in self._running if a not in agents]:
            task, _ = self._running.pop(agent)
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        self._failed = {agent: error for agent, error in self._failed.items() if agent in agents}

    async def ended(self) -> None:
        """Wait for those that were stopped."""
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _run(self, agent: bytes, resealer: Resealer) -> None:
        try:
            async with self._free:
                await resealer.run()
        except CloisterError as error:
            self._failed[agent] = error.with_traceback(None)
        finally:
            mine = self._running.get(agent)
            if mine is not None and mine[1] is resealer:
                del self._running[agent]

    async def _endorsed(self, agent: bytes, keys: AgentKeys, epochs: Epochs, links: Sequence[Link]) -> Signed:
        return await self._endorse(
            keys, [HeadMove(agent, epochs, link.height, link.parent, link.head) for link in links]
        )


def standing(answers: Sequence[Answer], record: AgentRecord) -> list[Answer]:
    """Answers of members, without the heads that the owner left behind on chain."""
    return [
        replace(a, height=0, head=bytes(32)) if a.epochs is not None and a.epochs.agent < record.wiped_below else a
        for a in answers
    ]


def state_keys(keys: AgentKeys) -> StateKeys:
    """What seals the agent's state under the epochs of a lease."""
    return _keys(keys.version, keys.key(Purpose.STATE))


def _keys(version: AgentVersion, key: DerivedKey) -> StateKeys:
    identity = bytes(version.key(Purpose.STATE))
    return StateKeys(key.symmetric(Context.STATE_DATA_KEY, identity), identity)
