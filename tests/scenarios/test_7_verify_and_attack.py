"""Step 7: verify everything, then five attacks, each refused by the code that names its check."""

from __future__ import annotations

import pytest

from cloister.devnet.demo.steps import Demo

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_every_check_of_network_agent_worker_and_receipt_holds(demo: Demo) -> None:
    reports = await demo.verify()
    assert len(reports) == 4
    assert all(report.ok for report in reports)
    assert sum(len(report.steps) for report in reports) > 20


async def test_five_attacks_are_refused_by_name(demo: Demo) -> None:
    assert await demo.attack() == [
        "envelope.not_authentic",
        "envelope.replay",
        "envelope.wrong_boot",
        "attestation.measurement",
        "policy.not_placed",
    ]
