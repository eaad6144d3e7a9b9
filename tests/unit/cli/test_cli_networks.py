"""up, down, status, doctor, logs: what they pass on, print and exit with. The devnet is a stand-in."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cloister.devnet import commands, live
from cloister.devnet.commands import NOT_RUNNING, RUNNING

KNOWN = {
    "gateway": "http://127.0.0.1:1",
    "fingerprint": "ab" * 32,
    "network_file": "/n",
    "rpc": "http://127.0.0.1:2",
    "owner_keystore": "/k",
    "pid": 7,
}
FACTS = {"gateway": "http://127.0.0.1:1", "fingerprint": "ab", "processes": {"gk-1": True, "worker-1": False}}


class Calls(list[tuple[str, tuple[Any, ...], dict[str, Any]]]):
    """What was asked of the devnet."""

    def stand_in(self, name: str, answer: Callable[..., Any]) -> Any:
        """An async function that notes its arguments and answers."""

        async def asked(*args: Any, **kwargs: Any) -> Any:
            self.append((name, args, kwargs))
            return answer(*args, **kwargs)

        return asked


@pytest.fixture
def devnet(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """All commands of the devnet replaced; ``up`` says two steps and is ready."""
    calls = Calls()

    def up(home: Path, *, say: Callable[[str], None], on_ready: Callable[[Mapping[str, Any]], Any], **_: Any) -> None:
        say("chain: starts")
        calls.append(("view", (on_ready(KNOWN),), {}))

    answers: dict[str, Callable[..., Any]] = {
        "up": up,
        "down": lambda home: None,
        "status": lambda home: FACTS,
        "doctor": lambda home: [{"name": "python", "ok": True, "found": "3.11", "hint": ""}],
        "logs": lambda *a: None,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(commands, name, calls.stand_in(name, answer))
    return calls


def asked(calls: Calls, name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    found = [(args, kwargs) for n, args, kwargs in calls if n == name]
    assert len(found) == 1
    return found[0]


# --- up ---


def test_up_passes_its_options_and_prints_facts_that_scripts_need(run: Any, devnet: Calls, tmp_path: Path) -> None:
    words = ["--workers", "2", "--map-host", "a.example=127.0.0.1:1", "--map-host", "b.example=127.0.0.1:2"]
    result = run("up", *words, "--json")
    assert result.exit_code == 0, result.output
    args, kwargs = asked(devnet, "up")
    assert args == (tmp_path / "home",)
    assert (kwargs["workers"], kwargs["map_host"]) == (2, ["a.example=127.0.0.1:1", "b.example=127.0.0.1:2"])
    assert json.loads(result.stdout) == {n: KNOWN[n] for n in ("gateway", "fingerprint", "network_file", "rpc")}
    assert "chain: starts" in result.stderr
    assert "control-C stops it" in result.stderr
    assert result.stderr.rstrip().endswith("stopped; its data stays")


def test_up_without_options_starts_four_workers(run: Any, devnet: Calls) -> None:
    result = run("up")
    _, kwargs = asked(devnet, "up")
    assert (kwargs["workers"], kwargs["map_host"]) == (4, None)
    assert result.stdout.splitlines()[0].split() == ["gateway", "http://127.0.0.1:1"]
    assert "owner_keystore" not in result.output


@pytest.mark.parametrize("number", ["0", "5", "-1", "three"])
def test_up_takes_one_to_four_workers(number: str, run: Any, devnet: Calls) -> None:
    assert run("up", "--workers", number).exit_code == 2
    assert devnet == []


@pytest.mark.parametrize(
    ("terminal", "json_too", "drawn"), [(True, False, True), (True, True, False), (False, False, False)]
)
def test_the_live_table_is_for_terminals(
    terminal: bool, json_too: bool, drawn: bool, run: Any, devnet: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never into a pipe, never beside a JSON document."""
    monkeypatch.setattr(live, "show", lambda home: ("a view of", home))
    monkeypatch.setattr("typer.testing.CliRunner.isolation", _isolation_with(terminal))
    run("up", *(["--json"] if json_too else []))
    view = asked(devnet, "view")[0][0]
    assert (view is not None) == drawn


def _isolation_with(terminal: bool) -> Any:
    """The runner's isolation, whose stderr says that it is a terminal."""
    from contextlib import contextmanager

    from typer.testing import CliRunner

    real = CliRunner.isolation

    @contextmanager
    def isolation(self: Any, *args: Any, **kwargs: Any) -> Any:
        import sys

        with real(self, *args, **kwargs) as streams:
            sys.stderr.isatty = lambda: terminal  # type: ignore[method-assign]
            yield streams

    return isolation


def test_a_second_network_in_one_home_is_refused(run: Any, devnet: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RUNNING(expected="no network in x", found="process 7")

    monkeypatch.setattr(commands, "up", devnet.stand_in("up", refuse))
    result = run("up")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "(devnet.running)" in result.stderr
    assert "`cloister down`" in result.stderr
    assert "stopped" not in result.stderr


# --- down, status ---


def test_down_stops_the_network_of_the_chosen_home(run: Any, devnet: Calls, tmp_path: Path) -> None:
    assert run("--home", str(tmp_path / "other"), "down").exit_code == 0
    assert asked(devnet, "down")[0] == (tmp_path / "other",)


@pytest.mark.parametrize("command", ["down", "status"])
def test_without_a_network_both_say_so(command: str, run: Any, devnet: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(home: Path) -> None:
        raise NOT_RUNNING(expected=f"a network in {home}", found="none")

    monkeypatch.setattr(commands, command, devnet.stand_in(command, refuse))
    result = run(command)
    assert result.exit_code == 1
    assert "(devnet.not_running)" in result.stderr
    assert "hint: start one with `cloister up`" in result.stderr


def test_status_shows_the_devnets_processes(run: Any, devnet: Calls) -> None:
    assert json.loads(run("status", "--json").stdout) == FACTS
    text = run("status").stdout
    assert '{"gk-1": true, "worker-1": false}' in text


def test_status_of_a_named_gateway_asks_that_gateway(run: Any, devnet: Calls, cli_net: Any) -> None:
    assert json.loads(run("--gateway", cli_net.gateway.url, "status", "--json").stdout)["version"] == "test"
    assert devnet == []
    result = run("--gateway", "http://127.0.0.1:1", "status")
    assert "(client.unreachable)" in result.stderr


# --- doctor ---


def test_doctor_exits_zero_if_all_is_well(run: Any, devnet: Calls) -> None:
    result = run("doctor")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].split() == ["name", "ok", "found", "hint"]
    assert result.stdout.splitlines()[1].split() == ["python", "yes", "3.11"]


def test_doctor_names_what_is_bad_and_exits_one(run: Any, devnet: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"name": "python", "ok": True, "found": "3.11", "hint": ""},
        {"name": "disk", "ok": False, "found": "0 GiB free", "hint": "free 2 GiB"},
        {"name": "bubblewrap", "ok": False, "found": "none", "hint": "install it"},
    ]
    monkeypatch.setattr(commands, "doctor", devnet.stand_in("doctor", lambda home: rows))
    result = run("doctor", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == rows
    assert "found disk, bubblewrap (cli.unhealthy)" in result.stderr
    table = run("doctor").stdout
    assert "free 2 GiB" in table
    assert "install it" in table


# --- logs ---


@pytest.mark.parametrize(
    ("words", "name", "follow"),
    [((), None, False), (("gk-1",), "gk-1", False), (("gk-1", "-f"), "gk-1", True), (("--follow",), None, True)],
)
def test_logs_passes_name_and_follow(words: tuple[str, ...], name: Any, follow: bool, run: Any, devnet: Calls) -> None:
    assert run("logs", *words).exit_code == 0
    assert asked(devnet, "logs")[0][1:] == (name, follow)


def test_control_c_while_following_is_an_interrupt(run: Any, devnet: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "logs", devnet.stand_in("logs", interrupt))
    result = run("logs", "-f")
    assert (result.exit_code, result.stderr) == (130, "interrupted\n")
