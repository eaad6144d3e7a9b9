"""Log lines: JSON, capped, without secrets."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.errors import ConfigError, define
from cloister.node import logs

REFUSED = define("test.logs", ConfigError, check="a thing holds", remedy="none")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    out, handlers, before = io.StringIO(), logging.getLogger().handlers[:], dataclasses.replace(logs._output)
    logs.configure("worker", stream=out)
    yield out
    for name in ("service", "low", "stream"):
        setattr(logs._output, name, getattr(before, name))
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


def test_nothing_leaks_below_the_depth_that_is_shown_or_through_an_objects_text(stream: io.StringIO) -> None:
    class Talkative:
        def __str__(self) -> str:
            return "hunter2"

    deep: Any = {"key": "hunter2", "blob": b"hunter2"}
    for _ in range(10):
        deep = {"inner": [deep]}
        logs.get("x").info("event", deep=deep, thing=Talkative())
    assert "hunter2" not in stream.getvalue()


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
    assert [line["error"] for line in lines(stream)] == ["ValueError"] * 2 + ["test.logs"] * 2
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


def test_no_field_replaces_who_what_and_when(stream: io.StringIO) -> None:
    logs.get("x").info("real", event="forged", level="error", service="other", logger="y", host_time="never")
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["service"], line["logger"]) == ("real", "info", "worker", "x")
    assert line["host_time"] != "never"


def test_many_fields_never_push_out_who_what_and_when(stream: io.StringIO) -> None:
    logs.get("x").warning("full", **{f"f{n}": n for n in range(100)})
    logs.get("x").warning("long", **{f"f{n}": "y" * 1000 for n in range(20)})
    full, long = lines(stream)
    assert {"event", "level", "service", "logger", "host_time"} <= set(full) & set(long)
    assert len(full) == logs.MAX_ITEMS
    assert long["cut"] > logs.MAX_LINE


ODD: dict[str, Any] = {
    "a number too long for text": 10**5000,
    "not a number": float("nan"),
    "infinity": float("-inf"),
    "an object": object(),
    "a set": {1, 2},
    "a key of bytes": {b"k": b"v"},
    "a long number deep inside": [[[[[10**5000]]]]],
}


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
def test_any_value_makes_a_line_of_strict_json(stream: io.StringIO, value: Any) -> None:
    logs.get("x").info("event", odd=value)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    assert "odd" in json.loads(stream.getvalue(), parse_constant=refuse)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.text(max_size=70), VALUES, max_size=4), st.integers(1, 4000))
def test_anything_logged_is_one_bounded_line(fields: dict[str, Any], times: int) -> None:
    out, before = io.StringIO(), logs._output.stream
    logs._output.stream = out
    try:
        logs.get("x").error("event", **{**fields, "many": [fields] * 32, "long": "é" * times})
    finally:
        logs._output.stream = before
    (line,) = out.getvalue().splitlines()
    assert len(line) <= logs.MAX_LINE
    assert json.loads(line)["event"] == "event"


def test_a_stream_that_breaks_stops_nobody(stream: io.StringIO) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError("no space left")

    logs.configure("worker", stream=Full())
    logs.get("x").error("lost")
    assert stream.getvalue() == ""


def test_before_it_is_set_up_lines_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    logs.get("x").info("early")
    logs.get("x").debug("too quiet")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "early"
