"""A fresh small network per test, as the Python client's tests have it, and one TypeScript client for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from cloister.core.encoding.hexes import to_hex
from support.fake_gateway import FakeGateway, FakeWorker, serving
from support.fake_world import World
from support.typescript import Driver, driver


@dataclass
class Net:
    """What a test holds in its hands. ``connect`` before ``call``."""

    world: World
    gateway: FakeGateway
    one: FakeWorker
    two: FakeWorker
    agent: bytes
    typescript: Driver

    def connect(self, demand: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        """Pin the network and resolve the agent's record; {ok} or {error}."""
        options.setdefault("fingerprint", self.world.network.fingerprint())
        found = self.typescript.do("connect", url=self.gateway.url, now=self.world.now, **options)
        return found if "error" in found else self.typescript.do("agent", name=to_hex(self.agent), demand=demand or {})

    def call(self, path: str = "/", **options: Any) -> dict[str, Any]:
        """One call; {ok} or {error}."""
        return self.typescript.do("call", path=path, **options)

    def once(self, path: str = "/", **options: Any) -> dict[str, Any]:
        """A new client and one call."""
        found = self.connect()
        return found if "error" in found else self.call(path, **options)


@pytest.fixture(scope="session")
def typescript() -> Iterator[Driver]:
    with driver() as running:
        yield running


@pytest.fixture
def make_net() -> type[Net]:
    """For files with a network of their own."""
    return Net


@pytest.fixture
def net(typescript: Driver) -> Iterator[Net]:
    world = World()
    agent = world.set_agent()
    one, two = FakeWorker(world, "one", "intel"), FakeWorker(world, "two", "amd")
    gateway = FakeGateway(world, [one, two])
    world.mine()
    gateway.offer(agent)
    with serving(gateway):
        yield Net(world, gateway, one, two, agent, typescript)
