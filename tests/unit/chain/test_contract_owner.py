"""Agents whose owner is a contract, as a multisig with a timelock is: what workers read by proof follows its votes."""

from __future__ import annotations

import asyncio

import pytest

from cloister.chain.contracts import call, encode, encode_constructor
from cloister.chain.proven import ProvenState
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.core.chainview.records import AgentRecord, UpgradeMode, agent_id
from cloister.core.encoding.signatures import address_of
from cloister.core.errors import ChainError
from support import hooks
from support.anvil import TestChain, send

CODE, OTHER = b"\x0c" * 32, b"\x0e" * 32
DELAY = 5


class Owner:
    """A contract account that carries out what it is told, and an agent that it owns."""

    def __init__(self, chain: TestChain, rpc: Rpc) -> None:
        self.chain, self.rpc = chain, rpc
        self.sender = Sender(rpc, chain.keys[2], chain.chain_id)
        self.account, self.token, self.agent = b"", 0, b""

    async def open(self) -> Owner:
        made = await self.sender.send(None, hooks.creation(hooks.CONSUMER))
        assert made.contract is not None
        self.account = made.contract
        cluster = await call(self.rpc, self.chain.contracts["Clusters"], "Clusters", "defaultCluster")
        deployment = (CODE, CODE, cluster, int(UpgradeMode.DELAYED), DELAY, "")
        # The account takes ERC-721 tokens that are minted to it without asking: `_mint`, not `_safeMint`.
        await self.vote("deploy", deployment)
        self.token = await call(self.rpc, self.chain.contracts["Agents"], "Agents", "count")
        self.agent = agent_id(self.chain.chain_id, self.chain.contracts["Agents"], self.token)
        return self

    async def vote(self, fn: str, *args: object) -> int:
        """The account makes one call to Agents; returns its block."""
        data = self.chain.contracts["Agents"] + encode("Agents", fn, *args)
        return (await self.sender.send(self.account, data)).block_number

    async def record(self) -> AgentRecord:
        at = await self.chain.checkpoint(self.rpc)
        state = ProvenState(self.rpc, self.chain.contracts, at, code_hashes=self.chain.code_hashes)
        found = await state.agent(self.agent)
        assert found is not None
        return found

    async def mine(self, blocks: int) -> None:
        for _ in range(blocks):
            await self.rpc.call("evm_mine")


async def test_a_contract_upgrades_its_agent_after_the_delay_and_not_before(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        owner = await Owner(chain, rpc).open()
        assert (await owner.record()).owner == owner.account
        await owner.vote("setCode", owner.token, OTHER, OTHER)
        assert (await owner.record()).code_hash == CODE, "announced, not in force"
        await owner.mine(DELAY + 1)
        await owner.vote("applyCode", owner.token)
        assert (await owner.record()).code_hash == OTHER
        with pytest.raises(ChainError, match="revert"):
            await owner.vote("setUpgradeRule", owner.token, int(UpgradeMode.INSTANT), 0)


async def test_a_guardian_vetoes_what_the_contract_announced(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        owner, guardian = await Owner(chain, rpc).open(), chain.keys[1]
        await owner.vote("setGuardian", owner.token, address_of(guardian))
        await owner.vote("setCode", owner.token, OTHER, OTHER)
        await send(chain, rpc, guardian, "Agents", "cancelCode", owner.token)
        await owner.mine(DELAY + 1)
        with pytest.raises(ChainError, match="revert"):
            await owner.vote("applyCode", owner.token)
        assert (await owner.record()).code_hash == CODE


async def test_the_dao_stops_an_agent_and_its_owner_cannot_resume_meanwhile(chain: TestChain) -> None:
    """The deployer plays the DAO, as in every chain of these tests."""
    async with Rpc(chain.url) as rpc:
        owner = await Owner(chain, rpc).open()
        await send(chain, rpc, chain.deployer, "Agents", "emergencyPause", owner.token, 50)
        assert (await owner.record()).paused
        with pytest.raises(ChainError, match="revert"):
            await owner.vote("resume", owner.token)
        state = ProvenState(rpc, chain.contracts, await chain.checkpoint(rpc), code_hashes=chain.code_hashes)
        assert (await state.agent_rules(owner.agent)).emergency_until > state.checkpoint.number
        assert await state.newest_paused(owner.agent)
        await send(chain, rpc, chain.deployer, "Agents", "emergencyLift", owner.token)
        assert (await owner.record()).paused, "lifted, it waits for its owner"
        await owner.vote("resume", owner.token)
        assert not (await owner.record()).paused


async def test_a_timelock_owns_an_agent_and_its_order_counts_when_its_time_has_come(chain: TestChain) -> None:
    """The Timelock that networks ship with: its proposer orders a pause, anybody carries it out, not before."""
    async with Rpc(chain.url) as rpc:
        owner = await Owner(chain, rpc).open()
        proposer, anybody = owner.sender, Sender(rpc, chain.keys[3], chain.chain_id)
        made = await proposer.send(None, encode_constructor("Timelock", 2, [proposer.address], [bytes(20)], bytes(20)))
        assert made.contract is not None
        lock = made.contract
        await owner.vote("transferFrom", owner.account, lock, owner.token)
        pause = encode("Agents", "pause", owner.token)
        order = (chain.contracts["Agents"], 0, pause, bytes(32), bytes(32))
        for sender in (proposer, anybody):
            with pytest.raises(ChainError, match="NotOwnerOrGuardian"):
                await sender.send(chain.contracts["Agents"], pause)
        with pytest.raises(ChainError, match="AccessControlUnauthorizedAccount"):
            await anybody.send(lock, encode("Timelock", "schedule", *order, 2))
        with pytest.raises(ChainError, match="TimelockInsufficientDelay"):
            await proposer.send(lock, encode("Timelock", "schedule", *order, 1))
        await proposer.send(lock, encode("Timelock", "schedule", *order, 2))
        with pytest.raises(ChainError, match="TimelockUnexpectedOperationState"):
            await anybody.send(lock, encode("Timelock", "execute", *order))
        assert not (await owner.record()).paused
        operation = await call(rpc, lock, "Timelock", "hashOperation", *order)
        while not await call(rpc, lock, "Timelock", "isOperationReady", operation):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.1)
        await anybody.send(lock, encode("Timelock", "execute", *order))
        record = await owner.record()
        assert (record.paused, record.owner) == (True, lock)


async def test_a_sale_takes_the_sellers_epoch_hook_payer_and_secrets_away(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        owner, buyer = await Owner(chain, rpc).open(), address_of(chain.keys[0])
        hook = await owner.sender.send(None, hooks.creation(hooks.YES))
        await owner.vote("setAccessHook", owner.token, hook.contract)
        await owner.vote("setFeePayer", owner.token, owner.account)
        before = await owner.record()
        await owner.vote("transferFrom", owner.account, buyer, owner.token)
        after = await owner.record()
        state = ProvenState(rpc, chain.contracts, await chain.checkpoint(rpc), code_hashes=chain.code_hashes)
        rules = await state.agent_rules(owner.agent)
        assert (after.owner, after.epoch, after.paused) == (buyer, before.epoch + 1, True)
        assert (rules.access_hook, rules.fee_payer) == (bytes(20), bytes(20))
        assert rules == await state.newest_rules(owner.agent)
