"""Gatekeepers' head tables and the loading rule (spec/state.md 6, 7)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cloister.core.encoding.identity import Epochs
from cloister.core.errors import CloisterError, StateError
from cloister.core.state.endorse import Answer, require_fresh
from cloister.core.state.heads import HeadRecord, genesis_record, next_head
from cloister.core.state.table import HeadTable
from support.state_kit import AGENT, IDENTITY, at, member
from support.state_kit import head as head_at

H = [bytes([n]) * 32 for n in range(256)]


def table(*steps: tuple[int, bytes, bytes], epoch: int = 1) -> HeadTable:
    made = HeadTable(merged=True)
    for height, parent, head in steps:
        made.propose(AGENT, head_at(height, parent, head, epoch))
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
        made.propose(AGENT, head_at(*step))
        assert made.get(AGENT) is not None
        return
    before = made.to_json()
    with pytest.raises(StateError) as caught:
        made.propose(AGENT, head_at(*step))
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
        made.propose(AGENT, head_at(height, parent, H[1]), genesis=genesis)
        assert len(made) == 1
        return
    with pytest.raises(StateError) as caught:
        made.propose(AGENT, head_at(height, parent, H[1]), genesis=genesis)
    assert caught.value.code == code
    assert len(made) == 0


NEW = at(2)
MOVES: dict[str, tuple[tuple[int, bytes, bytes], Epochs, bool, str | None]] = {
    "new epochs continue on the newest head of the old ones": ((4, H[3], H[4]), NEW, False, None),
    "a newer cluster epoch continues it too": ((4, H[3], H[4]), at(cluster=2), False, None),
    "and a newer master epoch": ((4, H[3], H[4]), at(master=2), False, None),
    "and another cluster with an agent epoch of its own": ((4, H[3], H[4]), at(2, 1, 1, H[9]), False, None),
    "an older head of the old epochs is re-sealed by nobody": ((3, H[2], H[9]), NEW, False, "state.unknown_parent"),
    "nor one that was never endorsed": ((4, H[9], H[4]), NEW, False, "state.unknown_parent"),
    "new epochs do not start over": ((1, H[0], H[1]), NEW, False, "state.unknown_parent"),
    "unless the owner left the old state behind": ((1, H[0], H[1]), NEW, True, None),
    "and then they start on their own h0": ((1, H[7], H[1]), NEW, True, "state.unknown_parent"),
    "what was left behind is not continued": ((4, H[3], H[4]), NEW, True, "state.unknown_parent"),
    "the same epochs never start over": ((1, H[0], H[1]), at(), True, "state.rolled_back"),
}


@pytest.mark.parametrize("sentence", MOVES)
def test_new_epochs(sentence: str) -> None:
    step, epochs, wiped, code = MOVES[sentence]
    made = table(*THREE)
    if code is None:
        made.propose(AGENT, head_at(*step, epochs), genesis=H[0], wiped=wiped)
        assert made.sealed(AGENT) == epochs
        return
    before = made.to_json()
    with pytest.raises(StateError) as caught:
        made.propose(AGENT, head_at(*step, epochs), genesis=H[0], wiped=wiped)
    assert (caught.value.code, made.to_json()) == (code, before)


def test_epochs_that_were_left_are_closed_and_one_head_per_agent_is_kept() -> None:
    made = table(*THREE)
    made.propose(AGENT, head_at(4, H[3], H[4], NEW))
    for late in (head_at(4, H[3], H[5]), head_at(5, H[4], H[5]), head_at(4, H[3], H[5], at(1, 9, 9))):
        with pytest.raises(StateError) as caught:
            made.propose(AGENT, late)
        assert caught.value.code == "state.rolled_back"
        with pytest.raises(StateError):
            made.adopt(AGENT, late)
    assert (made.get(AGENT), len(made)) == (head_at(4, H[3], H[4], NEW), 1)


def test_of_two_re_seals_of_one_head_one_is_signed() -> None:
    made = table(*THREE)
    made.propose(AGENT, head_at(4, H[3], H[4], NEW))
    made.propose(AGENT, head_at(4, H[3], H[4], NEW))
    with pytest.raises(StateError) as caught:
        made.propose(AGENT, head_at(4, H[3], H[5], NEW))
    assert caught.value.code == "state.forked"


def test_a_member_that_does_not_know_says_nothing_of_where_state_is_sealed() -> None:
    loaded = HeadTable.from_json(table(*THREE).to_json())
    assert loaded.sealed(AGENT) is None
    loaded.merge([table(*THREE)] * 3, 3)
    assert loaded.sealed(AGENT) == at()
    assert loaded.sealed(H[5]) is None
    doubtful = HeadTable.from_json(others(X5)[0].to_json())
    doubtful.merge(others(X5, X5, Y6), 3)
    assert doubtful.sealed(AGENT) is None


def test_a_merge_takes_over_a_re_seal_that_all_but_one_hold() -> None:
    old, new = table(*THREE), table(*THREE)
    new.propose(AGENT, head_at(4, H[3], H[4], NEW))
    mine = HeadTable.from_json(old.to_json())
    mine.merge([new, new, new, old], 3)
    assert mine.sealed(AGENT) == NEW


def test_a_loaded_table_signs_nothing_until_it_merged() -> None:
    loaded = HeadTable.from_json(table(*THREE).to_json())
    with pytest.raises(StateError) as caught:
        loaded.propose(AGENT, head_at(4, H[3], H[4]))
    assert caught.value.code == "state.not_merged"
    loaded.merge([table(*THREE)] * 3, 3)
    loaded.propose(AGENT, head_at(4, H[3], H[4]))


def test_a_member_whose_disk_was_rolled_back_learns_the_newest_before_it_signs() -> None:
    now = table(*THREE)
    old = HeadTable.from_json(table(*THREE[:1]).to_json())
    old.merge([now, table(*THREE[:2]), now], 3)
    with pytest.raises(StateError) as caught:
        old.propose(AGENT, head_at(2, H[1], H[9]))
    assert caught.value.code == "state.rolled_back"
    assert old.get(AGENT) == now.get(AGENT)


def test_a_merge_of_too_few_tables_is_refused_and_changes_nothing() -> None:
    loaded = HeadTable.from_json(table().to_json())
    for tables in ([], [table(*THREE)] * 2):
        with pytest.raises(StateError) as caught:
            loaded.merge(tables, 3)
        assert caught.value.code == "state.no_quorum"
    assert (len(loaded), loaded.merged) == (0, False)
    with pytest.raises(StateError):
        loaded.merge([], 0)


# Heads at height 1: ours, those of the other four members, what is taken over (r = 3).
MERGES: dict[str, tuple[bytes | None, list[bytes], bytes | None]] = {
    "what all but one of four others hold wins": (H[1], [H[2], H[2], H[2], H[3]], H[2]),
    "nothing of ours is no vote": (None, [H[3], H[3], H[3], H[2]], H[3]),
    "a member that knows nothing is like one that differs": (H[2], [H[2], H[2], H[3]], None),
    "what one of four knows is not taken over": (None, [H[3]], H[0]),
    "two against two is a doubt": (H[2], [H[2], H[2], H[3], H[3]], None),
    "our own vote does not decide": (H[3], [H[2], H[2], H[3], H[3]], None),
    "four heads are a doubt": (None, [H[1], H[2], H[3], H[4]], None),
}


def others(*heads: tuple[int, bytes, bytes] | None) -> list[HeadTable]:
    """Tables of other members that each hold one head, or none."""
    tables = []
    for head in heads:
        made = HeadTable(merged=True)
        if head is not None:
            made.adopt(AGENT, head_at(*head))
        tables.append(made)
    return tables


@pytest.mark.parametrize("sentence", MERGES)
def test_heads_of_one_height(sentence: str) -> None:
    ours, theirs, expected = MERGES[sentence]
    mine = HeadTable.from_json(table(*([(1, H[0], ours)] if ours else [])).to_json())
    tables = others(*((1, H[0], head) for head in theirs))
    mine.merge(tables + [table()] * (4 - len(tables)), 3)
    merged = mine.get(AGENT)
    assert mine.doubts == (expected is None)
    held = merged.head if merged else H[0]
    assert held == (expected or ours or H[0])


def test_the_smaller_hash_decides_where_nothing_else_does() -> None:
    mine = HeadTable(merged=False)
    mine.merge(others((1, H[0], H[3]), (1, H[0], H[2])), 1)
    merged = mine.get(AGENT)
    assert merged is not None
    assert merged.head == H[2]


X4, X5, X6, Y5, Y6 = (4, H[3], H[4]), (5, H[4], H[5]), (6, H[5], H[6]), (5, H[4], H[55]), (6, H[55], H[56])
FAR = (1 << 60, H[60], H[61])
# Ours, the others', what is held afterwards, whether it is in doubt.
COMING_BACK: dict[str, tuple[Any, list[Any], Any, bool]] = {
    "a fork that one member was fed is not followed, though it is higher": (X5, [X5, X5, X5, Y6], X5, False),
    "nor by a member whose disk was rolled back": (X4, [X5, X5, X5, Y6], X5, False),
    "a lie about the height is not followed": (X5, [X5, X5, X5, FAR], X5, False),
    "nor by a member that forgot all": (None, [X5, X5, X5, FAR], X5, False),
    "one member that is one ahead leads": (X5, [X5, X5, X5, X6], X6, False),
    "one that is one behind follows": (X4, [X5, X5, X6, X6], X6, False),
    "one that lags far behind does not matter": (X4, [X6, X6, X6, (1, H[0], H[1])], X6, False),
    "with three tables nobody may differ": (X5, [X5, X5, Y6], X5, True),
    "with three tables one that lags far is a doubt": (X6, [X6, X6, X4], X6, True),
    "our own vote is never taken back": (X6, [X4, X4, X4, X4], X6, True),
    "two that were fed a fork are a doubt": (X5, [X5, X5, Y6, Y6], X5, True),
    "what one of four says alone is not taken over": (None, [None, None, None, FAR], None, False),
    "nor does it take away what we hold": (X5, [None, None, None, FAR], X5, False),
    "of three, one alone may be right: a doubt": (None, [None, None, X5], None, True),
    "a new agent that one member has not heard of": (
        None,
        [None, (1, H[0], H[1]), (1, H[0], H[1]), (1, H[0], H[1])],
        (1, H[0], H[1]),
        False,
    ),
}


@pytest.mark.parametrize("sentence", COMING_BACK)
def test_a_member_that_comes_back(sentence: str) -> None:
    ours, theirs, held, doubt = COMING_BACK[sentence]
    mine = HeadTable.from_json(others(ours)[0].to_json())
    mine.merge(others(*theirs), 3)
    assert mine.get(AGENT) == (head_at(*held) if held else None)
    assert mine.doubts == doubt
    if doubt:
        with pytest.raises(StateError) as caught:
            mine.propose(AGENT, head_at(*(held or X5)))
        assert caught.value.code == "state.not_merged"


def test_a_doubt_ends_when_members_agree_or_a_quorum_is_shown() -> None:
    for how in ("agree", "shown"):
        mine = HeadTable.from_json(others(X5)[0].to_json())
        mine.merge(others(X5, X5, Y6), 3)
        if how == "agree":
            mine.merge(others(X6, X6, X5), 3)
        else:
            mine.adopt(AGENT, head_at(*X6))
        assert (mine.doubts, mine.get(AGENT)) == (0, head_at(*X6))
        mine.propose(AGENT, head_at(7, H[6], H[7]))


def test_a_liar_plants_no_epoch_and_fills_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch of the future would close the present one; more rows than fit would end the merge."""
    monkeypatch.setattr("cloister.core.state.table.MAX_HEADS", 3)
    liar = HeadTable(merged=True)
    liar.adopt(AGENT, head_at(*FAR, epoch=1 << 40))
    honest = [HeadTable(merged=True) for _ in range(3)]
    for one in honest:
        one.adopt(AGENT, head_at(*X5))
    for tables in ([*honest, liar], [*honest[:2], liar]):
        mine = HeadTable.from_json(others(X4)[0].to_json())
        for i in range(2):
            liar.adopt(H[90 + i], head_at(*X5))
        mine.merge(tables, 3)
        assert mine.sealed(AGENT) in (None, at())
        assert len(mine) == 1
    mine = HeadTable.from_json(others(X4)[0].to_json())
    mine.merge([*honest, liar], 3)
    mine.propose(AGENT, head_at(*X6))


def test_a_doubt_about_one_agent_stops_no_other_and_a_second_merge_looks_at_doubts_only() -> None:
    mine = HeadTable.from_json(others(X5)[0].to_json())
    mine.merge(others(X5, X5, Y6), 3)
    mine.propose(H[70], head_at(1, H[0], H[71]))
    elsewhere = others(X5, X5, Y6)
    for one in elsewhere:
        one.adopt(H[70], head_at(9, H[72], H[73]))
    mine.merge(elsewhere, 3)
    assert mine.doubts == 1
    found = mine.get(H[70])
    assert found is not None
    assert found.head == H[71]


def test_a_rolling_restart_never_leaves_an_endorsed_head_at() -> None:
    """A host feeds a fork to one member, then waits until the others restart, one by one. No member lies."""
    members = {name: others(X4)[0] for name in "ABCDE"}
    for name in "ABCD":
        members[name].propose(AGENT, head_at(*X5))
    for fork in (Y5, Y6):
        members["E"].propose(AGENT, head_at(*fork))
    for name in "ABCD":
        back = HeadTable.from_json(members[name].to_json())
        back.merge([table for other, table in members.items() if other != name], 3)
        members[name] = back
    signed = []
    for name, one in members.items():
        try:
            one.propose(AGENT, head_at(7, H[56], H[57]))
            signed.append(name)
        except StateError:
            continue
    assert signed == ["E"]
    for name in "ABCD":
        members[name].propose(AGENT, head_at(*X6))


def test_a_head_that_q_members_signed_is_adopted_forward_and_over_a_lost_vote() -> None:
    made = table(*THREE)
    made.adopt(AGENT, head_at(3, H[2], H[9]))
    made.adopt(AGENT, head_at(8, H[20], H[21]))
    made.propose(AGENT, head_at(9, H[21], H[22]))
    with pytest.raises(StateError) as caught:
        made.adopt(AGENT, head_at(8, H[20], H[21]))
    assert caught.value.code == "state.rolled_back"


def test_a_table_survives_json() -> None:
    made = table(*THREE)
    made.propose(H[9], head_at(1, H[1], H[2], epoch=7))
    again = HeadTable.from_json(json.loads(json.dumps(made.to_json())))
    assert again.to_json() == made.to_json()
    assert len(again) == 2


ROW = {
    "agent": "0x" + "ab" * 32,
    "agent_epoch": 1,
    "cluster_epoch": 1,
    "master_epoch": 1,
    "cluster": "0x" + "02" * 32,
    "height": 1,
    "parent": "0x" + "00" * 32,
    "head": "0x" + "01" * 32,
}
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
    "a boolean epoch": {"version": 1, "heads": [{**ROW, "agent_epoch": True}]},
    "a short cluster": {"version": 1, "heads": [{**ROW, "cluster": "0x02"}]},
    "no epochs": {"version": 1, "heads": [{k: v for k, v in ROW.items() if "epoch" not in k}]},
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_stored_table_is_refused_with(case: str) -> None:
    with pytest.raises(CloisterError):
        HeadTable.from_json(BAD_TABLES[case])


def test_a_table_has_a_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloister.core.state.table.MAX_HEADS", 2)
    made = table()
    made.propose(H[1], head_at(1, H[0], H[1]))
    made.propose(H[2], head_at(1, H[0], H[1]))
    with pytest.raises(StateError) as caught:
        made.propose(H[3], head_at(1, H[0], H[1]))
    assert caught.value.code == "state.table_full"
    made.propose(H[2], head_at(2, H[1], H[2]))


class Endorsing(RuleBasedStateMachine):
    """Any order of proposals, restarts from any old disk, merges with honest peers: no fork, no way back."""

    def __init__(self) -> None:
        super().__init__()
        self.member, self.peer = HeadTable(merged=True), HeadTable(merged=True)
        self.disks = [self.member.to_json()]
        self.signed: dict[bytes, bytes] = {}
        self.top = (0, 0)

    @rule(epoch=st.integers(1, 2), height=st.integers(0, 5), parent=st.integers(0, 5), head=st.integers(1, 6))
    def propose(self, epoch: int, height: int, parent: int, head: int) -> None:
        """A worker (honest or not) proposes; what is accepted counts as signed, and reaches a peer."""
        try:
            self.member.propose(AGENT, head_at(height, H[parent], H[head], epoch), genesis=H[0])
        except StateError as refusal:
            assert refusal.code.startswith("state.")  # noqa: PT017
            return
        assert self.signed.setdefault(H[parent] + bytes([height]), H[head]) == H[head]
        assert (epoch, height) >= self.top
        assert height >= self.top[1], "heights go on from epoch to epoch"
        self.top = (epoch, height)
        self.peer.adopt(AGENT, head_at(height, H[parent], H[head], epoch))
        self.disks.append(self.member.to_json())

    @rule(which=st.integers(0, 1000))
    def restart_from_an_old_disk(self, which: int) -> None:
        """The host gives back any earlier disk; the member merges before it signs."""
        self.member = HeadTable.from_json(self.disks[which % len(self.disks)])
        self.member.merge([self.peer, self.peer, self.peer, HeadTable(merged=True)], 3)

    @invariant()
    def the_newest_signed_is_remembered(self) -> None:
        """Nothing signed is ever forgotten."""
        newest = self.member.get(AGENT)
        assert (newest is None) == (self.top == (0, 0))
        if newest is not None:
            assert (newest.epochs.agent, newest.height) == self.top


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
