"""`agent test` for Python agents: their own runner, hosts and secrets, and what it says of tests that are broken."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cloister.cli.app import app
from cloister.client.python import read_sources
from cloister.core.errors import CloisterError
from cloister.local.pyrunner import load, run
from cloister.local.testing import find_tests
from support.build_kit import write_project

POSTER = Path(__file__).parents[3] / "agents" / "poster"
AGENT = """
import asyncio, urllib.request
from cloister_agent import Response

def ask():
    with urllib.request.urlopen("https://api.example/x?q=1") as answer:
        return answer.read().decode()

async def fetch(request, ctx):
    if request.path == "/other":
        return await ctx.agents.fetch("0x" + "0a" * 32, "/ask", method="POST", body="me")
    if request.path == "/host":
        return await asyncio.to_thread(ask)
    seen = (await ctx.state.get("seen") or 0) + 1
    await ctx.state.put("seen", seen)
    return {"seen": seen, "caller": ctx.caller, "secret": ctx.secrets.get("TOKEN"), "body": request.text()}

async def command(request, ctx):
    return {"did": request.json(), "caller": ctx.caller}
"""
TESTS = """
import asyncio
SECRETS = {"TOKEN": "t-1"}

async def api(request):
    return request.method + " " + request.url

HOSTS = {"api.example": api}
AGENTS = {"0x" + "0A" * 32: lambda request: {"asked": request.text()}}

async def test_another_agent_is_played_here(agent):
    assert (await agent.fetch("/other")).json() == {"asked": "me"}

async def test_it_answers(agent):
    answer = await agent.fetch("/", body="ü", method="PUT", caller="0x" + "a" * 40)
    kind = {"kind": "wallet", "address": "0x" + "a" * 40}
    assert answer.json() == {"seen": 1, "caller": kind, "secret": "t-1", "body": "ü"}

def test_every_test_begins_with_an_empty_state(agent):
    print("said by a test")
    assert asyncio.run(agent.fetch("/")).json()["seen"] == 1

async def test_hosts_answer(agent):
    assert "GET" in (await agent.fetch("/host")).text()

async def test_the_owner_commands_and_the_schedule_asks(agent):
    assert (await agent.command([1])).json() == {"did": [1], "caller": {"kind": "owner", "address": "0x" + "0" * 40}}
    assert (await agent.scheduled("/x")).json()["caller"] == {"kind": "schedule"}

async def test_this_one_fails(agent):
    assert (await agent.fetch("/")).status == 404, "it was 200"
"""
MANIFEST = '{"runtime": "python", "egress": ["api.example"], "secrets": ["TOKEN"]}'


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLOISTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NO_COLOR", "1")


def tried(folder: Path) -> Result:
    return CliRunner().invoke(app, ["agent", "test", str(folder), "--json"])


def test_a_python_agent_has_its_own_runner(tmp_path: Path) -> None:
    files = {"agent.py": AGENT, "agent_test.py": TESTS, "cloister.json": MANIFEST}
    result = tried(write_project(tmp_path / "agent", files))
    outcomes = json.loads(result.stdout)
    assert [(one["name"], one["ok"]) for one in outcomes] == [
        ("another agent is played here", True),
        ("it answers", True),
        ("every test begins with an empty state", True),
        ("hosts answer", True),
        ("the owner commands and the schedule asks", True),
        ("this one fails", False),
    ], result.output
    assert "AssertionError: it was 200" in outcomes[-1]["error"]
    assert result.exit_code == 1
    assert "said by a test" in result.stderr


def test_the_poster_passes_its_tests(tmp_path: Path) -> None:
    shutil.copytree(POSTER, tmp_path / "poster")
    result = tried(tmp_path / "poster")
    assert result.exit_code == 0, result.output
    assert {one["ok"] for one in json.loads(result.stdout)} == {True}


BROKEN: dict[str, tuple[str, str]] = {
    "no tests": ("x = 1", "local.no_tests"),
    "an error in it": ("import nowhere", "local.broken_tests"),
    "an end of its own": ("import os; os._exit(0)", "local.broken_tests"),
    "a host that is none": ("HOSTS = {'no host!': 1}\ndef test_a(agent): pass", "local.broken_tests"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_test_file_that_is_broken_is_refused_by_name(tmp_path: Path, what: str) -> None:
    text, code = BROKEN[what]
    result = tried(write_project(tmp_path / "agent", {"agent.py": AGENT, "agent_test.py": text, "cloister.json": "{}"}))
    assert result.exit_code == 1
    assert f"({code})" in result.stderr
    assert "Traceback" not in result.stdout


def test_the_test_file_is_found_and_stays_out_of_the_bundle(tmp_path: Path) -> None:
    folder = write_project(tmp_path, {"agent.py": AGENT, "agent_test.py": TESTS})
    assert find_tests(folder).name == "agent_test.py"
    assert set(read_sources(folder)) == {"agent.py"}
    (folder / "agent_test.py").unlink()
    with pytest.raises(CloisterError) as caught:
        find_tests(folder)
    assert caught.value.code == "local.no_tests"


def test_what_a_test_throws_is_its_outcome(tmp_path: Path) -> None:
    (tmp_path / "some_test.py").write_text(
        "def test_a(agent): raise ValueError('x' * 9000)\nasync def test_b(agent): ..."
    )
    module = load(tmp_path / "some_test.py")
    said = run(module.test_a, None)  # type: ignore[arg-type]
    assert said is not None
    assert len(said) == 4000
    assert run(module.test_b, None) is None  # type: ignore[arg-type]
