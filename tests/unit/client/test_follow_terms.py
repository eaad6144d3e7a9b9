"""Following hand-overs that anybody offers: liars are passed over, two successors are refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from coincurve import PrivateKey

from cloister.core.chainview.terms import MAX_TERM_AGE_S, SignedHandover, Term, Terms, follow
from cloister.core.encoding.handover import Handover, members_hash
from cloister.core.encoding.signatures import SignerSet, address_of, sign_digest
from cloister.core.errors import CloisterError

NETWORK, NOW, MPK = b"\x05" * 32, 1_800_000_000, b"\x06" * 32


def keys(name: str) -> list[PrivateKey]:
    return [PrivateKey(hashlib.sha256(f"{name} {i}".encode()).digest()) for i in range(5)]


FIRST, SECOND, THIRD = keys("first"), keys("second"), keys("third")


def signers(term: int, who: list[PrivateKey]) -> SignerSet:
    return SignerSet(term, 3, tuple(address_of(k) for k in who))


def handover(
    term: int, old: list[PrivateKey], new: list[PrivateKey], *, count: int = 3, height: int = 0
) -> SignedHandover:
    members = tuple(address_of(k) for k in new)
    made = Handover(term, term + 1, 3, members_hash(members), 1, MPK, height or 100 * term, NOW - 1000 + term)
    return SignedHandover(made, members, tuple(sign_digest(k, made.digest(NETWORK)) for k in old[:count]))


FOUNDING = Term(signers(1, FIRST), 1, MPK, 0, NOW)
PINNED = Terms(NETWORK, (FOUNDING,))
ONE, TWO = handover(1, FIRST, SECOND), handover(2, SECOND, THIRD)

OFFERS: dict[str, tuple[list[SignedHandover], int]] = {
    "nothing is offered": ([], 1),
    "one hand-over": ([ONE], 2),
    "two, in any order": ([TWO, ONE], 3),
    "the same one by every member": ([ONE] * 5, 2),
    "one that too few signed": ([handover(1, FIRST, THIRD, count=2)], 1),
    "one that strangers signed": ([handover(1, THIRD, THIRD)], 1),
    "one whose members are not those of the statement": ([replace(ONE, members=ONE.members[::-1])], 1),
    "a liar's copy before the true one": ([replace(ONE, signatures=ONE.signatures[:1]), ONE], 2),
    "a liar's members before the true ones": ([replace(ONE, members=TWO.members), ONE, TWO], 3),
    "a later one without the one before": ([TWO], 1),
    "one under another network's id": ([replace(ONE, signatures=TWO.signatures)], 1),
}


@pytest.mark.parametrize("sentence", OFFERS)
def test_the_term_in_office_is_the_last_that_t_members_handed_over_to(sentence: str) -> None:
    offered, term = OFFERS[sentence]
    assert follow(PINNED, offered, NOW).in_office.signers.term == term


def test_two_successors_that_t_members_signed_are_refused() -> None:
    with pytest.raises(CloisterError) as caught:
        follow(PINNED, [ONE, handover(1, FIRST, THIRD)], NOW)
    assert caught.value.code == "chainview.handover_fork"


def test_a_successor_with_another_master_key_is_refused() -> None:
    with pytest.raises(CloisterError) as caught:
        follow(Terms(NETWORK, (replace(FOUNDING, mpk=b"\x07" * 32),)), [ONE], NOW)
    assert caught.value.code == "chainview.master_key_moved"


def test_a_committee_that_should_long_be_gone_is_refused() -> None:
    with pytest.raises(CloisterError) as caught:
        follow(PINNED.seen(NOW + 2 * MAX_TERM_AGE_S), [ONE], NOW + 2 * MAX_TERM_AGE_S)
    assert caught.value.code == "chainview.term_too_old"
