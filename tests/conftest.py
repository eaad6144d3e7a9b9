"""Fixtures that every test may ask for; they start nothing until one does."""

import sys

import pytest

pytest_plugins = ["support.anvil"]


@pytest.fixture(autouse=True)
def plain_recursion_limit() -> None:
    """The interpreter's own limit in every test: an oracle (py_ecc) raises it to 100,000 when imported.

    With that, JSON nested 100,000 deep ends the process instead of raising RecursionError, which the parsers catch."""
    sys.setrecursionlimit(1000)
