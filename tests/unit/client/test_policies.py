"""An owner's view of an agent's rules: what a change does, in words, and what the rules say to a call."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.client.client import Client
from cloister.client.demand import Demand
from cloister.client.policies import Change, Rules, differences, dry_run, parse_address, read_rules
from cloister.core.chainview.records import UpgradeMode
from cloister.core.errors import CloisterError
from cloister.core.policy import access
from support import hooks
from support.fake_gateway import FakeGateway, FakeWorker, serving
from support.fake_world import Other, World

HOOK, SOMEBODY, NOBODY = b"\xa0" * 20, b"\x0b" * 20, bytes(20)
BARE = Rules(b"\x01" * 32, 0, NOBODY, NOBODY, NOBODY, 0, "frozen", (None, None, None))
NAMES = st.lists(st.sampled_from(["a.org", "b.org", "*.c.org"]), max_size=3).map(tuple)


def said(before: Rules, change: Change) -> list[tuple[str, str, str]]:
    return [(r["rule"], r["effect"], r["binds"]) for r in differences(before, change.applied(before))]


LISTED = replace(BARE, lists=(("a.org", "b.org"), None, ("m",)))
CASES: dict[str, tuple[Rules, Change, list[tuple[str, str, str]]]] = {
    "nothing named changes nothing": (LISTED, Change(), []),
    "a first list narrows at once": (
        BARE, Change(egress=("a.org",)), [("egress", "of what the manifest allows, only a.org", "at once")],
    ),
    "an empty first list leaves nothing": (
        BARE, Change(tools=()), [("tools", "of what the manifest allows, only nothing", "at once")],
    ),
    "a host less binds at once, a host more when final": (
        LISTED, Change(egress=("b.org", "c.org")),
        [("egress", "no longer a.org", "at once"), ("egress", "also c.org, if the manifest has it", "when final")],
    ),
    "taking a list away binds when final": (
        LISTED, Change(unlisted=("models",)), [("models", "no list: all that the manifest allows", "when final")],
    ),
    "a list beats its own removal": (LISTED, Change(models=("m", "n"), unlisted=("egress",)), [
        ("egress", "no list: all that the manifest allows", "when final"),
        ("models", "also n, if the manifest has it", "when final"),
    ]),
    "no hook means anybody": (
        replace(BARE, hook=HOOK), Change(hook=NOBODY), [("access hook", "anybody may call", "when final")],
    ),
    "no guardian": (
        replace(BARE, guardian=HOOK), Change(guardian=NOBODY),
        [("guardian", "nobody else may pause or veto", "when final")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("sentence", CASES)
def test_a_change_in_words(sentence: str) -> None:
    before, change, rows = CASES[sentence]
    assert said(before, change) == rows


def test_a_new_hook_binds_at_once_and_a_payer_is_only_asked() -> None:
    rows = differences(BARE, Change(hook=HOOK, payer=SOMEBODY, guardian=SOMEBODY).applied(BARE))
    assert [(r["rule"], r["binds"]) for r in rows] == [
        ("access hook", "at once"), ("guardian", "when final"), ("fee payer", "when final"),
    ]  # fmt: skip


@given(NAMES, NAMES)
@settings(max_examples=40, deadline=None)
def test_a_change_back_and_forth_differs_in_nothing(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    first = Change(egress=one).applied(BARE)
    there = Change(egress=other).applied(first)
    back = Change(egress=one).applied(there)
    assert differences(first, back) == []
    assert bool(differences(first, there)) == (set(one) != set(other))


@pytest.mark.parametrize("text", ["", "0x12", "0x" + "zz" * 20, "nobody", "0x" + "11" * 21])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(CloisterError):
        parse_address(text)


def test_addresses() -> None:
    assert parse_address("none") == NOBODY
    assert parse_address("0x" + "AB" * 20) == b"\xab" * 20


def test_a_host_that_is_none_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(CloisterError):
        Change(egress=("https://a.org",)).applied(BARE)


# --- over proven state ---


@pytest_asyncio.fixture
async def net() -> AsyncIterator[tuple[World, Client, bytes]]:
    world = World()
    agent = world.set_agent()
    gateway = FakeGateway(world, [FakeWorker(world)])
    world.mine()
    with serving(gateway):
        options: Any = {"fingerprint": world.network.fingerprint(), "clock": lambda: world.now}
        async with Client(gateway.url, **options) as client:
            yield world, client, agent


async def test_rules_are_read_with_their_lists(net: tuple[World, Client, bytes]) -> None:
    world, client, agent = net
    data = access.encode_list(["b.org", "a.org"])
    world.blobs[access.list_hash(data)] = data
    world.set_rules(agent, egress_hash=access.list_hash(data), access_hook=HOOK)
    world.mine()
    rules = await read_rules(client, agent)
    assert rules.lists == (("a.org", "b.org"), None, None)
    assert rules.to_json()["access_hook"].lower() == "0x" + HOOK.hex()
    assert rules.to_json()["fee_payer"] is None


async def test_a_list_that_the_store_lost_is_a_refusal_not_an_empty_list(net: tuple[World, Client, bytes]) -> None:
    world, client, agent = net
    world.set_rules(agent, egress_hash=os.urandom(32))
    world.mine()
    with pytest.raises(CloisterError):
        await read_rules(client, agent)


async def test_a_dry_run_runs_the_hook_over_proven_state(net: tuple[World, Client, bytes]) -> None:
    world, client, agent = net
    world.others[HOOK] = Other(hooks.BY_LIST, {int.from_bytes(SOMEBODY, "big"): 1})
    world.mine()
    rules = replace(await read_rules(client, agent), hook=HOOK, lists=(("a.org",), None, None))
    asked: dict[str, Any] = {"method": "GET", "path": "/", "host": "a.org"}
    rows = await dry_run(client, rules, caller=SOMEBODY, **asked)
    assert rows[0]["answer"].startswith("yes, says the hook")
    assert rows[1]["answer"] == "if its manifest says so"
    rows = await dry_run(client, rules, caller=None, **(asked | {"host": "b.org:8443"}))
    assert rows[0]["answer"] == "no: no (policy.access_denied)"
    assert rows[1]["answer"] == "no"


async def test_without_a_hook_everybody_may_call(net: tuple[World, Client, bytes]) -> None:
    _, client, agent = net
    rules = await read_rules(client, agent)
    rows = await dry_run(client, rules, caller=None, method="GET", path="/", host="")
    assert [r["answer"] for r in rows] == ["yes: no access hook"]


@pytest.mark.parametrize(
    ("why", "lists", "tool", "model", "answers"),
    [
        ("no lists: the manifest's word", (None, None), "t", "m", ["if its manifest names it"] * 2),
        ("listed", (("t",), ("m",)), "t", "m", ["if its manifest names it"] * 2),
        ("not listed", (("u",), ()), "t", "m", ["no: while its manifest names it, it does not run"] * 2),
        ("not asked", (("u",), ()), "", "", []),
    ],
)
async def test_a_dry_run_says_what_lists_mean_for_a_tool_and_a_model(
    net: tuple[World, Client, bytes],
    why: str,
    lists: tuple[tuple[str, ...] | None, tuple[str, ...] | None],
    tool: str,
    model: str,
    answers: list[str],
) -> None:
    _, client, agent = net
    rules = replace(await read_rules(client, agent), lists=(None, *lists))
    rows = await dry_run(client, rules, caller=None, method="GET", path="/", tool=tool, model=model)
    assert [row["answer"] for row in rows[1:]] == answers, why


# --- what a caller may pin ---


@pytest.mark.parametrize(
    ("sentence", "mode", "delay", "wanted", "accepted"),
    [
        ("a longer delay is accepted", UpgradeMode.DELAYED, 100, 50, True),
        ("exactly the delay is accepted", UpgradeMode.DELAYED, 50, 50, True),
        ("a shorter one is not", UpgradeMode.DELAYED, 49, 50, False),
        ("frozen code always is", UpgradeMode.FROZEN, 0, 50, True),
        ("instant code never is", UpgradeMode.INSTANT, 0, 1, False),
        ("who asks for nothing gets the rule as it is", UpgradeMode.DELAYED, 1, 0, True),
    ],
)
def test_a_caller_may_ask_for_notice(sentence: str, mode: UpgradeMode, delay: int, wanted: int, accepted: bool) -> None:
    world = World()
    record = replace(world.agents[world.set_agent()], upgrade_mode=mode, upgrade_delay=delay)
    demand = Demand(min_upgrade_blocks=wanted, upgrade_not_instant=False)
    if accepted:
        demand.check_record(record, None)
        return
    with pytest.raises(CloisterError) as error:
        demand.check_record(record, record.owner)
    assert error.value.code == "client.demand_delay", sentence
