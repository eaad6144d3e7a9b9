"""Every template is a working agent: it type-checks, passes its own tests in the real sandbox, and builds the same."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from cloister.cli.project import TEMPLATES, new_project
from cloister.client.build import build
from cloister.core.errors import CloisterError
from cloister.devnet.tools import deno
from cloister.local.testing import Outcome, run_tests
from support.build_kit import DENO_DIR, ROOT, write_project
from support.documents import blocks, cells, page, parse_command, words_of

SHIPPED = ROOT / "src" / "cloister" / "cli" / "templates"
EXAMPLES = sorted(path.name for path in (ROOT / "agents").iterdir() if (path / "agent.test.ts").is_file())


@pytest.fixture(autouse=True)
def _deno_dir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENO_DIR", DENO_DIR)


def test_every_template_that_is_shipped_is_offered() -> None:
    found = {path.name for path in SHIPPED.iterdir() if path.is_dir() and list(path.glob("agent.[tp][sy]"))}
    assert found == set(TEMPLATES)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_new_agent_has_its_name_and_everything_it_needs(template: str, tmp_path: Path) -> None:
    folder = new_project("my-agent", template, tmp_path)
    names = {path.name for path in folder.iterdir()}
    assert {"agent.test.ts", "cloister.json", "context.ts", "README.md", ".gitignore"} <= names
    assert len({"agent.ts", "agent.py"} & names) == 1
    assert ("deno.json" in names) == ("deno.lock" in names), "packages are locked"
    assert all("AGENT_NAME" not in path.read_text() for path in folder.iterdir())
    assert (folder / "README.md").read_text().startswith("# my-agent\n")
    assert json.loads((folder / "cloister.json").read_text())["upgrade"]["rule"] == "delay"
    assert len((folder / "README.md").read_text().splitlines()) < 25, "one screen"


@pytest.mark.parametrize("template", [t for t in TEMPLATES if (SHIPPED / t / "deno.json").exists()])
def test_packages_are_pinned_to_one_version(template: str) -> None:
    for target in json.loads((SHIPPED / template / "deno.json").read_text())["imports"].values():
        assert re.fullmatch(r"npm:/?(@[\w-]+/)?[\w-]+@\d+\.\d+\.\d+(/[\w/-]*)?", target), target


async def pass_all(folder: Path) -> list[Outcome]:
    logged: list[str] = []
    outcomes = await run_tests(folder, deno(), lambda level, text: logged.append(text), lambda outcome: None)
    assert [(o.name, o.error) for o in outcomes if o.error is not None] == [], logged
    return outcomes


@pytest.mark.parametrize("template", TEMPLATES)
async def test_a_new_agent_passes_its_own_tests(template: str, tmp_path: Path) -> None:
    folder = new_project("my-agent", template, tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(await pass_all(folder)) >= 2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before, "testing writes nothing"


@pytest.mark.parametrize("example", EXAMPLES)
async def test_an_example_passes_its_own_tests(example: str) -> None:
    assert len(await pass_all(ROOT / "agents" / example)) >= 3


def type_errors(folder: Path) -> str:
    lock = ["--lock=deno.lock", "--frozen"] if (folder / "deno.lock").exists() else ["--no-lock"]
    done = subprocess.run(
        [deno(), "check", "--quiet", *lock, *(path.name for path in folder.glob("agent*.ts"))],
        cwd=folder,
        env={**os.environ, "DENO_DIR": DENO_DIR, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )
    return done.stderr if done.returncode else ""


@pytest.mark.parametrize("template", ["minimal", "poster"])
def test_a_template_has_no_type_errors(template: str, tmp_path: Path) -> None:
    assert type_errors(new_project("my-agent", template, tmp_path)) == ""


@pytest.mark.long  # the types of viem and LangChain take most of a minute
def test_no_template_and_no_example_has_a_type_error(tmp_path: Path) -> None:
    folders = [new_project(f"my-{template}", template, tmp_path) for template in TEMPLATES]
    found = {f.name: type_errors(f) for f in (*folders, *(ROOT / "agents" / name for name in EXAMPLES))}
    assert {name: text for name, text in found.items() if text} == {}


@pytest.mark.parametrize("template", ["hono", "oracle", "python"])
async def test_a_template_builds_to_the_same_hash_elsewhere(
    template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another folder, other times, another umask and home: the same bytes."""
    one = await build(new_project("my-agent", template, tmp_path / "a"), tmp_path / "out-a", deno=deno())
    before = os.umask(0o077)
    try:
        folder = new_project("my-agent", template, tmp_path / "some" / "where" / "else")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        for path in folder.iterdir():
            os.utime(path, (1_000_000_000, 1_000_000_000))
        other = await build(folder, tmp_path / "out-b", deno=deno())
    finally:
        os.umask(before)
    assert (one.code_hash, one.manifest_hash) == (other.code_hash, other.manifest_hash)
    assert one.bundle == other.bundle


def test_the_commands_of_every_readme_parse() -> None:
    readmes = [*SHIPPED.glob("*/README.md"), *(ROOT / "agents").glob("*/README.md")]
    lines = [line.strip() for readme in readmes for line in readme.read_text().splitlines()]
    commands = [line for line in lines if line.startswith("cloister ")]
    assert len(commands) > 25
    for line in commands:
        parse_command(words_of(line))


async def test_the_pages_agent_passes_the_pages_test(tmp_path: Path) -> None:
    text = page("docs/use/agents.md")
    sources = blocks(text, "ts")
    files = {"agent.ts": sources[0], "cloister.json": blocks(text, "json")[0], "agent.test.ts": sources[1]}
    files["context.ts"] = (SHIPPED / "common" / "context.ts").read_text()
    assert sources[1].startswith("// agent.test.ts")
    assert len(await pass_all(write_project(tmp_path / "visits", files))) == 1


def test_the_page_lists_every_template() -> None:
    assert tuple(cells(page("docs/use/agents.md"), "template")) == TEMPLATES


def test_a_template_that_does_not_exist_is_refused_with_the_list(tmp_path: Path) -> None:
    with pytest.raises(CloisterError) as caught:
        new_project("a", "cobol", tmp_path)
    assert caught.value.code == "cli.template"
    assert all(template in caught.value.check for template in TEMPLATES)
    assert not (tmp_path / "a").exists()
