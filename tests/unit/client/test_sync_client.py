"""The blocking face: the same client behind one background loop."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from cloister.client import Demand, Home, sync
from cloister.client.sync import Agent, Client, Stream
from cloister.core.errors import CloisterError


def client(net: Any, **options: Any) -> Client:
    options.setdefault("fingerprint", net.world.network.fingerprint())
    return Client(net.gateway.url, home=Home(net.home), clock=lambda: net.world.now, **options)


def test_calls_block_and_answer(net: Any) -> None:
    with client(net) as c:
        agent = c.agent(net.agent)
        assert isinstance(agent, Agent)
        reply = agent.post("/x", json={"a": 1})
        assert reply.json()["path"] == "/x"
        assert reply.receipt.agent == net.agent
        assert agent.id == net.agent
        assert agent.record.token_id == 1
        assert c.network.id == net.world.network.id
        assert "http" in repr(c)


def test_streams_are_plain_iterators(net: Any) -> None:
    for worker in (net.one, net.two):
        worker.handler = lambda r: (200, (), [b"one", b"two"])
    with client(net) as c:
        stream = c.agent(1).stream("GET", "/")
        assert isinstance(stream, Stream)
        assert b"".join(stream) == b"onetwo"
        assert stream.receipt.status == 200


def test_refusals_come_through(net: Any) -> None:
    with pytest.raises(CloisterError) as caught, client(net, fingerprint="ab" * 32):
        pass
    assert caught.value.code == "encoding.fingerprint"
    with client(net) as c:
        with pytest.raises(CloisterError) as caught:
            c.agent(net.agent, demand=Demand(vendor="aws")).get("/")
        assert caught.value.code == "client.demand_worker"
        with pytest.raises(AttributeError):
            _ = c.nothing_of_that_name
        with pytest.raises(AttributeError):
            _ = c._private


def test_several_threads_share_one_client(net: Any) -> None:
    found: list[int] = []
    with client(net) as c:
        agent = c.agent(net.agent)
        threads = [threading.Thread(target=lambda: found.append(agent.get("/").status)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [200] * 4


def test_the_background_loop_is_not_entered_twice(net: Any) -> None:
    async def inside() -> None:
        c.agent(net.agent)

    with client(net) as c, pytest.raises(RuntimeError, match="own event loop"):
        sync._LOOP.run(inside())


def test_lists_are_plain_iterators_too(net: Any) -> None:
    with client(net) as c:
        assert [row["token_id"] for row in c.agents()] == [1]


def test_the_root_is_lazy() -> None:
    import cloister
    import cloister.client

    assert cloister.Client is cloister.client.Client
    for name in cloister.client.__all__:
        assert getattr(cloister.client, name).__name__ == name
    with pytest.raises(AttributeError):
        _ = cloister.client.Nothing
