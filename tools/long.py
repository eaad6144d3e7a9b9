"""``make long``: the exhaustive tests that `make test` only samples, and forge. Writes docs/build/long-result.json."""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "docs" / "build" / "long-result.json"


def run(name: str, *line: str, **environment: str) -> dict[str, object]:
    """One suite: its last line with counts, exit status, seconds."""
    begin = time.monotonic()
    both = {**os.environ, **environment}
    done = subprocess.run(
        line, cwd=ROOT, env=both, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    lines = [text for text in done.stdout.splitlines() if re.search(r"\d+ (tests? )?(passed|failed)", text)]
    print(f"{name}: {lines[-1] if lines else done.stdout[-300:]}")
    if done.returncode:
        print(done.stdout[-4000:])
    return {
        "suite": name,
        "exit": done.returncode,
        "seconds": round(time.monotonic() - begin),
        "summary": re.sub(r" in [\d.]+s.*|=+", "", lines[-1]).strip() if lines else "no counts",
    }


def main() -> int:
    """Run everything; 0 if all passed."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    with tempfile.TemporaryDirectory(prefix="long-") as folder:
        counts = Path(folder) / "fuzz"
        tests = ("-m", "pytest", "-q", "-m", "long", "tests", "--timeout", "3600")
        suites = [
            run("pytest", sys.executable, *tests, FUZZ_COUNTS=str(counts)),
            run("contracts", sys.executable, "contracts/build.py", "--test"),
        ]
        fuzzed = [json.loads(line) for line in counts.read_text().splitlines()] if counts.exists() else []
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "suites": suites,
        "fuzz": {
            "targets": len(fuzzed),
            "inputs": sum(one["runs"] for one in fuzzed),
            "inputs_by_target": {one["target"]: one["runs"] for one in fuzzed},
        },
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    return max(int(str(s["exit"])) for s in suites)


if __name__ == "__main__":
    sys.exit(main())
