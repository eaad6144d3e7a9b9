"""A worker over a chain in memory, for the tests beside this file."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from support.fake_sandbox import Agent, hello
from support.worker_kit import Rig, world_of

Make = Callable[..., Awaitable[Rig]]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    """``await make(agent function)`` gives a worker that is closed afterwards."""
    rigs: list[Rig] = []

    async def made(agent: Agent = hello) -> Rig:
        rigs.append(await Rig(world_of(), tmp_path / str(len(rigs)), agent).open())
        return rigs[-1]

    yield made
    for rig in rigs:
        await rig.close()


@pytest.fixture
async def rig(make: Make) -> Rig:
    """A worker whose agents say hello."""
    return await make()
