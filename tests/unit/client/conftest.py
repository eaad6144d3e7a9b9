"""A fresh small network per test: two workers of two vendors, one agent, a client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloister.client import Client, Home
from support.fake_gateway import FakeGateway, FakeWorker, serving
from support.fake_world import CONTRACTS, World


@dataclass
class Net:
    """What a test holds in its hands."""

    world: World
    gateway: FakeGateway
    one: FakeWorker
    two: FakeWorker
    agent: bytes
    home: Path

    def client(self, **options: Any) -> Client:
        """A client that pins this network by its fingerprint, with the world's clock."""
        options.setdefault("fingerprint", self.world.network.fingerprint())
        options.setdefault("home", Home(self.home))
        return Client(self.gateway.url, clock=lambda: self.world.now, **options)


def build_net(home: Path, world: World | None = None) -> tuple[Net, FakeGateway]:
    """A world with an agent on two workers."""
    world = world or World()
    agent = world.set_agent()
    one, two = FakeWorker(world, "one", "intel"), FakeWorker(world, "two", "amd")
    gateway = FakeGateway(world, [one, two])
    world.mine()
    gateway.offer(agent)
    return Net(world, gateway, one, two, agent, home), gateway


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    """A served network."""
    made, gateway = build_net(tmp_path / "home")
    with serving(gateway):
        yield made


@pytest.fixture
def chained(tmp_path: Path) -> Iterator[Net]:
    """A network with a Receipts contract."""
    made, gateway = build_net(tmp_path / "home", World(contracts=(*CONTRACTS, "Receipts")))
    with serving(gateway):
        yield made


@pytest.fixture
def client_of(net: Net) -> Callable[..., Client]:
    """Makes clients of the network."""
    return net.client
