"""The TypeScript client follows the committee from its pin, and what gateways with old keys can do to it: nothing.

The hand-overs, the term in office and the refusals are those of the Python client (tests/unit/client).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from cloister.core.chainview.epochs import EpochState
from cloister.core.chainview.terms import MAX_TERM_AGE_S, SignedHandover
from cloister.core.encoding.handover import members_hash
from cloister.core.encoding.signatures import address_of, sign_digest
from support.fake_world import MEMBERS, MPK, MPKS, test_key

SECOND = tuple(test_key(f"second {i}") for i in range(5))
THIRD = tuple(test_key(f"third {i}") for i in range(5))


def code(result: dict[str, Any]) -> str:
    assert "error" in result, result
    return str(result["error"]["code"])


def later(net: Any, seconds: float = 1) -> None:
    """The clock of both ends goes on."""
    net.world.now += seconds
    net.typescript.ok("clock", now=net.world.now)


def resolved(net: Any) -> dict[str, Any]:
    return net.typescript.do("resolve")  # type: ignore[no-any-return]


def handed_over(net: Any, members: Any = SECOND, **changes: Any) -> SignedHandover:
    """A new committee, and seats that it leased."""
    made: SignedHandover = net.world.hand_over(members, **changes)
    net.gateway.offer(net.agent)
    later(net)
    return made


def serve(net: Any, *told: SignedHandover) -> None:
    net.gateway.handovers = lambda: {"handovers": [one.to_json() for one in told], "signing": []}


def signed_again(net: Any, one: SignedHandover, keys: Any, network: bytes | None = None) -> SignedHandover:
    message = one.statement.digest(network or net.world.network.id)
    return replace(one, signatures=tuple(sign_digest(key, message) for key in keys))


# --- the honest way ---


def test_calls_go_on_under_the_next_terms(net: Any) -> None:
    net.connect()
    assert net.call()["ok"]["status"] == 200
    assert net.gateway.fetched.count("handovers") == 0
    for term, members in ((2, SECOND), (3, THIRD)):
        handed_over(net, members)
        assert resolved(net)["ok"]["term"] == term
        assert net.call()["ok"]["status"] == 200
    assert net.gateway.fetched.count("handovers") == 2


def test_a_client_with_the_founding_pin_walks_all_terms_at_once(net: Any) -> None:
    net.connect()
    for members in (SECOND, THIRD):
        handed_over(net, members)
    assert net.once()["ok"]["status"] == 200
    assert resolved(net)["ok"]["term"] == 3


def test_leases_of_the_term_before_count_until_they_end(net: Any) -> None:
    net.connect()
    seats = list(net.gateway.seats[net.agent])
    handed_over(net)
    net.gateway.seats[net.agent] = seats
    assert resolved(net)["ok"] == {"block": net.world.number, "threshold": 3, "seats": 2, "term": 2}
    assert net.call()["ok"]["status"] == 200


def test_in_its_first_block_the_next_term_is_proven_and_the_old_one_has_signed(net: Any) -> None:
    net.connect()
    seats = list(net.gateway.seats[net.agent])
    handed_over(net)
    at = replace(net.world.checkpoint(), term=1)
    net.gateway.checkpoint = lambda: net.world.sign(at, MEMBERS[:3])
    net.gateway.seats[net.agent] = seats
    assert resolved(net)["ok"]["block"] == net.world.number


def test_calls_go_on_under_a_new_master_key(net: Any) -> None:
    net.connect()
    assert net.call()["ok"]["status"] == 200
    net.world.set_epoch(1, EpochState.PAUSED, MPK)
    net.world.set_epoch(2, EpochState.PAUSED, MPKS[2])
    net.world.mine()
    net.gateway.offer(net.agent)
    later(net)
    assert resolved(net)["ok"]["seats"] == 2
    assert net.call()["ok"]["status"] == 200, "the old key is used until the new one is resumed"
    net.world.set_epoch(2, EpochState.RESUMED, MPKS[2])
    net.world.mine()
    net.gateway.offer(net.agent)
    later(net)
    assert resolved(net)["ok"]["seats"] == 2
    answer = net.call()["ok"]
    assert net.one.ran[-1:] + net.two.ran[-1:]
    assert '"master":2' in answer["kept"]["receipt"]


# --- gateways with old keys, or with none ---


def two_signatures(net: Any) -> None:
    handed_over(net, signers=2)


def strangers(net: Any) -> None:
    serve(net, signed_again(net, handed_over(net), THIRD[:3]))


def another_network(net: Any) -> None:
    serve(net, signed_again(net, handed_over(net), MEMBERS[:3], bytes(32)))


def a_skipped_term(net: Any) -> None:
    handed_over(net)
    serve(net, handed_over(net, THIRD))


def nothing_served(net: Any) -> None:
    handed_over(net)
    serve(net)


def other_members(net: Any) -> None:
    serve(net, replace(handed_over(net), members=tuple(address_of(k) for k in THIRD)))


def garbage(net: Any) -> None:
    handed_over(net)
    net.gateway.handovers = lambda: {"handovers": [None, {}, 7], "signing": []}


def a_fork(net: Any) -> None:
    one = handed_over(net)
    there = tuple(address_of(k) for k in THIRD)
    said = replace(one.statement, members=members_hash(there))
    serve(net, one, signed_again(net, SignedHandover(said, there, ()), MEMBERS[2:]))


def another_key(net: Any) -> None:
    one = handed_over(net)
    serve(net, signed_again(net, replace(one, statement=replace(one.statement, mpk=bytes(32))), MEMBERS[:3]))


def from_the_future(net: Any) -> None:
    handed_over(net, timestamp=int(net.world.now) + 3600)


def the_old_term_speaks_on(net: Any) -> None:
    handed_over(net)
    resolved(net)
    later(net, 31)  # what was resolved is not young any more
    net.world.mine()
    at = replace(net.world.checkpoint(), term=1)
    net.gateway.checkpoint = lambda: net.world.sign(at, MEMBERS[:3])


def the_new_term_speaks_before_its_time(net: Any) -> None:
    before = net.world.number
    handed_over(net)
    at = replace(net.world.checkpoint(before), term=2)
    net.gateway.checkpoint = lambda: net.world.sign(at, SECOND[:3])


def an_unfinalised_hand_over(net: Any) -> None:
    """t members signed a hand-over to a block that no committee has vouched for, and whose state is another."""
    handed_over(net)
    net.world.sit(MEMBERS, 1)
    net.world.mine()
    at = replace(net.world.checkpoint(), term=2)
    net.gateway.checkpoint = lambda: net.world.sign(at, SECOND[:3])


def the_chain_has_other_members(net: Any) -> None:
    handed_over(net)
    net.world.sit(THIRD, 2)
    net.world.mine()
    at = net.world.checkpoint()
    net.gateway.checkpoint = lambda: net.world.sign(at, SECOND[:3])


def leases_that_reach_too_far(net: Any) -> None:
    period = net.world.policy.network.period_blocks
    seats = [w.seat(net.agent, expiry=net.world.number + 9 * period) for w in (net.one, net.two)]
    handed_over(net)
    net.gateway.seats[net.agent] = [seat.to_json() for seat in seats]


def leases_of_a_former_committee(net: Any) -> None:
    handed_over(net)
    net.world.mine()
    net.gateway.offer(net.agent, members=MEMBERS[:3], term=1)


def another_key_in_the_epoch(net: Any) -> None:
    net.world.set_epoch(1, EpochState.RELEASED, MPKS[2])
    net.world.mine()


def an_epoch_that_nobody_resumed(net: Any) -> None:
    net.world.set_epoch(2, EpochState.PAUSED, MPKS[2])
    net.world.mine()


REFUSED: dict[str, tuple[Callable[[Any], None], str]] = {
    "a hand-over with t - 1 signatures": (two_signatures, "chainview.unknown_term"),
    "a hand-over that strangers signed": (strangers, "chainview.unknown_term"),
    "a hand-over signed for another network": (another_network, "chainview.unknown_term"),
    "hand-overs with a term left out": (a_skipped_term, "chainview.unknown_term"),
    "no hand-overs": (nothing_served, "chainview.unknown_term"),
    "members that the hand-over does not name": (other_members, "chainview.unknown_term"),
    "hand-overs that are none": (garbage, "chainview.unknown_term"),
    "two successors of one term": (a_fork, "chainview.handover_fork"),
    "a hand-over to another master key": (another_key, "chainview.master_key_moved"),
    "a hand-over from the future": (from_the_future, "chainview.term_too_old"),
    "an old committee that speaks on": (the_old_term_speaks_on, "chainview.term_over"),
    "a new committee that speaks of blocks before it": (the_new_term_speaks_before_its_time, "chainview.term_over"),
    "a hand-over that the chain does not have": (an_unfinalised_hand_over, "client.committee"),
    "a chain with other members in the term": (the_chain_has_other_members, "client.committee"),
    "leases of a term that is over, far into the future": (leases_that_reach_too_far, "chainview.term_over"),
    "leases that former members grant": (leases_of_a_former_committee, "chainview.term_over"),
    "another master key in the pinned epoch": (another_key_in_the_epoch, "client.committee"),
    "a master epoch that nobody resumed": (an_epoch_that_nobody_resumed, "chainview.master_epoch"),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_refused_before_anything_is_sealed(sentence: str, net: Any) -> None:
    attack, expected = REFUSED[sentence]
    net.connect()
    attack(net)
    later(net)
    assert code(net.call()) == expected
    assert net.gateway.calls == []


def test_a_liar_beside_the_honest_stops_nobody(net: Any) -> None:
    net.connect()
    one = handed_over(net)
    serve(net, signed_again(net, one, THIRD[:3]), replace(one, signatures=one.signatures[:1]), one)
    assert resolved(net)["ok"]["term"] == 2


# --- what is remembered ---


def test_a_newer_term_is_remembered_and_no_older_one_speaks_again(net: Any) -> None:
    memory = f"{uuid4()}"
    net.connect(memory=memory)
    before = net.world.number
    handed_over(net)
    assert resolved(net)["ok"]["term"] == 2
    serve(net)  # whoever serves no hand-overs tells this memory nothing old
    assert "ok" in net.connect(memory=memory)
    assert net.call()["ok"]["status"] == 200
    old = replace(net.world.checkpoint(), term=1, number=net.world.number + 5)
    net.gateway.checkpoint = lambda: net.world.sign(old, MEMBERS[:3])
    assert code(net.connect(memory=memory)) == "chainview.term_over"
    assert before < net.world.number


def test_without_a_memory_the_pin_counts_as_of_now(net: Any) -> None:
    net.connect(memory=f"{uuid4()}")
    handed_over(net)
    serve(net)
    assert code(net.connect()) == "chainview.unknown_term"


def test_a_memory_that_was_away_for_too_long_trusts_nobody(net: Any) -> None:
    memory = f"{uuid4()}"
    net.connect(memory=memory)
    assert net.call()["ok"]["status"] == 200
    net.world.now += MAX_TERM_AGE_S + 1
    net.world.mine()
    net.gateway.offer(net.agent)
    assert code(net.connect(memory=memory)) == "chainview.term_too_old"
    assert "ok" in net.connect(memory=f"{uuid4()}")


def test_a_client_that_runs_on_refuses_a_committee_that_outstayed_its_time(net: Any) -> None:
    net.connect()
    assert "ok" in resolved(net)
    net.gateway.checkpoint = lambda: net.world.sign(replace(net.world.checkpoint(), timestamp=int(net.world.now)))
    later(net, MAX_TERM_AGE_S + 1)
    assert code(resolved(net)) == "chainview.term_too_old"
