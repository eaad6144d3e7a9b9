"""What the contracts say, as typed records read from proven storage slots (spec/chainview.md 5).

A reader asks its ``Slots`` for words and knows nothing of proofs or sockets. Absent records are None; a record that no
contract of ours writes raises ChainViewError. Block numbers and epochs are 64-bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from cloister.core.chainview.layout import Layout, add, address_key, data_slot, mapping_slot
from cloister.core.chainview.words import BAD_RECORD, Slots, Struct, address_of_word, texts_of
from cloister.core.encoding.hexes import need_bytes, need_uint
from cloister.core.encoding.identity import Epochs
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.signatures import MAX_MEMBERS, SignerSet
from cloister.core.errors import ChainViewError, define

MAX_WORKERS = 4096

NO_COMMITTEE = define(
    "chainview.no_committee",
    ChainViewError,
    check="a committee is in office",
    remedy="the founding ceremony has not finished; look at `cloister status`",
    status=503,
)


class UpgradeMode(IntEnum):
    """How an agent's code may change. Stricter is larger; the contract never lets it become smaller."""

    INSTANT = 0
    DELAYED = 1
    FROZEN = 2


@dataclass(frozen=True, slots=True)
class Canary:
    """A second version of an agent beside the one in force. ``share``: percent of the calls, 0 to 100.

    ``ready_at``: the block from which it may run, by the agent's upgrade rule. Hashes of 32 bytes."""

    code_hash: bytes
    manifest_hash: bytes
    share: int
    ready_at: int


@dataclass(frozen=True, slots=True)
class AgentRecord:
    """An agent in the Agents contract. Hashes of 32 bytes are zero when unset; so are 20-byte addresses.

    wiped_below: state sealed under an agent epoch below this one is left behind, by the owner's choice. canary: a
    second version, announced or running; None if there is none."""

    agent: bytes
    token_id: int
    owner: bytes
    guardian: bytes
    epoch: int
    paused: bool
    code_hash: bytes
    manifest_hash: bytes
    cluster: bytes
    upgrade_mode: UpgradeMode
    upgrade_delay: int
    secrets_hash: bytes
    secrets_version: int
    secrets_setter: bytes
    secrets_epoch: int
    account: bytes
    secrets_cluster: bytes = bytes(32)
    secrets_cluster_epoch: int = 0
    secrets_master_epoch: int = 0
    wiped_below: int = 0
    canary: Canary | None = None

    def canary_at(self, number: int) -> Canary | None:
        """The canary that may run at block ``number``."""
        return self.canary if self.canary is not None and self.canary.ready_at <= number else None

    @property
    def secrets_at(self) -> Epochs | None:
        """The epochs that the owner's secrets were set under; None when none are set."""
        if self.secrets_hash == bytes(32):
            return None
        return Epochs(self.secrets_epoch, self.secrets_cluster_epoch, self.secrets_master_epoch, self.secrets_cluster)


@dataclass(frozen=True, slots=True)
class AgentRules:
    """What limits an agent beside its code. A zero hook, payer or list means: none, the manifest alone binds."""

    access_hook: bytes
    emergency_until: int
    fee_payer: bytes
    version: int
    egress_hash: bytes
    tools_hash: bytes
    models_hash: bytes


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker in the Workers contract. ``expiry``, ``heartbeat`` and ``registered_at`` are block numbers.

    ``listed`` is false for a worker that left; ``removed`` is for good.
    """

    worker: bytes
    operator: bytes
    vendor_class: bytes
    measurement: bytes
    boot: bytes
    expiry: int
    removed: bool
    listed: bool
    heartbeat: int
    registered_at: int
    endpoint: str

    def live_at(self, number: int) -> bool:
        """Whether the registration holds at block ``number``."""
        return self.listed and not self.removed and number < self.expiry


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    """A cluster: owner, key epoch, workers per agent."""

    cluster: bytes
    owner: bytes
    epoch: int
    seats: int


@dataclass(frozen=True, slots=True)
class CommitteeRecord:
    """The committee in office. mpk is 96 bytes, the ids and seeds 32."""

    term: int
    threshold: int
    members: tuple[bytes, ...]
    mpk: bytes
    master_epoch: int
    network_id: bytes
    transcript: bytes
    term_seed: bytes

    def signers(self) -> SignerSet:
        """Who may sign in this term, and how many it takes."""
        return SignerSet(self.term, self.threshold, self.members)


@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """The policy in force: hash, block since when, block of founding (measurements listed then count at once)."""

    policy_hash: bytes
    policy_set_at: int
    founded_at: int

    def counts(self, listed_at: int, delay: int, number: int) -> bool:
        """Whether a measurement listed at block ``listed_at`` (0: not listed) counts at block ``number``."""
        if listed_at == 0 or listed_at > number:
            return False
        return listed_at == self.founded_at or listed_at + delay <= number


def agent_id(chain_id: int, agents: bytes, token_id: int) -> bytes:
    """keccak256(abi.encode(chain id, Agents address, token id)): spec/encoding.md 6."""
    need_uint("chain id", chain_id, 256)
    need_uint("token id", token_id, 256)
    return keccak256(chain_id.to_bytes(32, "big"), address_key(agents), token_id.to_bytes(32, "big"))


# --- readers ---


def read_agent(slots: Slots, layout: Layout, agent: bytes) -> AgentRecord | None:
    """The record of a 32-byte agent id; None if there is no such agent."""
    table = layout.variable("_agents")
    at = Struct(layout, layout.value_type(table), slots, [mapping_slot(table.slot, need_bytes("agent", agent, 32))])
    if at.number("epoch") == 0:
        return None
    mode = at.number("upgradeMode")
    if mode > UpgradeMode.FROZEN:
        raise BAD_RECORD(expected="a known upgrade mode", found=str(mode))
    return AgentRecord(
        agent=agent,
        token_id=at.number("tokenId"),
        owner=at.address("owner"),
        guardian=at.address("guardian"),
        epoch=at.number("epoch"),
        paused=at.flag("paused"),
        code_hash=at.word("codeHash"),
        manifest_hash=at.word("manifestHash"),
        cluster=at.word("cluster"),
        upgrade_mode=UpgradeMode(mode),
        upgrade_delay=at.number("upgradeDelay"),
        secrets_hash=at.word("secretsHash"),
        secrets_version=at.number("secretsVersion"),
        secrets_setter=at.address("secretsSetter"),
        secrets_epoch=at.number("secretsEpoch"),
        account=at.address("account"),
        secrets_cluster=at.word("secretsCluster"),
        secrets_cluster_epoch=at.number("secretsClusterEpoch"),
        secrets_master_epoch=at.number("secretsMasterEpoch"),
        wiped_below=at.number("wipedBelow"),
        canary=_read_canary(slots, layout, agent, at.number("canary")),
    )


def read_agent_rules(slots: Slots, layout: Layout, agent: bytes) -> AgentRules:
    """The rules of a 32-byte agent id; all zero for an agent that never set one."""
    table = layout.variable("_rules")
    at = Struct(layout, layout.value_type(table), slots, [mapping_slot(table.slot, need_bytes("agent", agent, 32))])
    return AgentRules(
        access_hook=at.address("accessHook"),
        emergency_until=at.number("emergencyUntil"),
        fee_payer=at.address("feePayer"),
        version=at.number("version"),
        egress_hash=at.word("egressHash"),
        tools_hash=at.word("toolsHash"),
        models_hash=at.word("modelsHash"),
    )


def read_speaker(slots: Slots, layout: Layout, agent: bytes, chain_id: int) -> bytes:
    """Whom the present owner of a 32-byte agent id named for another chain: 20 bytes, zeros for nobody."""
    table, tenures = layout.variable("_speakers"), layout.variable("_tenures")
    by_chain = replace(table, type=layout.value_type(table))
    at = mapping_slot(mapping_slot(table.slot, need_bytes("agent", agent, 32)), chain_id.to_bytes(32, "big"))
    said, now = slots.get([at, mapping_slot(tenures.slot, agent)])
    places = layout.fields(layout.value_type(by_chain))
    if said and places["tenure"].of(said) == now:
        return places["who"].of(said).to_bytes(20, "big")
    return bytes(20)


def read_agent_count(slots: Slots, layout: Layout) -> int:
    """How many agents exist: token ids are 1 to this."""
    place = layout.variable("count")
    return place.of(slots.get([place.slot])[0])


def read_worker(slots: Slots, layout: Layout, worker: bytes) -> WorkerRecord | None:
    """The record of a worker address (20 bytes); None if it never registered."""
    found = _read_workers(slots, layout, [worker])[0]
    return found if found.registered_at else None


def read_workers(slots: Slots, layout: Layout) -> tuple[WorkerRecord, ...]:
    """All listed workers, expired ones included. Raises ChainViewError for an entry that is not a listed record."""
    head = layout.variable("_list").slot
    count = slots.get([head])[0]
    if count > MAX_WORKERS:
        raise BAD_RECORD(expected=f"at most {MAX_WORKERS} workers", found=str(count))
    words = slots.get([add(data_slot(head), i) for i in range(count)])
    found = _read_workers(slots, layout, [address_of_word(word) for word in words])
    if any(not record.listed for record in found):
        raise BAD_RECORD(expected="listed workers in the list", found="another one")
    return tuple(found)


def read_cluster(slots: Slots, layout: Layout, cluster: bytes) -> ClusterRecord | None:
    """The record of a 32-byte cluster id; None if there is no such cluster."""
    table = layout.variable("_clusters")
    base = mapping_slot(table.slot, need_bytes("cluster", cluster, 32))
    at = Struct(layout, layout.value_type(table), slots, [base])
    if at.number("epoch") == 0:
        return None
    return ClusterRecord(cluster, at.address("owner"), at.number("epoch"), at.number("seats"))


def read_committee(slots: Slots, layout: Layout) -> CommitteeRecord:
    """The committee in office. Raises ChainViewError (chainview.no_committee) before the founding is complete."""
    place = layout.variable("_committee")
    at = Struct(layout, place.type, slots, [place.slot])
    if at.number("term") == 0:
        raise NO_COMMITTEE(expected="a term", found="term 0")
    head = add(place.slot, layout.fields(place.type)["members"].slot)
    count = at.number("members")
    if not 1 <= count <= MAX_MEMBERS:
        raise BAD_RECORD(expected=f"1 to {MAX_MEMBERS} members", found=str(count))
    members = slots.get([add(data_slot(head), i) for i in range(count)])
    return CommitteeRecord(
        term=at.number("term"),
        threshold=at.number("threshold"),
        members=tuple(address_of_word(word) for word in members),
        mpk=at.words("mpk"),
        master_epoch=at.number("masterEpoch"),
        network_id=at.word("networkId"),
        transcript=at.word("transcript"),
        term_seed=at.word("termSeed"),
    )


def read_policy(slots: Slots, layout: Layout) -> PolicyRecord:
    """The policy in force."""
    places = [layout.variable(name) for name in ("policyHash", "policySetAt", "foundedAt")]
    words = slots.get([p.slot for p in places])
    policy, set_at, founded = (p.of(word) for p, word in zip(places, words, strict=True))
    if policy == 0 or founded == 0:
        raise BAD_RECORD(expected="a policy", found="none")
    return PolicyRecord(policy.to_bytes(32, "big"), set_at, founded)


def read_listed_at(slots: Slots, layout: Layout, measurement_id: bytes) -> int:
    """Block at which a measurement id (32 bytes) was listed; 0 if it is not."""
    table = layout.variable("_listedAt")
    word = slots.get([mapping_slot(table.slot, need_bytes("measurement id", measurement_id, 32))])[0]
    return word & (1 << 64) - 1


# --- inside ---


def _read_canary(slots: Slots, layout: Layout, agent: bytes, mark: int) -> Canary | None:
    """``mark``: 0 for none, else 1 + percent; the contract writes both together."""
    if mark == 0:
        return None
    table = layout.variable("_canaries")
    at = Struct(layout, layout.value_type(table), slots, [mapping_slot(table.slot, agent)])
    found = Canary(at.word("codeHash"), at.word("manifestHash"), mark - 1, at.number("readyAt"))
    if found.share > 100 or bytes(32) in (found.code_hash, found.manifest_hash):
        raise BAD_RECORD(expected="a canary with code, manifest and 0 to 100 percent", found=f"{found.share} percent")
    return found


def _read_workers(slots: Slots, layout: Layout, workers: Sequence[bytes]) -> list[WorkerRecord]:
    table = layout.variable("_workers")
    type_name = layout.value_type(table)
    bases = [mapping_slot(table.slot, address_key(worker)) for worker in workers]
    at = Struct(layout, type_name, slots, bases)
    heads = []
    for at.index in range(len(workers)):
        heads.append(at.number("endpoint"))
    text_at = layout.fields(type_name)["endpoint"].slot
    texts = texts_of(slots, [add(base, text_at) for base in bases], heads)
    found = []
    for at.index, worker in enumerate(workers):
        found.append(_worker(at, worker, texts[at.index]))
    return found


def _worker(at: Struct, worker: bytes, endpoint: str) -> WorkerRecord:
    return WorkerRecord(
        worker=worker,
        operator=at.address("operator"),
        vendor_class=at.word("vendorClass"),
        measurement=at.word("measurement"),
        boot=at.word("boot"),
        expiry=at.number("expiry"),
        removed=at.flag("removed"),
        listed=at.flag("listed"),
        heartbeat=at.number("heartbeat"),
        registered_at=at.number("registeredAt"),
        endpoint=endpoint,
    )
