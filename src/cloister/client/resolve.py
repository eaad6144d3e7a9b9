"""From an agent id to workers that may be sealed to, believing nobody on the way (spec/chainview.md, sealed-http.md 1).

Numbered as the code: 1 a checkpoint with t signatures, fresh by this client's own clock, never going back; 2 the
committee, along hand-overs from the pinned one, MPK and epochs by proof at it; 3 the agent's record by proof, not
paused there nor in any newer block seen; 4 the seats that the gateway lists: each certificate under its lease, of the
agent's present code and epochs; 5 each seat's worker by proof: admitted, live, this boot, not removed in any newer
block seen. Seats that fail are left out; if none is left, the first reason is raised.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cloister.chain.rpc import Rpc
from cloister.chain.seats import SeatedState
from cloister.client.gateway import Gateway
from cloister.client.reply import Proof
from cloister.client.terms import walk_of
from cloister.core.attestation.policy import NetworkParameters, Policy
from cloister.core.chainview.checkpoints import accept_checkpoint
from cloister.core.chainview.epochs import EpochRecord
from cloister.core.chainview.records import AgentRecord, Canary, CommitteeRecord, WorkerRecord
from cloister.core.chainview.refusals import SECOND_AT_HEIGHT
from cloister.core.encoding.hexes import from_hex, need_fields, to_hex
from cloister.core.encoding.identity import AgentVersion
from cloister.core.encoding.network import Network
from cloister.core.encoding.signatures import MAX_MEMBERS, Signed
from cloister.core.encoding.statements import Checkpoint
from cloister.core.envelope.certificate import KeyCertificate, Seat
from cloister.core.errors import ChainViewError, CloisterError, PolicyError, TransportError, define
from cloister.core.policy.refusals import AGENT_UNKNOWN, PAUSED, WORKER_REMOVED
from cloister.core.receipts.verify import Admission
from cloister.wire.terms import TermWalk

MAX_SEATS = 64
CAREFUL_S = 5.0

NO_SEAT = define(
    "client.no_seat",
    TransportError,
    check="a worker holds a lease of the agent now",
    remedy="a new agent needs a few seconds; see `cloister agent show` and `cloister status`",
    status=503,
)
OTHER_COMMITTEE = define(
    "client.committee",
    ChainViewError,
    check="the committee and MPK in office are those that hand-overs from the pinned network file lead to",
    remedy="use another gateway; if it lasts, get the newest network.json and its fingerprint from the operators",
)
OLD_SEAT = define(
    "client.old_seat",
    PolicyError,
    check="the seat was leased for the agent's present code, manifest, cluster and epochs",
    remedy="wait for the next lease; the agent was changed after this one was granted",
)
NOT_ADMITTED = define(
    "client.worker_not_admitted",
    PolicyError,
    check="the seat's worker is admitted by proof, live, with the boot that the seat names",
    remedy="take another seat; this worker left, expired, restarted or was never admitted",
    status=403,
)


@dataclass(frozen=True, slots=True)
class View:
    """One verified checkpoint, the state under it, and when this client took it (Unix seconds, own clock).

    ``signed``: the checkpoint with its signatures, for whoever keeps it as proof."""

    checkpoint: Checkpoint
    state: SeatedState
    taken: float
    signed: Signed


@dataclass(frozen=True, slots=True)
class Sitting:
    """A verified seat and the proven record of the worker that sits on it."""

    seat: Seat
    worker: WorkerRecord

    @property
    def vendor(self) -> str:
        """Vendor class of the worker's hardware: "intel", "amd", "aws", ..."""
        return self.worker.vendor_class.rstrip(b"\0").decode("ascii", "replace")

    @property
    def admission(self) -> Admission:
        """The worker's admission, as receipts are checked against it."""
        w = self.worker
        return Admission(w.worker, w.boot, w.expiry, w.removed)


@dataclass(frozen=True, slots=True)
class Resolution:
    """An agent, resolved: its proven record at a checkpoint and at least one seat to seal to.

    ``canaries``: seats of the second version that may run at the checkpoint; none without one."""

    network: bytes
    checkpoint: Checkpoint
    record: AgentRecord
    sittings: tuple[Sitting, ...]
    parameters: NetworkParameters
    threshold: int
    taken: float
    canaries: tuple[Sitting, ...] = ()

    def routed(self, caller: bytes) -> Resolution:
        """Where this caller's calls go first: to the canary for its share of callers (spec/canary.md 6).

        ``caller``: what names it, the same in all its sessions. Where no canary answers, the version in force does."""
        beside, found = self.record.canary, self.beside()
        if beside is None or not found or not in_share(self.record.agent, beside, caller):
            return self
        return replace(self, sittings=(*found, *self.sittings), canaries=())

    def beside(self) -> tuple[Sitting, ...]:
        """Seats of the canary at the workers that are left in ``sittings``."""
        here = {s.worker.worker for s in self.sittings}
        return tuple(s for s in self.canaries if s.worker.worker in here)

    def proof(self, sitting: Sitting, receipt_id: bytes) -> Proof:
        """What was verified for an answer of this seat."""
        certificate, worker = sitting.seat.certificate, sitting.worker
        return Proof(
            network=self.network,
            agent=certificate.agent,
            code_hash=certificate.code_hash,
            manifest_hash=certificate.manifest_hash,
            worker=worker.worker,
            boot=worker.boot,
            vendor=sitting.vendor,
            measurement=worker.measurement,
            checkpoint=self.checkpoint.number,
            lease_expiry=certificate.expiry,
            committee=self.threshold,
            receipt_id=receipt_id,
        )

    def narrowed(self, keep: Callable[[Sitting], bool]) -> tuple[Sitting, ...]:
        """The seats that ``keep`` accepts."""
        return tuple(s for s in self.sittings if keep(s))


class Resolver:
    """Resolves agents of one pinned network over one gateway. ``clock``: Unix seconds; ``rng`` spreads the load.

    ``walk``: the terms that this client knows; by default from the pin, remembered nowhere."""

    def __init__(
        self,
        network: Network,
        gateway: Gateway,
        rpc: Rpc,
        *,
        clock: Callable[[], float],
        rng: Callable[[int], bytes],
        walk: TermWalk | None = None,
    ) -> None:
        self.network = network
        self.walk = walk or walk_of(network, gateway.handovers, clock)
        self._mpks = {network.master_epoch: network.mpk}
        self.policy = Policy.from_json(dict(network.genesis.policy))
        self._gateway, self._rpc, self._clock = gateway, rpc, clock
        self._salt = rng(8)
        self._view: View | None = None
        self._cache: dict[bytes, Resolution] = {}
        self._locks: dict[bytes, asyncio.Lock] = {}
        contracts = network.genesis.contracts
        self._addresses = {name: ref.address for name, ref in contracts.items()}
        self._diverse = 0  # the term whose vendors were looked at
        self._code_hashes = {name: ref.code_hash for name, ref in contracts.items()}

    @property
    def salt(self) -> bytes:
        """What names an anonymous caller of this process, to itself."""
        return self._salt

    @property
    def parameters(self) -> NetworkParameters:
        """The network's numbers."""
        return self.policy.network

    async def view(self) -> View:
        """Step 1: the newest verified checkpoint. Raises ChainViewError, EncodingError or TransportError."""
        signed = _signed(await self._gateway.checkpoint())
        now, limit = self._clock(), self.parameters.max_checkpoint_age_s
        checkpoint = await self._accepted(signed, int(now), limit)
        last = self._view
        if last is not None and checkpoint.number == last.checkpoint.number:
            if checkpoint.block_hash != last.checkpoint.block_hash:
                raise SECOND_AT_HEIGHT(expected=to_hex(last.checkpoint.block_hash), found=to_hex(checkpoint.block_hash))
            return last
        if last is None or checkpoint.number > last.checkpoint.number:
            state = SeatedState(self._rpc, self._addresses, checkpoint, code_hashes=self._code_hashes)
            self._view = last = View(checkpoint, state, now, signed)
        elif now - last.checkpoint.timestamp > limit:  # the gateway went back, and what we hold is stale itself
            raise NO_SEAT(expected=f"a checkpoint above {last.checkpoint.number}", found=str(checkpoint.number))
        return last

    async def _accepted(self, signed: Signed, now: int, limit: int) -> Checkpoint:
        """1. hand-overs, where a later term is named; 2. the term in office was so lately, by our own clock (H3);
        3. a term that may speak of this block signed it, and it is fresh."""
        term, number = getattr(signed.statement, "term", 0), getattr(signed.statement, "number", 0)
        await (self.walk.look() if self.walk.due else self.walk.knows(term))  # 1
        terms = self.walk.terms
        terms.require_fresh(now)  # 2
        signers = terms.signers_of(signed.statement, number)  # 3
        checkpoint = accept_checkpoint(signed, signers, self.network.id, now, limit)
        if term == terms.in_office.signers.term:
            self.walk.spoke()
        return checkpoint

    async def record(self, agent: bytes) -> AgentRecord:
        """Step 3 alone: an agent's proven record, paused or not. Raises PolicyError (policy.agent_unknown)."""
        view = await self.view()
        found = await view.state.agent(agent)
        if found is None:
            raise AGENT_UNKNOWN(expected=f"an agent at block {view.checkpoint.number}", found=to_hex(agent))
        return found

    async def version(self, record: AgentRecord) -> AgentVersion:
        """The agent at its present epochs: what its keys are named by. ``mpk`` has the key of its master epoch then."""
        view = await self.view()
        (committee, master), cluster = await asyncio.gather(self.committee(view), view.state.cluster(record.cluster))
        if self._diverse != committee.term:
            await view.state.require_diverse(self.policy.committee)
            self._diverse = committee.term
        if cluster is None:
            raise AGENT_UNKNOWN(expected="the agent's cluster", found=to_hex(record.cluster))
        return AgentVersion(
            network=self.network.id,
            master_epoch=master.epoch,
            cluster=record.cluster,
            cluster_epoch=cluster.epoch,
            agent=record.agent,
            agent_epoch=record.epoch,
        )

    async def resolve(self, agent: bytes, *, quick: bool = True, again: bool = False) -> Resolution:
        """Steps 1 to 5, or the last result while it is young. ``again`` never uses it.

        Without ``quick`` (the request is not safe to repeat) a result counts as young for five seconds only: an old
        seat would turn into an unknown outcome.
        """
        async with self._locks.setdefault(agent, asyncio.Lock()):
            known = self._cache.get(agent)
            age = self._clock() - known.taken if known else 0.0
            limit = self.parameters.max_checkpoint_age_s / 4
            if known is not None and not again and 0 <= age <= (limit if quick else min(limit, CAREFUL_S)):
                return known
            fresh = await self._resolve(agent)
            self._cache[agent] = fresh
            return fresh

    def outdated(self, agent: bytes, height: int) -> None:
        """A worker answered at ``height``: if the period moved on since this agent was resolved, forget the result."""
        known = self._cache.get(agent)
        blocks = self.parameters.period_blocks
        if known is not None and height // blocks > known.checkpoint.number // blocks:
            del self._cache[agent]

    async def _resolve(self, agent: bytes) -> Resolution:
        view = await self.view()  # 1
        record = await self.record(agent)  # 3
        version, offered, paused = await asyncio.gather(
            self.version(record), self._gateway.seats(agent), view.state.newest_paused(agent)
        )  # 2
        if record.paused or paused:
            where = "at the checkpoint" if record.paused else "at a newer block"
            raise PAUSED(expected="a running agent", found=f"paused {where}")
        sittings, canaries = await self._sittings(view, record, version, offered)  # 4, 5
        return Resolution(
            network=self.network.id,
            checkpoint=view.checkpoint,
            record=record,
            sittings=sittings,
            parameters=self.parameters,
            threshold=self.walk.terms.in_office.signers.threshold,
            taken=self._clock(),
            canaries=canaries,
        )

    async def _sittings(
        self, view: View, record: AgentRecord, version: AgentVersion, offered: Sequence[object]
    ) -> tuple[tuple[Sitting, ...], tuple[Sitting, ...]]:
        """Seats of the version in force, at least one, and those of the canary: one of each worker."""
        judged = await asyncio.gather(
            *(self._judge(view, record, version, seat) for seat in offered[:MAX_SEATS]), return_exceptions=True
        )
        good: dict[bytes, Sitting] = {}
        beside: dict[bytes, Sitting] = {}
        refused: list[CloisterError] = []
        for found in judged:
            if isinstance(found, CloisterError):
                refused.append(found)
            elif isinstance(found, BaseException):
                raise found
            else:
                group = good if found.seat.certificate.code_hash == record.code_hash else beside
                if found.worker.worker not in group or _newer(found, group[found.worker.worker]):
                    group[found.worker.worker] = found
        if not good:
            if refused:
                raise refused[0]
            raise NO_SEAT(expected="a seat", found="none")
        ranked = (tuple(sorted(group.values(), key=self._rank)) for group in (good, beside))
        return next(ranked), next(ranked)

    async def _judge(self, view: View, record: AgentRecord, version: AgentVersion, offer: object) -> Sitting:
        seat = Seat.from_json(offer)
        certificate = seat.certificate
        await self.walk.knows(getattr(seat.lease.statement, "term", 0))  # 4
        signers = self.walk.terms.lessors(seat.lease.statement, self.parameters.period_blocks)
        seat.verify(signers, self.network.id, view.checkpoint.number)
        _same_agent(certificate, record, version, view.checkpoint.number)
        worker = await view.state.worker(certificate.worker)  # 5
        if worker is None or not worker.live_at(view.checkpoint.number) or worker.boot != certificate.boot:
            raise NOT_ADMITTED(
                expected=f"a live worker {to_hex(certificate.worker)}", found=_state_of(worker, certificate)
            )
        if await view.state.newest_removed(certificate.worker):
            raise WORKER_REMOVED(expected="a worker in service", found="removed at a newer block")
        return Sitting(seat, worker)

    def _rank(self, sitting: Sitting) -> bytes:
        return hashlib.sha256(self._salt + sitting.worker.worker).digest()

    async def committee(self, view: View) -> tuple[CommitteeRecord, EpochRecord]:
        """The committee in office and the master epoch in use, by proof. Raises client.committee, ChainViewError.

        1. of this network, and of the term that signed the checkpoint; in its first block the next term is proven, and
        the one before has signed; 2. a term that is known has the members that it was handed to; 3. the pinned term has
        the pinned key; 4. no hand-over named another key of the epoch."""
        committee, master = await asyncio.gather(view.state.committee(), view.state.master())
        at, own, terms = view.checkpoint, self.network, self.walk.terms
        first = committee.term == at.term + 1 and await view.state.term_height(committee.term) == at.number
        if committee.network_id != own.id or (committee.term != at.term and not first):  # 1
            raise OTHER_COMMITTEE(expected=f"network {to_hex(own.id)[:18]}…, term {at.term}",
                                  found=f"{to_hex(committee.network_id)[:18]}…, term {committee.term}")  # fmt: skip
        known = {one.signers.term: one.signers for one in terms.known}
        if known.get(committee.term, committee.signers()) != committee.signers():  # 2
            raise OTHER_COMMITTEE(expected=f"the members that term {committee.term} was handed to", found="others")
        pin = (own.founding.term, own.master_epoch)
        found = (committee.mpk, committee.transcript, master.mpk)
        if pin == (committee.term, committee.master_epoch) and found != (own.mpk, own.transcript, own.mpk):  # 3
            raise OTHER_COMMITTEE(expected=f"MPK {to_hex(own.mpk)[:18]}…", found=f"{to_hex(committee.mpk)[:18]}…")
        terms.require_key(master.epoch, master.mpk)  # 4
        self._mpks[master.epoch] = master.mpk
        return committee, master

    def mpk(self, epoch: int) -> bytes:
        """The master public key (96 bytes) of an epoch that ``version`` named. KeyError for others: our mistake."""
        return self._mpks[epoch]


def in_share(agent: bytes, canary: Canary, caller: bytes) -> bool:
    """Whether a caller is one of those whose calls go to the canary. Who is stays so while the share grows."""
    drawn = hashlib.sha256(b"cloister/canary" + agent + canary.code_hash + caller).digest()[:8]
    return int.from_bytes(drawn, "big") % 100 < canary.share


def _same_agent(certificate: KeyCertificate, record: AgentRecord, version: AgentVersion, number: int) -> None:
    found = (certificate.code_hash, certificate.manifest_hash, certificate.version)
    beside = record.canary_at(number)
    if beside is not None and found == (beside.code_hash, beside.manifest_hash, version):
        return
    if found != (record.code_hash, record.manifest_hash, version):
        raise OLD_SEAT(
            expected=f"code {to_hex(record.code_hash)[:18]}…, epoch {record.epoch}",
            found=f"code {to_hex(certificate.code_hash)[:18]}…, epoch {certificate.agent_epoch}",
        )


def _state_of(worker: WorkerRecord | None, certificate: KeyCertificate) -> str:
    if worker is None:
        return "never registered"
    if worker.removed or not worker.listed:
        return "removed" if worker.removed else "left"
    return "another boot" if worker.boot != certificate.boot else f"registration until block {worker.expiry}"


def _newer(one: Sitting, other: Sitting) -> bool:
    return one.seat.certificate.expiry > other.seat.certificate.expiry


def _signed(value: object) -> Signed:
    data = need_fields("checkpoint answer", value, {"checkpoint", "signatures"})
    signatures = data["signatures"]
    if not isinstance(signatures, list) or len(signatures) > MAX_MEMBERS:
        raise NO_SEAT(expected=f"at most {MAX_MEMBERS} signatures", found=type(signatures).__name__)
    parsed = tuple(from_hex(s, 65, name="checkpoint signature") for s in signatures)
    return Signed(Checkpoint.from_json(data["checkpoint"]), parsed)
