"""What ``cloister doctor`` learns about this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloister.core.errors import SandboxError
from cloister.sandbox import checks, machine
from cloister.sandbox.errors import MACHINE


def test_every_need_is_one_row_with_what_was_found(tmp_path: Path) -> None:
    rows = {row["name"]: row for row in checks.check_machine(tmp_path / "not" / "yet" / "there")}
    assert set(rows) == {
        "bubblewrap",
        "deno",
        "libraries",
        "user namespaces",
        "network namespaces",
        "seccomp",
        "fuse",
        "disk",
    }
    for name in ("bubblewrap", "deno", "libraries", "user namespaces", "network namespaces", "seccomp"):
        assert rows[name]["ok"], rows[name]
        assert rows[name]["found"]


def test_what_is_missing_is_said_with_a_hint_and_never_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> Path:
        raise MACHINE(expected=f"the program {name}", found="nothing of that name")

    monkeypatch.setattr(checks, "find_tool", nothing)
    rows = {row["name"]: row for row in checks.check_machine(tmp_path)}
    assert not rows["bubblewrap"]["ok"]
    assert "bubblewrap" in rows["bubblewrap"]["hint"]
    assert rows["bubblewrap"]["found"] == "nothing of that name"


def test_tools_and_libraries_are_absolute_and_there() -> None:
    tools = machine.find_tools()
    for path in (tools.bwrap, tools.prlimit, tools.deno, *tools.libraries):
        assert path.is_absolute()
        assert path.exists()


def test_an_unknown_program_is_refused_by_name() -> None:
    with pytest.raises(SandboxError) as caught:
        machine.find_tool("no-such-program-here")
    assert caught.value.code == "sandbox.machine"


def test_another_processor_is_refused_because_the_filter_is_written_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(SandboxError) as caught:
        machine.find_tools()
    assert caught.value.found == "aarch64"
