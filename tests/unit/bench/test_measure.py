"""Rows are well-formed, the table says what was missed, BENCH_JSON holds exactly the rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench.measure import (
    Row,
    at_least,
    at_most,
    cpu_us,
    fact,
    family,
    family_cpu_us,
    finish,
    median,
    percentile,
    private_bytes,
    pss_bytes,
    table,
)
from hypothesis import given
from hypothesis import strategies as st

FIELDS = {"name", "value", "unit", "baseline", "ratio", "target", "ok"}
NUMBERS = st.floats(min_value=1e-6, max_value=1e9)


def test_at_most_is_good_up_to_its_target() -> None:
    assert at_most("x", 2.0, "ms", 2.0).ok is True
    assert at_most("x", 2.1, "ms", 2.0).ok is False


def test_at_least_is_good_from_its_target_on() -> None:
    assert at_least("x", 2.0, "1/s", 2.0).ok is True
    assert at_least("x", 1.9, "1/s", 2.0).ok is False


def test_a_fact_has_no_target_and_cannot_be_missed() -> None:
    assert fact("x", 1.0, "us") == Row("x", 1.0, "us", None, None, None, None)


@given(value=NUMBERS, baseline=NUMBERS, target=NUMBERS)
def test_the_ratio_is_value_by_baseline(value: float, baseline: float, target: float) -> None:
    for row in (at_most("x", value, "u", target, baseline), at_least("x", value, "u", target, baseline)):
        assert row.ratio == pytest.approx(value / baseline)
        assert (row.baseline, row.target) == (baseline, target)


def test_without_a_baseline_there_is_no_ratio() -> None:
    assert at_most("x", 1.0, "u", 2.0).ratio is None


def test_bench_json_holds_every_row_with_exactly_its_fields(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rows.json"
    monkeypatch.setenv("BENCH_JSON", str(file))
    rows = [at_most("slow", 3.0, "ms", 2.0, 1.5), fact("fact", 7.0, "us")]
    assert finish(rows) == 1
    written = json.loads(file.read_text())
    assert [set(row) for row in written] == [FIELDS, FIELDS]
    assert written[0] == {
        "name": "slow",
        "value": 3.0,
        "unit": "ms",
        "baseline": 1.5,
        "ratio": 2.0,
        "target": 2.0,
        "ok": False,
    }
    assert written[1]["ok"] is None
    assert "MISSED" in capsys.readouterr().out


def test_without_bench_json_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENCH_JSON", raising=False)
    monkeypatch.chdir(tmp_path)
    assert finish([at_most("x", 1.0, "ms", 2.0)]) == 0
    assert list(tmp_path.iterdir()) == []


def test_the_table_has_a_line_per_row_and_says_what_is_missed() -> None:
    lines = table([at_most("good", 1.0, "ms", 2.0), at_most("bad", 3.0, "ms", 2.0), fact("plain", 1234.6, "us")]).split(
        "\n"
    )
    assert len(lines) == 4
    assert lines[1].endswith(" ok")
    assert lines[2].endswith(" MISSED")
    assert "1235" in lines[3]
    assert not lines[3].endswith(("ok", "MISSED"))


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.01, 1), (0.5, 50), (0.99, 99), (0.999, 100), (1.0, 100)])
def test_percentiles_of_one_to_a_hundred(share: float, value: int) -> None:
    assert percentile([float(n) for n in range(100, 0, -1)], share) == value


@given(values=st.lists(NUMBERS, min_size=1, max_size=50), share=st.floats(0, 1))
def test_a_percentile_is_one_of_the_values_and_covers_its_share(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(v <= found for v in values) / len(values) >= share - 1e-5


def test_a_median_is_the_middle() -> None:
    assert median([3.0, 1.0, 2.0]) == 2.0


def test_the_cpu_clock_of_a_process_only_grows_while_it_works() -> None:
    before = cpu_us(os.getpid())
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert cpu_us(os.getpid()) - before >= 40_000


def test_the_family_of_a_process_is_it_and_its_children() -> None:
    work = "import time\nwhile time.process_time() < 0.1: pass\nprint(flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()  # by now it has spent CPU time
        assert child.pid in family(os.getpid())
        assert family(os.getpid())[0] == os.getpid()
        assert family_cpu_us(os.getpid()) > 0
        assert pss_bytes(child.pid) > 100_000
        assert private_bytes(child.pid) > 100_000
    finally:
        child.kill()
        child.communicate()
    assert child.pid not in family(os.getpid())
