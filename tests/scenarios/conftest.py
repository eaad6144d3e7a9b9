"""One network for all scenarios: started once, repaired after each scenario that breaks something."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from rich.console import Console

from cloister.client.client import Client
from cloister.devnet.demo.screen import Screen
from cloister.devnet.demo.steps import Demo, owner_wallet
from cloister.devnet.network import Devnet, Options


@pytest_asyncio.fixture(loop_scope="session", scope="package")
async def devnet() -> AsyncIterator[Devnet]:
    """A running network in a folder of its own (a short path: unix sockets have long names)."""
    home = Path(tempfile.mkdtemp(prefix="clo-"))
    try:
        async with Devnet(Options(home)) as running:
            yield running
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest_asyncio.fixture(loop_scope="session", scope="package")
async def client(devnet: Devnet) -> AsyncIterator[Client]:
    """The owner's client, pinned by fingerprint."""
    async with owner_of(devnet) as connected:
        yield connected


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def fresh_client(devnet: Devnet) -> AsyncIterator[Client]:
    """The owner's client for one file. Other programs may have used the wallet before: it counts nonces anew."""
    async with owner_of(devnet) as connected:
        yield connected


def owner_of(devnet: Devnet) -> Client:
    """A client of the owner."""
    assert devnet.network is not None
    return Client(
        devnet.gateway_url,
        fingerprint=devnet.network.fingerprint(),
        wallet=owner_wallet(devnet),
        home=devnet.options.home / "client",
    )


@pytest_asyncio.fixture(loop_scope="session", scope="package")
async def demo(devnet: Devnet, client: Client) -> AsyncIterator[Demo]:
    """The notes agent deployed, with its API key and one document."""
    with (devnet.layout.home / "screen.txt").open("w") as sink:
        steps = Demo(devnet, client, Screen(Console(file=sink, width=120)))
        await steps.deploy()
        await steps.set_key()
        await steps.feed(("docs/limitations.md",))
        yield steps
        await steps.close()


@pytest_asyncio.fixture(loop_scope="session")
async def repaired(devnet: Devnet) -> AsyncIterator[Devnet]:
    """The network, with everything that the scenario killed started again afterwards."""
    yield devnet
    await repair(devnet)


async def repair(devnet: Devnet) -> None:
    """Start again whatever is dead."""
    for name, child in list(devnet.children.items()):
        if child.alive:
            continue
        if name.startswith("gk-"):
            await devnet.start_gatekeeper(name)
        elif name.startswith("worker-"):
            await devnet.start_worker(name)
