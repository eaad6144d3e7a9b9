"""Contract state by proof: every answer of the endpoint is checked against a checkpoint before anybody sees it.

The endpoint may withhold and may be slow; it cannot make a record say something else (spec/chainview.md 2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from cloister.chain.abi import BAD_ANSWER
from cloister.chain.contracts import artifact, call
from cloister.chain.rpc import REVERTED, Rpc, quantity
from cloister.core.chainview.epochs import EpochRecord, read_epoch, read_master, read_term_height
from cloister.core.chainview.layout import Layout
from cloister.core.chainview.proofs import (
    BAD_PROOF,
    EMPTY_CODE,
    MAX_NODE,
    MAX_NODES,
    Account,
    verify_account,
    verify_slot,
)
from cloister.core.chainview.records import (
    AgentRecord,
    AgentRules,
    ClusterRecord,
    CommitteeRecord,
    PolicyRecord,
    WorkerRecord,
    read_agent,
    read_agent_count,
    read_agent_rules,
    read_cluster,
    read_committee,
    read_listed_at,
    read_policy,
    read_speaker,
    read_worker,
    read_workers,
)
from cloister.core.chainview.stakes import CapsRecord, read_caps, read_stakes
from cloister.core.chainview.words import Slots
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import ChainError, ChainViewError, define
from cloister.core.policy.caps import Backing, weights

MAX_SLOTS = 256
_MAX_ROUNDS = 8
_R = TypeVar("_R")

WRONG_CONTRACT = define(
    "chainview.wrong_contract",
    ChainViewError,
    check="the contract exists at the checkpoint with the code that the network pins",
    remedy="compare network.json with the network that you mean",
)


class _NeedSlots(Exception):  # noqa: N818 - a request, not an error: the reader wants words that are not proven yet
    def __init__(self, slots: Sequence[int]) -> None:
        self.slots = slots


class _Known:
    """Proven words of one contract; asks for the others."""

    def __init__(self) -> None:
        self.words: dict[int, int] = {}

    def get(self, slots: Sequence[int]) -> Sequence[int]:
        missing = [s for s in slots if s not in self.words]
        if missing:
            raise _NeedSlots(missing)
        return [self.words[s] for s in slots]


class ProvenState:
    """Reads records at one checkpoint. Words once proven are kept, so one object per checkpoint is worth keeping.

    Args: contracts: name -> 20-byte address. code_hashes: name -> 32-byte code hash that the account must have; names
    left out are not checked. Every method raises ChainError (the endpoint fails) or ChainViewError (it lies).
    """

    def __init__(
        self,
        rpc: Rpc,
        contracts: Mapping[str, bytes],
        checkpoint: Checkpoint,
        *,
        code_hashes: Mapping[str, bytes] | None = None,
    ) -> None:
        self.checkpoint = checkpoint
        self._rpc, self._contracts, self._code_hashes = rpc, contracts, dict(code_hashes or {})
        self._known: dict[str, _Known] = {}
        self._roots: dict[str, bytes] = {}

    async def agent(self, agent_id: bytes) -> AgentRecord | None:
        """An agent's record; None if there is no such agent at the checkpoint."""
        return await self.read("Agents", lambda s, at: read_agent(s, at, agent_id))

    async def agents(self, agent_ids: Sequence[bytes]) -> list[AgentRecord | None]:
        """The records of many agents, proven together."""

        def read_all(slots: Slots, layout: Layout) -> list[AgentRecord | None]:
            found: list[AgentRecord | None] = []
            missing: list[int] = []
            for agent_id in agent_ids:
                try:
                    found.append(read_agent(slots, layout, agent_id))
                except _NeedSlots as need:
                    missing += need.slots
            if missing:
                raise _NeedSlots(missing)
            return found

        return await self.read("Agents", read_all)

    async def storage_root(self, name: str) -> bytes:
        """The root of a contract's storage: while it stays the same, so does every word. Asked once."""
        if name not in self._roots:
            await self._prove(name, [])
        return self._roots[name]

    async def newest_root(self, name: str) -> bytes:
        """The root of a contract's storage at the newest block seen. Unproven: a hint of when to look again."""
        said = await self._rpc.call("eth_getProof", to_hex(self._contracts[name]), [], "latest")
        root = said.get("storageHash") if isinstance(said, dict) else None
        return from_hex(root, 32, name="storageHash")

    async def agent_rules(self, agent_id: bytes) -> AgentRules:
        """What limits an agent beside its code; all zero for one that never set a rule."""
        return await self.read("Agents", lambda s, at: read_agent_rules(s, at, agent_id))

    async def speaker(self, agent_id: bytes, chain_id: int) -> bytes:
        """Whom an agent's present owner named for another chain: 20 bytes, zeros for nobody."""
        return await self.read("Agents", lambda s, at: read_speaker(s, at, agent_id, chain_id))

    async def agent_count(self) -> int:
        """How many agents exist; token ids are 1 to this (``records.agent_id`` makes the agent ids)."""
        return await self.read("Agents", read_agent_count)

    async def workers(self) -> tuple[WorkerRecord, ...]:
        """All listed workers, expired ones included: filter with ``live_at(checkpoint.number)``."""
        return await self.read("Workers", read_workers)

    async def worker(self, address: bytes) -> WorkerRecord | None:
        """A worker's record, also when it left or was removed; None if it never registered."""
        return await self.read("Workers", lambda s, at: read_worker(s, at, address))

    async def placeable(self, most: int) -> dict[bytes, int]:
        """Workers in service at the checkpoint, with what placement weighs each by (spec/policy.md 4).

        ``most``: the policy's cap of agents for each worker. Where no cap is set, and without Stakes, all weigh 1.
        Stake counts as of the beginning of the term that is in office at the checkpoint."""
        workers, caps = await asyncio.gather(self.workers(), self._caps())
        live = {w.worker: w.operator for w in workers if w.live_at(self.checkpoint.number)}
        if caps is None or not (caps.stake_per_agent or caps.agents_per_operator):
            return dict.fromkeys(live, 1)
        stakes = await self._counted(live) if caps.stake_per_agent else {}
        bounds = caps.stake_per_agent, caps.agents_per_operator
        return weights(most, {w: Backing(stakes.get(w, 0), *bounds, operator) for w, operator in live.items()})

    async def cluster(self, cluster_id: bytes) -> ClusterRecord | None:
        """A cluster's record; None if there is no such cluster."""
        return await self.read("Clusters", lambda s, at: read_cluster(s, at, cluster_id))

    async def committee(self) -> CommitteeRecord:
        """The committee in office. Raises chainview.no_committee before the founding is complete."""
        return await self.read("Gatekeepers", read_committee)

    async def epoch_record(self, epoch: int) -> EpochRecord:
        """A master epoch; state NONE if there is none of that number yet."""
        return await self.read("Gatekeepers", lambda s, at: read_epoch(s, at, epoch))

    async def master(self) -> EpochRecord:
        """The master epoch whose keys leases carry now. Raises chainview.master_epoch where none may be used."""
        return await self.read("Gatekeepers", read_master)

    async def term_height(self, term: int) -> int:
        """The block that put a term in office; 0 for one that never was."""
        return await self.read("Gatekeepers", lambda s, at: read_term_height(s, at, term))

    async def policy(self) -> PolicyRecord:
        """The policy in force, with the blocks that delays count from."""
        return await self.read("Policies", read_policy)

    async def policy_hash(self) -> bytes:
        """Hash of the policy in force: 32 bytes."""
        return (await self.policy()).policy_hash

    async def listed_at(self, measurement_id: bytes) -> int:
        """Block at which a measurement was listed; 0 if it is not."""
        return await self.read("Policies", lambda s, at: read_listed_at(s, at, measurement_id))

    async def has_code(self, address: bytes) -> bool:
        """Whether an account has code, a delegation of its key included."""
        answer = await self._rpc.call("eth_getProof", to_hex(address), [], hex(self.checkpoint.number))
        if not isinstance(answer, dict):
            raise BAD_ANSWER(expected="a proof", found=type(answer).__name__)
        found = verify_account(self.checkpoint.state_root, address, nodes_of(answer.get("accountProof")))
        return found is not None and found.code_hash != EMPTY_CODE

    # --- newest: unproven, for restrictive decisions only ---

    async def newest_paused(self, agent_id: bytes) -> bool:
        """Whether the newest block seen has the agent paused. Unproven: may only forbid, never permit."""
        try:
            record = await call(self._rpc, self._contracts["Agents"], "Agents", "agent", agent_id)
        except ChainError as error:
            if error.code == REVERTED.code and error.found.startswith("UnknownAgent"):
                return False
            raise
        return bool(record["paused"])

    async def newest_rules(self, agent_id: bytes) -> AgentRules:
        """The agent's rules at the newest block seen. Unproven: may only narrow, never widen."""
        said = await call(self._rpc, self._contracts["Agents"], "Agents", "rules", agent_id)
        return AgentRules(
            access_hook=said["accessHook"],
            emergency_until=said["emergencyUntil"],
            fee_payer=said["feePayer"],
            version=said["version"],
            egress_hash=said["egressHash"],
            tools_hash=said["toolsHash"],
            models_hash=said["modelsHash"],
        )

    async def newest_call(self, to: bytes, data: bytes) -> bytes:
        """What a contract answers at the newest block seen. Unproven: may only forbid, never permit."""
        answer = await self._rpc.call("eth_call", {"to": to_hex(to), "data": to_hex(data)}, "latest")
        return from_hex(answer, name="eth_call answer", max_size=4096)

    async def newest_removed(self, worker: bytes) -> bool:
        """Whether the newest block seen has the worker removed or gone. Unproven: may only forbid, never permit."""
        record = await call(self._rpc, self._contracts["Workers"], "Workers", "worker", worker)
        return bool(record["removed"]) or (record["registeredAt"] != 0 and not record["listed"])

    # --- any record ---

    async def read(self, name: str, reader: Callable[[Slots, Layout], _R]) -> _R:
        """Run a reader of a contract's words until it has all; each round proves all that it asked for together."""
        known = self._known.setdefault(name, _Known())
        layout = Layout(artifact(name).layout)
        for _ in range(_MAX_ROUNDS):
            try:
                return reader(known, layout)
            except _NeedSlots as need:
                known.words |= await self._prove(name, list(dict.fromkeys(need.slots)))
        raise RuntimeError(f"a reader of {name} does not come to an end")

    _read = read

    # --- inside ---

    async def _caps(self) -> CapsRecord | None:
        return await self.read("Stakes", read_caps) if "Stakes" in self._contracts else None

    async def _counted(self, live: Mapping[bytes, bytes]) -> dict[bytes, int]:
        """What placement counts of the stake of each worker's operator (``StakeRecord.counted``)."""
        found, (term, start) = await asyncio.gather(
            self.read("Stakes", lambda s, at: read_stakes(s, at, list(live))), self._term()
        )
        pairs = zip(live.items(), found, strict=True)
        return {w: one.counted(term, start) for (w, operator), one in pairs if one.operator == operator}

    async def _term(self) -> tuple[int, int]:
        term = (await self.committee()).term
        return term, await self.term_height(term)

    async def _prove(self, name: str, slots: Sequence[int]) -> dict[int, int]:
        address = to_hex(self._contracts[name])
        groups = [slots[i : i + MAX_SLOTS] for i in range(0, len(slots), MAX_SLOTS)] or [slots]
        block = hex(self.checkpoint.number)
        calls = [("eth_getProof", [address, [f"0x{s:064x}" for s in group], block]) for group in groups]
        answers = await self._rpc.batch(calls)
        words: dict[int, int] = {}
        for group, answer in zip(groups, answers, strict=True):
            words |= self._verify(name, group, answer)
        return words

    def _verify(self, name: str, slots: Sequence[int], answer: Any) -> dict[int, int]:
        """1. account proof under the state root; 2. the pinned code; 3. one proof per slot under its storage root."""
        if not isinstance(answer, dict):
            raise BAD_ANSWER(expected="a proof", found=type(answer).__name__)
        nodes = nodes_of(answer.get("accountProof"))
        account = verify_account(self.checkpoint.state_root, self._contracts[name], nodes)  # 1
        storage_root = self._roots[name] = self._require_contract(name, account).storage_root  # 2
        entries = answer.get("storageProof")
        if not isinstance(entries, list) or len(entries) != len(slots):
            raise BAD_ANSWER(expected=f"{len(slots)} storage proofs", found="another number")
        return {s: proven_word(storage_root, s, e) for s, e in zip(slots, entries, strict=True)}  # 3

    def _require_contract(self, name: str, account: Account | None) -> Account:
        if account is None:
            raise WRONG_CONTRACT(expected=f"{name} at block {self.checkpoint.number}", found="no account there")
        expected = self._code_hashes.get(name)
        if expected is not None and account.code_hash != expected:
            raise WRONG_CONTRACT(expected=f"{name} with code {to_hex(expected)}", found=to_hex(account.code_hash))
        return account


def proven_word(storage_root: bytes, slot: int, entry: Any) -> int:
    """The word of one entry of ``storageProof``. Raises ChainError, ChainViewError."""
    if not isinstance(entry, dict):
        raise BAD_ANSWER(expected="a storage proof", found=type(entry).__name__)
    word = verify_slot(storage_root, slot, nodes_of(entry.get("proof")))
    if quantity(entry.get("value"), "slot value") != word:
        raise BAD_PROOF(expected="the value that the proof proves", found="another value beside it")
    return word


def nodes_of(value: Any) -> list[bytes]:
    """The nodes of a proof as an endpoint gives them. Raises ChainError."""
    if not isinstance(value, list) or len(value) > MAX_NODES:
        raise BAD_ANSWER(expected=f"at most {MAX_NODES} proof nodes", found="another form")
    return [from_hex(node, name="proof node", max_size=MAX_NODE) for node in value]
