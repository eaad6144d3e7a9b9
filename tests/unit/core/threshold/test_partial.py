"""Partial evaluations: who can open, who is blamed, and that t - 1 members are nobody."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from py_arkworks_bls12381 import Scalar

from cloister.core.encoding.identity import AgentVersion, Purpose
from cloister.core.errors import CloisterError, ThresholdError
from cloister.core.threshold import groups as g
from cloister.core.threshold import partial as p
from support.sharing import Network, network, stream

NET = network(5, 3)
AGENT = AgentVersion(b"\x01" * 32, 1, b"\x02" * 32, 0, b"\x03" * 32, 7)
IDENTITY = bytes(AGENT.key(Purpose.STATE))
ASKER = p.TransportKey.generate(stream("asker"))
THIEF = p.TransportKey.generate(stream("thief"))


def ask(
    net: Network, members: Any, identity: bytes = IDENTITY, transport: p.TransportKey = ASKER, seed: str = "ask"
) -> list[p.Partial]:
    rng = stream(seed)
    return [p.evaluate(net.shares[i - 1], identity, transport.public, rng) for i in members]


def open_with(net: Network, partials: list[p.Partial], transport: p.TransportKey = ASKER) -> bytes:
    return p.recover(partials, net.ceremony.threshold, net.public, IDENTITY, transport).point


KEY = open_with(NET, ask(NET, (1, 2, 3)))


# Any t, and never t - 1


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 7).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))), st.sampled_from(["one", "two"]))
def test_any_t_members_give_the_same_key_and_no_t_minus_1_do(size: tuple[int, int], seed: str) -> None:
    n, t = size
    net = network(n, t, seed)
    every = ask(net, range(1, n + 1))
    keys = {open_with(net, list(chosen)) for chosen in combinations(every, t)}
    assert len(keys) == 1
    for chosen in combinations(every, t - 1):
        with pytest.raises(ThresholdError) as caught:
            open_with(net, list(chosen))
        assert caught.value.code == "threshold.too_few_partials"
        if chosen:  # also when they pretend that t - 1 were the threshold, the result is not the key
            with pytest.raises(ThresholdError) as caught:
                p.recover(list(chosen), t - 1, net.public, IDENTITY, ASKER)
            assert caught.value.code == "threshold.not_the_key"


def test_the_key_is_the_same_for_every_asker_and_every_time() -> None:
    assert open_with(NET, ask(NET, (5, 4, 2), seed="later")) == KEY
    assert open_with(NET, ask(NET, (5, 4, 2), transport=THIEF), THIEF) == KEY
    assert open_with(NET, ask(NET, (1, 2, 3, 4, 5))) == KEY


def test_the_key_fits_the_master_key_and_no_other() -> None:
    found = p.recover(ask(NET, (1, 2, 3)), 3, NET.public, IDENTITY, ASKER)
    found.verify(NET.public.mpk, IDENTITY)
    with pytest.raises(ThresholdError):
        found.verify(network(5, 3, "other").public.mpk, IDENTITY)
    with pytest.raises(ThresholdError):
        found.verify(NET.public.mpk, IDENTITY + b"\0")


def test_every_version_in_an_identity_gives_another_key() -> None:
    identities = [
        AGENT.key(Purpose.STATE),
        AGENT.key(Purpose.SECRETS),
        AGENT.key(Purpose.CALL, 4),
        AGENT.key(Purpose.CALL, 5),
        AGENT.bumped().key(Purpose.STATE),
        replace(AGENT, master_epoch=2).key(Purpose.STATE),
        replace(AGENT, cluster_epoch=1).key(Purpose.STATE),
        replace(AGENT, network=b"\x09" * 32).key(Purpose.STATE),
    ]
    keys = {p.recover(ask(NET, (1, 2, 3), bytes(i)), 3, NET.public, bytes(i), ASKER).point for i in identities}
    assert len(keys) == len(identities)


def test_partials_of_one_member_never_repeat() -> None:
    first, second = ask(NET, (1, 1))
    assert {first.e1, first.e2, first.e3}.isdisjoint({second.e1, second.e2, second.e3})


def test_only_the_asker_opens() -> None:
    """A relay that carries all partials, and asks with its own key in the asker's place, gets nothing."""
    with pytest.raises(ThresholdError) as caught:
        open_with(NET, ask(NET, (1, 2, 3)), THIEF)
    assert caught.value.code == "threshold.too_few_partials"


# A wrong partial is blamed


def other_share(index: int) -> p.Partial:
    return replace(ask(NET, (index % 5 + 1,))[0], index=index)


WRONG = {
    "made with another share": lambda: other_share(2),
    "for another identity": lambda: ask(NET, (2,), IDENTITY + b"x")[0],
    "for another transport key": lambda: ask(NET, (2,), transport=THIEF)[0],
    "from another network": lambda: ask(network(5, 3, "other"), (2,))[0],
    "with e1 and e2 of two r": lambda: replace(ask(NET, (2,))[0], e1=ask(NET, (2,), seed="second")[0].e1),
    "with another e3": lambda: replace(ask(NET, (2,))[0], e3=g.to_bytes(g.G1 * Scalar(5))),
    "with the identity for e1": lambda: replace(ask(NET, (2,))[0], e1=b"\xc0" + bytes(47)),
    "with the identity for e2": lambda: replace(ask(NET, (2,))[0], e2=b"\xc0" + bytes(95)),
    "with the identity for e3": lambda: replace(ask(NET, (2,))[0], e3=b"\xc0" + bytes(47)),
    "that is no point": lambda: replace(ask(NET, (2,))[0], e3=b"\xff" * 48),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_partial_is_refused_alone(name: str) -> None:
    with pytest.raises(ThresholdError) as caught:
        p.verify_partial(WRONG[name](), IDENTITY, NET.public, ASKER.public)
    assert caught.value.code == "threshold.bad_partial"
    assert "member 2" in caught.value.expected


@pytest.mark.parametrize("name", [name for name in WRONG if "two r" not in name and "for e2" not in name])
def test_a_wrong_partial_is_blamed_and_t_good_ones_suffice(name: str) -> None:
    good = ask(NET, (1, 3, 4))
    found = p.recover_and_blame([good[0], WRONG[name](), *good[1:]], 3, NET.public, IDENTITY, ASKER)
    assert found.key.point == KEY
    assert found.culprits == (2,)


@pytest.mark.parametrize("name", WRONG)
def test_too_few_good_ones_name_the_wrong_members(name: str) -> None:
    bad = [WRONG[name](), other_share(4)]
    with pytest.raises(ThresholdError) as caught:
        p.recover([*ask(NET, (1,)), *bad], 3, NET.public, IDENTITY, ASKER)
    assert caught.value.code == "threshold.too_few_partials"
    assert "4" in caught.value.found


def test_honest_partials_verify_without_any_secret() -> None:
    for partial in ask(NET, (1, 2, 3, 4, 5)):
        p.verify_partial(partial, IDENTITY, NET.public, ASKER.public)


def test_a_stranger_is_blamed() -> None:
    strangers = [replace(ask(NET, (1,))[0], index=index) for index in (0, 6, 65, 60000)]
    found = p.recover_and_blame([*strangers, *ask(NET, (1, 2, 3))], 3, NET.public, IDENTITY, ASKER)
    assert found.key.point == KEY
    assert found.culprits == (0, 6, 65, 60000)


def test_one_member_twice_counts_once() -> None:
    with pytest.raises(ThresholdError) as caught:
        p.recover([*ask(NET, (1, 2)), *ask(NET, (2, 2), seed="again")], 3, NET.public, IDENTITY, ASKER)
    assert caught.value.code == "threshold.too_few_partials"


def test_a_forged_second_partial_does_not_push_a_good_member_out() -> None:
    forged = [other_share(index) for index in (1, 2, 3)]
    found = p.recover_and_blame([*forged, *ask(NET, (1, 2, 3))], 3, NET.public, IDENTITY, ASKER)
    assert found.key.point == KEY
    assert found.culprits == ()


def test_floods_are_refused_before_any_work() -> None:
    with pytest.raises(ThresholdError) as caught:
        p.recover(ask(NET, (1,)) * (p.MAX_PARTIALS + 1), 3, NET.public, IDENTITY, ASKER)
    assert caught.value.code == "threshold.too_many_partials"


@pytest.mark.parametrize("threshold", [0, -1, 6])
def test_a_threshold_that_cannot_be_is_refused(threshold: int) -> None:
    with pytest.raises(ThresholdError):
        p.recover(ask(NET, (1, 2, 3)), threshold, NET.public, IDENTITY, ASKER)


def test_public_shares_of_another_network_do_not_fit() -> None:
    mixed = replace(NET.public, mpk=network(5, 3, "other").public.mpk)
    with pytest.raises(ThresholdError) as caught:
        p.recover(ask(NET, (1, 2, 3)), 3, mixed, IDENTITY, ASKER)
    assert caught.value.code == "threshold.not_the_key"


# What a gatekeeper refuses to evaluate


BAD_TRANSPORT = {
    "the identity": b"\xc0" + bytes(47),
    "outside the group": b"\xff" * 48,
    "short": ASKER.public[:-1],
    "a G2 point": NET.public.mpk,
}


@pytest.mark.parametrize("name", BAD_TRANSPORT)
def test_a_bad_transport_key_gets_no_partial(name: str) -> None:
    with pytest.raises(ThresholdError) as caught:
        p.evaluate(NET.shares[0], IDENTITY, BAD_TRANSPORT[name], stream("x"))
    assert caught.value.code == "threshold.point"


@pytest.mark.parametrize("identity", [b"", b"x" * 5000])
def test_an_identity_off_the_caps_gets_no_partial(identity: bytes) -> None:
    with pytest.raises(ThresholdError):
        p.evaluate(NET.shares[0], identity, ASKER.public, stream("x"))


# Forms


def test_a_partial_survives_its_json_form() -> None:
    partial = ask(NET, (4,))[0]
    assert p.Partial.from_json(json.loads(json.dumps(partial.to_json()))) == partial


GOOD_JSON = ask(NET, (1,))[0].to_json()
BAD_JSON: dict[str, Any] = {
    "null": None,
    "a list": [GOOD_JSON],
    "an unknown field": {**GOOD_JSON, "purpose": 1},
    "no e2": {k: v for k, v in GOOD_JSON.items() if k != "e2"},
    "a text index": {**GOOD_JSON, "index": "1"},
    "a true index": {**GOOD_JSON, "index": True},
    "a huge index": {**GOOD_JSON, "index": 1 << 20},
    "e1 and e2 exchanged": {**GOOD_JSON, "e1": GOOD_JSON["e2"], "e2": GOOD_JSON["e1"]},
    "hex without 0x": {**GOOD_JSON, "e3": GOOD_JSON["e3"][2:]},
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_a_partial_of_another_form_is_refused(name: str) -> None:
    with pytest.raises(CloisterError):
        p.Partial.from_json(BAD_JSON[name])


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["e1", "e2", "e3"]), st.integers(0, 48 * 8 - 1))
def test_a_flipped_bit_in_a_partial_is_blamed(name: str, bit: int) -> None:
    partial = ask(NET, (3,))[0]
    raw = bytearray(getattr(partial, name))
    raw[bit // 8] ^= 1 << bit % 8
    changed = p.Partial.from_json({**partial.to_json(), name: "0x" + raw.hex()})
    with pytest.raises(ThresholdError) as caught:
        p.verify_partial(changed, IDENTITY, NET.public, ASKER.public)
    assert caught.value.code == "threshold.bad_partial"


# One share that answers again and again


def test_an_evaluator_gives_the_same_keys_as_each_answer_alone() -> None:
    net, transport = network(5, 3), p.TransportKey.generate(stream("many"))
    identities = [b"one", b"two", b"three", b"one"]
    members = [p.Evaluator(share) for share in net.shares[:3]]
    for round_ in range(2):  # the second from what was kept
        answers = [m.partials(identities, transport.public, stream(f"r{round_}{i}")) for i, m in enumerate(members)]
        for place, identity in enumerate(identities):
            partials = [answer[place] for answer in answers]
            for partial in partials:
                p.verify_partial(partial, identity, net.public, transport.public)
            alone = [p.evaluate(share, identity, transport.public, stream("x")) for share in net.shares[:3]]
            key = p.recover(partials, 3, net.public, identity, transport)
            assert key == p.recover(alone, 3, net.public, identity, transport)


def test_an_evaluator_never_repeats_an_answer() -> None:
    net, transport = network(3, 2), p.TransportKey.generate(stream("fresh"))
    member, rng = p.Evaluator(net.shares[0]), stream("rng")
    found = [x for _ in range(3) for x in member.partials([b"id", b"id"], transport.public, rng)]
    for part in ("e1", "e2", "e3"):
        assert len({getattr(x, part) for x in found}) == 6


def test_an_evaluator_keeps_the_identities_asked_for_last_and_no_more() -> None:
    net, transport = network(3, 2), p.TransportKey.generate(stream("kept"))
    member = p.Evaluator(net.shares[0], keep=2)
    for identity in (b"a", b"b", b"a", b"c"):
        member.partials([identity], transport.public, stream("r"))
    assert list(member._powers) == [b"a", b"c"]
    [again] = member.partials([b"b"], transport.public, stream("r"))
    p.verify_partial(again, b"b", net.public, transport.public)
    assert repr(member) == "Evaluator(index=1, kept=2)"


def test_an_evaluator_refuses_what_one_answer_refuses() -> None:
    member = p.Evaluator(network(3, 2).shares[0])
    transport = p.TransportKey.generate(stream("good"))
    for identities, key in (([b"id"], bytes(48)), ([b""], transport.public), ([b"id", bytes(5000)], transport.public)):
        with pytest.raises(ThresholdError):
            member.partials(identities, key, stream("r"))
    assert member.partials([], transport.public, stream("r")) == []


def test_masks_made_before_hide_as_well_as_those_made_now() -> None:
    net, transport = network(5, 3), p.TransportKey.generate(stream("early"))
    answers = []
    for share in net.shares[:3]:
        masks = p.Masks(transport.public, stream(f"masks {share.index}"), 6)
        for _ in range(2):
            masks.prepare()
        assert repr(masks) == "Masks(ready=2)", "nothing secret in a log"
        answers.append(p.Evaluator(share).masked([b"one", b"two", b"three"], masks))
        assert repr(masks) == "Masks(ready=0)"
    for place, identity in enumerate((b"one", b"two", b"three")):
        partials = [answer[place] for answer in answers]
        for partial in partials:
            p.verify_partial(partial, identity, net.public, transport.public)
        p.recover(partials, 3, net.public, identity, transport).verify(net.public.mpk, identity)


@pytest.mark.parametrize("count", [1, 6])
def test_a_mask_is_taken_once_and_is_three_times_one_number(count: int) -> None:
    transport = p.TransportKey.generate(stream("once"))
    masks = p.Masks(transport.public, stream("numbers"), count)
    found = [masks.take() for _ in range(4)]
    assert len({e1 for e1, _, _ in found}) == len({e2 for _, e2, _ in found}) == 4
    x = g.scalar_from_bytes(transport.private)
    for e1, e2, mask in found:
        assert mask == g.g1_from_bytes(e1) * x
        assert g.pairings_equal((g.g1_from_bytes(e1), g.G2), (g.G1, g.g2_from_bytes(e2)))


@pytest.mark.parametrize("name", BAD_TRANSPORT)
def test_there_are_no_masks_for_a_bad_transport_key(name: str) -> None:
    with pytest.raises(ThresholdError) as caught:
        p.Masks(BAD_TRANSPORT[name], stream("x"), 6)
    assert caught.value.code == "threshold.point"


def test_transport_keys_hide_their_private_half() -> None:
    assert ASKER.private.hex() not in repr(ASKER)
    assert repr(ASKER.private) not in repr(ASKER)
    assert ASKER.public == g.to_bytes(g.G1 * g.scalar_from_bytes(ASKER.private))
    assert ASKER != THIEF
