"""``make long``: the exhaustive tests that `make test` only samples, and forge. Writes docs/build/long-result.json.

``make long SUITES="fuzz every-bit"`` repeats the named suites alone. Each suite's last result stands in the file with
its own date and commit, so nothing says more than what ran.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "docs" / "build" / "long-result.json"


def run(name: str, *line: str, **environment: str) -> dict[str, Any]:
    """One suite: its last line with counts, exit status, seconds."""
    begin = time.monotonic()
    both = {**os.environ, **environment}
    done = subprocess.run(
        line, cwd=ROOT, env=both, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    lines = [text for text in done.stdout.splitlines() if re.search(r"\d+ (tests? )?(passed|failed)", text)]
    print(f"{name}: {lines[-1] if lines else done.stdout[-300:]}", flush=True)
    if done.returncode:
        print(done.stdout[-4000:], flush=True)
    return {
        "suite": name,
        "exit": done.returncode,
        "seconds": round(time.monotonic() - begin),
        "summary": re.sub(r" in [\d.]+s.*|=+", "", lines[-1]).strip() if lines else "no counts",
    }


LONG = (sys.executable, "-m", "pytest", "-q", "-m", "long", "-p", "no:cacheprovider", "--timeout", "3600")
BITS, EVIDENCE = "tests/security/test_bit_flips.py", "tests/unit/core/attestation"
NETWORKS = ("tests/scenarios", "tests/security/test_master_secret_in_memory.py")


def suites(counts: Path) -> dict[str, tuple[tuple[str, ...], dict[str, str]]]:
    """Command line and environment of each suite. Together they run every test that is marked ``long``, once."""
    others = tuple(f"--ignore={path}" for path in (BITS, EVIDENCE, *NETWORKS, "tests/fuzz"))
    return {
        "every bit": ((*LONG, BITS), {}),
        "evidence": ((*LONG, EVIDENCE), {}),
        "fuzz": ((*LONG, "tests/fuzz"), {"FUZZ_COUNTS": str(counts)}),
        "networks": ((*LONG, *NETWORKS), {}),
        "the rest": ((*LONG, "tests", *others), {}),
        "contracts": ((sys.executable, "contracts/build.py", "--test"), {}),
    }


def commit() -> str:
    """The commit that is tested, with a plus sign if the files differ from it."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no", "--", ".", f":!{RESULT.relative_to(ROOT)}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return head.stdout.strip() + ("+" if changed.stdout else "")


def fuzzed(counts: Path) -> dict[str, Any]:
    """How many inputs each fuzz target tried."""
    found = [json.loads(line) for line in counts.read_text().splitlines()] if counts.exists() else []
    return {
        "targets": len(found),
        "inputs": sum(one["runs"] for one in found),
        "inputs_by_target": {one["target"]: one["runs"] for one in found},
    }


def merged(before: Mapping[str, Any], results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """The file's next content: new results in place of old ones, in the order of ``names``; gone suites go."""
    by_name = {one["suite"]: one for one in (*before.get("suites", ()), *results)}
    return {"suites": [by_name[name] for name in names if name in by_name]}


def main(wanted: Sequence[str]) -> int:
    """Run the wanted suites (all, if none is named), as many at once as there are cores; 0 if all passed."""
    known = list(suites(Path()))
    if unknown := set(wanted) - set(known):
        print(f"error: no such suite: {', '.join(sorted(unknown))}\nhint: one of {', '.join(known)}", file=sys.stderr)
        return 2
    about = {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "commit": commit()}
    with tempfile.TemporaryDirectory(prefix="long-") as folder:
        counts = Path(folder) / "fuzz"
        chosen = {name: suite for name, suite in suites(counts).items() if not wanted or name in wanted}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            running = [pool.submit(run, name, *line, **more) for name, (line, more) in chosen.items()]
            results = [{**one.result(), **about} for one in running]
        for one in results:
            if one["suite"] == "fuzz":
                one["fuzz"] = fuzzed(counts)
    before = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    RESULT.write_text(json.dumps(merged(before, results, known), indent=2) + "\n")
    return max(int(str(one["exit"])) for one in results)


if __name__ == "__main__":
    sys.exit(main([name.replace("-", " ") for name in sys.argv[1:]]))
