"""Write spec/vectors/ceremonies.json: ids, deadlines and phases of ceremonies (spec/gatekeepers.md G1, G4-G12).

    python spec/vectors/gen_ceremonies.py           write the file
    python spec/vectors/gen_ceremonies.py --check   exit 1 if the file differs

Phases come from core/threshold/phases.py over facts that a contract could hold, and over some that it could not.
Second checker: contracts/test/Phases.t.sol.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from dataclasses import astuple
from pathlib import Path
from typing import Any

from cloister.core.chainview.ceremonies import KINDS, ceremony_id
from cloister.core.encoding.hexes import to_hex
from cloister.core.threshold.dealing import Ceremony, Member
from cloister.core.threshold.facts import Confirmation, Facts, Fault
from cloister.core.threshold.phases import Deadlines, Phase, agreed_value, phase_at

FILE = Path(__file__).with_name("ceremonies.json")
ROWS = 160
# What stands in a row; then three numbers per dealer: who complained, who called its share bad, whose is open.
COLUMNS = (
    "opened_at", "window", "dealers", "receivers", "quorum", "committed", "content", "settled", "accused", "published",
    "unanimous", "agreed", "cancelled", "number", "phase",
)  # fmt: skip


class _Ceremony(Ceremony):
    """A ceremony whose dealers may be others, as in a resharing."""

    __slots__ = ("_dealers", "_quorum")

    @property
    def dealers(self) -> int:
        return int(self._dealers)

    @property
    def quorum(self) -> int:
        return int(self._quorum)


def seed(name: str, size: int = 32) -> bytes:
    """Bytes that anybody can make again."""
    return hashlib.shake_256(f"cloister ceremonies/{name}".encode()).digest(size)


def ceremony(dealers: int, receivers: int, threshold: int, quorum: int) -> Ceremony:
    """Seats only: phases depend on nothing else."""
    members = tuple(Member(i, seed(f"address/{i}", 20), seed(f"key/{i}")) for i in range(1, receivers + 1))
    made = _Ceremony(seed("id"), threshold, members)
    object.__setattr__(made, "_dealers", dealers)
    object.__setattr__(made, "_quorum", quorum)
    return made


def bits(seats: Any) -> int:
    """A set of seats, from 1."""
    return sum(1 << seat - 1 for seat in seats)


def facts_of(rng: random.Random, dealers: int, receivers: int) -> Facts:
    """Facts at some step of a ceremony, each kind of them complete or not."""

    def some(count: int, often: float) -> set[int]:
        return (
            set(range(1, count + 1)) if rng.random() < often else {i for i in range(1, count + 1) if rng.random() < 0.6}
        )

    committed = some(dealers, 0.7)
    content = some(receivers, 0.7)
    pairs = [(d, r) for d in sorted(committed) for r in range(1, receivers + 1) if rng.random() < 0.12]
    complaints = {pair: Fault(rng.choice((1, 2))) for pair in pairs}
    accused = {d for d, _ in pairs}
    published = accused if rng.random() < 0.6 else {d for d in accused if rng.random() < 0.5}
    bad = [pair for pair, fault in complaints.items() if fault is Fault.BAD_SHARE and pair[0] in published]
    opened = {pair: seed(f"share/{pair}") for pair in bad if rng.random() < 0.8}
    values = [Confirmation(seed(f"mpk/{i}", 96), seed(f"transcript/{i}"), 7) for i in (0, 0, 0, 1)]
    confirmed = {r: rng.choice(values[: rng.choice((1, 4))]) for r in some(receivers, 0.5)}
    settled = some(receivers, 0.6)
    return Facts(
        committed={d: seed(f"digest/{d}") for d in committed},
        complaints=complaints,
        published=frozenset(published),
        opened=opened,
        content=frozenset(content),
        settled=frozenset(settled),
        confirmed=confirmed,
        cancelled=rng.random() < 0.08,
    )


def row(rng: random.Random) -> list[int]:
    """One case."""
    dealers, receivers = rng.randint(3, 6), rng.randint(3, 6)
    threshold, quorum = rng.randint(2, receivers - 1), rng.randint(2, dealers - 1)
    opened_at, window = rng.randint(1, 1000), rng.randint(2, 20)
    facts = facts_of(rng, dealers, receivers)
    who, deadlines = ceremony(dealers, receivers, threshold, quorum), Deadlines.after(opened_at, window)
    number = opened_at + rng.randint(0, 7) * window + rng.choice((-1, 0, 1, window // 2))
    phase = list(Phase).index(phase_at(who, deadlines, facts, number)) + 1
    unanimous = len(facts.confirmed) == receivers and len(set(facts.confirmed.values())) == 1
    made = [
        opened_at, window, dealers, receivers, quorum, bits(facts.committed), bits(facts.content), bits(facts.settled),
        bits({d for d, _ in facts.complaints}), bits(facts.published), int(unanimous),
        int(agreed_value(who, facts) is not None), int(facts.cancelled), number, phase,
    ]  # fmt: skip
    for dealer in range(1, dealers + 1):
        by = facts.of_dealer(dealer)
        made += [bits(by), bits(r for r, f in by.items() if f is Fault.BAD_SHARE)]
        made.append(bits(r for d, r in facts.opened if d == dealer))
    return made


def ids() -> list[dict[str, Any]]:
    """Ids of ceremonies of each kind."""
    shown = []
    for number, (code, kind) in enumerate(KINDS.items(), 1):
        base, contract, term, epoch = seed(f"base/{code}"), seed("contract", 20), code + 1, code
        found = ceremony_id(base, contract, kind, term, epoch, number)
        one = {"base": to_hex(base), "contract": to_hex(contract), "kind": code, "term": term, "epoch": epoch}
        shown.append({**one, "number": number, "id": to_hex(found)})
    return shown


def build() -> dict[str, Any]:
    """The whole file as plain data."""
    rng = random.Random(20261122)  # noqa: S311 - test vectors
    return {
        "note": "Phases: 1 commit, 2 show, 3 publish, 4 object, 5 answer, 6 confirm, 7 done, 8 failed.",
        "columns": list(COLUMNS),
        "count": ROWS,
        "rows": [row(rng) for _ in range(ROWS)],
        "ids": ids(),
        "deadlines": {"opened": 1000, "window": 7, "blocks": list(astuple(Deadlines.after(1000, 7)))},
    }


def main(arguments: list[str]) -> int:
    """The command line."""
    text = json.dumps(build(), indent=None, separators=(",", ":")).replace("],[", "],\n[") + "\n"
    if arguments == ["--check"]:
        same = FILE.read_text(encoding="utf-8") == text
        print("ceremonies.json matches" if same else "ceremonies.json differs; run this without --check")
        return 0 if same else 1
    FILE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
