"""One real sandbox per test module, on that module's event loop; nothing of it may outlive the module."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from cloister.sandbox.deno import DenoSandbox
from support.sandbox_kit import children, mounts, network_namespaces


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def sandbox(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[DenoSandbox]:
    work: Path = tmp_path_factory.mktemp("sandbox")
    before = children(), network_namespaces()
    async with DenoSandbox(work) as sandbox:
        yield sandbox
        assert str(work) not in mounts(), "a sandbox mounts nothing where others see it"
    assert (children(), network_namespaces()) == before, "no process and no namespace outlives the sandbox"
    assert [path.name for path in work.iterdir()] == ["deno.lock"], "no file outlives the sandbox"
