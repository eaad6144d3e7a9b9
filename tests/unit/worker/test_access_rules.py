"""What workers do about an agent's rules on chain: hooks and lists, at every call, whatever an endpoint says."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cloister.core.chainview.records import AgentRules
from cloister.core.encoding.signatures import address_of
from cloister.core.policy import access
from cloister.core.policy.access import Uses
from support import hooks
from support.fake_sandbox import Agent, Reply, hello
from support.fake_world import Other, test_key
from support.worker_kit import Got, Rig, refused

Make = Callable[..., Awaitable[Rig]]
HOOK, OTHER_HOOK = b"\xa0" * 20, b"\xa1" * 20
USER, STRANGER = test_key("a user"), test_key("a stranger of the agent")


def caller(key: Any) -> dict[str, Any]:
    """Session options of somebody who signs."""
    from cloister.core.encoding.signatures import sign_digest

    return {"caller": (address_of(key), lambda digest: sign_digest(key, digest))}


async def hooked(rig: Rig, code: bytes, *allowed: bytes) -> bytes:
    """An agent with an access hook, final."""
    agent = await rig.deploy()
    rig.world.others[HOOK] = Other(code, {int.from_bytes(a, "big"): 1 for a in allowed})
    rig.world.set_rules(agent, access_hook=HOOK)
    await rig.follow(1)
    return agent


async def ask(rig: Rig, agent: bytes, **head: Any) -> Got:
    return await rig.call(agent, **head)


async def put_list(rig: Rig, *names: str) -> bytes:
    return await rig.fabric.blobs.put(access.encode_list(names))


# --- the hook ---


@pytest.mark.parametrize(
    ("why", "code", "allowed"),
    [
        ("a hook that says yes lets the call in", hooks.YES, True),
        ("a hook that says no does not", hooks.NO, False),
        ("a hook that reverts does not", hooks.REVERTS, False),
        ("a hook that never ends does not", hooks.ENDLESS, False),
        ("a hook that answers two words does not", hooks.TWO_WORDS, False),
        ("a hook that answers 2 does not: true is 1", hooks.TRUE_LIKE, False),
        ("a hook that writes does not", hooks.WRITES, False),
    ],
)
async def test_only_a_clear_yes_lets_a_call_in(rig: Rig, why: str, code: bytes, allowed: bool) -> None:
    agent = await hooked(rig, code)
    got = await ask(rig, agent)
    assert (got.code == "") is allowed, why
    if not allowed:
        assert got.code == "policy.access_denied"
        assert not rig.sandbox.processes, "nothing was started for somebody who may not call"


async def test_a_hook_that_needs_unproven_facts_is_refused_by_name(rig: Rig) -> None:
    agent = await hooked(rig, hooks.RANDOM)
    assert (await ask(rig, agent)).code == "chainview.evm"


async def test_an_anonymous_caller_is_address_zero(rig: Rig) -> None:
    agent = await hooked(rig, hooks.BY_LIST)
    assert (await ask(rig, agent)).code == "policy.access_denied"
    rig.world.others[HOOK].words[0] = 1
    await rig.follow(1)
    assert (await ask(rig, agent)).status == 200


async def test_a_hook_is_asked_once_per_checkpoint_and_question(rig: Rig) -> None:
    agent = await hooked(rig, hooks.YES)
    await ask(rig, agent)
    before = rig.rpc.asked.count("eth_getProof")
    for _ in range(3):
        await ask(rig, agent)
    assert rig.rpc.asked.count("eth_getProof") == before


async def test_a_hook_denies_in_mid_session_from_the_newest_block_on(rig: Rig) -> None:
    agent = await hooked(rig, hooks.BY_LIST, bytes(20))
    session = rig.session(agent)
    assert (await rig.call(agent, session=session)).status == 200
    rig.world.others[HOOK].words[0] = 0  # not final, and no checkpoint shows it
    assert (await rig.call(agent, session=session)).code == "policy.access_denied"


async def test_a_hook_that_newly_allows_counts_when_it_is_final(rig: Rig) -> None:
    agent = await hooked(rig, hooks.BY_LIST)
    rig.world.others[HOOK].words[0] = 1
    assert (await ask(rig, agent)).code == "policy.access_denied", "the newest block alone permits nothing"
    await rig.follow(1)
    assert (await ask(rig, agent)).status == 200


async def test_a_new_hook_binds_from_any_block_seen(rig: Rig) -> None:
    agent = await rig.deploy()
    assert (await ask(rig, agent)).status == 200
    rig.world.others[HOOK] = Other(hooks.NO)
    rig.world.mine()
    rig.world.set_rules(agent, access_hook=HOOK)
    await rig.watch.watch_rules(agent)
    assert (await ask(rig, agent)).code == "policy.access_denied"


async def test_taking_a_hook_away_counts_when_it_is_final(rig: Rig) -> None:
    agent = await hooked(rig, hooks.NO)
    rig.world.set_rules(agent, access_hook=bytes(20))
    await rig.watch.watch_rules(agent)
    assert (await ask(rig, agent)).code == "policy.access_denied"
    await rig.follow(1)
    await rig.watch.watch_rules(agent)
    assert (await ask(rig, agent)).status == 200


# --- an endpoint that lies ---


async def test_an_endpoint_that_withholds_the_hooks_proofs_gets_the_call_refused(rig: Rig) -> None:
    agent = await hooked(rig, hooks.YES)
    rig.rpc.down = True
    assert (await ask(rig, agent)).code == "chain.unreachable"


async def test_an_endpoint_that_lies_about_the_hooks_code_gets_the_call_refused(rig: Rig) -> None:
    agent = await hooked(rig, hooks.NO)
    rig.world.others[HOOK].code = hooks.YES  # what eth_getCode says; the proven hash is the old one
    assert (await ask(rig, agent)).code == "chainview.proof"


async def test_an_endpoint_that_claims_looser_rules_changes_nothing(rig: Rig) -> None:
    agent = await hooked(rig, hooks.NO)
    rig.world.rules_now[agent] = AgentRules(bytes(20), 0, bytes(20), 99, bytes(32), bytes(32), bytes(32))
    await rig.watch.watch_rules(agent)
    assert (await ask(rig, agent)).code == "policy.access_denied"


async def test_an_endpoint_that_claims_older_rules_adds_no_restriction(rig: Rig) -> None:
    agent = await hooked(rig, hooks.YES)
    rig.world.rules_now[agent] = AgentRules(OTHER_HOOK, 0, bytes(20), 0, bytes(32), bytes(32), bytes(32))
    await rig.watch.watch_rules(agent)
    assert (await ask(rig, agent)).status == 200


async def test_claims_are_kept_until_a_checkpoint_of_their_height_and_are_few(rig: Rig) -> None:
    agent = await rig.deploy()
    await rig.watch.watch_rules(agent)
    for version in range(1, 30):
        name = os.urandom(32)
        rig.world.rules_now[agent] = AgentRules(bytes(20), 0, bytes(20), version, name, bytes(32), bytes(32))
        await rig.watch.watch_rules(agent)
    assert 1 < len(rig.watch.rules_in_force(agent)) <= 9
    del rig.world.rules_now[agent]
    await rig.watch.watch_rules(agent)
    assert len(rig.watch.rules_in_force(agent)) > 1, "an endpoint's second thought ends nothing"
    await rig.follow(2)
    await rig.watch.watch_rules(agent)
    assert len(rig.watch.rules_in_force(agent)) == 1


# --- lists ---


async def test_before_any_proof_nothing_is_allowed(rig: Rig) -> None:
    assert not rig.access.narrowing(b"\x07" * 32).allows_host("api.example.org", 443)


async def test_without_lists_the_manifest_alone_binds(rig: Rig) -> None:
    agent = await rig.deploy()
    assert (await rig.access.load(agent)).allows_host("api.example.org", 443)


async def test_a_running_agents_egress_follows_its_list(rig: Rig) -> None:
    agent = await rig.deploy()
    await ask(rig, agent)
    also = rig.sandbox.processes[0].spec.also
    assert also("api.example.org", 443)
    name = await put_list(rig, "other.example.org")
    rig.world.set_rules(agent, egress_hash=name)
    await rig.watch.watch_rules(agent)
    assert not also("other.example.org", 443), "a list that is not loaded yet leaves nothing"
    await rig.access.load(agent)
    assert also("other.example.org", 443)
    assert not also("api.example.org", 443)
    assert len(rig.sandbox.processes) == 1


async def test_a_list_that_grows_counts_when_it_is_final(rig: Rig) -> None:
    agent = await rig.deploy()
    rig.world.set_rules(agent, egress_hash=await put_list(rig, "one.example.org"))
    await rig.follow(1)
    rig.world.set_rules(agent, egress_hash=await put_list(rig, "one.example.org", "two.example.org"))
    await rig.watch.watch_rules(agent)
    assert not (await rig.access.load(agent)).allows_host("two.example.org", 443)
    await rig.follow(1)
    await rig.watch.watch_rules(agent)
    assert (await rig.access.load(agent)).allows_host("two.example.org", 443)


@pytest.mark.parametrize("spoilt", [b"not json", b'["b","a"]', b'[""]', b"{}", b'["http://x"]'])
async def test_a_list_that_is_none_leaves_nothing(rig: Rig, spoilt: bytes) -> None:
    agent = await rig.deploy()
    rig.world.set_rules(agent, egress_hash=await rig.fabric.blobs.put(spoilt))
    await rig.follow(1)
    assert not (await rig.access.load(agent)).allows_host("one.example.org", 443)


async def test_a_list_that_nobody_stored_leaves_nothing(rig: Rig) -> None:
    agent = await rig.deploy()
    rig.world.set_rules(agent, models_hash=os.urandom(32))
    await rig.follow(1)
    left = await rig.access.load(agent)
    assert left.models == frozenset()
    assert not left.allows_host("one.example.org", 443)


async def test_tools_and_models_are_what_list_and_manifest_share(rig: Rig) -> None:
    agent = await rig.deploy()
    rig.world.set_rules(agent, tools_hash=await put_list(rig, "search"), models_hash=await put_list(rig, "gpt-x", "m"))
    await rig.follow(1)
    left = await rig.access.load(agent)
    assert left.left(Uses(models=frozenset({"m", "n"}))) == Uses(frozenset({"search"}), frozenset({"m"}))


# --- EIP-1271 ---


async def test_a_contract_accounts_signature_counts_as_the_contract_says(rig: Rig) -> None:
    digest, good = os.urandom(32), os.urandom(65)
    rig.world.others[HOOK] = Other(hooks.SIGNER, {0: int.from_bytes(good[:32], "big")})
    await rig.follow(1)
    await rig.access.require_signature(HOOK, digest, good)
    await refused(rig.access.require_signature(HOOK, digest, os.urandom(65)), "policy.contract_signature")
    await refused(rig.access.require_signature(b"\x99" * 20, digest, good), "policy.contract_signature")


async def test_an_agent_of_its_own_rules_does_not_disturb_another(make: Make) -> None:
    async def agent_fn(request: Any, ctx: Any) -> Reply:
        return await hello(request, ctx)

    chosen: Agent = agent_fn
    rig = await make(chosen)
    closed = await hooked(rig, hooks.NO)
    free = await rig.deploy(2)
    assert (await ask(rig, closed)).code == "policy.access_denied"
    assert (await ask(rig, free)).status == 200


# --- stopping and selling ---


async def test_a_sold_agents_old_sessions_end_with_its_epoch(rig: Rig) -> None:
    agent = await rig.deploy()
    session = rig.session(agent)
    assert (await rig.call(agent, session=session)).status == 200
    rig.world.set_agent(1, owner=address_of(USER), epoch=2)
    await rig.follow(1)
    await refused(rig.call(agent, session=session), "envelope.certificate_unknown")
    assert rig.seat(agent).certificate.agent_epoch == 2


async def test_a_withheld_pause_binds_with_the_checkpoint_that_proves_it(rig: Rig) -> None:
    agent = await rig.deploy()
    session = rig.session(agent)
    rig.world.set_agent(1, paused=True)
    rig.world.mine()
    await rig.follow()
    await refused(rig.call(agent, session=session), "worker.no_such_agent")
