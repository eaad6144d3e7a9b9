"""What a call does not decide anew, and what ends each decision that is kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cloister.core.errors import CloisterError
from cloister.core.receipts.receipt import Receipt
from cloister.sandbox.ports import AgentResponseHead
from cloister.worker import serve
from support import hooks
from support.fake_world import Other
from support.worker_kit import Rig

HOOK = b"\xa0" * 20
Change = Callable[[Rig, bytes], Awaitable[None]]


async def _a_hook_that_is_final(rig: Rig, agent: bytes) -> None:
    rig.world.set_rules(agent, access_hook=HOOK)
    await rig.follow(1)


async def _a_hook_at_a_newer_block(rig: Rig, agent: bytes) -> None:
    rig.world.set_rules(agent, access_hook=HOOK)
    await rig.watch.watch_rules(agent)


async def _a_pause_at_a_newer_block(rig: Rig, agent: bytes) -> None:
    rig.world.paused_now.add(agent)
    await rig.watch.watch_pause(agent)


async def _a_removal_at_a_newer_block(rig: Rig, agent: bytes) -> None:
    rig.world.removed_now.add(rig.node.address)
    await rig.watch.watch_removal(rig.node.address)


async def _a_committee_that_is_silent(rig: Rig, agent: bytes) -> None:
    rig.now_s += 100.0


async def _the_end_of_the_lease(rig: Rig, agent: bytes) -> None:
    rig.table.advance(rig.seat(agent).certificate.expiry)


ENDS: dict[str, tuple[Change, str]] = {
    "a hook in the newest checkpoint": (_a_hook_that_is_final, "policy.access_denied"),
    "a hook at a newer block that an endpoint shows": (_a_hook_at_a_newer_block, "policy.access_denied"),
    "a pause at a newer block": (_a_pause_at_a_newer_block, "policy.paused"),
    "this worker's removal at a newer block": (_a_removal_at_a_newer_block, "worker.removed"),
    "a committee that is silent": (_a_committee_that_is_silent, "worker.stale_view"),
    "the end of the lease": (_the_end_of_the_lease, "worker.no_such_agent"),
}


@pytest.mark.parametrize("what", ENDS)
async def test_what_ends_the_kept_decision_ends_it_at_the_next_call_of_an_open_session(rig: Rig, what: str) -> None:
    change, code = ENDS[what]
    agent = await rig.deploy()
    rig.world.others[HOOK] = Other(hooks.NO, {})
    session = rig.session(agent)
    for _ in range(2):
        assert (await rig.call(agent, session=session)).status == 200
    await change(rig, agent)
    try:
        found = (await rig.call(agent, session=session)).code
    except CloisterError as error:
        found = error.code
    assert found == code


async def test_a_hook_is_looked_for_once_per_news_and_again_after_each(rig: Rig, monkeypatch: Any) -> None:
    agent, asked = await rig.deploy(), list[bytes]()
    session, rules = rig.session(agent), rig.watch.rules

    async def counted(of: bytes) -> Any:
        asked.append(of)
        return await rules(of)

    await rig.call(agent, session=session)  # the start of the agent reads its rules too
    await rig.follow(1)
    monkeypatch.setattr(rig.watch, "rules", counted)
    for number in range(1, 3):
        for _ in range(3):
            await rig.call(agent, session=session)
        assert asked == [agent] * number
        await rig.follow(1)


async def test_news_that_come_while_the_rules_are_read_leave_nothing_kept(rig: Rig, monkeypatch: Any) -> None:
    agent = await rig.deploy()
    session, rules = rig.session(agent), rig.watch.rules

    async def overtaken(of: bytes) -> Any:
        found = await rules(of)
        rig.watch._tell()
        return found

    monkeypatch.setattr(rig.watch, "rules", overtaken)
    await rig.call(agent, session=session)
    assert rig.access._hookless.get(agent) != rig.watch.news


async def test_no_more_agents_than_the_cap_are_remembered_as_hookless(rig: Rig, monkeypatch: Any) -> None:
    agent = await rig.deploy()
    monkeypatch.setattr("cloister.worker.access.MAX_ANSWERS", 1)
    rig.access._hookless = {b"other": 1}
    assert (await rig.call(agent)).status == 200
    assert set(rig.access._hookless) == {agent}


async def test_a_kept_response_head_names_the_height_of_its_own_call(rig: Rig) -> None:
    agent = await rig.deploy()
    first = await rig.call(agent)
    again = await rig.call(agent)
    await rig.follow(1)
    later = await rig.call(agent)
    heights = [Receipt.decode(got.receipt.encoded).checkpoint for got in (first, again, later) if got.receipt]
    assert heights == [heights[0], heights[0], heights[0] + 1]


async def test_response_heads_are_kept_by_what_they_say_few_and_short_ones(rig: Rig) -> None:
    server = rig.server
    one = AgentResponseHead(200, (("A", "x"), ("connection", "close")))
    assert server.checked(one, 5) is server.checked(one, 5)
    assert server.checked(one, 5)[0].headers == (("a", "x"),)
    assert server.checked(one, 6)[0].checkpoint == 6
    assert server.checked(AgentResponseHead(201, one.headers), 6)[0].status == 201
    for number in range(2 * serve._HEADS):
        server.checked(AgentResponseHead(200, (("n", str(number)),)), 6)
    assert len(server._heads) <= serve._HEADS
    before = len(server._heads)
    server.checked(AgentResponseHead(200, (("n", "x" * 600),)), 6)
    assert len(server._heads) == before
    with pytest.raises(CloisterError, match=r"sandbox\.bad_response"):
        server.checked(AgentResponseHead(99, ()), 6)
    with pytest.raises(CloisterError, match=r"sandbox\.bad_response"):
        server.checked(AgentResponseHead(99, ()), 6)
