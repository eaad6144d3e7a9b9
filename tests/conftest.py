"""Fixtures that every test may ask for; they start nothing until one does. And which tests share a process."""

import sys
from pathlib import Path

import pytest

pytest_plugins = ["support.anvil"]
SCENARIOS = Path(__file__).parent / "scenarios"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file stays in one process, for its module's fixtures; the scenarios stay together, for their one network."""
    for item in items:
        together = "scenarios" if item.path.parent == SCENARIOS else str(item.path)
        item.add_marker(pytest.mark.xdist_group(together))


@pytest.fixture(autouse=True)
def plain_recursion_limit() -> None:
    """The interpreter's own limit in every test: an oracle (py_ecc) raises it to 100,000 when imported.

    With that, JSON nested 100,000 deep ends the process instead of raising RecursionError, which the parsers catch."""
    sys.setrecursionlimit(1000)
