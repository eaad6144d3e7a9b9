"""A wallet's session never runs a request as nobody, whatever is lost or refused on the way (spec/sealed-http.md 9)."""

from __future__ import annotations

from typing import Any

import pytest

from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.envelope.client import ClientSession
from cloister.core.envelope.opener import Failed
from cloister.core.envelope.server import SealedRefusalError
from cloister.core.errors import CloisterError
from support.sealed import NOW, World, answer, head, key

WALLET, OTHER = key(55), key(56)
SOON = NOW // 1000 + 60


def as_wallet(session: ClientSession, expiry: int = SOON) -> ClientSession:
    session.authenticate(address_of(WALLET), expiry, lambda digest: sign_digest(WALLET, digest))
    return session


def sealed_refusal(world: World, **changes: Any) -> None:
    """One request that the worker refuses after it opened; the client reads the refusal."""
    sent = world.seal(**changes)
    with pytest.raises(SealedRefusalError) as caught:
        world.open(sent.data)
    (event,) = sent.opener.feed(caught.value.sealed)
    assert isinstance(event, Failed)


def test_a_refusal_before_the_caller_was_looked_at_does_not_make_the_next_request_anonymous() -> None:
    world = World()
    as_wallet(world.client)
    sealed_refusal(world, deadline_ms=NOW - 1)
    request = world.open(world.seal().data)
    assert request.caller is not None
    assert request.caller.address == address_of(WALLET)


def test_a_wallet_that_joins_a_session_in_use_is_its_caller_from_the_next_request_on() -> None:
    world = World()
    first = world.seal()
    opened = world.open(first.data)
    assert opened.caller is None
    first.opener.feed(answer(opened))
    as_wallet(world.client)
    request = world.open(world.seal().data)
    assert request.caller is not None
    assert request.caller.address == address_of(WALLET)


def test_an_answer_to_a_request_from_before_the_wallet_joined_confirms_nothing_of_it() -> None:
    world = World()
    before = world.seal()
    as_wallet(world.client)
    before.opener.feed(answer(world.open(before.data)))
    assert world.open(world.seal().data).head.caller is not None


def test_the_caller_travels_until_a_head_opened_and_no_longer() -> None:
    world = World()
    as_wallet(world.client)
    sent = [world.seal() for _ in range(3)]
    opened = [world.open(one.data) for one in sent]
    assert all(one.head.caller is not None for one in opened)
    sent[1].opener.feed(answer(opened[1]))
    later = world.open(world.seal().data)
    assert later.head.caller is None
    assert later.caller == opened[0].caller


def test_half_a_head_confirms_nothing() -> None:
    world = World()
    as_wallet(world.client)
    sent = world.seal()
    stream = answer(world.open(sent.data))
    sent.opener.feed(stream[:40])
    assert not world.client.confirmed
    assert world.open(world.seal().data).head.caller is not None


def test_a_worker_that_lost_the_session_gets_the_caller_again() -> None:
    world = World()
    as_wallet(world.client)
    sent = world.seal()
    sent.opener.feed(answer(world.open(sent.data)))
    world.client.forget()
    assert world.open(world.seal().data).head.caller is not None


def test_a_new_word_of_the_wallet_travels_again_and_replaces_the_old_one() -> None:
    world = World()
    as_wallet(world.client)
    sent = world.seal()
    sent.opener.feed(answer(world.open(sent.data)))
    as_wallet(world.client, SOON + 100)
    request = world.open(world.seal().data)
    assert request.caller is not None
    assert request.caller.expiry == SOON + 100
    later = world.open(world.seal(deadline_ms=NOW + 90_000).data, NOW + 70_000)
    assert later.caller == request.caller


def test_after_its_expiry_a_wallets_session_is_refused_and_not_served_as_nobody() -> None:
    world = World()
    as_wallet(world.client, NOW // 1000 + 10)
    sent = world.seal()
    sent.opener.feed(answer(world.open(sent.data)))
    for _ in range(2):
        late = world.seal(deadline_ms=NOW + 60_000)
        with pytest.raises(CloisterError, match=r"envelope\.caller"):
            world.open(late.data, NOW + 10_000)


@pytest.mark.parametrize(("second_ms", "served"), [(9_999, True), (10_000, False)])
def test_a_callers_word_ends_at_its_second(second_ms: int, served: bool) -> None:
    world = World()
    as_wallet(world.client, NOW // 1000 + 10)
    record = world.seal(deadline_ms=NOW + 60_000).data
    if served:
        assert world.open(record, NOW + second_ms).caller is not None
        return
    with pytest.raises(CloisterError, match=r"envelope\.caller"):
        world.open(record, NOW + second_ms)


def test_a_refused_caller_leaves_the_one_before_it_in_place() -> None:
    world = World()
    as_wallet(world.client)
    world.open(world.seal().data)
    world.client.authenticate(address_of(OTHER), SOON, lambda digest: sign_digest(OTHER, digest))
    with pytest.raises(CloisterError, match=r"envelope\.caller"):
        world.open(world.seal().data)
    request = world.open(as_wallet(world.client).seal(head(), b"").data)
    assert request.caller is not None
    assert request.caller.address == address_of(WALLET)


def test_a_head_that_names_its_own_caller_is_sent_as_it_is() -> None:
    """The wallet's own word in a head is not replaced by the session's."""
    world = World()
    as_wallet(world.client)
    mine = world.seal()
    word = world.open(mine.data).head.caller
    as_wallet(world.client, SOON + 5)
    assert world.open(world.seal(caller=word).data).head.caller == word


def test_two_sessions_under_one_psk_have_callers_of_their_own() -> None:
    world = World()
    mine, nobody = as_wallet(world.session()), world.session()
    assert world.open(mine.seal(head(), b"").data).caller is not None
    assert world.open(nobody.seal(head(), b"").data).caller is None
