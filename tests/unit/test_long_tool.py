"""``make long``: its suites together run every test that is marked ``long``, and none of them twice."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("long_tool_under_test", ROOT / "tools" / "long.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def collected(*line: str) -> Counter[str]:
    done = subprocess.run([*line, "--collect-only"], cwd=ROOT, capture_output=True, text=True, check=False)
    return Counter(text for text in done.stdout.splitlines() if "::" in text)


def test_the_result_of_a_suite_is_its_last_line_and_its_status() -> None:
    good = tool().run("good", sys.executable, "-c", "print('3 passed, 1 skipped in 0.10s')")
    assert (good["suite"], good["exit"], good["summary"]) == ("good", 0, "3 passed, 1 skipped")
    bad = tool().run("bad", sys.executable, "-c", "import sys; print('1 failed, 2 passed in 0.1s'); sys.exit(1)")
    assert (bad["exit"], bad["summary"]) == (1, "1 failed, 2 passed")
    assert tool().run("none", sys.executable, "-c", "pass")["summary"] == "no counts"


def test_a_suite_that_ran_again_takes_the_place_of_its_last_result_and_no_other() -> None:
    old = {"suites": [{"suite": name, "commit": "a", "exit": 1} for name in ("fuzz", "gone", "every bit")]}
    new = tool().merged(old, [{"suite": "fuzz", "commit": "b", "exit": 0}], ["every bit", "fuzz", "contracts"])
    assert [(one["suite"], one["commit"], one["exit"]) for one in new["suites"]] == [
        ("every bit", "a", 1),
        ("fuzz", "b", 0),
    ]


def test_a_suite_that_is_none_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool().main(["fuzzz"]) == 2
    assert "error: no such suite: fuzzz" in capsys.readouterr().err


def test_the_counts_of_fuzzing_are_summed(tmp_path: Path) -> None:
    (tmp_path / "counts").write_text('{"target": "a", "runs": 2}\n{"target": "b", "runs": 3}\n')
    assert tool().fuzzed(tmp_path / "counts") == {"targets": 2, "inputs": 5, "inputs_by_target": {"a": 2, "b": 3}}
    assert tool().fuzzed(tmp_path / "none")["targets"] == 0


@pytest.mark.long
def test_every_long_test_is_in_one_suite(tmp_path: Path) -> None:
    lines = [line for name, (line, _) in tool().suites(tmp_path).items() if name != "contracts"]
    every = collected(*tool().LONG, "tests")
    assert sum((collected(*line) for line in lines), Counter()) == every
    assert len(every) > 200
