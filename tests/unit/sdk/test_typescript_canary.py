"""Who of the TypeScript client's callers reach an agent's canary: the same as of Python's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloister.client.resolve import in_share
from cloister.core.chainview.records import Canary
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import address_of
from support.fake_world import test_key

CODE, MANIFEST = b"\xca" * 32, b"\xcb" * 32


def beside(net: Any, share: int, *workers: Any, ready_at: int = 0, **changes: Any) -> None:
    """A canary on chain, and its seats at these workers (default all)."""
    net.world.set_agent(canary=Canary(CODE, MANIFEST, share, ready_at))
    net.world.mine()
    fields = {"code_hash": CODE, "manifest_hash": MANIFEST, **changes}
    net.gateway.seats[net.agent] += [w.seat(net.agent, **fields).to_json() for w in workers or net.gateway.workers]


def in_force(net: Any) -> str:
    return to_hex(net.world.agents[net.agent].code_hash)


def reached(net: Any, demand: dict[str, Any] | None = None, **options: Any) -> str:
    """Whose receipt came back, or the code of the refusal."""
    found = net.connect(demand, **options)
    answer = found if "error" in found else net.call()
    return str(answer["error"]["code"] if "error" in answer else answer["ok"]["proof"]["code_hash"])


@pytest.mark.parametrize(("share", "there"), [(100, True), (0, False)])
def test_all_callers_of_a_share_of_100_reach_the_canary_and_none_of_0(share: int, there: bool, net: Any) -> None:
    beside(net, share)
    assert reached(net) == (to_hex(CODE) if there else in_force(net))


def test_the_callers_of_a_share_are_those_of_python(net: Any) -> None:
    canary = Canary(CODE, MANIFEST, 50, 0)
    beside(net, 50)
    seen = set()
    for number in range(6):
        key = test_key(f"caller {number}")
        here = in_share(net.agent, canary, address_of(key))
        seen.add(here)
        assert reached(net, key=to_hex(key.secret)) == (to_hex(CODE) if here else in_force(net))
    assert seen == {True, False}


PINS: dict[str, tuple[dict[str, str], str]] = {
    "the canary's code": ({"codeHash": to_hex(CODE)}, to_hex(CODE)),
    "the canary's manifest": ({"manifestHash": to_hex(MANIFEST)}, to_hex(CODE)),
    "another code": ({"codeHash": "0x" + "ee" * 32}, "client.demand_code"),
    "the canary's code and another manifest": (
        {"codeHash": to_hex(CODE), "manifestHash": "0x" + "ee" * 32},
        "client.demand_code",
    ),
}


@pytest.mark.long
def test_a_pin_gets_that_version_at_any_share_and_no_other(net: Any) -> None:
    for share in (0, 100):
        net.gateway.offer(net.agent)
        beside(net, share)
        for sentence, (pin, expected) in PINS.items():
            assert reached(net, pin) == expected, sentence
        assert reached(net, {"codeHash": in_force(net)}) == in_force(net)


def test_a_pinned_canary_that_waits_is_refused_by_name(net: Any) -> None:
    beside(net, 100, ready_at=net.world.number + 100)
    assert reached(net, {"codeHash": to_hex(CODE)}) == "client.no_canary_seat"
    assert reached(net) == in_force(net)


def test_demands_hold_for_the_canary_too(net: Any) -> None:
    beside(net, 100, net.one)
    assert reached(net, {"codeHash": to_hex(CODE), "vendor": "amd"}) == "client.demand_worker"
    assert reached(net, {"vendor": "amd"}) == in_force(net)
    assert reached(net, {"vendor": "intel"}) == to_hex(CODE)


def test_a_demand_for_x_wing_takes_no_canary_without_it(net: Any) -> None:
    for worker in (net.one, net.two):
        worker.hybrid = True
    net.gateway.offer(net.agent)
    for worker in (net.one, net.two):
        worker.hybrid = False
    beside(net, 100)
    assert reached(net, {"postQuantum": True}) == in_force(net)


LIES: dict[str, dict[str, Any]] = {
    "code that the chain does not name": {"code_hash": b"\xee" * 32},
    "the canary's code under another manifest": {"manifest_hash": b"\xee" * 32},
    "a canary of another epoch": {"agent_epoch": 2},
}


def test_seats_that_the_chain_does_not_name_are_left_out(net: Any) -> None:
    for sentence, lie in LIES.items():
        net.gateway.offer(net.agent)
        beside(net, 100, **lie)
        assert reached(net) == in_force(net), sentence


def test_a_canary_alone_serves_nobody(net: Any) -> None:
    beside(net, 100)
    net.gateway.seats[net.agent] = [s for s in net.gateway.seats[net.agent] if to_hex(CODE) in json.dumps(s)]
    assert reached(net) == "client.no_seat"
