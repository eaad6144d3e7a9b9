"""The blocking face has everything that the async one has: found by looking at the classes, not by a list."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from cloister.client import Demand, Home, sync
from cloister.client import agent as agents
from cloister.client import client as clients
from cloister.client.sync import Agent, Client, Stream, _Mirror

CLASSES = {clients.Client: Client, agents.Agent: Agent, agents.Stream: Stream}
# What the blocking face replaces: the context manager and iteration.
OWN = {"__aenter__", "__aexit__", "__aiter__"}


def public(kind: type) -> list[tuple[type, str]]:
    return [(kind, name) for name, _ in inspect.getmembers(kind) if not name.startswith("_")]


@pytest.fixture
def inner(net: Any) -> Iterator[dict[type, Any]]:
    """One async object of each class, as a mirror holds them, on a served network."""
    with Client(
        net.gateway.url,
        fingerprint=net.world.network.fingerprint(),
        home=Home(net.home),
        clock=lambda: net.world.now,
    ) as client:
        agent = client.agent(net.agent)
        yield {clients.Client: client, agents.Agent: agent, agents.Stream: agent.stream("GET", "/")}


def test_every_public_name_of_the_async_classes_is_there_and_does_not_have_to_be_awaited(inner: Any) -> None:
    for kind in CLASSES:
        mirror = inner[kind]
        assert type(mirror) is CLASSES[kind]
        for _, name in public(kind):
            plain = inspect.getattr_static(kind, name)
            found = getattr(mirror, name)
            assert not inspect.iscoroutinefunction(found), f"{kind.__name__}.{name}"
            if inspect.iscoroutinefunction(plain) or inspect.isasyncgenfunction(plain):
                assert callable(found), f"{kind.__name__}.{name}"
                assert inspect.signature(found) == inspect.signature(getattr(mirror._inner, name))
                assert found.__doc__ == plain.__doc__
                assert found.__doc__, f"{kind.__name__}.{name} says nothing of itself"


def test_every_async_entry_has_its_blocking_twin() -> None:
    for kind, twin in CLASSES.items():
        for name in OWN & set(vars(kind)):
            assert hasattr(twin, name.replace("__a", "__")), f"{twin.__name__} lacks {name}"


def test_the_constructors_take_the_same_arguments() -> None:
    """``sync.Client`` passes on what it is given: a wrong name is the same TypeError."""
    with pytest.raises(TypeError, match="nothing_of_that_name"):
        Client("http://127.0.0.1:1", nothing_of_that_name=1)
    with pytest.raises(TypeError):
        Client()


def test_iteration_inside_gives_mirrors_and_plain_values(net: Any, inner: Any) -> None:
    client = inner[clients.Client]
    rows = client.agents()
    assert isinstance(rows, Stream)
    assert [row["token_id"] for row in rows] == [1]
    assert list(rows) == []
    assert client.agent_id("1") == net.agent
    assert client.id_of_token(1) == net.agent
    assert client.describe(net.agent)["token_id"] == 1
    assert client.network.mpk == net.world.network.mpk


def test_a_stream_in_a_with_block_has_its_head_first_and_stops_when_left(net: Any, inner: Any) -> None:
    for worker in (net.one, net.two):
        worker.handler = lambda r: (201, (("x-a", "b"),), [b"one", b"two"])
    with inner[clients.Client].agent(net.agent).stream("GET", "/") as stream:
        assert (stream.status, stream.headers["X-A"], stream.receipt) == (201, "b", None)
        assert next(iter(stream)) == b"one"
    assert stream.receipt is None
    assert list(stream) == []
    with inner[clients.Client].agents() as rows:
        assert next(iter(rows))["token_id"] == 1
    assert list(rows) == []


class Pretend:
    """An async object with one method of each kind."""

    value = 7

    def __init__(self) -> None:
        self.given: list[Any] = []

    async def answers(self, *args: Any, **kwargs: Any) -> Any:
        """Answers with its thread."""
        await asyncio.sleep(0)
        self.given.append((args, kwargs))
        return threading.current_thread().name

    async def raises(self) -> None:
        """Refuses."""
        raise LookupError("nothing there")

    async def pieces(self, count: int) -> AsyncIterator[int]:
        """Pieces."""
        for i in range(count):
            yield i
        if count > 2:
            raise LookupError("broke off")

    def plain(self, other: Any) -> Any:
        """Blocks by itself."""
        return other

    async def _hidden(self) -> None:
        """Not for callers."""


def test_methods_block_on_the_background_thread_and_unwrap_what_they_are_given() -> None:
    inner = Pretend()
    mirror = _Mirror(inner)
    other = _Mirror(Pretend())
    assert mirror.answers(1, other, name=other) == "cloister-sync"
    assert inner.given == [((1, other._inner), {"name": other._inner})]
    assert mirror.value == 7
    assert mirror.plain(other) is other._inner
    assert repr(mirror).startswith("sync <")
    for name in ("_hidden", "__nothing", "absent"):
        with pytest.raises(AttributeError):
            getattr(mirror, name)


def test_errors_and_broken_iterations_arrive_where_they_are_caught() -> None:
    mirror = _Mirror(Pretend())
    with pytest.raises(LookupError, match="nothing there"):
        mirror.raises()
    assert list(mirror.pieces(2)) == [0, 1]
    seen = []
    with pytest.raises(LookupError, match="broke off"):
        for piece in mirror.pieces(3):
            seen.append(piece)
    assert seen == [0, 1, 2]


def test_an_interrupt_in_the_waiting_thread_cancels_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control-C while blocked: the coroutine is cancelled, it does not run on behind the person's back."""
    ended = threading.Event()
    started = threading.Event()

    async def forever() -> None:
        started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    real = asyncio.run_coroutine_threadsafe

    def interrupted(work: Any, loop: Any) -> Any:
        future = real(work, loop)

        def result(*_: Any) -> Any:
            assert started.wait(10)
            raise KeyboardInterrupt

        future.result = result  # type: ignore[method-assign]
        return future

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sync._LOOP.run(forever())
    assert ended.wait(10)


def test_all_clients_share_one_thread_and_it_ends_with_the_program(net: Any) -> None:
    for _ in range(2):
        with Client(
            net.gateway.url, fingerprint=net.world.network.fingerprint(), home=net.home, clock=lambda: net.world.now
        ) as client:
            client.agent(net.agent, demand=Demand(vendor="intel"))
    threads = [t for t in threading.enumerate() if t.name == "cloister-sync"]
    assert len(threads) == 1
    assert threads[0].daemon


def test_a_client_that_could_not_connect_is_closed(net: Any) -> None:
    client = Client(net.gateway.url, fingerprint="00" * 32, home=net.home)
    with pytest.raises(Exception, match=r"encoding\.fingerprint"):
        client.__enter__()
    client.__exit__(None, None, None)
    assert client._inner.gateway._session is None
