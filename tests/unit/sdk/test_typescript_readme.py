"""The TypeScript client's tables of features: each name exists, and nothing that the Python client has is left out."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import fields
from typing import Any

import pytest

import cloister.client
from cloister.client import Agent, Demand
from support.typescript import SDK

TEXT = (SDK / "README.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| ")]
TABLE = [row for row in ROWS if row[1:] != ["Python", "TypeScript"]]
SOURCE = "\n".join(path.read_text(encoding="utf-8") for path in sorted(SDK.glob("src/client/*.ts")))
EXPORTED = (SDK / "src" / "mod.ts").read_text(encoding="utf-8")


def named(cell: str) -> list[str]:
    return re.findall(r"`([\w.]+)`", cell)


def python(name: str) -> Any:
    """What a name of the Python column is."""
    if name.startswith("cloister."):
        return importlib.import_module(name)
    first, *rest = name.split(".")
    found = getattr(cloister.client, first)
    return getattr(found, rest[0]) if rest else found


def members(kind: str) -> str:
    """The text of an exported class or interface."""
    found = re.search(rf"export (?:class|interface) {kind}\b.*?\n}}\n", SOURCE, re.DOTALL)
    assert found, f"no class or interface {kind}"
    return found.group(0)


def test_there_are_three_columns_and_no_empty_cell() -> None:
    assert len(TABLE) > 20
    for row in TABLE:
        assert len(row) == 3, row
        assert all(row), row


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[0])
def test_every_cell_names_something_or_says_no(row: list[str]) -> None:
    for cell in row[1:]:
        assert named(cell) or cell.startswith("no"), cell


@pytest.mark.parametrize("name", sorted({n for row in TABLE if not row[1].startswith("no") for n in named(row[1])}))
def test_what_python_is_said_to_have_it_has(name: str) -> None:
    if name.startswith("Demand."):
        assert name.split(".")[1] in {field.name for field in fields(Demand)}
    else:
        assert python(name) is not None


@pytest.mark.parametrize("name", sorted({n for row in TABLE for n in named(row[2])}))
def test_what_typescript_is_said_to_have_it_exports(name: str) -> None:
    first, *rest = name.split(".")
    assert re.search(rf"\b{first}\b", EXPORTED), f"{first} is not exported"
    if rest:
        assert re.search(rf"^  (?:async |readonly |\*)?{rest[0]}[?(:]", members(first), re.MULTILINE), name


def test_no_demand_and_no_way_to_call_is_left_out() -> None:
    said = {name for row in TABLE for name in named(row[1])}
    demands = {f"Demand.{field.name}" for field in fields(Demand)}
    ways = {f"Agent.{name}" for name, value in vars(Agent).items() if not name.startswith("_") and callable(value)}
    assert demands | ways <= said


def test_what_typescript_lets_a_caller_demand_is_in_the_table() -> None:
    own = set(re.findall(r"^  (\w+)\?:", members("Demand"), re.MULTILINE))
    said = {name.removeprefix("Demand.") for row in TABLE for name in named(row[2]) if name.startswith("Demand.")}
    assert own == said


def test_the_packages_are_those_of_the_manifest() -> None:
    wanted = set(json.loads((SDK / "package.json").read_text(encoding="utf-8"))["dependencies"])
    assert set(re.findall(r"`(@noble/[\w-]+)`", TEXT)) == wanted
    assert "Four packages" in TEXT
    assert len(wanted) == 4
