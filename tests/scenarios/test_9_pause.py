"""Step 9: the owner pauses the agent by a transaction; at most two blocks later every call is refused; then resumes."""

from __future__ import annotations

import pytest

from cloister.devnet.demo.steps import Demo

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_pause_binds_within_two_blocks(demo: Demo) -> None:
    block, blocks = await demo.pause()
    assert block > 0
    assert blocks <= 2
