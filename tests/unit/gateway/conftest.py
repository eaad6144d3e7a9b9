"""These tests run on uvloop, as the services do, and log as the services do (an unconfigured logger draws slowly)."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping

import pytest
import uvloop

from cloister.node import logs


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session", autouse=True)
def _logs() -> None:
    logs.configure("gateway", stream=io.StringIO())
