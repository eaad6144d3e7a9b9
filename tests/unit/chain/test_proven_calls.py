"""Views over proven state on a real chain: what they answer is what the chain answers, and no lie gets through."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from cloister.chain import contracts
from cloister.chain.proven_calls import ProvenCalls
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.signatures import address_of
from cloister.core.errors import CloisterError
from cloister.core.policy import access
from support import hooks
from support.anvil import TestChain, send
from support.liar import Lie, liar

AGENT = b"\x07" * 32


async def deployed(chain: TestChain, rpc: Rpc, runtime: bytes) -> bytes:
    """A contract with this code."""
    receipt = await Sender(rpc, chain.keys[5], chain.chain_id).send(None, hooks.creation(runtime))
    assert receipt.contract is not None
    return receipt.contract


def question(caller: bytes) -> bytes:
    return access.question(AGENT, caller, b"\1\2\3\4", b"{}")


async def test_a_hook_over_proven_words_follows_the_chain(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        hook, user = await deployed(chain, rpc, hooks.BY_LIST), address_of(chain.keys[0])
        before = ProvenCalls(rpc, await chain.checkpoint(rpc))
        assert (await before.view(hook, question(user))).output == bytes(32)
        stored = user.rjust(32, b"\0") + (1).to_bytes(32, "big")
        await Sender(rpc, chain.keys[5], chain.chain_id).send(hook, stored)
        after = ProvenCalls(rpc, await chain.checkpoint(rpc))
        access.require_allowed(await after.view(hook, question(user)))
        assert (await before.view(hook, question(user))).output == bytes(32), "a checkpoint's state does not change"


async def test_views_of_our_own_contracts_answer_as_the_chain_does(chain: TestChain) -> None:
    """Compiled code with libraries, packed structs, strings, calls between contracts."""
    async with Rpc(chain.url) as rpc:
        await send(chain, rpc, chain.keys[3], "Agents", "register")
        token = await contracts.call(rpc, chain.contracts["Agents"], "Agents", "count")
        at = await chain.checkpoint(rpc)
        calls = ProvenCalls(rpc, at)
        user = address_of(chain.keys[3])
        asked: list[tuple[str, str, tuple[Any, ...]]] = [
            ("Agents", "ownerOf", (token,)),
            ("Agents", "isAuthorizedOrOwner", (user, token)),
            ("Agents", "status", (token,)),
            ("Agents", "name", ()),
            ("Agents", "agentIdOf", (token,)),
            ("Token", "balanceOf", (user,)),
            ("Token", "totalSupply", ()),
            ("Gatekeepers", "committee", ()),
            ("Anchor", "currentEpoch", (AGENT,)),
            ("Agents", "ownerOf", (10**9,)),  # reverts
        ]
        for name, fn, args in asked:
            data = contracts.encode(name, fn, *args)
            ours = await calls.view(chain.contracts[name], data, gas=2_000_000)
            request = {"to": to_hex(chain.contracts[name]), "data": to_hex(data)}
            try:
                theirs = from_hex(await rpc.call("eth_call", request, hex(at.number)), name="answer")
                assert (ours.ok, ours.output) == (True, theirs), (name, fn)
            except CloisterError as error:
                assert not ours.ok, (name, fn, error.found)  # noqa: PT017 - two outcomes, one table


async def test_an_account_that_does_not_exist_answers_nothing(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        done = await ProvenCalls(rpc, await chain.checkpoint(rpc)).view(b"\xde" * 20, question(bytes(20)))
        assert (done.ok, done.output) == (True, b"")
        with pytest.raises(CloisterError):
            access.require_allowed(done)


def _true(method: str, params: list[Any], honest: Any) -> Any:
    """Claims the word 1 in every slot."""
    if method == "eth_getProof" and honest["storageProof"]:
        honest["storageProof"][0]["value"] = "0x1"
    return honest


def _code(method: str, params: list[Any], honest: Any) -> Any:
    return to_hex(hooks.YES) if method == "eth_getCode" else honest


def _no_account(method: str, params: list[Any], honest: Any) -> Any:
    if method == "eth_getProof":
        honest["accountProof"] = honest["accountProof"][:-1]
    return honest


def _no_storage(method: str, params: list[Any], honest: Any) -> Any:
    if method == "eth_getProof":
        honest["storageProof"] = []
    return honest


def _other_shape(method: str, params: list[Any], honest: Any) -> Any:
    return "0x" if method == "eth_getProof" else honest


LIES: dict[str, Lie] = {
    "a word that the proof does not prove": _true,
    "other code": _code,
    "an account proof that stops early": _no_account,
    "no proof of the word": _no_storage,
    "something that is no proof": _other_shape,
}


@pytest.mark.parametrize("sentence", LIES)
async def test_a_lie_ends_in_a_refusal(chain: TestChain, sentence: str) -> None:
    async with Rpc(chain.url) as honest:
        hook = await deployed(chain, honest, hooks.BY_LIST)
        at = await chain.checkpoint(honest)
    async with liar(chain.url, LIES[sentence]) as url, Rpc(url) as rpc:
        with pytest.raises(CloisterError) as error:
            await ProvenCalls(rpc, at).view(hook, question(address_of(chain.keys[0])))
    assert error.value.code.split(".")[0] in ("chain", "chainview"), sentence


async def test_state_of_another_block_is_refused(chain: TestChain) -> None:
    async with Rpc(chain.url) as rpc:
        hook = await deployed(chain, rpc, hooks.BY_LIST)
        at = dataclasses.replace(await chain.checkpoint(rpc), state_root=b"\x11" * 32)
        with pytest.raises(CloisterError) as error:
            await ProvenCalls(rpc, at).view(hook, question(bytes(20)))
    assert error.value.code == "chainview.proof"


async def test_a_view_that_reads_too_much_is_refused(chain: TestChain) -> None:
    # for i = 200 down to 0: pop(sload(i))
    loop = bytes.fromhex("60c85b8054506001900380600257600160005260206000f3")
    async with Rpc(chain.url) as rpc:
        hook = await deployed(chain, rpc, loop)
        with pytest.raises(CloisterError) as error:
            await ProvenCalls(rpc, await chain.checkpoint(rpc)).view(hook, question(bytes(20)), gas=10**7)
    assert error.value.code == "chainview.evm_rounds"
