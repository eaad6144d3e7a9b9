"""Log lines: JSON, capped, without secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from cloister.core.errors import ConfigError, define
from cloister.node import logs

REFUSED = define("testlogs.refused", ConfigError, check="a thing holds", remedy="none")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    out, handlers = io.StringIO(), logging.getLogger().handlers[:]
    logs.configure("worker", stream=out)
    yield out
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_says_who_what_and_when(stream: io.StringIO) -> None:
    logs.get("leases").info("lease taken", agent="ab12", height=7, ok=True, none=None)
    (line,) = lines(stream)
    assert line.pop("host_time").endswith("Z")
    assert line == {
        "event": "lease taken",
        "level": "info",
        "service": "worker",
        "logger": "leases",
        "agent": "ab12",
        "height": 7,
        "ok": True,
        "none": None,
    }


BLANKED = [
    "secret",
    "secrets",
    "state_key",
    "key",
    "api-key",
    "API_KEY",
    "token",
    "psk",
    "password",
    "private",
    "share",
    "seed",
    "mnemonic",
    "authorization",
    "cookie",
    "plaintext",
    "body",
    "session_token",
    "sealing",
]


@pytest.mark.parametrize("name", BLANKED)
def test_a_field_with_such_a_name_is_blanked_at_every_depth(stream: io.StringIO, name: str) -> None:
    logs.get("x").info("event", **{name: "hunter2"}, deep={"list": [{name: "hunter2"}]})
    assert "hunter2" not in stream.getvalue()
    assert stream.getvalue().count(logs.BLANK) == 2


@pytest.mark.parametrize("name", ["public_key", "key_id", "keyboard", "monkey", "token_count", "agent"])
def test_a_field_with_such_a_name_is_shown(name: str) -> None:
    assert not logs.is_secret(name)


def test_bytes_are_shown_as_their_size(stream: io.StringIO) -> None:
    logs.get("x").info("event", blob=b"hunter2", many=[bytearray(3), memoryview(b"1")])
    assert "hunter2" not in stream.getvalue()
    assert lines(stream)[0]["blob"] == "<7 bytes>"
    assert lines(stream)[0]["many"] == ["<3 bytes>", "<1 bytes>"]


def test_everything_is_capped(stream: io.StringIO) -> None:
    log = logs.get("x")
    log.info("event", text="x" * 10_000, many=list(range(1000)), wide={str(n): n for n in range(1000)})
    log.info("e" * 50_000)
    log.info("event", **{f"f{n}": "y" * 1000 for n in range(100)})
    deep: list[Any] = []
    for _ in range(50):
        deep = [deep]
    log.info("event", deep=deep)
    assert len(lines(stream)) == 4
    assert all(len(line) <= logs.MAX_LINE for line in stream.getvalue().splitlines())


def test_a_text_cannot_break_the_line(stream: io.StringIO) -> None:
    logs.get("x").info('event\n{"event": "forged"}', name="a\r\nb\x1b[0m")
    assert len(lines(stream)) == 1
    assert "\x1b" not in stream.getvalue()


def test_an_error_shows_its_code_or_type_and_place_never_its_text(stream: io.StringIO) -> None:
    for error in (ValueError("hunter2"), REFUSED(expected="hunter2", found="hunter2")):
        try:
            raise error
        except Exception as caught:
            logs.get("x").error("failed", exc_info=caught, cause=caught)
            logs.get("x").exception("failed again")
    assert "hunter2" not in stream.getvalue()
    assert [line["error"] for line in lines(stream)] == ["ValueError"] * 2 + ["testlogs.refused"] * 2
    assert all("test_an_error" in line["at"][0] for line in lines(stream))


def test_other_libraries_warn_through_us_without_their_arguments(stream: io.StringIO) -> None:
    logging.getLogger("aiohttp").warning("odd header %s", "hunter2")
    logging.getLogger("aiohttp").info("noise")
    try:
        raise ValueError("hunter2")
    except ValueError:
        logging.getLogger("aiohttp").exception("broken")
    first, second = lines(stream)
    assert (first["event"], first["logger"], first["level"]) == ("odd header %s", "aiohttp", "warning")
    assert (second["error"], second["level"]) == ("ValueError", "error")
    assert "hunter2" not in stream.getvalue()


def test_a_level_cuts_what_is_below(stream: io.StringIO) -> None:
    logs.configure("worker", level="warning", stream=stream)
    logs.get("x").info("quiet")
    logs.get("x").warning("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]
    with pytest.raises(KeyError):
        logs.configure("worker", level="loud")
