"""Print the trusted computing base of each TEE image: our lines and the packages that load with it.

Budget (DESIGN section 4): 12,000 lines of ours, 25 packages. Exit status 1 when over.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SRC = Path(__file__).parents[1] / "src" / "cloister"
SHARED = ("core", "chain", "wire", "node", "evidence", "fabric")
IMAGES = {"worker": (*SHARED, "sandbox", "worker"), "gatekeeper": (*SHARED, "gatekeeper")}
MAX_LINES, MAX_PACKAGES = 12_000, 25


def lines_of(part: str) -> int:
    """Source lines of one part, harness included."""
    files = [p for p in (SRC / part).rglob("*") if p.suffix in {".py", ".js"} and "__pycache__" not in p.parts]
    return sum(p.read_text().count("\n") for p in files)


def packages_of(service: str) -> list[str]:
    """Distributions that a fresh interpreter loads with the service."""
    code = (
        f"import sys, json, importlib.metadata as m; import cloister.{service}.__main__;"
        "owners = m.packages_distributions(); tops = {n.split('.')[0] for n in sys.modules};"
        "print(json.dumps(sorted({d for t in tops for d in owners.get(t, [])})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [name for name in json.loads(done.stdout) if name != "cloister"]


def main() -> int:
    """Print both images; 1 when one is over budget."""
    over = False
    for image, parts in IMAGES.items():
        counts = {part: lines_of(part) for part in parts}
        packages = packages_of(image)
        total = sum(counts.values())
        over |= total > MAX_LINES or len(packages) > MAX_PACKAGES
        print(f"{image}: {total} lines of ours (budget {MAX_LINES}), {len(packages)} packages (budget {MAX_PACKAGES})")
        print("  " + ", ".join(f"{part} {count}" for part, count in counts.items()))
        print("  " + ", ".join(packages))
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
