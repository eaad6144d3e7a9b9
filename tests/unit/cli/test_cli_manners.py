"""Terminal manners: facts on stdout, errors as two lines on stderr, exit codes, no traceback for the world's faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cloister import __version__
from cloister.cli import asking, output
from cloister.cli.completion import SCRIPTS
from cloister.cli.running import INTERRUPTED, command
from cloister.core.errors import CloisterError, ConfigError, define

TEST_REFUSAL = define("test.cli", ConfigError, check="it is [bold]good[/bold]", remedy="make it [red]better[/red]")


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def test_help_and_version(run: Any) -> None:
    for words in ([], ["agent"], ["verify"], ["wallet"], ["agent", "secrets"]):
        assert run(*words, "--help").exit_code == 0
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"cloister {__version__}\n")


@pytest.mark.parametrize(
    "words",
    [
        ["nothing"],
        ["call"],
        ["up", "--workers", "99"],
        ["--nothing"],
        ["agent", "deploy", "--nothing"],
        ["completion", "tcsh"],
    ],
)
def test_a_wrong_command_line_exits_with_two(words: list[str], run: Any) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_without_a_network_the_error_names_the_option(run: Any) -> None:
    for words in (["call", "1"], ["agent", "list"], ["verify", "network"], ["verify", "agent", "1"]):
        result = run(*words)
        assert result.exit_code == 1
        error, hint = lines(result.stderr)[-2:]
        assert error.startswith("error: ")
        assert "(cli.no_gateway)" in error
        assert hint.startswith("hint: ")
        assert "--gateway" in hint
        assert result.stdout == ""


def test_a_gateway_that_is_not_there(run: Any) -> None:
    result = run("--gateway", "http://127.0.0.1:1", "--fingerprint", "ab" * 32, "agent", "list")
    assert result.exit_code == 1
    assert "(client.unreachable)" in result.stderr
    assert "cloister up" in result.stderr


def test_another_fingerprint(run: Any, cli_net: Any) -> None:
    result = run("--gateway", cli_net.gateway.url, "--fingerprint", "ab" * 32, "agent", "list")
    assert result.exit_code == 1
    assert "error: " in result.stderr
    assert "(encoding.fingerprint)" in result.stderr


def test_no_pin_and_trust_on_first_use(run: Any, cli_net: Any) -> None:
    result = run("--gateway", cli_net.gateway.url, "agent", "list")
    assert result.exit_code == 1
    assert "--trust-on-first-use" in result.stderr
    assert run("--gateway", cli_net.gateway.url, "--trust-on-first-use", "agent", "list").exit_code == 0
    assert run("--gateway", cli_net.gateway.url, "agent", "list").exit_code == 0


def test_a_running_devnet_is_the_default(run: Any, cli_net: Any) -> None:
    cli_net.home.mkdir()
    facts = {"gateway": cli_net.gateway.url, "fingerprint": cli_net.world.network.fingerprint()}
    (cli_net.home / "devnet.json").write_text(json.dumps(facts))
    assert run("agent", "list").exit_code == 0
    result = run("--gateway", "http://127.0.0.1:1", "agent", "list")
    assert "(client.unreachable)" in result.stderr


def test_the_devnets_pin_does_not_vouch_for_another_gateway(run: Any, cli_net: Any) -> None:
    cli_net.home.mkdir()
    facts = {"gateway": "http://127.0.0.1:1", "fingerprint": cli_net.world.network.fingerprint()}
    (cli_net.home / "devnet.json").write_text(json.dumps(facts))
    assert "(client.not_pinned)" in run("--gateway", cli_net.gateway.url, "agent", "list").stderr


def test_strangers_texts_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_error(TEST_REFUSAL(expected="[link=http://x]x[/link]", found="\x1b[31mred"))
    text = capsys.readouterr().err
    assert "[bold]good[/bold]" in text
    assert "[link=http://x]x[/link]" in text
    assert "make it [red]better[/red]" in text
    assert "\x1b" not in text


def test_commands_translate_refusals_and_interrupts() -> None:
    made = typer.Typer()

    @command(made, "refused")
    async def refused() -> None:
        raise TEST_REFUSAL(expected="a", found="b")

    @command(made, "interrupted")
    async def interrupted() -> None:
        raise KeyboardInterrupt

    @command(made, "broken")
    async def broken() -> None:
        raise RuntimeError("ours")

    assert CliRunner().invoke(made, ["refused"]).exit_code == 1
    assert CliRunner().invoke(made, ["interrupted"]).exit_code == INTERRUPTED
    assert isinstance(CliRunner().invoke(made, ["broken"]).exception, RuntimeError)


def test_facts_and_rows_print_as_text_and_json(capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"name": "a[b]", "on": True, "raw": None, "list": [1]}
    output.print_facts(facts, as_json=False)
    assert lines(capsys.readouterr().out) == ["name  a[b]", "on    yes", "raw   -", "list  [1]"]
    output.print_facts(facts, as_json=True)
    assert json.loads(capsys.readouterr().out) == facts
    output.print_rows([], ("a",), as_json=False, empty="none yet")
    assert capsys.readouterr().err == "none yet\n"
    output.print_rows([], ("a",), as_json=True, empty="none yet")
    assert json.loads(capsys.readouterr().out) == []
    output.print_rows([{"a": b"\x01", "b": 2}], ("a", "b"), as_json=False, empty="")
    assert "0x01" in capsys.readouterr().out


@pytest.mark.parametrize("shell", list(SCRIPTS))
def test_completion_scripts(shell: Any, run: Any) -> None:
    result = run("completion", shell.value)
    assert result.exit_code == 0
    assert f"_CLOISTER_COMPLETE=complete_{shell.value}" in result.stdout


def test_completion_words_come_from_the_program() -> None:
    program = [sys.executable, "-c", "from cloister.cli import main; main()"]
    asked = {"_CLOISTER_COMPLETE": "complete_bash", "COMP_WORDS": "cloister agent sh", "COMP_CWORD": "2"}
    done = subprocess.run(program, env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["show"]


# --- secrets on their way in ---


def test_a_secret_comes_from_a_descriptor(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("hunter2\n")
    with (tmp_path / "s").open("rb") as stream:
        assert asking.secret("?", fd=stream.fileno()) == "hunter2"
        stream.seek(0)
        assert stream.read() == b"hunter2\n"


BAD_SECRETS = {"nothing": b"", "blank": b" \n", "too much": b"x" * (asking.MAX_SECRET + 1), "bytes": b"\xff\xfe"}


@pytest.mark.parametrize("what", BAD_SECRETS)
def test_bad_secrets_are_refused(what: str, tmp_path: Path) -> None:
    (tmp_path / "s").write_bytes(BAD_SECRETS[what])
    with (tmp_path / "s").open("rb") as stream, pytest.raises(CloisterError) as caught:
        asking.secret("?", fd=stream.fileno())
    assert caught.value.code == asking.NO_SECRET.code
    assert "xxx" not in str(caught.value)


def test_a_closed_descriptor_is_refused() -> None:
    with pytest.raises(CloisterError) as caught:
        asking.secret("?", fd=987)
    assert caught.value.code == asking.NO_SECRET.code


def test_no_command_takes_a_secret_as_an_argument(run: Any) -> None:
    """Options that could carry a key, a passphrase or a value do not exist."""
    for words in (["wallet", "new"], ["wallet", "import"], ["agent", "secrets", "set"], ["agent", "deploy"]):
        text = run(*words, "--help").stdout
        for option in ("--passphrase ", "--key", "--value", "--private"):
            assert option not in text


def test_the_command_line_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "cloister.cli", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "agent" in done.stdout
