"""Oblivious calls through a real gateway behind a real relay: what passes, how refusals are said, who sees what."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from cloister.core.encoding.hexes import to_hex
from cloister.core.envelope import ohttp, ohttp_client
from cloister.core.envelope.server import SealedRefusalError
from cloister.core.errors import CloisterError, ConfigError
from cloister.relay import ROUTES, Relay
from cloister.wire.announce import Kind, split_call
from cloister.wire.frames import Incoming
from cloister.wire.http import Exchange, HttpServer
from support.doors import Door, door
from support.oblivious_kit import Oblivious, answered, good
from support.sealed import AGENT, NOW

KEY = "https://iana.org/assignments/http-problem-types#ohttp-key"


class Scene:
    """A gateway, a worker that serves obliviously behind it, and a relay before it."""

    def __init__(self) -> None:
        self.world = Oblivious()
        self.seen: list[bytes] = []
        self.said: bytes | None = None
        self.door: Door
        self.relay: Relay
        self.url = ""

    async def serve(self, incoming: Incoming) -> None:
        """The worker's end."""
        if incoming.kind == Kind.OBLIVIOUS_KEYS:
            assert incoming.payload == AGENT
            await incoming.send(self.said or json.dumps({"keys": [self.world.shown.to_json()]}).encode())
            return
        _, data = split_call(incoming.payload)
        self.seen.append(data)
        try:
            request = self.world.open(data)
        except SealedRefusalError as refusal:
            await incoming.send(refusal.sealed)
            return
        await incoming.send(answered(request, b"you said " + request.body))

    def target(self, tail: str = "", boot: bytes | None = None) -> str:
        """The path of a call, or of its keys."""
        return f"/v1/oblivious/{to_hex(AGENT)}{tail}?boot={to_hex(boot or self.door.world.boot)}"

    async def post(
        self, data: bytes, *, kind: str = ohttp.REQUEST_TYPE, boot: bytes | None = None, url: str = "", **headers: str
    ) -> tuple[int, str, bytes]:
        """(status, content type, body)."""
        sent = {"content-type": kind, **headers}
        target = (url or str(self.door.http._base_url).rstrip("/")) + self.target(boot=boot)
        async with aiohttp.ClientSession() as session, session.post(target, data=data, headers=sent) as reply:
            return reply.status, reply.content_type, await reply.read()


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Scene]:
    scene = Scene()
    async with door(folder, scene.serve) as scene.door:
        scene.relay = Relay(str(scene.door.http._base_url))
        port = await scene.relay.start("127.0.0.1", 0)
        scene.url = f"http://127.0.0.1:{port}"
        try:
            yield scene
        finally:
            await scene.relay.close()


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with opened(tmp_path) as made:
        yield made


async def test_a_call_goes_through_relay_gateway_and_worker(scene: Scene) -> None:
    for url in ("", scene.url):
        sealed = scene.world.seal(b"question")
        status, kind, data = await scene.post(sealed.data, url=url)
        assert (status, kind) == (200, "message/ohttp-res")
        assert good(sealed, data).body == b"you said question"
    assert scene.door.gateway.calls.counts.calls == 2
    assert scene.door.gateway.calls.counts.in_flight == 0


class Recorded:
    """Everything that an HTTP server is given: targets, headers, bodies, and where it came from."""

    def __init__(self, server: HttpServer) -> None:
        self.texts: list[bytes] = []
        self.names: set[str] = set()
        self.peers: set[int] = set()
        self._taken, server.handler = server.handler, self.take

    def take(self, exchange: Exchange) -> None:
        """Write it down and go on."""
        request = exchange.request
        self.texts += [request.target.encode(), json.dumps(request.headers).encode(), request.body]
        self.names |= set(request.headers)
        transport = exchange._connection._transport
        assert transport is not None
        self.peers.add(transport.get_extra_info("peername")[1])
        self._taken(exchange)


async def test_what_gateway_and_relay_handle_holds_no_plaintext_and_the_gateway_hears_no_name(scene: Scene) -> None:
    relay, gateway = Recorded(scene.relay._http), Recorded(scene.door.gateway.http)
    sealed = scene.world.seal(b"private question", path="/private-path", headers=(("x-private", "private"),))
    named = {"cookie": "caller=alice", "user-agent": "alice/1.0", "x-forwarded-for": "192.0.2.7", "via": "alice"}
    _, _, data = await scene.post(sealed.data, url=scene.url, **named)
    assert good(sealed, data).body == b"you said private question"
    for passed in (*relay.texts, *gateway.texts, *scene.seen, data):
        assert b"private" not in passed
    assert gateway.names <= {"host", "content-type", "content-length"}
    for passed in (*gateway.texts, *scene.seen):
        assert b"alice" not in passed
        assert b"192.0.2.7" not in passed
    assert len(relay.peers) == len(gateway.peers) == 1
    assert not relay.peers & gateway.peers, "the gateway speaks with the relay, and with nobody else"


@pytest.mark.long
async def test_a_sealed_refusal_passes_as_an_answer(scene: Scene) -> None:
    sealed = scene.world.seal(deadline_ms=NOW - 1)
    status, kind, data = await scene.post(sealed.data, url=scene.url)
    assert (status, kind) == (200, "message/ohttp-res")
    assert b"deadline" not in data


PLAIN = {
    "another key": (lambda d: bytes([d[0] ^ 1]) + d[1:], 400, "ohttp.key_unknown", KEY),
    "another suite": (lambda d: d[:6] + b"\x09" + d[7:], 400, "ohttp.suite", KEY),
    "a changed byte": (lambda d: d[:-1] + bytes([d[-1] ^ 1]), 400, "ohttp.not_authentic", KEY),
    "a cut request": (lambda d: d[:30], 400, "ohttp.malformed", "about:blank"),
}


async def test_what_does_not_open_is_a_problem_document(scene: Scene) -> None:
    for what, (change, status, code, problem) in PLAIN.items():
        found, kind, data = await scene.post(change(scene.world.seal().data), url=scene.url)
        said = json.loads(data)
        assert (found, kind, said["type"]) == (status, "application/problem+json", problem), what
        assert (said["status"], said["error"]["code"]) == (status, code), what


@pytest.mark.long
async def test_a_repeat_is_a_problem_document_too(scene: Scene) -> None:
    sealed = scene.world.seal()
    await scene.post(sealed.data)
    status, kind, data = await scene.post(sealed.data)
    assert (status, kind) == (409, "application/problem+json")
    assert json.loads(data)["error"]["code"] == "envelope.replay"


@pytest.mark.long
async def test_refusals_of_the_gateway_itself_are_problem_documents(scene: Scene) -> None:
    for options, code in (({"boot": bytes(32)}, "gateway.no_worker"), ({"kind": "text/plain"}, "gateway.bad_call")):
        _, kind, data = await scene.post(scene.world.seal().data, **options)  # type: ignore[arg-type]
        assert kind == "application/problem+json"
        assert json.loads(data)["error"]["code"] == code


@pytest.mark.long
async def test_a_worker_that_goes_away_is_said(tmp_path: Path) -> None:
    async with opened(tmp_path) as scene:

        async def leaving(incoming: Incoming) -> None:
            incoming.connection.close()

        scene.door.worker.custom = leaving
        _, kind, data = await scene.post(scene.world.seal().data)
        assert kind == "application/problem+json"
        assert json.loads(data)["error"]["code"] == "gateway.worker_gone"


async def test_keys_are_shown_as_the_worker_says_them_and_as_the_rfc_has_them(scene: Scene) -> None:
    async with aiohttp.ClientSession(scene.url) as session:
        async with session.get(scene.target("/keys")) as reply:
            assert (await reply.json())["keys"] == [scene.world.shown.to_json()]
        async with session.get(scene.target("/ohttp-keys")) as reply:
            assert reply.content_type == "application/ohttp-keys"
            assert ohttp_client.decode_configs(await reply.read()) == (scene.world.config,)


async def test_a_worker_that_says_something_else_is_not_passed_on_as_keys(scene: Scene) -> None:
    async with aiohttp.ClientSession(scene.url) as session:
        for said in (b"{}", b"[", b'{"keys":5}', b'{"keys":[5]}', b'{"keys":[{}]}'):
            scene.said = said
            async with session.get(scene.target("/ohttp-keys")) as reply:
                assert reply.status >= 400
                assert reply.content_type == "application/json"


# --- the relay ---

REFUSED = [
    ("GET", "/v1/status"),
    ("GET", "/"),
    ("POST", "/v1/call/0x" + "22" * 32 + "?boot=0x" + "33" * 32),
    ("PUT", "/v1/blobs"),
    ("GET", "/v1/oblivious/0x" + "22" * 32 + "/keys?boot=0x" + "33" * 32 + "&x=1"),
    ("GET", "/v1/agents/0x" + "22" * 32 + "/seats/.."),
]


async def test_the_relay_passes_on_what_clients_need_and_nothing_else(scene: Scene) -> None:
    async with aiohttp.ClientSession(scene.url) as session:
        for method, target in REFUSED:
            async with session.request(method, target) as reply:
                assert (await reply.json())["error"]["code"] == "relay.no_route", target


async def test_the_relay_says_nothing_of_its_own_in_what_it_passes_back(scene: Scene) -> None:
    async with aiohttp.ClientSession(scene.url) as session, session.get("/v1/network") as reply:
        assert reply.status == 200
        assert {n.lower() for n in reply.headers} <= {
            "content-type",
            "content-length",
            "connection",
            "access-control-allow-origin",
        }
        assert await reply.read() == (scene.door.folder / "network.json").read_bytes()


async def test_a_page_of_any_origin_may_ask_a_relay(scene: Scene) -> None:
    sealed = scene.world.seal(b"question")
    target = scene.url + scene.target("")
    headers = {"origin": "https://page.example", "access-control-request-headers": "content-type"}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.options(target) as reply:
            assert reply.status == 200
            assert reply.headers["access-control-allow-headers"] == "content-type"
            assert "POST" in reply.headers["access-control-allow-methods"]
        async with session.post(target, data=sealed.data, headers={"content-type": "message/ohttp-req"}) as reply:
            assert reply.headers["access-control-allow-origin"] == "*"
            assert good(sealed, await reply.read()).body == b"you said question"
        async with session.get(scene.url + "/v1/status") as reply:
            assert (reply.status, reply.headers["access-control-allow-origin"]) == (404, "*")


async def test_a_gateway_that_is_gone_is_a_refusal_of_the_relay(tmp_path: Path) -> None:
    relay = Relay("http://127.0.0.1:9")
    port = await relay.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/v1/network") as reply:
            assert reply.status == 502
            assert (await reply.json())["error"]["code"] == "relay.no_answer"
    finally:
        await relay.close()


@pytest.mark.long
async def test_a_gateway_that_says_too_much_is_cut_off(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tuple((verb, form, most, 10) for verb, form, most, _ in ROUTES)
    monkeypatch.setattr("cloister.relay.ROUTES", rows)
    async with aiohttp.ClientSession(scene.url) as session, session.get("/v1/network") as reply:
        assert (await reply.json())["error"]["code"] == "relay.no_answer"


@pytest.mark.parametrize("url", ["", "ftp://a", "http://", "http://user@a", "http://a?b", "http://a#b", "a:80"])
def test_a_relay_wants_one_plain_address(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Relay(url)
    assert caught.value.code == "relay.gateway"
    assert isinstance(caught.value, CloisterError)
