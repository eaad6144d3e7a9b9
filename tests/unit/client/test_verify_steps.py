"""Verification reports: every step ok on a good network, the right one refused on a bad one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.client import Demand, Home
from cloister.client.verify import (
    Report,
    verify_agent,
    verify_kept_receipt,
    verify_network,
    verify_worker,
)
from cloister.core.attestation.model import measurement_id
from cloister.core.chainview.layout import address_key
from cloister.core.encoding.signatures import address_of
from cloister.core.errors import CloisterError
from cloister.core.receipts.receipt import Receipt
from support import hardware
from support.fake_gateway import FakeGateway, FakeWorker, serving
from support.fake_world import MEMBERS, STRANGERS, World, fresh

Change = Callable[[Any], None]


def failed(report: Report) -> dict[int, str]:
    """Failing steps: number -> code."""
    return {step.number: step.code for step in report.steps if not step.ok}


async def test_a_good_network_passes_every_step(net: Any) -> None:
    async with net.client() as client:
        report = await verify_network(client)
    assert failed(report) == {}
    assert report.ok
    assert len(report.steps) == 6 + len(net.world.stores) + 2
    assert json.loads(json.dumps(report.to_json()))["ok"] is True


def other_network_file(net: Any) -> None:
    net.gateway.network = World(now=1).network.encode()


def other_chain(net: Any) -> None:
    net.gateway._eth_call = None
    net.world.network = replace(net.world.network, genesis=replace(net.world.network.genesis, chain_id=5))


def other_genesis_block(net: Any) -> None:
    net.world.blocks[0] = net.world.blocks[net.world.number]


def strangers(net: Any) -> None:
    net.gateway.checkpoint = lambda: net.world.sign(net.world.checkpoint(), STRANGERS[:3])


def another_policy(net: Any) -> None:
    net.world.stores["Policies"].variable("policyHash", 7)
    net.world.mine()


def another_committee(net: Any) -> None:
    net.world.stores["Gatekeepers"].struct("_committee", None, {"masterEpoch": 2})
    net.world.mine()


def one_vendor_behind_three_seats(net: Any) -> None:
    net.world.seat(4, "microsoft+amd")
    net.world.mine()


def nobody_stood(net: Any) -> None:
    net.world.stores["Gatekeepers"].struct("_candidates", address_key(address_of(MEMBERS[0])), {"operator": 0})
    net.world.mine()


BAD_NETWORKS: dict[str, tuple[Change, dict[int, str]]] = {
    "the gateway serves another network file": (other_network_file, {1: "encoding.fingerprint"}),
    "the gateway relays to another chain": (other_chain, {3: "client.wrong_chain"}),
    "the first block is another one": (other_genesis_block, {4: "chain.bad_answer"}),
    "strangers signed the checkpoint": (strangers, {5: "encoding.signature"}),
    "another policy is in force": (another_policy, {11: "client.policy_in_force"}),
    "another master key is in office": (another_committee, {12: "chainview.master_epoch"}),
    "one vendor is behind three seats of five": (one_vendor_behind_three_seats, {13: "policy.committee_vendors"}),
    "a member never stood for the committee": (nobody_stood, {13: "policy.committee_vendors"}),
}


@pytest.mark.parametrize("what", BAD_NETWORKS)
async def test_a_bad_network_fails_at_the_step_that_says_why(what: str, net: Any) -> None:
    change, expected = BAD_NETWORKS[what]
    async with net.client() as client:
        change(net)
        report = await verify_network(client)
    assert failed(report) == expected
    assert not report.ok
    with pytest.raises(CloisterError) as caught:
        report.require()
    assert caught.value.code in expected.values()


async def test_contract_code_is_checked_one_by_one(net: Any) -> None:
    async with net.client() as client:
        real = net.world.code_hash
        net.world.code_hash = lambda name: fresh() if name == "Workers" else real(name)
        net.world.mine()
        report = await verify_network(client)
    assert failed(report) == {10: "client.contract_code"}


async def test_a_good_agent_passes_every_step(net: Any) -> None:
    async with net.client() as client:
        report = await verify_agent(client, net.agent)
    assert failed(report) == {}
    assert {s["vendor"] for s in report.facts["seats"]} == {"intel", "amd"}


def no_bundle(net: Any) -> None:
    net.world.blobs.pop(net.world.agents[net.agent].code_hash)


def other_bundle(net: Any) -> None:
    net.world.blobs[net.world.agents[net.agent].code_hash] = b"other code"


def other_manifest(net: Any) -> None:
    net.world.blobs[net.world.agents[net.agent].manifest_hash] = b"{}"


def other_rule(net: Any) -> None:
    net.world.set_agent(upgrade_delay=11)
    net.world.mine()


def paused(net: Any) -> None:
    net.world.paused_now.add(net.agent)


def unleased(net: Any) -> None:
    net.gateway.offer(net.agent, members=STRANGERS[:3])


BAD_AGENTS: dict[str, tuple[Change, dict[int, str]]] = {
    "nobody keeps the bundle": (no_bundle, {4: "client.bad_answer"}),
    "the bundle is another one": (other_bundle, {4: "client.blob"}),
    "the manifest is another one": (other_manifest, {5: "client.blob"}),
    "the chain has another upgrade rule": (other_rule, {6: "client.upgrade_rule"}),
    "it is paused in a newer block": (paused, {3: "policy.paused", 7: "policy.paused"}),
    "strangers leased it": (unleased, {7: "encoding.signature"}),
}


@pytest.mark.parametrize("what", BAD_AGENTS)
async def test_a_bad_agent_fails_at_the_step_that_says_why(what: str, net: Any) -> None:
    change, expected = BAD_AGENTS[what]
    change(net)
    async with net.client() as client:
        assert failed(await verify_agent(client, net.agent)) == expected


async def test_an_agent_that_does_not_exist_ends_the_report(net: Any) -> None:
    async with net.client() as client:
        report = await verify_agent(client, fresh())
    assert failed(report) == {2: "policy.agent_unknown"}
    assert len(report.steps) == 2


# --- receipts ---


async def kept(net: Any) -> Any:
    async with net.client() as client:
        reply = await (await client.agent(net.agent)).get("/")
        return client.ledger.load(reply.receipt.id)


async def receipt_report(net: Any, entry: Any) -> Report:
    async with net.client() as client:
        return await verify_kept_receipt(client, entry)


async def test_a_kept_receipt_verifies_again(net: Any) -> None:
    report = await receipt_report(net, await kept(net))
    assert failed(report) == {}
    assert report.facts["status"] == 200
    assert any("does not prove" in note for note in report.notes)


async def test_a_receipt_of_a_term_that_began_meanwhile_verifies_after_a_look_at_hand_overs(net: Any) -> None:
    """A client that has been open since the term before, as long-running programs are."""
    async with net.client(home=Home(net.home / "old")) as old:
        assert failed(await verify_agent(old, net.agent)) == {}
        net.world.hand_over(STRANGERS[:5])
        net.world.now += 5
        net.world.mine()
        net.gateway.offer(net.agent)
        entry = await kept(net)
        assert entry.seat.lease.statement.term == 2
        assert failed(await verify_kept_receipt(old, entry)) == {}


async def test_a_receipt_of_a_term_that_nobody_hands_over_to_is_refused(net: Any) -> None:
    async with net.client(home=Home(net.home / "old")) as old:
        assert failed(await verify_agent(old, net.agent)) == {}
        net.world.hand_over(STRANGERS[:5])
        net.world.now += 5
        net.world.mine()
        net.gateway.offer(net.agent)
        entry = await kept(net)
        net.world.told.clear()
        report = await verify_kept_receipt(old, entry)
    assert failed(report) == {2: "chainview.unknown_term"}


async def test_every_changed_field_of_a_receipt_shows(net: Any) -> None:
    entry = await kept(net)
    for name in ("agent", "worker", "boot", "code_hash", "request", "response", "status", "seq"):
        old = getattr(entry.receipt, name)
        new = old + 1 if isinstance(old, int) else bytes([old[0] ^ 1]) + old[1:]
        fake = replace(entry, raw=replace(entry.receipt, **{name: new}).encoded)
        assert set(failed(await receipt_report(net, fake)).values()) & {
            "receipt.signature",
            "receipt.wrong_certificate",
        }, name


async def test_receipts_without_a_lease_or_a_worker_fail(net: Any) -> None:
    entry = await kept(net)
    stranger = replace(entry, seat=replace(entry.seat, lease=net.world.sign(entry.seat.lease.statement, STRANGERS[:3])))
    assert failed(await receipt_report(net, stranger)) == {2: "encoding.signature"}
    garbage = replace(entry, raw=b"{}")
    assert failed(await receipt_report(net, garbage)) == {1: "receipt.malformed"}
    for worker in (net.one, net.two):
        worker.restart()
    assert failed(await receipt_report(net, entry)) == {5: "client.worker_not_admitted"}


# --- workers and evidence ---


@pytest.fixture
def attested(net: Any, tmp_path: Path) -> Iterator[Any]:
    """A network whose policy knows the pretended vendors, with one attested worker."""
    world = World(hardware.policy(), now=hardware.NOW)
    name = measurement_id("worker", hardware.MEASUREMENT)
    world.list_measurement(name)
    agent = world.set_agent()
    one = FakeWorker(world, "one", "intel")
    gateway = FakeGateway(world, [one])
    world.set_worker(one.key, one.boot, "intel", measurement=name)
    world.mine()
    gateway.offer(agent)

    def evidence(worker: bytes, nonce: bytes) -> dict[str, Any]:
        bound = hardware.binding(network=world.network.id, node=one.address, boot=one.boot, nonce=nonce)
        shown = hardware.evidence("tdx", bound.report_data())
        return {"evidence": shown.to_json(), "binding": bound.to_json()}

    gateway.evidence = evidence
    with serving(gateway):
        yield type(net)(world, gateway, one, one, agent, tmp_path / "attested")


async def worker_report(net: Any) -> Report:
    async with net.client() as client:
        return await verify_worker(client, net.one.address)


async def test_a_good_worker_passes_every_step(attested: Any) -> None:
    report = await worker_report(attested)
    assert failed(report) == {}
    assert report.facts["vendor"] == "intel"
    codes = [step.code for step in report.steps]
    assert "attestation.nonce" in codes
    assert "attestation.measurement" in codes


async def test_evidence_for_another_nonce_is_refused(attested: Any) -> None:
    real = attested.gateway.evidence
    attested.gateway.evidence = lambda worker, nonce: real(worker, fresh())
    assert set(failed(await worker_report(attested)).values()) == {"attestation.nonce"}


async def test_evidence_of_another_worker_is_refused(attested: Any) -> None:
    attested.one.boot = fresh()
    assert set(failed(await worker_report(attested)).values()) == {"client.worker_not_admitted"}


async def test_an_unlisted_measurement_is_refused(attested: Any) -> None:
    attested.world.list_measurement(measurement_id("worker", hardware.MEASUREMENT), 0)
    attested.world.mine()
    assert set(failed(await worker_report(attested)).values()) == {"attestation.measurement"}


async def test_evidence_may_be_demanded_before_a_call(attested: Any) -> None:
    asked: list[bytes] = []
    real = attested.gateway.evidence

    def counted(worker: bytes, nonce: bytes) -> Any:
        asked.append(nonce)
        return real(worker, nonce)

    attested.gateway.evidence = counted
    async with attested.client() as client:
        agent = await client.agent(attested.agent, demand=Demand(evidence=True))
        for _ in range(2):
            assert (await agent.get("/")).ok
        assert len(asked) == 1
        attested.gateway.evidence = lambda worker, nonce: real(worker, fresh())
        other = await client.agent(attested.agent, demand=Demand(evidence=True))
        assert (await other.get("/")).ok
    async with attested.client() as client:
        agent = await client.agent(attested.agent, demand=Demand(evidence=True))
        with pytest.raises(CloisterError) as caught:
            await agent.get("/")
    assert caught.value.code == "attestation.nonce"
    assert len(attested.one.ran) == 3


async def test_a_worker_that_is_not_registered_ends_the_report(attested: Any) -> None:
    async with attested.client() as client:
        report = await verify_worker(client, fresh()[:20])
    assert failed(report) == {2: "policy.worker_unknown"}


def test_a_report_without_steps_is_not_accepted() -> None:
    assert not Report("nothing").ok
    with pytest.raises(RuntimeError):
        Report("nothing").require()


def test_receipts_are_what_the_core_calls_receipts() -> None:
    assert Receipt.__module__ == "cloister.core.receipts.receipt"
