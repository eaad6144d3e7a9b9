"""Transcripts that differ in one place: no two records share a hash, and no other record passes for the proven one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cloister.core.encoding import jcs
from cloister.core.errors import CloisterError
from cloister.core.threshold.dealing import Dealing, transcript_of
from cloister.core.threshold.transcript import Transcript, ceremony_from_json, ceremony_to_json
from support.sharing import network

NET = network(3, 2, "bytes")
RECORD = Transcript(NET.ceremony, NET.dealings)
GOOD = RECORD.to_json()
HASH = NET.public.transcript


def code_of(work: Callable[[], object]) -> str:
    with pytest.raises(CloisterError) as caught:
        work()
    return caught.value.code


def flipped(text: str, at: int) -> str:
    """A hex text with one digit changed, ``at`` digits from its end."""
    place = len(text) - 1 - at
    return text[:place] + ("0" if text[place] != "0" else "1") + text[place + 1 :]


def changed(path: tuple[str | int, ...], change: Callable[[Any], Any]) -> dict[str, Any]:
    """The record with one value changed."""
    body: dict[str, Any] = jcs.decode(RECORD.to_bytes())
    at: Any = body
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = change(at[path[-1]])
    return body


PLACES: dict[str, tuple[str | int, ...]] = {
    "the ceremony's id": ("ceremony", "id"),
    "the first member's address": ("ceremony", "members", 0, "address"),
    "the last member's address": ("ceremony", "members", 2, "address"),
    "a member's transport key": ("ceremony", "members", 1, "key"),
    "the first commitment of a dealer": ("dealings", 0, "commitments", 0),
    "the last commitment of a dealer": ("dealings", 2, "commitments", 1),
    "a proof": ("dealings", 1, "proof"),
    "a sealed share": ("dealings", 1, "shares", 2),
    "the last sealed share of all": ("dealings", 2, "shares", 2),
}


@pytest.mark.parametrize("what", PLACES)
@pytest.mark.parametrize("at", [0, 1, 13, 39])
def test_one_digit_changed_in_it_is_another_transcript(what: str, at: int) -> None:
    other = Transcript.from_json(changed(PLACES[what], lambda text: flipped(text, at)))
    assert other.hash() != HASH
    assert code_of(lambda: other.public_shares(HASH, NET.public.mpk)) == "threshold.transcript"


NUMBERS: dict[str, tuple[tuple[str | int, ...], Any]] = {
    "a lower threshold": (("ceremony", "threshold"), 1),
    "a higher threshold": (("ceremony", "threshold"), 3),
    "another dealer": (("dealings", 0, "dealer"), 7),
}


@pytest.mark.parametrize("what", NUMBERS)
def test_another_number_is_another_transcript(what: str) -> None:
    path, value = NUMBERS[what]
    other = Transcript.from_json(changed(path, lambda _: value))
    assert other.hash() != HASH
    assert code_of(lambda: other.public_shares(HASH, NET.public.mpk)) == "threshold.transcript"


def test_which_dealings_count_is_in_the_hash() -> None:
    """Each subset of Q, and each dealing under another's name, has a hash of its own."""
    seen = {HASH}
    for left in ((1, 2), (1, 3), (2, 3), (1,), (2,), (3,)):
        seen.add(Transcript(NET.ceremony, {i: NET.dealings[i] for i in left}).hash())
    swapped = {1: NET.dealings[2], 2: NET.dealings[1], 3: NET.dealings[3]}
    seen.add(Transcript(NET.ceremony, swapped).hash())
    assert len(seen) == 8


def test_digests_count_by_dealer_and_not_by_how_they_are_listed() -> None:
    digests = NET.committed
    assert transcript_of(NET.ceremony, dict(reversed(digests.items()))) == HASH
    exchanged = {1: digests[2], 2: digests[1], 3: digests[3]}
    assert transcript_of(NET.ceremony, exchanged) != HASH
    assert len({transcript_of(NET.ceremony, one) for one in (digests, exchanged, {1: digests[1]}, {})}) == 4


def test_too_few_dealers_with_the_right_hash_of_themselves_give_no_keys() -> None:
    """Who makes a record of fewer than t dealers gives its own hash: the proven one is asked for first."""
    alone = Transcript(NET.ceremony, {1: NET.dealings[1]})
    assert code_of(lambda: alone.public_shares(HASH, NET.public.mpk)) == "threshold.transcript"
    assert code_of(lambda: alone.public_shares(alone.hash(), NET.public.mpk)) == "threshold.too_few_qualified"


def test_a_dealing_that_does_not_verify_gives_no_keys_even_under_its_own_hash() -> None:
    bad = Transcript(NET.ceremony, {**NET.dealings, 2: replace(NET.dealings[2], proof=bytes(48))})
    assert code_of(lambda: bad.public_shares(bad.hash(), NET.public.mpk)) == "threshold.possession"


def test_honest_dealings_of_two_of_three_are_another_committee() -> None:
    two = Transcript(NET.ceremony, {i: NET.dealings[i] for i in (1, 2)})
    public = network(3, 2, "bytes").public
    assert code_of(lambda: two.public_shares(two.hash(), public.mpk)) == "threshold.transcript"


# Forms.

BODY = ceremony_to_json(NET.ceremony)
MEMBER = BODY["members"][0]
BAD: dict[str, Any] = {
    "a field more": {**BODY, "more": 1},
    "no id": {k: v for k, v in BODY.items() if k != "id"},
    "an id that is short": {**BODY, "id": "0x00"},
    "an id in upper case": {**BODY, "id": BODY["id"].upper()},
    "a threshold in words": {**BODY, "threshold": "2"},
    "a threshold that is true": {**BODY, "threshold": True},
    "a threshold beyond 16 bits": {**BODY, "threshold": 1 << 16},
    "a term below zero": {**BODY, "term": -1},
    "a term beyond 64 bits": {**BODY, "term": 1 << 64},
    "no members": {**BODY, "members": []},
    "members that are no list": {**BODY, "members": {"0": MEMBER}},
    "more members than there can be": {**BODY, "members": [MEMBER] * 65},
    "a member twice": {**BODY, "members": [*BODY["members"][:2], MEMBER]},
    "a member without a key": {**BODY, "members": [{"address": MEMBER["address"]}]},
    "a member with a field more": {**BODY, "members": [{**MEMBER, "index": 1}]},
    "a member's address that is long": {**BODY, "members": [{**MEMBER, "address": "0x" + "00" * 21}]},
    "an old committee without its keys": {**BODY, "old": {"threshold": 1, "members": []}},
    "an old committee of nobody": {
        **BODY,
        "term": 2,
        "old": {"threshold": 1, "members": [], "public": NET.public.to_json()},
    },
    "an old committee in words": {**BODY, "old": "none"},
    "a resharing of its own term": {
        **BODY,
        "old": {
            "threshold": 2,
            "members": [one["address"] for one in BODY["members"]],
            "public": NET.public.to_json(),
        },
    },
}


@pytest.mark.parametrize("what", BAD)
def test_it_is_no_ceremony_with(what: str) -> None:
    assert code_of(lambda: ceremony_from_json(BAD[what])).startswith(("encoding.", "threshold."))


RECORDS: dict[str, Any] = {
    "dealings that are no list": {**GOOD, "dealings": {}},
    "more dealings than there can be": {**GOOD, "dealings": GOOD["dealings"] * 22},
    "a dealing twice": {**GOOD, "dealings": [*GOOD["dealings"], GOOD["dealings"][0]]},
    "a dealing with a field more": {**GOOD, "dealings": [{**GOOD["dealings"][0], "x": 1}]},
    "a dealing without its shares": {**GOOD, "dealings": [{**GOOD["dealings"][0], "shares": []}]},
    "a dealing in words": {**GOOD, "dealings": ["0x00"]},
    "no dealings at all": {"ceremony": GOOD["ceremony"]},
    "a field more": {**GOOD, "hash": "0x" + HASH.hex()},
}


@pytest.mark.parametrize("what", RECORDS)
def test_it_is_no_record_with(what: str) -> None:
    assert code_of(lambda: Transcript.from_json(RECORDS[what])).startswith(("encoding.", "threshold."))


@pytest.mark.parametrize(
    "data", [b"", b"{", b"null", b'{"ceremony":1}', b" " + RECORD.to_bytes(), RECORD.to_bytes() + b" "]
)
def test_other_bytes_are_no_record(data: bytes) -> None:
    assert code_of(lambda: Transcript.from_bytes(data)).startswith(("encoding.", "threshold."))


def test_a_record_over_its_cap_is_not_read() -> None:
    assert code_of(lambda: Transcript.from_bytes(b" " * ((1 << 22) + 1))).startswith("encoding.")


def test_a_record_has_one_spelling() -> None:
    assert Transcript.from_bytes(RECORD.to_bytes()).to_bytes() == RECORD.to_bytes()
    assert jcs.encode(GOOD) == RECORD.to_bytes()
    assert Dealing.from_json(GOOD["dealings"][0]) == NET.dealings[1]
