"""A served fake network at the machine's own time, and a runner that speaks to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cloister.cli.app import app
from support.fake_gateway import FakeGateway, FakeWorker, serving
from support.fake_world import CONTRACTS, World

Run = Callable[..., Result]


@dataclass
class CliNet:
    """The network behind the commands."""

    world: World
    gateway: FakeGateway
    workers: list[FakeWorker]
    agent: bytes
    home: Path
    more: list[str] = field(default_factory=list)

    @property
    def options(self) -> list[str]:
        """Global options that name and pin it."""
        return [*self.more, "--gateway", self.gateway.url, "--fingerprint", self.world.network.fingerprint()]


@pytest.fixture(autouse=True)
def _own_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLOISTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def cli_net(tmp_path: Path) -> Iterator[CliNet]:
    """A network with one agent on two workers, in the home folder of the test."""
    with network_in(tmp_path / "home") as made:
        yield made


@contextmanager
def network_in(home: Path, contracts: tuple[str, ...] = CONTRACTS) -> Iterator[CliNet]:
    """A served network whose clients keep their things in ``home``."""
    world = World(now=int(time.time()), contracts=contracts)
    agent = world.set_agent()
    workers = [FakeWorker(world, "one", "intel"), FakeWorker(world, "two", "amd")]
    gateway = FakeGateway(world, workers)
    world.mine()
    gateway.offer(agent)
    with serving(gateway):
        yield CliNet(world, gateway, workers, agent, home)


@pytest.fixture
def chained_net(tmp_path: Path) -> Iterator[CliNet]:
    """The same with a Receipts contract."""
    with network_in(tmp_path / "home", (*CONTRACTS, "Receipts")) as made:
        yield made


@pytest.fixture(scope="module")
def shared_net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CliNet]:
    """One network for the tests of a file that only look; its home is named with --home."""
    with network_in(tmp_path_factory.mktemp("shared") / "home") as made:
        made.more = ["--home", str(made.home)]
        yield made


@pytest.fixture
def run() -> Run:
    """``run("wallet", "list", input="…")``: a result with exit code, stdout, stderr."""

    def go(*args: str, input: str | None = None, net: Any = None) -> Result:
        return CliRunner().invoke(app, [*(net.options if net else []), *args], input=input)

    return go
