"""Hostile Python agents: every attack of support/python_attacks.py ends as the list says.

After each: the worker's key signs and was shown to nobody, the neighbour agent serves, and no process, namespace, file
or task is left (support/attack_lab.py).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from support.attack_lab import Lab, matches, open_lab
from support.attacks import Attack, Walls
from support.documents import ROOT
from support.python_attacks import PYTHON_ATTACKS

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    async with open_lab(tmp_path_factory.mktemp("python-lab")) as lab:
        yield lab


@pytest.mark.parametrize("attack", PYTHON_ATTACKS, ids=lambda attack: attack.name)
async def test_an_attack_by_python_ends_as_the_list_says(lab: Lab, attack: Attack) -> None:
    result = await lab.attack(attack, Walls.BOTH)
    assert matches(lab, result.outcome, attack.both.outcome), result


async def test_every_attack_has_code_and_all_code_is_an_attack() -> None:
    code = (ROOT / "tests" / "support" / "attacks_agent.py").read_text()
    coded = set(re.findall(r"^(?:async )?def (\w+)\(q\)", code, re.MULTILINE)) - {"hello"}
    assert coded == {attack.name for attack in PYTHON_ATTACKS}
    assert len(coded) == len(PYTHON_ATTACKS)


async def test_the_page_for_auditors_has_every_attack_by_python() -> None:
    """docs/audit/sandbox-python.md has one row per attack: what, and the wall that stops it."""
    page = (ROOT / "docs/audit/sandbox-python.md").read_text()
    rows = [tuple(re.split(r" \| ", line.strip("| "))) for line in page.splitlines() if line.startswith("| `")]
    assert rows == [(f"`{a.name}`", a.row, a.says, a.both.wall) for a in PYTHON_ATTACKS]
