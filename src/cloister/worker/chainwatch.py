"""The worker's verified view of the chain: newest checkpoint with t signatures, records by proof (spec/chainview.md).

The endpoint that serves proofs is not trusted, nor is the host's clock. Time is checkpoint height, and a checkpoint is
fresh only while t gatekeepers answered a nonce of ours not long ago by this machine's monotonic clock.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Protocol

from cloister.chain.proven import ProvenState
from cloister.chain.rpc import Rpc
from cloister.core.chainview.records import AgentRecord, agent_id
from cloister.core.encoding.network import Network
from cloister.core.encoding.signatures import Signed
from cloister.core.encoding.statements import Checkpoint, HeartBeat
from cloister.core.errors import ChainViewError, CloisterError, define

STALE_VIEW = define(
    "worker.stale_view",
    ChainViewError,
    check="t gatekeepers answered this worker's nonce within the freshness limit",
    remedy="the worker is cut off from the committee: call another worker, or wait until it is back",
    status=503,
)
WENT_BACK = define(
    "worker.checkpoint_conflict",
    ChainViewError,
    check="checkpoints only move forward, one per height",
    remedy="stop this worker: the committee contradicts itself or somebody holds its keys",
    status=503,
)


class CommitteePort(Protocol):
    """What the watch asks of the committee (``wire.committee.Committee``)."""

    async def checkpoint(self) -> Signed:
        """The newest checkpoint with t signatures."""

    async def heartbeat(self, nonce: bytes) -> tuple[HeartBeat, ...]:
        """t answers to a nonce."""


class ChainWatch:
    """Keeps the newest verified checkpoint and reads records by proof at it.

    ``monotonic`` is this machine's steady clock in seconds; ``rng`` gives nonces; ``max_age_s`` is the freshness limit.
    """

    def __init__(
        self,
        network: Network,
        committee: CommitteePort,
        rpc: Rpc,
        *,
        monotonic: Callable[[], float],
        rng: Callable[[int], bytes],
        max_age_s: float,
    ) -> None:
        self._network, self._committee, self._rpc = network, committee, rpc
        self._monotonic, self._rng, self._max_age = monotonic, rng, max_age_s
        self._signed: Signed | None = None
        self._fresh_at = float("-inf")
        self._hashes: dict[int, bytes] = {}
        self._records: dict[bytes, AgentRecord | None] = {}
        self._proven: ProvenState | None = None
        self._paused: set[bytes] = set()
        self._moved = asyncio.Condition()

    @property
    def signed(self) -> Signed:
        """The newest checkpoint with its signatures. Raises ChainViewError before the first one."""
        if self._signed is None:
            raise STALE_VIEW(expected="a checkpoint", found="none yet")
        return self._signed

    @property
    def checkpoint(self) -> Checkpoint:
        """The newest checkpoint."""
        statement = self.signed.statement
        assert isinstance(statement, Checkpoint)  # noqa: S101 - accept() took nothing else
        return statement

    def require_fresh(self) -> Checkpoint:
        """The newest checkpoint. Raises worker.stale_view when the committee has been silent for too long."""
        age = self._monotonic() - self._fresh_at
        if age > self._max_age:
            raise STALE_VIEW(expected=f"an answer within {self._max_age:.0f} s", found=f"silence for {age:.0f} s")
        return self.checkpoint

    def state(self) -> ProvenState:
        """Proof-checked reads at the newest checkpoint; one object per checkpoint, which keeps what it proved."""
        if self._proven is None or self._proven.checkpoint != self.checkpoint:
            contracts = {name: ref.address for name, ref in self._network.genesis.contracts.items()}
            hashes = {name: ref.code_hash for name, ref in self._network.genesis.contracts.items()}
            self._proven = ProvenState(self._rpc, contracts, self.checkpoint, code_hashes=hashes)
        return self._proven

    async def agent(self, agent: bytes) -> AgentRecord | None:
        """The agent's record by proof at the newest checkpoint (read once per checkpoint). None: no such agent."""
        if agent not in self._records:
            at = self.checkpoint
            record = await self.state().agent(agent)
            if at == self.checkpoint:
                self._records[agent] = record
            return record
        return self._records[agent]

    async def agent_ids(self) -> list[bytes]:
        """All agents at the newest checkpoint: their number is proven, their ids follow."""
        genesis, count = self._network.genesis, await self.state().agent_count()
        return [agent_id(genesis.chain_id, genesis.address("Agents"), token) for token in range(1, count + 1)]

    @property
    def period_blocks(self) -> int:
        """Blocks per key period (network parameter)."""
        return int(self._network.genesis.policy["network"]["period_blocks"])

    def seen_paused(self, agent: bytes) -> bool:
        """Whether any block seen, proven or not, had the agent paused since its last proven resume."""
        return agent in self._paused

    async def refresh(self) -> bool:
        """Fetch the newest checkpoint; True if it moved. Raises the committee's refusal, or WENT_BACK.

        1. t signatures under this network; 2. never two hashes at one height; 3. never backwards.
        """
        signed = await self._committee.checkpoint()
        new = signed.statement
        assert isinstance(new, Checkpoint)  # noqa: S101 - the committee port returns checkpoints
        signed.verify(self._network.founding, self._network.id)  # 1
        if self._hashes.setdefault(new.number, new.block_hash) != new.block_hash:  # 2
            raise WENT_BACK(expected=f"one block at {new.number}", found="two signed blocks at one height")
        if self._signed is not None and new.number <= self.checkpoint.number:  # 3
            return False
        self._signed, self._records = signed, {}
        for old in [n for n in self._hashes if n < new.number - 256]:
            del self._hashes[old]
        async with self._moved:
            self._moved.notify_all()
        return True

    async def prove_fresh(self) -> None:
        """Ask t gatekeepers to answer a fresh nonce; the time *before* asking counts."""
        before = self._monotonic()
        await self._committee.heartbeat(self._rng(32))
        self._fresh_at = before

    async def watch_pause(self, agent: bytes) -> None:
        """Note a pause at the newest block seen (unproven: restrictive only), or its end by proof."""
        if await self.state().newest_paused(agent):
            self._paused.add(agent)
        elif agent in self._paused:
            record = await self.agent(agent)
            if record is not None and not record.paused:
                self._paused.discard(agent)

    async def moved(self) -> None:
        """Wait until the checkpoint moves."""
        async with self._moved:
            await self._moved.wait()

    async def run(self, agents: Callable[[], Mapping[bytes, object]], *, every_s: float = 0.25) -> None:
        """Refresh for ever: checkpoint, freshness, pauses (``agents()`` and those seen paused). Failures wait."""
        while True:
            with contextlib.suppress(CloisterError):
                await self.refresh()
            if self._monotonic() - self._fresh_at > self._max_age / 4:
                with contextlib.suppress(CloisterError):
                    await self.prove_fresh()
            for agent in {*agents(), *self._paused}:
                with contextlib.suppress(CloisterError):
                    await self.watch_pause(agent)
            await asyncio.sleep(every_s)
