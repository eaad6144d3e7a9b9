"""The terminal's own words, alone: facts, tables, steps, progress, answers; and what a pipe does not get."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.cli import asking, calls, output
from cloister.cli.options import demand_of
from cloister.cli.settings import Settings
from cloister.client.home import Home
from cloister.core.errors import CloisterError

SHORT, LONG = "0x" + "ab" * 20, "0x" + "ab" * 32


class Terminal(io.TextIOWrapper):
    """A stream that says that it is a terminal."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def isatty(self) -> bool:
        """Yes."""
        return True

    @property
    def text(self) -> str:
        """What was written."""
        raw: Any = self.buffer
        return bytes(raw.getvalue()).decode()


def terminal(monkeypatch: pytest.MonkeyPatch) -> tuple[Terminal, Terminal]:
    """(stdout, stderr) become a terminal without colours. Called inside a test: pytest captures anew before it."""
    monkeypatch.setenv("TERM", "dumb")
    made = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", made[0])
    monkeypatch.setattr(sys, "stderr", made[1])
    return made


# --- values ---


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"\x01\xff", "0x01ff"),
        (b"", "0x"),
        (True, "yes"),
        (False, "no"),
        (None, "-"),
        (0, "0"),
        ("", ""),
        ("a b", "a b"),
        ([], "[]"),
        ((1, "ä"), '[1, "ä"]'),
        ({"a": None}, '{"a": null}'),
    ],
)
def test_values_for_people(value: Any, text: str) -> None:
    assert output._plain(value) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (SHORT, SHORT),
        (LONG, LONG[:18] + "…"),
        ("0x" + "a" * 40, "0x" + "a" * 40),
        ("0x" + "a" * 41, "0x" + "a" * 16 + "…"),
        ("x" * 100, "x" * 100),
    ],
)
def test_only_long_hex_is_cut_in_tables(text: str, shown: str) -> None:
    assert output._short(text) == shown


@given(
    st.dictionaries(st.text(min_size=1, max_size=8), st.none() | st.booleans() | st.integers() | st.text(max_size=9))
)
def test_json_facts_read_back(facts: dict[str, Any]) -> None:
    out = io.StringIO()
    real, sys.stdout = sys.stdout, out
    try:
        output.print_facts(facts, as_json=True)
    finally:
        sys.stdout = real
    assert json.loads(out.getvalue()) == facts
    assert out.getvalue().endswith("\n")


def test_facts_stand_in_columns(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_facts({"a": 1, "longer": "[b]x[/b]"}, as_json=False)
    assert capsys.readouterr().out == "a       1\nlonger  [b]x[/b]\n"
    output.print_facts({}, as_json=False)
    assert capsys.readouterr().out == ""


def test_a_table_has_a_dash_for_what_a_row_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_rows([{"a_b": 1}, {"c": "[x]"}], ("a_b", "c"), as_json=False, empty="")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["a", "b", "c"], ["1", "-"], ["-", "[x]"]]


STEPS = [
    {"number": 1, "ok": True, "check": "it is [good]", "expected": "e1", "found": "f1", "code": "a.b"},
    {"number": 12, "ok": False, "check": "it is bad", "expected": "e2", "found": "[f2]", "code": "c.d"},
]


def test_steps_say_what_was_found_and_for_a_refusal_what_was_expected(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_steps(STEPS, as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        " 1  ok       it is [good]",
        "             f1",
        "12  refused  it is bad",
        "             expected  e2",
        "             found     [f2]  (c.d)",
    ]
    output.print_steps(STEPS, as_json=True)
    assert json.loads(capsys.readouterr().out) == STEPS


# --- terminals and pipes ---


def test_progress_is_one_line_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with output.progress("working [hard]"):
        pass
    assert capsys.readouterr().err == "working [hard] …\n"


def test_progress_ends_when_the_work_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = terminal(monkeypatch)
    with pytest.raises(LookupError), output.progress("working"):
        raise LookupError
    assert out.text == ""
    assert "…" not in err.text, "a spinner, not the line of a pipe"


def test_an_answer_without_a_line_break_gets_one_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = terminal(monkeypatch)
    calls._write(b"one")
    calls._write(b"two\n")
    calls._write(b"")
    assert out.text == "one\ntwo\n"


def test_an_answer_in_a_pipe_is_not_touched(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    calls._write(b"\xff\x00one")
    assert capfdbinary.readouterr().out == b"\xff\x00one"


# --- what is typed ---


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("A: b", ("A", "b")),
        ("A:b", ("A", "b")),
        ("  A  :  b: c  ", ("A", "b: c")),
        ("A:", ("A", "")),
    ],
)
def test_headers_as_people_write_them(text: str, pair: tuple[str, str]) -> None:
    assert calls._header(text) == pair


@pytest.mark.parametrize("text", ["", "A", ":", " : b"])
def test_what_is_no_header_is_named(text: str) -> None:
    with pytest.raises(CloisterError) as caught:
        calls._header(text)
    assert caught.value.code == "cli.header"


def test_a_body_is_a_text_a_file_or_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b").write_bytes(b"\x00file")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\x01pipe")))
    assert calls._body(None) is None
    assert calls._body("") == b""
    assert calls._body("ä") == "ä".encode()
    assert calls._body(f"@{tmp_path / 'b'}") == b"\x00file"
    assert calls._body("@-") == b"\x01pipe"


def test_a_body_that_is_too_large_is_read_no_further_than_it_takes_to_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_BODY", 10)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x" * 1000)))
    assert calls._body("@-") == b"x" * 11


def test_demands_from_options() -> None:
    demand = demand_of("0x" + "AB" * 32, "amd", True, True)
    assert (demand.code_hash, demand.vendor) == (b"\xab" * 32, "amd")
    assert (demand.upgrade_not_instant, demand.evidence) == (False, True)
    plain = demand_of(None, None, False, False)
    assert (plain.code_hash, plain.vendor, plain.upgrade_not_instant, plain.evidence) == (None, None, True, False)


# --- secrets that are typed ---


class Keyboard:
    """A terminal's standard input."""

    def isatty(self) -> bool:
        """Yes."""
        return True


def test_a_prompt_hides_confirms_and_asks_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def prompt(question: str, **options: Any) -> str:
        asked.append((question, options["hide_input"], options["confirmation_prompt"], options["err"]))
        return "hunter2"

    monkeypatch.setattr(sys, "stdin", Keyboard())
    monkeypatch.setattr(asking.typer, "prompt", prompt)
    assert asking.secret("Value") == "hunter2"
    assert asking.passphrase("alice", new=True) == "hunter2"
    assert asked == [("Value", True, False, True), ("Passphrase of wallet alice", True, True, True)]


@pytest.mark.parametrize(
    ("data", "value"), [(b"a\n", "a"), (b"a\r\n", "a"), (b"a\n\n", "a\n"), (b" a ", " a "), ("ä".encode(), "ä")]
)
def test_one_line_break_is_dropped_from_a_pipe(data: bytes, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert asking.secret("?") == value


def test_a_passphrase_file_is_the_devnets_and_a_descriptor_beats_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the file\n")
    (tmp_path / "fd").write_text("from the descriptor\n")
    with (tmp_path / "fd").open() as stream:
        assert asking.passphrase("x", file=tmp_path / "file") == "from the file"
        assert asking.passphrase("x", file=tmp_path / "file", fd=stream.fileno()) == "from the descriptor"


# --- settings ---


def devnet(home: Path, **facts: Any) -> Settings:
    (home / "devnet.json").write_text(json.dumps({"gateway": "http://own", "fingerprint": "ab", **facts}))
    return Settings(Home(home))


def test_pins_come_from_options_or_from_the_devnet_for_its_own_gateway_only(tmp_path: Path) -> None:
    own = devnet(tmp_path, network_file="/n")
    home = own.home
    assert own.gateway_url() == "http://own"
    assert own.pinned() == (Path("/n"), "ab")
    assert Settings(home, gateway="http://own").pinned() == (Path("/n"), "ab")
    assert Settings(home, gateway="http://other").pinned() == (None, None)
    assert Settings(home, fingerprint="cd").pinned() == (None, "cd")
    assert Settings(home, network_file=Path("/m")).pinned() == (Path("/m"), None)
    assert Settings(home, gateway="http://other").gateway_url() == "http://other"


def test_pins_of_a_broken_devnet_file_are_no_pins(tmp_path: Path) -> None:
    assert devnet(tmp_path, network_file=7, fingerprint=["ab"]).pinned() == (None, None)
