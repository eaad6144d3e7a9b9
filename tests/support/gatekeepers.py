"""Gatekeepers in one process: a chain in memory behind the real port, pretend hardware, real HTTP, real sharing.

``World`` is the chain: facts that change, blocks that freeze them, finality two blocks behind. ``Seat`` is one
gatekeeper with its folder, its machine and its server; it can be closed and opened again, as a crash would.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aiohttp import web
from coincurve import PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cloister.core.attestation.model import Binding, Evidence, measurement_id
from cloister.core.attestation.policy import Policy, devnet
from cloister.core.chainview.ceremonies import CeremonyView, EpochRecord, EpochState, TermRecord
from cloister.core.chainview.founding import CandidateRecord, SeatsRecord
from cloister.core.chainview.header import Header
from cloister.core.chainview.records import PolicyRecord
from cloister.core.chainview.reseals import CountedAgent
from cloister.core.chainview.seats import RulesRecord
from cloister.core.encoding.contract_statements import Resealed, WorkerBumps
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.network import ContractRef, Genesis, network_id
from cloister.core.encoding.signatures import Signed, SignerSet, address_of, sign_digest
from cloister.core.encoding.statements import Checkpoint, WorkerRemoval
from cloister.core.errors import CloisterError
from cloister.core.policy.caps import Backing, weights
from cloister.core.policy.release import AgentFacts, Newest, WorkerFacts, vendor_class_id
from cloister.core.state.rows import Head
from cloister.core.threshold.dkg import Ceremony, Member, deal, finish, replay
from cloister.core.threshold.facts import Facts
from cloister.core.threshold.partial import TransportKey
from cloister.core.threshold.phases import Kind
from cloister.core.threshold.shares import KeyShare, PublicShares
from cloister.core.threshold.transcript import Transcript
from cloister.gatekeeper.api import build
from cloister.gatekeeper.config import GatekeeperConfig
from cloister.gatekeeper.office import Shares
from cloister.gatekeeper.service import Gatekeeper
from cloister.gatekeeper.store import Store
from cloister.gatekeeper.transcripts import Transcripts
from cloister.node.identity import NodeKeys
from cloister.wire.messages import Shown
from support import hardware
from support.committee_chain import REVERT, Contract

CHAIN_ID = 31337
FINALITY = 2
KINDS = ("tdx", "snp", "nitro", "tdx", "snp")  # any first three, and all five, keep the seat rule
VENDORS = {"tdx": "intel", "snp": "amd", "nitro": "aws"}
GATEKEEPER_IMAGE = hashlib.sha384(b"gatekeeper image").digest()
WORKER_IMAGE = hashlib.sha384(b"worker image").digest()
TERM_SEED = hashlib.sha256(b"term seed").digest()


def policy(**network: int) -> Policy:
    """A devnet policy under the pretend roots."""
    return devnet(hardware.roots(), **network)


def genesis_of(rules: Policy) -> Genesis:
    """A genesis file for it."""
    contracts = {n: ContractRef(hashlib.sha256(n.encode()).digest()[:20], bytes(32)) for n in ("Gatekeepers", "Agents")}
    return Genesis("devnet", CHAIN_ID, b"\1" * 32, contracts, rules.to_json(), {}, "rpc-quorum")


@dataclass
class State:
    """What the contracts hold."""

    policy: PolicyRecord
    listed: dict[bytes, int]
    contract: Contract
    counts: dict[int, int] = field(default_factory=dict)
    bumped: list[tuple[int, int]] = field(default_factory=list)
    workers: dict[bytes, WorkerFacts] = field(default_factory=dict)
    agents: dict[bytes, AgentFacts] = field(default_factory=dict)
    left: set[bytes] = field(default_factory=set)
    backing: dict[bytes, Backing] = field(default_factory=dict)
    accepted: list[tuple[bytes, Head]] = field(default_factory=list)

    @property
    def seats(self) -> SeatsRecord:
        """The committee."""
        return self.contract.seats

    @seats.setter
    def seats(self, value: SeatsRecord) -> None:
        self.contract.seats = value

    @property
    def candidates(self) -> dict[bytes, CandidateRecord]:
        """What gatekeepers said of themselves."""
        return self.contract.candidates


class World:
    """The chain. ``now`` is the newest state; ``mine`` puts it into a block."""

    def __init__(self, rules: Policy) -> None:
        images = {measurement_id("gatekeeper", GATEKEEPER_IMAGE): 1, measurement_id("worker", WORKER_IMAGE): 1}
        self.rules, self.genesis = rules, genesis_of(rules)
        self.now = State(PolicyRecord(rules.hash(), 1, 1), images, Contract(self.genesis.genesis_id()))
        self.headers: list[Header] = []
        self.states: dict[bytes, State] = {}
        self.mine(8)

    def mine(self, count: int = 1, *, salt: bytes = b"") -> None:
        """New blocks over the newest state."""
        for _ in range(count):
            number = len(self.headers)
            parent = self.headers[-1].hash if self.headers else bytes(32)
            block = hashlib.sha256(b"block" + parent + salt + number.to_bytes(8, "big")).digest()
            root = hashlib.sha256(block).digest()
            self.headers.append(Header(number, block, parent, root, hardware.NOW + number))
            self.states[root] = copy.deepcopy(self.now)

    @property
    def final(self) -> Header:
        """The newest final header."""
        return self.headers[-1 - FINALITY]

    def checkpoint(self, number: int | None = None, term: int = 1) -> Checkpoint:
        """The checkpoint of a height (default: the newest final one)."""
        h = self.final if number is None else self.headers[number]
        return Checkpoint(term, CHAIN_ID, h.number, h.hash, h.state_root, h.timestamp)

    def open_founding(self, members: Sequence[bytes], threshold: int) -> CeremonyView:
        """What the founder does."""
        return self.open(Kind.FOUND, members, threshold)

    def open(self, kind: Kind, members: Sequence[bytes], threshold: int) -> CeremonyView:
        """Open a ceremony in the next block."""
        return self.now.contract.open(kind, members, threshold, len(self.headers))

    def take_office(self, seats: SeatsRecord) -> None:
        """A committee that is confirmed already."""
        self.now.seats = seats

    def call(self, sender: bytes, function: str, *args: Any) -> None:
        """A transaction to the Gatekeepers contract, in the next block."""
        if function == "record":
            self._record(*args)
        elif function == "bumpEpochsByCommittee":
            self._bump(*args)
        elif function == "removeByCommittee":
            self._remove(*args)
        else:
            self.now.contract.call(sender, len(self.headers), function, *args)

    def _record(self, said: tuple[int, int, bytes], tokens: tuple[int, ...], signatures: Sequence[bytes]) -> None:
        """Reseals.record."""
        self.now.contract.require_signed(Resealed(*said), signatures)
        for token in tokens:
            self.now.counts[token] = max(said[1], self.now.counts[token])

    def _remove(self, said: tuple[int, bytes], signatures: Sequence[bytes]) -> None:
        """Workers.removeByCommittee."""
        self.now.contract.require_signed(WorkerRemoval(*said), signatures)
        self.now.workers[said[1]] = replace(self.now.workers[said[1]], removed=True)

    def _bump(
        self,
        said: tuple[int, bytes, bytes],
        tokens: tuple[int, ...],
        epochs: tuple[int, ...],
        signatures: Sequence[bytes],
    ) -> None:
        """Agents.bumpEpochsByCommittee."""
        self.now.contract.require_signed(WorkerBumps(*said), signatures)
        ends = dict(zip(tokens, epochs, strict=True))
        for agent in list(self.now.agents.values()):
            if ends.get(agent.token_id) == agent.agent_epoch:
                self.now.agents[agent.agent] = replace(agent, agent_epoch=agent.agent_epoch + 1)
                self.now.bumped.append((agent.token_id, agent.agent_epoch))


class WorldSnapshot:
    """``ports.Snapshot`` of one block."""

    def __init__(self, state: State, number: int) -> None:
        self._state, self._number = state, number

    async def worker(self, worker: bytes) -> WorkerFacts | None:
        return self._state.workers.get(worker)

    async def backing(self, worker: bytes) -> Backing:
        return self._state.backing.get(worker, Backing())

    async def live_workers(self) -> frozenset[bytes]:
        live = (w for w, f in self._state.workers.items() if not f.removed and self._number < f.expiry)
        return frozenset(w for w in live if w not in self._state.left)

    async def placeable(self, most: int) -> dict[bytes, int]:
        live = await self.live_workers()
        return weights(most, {w: await self.backing(w) for w in live})

    async def agent(self, agent: bytes) -> AgentFacts | None:
        return self._state.agents.get(agent)

    async def policy(self) -> PolicyRecord:
        return self._state.policy

    async def listed_at(self, measurement: bytes) -> int:
        return self._state.listed.get(measurement, 0)

    async def committee(self) -> SeatsRecord:
        return self._state.seats

    async def candidates(self, members: tuple[bytes, ...]) -> tuple[CandidateRecord | None, ...]:
        return tuple(self._state.candidates.get(m) for m in members)

    async def standing(self) -> tuple[bytes, ...]:
        return tuple(self._state.candidates)[:64]

    async def admitted_until(self, member: bytes) -> int:
        return self._state.contract.admitted.get(member, 0)

    async def open_ceremony(self) -> CeremonyView | None:
        newest = self._state.contract.newest
        return None if newest is None else newest.view

    async def ceremony_at(self, number: int) -> CeremonyView:
        return self._state.contract.ceremonies[number - 1].view

    async def facts(self, ceremony: CeremonyView) -> Facts:
        return self._state.contract.ceremonies[ceremony.number - 1].facts

    async def term_record(self, term: int) -> TermRecord:
        return self._state.contract.terms[term]

    async def elected_at(self) -> int:
        return self._state.contract.elected_at

    async def epoch_record(self, epoch: int) -> EpochRecord:
        none = EpochRecord(epoch, EpochState.NONE, 0, 0, 0, 0, 0, bytes(32), bytes(96))
        return self._state.contract.epochs.get(epoch, none)

    async def handover_signatures(self, term: int) -> tuple[bytes, ...]:
        return self._state.contract.handovers.get(term, ())

    async def rules(self) -> RulesRecord:
        return self._state.contract.rules

    async def agent_count(self) -> int:
        return max((a.token_id for a in self._state.agents.values()), default=0)

    async def counted(self, tokens: tuple[int, ...]) -> tuple[CountedAgent, ...]:
        by_token = {a.token_id: a for a in self._state.agents.values()}
        found = []
        for token in tokens:
            a, under = by_token.get(token), self._state.counts.get(token, 0)
            none = CountedAgent(bytes(32), 0, under, None, 0)
            found.append(none if a is None else CountedAgent(a.agent, a.agent_epoch, under, a.secrets, a.wiped_below))
        return tuple(found)

    async def remaining(self, epoch: int) -> int:
        return sum(1 for counted in self._state.counts.values() if counted == epoch)

    async def acceptance_count(self) -> int:
        return len(self._state.accepted)

    async def acceptances(self, start: int, end: int) -> tuple[tuple[bytes, Head], ...]:
        newest = dict(self._state.accepted)
        return tuple((agent, newest[agent]) for agent, _ in self._state.accepted[start:end])

    async def content(self, member: bytes) -> tuple[bool, bool]:
        return member in self._state.content, self._state.content >= set(self._state.seats.members)


class WorldChain:
    """``ports.Chain`` of one member. ``forked``: what the member's endpoints show instead of the world's blocks."""

    def __init__(self, world: World, address: bytes) -> None:
        self.world, self.address, self.forked = world, address, None
        self._last: int | None = None

    forked: World | None

    async def advance(self) -> tuple[Header, ...]:
        seen = self.forked or self.world
        start = seen.final.number if self._last is None else self._last + 1
        new = tuple(seen.headers[start : seen.final.number + 1])
        if new:
            self._last = new[-1].number
        return new

    def resume(self, last: Checkpoint) -> None:
        self._last = last.number

    async def header(self, number: int) -> Header:
        return (self.forked or self.world).headers[number]

    def at(self, checkpoint: Checkpoint) -> WorldSnapshot:
        state = self.world.states.get(checkpoint.state_root)
        if state is None:
            raise REVERT(expected="a state root of this chain", found="another")
        return WorldSnapshot(state, checkpoint.number)

    async def newest(self, agent: bytes | None, worker: bytes) -> Newest:
        now = self.world.now
        found, record = now.agents.get(agent or b""), now.workers.get(worker)
        return Newest(
            paused=found is not None and found.paused,
            removed=record is not None and record.removed,
            left=worker in now.left,
            agent_epoch=0 if found is None else found.agent_epoch,
        )

    async def balance(self, address: bytes) -> int:
        return 10**18

    async def send(self, function: str, *args: Any, contract: str = "Gatekeepers") -> None:
        self.world.call(self.address, function, *args)

    async def published(self, ceremony: CeremonyView, dealer: int) -> bytes | None:
        return self.world.now.contract.call_data.get((ceremony.id, dealer))


@dataclass(frozen=True)
class PretendTee:
    """A machine: its kind of hardware, what was launched on it, and its own sealing secret."""

    kind: str
    image: bytes
    machine: str

    async def quote(self, report_data: bytes) -> Evidence:
        return hardware.evidence(self.kind, report_data, self.image)

    async def sealing_key(self, context: bytes) -> bytes:
        return hashlib.sha256(self.machine.encode() + self.image + context).digest()


def node_keys(folder: Path, tee: PretendTee) -> NodeKeys:
    """The keys in a folder, as ``Gatekeeper.open`` gets them."""
    sealing = hashlib.sha256(tee.machine.encode() + tee.image + b"cloister/v1/gatekeeper").digest()
    return NodeKeys.load_or_create(folder, "gatekeeper", sealing, secrets_of(folder.name))


def secrets_of(name: str) -> Any:
    """Random bytes that differ by name and call, the same in every run."""
    count = 0

    def rng(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(f"{name} {count}".encode()).digest(size)

    return rng


class Seat:
    """One gatekeeper on one machine with one folder and one port."""

    def __init__(self, world: World, folder: Path, number: int, port: int, *, image: bytes = GATEKEEPER_IMAGE) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self.world, self.folder, self.number, self.port = world, folder, number, port
        self.tee = PretendTee(KINDS[number % len(KINDS)], image, f"machine {number}")
        self.keys = node_keys(folder, self.tee)
        self.chain = WorldChain(world, self.keys.address)
        self.runner: web.AppRunner | None = None
        self.member: Gatekeeper | None = None

    @property
    def gatekeeper(self) -> Gatekeeper:
        """The running process."""
        assert self.member is not None
        return self.member

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def config(self) -> GatekeeperConfig:
        """Its settings."""
        operator = to_hex(hashlib.sha256(f"operator {self.number}".encode()).digest()[:20])
        return GatekeeperConfig(
            self.folder, f"127.0.0.1:{self.port}", ["http://127.0.0.1:1"], self.folder, operator, self.url, {}
        )

    async def unsealed(self) -> NodeKeys:
        """The keys in its folder."""
        return node_keys(self.folder, self.tee)

    async def open(self) -> Gatekeeper:
        """Start: what ``Gatekeeper.open`` and ``__main__`` do, over the pretend chain."""
        self.chain = WorldChain(self.world, self.keys.address)
        keys = await self.unsealed()
        self.member = Gatekeeper(self.config, self.world.genesis, self.world.rules, keys, self.tee, self.chain)
        self.runner = web.AppRunner(build(self.member), access_log=None, shutdown_timeout=0.01)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", self.port, reuse_address=True).start()
        return self.member

    async def close(self) -> None:
        """Stop; the folder stays."""
        if self.runner is not None:
            await self.runner.cleanup()
            self.runner = None
        if self.member is not None:
            await self.member.close()
            self.member = None


@dataclass(frozen=True)
class Sitting:
    """A committee that generated its key on paper: for tests of what comes after."""

    signers: SignerSet
    network: bytes
    public: PublicShares
    shares: tuple[KeyShare, ...]


def sit(world: World, seats: Sequence[Seat], threshold: int) -> Sitting:
    """Give these seats a real shared key and the office, without the ceremony's network."""
    rng = secrets_of("sit")
    privates = [rng(32) for _ in seats]
    publics = [X25519PrivateKey.from_private_bytes(p).public_key().public_bytes_raw() for p in privates]
    members = tuple(Member(i, s.keys.address, k) for i, (s, k) in enumerate(zip(seats, publics, strict=True), 1))
    ceremony = Ceremony(b"\xce" * 32, threshold, members)
    dealings = {m.index: deal(ceremony, m.index, rng) for m in members}
    digests = {i: d.digest(ceremony) for i, d in dealings.items()}
    shares = tuple(finish(ceremony, dealings, digests, m.index, p) for m, p in zip(members, privates, strict=True))
    public = replay(ceremony, dealings, digests)
    signers = SignerSet(1, threshold, tuple(m.address for m in members))
    network = network_id(world.genesis.genesis_id(), public.transcript)
    for seat, member in zip(seats, members, strict=True):
        vendor = vendor_class_id(VENDORS[seat.tee.kind])
        world.now.candidates[member.address] = CandidateRecord(
            member.address, b"\1" * 20, vendor, member.dkg_key, b"\2" * 32, seat.url
        )
    sit_down(world, ceremony, public, network)
    world.mine(3)
    for seat, share in zip(seats, shares, strict=True):
        store = Store(seat.folder / "state.db")
        Shares(store, seat.keys, rng).put(1, share)
        Transcripts(store, None).keep(Transcript(ceremony, dealings))  # type: ignore[arg-type]
        store.close()
    return Sitting(signers, network, public, shares)


def sit_down(world: World, ceremony: Ceremony, public: PublicShares, network: bytes) -> None:
    """The office on chain, as if the ceremony had been held."""
    members = tuple(m.address for m in ceremony.members)
    height = len(world.headers)
    world.take_office(SeatsRecord(1, 1, ceremony.threshold, members, network, public.transcript, public.mpk, TERM_SEED))
    contract = world.now.contract
    contract.used |= {m.dkg_key: 0 for m in ceremony.members}
    contract.epochs[1] = EpochRecord(1, EpochState.RELEASED, 0, 1, height, 0, 0, public.transcript, public.mpk)
    contract.terms[1] = TermRecord(
        term=1,
        ceremony=0,
        height=height,
        timestamp=world.headers[-1].timestamp,
        master_epoch=1,
        threshold=ceremony.threshold,
        mpk_hash=keccak256(public.mpk),
        revoked=frozenset(),
        members=members,
    )


@dataclass
class PretendWorker:
    """A worker: key, boot, machine. ``register`` puts it on chain as the committee would admit it."""

    world: World
    network: bytes
    name: str = "worker"
    kind: str = "snp"
    image: bytes = WORKER_IMAGE
    role: str = "worker"
    boot: bytes = b"\xb0" * 32

    def __post_init__(self) -> None:
        self.key = PrivateKey(hashlib.sha256(self.name.encode()).digest())
        self.transport = TransportKey.generate(secrets_of(self.name))

    @property
    def address(self) -> bytes:
        """20 bytes."""
        return address_of(self.key)

    def facts(self, **changes: Any) -> WorkerFacts:
        """Its record."""
        measurement = measurement_id("worker", self.image)
        base = WorkerFacts(self.boot, measurement, vendor_class_id(VENDORS[self.kind]), 100_000, removed=False)
        return replace(base, **changes)

    def register(self, **changes: Any) -> None:
        """Into the Workers contract."""
        self.world.now.workers[self.address] = self.facts(**changes)

    def show(self, at: Checkpoint, **changes: Any) -> Shown:
        """Evidence over a binding; ``changes`` are to the binding."""
        fields: dict[str, Any] = {
            "network": self.network,
            "role": self.role,
            "node": self.address,
            "boot": self.boot,
            "config": b"\x33" * 32,
            "checkpoint": at.block_hash,
            "nonce": bytes(32),
            "keys": {"transport": self.transport.public},
        }
        binding = Binding(**(fields | changes))
        return Shown(hardware.evidence(self.kind, binding.report_data(), self.image), binding)


def sign_checkpoint(seats: Sequence[Seat], checkpoint: Checkpoint, network: bytes) -> Signed:
    """A checkpoint signed by these seats."""
    digest = checkpoint.digest(network)
    return Signed(checkpoint, tuple(sign_digest(s.keys.chain_key(), digest) for s in seats))


def an_agent(world: World, name: bytes = b"\xaa" * 32, **changes: Any) -> AgentFacts:
    """An agent on chain."""
    token = len(world.now.agents) + 1
    base = AgentFacts(name, b"\xc0" * 32, b"\xc1" * 32, b"\xc2" * 32, 1, 1, seats=2, paused=False, token_id=token)
    world.now.agents[name] = replace(base, **changes)
    world.now.counts[world.now.agents[name].token_id] = max(1, world.now.seats.master_epoch)
    return world.now.agents[name]


async def turn_all(seats: Sequence[Seat]) -> list[CloisterError]:
    """One turn of every open seat; what each refused is returned."""
    refused = []
    for seat in seats:
        if seat.member is not None:
            try:
                await seat.member.turn()
            except CloisterError as error:
                refused.append(error)
    return refused
