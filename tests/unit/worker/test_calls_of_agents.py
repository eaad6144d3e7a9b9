"""Agents that call agents, and sign: real records, leases, certificates and receipts; only the handlers are fakes."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.signatures import recover, sign_digest
from cloister.core.encoding.typed_data import account_digest, message_digest, typed_digest
from cloister.core.envelope.model import AgentProof
from cloister.core.errors import CloisterError
from cloister.core.policy.manifest import KeyRules
from cloister.sandbox.ports import AgentRequest
from cloister.worker import outbound
from cloister.worker.host import BAD_ARGUMENT, CALLS, Origin
from cloister.worker.outbound import BUDGET, MAX_DEPTH, PATH, Identity, caller_digest
from cloister.worker.signing import Account, AgentSigner, epoch_key
from support.fake_sandbox import Agent, Calls, Reply
from support.fake_world import test_key
from support.worker_kit import Rig

Make = Callable[[Agent], Awaitable[Rig]]


def text_of(body: bytes) -> str:
    return base64.b64encode(body).decode()


async def relay(request: AgentRequest, ctx: Calls) -> Reply:
    """Calls the first agent of the list in its body with the rest of the list; says what it saw on the way back."""
    todo: dict[str, Any] = json.loads(request.body or b"{}")
    said: dict[str, Any] = {"caller": request.caller, "headers": [list(pair) for pair in request.headers]}
    if todo.get("next"):
        agent, *rest = todo["next"]
        body = text_of(json.dumps({**todo, "next": rest}).encode())
        try:
            answer = await ctx("agents.fetch", agent=agent, method="POST", body=body, **todo.get("options", {}))
            said["below"] = {"status": answer["status"], **json.loads(base64.b64decode(answer["body"]))}
        except CloisterError as error:
            said["refused"] = error.code
    return Reply(body=[json.dumps(said).encode()])


async def ask(rig: Rig, agent: bytes, *through: bytes, **options: Any) -> dict[str, Any]:
    body = json.dumps({"next": [to_hex(one) for one in through], "options": options}).encode()
    got = await rig.call(agent, body)
    assert got.error is None, got.code
    return dict(json.loads(got.body))


# --- calls ---


async def test_an_agent_calls_another_and_is_known_to_it(make: Make) -> None:
    rig = await make(relay)
    a, b = await rig.deploy(1), await rig.deploy(2)
    said = await ask(rig, a, b)
    identity = Identity(rig.placed(a).keys, rig.node.sign)
    assert (said["caller"], said.get("refused")) == (None, None)
    assert said["below"]["caller"] == {"kind": "agent", "address": to_hex(identity.address), "agent": to_hex(a)}
    assert said["below"]["headers"] == [], "what workers say to one another is not shown to code"
    assert (rig.server.served, rig.server.refused) == (2, 0)


async def test_a_calls_b_calls_c_and_the_path_grows(make: Make) -> None:
    rig = await make(relay)
    a, b, c = [await rig.deploy(n) for n in (1, 2, 3)]
    said = await ask(rig, a, b, c)
    assert said["below"]["below"]["caller"]["agent"] == to_hex(b)
    paths = [dict(one.headers)[PATH] for one in rig.loopback.seen]
    assert paths == [to_hex(a), f"{to_hex(a)},{to_hex(b)}"]


async def test_a_cycle_is_refused_by_name_and_nobody_waits_for_himself(make: Make) -> None:
    rig = await make(relay)
    a, b = await rig.deploy(1), await rig.deploy(2)
    assert (await ask(rig, a, b, a))["below"]["refused"] == "worker.call_cycle"
    assert (await ask(rig, a, a))["refused"] == "worker.call_cycle"


async def test_a_chain_that_is_too_deep_is_refused_by_name(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "MAX_DEPTH", 2)
    rig = await make(relay)
    a, b, c, d = [await rig.deploy(n) for n in (1, 2, 3, 4)]
    assert (await ask(rig, a, b, c, d))["below"]["below"]["refused"] == "worker.call_depth"


async def test_the_budget_shrinks_on_the_way_down_and_ends_by_name(make: Make) -> None:
    rig = await make(relay)
    a, b, c = [await rig.deploy(n) for n in (1, 2, 3)]
    assert (await ask(rig, a, b, c, budget=0))["below"]["refused"] == "worker.call_budget"
    await ask(rig, a, b, c)
    assert [dict(one.headers)[BUDGET] for one in rig.loopback.seen][-2:] == [str((CALLS - 1) // 2), "15"]
    assert (await ask(rig, a, b, budget=CALLS))["refused"] == "worker.call_budget"


async def test_a_request_pays_for_all_its_calls_together(make: Make) -> None:
    async def many(request: AgentRequest, ctx: Calls) -> Reply:
        if not request.body:
            return Reply()
        codes = []
        for _ in range(CALLS + 1):
            try:
                await ctx("agents.fetch", agent=request.body.decode(), budget=0)
            except CloisterError as error:
                codes.append(error.code)
        return Reply(body=[json.dumps(codes).encode()])

    rig = await make(many)
    a, b = await rig.deploy(1), await rig.deploy(2)
    assert json.loads((await rig.call(a, to_hex(b).encode())).body) == ["worker.call_budget"]


async def test_the_deadline_is_the_callers_or_sooner(make: Make) -> None:
    rig = await make(relay)
    a, b = await rig.deploy(1), await rig.deploy(2)
    body = json.dumps({"next": [to_hex(b)]}).encode()
    deadline = rig.now_ms() + 5_000
    await rig.call(a, body, deadline_ms=deadline)
    assert rig.loopback.seen[-1].deadline_ms == deadline
    await ask(rig, a, b, deadline=1 << 52)
    assert rig.loopback.seen[-1].deadline_ms == rig.now_ms() + 30_000
    assert (await ask(rig, a, b, deadline=1))["refused"] == "worker.call_deadline"


BAD_CALLS: dict[str, dict[str, Any]] = {
    "no agent": {},
    "a number for an agent": {"agent": 7},
    "a short agent": {"agent": "0x01"},
    "a method that is no text": {"agent": "0x" + "01" * 32, "method": 7},
    "a body that is no base64": {"agent": "0x" + "01" * 32, "body": "%"},
    "a body that is too large": {"agent": "0x" + "01" * 32, "body": text_of(bytes((2 << 20) + 1))},
    "headers that are no list": {"agent": "0x" + "01" * 32, "headers": {"a": "b"}},
    "headers that are no pairs": {"agent": "0x" + "01" * 32, "headers": [["a"]]},
    "a path of its own": {"agent": "0x" + "01" * 32, "headers": [["Cloister-Path", "0x00"]]},
    "a budget of its own": {"agent": "0x" + "01" * 32, "headers": [["cloister-budget", "60"]]},
    "a negative budget": {"agent": "0x" + "01" * 32, "budget": -1},
    "a budget that is no number": {"agent": "0x" + "01" * 32, "budget": "7"},
    "true for a deadline": {"agent": "0x" + "01" * 32, "deadline": True},
}


@pytest.mark.parametrize("sentence", BAD_CALLS)
async def test_what_is_no_call_is_refused_by_name(make: Make, sentence: str) -> None:
    codes = []

    async def wrong(request: AgentRequest, ctx: Calls) -> Reply:
        try:
            await ctx("agents.fetch", **BAD_CALLS[sentence])
        except CloisterError as error:
            codes.append(error.code)
        return Reply()

    rig = await make(wrong)
    await rig.call(await rig.deploy())
    assert codes == [BAD_ARGUMENT.code]
    assert rig.loopback.seen == []


async def test_what_a_person_writes_into_the_path_is_not_believed(make: Make) -> None:
    rig = await make(relay)
    a = await rig.deploy(1)
    got = await rig.call(a, b"{}", headers=((PATH, to_hex(a)), (BUDGET, "0"), ("x", "y")))
    assert json.loads(got.body) == {"caller": None, "headers": [["x", "y"]]}


# --- forged callers ---


async def forged(rig: Rig, a: bytes, b: bytes, change: Callable[[Identity], Any], **head: Any) -> str:
    """Call b as agent a with a changed proof; the refusal's code."""
    identity = Identity(rig.placed(a).keys, rig.node.sign)
    proof = change(identity)
    session = rig.session(b)
    session.authenticate(identity.address, int(rig.world.now) + 600, identity.sign, proof)
    headers = head.pop("headers", ((PATH, to_hex(a)), (BUDGET, "3")))
    return (await rig.call(b, b"{}", session=session, headers=headers, **head)).code


def changed(identity: Identity, **fields: Any) -> AgentProof:
    seat = json.loads(json.dumps(identity.agent.seat))
    seat["certificate"].update(fields)
    return AgentProof(seat, identity.agent.signature)


FORGERIES: dict[str, Callable[[Identity], Any]] = {
    "the worker's word is missing": lambda i: AgentProof(i.agent.seat, "0x" + "00" * 65),
    "the worker's word is no signature": lambda i: AgentProof(i.agent.seat, "0x"),
    "somebody else's word": lambda i: AgentProof(
        i.agent.seat, to_hex(sign_digest(test_key("mallory"), caller_digest(bytes(32), i.address)))
    ),
    "the certificate names another agent": lambda i: changed(i, agent="0x" + "77" * 32),
    "the certificate lives longer": lambda i: changed(i, expiry=1 << 40),
    "the seat is empty": lambda i: AgentProof({}, i.agent.signature),
    "the seat has no lease": lambda i: AgentProof({**i.agent.seat, "lease": {}}, i.agent.signature),
    "too few members signed": lambda i: AgentProof(
        {**i.agent.seat, "lease": {**i.agent.seat["lease"], "signatures": i.agent.seat["lease"]["signatures"][:1]}},
        i.agent.signature,
    ),
}


@pytest.mark.parametrize("sentence", FORGERIES)
async def test_a_caller_that_cannot_prove_the_agent_is_refused(make: Make, sentence: str) -> None:
    rig = await make(relay)
    a, b = await rig.deploy(1), await rig.deploy(2)
    assert await forged(rig, a, b, lambda identity: identity.agent) == "", "the real one passes"
    assert await forged(rig, a, b, FORGERIES[sentence]) == "worker.agent_caller"


BAD_PATHS: dict[str, tuple[tuple[str, str], ...]] = {
    "no path": ((BUDGET, "3"),),
    "no budget": ((PATH, "0x" + "01" * 32),),
    "a path that ends with another": ((PATH, "0x" + "01" * 32), (BUDGET, "3")),
    "a path of nonsense": ((PATH, "x"), (BUDGET, "3")),
    "a path without end": ((PATH, ",".join(["0x" + "01" * 32] * (MAX_DEPTH + 1))), (BUDGET, "3")),
    "a budget of nonsense": ((PATH, "0x" + "01" * 32), (BUDGET, "x")),
    "a negative budget": ((PATH, "0x" + "01" * 32), (BUDGET, "-1")),
    "an endless budget": ((PATH, "0x" + "01" * 32), (BUDGET, "99999")),
}


@pytest.mark.parametrize("sentence", BAD_PATHS)
async def test_a_path_that_no_worker_writes_is_refused(make: Make, sentence: str) -> None:
    rig = await make(relay)
    a, b = await rig.deploy(1), await rig.deploy(2)
    code = await forged(rig, a, b, lambda identity: identity.agent, headers=BAD_PATHS[sentence])
    assert code == "worker.agent_caller"


async def test_a_cycle_is_refused_by_the_called_side_too(make: Make) -> None:
    rig = await make(relay)
    a, b = await rig.deploy(1), await rig.deploy(2)
    headers = ((PATH, f"{to_hex(b)},{to_hex(a)}"), (BUDGET, "3"))
    assert await forged(rig, a, b, lambda identity: identity.agent, headers=headers) == "worker.call_cycle"


async def test_a_proof_ends_with_its_lease(make: Make) -> None:
    rig = await make(relay)
    a, b = await rig.deploy(1), await rig.deploy(2)
    old = Identity(rig.placed(a).keys, rig.node.sign)
    await rig.follow(blocks=400)
    assert await forged(rig, a, b, lambda identity: old.agent) == "worker.agent_caller"


# --- keys ---

ACCOUNT = Account(7, b"\x42" * 20)
PERMIT: dict[str, Any] = {
    "domain": {"name": "USD Coin", "chainId": 7, "verifyingContract": "0x" + "Ab" * 20},
    "types": {"Permit": [{"name": "value", "type": "uint256"}]},
    "primaryType": "Permit",
    "message": {"value": "1"},
}
DOMAIN = "7:0x" + "ab" * 20


async def signer_of(make: Make, rules: KeyRules | None) -> tuple[dict[str, Any], bytes]:
    rig = await make(relay)
    agent = await rig.deploy()

    async def known() -> KeyRules | None:
        return rules

    calls = AgentSigner(lambda: rig.placed(agent).keys, known, ACCOUNT).calls()
    return dict(calls), recover(bytes(32), sign_digest(epoch_key(rig.placed(agent).keys), bytes(32)))


async def signed(calls: dict[str, Any], name: str, **args: Any) -> bytes:
    return from_hex(await calls[name](Origin(), args), 65, name="signature")


async def test_signatures_count_for_the_account_and_not_for_the_key(make: Make) -> None:
    calls, signer = await signer_of(make, KeyRules(messages=True, typed_data=(DOMAIN,), raw=False))
    facts = await calls["keys.account"](Origin(), {})
    shown = {"address": to_hex(ACCOUNT.address), "account": to_hex(ACCOUNT.address), "signer": to_hex(signer)}
    assert facts == {**shown, "chainId": 7}
    assert await calls["keys.address"](Origin(), {}) == to_hex(ACCOUNT.address)
    message = await signed(calls, "keys.sign_message", message=text_of(b"hello"))
    assert recover(account_digest(message_digest(b"hello"), 7, ACCOUNT.address), message) == signer
    assert recover(message_digest(b"hello"), message) != signer
    typed = await signed(calls, "keys.sign_typed_data", typed=PERMIT)
    assert recover(account_digest(typed_digest(PERMIT), 7, ACCOUNT.address), typed) == signer


async def test_a_raw_key_signs_as_itself_where_the_manifest_says_so(make: Make) -> None:
    calls, signer = await signer_of(make, KeyRules(messages=True, typed_data=(DOMAIN,), raw=True))
    assert await calls["keys.address"](Origin(), {}) == to_hex(signer)
    message = await signed(calls, "keys.sign_message", message=text_of(b"hello"))
    assert recover(message_digest(b"hello"), message) == signer
    typed = await signed(calls, "keys.sign_typed_data", typed=PERMIT)
    assert recover(typed_digest(PERMIT), typed) == signer
    ours = {**PERMIT, "domain": {**PERMIT["domain"], "name": "CloisterAgentAccount"}}
    with pytest.raises(CloisterError) as caught:
        await signed(calls, "keys.sign_typed_data", typed=ours)
    assert caught.value.code == "worker.keys_denied"


async def test_an_ed25519_key_of_its_own_signs_bytes_where_the_manifest_says_so(make: Make) -> None:
    calls, signer = await signer_of(make, KeyRules(messages=False, typed_data=(), raw=False, ed25519=True))
    public = from_hex(await calls["keys.ed25519_key"](Origin(), {}), 32, name="key")
    signature = from_hex(
        await calls["keys.sign_ed25519"](Origin(), {"message": text_of(b"hello")}), 64, name="signature"
    )
    Ed25519PublicKey.from_public_bytes(public).verify(signature, b"hello")
    again = from_hex(await calls["keys.ed25519_key"](Origin(), {}), 32, name="key")
    assert again == public, "one key per agent epoch"
    assert public[:20] != signer


DENIED: dict[str, tuple[KeyRules | None, str, dict[str, Any], str]] = {
    "a manifest without keys": (None, "keys.address", {}, "worker.keys_denied"),
    "a message that is not allowed": (
        KeyRules(messages=False, typed_data=(DOMAIN,), raw=False),
        "keys.sign_message",
        {"message": ""},
        "worker.keys_denied",
    ),
    "an Ed25519 key without opting in": (
        KeyRules(messages=True, typed_data=(), raw=True),
        "keys.sign_ed25519",
        {"message": ""},
        "worker.keys_denied",
    ),
    "an Ed25519 message that is too long": (
        KeyRules(messages=True, typed_data=(), raw=False, ed25519=True),
        "keys.sign_ed25519",
        {"message": text_of(bytes(70_000))},
        "sandbox.argument",
    ),
    "another contract": (
        KeyRules(messages=True, typed_data=("7:0x" + "cd" * 20,), raw=False),
        "keys.sign_typed_data",
        {"typed": PERMIT},
        "worker.keys_denied",
    ),
    "another chain": (
        KeyRules(messages=True, typed_data=("8:0x" + "ab" * 20,), raw=False),
        "keys.sign_typed_data",
        {"typed": PERMIT},
        "worker.keys_denied",
    ),
    "a domain without a contract": (
        KeyRules(messages=True, typed_data=(DOMAIN,), raw=False),
        "keys.sign_typed_data",
        {"typed": {**PERMIT, "domain": {"name": "x"}}},
        "worker.keys_denied",
    ),
    "typed data that is none": (
        KeyRules(messages=True, typed_data=(DOMAIN,), raw=False),
        "keys.sign_typed_data",
        {"typed": 7},
        "encoding.typed_data",
    ),
    "a message that is no base64": (
        KeyRules(messages=True, typed_data=(), raw=False),
        "keys.sign_message",
        {"message": 7},
        "sandbox.argument",
    ),
    "a message that is too long": (
        KeyRules(messages=True, typed_data=(), raw=False),
        "keys.sign_message",
        {"message": text_of(bytes(70_000))},
        "sandbox.argument",
    ),
}


@pytest.mark.parametrize("sentence", DENIED)
async def test_what_the_manifest_does_not_allow_is_not_signed(make: Make, sentence: str) -> None:
    rules, name, args, code = DENIED[sentence]
    calls, _ = await signer_of(make, rules)
    with pytest.raises(CloisterError) as caught:
        await calls[name](Origin(), args)
    assert caught.value.code == code


async def test_every_agent_has_a_key_of_its_own(make: Make) -> None:
    rig = await make(relay)
    agents = [await rig.deploy(n) for n in (1, 2)]
    assert len({epoch_key(rig.placed(agent).keys).secret for agent in agents}) == 2
    assert epoch_key(rig.placed(agents[0]).keys).secret == epoch_key(rig.placed(agents[0]).keys).secret
