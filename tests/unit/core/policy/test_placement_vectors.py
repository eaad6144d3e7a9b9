"""spec/vectors/placement.json, computed a second time from the words of spec/policy.md 4, with decimal fractions."""

from __future__ import annotations

import json
import runpy
from collections import defaultdict
from decimal import ROUND_FLOOR, Decimal, localcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cloister.core.encoding.keccak import keccak256

FOLDER = Path(__file__).parents[4] / "spec" / "vectors"
DATA: dict[str, Any] = json.loads((FOLDER / "placement.json").read_text())


@cache
def table(step: int) -> int:
    """floor(2^40 log2(1 + step / 256))."""
    with localcontext() as at:
        at.prec, at.rounding = 60, ROUND_FLOOR
        said = Decimal(2**40) * (1 + Decimal(step) / 256).ln() / Decimal(2).ln()
        return 1 << 40 if step == 256 else int(said)


def log2(number: int) -> int:
    """The specification's L."""
    e = len(bin(number)) - 3
    digits = (number - 2**e) * 2**40 // 2**e
    i, r = divmod(digits, 2**32)
    return e * 2**40 + table(i) + (table(i + 1) - table(i)) * r // 2**32


def counted(row: dict[str, Any], term: int, start: int) -> int:
    """The specification's stake for placement."""
    stake = int(row["stake"])
    if term == 1 or row["raised_at"] < start:
        return stake
    before = row["before_block"] if row["raised_at"] == start else row["before_term"]
    return min(stake, int(before))


def weights(network: dict[str, Any]) -> dict[str, int]:
    price, bound, caps = int(network["stake_per_agent"]), network["agents_per_operator"], {}
    together: dict[str, int] = defaultdict(int)
    for row in network["workers"]:
        stake = counted(row, network["term"], network["start"])
        cap = min(network["most"], stake // price) if price else network["most"]
        caps[row["worker"]] = cap
        together[row["operator"]] += cap
    found = {}
    for row in network["workers"]:
        whole, all_of = 2**32 * caps[row["worker"]], together[row["operator"]]
        found[row["worker"]] = whole * bound // all_of if bound and all_of > bound else whole
    return found


def test_the_file_is_what_its_generator_writes() -> None:
    made = runpy.run_path(str(FOLDER / "gen_placement.py"))["build"]()
    assert made == DATA, "run: python spec/vectors/gen_placement.py"


@pytest.mark.parametrize("row", DATA["log2"], ids=lambda row: row["number"][:12])
def test_logarithms(row: dict[str, str]) -> None:
    assert log2(int(row["number"])) == int(row["log2"])


@pytest.mark.parametrize("network", DATA["networks"], ids=lambda network: network["name"])
def test_weights_costs_and_seats(network: dict[str, Any]) -> None:
    weighed = weights(network)
    assert weighed == {row["worker"]: int(row["weight"]) for row in network["workers"]}
    for row in network["placed"]:
        costs = {}
        for worker, weight in weighed.items():
            parts = (bytes.fromhex(text[2:]) for text in (row["seed"], row["agent"], worker))
            score = int.from_bytes(keccak256(*parts), "big")
            if weight:
                costs[worker] = ((2**48 - log2(score + 1)) * 2**64 // weight, -score)
        assert {worker: str(said) for worker, (said, _) in costs.items()} == row["costs"]
        assert sorted(costs, key=lambda worker: costs[worker])[:3] == row["seats"]
