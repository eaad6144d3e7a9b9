"""Writes placement.json: logarithms, costs and seats of weighted placement (spec/policy.md 4).

Run it from the repository root: ``python spec/vectors/gen_placement.py``. The second checker is
tests/unit/core/policy/test_placement_vectors.py, which reads the specification and computes with decimal fractions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.policy.caps import Backing, weights
from cloister.core.policy.placement import cost, log2, place, score

PATH = Path(__file__).with_name("placement.json")
NUMBERS = (1, 2, 3, 5, 255, 256, 257, (1 << 40) - 1, 3 << 100, (1 << 200) + (1 << 160), (1 << 256) - 1, 1 << 256)
# (stake per agent, agents per operator, stakes of workers 0 to 7); workers 2i and 2i + 1 are of one operator.
NETWORKS = {
    "no caps": (0, 0, [0] * 8),
    "stakes alone": (100, 0, [0, 99, 100, 250, 1000, 10_000, 25_600, 10**9]),
    "operators alone": (0, 20, [0] * 8),
    "both": (100, 20, [100, 900, 1900, 200, 2600, 2600, 10**9, 10**9]),
}
MOST = 256


def named(kind: str, number: int) -> bytes:
    """32 bytes that anybody can make again."""
    return keccak256(b"placement.json", kind.encode(), bytes([number]))


def networks() -> list[dict[str, Any]]:
    """Weights of each network's workers, and where three agents are placed on them."""
    found = []
    for name, (price, bound, stakes) in NETWORKS.items():
        workers = [named("worker", i)[:20] for i in range(len(stakes))]
        backing = {w: Backing(s, price, bound, named("operator", i // 2)[:20]) for i, (w, s) in
                   enumerate(zip(workers, stakes, strict=True))}  # fmt: skip
        weighed = weights(MOST, backing)
        rows = []
        for i in range(3):
            seed, agent = named("seed", i), named("agent", i)
            costs = {to_hex(w): str(cost(score(seed, agent, w), weighed[w])) for w in workers if weighed[w]}
            seats = [to_hex(w) for w in place(seed, agent, weighed, 3)]
            rows.append({"seed": to_hex(seed), "agent": to_hex(agent), "costs": costs, "seats": seats})
        said = [
            {"worker": to_hex(w), "operator": to_hex(b.operator), "stake": str(b.stake), "weight": str(weighed[w])}
            for w, b in backing.items()
        ]
        caps = {"most": MOST, "stake_per_agent": str(price), "agents_per_operator": bound}
        found.append({"name": name, **caps, "workers": said, "placed": rows})
    return found


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
