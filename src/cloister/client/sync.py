"""The same client for programs without an event loop. Not written twice: one background loop runs the async one.

``Client`` and the objects that it returns mirror ``cloister.client``: methods block, async iterators become plain
iterators, attributes are passed through. Safe to use from several threads.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from types import TracebackType
from typing import Any, TypeVar

from cloister.client.agent import Agent as AsyncAgent
from cloister.client.agent import Stream as AsyncStream
from cloister.client.client import Client as AsyncClient

__all__ = ["Agent", "Client", "Stream"]

T = TypeVar("T")


class _Loop:
    """One event loop in one daemon thread, started with the first client that needs it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run to the end on the loop. A control-C in the waiting thread cancels the work."""
        if threading.current_thread().name == "cloister-sync":
            work.close()
            raise RuntimeError("the sync client was called from its own event loop: use cloister.Client there")
        future = asyncio.run_coroutine_threadsafe(work, self._running())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="cloister-sync", daemon=True).start()
            return self._loop


_LOOP = _Loop()


class _Mirror:
    """Wraps an async object: coroutine methods block, async iterators become iterators, results are wrapped too."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        value = getattr(self._inner, name)
        return _blocking(value) if callable(value) else _wrapped(value)

    def __repr__(self) -> str:
        return f"sync {self._inner!r}"


class Stream(_Mirror):
    """A streamed answer, or a list that comes in pieces: iterate over it. ``with`` waits for an answer's head first,
    and stops reading at the end of the block."""

    def __enter__(self) -> Stream:
        if isinstance(self._inner, AsyncStream):
            _LOOP.run(self._inner.start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _LOOP.run(self._inner.close() if isinstance(self._inner, AsyncStream) else self._inner.aclose())

    def __iter__(self) -> Iterator[Any]:
        inner: AsyncIterator[Any] = self._inner.__aiter__()
        while True:
            try:
                yield _LOOP.run(_next(inner))
            except StopAsyncIteration:
                return


class Agent(_Mirror):
    """An agent, with blocking methods: ``get``, ``post``, ``request``, ``stream``, ..."""


class Client(_Mirror):
    """A client, with blocking methods; same arguments as ``cloister.Client``. Use with ``with``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(AsyncClient(*args, **kwargs))

    def __enter__(self) -> Client:
        _LOOP.run(self._inner.connect())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _LOOP.run(self._inner.close())


def _blocking(method: Any) -> Any:
    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        plain = [a._inner if isinstance(a, _Mirror) else a for a in args]
        result = method(*plain, **{k: v._inner if isinstance(v, _Mirror) else v for k, v in kwargs.items()})
        return _wrapped(_LOOP.run(result) if inspect.iscoroutine(result) else result)

    return call


def _wrapped(value: Any) -> Any:
    if isinstance(value, AsyncAgent):
        return Agent(value)
    return Stream(value) if isinstance(value, AsyncStream) or inspect.isasyncgen(value) else value


async def _next(iterator: AsyncIterator[T]) -> T:
    return await iterator.__anext__()
