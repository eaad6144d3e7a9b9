"""Many keys at once: the same keys as one by one, and nothing that one by one would refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest
from py_arkworks_bls12381 import G1Point

from cloister.core.errors import ThresholdError
from cloister.core.threshold import groups as g
from cloister.core.threshold import partial as p
from support.sharing import network, stream

NET, OTHER = network(5, 3), network(5, 3, "another master epoch")
ASKER = p.TransportKey.generate(stream("asker of many"))
NAMES = [b"call", b"state", b"secrets"]


def wanted(name: bytes, members: tuple[int, ...] = (1, 3, 5), net: object = NET) -> p.Wanted:
    of = NET if net is NET else OTHER
    rng = stream(f"many {name!r} {members}")
    partials = [p.evaluate(of.shares[i - 1], name, ASKER.public, rng) for i in members]
    return p.Wanted(name, of.public, partials)


def moved(partial: p.Partial, by: G1Point) -> p.Partial:
    """The partial of a liar: its answer moved by a point."""
    return replace(partial, e3=g.to_bytes(g.g1_from_bytes(partial.e3) + by))


def one_by_one(asked: list[p.Wanted]) -> list[bytes]:
    return [p.recover(one.partials, 3, one.public, one.identity, ASKER).point for one in asked]


def at_once(asked: list[p.Wanted], seed: str = "weights") -> list[bytes]:
    return [key.point for key in p.recover_all(asked, 3, ASKER, stream(seed))]


def test_all_at_once_are_those_one_by_one() -> None:
    asked = [wanted(name) for name in NAMES]
    assert at_once(asked) == one_by_one(asked)


def test_keys_of_two_master_epochs_are_checked_each_against_its_own() -> None:
    asked = [wanted(b"state"), wanted(b"state", net=OTHER), wanted(b"secrets", (2, 4, 5), OTHER)]
    found = at_once(asked)
    assert found == one_by_one(asked)
    assert found[0] != found[1]


def test_nothing_asked_gives_nothing() -> None:
    assert p.recover_all([], 3, ASKER, stream("none")) == []


def test_a_liar_is_left_out_when_t_others_answered() -> None:
    good, long = wanted(b"call"), wanted(b"state", (1, 2, 3, 4))
    lied = p.Wanted(long.identity, long.public, [moved(long.partials[0], g.G1), *long.partials[1:]])
    assert at_once([good, lied]) == one_by_one([good, long])


def test_a_liar_among_three_is_named() -> None:
    good, bad = wanted(b"call"), wanted(b"state")
    lied = p.Wanted(bad.identity, bad.public, [*bad.partials[:2], moved(bad.partials[2], g.G1)])
    with pytest.raises(ThresholdError) as error:
        at_once([good, lied])
    assert error.value.code == "threshold.too_few_partials"
    assert "[5]" in error.value.found


@pytest.mark.parametrize("seed", ["one", "two", "three"])
def test_two_lies_that_cancel_out_are_seen(seed: str) -> None:
    """A member moves one key by a point and the next by its negative: the plain sum of both would still fit."""
    first, second = wanted(b"call"), wanted(b"state")
    lied = [
        p.Wanted(first.identity, first.public, [moved(first.partials[0], g.G1), *first.partials[1:]]),
        p.Wanted(second.identity, second.public, [moved(second.partials[0], -g.G1), *second.partials[1:]]),
    ]
    with pytest.raises(ThresholdError) as error:
        at_once(lied, seed)
    assert error.value.code == "threshold.too_few_partials"


def test_two_keys_that_are_exchanged_are_seen() -> None:
    """Both sums are the same points, but each under the other's name."""
    first, second = wanted(b"call"), wanted(b"state")
    swapped = [
        p.Wanted(first.identity, first.public, second.partials),
        p.Wanted(second.identity, second.public, first.partials),
    ]
    with pytest.raises(ThresholdError):
        at_once(swapped)


@pytest.mark.parametrize("field", ["e1", "e3"])
def test_a_bad_point_is_a_bad_partial_of_its_member(field: str) -> None:
    good, bad = wanted(b"call"), wanted(b"state")
    broken = replace(bad.partials[1], **{field: b"\xff" * 48})
    with pytest.raises(ThresholdError) as error:
        at_once([good, p.Wanted(bad.identity, bad.public, [bad.partials[0], broken, bad.partials[2]])])
    assert error.value.code == "threshold.too_few_partials"
    assert "[3]" in error.value.found


def small() -> G1Point:
    """A point of small order, other than zero: no multiple of the generator. It dies of the group's order alone."""
    for x in range(1, 99):
        try:
            point = G1Point.from_compressed_bytes_unchecked((x | 0x80 << 376).to_bytes(48, "big"))
        except ValueError:
            continue
        total = G1Point.identity()
        for bit in format(g.ORDER, "b"):
            total = total + total
            total = total + point if bit == "1" else total
        if total != G1Point.identity():
            return total
    raise AssertionError("no such point among the first")


SMALL = small()


@pytest.mark.parametrize("field", ["e1", "e3"])
def test_a_point_outside_the_subgroup_never_meets_the_asker_s_secret(field: str) -> None:
    """A liar adds a point of small order: what comes of x times it would tell something of x."""
    good, bad = wanted(b"call"), wanted(b"state")
    point = g.g1_from_bytes(getattr(bad.partials[1], field)) + SMALL
    assert not point.is_in_subgroup()
    broken = p.Partial.from_json({**bad.partials[1].to_json(), field: "0x" + bytes(point.to_compressed_bytes()).hex()})
    with pytest.raises(ThresholdError) as error:
        at_once([good, p.Wanted(bad.identity, bad.public, [bad.partials[0], broken, bad.partials[2]])])
    assert error.value.code == "threshold.too_few_partials"
    assert "[3]" in error.value.found


def test_small_points_of_two_liars_that_leave_the_sums_as_they_are_change_nothing() -> None:
    """1 and 3 of members 1, 2, 3 weigh 3 and 1: what one adds once, the other takes away three times."""
    one = wanted(b"state", (1, 2, 3))
    thrice = G1Point.identity() - SMALL - SMALL - SMALL
    first, second, third = one.partials
    bent = [
        replace(first, e1=bytes((g.g1_from_bytes(first.e1) + SMALL).to_compressed_bytes())),
        second,
        replace(third, e1=bytes((g.g1_from_bytes(third.e1) + thrice).to_compressed_bytes())),
    ]
    assert bent[0] != first
    assert at_once([p.Wanted(one.identity, one.public, bent)]) == one_by_one([one])
    with pytest.raises(ThresholdError):
        p.verify_partial(bent[0], one.identity, one.public, ASKER.public)


@pytest.mark.parametrize("threshold", [0, 4, 6])
def test_a_threshold_that_cannot_be_met_is_refused(threshold: int) -> None:
    with pytest.raises(ThresholdError) as error:
        p.recover_all([wanted(b"call")], threshold, ASKER, stream("threshold"))
    assert error.value.code == "threshold.too_few_partials"


def test_partials_of_another_term_do_not_count() -> None:
    one = wanted(b"call")
    old = p.Wanted(one.identity, one.public, [replace(one.partials[0], term=9), *one.partials[1:]])
    with pytest.raises(ThresholdError) as error:
        at_once([old])
    assert error.value.code == "threshold.too_few_partials"


def test_a_random_source_that_gives_nothing_stops_it() -> None:
    with pytest.raises(RuntimeError):
        p.recover_all([wanted(b"call")], 3, ASKER, lambda size: b"")
