"""A worker without processes and sockets, for tests: the real parts over a chain in memory, a real store, fake agents.

``Rig`` wires chain watch, agent table, sessions, server and receipts as ``worker.service`` does. The chain is
``fake_world.World`` (real proofs), the committee is its member keys, agents are Python functions behind the sandbox's
port, callers are real ``ClientSession``s.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cloister.chain.rpc import UNREACHABLE, Rpc, _refusal
from cloister.core.attestation.policy import devnet
from cloister.core.attestation.roots import Roots
from cloister.core.chainview.layout import add, data_slot
from cloister.core.chainview.terms import pinned
from cloister.core.encoding import jcs
from cloister.core.encoding.identity import Purpose
from cloister.core.encoding.signatures import Signed, address_of
from cloister.core.encoding.statements import HeartBeat
from cloister.core.envelope.certificate import KeyCertificate, Seat
from cloister.core.envelope.client import ClientSession, Psk, SealedRequest
from cloister.core.envelope.model import RequestHead
from cloister.core.envelope.opener import Body, Failed, Final, Head
from cloister.core.envelope.server import ServerSessions
from cloister.core.errors import CloisterError
from cloister.core.keys.hpke import private_key
from cloister.core.policy.identities import identities_of
from cloister.core.policy.manifest import Manifest, parse
from cloister.core.receipts.receipt import Exchange, Receipt
from cloister.core.receipts.verify import Admission, verify_receipt
from cloister.core.state.endorse import Answer
from cloister.core.threshold.groups import hash_identity, to_bytes
from cloister.core.threshold.ibe import DerivedKey, encrypt
from cloister.fabric.embedded import open_fabric
from cloister.fabric.ports import Fabric
from cloister.sandbox.ports import Headers
from cloister.wire.frames import CANCELLED
from cloister.wire.heads import HeadMove
from cloister.worker.access import Access
from cloister.worker.agentlog import AgentLog
from cloister.worker.agents import AgentTable
from cloister.worker.apikeys import ApiKeys
from cloister.worker.bundles import Outside
from cloister.worker.callers import Callers
from cloister.worker.carried import secrets_aad
from cloister.worker.chainwatch import ChainWatch
from cloister.worker.leases import AgentKeys, NodeIdentity
from cloister.worker.listed import Listed
from cloister.worker.logbook import LogBook
from cloister.worker.offers import Offers
from cloister.worker.outbound import Identity, Outgoing
from cloister.worker.owner import OwnerDesk
from cloister.worker.placed import Devices, Placed
from cloister.worker.receipts import ReceiptDesk, ReceiptDoor
from cloister.worker.schedule import Schedule
from cloister.worker.serve import Server
from support.fake_gateway import FakeGateway
from support.fake_sandbox import Agent, Calls, FakeSandbox, hello
from support.fake_world import CLUSTER, MEMBERS, MPK, MPKS, OWNER, ROOTS, World, test_key

PERIOD = 100
CONFIG = b"\x0c" * 32


def world_of(**network: int) -> World:
    """A network whose periods are 100 blocks, at block 1000: the first block of period 10."""
    return World(devnet(Roots.of({"intel": [b"\x01" * 32]}), period_blocks=PERIOD, **network))


def list_workers(world: World, *workers: bytes) -> None:
    """Write the Workers contract's list. Not on chain before ``mine``."""
    store = world.stores["Workers"]
    head = store.layout.variable("_list").slot
    store.words[head] = len(workers)
    for i, worker in enumerate(workers):
        store.words[add(data_slot(head), i)] = int.from_bytes(worker, "big")


class ChainRpc(Rpc):
    """The world's endpoint without HTTP. ``down`` makes it unreachable; ``asked`` lists methods, ``refuse`` names
    those that it does not answer."""

    def __init__(self, world: World) -> None:
        super().__init__("http://127.0.0.1:1")
        self._door = FakeGateway(world, [])
        self.down = False
        self.refuse: set[str] = set()
        self.asked: list[str] = []

    async def call(self, method: str, *params: Any) -> Any:
        """One call."""
        return (await self.batch([(method, params)]))[0]

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """Many calls."""
        await asyncio.sleep(0)
        if self.down or self.refuse & {method for method, _ in calls}:
            raise UNREACHABLE(expected="an answer", found="none")
        self.asked += [method for method, _ in calls]
        said = [self._door._rpc_answer({"id": 1, "method": m, "params": list(p)}) for m, p in calls]
        for answer in said:
            if "error" in answer:
                raise _refusal("eth_call", answer["error"])
        return [answer["result"] for answer in said]


class FakeCommittee:
    """The members' answers to a chain watch. ``error``: what they say instead. ``held``: an old height served on."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.error: CloisterError | None = None
        self.signed: Signed | None = None
        self.numbers: tuple[int, ...] | None = None
        self.beats = 0
        self.terms = pinned(world.network, int(world.now))

    async def checkpoint(self) -> Signed:
        """The newest checkpoint, or ``signed``."""
        if self.error is not None:
            raise self.error
        return self.signed or self.world.sign(self.world.checkpoint())

    async def heartbeat(self, nonce: bytes) -> tuple[HeartBeat, ...]:
        """Three answers."""
        if self.error is not None:
            raise self.error
        self.beats += 1
        numbers = self.numbers or (self.world.number,) * 3
        return tuple(HeartBeat(1, nonce, n, b"\x01" * 32) for n in sorted(numbers, reverse=True))


class Sink:
    """A caller's stream. ``after``: sends that it takes before ``gone`` (it left) or for ever (it does not read)."""

    def __init__(self, *, after: int | None = None, gone: bool = False) -> None:
        self.data = bytearray()
        self.sends = 0
        self._after, self._gone = after, gone
        self.arrived = asyncio.Event()
        self.on_cancel: Callable[[], None] | None = None
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Future[None] | None = None
        self.ends = 0

    async def send(self, data: bytes) -> None:
        """Take bytes."""
        if self._after is not None and self.sends >= self._after:
            if self._gone:
                raise CANCELLED(expected="a stream in progress", found="one that is over")
            await asyncio.Event().wait()
        self.sends += 1
        self.data += data
        self.arrived.set()

    def end(self, data: bytes = b"") -> None:
        """Take the last bytes, of a call that has no task."""
        assert not self._over.done(), "an answer ends once"
        self.ends += 1
        self.data += data
        self.arrived.set()
        self._over.set_result(None)

    def go_on(self, work: Awaitable[None]) -> asyncio.Future[None]:
        """The call gets a task after all."""
        self.on_cancel = None
        self._task = asyncio.ensure_future(work)
        self._task.add_done_callback(self._ended)
        return self._task

    def _ended(self, task: asyncio.Future[None]) -> None:
        if task.cancelled():
            self._over.cancel()
        elif error := task.exception():
            self._over.set_exception(error)
        else:
            self._over.set_result(None)

    async def over(self) -> None:
        """Until the answer is over; who stops waiting cancels the call."""
        try:
            await asyncio.shield(self._over)
        except asyncio.CancelledError:
            if self._task is not None:
                self._task.cancel()
            elif self.on_cancel is not None:
                self.on_cancel()
            raise


@dataclass
class Got:
    """A whole answer as the caller opened it."""

    status: int = 0
    headers: Headers = ()
    body: bytes = b""
    checkpoint: int = 0
    receipt: Receipt | None = None
    error: CloisterError | None = None
    whole: bool = False

    @property
    def code(self) -> str:
        """The refusal's code, or nothing."""
        return self.error.code if self.error else ""


@dataclass
class Rig:
    """One worker boot: ``await Rig(world, folder).open()``."""

    world: World
    folder: Path
    agent_fn: Agent = hello
    name: str = "one"
    sealed: bool = False
    now_s: float = 0.0
    logged: list[tuple[str, str]] = field(default_factory=list)
    acquired: list[bytes] = field(default_factory=list)
    refuse: CloisterError | None = None
    terms: dict[str, Any] = field(default_factory=dict)
    endorsing: Callable[[AgentKeys, Sequence[HeadMove]], Awaitable[Signed]] | None = None
    on_acquire: Callable[[bytes], Awaitable[None]] | None = None
    known: list[Answer] = field(default_factory=lambda: [Answer(address_of(m), 0, bytes(32)) for m in MEMBERS[:3]])

    async def open(self, fabric: Fabric | None = None) -> Rig:
        """Register the worker and wire everything; ``follow`` or ``deploy`` come next."""
        self.key, self.boot = test_key(f"worker {self.name}"), os.urandom(32)
        self.node = NodeIdentity(self.key, self.boot, CONFIG, self.world.network.id)
        self.world.set_worker(self.key, self.boot)
        list_workers(self.world, self.node.address)
        self.world.mine()
        self.fabric = fabric or await open_fabric(self.folder / "fabric")
        self.committee, self.rpc = FakeCommittee(self.world), ChainRpc(self.world)
        self.watch = ChainWatch(
            self.world.network,
            self.committee,
            self.rpc,
            monotonic=lambda: self.now_s,
            rng=os.urandom,
            max_age_s=15.0,
        )
        self.sandbox, self.sessions = FakeSandbox(self.agent_fn), ServerSessions(self.boot, os.urandom)
        self.access, self.loopback = Access(self.watch, self.fabric.blobs), Loopback(self)
        self.lists = Listed(self.access)
        self.table = AgentTable(
            self.node.address, self.watch, self.fabric, self.sandbox, self.sessions, self.devices(), self.lists
        )
        self.book = LogBook(
            self.node,
            self.fabric.state,
            os.urandom,
            now_ms=self.now_ms,
            signed=self.access.require_signature,
            height=lambda: self.watch.checkpoint.number,
        )
        self.schedule = Schedule(self.table.process, self.manifest, lambda: int(self.world.now), self.table.figures)
        self.receipts = ReceiptDesk(self.node, self.fabric.receipts)
        self.door = ReceiptDoor(self.receipts, self.fabric.receipts)
        self.owner = OwnerDesk(
            self.book,
            self.table.figures,
            self.schedule,
            self.table.process,
            self.fabric.leases,
            self.boot.hex(),
            self.door.of_agent,
        )
        callers = Callers(
            lambda: self.watch.height,
            lambda worker: self.watch.state().worker(worker),
            lambda lease: self.committee.terms.lessors(lease, PERIOD),
            self.world.network.id,
            self.access.require_signature,
            ApiKeys(self.table.placed, lambda: int(self.world.now)).require,
        )
        self.server = Server(
            self.watch, self.table, self.sessions, self.receipts, self.access, callers, self.owner, now_ms=self.now_ms
        )
        return self

    async def close(self) -> None:
        """End it."""
        await self.table.close()
        await self.fabric.close()

    async def manifest(self, placed: Placed) -> Manifest:
        """The manifest of its lease, as the store has it."""
        return parse(await self.fabric.blobs.get(placed.keys.terms.manifest_hash))

    def now_ms(self) -> int:
        """The world's clock."""
        return int(self.world.now * 1000)

    def devices(self) -> Devices:
        """What the table needs of the machine."""
        return Devices(
            acquire=self.acquire,
            heads=self.heads,
            endorse=self.endorse,
            attest=self.attest,
            log=lambda agent: (
                self.book.of(agent)
                if self.sealed
                else AgentLog(lambda level, text: self.logged.append((level, text)), lambda: self.now_s)
            ),
            rng=os.urandom,
            outside=Outside(),
            offer=Offers(self.node, self.world.network, self.fabric.blobs, self.loopback, self.lists, self.now_ms).of,
        )

    async def acquire(self, agent: bytes, code: bytes | None = None) -> AgentKeys:
        """A lease of the newest block and the keys that go with it, as t members would give them.

        ``code``: of the canary with this hash, whose ``terms`` stay as they are.

        ``refuse`` is raised instead, ``terms`` change the lease, ``on_acquire`` runs before the answer."""
        self.acquired.append(agent)
        await asyncio.sleep(0)
        if self.refuse is not None:
            raise self.refuse
        if self.on_acquire is not None:
            await self.on_acquire(agent)
        beside = self.world.agents[agent].canary
        if code is not None:
            assert beside is not None, "the table asks for a canary that is none"
            assert code == beside.code_hash, "the table asks for another version than the chain names"
            return keys_of(self.world, self.node, agent, code_hash=code, manifest_hash=beside.manifest_hash)
        return keys_of(self.world, self.node, agent, **self.terms)

    async def heads(self, agent: bytes) -> tuple[Sequence[Answer], int]:
        """What the committee knows: no head, unless ``known`` says so."""
        return self.known, 3

    async def endorse(self, keys: AgentKeys, moves: Sequence[HeadMove]) -> Signed:
        """What the committee says of new heads: nobody answers, unless ``endorsing`` does."""
        if self.endorsing is None:
            raise UNREACHABLE(expected="an answer", found="none")
        return await self.endorsing(keys, moves)

    async def attest(self, nonce: bytes) -> dict[str, Any]:
        """Evidence that echoes."""
        return {"nonce": nonce.hex()}

    async def follow(self, blocks: int = 0) -> None:
        """Mine, then see it and reconcile, as the loops would."""
        if blocks:
            self.world.mine(blocks)
        await self.watch.refresh()
        await self.watch.prove_fresh()
        await self.table.reconcile()

    async def deploy(self, token: int = 1, **changes: Any) -> bytes:
        """An agent on chain, its code in the store, placed here."""
        agent = self.world.set_agent(token, **changes)
        for blob in self.world.blobs.values():
            await self.fabric.blobs.put(blob)
        await self.follow(1)
        return agent

    async def set_secrets(self, agent: bytes, values: object, *, version: int = 1, **spoilt: Any) -> bytes:
        """Seal secrets to the agent's present epoch, store them, say so on chain. Returns the ciphertext's hash.

        ``spoilt``: fields of the record that then say something else than what was sealed."""
        record, setter = self.world.agents[agent], address_of(OWNER)
        at = identities_of(self.world.lease(agent, bytes(20), bytes(32)), self.world.network.id)[Purpose.SECRETS, 0]
        aad = secrets_aad(self.world.network.id, agent, version, setter)
        sealed = encrypt(MPK, bytes(at), jcs.encode(values), aad, os.urandom)
        digest = await self.fabric.blobs.put(sealed)
        fields = {"secrets_hash": digest, "secrets_version": version, "secrets_setter": setter}
        self.world.set_agent(record.token_id, **(fields | {"secrets_epoch": record.epoch} | spoilt))
        return digest

    def placed(self, agent: bytes) -> Placed:
        """The table's entry."""
        return self.table.placed()[agent]

    def seat(self, agent: bytes) -> Seat:
        """The agent's newest seat here."""
        return self.placed(agent).keys.seat

    def session(self, agent: bytes, **options: Any) -> ClientSession:
        """A caller's session to the newest seat."""
        certificate = self.seat(agent).certificate
        return ClientSession(
            certificate, Psk.encapsulate(certificate, MPKS[certificate.master_epoch], os.urandom), os.urandom, **options
        )

    def head(self, **changes: Any) -> RequestHead:
        """A request head with a deadline 30 s ahead."""
        fields: dict[str, Any] = {
            "request_id": "0x" + os.urandom(16).hex(),
            "method": "POST",
            "path": "/",
            "deadline_ms": self.now_ms() + 30_000,
        }
        return RequestHead(**(fields | changes))

    async def call(self, agent: bytes, body: bytes = b"", *, session: ClientSession | None = None, **head: Any) -> Got:
        """Seal, serve, open: the whole path. A receipt that came is verified. Raises what was not sealed."""
        session = session or self.session(agent)
        sealed = session.seal(self.head(**head), body)
        return await self.send(session.certificate, sealed)

    async def call_with(self, agent: bytes) -> None:
        """A record of no session: for refusals that come before any is looked at."""
        await self.server.serve(agent, os.urandom(300), Sink())

    async def ask(self, agent: bytes, record: bytes, sink: Sink) -> None:
        """As the link to the gateway serves: by a task, or without one."""
        work = self.server.begin(agent, record, sink)
        await (sink.over() if work is None else work)

    async def send(self, certificate: KeyCertificate, sealed: SealedRequest, sink: Sink | None = None) -> Got:
        """Serve a sealed request and open the answer."""
        sink = sink or Sink()
        await self.ask(certificate.agent, sealed.data, sink)
        return opened(certificate, sealed, bytes(sink.data))


@dataclass(frozen=True)
class Came:
    """An answer as ``ctx.agents.fetch`` takes it."""

    status: int
    headers: dict[str, str]
    body: bytes


class Loopback:
    """Agents of one worker call each other: the same records, without a gateway between."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.seen: list[Outgoing] = []

    async def send(self, outgoing: Outgoing, identity: Identity) -> Came:
        """Seal as the agent, serve, open."""
        self.seen.append(outgoing)
        session = self.rig.session(outgoing.agent)
        expiry = int(self.rig.world.now) + 3600
        session.authenticate(identity.address, expiry, identity.sign, identity.agent)
        head = {"method": outgoing.method, "path": outgoing.path, "deadline_ms": outgoing.deadline_ms}
        got = await self.rig.call(outgoing.agent, outgoing.body, session=session, headers=outgoing.headers, **head)
        if got.error is not None:
            raise got.error
        return Came(got.status, dict(got.headers), got.body)

    async def close(self) -> None:
        """Nothing is open."""


def opened(certificate: KeyCertificate, sealed: SealedRequest, data: bytes) -> Got:
    """What a caller makes of an answer. The receipt is checked as a client does."""
    got = Got()
    for event in sealed.opener.feed(data):
        if isinstance(event, Head):
            got.status, got.headers, got.checkpoint = event.status, event.headers, event.checkpoint
        elif isinstance(event, Body):
            got.body += event.data
        elif isinstance(event, Final):
            exchange = Exchange(
                bytes.fromhex(sealed.request_id[2:]),
                got.status,
                sealed.commitment,
                sealed.opener.commitment(sealed.salt),
            )
            admission = Admission(certificate.worker, certificate.boot, certificate.expiry)
            got.receipt = verify_receipt(event.receipt, event.signature, certificate, admission, exchange, event.batch)
        elif isinstance(event, Failed):
            got.error = event.error
    got.whole = sealed.opener.done
    return got


def keys_of(world: World, node: NodeIdentity, agent: bytes, **terms: Any) -> AgentKeys:
    """What ``leases.acquire`` gives for the newest block."""
    lease = world.lease(agent, node.address, node.boot, **terms)
    identities = identities_of(lease, world.network.id)
    root = ROOTS.get(lease.master_epoch, ROOTS[1])
    derived = {n: DerivedKey(to_bytes(hash_identity(bytes(i)) * root)) for n, i in identities.items()}
    hpke_key = private_key(os.urandom(32))
    public = hpke_key.public_key().public_bytes_raw()
    certificate = KeyCertificate.under(lease, network=world.network.id, hpke_key=public)
    seat = Seat(certificate, certificate.sign(node.sign), world.sign(lease))
    return AgentKeys(MPKS.get(lease.master_epoch, MPK), seat, derived, hpke_key)


def set_cluster_epoch(world: World, epoch: int) -> None:
    """Bump the cluster's epoch. Not on chain before ``mine``."""
    world.stores["Clusters"].struct("_clusters", CLUSTER, {"epoch": epoch})


async def put(ctx: Calls, key: str, value: bytes) -> None:
    """The agent writes state."""
    await ctx("state.put", key=key, value=base64.b64encode(value).decode())


async def get(ctx: Calls, key: str) -> bytes | None:
    """The agent reads state."""
    value = await ctx("state.get", key=key)
    return None if value is None else base64.b64decode(value)


async def refused(work: Awaitable[Any], code: str) -> CloisterError:
    """The refusal that this ends with; fails unless it has the code."""
    with pytest.raises(CloisterError) as caught:
        await work
    assert caught.value.code == code, str(caught.value)
    return caught.value


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that happens in another task."""
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - what is waited for knows nothing of this test
            await asyncio.sleep(0.001)
