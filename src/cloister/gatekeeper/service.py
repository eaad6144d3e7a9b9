"""The gatekeeper's wiring: who holds what, and the loop that follows the chain.

::

    founding   no office yet: each turn is a step of the ceremony
    in office  each turn signs what became final; desks answer workers
    halted     a conflict was seen: desks refuse by name, the process stays up to be asked why
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from dataclasses import dataclass

import aiohttp

from cloister.chain.finality import RpcQuorum
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.core.attestation.policy import Policy
from cloister.core.chainview.header import Header
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.network import Genesis
from cloister.core.encoding.statements import HeartBeat
from cloister.core.errors import CloisterError, PolicyError, define
from cloister.evidence.detect import MachineConfig, open_tee
from cloister.evidence.tee import Tee
from cloister.gatekeeper.admissions import AdmissionDesk
from cloister.gatekeeper.audit import AuditLog
from cloister.gatekeeper.checkpoints import HALTED, Checkpoints
from cloister.gatekeeper.config import GatekeeperConfig
from cloister.gatekeeper.founding import Announcement, Founding, erase_when_final, restore, unsigned
from cloister.gatekeeper.grants import KeyDesk
from cloister.gatekeeper.limits import RateLimit
from cloister.gatekeeper.logs import LogDesk
from cloister.gatekeeper.memory import HeadDesk
from cloister.gatekeeper.office import NOT_IN_OFFICE, Office
from cloister.gatekeeper.ports import Chain
from cloister.gatekeeper.proven import ProvenChain
from cloister.gatekeeper.showing import Showing
from cloister.gatekeeper.store import Store
from cloister.node import logs
from cloister.node.config import config_hash
from cloister.node.identity import NodeKeys
from cloister.wire.ask import new_session
from cloister.wire.committee import Committee
from cloister.wire.messages import HeartbeatRequest, Info, Shown, SignedBy, parse

SEALING_CONTEXT = b"cloister/v1/gatekeeper"
KEYS_PER_S, KEYS_BURST = 50.0, 600
SMALL_PER_S, SMALL_BURST = 200.0, 2000
EVIDENCE_PER_S, EVIDENCE_BURST = 5.0, 50
# How often members are asked again for their tables while agents are in doubt: tables may be long.
DOUBT_BLOCKS = 4

STARTING = define(
    "gatekeeper.starting",
    PolicyError,
    check="the gatekeeper has seen a finalised block",
    remedy="wait a moment; if it lasts, its chain endpoints do not answer",
    status=503,
)
OUT_OF_OFFICE = define(
    "gatekeeper.out_of_office",
    PolicyError,
    check="the committee on chain is the one that this gatekeeper's share belongs to",
    remedy="the folder is of another network or an older committee; start with an empty one",
    status=503,
)
_log = logs.get("gatekeeper")


@dataclass(frozen=True, slots=True)
class Desks:
    """What answers workers, once in office."""

    office: Office
    checkpoints: Checkpoints
    keys: KeyDesk
    admissions: AdmissionDesk
    heads: HeadDesk
    logs: LogDesk
    committee: Committee


class Gatekeeper:
    """One gatekeeper process. ``open`` prepares it, ``run`` follows the chain, ``close`` ends everything."""

    def __init__(
        self,
        config: GatekeeperConfig,
        genesis: Genesis,
        policy: Policy,
        keys: NodeKeys,
        tee: Tee,
        chain: Chain,
    ) -> None:
        self.config, self.genesis, self.policy, self.keys, self.tee = config, genesis, policy, keys, tee
        self.chain, self.store = chain, Store(config.data / "state.db")
        self._restored = restore(self.store, keys)
        self.audit = AuditLog(config.data / "audit.log")
        self.session: aiohttp.ClientSession = new_session()
        self.showing = Showing(tee, keys.address, secrets.token_bytes(32), config_hash(config))
        self.founding = Founding(
            chain,
            self.store,
            keys,
            genesis,
            policy,
            self.showing,
            Announcement(from_hex(config.operator, 20, name="operator"), config.endpoint),
            self.session,
            secrets.token_bytes,
        )
        self.head: Header | None = None
        self.desks: Desks | None = None
        self._small = RateLimit(per_s=SMALL_PER_S, burst=SMALL_BURST, clock=time.monotonic)
        self._quotes = RateLimit(per_s=EVIDENCE_PER_S, burst=EVIDENCE_BURST, clock=time.monotonic)
        self._rpcs: list[Rpc] = []

    @classmethod
    async def open(cls, config: GatekeeperConfig) -> Gatekeeper:
        """Read the genesis file, find the TEE, unseal or make the node key. Raises ConfigError, EvidenceError."""
        genesis, policy = config.load_genesis()
        tee = open_tee(MachineConfig.from_json(config.machine))
        sealing = await tee.sealing_key(SEALING_CONTEXT)
        keys = NodeKeys.load_or_create(config.data, "gatekeeper", sealing, secrets.token_bytes)
        rpcs = [Rpc(url) for url in config.rpc]
        sender = Sender(rpcs[0], keys.chain_key(), genesis.chain_id)
        chain = ProvenChain(rpcs, RpcQuorum(rpcs, config.quorum()), genesis, sender)
        gatekeeper = cls(config, genesis, policy, keys, tee, chain)
        gatekeeper._rpcs = rpcs
        return gatekeeper

    async def close(self) -> None:
        """Close connections and files."""
        if self.desks is not None:
            await self.desks.committee.close()
        await self.session.close()
        for rpc in self._rpcs:
            await rpc.close()
        self.audit.close()
        self.store.close()

    # --- the loop ---

    async def run(self, stop: asyncio.Event) -> None:
        """Turn until ``stop``. A refusal is logged once and tried again; anything else ends the process."""
        said = ""
        while not stop.is_set():
            try:
                await self.turn()
                said = ""
            except CloisterError as error:
                if error.code != said:
                    _log.warning("waiting", code=error.code, expected=error.expected, found=error.found)
                said = error.code
            self.audit.sync()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self.config.poll_ms / 1000)

    async def turn(self) -> None:
        """One turn: sign what became final, or take the next step into office. Raises CloisterError."""
        if self.desks is None:
            await self._before_office()
            return
        signed = await self.desks.checkpoints.follow(self.chain)
        if signed is not None and erase_when_final(self.store, signed.number):
            _log.info("ceremony transport erased", block=signed.number)
        if signed is not None and self._merge_is_due(self.desks.heads, signed.number):
            await self.desks.heads.merge(secrets.token_bytes)

    @staticmethod
    def _merge_is_due(heads: HeadDesk, number: int) -> bool:
        return not heads.merged or bool(heads.doubts and number % DOUBT_BLOCKS == 0)

    async def _before_office(self) -> None:
        headers = await self.chain.advance()
        if headers:
            self.head = headers[-1]
        if self.head is None:
            raise STARTING(expected="a finalised block", found="none yet")
        if self._restored is not None:
            await self._return_to_office(self._restored, self.head)
        else:
            office = await self.founding.step(self.head)
            if office is not None:
                await self._enter(office, self.head, first=True)

    async def _return_to_office(self, office: Office, head: Header) -> None:
        """After a restart: the chain must still know this committee (proven), then the book goes on where it ended."""
        seats = await self.chain.at(unsigned(self.genesis.chain_id, head)).committee()
        known = (seats.term, seats.network_id, seats.members)
        if known != (office.term, office.network, office.signers.members):
            raise OUT_OF_OFFICE(expected=f"term {office.term} of {to_hex(office.network)}", found=f"term {seats.term}")
        await self._enter(office, head, first=False)

    async def _enter(self, office: Office, head: Header, *, first: bool) -> None:
        checkpoints = Checkpoints(self.store, office, self.genesis.chain_id)
        last = checkpoints.head
        if last is not None:
            self.chain.resume(last)
        elif not checkpoints.halted:
            checkpoints.sign([head])
        candidates = await self.chain.at(unsigned(self.genesis.chain_id, head)).candidates(office.signers.members)
        committee = Committee([c.endpoint for c in candidates if c is not None], office.signers, office.network)
        limit = RateLimit(per_s=KEYS_PER_S, burst=KEYS_BURST, clock=time.monotonic)
        heads = HeadDesk(office, checkpoints, self.chain, self.store, committee, limit=limit, first=first)
        keys = KeyDesk(
            office,
            checkpoints,
            self.chain,
            self.store,
            self.audit,
            policy=self.policy,
            limit=limit,
            rng=secrets.token_bytes,
            sealed=heads.sealed,
        )
        admissions = AdmissionDesk(office, checkpoints, self.chain, self.audit, policy=self.policy, limit=limit)
        logs = LogDesk(office, checkpoints, self.chain, self.store, limit=limit)
        self.desks = Desks(office, checkpoints, keys, admissions, heads, logs, committee)

    # --- what is asked of the member itself ---

    def require_desks(self) -> Desks:
        """The desks. Raises PolicyError before office."""
        if self.desks is None:
            raise NOT_IN_OFFICE(expected="a confirmed committee", found="none yet")
        return self.desks

    def info(self) -> Info:
        """Who this is, and how far it is."""
        d = self.desks
        head = d.checkpoints.head if d is not None else None
        number = head.number if head is not None else (self.head.number if self.head is not None else 0)
        return Info(
            member=self.keys.address,
            index=0 if d is None else d.office.index,
            term=0 if d is None else d.office.term,
            network=None if d is None else d.office.network,
            genesis=self.genesis.genesis_id(),
            vendor=self.tee.kind,
            ready=d is not None and not d.checkpoints.halted,
            head=number,
        )

    async def evidence(self, nonce: bytes, remote: str) -> Shown:
        """Fresh evidence over a nonce: under the genesis id before office, under the network id after."""
        self._quotes.take((remote, b""))
        if self.desks is not None:
            head = self.desks.checkpoints.newest().statement
            block, network = getattr(head, "block_hash", b""), self.desks.office.network
        elif self.head is not None:
            block, network = self.head.hash, self.genesis.genesis_id()
        else:
            raise STARTING(expected="a finalised block", found="none yet")
        return await self.showing.show(network, block, nonce, self._dkg_public())

    def _dkg_public(self) -> bytes | None:
        if self.store.get("dkg/private") is None:
            return None
        return self.founding.ceremony_key().public_key().public_bytes_raw()

    def heartbeat(self, body: bytes, remote: str) -> SignedBy:
        """A signed answer to a worker's nonce: which block this member sees. Raises CloisterError."""
        request = parse(HeartbeatRequest.from_json, body)
        self._small.take((remote, b""))
        desks = self.require_desks()
        desks.checkpoints.require_running()
        head = desks.checkpoints.head
        if head is None:
            raise HALTED(expected="a signed checkpoint", found="none")
        beat = HeartBeat(desks.office.term, request.nonce, head.number, head.block_hash)
        return SignedBy(beat, desks.office.sign(beat))

    def small(self, remote: str) -> None:
        """Count one cheap question of a remote address. Raises PolicyError (gatekeeper.rate)."""
        self._small.take((remote, b""))
