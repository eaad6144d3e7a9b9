"""The public record of a ceremony: whoever holds its hash takes share keys from anybody, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.errors import CloisterError
from cloister.core.threshold.dealing import Dealing
from cloister.core.threshold.phases import Kind
from cloister.core.threshold.transcript import Transcript, ceremony_from_json, ceremony_to_json
from support.committees import ABSENT, World
from support.sharing import network

NET = network(4, 3, "transcript")
RECORD = Transcript(NET.ceremony, NET.dealings)


@pytest.fixture(scope="module")
def reshared() -> tuple[Transcript, World]:
    old = World(4, 3, name="record").run()
    world = World(3, 2, kind=Kind.RESHARE, old=old, old_manners={2: ABSENT}, name="record-2").run()
    member = next(iter(world.receivers.values())).member
    return Transcript(world.ceremony, {i: member.dealing(i) for i in world.agreed().dealers()}), world


def test_it_gives_the_share_keys_that_every_member_computed() -> None:
    assert RECORD.public_shares(NET.public.transcript, NET.public.mpk) == NET.public


def test_a_resharing_gives_them_over_its_qualified_dealers_alone(reshared: tuple[Transcript, World]) -> None:
    record, world = reshared
    agreed = world.agreed()
    assert sorted(record.dealings) == [1, 3, 4]
    public = record.public_shares(agreed.transcript, agreed.mpk)
    assert public == next(iter(world.shares().values())).public
    assert public.term == 2


def test_it_reads_back_as_it_was_written(reshared: tuple[Transcript, World]) -> None:
    for record in (RECORD, reshared[0]):
        assert Transcript.from_bytes(record.to_bytes()) == record
        assert ceremony_from_json(ceremony_to_json(record.ceremony)) == record.ceremony


def without(index: int) -> dict[int, Dealing]:
    return {i: d for i, d in NET.dealings.items() if i != index}


OTHERS: dict[str, Transcript] = {
    "a dealer left out": Transcript(NET.ceremony, without(2)),
    "another threshold": Transcript(replace(NET.ceremony, threshold=2), NET.dealings),
    "another id": Transcript(replace(NET.ceremony, id=b"\1" * 32), NET.dealings),
    "a changed proof": Transcript(NET.ceremony, {**NET.dealings, 1: replace(NET.dealings[1], proof=bytes(48))}),
    "two dealers' dealings exchanged": Transcript(NET.ceremony, {**NET.dealings, 1: NET.dealings[2]}),
}


@pytest.mark.parametrize("sentence", OTHERS)
def test_a_record_is_refused_with(sentence: str) -> None:
    with pytest.raises(CloisterError) as caught:
        OTHERS[sentence].public_shares(NET.public.transcript, NET.public.mpk)
    assert caught.value.code == "threshold.transcript"


def test_another_master_key_beside_the_right_hash_is_refused() -> None:
    with pytest.raises(CloisterError) as caught:
        RECORD.public_shares(NET.public.transcript, network(3, 2, "other").public.mpk)
    assert caught.value.code == "threshold.transcript"


def test_two_dealings_of_one_dealer_are_no_record() -> None:
    body = RECORD.to_json()
    body["dealings"].append(body["dealings"][0])
    with pytest.raises(CloisterError):
        Transcript.from_json(body)


@given(st.integers(0, 10**6), st.integers(0, 7))
@settings(max_examples=60, deadline=None)
def test_a_flipped_bit_is_refused_or_gives_the_same_record(place: int, bit: int) -> None:
    data = bytearray(RECORD.to_bytes())
    data[place % len(data)] ^= 1 << bit
    try:
        found = Transcript.from_bytes(bytes(data))
        public = found.public_shares(NET.public.transcript, NET.public.mpk)
    except CloisterError:
        return
    assert replace(public, term=1) == NET.public, "only the term is not in the hash of a founding"


JUNK: list[Any] = [None, [], {}, {"ceremony": 1, "dealings": []}, {"ceremony": {}, "dealings": [1]}]


@pytest.mark.parametrize("value", JUNK)
def test_garbage_is_refused(value: Any) -> None:
    with pytest.raises(CloisterError):
        Transcript.from_json(value)


@given(st.binary(max_size=400))
def test_any_bytes_are_no_frame_of_a_dealing_or_the_very_one(data: bytes) -> None:
    with pytest.raises(CloisterError):
        Dealing.from_frame(data)


@pytest.mark.parametrize("index", [1, 4])
def test_a_published_frame_reads_back(index: int) -> None:
    dealing = NET.dealings[index]
    assert Dealing.from_frame(dealing.framed(NET.ceremony)) == dealing
    for cut in (1, 40, 200):
        with pytest.raises(CloisterError):
            Dealing.from_frame(dealing.framed(NET.ceremony)[:-cut])
