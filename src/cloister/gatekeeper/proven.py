"""The chain port over storage proofs: ``ports.Chain`` and ``ports.Snapshot`` for a running gatekeeper."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from cloister.chain.committees import CeremonyState
from cloister.chain.contracts import call, decode, encode
from cloister.chain.events import topic
from cloister.chain.finality import Follower, HeaderVerifier
from cloister.chain.people import people_of
from cloister.chain.rpc import REVERTED, Rpc, quantity
from cloister.chain.tx import Sender
from cloister.core.chainview.ceremonies import CeremonyView, EpochRecord, TermRecord
from cloister.core.chainview.directory import read_newest
from cloister.core.chainview.founding import CandidateRecord, SeatsRecord, read_seats
from cloister.core.chainview.header import Header
from cloister.core.chainview.layout import Layout, add, data_slot
from cloister.core.chainview.records import PolicyRecord, agent_id
from cloister.core.chainview.reseals import (
    CountedAgent,
    read_acceptance_count,
    read_acceptances,
    read_born_in,
    read_born_under,
    read_moved,
    read_moved_to,
)
from cloister.core.chainview.seats import RulesRecord
from cloister.core.chainview.stakes import read_caps, read_stake
from cloister.core.chainview.words import Slots, address_of_word
from cloister.core.encoding.contract_statements import People
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.network import Genesis
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import ChainError, CloisterError
from cloister.core.policy.caps import Backing
from cloister.core.policy.release import AgentFacts, Newest, WorkerFacts
from cloister.core.state.rows import Head
from cloister.core.threshold.facts import Facts

_SNAPSHOTS = 24
MAX_STANDING = 64
MAX_CALL_DATA = 1 << 16


class _State(CeremonyState):
    """Proven records that only gatekeepers read."""

    async def seats(self) -> SeatsRecord:
        return await self._read("Gatekeepers", read_seats)

    async def standing(self) -> tuple[bytes, ...]:
        return await self._read("Gatekeepers", _read_standing)

    async def elected_at(self) -> int:
        return await self._read("Gatekeepers", _read_elected_at)

    async def counted(self, tokens: tuple[int, ...]) -> tuple[CountedAgent, ...]:
        ids = [agent_id(self.checkpoint.chain_id, self._contracts["Agents"], token) for token in tokens]
        records = await self.agents(ids)
        born = await self._read("Agents", lambda s, at: read_born_in(s, at, tokens))
        moved = await self._read("Reseals", lambda s, at: read_moved_to(s, at, tokens))
        found = []
        for one, agent, first, later in zip(records, ids, born, moved, strict=True):
            there = (0, None, 0) if one is None else (one.epoch, one.secrets_at, one.wiped_below)
            found.append(CountedAgent(agent, there[0], later or first, there[1], there[2]))
        return tuple(found)

    async def backing(self, worker: bytes) -> Backing:
        if "Stakes" not in self._contracts:
            return Backing()
        record, caps, stake = await asyncio.gather(
            self.worker(worker),
            self._read("Stakes", read_caps),
            self._read("Stakes", lambda s, at: read_stake(s, at, worker)),
        )
        operator = b"" if record is None else record.operator
        amount = stake.amount if stake.operator == operator else 0
        return Backing(amount, caps.stake_per_agent, caps.agents_per_operator, operator)


class ProvenSnapshot:
    """``ports.Snapshot`` at one block. Words once proven are kept."""

    def __init__(self, state: _State) -> None:
        self._state, self._number = state, state.checkpoint.number

    async def worker(self, worker: bytes) -> WorkerFacts | None:
        """A worker's record; one that left in good standing is not registered."""
        r = await self._state.worker(worker)
        if r is None or not (r.listed or r.removed):
            return None
        return WorkerFacts(r.boot, r.measurement, r.vendor_class, r.expiry, r.removed)

    async def live_workers(self) -> frozenset[bytes]:
        """Workers in service at this block."""
        return frozenset(r.worker for r in await self._state.workers() if r.live_at(self._number))

    async def placeable(self, most: int) -> Mapping[bytes, int]:
        """The same, with their weights."""
        return await self._state.placeable(most)

    async def agent(self, agent: bytes) -> AgentFacts | None:
        """An agent with its cluster; None if either does not exist."""
        a = await self._state.agent(agent)
        cluster = None if a is None else await self._state.cluster(a.cluster)
        if a is None or cluster is None:
            return None
        canary = a.canary_at(self._number)
        return AgentFacts(
            agent,
            a.code_hash,
            a.manifest_hash,
            a.cluster,
            a.epoch,
            cluster.epoch,
            cluster.seats,
            a.paused,
            a.secrets_at,
            a.wiped_below,
            canary=None if canary is None else (canary.code_hash, canary.manifest_hash),
            token_id=a.token_id,
        )

    async def people(self, agent: bytes, chain_id: int) -> People | None:
        """Who stands in an agent's record, as a connected chain is told."""
        return await people_of(self._state, agent, chain_id)

    async def policy(self) -> PolicyRecord:
        """The policy in force."""
        return await self._state.policy()

    async def listed_at(self, measurement: bytes) -> int:
        """Block at which a measurement was listed; 0 if it is not."""
        return await self._state.listed_at(measurement)

    async def listed(self, name: bytes) -> bytes | None:
        """The newest address that the Directory has under a name."""
        return await self._state.read("Directory", lambda s, at: read_newest(s, at, name))

    async def committee(self) -> SeatsRecord:
        """The committee, in office or not."""
        return await self._state.seats()

    async def candidates(self, members: tuple[bytes, ...]) -> tuple[CandidateRecord | None, ...]:
        """What gatekeepers said of themselves."""
        return await self._state.candidates(members)

    async def standing(self) -> tuple[bytes, ...]:
        """Candidates."""
        return await self._state.standing()

    async def backing(self, worker: bytes) -> Backing:
        """What stands behind a worker; on a network without Stakes no stake and no operator bounds anything."""
        return await self._state.backing(worker)

    async def admitted_until(self, member: bytes) -> int:
        """Until when a candidate is admitted."""
        return await self._state.admitted_until(member)

    async def open_ceremony(self) -> CeremonyView | None:
        """The ceremony that was opened last."""
        return await self._state.open_ceremony()

    async def ceremony_at(self, number: int) -> CeremonyView:
        """A ceremony by number."""
        return await self._state.ceremony_at(number)

    async def facts(self, ceremony: CeremonyView) -> Facts:
        """What the contract keeps of a ceremony."""
        return await self._state.facts(ceremony)

    async def term_record(self, term: int) -> TermRecord:
        """A term."""
        return await self._state.term_record(term)

    async def elected_at(self) -> int:
        """When the members were elected."""
        return await self._state.elected_at()

    async def epoch_record(self, epoch: int) -> EpochRecord:
        """A master epoch."""
        return await self._state.epoch_record(epoch)

    async def handover_signatures(self, term: int) -> tuple[bytes, ...]:
        """Stored signatures of a hand-over."""
        return await self._state.handover_signatures(term)

    async def rules(self) -> RulesRecord:
        """The contract's parameters."""
        return await self._state.rules()

    async def agent_count(self) -> int:
        """How many agents exist."""
        return await self._state.agent_count()

    async def counted(self, tokens: tuple[int, ...]) -> tuple[CountedAgent, ...]:
        """Agents by token id, each with the master epoch that it counts under."""
        return await self._state.counted(tokens)

    async def remaining(self, epoch: int) -> int:
        """How many agents count under a master epoch."""
        born = await self._state.read("Agents", lambda s, at: read_born_under(s, at, epoch))
        return born + await self._state.read("Reseals", lambda s, at: read_moved(s, at, epoch))

    async def acceptance_count(self) -> int:
        """How often owners accepted a head."""
        return await self._state.read("Reseals", read_acceptance_count)

    async def acceptances(self, start: int, end: int) -> tuple[tuple[bytes, Head], ...]:
        """Which heads they accepted."""
        return await self._state.read("Reseals", lambda s, at: read_acceptances(s, at, start, end))


class ProvenChain:
    """``ports.Chain``. ``verifier`` says what is final, the first of ``rpcs`` serves proofs, ``sender`` pays."""

    def __init__(self, rpcs: Sequence[Rpc], verifier: HeaderVerifier, genesis: Genesis, sender: Sender) -> None:
        self._rpcs, self._rpc, self._verifier, self._sender = tuple(rpcs), rpcs[0], verifier, sender
        self._contracts: Mapping[str, bytes] = {n: c.address for n, c in genesis.contracts.items()}
        self._codes: Mapping[str, bytes] = {n: c.code_hash for n, c in genesis.contracts.items()}
        self._follower = Follower(verifier, self._rpc)
        self._snapshots: OrderedDict[bytes, ProvenSnapshot] = OrderedDict()

    async def advance(self) -> tuple[Header, ...]:
        """New finalised headers since the last call."""
        return await self._follower.advance()

    def resume(self, last: Checkpoint) -> None:
        """Continue after a block that was signed before."""
        header = Header(last.number, last.block_hash, bytes(32), last.state_root, last.timestamp)
        self._follower = Follower(self._verifier, self._rpc, header)

    async def header(self, number: int) -> Header:
        """The finalised header at a height."""
        return await self._verifier.header(number)

    def at(self, checkpoint: Checkpoint) -> ProvenSnapshot:
        """Proven state at a block; the last 24 are kept."""
        found = self._snapshots.pop(checkpoint.block_hash, None)
        if found is None:
            found = ProvenSnapshot(_State(self._rpc, self._contracts, checkpoint, code_hashes=self._codes))
        self._snapshots[checkpoint.block_hash] = found
        if len(self._snapshots) > _SNAPSHOTS:
            self._snapshots.popitem(last=False)
        return found

    async def newest(self, agent: bytes | None, worker: bytes) -> Newest:
        """Restrictive facts at the newest block of every endpoint that answers; what one of them says, binds.

        Raises ChainError if none answers: then nothing is released."""
        asked = (self._newest(rpc, agent, worker) for rpc in self._rpcs)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        facts = [a for a in answers if isinstance(a, Newest)]
        if not facts:
            raise next(a for a in answers if isinstance(a, BaseException))
        return Newest(
            paused=any(f.paused for f in facts),
            removed=any(f.removed for f in facts),
            left=any(f.left for f in facts),
            agent_epoch=max(f.agent_epoch for f in facts),
        )

    async def newest_speakers(self, agent: bytes, chain_id: int) -> frozenset[bytes]:
        """Whom the endpoints that answer name. Raises ChainError if none answers: then nothing is signed."""
        asked = (self._view(rpc, "Agents", "speakerOf", agent, chain_id) for rpc in self._rpcs)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        named = frozenset(bytes(a) for a in answers if not isinstance(a, BaseException))
        if not named:
            raise next(a for a in answers if isinstance(a, BaseException))
        return named

    async def balance(self, address: bytes) -> int:
        """Wei at the newest block."""
        return quantity(await self._rpc.call("eth_getBalance", to_hex(address), "latest"), "balance")

    async def send(self, function: str, *args: Any, contract: str = "Gatekeepers") -> None:
        """Send to a contract and wait for inclusion."""
        await self._sender.send(self._contracts[contract], encode(contract, function, *args))

    async def published(self, ceremony: CeremonyView, dealer: int) -> bytes | None:
        """The call data of a dealer's publication, found by its event; any endpoint that has it will do."""
        topics = [to_hex(topic("Gatekeepers", "DealingPublished")), to_hex(ceremony.id), f"0x{dealer:064x}"]
        for rpc in self._rpcs:
            try:
                data = await self._call_data(rpc, topics, ceremony.opened_at)
            except CloisterError:
                continue
            if data is not None:
                return data
        return None

    async def _call_data(self, rpc: Rpc, topics: list[str], since: int) -> bytes | None:
        wanted = {"address": to_hex(self._contracts["Gatekeepers"]), "fromBlock": hex(since), "topics": topics}
        logs = await rpc.call("eth_getLogs", wanted)
        if not isinstance(logs, list) or not logs or not isinstance(logs[0], dict):
            return None
        sent = await rpc.call("eth_getTransactionByHash", logs[0].get("transactionHash"))
        text = sent.get("input") if isinstance(sent, dict) else None
        return None if text is None else published_frame(from_hex(text, name="call data", max_size=MAX_CALL_DATA))

    async def _newest(self, rpc: Rpc, agent: bytes | None, worker: bytes) -> Newest:
        """Worker and agent in one question. An agent that the endpoint does not know restricts nothing: what exists at
        all is decided by proof."""
        try:
            record, *of = await self._views(rpc, ("Workers", "worker", worker), *_agent(agent))
        except ChainError as error:
            if agent is None or error.code != REVERTED.code or not error.found.startswith("UnknownAgent"):
                raise
            return await self._newest(rpc, None, worker)
        left = record["registeredAt"] != 0 and not record["listed"]
        paused, epoch = (bool(of[0]["paused"]), int(of[0]["epoch"])) if of else (False, 0)
        return Newest(paused=paused, removed=bool(record["removed"]), left=left, agent_epoch=epoch)

    async def _views(self, rpc: Rpc, *asked: tuple[str, str, bytes]) -> list[Any]:
        """Answers of views (contract, function, argument) at the newest block, in one round trip. Unproven."""
        data = [(name, to_hex(encode(name, function, argument))) for name, function, argument in asked]
        calls = [("eth_call", ({"to": to_hex(self._contracts[name]), "data": call}, "latest")) for name, call in data]
        answers = zip(asked, await rpc.batch(calls), strict=True)
        return [decode(name, function, from_hex(said, name="eth_call answer")) for (name, function, _), said in answers]

    async def _view(self, rpc: Rpc, contract: str, function: str, *args: Any) -> Any:
        return await call(rpc, self._contracts[contract], contract, function, *args)


def _agent(agent: bytes | None) -> list[tuple[str, str, bytes]]:
    return [] if agent is None else [("Agents", "agent", agent)]


def _read_standing(slots: Slots, layout: Layout) -> tuple[bytes, ...]:
    """The first candidates of the contract's list."""
    place = layout.variable("_candidateList")
    count = min(slots.get([place.slot])[0], MAX_STANDING)
    words = slots.get([add(data_slot(place.slot), i) for i in range(count)]) if count else ()
    return tuple(address_of_word(word) for word in words)


def _read_elected_at(slots: Slots, layout: Layout) -> int:
    place = layout.variable("electedAt")
    return place.of(slots.get([place.slot])[0])


def published_frame(call_data: bytes) -> bytes | None:
    """The dealing in the call data of ``publish(bytes32 id, bytes dealing)``; None for other bytes."""
    size = int.from_bytes(call_data[68:100], "big")
    fits = len(call_data) >= 100 + size and int.from_bytes(call_data[36:68], "big") == 64
    return call_data[100 : 100 + size] if fits else None
