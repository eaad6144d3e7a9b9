"""A folder whose key the other members hold, for machines without a sealing key (spec/gatekeepers.md D1-D6).

::

    sealed      a random disk key seals the folder; it lies beside it, encrypted to an identity of this round
    asking      after a start: fresh evidence to every member, t partials, the identity's key, the disk key
    moved       in a new round: a new disk key, everything sealed again, in one durable write
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from coincurve import PrivateKey

from cloister.chain.finality import RpcQuorum
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.core.attestation.appraise import REPORT_DATA
from cloister.core.attestation.policy import Policy
from cloister.core.chainview.ceremonies import Ending, EpochState
from cloister.core.chainview.founding import SeatsRecord
from cloister.core.chainview.header import Header
from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context, digest
from cloister.core.encoding.hexes import from_hex, need_fields, need_uint, to_hex
from cloister.core.encoding.network import Genesis
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import CloisterError, ConfigError, EvidenceError, PolicyError, define
from cloister.core.policy.rest import NEVER, DiskFacts, Round, disk_identity, machine_of, may_open
from cloister.core.threshold import ibe
from cloister.core.threshold.partial import Partial, TransportKey, evaluate, recover
from cloister.core.threshold.phases import Kind
from cloister.evidence.tee import NO_SEALING, Tee
from cloister.gatekeeper.attest import attest
from cloister.gatekeeper.audit import AuditLog
from cloister.gatekeeper.checkpoints import HALTED, Checkpoints
from cloister.gatekeeper.config import GatekeeperConfig
from cloister.gatekeeper.limits import RateLimit
from cloister.gatekeeper.membership import KEPT_SECRETS, MACHINE
from cloister.gatekeeper.office import Office
from cloister.gatekeeper.peers import BAD_PEER
from cloister.gatekeeper.ports import Chain, Snapshot
from cloister.gatekeeper.proven import ProvenChain
from cloister.gatekeeper.showing import Showing
from cloister.gatekeeper.store import Store
from cloister.gatekeeper.transcripts import Transcripts
from cloister.node import logs
from cloister.node.config import config_hash
from cloister.node.identity import NodeKeys
from cloister.wire.ask import ask
from cloister.wire.messages import Shown, parse

ROUTE = "/v1/disk"
WRAP, OWN, ANSWERED = "disk/wrap", "disk/node", "disk-answered/"
TRANSPORT = "disk"
ASK_TIMEOUT_S = 10.0
# For each member, whoever asks: one start needs one answer.
ASKS_PER_S, ASKS_BURST = 0.2, 6
LOOK_BACK = 8
USED = (EpochState.RELEASED, EpochState.RESUMED)

NO_DISK_KEY = define(
    "gatekeeper.disk_locked",
    PolicyError,
    check="t members give partials of this folder's key",
    remedy="start t of the other members; their refusals say what they want; see docs/operate/gatekeeper.md",
    status=503,
)
_log = logs.get("disk")


# --- a member's side ---


class DiskDesk:
    """POST /v1/disk: a partial of another member's disk key."""

    def __init__(
        self, chain: Chain, store: Store, audit: AuditLog, policy: Policy, rng: Callable[[int], bytes]
    ) -> None:
        self._chain, self._store, self._audit, self._policy, self._rng = chain, store, audit, policy, rng
        self._limit = RateLimit(per_s=ASKS_PER_S, burst=ASKS_BURST, clock=time.monotonic)

    async def answer(
        self, body: bytes, office: Office, checkpoints: Checkpoints, look: Callable[[], Awaitable[None]]
    ) -> Partial:
        """The partial, or the refusal. Raises CloisterError; outcomes past 2 are audited.

        1. size and shape; 2. rate, for each member, and t members near our head (K1, ``look``); 3. evidence: a
        gatekeeper, of the vendor class on chain, over a block seen lately; 4. facts at our newest block; 5. the
        decision; 6. the round remembered, then evaluated."""
        shown, asked = parse(_request, body)  # 1
        transport, member = shown.binding.keys.get(TRANSPORT), shown.binding.node
        if transport is None or len(transport) != 48:
            raise REPORT_DATA(expected="a transport key of 48 bytes in the binding", found="none")
        self._limit.take(("disk", member))  # 2
        said = {"member": to_hex(member), "term": str(asked.term), "epoch": str(asked.epoch)}
        try:
            await look()
            facts = await self._facts(shown, asked, office, checkpoints)  # 3, 4
            may_open(facts)  # 5
            identity = disk_identity(office.network, asked, member)
            checkpoints.require_running()
            self._store.put(ANSWERED + to_hex(member), _round_bytes(max(asked, facts.answered)))  # 6
            partial = evaluate(office.share_for(asked.epoch), identity, transport, self._rng)
        except CloisterError as error:
            self._audit.append("disk", outcome=error.code, **said)
            raise
        self._audit.append("disk", outcome="answered", **said)
        return partial

    async def _facts(self, shown: Shown, asked: Round, office: Office, checkpoints: Checkpoints) -> DiskFacts:
        checkpoints.require_running()
        head = checkpoints.head
        if head is None:
            raise HALTED(expected="a signed checkpoint", found="none")
        at = self._chain.at(head)
        claims, peer = await attest(
            shown,
            at,
            policy=self._policy,
            role="gatekeeper",
            network=office.network,
            number=head.number,
            now=head.timestamp,
            checkpoints=checkpoints.recent(),
        )
        member = shown.binding.node
        (record,) = await at.candidates((member,))
        if record is None or record.vendor_class != peer.vendor_class:
            raise BAD_PEER(expected=f"the vendor class of {to_hex(member)}", found="another vendor, or nobody")
        known = self._store.get(ANSWERED + to_hex(member))
        return DiskFacts(
            member=member,
            asked=asked,
            term=office.term,
            seats=await _seats(at, office.term),
            confirmed=await _confirmed(at, office.term, member),
            answered=NEVER if known is None else _round_of(known),
            known=self._store.get(MACHINE + to_hex(member)),
            shown=machine_of(claims),
        )


async def _seats(at: Snapshot, term: int) -> frozenset[bytes]:
    """Members in office that are not revoked, and who receives in the reshare that runs."""
    record, view = await at.term_record(term), await at.open_ceremony()
    sitting = {m for seat, m in enumerate(record.members, 1) if seat not in record.revoked}
    revoked = {m for seat, m in enumerate(record.members, 1) if seat in record.revoked}
    if view is not None and view.ending is Ending.OPEN and view.kind is Kind.RESHARE:
        sitting |= set(view.receivers)
    return frozenset(sitting - revoked)


async def _confirmed(at: Snapshot, term: int, member: bytes) -> int:
    """The newest term whose result the member confirmed on chain: it moved its folder before it did (D3)."""
    for one in range(term, max(0, term - LOOK_BACK), -1):
        record = await at.term_record(one)
        if not record.ceremony:
            return 0
        view = await at.ceremony_at(record.ceremony)
        seat = view.receiver_index(member)
        if seat and seat in (await at.facts(view)).confirmed:
            return one
    return 0


def _request(value: object) -> tuple[Shown, Round]:
    """{evidence, binding, epoch, term}. Raises EncodingError."""
    data = need_fields("disk request", value, {"evidence", "binding", "epoch", "term"})
    shown = Shown.from_json({"evidence": data["evidence"], "binding": data["binding"]})
    return shown, Round(need_uint("term", data["term"], 63), need_uint("epoch", data["epoch"], 63))


def _round_bytes(one: Round) -> bytes:
    return one.term.to_bytes(8, "big") + one.epoch.to_bytes(8, "big")


def _round_of(data: bytes) -> Round:
    return Round(int.from_bytes(data[:8], "big"), int.from_bytes(data[8:16], "big"))


# --- our own folder ---


class Disk:
    """Our folder: under which round it is sealed, and how it moves on. ``round``: None before the first."""

    def __init__(
        self, folder: Path, store: Store, keys: NodeKeys, local: bytes | None, rng: Callable[[int], bytes]
    ) -> None:
        self._folder, self._store, self._keys, self._local, self._rng = folder, store, keys, local, rng
        wrap = store.get(WRAP)
        self.round = None if wrap is None else _wrapped(wrap)[1]

    async def follow(self, at: Snapshot, seats: SeatsRecord) -> None:
        """Move to a newer round, if there is one, before anything that the new term counts on. Raises CloisterError.

        In the reshare that runs, if we receive in it: before our share of it exists. Else to the term in office."""
        target = await self._target(at, seats)
        if target is None or (self.round is not None and target <= self.round):
            return
        mpk = (await at.epoch_record(target.epoch)).mpk
        self.move(seats.network_id, target, mpk)

    async def _target(self, at: Snapshot, seats: SeatsRecord) -> Round | None:
        me, view = self._keys.address, await at.open_ceremony()
        if not seats.term:
            return None
        state = (await at.epoch_record(seats.master_epoch)).state
        epoch = seats.master_epoch if state in USED else seats.master_epoch - 1
        comes = view is not None and view.ending is Ending.OPEN and view.kind is Kind.RESHARE
        if view is not None and comes and view.term == seats.term + 1 and view.receiver_index(me):
            return Round(view.term, epoch)
        return Round(seats.term, epoch) if me in seats.members else None

    def move(self, network: bytes, target: Round, mpk: bytes) -> None:
        """A new disk key: all secrets sealed again and the key beside them, in one write. A crash leaves old or new."""
        fresh = self._rng(32)
        key, identity = sealing_key(fresh, self._local), disk_identity(network, target, self._keys.address)
        names = [name for prefix in KEPT_SECRETS for name in self._store.names(prefix)]
        blobs = {n: self._keys.reseal(n, self._store.get(n) or b"", key, self._rng) for n in names}
        blobs[OWN] = self._keys.seal_self(key, self._rng)
        said = {"network": to_hex(network), "member": to_hex(self._keys.address)}
        wrapped = to_hex(ibe.encrypt(mpk, identity, fresh, identity, self._rng))
        numbers = {"epoch": target.epoch, "term": target.term}
        blobs[WRAP] = jcs.encode({**said, **numbers, "key": wrapped})
        self._store.put_all(blobs)
        self._store.scrub()
        self._keys.adopt(key)
        self.round = target
        (self._folder / "node.key").unlink(missing_ok=True)
        _log.info("sealed anew", term=target.term, epoch=target.epoch)


def sealing_key(fresh: bytes, local: bytes | None) -> bytes:
    """What seals the folder: the disk key, and the hardware's own key where there is one. 32 bytes."""
    return digest(Context.DISK_SEAL, fresh, b"" if local is None else local)


def _wrapped(wrap: bytes) -> tuple[bytes, Round, bytes, bytes]:
    """(network, round, member, ciphertext) of a folder. Raises EncodingError."""
    data = need_fields("disk", jcs.decode(wrap), {"network", "member", "epoch", "term", "key"})
    one = Round(need_uint("term", data["term"], 63), need_uint("epoch", data["epoch"], 63))
    network, member = from_hex(data["network"], 32, name="network"), from_hex(data["member"], 20, name="member")
    return network, one, member, from_hex(data["key"], name="key", max_size=1024)


class Locked:
    """A folder at start, before its key is known. ``open`` asks once; ``wait`` asks until t members answer."""

    def __init__(
        self,
        folder: Path,
        store: Store,
        local: bytes | None,
        chain: Chain,
        chain_id: int,
        showing: Callable[[bytes], Showing],
    ) -> None:
        """``local``: the hardware's sealing key, None where there is none. ``showing(member)``: makes our evidence."""
        self._folder, self._store, self._local = folder, store, local
        self._chain, self._chain_id, self._showing = chain, chain_id, showing
        self._rng: Callable[[int], bytes] = secrets.token_bytes
        self._head: Header | None = None

    def first(self) -> NodeKeys | None:
        """Keys of a folder that no member holds the key of yet; None if the members have to be asked.

        Without a key of the hardware nothing of an earlier life can be read: it is erased, and this is a new node. A
        folder that hardware sealed is left alone: evidence.no_sealing."""
        if self._store.get(WRAP) is not None:
            return None
        if self._local is not None:
            return NodeKeys.load_or_create(self._folder, "gatekeeper", self._local, self._rng)
        if (self._folder / "node.key").exists():
            raise NO_SEALING(expected="the hardware's key, which sealed this folder", found="none on this hardware")
        stale = [name for prefix in KEPT_SECRETS for name in self._store.names(prefix)]
        self._store.erase(*stale, "transport-next", "evidence")
        return NodeKeys.fresh("gatekeeper", self._rng(32), self._rng)

    async def wait(self, pause_s: float = 1.0) -> NodeKeys:
        """The keys, once t members answer. A refusal is logged once. Raises ConfigError, EvidenceError at once."""
        said = ""
        while True:
            try:
                return self.first() or await self.open()
            except (ConfigError, EvidenceError):
                raise
            except CloisterError as error:
                if error.code != said:
                    _log.warning("waiting", code=error.code, expected=error.expected, found=error.found)
                said = error.code
            await asyncio.sleep(pause_s)

    async def open(self) -> NodeKeys:
        """Ask every member once. Raises CloisterError.

        1. the newest final block and the committee in it, by proof; 2. evidence over a fresh transport key; 3. partials
        of t members, checked against the MPK that is proven; 4. the disk key, and with it our node key."""
        network, one, member, wrapped = _wrapped(self._store.get(WRAP) or b"")
        at, head = await self._newest()  # 1
        epoch = await at.epoch_record(one.epoch)
        term = await at.term_record(epoch.term)
        transport = TransportKey.generate(self._rng)
        keys = {TRANSPORT: transport.public}
        shown = await self._showing(member).show_keys(network, head.hash, bytes(32), keys)  # 2
        async with aiohttp.ClientSession(trust_env=False) as session:
            others = tuple(m for m in term.members if m != member)
            partials, refused = await self._ask(session, at, others, shown, one)
            if len(partials) < term.threshold:
                found = f"{len(partials)}; refused: {', '.join(sorted(set(refused))) or 'nothing'}"
                raise NO_DISK_KEY(expected=f"partials of {term.threshold} members", found=found)
            record = await Transcripts(self._store, session).find(epoch.transcript, epoch.term, others, at)
        public = record.public_shares(epoch.transcript, epoch.mpk)
        identity = disk_identity(network, one, member)
        key = recover(partials, term.threshold, public, identity, transport)  # 3
        fresh = ibe.decrypt(key, epoch.mpk, identity, wrapped, identity)  # 4
        sealing = sealing_key(fresh, self._local)
        (self._folder / "node.key").unlink(missing_ok=True)
        return NodeKeys.unsealed("gatekeeper", sealing, self._store.get(OWN) or b"")

    async def _newest(self) -> tuple[Snapshot, Header]:
        """The block that was newest when we asked last, if we did: members may be a moment behind us."""
        headers = await self._chain.advance()
        newest = headers[-1] if headers else self._head
        if newest is None:
            raise NO_DISK_KEY(expected="a finalised block", found="none yet")
        h, self._head = self._head or newest, newest
        return self._chain.at(Checkpoint(0, self._chain_id, h.number, h.hash, h.state_root, h.timestamp)), h

    async def _ask(
        self, session: aiohttp.ClientSession, at: Snapshot, members: tuple[bytes, ...], shown: Shown, one: Round
    ) -> tuple[list[Partial], list[str]]:
        """Partials that came, and the codes of refusals."""
        body = {**shown.to_json(), "epoch": one.epoch, "term": one.term}
        urls = [c.endpoint.rstrip("/") + ROUTE for c in await at.candidates(members) if c is not None]
        answers = await asyncio.gather(*(self._one(session, url, body) for url in urls))
        return [a for a in answers if isinstance(a, Partial)], [a for a in answers if isinstance(a, str)]

    @staticmethod
    async def _one(session: aiohttp.ClientSession, url: str, body: object) -> Partial | str:
        try:
            value = await ask(session, "POST", url, body, timeout_s=ASK_TIMEOUT_S)
            return Partial.from_json(need_fields("disk answer", value, {"partial"})["partial"])
        except CloisterError as error:
            return error.code


async def local_key(tee: Tee, context: bytes) -> bytes | None:
    """The hardware's own sealing key; None where it has none. Raises EvidenceError for any other trouble."""
    try:
        return await tee.sealing_key(context)
    except CloisterError as error:
        if error.code != NO_SEALING.code:
            raise
        return None


async def open_folder(config: GatekeeperConfig, genesis: Genesis, tee: Tee, local: bytes | None) -> NodeKeys:
    """The keys of a folder that members hold the key of; waits until t of them answer. Raises ConfigError."""
    rpcs = [Rpc(url) for url in config.rpc]
    nobody = Sender(rpcs[0], PrivateKey(), genesis.chain_id)  # sends nothing: we do not know our own key yet
    chain = ProvenChain(rpcs, RpcQuorum(rpcs, config.quorum()), genesis, nobody)
    config.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    store = Store(config.data / "state.db")
    boot, hashed = secrets.token_bytes(32), config_hash(config)
    try:
        locked = Locked(
            config.data, store, local, chain, genesis.chain_id, lambda member: Showing(tee, member, boot, hashed)
        )
        return await locked.wait()
    finally:
        store.close()
        for rpc in rpcs:
            await rpc.close()
