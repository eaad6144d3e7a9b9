"""The agents that finalised state places on this worker: leased, loaded, run, renewed, dropped (DESIGN sections 5, 9).

``Placed`` is one agent under one version of its code and epochs. ``AgentTable`` holds them all and follows the chain.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cloister.core.chainview.records import AgentRecord
from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context, frame
from cloister.core.encoding.hexes import need_bytes, to_hex
from cloister.core.encoding.identity import Purpose
from cloister.core.envelope.certificate import KeyCertificate, Seat
from cloister.core.envelope.server import ServerSessions
from cloister.core.errors import CloisterError, PolicyError, SealError, define
from cloister.core.policy.manifest import Manifest
from cloister.core.policy.placement import place
from cloister.core.policy.release import PAUSED
from cloister.core.state.sealing import StateKeys
from cloister.core.threshold.ibe import decrypt
from cloister.fabric.ports import Fabric
from cloister.sandbox.ports import AgentProcess, AgentSpec, HostCalls, Limits, Sandbox
from cloister.worker.chainwatch import ChainWatch
from cloister.worker.host import AgentHost
from cloister.worker.leases import AgentKeys
from cloister.worker.state import AgentState

NOT_HERE = define(
    "worker.no_such_agent",
    PolicyError,
    check="this worker holds a lease of the agent",
    remedy="fetch the agent's seats: placement names the workers that hold a lease now",
    status=421,
)
WRONG_CODE = define(
    "worker.wrong_code",
    PolicyError,
    check="code and manifest hash to what finalised state says",
    remedy="deploy the agent again; the store lost or changed its bundle",
    status=503,
)
WRONG_SECRETS = define(
    "worker.wrong_secrets",
    SealError,
    check="the secrets' ciphertext is the one that the owner's transaction committed to",
    remedy="set the secrets again with `cloister agent secrets set`",
    status=503,
)


def secrets_aad(network: bytes, agent: bytes, version: int, setter: bytes) -> bytes:
    """Associated data of an agent's secrets: network, agent, version, and who set them (spec/keys.md)."""
    number = version.to_bytes(8, "big")
    return frame(Context.SECRETS, network, need_bytes("agent", agent, 32), number, need_bytes("setter", setter, 20))


@dataclass(slots=True)
class Placed:
    """One agent on this worker. ``keys`` is the newest period's lease, ``older`` the one before while it is valid."""

    keys: AgentKeys
    record: AgentRecord
    state: AgentState
    host: AgentHost
    older: AgentKeys | None = None
    process: AgentProcess | None = None
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)

    def keys_of(self, certificate: KeyCertificate) -> AgentKeys:
        """The lease that a certificate belongs to. Raises worker.no_such_agent when it has ended."""
        for keys in (self.keys, self.older):
            if keys is not None and keys.seat.certificate.id == certificate.id:
                return keys
        raise NOT_HERE(expected="a certificate of a lease held now", found=f"period {certificate.period}")


@dataclass(frozen=True, slots=True)
class Devices:
    """What the table needs from this machine. ``acquire(agent)`` gets keys; ``heads(agent, epoch)`` what the committee
    remembers, with the quorum; ``attest(nonce)`` evidence for agent code; ``log(agent, level, text)`` agent logs."""

    acquire: Callable[[bytes], Awaitable[AgentKeys]]
    heads: Callable[[bytes, int], Awaitable[tuple[Any, int]]]
    attest: Callable[[bytes], Awaitable[Mapping[str, Any]]]
    log: Callable[[bytes, str, str], None]
    rng: Callable[[int], bytes]
    map_host: Mapping[str, tuple[str, int]]
    extra_ca: bytes | None


class AgentTable:
    """All agents of this worker."""

    def __init__(
        self,
        worker: bytes,
        watch: ChainWatch,
        fabric: Fabric,
        sandbox: Sandbox,
        sessions: ServerSessions,
        devices: Devices,
    ) -> None:
        self._worker, self._watch, self._fabric = worker, watch, fabric
        self._sandbox, self._sessions, self._devices = sandbox, sessions, devices
        self._placed: dict[bytes, Placed] = {}
        self.problems: dict[bytes, CloisterError] = {}
        self.changed = asyncio.Event()

    def placed(self) -> Mapping[bytes, Placed]:
        """Agents by id."""
        return self._placed

    def seats(self) -> list[Seat]:
        """What this worker announces: one seat per agent, of the newest lease."""
        return [p.keys.seat for p in self._placed.values()]

    def get(self, agent: bytes) -> Placed:
        """An agent held here. Raises worker.no_such_agent, or policy.paused from any block seen."""
        if self._watch.seen_paused(agent):
            raise PAUSED(expected="an agent that is not paused", found="paused at a block that this worker saw")
        placed = self._placed.get(agent)
        if placed is None:
            raise NOT_HERE(expected="an agent of this worker", found=to_hex(agent)[:18])
        return placed

    async def reconcile(self) -> None:
        """Bring leases and processes in line with the newest checkpoint. A failing agent does not stop the others.

        1. end what this height ends; 2. which agents are placed here, from proven workers and clusters; 3. drop the
        others; 4. lease or renew each.
        """
        checkpoint = self._watch.checkpoint
        ended = self._sessions.advance(checkpoint.number)  # 1
        for certificate in ended:
            await self._end(certificate)
        wanted = await self._wanted()  # 2
        for agent in set(self._placed) - set(wanted):  # 3
            await self._drop(agent)
        for agent, record in wanted.items():  # 4
            try:
                await self._keep(agent, record, checkpoint.number)
                self.problems.pop(agent, None)
            except CloisterError as error:
                self.problems[agent] = error

    async def process(self, placed: Placed) -> AgentProcess:
        """The agent's running process, started if needed. Raises worker.wrong_code, worker.wrong_secrets, sandbox.*."""
        if placed.process is not None and placed.process.alive:
            return placed.process
        async with placed.starting:
            if placed.process is None or not placed.process.alive:
                if placed.process is not None:
                    await placed.process.close()
                placed.process = await self._start(placed)
        return placed.process

    async def close(self) -> None:
        """Stop every agent."""
        for agent in list(self._placed):
            await self._drop(agent)

    async def _wanted(self) -> dict[bytes, AgentRecord]:
        state = self._watch.state()
        committee = await state.committee()
        height = self._watch.checkpoint.number
        live = [w.worker for w in await state.workers() if w.live_at(height)]
        wanted = {}
        for agent in await self._watch.agent_ids():
            record = await self._watch.agent(agent)
            if record is None or record.paused or self._watch.seen_paused(agent):
                continue
            cluster = await state.cluster(record.cluster)
            if cluster is not None and self._worker in place(committee.term_seed, agent, live, cluster.seats):
                wanted[agent] = record
        return wanted

    async def _keep(self, agent: bytes, record: AgentRecord, height: int) -> None:
        placed = self._placed.get(agent)
        if placed is not None and _same_version(placed.keys, record):
            if placed.record.secrets_hash != record.secrets_hash:
                await self._restart(placed, record)
            if self._current(placed.keys, height):
                return
        keys = await self._devices.acquire(agent)
        if placed is not None and keys.version == placed.keys.version and _same_code(keys, placed.keys):
            placed.older, placed.keys, placed.record = placed.keys, keys, record
        else:
            if placed is not None:
                await self._drop(agent)
            self._placed[agent] = await self._place(agent, keys, record)
        self._sessions.add(keys.seat.certificate, keys.hpke_key)
        self.changed.set()

    def _current(self, keys: AgentKeys, height: int) -> bool:
        return keys.terms.period >= height // max(1, self._watch.period_blocks)

    async def _place(self, agent: bytes, keys: AgentKeys, record: AgentRecord) -> Placed:
        identity = bytes(keys.version.key(Purpose.STATE))
        state_key = keys.key(Purpose.STATE).symmetric(Context.STATE_DATA_KEY, identity)
        state = AgentState(self._fabric.state, StateKeys(state_key, identity), agent.hex(), self._devices.rng)
        answers, quorum = await self._devices.heads(agent, keys.version.agent_epoch)
        await state.load(answers, quorum)
        host = AgentHost(self._devices.attest, lambda level, text: self._devices.log(agent, level, text))
        return Placed(keys, record, state, host)

    async def _start(self, placed: Placed) -> AgentProcess:
        terms = placed.keys.terms
        bundle = await self._fabric.blobs.get(terms.code_hash)
        manifest_bytes = await self._fabric.blobs.get(terms.manifest_hash)
        for data, expected in ((bundle, terms.code_hash), (manifest_bytes, terms.manifest_hash)):
            if hashlib.sha256(data).digest() != expected:
                raise WRONG_CODE(expected=to_hex(expected), found="other bytes")
        manifest = Manifest.parse(manifest_bytes)
        secrets = await self._secrets(placed)
        spec = AgentSpec(
            agent=terms.agent,
            code_hash=terms.code_hash,
            bundle=bundle,
            env=manifest.environment(secrets),
            secrets=manifest.handles(secrets),
            egress=manifest.egress,
            limits=Limits(**manifest.limits),
            map_host=self._devices.map_host,
            extra_ca=self._devices.extra_ca,
            entry=manifest.entry,
        )
        host: HostCalls = placed.host
        return await self._sandbox.start(spec, host)

    async def _secrets(self, placed: Placed) -> dict[str, str]:
        """The agent's secrets: only the ciphertext whose hash the owner's transaction committed to."""
        record, keys = placed.record, placed.keys
        if record.secrets_hash == bytes(32) or record.secrets_epoch != record.epoch:
            return {}  # none set, or set under an epoch that is closed: the owner sets them again
        ciphertext = await self._fabric.blobs.get(record.secrets_hash)
        if hashlib.sha256(ciphertext).digest() != record.secrets_hash:
            raise WRONG_SECRETS(expected=to_hex(record.secrets_hash), found="other bytes")
        aad = secrets_aad(keys.version.network, keys.version.agent, record.secrets_version, record.secrets_setter)
        identity = bytes(keys.version.key(Purpose.SECRETS))
        plain = decrypt(keys.key(Purpose.SECRETS), keys.mpk, identity, ciphertext, aad)
        values = jcs.decode(plain)
        if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
            raise WRONG_SECRETS(expected="a JSON object of texts", found="another form")
        return values

    async def _restart(self, placed: Placed, record: AgentRecord) -> None:
        placed.record = record
        process, placed.process = placed.process, None
        if process is not None:
            await process.close()

    async def _end(self, certificate: KeyCertificate) -> None:
        placed = self._placed.get(certificate.agent)
        if placed is None:
            return
        if placed.older is not None and placed.older.seat.certificate.id == certificate.id:
            placed.older = None
        if placed.keys.seat.certificate.id == certificate.id:
            await self._drop(certificate.agent)

    async def _drop(self, agent: bytes) -> None:
        placed = self._placed.pop(agent, None)
        self._sessions.erase_agent(agent)
        if placed is not None and placed.process is not None:
            with contextlib.suppress(CloisterError):
                await placed.process.close()
        self.changed.set()


def _same_version(keys: AgentKeys, record: AgentRecord) -> bool:
    terms = keys.terms
    mine = (terms.code_hash, terms.manifest_hash, terms.cluster, terms.agent_epoch)
    return mine == (record.code_hash, record.manifest_hash, record.cluster, record.epoch)


def _same_code(one: AgentKeys, other: AgentKeys) -> bool:
    return (one.terms.code_hash, one.terms.manifest_hash) == (other.terms.code_hash, other.terms.manifest_hash)
