"""The walls of the house: who may import whom, with a reason each (DESIGN section 4)."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[2] / "src" / "cloister"

# part -> parts it may import from our own code. A part not listed here has no wall yet and the first test fails.
ALLOWED: dict[str, set[str]] = {
    "core": {"core"},  # every trust decision, and nothing that could do I/O behind its back
    "wire": {"core", "wire"},
    "node": {"core", "node", "wire"},
    "chain": {"core", "chain"},
    "fabric": {"core", "fabric"},
    "sandbox": {"core", "sandbox"},  # keys and receipts stay on the worker's side
    "evidence": {"core", "evidence"},  # never devnet: production has no pretend hardware
    "client": {"core", "chain", "wire", "client"},
    "worker": {"core", "chain", "fabric", "wire", "node", "evidence", "sandbox", "client", "worker"},
    "gatekeeper": {"core", "chain", "fabric", "wire", "node", "evidence", "gatekeeper"},
    "gateway": {"core", "chain", "fabric", "wire", "node", "gateway"},
    "cli": {"core", "chain", "wire", "client", "cli"},
    "devnet": {
        "core",
        "chain",
        "wire",
        "node",
        "client",
        "evidence",
        "sandbox",
        "devnet",
    },  # spawns services, imports none
    "attestation": {"core"},
    "__init__": {"core", "client"},
}
# Imports inside functions are allowed where the reason is start-up cost or a command that needs a bigger part.
LAZY: dict[str, set[str]] = {"cli": {"devnet", "sandbox", "evidence"}}


def part_of(path: Path) -> str:
    """The first folder (or module) under src/cloister."""
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def our_imports(path: Path) -> list[tuple[str, bool]]:
    """(part, at module level) of every import of our own code in a file."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "cloister" else [f"cloister.{a.name}" for a in node.names]
        for name in names:
            if name.startswith("cloister.") and not name.startswith("cloister.__"):
                found.append((name.split(".")[1], id(node) in top))
    return found


FILES = sorted(p for p in SRC.rglob("*.py") if "__pycache__" not in p.parts and "templates" not in p.parts)


def test_every_part_has_a_wall() -> None:
    assert {part_of(p) for p in FILES} <= set(ALLOWED)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_imports_stay_inside_the_walls(path: Path) -> None:
    part = part_of(path)
    for target, at_top in our_imports(path):
        allowed = ALLOWED[part] | (set() if at_top else LAZY.get(part, set()))
        assert target in allowed, f"{path.relative_to(SRC)} imports cloister.{target}"


@pytest.mark.parametrize(
    ("service", "forbidden"),
    [
        ("cloister.gatekeeper", {"cloister.client", "cloister.sandbox", "cloister.worker", "cloister.devnet", "typer"}),
        ("cloister.worker", {"cloister.gatekeeper", "cloister.gateway", "cloister.devnet", "typer"}),
        ("cloister.gateway", {"cloister.gatekeeper", "cloister.worker", "cloister.sandbox", "cloister.devnet"}),
        ("cloister.core", {"cloister.client", "aiohttp", "asyncio"}),
    ],
)
def test_a_fresh_interpreter_loads_only_what_the_service_needs(service: str, forbidden: set[str]) -> None:
    main = f"import {service}.__main__" if service != "cloister.core" else f"import {service}, cloister.core.errors"
    code = f"import sys, json; {main}; print(json.dumps(sorted(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    parts = {name for name in loaded for f in forbidden if name == f or name.startswith(f + ".")}
    assert parts == set()
