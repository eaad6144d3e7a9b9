"""Write docs/audit/errors.md: every refusal that this build can name. ``--check`` compares instead of writing."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

import cloister
from cloister.core.errors import REGISTRY

FILE = Path(__file__).parents[1] / "docs" / "audit" / "errors.md"
HEAD = """# Every refusal

Made by `.venv/bin/python tools/codes.py` from the code; a test compares. A code never changes its meaning. Over the
wire an error is
{code, check, expected, found, remedy}; *expected* and *found* are said case by case.

"""


def load_all() -> None:
    """Import every module, so that every code is defined."""
    for module in pkgutil.walk_packages(cloister.__path__, "cloister."):
        if not module.name.endswith("__main__") and ".templates" not in module.name:
            importlib.import_module(module.name)


def document() -> str:
    """The page: one table per area, codes in order."""
    load_all()
    areas: dict[str, list[str]] = {}
    for code, refusal in sorted(REGISTRY.items()):
        if code.startswith("test."):
            continue
        row = f"| `{code}` | {refusal.status} | {_cell(refusal.check)} | {_cell(refusal.remedy)} |"
        areas.setdefault(code.split(".")[0], []).append(row)
    parts = [HEAD]
    for area, rows in areas.items():
        parts.append(f"## {area}\n\n| code | status | the check that failed | what to do |\n|---|---|---|---|\n")
        parts.append("\n".join(rows) + "\n\n")
    return "".join(parts).rstrip() + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    """Write or compare."""
    text = document()
    if "--check" in sys.argv[1:]:
        same = FILE.exists() and FILE.read_text() == text
        print("docs/audit/errors.md is " + ("up to date" if same else "not up to date: run tools/codes.py"))
        return 0 if same else 1
    FILE.write_text(text)
    print(f"{text.count('| `')} codes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
