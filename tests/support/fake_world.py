"""A network in one object for client tests: real keys, signatures, proofs and sealed calls; no chain, no processes.

The chain's state is words in tries (py-trie), served as ``eth_getProof`` answers. The committee is five test keys, the
master secret a known scalar. ``tests/support/fake_gateway.py`` serves it over HTTP.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import rlp
from coincurve import PrivateKey
from py_arkworks_bls12381 import Scalar
from trie import HexaryTrie

from cloister.chain.contracts import artifact
from cloister.chain.headers import encode_header
from cloister.core.attestation.policy import Policy, devnet
from cloister.core.attestation.roots import Roots
from cloister.core.chainview.epochs import EpochState
from cloister.core.chainview.evm import AccountFacts, Block, NeedState, Outcome, ProvenWorld, view
from cloister.core.chainview.layout import Layout, Place, add, address_key, data_slot, mapping_slot
from cloister.core.chainview.records import AgentRecord, AgentRules, Canary, UpgradeMode, WorkerRecord, agent_id
from cloister.core.chainview.terms import SignedHandover
from cloister.core.encoding.contexts import Context, digest
from cloister.core.encoding.handover import Handover, members_hash
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.identity import Purpose
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.network import ContractRef, Genesis, Network
from cloister.core.encoding.signatures import Signed, SignerSet, address_of, sign_digest
from cloister.core.encoding.statements import Checkpoint, Lease, Statement
from cloister.core.policy.manifest import Manifest, normalize
from cloister.core.policy.release import vendor_class_id
from cloister.core.threshold import ibe
from cloister.core.threshold.groups import G2, hash_identity, to_bytes

NOW = 1_800_000_000
CHAIN_ID = 31_337
ROOT = Scalar(0x1234567890ABCDEF1234567890ABCDEF)
MPK = to_bytes(G2 * ROOT)
# Master secrets by epoch: the second one is of a rotation.
ROOTS = {1: ROOT, 2: Scalar(0x77)}
MPKS = {epoch: to_bytes(G2 * root) for epoch, root in ROOTS.items()}
CLUSTER = hashlib.sha256(b"default cluster").digest()
MEASUREMENT = digest(Context.MEASUREMENT, b"worker", b"a listed image")
CONTRACTS = ("Agents", "Clusters", "Gatekeepers", "Policies", "Workers")
TRANSCRIPT = hashlib.sha256(b"transcript").digest()
CODE = b"export default { fetch: () => new Response('hello') }"


def test_key(name: str) -> PrivateKey:
    """A key that only tests use."""
    return PrivateKey(hashlib.sha256(b"client test " + name.encode()).digest())


test_key.__test__ = False  # type: ignore[attr-defined]
MEMBER_VENDORS = ("intel", "intel", "amd", "amd", "aws")
MEMBERS = tuple(test_key(f"member {i}") for i in range(5))
STRANGERS = tuple(test_key(f"stranger {i}") for i in range(5))
OWNER = test_key("owner")


def manifest(**changes: Any) -> Manifest:
    """A manifest with the upgrade rule `delay`."""
    return normalize({"upgrade": {"rule": "delay", "blocks": 10}, **changes})


@dataclass
class Store:
    """The words of one contract."""

    name: str
    address: bytes
    words: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.layout = Layout(artifact(self.name).layout)

    def put(self, base: int, place: Place, value: int) -> None:
        """Write one packed value at ``base`` + its slot."""
        slot = add(base, place.slot)
        mask = (1 << 8 * place.size) - 1
        word = self.words.get(slot, 0) & ~(mask << 8 * place.offset)
        self.words[slot] = word | (value & mask) << 8 * place.offset

    def struct(self, variable: str, key: bytes | None, values: dict[str, Any]) -> None:
        """Write fields of a struct variable or of a mapping's struct."""
        place = self.layout.variable(variable)
        base = place.slot if key is None else mapping_slot(place.slot, key)
        kind = place.type if key is None else self.layout.value_type(place)
        for name, value in values.items():
            number = int.from_bytes(value, "big") if isinstance(value, bytes) else int(value)
            self.put(base, self.layout.fields(kind)[name], number)

    def variable(self, name: str, value: int) -> None:
        """Write a plain variable."""
        self.put(0, self.layout.variable(name), value)

    def trie(self) -> HexaryTrie:
        """The storage trie."""
        return _trie(frozenset(self.words.items()))


@dataclass
class Other:
    """A contract of somebody else: its code, and the words of its storage."""

    code: bytes
    words: dict[int, int] = field(default_factory=dict)


@lru_cache(maxsize=256)
def _trie(words: frozenset[tuple[int, int]]) -> HexaryTrie:
    made = HexaryTrie({})
    for slot, word in words:
        if word:
            made[keccak256(slot.to_bytes(32, "big"))] = rlp.encode(word.to_bytes(32, "big").lstrip(b"\0"))
    return made


class World:
    """The whole network. Change records, then ``mine``; ``now`` is everybody's clock (Unix seconds)."""

    def __init__(self, policy: Policy | None = None, now: int = NOW, contracts: Sequence[str] = CONTRACTS) -> None:
        self.now = float(now)
        self.policy = policy or devnet(Roots.of({"intel": [hashlib.sha256(b"root").digest()]}))
        self.stores = {n: Store(n, hashlib.sha256(n.encode()).digest()[:20]) for n in contracts}
        self.blocks: dict[int, dict[str, Any]] = {}
        self.proofs: dict[int, tuple[HexaryTrie, dict[str, HexaryTrie]]] = {}
        self.blobs: dict[bytes, bytes] = {}
        self.paused_now: set[bytes] = set()
        self.removed_now: set[bytes] = set()
        self.others: dict[bytes, Other] = {}
        self.rules: dict[bytes, AgentRules] = {}
        self.rules_now: dict[bytes, AgentRules] = {}
        self.number = -1
        self.term = self.master_epoch = 1
        self.told: list[SignedHandover] = []
        self.mine()
        self.network = self._network()
        self._found()
        self.number = 999
        self.mine()

    # --- chain ---

    def mine(self, blocks: int = 1) -> Checkpoint:
        """A new block over the present words."""
        self.number += blocks
        tries = {name: store.trie() for name, store in self.stores.items()}
        accounts = HexaryTrie({})
        for name, store in self.stores.items():
            fields = [1, 0, tries[name].root_hash, self.code_hash(name)]
            accounts[keccak256(store.address)] = rlp.encode(fields)
        for address, other in self.others.items():
            trie = tries["0x" + address.hex()] = _trie(frozenset(other.words.items()))
            accounts[keccak256(address)] = rlp.encode([1, 0, trie.root_hash, keccak256(other.code)])
        self.proofs[self.number] = (accounts, tries)
        self.blocks[self.number] = self._block(accounts.root_hash)
        return self.checkpoint()

    def checkpoint(self, number: int | None = None) -> Checkpoint:
        """The checkpoint of a block."""
        block = self.blocks[self.number if number is None else number]
        return Checkpoint(
            term=self.term,
            chain_id=CHAIN_ID,
            number=int(block["number"], 16),
            block_hash=bytes.fromhex(block["hash"][2:]),
            state_root=bytes.fromhex(block["stateRoot"][2:]),
            timestamp=int(block["timestamp"], 16),
        )

    def code_hash(self, name: str) -> bytes:
        """The pretended code hash of a contract."""
        return keccak256(b"code of " + name.encode())

    def get_proof(self, address: bytes, slots: list[int], number: int) -> dict[str, Any]:
        """The answer of eth_getProof."""
        accounts, tries = self.proofs[number]
        name = next((n for n, s in self.stores.items() if s.address == address), None)
        name = "0x" + address.hex() if "0x" + address.hex() in tries else name
        entries = []
        for slot in slots:
            key = keccak256(slot.to_bytes(32, "big"))
            trie = tries[name] if name else HexaryTrie({})
            raw = trie[key]
            word = int.from_bytes(rlp.decode(raw), "big") if raw else 0
            entries.append({"key": hex(slot), "value": hex(word), "proof": _nodes(trie, key)})
        root = tries[name].root_hash if name else HexaryTrie({}).root_hash
        return {
            "accountProof": _nodes(accounts, keccak256(address)),
            "storageHash": to_hex(root),
            "storageProof": entries,
        }

    # --- statements ---

    def sign(self, statement: Statement, members: Sequence[PrivateKey] | None = None) -> Signed:
        """Signatures of some members (three are enough; by default of those in office)."""
        message = statement.digest(self.network.id)
        return Signed(statement, tuple(sign_digest(k, message) for k in members or self.members[:3]))

    def lease(self, agent: bytes, worker: bytes, boot: bytes, **changes: Any) -> Lease:
        """A lease for the agent's present record at the newest block."""
        record = self.agents[agent]
        period = self.number // self.policy.network.period_blocks
        fields = {
            "term": self.term,
            "agent": agent,
            "code_hash": record.code_hash,
            "manifest_hash": record.manifest_hash,
            "cluster": CLUSTER,
            "master_epoch": self.master_epoch,
            "cluster_epoch": 1,
            "agent_epoch": record.epoch,
            "period": period,
            "worker": worker,
            "boot": boot,
            "checkpoint": self.number,
            "expiry": (period + 2) * self.policy.network.period_blocks,
        }
        return Lease(**(fields | changes))

    def derived(self, agent: bytes, purpose: Purpose, period: int = 0) -> ibe.DerivedKey:
        """The agent's key that gatekeepers would release."""
        lease = self.lease(agent, bytes(20), bytes(32))
        from cloister.core.policy.identities import identities_of

        version = identities_of(lease, self.network.id)[(Purpose.STATE, 0)].version
        return ibe.DerivedKey(to_bytes(hash_identity(bytes(version.key(purpose, period))) * ROOTS[self.master_epoch]))

    # --- records ---

    def add_root(self, worker: bytes, boot: bytes, root: bytes, size: int) -> int:
        """Record a root of a receipt log as the contract does; returns its number. Not on chain before ``mine``."""
        store, kind = self.stores["Receipts"], "t_struct(Root)_storage"
        head = mapping_slot(store.layout.variable("_roots").slot, address_key(worker))
        index = store.words.get(head, 0)
        base = add(data_slot(head), index * store.layout.words(kind))
        values: dict[str, Any] = {"boot": boot, "root": root, "size": size, "atBlock": self.number + 1}
        for name, value in values.items():
            number = int.from_bytes(value, "big") if isinstance(value, bytes) else value
            store.put(base, store.layout.fields(kind)[name], number)
        store.words[head] = index + 1
        inner = mapping_slot(store.layout.variable("_sizes").slot, address_key(worker))
        store.words[mapping_slot(inner, boot)] = size
        return index

    def set_agent(self, token_id: int = 1, **changes: Any) -> bytes:
        """Write an agent's record; returns its id. Not on chain before ``mine``."""
        agent = agent_id(CHAIN_ID, self.stores["Agents"].address, token_id)
        encoded = bytes(manifest())
        self.blobs |= {hashlib.sha256(b).digest(): b for b in (CODE, encoded)}
        base = self.agents.get(agent) or AgentRecord(
            agent=agent,
            token_id=token_id,
            owner=address_of(OWNER),
            guardian=bytes(20),
            epoch=1,
            paused=False,
            code_hash=hashlib.sha256(CODE).digest(),
            manifest_hash=hashlib.sha256(encoded).digest(),
            cluster=CLUSTER,
            upgrade_mode=UpgradeMode.DELAYED,
            upgrade_delay=10,
            secrets_hash=bytes(32),
            secrets_version=0,
            secrets_setter=bytes(20),
            secrets_epoch=0,
            account=hashlib.sha256(b"account").digest()[:20],
            secrets_cluster=CLUSTER,
            secrets_cluster_epoch=1,
            secrets_master_epoch=1,
        )
        values = {n: getattr(base, n) for n in base.__slots__} | changes
        record = self.agents[agent] = AgentRecord(**values)
        names = {n: n.split("_")[0] + "".join(p.capitalize() for p in n.split("_")[1:]) for n in values}
        fields = {names[n]: getattr(record, n) for n in values if n != "agent"}
        fields["canary"] = 0 if record.canary is None else 1 + record.canary.share
        self.stores["Agents"].struct("_agents", agent, fields)
        if record.canary is not None or base.canary is not None:
            beside = record.canary or Canary(bytes(32), bytes(32), 0, 0)
            hashes = {"codeHash": beside.code_hash, "manifestHash": beside.manifest_hash}
            self.stores["Agents"].struct("_canaries", agent, {**hashes, "readyAt": beside.ready_at})
        self.stores["Agents"].variable("count", len(self.agents))
        return agent

    def set_rules(self, agent: bytes, **changes: Any) -> AgentRules:
        """Write an agent's rules, one version up; 32-byte zeros for what is not set. Not on chain before ``mine``."""
        base = self.rules.get(agent) or AgentRules(bytes(20), 0, bytes(20), 0, bytes(32), bytes(32), bytes(32))
        made = self.rules[agent] = replace(base, **({"version": base.version + 1} | changes))
        fields = {
            "accessHook": made.access_hook,
            "emergencyUntil": made.emergency_until,
            "feePayer": made.fee_payer,
            "version": made.version,
            "egressHash": made.egress_hash,
            "toolsHash": made.tools_hash,
            "modelsHash": made.models_hash,
        }
        self.stores["Agents"].struct("_rules", agent, fields)
        return made

    def newest_rules(self, agent: bytes) -> AgentRules:
        """What the endpoint claims of the newest block: ``rules_now``, else what was written."""
        zero = AgentRules(bytes(20), 0, bytes(20), 0, bytes(32), bytes(32), bytes(32))
        return self.rules_now.get(agent) or self.rules.get(agent) or zero

    def view_newest(self, to: bytes, data: bytes) -> Outcome:
        """A view of a contract in ``others`` at the newest block."""
        world = ProvenWorld()
        for address, other in self.others.items():
            world.accounts[address] = AccountFacts(0, keccak256(other.code), other.code)
            world.words |= {(address, slot): word for slot, word in other.words.items()}
        while True:
            try:
                return view(world, Block(self.number, int(self.now), CHAIN_ID), to, data)
            except NeedState as need:
                if need.slot is None:
                    world.accounts[need.address] = AccountFacts()
                else:
                    world.words[need.address, need.slot] = 0

    def set_worker(self, key: PrivateKey, boot: bytes, vendor: str = "intel", **changes: Any) -> WorkerRecord:
        """Write a worker's record. Not on chain before ``mine``."""
        values: dict[str, Any] = {
            "worker": address_of(key),
            "operator": hashlib.sha256(b"operator").digest()[:20],
            "vendor_class": vendor_class_id(vendor),
            "measurement": MEASUREMENT,
            "boot": boot,
            "expiry": self.number + 100_000,
            "removed": False,
            "listed": True,
            "heartbeat": self.number,
            "registered_at": 5,
            "endpoint": "unix:one",
        }
        record = WorkerRecord(**(values | changes))
        fields: dict[str, Any] = {
            "operator": record.operator,
            "expiry": record.expiry,
            "removed": record.removed,
            "listed": record.listed,
            "vendorClass": record.vendor_class,
            "measurement": record.measurement,
            "boot": record.boot,
            "heartbeat": record.heartbeat,
            "registeredAt": record.registered_at,
            "endpoint": record.endpoint.encode().ljust(31, b"\0") + bytes([2 * len(record.endpoint)]),
        }
        self.stores["Workers"].struct("_workers", address_key(record.worker), fields)
        return record

    def list_measurement(self, name: bytes, block: int = 3) -> None:
        """List a measurement id as founding one."""
        slot = mapping_slot(self.stores["Policies"].layout.variable("_listedAt").slot, name)
        self.stores["Policies"].words[slot] = block

    # --- inside ---

    def _block(self, state_root: bytes) -> dict[str, Any]:
        parent = self.blocks.get(self.number - 1)
        block: dict[str, Any] = {
            "parentHash": parent["hash"] if parent else to_hex(bytes(32)),
            "sha3Uncles": to_hex(bytes(32)),
            "miner": to_hex(bytes(20)),
            "stateRoot": to_hex(state_root),
            "transactionsRoot": to_hex(bytes(32)),
            "receiptsRoot": to_hex(bytes(32)),
            "logsBloom": to_hex(bytes(256)),
            "difficulty": "0x0",
            "number": hex(self.number),
            "gasLimit": "0x1c9c380",
            "gasUsed": "0x0",
            "timestamp": hex(int(self.now)),
            "extraData": "0x",
            "mixHash": to_hex(bytes(32)),
            "nonce": to_hex(bytes(8)),
            "baseFeePerGas": "0x1",
        }
        return {**block, "hash": to_hex(keccak256(encode_header(block)))}

    def _network(self) -> Network:
        genesis = Genesis(
            mode="devnet",
            chain_id=CHAIN_ID,
            genesis_hash=bytes.fromhex(self.blocks[0]["hash"][2:]),
            contracts={n: ContractRef(s.address, self.code_hash(n)) for n, s in self.stores.items()},
            policy=self.policy.to_json(),
            roots={v: tuple(p) for v, p in self.policy.roots.to_json().items()},
            header_verifier="rpc-quorum",
        )
        founding = SignerSet(1, 3, tuple(address_of(k) for k in MEMBERS))
        return Network(genesis, founding, TRANSCRIPT, MPK, (MPK,) * len(MEMBERS), 1)

    def _found(self) -> None:
        self.agents: dict[bytes, AgentRecord] = {}
        gatekeepers = self.stores["Gatekeepers"]
        committee = {
            "term": 1,
            "masterEpoch": 1,
            "threshold": 3,
            "networkId": self.network.id,
            "transcript": TRANSCRIPT,
            "termSeed": hashlib.sha256(b"seed").digest(),
            "members": len(MEMBERS),
        }
        gatekeepers.struct("_committee", None, committee)
        self.sit(MEMBERS)
        self.set_epoch(1, EpochState.RELEASED, MPK)

    def sit(self, members: Sequence[PrivateKey], term: int = 1) -> None:
        """Who is in office, from the next block on."""
        gatekeepers = self.stores["Gatekeepers"]
        gatekeepers.struct("_committee", None, {"term": term, "members": len(members)})
        place = gatekeepers.layout.variable("_committee")
        head = data_slot(add(place.slot, gatekeepers.layout.fields(place.type)["members"].slot))
        for i, key in enumerate(members):
            gatekeepers.words[add(head, i)] = int.from_bytes(address_of(key), "big")
        self.term, self.members = term, tuple(members)
        for i, vendor in enumerate(MEMBER_VENDORS):
            self.seat(i, vendor)

    def hand_over(self, members: Sequence[PrivateKey], signers: int = 3, **changes: Any) -> SignedHandover:
        """A new block in which these take office; some of those before them sign that, and it is served from now on."""
        old, term = self.members, self.term
        self.sit(members, term + 1)
        self.stores["Gatekeepers"].struct("_terms", (term + 1).to_bytes(32, "big"), {"height": self.number + 1})
        at, there = self.mine(), tuple(address_of(key) for key in members)
        key = keccak256(MPKS[self.master_epoch])
        said = Handover(term, term + 1, 3, members_hash(there), self.master_epoch, key, at.number, at.timestamp)
        said = replace(said, **changes)
        made = tuple(sign_digest(key, said.digest(self.network.id)) for key in old[:signers])
        self.told.append(SignedHandover(said, there, made))
        return self.told[-1]

    def set_epoch(self, epoch: int, state: EpochState, mpk: bytes, term: int = 1) -> None:
        """A master epoch as the contract keeps it; the newest is the committee's too."""
        gatekeepers = self.stores["Gatekeepers"]
        key = epoch.to_bytes(32, "big")
        said = {"state": int(state), "ceremony": epoch, "term": term, "confirmedAt": 3, "transcript": TRANSCRIPT}
        gatekeepers.struct("_epochs", key, said)
        table = gatekeepers.layout.variable("_epochs")
        base = mapping_slot(table.slot, key)
        self._put_mpk(base, gatekeepers.layout.value_type(table), mpk)
        place = gatekeepers.layout.variable("_committee")
        gatekeepers.struct("_committee", None, {"masterEpoch": epoch})
        self._put_mpk(place.slot, place.type, mpk)
        self.newest_epoch = epoch
        self.master_epoch = epoch if state in (EpochState.RELEASED, EpochState.RESUMED) else epoch - 1

    def _put_mpk(self, base: int, kind: str, mpk: bytes) -> None:
        gatekeepers = self.stores["Gatekeepers"]
        at = gatekeepers.layout.fields(kind)["mpk"].slot
        for i in range(3):
            gatekeepers.words[add(base, at + i)] = int.from_bytes(mpk[32 * i : 32 * i + 32], "big")

    def seat(self, index: int, vendor: str) -> None:
        """What member ``index`` in office said of itself when it stood for the committee."""
        fields = {"operator": index + 1, "vendorClass": vendor_class_id(vendor), "dkgKey": 1, "evidenceHash": 1}
        self.stores["Gatekeepers"].struct("_candidates", address_key(address_of(self.members[index])), fields)
        self.stores["Clusters"].struct("_clusters", CLUSTER, {"owner": b"\x01" * 20, "epoch": 1, "seats": 2})
        policies = self.stores["Policies"]
        policies.variable("policyHash", int.from_bytes(self.network.genesis.policy_hash(), "big"))
        policies.variable("policySetAt", 3)
        policies.variable("foundedAt", 3)
        self.list_measurement(MEASUREMENT)


def _nodes(trie: HexaryTrie, key: bytes) -> list[str]:
    return [to_hex(rlp.encode(node)) for node in trie.get_proof(key) if node]


def fresh() -> bytes:
    """32 random bytes."""
    return os.urandom(32)
