"""The examples of docs/use/attestation.md run as they stand, alone, with a stranger's evidence."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.vectors import at, vectors

PAGE = Path(__file__).resolve().parents[4] / "docs" / "use" / "attestation.md"
WHEN = at("2025-06-20T10:00:00+00:00")
ALONE = """
import socket, sys, pathlib, time
def refuse(*a, **k): raise AssertionError("a check went to the network")
socket.socket.connect = refuse
time.time = lambda: {when}
now, nonce = {when}, None
quote, collateral = (pathlib.Path(p).read_bytes() for p in sys.argv[1:3])
{example}
loaded = sorted(m for m in sys.modules if m.startswith("cloister."))
assert all(m.startswith(("cloister.core", "cloister.attestation")) for m in loaded), loaded
"""


def examples() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def _run(example: str, collateral: Path) -> subprocess.CompletedProcess[str]:
    folder = vectors() / "intel-dcap/phala"
    code = ALONE.format(when=WHEN, example=example)
    return subprocess.run(
        [sys.executable, "-c", code, str(folder / "tdx_quote"), str(collateral)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_first_example_has_five_lines_and_verifies_a_real_quote() -> None:
    first = examples()[0]
    assert len(first.strip().splitlines()) == 5
    ended = _run(first, vectors() / "intel-dcap/phala/tdx_quote_collateral.json")
    assert ended.returncode == 0, ended.stderr
    kind, status, report_data = ended.stdout.split()
    assert (kind, status, len(report_data)) == ("tdx", "UpToDate", 128)


def test_the_first_example_refuses_the_wrong_collateral() -> None:
    ended = _run(examples()[0], vectors() / "intel-dcap/phala/sgx_quote_collateral.json")
    assert ended.returncode != 0
    assert "attestation.tdx_quote" in ended.stderr


def test_the_second_example_prints_every_check() -> None:
    ended = _run(examples()[1], vectors() / "intel-dcap/phala/tdx_quote_collateral.json")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [str(n) for n in range(1, len(lines) + 1)]
    assert all(line.split()[1] == "True" for line in lines)


@pytest.mark.parametrize("name", ["verify", "Roots", "read_evidence", "examine", "examine_bundle"])
def test_the_facade_has_what_the_page_uses(name: str) -> None:
    import cloister.attestation as facade

    assert name in facade.__all__
