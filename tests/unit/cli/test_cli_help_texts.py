"""Help of every command, found by walking the program: it exits 0, names its options, and promises nothing else."""

from __future__ import annotations

import re
from typing import Any

import pytest
from typer._click.exceptions import NoSuchOption

from support.documents import COMMANDS, command_of, leaves, parse_command

PATHS = sorted(leaves())
GROUPS = [(), *sorted({path[:i] for path in PATHS for i in range(1, len(path))})]
# Commands without facts: they print a script, log lines, or files, or run until they are stopped.
NO_JSON = {("completion",), ("logs",), ("down",), ("agent", "new"), ("gatekeeper", "run")}
# Names of options that would carry a secret on the command line.
SECRET_WORDS = ("passphrase", "password", "key", "secret", "value", "token", "private", "mnemonic")


def options_of(command: Any) -> dict[str, Any]:
    """Long options of a command, by name."""
    return {name: one for one in command.params for name in one.opts if name.startswith("--")}


def shown(text: str) -> str:
    """Help without the boxes that a terminal draws."""
    return re.sub(r"[│╭╮╰╯─]", " ", text)


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_help_exits_zero_and_names_every_option_and_argument(path: tuple[str, ...], run: Any) -> None:
    result = run(*path, "--help")
    assert (result.exit_code, result.stderr) == (0, "")
    text = shown(result.stdout)
    command = command_of(path)
    for name in options_of(command):
        assert name in text, name
    for one in command.params:
        if one.param_type_name == "argument":
            assert (one.metavar or one.name.upper()) in text.upper(), one.name
            assert one.help, f"{one.name} says nothing of itself"
        elif not one.hidden and one.name != "help":
            assert one.help, f"{one.name} says nothing of itself"
    assert str(command.help).splitlines()[0].rstrip(".") in re.sub(r"\s+", " ", text)


@pytest.mark.parametrize("path", GROUPS, ids=lambda p: " ".join(p) or "cloister")
def test_a_group_lists_its_commands_and_alone_shows_its_help(path: tuple[str, ...], run: Any) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    for name in command_of(path).commands:
        assert re.search(rf"^\W*{name}\b", shown(result.stdout), re.MULTILINE), name
    assert command_of(path).no_args_is_help


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_command_with_facts_prints_them_as_json_too(path: tuple[str, ...]) -> None:
    found = options_of(command_of(path))
    assert ("--json" in found) == (path not in NO_JSON)


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_no_option_takes_a_secret(path: tuple[str, ...]) -> None:
    """Secrets come by prompt, pipe or descriptor. What looks like one here is a descriptor, a hash or a file's name."""
    for name in options_of(command_of(path)):
        if any(word in name for word in SECRET_WORDS):
            assert name in ("--passphrase-fd", "--api-key-fd", "--idempotency-key", "--secrets"), name


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_an_unknown_option_is_a_wrong_command_line(path: tuple[str, ...]) -> None:
    with pytest.raises(NoSuchOption) as caught:
        parse_command([*path, "--no-such-option"])
    assert caught.value.exit_code == 2


def test_a_wrong_command_line_is_said_on_stderr(run: Any) -> None:
    result = run("agent", "list", "--no-such-option")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--no-such-option" in result.stderr
    assert run("verify", "-h").exit_code == run("-h").exit_code == 0


def test_descriptors_are_numbers(run: Any) -> None:
    for words in (("wallet", "new", "a", "--passphrase-fd", "x"), ("wallet", "import", "a", "--fd", "x")):
        assert run(*words).exit_code == 2


def test_global_options_stand_before_the_command_only(run: Any) -> None:
    own = {name for one in COMMANDS.params for name in one.opts if name.startswith("--")} - {"--help"}
    assert own == {"--gateway", "--network", "--fingerprint", "--home", "--trust-on-first-use", "--version"}
    for path in PATHS:
        assert not own & set(options_of(command_of(path))) - {"--version"}, path
