"""Everybody follows the committee: a removed seat, then a new master key, while an agent is called all the time.

Script: a devnet, an agent with notes and an API key, an ordinary client, and a caller that never stops. The DAO
removes a gatekeeper for cause; a sixth one is elected into its seat. Workers and the client, which pinned the founding
committee, go on. Then the DAO has a new master key made: workers re-seal the agent, and the same client finds notes and
key there. A second client, which knows nothing but the fingerprint and the gateway, learns all of it from hand-overs.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from coincurve import PrivateKey

from cloister.chain.contracts import encode
from cloister.chain.tx import Sender
from cloister.client.agent import Agent
from cloister.client.client import Client
from cloister.client.deploy import await_seats, deploy_agent
from cloister.client.keys import describe_keys, epochs_of
from cloister.client.secrets import set_secrets
from cloister.client.terms import remembered
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.errors import CloisterError
from cloister.core.policy.manifest import normalize
from cloister.devnet import ledger
from cloister.devnet.network import Devnet, Options
from support.six_seats import JOINER, LEAVER, NOTES, Calling, SixSeats, ask, client_of, in_term, more, sixth, until

pytestmark = [pytest.mark.long, pytest.mark.network]

RULES = replace(ledger.ONE_TERM, ceremony_blocks=40, erase_delay=8)
# What callers may be told while workers move an agent to the keys of a new master epoch.
MOVING = {"epoch.resealing", "worker.no_such_agent", "client.old_seat", "client.no_seat", "gateway.no_worker"}


def options(home: Path) -> Options:
    return Options(home, workers=2, with_model=False, block_time=0.5, rules=RULES)


@pytest.fixture
async def devnet() -> AsyncIterator[Devnet]:
    home = Path(tempfile.mkdtemp(prefix="clo-"))
    try:
        async with SixSeats(options(home)) as running:
            yield running
    finally:
        shutil.rmtree(home, ignore_errors=True)


async def dao(devnet: Devnet, function: str, *args: object) -> None:
    assert devnet.rpc is not None
    assert devnet.genesis is not None
    sender = Sender(devnet.rpc, PrivateKey(devnet.layout.secret_key("deployer")), devnet.genesis.chain_id)
    await sender.send(devnet.genesis.address("Gatekeepers"), encode("Gatekeepers", function, *args))


async def test_a_removed_seat_and_a_new_master_key_while_everybody_goes_on(devnet: Devnet) -> None:
    await sixth(devnet)
    async with client_of(devnet, "one") as client:
        deployed = await deploy_agent(client, NOTES, normalize({"secrets": ["API_KEY"]}))
        await await_seats(client, deployed.agent, seats=2)
        await set_secrets(client, deployed.agent, {"API_KEY": "sk-0123456789"})
        agent = await client.agent(deployed.agent)
        await ask(agent, "one")
        calling = Calling(agent)
        try:
            # A seat is removed for cause: the sixth one is elected into it.
            members = client.network.founding.members
            leaver = from_hex(devnet.children[LEAVER].ready["address"], 20)
            assert leaver in members
            await dao(devnet, "revoke", leaver)
            await in_term(client, deployed.agent, 2)
            now = client.resolver.walk.terms.in_office
            assert leaver not in now.signers.members
            assert from_hex(devnet.children[JOINER].ready["address"], 20) in now.signers.members
            before = calling.answered
            assert await ask(agent, "two") == {"notes": ["note:one", "note:two"], "key": 13}
            await until(lambda: more(calling, before + 5), "answers in the new term")
            assert not calling.refused, "nobody who called noticed the new term"

            # A new master key: the same client, the same agent, its notes and its secret.
            await asyncio.sleep(RULES.ceremony_blocks * devnet.options.block_time)
            await dao(devnet, "rotate")
            await until(lambda: _rotated(client, deployed.agent), "keys of the new master epoch")
            before = calling.answered
            notes = await ask(agent, "three")
            assert notes == {"notes": ["note:one", "note:three", "note:two"], "key": 13}
            await until(lambda: more(calling, before + 5), "answers under the new key")
            assert set(calling.refused) <= MOVING, calling.refused
        finally:
            await calling.stop()
        facts = await describe_keys(client, deployed.agent)
        assert (facts["shares"]["term"], facts["master"]["epoch"], facts["secrets"]) == (2, 2, "carried")
        assert facts["master"]["mpk"] != to_hex(client.network.mpk)
        kept = remembered(client.network, client.home, int(client.clock()))
        assert kept.in_office.signers == client.resolver.walk.terms.in_office.signers
    async with client_of(devnet, "two") as newcomer:
        other = await newcomer.agent(deployed.agent)
        await until(lambda: _knows(other, notes), "the notes, for a newcomer")
        await set_secrets(newcomer, deployed.agent, {"API_KEY": "sk-second-key"})
        await until(lambda: _has_key(other, 13), "the secret under the new key")


async def _rotated(client: Client, agent: bytes) -> bool:
    try:
        served = (await client.resolver.resolve(agent, again=True)).sittings
        return bool(served) and (await epochs_of(client, agent)).master == 2
    except CloisterError:
        return False


async def _knows(agent: Agent, notes: dict[str, object]) -> bool:
    """Whether it answers with these; on a slow machine a lease may be just moving."""
    try:
        return await ask(agent) == notes
    except CloisterError as error:
        if error.code not in MOVING:
            raise
        return False


async def _has_key(agent: Agent, size: int) -> bool:
    return (await ask(agent))["key"] == size
