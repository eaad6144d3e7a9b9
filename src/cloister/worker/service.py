"""The worker's wiring: who holds what, and the loops that keep it true.

Loops: the chain watch (checkpoints and freshness; pauses and removal); membership; the agent table; endorsement;
announcements. Each refusal is logged by its code and tried again; anything else ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cloister.chain.connected import load_chains
from cloister.chain.places import endpoints_of
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.core.chainview.records import WorkerRecord
from cloister.core.chainview.terms import pinned
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.network import MAX_FILE, Network
from cloister.core.encoding.signatures import SignerSet
from cloister.core.encoding.statements import Statement
from cloister.core.envelope.server import ServerSessions
from cloister.core.errors import CloisterError, PolicyError, define
from cloister.core.state.endorse import Answer
from cloister.evidence.detect import MachineConfig, open_tee
from cloister.evidence.tee import Tee
from cloister.fabric.embedded import open_fabric
from cloister.fabric.ports import Fabric
from cloister.node import logs
from cloister.node.config import UNREADABLE, config_hash
from cloister.node.identity import NodeKeys
from cloister.node.trace import tracer_of
from cloister.sandbox.runtimes import AgentSandbox
from cloister.wire.terms import LiveCommittee
from cloister.worker.access import Access
from cloister.worker.account_service import AccountService
from cloister.worker.agents import AgentTable
from cloister.worker.anchor_service import AnchorService
from cloister.worker.anchors import Anchors
from cloister.worker.apikeys import ApiKeys
from cloister.worker.bundles import Outside
from cloister.worker.callers import Callers
from cloister.worker.carrier import Carrier
from cloister.worker.chains import ChainView, OtherChain, OwnChain
from cloister.worker.chainwatch import ChainWatch, short
from cloister.worker.config import WorkerConfig, budget_of, check_config, mapped_hosts, operator_of, work_folder
from cloister.worker.endorse import Endorser, endorse_moves
from cloister.worker.leases import AgentKeys, NodeIdentity, acquire, show
from cloister.worker.link import GatewayLink
from cloister.worker.listed import Listed
from cloister.worker.logbook import LogBook
from cloister.worker.loops import Troubles, keep_turning
from cloister.worker.masters import MasterKeys
from cloister.worker.membership import Membership
from cloister.worker.offers import Offers, Outbound
from cloister.worker.owner import OwnerDesk
from cloister.worker.placed import Devices
from cloister.worker.receipts import ReceiptDesk, ReceiptDoor
from cloister.worker.remote import Abroad
from cloister.worker.schedule import Schedule
from cloister.worker.serve import Server, host_now_ms
from cloister.worker.witness import RootKeeper, Witness

SEALING_CONTEXT = b"cloister/v1/worker"
# Quotes for outsiders and agents at once. Leases and registration do not wait behind them.
QUOTES_AT_ONCE = 8
# How long a stopping worker lets requests in progress end.
DRAIN_S = 3.0
MAX_PROBLEMS = 64
# Pause after an announcement, in seconds for each agent that it names.
ANNOUNCE_S = 0.0005
# How often the committee is shown how the log of receipts grew.
WITNESS_S = 2.0
# How long lines of agents wait before they are sealed and kept.
LOGS_S = 1.0

QUOTES_BUSY = define(
    "worker.evidence_busy",
    PolicyError,
    check=f"at most {QUOTES_AT_ONCE} questions for evidence are answered at once",
    remedy="ask again in a second",
    status=503,
)
_log = logs.get("worker")


class Worker:
    """One worker process. ``open`` prepares it, ``run`` serves until ``stop`` is set, ``close`` ends everything."""

    def __init__(
        self,
        config: WorkerConfig,
        network: Network,
        tee: Tee,
        node: NodeIdentity,
        fabric: Fabric,
        sandbox: AgentSandbox,
    ) -> None:
        self.config, self.network, self.tee, self.node, self.fabric = config, network, tee, node, fabric
        self.sandbox = sandbox
        self.rpc = Rpc(config.rpc)
        self.committee = self._live_committee()
        self.watch = ChainWatch(
            network,
            self.committee,
            self.rpc,
            monotonic=time.monotonic,
            rng=secrets.token_bytes,
            max_age_s=float(config.fresh_s),
        )
        self.masters = MasterKeys(network, self.watch, self.committee)
        self.sessions = ServerSessions(node.boot, secrets.token_bytes)
        self.access = Access(self.watch, fabric.blobs)
        self.outbound = Outbound(network, config.calls)
        self.logbook = LogBook(
            node,
            fabric.state,
            secrets.token_bytes,
            now_ms=host_now_ms,
            signed=self.access.require_signature,
            height=lambda: self.watch.checkpoint.number,
        )
        self.lists = Listed(self.access)
        self._sender = Sender(self.rpc, node.key, network.genesis.chain_id)
        own, others = OwnChain(network, self.watch, self.rpc, self._sender), self._other_chains()
        views: dict[int, ChainView] = {own.chain_id: own} | {chain.chain_id: chain for chain in others}
        self.offers = Offers(node, network, fabric.blobs, self.outbound, self.lists, chains=views)
        self.table = AgentTable(node.address, self.watch, fabric, sandbox, self.sessions, self._devices(), self.lists)
        self.endorser = Endorser(node, self.committee, self.table.placed)
        receipts = ReceiptDesk(node, fabric.receipts)
        self.witness = Witness(node, receipts, fabric.receipts, self.committee)
        self._roots = self._root_keeper()
        self.schedule = Schedule(self.table.process, self.offers.manifest, lambda: int(time.time()), self.table.figures)
        self._late = Troubles("scheduled request failed")
        door = ReceiptDoor(receipts, fabric.receipts)
        self.owner = OwnerDesk(
            self.logbook,
            self.table.figures,
            self.schedule,
            self.table.process,
            fabric.leases,
            node.boot.hex(),
            door.of_agent,
        )
        self.tracer = tracer_of("cloister-worker", config.trace, config.trace_share)
        self.server = Server(
            self.watch,
            self.table,
            self.sessions,
            receipts,
            self.access,
            self._callers(),
            self.owner,
            now_ms=host_now_ms,
            tracer=self.tracer,
        )
        self.abroad = Abroad(node, self.watch, self.committee, others)
        self.anchors = Anchors(own, others, self._anchor_service, self._carrier)
        self.link = GatewayLink(
            config.gateway, node, self.server, self.table, self.evidence, self.status, door, self.anchors.ready
        )
        self._accounts = AccountService(
            node, network, self.watch, self.table, self.committee, self._sender, self.offers.manifest, self.abroad
        )
        self._unanswered = Troubles("contract's request not answered")
        self._unsigned = Troubles("agent's account not served")
        self._quoting = 0
        self._unserved, self._unendorsed = Troubles("agent not served"), Troubles("heads not endorsed")

    def _callers(self) -> Callers:
        return Callers(
            lambda: self.watch.height,
            self._worker,
            self._lessors,
            self.network.id,
            self.access.require_signature,
            ApiKeys(self.table.placed, self._now_s).require,
        )

    @classmethod
    async def open(cls, config: WorkerConfig) -> Worker:
        """Read the network file, find the TEE, unseal or make the node key. Raises ConfigError, EvidenceError.

        The boot id is fresh per start: nothing sealed to an earlier start opens here."""
        network = Network.parse(_read(config.network))
        check_config(config, network.genesis.mode)
        tee = open_tee(MachineConfig.from_json(config.machine))
        sealing = await tee.sealing_key(SEALING_CONTEXT)
        keys = NodeKeys.load_or_create(config.data, "worker", sealing, secrets.token_bytes)
        node = NodeIdentity(keys.chain_key(), secrets.token_bytes(32), config_hash(config), network.id)
        async with contextlib.AsyncExitStack() as opened:
            fabric = await open_fabric(config.fabric, synced=config.sync_receipts)
            opened.push_async_callback(fabric.close)
            sandbox = AgentSandbox(work_folder(config), blanks=budget_of(config).blanks)
            opened.push_async_callback(sandbox.close)
            worker = cls(config, network, tee, node, fabric, sandbox)
            opened.pop_all()
        return worker

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop``. Raises what a loop raises beyond CloisterError."""
        member = self._membership()
        loops = [
            self.watch.follow(),
            self.watch.watch_restrictions(self.node.address, self.table.placed),
            self.watch.follow_rules(self.table.placed),
            keep_turning("membership", lambda: self._register(member), asyncio.sleep, every_s=0.5),
            keep_turning("agents", self._agents, self._until_news(), every_s=2.0),
            keep_turning("processes", self.table.processes.turn, asyncio.sleep, every_s=1.0),
            keep_turning("schedule", self._scheduled, asyncio.sleep, every_s=5.0),
            keep_turning("logs", self._logs, asyncio.sleep, every_s=LOGS_S),
            keep_turning("anchor", self._anchor, self._until_news(), every_s=2.0),
            keep_turning("accounts", self._accounted, self._until_news(), every_s=2.0),
            keep_turning("chains", self.anchors.turn_others, asyncio.sleep, every_s=1.0),
            keep_turning("rules", self._rules, self._until_news(), every_s=2.0),
            keep_turning("endorse", self._endorse, asyncio.sleep, every_s=0.5),
            keep_turning("receipts", self._witness, asyncio.sleep, every_s=WITNESS_S),
            self._announce(),
        ]
        self.link.start()
        tasks = [asyncio.ensure_future(one) for one in loops]
        stopping = asyncio.ensure_future(stop.wait())
        try:
            done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()
            self.table.leave()  # callers go elsewhere; what runs comes to its end
            self.link.announce()
            await self.server.drain(DRAIN_S)
            with contextlib.suppress(CloisterError):
                await self.logbook.turn(self.table.placed().values(), last=True)
        finally:
            for task in [*tasks, stopping]:
                task.cancel()
            await asyncio.gather(*tasks, stopping, return_exceptions=True)

    async def close(self) -> None:
        """Stop agents, connections, the store: all of them, whichever fails. In the reverse order of use."""
        async with contextlib.AsyncExitStack() as parts:
            if self.tracer is not None:
                parts.push_async_callback(self.tracer.close)
            for part in (
                self.fabric,
                self.anchors,
                self.outbound,
                self.rpc,
                self.committee,
                self.sandbox,
                self.table,
                self.link,
            ):
                parts.push_async_callback(part.close)

    async def evidence(self, nonce: bytes) -> dict[str, Any]:
        """Fresh evidence over a caller's 32-byte nonce, JSON-ready. It binds no key and no operator.

        Raises EvidenceError, worker.evidence_busy, worker.stale_view before the first checkpoint."""
        if self._quoting >= QUOTES_AT_ONCE:
            raise QUOTES_BUSY(expected=f"fewer than {QUOTES_AT_ONCE} in progress", found="as many")
        block = self.watch.checkpoint.block_hash
        self._quoting += 1
        try:
            return (await show(self.tee, self.node.binding("worker", block, nonce, {}))).to_json()
        finally:
            self._quoting -= 1

    def status(self) -> dict[str, Any]:
        """Counts for operators; nothing secret."""
        return {
            "worker": to_hex(self.node.address),
            "vendor": self.tee.kind,
            "agents": len(self.table.placed()),
            **self.table.processes.counts(),
            "active": self.server.active,
            "served": self.server.served,
            "witnessed": self.witness.size,
            "refused": self.server.refused,
            "problems": _codes(self.table.problems),
            "unendorsed": _codes(self.endorser.refusals),
            "unanswered": _codes(dict(self.anchors.problems)),
        }

    # --- inside ---

    def _devices(self) -> Devices:
        ca = self.config.extra_ca
        return Devices(
            acquire=self._acquire,
            heads=self._heads,
            endorse=partial(endorse_moves, self.node, self.committee),
            attest=self.evidence,
            log=self.logbook.of,
            rng=secrets.token_bytes,
            outside=Outside(mapped_hosts(self.config, self.network.genesis.mode), _read(ca) if ca else None),
            offer=self.offers.of,
            budget=budget_of(self.config),
            blanks=self.sandbox.reserve,
        )

    def _now_s(self) -> int:
        """Unix seconds: the host's clock, which cannot fall behind the chain's."""
        return max(self.watch.checkpoint.timestamp, host_now_ms() // 1000)

    def _live_committee(self) -> LiveCommittee:
        """From the network file's committee on. The wall clock is read once: afterwards the host cannot turn it."""
        began = time.time() - time.monotonic()
        gatekeepers = self.network.genesis.address("Gatekeepers")
        return LiveCommittee(
            pinned(self.network, int(time.time())),
            self.config.gatekeepers,
            lambda members: endpoints_of(self.rpc, gatekeepers, members),
            lambda: began + time.monotonic(),
        )

    def _lessors(self, lease: Statement) -> SignerSet:
        return self.committee.terms.lessors(lease, self.watch.period_blocks)

    async def _worker(self, address: bytes) -> WorkerRecord | None:
        return await self.watch.state().worker(address)

    async def _acquire(self, agent: bytes, code: bytes | None = None) -> AgentKeys:
        signed = self.watch.signed
        committee = self.committee.now
        return await acquire(
            self.node, self.tee, committee, committee.signers, self.masters.of, signed, agent, secrets.token_bytes, code
        )

    async def _heads(self, agent: bytes) -> tuple[Sequence[Answer], int]:
        committee = self.committee.now
        return await committee.heads(agent, secrets.token_bytes(32)), committee.load_quorum

    def _membership(self) -> Membership:
        genesis = self.network.genesis
        return Membership(
            self.node,
            self.tee,
            self.committee,
            lambda: self.committee.now.signers,
            self._sender,
            workers=genesis.address("Workers"),
            operator=operator_of(self.config),
            endpoint=self.config.endpoint,
        )

    def _other_chains(self) -> list[OtherChain]:
        """Connected chains of the settings. Raises ConfigError, EncodingError."""
        loaded = load_chains(self.config.chains, self.network.genesis.chain_id)
        return [
            OtherChain(setting, record, self.node, self.network, self.watch, lambda: self.committee.now)
            for setting, record in loaded
        ]

    def _anchor_service(self, chain: ChainView) -> AnchorService:
        return AnchorService(
            self.node,
            self.network,
            self.watch,
            self.table,
            self.committee,
            self.access,
            chain,
            operator=operator_of(self.config),
            names=lambda placed: self.offers.names_chain(placed, chain.chain_id),
            teller=lambda placed: self.abroad.teller(chain.chain_id, placed),
            now_ms=host_now_ms,
            rng=secrets.token_bytes,
        )

    def _carrier(self, chain: OtherChain) -> Carrier:
        return Carrier(chain, self.watch, self.node, lambda: self.committee.everybody)

    async def _register(self, member: Membership) -> None:
        signed = self.watch.signed
        record = await self.watch.state().worker(self.node.address)
        if member.needed(record, self.watch.checkpoint.number):
            admission = await member.register(signed)
            _log.info("registered", worker=to_hex(self.node.address), until=admission.expiry)

    async def _agents(self) -> None:
        try:
            await self.table.reconcile()
            while self.table.behind and not self.table.problems:
                await self.table.reconcile()
        finally:
            self._unserved.tell(self.table.problems, short)

    async def _accounted(self) -> None:
        try:
            await self._accounts.turn()
        finally:
            self._unsigned.tell(self._accounts.problems, short)

    async def _scheduled(self) -> None:
        try:
            await self.schedule.turn(dict(self.table.placed()))
        finally:
            self._late.tell(self.schedule.problems, short)

    async def _logs(self) -> None:
        await self.logbook.turn(self.table.placed().values())

    async def _anchor(self) -> None:
        try:
            await self.anchors.own.turn()
        finally:
            self._unanswered.tell(dict(self.anchors.problems), short)

    async def _rules(self) -> None:
        """The lists of running agents: connections that a new list leaves out end as soon as it is loaded."""
        self.lists.keep(self.table.versions())
        for agent in list(self.table.placed()):
            await self.access.load(agent)

    async def _witness(self) -> None:
        await self.witness.turn()
        if self._roots is not None:
            await self._roots.turn(self.witness.head)

    def _root_keeper(self) -> RootKeeper | None:
        """None on a network whose genesis names no Receipts contract."""
        genesis = self.network.genesis
        if "Receipts" not in genesis.contracts:
            return None
        return RootKeeper(
            self._sender, genesis.address("Receipts"), every_s=float(self.config.root_s), monotonic=time.monotonic
        )

    async def _endorse(self) -> None:
        await self.endorser.turn()
        self._unendorsed.tell(self.endorser.refusals, short)

    def _until_news(self) -> Callable[[float], Awaitable[None]]:
        """Waits for the chain watch's next news: what came while the table turned counts too."""
        seen = 0

        async def wait(seconds: float) -> None:
            nonlocal seen
            await self.watch.changed(seen, seconds)
            seen = self.watch.news

        return wait

    async def _announce(self) -> None:
        while True:
            await self.table.changed.wait()
            self.table.changed.clear()
            self.link.announce()
            await asyncio.sleep(ANNOUNCE_S * len(self.table.placed()))  # leases that come in bulk are said together


def check(config: WorkerConfig) -> None:
    """Raise ConfigError or EncodingError unless a worker could start with these settings."""
    genesis = Network.parse(_read(config.network)).genesis
    check_config(config, genesis.mode)
    load_chains(config.chains, genesis.chain_id)


def _codes(problems: dict[bytes, Any]) -> dict[str, str]:
    return {short(agent): error.code for agent, error in list(problems.items())[:MAX_PROBLEMS]}


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE:
            raise UNREADABLE(expected=f"{path.name} of at most {MAX_FILE} bytes", found="more")
        return path.read_bytes()
    except OSError as error:
        raise UNREADABLE(expected=f"to read {path.name}", found=error.strerror or "an error") from None
