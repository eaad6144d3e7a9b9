"""spec/vectors/sharing.json: what must be refused is, by its code, and a resharing gives the same key to others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cloister.core.encoding.hexes import from_hex
from cloister.core.errors import CloisterError
from cloister.core.threshold.complaints import judge
from cloister.core.threshold.dkg import (
    Ceremony,
    Dealing,
    Member,
    PublicShares,
    finish_over,
    own_key,
    replay_over,
    verify_dealing,
)
from cloister.core.threshold.facts import Fault
from cloister.core.threshold.partial import Partial, TransportKey, recover_and_blame, verify_partial
from cloister.core.threshold.reshare import Resharing

ROOT = Path(__file__).parents[4]
FILE: dict[str, Any] = json.loads((ROOT / "spec" / "vectors" / "sharing.json").read_text())
FOUND, AGAIN, DERIVATION = FILE["ceremony"], FILE["resharing"], FILE["derivation"]
PUBLIC = PublicShares.from_json(FOUND["public"])


def members_of(value: dict[str, Any]) -> tuple[Member, ...]:
    return tuple(Member(m["index"], from_hex(m["address"], 20), from_hex(m["dkg_key"], 32)) for m in value["members"])


def founding() -> Ceremony:
    return Ceremony(from_hex(FOUND["id"], 32), FOUND["threshold"], members_of(FOUND))


def resharing() -> Resharing:
    return Resharing(
        from_hex(AGAIN["id"], 32),
        AGAIN["threshold"],
        members_of(AGAIN),
        2,
        old=PUBLIC,
        old_threshold=FOUND["threshold"],
        old_members=tuple(m.address for m in members_of(FOUND)),
    )


def test_the_file_is_what_the_generator_writes() -> None:
    command = [sys.executable, str(ROOT / "spec" / "vectors" / "gen_sharing.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", FOUND["refused"], ids=lambda case: case["why"])
def test_a_dealing_is_refused_by_everybody_or_by_its_receiver(case: dict[str, Any]) -> None:
    ceremony, receiver = founding(), case["receiver"]
    dealing = Dealing.from_json(case["dealing"])
    if not receiver:
        with pytest.raises(CloisterError) as caught:
            verify_dealing(ceremony, dealing)
        assert caught.value.code == case["code"]
        return
    verify_dealing(ceremony, dealing)
    key = own_key(ceremony, receiver, from_hex(FOUND["members"][receiver - 1]["dkg_private"], 32))
    fault = judge(ceremony, dealing.dealer, dealing.digest(ceremony), dealing, receiver, key)
    assert fault is Fault.BAD_SHARE


@pytest.mark.parametrize("case", DERIVATION["refused"], ids=lambda case: case["why"])
def test_a_partial_is_refused_and_its_member_named(case: dict[str, Any]) -> None:
    identity = from_hex(DERIVATION["identity"])
    transport = TransportKey(from_hex(DERIVATION["transport_public"]), from_hex(DERIVATION["transport_private"]))
    bad = Partial.from_json(case["partial"])
    with pytest.raises(CloisterError) as caught:
        verify_partial(bad, identity, PUBLIC, transport.public)
    assert caught.value.code == "threshold.bad_partial"
    good = [Partial.from_json(one) for one in DERIVATION["partials"][1:]]
    found = recover_and_blame([bad, *good], FOUND["threshold"], PUBLIC, identity, transport)
    assert found.key.point == from_hex(DERIVATION["key"])
    combines = "e2" in case["why"]  # e2 is for checking alone: without it the key is the same, and nobody is asked for
    assert found.culprits == (() if combines else (1,))


def test_the_resharing_gives_what_the_file_says() -> None:
    ceremony = resharing()
    assert ceremony.binding == from_hex(AGAIN["binding"])
    dealings = {d.dealer: d for d in map(Dealing.from_json, AGAIN["dealings"])}
    committed = {i: d.digest(ceremony) for i, d in dealings.items()}
    assert list(committed.values()) == [from_hex(digest) for digest in AGAIN["digests"]]
    public = replay_over(ceremony, dealings, committed)
    assert public.to_json() == AGAIN["public"]
    assert public.mpk == PUBLIC.mpk
    for seat, secret in zip(AGAIN["members"], AGAIN["secrets"], strict=True):
        private = from_hex(seat["dkg_private"], 32)
        share = finish_over(ceremony, dealings, committed, {}, seat["index"], private)
        assert share.secret == from_hex(secret)


def test_a_dealing_of_the_founding_is_none_of_the_resharing() -> None:
    with pytest.raises(CloisterError):
        verify_dealing(resharing(), Dealing.from_json(FOUND["dealings"][0]))
