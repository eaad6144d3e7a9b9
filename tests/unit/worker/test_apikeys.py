"""API keys at the worker: whose orders, which keys hold, what they cost, what nobody learns (sealed-http.md 12)."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.envelope.apikey import ApiKey
from cloister.core.envelope.client import ClientSession
from cloister.core.envelope.server import Claim, VerifiedCaller
from cloister.sandbox.ports import AgentRequest
from cloister.worker import apikeys
from cloister.worker.apikeys import ApiKeys, order
from support import hooks
from support.fake_sandbox import Calls, Reply
from support.fake_world import OWNER, Other, test_key
from support.worker_kit import Got, Rig, refused

Make = Callable[..., Awaitable[Rig]]

HOOK = b"\xa0" * 20
FAR = 1 << 40


async def who(request: AgentRequest, ctx: Calls) -> Reply:
    """Answers with the caller's kind and address."""
    said = request.caller or {"kind": "anonymous", "address": ""}
    return Reply(body=[f"{said['kind']} {said['address']}".encode()])


@pytest.fixture
async def rig(make: Make) -> Rig:
    return await make(who)


async def tell(rig: Rig, agent: bytes, what: str, **body: Any) -> dict[str, Any]:
    """An owner's order; who the owner is was verified before."""
    return (await order(rig.placed(agent), what, os.urandom(16).hex(), json.dumps(body).encode()))[0]


async def make_key(rig: Rig, agent: bytes, **changes: Any) -> ApiKey:
    key = ApiKey(os.urandom(32))
    fields = {"name": "mobile app", "mac_key": to_hex(key.mac), "expiry": FAR, "per_minute": 100}
    said = await tell(rig, agent, "keys/new", **(fields | changes))
    assert said["id"] == to_hex(key.address)
    return key


def with_key(rig: Rig, agent: bytes, key: ApiKey) -> ClientSession:
    session = rig.session(agent)
    session.authenticate(key.address, int(rig.world.now) + 5000, key.sign, kind="apikey")
    return session


async def call(rig: Rig, agent: bytes, key: ApiKey) -> str:
    """The refusal's code, or nothing."""
    return (await rig.call(agent, session=with_key(rig, agent, key))).code


async def test_a_key_that_the_owner_made_calls_as_its_id(rig: Rig) -> None:
    agent = await rig.deploy()
    key = await make_key(rig, agent)
    session = with_key(rig, agent, key)
    for _ in range(3):
        assert (await rig.call(agent, session=session)).body == f"apikey apikey:{to_hex(key.address)}".encode()


async def test_the_owner_sees_every_key_and_no_secret(rig: Rig) -> None:
    agent = await rig.deploy()
    keys = [await make_key(rig, agent, name=f"key {n}", per_minute=n + 1) for n in range(3)]
    listed = (await tell(rig, agent, "keys"))["keys"]
    assert [(k["id"], k["name"], k["per_minute"], k["revoked"]) for k in listed] == [
        (to_hex(key.address), f"key {n}", n + 1, False) for n, key in enumerate(keys)
    ]
    assert set(listed[0]) == {"id", "name", "expiry", "per_minute", "block", "revoked"}


# --- what does not hold ---


async def test_unknown_and_wrong_cannot_be_told_apart(rig: Rig) -> None:
    agent = await rig.deploy()
    key, stranger = await make_key(rig, agent), ApiKey(os.urandom(32))
    forged = rig.session(agent)
    forged.authenticate(key.address, int(rig.world.now) + 60, stranger.sign, kind="apikey")
    unknown = await rig.call(agent, session=with_key(rig, agent, stranger))
    wrong = await rig.call(agent, session=forged)
    assert unknown.code == wrong.code == "worker.api_key"
    assert unknown.error is not None
    assert wrong.error is not None
    assert unknown.error.to_wire() == wrong.error.to_wire()


async def test_a_mac_of_another_session_does_not_open_this_one(rig: Rig) -> None:
    agent = await rig.deploy()
    key = await make_key(rig, agent)
    seen: list[bytes] = []
    expiry = int(rig.world.now) + 60
    first, second = rig.session(agent), rig.session(agent)
    first.authenticate(key.address, expiry, lambda digest: seen.append(key.sign(digest)) or seen[0], kind="apikey")
    assert (await rig.call(agent, session=first)).status == 200
    second.authenticate(key.address, expiry, lambda digest: seen[0], kind="apikey")
    assert (await rig.call(agent, session=second)).code == "worker.api_key"


async def test_every_bit_of_the_mac_counts(rig: Rig) -> None:
    agent = await rig.deploy()
    key = await make_key(rig, agent)
    check, digest = ApiKeys(rig.table.placed, lambda: int(rig.world.now)), os.urandom(32)
    caller = VerifiedCaller(key.address, FAR, None, "apikey", Claim(digest, key.sign(digest)))
    await check.require(agent, caller)
    for bit in range(0, 256, 5):
        word = bytearray(key.sign(digest))
        word[bit // 8] ^= 1 << bit % 8
        await refused(check.require(agent, replace(caller, claim=Claim(digest, bytes(word)))), "worker.api_key")
    await refused(check.require(agent, replace(caller, claim=Claim(digest, b""))), "worker.api_key")
    await refused(check.require(agent, replace(caller, claim=None)), "worker.api_key")
    await refused(check.require(os.urandom(32), caller), "worker.api_key")


async def test_a_key_of_one_agent_is_nobody_at_another(rig: Rig) -> None:
    agent, other = await rig.deploy(1), await rig.deploy(2)
    key = await make_key(rig, agent)
    assert await call(rig, other, key) == "worker.api_key"


async def test_a_revoked_key_ends_sessions_that_run(rig: Rig) -> None:
    agent = await rig.deploy()
    key, other = await make_key(rig, agent), await make_key(rig, agent)
    session = with_key(rig, agent, key)
    assert (await rig.call(agent, session=session)).status == 200
    assert (await tell(rig, agent, "keys/revoke", id=to_hex(key.address)))["revoked"] is True
    assert (await rig.call(agent, session=session)).code == "worker.api_key_revoked"
    assert await call(rig, agent, key) == "worker.api_key_revoked"
    assert await call(rig, agent, other) == ""
    again = {"name": "again", "mac_key": to_hex(key.mac), "expiry": FAR, "per_minute": 1}
    assert (await tell(rig, agent, "keys/new", **again))["revoked"] is True, "a revoked key stays revoked"


async def test_that_a_key_was_revoked_is_said_to_its_holder_only(rig: Rig) -> None:
    agent = await rig.deploy()
    key = await make_key(rig, agent)
    await tell(rig, agent, "keys/revoke", id=to_hex(key.address))
    forged = rig.session(agent)
    forged.authenticate(key.address, int(rig.world.now) + 60, ApiKey(os.urandom(32)).sign, kind="apikey")
    assert (await rig.call(agent, session=forged)).code == "worker.api_key"


async def test_a_key_ends_at_its_expiry_within_a_session(rig: Rig) -> None:
    agent = await rig.deploy()
    key = await make_key(rig, agent, expiry=int(rig.world.now) + 100)
    session = with_key(rig, agent, key)
    assert (await rig.call(agent, session=session)).status == 200
    rig.world.now += 100
    assert (await rig.call(agent, session=session)).code == "worker.api_key_expired"


async def test_a_key_is_held_to_its_requests_per_minute(rig: Rig) -> None:
    agent = await rig.deploy()
    key, other = await make_key(rig, agent, per_minute=2), await make_key(rig, agent)
    rig.world.now += 60 - rig.world.now % 60
    session = with_key(rig, agent, key)
    codes = [(await rig.call(agent, session=session)).code for _ in range(4)]
    assert codes == ["", "", "worker.api_key_rate", "worker.api_key_rate"]
    assert await call(rig, agent, other) == ""
    rig.world.now += 60
    assert (await rig.call(agent, session=session)).code == ""


async def test_a_clock_that_goes_back_gives_no_new_minute(rig: Rig) -> None:
    agent = await rig.deploy()
    key = await make_key(rig, agent, per_minute=1)
    now = 6000
    check = ApiKeys(rig.table.placed, lambda: now)
    digest = os.urandom(32)
    caller = VerifiedCaller(key.address, FAR, None, "apikey", Claim(digest, key.sign(digest)))
    await check.require(agent, caller)
    now -= 600
    await refused(check.require(agent, caller), "worker.api_key_rate")


async def test_counting_has_a_bound_and_refuses_beyond_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apikeys, "MAX_COUNTED", 1)
    agent = await rig.deploy()
    first, second = await make_key(rig, agent), await make_key(rig, agent)
    assert await call(rig, agent, first) == ""
    assert await call(rig, agent, second) == "worker.api_key_rate"


async def test_keys_end_when_the_agent_is_sold(rig: Rig) -> None:
    agent = await rig.deploy()
    key = await make_key(rig, agent)
    rig.world.set_agent(1, owner=address_of(test_key("buyer")))
    await rig.follow(1)
    assert await call(rig, agent, key) == "worker.api_key"
    assert (await tell(rig, agent, "keys"))["keys"] == []
    mine = await make_key(rig, agent)
    assert await call(rig, agent, mine) == ""
    rig.world.set_agent(1, owner=address_of(OWNER))
    await rig.follow(1)
    assert await call(rig, agent, mine) == "worker.api_key"
    assert await call(rig, agent, key) == "worker.api_key", "the buyer's first order left the old keys behind"


async def test_an_access_hook_is_asked_about_the_keys_id(rig: Rig) -> None:
    agent = await rig.deploy()
    key, other = await make_key(rig, agent), await make_key(rig, agent)
    rig.world.others[HOOK] = Other(hooks.BY_LIST, {int.from_bytes(key.address, "big"): 1})
    rig.world.set_rules(agent, access_hook=HOOK)
    await rig.follow(1)
    assert await call(rig, agent, key) == ""
    assert await call(rig, agent, other) == "policy.access_denied"


# --- where they are kept ---


async def test_keys_outlive_the_worker_and_bind_at_every_worker(make: Make) -> None:
    one = await make(who)
    agent = await one.deploy()
    key = await make_key(one, agent)
    state = one.placed(agent).state
    other = await Rig(one.world, one.folder, who, "two").open(one.fabric)
    await other.follow(1)
    assert agent not in other.table.placed() or other.placed(agent).state is not state
    assert await call(one, agent, key) == ""


async def test_agent_code_reaches_no_keys(make: Make) -> None:
    seen: list[Any] = []

    async def snoops(request: AgentRequest, ctx: Calls) -> Reply:
        seen.append(await ctx("state.list"))
        await refused(ctx("state.get", key=apikeys.RING_NAME), "sandbox.argument")
        return Reply()

    rig = await make(snoops)
    agent = await rig.deploy()
    key = await make_key(rig, agent)
    assert await call(rig, agent, key) == ""
    assert seen == [[]]


async def test_the_store_sees_neither_key_nor_name(rig: Rig) -> None:
    agent = await rig.deploy()
    key = await make_key(rig, agent, name="a name for nobody")
    kept = b"".join(path.read_bytes() for path in sorted((rig.folder / "fabric").rglob("*")) if path.is_file())
    assert len(kept) > 1000
    for secret in (key.mac, key.mac.hex().encode(), key.address.hex().encode(), b"a name for nobody"):
        assert secret not in kept


async def test_orders_at_once_are_all_carried_out(rig: Rig) -> None:
    agent = await rig.deploy()
    await asyncio.gather(*(make_key(rig, agent, name=str(n)) for n in range(3)))
    assert sorted(k["name"] for k in (await tell(rig, agent, "keys"))["keys"]) == ["0", "1", "2"]


async def test_an_order_that_is_repeated_is_carried_out_once(rig: Rig) -> None:
    agent, key = await rig.deploy(), ApiKey(os.urandom(32))
    fields = {"name": "n", "mac_key": to_hex(key.mac), "expiry": FAR, "per_minute": 1}
    name, body = os.urandom(16).hex(), json.dumps(fields).encode()
    first = await order(rig.placed(agent), "keys/new", name, body)
    assert (await order(rig.placed(agent), "keys/new", name, body))[0] == first[0]
    assert first[1].after != first[1].before
    again = await order(rig.placed(agent), "keys/new", os.urandom(16).hex(), body)
    assert (again[0], again[1].before) == (first[0], again[1].after)
    assert len((await tell(rig, agent, "keys"))["keys"]) == 1


async def test_the_ring_is_bounded_and_revoked_keys_make_room(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apikeys, "MAX_KEYS", 2)
    agent = await rig.deploy()
    first, second = await make_key(rig, agent), await make_key(rig, agent)
    await refused(make_key(rig, agent), "worker.api_keys_full")
    await tell(rig, agent, "keys/revoke", id=to_hex(first.address))
    third = await make_key(rig, agent)
    assert await call(rig, agent, second) == await call(rig, agent, third) == ""
    assert await call(rig, agent, first) == "worker.api_key"


GOOD = {"name": "n", "mac_key": "0x" + "ab" * 32, "expiry": 5, "per_minute": 1}


OUT_OF_FORM: list[tuple[str, str, Any]] = [
    ("no JSON", "keys/new", b"{"),
    ("no object", "keys/new", b"[]"),
    ("not UTF-8", "keys/new", b'{"name":"\xff"}'),
    ("a field too many", "keys/new", {**GOOD, "more": 1}),
    *[(f"no {name}", "keys/new", {n: v for n, v in GOOD.items() if n != name}) for name in GOOD],
    ("an empty name", "keys/new", {**GOOD, "name": ""}),
    ("a long name", "keys/new", {**GOOD, "name": "n" * 65}),
    ("a name of two lines", "keys/new", {**GOOD, "name": "a\nb"}),
    ("a name that ends a line", "keys/new", {**GOOD, "name": "a\n"}),
    ("a short key", "keys/new", {**GOOD, "mac_key": "0x" + "ab" * 31}),
    ("a key in capitals", "keys/new", {**GOOD, "mac_key": "0x" + "AB" * 32}),
    ("a key that ends a line", "keys/new", {**GOOD, "mac_key": GOOD["mac_key"] + "\n"}),  # type: ignore[operator]
    ("no expiry", "keys/new", {**GOOD, "expiry": 0}),
    ("an expiry as a text", "keys/new", {**GOOD, "expiry": "5"}),
    ("no requests at all", "keys/new", {**GOOD, "per_minute": 0}),
    ("too many requests", "keys/new", {**GOOD, "per_minute": 1_000_001}),
    ("a fraction", "keys/new", {**GOOD, "per_minute": 1.5}),
    ("an id that is none", "keys/revoke", {"id": "0xab"}),
    ("no id", "keys/revoke", {}),
    ("another order", "keys/burn", {}),
    ("no order", "", {}),
]


async def test_an_order_out_of_form_is_refused_and_changes_nothing(rig: Rig) -> None:
    agent = await rig.deploy()
    for why, what, body in OUT_OF_FORM:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        error = await refused(order(rig.placed(agent), what, os.urandom(16).hex(), data), "worker.api_key_order")
        assert error.status == 400, why
    assert (await tell(rig, agent, "keys"))["keys"] == []


async def test_revoking_what_is_not_there_is_refused_by_name(rig: Rig) -> None:
    agent = await rig.deploy()
    await refused(tell(rig, agent, "keys/revoke", id="0x" + "ab" * 20), "worker.api_key_unknown")


async def test_entries_do_not_show_their_mac_key(rig: Rig) -> None:
    agent = await rig.deploy()
    key = await make_key(rig, agent)
    assert key.mac.hex() not in repr(await apikeys._read(rig.placed(agent)))


# --- the way of the orders ---


async def asked(rig: Rig, agent: bytes, what: str, session: ClientSession | None, **body: Any) -> Got:
    path = f"/.well-known/cloister/owner/{what}"
    return await rig.call(agent, json.dumps(body).encode(), session=session, path=path)


def as_wallet(rig: Rig, agent: bytes, key: Any) -> ClientSession:
    session = rig.session(agent)
    session.authenticate(address_of(key), int(rig.world.now) + 600, lambda digest: sign_digest(key, digest))
    return session


async def test_the_owner_orders_over_the_sealed_path_and_gets_receipts(rig: Rig) -> None:
    agent, key = await rig.deploy(), ApiKey(os.urandom(32))
    mine = as_wallet(rig, agent, OWNER)
    fields = {"name": "n", "mac_key": to_hex(key.mac), "expiry": FAR, "per_minute": 9}
    made = await asked(rig, agent, "keys/new", mine, **fields)
    assert (made.status, json.loads(made.body)["id"]) == (200, to_hex(key.address))
    assert made.receipt is not None
    assert key.mac.hex() not in made.body.decode()
    assert await call(rig, agent, key) == ""
    listed = await asked(rig, agent, "keys", mine)
    assert [k["id"] for k in json.loads(listed.body)["keys"]] == [to_hex(key.address)]
    assert (await asked(rig, agent, "keys/revoke", mine, id=to_hex(key.address))).status == 200
    assert await call(rig, agent, key) == "worker.api_key_revoked"


async def test_nobody_but_the_owner_gives_orders(rig: Rig) -> None:
    agent = await rig.deploy()
    key = await make_key(rig, agent)
    stranger = as_wallet(rig, agent, test_key("a stranger"))
    for session in (stranger, with_key(rig, agent, key), None):
        for what in ("keys", "keys/new", "keys/revoke"):
            assert (await asked(rig, agent, what, session)).code == "worker.not_owner"


async def test_a_contract_that_owns_an_agent_gives_orders_by_its_signature(rig: Rig) -> None:
    account, word = b"\xa7" * 20, b"\x5a" * 32
    rig.world.others[account] = Other(hooks.SIGNER, {0: int.from_bytes(word, "big")})
    agent = await rig.deploy(1, owner=account)

    def session(signature: bytes) -> ClientSession:
        made = rig.session(agent)
        made.authenticate(account, int(rig.world.now) + 600, lambda digest: signature, kind="contract")
        return made

    assert (await asked(rig, agent, "keys", session(b"another"))).code == "policy.contract_signature"
    assert (await asked(rig, agent, "keys", session(word))).status == 200


async def test_an_unverified_claim_to_be_the_owner_is_not_the_owner(rig: Rig) -> None:
    """The owner's address under the name of an API key, or of a contract that is none."""
    agent = await rig.deploy()
    for kind, word, code in (
        ("apikey", bytes(32), "worker.api_key"),
        ("contract", bytes(65), "policy.contract_signature"),
    ):
        session = rig.session(agent)
        said: Any = kind
        session.authenticate(address_of(OWNER), int(rig.world.now) + 60, lambda digest, w=word: w, kind=said)  # type: ignore[misc]
        assert (await asked(rig, agent, "keys", session)).code == code


async def test_a_hook_does_not_keep_the_owner_from_revoking(rig: Rig) -> None:
    agent = await rig.deploy()
    key = await make_key(rig, agent)
    rig.world.others[HOOK] = Other(hooks.NO)
    rig.world.set_rules(agent, access_hook=HOOK)
    await rig.follow(1)
    mine = as_wallet(rig, agent, OWNER)
    assert (await asked(rig, agent, "keys/revoke", mine, id=to_hex(key.address))).status == 200
