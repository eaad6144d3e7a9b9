"""What members decide by is what the contracts keep, and the contracts take what members send."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cloister.chain.contracts import call, encode
from cloister.chain.finality import RpcQuorum
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.core.chainview.records import agent_id
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.identity import Epochs
from cloister.core.encoding.network import ContractRef, Genesis
from cloister.core.encoding.signatures import sign_digest
from cloister.core.encoding.statements import Checkpoint, StateHead, Statement, WorkerRemoval
from cloister.core.errors import CloisterError
from cloister.core.policy.committee_statements import Proposal, call_of, resealed, worker_bumps
from cloister.core.policy.conflicts import Conflict
from cloister.core.state.rows import Head
from cloister.gatekeeper.ports import Chain, Snapshot
from cloister.gatekeeper.proven import ProvenChain
from cloister.gatekeeper.watch import call_of as conflict_call
from support.anvil import TestChain

WORKER = b"\xee" * 20
SECRETS = b"\x5e" * 32


@pytest.fixture
async def rpc(chain: TestChain) -> AsyncIterator[Rpc]:
    async with Rpc(chain.url) as made:
        yield made


def port_of(chain: TestChain, rpc: Rpc) -> Chain:
    refs = {n: ContractRef(a, chain.code_hashes[n]) for n, a in chain.contracts.items()}
    genesis = Genesis("devnet", chain.chain_id, bytes(32), refs, {}, {}, "rpc-quorum")
    return ProvenChain([rpc], RpcQuorum([rpc], 1), genesis, Sender(rpc, chain.keys[3], chain.chain_id))


async def newest(chain: TestChain, rpc: Rpc) -> Snapshot:
    return port_of(chain, rpc).at(await chain.checkpoint(rpc))


async def bring(
    chain: TestChain, port: Chain, proposal: Proposal, count: int = 3, over: Statement | None = None
) -> None:
    """As a member sends it."""
    contract, function, arguments = call_of(proposal, chain.sign(over or proposal.statement, count))
    await port.send(function, *arguments, contract=contract)


async def agents(chain: TestChain, rpc: Rpc, count: int) -> tuple[int, ...]:
    """New agents; the first one has secrets. Their token ids."""
    owner = Sender(rpc, chain.keys[2], chain.chain_id)
    target = chain.contracts["Agents"]
    for _ in range(count):
        await owner.send(target, encode("Agents", "register"))
    last: int = await call(rpc, target, "Agents", "count")
    tokens = tuple(range(last - count + 1, last + 1))
    await owner.send(target, encode("Agents", "setSecrets", tokens[0], SECRETS))
    return tokens


async def test_statements_move_what_members_prove(chain: TestChain, rpc: Rpc) -> None:
    tokens, port = await agents(chain, rpc, 3), port_of(chain, rpc)
    at = await newest(chain, rpc)
    before = await at.remaining(1)
    assert before == await call(rpc, chain.contracts["Reseals"], "Reseals", "remaining", 1) >= 3
    assert await at.agent_count() == tokens[-1]
    found = await at.counted((*tokens, tokens[-1] + 1))
    assert [(one.epoch, one.counted) for one in found] == [(1, 1)] * 3 + [(0, 0)]
    assert [one.agent for one in found[:3]] == [agent_id(chain.chain_id, chain.contracts["Agents"], t) for t in tokens]
    assert [one.secrets is not None for one in found] == [True, False, False, False]

    # Bumps of two of three; the one whose epoch is another is passed over.
    await bring(chain, port, worker_bumps(1, WORKER, {tokens[0]: 1, tokens[1]: 7}))
    assert [one.epoch for one in await (await newest(chain, rpc)).counted(tokens)] == [2, 1, 1]

    # Two of three left the first epoch. What was recorded is not recorded twice.
    for _ in range(2):
        await bring(chain, port, resealed(1, 2, tokens[:2]))
    at = await newest(chain, rpc)
    assert [one.counted for one in await at.counted(tokens)] == [2, 2, 1]
    assert (await at.remaining(1), await at.remaining(2)) == (before - 2, 2)
    assert await call(rpc, chain.contracts["Reseals"], "Reseals", "remaining", 1) == before - 2


async def test_the_contracts_refuse_what_fewer_than_t_or_another_list_signed(chain: TestChain, rpc: Rpc) -> None:
    tokens, port = await agents(chain, rpc, 2), port_of(chain, rpc)
    good = resealed(1, 2, tokens[:1])
    other = resealed(1, 2, tokens)
    refused = {
        "two of five": (good, 2, None),
        "signatures over another batch": (good, 3, other.statement),
        "another batch than the statement's": (Proposal(other.statement, tokens[:1]), 3, None),
        "a statement of another term": (resealed(2, 2, tokens[:1]), 3, None),
    }
    for sentence, (proposal, count, over) in refused.items():
        with pytest.raises(CloisterError) as caught:
            await bring(chain, port, proposal, count, over)
        assert caught.value.code == "chain.reverted", sentence
    assert [one.counted for one in await (await newest(chain, rpc)).counted(tokens)] == [1, 1]


async def test_heads_that_owners_accept_are_what_members_prove(chain: TestChain, rpc: Rpc) -> None:
    (token,) = await agents(chain, rpc, 1)
    owner, cluster = Sender(rpc, chain.keys[2], chain.chain_id), b"\xc2" * 32
    agent = agent_id(chain.chain_id, chain.contracts["Agents"], token)
    before = await (await newest(chain, rpc)).acceptance_count()
    for function in ("pause", "bumpEpoch"):
        await owner.send(chain.contracts["Agents"], encode("Agents", function, token))
    for height in (5, 9):
        said = StateHead(1, agent, cluster, 1, 1, 1, height, b"\x0a" * 32, bytes([height]) * 32)
        fields = tuple(getattr(said, name) for name in StateHead.TYPES)
        data = encode("Reseals", "acceptHead", token, fields, chain.sign(said, 3))
        await owner.send(chain.contracts["Reseals"], data)
    at = await newest(chain, rpc)
    assert await at.acceptance_count() == before + 2
    last = Head(Epochs(1, 1, 1, cluster), 9, b"\x0a" * 32, b"\x09" * 32)
    assert await at.acceptances(before, before + 2) == ((agent, last), (agent, last)), "of each agent the last one"


async def test_the_contract_takes_two_checkpoints_as_members_send_them(chain: TestChain, rpc: Rpc) -> None:
    """Asked, not sent: the committee of this chain is everybody's."""
    said = [Checkpoint(1, chain.chain_id, 7, bytes([block]) * 32, bytes(32), 9) for block in (1, 2)]
    (a, b), (bad, other) = said, chain.members[3:5]
    mine = [sign_digest(bad, one.digest(chain.network)) for one in said]
    theirs = sign_digest(other, b.digest(chain.network))

    async def ask(contract: str, data: bytes) -> str:
        wanted = {"to": to_hex(chain.contracts[contract]), "data": to_hex(data)}
        try:
            await rpc.call("eth_call", wanted, "latest")
        except CloisterError as error:
            return error.code
        return ""

    good, framed = Conflict(a, mine[0], b, mine[1]), Conflict(a, mine[0], b, theirs)
    for conflict, taken in ((good, True), (framed, False)):
        function, arguments = conflict_call(conflict)
        assert (await ask("Gatekeepers", encode("Gatekeepers", function, *arguments)) == "") is taken
    removal = Proposal(WorkerRemoval(1, WORKER))
    for count, taken in ((3, True), (2, False)):
        contract, function, arguments = call_of(removal, chain.sign(removal.statement, count))
        assert (await ask(contract, encode(contract, function, *arguments)) == "") is taken
