"""The notes agent, built as a developer builds it, in a real sandbox, against the real model server over TLS."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cloister.client.build import Built, build
from cloister.core.errors import SandboxError
from cloister.devnet.process import spawn
from cloister.devnet.tools import deno
from cloister.sandbox.deno import DenoSandbox
from cloister.sandbox.ports import AgentSpec, Limits
from cloister.sandbox.process import SandboxProcess
from support.sandbox_kit import MemoryHost, ask, spec_of

pytestmark = pytest.mark.asyncio(loop_scope="module")
ROOT = Path(__file__).resolve().parents[3]
KEY = "sk-test-0123456789"
ALICE, BOB = ({"kind": "wallet", "address": f"0x{digit * 40}"} for digit in "ab")


@dataclass
class Bench:
    """The built agent and what it needs."""

    built: Built
    sandbox: DenoSandbox
    ca: bytes
    port: int

    def spec(self, key: str = KEY) -> AgentSpec:
        manifest = self.built.manifest
        return spec_of(
            self.built.bundle.decode(),
            env=manifest.environment({"OPENAI_API_KEY": key}),
            egress=manifest.egress,
            limits=Limits(**manifest.limits),
            map_host={"api.openai.com": ("127.0.0.1", self.port)},
            extra_ca=self.ca,
        )


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    work = tmp_path_factory.mktemp("notes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DENO_DIR", str(ROOT / ".build" / "deno"))
        built = await build(ROOT / "agents" / "notes", work / "out", deno=deno())
    (work / "key").write_text(KEY)
    arguments = ["--work", str(work / "model"), "--key-file", str(work / "key")]
    child = await spawn("model", "cloister.devnet.model", arguments, log_dir=work / "logs")
    async with DenoSandbox(work / "sandbox") as sandbox:
        yield Bench(built, sandbox, Path(child.ready["ca"]).read_bytes(), child.ready["port"])
    await child.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def notes(bench: Bench) -> AsyncIterator[tuple[SandboxProcess, MemoryHost]]:
    host = MemoryHost()
    process = await bench.sandbox.start(bench.spec(), host)
    yield process, host
    await process.close()


async def say(
    process: SandboxProcess, method: str, path: str, body: object = None, who: Any = ALICE
) -> tuple[int, Any]:
    data = b"" if body is None else json.dumps(body).encode()
    answer = await ask(process, path, method=method, body=data, caller=who)
    return answer.status, json.loads(answer.body or b"null")


NOTES = [
    {"title": "Bread", "text": "The starter needs feeding on Fridays.\n\nUse rye flour and lukewarm water."},
    {"title": "Taxes", "text": "The return is due by the end of April."},
    {"title": "Keys", "text": "The spare key lies under the third flowerpot."},
]


async def test_notes_are_found_by_meaning(notes: tuple[SandboxProcess, MemoryHost]) -> None:
    process, _ = notes
    status, said = await say(process, "POST", "/notes", NOTES)
    assert (status, [note["title"] for note in said["notes"]]) == (201, ["Bread", "Taxes", "Keys"])
    for question, title in (("when+do+I+care+for+the+sourdough", "Bread"), ("how+do+I+get+into+the+house", "Keys")):
        status, said = await say(process, "GET", f"/search?q={question}&k=2")
        assert (status, len(said["results"]), said["results"][0]["title"]) == (200, 2, title)
        assert said["results"][0]["score"] > said["results"][1]["score"]
    assert process.usage()["egress_bytes"] > 0


async def test_notes_are_listed_read_and_deleted(notes: tuple[SandboxProcess, MemoryHost]) -> None:
    process, host = notes
    _, said = await say(process, "POST", "/notes", NOTES[0])
    (note,) = said["notes"]
    assert [item["title"] for item in (await say(process, "GET", "/notes"))[1]["notes"]] == ["Bread"]
    assert (await say(process, "GET", f"/notes/{note['id']}"))[1]["text"] == NOTES[0]["text"]
    assert (await say(process, "DELETE", f"/notes/{note['id']}"))[0] == 204
    assert (await say(process, "DELETE", f"/notes/{note['id']}"))[0] == 404
    assert (await say(process, "GET", f"/notes/{note['id']}"))[0] == 404
    assert host.store == {}


async def test_everybody_has_a_notebook_of_their_own(notes: tuple[SandboxProcess, MemoryHost]) -> None:
    process, host = notes
    _, said = await say(process, "POST", "/notes", NOTES[0], ALICE)
    note = said["notes"][0]["id"]
    assert (await say(process, "GET", "/notes", who=BOB))[1] == {"notes": []}
    assert (await say(process, "GET", "/search?q=bread", who=BOB))[1] == {"results": []}
    assert (await say(process, "GET", f"/notes/{note}", who=BOB))[0] == 404
    assert (await say(process, "DELETE", f"/notes/{note}", who=BOB))[0] == 404
    assert all(key.startswith(f"notes/{ALICE['address']}/") for key in host.store)


async def test_a_long_note_is_cut_into_pieces_and_found_by_any(notes: tuple[SandboxProcess, MemoryHost]) -> None:
    process, _ = notes
    filler = "\n\n".join("Nothing of interest happened on this long and quiet day by the sea. " * 6 for _ in range(4))
    text = f"{filler}\n\nThe password of the cellar is written inside the clock.\n\n{filler}"
    await say(process, "POST", "/notes", [{"title": "Diary", "text": text}, NOTES[1]])
    _, said = await say(process, "GET", "/search?q=where+is+the+cellar+password")
    assert said["results"][0]["title"] == "Diary"
    assert "clock" in said["results"][0]["excerpt"]
    assert len(said["results"][0]["excerpt"].split()) <= 120


WRONG: dict[str, tuple[int, str, str, object]] = {
    "no such route": (404, "GET", "/", None),
    "another method": (404, "PUT", "/notes", {}),
    "no JSON": (400, "POST", "/notes", None),
    "an empty list": (400, "POST", "/notes", []),
    "a note without text": (400, "POST", "/notes", {"title": "x"}),
    "a blank title": (400, "POST", "/notes", {"title": " ", "text": "x"}),
    "a note that is a number": (400, "POST", "/notes", [1]),
    "a text too long": (400, "POST", "/notes", {"title": "x", "text": "x" * 10_001}),
    "too many notes": (400, "POST", "/notes", [NOTES[0]] * 51),
    "a search without a question": (400, "GET", "/search", None),
    "a k that is no number": (400, "GET", "/search?q=a&k=many", None),
    "a k of zero": (400, "GET", "/search?q=a&k=0", None),
    "an id that is none": (404, "GET", "/notes/..%2f..%2fx", None),
}


async def test_wrong_requests_get_a_reason(notes: tuple[SandboxProcess, MemoryHost]) -> None:
    process, host = notes
    for sentence, (status, method, path, body) in WRONG.items():
        answered, said = await say(process, method, path, body)
        assert (answered, bool(said["error"])) == (status, True), sentence
    assert host.store == {}


async def test_an_anonymous_caller_is_asked_to_sign_in(notes: tuple[SandboxProcess, MemoryHost]) -> None:
    process, _ = notes
    for method, path in (("GET", "/notes"), ("POST", "/notes"), ("GET", "/search?q=x")):
        assert (await say(process, method, path, NOTES[0] if method == "POST" else None, who=None))[0] == 401


async def test_a_wrong_key_fails_without_saying_it(bench: Bench) -> None:
    host = MemoryHost()
    process = await bench.sandbox.start(bench.spec(key="sk-wrong-key-42"), host)
    with pytest.raises(SandboxError) as caught:
        await say(process, "POST", "/notes", NOTES[0])
    assert (caught.value.code, caught.value.found) == ("sandbox.agent_threw", "Error")
    assert "wrong-key" not in str(caught.value.to_wire())
    assert host.logged("Incorrect API key")
    await process.close()


async def test_the_build_is_reproducible_with_its_packages(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for path in (ROOT / "agents" / "notes").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DENO_DIR", str(ROOT / ".build" / "deno"))
        again = await build(folder, tmp_path / "out", deno=deno())
    assert (again.code_hash, again.manifest_hash) == (bench.built.code_hash, bench.built.manifest_hash)
