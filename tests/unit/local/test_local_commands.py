"""`agent dev`, `agent test`, `agent versions` as a person types them: facts, refusals in two lines, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cloister.cli.app import app
from cloister.cli.project import new_project
from cloister.cli.versions import keep
from cloister.client.versions import Version, read_versions
from cloister.devnet.layout import Layout, write_private
from cloister.devnet.told import API_KEY_FILE
from cloister.local.dev import devnet_model
from support.build_kit import DENO_DIR, write_project


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DENO_DIR", DENO_DIR)
    monkeypatch.setenv("CLOISTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["agent", *words])


def test_passing_tests_are_said_one_by_one_and_as_json(tmp_path: Path) -> None:
    folder = new_project("hello", "minimal", tmp_path)
    result = run("test", str(folder), "--json")
    assert result.exit_code == 0, result.output
    outcomes = json.loads(result.stdout)
    assert [(one["name"], one["ok"], one["error"]) for one in outcomes] == [
        ("it says hello", True, None),
        ("a note that was saved is listed", True, None),
        ("every test begins with an empty state", True, None),
    ]
    assert {type(one["ms"]) for one in outcomes} == {int}
    assert "3 passed" in result.stderr


def test_a_failing_test_ends_with_one_and_says_why(tmp_path: Path) -> None:
    files = {
        "agent.js": "export default () => new Response('no');",
        "agent.test.js": "export default { async 'it says yes'(agent) {"
        " const said = await (await agent.fetch('/')).text();"
        " if (said !== 'yes') throw new Error('it said ' + said); } };",
    }
    result = run("test", str(write_project(tmp_path / "agent", files)))
    assert (result.exit_code, result.stdout) == (1, "")
    for part in ("FAILED it says yes", "Error: it said no", "(local.failed_tests)", "hint:"):
        assert part in result.stderr
    assert "Traceback" not in result.stderr


REFUSED: dict[str, tuple[list[str], str]] = {
    "a host map that is none": (["--map-host", "api.example"], "cli.map_host"),
    "a host map without a port": (["--map-host", "api.example=127.0.0.1"], "cli.map_host"),
    "a host map to a name": (["--map-host", "api.example=localhost:1"], "sandbox.egress"),
    "an authority that is not there": (["--ca", "/nowhere.pem"], "client.file"),
    "secrets that are not there": (["--secrets", "/nowhere.json"], "client.file"),
    "a model without a network": (["--model"], "devnet.not_running"),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_dev_refuses(sentence: str, tmp_path: Path) -> None:
    words, code = REFUSED[sentence]
    result = run("dev", str(new_project("hello", "minimal", tmp_path)), *words)
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert f"({code})" in result.stderr
    assert "hint:" in result.stderr


def test_a_folder_without_an_agent_is_refused(tmp_path: Path) -> None:
    for words, code in ((("dev", str(tmp_path)), "build.entry"), (("test", str(tmp_path)), "local.no_tests")):
        result = run(*words)
        assert (result.exit_code, f"({code})" in result.stderr) == (1, True)


def test_a_folder_that_was_never_deployed_has_no_versions(tmp_path: Path) -> None:
    result = run("versions", str(tmp_path), "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, [])
    (tmp_path / "cloister.versions.json").write_text("{")
    refused = run("versions", str(tmp_path))
    assert (refused.exit_code, "(client.versions_file)" in refused.stderr) == (1, True)


def test_the_devnets_model_is_found_with_its_key_and_authority(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "devnet")
    layout.prepare()
    facts: dict[str, Any] = {"pid": 1}
    write_private(tmp_path / "devnet.json", json.dumps(facts).encode())
    write_private(layout.model / API_KEY_FILE, b"sk-devnet-1")
    (layout.model / "ca.pem").write_bytes(b"a certificate")
    key, hosts, pem = devnet_model(tmp_path)
    assert (key, pem) == ("sk-devnet-1", b"a certificate")
    assert hosts == {"api.openai.com": ("127.0.0.1", layout.ports()["model"])}


@pytest.mark.parametrize(
    ("files", "written", "code"),
    [
        ({"agent.ts": "export default 1;"}, True, None),
        ({"cloister.versions.json": '{"versions": []}'}, True, None),
        ({"notes.txt": "no agent"}, False, "build.entry"),
        ({"agent.ts": "x", "cloister.versions.json": "{"}, False, "client.versions_file"),
    ],
)
def test_a_version_is_kept_where_an_agent_is(
    files: dict[str, str], written: bool, code: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is wrong with the folder, the transaction was made: it is a note and no refusal."""
    version = Version(b"\x01" * 32, b"\x02" * 32, b"\x03" * 32, 7)
    keep(write_project(tmp_path, files), version)
    said = capsys.readouterr().err
    if written:
        assert (read_versions(tmp_path), said) == ([version], "")
    else:
        assert "was not written" in said
        assert f"({code})" in said
