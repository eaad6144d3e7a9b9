"""What a member does while the others answer (spec/gatekeepers.md K1): masks for its answer, in small steps."""

from __future__ import annotations

import asyncio

import pytest

from cloister.core.errors import ChainViewError
from cloister.core.threshold.partial import Masks, TransportKey
from cloister.gatekeeper.grants import KEYS, _while
from cloister.gatekeeper.lookout import ALONE
from support.sharing import stream

ASKER = TransportKey.generate(stream("asker"))


def masks() -> Masks:
    return Masks(ASKER.public, stream("masks"), KEYS)


def ready(made: Masks) -> int:
    return len(made._ready)


async def test_all_masks_are_made_while_the_others_are_slow_and_others_have_their_turns_in_between() -> None:
    made, looking, seen = masks(), asyncio.get_running_loop().create_future(), list[int]()
    task = asyncio.create_task(_while(looking, made))
    while len(seen) < 2 * KEYS:
        await asyncio.sleep(0)
        seen.append(ready(made))
    assert sorted(set(seen)) == list(range(min(seen), KEYS + 1)), "one at a time"
    assert not task.done(), "nothing is decided before the others answered"
    looking.set_result(None)
    await task
    assert ready(made) == KEYS


async def test_nothing_is_made_ahead_when_the_others_have_answered() -> None:
    made, looking = masks(), asyncio.get_running_loop().create_future()
    looking.set_result(None)
    await _while(looking, made)
    assert ready(made) == 0


async def test_who_is_alone_hears_it_and_makes_no_more() -> None:
    made, looking = masks(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(_while(looking, made))
    await asyncio.sleep(0)
    looking.set_exception(ALONE(expected="3 members", found="1"))
    with pytest.raises(ChainViewError) as caught:
        await task
    assert caught.value.code == "gatekeeper.alone"
    assert ready(made) < KEYS
