"""The committee moves on, with a real chain and real processes: a refresh, then a new member in an old one's seat.

Script: five gatekeepers make a key; a sixth one stands by. When it is due they refresh their shares. The operator of
one gives its seat up; the sixth one is elected into it. The agent's keys stay what they were, with the new member's
share in them. Whoever pinned the founding committee follows the hand-overs. The member that left comes back with its
old disk, and is of no use to anybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from coincurve import PrivateKey

from cloister.core.chainview.seats import RulesRecord
from cloister.core.chainview.terms import SignedHandover, Term, Terms, terms_from
from cloister.core.encoding.hexes import from_hex
from cloister.core.encoding.identity import Purpose
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.network import Network
from cloister.core.encoding.signatures import address_of
from cloister.core.errors import CloisterError
from cloister.devnet.layout import GATEKEEPERS, THRESHOLD
from cloister.wire.ask import ask, new_session
from cloister.wire.committee import Committee
from support.anvil import TestChain
from support.gatekeeper_stage import Stage, Worker, deploy_agent, found, info, staged, until

pytestmark = [pytest.mark.long, pytest.mark.network]

NEVER = 50_000_000
RULES = RulesRecord(
    ceremony_blocks=30,
    term_blocks=80,
    refresh_blocks=1,
    rotation_blocks=NEVER,
    erase_delay=8,
    unbonding_blocks=8,
    min_stake=0,
    absence_slash=0,
)
NAMES = [name for name, _ in GATEKEEPERS]
LEAVER, JOINER = NAMES[1], "gk-6"


@pytest.fixture
async def stage(chain: TestChain) -> AsyncIterator[Stage]:
    async with staged(chain, gk_6=dict(GATEKEEPERS)[LEAVER]) as made:
        yield made


async def in_term(stage: Stage, term: int, names: Sequence[str]) -> None:
    """Wait until these gatekeepers are in office in a term, each with its share."""

    async def there() -> bool:
        said = [await info(url) for url in stage.urls(*names)]
        return all((i.term, i.ready) == (term, True) for i in said)

    await until(there, 60)


async def followed(stage: Stage, network: Network) -> Terms:
    """What a verifier that pinned the founding committee learns from hand-overs alone."""
    session = new_session()
    try:
        served = await ask(session, "GET", f"{stage.urls(NAMES[0])[0]}/v1/handovers")
    finally:
        await session.close()
    handovers = [SignedHandover.from_json(item) for item in served["handovers"]]
    now = int(time.time())
    pinned = Term(network.founding, network.master_epoch, keccak256(network.mpk), 0, now)
    return terms_from(pinned, handovers, network.id, now, 3600)


async def the_keys(
    stage: Stage, worker: Worker, agent: bytes, terms: Terms, names: Sequence[str], *, patient: bool = True
) -> Any:
    """The agent's keys that these members release, in the term in office; who just came into it has to sign first."""
    committee = Committee(stage.urls(*names), terms.in_office.signers, terms.network)

    async def speak() -> bool:
        with contextlib.suppress(CloisterError):
            await committee.checkpoint()
            return True
        return False

    try:
        if patient:
            await until(speak)
        return (await worker.released(committee, agent))[1]
    finally:
        await committee.close()


async def test_shares_are_refreshed_and_a_member_is_replaced_while_every_key_stays(stage: Stage) -> None:
    worker_key, owner = stage.chain.fund(PrivateKey()), stage.chain.fund(stage.key("owner"))
    operator = stage.chain.fund(PrivateKey())
    stage.operators[LEAVER] = address_of(operator)
    await stage.hardware()
    await stage.contracts(RULES)
    network = await found(stage, [JOINER])
    await in_term(stage, 1, NAMES)
    committee = Committee(stage.urls(*NAMES), network.founding, network.id)
    worker = Worker(stage, network, worker_key)
    _, agent = await asyncio.gather(worker.register(committee), deploy_agent(stage, owner))
    shutil.copy(stage.layout.node(LEAVER) / "state.db", stage.layout.home / "old.db")

    async def final() -> bool:
        return worker.address in await stage.read("Workers", "list", 0, 16, block="finalized")

    await until(final)
    _, keys = await worker.released(committee, agent)
    await committee.close()

    # A refresh opens by itself: same members, new shares, same keys.
    await in_term(stage, 2, NAMES)
    terms = await _terms_at(stage, network, 2)
    assert terms.in_office.signers.members == network.founding.members
    refreshed = await the_keys(stage, worker, agent, terms, NAMES)
    assert refreshed[Purpose.STATE, 0] == keys[Purpose.STATE, 0]

    # One gives up its seat; the election puts the sixth one into it.
    leaver = from_hex(stage.children[LEAVER].ready["address"], 20)
    await stage.send(operator, "Gatekeepers", "resign", leaver)
    stayed = [name for name in NAMES if name != LEAVER]
    await in_term(stage, 3, [*stayed, JOINER])
    terms = await _terms_at(stage, network, 3)
    members = terms.in_office.signers.members
    assert from_hex(stage.children[JOINER].ready["address"], 20) in members
    assert leaver not in members
    # Whichever t: two old ones and the new one.
    later = await the_keys(stage, worker, agent, terms, [*stayed[:2], JOINER])
    assert later[Purpose.STATE, 0] == keys[Purpose.STATE, 0]
    assert len(members) == len(NAMES) >= THRESHOLD

    # The old disk: its share is of a term that is over, and its seat another's.
    await stage.children[LEAVER].kill()
    for name in ("state.db-wal", "state.db-shm"):
        (stage.layout.node(LEAVER) / name).unlink(missing_ok=True)
    shutil.copy(stage.layout.home / "old.db", stage.layout.node(LEAVER) / "state.db")
    await stage.start(LEAVER)

    async def sees_the_chain() -> bool:
        return (await info(stage.urls(LEAVER)[0])).head > 0

    await until(sees_the_chain)
    with pytest.raises(CloisterError) as caught:
        await the_keys(stage, worker, agent, terms, [*stayed[:2], LEAVER], patient=False)
    assert caught.value.code in ("gatekeeper.too_few", "gatekeeper.not_in_office")


async def _terms_at(stage: Stage, network: Network, term: int) -> Terms:
    async def led_there() -> bool:
        return (await followed(stage, network)).in_office.signers.term >= term

    await until(led_there)
    return await followed(stage, network)
