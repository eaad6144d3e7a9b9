"""The sealed call against a worker of the real formats: answers, refusals, losses, failover."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from cloister.client import Demand, Wallet
from cloister.client.call import MAX_ATTEMPTS, MAX_BODY, SAFE_METHODS, Request, Sessions
from cloister.core.encoding.hexes import to_hex
from cloister.core.envelope.model import HEADER
from cloister.core.errors import CloisterError, EnvelopeError, define, from_wire
from support.client_lies import SPOILED
from support.fake_gateway import chunks_of
from support.fake_world import OWNER, fresh, test_key

BUSY = define("test.busy", EnvelopeError, check="a free worker", remedy="wait", status=503)
NO = define("test.no", EnvelopeError, check="may ask", remedy="do not", status=403)


def hint(code: str, status: int = 421) -> CloisterError:
    """A plain refusal of the gateway."""
    return from_wire(
        {"code": code, "check": "c", "expected": "e", "found": "f", "remedy": "r"},
        status=status,
    )


def fail_times(net: Any, times: int, error: CloisterError | None = None) -> None:
    """The gateway fails that many calls: a plain refusal, or a broken connection."""
    left = [times]

    async def on_call(agent: bytes, boot: bytes, record: bytes) -> bytes:
        if left[0] > 0:
            left[0] -= 1
            if error is not None:
                raise error
            return b""
        return net.gateway.deliver(agent, boot, record)  # type: ignore[no-any-return]

    net.gateway.on_call = on_call


async def get(net: Any, path: str = "/", **options: Any) -> Any:
    async with net.client() as client:
        return await (await client.agent(net.agent)).get(path, **options)


async def post(net: Any, **options: Any) -> Any:
    async with net.client() as client:
        return await (await client.agent(net.agent)).post("/", body=b"x", **options)


async def code_of(work: Any) -> str:
    with pytest.raises(CloisterError) as caught:
        await work
    return caught.value.code


def runs(net: Any) -> list[Any]:
    """Requests that agents saw."""
    return [*net.one.ran, *net.two.ran]


# --- answers ---


async def test_a_good_call_has_answer_receipt_and_proof(net: Any) -> None:
    async with net.client() as client:
        agent = await client.agent(net.agent)
        reply = await agent.post("/notes?x=1", json={"a": "ä"}, headers={"X-Trace": "1"})
        assert (reply.status, reply.ok, reply.attempts) == (200, True, 1)
        assert reply.json() == {"method": "POST", "path": "/notes?x=1", "caller": None, "body": '{"a":"ä"}'}
        assert reply.headers["Content-Type"] == "application/json"
        assert reply.receipt.agent == net.agent
        assert reply.receipt.worker == reply.proof.worker
        assert reply.proof.receipt_id == reply.receipt.id
        assert to_hex(reply.receipt.request_id) == reply.request_id
        assert client.ledger.load(reply.receipt.id).receipt == reply.receipt
    head = runs(net)[0].head
    assert ("content-type", "application/json") in head.headers
    assert ("x-trace", "1") in head.headers


async def test_verbs_and_statuses_of_the_agent_are_answers(net: Any) -> None:
    for worker in (net.one, net.two):
        worker.handler = lambda r: (404, (), [r.head.method.encode()])
    async with net.client() as client:
        agent = await client.agent(net.agent)
        for verb in ("get", "post", "put", "delete"):
            reply = await getattr(agent, verb)("/")
            assert (reply.status, reply.text, reply.ok) == (404, verb.upper(), False)
        with pytest.raises(CloisterError) as caught:
            reply.json()
        assert caught.value.code == "client.not_json"


async def test_the_gateway_sees_no_word_of_it(net: Any) -> None:
    await post(net)
    await get(net, "/very-secret-path")
    assert all(b"secret-path" not in record for record in net.gateway.calls)


async def test_a_session_is_used_again_and_its_psk_is_sent_once(net: Any) -> None:
    async with net.client() as client:
        agent = await client.agent(net.agent)
        for _ in range(3):
            await agent.get("/")
    flags = [record[5] for record in net.gateway.calls]
    assert flags == [1, 0, 0]
    assert len({record[70:102] for record in net.gateway.calls}) == 1


async def test_many_calls_at_once_share_the_session(net: Any) -> None:
    async with net.client() as client:
        agent = await client.agent(net.agent)
        replies = await asyncio.gather(*(agent.get(f"/{i}") for i in range(20)))
    assert [r.json()["path"] for r in replies] == [f"/{i}" for i in range(20)]
    assert len({r.receipt.id for r in replies}) == 20


async def test_a_stream_yields_pieces_and_ends_with_a_receipt(net: Any) -> None:
    for worker in (net.one, net.two):
        worker.handler = lambda r: (200, (("x-a", "b"),), [b"one", b"two", b"three" * 1000])
    async with net.client() as client:
        agent = await client.agent(net.agent)
        async with agent.stream("GET", "/events") as stream:
            assert stream.status == 200
            assert stream.headers["x-a"] == "b"
            assert stream.receipt is None
            assert b"".join(await chunks_of(stream.__aiter__())) == b"onetwo" + b"three" * 1000
        assert stream.receipt is not None
        assert stream.proof is not None
        assert (await chunks_of(agent.stream("GET", "/").__aiter__()))[0] == b"one"


async def test_an_abandoned_stream_closes(net: Any) -> None:
    async with net.client() as client:
        stream = (await client.agent(net.agent)).stream("GET", "/")
        async for _ in stream:
            break
        await stream.close()
        assert stream.receipt is None


# --- callers ---


async def test_a_wallet_is_the_caller_and_may_stay_hidden(net: Any) -> None:
    wallet = Wallet(test_key("alice"))
    async with net.client(wallet=wallet) as client:
        known = await client.agent(net.agent)
        hidden = await client.agent(net.agent, anonymous=True)
        assert (await known.get("/")).json()["caller"] == to_hex(wallet.address)
        assert (await known.get("/")).json()["caller"] == to_hex(wallet.address)
        assert (await hidden.get("/")).json()["caller"] is None


async def test_a_caller_session_is_renewed_before_it_expires(net: Any) -> None:
    async with net.client(wallet=Wallet(test_key("alice"))) as client:
        agent = await client.agent(net.agent)
        await agent.get("/")
        net.world.now += 3590
        net.world.mine()
        assert (await agent.get("/")).json()["caller"]
    assert len({record[70:102] for record in net.gateway.calls}) == 2


# --- refusals inside the seal ---


async def test_the_workers_own_refusal_keeps_its_code(net: Any) -> None:
    def refuse(request: Any) -> Any:
        raise NO(expected="a friend", found="you")

    net.one.handler = net.two.handler = refuse
    assert await code_of(get(net)) == NO.code
    assert await code_of(post(net)) == NO.code
    assert len(runs(net)) == 2


async def test_a_busy_worker_sends_a_safe_request_elsewhere(net: Any) -> None:
    def busy(request: Any) -> Any:
        raise BUSY(expected="free", found="busy")

    good = net.one.handler
    net.one.handler = net.two.handler = busy
    assert await code_of(post(net)) == BUSY.code
    assert len(runs(net)) == 1
    net.two.handler = good
    reply = await get(net)
    assert reply.proof.vendor == "amd"


# --- what an attacker between does ---


@pytest.mark.parametrize("what", SPOILED)
async def test_a_spoiled_answer_is_refused(what: str, net: Any) -> None:
    spoil, code = SPOILED[what]
    net.one.spoil = net.two.spoil = spoil
    assert await code_of(get(net)) == code
    assert len(net.gateway.calls) == MAX_ATTEMPTS
    assert await code_of(post(net)) == "client.outcome_unknown"
    assert len(net.gateway.calls) == MAX_ATTEMPTS + 1


async def test_an_answer_of_another_request_is_refused(net: Any) -> None:
    kept: list[bytes] = []

    async def on_call(agent: bytes, boot: bytes, record: bytes) -> bytes:
        kept.append(net.gateway.deliver(agent, boot, record))
        return kept[0]

    net.gateway.on_call = on_call
    async with net.client() as client:
        agent = await client.agent(net.agent)
        await agent.get("/")
        assert await code_of(agent.get("/")) == "envelope.not_authentic"


async def test_a_request_handed_to_the_other_worker_opens_nothing(net: Any) -> None:
    async def on_call(agent: bytes, boot: bytes, record: bytes) -> bytes:
        other = net.two if boot == net.one.boot else net.one
        return other.answer(agent, record)  # type: ignore[no-any-return]

    net.gateway.on_call = on_call
    assert await code_of(get(net)) == "envelope.wrong_boot"
    assert runs(net) == []


async def test_a_receipt_signed_by_another_key_is_refused(net: Any) -> None:
    net.one.receipt_key = net.two.receipt_key = test_key("somebody")
    assert await code_of(get(net)) == "receipt.signature"
    assert len(net.gateway.calls) == 1


async def test_a_receipt_for_another_answer_is_refused(net: Any) -> None:
    for worker in (net.one, net.two):
        real = worker.chain.add

        def lie(certificate: Any, exchange: Any, real: Any = real, **more: Any) -> Any:
            from dataclasses import replace

            return real(certificate, replace(exchange, response=fresh()), **more)

        worker.chain.add = lie
    assert await code_of(get(net)) == "receipt.wrong_exchange"


async def test_an_answer_at_an_old_checkpoint_is_refused(net: Any) -> None:
    net.one.height = net.two.height = net.world.number - 301
    assert await code_of(get(net)) == "client.stale_answer"
    assert await code_of(post(net)) == "client.stale_answer"
    net.two.height = None
    assert (await get(net)).proof.vendor == "amd"


async def test_no_receipt_is_kept_for_an_answer_that_was_refused(net: Any) -> None:
    net.one.receipt_key = net.two.receipt_key = test_key("somebody")
    await code_of(get(net))
    async with net.client() as client:
        assert list(client.ledger.newest()) == []


# --- losses ---


async def test_a_dead_worker_is_left_and_the_request_id_stays(net: Any) -> None:
    async with net.client() as client:
        agent = await client.agent(net.agent)
        first = await agent.get("/")
        dead = net.one if first.proof.vendor == "intel" else net.two
        alive = net.two if dead is net.one else net.one
        net.gateway.workers.remove(dead)
        reply = await agent.get("/again")
        assert reply.proof.worker == alive.address
        assert reply.attempts == 2


@pytest.mark.parametrize("method", sorted(SAFE_METHODS))
async def test_safe_methods_are_repeated_under_one_request_id(method: str, net: Any) -> None:
    for worker in (net.one, net.two):
        worker.spoil = lambda d: d[:-1]
    async with net.client() as client:
        await code_of((await client.agent(net.agent)).request(method, "/"))
    seen = runs(net)
    assert len(seen) == MAX_ATTEMPTS
    assert len({r.head.request_id for r in seen}) == 1
    assert {r.session_id for r in net.one.ran}.isdisjoint({r.session_id for r in net.two.ran})
    assert net.one.ran
    assert net.two.ran


async def test_a_post_is_never_repeated_by_itself(net: Any) -> None:
    fail_times(net, 1, hint("gateway.no_worker", 503))
    with pytest.raises(CloisterError) as caught:
        await post(net)
    assert caught.value.code == "client.outcome_unknown"
    assert "gateway.no_worker" in caught.value.found
    assert len(net.gateway.calls) == 1


async def test_a_post_with_an_idempotency_key_is_repeated(net: Any) -> None:
    fail_times(net, 2, hint("gateway.no_worker", 503))
    reply = await post(net, idempotency_key="order-17")
    assert reply.attempts == 3
    assert runs(net)[0].head.idempotency_key == "order-17"


@pytest.mark.parametrize(
    "code", ["envelope.wrong_boot", "envelope.certificate_unknown", "envelope.session_expired", "client.bad_answer"]
)
async def test_hints_lead_to_fresh_seats(code: str, net: Any) -> None:
    fail_times(net, 1, hint(code))
    assert (await get(net)).attempts == 2
    assert net.gateway.fetched.count("seats") == 2


async def test_a_worker_that_forgot_the_psk_gets_it_again(net: Any) -> None:
    async with net.client() as client:
        agent = await client.agent(net.agent)
        await agent.get("/")
        for worker in (net.one, net.two):
            worker.server._sessions.clear()
            for held in worker.server._held.values():
                held.psks.clear()
        assert (await agent.get("/")).attempts == 2
    assert [record[5] for record in net.gateway.calls] == [1, 0, 1]
    assert net.gateway.fetched.count("seats") == 1


async def test_a_restarted_worker_is_found_again(net: Any) -> None:
    async with net.client() as client:
        agent = await client.agent(net.agent)
        await agent.get("/")
        for worker in (net.one, net.two):
            worker.restart()
        net.gateway.offer(net.agent)
        assert (await agent.get("/")).status == 200
        net.world.now += 6
        net.world.mine()
        for worker in (net.one, net.two):
            worker.restart()
        net.gateway.offer(net.agent)
        net.world.now += 6
        net.world.mine()
        assert (await agent.post("/", body=b"careful")).status == 200


async def test_a_stream_that_breaks_after_its_head_is_not_started_again(net: Any) -> None:
    for worker in (net.one, net.two):
        worker.handler = lambda r: (200, (), [b"x" * 5000])
        worker.spoil = lambda d: d[:-1]
    async with net.client() as client:
        stream = (await client.agent(net.agent)).stream("GET", "/")
        with pytest.raises(CloisterError) as caught:
            await chunks_of(stream.__aiter__())
        assert caught.value.code == "envelope.truncated"
        assert stream.receipt is None
    assert len(net.gateway.calls) == 1


async def test_the_deadline_ends_the_attempts(net: Any) -> None:
    async def on_call(agent: bytes, boot: bytes, record: bytes) -> bytes:
        net.world.now += 3
        raise hint("gateway.no_worker", 503)

    net.gateway.on_call = on_call
    assert await code_of(get(net, deadline_s=5.0)) == "client.deadline"
    assert len(net.gateway.calls) == 2


async def test_a_gateway_that_is_not_there_is_named_and_nothing_is_unknown(net: Any) -> None:
    async with net.client() as client:
        agent = await client.agent(net.agent)
        await agent.get("/")
        await client.gateway.close()
        client.gateway.url = "http://127.0.0.1:1"
        assert await code_of(agent.post("/", body=b"x")) == "client.unreachable"


# --- demands ---


async def test_a_vendor_or_a_worker_may_be_demanded(net: Any) -> None:
    async with net.client() as client:
        for demand, vendor in (
            (Demand(vendor="amd"), "amd"),
            (Demand(worker=net.one.address), "intel"),
            (Demand(code_hash=net.world.agents[net.agent].code_hash, vendor="intel"), "intel"),
        ):
            agent = await client.agent(net.agent, demand=demand)
            for _ in range(3):
                assert (await agent.get("/")).proof.vendor == vendor
        for demand in (Demand(vendor="aws"), Demand(worker=fresh()[:20])):
            agent = await client.agent(net.agent, demand=demand)
            assert await code_of(agent.get("/")) == "client.demand_worker"
        assert await code_of(client.agent(net.agent, demand=Demand(code_hash=fresh()))) == "client.demand_code"


async def test_a_swapped_worker_does_not_serve_a_demand(net: Any) -> None:
    """The demanded worker dies; failover finds no other one that the caller accepts."""
    async with net.client() as client:
        agent = await client.agent(net.agent, demand=Demand(vendor="intel"))
        await agent.get("/")
        net.gateway.offer(net.agent, net.two)
        net.gateway.workers.remove(net.one)
        assert await code_of(agent.get("/")) == "client.demand_worker"
    assert net.two.ran == []


async def test_code_that_changes_between_calls_is_refused_under_a_pin(net: Any) -> None:
    async with net.client() as client:
        pinned = Demand(code_hash=net.world.agents[net.agent].code_hash)
        agent = await client.agent(net.agent, demand=pinned)
        await agent.get("/")
        net.world.set_agent(code_hash=fresh())
        net.world.mine()
        net.gateway.offer(net.agent)
        net.world.now += 31
        net.world.mine()
        assert await code_of(agent.get("/")) == "client.demand_code"


async def test_an_instant_upgrade_rule_is_refused_unless_accepted(net: Any) -> None:
    from cloister.core.chainview.records import UpgradeMode

    net.world.set_agent(upgrade_mode=UpgradeMode.INSTANT, upgrade_delay=0)
    net.world.mine()
    net.gateway.offer(net.agent)
    async with net.client() as client:
        assert await code_of(client.agent(net.agent)) == "client.demand_upgrade"
        record = net.world.agents[net.agent]
        for demand in (Demand(upgrade_not_instant=False), Demand(code_hash=record.code_hash)):
            assert (await (await client.agent(net.agent, demand=demand)).get("/")).ok
    async with net.client(wallet=Wallet(OWNER)) as owner:
        assert (await (await owner.agent(net.agent)).get("/")).ok


# --- requests ---


def build(**changes: Any) -> Request:
    fields: dict[str, Any] = {
        "headers": None,
        "body": None,
        "json_body": None,
        "idempotency_key": None,
        "request_id": b"\x01" * 16,
        "deadline_ms": 1,
    }
    return Request.build("get", "/", **(fields | changes))


def test_requests_are_put_together() -> None:
    assert build().method == "GET"
    assert build(body="ä").body == "ä".encode()
    assert build(json_body={"a": 1}).headers == (("content-type", "application/json"),)
    assert build(json_body=0).body == b"0"
    assert build(headers={"Content-Type": "x"}, json_body=[]).headers == (("content-type", "x"),)
    assert build(headers=[("A", "1"), ("a", "2")]).headers == (("a", "1"), ("a", "2"))
    with pytest.raises(TypeError):
        build(body=b"", json_body={})
    with pytest.raises(CloisterError) as caught:
        build(body=b"x" * (MAX_BODY + 1))
    assert caught.value.code == "envelope.too_large"


def test_a_request_does_not_show_its_body() -> None:
    assert "hunter2" not in repr(build(body="hunter2"))


async def test_heads_out_of_form_never_leave(net: Any) -> None:
    async with net.client() as client:
        agent = await client.agent(net.agent)
        for path, headers in (("no-slash", {}), ("/a b", {}), ("/", {"x": "a\r\nb"}), ("/", {"bad name": "x"})):
            assert await code_of(agent.get(path, headers=headers)) == "envelope.head"
        for deadline in (0, -1, 601):
            with pytest.raises(ValueError, match="deadline_s"):
                await agent.get("/", deadline_s=deadline)
    assert net.gateway.calls == []


async def test_sessions_and_psks_are_bounded(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloister.client.call.MAX_SESSIONS", 2)
    async with net.client() as client:
        sittings = (await client.resolver.resolve(net.agent)).sittings
    sessions = Sessions(lambda epoch: net.world.network.mpk, lambda n: fresh()[:n])
    wallets = [Wallet(test_key(str(i))) for i in range(4)]
    for wallet in wallets:
        sessions.session(sittings[0], wallet, 0)
    assert len(sessions._sessions) == 2
    assert len(sessions._ends) == 2
    assert len(sessions._psks) == 1


def test_the_record_layout_that_these_tests_look_at() -> None:
    assert HEADER.size == 142


async def test_json_bodies_are_compact_utf8(net: Any) -> None:
    await post_json(net, {"a": [1, None, "é"]})
    assert json.loads(runs(net)[0].body) == {"a": [1, None, "é"]}


async def post_json(net: Any, value: Any) -> Any:
    async with net.client() as client:
        return await (await client.agent(net.agent)).post("/", json=value)
