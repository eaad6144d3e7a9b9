"""The agents that finalised state places on this worker: leased, loaded, run, renewed, dropped (DESIGN sections 5, 9).

``placed.Placed`` is one agent under one version of its code and epochs. ``AgentTable`` holds them all and follows the
chain::

    absent   placed elsewhere, paused, or its version ended: nothing of it is held
    placed   keys of this period (and of the last one while its lease lasts), state loaded, sessions open
    running  placed, and its process was asked for
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Collection, Mapping
from functools import partial

from cloister.core.chainview.records import AgentRecord
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.statements import Lease
from cloister.core.envelope.certificate import Seat
from cloister.core.envelope.server import ServerSessions
from cloister.core.errors import CloisterError, PolicyError, define
from cloister.core.policy.placement import place
from cloister.core.policy.refusals import PAUSED
from cloister.fabric.ports import Fabric
from cloister.sandbox.ports import AgentProcess, AgentSpec, Sandbox
from cloister.worker.agentlog import AgentLog
from cloister.worker.bundles import agent_spec, secret_facts
from cloister.worker.chainwatch import ChainWatch
from cloister.worker.figures import FigureBook
from cloister.worker.host import AgentHost
from cloister.worker.leases import AgentKeys
from cloister.worker.listed import Listed
from cloister.worker.moves import Moves, standing, state_keys
from cloister.worker.placed import Devices, Placed
from cloister.worker.processes import NOT_HERE, OWNER_FULL, Pool, Processes
from cloister.worker.state import AgentState
from cloister.worker.wanted import Wanted

# Agents that are leased or dropped at once: one that hangs holds nobody else up.
AT_ONCE = 8
# Leases that one turn asks for: the next turn goes on. So a new period with thousands of agents delays no news.
LEASES = 64
# Records that are proven together; between two such groups requests are served.
GROUP = 32

WRONG_LEASE = define(
    "worker.wrong_lease",
    PolicyError,
    check="a lease is for this worker, unexpired, and says of the agent what finalised state says",
    remedy="none needed: the worker asks again at the next checkpoint",
    status=503,
)


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
        self._draining: dict[bytes, Placed] = {}
        self._moves = Moves(worker, fabric, devices.endorse, devices.rng)
        self.processes = Processes(devices.budget, asyncio.get_running_loop().time, devices.blanks)
        self.figures = FigureBook()
        self._stopping: set[asyncio.Task[None]] = set()
        self._tried: dict[bytes, int] = {}
        self._turns = 0
        self._height = 0
        self._left = False
        self.behind = False
        self.problems: dict[bytes, CloisterError] = {}
        self.changed = asyncio.Event()

    def placed(self) -> Mapping[bytes, Placed]:
        """Agents by id."""
        return self._placed

    def seats(self) -> list[Seat]:
        """What this worker announces: one seat per agent and version, of the newest lease; none when it is leaving."""
        return [] if self._left else [one.keys.seat for p in self._placed.values() for one in p.versions()]

    def versions(self) -> set[tuple[bytes, bytes]]:
        """(agent, manifest hash) of all that is held here, what drains included."""
        held = (one for p in (*self._placed.values(), *self._draining.values()) for one in p.versions())
        return {(one.record.agent, one.keys.terms.manifest_hash) for one in held}

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
            for one in () if placed is None else tuple(placed.versions()):
                if one.older is not None and one.older.seat.certificate.id == certificate.id:
                    one.older = None
                if one.keys.seat.certificate.id != certificate.id:
                    continue
                if one is placed:
                    self._drop(certificate.agent)
                elif placed is not None:
                    self._drop_canary(placed)

    async def reconcile(self) -> None:
        """Bring leases and processes in line with the newest checkpoint. A failing agent does not stop the others.

        1. forget what this height ends; 2. drop what a block seen has paused; 3. which agents are placed here, by
        proof, as far as each owner's share goes; 4. drop the others; 5. end other versions, follow new secrets;
        6. lease or renew, at most ``LEASES`` agents: ``behind`` says that more wait for the next turn.
        """
        self.advance(self._watch.height)  # 1
        for agent in [a for a in (*self._placed, *self._draining) if self._watch.seen_paused(a)]:  # 2
            self._drop(agent)
        wanted = await self._wanted()  # 3
        over = self._over_share(wanted)
        for agent in over:
            del wanted[agent]
        for agent in {*self._placed, *self._draining} - set(wanted):  # 4
            self._drop(agent)
        self._moves.keep(wanted)
        due = [agent for agent, one in wanted.items() if self._follow(agent, one)]  # 5
        due.sort(key=lambda agent: (self._tried.get(agent, 0), agent in self._placed))
        self._turns += 1
        self.behind = len(due) > LEASES
        failed = await self._lease(due[:LEASES], wanted)  # 6
        later = {agent: self.problems[agent] for agent in due[LEASES:] if agent in self.problems}
        self.problems = {**over, **later, **failed}
        self._tried = {agent: self._tried.get(agent, 0) for agent in later} | dict.fromkeys(failed, self._turns)

    async def process(self, placed: Placed) -> AgentProcess:
        """A process of the agent for one request, started if needed. A caller that goes away stops nobody else's start.

        Raises policy.not_listed where a list on chain is against its manifest, what ``Processes.take``, ``agent_spec``
        and the sandbox raise."""
        await self._access.require(placed.record.agent, placed.keys.terms.manifest_hash)
        return await self.processes.take(placed.pool)

    def ready(self, placed: Placed) -> AgentProcess | None:
        """The same where nothing has to wait; None: ask ``process``."""
        if not self._access.fits(placed.record.agent, placed.keys.terms.manifest_hash):
            return None
        return self.processes.ready(placed.pool)

    def leave(self) -> None:
        """Announce no seats from now on: callers go elsewhere while this worker ends."""
        self._left = True
        self.changed.set()

    async def close(self) -> None:
        """Stop every agent, and wait for it."""
        for agent in [*self._placed, *self._draining]:
            self._drop(agent)
        self._moves.keep(())
        await asyncio.gather(*self._stopping, self._moves.ended(), self.processes.close())

    # --- inside: which agents ---

    async def _wanted(self) -> dict[bytes, Wanted]:
        state, height = self._watch.state(), self._watch.checkpoint.number
        committee, master, live = await asyncio.gather(
            state.committee(), state.master(), state.placeable(self._watch.max_agents)
        )
        if self._worker not in live:
            return {}
        wanted = {}
        agents = await self._watch.agent_ids()
        for start in range(0, len(agents), GROUP):
            for record in await self._watch.agents(agents[start : start + GROUP]):
                if record is None or record.paused or self._watch.seen_paused(record.agent):
                    continue
                cluster = await state.cluster(record.cluster)
                if cluster and self._worker in place(committee.term_seed, record.agent, live, cluster.seats):
                    wanted[record.agent] = Wanted(record, cluster.epoch, master.epoch, height)
        return wanted

    def _over_share(self, wanted: Mapping[bytes, Wanted]) -> dict[bytes, CloisterError]:
        """Agents beyond what one owner may have here: those that are held stay, then older ones come first."""
        most = self._devices.budget.owner_agents
        counts: Counter[bytes] = Counter()
        over: dict[bytes, CloisterError] = {}
        for agent in sorted(wanted, key=lambda a: (a not in self._placed, wanted[a].record.token_id)):
            owner = wanted[agent].record.owner
            counts[owner] += 1
            if counts[owner] > most:
                over[agent] = OWNER_FULL(expected=f"at most {most} agents of one owner", found="one more")
        return over

    def _follow(self, agent: bytes, wanted: Wanted) -> bool:
        """Whether the agent needs a lease. 1. another version than the one held ends at once; where nothing but its
        code is older, when its requests have ended; a canary that came in force takes its place; 2. new secrets; a
        canary that was dropped ends; 3. a lease of this period and term, for each version."""
        older = self._draining.get(agent)
        if older is not None and not wanted.only_code(older.keys.terms):  # 1
            self._drop_older(agent)
        placed = self._placed.get(agent)
        if placed is not None and not wanted.fits(placed.keys.terms):
            placed = self._replaced(agent, placed, wanted)
        if placed is None:
            return True
        self._follow_secrets(placed, wanted.record)  # 2
        beside = wanted.canary
        if placed.canary is not None and (beside is None or not beside.fits(placed.canary.keys.terms)):
            self._drop_canary(placed)
        elif placed.canary is not None and beside is not None:
            self._follow_secrets(placed.canary, beside.record)
        return self._aged(placed) or (beside is not None and self._aged(placed.canary))  # 3

    def _aged(self, placed: Placed | None) -> bool:
        """Whether a version has no lease of this period and term."""
        if placed is None:
            return True
        at, terms = self._watch.checkpoint, placed.keys.terms
        return terms.period < at.number // max(1, self._watch.period_blocks) or terms.term < at.term

    def _replaced(self, agent: bytes, placed: Placed, wanted: Wanted) -> Placed | None:
        """The version held is no more in force: it ends. The canary goes on in its place where it is the one wanted."""
        promoted = placed.canary
        if promoted is None or not wanted.fits(promoted.keys.terms):
            self._drop(agent, drain=wanted.only_code(placed.keys.terms))
            return None
        placed.canary = None
        self._sessions.erase_version(agent, placed.keys.terms.code_hash)
        self._drop_older(agent)
        self._drain(agent, placed)
        self._placed[agent] = promoted
        self.changed.set()
        return promoted

    async def _lease(self, agents: Collection[bytes], wanted: Mapping[bytes, Wanted]) -> dict[bytes, CloisterError]:
        """Lease or renew; the refusals."""
        free = asyncio.Semaphore(AT_ONCE)

        async def one(agent: bytes) -> CloisterError | None:
            async with free:
                try:
                    await self._keep(agent, wanted[agent])
                except CloisterError as error:
                    return error
            return None

        outcomes = await asyncio.gather(*(one(agent) for agent in agents))
        return {agent: error for agent, error in zip(agents, outcomes, strict=True) if error is not None}

    async def _keep(self, agent: bytes, wanted: Wanted) -> None:
        """1. a lease of this period and term; 2. it says what the chain says; 3. nothing ended meanwhile; 4. the older
        lease serves on until it ends; 5. the same for the canary, beside a version that is held."""
        placed = self._placed.get(agent)
        if self._aged(placed):
            await self._keep_one(agent, placed, wanted)
        placed, beside = self._placed.get(agent), wanted.canary
        if placed is not None and beside is not None and self._aged(placed.canary):  # 5
            await self._keep_canary(placed, beside)

    async def _keep_one(self, agent: bytes, placed: Placed | None, wanted: Wanted) -> None:
        self._moves.refuse(agent)
        keys = await self._devices.acquire(agent)  # 1
        self._require_lease(agent, keys.terms, wanted)  # 2
        fresh = None if placed is not None else await self._load(agent, keys, wanted.record)
        if self._placed.get(agent) is not placed or self._watch.seen_paused(agent):  # 3
            return
        if fresh is not None:
            self._placed[agent] = fresh
        elif placed is not None:
            placed.older, placed.keys = placed.keys, keys  # 4
        self._sessions.add(keys.seat.certificate, keys.hpke_key, keys.xwing_key)
        self.changed.set()

    async def _keep_canary(self, placed: Placed, wanted: Wanted) -> None:
        """As ``_keep_one``. It shares the state that is loaded, and the log; its processes are its own."""
        agent, canary = wanted.record.agent, placed.canary
        keys = await self._devices.acquire(agent, wanted.record.code_hash)
        self._require_lease(agent, keys.terms, wanted)
        if self._placed.get(agent) is not placed or placed.canary is not canary or self._watch.seen_paused(agent):
            return
        if canary is None:
            placed.canary = self._made(keys, wanted.record, placed.state, placed.host.logged)
        else:
            canary.older, canary.keys = canary.keys, keys
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
        return self._made(keys, record, state, self._devices.log(agent))

    def _made(self, keys: AgentKeys, record: AgentRecord, state: AgentState, log: AgentLog) -> Placed:
        host = AgentHost(self._devices.attest, log)
        placed = Placed(keys, record, state, host, Pool(record.owner, lambda: self._start(placed)))
        host.offer(self._devices.offer(placed))
        return placed

    # --- inside: processes ---

    async def _start(self, placed: Placed) -> tuple[AgentSpec, AgentProcess]:
        """Start until the process has the secrets of the newest record."""
        while True:
            record = placed.record
            await self._access.load(record.agent)
            spec = await agent_spec(
                self._fabric.blobs,
                placed.keys,
                record,
                placed.state,
                self._devices.outside,
                also=self._access.allows(record.agent, record.manifest_hash),
                bind=partial(self._access.bind, record.agent, record.manifest_hash),
            )
            secrets = tuple(spec.secrets.values())
            # Processes that end may still log the older ones.
            placed.host.logged.hide({*secrets, *placed.secrets}, record.manifest_hash)
            placed.secrets = secrets
            process = await self._sandbox.start(spec, placed.host)
            if secret_facts(record) == secret_facts(placed.record):
                return spec, process
            await process.close()

    def _follow_secrets(self, placed: Placed, record: AgentRecord) -> None:
        """Take the newest record. Other secrets: the next request starts a process that has them; those that run end
        with the requests that they have."""
        same = secret_facts(placed.record) == secret_facts(record)
        placed.record, placed.pool.owner = record, record.owner
        if not same:
            self.processes.renew(placed.pool)

    def _drop(self, agent: bytes, *, drain: bool = False) -> None:
        """Serve the agent no more, from this very moment. ``drain``: requests that were let in come to their end, and
        may commit; otherwise they may not, and its processes end at once."""
        self._drop_older(agent)
        placed = self._placed.pop(agent, None)
        self._sessions.erase_agent(agent)
        if placed is None:
            return
        if drain:
            self._drain(agent, placed)
        else:
            self._end(placed)
        self.changed.set()

    def _drop_canary(self, placed: Placed) -> None:
        """End the canary at once, with what it has under way: the owner took it back, or another one came."""
        canary, placed.canary = placed.canary, None
        if canary is not None:
            self._sessions.erase_version(canary.record.agent, canary.keys.terms.code_hash)
            self._end(canary)
            self.changed.set()

    def _end(self, placed: Placed) -> None:
        for one in placed.versions():
            one.closed = True
            self._later(self.processes.drop(one.pool))

    def _drop_older(self, agent: bytes) -> None:
        """End at once what still drains of an earlier version."""
        older = self._draining.pop(agent, None)
        if older is not None:
            self._end(older)

    def _drain(self, agent: bytes, placed: Placed) -> None:
        self._draining[agent] = placed
        self._later(self._drained(agent, placed))

    async def _drained(self, agent: bytes, placed: Placed) -> None:
        await asyncio.gather(*(self.processes.retire(one.pool) for one in placed.versions()))
        for one in placed.versions():
            one.closed = True
        if self._draining.get(agent) is placed:
            del self._draining[agent]

    def _later(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)
