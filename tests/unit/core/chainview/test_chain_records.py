"""Records from storage words: a small model of the compiler's storage writes them, the readers read them back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.chain.contracts import artifact
from cloister.core.chainview import records as r
from cloister.core.chainview.layout import Layout, Place, add, address_key, data_slot, mapping_slot
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import CloisterError

LAYOUTS = {name: Layout(artifact(name).layout) for name in ("Agents", "Workers", "Clusters", "Gatekeepers", "Policies")}
B32 = st.binary(min_size=32, max_size=32)
B20 = st.binary(min_size=20, max_size=20)
U64 = st.integers(0, 2**64 - 1)
POSITIVE = st.integers(1, 2**64 - 1)


class Memory:
    """Storage as a dict; ``get`` is what readers see."""

    def __init__(self) -> None:
        self.words: dict[int, int] = {}

    def get(self, slots: Sequence[int]) -> list[int]:
        return [self.words.get(s, 0) for s in slots]

    def put(self, base: int, place: Place, value: int | bytes) -> None:
        number = int.from_bytes(value, "big") if isinstance(value, bytes) else value
        slot, shift = add(base, place.slot), 8 * place.offset
        mask = ((1 << (8 * place.size)) - 1) << shift
        self.words[slot] = self.words.get(slot, 0) & ~mask | number << shift

    def put_text(self, slot: int, text: bytes) -> None:
        if len(text) < 32:
            self.words[slot] = int.from_bytes(text.ljust(31, b"\0") + bytes([2 * len(text)]), "big")
            return
        self.words[slot] = 2 * len(text) + 1
        for i in range(0, len(text), 32):
            self.words[add(data_slot(slot), i // 32)] = int.from_bytes(text[i : i + 32].ljust(32, b"\0"), "big")

    def put_struct(self, base: int, fields: dict[str, Place], values: dict[str, Any]) -> None:
        for name, value in values.items():
            self.put(base, fields[name], value)


def struct(contract: str, variable: str) -> tuple[int, dict[str, Place]]:
    layout = LAYOUTS[contract]
    place = layout.variable(variable)
    is_map = place.type.startswith("t_mapping")
    return place.slot, layout.fields(layout.value_type(place) if is_map else place.type)


SET = B32.filter(any)
AGENTS = st.builds(
    r.AgentRecord,
    agent=B32,
    token_id=st.integers(0, 2**256 - 1),
    owner=B20,
    guardian=B20,
    epoch=POSITIVE,
    paused=st.booleans(),
    code_hash=B32,
    manifest_hash=B32,
    cluster=B32,
    upgrade_mode=st.sampled_from(r.UpgradeMode),
    upgrade_delay=U64,
    secrets_hash=B32,
    secrets_version=U64,
    secrets_setter=B20,
    secrets_epoch=U64,
    account=B20,
    secrets_cluster=B32,
    secrets_cluster_epoch=U64,
    secrets_master_epoch=U64,
    wiped_below=U64,
    canary=st.none() | st.builds(r.Canary, code_hash=SET, manifest_hash=SET, share=st.integers(0, 100), ready_at=U64),
)
CAMEL = {"token_id": "tokenId", "code_hash": "codeHash", "manifest_hash": "manifestHash"} | {
    f"upgrade_{w}": f"upgrade{w.capitalize()}" for w in ("mode", "delay")
} | {f"secrets_{w}": f"secrets{w.capitalize()}" for w in ("hash", "version", "setter", "epoch", "cluster")} | {
    "secrets_cluster_epoch": "secretsClusterEpoch",
    "secrets_master_epoch": "secretsMasterEpoch",
    "wiped_below": "wipedBelow",
}  # fmt: skip


def store_agent(memory: Memory, record: r.AgentRecord) -> None:
    slot, fields = struct("Agents", "_agents")
    names = [f.name for f in dataclasses.fields(record) if f.name not in ("agent", "canary")]
    plain = {CAMEL.get(name, name): getattr(record, name) for name in names}
    beside = record.canary
    mark = 0 if beside is None else 1 + beside.share
    memory.put_struct(mapping_slot(slot, record.agent), fields, {**plain, "canary": mark})
    if beside is not None:
        slot, fields = struct("Agents", "_canaries")
        said = {"codeHash": beside.code_hash, "manifestHash": beside.manifest_hash, "readyAt": beside.ready_at}
        memory.put_struct(mapping_slot(slot, record.agent), fields, said)


@given(AGENTS, B32)
def test_agents(record: r.AgentRecord, other: bytes) -> None:
    memory = Memory()
    store_agent(memory, record)
    assert r.read_agent(memory, LAYOUTS["Agents"], record.agent) == record
    if other != record.agent:
        assert r.read_agent(memory, LAYOUTS["Agents"], other) is None


CANARIES = {
    "more than all calls": (102, b"\1" * 32, b"\2" * 32),
    "the largest number": (255, b"\1" * 32, b"\2" * 32),
    "no code": (11, bytes(32), b"\2" * 32),
    "no manifest": (11, b"\1" * 32, bytes(32)),
}


@pytest.mark.parametrize("sentence", CANARIES)
def test_a_canary_that_the_contract_cannot_have_written_is_refused(sentence: str) -> None:
    mark, code, manifest = CANARIES[sentence]
    memory, agent = Memory(), b"\xaa" * 32
    slot, fields = struct("Agents", "_agents")
    memory.put_struct(mapping_slot(slot, agent), fields, {"epoch": 1, "canary": mark})
    slot, fields = struct("Agents", "_canaries")
    memory.put_struct(mapping_slot(slot, agent), fields, {"codeHash": code, "manifestHash": manifest})
    with pytest.raises(CloisterError) as caught:
        r.read_agent(memory, LAYOUTS["Agents"], agent)
    assert caught.value.code == "chainview.record"


@given(AGENTS, U64)
def test_a_canary_runs_from_its_block_on(record: r.AgentRecord, number: int) -> None:
    runs = record.canary is not None and record.canary.ready_at <= number
    assert record.canary_at(number) == (record.canary if runs else None)


@given(AGENTS)
def test_secrets_are_under_the_epochs_they_were_set_under_or_none_are_set(record: r.AgentRecord) -> None:
    at = record.secrets_at
    assert (at is None) == (record.secrets_hash == bytes(32))
    if at is not None:
        numbers = (record.secrets_epoch, record.secrets_cluster_epoch, record.secrets_master_epoch)
        assert (at[:3], at.of) == (numbers, record.secrets_cluster)


@given(AGENTS, st.sampled_from(["paused", "upgradeMode"]), st.integers(3, 255))
def test_flags_and_modes_that_no_contract_writes(record: r.AgentRecord, name: str, value: int) -> None:
    memory = Memory()
    store_agent(memory, record)
    slot, fields = struct("Agents", "_agents")
    memory.put(mapping_slot(slot, record.agent), fields[name], value)
    with pytest.raises(CloisterError) as caught:
        r.read_agent(memory, LAYOUTS["Agents"], record.agent)
    assert caught.value.code == "chainview.record"


RULES = st.builds(
    r.AgentRules,
    access_hook=B20,
    emergency_until=U64,
    fee_payer=B20,
    version=U64,
    egress_hash=B32,
    tools_hash=B32,
    models_hash=B32,
)
RULE_FIELDS = ("accessHook", "emergencyUntil", "feePayer", "version", "egressHash", "toolsHash", "modelsHash")


@given(RULES, B32, B32)
def test_rules_of_agents(rules: r.AgentRules, agent: bytes, other: bytes) -> None:
    memory = Memory()
    slot, fields = struct("Agents", "_rules")
    memory.put_struct(
        mapping_slot(slot, agent), fields, dict(zip(RULE_FIELDS, dataclasses.astuple(rules), strict=True))
    )
    assert r.read_agent_rules(memory, LAYOUTS["Agents"], agent) == rules
    if other != agent:
        none = r.read_agent_rules(memory, LAYOUTS["Agents"], other)
        assert not any(any(v) if isinstance(v, bytes) else v for v in dataclasses.astuple(none))


@given(B32, B20, U64, U64, st.integers(1, 2**64))
def test_speakers_of_agents_count_for_one_tenure(agent: bytes, who: bytes, said: int, now: int, chain: int) -> None:
    memory, layout = Memory(), LAYOUTS["Agents"]
    table, tenures = layout.variable("_speakers"), layout.variable("_tenures")
    slot = mapping_slot(mapping_slot(table.slot, agent), chain.to_bytes(32, "big"))
    memory.words[slot] = said << 160 | int.from_bytes(who, "big")
    memory.words[mapping_slot(tenures.slot, agent)] = now
    assert r.read_speaker(memory, layout, agent, chain) == (who if said == now else bytes(20))
    assert r.read_speaker(memory, layout, agent, chain + 1) == bytes(20)


def test_the_agent_count_is_the_newest_token() -> None:
    memory = Memory()
    memory.words[LAYOUTS["Agents"].variable("count").slot] = 41
    assert r.read_agent_count(memory, LAYOUTS["Agents"]) == 41


TEXTS = st.text(max_size=80).map(lambda t: t.encode()[:256].decode(errors="ignore"))
WORKERS = st.builds(
    r.WorkerRecord,
    worker=B20.filter(any),
    operator=B20,
    vendor_class=B32,
    measurement=B32,
    boot=B32,
    expiry=U64,
    removed=st.booleans(),
    listed=st.just(True),
    heartbeat=U64,
    registered_at=POSITIVE,
    endpoint=TEXTS,
)
WORKER_NAMES = {"vendor_class": "vendorClass", "registered_at": "registeredAt"}


def store_worker(memory: Memory, record: r.WorkerRecord) -> int:
    slot, fields = struct("Workers", "_workers")
    base = mapping_slot(slot, address_key(record.worker))
    plain = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    text = plain.pop("endpoint")
    plain.pop("worker")
    memory.put_struct(base, fields, {WORKER_NAMES.get(k, k): v for k, v in plain.items()})
    memory.put_text(add(base, fields["endpoint"].slot), text.encode())
    return add(base, fields["endpoint"].slot)


@settings(max_examples=50)
@given(st.lists(WORKERS, max_size=5, unique_by=lambda w: w.worker))
def test_workers_alone_and_together(workers: list[r.WorkerRecord]) -> None:
    memory, layout = Memory(), LAYOUTS["Workers"]
    head = layout.variable("_list").slot
    memory.words[head] = len(workers)
    for i, record in enumerate(workers):
        store_worker(memory, record)
        memory.words[add(data_slot(head), i)] = int.from_bytes(record.worker, "big")
        assert r.read_worker(memory, layout, record.worker) == record
    assert r.read_workers(memory, layout) == tuple(workers)
    assert r.read_worker(memory, layout, b"\0" * 20) is None


@given(WORKERS, U64)
def test_a_registration_holds_until_its_expiry(record: r.WorkerRecord, number: int) -> None:
    assert record.live_at(number) == (not record.removed and number < record.expiry)
    assert not dataclasses.replace(record, listed=False).live_at(0)
    assert not dataclasses.replace(record, removed=True).live_at(0)


def one_worker(endpoint: str = "http://127.0.0.1:1", *, listed: bool = True) -> tuple[Memory, bytes, int]:
    memory, worker = Memory(), b"\x07" * 20
    record = r.WorkerRecord(worker, b"\1" * 20, b"\2" * 32, b"\3" * 32, b"\4" * 32, 9, False, listed, 5, 5, endpoint)
    at = store_worker(memory, record)
    head = LAYOUTS["Workers"].variable("_list").slot
    memory.words |= {head: 1, data_slot(head): int.from_bytes(worker, "big")}
    return memory, worker, at


@pytest.mark.parametrize(
    ("why", "word"),
    [
        ("a short text longer than its slot", 0x40),
        ("a short text with rubbish after it", (1 << 248) | (1 << 8) | 2),
        ("a long text of short length", 2 * 31 + 1),
        ("a long text over the cap", 2 * 257 + 1),
        ("a length over all memory", (1 << 256) - 1),
        ("text that is not UTF-8", (0xFF << 248) | 2),
    ],
)
def test_texts_that_no_contract_writes(why: str, word: int) -> None:
    memory, worker, at = one_worker()
    memory.words[at] = word
    with pytest.raises(CloisterError) as caught:
        r.read_worker(memory, LAYOUTS["Workers"], worker)
    assert caught.value.code == "chainview.record", why


def test_a_long_text_with_rubbish_after_it() -> None:
    memory, worker, at = one_worker("x" * 40)
    memory.words[add(data_slot(at), 1)] |= 1
    with pytest.raises(CloisterError):
        r.read_worker(memory, LAYOUTS["Workers"], worker)


@pytest.mark.parametrize("count", [r.MAX_WORKERS + 1, 2**255])
def test_the_list_is_capped_before_it_is_read(count: int) -> None:
    memory, _, _ = one_worker()
    memory.words[LAYOUTS["Workers"].variable("_list").slot] = count
    with pytest.raises(CloisterError):
        r.read_workers(memory, LAYOUTS["Workers"])


def test_a_list_with_strangers_in_it() -> None:
    head = LAYOUTS["Workers"].variable("_list").slot
    for entry in (0, 1 << 160, 0x99):
        memory, _, _ = one_worker()
        memory.words[data_slot(head)] = entry
        with pytest.raises(CloisterError):
            r.read_workers(memory, LAYOUTS["Workers"])
    memory, _, _ = one_worker(listed=False)
    with pytest.raises(CloisterError):
        r.read_workers(memory, LAYOUTS["Workers"])


@given(B32, B20, POSITIVE, st.integers(1, 65535))
def test_clusters(cluster: bytes, owner: bytes, epoch: int, seats: int) -> None:
    memory = Memory()
    slot, fields = struct("Clusters", "_clusters")
    memory.put_struct(mapping_slot(slot, cluster), fields, {"owner": owner, "epoch": epoch, "seats": seats})
    found = r.read_cluster(memory, LAYOUTS["Clusters"], cluster)
    assert found == r.ClusterRecord(cluster, owner, epoch, seats)
    assert r.read_cluster(memory, LAYOUTS["Clusters"], keccak256(cluster)) is None


COMMITTEES = st.builds(
    r.CommitteeRecord,
    term=POSITIVE,
    threshold=st.integers(1, 64),
    members=st.lists(B20.filter(any), min_size=1, max_size=9, unique=True).map(tuple),
    mpk=st.binary(min_size=96, max_size=96),
    master_epoch=U64,
    network_id=B32,
    transcript=B32,
    term_seed=B32,
)


def store_committee(memory: Memory, record: r.CommitteeRecord) -> int:
    slot, fields = struct("Gatekeepers", "_committee")
    memory.put_struct(
        slot,
        fields,
        {
            "term": record.term,
            "masterEpoch": record.master_epoch,
            "threshold": record.threshold,
            "networkId": record.network_id,
            "transcript": record.transcript,
            "termSeed": record.term_seed,
        },
    )
    for i in range(3):
        memory.words[add(slot, fields["mpk"].slot + i)] = int.from_bytes(record.mpk[32 * i : 32 * i + 32], "big")
    head = add(slot, fields["members"].slot)
    memory.words[head] = len(record.members)
    for i, member in enumerate(record.members):
        memory.words[add(data_slot(head), i)] = int.from_bytes(member, "big")
    return head


@given(COMMITTEES)
def test_committees(record: r.CommitteeRecord) -> None:
    memory = Memory()
    store_committee(memory, record)
    assert r.read_committee(memory, LAYOUTS["Gatekeepers"]) == record
    if record.threshold <= len(record.members):
        assert record.signers().members == record.members


def test_no_committee_in_office_is_named() -> None:
    with pytest.raises(CloisterError) as caught:
        r.read_committee(Memory(), LAYOUTS["Gatekeepers"])
    assert caught.value.code == "chainview.no_committee"


@pytest.mark.parametrize("count", [0, 65, 2**200])
def test_committees_of_no_sane_size(count: int) -> None:
    memory = Memory()
    head = store_committee(
        memory, r.CommitteeRecord(1, 1, (b"\1" * 20,), bytes(96), 1, b"\1" * 32, b"\2" * 32, b"\3" * 32)
    )
    memory.words[head] = count
    with pytest.raises(CloisterError):
        r.read_committee(memory, LAYOUTS["Gatekeepers"])


@given(B32.filter(any), U64, POSITIVE, B32, U64)
def test_policies(policy: bytes, set_at: int, founded: int, measurement: bytes, listed: int) -> None:
    memory, layout = Memory(), LAYOUTS["Policies"]
    for name, value in (("policyHash", policy), ("policySetAt", set_at), ("foundedAt", founded)):
        memory.put(0, layout.variable(name), value)
    memory.words[mapping_slot(layout.variable("_listedAt").slot, measurement)] = listed
    assert r.read_policy(memory, layout) == r.PolicyRecord(policy, set_at, founded)
    assert r.read_listed_at(memory, layout, measurement) == listed


def test_no_policy_is_no_record() -> None:
    with pytest.raises(CloisterError):
        r.read_policy(Memory(), LAYOUTS["Policies"])


@pytest.mark.parametrize(
    ("why", "listed", "number", "counts"),
    [
        ("not listed", 0, 10**6, False),
        ("a founding one, at once", 50, 50, True),
        ("a later one, before its delay is over", 60, 159, False),
        ("a later one, after its delay", 60, 160, True),
        ("listed after the block in question", 60, 59, False),
    ],
)
def test_added_measurements_wait(why: str, listed: int, number: int, counts: bool) -> None:
    assert r.PolicyRecord(b"\1" * 32, 50, 50).counts(listed, 100, number) is counts, why


def test_the_agent_id_is_the_contracts() -> None:
    words = (7).to_bytes(32, "big") + bytes(12) + b"\x0a" * 20 + (3).to_bytes(32, "big")
    assert r.agent_id(7, b"\x0a" * 20, 3) == keccak256(words)
    for wrong in ((-1, b"\x0a" * 20, 3), (7, b"\x0a" * 19, 3), (7, b"\x0a" * 20, 2**256)):
        with pytest.raises(CloisterError):
            r.agent_id(*wrong)
