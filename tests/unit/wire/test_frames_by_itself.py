"""Handlers that answer without a task: when their streams end, who hears that nobody waits, and what faults become."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from cloister.core.errors import CloisterError
from cloister.wire.frames import BUSY, Caps, Connection, FrameClient, FrameServer, Incoming

Handler = Callable[[Incoming], Awaitable[None] | None]


@contextlib.asynccontextmanager
async def asked_of(folder: Path, handler: Handler, **caps: int) -> AsyncIterator[tuple[Connection, Connection]]:
    """(who asks, who serves by ``handler``)."""
    server = FrameServer(folder / "s.sock")
    await server.start()
    client = FrameClient(folder / "s.sock", handler=handler, caps=Caps(**caps))
    client.start()
    try:
        serving = await client.connected(5)
        await until(lambda: server.connections)
        yield next(iter(server.connections)), serving
    finally:
        await client.close()
        await server.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the condition is any state, not an event
            await asyncio.sleep(0.001)


def echo(incoming: Incoming) -> None:
    incoming.end(incoming.payload)


async def test_an_answer_at_once_and_one_that_comes_later_both_free_their_places(tmp_path: Path) -> None:
    waiting = list[Incoming]()

    def handler(incoming: Incoming) -> None:
        if incoming.kind == 1:
            incoming.end(incoming.payload)
        else:
            waiting.append(incoming)

    async with asked_of(tmp_path, handler, streams=2, pending=20) as (asking, serving):
        for _ in range(5):
            assert await asking.ask(1, b"now") == b"now"
        later = [asyncio.ensure_future(asking.ask(2, b"later")) for _ in range(2)]
        await until(lambda: len(waiting) == 2)
        with pytest.raises(CloisterError, match=r"frames\.busy"):
            await asking.ask(1, b"a third")
        for one in waiting:
            one.end(b"late")
        assert await asyncio.gather(*later) == [b"late", b"late"]
        assert (serving._served, serving._pending) == ({}, 0)
        assert await asking.ask(1, b"room again") == b"room again"


def _refuses(incoming: Incoming) -> None:
    raise BUSY(expected="room", found="none")


def _breaks(incoming: Incoming) -> None:
    raise KeyError("words that must not travel")


def _fails(incoming: Incoming) -> None:
    incoming.fail(BUSY(expected="room", found="none"))


async def _later_refuses(incoming: Incoming) -> None:
    raise BUSY(expected="room", found="none")


def _goes_on(incoming: Incoming) -> None:
    incoming.go_on(_later_refuses(incoming))


FAULTS: dict[str, tuple[Handler, str]] = {
    "a refusal that is raised": (_refuses, "frames.busy"),
    "a refusal that is said": (_fails, "frames.busy"),
    "a refusal of the task that it went on in": (_goes_on, "frames.busy"),
    "a fault": (_breaks, "frames.internal"),
}


@pytest.mark.parametrize("case", FAULTS)
async def test_faults_end_their_stream_alone_and_by_name(tmp_path: Path, case: str) -> None:
    handler, code = FAULTS[case]
    async with asked_of(tmp_path, lambda i: handler(i) if i.kind == 2 else echo(i)) as (asking, serving):
        with pytest.raises(CloisterError) as caught:
            await asking.ask(2, b"")
        assert (caught.value.code, "words" in str(caught.value)) == (code, False)
        assert await asking.ask(1, b"go on") == b"go on"
        assert (serving._served, serving._pending) == ({}, 0)


async def test_whoever_stops_waiting_is_heard_of_once_and_answers_that_come_then_are_dropped(tmp_path: Path) -> None:
    waiting, gone = list[Incoming](), list[str]()

    def handler(incoming: Incoming) -> None:
        waiting.append(incoming)
        incoming.on_cancel = lambda: gone.append("left")

    async with asked_of(tmp_path, handler) as (asking, serving):
        stream = asking.stream(2, b"")
        async with stream:
            await until(lambda: waiting)
        await until(lambda: gone)
        waiting[0].end(b"too late")
        await asyncio.sleep(0.01)
        assert (gone, serving._served, serving._pending) == (["left"], {}, 0)
        assert not asking.closed


async def test_a_connection_that_goes_tells_every_handler_without_a_task(tmp_path: Path) -> None:
    gone = list[int]()

    def handler(incoming: Incoming) -> None:
        incoming.on_cancel = lambda: gone.append(incoming.id)

    async with asked_of(tmp_path, handler) as (asking, serving):
        asked = [asyncio.ensure_future(asking.ask(2, b"")) for _ in range(3)]
        await until(lambda: len(serving._served) == 3)
        serving.close()
        await until(lambda: len(gone) == 3)
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert [isinstance(one, CloisterError) and one.code for one in outcomes] == ["frames.lost"] * 3
        assert serving._served == {}


async def test_one_that_is_told_and_breaks_takes_nobody_with_it(tmp_path: Path) -> None:
    def breaks() -> None:
        raise KeyError

    def handler(incoming: Incoming) -> None:
        if incoming.kind == 1:
            echo(incoming)
        else:
            incoming.on_cancel = breaks

    async with asked_of(tmp_path, handler) as (asking, serving):
        async with asking.stream(2, b""):
            await until(lambda: serving._served)
        assert await asking.ask(1, b"still here") == b"still here"


async def test_a_handler_that_goes_on_in_a_task_is_cancelled_as_a_task(tmp_path: Path) -> None:
    began, ended = asyncio.Event(), list[str]()

    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("task")

    def handler(incoming: Incoming) -> None:
        incoming.on_cancel = lambda: ended.append("by itself")
        incoming.go_on(work())

    async with asked_of(tmp_path, handler) as (asking, serving):
        async with asking.stream(2, b""):
            await began.wait()
        await until(lambda: not serving._served)
        assert ended == ["task"]
