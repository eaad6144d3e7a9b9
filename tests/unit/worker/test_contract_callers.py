"""Contract accounts as callers: whose word counts, until when, and what hostile ones get (spec/sealed-http.md 11)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.envelope.client import ClientSession
from cloister.sandbox.ports import AgentRequest
from cloister.worker import access
from support import hooks
from support.fake_sandbox import Calls, Reply
from support.fake_world import CHAIN_ID, Other, test_key
from support.worker_kit import Rig, refused

Make = Callable[..., Awaitable[Rig]]

SAFE, HOOK = b"\xa7" * 20, b"\xa0" * 20
WORD = b"\x5a" * 32
_MAGIC = "631626ba7e60e01b60005260206000f3"
SAYS_NO = bytes.fromhex("63ffffffff60e01b60005260206000f3")
MAGIC_AT_THE_WRONG_END = bytes.fromhex("631626ba7e60005260206000f3")
FOUR_BYTES = bytes.fromhex("631626ba7e60e01b60005260046000f3")
DESTROYS_ITSELF = bytes.fromhex("6000ff")


def only_on_chain(chain_id: int) -> bytes:
    """Code that accepts everything if it runs on this chain, and else reverts."""
    return bytes.fromhex(f"4663{chain_id:08x}14600f5760006000fd5b{_MAGIC}")


async def who(request: AgentRequest, ctx: Calls) -> Reply:
    """Answers with the caller's kind and address."""
    said = request.caller or {"kind": "anonymous", "address": ""}
    return Reply(body=[f"{said['kind']} {said['address']}".encode()])


@pytest.fixture
async def rig(make: Make) -> Rig:
    return await make(who)


async def account(rig: Rig, code: bytes = hooks.SIGNER) -> bytes:
    """An agent, and a contract account that accepts signatures that begin with WORD; both final."""
    agent = await rig.deploy()
    rig.world.others[SAFE] = Other(code, {0: int.from_bytes(WORD, "big")})
    await rig.follow(1)
    return agent


def as_contract(rig: Rig, agent: bytes, word: bytes = WORD, **options: Any) -> ClientSession:
    """A session that says it is the contract account's."""
    session = rig.session(agent, **options)
    session.authenticate(SAFE, int(rig.world.now) + 60, lambda digest: word, kind="contract")
    return session


async def test_a_contract_that_accepts_the_word_over_the_session_is_its_caller(rig: Rig) -> None:
    agent = await account(rig)
    session = as_contract(rig, agent, WORD + os.urandom(100))
    for _ in range(3):
        assert (await rig.call(agent, session=session)).body == b"wallet 0x" + SAFE.hex().encode()


async def test_a_one_shot_request_may_be_a_contracts(rig: Rig) -> None:
    agent = await account(rig)
    session = as_contract(rig, agent, one_shot=True)
    sealed = session.seal(rig.head(), b"", with_ibe=True)
    assert (await rig.send(session.certificate, sealed)).body.startswith(b"wallet ")


SAY_NO: list[tuple[str, bytes]] = [
    ("it says no", SAYS_NO),
    ("it reverts", hooks.REVERTS),
    ("it burns all its gas", hooks.ENDLESS),
    ("it answers true, which is not the magic word", hooks.YES),
    ("it answers the magic word at the wrong end", MAGIC_AT_THE_WRONG_END),
    ("it answers four bytes", FOUR_BYTES),
    ("it answers nothing", b"\x00"),
    ("it destroys itself when it is asked", DESTROYS_ITSELF),
    ("it says yes on another chain only", only_on_chain(CHAIN_ID + 1)),
    ("it writes before it answers", hooks.WRITES),
]


async def test_nothing_runs_for_a_contract_that_does_not_say_the_word(rig: Rig) -> None:
    agent = await rig.deploy()
    accounts = [bytes([number + 1]) * 20 for number in range(len(SAY_NO))]
    for address, (_, code) in zip(accounts, SAY_NO, strict=True):
        rig.world.others[address] = Other(code, {0: int.from_bytes(WORD, "big")})
    await rig.follow(1)
    for address, (why, _) in zip(accounts, SAY_NO, strict=True):
        session = rig.session(agent)
        session.authenticate(address, int(rig.world.now) + 60, lambda digest: WORD, kind="contract")
        assert (await rig.call(agent, session=session)).code == "policy.contract_signature", why
    assert not rig.sandbox.processes, "nothing was started"


async def test_a_contract_may_look_at_the_chain_it_runs_on(rig: Rig) -> None:
    agent = await account(rig, only_on_chain(CHAIN_ID))
    assert (await rig.call(agent, session=as_contract(rig, agent))).status == 200


async def test_a_contract_that_asks_for_what_cannot_be_proven_is_refused_by_name(rig: Rig) -> None:
    agent = await account(rig, hooks.RANDOM)
    assert (await rig.call(agent, session=as_contract(rig, agent))).code == "chainview.evm"


async def test_an_address_without_code_accepts_nothing(rig: Rig) -> None:
    agent = await account(rig)
    session = rig.session(agent)
    session.authenticate(b"\x99" * 20, int(rig.world.now) + 60, lambda digest: WORD, kind="contract")
    assert (await rig.call(agent, session=session)).code == "policy.contract_signature"


async def test_a_wallets_own_signature_is_no_contracts(rig: Rig) -> None:
    """An address without code that says it is a contract, with a good signature of its key."""
    agent, key = await account(rig), test_key("wallet")
    session = rig.session(agent)
    expiry = int(rig.world.now) + 60
    session.authenticate(address_of(key), expiry, lambda digest: sign_digest(key, digest), kind="contract")
    assert (await rig.call(agent, session=session)).code == "policy.contract_signature"


async def test_a_refused_contract_is_not_served_as_nobody_later(rig: Rig) -> None:
    agent = await account(rig)
    session = as_contract(rig, agent, b"another word")
    for _ in range(2):
        assert (await rig.call(agent, session=session)).code == "policy.contract_signature"
    bare = session.seal(rig.head(), b"", with_ibe=False)
    assert (await rig.send(session.certificate, bare)).code == "policy.contract_signature"


async def test_the_word_covers_this_session_this_network_and_the_expiry(rig: Rig) -> None:
    """What the contract is asked about differs in every session: no word of one opens another."""
    agent = await account(rig)
    seen: list[bytes] = []

    def note(digest: bytes) -> bytes:
        seen.append(digest)
        return WORD

    session, other = rig.session(agent), rig.session(agent)
    for one, expiry in ((session, 60), (session, 61), (other, 60)):
        one.authenticate(SAFE, int(rig.world.now) + expiry, note, kind="contract")
    assert len(set(seen)) == 3


# --- revocation ---


async def test_a_key_that_the_account_gives_up_ends_running_sessions_from_any_block_seen(rig: Rig) -> None:
    agent = await account(rig)
    session = as_contract(rig, agent)
    assert (await rig.call(agent, session=session)).status == 200
    rig.world.others[SAFE].words[0] = 7  # at the newest block, and no checkpoint shows it
    assert (await rig.call(agent, session=session)).code == "policy.contract_signature"
    await rig.follow(1)
    assert (await rig.call(agent, session=session)).code == "policy.contract_signature"


async def test_a_key_that_the_account_takes_counts_when_that_is_final(rig: Rig) -> None:
    agent, other = await account(rig), b"\x77" * 32
    session = as_contract(rig, agent, other)
    rig.world.others[SAFE].words[0] = int.from_bytes(other, "big")
    assert (await rig.call(agent, session=session)).code == "policy.contract_signature"
    await rig.follow(1)
    assert (await rig.call(agent, session=session)).status == 200


async def test_a_contract_that_was_destroyed_accepts_nothing_any_more(rig: Rig) -> None:
    agent = await account(rig)
    session = as_contract(rig, agent)
    assert (await rig.call(agent, session=session)).status == 200
    del rig.world.others[SAFE]
    await rig.follow(1)
    assert (await rig.call(agent, session=session)).code == "policy.contract_signature"


async def test_the_word_ends_at_its_expiry(rig: Rig) -> None:
    agent = await account(rig)
    session = as_contract(rig, agent)
    assert (await rig.call(agent, session=session)).status == 200
    rig.world.now += 60
    assert (await rig.call(agent, session=session)).code == "envelope.caller"


# --- what a hook learns, and what it costs ---


async def test_an_access_hook_is_asked_about_the_contracts_address(rig: Rig) -> None:
    agent = await account(rig)
    rig.world.others[HOOK] = Other(hooks.BY_LIST, {int.from_bytes(SAFE, "big"): 1})
    rig.world.set_rules(agent, access_hook=HOOK)
    await rig.follow(1)
    assert (await rig.call(agent, session=as_contract(rig, agent))).status == 200
    assert (await rig.call(agent)).code == "policy.access_denied"


async def test_a_contract_is_asked_once_per_checkpoint_and_word(rig: Rig) -> None:
    agent = await account(rig)
    session = as_contract(rig, agent)
    await rig.call(agent, session=session)
    before = rig.rpc.asked.count("eth_getProof")
    for _ in range(3):
        await rig.call(agent, session=session)
    assert rig.rpc.asked.count("eth_getProof") == before
    await rig.follow(1)
    await rig.call(agent, session=session)
    assert rig.rpc.asked.count("eth_getProof") > before


async def test_few_signatures_are_checked_at_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    await account(rig)
    gate, answer = asyncio.Event(), rig.rpc.batch

    async def held(calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        await gate.wait()
        return await answer(calls)

    monkeypatch.setattr(rig.rpc, "batch", held)
    checks = [rig.access.require_signature(SAFE, os.urandom(32), WORD) for _ in range(access.MAX_CHECKS)]
    running = [asyncio.ensure_future(one) for one in checks]
    await asyncio.sleep(0)
    await refused(rig.access.require_signature(SAFE, os.urandom(32), WORD), "worker.signatures_busy")
    gate.set()
    await asyncio.gather(*running)
    await rig.access.require_signature(SAFE, os.urandom(32), WORD)


async def test_an_endpoint_that_is_gone_lets_nobody_in(rig: Rig) -> None:
    agent = await account(rig)
    session = as_contract(rig, agent)
    assert (await rig.call(agent, session=session)).status == 200
    rig.rpc.down = True
    assert (await rig.call(agent, session=session)).code == "chain.unreachable"
