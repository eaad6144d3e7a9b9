"""Gatekeepers' head tables and the loading rule (spec/state.md 6, 7)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cloister.core.errors import CloisterError, StateError
from cloister.core.state.endorse import Answer, require_fresh
from cloister.core.state.heads import HeadRecord, genesis_record, next_head
from cloister.core.state.table import HeadTable
from support.state_kit import AGENT, IDENTITY, member

H = [bytes([n]) * 32 for n in range(256)]


def table(*steps: tuple[int, bytes, bytes], epoch: int = 1) -> HeadTable:
    made = HeadTable(merged=True)
    for height, parent, head in steps:
        made.propose(AGENT, epoch, height, parent, head)
    return made


THREE = ((1, H[0], H[1]), (2, H[1], H[2]), (3, H[2], H[3]))

PROPOSALS: dict[str, tuple[tuple[int, bytes, bytes], str | None]] = {
    "the next head on the newest is accepted": ((4, H[3], H[4]), None),
    "the newest head again is accepted again": ((3, H[2], H[3]), None),
    "a second child of the newest's parent is a fork": ((3, H[2], H[9]), "state.forked"),
    "the newest head with another parent is a fork": ((3, H[9], H[3]), "state.forked"),
    "an older height is a rollback": ((2, H[1], H[2]), "state.rolled_back"),
    "another head at an older height is a rollback": ((2, H[1], H[9]), "state.rolled_back"),
    "starting again is a rollback": ((1, H[0], H[1]), "state.rolled_back"),
    "a height that leaves one out has an unknown parent": ((5, H[3], H[5]), "state.unknown_parent"),
    "the next height on another head has an unknown parent": ((4, H[9], H[4]), "state.unknown_parent"),
    "the next height on an older head has an unknown parent": ((4, H[2], H[4]), "state.unknown_parent"),
}


@pytest.mark.parametrize("sentence", PROPOSALS)
def test_proposals(sentence: str) -> None:
    step, code = PROPOSALS[sentence]
    made = table(*THREE)
    if code is None:
        made.propose(AGENT, 1, *step)
        assert made.get(AGENT, 1) is not None
        return
    before = made.to_json()
    with pytest.raises(StateError) as caught:
        made.propose(AGENT, 1, *step)
    assert caught.value.code == code
    assert made.to_json() == before


FIRSTS: dict[str, tuple[int, bytes, bytes | None, str | None]] = {
    "height 1 on the genesis head is accepted": (1, H[0], H[0], None),
    "height 1 is accepted when the genesis head is not known": (1, H[7], None, None),
    "height 1 on another head has an unknown parent": (1, H[7], H[0], "state.unknown_parent"),
    "height 2 has an unknown parent": (2, H[0], H[0], "state.unknown_parent"),
    "height 0 has an unknown parent": (0, H[0], H[0], "state.unknown_parent"),
}


@pytest.mark.parametrize("sentence", FIRSTS)
def test_first_proposals(sentence: str) -> None:
    height, parent, genesis, code = FIRSTS[sentence]
    made = table()
    if code is None:
        made.propose(AGENT, 1, height, parent, H[1], genesis=genesis)
        assert len(made) == 1
        return
    with pytest.raises(StateError) as caught:
        made.propose(AGENT, 1, height, parent, H[1], genesis=genesis)
    assert caught.value.code == code
    assert len(made) == 0


def test_a_new_epoch_starts_its_own_chain_and_closes_the_old_one() -> None:
    made = table(*THREE)
    made.propose(AGENT, 2, 1, H[50], H[51])
    with pytest.raises(StateError) as caught:
        made.propose(AGENT, 1, 4, H[3], H[4])
    assert caught.value.code == "state.rolled_back"
    with pytest.raises(StateError):
        made.adopt(AGENT, 1, 9, H[3], H[4])
    old = made.get(AGENT, 1)
    assert old is not None
    assert old.height == 3


def test_two_epochs_of_an_agent_are_kept() -> None:
    made = table(*THREE)
    for epoch in (2, 5):
        made.propose(AGENT, epoch, 1, H[50], H[51])
    assert [made.get(AGENT, e) is not None for e in (1, 2, 5)] == [False, True, True]
    assert len(made) == 2


def test_a_loaded_table_signs_nothing_until_it_merged() -> None:
    loaded = HeadTable.from_json(table(*THREE).to_json())
    with pytest.raises(StateError) as caught:
        loaded.propose(AGENT, 1, 4, H[3], H[4])
    assert caught.value.code == "state.not_merged"
    loaded.merge([table(*THREE)] * 3, 3)
    loaded.propose(AGENT, 1, 4, H[3], H[4])


def test_a_member_whose_disk_was_rolled_back_learns_the_newest_before_it_signs() -> None:
    now = table(*THREE)
    old = HeadTable.from_json(table(*THREE[:1]).to_json())
    old.merge([now, table(*THREE[:2]), table()], 3)
    with pytest.raises(StateError) as caught:
        old.propose(AGENT, 1, 2, H[1], H[9])
    assert caught.value.code == "state.rolled_back"
    assert old.get(AGENT, 1) == now.get(AGENT, 1)


def test_a_merge_of_too_few_tables_is_refused_and_changes_nothing() -> None:
    loaded = HeadTable.from_json(table().to_json())
    for tables in ([], [table(*THREE)] * 2):
        with pytest.raises(StateError) as caught:
            loaded.merge(tables, 3)
        assert caught.value.code == "state.no_quorum"
    assert (len(loaded), loaded.merged) == (0, False)
    with pytest.raises(StateError):
        loaded.merge([], 0)


MERGES: dict[str, tuple[bytes | None, list[bytes], bytes]] = {
    "what most tables hold wins": (H[1], [H[2], H[2], H[3]], H[2]),
    "our own wins a tie": (H[3], [H[2], H[2], H[3]], H[3]),
    "the smaller hash wins a tie of others": (None, [H[3], H[2]], H[2]),
    "nothing of ours is no vote": (None, [H[3], H[3], H[2]], H[3]),
}


@pytest.mark.parametrize("sentence", MERGES)
def test_heads_of_one_height(sentence: str) -> None:
    ours, theirs, expected = MERGES[sentence]
    mine = table(*([(1, H[0], ours)] if ours else []))
    mine.merge([table((1, H[0], head)) for head in theirs], len(theirs))
    merged = mine.get(AGENT, 1)
    assert merged is not None
    assert merged.head == expected


def test_a_head_that_q_members_signed_is_adopted_forward_and_over_a_lost_vote() -> None:
    made = table(*THREE)
    made.adopt(AGENT, 1, 3, H[2], H[9])
    made.adopt(AGENT, 1, 8, H[20], H[21])
    made.propose(AGENT, 1, 9, H[21], H[22])
    with pytest.raises(StateError) as caught:
        made.adopt(AGENT, 1, 8, H[20], H[21])
    assert caught.value.code == "state.rolled_back"


def test_a_table_survives_json() -> None:
    made = table(*THREE)
    made.propose(H[9], 7, 1, H[1], H[2])
    again = HeadTable.from_json(json.loads(json.dumps(made.to_json())))
    assert again.to_json() == made.to_json()
    assert len(again) == 2


ROW = {"agent": "0x" + "ab" * 32, "epoch": 1, "height": 1, "parent": "0x" + "00" * 32, "head": "0x" + "01" * 32}
BAD_TABLES: dict[str, Any] = {
    "no object": [],
    "another version": {"version": 2, "heads": []},
    "an unknown field": {"version": 1, "heads": [], "x": 1},
    "no list": {"version": 1, "heads": {}},
    "a row of another form": {"version": 1, "heads": [[]]},
    "a row with a field more": {"version": 1, "heads": [{**ROW, "x": 1}]},
    "a short agent": {"version": 1, "heads": [{**ROW, "agent": "0xab"}]},
    "a short head": {"version": 1, "heads": [{**ROW, "head": "0xab"}]},
    "a negative height": {"version": 1, "heads": [{**ROW, "height": -1}]},
    "a height as text": {"version": 1, "heads": [{**ROW, "height": "1"}]},
    "a boolean epoch": {"version": 1, "heads": [{**ROW, "epoch": True}]},
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_stored_table_is_refused_with(case: str) -> None:
    with pytest.raises(CloisterError):
        HeadTable.from_json(BAD_TABLES[case])


def test_a_table_has_a_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloister.core.state.table.MAX_HEADS", 2)
    made = table()
    made.propose(H[1], 1, 1, H[0], H[1])
    made.propose(H[2], 1, 1, H[0], H[1])
    with pytest.raises(StateError) as caught:
        made.propose(H[3], 1, 1, H[0], H[1])
    assert caught.value.code == "state.table_full"
    made.propose(H[2], 1, 2, H[1], H[2])


class Endorsing(RuleBasedStateMachine):
    """Any order of proposals, restarts from any old disk, merges with honest peers: no fork, no way back."""

    def __init__(self) -> None:
        super().__init__()
        self.member, self.peer = HeadTable(merged=True), HeadTable(merged=True)
        self.disks = [self.member.to_json()]
        self.signed: dict[tuple[int, bytes], bytes] = {}
        self.top: dict[int, int] = {}

    @rule(epoch=st.integers(1, 2), height=st.integers(0, 5), parent=st.integers(0, 5), head=st.integers(1, 6))
    def propose(self, epoch: int, height: int, parent: int, head: int) -> None:
        """A worker (honest or not) proposes; what is accepted counts as signed, and reaches a peer."""
        try:
            self.member.propose(AGENT, epoch, height, H[parent], H[head], genesis=H[0])
        except StateError as refusal:
            assert refusal.code.startswith("state.")  # noqa: PT017
            return
        assert self.signed.setdefault((epoch, H[parent] + bytes([height])), H[head]) == H[head]
        assert height >= self.top.get(epoch, 0)
        assert epoch >= max(self.top, default=0)
        self.top[epoch] = height
        self.peer.adopt(AGENT, epoch, height, H[parent], H[head])
        self.disks.append(self.member.to_json())

    @rule(which=st.integers(0, 1000))
    def restart_from_an_old_disk(self, which: int) -> None:
        """The host gives back any earlier disk; the member merges before it signs."""
        self.member = HeadTable.from_json(self.disks[which % len(self.disks)])
        self.member.merge([self.peer, self.peer, HeadTable(merged=True)], 3)

    @invariant()
    def the_newest_signed_is_remembered(self) -> None:
        """Nothing signed is ever forgotten."""
        for epoch, height in self.top.items():
            head = self.member.get(AGENT, epoch)
            assert head is not None
            assert head.height == height


Endorsing.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestEndorsing = Endorsing.TestCase


# --- loading


def record(length: int, base: int = 0, *, fork_at: int | None = None) -> HeadRecord:
    made = genesis_record(IDENTITY)
    for height in range(1, length + 1):
        commit = bytes([height, int(fork_at is not None and height >= fork_at)]) * 16
        head = next_head(made.head, height, commit)
        pending = (*made.pending, commit)
        made = replace(made, height=height, parent=made.head, head=head, commit=commit, pending=pending)
    return made.trimmed(base)


def answers(*heights: int, of: HeadRecord | None = None) -> list[Answer]:
    chain = of or record(20)
    return [Answer(member(n), height, chain.ancestor(height) or b"") for n, height in enumerate(heights)]


LOADS: dict[str, tuple[HeadRecord, list[Answer], str | None]] = {
    "a store at the newest endorsed head is fresh": (record(9), answers(9, 9, 9), None),
    "a store ahead of the committee is fresh": (record(12), answers(9, 8, 7), None),
    "members behind the base do not matter": (record(12, base=9), answers(9, 3, 2), None),
    "an agent that never committed is fresh": (record(0), answers(0, 0, 0), None),
    "a first commit that nobody saw is fresh": (record(1), answers(0, 0, 0), None),
    "a store that one member knows to be older is rolled back": (record(8), answers(2, 2, 9), "state.rolled_back"),
    "an empty store of an agent that committed is rolled back": (record(0), answers(1, 0, 0), "state.rolled_back"),
    "another head at the endorsed height is a fork": (record(9, fork_at=9), answers(9, 9, 9), "state.forked"),
    "a longer store on another branch is a fork": (record(12, fork_at=5), answers(9, 9, 9), "state.forked"),
    "a fork that one member of three saw is a fork": (record(12, fork_at=9), answers(9, 8, 8), "state.forked"),
    "two answers are no quorum of three": (record(9), answers(9, 9), "state.no_quorum"),
    "no answer is no quorum": (record(9), [], "state.no_quorum"),
    "one member thrice is no quorum": (record(9), answers(9) * 3, "state.no_quorum"),
    "members that forgot what was endorsed are no quorum": (record(12, base=9), answers(8, 8, 8), "state.no_quorum"),
}


@pytest.mark.parametrize("sentence", LOADS)
def test_loading(sentence: str) -> None:
    local, given_answers, code = LOADS[sentence]
    if code is None:
        require_fresh(local, given_answers, 3)
        return
    with pytest.raises(StateError) as caught:
        require_fresh(local, given_answers, 3)
    assert caught.value.code == code


@given(st.integers(0, 20), st.lists(st.integers(0, 20), min_size=3, max_size=5), st.integers(1, 20))
@settings(max_examples=60)
def test_whatever_is_loaded_is_on_the_chain_of_every_member(length: int, heights: list[int], fork_at: int) -> None:
    local, told = record(length, fork_at=fork_at), answers(*heights)
    try:
        require_fresh(local, told, 3)
    except StateError:
        return
    assert length >= max(heights)
    assert all(local.ancestor(a.height) == a.head for a in told)
