"""Kept receipts, judged by the TypeScript client: by what was saved, by the chain, from a file. Codes are Python's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.client.anchored import Anchor, Bundle
from cloister.client.anchored import anchor as anchor_of
from cloister.client.client import Client
from cloister.client.receipts import Kept
from cloister.core.encoding.statements import Checkpoint
from cloister.core.receipts.log import LogProof
from cloister.core.receipts.merkle import leaf_hash, root_of
from support.fake_gateway import FakeGateway, FakeWorker, serving
from support.fake_world import CONTRACTS, STRANGERS, World, fresh, test_key
from support.typescript import Driver

SECOND = tuple(test_key(f"second {i}") for i in range(5))


@pytest.fixture
def net(typescript: Driver, make_net: Callable[..., Any]) -> Iterator[Any]:
    """A network with a Receipts contract."""
    world = World(contracts=(*CONTRACTS, "Receipts"))
    agent = world.set_agent()
    one = FakeWorker(world, "one", "intel", neighbours=4)
    gateway = FakeGateway(world, [one])
    world.mine()
    gateway.offer(agent)
    with serving(gateway):
        made = make_net(world, gateway, one, one, agent, typescript)
        made.connect()
        yield made


def code(result: dict[str, Any]) -> str:
    assert "error" in result, result
    return str(result["error"]["code"])


def recorded(net: Any, size: int, **lie: Any) -> int:
    """The root of the log's first receipts on chain, in a new block."""
    root = root_of([leaf_hash(one.id) for one in net.one.issued[:size]])
    fields = {"worker": net.one.address, "boot": net.one.boot, "root": root, "size": size, **lie}
    index: int = net.world.add_root(**fields)
    net.world.mine()
    return index


def called(net: Any, witnessed: int | None = None) -> dict[str, Any]:
    """A call's receipt as it was kept; the gateway has its place in a log of so many receipts."""
    kept: dict[str, Any] = net.call(json={})["ok"]["kept"]
    receipt_id = Kept.from_json(kept).receipt.id
    net.gateway.proofs[receipt_id] = net.one.proof(receipt_id, witnessed)
    return kept


def shown(net: Any, kept: dict[str, Any], on_chain: bool = True) -> dict[str, Any]:
    return net.typescript.do("receipt", kept=kept, onChain=on_chain)  # type: ignore[no-any-return]


def saved(net: Any, kept: dict[str, Any], **offline: Any) -> dict[str, Any]:
    network = net.world.network
    given = {"network": network.encode().decode(), "fingerprint": network.fingerprint(), **offline}
    return net.typescript.do("saved", kept=kept, **given)  # type: ignore[no-any-return]


def opened(net: Any, file: str, fingerprint: str | None = None) -> dict[str, Any]:
    print_ = fingerprint or net.world.network.fingerprint()
    return net.typescript.do("bundle", file=file, fingerprint=print_)  # type: ignore[no-any-return]


# --- by the chain ---


def test_a_receipt_is_below_a_root_on_chain_whichever_log_is_longer(net: Any) -> None:
    for witnessed, on_chain in ((5, 5), (10, 7), (11, 15), (16, 20)):
        kept = called(net, witnessed)
        index = recorded(net, on_chain)
        result = shown(net, kept)["ok"]
        assert (result["witnessed"], result["size"], result["index"]) == (witnessed, on_chain, index)
        assert result["block"] == net.world.number
    assert shown(net, called(net), on_chain=False)["ok"]["index"] is None


@pytest.mark.long
def test_the_first_root_that_covers_it_is_found_among_many(net: Any) -> None:
    for _ in range(40):  # before the call, of other boots
        net.world.add_root(net.one.address, fresh(), fresh(), 9)
        net.world.mine()
    kept = called(net)
    for _ in range(35):  # after it, of another boot first
        recorded(net, 3, boot=fresh())
    wanted = recorded(net, 1)
    recorded(net, 5)
    assert shown(net, kept)["ok"]["index"] == wanted == 75


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "no root yet": ({"size": 0}, "receipt.not_anchored"),
    "a root of another boot": ({"boot": b"\x09" * 32}, "receipt.not_anchored"),
    "another root of the same length": ({"root": b"\x09" * 32}, "receipt.not_consistent"),
    "a forked root of another length": ({"root": b"\x09" * 32, "size": 3}, "receipt.not_consistent"),
}


@pytest.mark.parametrize("sentence", LIES)
def test_what_the_chain_does_not_say_is_refused(sentence: str, net: Any) -> None:
    lie, expected = LIES[sentence]
    kept = called(net)
    recorded(net, lie.get("size", 5), **{n: v for n, v in lie.items() if n != "size"})
    assert code(shown(net, kept)) == expected


def test_lies_of_the_gateway_are_refused(net: Any) -> None:
    kept = called(net, 4)
    receipt_id = Kept.from_json(kept).receipt.id
    recorded(net, 5)
    good = net.gateway.proofs.pop(receipt_id)
    assert code(shown(net, kept)) == "client.bad_answer", "nobody shows its place in a log"
    for change, expected in (
        ({"index": 1}, "receipt.other_log"),
        ({"path": "0x" + "17" * 64}, "receipt.not_included"),
        ({"head": {**good["head"], "signatures": good["head"]["signatures"][:3]}}, "encoding.too_few_signers"),
    ):
        net.gateway.proofs[receipt_id] = {**good, **change}
        assert code(shown(net, kept)) == expected
    net.gateway.proofs[receipt_id] = good
    assert "ok" in shown(net, kept)
    net.gateway.consistency = lambda path: path[:-1]
    assert code(shown(net, kept)) == "receipt.not_consistent"


def test_a_removed_worker_is_refused_and_an_earlier_boot_only_without_a_root(net: Any) -> None:
    kept = called(net)
    recorded(net, 5)
    net.world.set_worker(net.one.key, fresh(), "intel")  # it was started again
    net.world.mine()
    assert "ok" in shown(net, kept)
    assert code(shown(net, kept, on_chain=False)) == "client.worker_not_admitted"
    net.world.set_worker(net.one.key, fresh(), "intel", removed=True)
    net.world.mine()
    assert code(shown(net, kept)) == "client.worker_not_admitted"


# --- by what was saved ---


def test_a_saved_receipt_is_checked_with_nobody_there(net: Any) -> None:
    kept = called(net)
    assert saved(net, kept)["ok"]["witnessed"] is None
    with_proof = Kept.from_json(kept).with_proof(LogProof.from_json(net.one.proof(Kept.from_json(kept).receipt.id)))
    result = saved(net, with_proof.to_json())["ok"]
    assert (result["witnessed"], result["seq"]) == (5, Kept.from_json(kept).receipt.seq)
    assert code(saved(net, kept, fingerprint="00" * 32)) == "encoding.fingerprint"
    for change, expected in (
        ({"receipt": kept["receipt"].replace('"status":200', '"status":201')}, "receipt.signature"),
        ({"receipt": "{}"}, "receipt.malformed"),
        ({"signature": "0x" + "00" * 65}, "receipt.signature"),
        ({"salt": "0x"}, "encoding.hex"),
        ({"extra": 1}, "encoding.field"),
        ({"seat": {**kept["seat"], "certificate_signature": "0x" + "00" * 65}}, "encoding.signature"),
    ):
        assert code(saved(net, {**kept, **change})) == expected, change


# --- from a file ---


async def bundled(net: Any, home: Path) -> Bundle:
    """What `cloister receipts ID --export` writes of a receipt that the TypeScript client kept."""
    kept = Kept.from_json(called(net, 5))
    recorded(net, 3)
    kept = kept.with_proof(LogProof.from_json(net.gateway.proofs[kept.receipt.id]))
    fingerprint = net.world.network.fingerprint()
    async with Client(net.gateway.url, fingerprint=fingerprint, home=home, clock=lambda: net.world.now) as client:
        found = await anchor_of(client, await client.resolver.view(), kept)
        return Bundle(client.network.encode(), client.resolver.walk.terms.told, kept, found)


def other_value(found: Anchor) -> Anchor:
    said = json.loads(json.dumps(found.to_json()["answers"]))
    said[0]["storageProof"][1]["value"] = "0x7"
    return replace(found, answers=tuple(said))


def cut_proof(found: Anchor) -> Anchor:
    said = json.loads(json.dumps(found.to_json()["answers"]))
    said[0]["accountProof"] = said[0]["accountProof"][:-1]
    return replace(found, answers=tuple(said))


async def test_a_file_is_checked_with_nobody_there_and_its_lies_are_named(net: Any, tmp_path: Path) -> None:
    bundle = await bundled(net, tmp_path)
    world, found = net.world, bundle.anchor
    result = opened(net, bundle.encode().decode())["ok"]
    assert (result["size"], result["index"], result["witnessed"]) == (3, 0, 5)
    said = found.checkpoint.statement
    assert isinstance(said, Checkpoint)
    assert result["block"] == said.number
    lies: dict[str, tuple[Anchor, str]] = {
        "strangers signed the checkpoint": (
            replace(found, checkpoint=world.sign(said, STRANGERS[:3])),
            "encoding.signature",
        ),
        "the checkpoint is of another state": (
            replace(found, checkpoint=world.sign(replace(said, state_root=fresh()))),
            "chainview.proof",
        ),
        "it names another root": (replace(found, index=1), "chainview.proof"),
        "it has no proofs": (replace(found, answers=()), "chain.bad_answer"),
        "a value is not the proven one": (other_value(found), "chainview.proof"),
        "the proof of the contract is cut": (cut_proof(found), "chainview.proof"),
        "the path between the logs is missing": (replace(found, path=()), "receipt.not_consistent"),
    }
    for sentence, (spoilt, expected) in lies.items():
        assert code(opened(net, replace(bundle, anchor=spoilt).encode().decode())) == expected, sentence
    assert code(opened(net, bundle.encode().decode(), "00" * 32)) == "encoding.fingerprint"


@pytest.mark.long
async def test_garbage_is_no_bundle_and_every_field_is_needed(net: Any, tmp_path: Path) -> None:
    good = json.loads((await bundled(net, tmp_path)).encode())
    for bad in ("", "{}", "[]", "no JSON", json.dumps(good["receipt"])):
        assert code(opened(net, bad)) == "encoding.field"
    for name in good:
        assert code(opened(net, json.dumps({k: v for k, v in good.items() if k != name}))) == "encoding.field"
    for change in (
        {"version": 2},
        {"cloister": "another"},
        {"handovers": "none"},
        {"network": 7},
        {"anchor": {**good["anchor"], "answers": "none"}},
        {"anchor": {**good["anchor"], "answers": [{}] * 5}},
        {"anchor": {**good["anchor"], "answers": [1]}},
        {"receipt": {k: v for k, v in good["receipt"].items() if k != "proof"}},
    ):
        assert code(opened(net, json.dumps({**good, **change}))) == "client.receipt_bundle", change


@pytest.mark.long
async def test_a_file_brings_the_hand_overs_that_it_needs(net: Any, tmp_path: Path) -> None:
    net.world.hand_over(SECOND)
    net.gateway.offer(net.agent)
    net.world.now += 1
    net.typescript.ok("clock", now=net.world.now)
    bundle = await bundled(net, tmp_path)
    assert len(bundle.handovers) == 1
    assert opened(net, bundle.encode().decode())["ok"]["size"] == 3
    assert code(opened(net, replace(bundle, handovers=()).encode().decode())) == "chainview.unknown_term"
