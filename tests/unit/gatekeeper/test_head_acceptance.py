"""An agent's owner chooses among the branches of a forked store: whatever it brings, with a liar and restarts beside
it, no endorsed head is left out, and no member goes back (spec/state.md 13).

The model of five members of ``support.heads_model``, and a contract that keeps what t members signed at any time.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from cloister.core.encoding.identity import Epochs
from cloister.core.state.rows import Head
from cloister.core.state.table import HeadTable
from support.heads_model import AGENT, EPOCHS, HONEST, LOAD, Committee
from support.statement_cast import blocks, committee


class OwnersChoice(Committee):
    """``shown``: whose signature of a head anybody could have got, because the member held it once and was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.accepted: list[Head] = []
        self.known: dict[str, int | None] = dict.fromkeys(HONEST, 0)
        self.shown: dict[bytes, set[str]] = {}

    @initialize()
    def look(self) -> None:
        self._look()

    @rule(which=st.integers(0, 1000))
    def accept(self, which: int) -> None:
        """The contract: t signatures, higher than what it keeps."""
        self._look()
        last = self.accepted[-1].height if self.accepted else 0
        fits = [h for h in self.tree if h.height > last and len(self._signers(h)) >= LOAD]
        if fits:
            self.accepted.append(fits[which % len(fits)])

    @rule(name=st.sampled_from(HONEST))
    def follow(self, name: str) -> None:
        """A member looks at the contract, some time after its start."""
        table = self.tables[name]
        if not table.merged:
            return
        known = self.known[name]
        known = self.known[name] = len(self.accepted) if known is None else known
        before = table.get(AGENT)
        for number, _ in enumerate(self.accepted):
            if table.accept(AGENT, self.accepted[-1], fresh=number >= known):
                self.signers[self.accepted[-1].head].add(name)
        after = table.get(AGENT)
        assert before is None or (after is not None and after.height >= before.height), "it went back"
        self._look()

    def _merge(self, name: str, lie: int, away: str | None) -> None:
        if not self.tables[name].merged:
            self.known[name] = None
        super()._merge(name, lie, away)
        self._look()

    def _signers(self, head: Head) -> set[str]:
        return self.signers.get(head.head, set()) | self.shown.get(head.head, set())

    def _look(self) -> None:
        """Somebody asks every member for its newest head, all the time."""
        for name in HONEST:
            found = self.tables[name].get(AGENT)
            if found is not None and self.tables[name].merged:
                self.shown.setdefault(found.head, set()).add(name)


OwnersChoice.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestOwnersChoice = OwnersChoice.TestCase

LOW = Head(EPOCHS, 5, b"\x01" * 32, b"\x02" * 32)
FORK = replace(LOW, head=b"\x03" * 32)
HIGH = replace(LOW, height=6, parent=LOW.head, head=b"\x04" * 32)
LATER = Head(Epochs(2, 1, 1, EPOCHS.of), 6, LOW.head, b"\x05" * 32)
DOUBT = "in doubt"
MOVES: dict[str, tuple[Head | None, str, Head, bool, bool]] = {
    "the other branch at its height": (LOW, "", FORK, True, True),
    "a branch that is ahead": (LOW, "", HIGH, True, True),
    "an agent that it never saw": (None, "", LOW, True, True),
    "what it holds": (LOW, "", LOW, True, False),
    "a branch that is behind": (HIGH, "", FORK, True, False),
    "a head under epochs that were left": (LATER, "", HIGH, True, False),
    "a head of later epochs": (LOW, "", LATER, True, True),
    "one that was there when it started": (LOW, "", FORK, False, True),
    "in doubt, a fresh one": (LOW, DOUBT, FORK, True, True),
    "in doubt, one that was there when it started": (LOW, DOUBT, FORK, False, False),
    "not merged": (LOW, "not merged", FORK, True, False),
}


@pytest.mark.parametrize("sentence", MOVES)
def test_which_accepted_head_a_member_follows(sentence: str) -> None:
    held, how, accepted, fresh, moves = MOVES[sentence]
    table = HeadTable(merged=how != "not merged")
    if held is not None:
        table.adopt(AGENT, held)
    if how == DOUBT:
        table._doubts.add(AGENT)
    assert table.accept(AGENT, accepted, fresh=fresh) is moves
    assert table.get(AGENT) == (accepted if moves else held)
    assert table.doubts == int(how == DOUBT and not moves)


def test_after_it_only_children_of_that_head_are_signed() -> None:
    table = HeadTable(merged=True)
    table.adopt(AGENT, LOW)
    assert table.accept(AGENT, FORK, fresh=True)
    child = Head(EPOCHS, 6, FORK.head, b"\x07" * 32)
    with pytest.raises(Exception, match="parent") as caught:
        table.propose(AGENT, HIGH)
    assert getattr(caught.value, "code", "") == "state.unknown_parent"
    table.propose(AGENT, child)
    assert table.get(AGENT) == child


async def test_members_follow_an_owner_s_choice_when_it_is_final(tmp_path: Path) -> None:
    """Three hold one branch, two the other; the two move, and a restart changes nothing."""
    async with committee(tmp_path) as (world, seats, _):
        await blocks(world, seats, 1)
        for seat in seats:
            seat.gatekeeper.require_desks().heads.table.adopt(AGENT, LOW if seat in seats[:3] else FORK)
        world.now.accepted.append((AGENT, LOW))
        await blocks(world, seats, 2)
        tables = [seat.gatekeeper.require_desks().heads.table for seat in seats]
        assert [table.get(AGENT) for table in tables] == [LOW] * 5
        for table in tables:
            table.propose(AGENT, HIGH)
        await blocks(world, seats, 1)
        assert [table.get(AGENT) for table in tables] == [HIGH] * 5, "what was accepted once takes nobody back"
        rows = seats[4].gatekeeper.store.head_rows()
        assert [row["height"] for row in rows] == [LOW.height], "durable before anything is signed on it"


@pytest.mark.long
async def test_where_t_signatures_prove_too_little_nothing_is_taken_over(tmp_path: Path) -> None:
    async with committee(tmp_path) as (world, seats, _):
        await blocks(world, seats, 1)
        desk = seats[0].gatekeeper.require_desks().heads
        desk.table.adopt(AGENT, FORK)
        desk._committee.load_quorum = 4
        world.now.accepted.append((AGENT, LOW))
        await blocks(world, seats, 2)
        assert desk.table.get(AGENT) == FORK
