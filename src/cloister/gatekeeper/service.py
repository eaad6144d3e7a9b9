"""The gatekeeper's wiring: who holds what, and the loop that follows the chain.

::

    waiting    no office: a candidate, or between two terms; ceremonies are lived all the same
    in office  each turn signs what became final; desks answer workers
    halted     a conflict was seen: desks refuse by name, the process stays up to be asked why
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping

import aiohttp

from cloister.chain.connected import load_chains
from cloister.chain.finality import RpcQuorum
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.core.attestation.policy import Policy
from cloister.core.chainview.ceremonies import EpochState
from cloister.core.chainview.founding import SeatsRecord
from cloister.core.chainview.header import Header
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.network import Genesis
from cloister.core.encoding.statements import Checkpoint, HeartBeat
from cloister.core.errors import CloisterError, PolicyError, define
from cloister.evidence.detect import MachineConfig, open_tee
from cloister.evidence.tee import Tee
from cloister.gatekeeper.audit import AuditLog
from cloister.gatekeeper.believing import Believing
from cloister.gatekeeper.candidates import Candidacy, CandidateDesk
from cloister.gatekeeper.ceremonies import Ceremonies
from cloister.gatekeeper.chains import ConnectedChains
from cloister.gatekeeper.checkpoints import HALTED
from cloister.gatekeeper.config import GatekeeperConfig
from cloister.gatekeeper.consents import Consents
from cloister.gatekeeper.deeds import Deeds
from cloister.gatekeeper.desks import DeskMaker, Desks
from cloister.gatekeeper.gather import Gatherer
from cloister.gatekeeper.handovers import Handovers
from cloister.gatekeeper.knowing import Knowing
from cloister.gatekeeper.limits import RateLimit
from cloister.gatekeeper.membership import Announcement, Membership
from cloister.gatekeeper.memory import HeadDesk
from cloister.gatekeeper.office import NOT_IN_OFFICE, Office, Shares
from cloister.gatekeeper.placements import Placements
from cloister.gatekeeper.ports import Chain, Snapshot
from cloister.gatekeeper.proven import ProvenChain
from cloister.gatekeeper.rest import Disk, DiskDesk, local_key, open_folder
from cloister.gatekeeper.showing import Showing
from cloister.gatekeeper.signersets import SignerSetDesk
from cloister.gatekeeper.status import status_of
from cloister.gatekeeper.store import Store
from cloister.gatekeeper.transcripts import Transcripts
from cloister.gatekeeper.triggers import Triggers
from cloister.gatekeeper.watch import Watch
from cloister.node import logs
from cloister.node.config import config_hash
from cloister.node.identity import NodeKeys
from cloister.wire.ask import new_session
from cloister.wire.messages import HeartbeatRequest, Info, Shown, SignedBy, parse

SEALING_CONTEXT = b"cloister/v1/gatekeeper"
SMALL_PER_S, SMALL_BURST = 200.0, 2000
EVIDENCE_PER_S, EVIDENCE_BURST = 5.0, 50
# How often members are asked again for their tables while agents are in doubt: tables may be long.
DOUBT_BLOCKS = 4
# How often a member in office looks for ceremonies while it takes part in none.
IDLE_BLOCKS = 4

STARTING = define(
    "gatekeeper.starting",
    PolicyError,
    check="the gatekeeper has seen a finalised block",
    remedy="wait a moment; if it lasts, its chain endpoints do not answer",
    status=503,
)
REVOKED = define(
    "gatekeeper.revoked",
    PolicyError,
    check="this gatekeeper's seat was not revoked",
    remedy="the DAO or t members removed it for cause, for good; let it run until the next term took its seat",
    status=403,
)
_log = logs.get("gatekeeper")


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
        local: bytes | None = None,
    ) -> None:
        """``local``: the hardware's sealing key, None where there is none."""
        self.config, self.genesis, self.policy, self.keys, self.tee = config, genesis, policy, keys, tee
        self.chain, self.store = chain, Store(config.data / "state.db")
        self.disk = Disk(config.data, self.store, keys, local, secrets.token_bytes) if config.by_members() else None
        self.shares = Shares(self.store, keys, secrets.token_bytes)
        self._had_shares = bool(self.shares.held())
        self.audit = AuditLog(config.data / "audit.log")
        self.session: aiohttp.ClientSession = new_session()
        self.showing = Showing(tee, keys.address, secrets.token_bytes(32), config_hash(config))
        self._wire(Announcement(from_hex(config.operator, 20, name="operator"), config.endpoint))
        self.head: Header | None = None
        self.desks: Desks | None = None
        self._former: Desks | None = None
        self._driven: Header | None = None
        self._spoken: Header | None = None
        self._unsigned: list[Header] = []
        self._small = RateLimit(per_s=SMALL_PER_S, burst=SMALL_BURST, clock=time.monotonic)
        self._quotes = RateLimit(per_s=EVIDENCE_PER_S, burst=EVIDENCE_BURST, clock=time.monotonic)
        self._rpcs: list[Rpc] = []
        believing = Believing(config.data, self.audit)
        self.chains = ConnectedChains(load_chains(config.chains, genesis.chain_id), self.store, believing)
        self._signer_sets = SignerSetDesk(self.store, keys, self.chains)
        self._maker = DeskMaker(chain, self.store, self.audit, policy, genesis, self.chains, self.watch, believing)

    def _wire(self, me: Announcement) -> None:
        """The parts that ceremonies are made of."""
        rng, genesis = secrets.token_bytes, self.genesis
        self.membership = Membership(
            self.chain, self.store, self.keys, genesis, self.policy, self.showing, me, self.session, rng
        )
        self.transcripts, deeds = Transcripts(self.store, self.session), Deeds(self.chain, self.session)
        self.ceremonies = Ceremonies(
            self.store, self.keys, genesis.genesis_id(), self.membership, self.shares, self.transcripts, deeds, rng
        )
        self.handovers = Handovers(self.store, self.keys, self.session)
        looks, consents = Placements(self.store, self.policy, self.chain), Consents(self.config.data, self.audit)
        self.watch = Watch(self.store, self.audit, deeds, self.keys.address, looks)
        knowing = Knowing(self.keys.address, self.store, self.policy, consents, self.watch, self.ceremonies.refused)
        self.statements = Gatherer(self.store, self.keys, self.session, deeds, self.audit, knowing, self.watch)
        self.triggers, self.candidacy = Triggers(deeds, self.handovers, self.keys), Candidacy(self.keys.address, deeds)
        self.disks = DiskDesk(self.chain, self.store, self.audit, self.policy, rng)
        self.candidates = CandidateDesk(self.chain, self.membership, self.audit)

    @classmethod
    async def open(cls, config: GatekeeperConfig) -> Gatekeeper:
        """Read the genesis file, find the TEE, unseal or make the node key. Raises ConfigError, EvidenceError."""
        genesis, policy = config.load_genesis()
        tee = open_tee(MachineConfig.from_json(config.machine))
        if config.by_members():
            local = await local_key(tee, SEALING_CONTEXT)
            keys = await open_folder(config, genesis, tee, local)
        else:
            local = await tee.sealing_key(SEALING_CONTEXT)
            keys = NodeKeys.load_or_create(config.data, "gatekeeper", local, secrets.token_bytes)
        rpcs = [Rpc(url) for url in config.rpc]
        sender = Sender(rpcs[0], keys.chain_key(), genesis.chain_id)
        chain = ProvenChain(rpcs, RpcQuorum(rpcs, config.quorum()), genesis, sender)
        gatekeeper = cls(config, genesis, policy, keys, tee, chain, local)
        gatekeeper._rpcs = rpcs
        return gatekeeper

    async def close(self) -> None:
        """Close connections and files."""
        for desks in (self.desks, self._former):
            if desks is not None:
                await desks.committee.close()
        await self.session.close()
        for rpc in self._rpcs:
            await rpc.close()
        await self.chains.close()
        self.audit.close()
        self.store.close()

    # --- the loop ---

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the chain, and the ceremonies on it, until ``stop``. Anything but a refusal ends the process.

        Ceremonies have their own loop: a transaction that waits for its block must not keep checkpoints waiting."""
        turns = (self.turn_office, self.turn_ceremonies, self.turn_chains)
        loops = [asyncio.create_task(self._loop(stop, turn)) for turn in turns]
        try:
            await asyncio.gather(*loops)
        finally:
            for task in loops:
                task.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    async def _loop(self, stop: asyncio.Event, turn: Callable[[], Awaitable[None]]) -> None:
        """A refusal is logged once and tried again."""
        said = ""
        while not stop.is_set():
            try:
                await turn()
                said = ""
            except CloisterError as error:
                if error.code != said:
                    _log.warning("waiting", code=error.code, expected=error.expected, found=error.found)
                said = error.code
            self.audit.sync()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self.config.poll_ms / 1000)

    async def turn(self) -> None:
        """One turn of both loops, the second one even if the first refuses. Raises CloisterError."""
        try:
            await self.turn_office()
        finally:
            await self.turn_ceremonies()

    async def turn_office(self) -> None:
        """Follow the chain, and learn from other members what we may have missed. Raises CloisterError."""
        headers = await self.follow_chain()
        if self.desks is None or not headers:
            return
        heads, newest = self.desks.heads, headers[-1]
        if self._merge_is_due(heads, newest.number):
            await heads.merge(secrets.token_bytes)
        if newest.number % IDLE_BLOCKS == 0:
            await heads.follow_acceptances(self.chain.at(unsigned(self.genesis.chain_id, newest)))

    async def follow_chain(self) -> list[Header]:
        """Sign what became final, and follow the committee from term to term. Returns the new headers.

        Raises CloisterError."""
        headers = await self._new_headers()
        if self.head is None:
            raise STARTING(expected="a finalised block", found="none yet")
        if headers and await self._follow(headers):
            self._unsigned = []
        return headers

    async def turn_chains(self) -> None:
        """Sign what became final on connected chains, as the network's own state at the newest checkpoint allows."""
        head = self.desks.checkpoints.head if self.desks is not None else None
        if self.desks is not None and head is not None and "Anchor" in self.genesis.contracts:
            await self.chains.turn(self.chain.at(head), self.desks.office, self.genesis.address("Anchor"))

    async def turn_ceremonies(self) -> None:
        """What is due in ceremonies, hand-overs and statements at the newest final block. Raises CloisterError."""
        head = self.head
        if head is None or head is self._driven:
            await self.statements.again()
            return
        if self.desks is not None and not self.ceremonies.active and head.number % IDLE_BLOCKS:
            return
        at = self.chain.at(unsigned(self.genesis.chain_id, head))
        seats = await at.committee()
        if seats.term:
            self.membership.networks = (self.genesis.genesis_id(), seats.network_id)
        if self.disk is not None:
            await self.disk.follow(at, seats)
        try:
            await self.ceremonies.step(at, head)
        except CloisterError:
            await self._speak(at, head, seats)  # what stands in the way may be what t members have to say
            raise
        if not self.ceremonies.busy:
            await self.membership.stand(at, head)
            await self.candidacy.step(at, head, seats)
        await self.membership.meet(at, head)
        if seats.term:
            await self._bury(at, head)
            await self.handovers.step(at, seats.term, seats.network_id)
            await self.triggers.step(at, head, seats)
            await self._speak(at, head, seats)
        self._driven = head

    async def _speak(self, at: Snapshot, head: Header, seats: SeatsRecord) -> None:
        """Our part in statements of t members, once for each final block."""
        if seats.term and head is not self._spoken:
            await self.statements.step(at, head, seats, None if self.desks is None else self.desks.heads)
            self._spoken = head

    async def _bury(self, at: Snapshot, head: Header) -> None:
        """Erase the shares of master epochs that were destroyed long enough ago (M4)."""
        for epoch, term in self.shares.held():
            record = await at.epoch_record(epoch)
            over = record.state is EpochState.DESTROYED
            if over and head.number >= record.destroyed_at + (await at.rules()).erase_delay:
                self.shares.bury(epoch, term)
                _log.info("share of a destroyed epoch erased", epoch=epoch)

    @staticmethod
    def _merge_is_due(heads: HeadDesk, number: int) -> bool:
        return not heads.merged or bool(heads.doubts and number % DOUBT_BLOCKS == 0)

    async def _new_headers(self) -> list[Header]:
        """Final headers that are not dealt with yet, oldest first. A fork halts a member in office for good."""
        if self.desks is not None:
            self._unsigned += await self.desks.checkpoints.headers(self.chain)
        else:
            self._unsigned = list(await self.chain.advance())[-1:] or self._unsigned
        if self._unsigned:
            self.head = self._unsigned[-1]
        return self._unsigned

    async def _follow(self, headers: list[Header]) -> bool:
        """Sign for the terms that the headers belong to; change the office where the committee on chain changed.

        Returns whether the headers are dealt with: not while our share of a new term is still being made."""
        if self.desks is not None:
            self.desks.checkpoints.require_line(headers)
        at = self.chain.at(unsigned(self.genesis.chain_id, headers[-1]))
        office = self.desks.office if self.desks is not None else None
        if office is not None:
            await asyncio.gather(at.committee(), at.term_record(office.term))  # one wait for both proofs
        seats = await at.committee()
        if seats.term:
            await self._require_seat(at, seats)
        known = office is not None and (office.term, office.master_epoch) == (seats.term, seats.master_epoch)
        settled = not self.ceremonies.active and not (office is not None and office.others)
        if self.desks is not None and known and settled:
            self.desks.checkpoints.sign(headers)
            return True
        lives = await self._epochs(at, seats)
        if self.desks is not None and office is not None and self._same(office, seats, lives):
            self.desks.checkpoints.sign(headers)
            return True
        if self.ceremonies.makes(seats.master_epoch, lives.get(seats.master_epoch, 0)):
            return False
        since = (await at.term_record(seats.term)).height if seats.term else 0
        if self.desks is not None and office is not None and seats.term != office.term:
            await self._leave(self.desks, [h for h in headers if h.number <= since], seats.term == office.term + 1)
        new = self.shares.office(seats, lives)
        if new is not None:
            await self._enter(new, headers, at, since)
        return True

    async def _require_seat(self, at: Snapshot, seats: SeatsRecord) -> None:
        """A revoked seat signs and evaluates nothing (E7); it lives its last ceremony all the same."""
        members = seats.members
        seat = members.index(self.keys.address) + 1 if self.keys.address in members else 0
        if seat in (await at.term_record(seats.term)).revoked:
            self._former, self.desks, self._unsigned = self.desks or self._former, None, []
            raise REVOKED(expected=f"seat {seat} in service", found="revoked")

    def _same(self, office: Office, seats: SeatsRecord, lives: Mapping[int, int]) -> bool:
        """Whether the office on chain is the one that we hold, with every share that we could have in it."""
        used = {office.master_epoch: office.share, **office.others}
        held = self.shares.held()
        there = {epoch: term for epoch, term in lives.items() if (epoch, term) in held}
        same = (office.term, office.master_epoch) == (seats.term, seats.master_epoch)
        return same and there == {epoch: share.public.term for epoch, share in used.items()}

    async def _epochs(self, at: Snapshot, seats: SeatsRecord) -> dict[int, int]:
        """For each master epoch that is served, the term whose shares hold it: none that was not carried over (R7)."""
        if not seats.term:
            return {}
        records = [await at.epoch_record(e) for e in range(max(1, seats.master_epoch - 1), seats.master_epoch + 1)]
        lives = [r for r in records if r.state not in (EpochState.NONE, EpochState.DESTROYED)]
        return {r.epoch: r.term for r in lives if r.term == seats.term}

    async def _leave(self, desks: Desks, last: list[Header], next_term: bool) -> None:
        """The term is over: sign its last blocks, then answer nothing but head tables, which successors merge (R5)."""
        if last and next_term:
            desks.checkpoints.sign(last)
        self._former, self.desks = desks, None
        _log.info("term over", term=desks.office.term)

    async def _enter(self, office: Office, headers: list[Header], at: Snapshot, since: int) -> None:
        before = self.desks or self._former
        self.desks = await self._maker.make(office, headers, at, since, before, founded=not self._had_shares)
        if before is not None:
            await before.committee.close()
        _log.info("in office", network=to_hex(office.network), term=office.term, index=office.index)

    # --- what is asked of the member itself ---

    def require_desks(self) -> Desks:
        """The desks. Raises PolicyError before office."""
        if self.desks is None:
            raise NOT_IN_OFFICE(expected="a confirmed committee", found="none yet")
        return self.desks

    def table_desk(self) -> HeadDesk:
        """Who gives head tables: ours in office, or of the term just over (R5). Raises PolicyError."""
        desks = self.desks or self._former
        return self.require_desks().heads if desks is None else desks.heads

    def witnessed(self, height: int) -> dict[str, object]:
        """Checkpoints from a height on that this member signed or saw signed, and conflicts. Raises PolicyError."""
        return self.watch.served(height, self.require_desks().checkpoints.since(height))

    async def signer_set(self, chain_id: int, term: int) -> dict[str, object]:
        """This member's word on who follows ``term`` at a connected chain's Anchor. Raises CloisterError."""
        desks = self.require_desks()
        head = desks.checkpoints.head
        if head is None:
            raise HALTED(expected="a signed checkpoint", found="none")
        return await self._signer_sets.answer(self.chain.at(head), desks.office.network, chain_id, term)

    def status(self) -> dict[str, object]:
        """For people: which ceremony, which phase, until when, what is missing."""
        return status_of(self.info(), self.ceremonies, self.shares, self.head, self.statements.progress())

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
        return await self.showing.show(network, block, nonce, self.ceremonies.shown_key())

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


def unsigned(chain_id: int, head: Header) -> Checkpoint:
    """A finalised header in the form that proofs are checked against, before any committee signs."""
    return Checkpoint(0, chain_id, head.number, head.hash, head.state_root, head.timestamp)
