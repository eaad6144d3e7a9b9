"""httpx and the official openai package through the sealed path: unchanged libraries, verified answers."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from cloister.client import Home
from cloister.client.agent import Agent
from cloister.client.httpx_transport import (
    BASE_URL,
    AsyncSealedTransport,
    SealedTransport,
    sealed_async_client,
    sealed_client,
)
from cloister.client.sync import Agent as BlockingAgent
from cloister.client.sync import Client as BlockingClient
from cloister.core.errors import CloisterError
from cloister.core.receipts.receipt import Receipt

WORDS = ["sealed ", "words ", "come ", "in ", "order"]


def chunk_of(word: str) -> bytes:
    delta = {"index": 0, "delta": {"role": "assistant", "content": word}, "finish_reason": None}
    body = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [delta]}
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def completion(text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = {"id": "c-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return json.dumps(body).encode()


def model(request: Any) -> tuple[int, tuple[tuple[str, str], ...], list[bytes]]:
    """An agent that speaks the OpenAI API: it answers with what it was asked, streamed if asked to."""
    if request.head.path != "/v1/chat/completions" or request.head.method != "POST":
        return 404, (("content-type", "application/json"),), [b'{"error": {"message": "no such path"}}']
    asked = json.loads(request.body)
    if asked.get("stream"):
        return 200, (("content-type", "text/event-stream"),), [*(chunk_of(w) for w in WORDS), b"data: [DONE]\n\n"]
    return 200, (("content-type", "application/json"),), [completion(asked["messages"][0]["content"][::-1])]


def serve(net: Any, handler: Any) -> None:
    net.one.handler = net.two.handler = handler


def blocking(net: Any) -> BlockingClient:
    fingerprint = net.world.network.fingerprint()
    return BlockingClient(net.gateway.url, home=Home(net.home), clock=lambda: net.world.now, fingerprint=fingerprint)


def openai_of(agent: BlockingAgent) -> openai.OpenAI:
    return openai.OpenAI(base_url=BASE_URL, api_key="k", http_client=sealed_client(agent), max_retries=0)


def test_the_openai_package_asks_an_agent(net: Any) -> None:
    serve(net, model)
    with blocking(net) as client:
        ai = openai_of(client.agent(1))
        answer = ai.chat.completions.create(model="m", messages=[{"role": "user", "content": "abc"}])
    assert answer.choices[0].message.content == "cba"
    seen = (net.one.ran + net.two.ran)[-1].head
    assert ("authorization", "Bearer k") in seen.headers, "a key for the agent travels sealed"
    assert not {"host", "content-length", "connection"} & {name for name, _ in seen.headers}


def test_the_openai_package_streams(net: Any) -> None:
    serve(net, model)
    with blocking(net) as client:
        ai = openai_of(client.agent(1))
        stream = ai.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}], stream=True)
        assert [part.choices[0].delta.content for part in stream] == WORDS


async def test_the_async_openai_package_asks_and_streams(net: Any) -> None:
    serve(net, model)
    async with net.client() as client:
        agent: Agent = await client.agent(1)
        ai = openai.AsyncOpenAI(base_url=BASE_URL, api_key="k", http_client=sealed_async_client(agent), max_retries=0)
        question: Any = {"model": "m", "messages": [{"role": "user", "content": "abc"}]}
        answer = await ai.chat.completions.create(**question)
        assert answer.choices[0].message.content == "cba"
        stream = await ai.chat.completions.create(stream=True, **question)
        assert [part.choices[0].delta.content async for part in stream] == WORDS


def test_a_status_of_the_agent_is_the_packages_error(net: Any) -> None:
    serve(net, model)
    with blocking(net) as client, pytest.raises(openai.NotFoundError):
        openai_of(client.agent(1)).models.retrieve("x")


def test_a_refusal_is_the_cause_of_the_packages_error(net: Any) -> None:
    serve(net, model)
    net.one.spoil = net.two.spoil = lambda data: data[:-1] + bytes([data[-1] ^ 1])
    with blocking(net) as client, pytest.raises(openai.APIConnectionError) as caught:
        openai_of(client.agent(1)).chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    assert isinstance(caught.value.__cause__, CloisterError)


def test_an_answer_that_is_cut_off_in_its_body_is_no_answer(net: Any) -> None:
    serve(net, lambda r: (200, (), [b"one", b"two"]))
    with blocking(net) as client:
        agent = client.agent(1)
        net.one.spoil = net.two.spoil = lambda data: data[:-40]
        with sealed_client(agent) as plain, pytest.raises(CloisterError):
            plain.get("/")


@pytest.mark.parametrize("url", ["https://api.openai.com/v1/models", "http://127.0.0.1/", "https://agent.invalid/"])
def test_another_host_is_refused_before_anything_leaves(net: Any, url: str) -> None:
    with blocking(net) as client:
        with sealed_client(client.agent(1)) as plain, pytest.raises(CloisterError) as caught:
            plain.get(url)
        assert caught.value.code == "client.sealed_host"
    assert net.one.ran + net.two.ran == []


async def test_another_host_is_refused_on_a_loop_too(net: Any) -> None:
    async with net.client() as client:
        transport = AsyncSealedTransport(await client.agent(1))
        async with httpx.AsyncClient(transport=transport) as plain:
            with pytest.raises(CloisterError) as caught:
                await plain.get("https://elsewhere.example/")
    assert caught.value.code == "client.sealed_host"


def test_a_redirect_of_a_hostile_agent_to_another_host_is_refused(net: Any) -> None:
    serve(net, lambda r: (302, (("location", "https://evil.example/?q=1"),), []))
    with blocking(net) as client, pytest.raises(CloisterError) as caught:
        sealed_client(client.agent(1), follow_redirects=True).get("/")
    assert caught.value.code == "client.sealed_host"


def test_method_query_body_and_repeated_headers_arrive_as_they_were(net: Any) -> None:
    serve(net, lambda r: (201, (("set-cookie", "a=1"), ("set-cookie", "b=2")), [r.head.path.encode(), r.body]))
    with blocking(net) as client, httpx.Client(transport=SealedTransport(client.agent(1)), base_url=BASE_URL) as plain:
        answer = plain.put("/x y?q=ü&q=2", content=b"\x00\xff", headers=[("x-a", "1"), ("x-a", "2")])
    assert answer.status_code == 201
    assert answer.content == b"/v1/x%20y?q=%C3%BC&q=2\x00\xff"
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    seen = (net.one.ran + net.two.ran)[-1].head
    assert [value for name, value in seen.headers if name == "x-a"] == ["1", "2"]


def test_an_idempotency_key_makes_a_lost_post_safe_to_repeat(net: Any) -> None:
    with blocking(net) as client, sealed_client(client.agent(1)) as plain:
        plain.post("/", content=b"x", headers={"idempotency-key": "order-1"})
    seen = (net.one.ran + net.two.ran)[-1].head
    assert seen.idempotency_key == "order-1"
    assert all(name != "idempotency-key" for name, _ in seen.headers)


def test_the_librarys_timeout_is_the_calls_deadline(net: Any) -> None:
    with blocking(net) as client, sealed_client(client.agent(1)) as plain:
        plain.get("/", timeout=7.0)
        plain.get("/", timeout=None)
    ahead = [r.head.deadline_ms / 1000 - net.world.now for r in (net.one.ran + net.two.ran)]
    assert sorted(round(a) for a in ahead) == [7, 570]


def test_the_receipt_is_there_when_the_body_was_read(net: Any) -> None:
    serve(net, lambda r: (200, (), [b"one", b"two"]))
    with blocking(net) as client, sealed_client(client.agent(1)) as plain, plain.stream("GET", "/") as answer:
        called = answer.extensions["cloister"]
        assert called.receipt is None, "nothing is proven before the last byte"
        assert b"".join(answer.iter_raw()) == b"onetwo"
        assert isinstance(called.receipt, Receipt)
        assert called.proof.agent == net.agent
