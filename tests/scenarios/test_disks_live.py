"""Members whose machines have no sealing key, as real processes: the others hold the key of their folders.

Script: five gatekeepers make a key, two of them on bare machines. One of the two is killed and comes back by the
others, the same member in the same seat. While too few others run it waits, and says why. Its folder from before a
refresh is put back: nobody gives its key.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator

import pytest

from cloister.core.chainview.seats import RulesRecord
from cloister.core.errors import CloisterError
from cloister.devnet.layout import GATEKEEPERS
from support.anvil import TestChain
from support.gatekeeper_stage import Stage, found, info, staged, until
from support.resting import kept

pytestmark = [pytest.mark.long, pytest.mark.network]

NEVER = 50_000_000
RULES = RulesRecord(
    ceremony_blocks=80,
    term_blocks=NEVER,
    refresh_blocks=300,
    rotation_blocks=NEVER,
    erase_delay=8,
    unbonding_blocks=8,
    min_stake=0,
    absence_slash=0,
)
NAMES = [name for name, _ in GATEKEEPERS]
BARE = NAMES[0]


@pytest.fixture
async def stage(chain: TestChain) -> AsyncIterator[Stage]:
    async with staged(chain) as made:
        made.resting = frozenset({BARE, NAMES[1]})
        yield made


async def in_term(stage: Stage, term: int, names: list[str]) -> None:
    """Wait until these are in office in at least this term."""

    async def there() -> bool:
        said = [await info(url) for url in stage.urls(*names)]
        return all(i.term >= term and i.ready for i in said)

    await until(there, 120)


async def test_bare_members_come_back_by_the_others_and_old_folders_do_not(stage: Stage) -> None:
    await stage.hardware()
    await stage.contracts(RULES)
    await found(stage)
    await in_term(stage, 1, NAMES)
    folder, first = stage.layout.node(BARE), stage.children[BARE].ready["address"]

    async def sealed() -> bool:
        return "disk/wrap" in kept(folder)

    await until(sealed)
    assert not (folder / "node.key").exists()

    # Killed, and back: the same member, in office, with its share.
    await stage.children[BARE].kill()
    shutil.copytree(folder, stage.layout.home / "old")
    await stage.start(BARE)
    assert stage.children[BARE].ready["address"] == first
    await in_term(stage, 1, [BARE])

    # Two others are not enough: it waits, with its port closed, and opens when a third one is there.
    for name in (BARE, NAMES[3], NAMES[4]):
        await stage.children[name].kill()
    waiting = asyncio.create_task(stage.start(BARE))
    await asyncio.sleep(4)
    assert not waiting.done()
    await stage.start(NAMES[3])
    await waiting
    await stage.start(NAMES[4])
    assert stage.children[BARE].ready["address"] == first

    # A refresh goes by. The folder from before it opens nowhere.
    await in_term(stage, 2, NAMES)
    await stage.children[BARE].kill()
    shutil.rmtree(folder)
    shutil.copytree(stage.layout.home / "old", folder)
    with pytest.raises(CloisterError):
        await stage.start(BARE)
    log = (stage.layout.logs / f"{BARE}.log").read_text()
    assert "gatekeeper.disk_locked" in log
    assert "policy.disk_round" in log
