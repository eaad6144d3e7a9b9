"""Writes placement.json: logarithms, costs and seats of weighted placement (spec/policy.md 4).

Run it from the repository root: ``python spec/vectors/gen_placement.py``. The second checker is
tests/unit/core/policy/test_placement_vectors.py, which reads the specification and computes with decimal fractions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cloister.core.chainview.stakes import StakeRecord
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.policy.caps import Backing, weights
from cloister.core.policy.placement import cost, log2, place, score

PATH = Path(__file__).with_name("placement.json")
NUMBERS = (1, 2, 3, 5, 255, 256, 257, (1 << 40) - 1, 3 << 100, (1 << 200) + (1 << 160), (1 << 256) - 1, 1 << 256)
# Block that a term began in.
STARTS = {1: 50, 2: 1000}
# What was raised: stake, what stood before the term's first raise, and before the last raise's block; that block.
RAISED = [(900, 200, 300, 999), (900, 200, 300, 1000), (900, 200, 300, 1001), (900, 0, 0, 1001), (900, 0, 900, 1000),
          (900, 900, 900, 1700), (0, 0, 0, 1001), (10**9, 25_600, 10**9, 1001)]  # fmt: skip
# (term, stake per agent, agents per operator, stakes of workers 0 to 7); workers 2i and 2i + 1 are of one operator.
NETWORKS: dict[str, tuple[int, int, int, list[Any]]] = {
    "no caps": (2, 0, 0, [0] * 8),
    "stakes alone": (2, 100, 0, [0, 99, 100, 250, 1000, 10_000, 25_600, 10**9]),
    "operators alone": (2, 0, 20, [0] * 8),
    "both": (2, 100, 20, [100, 900, 1900, 200, 2600, 2600, 10**9, 10**9]),
    "raised": (2, 100, 0, RAISED),
    "raised, with operators' caps": (2, 100, 4, RAISED),
    "raised in the first term": (1, 100, 0, RAISED),
}
MOST = 256


def named(kind: str, number: int) -> bytes:
    """32 bytes that anybody can make again."""
    return keccak256(b"placement.json", kind.encode(), bytes([number]))


def networks() -> list[dict[str, Any]]:
    """Weights of each network's workers, and where three agents are placed on them."""
    found = []
    for name, (term, price, bound, stakes) in NETWORKS.items():
        workers = [named("worker", i)[:20] for i in range(len(stakes))]
        records = {w: record(i, stakes[i]) for i, w in enumerate(workers)}
        backing = {w: Backing(r.counted(term, STARTS[term]), price, bound, r.operator) for w, r in records.items()}
        weighed = weights(MOST, backing)
        rows = []
        for i in range(3):
            seed, agent = named("seed", i), named("agent", i)
            costs = {to_hex(w): str(cost(score(seed, agent, w), weighed[w])) for w in workers if weighed[w]}
            seats = [to_hex(w) for w in place(seed, agent, weighed, 3)]
            rows.append({"seed": to_hex(seed), "agent": to_hex(agent), "costs": costs, "seats": seats})
        said = [{"worker": to_hex(w), **shown(r), "weight": str(weighed[w])} for w, r in records.items()]
        caps = {
            "term": term,
            "start": STARTS[term],
            "most": MOST,
            "stake_per_agent": str(price),
            "agents_per_operator": bound,
        }
        found.append({"name": name, **caps, "workers": said, "placed": rows})
    return found


def record(number: int, stake: Any) -> StakeRecord:
    """A worker's stake; what is no tuple was raised long ago."""
    amount, *before = stake if isinstance(stake, tuple) else (stake, 0, 0, 0)
    return StakeRecord(named("operator", number // 2)[:20], amount, *before)


def shown(of: StakeRecord) -> dict[str, Any]:
    """A stake as the file has it."""
    numbers = {"stake": of.amount, "before_term": of.before_term, "before_block": of.before_block}
    texts = {name: str(value) for name, value in numbers.items()}
    return {"operator": to_hex(of.operator), **texts, "raised_at": of.raised_at}


def build() -> dict[str, Any]:
    """Everything, as JSON-ready values. Numbers above 2^53 are decimal texts."""
    logs = [{"number": str(number), "log2": str(log2(number))} for number in NUMBERS]
    note = "Known answers for spec/policy.md 4: 2^40 log2 of numbers, costs, and three seats, best first."
    return {"note": note, "log2": logs, "networks": networks()}


def main() -> None:
    """Write the file."""
    PATH.write_text(json.dumps(build(), indent=1) + "\n")


if __name__ == "__main__":
    main()
