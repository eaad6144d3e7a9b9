"""Batched receipts and saved proofs in the client and its command line: checked, kept, fetched, verified offline."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.client.receipts import Kept, Ledger
from cloister.client.verify import verify_kept_receipt, verify_saved_receipt, with_proof
from cloister.core.errors import CloisterError
from cloister.core.receipts.batch import BatchPath
from cloister.core.receipts.log import LogProof


async def called(net: Any, neighbours: int = 4) -> Kept:
    """One call's kept receipt, signed together with others."""
    for worker in (net.one, net.two):
        worker.neighbours = neighbours
    async with net.client() as client:
        assert (await (await client.agent(net.agent)).post("/", body=b"x")).ok
        return next(Ledger(client.home).newest())


def worker_of(net: Any, kept: Kept) -> Any:
    return next(w for w in (net.one, net.two) if w.boot == kept.receipt.boot)


async def test_a_batched_receipt_is_verified_and_kept_with_its_path(net: Any) -> None:
    kept = await called(net)
    assert kept.batch is not None
    assert kept.batch.size == 5
    assert Kept.from_json(json.loads(json.dumps(kept.to_json()))) == kept
    alone = await called(net, 0)
    assert alone.batch is None
    assert "batch" not in alone.to_json()


LIES: dict[str, tuple[Callable[[BatchPath], BatchPath], str]] = {
    "a path for another receipt": (lambda p: replace(p, path=(bytes(32), *p.path[1:])), "receipt.signature"),
    "a path too short": (lambda p: replace(p, path=p.path[:-1]), "receipt.not_included"),
    "a batch that begins later": (lambda p: replace(p, first=p.first + 1), "receipt.batch"),
    "a batch of another size": (lambda p: replace(p, size=p.size + 3), "receipt.signature"),
}


@pytest.mark.parametrize("sentence", LIES)
async def test_an_answer_is_refused_with(sentence: str, net: Any) -> None:
    lie, code = LIES[sentence]
    for worker in (net.one, net.two):
        worker.rebatch = lie
    with pytest.raises(CloisterError) as caught:
        await called(net)
    assert caught.value.code == code


async def test_a_proof_is_fetched_checked_and_saved(net: Any) -> None:
    kept = await called(net)
    async with net.client() as client:
        assert (await with_proof(client, kept)).proof is None  # nobody has one yet
        net.gateway.proofs[kept.receipt.id] = worker_of(net, kept).proof(kept.receipt.id)
        proven = await with_proof(client, kept)
        assert proven.proof is not None
        report = await verify_kept_receipt(client, proven)
        report.require()
        assert "receipt.not_included" in [step.code for step in report.steps]
    saved = Kept.parse(json.dumps(proven.to_json()).encode())
    offline = await verify_saved_receipt(net.world.network, saved)
    offline.require()
    assert any("offline" in note for note in offline.notes)


async def test_a_proof_that_does_not_hold_is_not_taken_over(net: Any) -> None:
    kept = await called(net)
    worker = worker_of(net, kept)
    wrong = [
        worker.proof(kept.receipt.id, boot=bytes(32)),
        worker.proof(kept.receipt.id, root=bytes(32)),
        worker.proof(kept.receipt.id, term=9),
        worker.proof(worker.issued[1].id),
        {"index": 0},
    ]
    async with net.client() as client:
        for one in wrong:
            net.gateway.proofs[kept.receipt.id] = one
            assert (await with_proof(client, kept)).proof is None


async def test_a_saved_proof_that_was_changed_fails_the_report(net: Any) -> None:
    kept = await called(net)
    good = worker_of(net, kept).proof(kept.receipt.id)
    spoilt = LogProof.from_json({**good, "path": "0x" + "00" * 32 * 3})
    report = await verify_saved_receipt(net.world.network, kept.with_proof(spoilt))
    assert not report.ok
    assert report.steps[-1].code == "receipt.not_included"
    bare = await verify_saved_receipt(net.world.network, kept)
    assert bare.ok
    assert any("without a proof" in note for note in bare.notes)


@pytest.mark.parametrize("field", ["raw", "signature", "batch"])
async def test_a_changed_receipt_fails_offline(field: str, net: Any) -> None:
    kept = await called(net)
    assert kept.batch is not None
    changes: dict[str, Any] = {
        "raw": kept.raw.replace(b'"status":200', b'"status":201'),
        "signature": bytes([kept.signature[0] ^ 1]) + kept.signature[1:],
        "batch": replace(kept.batch, path=kept.batch.path[::-1]),
    }
    report = await verify_saved_receipt(net.world.network, replace(kept, **{field: changes[field]}))
    assert not report.ok
    assert report.steps[-1].code == "receipt.signature"


async def test_a_file_of_the_older_form_still_reads(net: Any, tmp_path: Path) -> None:
    kept = await called(net, 0)
    old = {name: kept.to_json()[name] for name in ("receipt", "signature", "salt", "seat", "at")}
    assert Kept.from_json(old) == kept
    with pytest.raises(CloisterError):
        Kept.from_json({**old, "more": 1})
