"""A ceremony as its member sees it.

The script of an honest one: commit, commit, commit; reveal, reveal, reveal; confirm, confirm, confirm; use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.errors import CloisterError, ThresholdError
from cloister.core.threshold.ceremony import TRANSITIONS, Event, Phase, Run
from cloister.core.threshold.dkg import Dealing, deal
from support.sharing import network, stream

NET = network(3, 2)
MPK, TRANSCRIPT = NET.public.mpk, NET.public.transcript


def start(index: int = 1) -> Run:
    return Run(NET.ceremony, index, NET.dealings[index], NET.privates[index - 1])


def committed(index: int = 1) -> Run:
    run = start(index)
    for i, digest in NET.committed.items():
        run.on_commitment(i, digest)
    return run


def revealed(index: int = 1) -> Run:
    run = committed(index)
    for i, dealing in NET.dealings.items():
        if i != index:
            run.on_dealing(dealing)
    return run


def done(index: int = 1) -> Run:
    run = revealed(index)
    for i in (1, 2, 3):
        run.on_confirmation(i, MPK, TRANSCRIPT)
    return run


def refused(code: str, call: Callable[[], object]) -> CloisterError:
    with pytest.raises(ThresholdError) as caught:
        call()
    assert caught.value.code == code
    return caught.value


# The honest way


def test_three_members_go_through_all_phases_and_share_one_key() -> None:
    runs = [start(i) for i in (1, 2, 3)]
    assert {run.phase for run in runs} == {Phase.COMMIT}
    for run in runs:
        for other in runs:
            run.on_commitment(other.my_index, other.digest)
    assert {run.phase for run in runs} == {Phase.REVEAL}
    for run in runs:
        for other in runs:
            run.on_dealing(other.my_dealing())
    assert {run.phase for run in runs} == {Phase.CONFIRM}
    for run in runs:
        for other in runs:
            run.on_confirmation(other.my_index, *other.confirmation())
    assert {run.phase for run in runs} == {Phase.DONE}
    assert tuple(run.share() for run in runs) == NET.shares


def test_a_member_alone_is_a_committee() -> None:
    net = network(1, 1)
    run = Run(net.ceremony, 1, net.dealings[1], net.privates[0])
    run.on_commitment(1, run.digest)
    run.on_confirmation(1, *run.confirmation())
    assert run.share() == net.shares[0]


def test_the_order_within_a_phase_does_not_matter() -> None:
    for order in permutations((1, 2, 3)):
        run = start(2)
        for i in order:
            run.on_commitment(i, NET.committed[i])
        for i in order:
            run.on_dealing(NET.dealings[i])
        for i in order:
            run.on_confirmation(i, MPK, TRANSCRIPT)
        assert run.share() == NET.shares[1]


def test_what_is_missing_is_said() -> None:
    run = start()
    assert run.missing() == [1, 2, 3]
    run.on_commitment(2, NET.committed[2])
    assert run.missing() == [1, 3]
    run = committed()
    assert run.missing() == [2, 3]
    assert revealed().missing() == [1, 2, 3]
    assert done().missing() == []


def test_events_that_come_twice_change_nothing() -> None:
    run = done()
    for i in (1, 2, 3):
        run.on_commitment(i, NET.committed[i])
        run.on_dealing(NET.dealings[i])
        run.on_confirmation(i, MPK, TRANSCRIPT)
    assert run.phase is Phase.DONE
    assert run.share() == NET.shares[0]


def test_a_fast_members_confirmation_is_kept_until_we_can_compare() -> None:
    run = committed()
    run.on_confirmation(2, MPK, TRANSCRIPT)
    run.on_confirmation(3, MPK, TRANSCRIPT)
    assert run.phase.value == "reveal"
    run.on_dealing(NET.dealings[2])
    run.on_dealing(NET.dealings[3])
    assert run.missing() == [1]
    run.on_confirmation(1, MPK, TRANSCRIPT)
    assert run.phase.value == "done"


def test_after_a_crash_the_same_events_lead_to_the_same_share() -> None:
    first, again = done(3), done(3)
    assert first.share() == again.share()
    assert Run(NET.ceremony, 3, Dealing.from_json(first.my_dealing().to_json()), NET.privates[2]).digest == first.digest


# The table


def test_the_table_has_a_row_for_every_phase_that_can_end() -> None:
    assert {phase for phase, _ in TRANSITIONS} == {Phase.COMMIT, Phase.REVEAL, Phase.CONFIRM}
    assert all((phase, Event.ABORT) in TRANSITIONS for phase in (Phase.COMMIT, Phase.REVEAL, Phase.CONFIRM))


AT: dict[Phase, Callable[[], Run]] = {
    Phase.COMMIT: start,
    Phase.REVEAL: committed,
    Phase.CONFIRM: revealed,
    Phase.DONE: done,
}


def _new_event(run: Run, event: Event) -> None:
    """An event that the run has not seen."""
    if event is Event.COMMITMENT:
        run.on_commitment(1, b"\x01" * 32)
    elif event is Event.DEALING:
        run.on_dealing(deal(NET.ceremony, 2, stream("new")))
    elif event is Event.CONFIRMATION:
        run.on_confirmation(1, b"\x01" * 96, TRANSCRIPT)
    else:
        run.abort("because")


@pytest.mark.parametrize(("phase", "event"), [pair for pair in product(AT, Event) if pair not in TRANSITIONS])
def test_an_event_without_a_row_is_refused_and_changes_nothing(phase: Phase, event: Event) -> None:
    run = AT[phase]()
    with pytest.raises(ThresholdError):
        _new_event(run, event)
    assert run.phase is phase


@pytest.mark.parametrize("event", Event)
def test_an_aborted_ceremony_takes_nothing_new(event: Event) -> None:
    run = start()
    run.abort("deadline at block 90")
    with pytest.raises(ThresholdError):
        _new_event(run, event)
    assert (run.phase, run.reason) == (Phase.ABORTED, "deadline at block 90")


# Each rule and its refusal


def test_a_dealing_is_not_shown_before_every_digest_is_on_chain() -> None:
    run = start()
    refused("threshold.too_early", run.my_dealing)
    run.on_commitment(1, NET.committed[1])
    run.on_commitment(2, NET.committed[2])
    refused("threshold.too_early", run.my_dealing)
    run.on_commitment(3, NET.committed[3])
    assert run.my_dealing() == NET.dealings[1]


def test_a_dealing_is_not_taken_before_every_digest_is_on_chain() -> None:
    run = start()
    run.on_commitment(2, NET.committed[2])
    refused("threshold.too_early", lambda: run.on_dealing(NET.dealings[2]))
    assert run.phase is Phase.COMMIT


def test_a_member_does_not_commit_twice_differently() -> None:
    run = start()
    run.on_commitment(2, NET.committed[2])
    refused("threshold.commitment_changed", lambda: run.on_commitment(2, b"\x01" * 32))
    run = revealed()
    refused("threshold.commitment_changed", lambda: run.on_commitment(2, b"\x01" * 32))


def test_a_foreign_digest_under_our_index_aborts() -> None:
    run = start()
    refused("threshold.not_my_commitment", lambda: run.on_commitment(1, b"\x01" * 32))
    assert run.phase is Phase.ABORTED
    assert "not_my_commitment" in run.reason


def test_a_dealing_that_was_not_committed_is_refused_but_may_be_asked_for_again() -> None:
    run = committed()
    late = deal(NET.ceremony, 2, stream("chosen late"))
    refused("threshold.dealing_changed", lambda: run.on_dealing(late))
    assert run.phase is Phase.REVEAL
    run.on_dealing(NET.dealings[2])
    assert run.missing() == [3]


def _committed_to(bad: Dealing) -> Run:
    run = start()
    for i, digest in {**NET.committed, bad.dealer: bad.digest(NET.ceremony)}.items():
        run.on_commitment(i, digest)
    return run


def test_a_committed_dealing_with_a_bad_proof_aborts() -> None:
    bad = replace(NET.dealings[2], proof=NET.dealings[3].proof)
    run = _committed_to(bad)
    error = refused("threshold.possession", lambda: run.on_dealing(bad))
    assert "dealer 2" in error.expected
    assert run.phase is Phase.ABORTED


def test_a_committed_dealing_with_a_bad_share_for_us_aborts_and_names_the_dealer() -> None:
    shares = NET.dealings[2].shares
    bad = replace(NET.dealings[2], shares=(shares[1], *shares[1:]))
    run = _committed_to(bad)
    run.on_dealing(NET.dealings[3])
    error = refused("threshold.bad_share", lambda: run.on_dealing(bad))
    assert "dealer 2" in error.expected
    assert run.phase is Phase.ABORTED
    assert "dealer 2" in run.reason


@pytest.mark.parametrize("wrong", [(b"\x01" * 96, TRANSCRIPT), (MPK, b"\x01" * 32)])
def test_a_confirmation_of_another_result_aborts(wrong: tuple[bytes, bytes]) -> None:
    run = revealed()
    error = refused("threshold.confirmation_differs", lambda: run.on_confirmation(2, *wrong))
    assert "[2]" in error.found
    assert run.phase is Phase.ABORTED


def test_an_early_confirmation_of_another_result_aborts_as_soon_as_we_know() -> None:
    run = committed()
    run.on_confirmation(3, MPK, b"\x01" * 32)
    run.on_dealing(NET.dealings[2])
    refused("threshold.confirmation_differs", lambda: run.on_dealing(NET.dealings[3]))
    assert run.phase is Phase.ABORTED


def test_two_confirmations_of_one_member_abort() -> None:
    run = committed()
    run.on_confirmation(3, MPK, TRANSCRIPT)
    refused("threshold.confirmation_differs", lambda: run.on_confirmation(3, MPK, b"\x01" * 32))
    assert run.phase is Phase.ABORTED


def test_a_share_is_not_used_before_all_confirmed() -> None:
    run = revealed()
    run.on_confirmation(1, MPK, TRANSCRIPT)
    run.on_confirmation(2, MPK, TRANSCRIPT)
    assert "[3]" in refused("threshold.not_confirmed", run.share).found
    assert run.share_to_store() == NET.shares[0]
    run.on_confirmation(3, MPK, TRANSCRIPT)
    assert run.share() == NET.shares[0]


def test_nothing_is_confirmed_or_stored_before_every_dealing_is_checked() -> None:
    run = committed()
    refused("threshold.not_confirmed", run.confirmation)
    refused("threshold.not_confirmed", run.share_to_store)


def test_an_aborted_ceremony_gives_no_share_and_keeps_no_secret() -> None:
    run = revealed()
    run.abort("ordered by the chain")
    refused("threshold.not_confirmed", run.share)
    refused("threshold.not_confirmed", run.share_to_store)
    refused("threshold.too_early", run.my_dealing)
    assert run._private is None
    assert run._share is None


def test_the_transport_key_goes_when_the_ceremony_is_done() -> None:
    assert done()._private is None


def test_a_run_needs_its_members_own_dealing_and_key() -> None:
    refused("threshold.transport_key", lambda: Run(NET.ceremony, 1, NET.dealings[1], NET.privates[1]))
    refused("threshold.dealing_changed", lambda: Run(NET.ceremony, 1, NET.dealings[2], NET.privates[0]))
    other = network(3, 2, "other").dealings[1]
    refused("threshold.possession", lambda: Run(NET.ceremony, 1, other, NET.privates[0]))


@pytest.mark.parametrize("index", [0, 4])
def test_only_members_take_part(index: int) -> None:
    refused("threshold.ceremony", lambda: start().on_commitment(index, b"\x01" * 32))
    refused("threshold.ceremony", lambda: committed().on_confirmation(index, MPK, TRANSCRIPT))
    refused("threshold.ceremony", lambda: committed().on_dealing(replace(NET.dealings[2], dealer=index)))


def test_a_run_prints_no_secret() -> None:
    text = repr(done())
    assert NET.privates[0].hex() not in text
    assert NET.shares[0].secret.hex() not in text


# Any order of events, hostile ones among them

GOOD_EVENTS: list[tuple[Event, int]] = [
    (event, index) for event in (Event.COMMITMENT, Event.DEALING, Event.CONFIRMATION) for index in (1, 2, 3)
]


def _play(run: Run, event: Event, index: int, honest: bool) -> None:
    if event is Event.COMMITMENT:
        run.on_commitment(index, NET.committed[index] if honest else bytes([index]) * 32)
    elif event is Event.DEALING:
        run.on_dealing(NET.dealings[index] if honest else replace(NET.dealings[index], proof=b"\x01" * 64))
    elif event is Event.CONFIRMATION:
        run.on_confirmation(index, MPK, TRANSCRIPT if honest else b"\x01" * 32)
    else:
        run.abort("deadline")


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([*GOOD_EVENTS, (Event.ABORT, 0)]), st.integers(0, 9)), max_size=40),
)
def test_no_order_of_events_gives_a_share_without_all_confirmations(
    events: list[tuple[tuple[Event, int], int]],
) -> None:
    """One event in ten is a lie. Whatever happens: phases never go back, and a share needs every honest step."""
    run, order, taken = start(), list(Phase), set()
    for (event, index), dice in events:
        before = run.phase
        try:
            _play(run, event, index, honest=dice != 0)
            if dice != 0:
                taken.add((event, index))
        except ThresholdError:
            pass
        assert order.index(run.phase) >= order.index(before)
        try:
            share = run.share()
        except ThresholdError:
            continue
        assert share == NET.shares[0]
        assert {pair for pair in GOOD_EVENTS if pair != (Event.DEALING, 1)} <= taken
        assert run.phase is Phase.DONE


@settings(max_examples=50, deadline=None)
@given(st.permutations(GOOD_EVENTS))
def test_honest_events_asked_for_until_they_are_taken_always_end_in_the_share(events: list[tuple[Event, int]]) -> None:
    """Refused events are brought again later, as pollers do; honest members never end in an abort."""
    run, waiting, codes = start(), list(events), set()
    for _ in range(4):
        left = []
        for event, index in waiting:
            try:
                _play(run, event, index, honest=True)
            except ThresholdError as error:
                codes.add(error.code)
                left.append((event, index))
        waiting = left
    assert run.share() == NET.shares[0]
    assert waiting == []
    assert codes <= {"threshold.too_early", "threshold.wrong_phase"}


@pytest.mark.parametrize("phase", AT)
def test_every_phase_says_what_it_waits_for_in_its_refusal(phase: Phase) -> None:
    run = AT[phase]()
    if phase is Phase.DONE:
        assert run.share() == NET.shares[0]
        return
    error = refused("threshold.not_confirmed", run.share)
    assert phase.value in error.found
    assert str(run.missing()) in error.found
