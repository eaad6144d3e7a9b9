"""Python agents with real packages, in the real sandbox, against the devnet's real model server over TLS."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from cloister.client.build import build
from cloister.core.policy.archive import unpack
from cloister.core.policy.manifest import MAX_BUNDLE
from cloister.devnet.process import spawn
from cloister.devnet.tools import deno
from cloister.sandbox.runtimes import AgentSandbox
from support.build_kit import ROOT, spec_for
from support.sandbox_kit import MemoryHost, ask

# Packages come from an index, and their start takes seconds of CPU time.
pytestmark = [pytest.mark.long, pytest.mark.asyncio(loop_scope="module")]
AGENTS = ROOT / "tests" / "support" / "python_agents"
KEY = "sk-test-0123456789"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def model(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Any]]:
    work = tmp_path_factory.mktemp("python-models")
    (work / "key").write_text(KEY)
    arguments = ["--work", str(work / "model"), "--key-file", str(work / "key")]
    child = await spawn("model", "cloister.devnet.model", arguments, log_dir=work / "logs")
    ca = Path(child.ready["ca"]).read_bytes()
    yield {"map_host": {"api.openai.com": ("127.0.0.1", child.ready["port"])}, "extra_ca": ca}
    await child.stop()


async def answer(name: str, path: str, model: dict[str, Any], work: Path) -> Any:
    built = await build(AGENTS / name, work / "out", deno=deno())
    assert len(built.bundle) < MAX_BUNDLE
    host = MemoryHost()
    async with AgentSandbox(work / "sandbox") as sandbox:
        process = await sandbox.start(spec_for(built, {"OPENAI_API_KEY": KEY}, **model), host)
        try:
            return json.loads((await ask(process, path, seconds=60)).body)
        except Exception:
            print(host.lines)
            raise


async def test_urllib_requests_httpx_and_openai_find_the_proxy(model: dict[str, Any], tmp_path: Path) -> None:
    sizes = (await answer("openai", "/", model, tmp_path))["sizes"]
    assert len(sizes) == 4
    assert len(set(sizes)) == 1
    assert sizes[0] > 100


@pytest.mark.parametrize(
    ("question", "part"), [("When must I pay the bill?", "invoice"), ("my internet does not work", "router")]
)
async def test_langchain_finds_documents_by_meaning(
    question: str, part: str, model: dict[str, Any], tmp_path: Path
) -> None:
    assert part in (await answer("langchain", f"/?q={quote(question)}", model, tmp_path))["found"]


async def test_two_builds_with_real_wheels_are_the_same(tmp_path: Path) -> None:
    one = await build(AGENTS / "openai", tmp_path / "a", deno=deno())
    other = await build(AGENTS / "openai", tmp_path / "b", deno=deno())
    assert one.code_hash == other.code_hash
    assert {name.split("/")[1] for name, _ in unpack(one.bundle)} >= {"openai", "httpx", "requests", "agent.py"}
