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


@pytest.mark.long
def test_every_long_test_is_in_one_suite(tmp_path: Path) -> None:
    lines = [line for name, (line, _) in tool().suites(tmp_path).items() if name != "contracts"]
    every = collected(*tool().LONG, "tests")
    assert sum((collected(*line) for line in lines), Counter()) == every
    assert len(every) > 200
