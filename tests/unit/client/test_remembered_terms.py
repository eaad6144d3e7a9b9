"""What a client remembers of the committee from one run to the next, and what it does when that is spoilt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.client import Home
from cloister.client.secrets import set_secrets
from cloister.client.terms import FOLDER, remember, remembered, walk_of
from cloister.core.chainview.epochs import EpochState
from cloister.core.chainview.terms import MAX_TERM_AGE_S, Terms, follow, pinned
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import CloisterError
from support.fake_world import MPK, MPKS, NOW, World, test_key

SECOND = tuple(test_key(f"second {i}") for i in range(5))
_WORLD = World()
ONE = _WORLD.hand_over(SECOND)
TERMS = follow(pinned(_WORLD.network, NOW), [ONE], NOW)
NAME = f"{_WORLD.network.fingerprint()[:32]}.json"


def read(home: Home, now: int = NOW) -> Terms:
    return remembered(_WORLD.network, home, now)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_a_home_that_knows_nothing_takes_the_pin_as_of_now(home: Home) -> None:
    assert read(home, 17) == pinned(_WORLD.network, 17)
    assert not home.names(FOLDER)


def test_what_was_followed_is_there_again(home: Home) -> None:
    remember(_WORLD.network, home, TERMS.seen(NOW + 9))
    found = read(home, NOW + 100)
    assert (found.in_office, found.told) == (TERMS.seen(NOW + 9).in_office, (ONE,))
    assert [one.signers for one in found.known] == [one.signers for one in TERMS.known]
    assert (home.path / FOLDER / NAME).stat().st_mode & 0o777 == 0o600


def test_a_home_that_was_away_for_too_long_trusts_nobody(home: Home) -> None:
    remember(_WORLD.network, home, TERMS)
    later = NOW + MAX_TERM_AGE_S + 1
    with pytest.raises(CloisterError, match=r"chainview\.term_too_old"):
        read(home, later).require_fresh(later)


def test_another_network_has_a_memory_of_its_own(home: Home) -> None:
    remember(_WORLD.network, home, TERMS)
    other = World().network
    if other.fingerprint() != _WORLD.network.fingerprint():
        assert remembered(other, home, NOW) == pinned(other, NOW)


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "an empty file": lambda d: b"",
    "no JSON": lambda d: b"\xff" * 9,
    "another version": lambda d: d.replace(b'"version":1', b'"version":2'),
    "a signature of somebody else": lambda d: d.replace(b'"signatures":["0x', b'"signatures":["0x00'[:-2] + b"1"),
    "hand-overs that are none": lambda d: b'{"handovers":[{}],"seen":1,"version":1}',
    "a time that is none": lambda d: b'{"handovers":[],"seen":-1,"version":1}',
    "one field more": lambda d: d.replace(b'"version":1', b'"version":1,"x":1'),
    "another term first": lambda d: d.replace(b'"term":1', b'"term":4'),
}


@pytest.mark.parametrize("sentence", SPOILT)
def test_a_spoilt_memory_is_named(sentence: str, home: Home) -> None:
    remember(_WORLD.network, home, TERMS)
    data = home.read(FOLDER, NAME)
    assert data is not None
    home.write(FOLDER, NAME, SPOILT[sentence](data))
    with pytest.raises(CloisterError, match=r"client\.terms") as caught:
        read(home)
    assert NAME in caught.value.expected or "in a row" in caught.value.expected


@given(at=st.integers(0, 1 << 16), bit=st.integers(0, 7))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_flipped_bit_brings_another_committee(at: int, bit: int, home: Home) -> None:
    remember(_WORLD.network, home, TERMS)
    data = bytearray(home.read(FOLDER, NAME) or b"")
    data[at % len(data)] ^= 1 << bit
    home.write(FOLDER, NAME, bytes(data))
    try:
        found = read(home)
    except CloisterError as error:
        assert error.code == "client.terms"  # noqa: PT017 - either is right
        return
    assert [one.signers for one in found.known] == [one.signers for one in TERMS.known]


def test_a_walk_writes_new_terms_at_once_and_otherwise_once_a_day(home: Home) -> None:
    now = float(NOW)

    async def fetch() -> list[Any]:
        return []

    walk = walk_of(_WORLD.network, fetch, lambda: now, home)
    walk.spoke()
    first = (home.path / FOLDER / NAME).stat().st_mtime_ns
    now += 3600
    walk.spoke()
    assert (home.path / FOLDER / NAME).stat().st_mtime_ns == first
    now += 24 * 3600
    walk.spoke()
    assert read(home).in_office.seen == int(now)


def test_a_home_that_cannot_be_written_remembers_nothing(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("in the way")

    async def fetch() -> list[Any]:
        return []

    home = Home(tmp_path / "gone")
    walk = walk_of(_WORLD.network, fetch, lambda: float(NOW), home)
    home.path.write_text("a file")
    walk.spoke()
    assert walk.terms.in_office.signers.term == 1


# --- the client object ---


async def test_a_client_remembers_the_term_and_goes_on_from_it(net: Any) -> None:
    async with net.client() as client:
        agent = await client.agent(net.agent)
        assert (await agent.get("/")).status == 200
        net.world.hand_over(SECOND)
        net.gateway.offer(net.agent)
        net.world.now += 1
        await client.resolver.resolve(net.agent, again=True)
        assert (await agent.get("/")).status == 200
        assert (await client.describe(net.agent))["seats"]
    net.world.told = []  # whoever serves no hand-overs tells this home nothing old
    async with net.client() as again:
        assert again.resolver.walk.terms.in_office.signers.term == 2
        assert (await (await again.agent(net.agent)).get("/")).status == 200


async def test_calls_go_on_under_a_new_master_key(net: Any) -> None:
    async with net.client() as client:
        agent = await client.agent(net.agent)
        assert (await agent.get("/")).status == 200
        net.world.set_epoch(1, EpochState.PAUSED, MPK)
        net.world.set_epoch(2, EpochState.RESUMED, MPKS[2])
        net.world.mine()
        net.gateway.offer(net.agent)
        await client.resolver.resolve(net.agent, again=True)
        reply = await agent.get("/")
        assert reply.status == 200
        assert reply.receipt.master_epoch == 2
        assert keccak256(client.resolver.mpk(2)) != keccak256(net.world.network.mpk)


async def test_secrets_wait_while_a_new_master_key_waits(net: Any) -> None:
    net.world.newest_epoch = 2
    async with net.client(wallet=None) as client:
        record = await client.resolver.record(net.agent)
        at = await client.resolver.version(record)
        from cloister.client.secrets import _require_no_rotation

        with pytest.raises(CloisterError, match=r"client\.secrets_pending"):
            await _require_no_rotation(client, at)
        net.world.newest_epoch = 1
        await _require_no_rotation(client, at)
    assert set_secrets.__doc__
