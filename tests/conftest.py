"""Fixtures that every test may ask for; they start nothing until one does. And which tests share a process."""

import os
import sys
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler.loadscope import LoadScopeScheduling

pytest_plugins = ["support.anvil"]

# A busy machine fails no property by a clock. Under CI the library's own profile says so too.
settings.register_profile("no clock", deadline=None)
if "CI" not in os.environ:
    settings.load_profile("no clock")


class Together(LoadScopeScheduling):
    """A file stays in one process, for its module's fixtures; the scenarios stay together, for their one network."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "scenarios" if "scenarios/" in file else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    """Which tests run in one process (pytest -n)."""
    return Together(config, log)


@pytest.fixture(autouse=True)
def plain_recursion_limit() -> None:
    """The interpreter's own limit in every test: an oracle (py_ecc) raises it to 100,000 when imported.

    With that, JSON nested 100,000 deep ends the process instead of raising RecursionError, which the parsers catch."""
    sys.setrecursionlimit(1000)
