"""What agent code may ask of the worker. The agent is hostile: every argument is checked here."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.errors import CloisterError
from cloister.worker.agentlog import BURST, PER_S, AgentLog
from cloister.worker.host import MAX_KEY, AgentHost
from support.worker_kit import refused


class Memory:
    """A state port that remembers."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    async def get(self, key: str) -> bytes | None:
        return self.values.get(key)

    async def put(self, key: str, value: bytes) -> None:
        self.values[key] = value

    async def delete(self, key: str) -> None:
        self.values.pop(key, None)

    async def list(self, prefix: str = "", *, after: str = "", limit: int = 1000) -> list[str]:
        return sorted(k for k in self.values if k.startswith(prefix) and k > after)[:limit]


class Scene:
    """A host with one open request ``r``."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.now = 0.0
        self.log = AgentLog(lambda level, text: self.lines.append((level, text)), lambda: self.now)
        self.nonces: list[bytes] = []
        self.state = Memory()
        self.host = AgentHost(self.attest, self.log)
        self.host.open("r", self.state)

    async def attest(self, nonce: bytes) -> dict[str, Any]:
        self.nonces.append(nonce)
        return {"evidence": {}}

    async def call(self, name: str, **args: Any) -> Any:
        return await self.host.call("r", name, args)


@pytest.fixture
def scene() -> Scene:
    return Scene()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def test_state_calls_reach_the_requests_own_state(scene: Scene) -> None:
    for key in ("a/1", "a/2", "b"):
        assert await scene.call("state.put", key=key, value=b64(key.encode())) is None
    assert await scene.call("state.get", key="a/2") == b64(b"a/2")
    assert await scene.call("state.get", key="none") is None
    assert await scene.call("state.list") == ["a/1", "a/2", "b"]
    assert await scene.call("state.list", prefix="a/", after="a/1", limit=1) == ["a/2"]
    assert await scene.call("state.list", prefix="a/", after=None) == ["a/1", "a/2"]
    assert await scene.call("state.delete", key="b") is None
    assert sorted(scene.state.values) == ["a/1", "a/2"]


BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "no key": ("state.get", {}),
    "an empty key": ("state.get", {"key": ""}),
    "a key that is a number": ("state.get", {"key": 7}),
    "a key over the cap": ("state.get", {"key": "k" * (MAX_KEY + 1)}),
    "a key over the cap in bytes": ("state.get", {"key": "é" * (MAX_KEY // 2 + 1)}),
    "half a surrogate pair as a key": ("state.put", {"key": "\ud800", "value": ""}),
    "half a surrogate pair as a prefix": ("state.list", {"prefix": "\udc00"}),
    "a value that is no text": ("state.put", {"key": "k", "value": [1]}),
    "no value": ("state.put", {"key": "k"}),
    "a value that is no base64": ("state.put", {"key": "k", "value": "!!"}),
    "base64 with line breaks": ("state.put", {"key": "k", "value": "aGVs\nbG8="}),
    "a list below one": ("state.list", {"limit": 0}),
    "a list over the cap": ("state.list", {"limit": 1001}),
    "a limit that is a truth value": ("state.list", {"limit": True}),
    "a limit that is a text": ("state.list", {"limit": "5"}),
    "a prefix that is no text": ("state.list", {"prefix": 1}),
    "a cursor that is no text": ("state.list", {"after": 1}),
    "a cursor over the cap": ("state.list", {"after": "k" * (MAX_KEY + 1)}),
    "no nonce": ("attest", {}),
    "a short nonce": ("attest", {"nonce": b64(b"x" * 31)}),
    "a long nonce": ("attest", {"nonce": b64(b"x" * 33)}),
    "a nonce in hex": ("attest", {"nonce": "0x" + "ab" * 32}),
}


@pytest.mark.parametrize("case", BAD, ids=str)
async def test_bad_arguments_are_refused_by_name(scene: Scene, case: str) -> None:
    name, args = BAD[case]
    await refused(scene.call(name, **args), "sandbox.argument")
    assert not scene.state.values
    assert not scene.nonces


async def test_any_nonce_of_32_bytes_is_attested_whatever_its_base64_looks_like(scene: Scene) -> None:
    looks_like_hex = base64.b64decode("0x" + "A" * 41 + "=")
    for nonce in (looks_like_hex, bytes(32), b"\xff" * 32):
        await scene.call("attest", nonce=b64(nonce))
    assert scene.nonces == [looks_like_hex, bytes(32), b"\xff" * 32]


@pytest.mark.parametrize("name", ["", "state.", "state.commit", "__class__", "keys.sign", "x" * 500])
async def test_unknown_calls_are_refused(scene: Scene, name: str) -> None:
    error = await refused(scene.call(name), "sandbox.no_such_call")
    assert len(error.found) <= 40


async def test_requests_that_are_over_or_never_were_reach_nothing(scene: Scene) -> None:
    await refused(scene.host.call("another", "state.get", {"key": "a"}), "sandbox.request_over")
    scene.host.close("r")
    scene.host.close("r")
    for name in ("state.get", "attest", "nothing"):
        await refused(scene.call(name, key="a"), "sandbox.request_over")


def test_one_id_never_names_two_requests(scene: Scene) -> None:
    with pytest.raises(RuntimeError, match="share a transaction"):
        scene.host.open("r", Memory())


@given(st.dictionaries(st.sampled_from(["key", "value", "prefix", "after", "limit", "nonce"]), st.text() | st.none()))
async def test_garbage_arguments_raise_only_named_refusals(args: dict[str, Any]) -> None:
    scene = Scene()
    for name in ("state.get", "state.put", "state.delete", "state.list", "attest"):
        code = ""
        try:
            await scene.call(name, **args)
        except CloisterError as error:
            code = error.code
        assert code in ("", "sandbox.argument")


# --- logs ---


def test_lines_arrive_without_the_secrets_that_the_agent_was_given(scene: Scene) -> None:
    scene.log.hide(["sk-longer-than-that", "sk-longer", "abc"])
    scene.host.log("r", "info", "sk-longer-than-that, sk-longer and abc")
    scene.host.log(None, "warn", "no secret")
    assert scene.lines == [("info", "[redacted], [redacted] and abc"), ("warn", "no secret")]


def test_a_flood_is_cut_and_said_once_and_time_lets_lines_through_again(scene: Scene) -> None:
    for _ in range(200):
        scene.log.line("info", "x" * 1000)
    assert sum(len(text) for _, text in scene.lines) <= BURST
    assert [level for level, _ in scene.lines].count("warn") == 1
    assert scene.log.dropped > 100
    taken = len(scene.lines)
    scene.now += 1200 / PER_S
    scene.log.line("info", "y" * 1000)
    scene.log.line("info", "y" * 1000)
    assert scene.lines[taken][1] == "y" * 1000
    assert scene.lines[-1][0] == "warn"
    scene.now += 1e9
    assert [scene.log._room(BURST), scene.log._room(1)] == [True, False], "time is worth one burst at most"


def test_without_a_place_that_may_see_them_lines_are_counted_only() -> None:
    log = AgentLog(None, lambda: 0.0)
    log.line("info", "a caller's letter")
    assert (log.lines, log.dropped) == (1, 1)
