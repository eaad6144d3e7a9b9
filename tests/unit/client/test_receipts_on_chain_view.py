"""A receipt against the roots on chain: found by proof, one log with what was witnessed, and the same from a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.client.anchored import BAD_BUNDLE, Anchor, Bundle, find_root, is_bundle
from cloister.client.receipts import Kept, Ledger
from cloister.client.verify import Report, verify_anchored_receipt, verify_receipt_bundle
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import CloisterError
from cloister.core.receipts.log import LogProof
from cloister.core.receipts.merkle import leaf_hash, root_of
from support.fake_world import STRANGERS, World, fresh

STEPS = [
    "receipt.malformed",
    "envelope.not_leased",
    "receipt.signature",
    "receipt.not_included",
    "chainview.stale",
    "receipt.not_anchored",
    "receipt.not_consistent",
    "client.worker_not_admitted",
]


def worker_of(net: Any, kept: Kept) -> Any:
    return next(w for w in (net.one, net.two) if w.address == kept.receipt.worker)


def root_over(worker: Any, size: int) -> bytes:
    return root_of([leaf_hash(one.id) for one in worker.issued[:size]])


def recorded(net: Any, worker: Any, size: int, **lie: Any) -> int:
    """The root of a log's first receipts on chain, in a new block."""
    fields = {"worker": worker.address, "boot": worker.boot, "root": root_over(worker, size), "size": size, **lie}
    index: int = net.world.add_root(**fields)
    net.world.mine()
    return index


async def called(net: Any, witnessed: int | None = None, neighbours: int = 4) -> Kept:
    """A call's receipt, number 2 of its boot at least, with its place in a log of ``witnessed`` receipts."""
    for worker in (net.one, net.two):
        worker.neighbours = neighbours
    async with net.client() as client:
        assert (await (await client.agent(net.agent)).post("/", body=b"x")).ok
        kept = next(Ledger(client.home).newest())
    proof = LogProof.from_json(worker_of(net, kept).proof(kept.receipt.id, witnessed))
    return kept.with_proof(proof)


async def judged(net: Any, kept: Kept) -> tuple[Report, Bundle | None]:
    async with net.client() as client:
        return await verify_anchored_receipt(client, kept)


def failed(report: Report) -> dict[int, str]:
    return {step.number: step.code for step in report.steps if not step.ok}


@pytest.mark.parametrize(
    ("witnessed", "on_chain"), [(5, 5), (5, 3), (3, 5), (1, 5)], ids=["equal", "shorter", "longer", "first and longer"]
)
async def test_a_receipt_is_below_a_root_on_chain(witnessed: int, on_chain: int, chained: Any) -> None:
    kept = await called(chained, witnessed)
    recorded(chained, worker_of(chained, kept), on_chain)
    report, bundle = await judged(chained, kept)
    assert failed(report) == {}
    assert [step.code for step in report.steps] == STEPS
    assert report.facts["size"] == on_chain
    assert bundle is not None
    offline = await verify_receipt_bundle(Bundle.parse(bundle.encode()), chained.world.network)
    assert failed(offline) == {}
    assert any("offline" in note for note in offline.notes)


async def test_the_first_root_that_covers_it_is_found_among_many(chained: Any) -> None:
    for _ in range(40):  # before the call, of other boots
        chained.world.add_root(chained.one.address, fresh(), fresh(), 9)
        chained.world.add_root(chained.two.address, fresh(), fresh(), 9)
        chained.world.mine()
    kept = await called(chained)
    worker, seq = worker_of(chained, kept), kept.receipt.seq
    for _ in range(35):  # after it, of another boot first
        recorded(chained, worker, 3, boot=fresh())
    wanted = recorded(chained, worker, seq + 1)
    recorded(chained, worker, 5)
    async with chained.client() as client:
        assert await find_root(await client.resolver.view(), kept.receipt) == wanted == 75
    report, _ = await judged(chained, kept)
    assert failed(report) == {}


# --- lies: what the chain says, what the gateway says ---


async def test_a_root_of_another_log_does_not_cover_it(chained: Any) -> None:
    kept = await called(chained)
    recorded(chained, worker_of(chained, kept), 5, boot=fresh())
    report, bundle = await judged(chained, kept)
    assert (failed(report), bundle) == ({6: "receipt.not_anchored"}, None)


async def test_another_root_of_the_same_log_and_length_is_a_fork(chained: Any) -> None:
    kept = await called(chained)
    recorded(chained, worker_of(chained, kept), 5, root=fresh())
    assert failed((await judged(chained, kept))[0]) == {7: "receipt.not_consistent"}


@pytest.mark.parametrize("on_chain", [3, 5])
async def test_a_forked_root_of_another_length_shows(on_chain: int, chained: Any) -> None:
    kept = await called(chained, 4)
    recorded(chained, worker_of(chained, kept), on_chain, root=fresh())
    assert failed((await judged(chained, kept))[0]) == {7: "receipt.not_consistent"}


async def test_a_forged_path_from_one_log_to_the_other_is_refused(chained: Any, monkeypatch: Any) -> None:
    kept = await called(chained, 5)
    recorded(chained, worker_of(chained, kept), 3)

    async def forged(self: Any, receipt_id: bytes, old: int, new: int) -> dict[str, Any]:
        return {"path": "0x" + "17" * 64}

    monkeypatch.setattr("cloister.client.gateway.Gateway.receipt_consistency", forged)
    assert failed((await judged(chained, kept))[0]) == {7: "receipt.not_consistent"}


async def test_a_head_that_is_not_anchored_yet_is_named_with_when_to_ask_again(chained: Any) -> None:
    kept = await called(chained)
    report, bundle = await judged(chained, kept)
    assert (failed(report), bundle) == ({6: "receipt.not_anchored"}, None)
    step = report.steps[-1]
    assert "ten minutes" in step.remedy
    assert f"number {kept.receipt.seq}" in step.found
    if kept.receipt.seq:
        recorded(chained, worker_of(chained, kept), kept.receipt.seq)  # all before it, but not this one
        assert failed((await judged(chained, kept))[0]) == {6: "receipt.not_anchored"}


async def test_without_a_witnessed_head_nothing_is_asked_of_the_chain(chained: Any) -> None:
    kept = replace(await called(chained), proof=None)
    report, _ = await judged(chained, kept)
    assert failed(report) == {4: "receipt.not_included"}


async def test_a_network_without_the_contract_says_so(net: Any) -> None:
    report, _ = await judged(net, await called(net))
    assert failed(report) == {6: "client.no_receipts_contract"}


async def test_a_removed_worker_is_refused_and_an_earlier_boot_is_not(chained: Any) -> None:
    kept = await called(chained)
    worker = worker_of(chained, kept)
    recorded(chained, worker, 5)
    chained.world.set_worker(worker.key, fresh(), worker.vendor)  # it was started again
    chained.world.mine()
    report, _ = await judged(chained, kept)
    assert failed(report) == {}
    assert "earlier boot" in report.steps[-1].found
    chained.world.set_worker(worker.key, fresh(), worker.vendor, removed=True)
    chained.world.mine()
    assert failed((await judged(chained, kept))[0]) == {8: "client.worker_not_admitted"}


# --- the file ---


async def bundled(net: Any) -> Bundle:
    kept = await called(net, 5)
    recorded(net, worker_of(net, kept), 3)
    bundle = (await judged(net, kept))[1]
    assert bundle is not None
    return bundle


def strangers(net: Any, found: Anchor) -> Anchor:
    return replace(found, checkpoint=net.world.sign(found.checkpoint.statement, STRANGERS[:3]))


def other_block(net: Any, found: Anchor) -> Anchor:
    said = found.checkpoint.statement
    assert isinstance(said, Checkpoint)
    return replace(found, checkpoint=net.world.sign(replace(said, state_root=fresh())))


def other_number(net: Any, found: Anchor) -> Anchor:
    return replace(found, index=found.index + 1)


def no_answers(net: Any, found: Anchor) -> Anchor:
    return replace(found, answers=())


def other_value(net: Any, found: Anchor) -> Anchor:
    said = json.loads(json.dumps(found.to_json()["answers"]))
    said[0]["storageProof"][1]["value"] = "0x7"
    return replace(found, answers=tuple(said))


def cut_proof(net: Any, found: Anchor) -> Anchor:
    said = json.loads(json.dumps(found.to_json()["answers"]))
    said[0]["accountProof"] = said[0]["accountProof"][:-1]
    return replace(found, answers=tuple(said))


def no_path(net: Any, found: Anchor) -> Anchor:
    return replace(found, path=())


BAD_ANCHORS: dict[str, tuple[Callable[[Any, Anchor], Anchor], int, str]] = {
    "strangers signed the checkpoint": (strangers, 6, "encoding.signature"),
    "the checkpoint is of another state": (other_block, 6, "chainview.proof"),
    "it names another root": (other_number, 6, "chainview.proof"),
    "it has no proofs": (no_answers, 6, "chain.bad_answer"),
    "a value is not the proven one": (other_value, 6, "chainview.proof"),
    "the proof of the contract is cut": (cut_proof, 6, "chainview.proof"),
    "the path between the logs is missing": (no_path, 7, "receipt.not_consistent"),
}


async def test_a_file_that_lies_fails_at_the_step_that_says_why(chained: Any) -> None:
    bundle = await bundled(chained)
    for sentence, (change, step, code) in BAD_ANCHORS.items():
        spoilt = replace(bundle, anchor=change(chained, bundle.anchor))
        report = await verify_receipt_bundle(spoilt, chained.world.network)
        assert failed(report) == {step: code}, sentence


async def test_a_file_with_a_receipt_beyond_its_root_is_refused(chained: Any) -> None:
    chained.gateway.offer(chained.agent, chained.one)  # one worker, one log
    bundle = await bundled(chained)
    later = await called(chained)
    assert later.receipt.seq == 5
    report = await verify_receipt_bundle(replace(bundle, kept=later), chained.world.network)
    assert failed(report) == {7: "receipt.not_anchored"}


async def test_a_file_is_judged_under_the_network_that_is_pinned(chained: Any) -> None:
    bundle = await bundled(chained)
    other = World(now=5).network
    assert not (await verify_receipt_bundle(bundle, other)).ok


async def test_garbage_is_no_bundle_and_every_field_is_needed(chained: Any) -> None:
    bundle = await bundled(chained)
    good = json.loads(bundle.encode())
    assert is_bundle(bundle.encode())
    assert Bundle.parse(bundle.encode()).encode() == bundle.encode()
    assert not is_bundle(json.dumps(bundle.kept.to_json()).encode())
    for name in good:
        with pytest.raises(CloisterError):
            Bundle.parse(json.dumps({k: v for k, v in good.items() if k != name}).encode())
    for change in (
        {"version": 2},
        {"cloister": "another"},
        {"handovers": "none"},
        {"handovers": [1]},
        {"network": 7},
        {"anchor": {**good["anchor"], "answers": "none"}},
        {"anchor": {**good["anchor"], "answers": [{}] * 5}},
        {"anchor": {**good["anchor"], "index": -1}},
        {"anchor": {**good["anchor"], "path": "0x12"}},
        {"anchor": {**good["anchor"], "checkpoint": {"statement": {}, "signatures": []}}},
        {"anchor": {**good["anchor"], "checkpoint": {**good["anchor"]["checkpoint"], "signatures": ["0x00"] * 999}}},
        {"receipt": {k: v for k, v in good["receipt"].items() if k != "proof"}},
    ):
        with pytest.raises(CloisterError):
            Bundle.parse(json.dumps({**good, **change}).encode())


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_ours(data: bytes) -> None:
    with pytest.raises(CloisterError):
        Bundle.parse(data)
    with pytest.raises(CloisterError):
        Bundle.parse(b'{"cloister":"receipt bundle","version":1}' + data)
    assert BAD_BUNDLE.code == "client.receipt_bundle"
