"""How many inputs a run under atheris tried: ``make long`` collects it in the file that FUZZ_COUNTS names."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

_DONE = re.compile(r"Done (\d+) runs in (\d+) second")


def keep(target: str, printed: str) -> int:
    """The number of inputs that libFuzzer says it ran; one line of JSON per target goes into the file, if asked for."""
    found = _DONE.findall(printed)
    assert found, f"{target}: libFuzzer did not say what it did: {printed[-500:]}"
    runs = int(found[-1][0])
    if file := os.environ.get("FUZZ_COUNTS"):
        with Path(file).open("a") as out:
            out.write(json.dumps({"target": target, "runs": runs, "seconds": int(found[-1][1])}) + "\n")
    return runs
