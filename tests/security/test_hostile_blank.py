"""Hostile agents in processes that waited for them: every attack ends as it does in one that was started for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from support.attack_lab import Lab, matches, open_lab
from support.attacks import CASES, Attack, Walls

pytestmark = [pytest.mark.long, pytest.mark.asyncio(loop_scope="module")]
ATTACKS = [attack for attack, walls in CASES if walls is Walls.BOTH]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    async with open_lab(tmp_path_factory.mktemp("lab")) as lab:
        lab.blank = True
        yield lab


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
async def test_an_attack_from_a_blank_ends_as_the_list_says(lab: Lab, attack: Attack) -> None:
    stop = attack.stop(Walls.BOTH)
    assert stop is not None
    result = await lab.attack(attack, Walls.BOTH)
    assert matches(lab, result.outcome, stop.outcome), result
