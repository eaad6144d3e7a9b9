"""The services' command line: settings from file and environment, ``--check``, and what is refused."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError
from cloister.node import command
from cloister.node.config import BAD_CONFIG, config_hash, load_config, named

PREFIX = "CLOISTER_SHOP"


@dataclass(frozen=True)
class Shop:
    """Settings of a service."""

    folder: Path
    name: str
    seats: int = 3
    doors: list[str] | None = None
    open: bool = False
    log_level: str = "info"


def no_seatless(config: Shop) -> None:
    if config.seats < 1:
        raise BAD_CONFIG(expected="seats from 1", found=str(config.seats))


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests' logging stays as it is."""
    monkeypatch.setattr(command.logs, "configure", lambda *args, **options: None)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "shop.json"
    path.write_text('{"folder": "/var/shop", "name": "one"}')
    return path


async def serve(config: Shop, stop: asyncio.Event) -> None:
    print(f"served {config.name} {config.seats}")


def run(file: Path, *more: str) -> int:
    return command.main("shop", Shop, serve, check=no_seatless, arguments=["--config", str(file), *more])


def test_check_prints_the_settings_that_count_and_their_hash(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(file, "--check") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["settings"] == {
        "folder": "/var/shop", "name": "one", "seats": 3, "doors": None, "open": False, "log_level": "info",
    }  # fmt: skip
    assert shown["config"] == to_hex(config_hash(Shop(Path("/var/shop"), "one")))


def test_without_check_it_serves(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(file) == 0
    assert capsys.readouterr().out == "served one 3\n"


OVER: dict[str, tuple[str, str, str, Any]] = {
    "text as it is": ("NAME", "two words", "name", "two words"),
    "text that looks like a number": ("NAME", "7", "name", "7"),
    "a path": ("FOLDER", "/srv", "folder", Path("/srv")),
    "a number": ("SEATS", "9", "seats", 9),
    "a list": ("DOORS", '["a", "b"]', "doors", ["a", "b"]),
    "a truth value": ("OPEN", "true", "open", True),
}


@pytest.mark.parametrize("case", OVER)
def test_a_variable_takes_the_place_of_a_field(case: str, file: Path) -> None:
    name, text, field, value = OVER[case]
    config = load_config(file, Shop, over={f"{PREFIX}_{name}": text, "HOME": "/root"}, prefix=PREFIX)
    assert getattr(config, field) == value


REFUSED: dict[str, dict[str, str]] = {
    "a variable of no field": {"SEAT": "9"},
    "a number that is none": {"SEATS": "nine"},
    "a number with a fraction": {"SEATS": "1.5"},
    "the same name twice inside": {"DOORS": '{"a": 1, "a": 2}'},
    "another type": {"OPEN": '"yes"'},
    "more text than a file may have": {"NAME": "x" * ((1 << 20) + 1)},
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_variable_that_does_not_fit_is_refused_like_a_field(case: str, file: Path) -> None:
    with pytest.raises(CloisterError) as caught:
        load_config(file, Shop, over={f"{PREFIX}_{n}": v for n, v in REFUSED[case].items()}, prefix=PREFIX)
    assert caught.value.code == "config.bad"
    assert "x" * 99 not in str(caught.value)


def test_variables_of_others_are_not_read(file: Path) -> None:
    assert named({"CLOISTER_SHOPKEEPER": "1", "CLOISTER_HOME": "/x", "SHOP_NAME": "y"}, PREFIX) == {}
    assert named({"CLOISTER_SHOP_NAME": "y"}, "") == {}
    assert load_config(file, Shop, over={"CLOISTER_SHOPKEEPER": "1"}, prefix=PREFIX).name == "one"


def test_the_environment_reaches_the_service(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLOISTER_SHOP_SEATS", "8")
    assert run(file) == 0
    assert capsys.readouterr().out == "served one 8\n"


WRONG: dict[str, dict[str, str]] = {
    "settings that the service refuses": {"SEATS": "0"},
    "a log level that there is not": {"LOG_LEVEL": "loud"},
    "a type that does not fit": {"SEATS": '"3"'},
}


@pytest.mark.parametrize("case", WRONG)
def test_check_says_what_is_wrong_in_two_lines_and_ends_with_one(
    case: str, file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in WRONG[case].items():
        monkeypatch.setenv(f"{PREFIX}_{name}", value)
    assert run(file, "--check") == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    error, hint = shown.err.splitlines()
    assert error.startswith("error: config.bad: ")
    assert hint.startswith("hint: ")


def test_what_check_refuses_does_not_start(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"{PREFIX}_SEATS", "0")
    assert run(file) == 1


@pytest.mark.parametrize("service", ["gateway", "worker", "gatekeeper"])
def test_each_service_has_the_same_command_line(
    service: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib

    main = importlib.import_module(f"cloister.{service}.__main__").main
    assert main(["--config", str(tmp_path / "none.json"), "--check"]) == 1
    assert capsys.readouterr().err.startswith("error: config.unreadable: ")
