"""The worker's verified view of the chain: newest checkpoint with t signatures, records by proof (spec/chainview.md).

The endpoint that serves proofs is not trusted, nor is the host's clock. Time is checkpoint height, and a checkpoint is
fresh only while f + 1 gatekeepers answered a nonce of ours not long ago by this machine's monotonic clock; the height
that an honest one of them named moves time too. Restrictions (pause, removal) count from any block seen; their end
counts only by proof.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol

from cloister.chain.proven import ProvenState
from cloister.chain.proven_calls import ProvenCalls
from cloister.chain.rpc import Rpc, quantity
from cloister.core.chainview.records import AgentRecord, AgentRules, agent_id
from cloister.core.chainview.refusals import NOT_A_CHECKPOINT
from cloister.core.chainview.terms import Terms
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.network import Network
from cloister.core.encoding.signatures import Signed
from cloister.core.encoding.statements import Checkpoint, HeartBeat
from cloister.core.errors import ChainViewError, CloisterError, PolicyError, define
from cloister.node import logs

# Heights remembered against a second block at one height.
KEPT_HEIGHTS = 256
# An endpoint's claim about its newest block is believed up to this far above the checkpoint.
MAX_AHEAD = 1 << 14
_AT_ONCE = 32
# Claims about newer rules of one agent that are kept: more come from a lying endpoint only.
_MAX_CLAIMS = 8

STALE_VIEW = define(
    "worker.stale_view",
    ChainViewError,
    check="f + 1 gatekeepers answered this worker's nonce within the freshness limit",
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
REMOVED = define(
    "worker.removed",
    PolicyError,
    check="no block seen says that this worker was removed or left",
    remedy="call another worker; a removed one comes back with a new identity only",
    status=503,
)
_log = logs.get("chainwatch")


class CommitteePort(Protocol):
    """What the watch asks of the committee (``wire.terms.LiveCommittee``)."""

    @property
    def terms(self) -> Terms:
        """The terms that are known, the last one in office."""

    async def checkpoint(self) -> Signed:
        """The newest checkpoint with t signatures."""

    async def heartbeat(self, nonce: bytes) -> tuple[HeartBeat, ...]:
        """f + 1 answers to a nonce, of distinct members: one of them is honest."""


class ChainWatch:
    """Keeps the newest verified checkpoint and reads records by proof at it.

    ``monotonic`` is this machine's steady clock in seconds; ``rng`` gives nonces; ``max_age_s`` is the freshness limit.
    ``news`` counts what happened: a new checkpoint, a restriction seen or ended.
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
        self._time = 0
        self._blocks: dict[int, tuple[bytes, bytes]] = {}
        self._conflict: CloisterError | None = None
        self._records: dict[bytes, AgentRecord | None] = {}
        self._root = b""  # of the Agents contract's storage, by proof, which records and rules were read under
        self._swept: dict[str, tuple[bytes, set[bytes]]] = {}  # per sweep: the newest root before it, and who was in it
        self._proven: ProvenState | None = None
        self._calls: ProvenCalls | None = None
        self._rules: dict[bytes, tuple[bytes, AgentRules]] = {}  # by proof, and under which storage root
        self._claims: dict[bytes, dict[AgentRules, int]] = {}  # newer rules, and the newest height claimed with them
        self._restricted: dict[bytes, int] = {}  # agent id or our address -> newest height claimed when it was seen
        self._worker: bytes | None = None
        self._said: dict[str, str] = {}
        self._moved = asyncio.Event()
        self.news = 0

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
        assert isinstance(statement, Checkpoint)  # noqa: S101 - refresh() took nothing else
        return statement

    def require_fresh(self) -> Checkpoint:
        """The newest checkpoint, if this worker may serve now.

        1. the committee never contradicted itself; 2. it answered not long ago; 3. no block seen removed this worker.
        Raises worker.checkpoint_conflict, worker.stale_view, worker.removed."""
        if self._conflict is not None:  # 1
            raise self._conflict.with_traceback(None)
        age = self._monotonic() - self._fresh_at  # 2
        if age > self._max_age:
            raise STALE_VIEW(expected=f"an answer within {self._max_age:.0f} s", found=f"silence for {age:.0f} s")
        if self._worker in self._restricted:  # 3
            raise REMOVED(expected="a worker in service", found="removed or gone at a block that this worker saw")
        return self.checkpoint

    def state(self) -> ProvenState:
        """Proof-checked reads at the newest checkpoint; one object per checkpoint, which keeps what it proved."""
        if self._proven is None or self._proven.checkpoint != self.checkpoint:
            contracts = {name: ref.address for name, ref in self._network.genesis.contracts.items()}
            hashes = {name: ref.code_hash for name, ref in self._network.genesis.contracts.items()}
            self._proven = ProvenState(self._rpc, contracts, self.checkpoint, code_hashes=hashes)
        return self._proven

    async def agent(self, agent: bytes) -> AgentRecord | None:
        """The agent's record by proof at the newest checkpoint (read once per change). None: no such agent."""
        return (await self.agents([agent]))[0]

    async def agents(self, agents: Sequence[bytes]) -> list[AgentRecord | None]:
        """Records by proof at the newest checkpoint, proven together. Those read before count as long as the storage
        root of their contract stays the same, by proof: an agent that sleeps costs nothing."""
        state, root = await self._agents_root()
        missing = [agent for agent in agents if agent not in self._records]
        if not missing:
            return [self._records[agent] for agent in agents]
        fresh = dict(zip(missing, await state.agents(missing), strict=True))
        if root == self._root:
            self._records |= fresh
            fresh = self._records
        elif len(missing) < len(agents):
            return await self.agents(agents)  # what was known is of an older root by now
        return [fresh[agent] for agent in agents]

    async def _agents_root(self) -> tuple[ProvenState, bytes]:
        """The newest checkpoint's state and the Agents contract's storage root in it; what was read under another root
        is forgotten."""
        state = self.state()
        root = await state.storage_root("Agents")
        if root != self._root and state.checkpoint == self.checkpoint:
            self._records, self._root = {}, root
        return state, root

    def calls(self) -> ProvenCalls:
        """Views of contracts over state that is proven at the newest checkpoint."""
        if self._calls is None or self._calls.checkpoint != self.checkpoint:
            self._calls = ProvenCalls(self._rpc, self.checkpoint)
        return self._calls

    async def rules(self, agent: bytes) -> AgentRules:
        """The agent's rules by proof at the newest checkpoint (read once per change)."""
        state, root = await self._agents_root()
        known = self._rules.get(agent)
        if known is None or known[0] != root:
            known = self._rules[agent] = (root, await state.agent_rules(agent))
        return known[1]

    def rules_in_force(self, agent: bytes) -> tuple[AgentRules, ...]:
        """The rules that bind now, all at once: those proven last and those that newer blocks seen hold.

        Empty before the first proof: then nothing is allowed."""
        known = self._rules.get(agent)
        return () if known is None else (known[1], *self._claims.get(agent, ()))

    async def agent_ids(self) -> list[bytes]:
        """All agents at the newest checkpoint: their number is proven, their ids follow."""
        genesis, count = self._network.genesis, await self.state().agent_count()
        return [agent_id(genesis.chain_id, genesis.address("Agents"), token) for token in range(1, count + 1)]

    @property
    def period_blocks(self) -> int:
        """Blocks per key period (network parameter)."""
        return int(self._network.genesis.policy["network"]["period_blocks"])

    @property
    def max_agents(self) -> int:
        """The policy's cap of agents for each worker (network parameter)."""
        return int(self._network.genesis.policy["network"]["max_agents_per_worker"])

    def seen_paused(self, agent: bytes) -> bool:
        """Whether any block seen, proven or not, had the agent paused since its last proven resume."""
        return agent in self._restricted

    async def refresh(self) -> bool:
        """Fetch the newest checkpoint; True if it moved. Raises the committee's refusal, or WENT_BACK for ever.

        1. t signatures of a term that may speak of this block; 2. of this chain; 3. never two blocks at one height;
        4. never backwards.
        """
        signed = await self._committee.checkpoint()
        new = signed.statement
        assert isinstance(new, Checkpoint)  # noqa: S101 - the committee port returns checkpoints
        self._committee.terms.verify(signed, new.number)  # 1
        if new.chain_id != self._network.genesis.chain_id:  # 2
            raise NOT_A_CHECKPOINT(expected=f"chain {self._network.genesis.chain_id}", found=f"chain {new.chain_id}")
        block = (new.block_hash, new.state_root)
        if self._blocks.setdefault(new.number, block) != block:  # 3
            self._conflict = WENT_BACK(expected=f"one block at {new.number}", found="two signed blocks at one height")
            raise self._conflict
        if self._signed is not None and new.number <= self.checkpoint.number:  # 4
            return False
        self._signed = signed
        for old in [n for n in self._blocks if n < new.number - KEPT_HEIGHTS]:
            del self._blocks[old]
        self._tell()
        return True

    async def prove_fresh(self) -> None:
        """Ask f + 1 gatekeepers to answer a fresh nonce; the time *before* asking counts.

        The lowest of their heights moves this worker's time too, for one of them is honest. So a host that lets
        heartbeats through and holds checkpoints back does not stop the end of a lease."""
        before = self._monotonic()
        beats = await self._committee.heartbeat(self._rng(32))
        lowest = min(beat.number for beat in beats)
        self._time = max(self._time, min(lowest, self.checkpoint.number + MAX_AHEAD))
        self._fresh_at = before

    @property
    def height(self) -> int:
        """The time: the newest height that a checkpoint or an honest gatekeeper's answer vouches for."""
        return max(self._time, self.checkpoint.number)

    async def watch_pause(self, agent: bytes) -> None:
        """Note a pause at the newest block seen (unproven: restrictive only), or its end by proof."""
        await self._watch(agent, self.state().newest_paused(agent), lambda: self._proven_running(agent))

    async def watch_rules(self, agent: bytes) -> None:
        """Note rules that a newer block holds (unproven: they narrow only) until a checkpoint of that height came."""
        proven, newest = await self.rules(agent), await self.state().newest_rules(agent)
        claims = self._claims.setdefault(agent, {})
        number = self.checkpoint.number
        before = set(claims)
        for old in [rules for rules, height in claims.items() if height <= number]:
            del claims[old]
        if newest.version > proven.version:
            claimed = quantity(await self._rpc.call("eth_blockNumber"), "block number", 64)
            claims[newest] = max(min(claimed, number + MAX_AHEAD), number + 1)
            if len(claims) > _MAX_CLAIMS:
                del claims[next(iter(claims))]
        if set(claims) != before:
            self._tell()

    async def watch_removal(self, worker: bytes) -> None:
        """Note that this worker was removed or left, at the newest block seen; or its return by proof."""
        self._worker = worker
        await self._watch(worker, self.state().newest_removed(worker), lambda: self._proven_live(worker))

    async def changed(self, since: int, timeout_s: float) -> None:
        """Wait until ``news`` is above ``since``, at most ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.news <= since:
                    self._moved.clear()
                    await self._moved.wait()
        except TimeoutError:
            return

    async def follow(self, *, every_s: float = 0.25) -> None:
        """For ever: the newest checkpoint and freshness. Asks the committee only; a refusal waits for the next turn."""
        while True:
            await self._contained("checkpoint", self.refresh())
            if self._monotonic() - self._fresh_at > self._max_age / 4:
                await self._contained("freshness", self.prove_fresh())
            await asyncio.sleep(every_s)

    async def watch_restrictions(
        self, worker: bytes, agents: Callable[[], Mapping[bytes, object]], *, every_s: float = 0.25
    ) -> None:
        """For ever: pauses of ``agents()`` and of those seen paused, and this worker's own removal."""
        while True:
            names = set(agents()) | (set(self._restricted) - {worker})
            await self._contained("removal", self.watch_removal(worker))
            await self._contained("pauses", self._sweep("pauses", self.watch_pause, names, set(self._restricted)))
            await asyncio.sleep(max(every_s, 0.005 * len(names)))

    async def follow_rules(self, agents: Callable[[], Mapping[bytes, object]], *, every_s: float = 0.25) -> None:
        """For ever: the rules of ``agents()``. A loop of its own, so that no pause waits behind them."""
        while True:
            names = list(agents())
            claimed = {agent for agent, claims in self._claims.items() if claims}
            await self._contained("rules", self._sweep("rules", self.watch_rules, set(names), claimed))
            self._forget(names)
            await asyncio.sleep(max(every_s, 0.005 * len(names)))

    # --- inside ---

    async def _sweep(
        self, what: str, watch: Callable[[bytes], Awaitable[None]], names: set[bytes], always: set[bytes]
    ) -> None:
        """Ask about these agents, unless the newest block's storage is still the one of the last time: then only about
        those that are new, and those where something is noted (``always``). An endpoint that says a wrong root could
        as well say wrong records. One that says none is asked about everybody."""
        try:
            root = await self.state().newest_root("Agents")
        except CloisterError:
            root = b""
        before, known = self._swept.get(what, (b"", set()))
        same = root != b"" and root == before
        await self._each(watch, (names - known) | (names & always) if same else names)
        self._swept[what] = root, names

    def _forget(self, names: Iterable[bytes]) -> None:
        """Keep rules of these agents only."""
        for kept in (self._rules, self._claims):
            for agent in set(kept) - set(names):
                kept.pop(agent, None)

    async def _each(self, watch: Callable[[bytes], Awaitable[None]], names: Iterable[bytes]) -> None:
        """Every agent is asked about, whatever another one's question comes to; the first refusal is raised."""
        free = asyncio.Semaphore(_AT_ONCE)

        async def one(agent: bytes) -> None:
            async with free:
                await watch(agent)

        for outcome in await asyncio.gather(*(one(agent) for agent in names), return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _watch(self, name: bytes, newest: Awaitable[bool], ended: Callable[[], Awaitable[bool]]) -> None:
        """1. the newest block restricts: note it at once, then with that block's height; 2. a note ends when a
        checkpoint of at least that height proves its end. So neither an endpoint's second thought nor an older
        checkpoint ends it."""
        if await newest:  # 1
            if name not in self._restricted:
                self._restricted[name] = self.checkpoint.number
                self._tell()
            claimed = quantity(await self._rpc.call("eth_blockNumber"), "block number", 64)
            height = min(claimed, self.checkpoint.number + MAX_AHEAD)
            self._restricted[name] = max(height, self._restricted.get(name, 0))
        elif name in self._restricted and self.checkpoint.number >= self._restricted[name] and await ended():  # 2
            self._restricted.pop(name, None)
            self._tell()

    async def _proven_running(self, agent: bytes) -> bool:
        record = await self.agent(agent)
        return record is not None and not record.paused

    async def _proven_live(self, worker: bytes) -> bool:
        record = await self.state().worker(worker)
        return record is not None and record.live_at(self.checkpoint.number)

    async def _contained(self, what: str, work: Awaitable[object]) -> None:
        """A refusal is logged when it is a new one; anything else ends the process."""
        try:
            await work
            self._said.pop(what, None)
        except CloisterError as error:
            if self._said.get(what) != error.code:
                _log.warning(f"{what} waits", code=error.code, expected=error.expected, found=error.found)
            self._said[what] = error.code

    def _tell(self) -> None:
        self.news += 1
        self._moved.set()


def short(name: bytes) -> str:
    """How logs name agents and workers."""
    return to_hex(name)[:18]
