"""Deploying on a real chain: done once whatever dies, behind a timelock, replaced only through it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from coincurve import PrivateKey

from cloister.chain import rollout
from cloister.chain.contracts import call, encode
from cloister.chain.deploy import FREE_SEATS, directory_key
from cloister.chain.rollout import DEV_ACCOUNTS, Plan, Record, Upgrade
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Receipt, Sender, Submitted
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.signatures import address_of
from cloister.core.errors import CloisterError
from support.anvil import MEASUREMENT, POLICY_HASH, TestChain, test_key

DELAY = 2
PROPOSER = test_key("proposer of the timelock")
PROPOSE, CANCEL = keccak256(b"PROPOSER_ROLE"), keccak256(b"CANCELLER_ROLE")


class Killed(Exception):  # noqa: N818 - the process ends here
    """SIGKILL."""


def plan_on(chain: TestChain, **changes: Any) -> Plan:
    base = Plan(
        chain_id=chain.chain_id,
        policy_hash=POLICY_HASH,
        measurements=(MEASUREMENT,),
        policy_delay=9,
        seats=3,
        rules=FREE_SEATS,
        timelock_delay=DELAY,
        proposers=(address_of(PROPOSER),),
    )
    return replace(base, **changes)


def quiet(text: str) -> None:
    """Says nothing."""


def record() -> Record:
    return Record(lambda kept: None)


class Deployed:
    """One deployment on the session's chain, and who made it."""

    def __init__(self, chain: TestChain, rpc: Rpc, key: PrivateKey) -> None:
        self.chain, self.rpc, self.key, self.plan = chain, rpc, key, plan_on(chain)
        self.record, self.at = record(), dict[str, bytes]()

    def sender(self, key: PrivateKey | None = None) -> Sender:
        return Sender(self.rpc, key or self.key, self.chain.chain_id)

    async def ask(self, name: str, fn: str, *args: Any) -> Any:
        return await call(self.rpc, self.at[name], name, fn, *args)

    async def sent(self) -> int:
        return int(await self.rpc.call("eth_getTransactionCount", to_hex(address_of(self.key)), "pending"), 16)

    async def upgrade(self, name: str, key: PrivateKey = PROPOSER, kept: Record | None = None) -> Upgrade:
        return await rollout.upgrade(self.sender(key), name, self.at["Directory"], kept or self.record, quiet)


_made: dict[str, tuple[dict[str, bytes], Record]] = {}


@pytest_asyncio.fixture
async def made(chain: TestChain) -> AsyncIterator[Deployed]:
    """Deployed by the first test that asks; each test replaces another contract."""
    async with Rpc(chain.url) as rpc:
        one = Deployed(chain, rpc, test_key("deployer of a network"))
        if chain.url not in _made:
            chain.fund(one.key)
            chain.fund(PROPOSER)
            _made[chain.url] = await rollout.deploy(one.sender(), one.plan, one.record, quiet), one.record
        one.at, one.record = _made[chain.url]
        yield one


async def test_a_deployment_is_wired_owned_by_the_timelock_and_done_once(made: Deployed) -> None:
    lock, deployer = made.at["Timelock"], address_of(made.key)
    assert await made.ask("Directory", "owner") == lock
    assert await made.ask("Timelock", "getMinDelay") == DELAY
    for role in (PROPOSE, CANCEL, bytes(32)):
        assert not await made.ask("Timelock", "hasRole", role, deployer), "the deployer has no right left"
    assert await made.ask("Timelock", "hasRole", PROPOSE, address_of(PROPOSER))
    assert await made.ask("Token", "balanceOf", lock) == 10**27
    assert await made.ask("Gatekeepers", "founder") == deployer, "who founds the committee, once"
    for name in set(made.at) - {"Directory"}:
        assert await made.ask("Directory", "latest", directory_key(name)) == (1, made.at[name])
    before, nonces = await made.sent(), dict(made.record.nonces)
    assert await rollout.deploy(made.sender(), made.plan, made.record, quiet) == made.at
    assert (await made.sent(), made.record.nonces) == (before, nonces), "a second run sends nothing"
    with pytest.raises(CloisterError, match=r"chain\.wrong_wiring"):
        await rollout.verify_wiring(made.rpc, made.at, replace(made.plan, timelock_delay=DELAY + 1))
    with pytest.raises(CloisterError, match=r"chain\.wrong_wiring"):
        await rollout.verify_wiring(made.rpc, made.at | {"Reseals": (await fresh(made))["Reseals"]})
    with pytest.raises(CloisterError, match=r"chain\.wrong_code"):
        await rollout.verify_wiring(made.rpc, made.at | {"Anchor": made.at["Token"]})


async def fresh(made: Deployed) -> dict[str, bytes]:
    """The session's other contracts: right code, other wiring."""
    return made.chain.contracts


class Dying(Sender):
    """Sends, and dies before it knows what became of it, at every ``every``-th transaction."""

    every, count = 3, 0

    async def wait(self, sent: Submitted) -> Receipt:
        Dying.count += 1
        if Dying.count % self.every == 0:
            raise Killed
        return await super().wait(sent)


@pytest.mark.long
async def test_a_deployment_that_dies_at_every_step_ends_as_one_that_did_not(chain: TestChain) -> None:
    key = chain.fund(test_key("deployer who dies"))
    kept, died = record(), 0

    def dying(last: list[str]) -> Callable[[str], None]:
        def say(text: str) -> None:
            if text not in last:
                last.append(text)
                raise Killed
            # said before in an earlier life: go on

        return say

    said: list[str] = []
    async with Rpc(chain.url) as rpc:
        for _ in range(60):
            try:
                at = await rollout.deploy(Dying(rpc, key, chain.chain_id), plan_on(chain), kept, dying(said))
            except Killed:
                died += 1
                continue
            break
        assert died > 20
        await rollout.verify_wiring(rpc, at, plan_on(chain))
        sent = int(await rpc.call("eth_getTransactionCount", to_hex(address_of(key)), "latest"), 16)
    assert sorted(kept.nonces) == sorted(rollout.CREATED)
    assert sent == len(rollout.CREATED) + 1 + (len(at) - 1) + 1 + 2, "nothing was sent twice"


@pytest.mark.parametrize("role", ["deployer", "proposer", "treasury"])
async def test_a_key_that_everybody_has_owns_nothing_on_a_real_chain(role: str) -> None:
    rpc = Rpc("http://127.0.0.1:1")
    plan = Plan(1, POLICY_HASH, (), 1, 3, FREE_SEATS, 1, (address_of(PROPOSER),))
    known = PrivateKey(bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"))
    assert address_of(known) == DEV_ACCOUNTS[0]
    key = known if role == "deployer" else test_key("own")
    plan = replace(plan, proposers=(DEV_ACCOUNTS[9],)) if role == "proposer" else plan
    plan = replace(plan, treasury=DEV_ACCOUNTS[5]) if role == "treasury" else plan
    with pytest.raises(CloisterError) as error:
        await rollout.deploy(Sender(rpc, key, 1), plan, record(), quiet)
    assert error.value.code == "chain.dev_key"
    await rpc.close()


def test_on_a_local_chain_everybody_knows_the_keys_anyway() -> None:
    for chain_id in rollout.LOCAL_CHAINS:
        rollout.require_own_keys(chain_id, DEV_ACCOUNTS)
    assert len(set(DEV_ACCOUNTS)) == 10


async def test_the_chain_is_the_plans(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        with pytest.raises(CloisterError, match=r"chain\.other_chain"):
            await rollout.deploy(Sender(rpc, PROPOSER, 7), plan_on(chain, chain_id=7), record(), quiet)


async def test_an_upgrade_waits_in_the_timelock_and_is_published_once(
    made: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CloisterError, match=r"chain\.nothing_new"):
        await made.upgrade("Validation")
    with pytest.raises(CloisterError, match=r"chain\.not_replaceable"):
        await made.upgrade("Token")
    older(monkeypatch, made.at["Validation"])
    first = await made.upgrade("Validation")
    assert (first.state, first.version, first.order) == ("waiting", 2, None)
    assert first.ready_at > 0
    assert await made.ask("Directory", "latest", directory_key("Validation")) == (1, made.at["Validation"])
    assert (await made.upgrade("Validation")).state == "waiting", "too early changes nothing"
    last = await until_published(made, "Validation")
    assert last.address == first.address
    assert await made.ask("Directory", "latest", directory_key("Validation")) == (2, first.address)
    assert (await made.upgrade("Validation")).state == "published", "another run has nothing to do"
    assert await call(made.rpc, last.address, "Validation", "agents") == made.at["Agents"]


async def test_who_may_not_propose_gets_the_order_for_those_who_may(
    made: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    older(monkeypatch, made.at["Reputation"])
    stranger, kept = made.chain.fund(test_key("a stranger to the timelock")), record()
    first = await made.upgrade("Reputation", stranger, kept)
    assert first.state == "to be scheduled"
    assert first.order is not None
    assert (await made.upgrade("Reputation", stranger, kept)).address == first.address, "it is deployed once"
    with pytest.raises(CloisterError, match=r"chain\.reverted"):
        await made.sender(stranger).send(*first.order)
    await made.sender(PROPOSER).send(*first.order)
    assert (await made.upgrade("Reputation", stranger, kept)).state == "waiting"
    last = await until_published(made, "Reputation", stranger, kept)
    assert await made.ask("Directory", "latest", directory_key("Reputation")) == (2, last.address)


async def test_nobody_publishes_past_the_timelock(made: Deployed) -> None:
    data = encode("Directory", "publish", directory_key("Anchor"), 2, made.at["Anchor"])
    for key in (made.key, PROPOSER):
        with pytest.raises(CloisterError, match=r"chain\.reverted"):
            await made.sender(key).send(made.at["Directory"], data)


def older(monkeypatch: pytest.MonkeyPatch, address: bytes) -> None:
    """What stands at this address is an older build's."""
    real = rollout.is_built

    async def is_built(rpc: Rpc, name: str, at: bytes) -> bool:
        return at != address and await real(rpc, name, at)

    monkeypatch.setattr(rollout, "is_built", is_built)


async def until_published(made: Deployed, name: str, key: PrivateKey = PROPOSER, kept: Record | None = None) -> Upgrade:
    for _ in range(60):
        done = await made.upgrade(name, key, kept)
        if done.state == "published":
            return done
        await asyncio.sleep(0.2)
    raise AssertionError(f"never published: {done}")
