"""A member that signs two blocks of one height is found, loses its seat, and nobody who calls notices.

Script: a devnet of five gatekeepers, a sixth that stands, an agent with notes and a caller that never stops. One member
begins to show some of the others another block of its newest height, under its own signature. They compare what they
saw; its two signatures go to the contract, which revokes its seat without anybody's word. The next election seats the
sixth one. The same client follows to the new term, and the agent answers all the time.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.chain.contracts import call
from cloister.chain.events import topic
from cloister.client.client import Client
from cloister.client.deploy import await_seats, deploy_agent
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.policy.manifest import normalize
from cloister.devnet import ledger
from cloister.devnet.layout import GATEKEEPERS
from cloister.devnet.network import Options
from cloister.devnet.process import Child
from support.six_seats import JOINER, LEAVER, NOTES, Calling, SixSeats, ask, client_of, in_term, more, sixth, until
from support.two_faced_gatekeeper import TRIGGER

pytestmark = [pytest.mark.long, pytest.mark.network, pytest.mark.timeout(900)]

TESTS = Path(__file__).parents[1]
RULES = replace(ledger.ONE_TERM, ceremony_blocks=40, erase_delay=8)


class OneLiar(SixSeats):
    """One of the five may be told to lie."""

    async def _spawn(
        self, name: str, module: str, arguments: list[str], *, timeout: float, env: Mapping[str, str] | None = None
    ) -> Child:
        if name == LEAVER:
            module = "support.two_faced_gatekeeper"
            path = os.pathsep.join([str(TESTS), str(TESTS.parent / "src")])
            env = {**(env or {}), "PYTHONPATH": path}
        return await super()._spawn(name, module, arguments, timeout=timeout, env=env)


@pytest.fixture
async def devnet() -> AsyncIterator[OneLiar]:
    home = Path(tempfile.mkdtemp(prefix="clo-"))
    try:
        async with OneLiar(Options(home, workers=2, with_model=False, block_time=0.5, rules=RULES)) as running:
            yield running
    finally:
        shutil.rmtree(home, ignore_errors=True)


def conflicts(devnet: OneLiar, name: str) -> list[dict[str, Any]]:
    """What a member's audit log says of signers that contradict themselves."""
    lines = (devnet.layout.node(name) / "audit.log").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["what"] == "conflict"]


async def revoked_seats(client: Client) -> int:
    """Bits of the seats of the first term that count in nothing."""
    term = await call(client.rpc, client.address("Gatekeepers"), "Gatekeepers", "termOf", 1)
    return int(term["revoked"])


async def test_two_signatures_cost_a_seat_and_calls_go_on(devnet: OneLiar) -> None:
    await sixth(devnet)
    async with client_of(devnet, "one") as client:
        deployed = await deploy_agent(client, NOTES, normalize({}))
        await await_seats(client, deployed.agent, seats=2)
        agent = await client.agent(deployed.agent)
        await ask(agent, "one")
        liar, joiner = (from_hex(devnet.children[name].ready["address"], 20) for name in (LEAVER, JOINER))
        seat = client.network.founding.members.index(liar)
        assert await revoked_seats(client) == 0
        await asyncio.to_thread((devnet.layout.node(LEAVER) / TRIGGER).touch)
        calling = Calling(agent)
        try:

            async def revoked() -> bool:
                return await revoked_seats(client) == 1 << seat

            await until(revoked, "the revocation by two signatures", 240)
            await in_term(client, deployed.agent, 2)
            members = client.resolver.walk.terms.in_office.signers.members
            assert liar not in members
            assert joiner in members
            before = calling.answered
            assert (await ask(agent, "two"))["notes"] == ["note:one", "note:two"]
            await until(lambda: more(calling, before + 5), "answers in the new term")
            assert not calling.refused, "nobody who called noticed"
        finally:
            await calling.stop()
        named = [name for name, _ in GATEKEEPERS if name != LEAVER and conflicts(devnet, name)]
        assert len(named) >= len(GATEKEEPERS) - 2, "who saw one face heard of the other"
        assert {one["signer"] for name in named for one in conflicts(devnet, name)} == {to_hex(liar)}
        where = {"address": to_hex(client.address("Gatekeepers")), "fromBlock": "0x0"}
        events = await client.rpc.call(
            "eth_getLogs", {**where, "topics": [to_hex(topic("Gatekeepers", "SeatRevoked"))]}
        )
        assert [log["topics"][1] for log in events] == ["0x" + liar.hex().rjust(64, "0")], "its seat, and no other"
