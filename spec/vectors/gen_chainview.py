"""Write spec/vectors/chainview.json: a checkpoint, proofs under it, what they prove (spec/chainview.md, encoding.md 8).

    python spec/vectors/gen_chainview.py           write the file
    python spec/vectors/gen_chainview.py --check   exit 1 if the file differs

The network is the pretended one of tests/support/fake_world.py: real tries, signatures and ids, no chain. Every key in
it is a test value. Second checker: the TypeScript SDK.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("chainview.json")
sys.path.insert(0, str(FILE.parents[2] / "tests"))

from cloister.core.attestation.policy import devnet  # noqa: E402
from cloister.core.attestation.roots import Roots  # noqa: E402
from cloister.core.chainview.founding import read_candidates  # noqa: E402
from cloister.core.chainview.layout import Layout, add, address_key, data_slot, mapping_slot  # noqa: E402
from cloister.core.chainview.records import read_agent, read_cluster, read_committee, read_worker  # noqa: E402
from cloister.core.encoding.hexes import to_hex  # noqa: E402
from cloister.core.encoding.signatures import address_of  # noqa: E402
from support.fake_world import CLUSTER, MEMBERS, Store, World, test_key  # noqa: E402

LONG = "https://worker.example/" + "a" * 40
MISSING = bytes(20)


def plain(record: Any) -> dict[str, Any]:
    """A record's fields JSON-ready."""
    values = {name: getattr(record, name) for name in record.__slots__}
    return {name: to_hex(value) if isinstance(value, bytes) else value for name, value in values.items()}


def world() -> tuple[World, bytes, list[Any]]:
    """The network with an agent and two workers: one with a short endpoint, one with a long one."""
    roots = Roots.of({"intel": [hashlib.sha256(b"root").digest()]})
    policy = devnet(roots, max_checkpoint_age_s=60)  # no kinds: what they demand changes, these answers should not
    made = World(dataclasses.replace(policy, kinds={}, refused_generations=(), refused_advisories=()))
    agent = made.set_agent()
    boot = hashlib.sha256(b"boot").digest()
    records = [made.set_worker(test_key("worker one"), boot), made.set_worker(test_key("worker two"), boot, "amd")]
    slot = mapping_slot(made.stores["Workers"].layout.variable("_workers").slot, address_key(records[1].worker))
    head = add(slot, made.stores["Workers"].layout.fields("t_struct(Worker)_storage")["endpoint"].slot)
    made.stores["Workers"].words[head] = 2 * len(LONG) + 1
    for i in range(0, len(LONG), 32):
        word = LONG[i : i + 32].encode().ljust(32, b"\0")
        made.stores["Workers"].words[add(data_slot(head), i // 32)] = int.from_bytes(word, "big")
    made.mine()
    return made, agent, records


class Recorder:
    """A store's words, and which of them a reader asked for."""

    def __init__(self, store: Store) -> None:
        self._words, self.asked = store.words, set[int]()

    def get(self, slots: Sequence[int]) -> Sequence[int]:
        """The words, zero where nothing was written."""
        self.asked |= set(slots)
        return [self._words.get(slot, 0) for slot in slots]


def answers(made: World, agent: bytes, workers: list[Any]) -> dict[str, Any]:
    """Per contract: one eth_getProof answer over every slot that its readers ask for, the last one unset."""
    members = [address_of(key) for key in MEMBERS]
    readers: dict[str, Callable[[Recorder, Layout], object]] = {
        "Agents": lambda s, at: read_agent(s, at, agent),
        "Clusters": lambda s, at: read_cluster(s, at, CLUSTER),
        "Gatekeepers": lambda s, at: (read_committee(s, at), read_candidates(s, at, members)),
        "Workers": lambda s, at: [read_worker(s, at, one.worker) for one in workers],
    }
    found = {}
    for name, reader in readers.items():
        store = made.stores[name]
        recorder = Recorder(store)
        reader(recorder, store.layout)
        slots = [*sorted(recorder.asked), 2**256 - 1]
        proof = made.get_proof(store.address, slots, made.number)
        found[name] = proof | {"slots": [f"0x{slot:064x}" for slot in slots]}
    return found


def build() -> dict[str, Any]:
    """The whole file as plain data."""
    made, agent, workers = world()
    signed = made.sign(made.checkpoint(), MEMBERS)
    record = made.agents[agent]
    return {
        "note": "Known answers for spec/chainview.md and spec/encoding.md 6-8. Every key is a test value.",
        "network": made.network.encode().decode(),
        "fingerprint": made.network.fingerprint(),
        "network_id": to_hex(made.network.id),
        "genesis_id": to_hex(made.network.genesis.genesis_id()),
        "policy_hash": to_hex(made.network.genesis.policy_hash()),
        "now": int(made.now),
        "checkpoint": signed.statement.to_json(),
        "signatures": [to_hex(s) for s in signed.signatures],
        "missing_account": {
            "address": to_hex(MISSING),
            "proof": made.get_proof(MISSING, [], made.number)["accountProof"],
        },
        "proofs": answers(made, agent, workers),
        "agent": plain(record) | {"upgrade_mode": int(record.upgrade_mode)},
        "workers": [plain(workers[0]), plain(workers[1]) | {"endpoint": LONG}],
        "cluster": {"cluster": to_hex(CLUSTER), "owner": to_hex(b"\x01" * 20), "epoch": 1, "seats": 2},
        "committee": {"members": [to_hex(address_of(k)) for k in MEMBERS], "threshold": 3, "term": 1},
    }


def main() -> int:
    """Write or check."""
    text = json.dumps(build(), indent=1, ensure_ascii=False) + "\n"
    if sys.argv[1:] == ["--check"]:
        return int(FILE.read_text(encoding="utf-8") != text)
    FILE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
