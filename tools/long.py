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
from concurrent.futures import ThreadPoolExecutor
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


LONG = (sys.executable, "-m", "pytest", "-q", "-m", "long", "-p", "no:cacheprovider", "--timeout", "3600")
BITS = ("tests/security/test_bit_flips.py", "tests/unit/core/attestation")


def suites(counts: Path) -> dict[str, tuple[tuple[str, ...], dict[str, str]]]:
    """Command line and environment of each suite. Together they run every test that is marked ``long``, once."""
    others = tuple(f"--ignore={path}" for path in (*BITS, "tests/fuzz"))
    return {
        "every bit": ((*LONG, *BITS), {}),
        "fuzz": ((*LONG, "tests/fuzz"), {"FUZZ_COUNTS": str(counts)}),
        "the rest": ((*LONG, "tests", *others), {}),
        "contracts": ((sys.executable, "contracts/build.py", "--test"), {}),
    }


def main() -> int:
    """Run everything, as many suites at once as there are cores; 0 if all passed."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    with tempfile.TemporaryDirectory(prefix="long-") as folder:
        counts = Path(folder) / "fuzz"
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            running = [pool.submit(run, name, *line, **more) for name, (line, more) in suites(counts).items()]
            results = [one.result() for one in running]
        fuzzed = [json.loads(line) for line in counts.read_text().splitlines()] if counts.exists() else []
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "suites": results,
        "fuzz": {
            "targets": len(fuzzed),
            "inputs": sum(one["runs"] for one in fuzzed),
            "inputs_by_target": {one["target"]: one["runs"] for one in fuzzed},
        },
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    return max(int(str(s["exit"])) for s in results)


if __name__ == "__main__":
    sys.exit(main())
