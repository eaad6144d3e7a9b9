"""The agents that finalised state places on this worker: leased, loaded, run, renewed, dropped (DESIGN sections 5, 9).

``Placed`` is one agent under one version of its code and epochs. ``AgentTable`` holds them all and follows the chain::

    absent   placed elsewhere, paused, or its version ended: nothing of it is held
    placed   keys of this period (and of the last one while its lease lasts), state loaded, sessions open
    running  placed, and its process was asked for
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from cloister.core.chainview.records import AgentRecord
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import Signed
from cloister.core.encoding.statements import Lease
from cloister.core.envelope.certificate import KeyCertificate, Seat
from cloister.core.envelope.server import ServerSessions
from cloister.core.errors import CloisterError, PolicyError, define
from cloister.core.policy.placement import place
from cloister.core.policy.refusals import PAUSED
from cloister.core.state.endorse import Answer
from cloister.fabric.ports import Fabric
from cloister.sandbox.ports import AgentProcess, Sandbox
from cloister.wire.heads import HeadMove
from cloister.worker.agentlog import AgentLog
from cloister.worker.bundles import Outside, agent_spec, secret_facts
from cloister.worker.chainwatch import ChainWatch
from cloister.worker.host import AgentHost, Extra
from cloister.worker.leases import AgentKeys
from cloister.worker.listed import Listed
from cloister.worker.moves import Moves, standing, state_keys
from cloister.worker.state import AgentState

# Agents that are leased or dropped at once: one that hangs holds nobody else up.
AT_ONCE = 8
# After a failed start the same answer is given for so long: a broken agent costs its callers' patience, not our CPU.
COOL_S = 1.0

NOT_HERE = define(
    "worker.no_such_agent",
    PolicyError,
    check="this worker holds a lease of the agent",
    remedy="fetch the agent's seats: placement names the workers that hold a lease now",
    status=421,
)
WRONG_LEASE = define(
    "worker.wrong_lease",
    PolicyError,
    check="a lease is for this worker, unexpired, and says of the agent what finalised state says",
    remedy="none needed: the worker asks again at the next checkpoint",
    status=503,
)


@dataclass(slots=True, eq=False)
class Placed:
    """One agent on this worker. ``keys`` is the newest period's lease, ``older`` the one before while it is valid.

    ``closed``: dropped; requests that still hold it start nothing and commit nothing."""

    keys: AgentKeys
    record: AgentRecord
    state: AgentState
    host: AgentHost
    older: AgentKeys | None = None
    process: AgentProcess | None = None
    starting: asyncio.Task[AgentProcess] | None = None
    failed: tuple[CloisterError, float] | None = None
    closed: bool = False

    def open_psk(self, certificate: KeyCertificate, ibe: bytes) -> bytes:
        """Decrypt a caller's pre-shared key by the lease that the certificate belongs to.

        Raises worker.no_such_agent when that lease has ended, ThresholdError for a ciphertext that does not open."""
        for keys in (self.keys, self.older):
            if keys is not None and keys.seat.certificate.id == certificate.id:
                return keys.open_psk(certificate, ibe)
        raise NOT_HERE(expected="a certificate of a lease held now", found=f"period {certificate.period}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """An agent that finalised state places here: its record and the epochs above its own."""

    record: AgentRecord
    cluster_epoch: int
    master_epoch: int

    def fits(self, terms: Lease) -> bool:
        """Whether a lease is of this very version: code, manifest, cluster and all three epochs."""
        record = self.record
        code = (record.code_hash, record.manifest_hash, record.cluster)
        epochs = (record.epoch, self.cluster_epoch, self.master_epoch)
        return (terms.code_hash, terms.manifest_hash, terms.cluster) == code and (
            (terms.agent_epoch, terms.cluster_epoch, terms.master_epoch) == epochs
        )


@dataclass(frozen=True, slots=True)
class Devices:
    """What the table needs from this machine. ``acquire(agent)`` gets keys; ``heads(agent)`` what the committee
    remembers, with the quorum; ``endorse(keys, moves)`` a quorum's signatures on the last of these moves;
    ``attest(nonce)`` evidence for agent code; ``log(agent)`` an agent's log; ``offer(placed)`` what its code may ask
    besides its state."""

    acquire: Callable[[bytes], Awaitable[AgentKeys]]
    heads: Callable[[bytes], Awaitable[tuple[Sequence[Answer], int]]]
    endorse: Callable[[AgentKeys, Sequence[HeadMove]], Awaitable[Signed]]
    attest: Callable[[bytes], Awaitable[Mapping[str, Any]]]
    log: Callable[[bytes], AgentLog]
    rng: Callable[[int], bytes]
    outside: Outside
    offer: Callable[[Placed], Mapping[str, Extra]] = lambda placed: {}


class AgentTable:
    """All agents of this worker. One task calls ``reconcile``; requests call the rest."""

    def __init__(
        self,
        worker: bytes,
        watch: ChainWatch,
        fabric: Fabric,
        sandbox: Sandbox,
        sessions: ServerSessions,
        devices: Devices,
        access: Listed,
    ) -> None:
        self._worker, self._watch, self._fabric, self._access = worker, watch, fabric, access
        self._sandbox, self._sessions, self._devices = sandbox, sessions, devices
        self._placed: dict[bytes, Placed] = {}
        self._moves = Moves(worker, fabric, devices.endorse, devices.rng)
        self._stopping: set[asyncio.Task[None]] = set()
        self._height = 0
        self._left = False
        self.problems: dict[bytes, CloisterError] = {}
        self.changed = asyncio.Event()

    def placed(self) -> Mapping[bytes, Placed]:
        """Agents by id."""
        return self._placed

    def seats(self) -> list[Seat]:
        """What this worker announces: one seat per agent, of the newest lease; none when it is leaving."""
        return [] if self._left else [p.keys.seat for p in self._placed.values()]

    def get(self, agent: bytes) -> Placed:
        """An agent held here. Raises worker.no_such_agent, or policy.paused from any block seen."""
        if self._watch.seen_paused(agent):
            raise PAUSED(expected="an agent that is not paused", found="paused at a block that this worker saw")
        placed = self._placed.get(agent)
        if placed is None:
            self._moves.refuse(agent)
            raise NOT_HERE(expected="an agent of this worker", found=to_hex(agent)[:18])
        return placed

    def advance(self, height: int) -> None:
        """``height`` was vouched for: forget the keys of leases that it ends. Needs no chain endpoint."""
        if height <= self._height:
            return
        self._height = height
        for certificate in self._sessions.advance(height):
            placed = self._placed.get(certificate.agent)
            if placed is None:
                continue
            if placed.older is not None and placed.older.seat.certificate.id == certificate.id:
                placed.older = None
            if placed.keys.seat.certificate.id == certificate.id:
                self._drop(certificate.agent)

    async def reconcile(self) -> None:
        """Bring leases and processes in line with the newest checkpoint. A failing agent does not stop the others.

        1. forget what this height ends; 2. drop what a block seen has paused; 3. which agents are placed here, by
        proof; 4. drop the others; 5. lease or renew each.
        """
        self.advance(self._watch.height)  # 1
        for agent in [a for a in self._placed if self._watch.seen_paused(a)]:  # 2
            self._drop(agent)
        wanted = await self._wanted()  # 3
        for agent in set(self._placed) - set(wanted):  # 4
            self._drop(agent)
        self._moves.keep(wanted)
        free = asyncio.Semaphore(AT_ONCE)

        async def keep(agent: bytes) -> CloisterError | None:
            async with free:
                try:
                    await self._keep(agent, wanted[agent])
                except CloisterError as error:
                    return error
            return None

        outcomes = await asyncio.gather(*(keep(agent) for agent in wanted))  # 5
        self.problems = {a: e for a, e in zip(wanted, outcomes, strict=True) if e is not None}

    async def process(self, placed: Placed) -> AgentProcess:
        """The agent's running process, started if needed. A caller that goes away stops nobody else's start.

        Raises worker.no_such_agent for a dropped agent, policy.not_listed where a list on chain is against its
        manifest, what ``agent_spec`` raises, SandboxError."""
        await self._access.require(placed.record.agent)
        if placed.process is not None and placed.process.alive:
            return placed.process
        if placed.closed:
            raise NOT_HERE(expected="an agent of this worker", found="one that was dropped")
        if placed.starting is None:
            _require_cool(placed)
            placed.starting = asyncio.ensure_future(self._start(placed))
            placed.starting.add_done_callback(_seen)
        starting = placed.starting
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            if starting.cancelled() and placed.closed:
                raise NOT_HERE(expected="an agent of this worker", found="one that was dropped") from None
            raise

    def leave(self) -> None:
        """Announce no seats from now on: callers go elsewhere while this worker ends."""
        self._left = True
        self.changed.set()

    async def close(self) -> None:
        """Stop every agent, and wait for it."""
        for agent in list(self._placed):
            self._drop(agent)
        self._moves.keep(())
        await asyncio.gather(*self._stopping, self._moves.ended())

    # --- inside: which agents ---

    async def _wanted(self) -> dict[bytes, Wanted]:
        state, height = self._watch.state(), self._watch.checkpoint.number
        committee, master = await asyncio.gather(state.committee(), state.master())
        live = [w.worker for w in await state.workers() if w.live_at(height)]
        free = asyncio.Semaphore(AT_ONCE)

        async def one(agent: bytes) -> Wanted | None:
            async with free:
                record = await self._watch.agent(agent)
                if record is None or record.paused or self._watch.seen_paused(agent):
                    return None
                cluster = await state.cluster(record.cluster)
            if cluster is None or self._worker not in place(committee.term_seed, agent, live, cluster.seats):
                return None
            return Wanted(record, cluster.epoch, master.epoch)

        agents = await self._watch.agent_ids() if self._worker in live else []
        found = await asyncio.gather(*(one(agent) for agent in agents))
        return {agent: wanted for agent, wanted in zip(agents, found, strict=True) if wanted is not None}

    async def _keep(self, agent: bytes, wanted: Wanted) -> None:
        """1. another version than the one held ends at once; 2. new secrets; 3. a lease of this period and term; 4. it says
        what the chain says; 5. nothing ended meanwhile; 6. the older lease serves on until it ends."""
        placed = self._placed.get(agent)
        if placed is not None and not wanted.fits(placed.keys.terms):  # 1
            self._drop(agent)
            placed = None
        if placed is not None:
            await self._follow_secrets(placed, wanted.record)  # 2
            at, terms = self._watch.checkpoint, placed.keys.terms
            if terms.period >= at.number // max(1, self._watch.period_blocks) and terms.term >= at.term:  # 3
                return
        self._moves.refuse(agent)
        keys = await self._devices.acquire(agent)
        self._require_lease(agent, keys.terms, wanted)  # 4
        fresh = None if placed is not None else await self._load(agent, keys, wanted.record)
        if self._placed.get(agent) is not placed or self._watch.seen_paused(agent):  # 5
            return
        if fresh is not None:
            self._placed[agent] = fresh
        elif placed is not None:
            placed.older, placed.keys = placed.keys, keys  # 6
        self._sessions.add(keys.seat.certificate, keys.hpke_key, keys.xwing_key)
        self.changed.set()

    def _require_lease(self, agent: bytes, terms: Lease, wanted: Wanted) -> None:
        if (terms.agent, terms.worker) != (agent, self._worker) or not wanted.fits(terms):
            raise WRONG_LEASE(expected="the agent's version at the checkpoint", found="a lease of another one")
        if terms.expiry <= self._height:
            raise WRONG_LEASE(expected=f"an end after block {self._height}", found=f"block {terms.expiry}")

    async def _load(self, agent: bytes, keys: AgentKeys, record: AgentRecord) -> Placed:
        """The agent with its state. Raises epoch.resealing when that is under earlier epochs: its move was begun."""
        answers, quorum = await self._devices.heads(agent)
        answers = standing(answers, record)
        if keys.old:
            self._moves.begin(agent, keys, record, answers, quorum)
            self._moves.refuse(agent)
        state = AgentState(self._fabric.state, state_keys(keys), agent.hex(), self._devices.rng)
        await state.load(answers, quorum, over=keys.version.epochs[:3] > (1, 1, 1))
        placed = Placed(keys, record, state, AgentHost(self._devices.attest, self._devices.log(agent)))
        placed.host.offer(self._devices.offer(placed))
        return placed

    # --- inside: processes ---

    async def _start(self, placed: Placed) -> AgentProcess:
        """Start until the process has the secrets of the newest record; remember a failure for a moment."""
        try:
            old, placed.process = placed.process, None
            if old is not None:
                await old.close()
            while True:
                record = placed.record
                await self._access.load(record.agent)
                spec = await agent_spec(
                    self._fabric.blobs,
                    placed.keys,
                    record,
                    placed.state,
                    self._devices.outside,
                    also=self._access.allows(record.agent),
                    bind=partial(self._access.bind, record.agent),
                )
                placed.host.logged.hide(spec.secrets.values())
                process = await self._sandbox.start(spec, placed.host)
                if secret_facts(record) == secret_facts(placed.record):
                    placed.process = process
                    return process
                await process.close()
        except CloisterError as error:
            placed.failed = (error, asyncio.get_running_loop().time() + COOL_S)
            raise
        finally:
            placed.starting = None

    async def _follow_secrets(self, placed: Placed, record: AgentRecord) -> None:
        """Take the newest record. Other secrets: the process ends, the next request starts one that has them."""
        same = secret_facts(placed.record) == secret_facts(record)
        placed.record = record
        if same:
            return
        placed.failed = None
        process, placed.process = placed.process, None
        if process is not None:
            await process.close()

    def _drop(self, agent: bytes) -> None:
        """Serve the agent no more, from this very moment; its process ends in the background."""
        placed = self._placed.pop(agent, None)
        self._sessions.erase_agent(agent)
        if placed is None:
            return
        placed.closed = True
        task = asyncio.ensure_future(_stop(placed))
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)
        self.changed.set()


def _require_cool(placed: Placed) -> None:
    if placed.failed is not None and asyncio.get_running_loop().time() < placed.failed[1]:
        raise placed.failed[0].with_traceback(None)


async def _stop(placed: Placed) -> None:
    if placed.starting is not None:
        placed.starting.cancel()
        await asyncio.gather(placed.starting, return_exceptions=True)
    process, placed.process = placed.process, None
    if process is not None:
        with contextlib.suppress(CloisterError):
            await process.close()


def _seen(task: asyncio.Task[AgentProcess]) -> None:
    """A start that failed while nobody waited is no unhandled error: the next request meets it again."""
    if not task.cancelled():
        task.exception()
