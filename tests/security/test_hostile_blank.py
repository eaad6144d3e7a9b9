"""Hostile agents in processes that waited for them: every attack ends as it does in one that was started for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from support.attack_lab import Lab, matches, open_lab
from support.attacks import CASES, Attack, Walls

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Each of the others runs with the long tests: what a blank can change is what was decided before its agent was known.
SHORT = {
    "workerFile",
    "writeSelf",
    "environAll",
    "forbiddenHost",
    "addressByFetch",
    "arrayBuffer",
    "fork",
    "secondSocket",
}
ATTACKS = [attack for attack, walls in CASES if walls is Walls.BOTH]
_PARAMETERS = [
    pytest.param(attack, id=attack.name, marks=[] if attack.name in SHORT else [pytest.mark.long]) for attack in ATTACKS
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    async with open_lab(tmp_path_factory.mktemp("lab")) as lab:
        lab.blank = True
        yield lab


@pytest.mark.parametrize("attack", _PARAMETERS)
async def test_an_attack_from_a_blank_ends_as_the_list_says(lab: Lab, attack: Attack) -> None:
    stop = attack.stop(Walls.BOTH)
    assert stop is not None
    result = await lab.attack(attack, Walls.BOTH)
    assert matches(lab, result.outcome, stop.outcome), result


async def test_those_that_run_each_time_are_on_the_list() -> None:
    assert {attack.name for attack in ATTACKS} >= SHORT
