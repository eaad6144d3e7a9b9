"""The templates that use a model, in the real sandbox, against the devnet's real model server over TLS."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from cloister.cli.project import new_project
from cloister.devnet.process import spawn
from cloister.sandbox.deno import DenoSandbox
from cloister.sandbox.process import SandboxProcess
from support.build_kit import DENO_DIR, running
from support.sandbox_kit import MemoryHost, ask

pytestmark = pytest.mark.asyncio(loop_scope="module")
KEY = "sk-test-0123456789"


@dataclass
class Bench:
    """A sandbox and a model server."""

    sandbox: DenoSandbox
    ca: bytes
    port: int

    @asynccontextmanager
    async def agent(self, template: str, folder: Path) -> AsyncIterator[tuple[SandboxProcess, MemoryHost]]:
        """A new agent of this template, running."""
        made = new_project("my-agent", template, folder)
        hosts: Mapping[str, tuple[str, int]] = {"api.openai.com": ("127.0.0.1", self.port)}
        secrets = {"OPENAI_API_KEY": KEY}
        async with running(self.sandbox, made, folder / "out", secrets, map_host=hosts, extra_ca=self.ca) as started:
            yield started


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    work = tmp_path_factory.mktemp("templates")
    (work / "key").write_text(KEY)
    arguments = ["--work", str(work / "model"), "--key-file", str(work / "key")]
    child = await spawn("model", "cloister.devnet.model", arguments, log_dir=work / "logs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DENO_DIR", DENO_DIR)
        async with DenoSandbox(work / "sandbox") as sandbox:
            yield Bench(sandbox, Path(child.ready["ca"]).read_bytes(), child.ready["port"])
    await child.stop()


async def test_the_openai_template_classifies_by_meaning(bench: Bench, tmp_path: Path) -> None:
    async with bench.agent("openai", tmp_path) as (process, _):
        for text, best in (
            ("I was charged twice on my credit card", "payments"),
            ("the application crashes when I open it", "software bugs"),
        ):
            body = json.dumps({"text": text, "labels": ["payments", "software bugs", "cooking"]}).encode()
            answer = await ask(process, "/classify", method="POST", body=body)
            assert (answer.status, json.loads(answer.body)["best"]) == (200, best)


async def test_the_langchain_template_finds_the_passage_that_answers(bench: Bench, tmp_path: Path) -> None:
    async with bench.agent("langchain", tmp_path) as (process, host):
        texts = ["The starter needs feeding on Fridays.", "The spare key lies under the third flowerpot."]
        for number, text in enumerate(texts):
            made = await ask(process, "/documents", method="POST", body=text.encode(), request_id=f"0x{number}")
            assert (made.status, json.loads(made.body)) == (201, {"pieces": 1})
        assert len(host.store) == 2
        found = json.loads((await ask(process, "/ask?q=how+do+I+get+into+the+house")).body)
        assert found["passages"][0] == texts[1]


# A model that chats: LangChain's whole chain of prompt, model and parser, with the passages in the prompt.
CHAT = """
import assert from "node:assert/strict";
export const secrets = { OPENAI_API_KEY: "sk-test" };
const seen = [];
export const hosts = { async "api.openai.com"(request) {
  const body = await request.json(), { pathname } = new URL(request.url);
  if (pathname === "/v1/embeddings") {
    const data = [body.input].flat().map((text, index) => ({ object: "embedding", index, embedding: [1, 0] }));
    return Response.json({ object: "list", data, model: body.model, usage: { prompt_tokens: 1, total_tokens: 1 } });
  }
  assert.equal(pathname, "/v1/chat/completions");
  seen.push(body.messages);
  const message = { role: "assistant", content: "In April." };
  const choices = [{ index: 0, message, finish_reason: "stop" }];
  return Response.json({ id: "1", object: "chat.completion", created: 1, model: body.model, choices,
    usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2 } });
} };
export default { async "a model answers from the passages"(agent) {
  await agent.fetch("/documents", { method: "POST", body: "The tax return is due in April." });
  const said = await (await agent.fetch("/ask?q=When+is+the+tax+due")).json();
  assert.equal(said.answer, "In April.");
  assert.match(JSON.stringify(seen[0]), /due in April.*When is the tax due/);
} };
"""


async def test_langchains_chain_of_prompt_model_and_parser_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloister.devnet.tools import deno
    from cloister.local.testing import run_tests

    monkeypatch.setenv("DENO_DIR", DENO_DIR)
    folder = new_project("my-agent", "langchain", tmp_path)
    manifest = json.loads((folder / "cloister.json").read_text())
    manifest["settings"]["CHAT_MODEL"] = "some-model"
    (folder / "cloister.json").write_text(json.dumps(manifest))
    (folder / "agent.test.ts").unlink()
    (folder / "agent.test.js").write_text(CHAT)
    outcomes = await run_tests(folder, deno(), lambda level, text: None, lambda outcome: None)
    assert [outcome.error for outcome in outcomes] == [None]
