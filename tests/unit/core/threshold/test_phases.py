"""The phase is a function of facts and block number (gatekeepers.md, phases): no cryptography here, only the rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.errors import CloisterError
from cloister.core.threshold.facts import Confirmation, Facts, Fault, bits_of
from cloister.core.threshold.phases import (
    ORDER,
    TRANSITIONS,
    Deadlines,
    End,
    Phase,
    agreed_value,
    late_viewers,
    phase_at,
    waiting_openings,
    why_failed,
)
from support.sharing import ceremony_of

CEREMONY, _ = ceremony_of(5, 3, "phases")
BY = Deadlines.after(100, 10)
D, X = b"\1" * 32, b"\2" * 32
MPK = b"\3" * 96
VALUE, LIE = Confirmation(MPK, D, 0b11111), Confirmation(MPK, X, 0b11111)
EVERYBODY = frozenset(range(1, 6))
COMMITTED = Facts(committed=dict.fromkeys(EVERYBODY, D))
SHOWN = replace(COMMITTED, content=EVERYBODY)


def accused(*pairs: tuple[int, int, Fault], published: tuple[int, ...] = (), **more: Any) -> Facts:
    complaints = {(dealer, receiver): fault for dealer, receiver, fault in pairs}
    return replace(SHOWN, complaints=complaints, published=frozenset(published), **more)


UNSEEN, BAD = Fault.NOT_SHOWN, Fault.BAD_SHARE
LATE = accused((1, 2, UNSEEN), published=(1,))
CALLED_BAD = accused((1, 2, BAD), published=(1,))
CONFIRMED = replace(SHOWN, confirmed=dict.fromkeys(EVERYBODY, VALUE))


def confirmed(right: int, wrong: int = 0) -> Facts:
    said = {i: VALUE if i <= right else LIE for i in range(1, right + wrong + 1)}
    return replace(SHOWN, confirmed=said)


def few(count: int) -> Facts:
    return Facts(committed=dict.fromkeys(range(1, count + 1), D))


# sentence -> (facts, block, phase)
TABLE: dict[str, tuple[Facts, int, Phase]] = {
    "a ceremony that just opened waits for digests": (Facts(), 100, Phase.COMMIT),
    "one digest short, commit goes on": (few(4), 109, Phase.COMMIT),
    "all digests are in: dealings may be shown": (COMMITTED, 101, Phase.SHOW),
    "the block of the deadline still counts, then commit is over": (few(4), 110, Phase.SHOW),
    "t digests are enough at the deadline": (few(3), 110, Phase.SHOW),
    "t - 1 digests are too few": (few(2), 110, Phase.FAILED),
    "t - 1 digests before the deadline are not too few yet": (few(2), 109, Phase.COMMIT),
    "one receiver is not content: show goes on": (replace(SHOWN, content=frozenset({1, 2, 3, 4})), 119, Phase.SHOW),
    "the deadline of show ends it": (COMMITTED, 120, Phase.CONFIRM),
    "all are content and nobody complained: confirm": (SHOWN, 102, Phase.CONFIRM),
    "a complaint makes its dealer publish": (accused((1, 2, UNSEEN)), 105, Phase.PUBLISH),
    "a bad share too": (accused((1, 2, BAD)), 105, Phase.PUBLISH),
    "one of two accused published: publish goes on": (
        accused((1, 2, BAD), (3, 2, UNSEEN), published=(1,)), 125, Phase.PUBLISH),
    "nobody published in time: nothing to object to, nothing to open": (accused((1, 2, BAD)), 130, Phase.CONFIRM),
    "who sees a dealing only now may object": (LATE, 105, Phase.OBJECT),
    "who saw the dealing before may not: answer at once": (CALLED_BAD, 105, Phase.ANSWER),
    "the late viewer has no objection": (replace(LATE, settled=frozenset({2})), 105, Phase.CONFIRM),
    "the late viewer says nothing until the deadline": (LATE, 140, Phase.CONFIRM),
    "the late viewer calls it bad: the dealer must answer": (accused((1, 2, BAD), published=(1,)), 135, Phase.ANSWER),
    "the share is opened": (accused((1, 2, BAD), published=(1,), opened={(1, 2): X}), 135, Phase.CONFIRM),
    "the share is not opened until the deadline": (CALLED_BAD, 150, Phase.CONFIRM),
    "one of two shares is opened: answer goes on": (
        accused((1, 2, BAD), (1, 3, BAD), published=(1,), opened={(1, 2): X}), 149, Phase.ANSWER),
    "a dealer that did not publish is not waited for": (
        accused((1, 2, BAD), (3, 4, BAD), published=(1,), opened={(1, 2): X}), 131, Phase.CONFIRM),
    "t confirmations before the deadline: wait for the others": (confirmed(3), 159, Phase.CONFIRM),
    "all confirmed the same: done at once": (CONFIRMED, 103, Phase.DONE),
    "all confirmed, one of them a lie: wait for the deadline": (confirmed(4, 1), 159, Phase.CONFIRM),
    "then the lie stops nobody": (confirmed(4, 1), 160, Phase.DONE),
    "t equal ones beside n - t lies are enough": (confirmed(3, 2), 160, Phase.DONE),
    "t - 1 equal ones are not": (confirmed(2), 160, Phase.FAILED),
    "nor are t confirmations that differ": (confirmed(2, 2), 160, Phase.FAILED),
    "cancelled while committing": (Facts(cancelled=True), 101, Phase.FAILED),
    "cancelled while showing": (replace(COMMITTED, cancelled=True), 101, Phase.FAILED),
    "cancelled while publishing": (replace(accused((1, 2, BAD)), cancelled=True), 101, Phase.FAILED),
    "cancelled while objecting": (replace(LATE, cancelled=True), 101, Phase.FAILED),
    "cancelled while answering": (replace(CALLED_BAD, cancelled=True), 101, Phase.FAILED),
    "cancelled while confirming": (replace(confirmed(3), cancelled=True), 101, Phase.FAILED),
    "cancelled before the deadline, looked at after it": (replace(confirmed(3), cancelled=True), 999, Phase.FAILED),
}  # fmt: skip


@pytest.mark.parametrize("sentence", TABLE)
def test_phase(sentence: str) -> None:
    facts, number, phase = TABLE[sentence]
    facts.check(CEREMONY)
    assert phase_at(CEREMONY, BY, facts, number) is phase


WHY: dict[str, tuple[Facts, int, str]] = {
    "too few digests": (few(2), 110, "threshold.too_few_committed"),
    "too few confirmations": (confirmed(2, 2), 160, "threshold.too_few_confirmed"),
    "cancelled": (replace(COMMITTED, cancelled=True), 101, "threshold.cancelled"),
    "cancelled with t confirmations": (replace(confirmed(3), cancelled=True), 999, "threshold.cancelled"),
}


@pytest.mark.parametrize("sentence", WHY)
def test_a_failure_names_its_rule(sentence: str) -> None:
    facts, number, code = WHY[sentence]
    assert why_failed(CEREMONY, BY, facts, number).code == code


def test_a_ceremony_that_goes_on_has_no_failure() -> None:
    with pytest.raises(RuntimeError):
        why_failed(CEREMONY, BY, COMMITTED, 101)


def test_the_table_reaches_every_phase_and_every_open_phase_can_be_cancelled() -> None:
    open_phases = [phase for phase in Phase if phase not in (Phase.DONE, Phase.FAILED)]
    assert {phase for phase, _ in TRANSITIONS} == set(open_phases)
    assert set(TRANSITIONS.values()) == set(Phase) - {Phase.COMMIT}
    assert all(TRANSITIONS[(phase, End.CANCELLED)] is Phase.FAILED for phase in open_phases)
    for (phase, end), after in TRANSITIONS.items():
        assert (after is Phase.FAILED) == (end in (End.TOO_FEW, End.CANCELLED))
        assert ORDER.index(after) > ORDER.index(phase)


def test_a_phase_goes_to_the_next_one() -> None:
    for one, after in pairwise([Phase.COMMIT, Phase.SHOW, Phase.PUBLISH, Phase.OBJECT, Phase.ANSWER, Phase.CONFIRM]):
        assert TRANSITIONS[(one, End.SETTLED)] is after
        assert TRANSITIONS[(one, End.EXPIRED)] is after


def test_two_values_with_t_each_count_for_nothing() -> None:
    """Only t liars can do that; then nobody knows which value is the honest one."""
    small, _ = ceremony_of(5, 2, "small t")
    facts = confirmed(2, 2)
    assert agreed_value(small, facts) is None
    assert phase_at(small, BY, facts, 160) is Phase.FAILED
    assert agreed_value(small, confirmed(2, 1)) == VALUE


def test_q_travels_as_bits() -> None:
    assert bits_of((1, 3, 64)) == 0b101 | 1 << 63
    assert Confirmation(MPK, D, bits_of((2, 5))).dealers() == (2, 5)


def test_who_still_has_to_say_something() -> None:
    facts = accused((1, 2, UNSEEN), (3, 2, UNSEEN), (1, 4, BAD), (3, 5, BAD), published=(1,))
    assert late_viewers(facts) == {2}
    assert waiting_openings(facts) == {(1, 4)}


# Deadlines


@pytest.mark.parametrize("blocks", [(1, 2, 3, 4, 5, 5), (6, 5, 4, 3, 2, 1), (1, 2, 2, 4, 5, 6)])
def test_deadlines_that_do_not_rise_are_refused(blocks: tuple[int, ...]) -> None:
    with pytest.raises(CloisterError) as caught:
        Deadlines(*blocks)
    assert caught.value.code == "threshold.deadlines"


@pytest.mark.parametrize("block", [-1, 1 << 64, True, 1.5])
def test_deadlines_are_block_numbers(block: Any) -> None:
    with pytest.raises(CloisterError) as caught:
        Deadlines(0, 1, 2, 3, 4, block)
    assert caught.value.code in ("encoding.size", "threshold.deadlines")


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(CloisterError):
        Deadlines.after(100, 0)


def test_every_phase_that_ends_has_a_deadline() -> None:
    assert [BY.of(phase) for phase in ORDER[:6]] == [110, 120, 130, 140, 150, 160]
    with pytest.raises(KeyError):
        BY.of(Phase.DONE)


# Facts


def refused(code: str, call: Callable[[], object]) -> None:
    with pytest.raises(CloisterError) as caught:
        call()
    assert caught.value.code == code


STRANGE: dict[str, tuple[Facts, str]] = {
    "a dealer that is none": (Facts(committed={6: D}), "threshold.facts"),
    "dealer zero": (Facts(committed={0: D}), "threshold.facts"),
    "a receiver that is none": (replace(COMMITTED, content=frozenset({6})), "threshold.facts"),
    "a confirmation of a stranger": (replace(COMMITTED, confirmed={9: VALUE}), "threshold.facts"),
    "a complaint by a stranger": (replace(COMMITTED, complaints={(1, 9): BAD}), "threshold.facts"),
    "a complaint of a dealer that did not commit": (Facts(complaints={(1, 2): BAD}), "threshold.facts"),
    "a publication of one that nobody accused": (replace(COMMITTED, published=frozenset({1})), "threshold.facts"),
    "an opening that nobody asked for": (replace(COMMITTED, opened={(1, 2): X}), "threshold.facts"),
    "an opening after not shown": (accused((1, 2, UNSEEN), published=(1,), opened={(1, 2): X}), "threshold.facts"),
    "a digest of another size": (Facts(committed={1: b"\1" * 31}), "encoding.size"),
    "an opening of another size": (accused((1, 2, BAD), published=(1,), opened={(1, 2): b"\1"}), "encoding.size"),
}


@pytest.mark.parametrize("sentence", STRANGE)
def test_facts_that_cannot_be_are_refused(sentence: str) -> None:
    facts, code = STRANGE[sentence]
    refused(code, lambda: facts.check(CEREMONY))


FULL = accused((1, 2, BAD), published=(1,), opened={(1, 2): X}, settled=frozenset({2}), confirmed={1: VALUE})
CHANGES: dict[str, Facts] = {
    "another digest": replace(FULL, committed={**FULL.committed, 1: X}),
    "no digest": replace(FULL, committed={}),
    "another opening": replace(FULL, opened={(1, 2): D}),
    "another confirmation": replace(FULL, confirmed={1: LIE}),
    "no confirmation": replace(FULL, confirmed={}),
    "a lesser complaint": replace(FULL, complaints={(1, 2): UNSEEN}),
    "no complaint": replace(FULL, complaints={}),
    "nothing published": replace(FULL, published=frozenset()),
    "a word taken back": replace(FULL, content=frozenset({1})),
    "an objection taken back": replace(FULL, settled=frozenset()),
}


@pytest.mark.parametrize("sentence", CHANGES)
def test_a_later_block_that_forgets_is_refused(sentence: str) -> None:
    refused("threshold.facts_changed", lambda: CHANGES[sentence].require_later_than(FULL))


def test_a_cancelled_ceremony_stays_cancelled() -> None:
    refused("threshold.facts_changed", lambda: FULL.require_later_than(replace(FULL, cancelled=True)))


def test_more_facts_are_later_facts() -> None:
    for facts in (Facts(), COMMITTED, SHOWN, accused((1, 2, UNSEEN))):
        FULL.require_later_than(facts)
    FULL.require_later_than(FULL)


@given(st.integers(100, 200), st.integers(100, 200), st.sampled_from(sorted(TABLE)))
@settings(max_examples=150, deadline=None)
def test_with_time_alone_a_phase_never_goes_back(one: int, other: int, sentence: str) -> None:
    facts = TABLE[sentence][0]
    early, late = (phase_at(CEREMONY, BY, facts, number) for number in sorted((one, other)))
    assert ORDER.index(early) <= ORDER.index(late)
    if early in (Phase.DONE, Phase.FAILED):
        assert late is early
