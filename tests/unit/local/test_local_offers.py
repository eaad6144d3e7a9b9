"""What a local agent has beside its state: lists, a key that counts nowhere, other local agents, the clock."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.identity import Purpose
from cloister.core.encoding.signatures import recover
from cloister.core.encoding.typed_data import account_digest, message_digest
from cloister.core.errors import CloisterError
from cloister.core.policy.manifest import Manifest, Task, normalize
from cloister.local import dev
from cloister.local.agent import LocalRequest
from cloister.local.offers import CALLEE_HEADER, LocalKeys, LocalOffers, carried_path, parse_agents
from cloister.sandbox.ports import AgentResponseHead
from cloister.worker.host import CALLS, Origin
from cloister.worker.outbound import BUDGET, MAX_DEPTH, PATH
from support.worker_kit import refused

OTHER = b"\x0a" * 32
FAR = 1 << 52


class Memory:
    """State of one request."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    async def get(self, key: str) -> bytes | None:
        return self.values.get(key)

    async def put(self, key: str, value: bytes) -> None:
        self.values[key] = value

    async def delete(self, key: str) -> None:
        self.values.pop(key, None)

    async def list(self, prefix: str = "", *, after: str = "", limit: int = 1000) -> list[str]:
        return sorted(name for name in self.values if name.startswith(prefix))


class Local:
    """The offers of one agent, without a sandbox."""

    def __init__(self, agents: Mapping[bytes, str] | None = None, **fields: Any) -> None:
        self.manifest: Manifest = normalize(fields)
        self.said: list[str] = []
        self.keys = LocalKeys(b"\x01" * 32)
        log = lambda level, text: self.said.append(text)  # noqa: E731
        self.calls = LocalOffers(self.keys, self.manifest, agents or {}, log).calls()
        self.state = Memory()

    async def ask(self, name: str, above: tuple[bytes, ...] = (), **args: Any) -> Any:
        return await self.calls[name](Origin(above, CALLS, FAR, None, self.state), args)


# --- lists and keys ---


async def test_lists_are_the_manifests() -> None:
    assert await Local().ask("lists") == {"tools": None, "models": None}
    assert await Local(tools=["search"], models=["m"]).ask("lists") == {"tools": ["search"], "models": ["m"]}


async def test_a_signature_is_one_of_an_account_that_is_on_no_chain() -> None:
    agent = Local(keys={"messages": True})
    facts = await agent.ask("keys.account")
    assert facts["chainId"] == 0
    signature = from_hex(await agent.ask("keys.sign_message", message="aGk="), 65)
    digest = account_digest(message_digest(b"hi"), 0, from_hex(facts["account"], 20))
    assert to_hex(recover(digest, signature)) == facts["signer"]


async def test_keys_are_denied_as_on_a_worker() -> None:
    await refused(Local().ask("keys.address"), "worker.keys_denied")
    await refused(Local(keys={"messages": True}).ask("keys.send", to="0x" + "00" * 20, value="0", data="0x"), DENIED)


DENIED = "worker.keys_denied"


async def test_a_call_by_the_account_waits_and_says_that_it_is_not_real() -> None:
    agent = Local(keys={"calls": True})
    call = {"to": "0x" + "07" * 20, "value": "5", "data": "0x", "key": "invoice 7"}
    nonce = await agent.ask("keys.send", **call)
    assert await agent.ask("keys.send", **call) == nonce, "one key, one call"
    assert await agent.ask("keys.sent", nonce=nonce) == {"state": "waiting", "reason": None}
    assert all("not real" in line and "0x0707" in line for line in agent.said)
    await refused(agent.ask("keys.send", **call, chain="base"), "worker.no_chain")


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_folders_have_keys_of_their_own(one: bytes, two: bytes) -> None:
    a, b = LocalKeys(one), LocalKeys(two)
    assert (a.agent == b.agent) is (one == two)
    points = {keys.key(purpose).point for keys in (a, b) for purpose in Purpose}
    assert len(points) == len(Purpose) * (1 if one == two else 2)


# --- other agents ---


@asynccontextmanager
async def other(status: int = 200, body: bytes = b"there") -> AsyncIterator[tuple[str, list[web.Request]]]:
    """A server that says what it was asked."""
    seen: list[web.Request] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append(request)
        return web.Response(status=status, body=body, headers={"x-kind": "other"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", seen
    finally:
        await runner.cleanup()


async def test_a_call_of_another_agent_carries_who_calls_and_what_is_left() -> None:
    async with other(201) as (url, seen):
        agent = Local({OTHER: url})
        got = await agent.ask("agents.fetch", agent=to_hex(OTHER), method="PUT", path="/a?b=1", budget=3)
        assert got["status"] == 201
        assert ["x-kind", "other"] in got["headers"]
        (request,) = seen
        assert (request.method, request.path_qs) == ("PUT", "/a?b=1")
        assert carried_path(request.headers) == ((agent.keys.agent,), 3)
        assert request.headers[CALLEE_HEADER] == to_hex(OTHER)


async def test_cycles_depth_lists_and_strangers_are_refused_as_on_a_worker() -> None:
    agent = Local({OTHER: "http://127.0.0.1:9"})
    await refused(agent.ask("agents.fetch", (OTHER,), agent=to_hex(OTHER)), "worker.call_cycle")
    deep = tuple(bytes([n]) * 32 for n in range(20, 20 + MAX_DEPTH))
    await refused(agent.ask("agents.fetch", deep, agent=to_hex(OTHER)), "worker.call_depth")
    await refused(agent.ask("agents.fetch", agent="0x" + "0b" * 32), "local.no_agent")
    await refused(agent.ask("agents.fetch", agent=to_hex(OTHER)), "local.no_agent")
    listed = Local({OTHER: "http://127.0.0.1:9"}, tools=["search"])
    await refused(listed.ask("agents.fetch", agent=to_hex(OTHER)), "policy.not_listed")


async def test_an_answer_that_is_too_long_is_refused() -> None:
    async with other(body=bytes((2 << 20) + 1)) as (url, _):
        await refused(Local({OTHER: url}).ask("agents.fetch", agent=to_hex(OTHER)), "sandbox.argument")


ADDRESSES = {
    "no id": "http://127.0.0.1:1",
    "an id that is short": "0x12=http://127.0.0.1:1",
    "an address of another machine": "0x" + "0a" * 32 + "=http://example.org",
    "a name that begins like this one's": "0x" + "0a" * 32 + "=http://127.0.0.1.example.org",
    "another scheme": "0x" + "0a" * 32 + "=file:///etc/passwd",
    "no address": "0x" + "0a" * 32,
}


@pytest.mark.parametrize("sentence", ADDRESSES)
def test_no_other_agent(sentence: str) -> None:
    with pytest.raises(CloisterError) as caught:
        parse_agents([ADDRESSES[sentence]])
    assert caught.value.code == "local.agent"


def test_other_agents_by_id() -> None:
    assert parse_agents(["0x" + "0A" * 32 + "=http://localhost:80/"]) == {OTHER: "http://localhost:80"}


PATHS: dict[str, dict[str, str]] = {
    "no ids": {PATH: "x"},
    "a budget that is a word": {PATH: to_hex(OTHER), BUDGET: "many"},
    "a budget of five digits": {PATH: to_hex(OTHER), BUDGET: "10000"},
    "too many agents": {PATH: ",".join([to_hex(OTHER)] * (MAX_DEPTH + 1)), BUDGET: "1"},
}


@pytest.mark.parametrize("sentence", PATHS)
def test_no_path(sentence: str) -> None:
    with pytest.raises(CloisterError) as caught:
        carried_path(PATHS[sentence])
    assert caught.value.code == "local.path"


@given(st.text(max_size=200), st.text(max_size=8))
def test_any_headers_are_a_path_or_a_refusal(path: str, budget: str) -> None:
    try:
        agents, left = carried_path({PATH: path, BUDGET: budget})
    except CloisterError as refusal:
        agents, left, code = (), 0, refusal.code
    else:
        code = "local.path"
    assert (len(agents) <= MAX_DEPTH, left <= CALLS, code) == (True, True, "local.path")


# --- the clock ---


class Woken:
    """An agent that notes what the clock asks."""

    def __init__(self, status: int = 200) -> None:
        self.asked: list[LocalRequest] = []
        self.status, self.error = status, CloisterError

    async def fetch(self, request: LocalRequest, answer: Any) -> int:
        self.asked.append(request)

        async def chunks() -> AsyncIterator[bytes]:
            yield b"x"

        return int(await answer(AgentResponseHead(self.status, ()), chunks()))


async def test_the_clock_asks_once_for_each_time_and_not_for_those_before_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dev, "CLOCK_S", 0.0)
    start = 1_800_000_000 - 1_800_000_000 % 3600
    now, said, agent = [start + 30.0], list[str](), Woken(503)
    tasks = (Task("* * * * *", "/tick", 60), Task("0 0 1 1 *", "/yearly", 60))
    clock = asyncio.ensure_future(dev.asked_by_the_clock(agent, lambda: tasks, said.append, now=lambda: now[0]))  # type: ignore[arg-type]
    for second in (59, 60, 61, 119, 120):
        now[0] = start + second
        for _ in range(40):
            await asyncio.sleep(0)
    clock.cancel()
    await asyncio.gather(clock, return_exceptions=True)
    assert [(one.method, one.path, one.caller) for one in agent.asked] == [("POST", "/tick", "schedule")] * 2
    assert [dict(one.headers)["cloister-scheduled"] for one in agent.asked] == [str(start + 60), str(start + 120)]
    assert len({dict(one.headers)["idempotency-key"] for one in agent.asked}) == 2
    assert said == ["503    scheduled /tick (* * * * *)"] * 2, "a failure is said, and not repeated"


def test_what_the_offers_say_is_json() -> None:
    assert json.dumps(asyncio.run(Local(keys={"messages": True}).ask("keys.account")))
