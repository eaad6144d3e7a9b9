"""From an agent id to seats: every lie on the way is refused by name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cloister.core.chainview.records import UpgradeMode
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError
from support.fake_world import MEMBERS, STRANGERS, Store, fresh

Change = Callable[[Any], None]


async def code_of(net: Any, **options: Any) -> str:
    with pytest.raises(CloisterError) as caught:
        async with net.client(**options) as client:
            await client.resolver.resolve(net.agent)
    return caught.value.code


def reoffer(net: Any, *workers: Any, **changes: Any) -> None:
    net.gateway.offer(net.agent, *workers, **changes)


def strangers_checkpoint(net: Any) -> None:
    net.gateway.checkpoint = lambda: net.world.sign(net.world.checkpoint(), STRANGERS[:3])


def two_signatures(net: Any) -> None:
    net.gateway.checkpoint = lambda: net.world.sign(net.world.checkpoint(), MEMBERS[:2])


def one_signed_twice(net: Any) -> None:
    net.gateway.checkpoint = lambda: net.world.sign(net.world.checkpoint(), (MEMBERS[0],) * 3)


def other_term(net: Any) -> None:
    net.gateway.checkpoint = lambda: net.world.sign(replace(net.world.checkpoint(), term=2))


def altered_checkpoint(net: Any) -> None:
    def made() -> Any:
        good = net.world.sign(net.world.checkpoint())
        return replace(good, statement=replace(good.statement, state_root=fresh()))

    net.gateway.checkpoint = made


def stale_clock(net: Any) -> None:
    net.world.now += 121


def future_clock(net: Any) -> None:
    net.world.now -= 40


def agent_paused(net: Any) -> None:
    net.world.set_agent(paused=True)
    net.world.mine()


def agent_paused_in_a_newer_block(net: Any) -> None:
    net.world.paused_now.add(net.agent)


def no_such_agent(net: Any) -> None:
    net.agent = fresh()
    net.world.agents[net.agent] = next(iter(net.world.agents.values()))


def no_seats(net: Any) -> None:
    net.gateway.seats = {}


def garbage_seats(net: Any) -> None:
    net.gateway.seats[net.agent] = [1, {}, None, {"certificate": {}, "certificate_signature": "0x", "lease": {}}]


def strangers_lease(net: Any) -> None:
    reoffer(net, members=STRANGERS[:3])


def two_members_lease(net: Any) -> None:
    reoffer(net, members=MEMBERS[:2])


def certificate_without_lease(net: Any) -> None:
    for seat in net.gateway.seats[net.agent]:
        seat["certificate"]["hpke_key"] = to_hex(fresh())


def certificate_of_another_boot(net: Any) -> None:
    for seat in net.gateway.seats[net.agent]:
        seat["certificate"]["boot"] = to_hex(fresh())


def longer_certificate(net: Any) -> None:
    for seat in net.gateway.seats[net.agent]:
        seat["certificate"]["expiry"] += 1


def expired_lease(net: Any) -> None:
    reoffer(net, expiry=net.world.number)


def old_code(net: Any) -> None:
    net.world.set_agent(code_hash=fresh())
    net.world.mine()


def old_epoch(net: Any) -> None:
    net.world.set_agent(epoch=2)
    net.world.mine()


def worker_restarted(net: Any) -> None:
    for worker in (net.one, net.two):
        net.world.set_worker(worker.key, fresh())
    net.world.mine()


def workers_removed(net: Any) -> None:
    for worker in (net.one, net.two):
        net.world.set_worker(worker.key, worker.boot, removed=True)
    net.world.mine()


def workers_expired(net: Any) -> None:
    for worker in (net.one, net.two):
        net.world.set_worker(worker.key, worker.boot, expiry=net.world.number)
    net.world.mine()


def workers_removed_in_a_newer_block(net: Any) -> None:
    net.world.removed_now |= {net.one.address, net.two.address}


def other_committee(net: Any) -> None:
    net.world.stores["Gatekeepers"].struct("_committee", None, {"term": 2})
    net.world.mine()


def other_code_at_the_contract(net: Any) -> None:
    net.world.code_hash = lambda name: b"\x01" * 32
    net.world.mine()


def lying_proof(net: Any) -> None:
    original = net.world.get_proof

    def lie(address: bytes, slots: list[int], number: int) -> dict[str, Any]:
        answer: dict[str, Any] = original(address, slots, number)
        for entry in answer["storageProof"]:
            entry["value"] = hex(int(entry["value"], 16) ^ 1)
        return answer

    net.world.get_proof = lie


REFUSED: dict[str, tuple[Change, str]] = {
    "a checkpoint that strangers signed": (strangers_checkpoint, "encoding.signature"),
    "a checkpoint with two signatures of three": (two_signatures, "encoding.too_few_signers"),
    "one member's signature three times": (one_signed_twice, "encoding.too_few_signers"),
    "a checkpoint of another term": (other_term, "encoding.wrong_term"),
    "a checkpoint with a changed state root": (altered_checkpoint, "encoding.signature"),
    "a checkpoint that is stale by the client's clock": (stale_clock, "chainview.stale"),
    "a checkpoint from the future": (future_clock, "chainview.stale"),
    "an agent that is paused at the checkpoint": (agent_paused, "policy.paused"),
    "an agent that is paused in a newer block": (agent_paused_in_a_newer_block, "policy.paused"),
    "an agent that does not exist": (no_such_agent, "policy.agent_unknown"),
    "no seats at all": (no_seats, "client.no_seat"),
    "seats that are garbage": (garbage_seats, "encoding.field"),
    "a lease that strangers signed": (strangers_lease, "encoding.signature"),
    "a lease with two signatures": (two_members_lease, "encoding.too_few_signers"),
    "a certificate for a key that the worker did not sign": (certificate_without_lease, "encoding.signature"),
    "a certificate for a boot without a lease": (certificate_of_another_boot, "envelope.not_leased"),
    "a certificate that outlives its lease": (longer_certificate, "envelope.not_leased"),
    "a lease that has ended": (expired_lease, "envelope.certificate_expired"),
    "a seat leased for the code before": (old_code, "client.old_seat"),
    "a seat leased for the epoch before": (old_epoch, "client.old_seat"),
    "a worker that registered another boot": (worker_restarted, "client.worker_not_admitted"),
    "a worker that was removed": (workers_removed, "client.worker_not_admitted"),
    "a worker whose registration ended": (workers_expired, "client.worker_not_admitted"),
    "a worker that was removed in a newer block": (workers_removed_in_a_newer_block, "policy.worker_removed"),
    "a committee that is not the pinned one": (other_committee, "client.committee"),
    "a contract with other code": (other_code_at_the_contract, "chainview.wrong_contract"),
    "a proof with another value beside it": (lying_proof, "chainview.proof"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_refused(what: str, net: Any) -> None:
    change, code = REFUSED[what]
    change(net)
    assert await code_of(net) == code


async def test_a_good_network_gives_both_seats_and_a_proof(net: Any) -> None:
    async with net.client() as client:
        found = await client.resolver.resolve(net.agent)
    assert {s.vendor for s in found.sittings} == {"intel", "amd"}
    proof = found.proof(found.sittings[0], b"\x01" * 32)
    assert proof.network == net.world.network.id
    assert proof.committee == 3
    assert proof.to_json()["code_hash"] == to_hex(net.world.agents[net.agent].code_hash)


async def test_one_bad_seat_does_not_spoil_the_good_one(net: Any) -> None:
    net.gateway.seats[net.agent][0]["certificate"]["hpke_key"] = to_hex(fresh())
    async with net.client() as client:
        found = await client.resolver.resolve(net.agent)
    assert [s.vendor for s in found.sittings] == ["amd"]


async def test_of_two_seats_of_one_worker_the_longer_counts(net: Any) -> None:
    later = net.one.seat(net.agent, period=99, expiry=net.world.number + 5000).to_json()
    net.gateway.seats[net.agent] = [*net.gateway.seats[net.agent], later]
    async with net.client() as client:
        found = await client.resolver.resolve(net.agent)
    best = next(s for s in found.sittings if s.vendor == "intel")
    assert best.seat.certificate.expiry == net.world.number + 5000
    assert len(found.sittings) == 2


async def test_two_blocks_at_one_height_are_refused(net: Any) -> None:
    async with net.client() as client:
        await client.resolver.view()
        other = replace(net.world.checkpoint(), block_hash=fresh())
        net.gateway.checkpoint = lambda: net.world.sign(other)
        with pytest.raises(CloisterError) as caught:
            await client.resolver.view()
    assert caught.value.code == "chainview.second_at_height"


async def test_an_older_checkpoint_does_not_take_the_client_back(net: Any) -> None:
    old = net.world.checkpoint()
    async with net.client() as client:
        net.world.mine()
        newest = await client.resolver.view()
        net.gateway.checkpoint = lambda: net.world.sign(old)
        assert await client.resolver.view() is newest


async def test_a_result_is_kept_for_a_while_and_then_checked_again(net: Any) -> None:
    async with net.client() as client:
        first = await client.resolver.resolve(net.agent)
        assert await client.resolver.resolve(net.agent) is first
        net.world.now += 6
        net.world.mine()
        assert await client.resolver.resolve(net.agent) is first
        careful = await client.resolver.resolve(net.agent, quick=False)
        assert careful is not first
        net.world.now += 31
        net.world.mine()
        assert await client.resolver.resolve(net.agent) is not careful
        assert await client.resolver.resolve(net.agent, again=True) is not careful


async def test_a_new_period_ends_a_kept_result(net: Any) -> None:
    async with net.client() as client:
        first = await client.resolver.resolve(net.agent)
        client.resolver.outdated(net.agent, first.checkpoint.number + 1)
        assert await client.resolver.resolve(net.agent) is first
        client.resolver.outdated(net.agent, first.checkpoint.number + 300)
        assert await client.resolver.resolve(net.agent) is not first


async def test_many_callers_at_once_resolve_once(net: Any) -> None:
    async with net.client() as client:
        found = await asyncio.gather(*(client.resolver.resolve(net.agent) for _ in range(8)))
    assert all(f is found[0] for f in found)
    assert net.gateway.fetched.count("seats") == 1


async def test_clients_spread_over_the_seats_and_stay(net: Any) -> None:
    first = set()
    for i in range(8):
        async with net.client(rng=lambda n, i=i: bytes([i]) * n) as client:
            a = (await client.resolver.resolve(net.agent)).sittings[0].vendor
            b = (await client.resolver.resolve(net.agent, again=True)).sittings[0].vendor
            assert a == b
            first.add(a)
    assert first == {"intel", "amd"}


async def test_agents_are_listed_and_described_by_proof(net: Any) -> None:
    second = net.world.set_agent(2, upgrade_mode=UpgradeMode.FROZEN, upgrade_delay=0, owner=b"\x09" * 20)
    net.world.mine()
    async with net.client() as client:
        rows = [row async for row in client.agents()]
        assert [r["token_id"] for r in rows] == [1, 2]
        assert [r["upgrade"] for r in rows] == ["delay 10 blocks", "frozen"]
        assert [r["token_id"] async for r in client.agents(owner=b"\x09" * 20)] == [2]
        facts = await client.describe(net.agent)
        assert {s["vendor"] for s in facts["seats"]} == {"intel", "amd"}
        assert (await client.describe(second))["why_no_seat"].startswith("client.no_seat")


@pytest.mark.parametrize("name", ["", "0x", "0x12", "agent", "0", "-1", "1.0", "٣"])
async def test_strange_agent_names_are_refused(name: str, net: Any) -> None:
    async with net.client() as client:
        with pytest.raises(CloisterError):
            await client.agent(name)


async def test_an_agent_is_named_by_id_token_or_bytes(net: Any) -> None:
    async with net.client() as client:
        for name in (1, "1", net.agent, to_hex(net.agent), to_hex(net.agent).upper().replace("0X", "0x")):
            assert (await client.agent(name)).id == net.agent


def test_the_fake_layout_is_the_real_one() -> None:
    assert Store("Agents", bytes(20)).layout.variable("_agents")
