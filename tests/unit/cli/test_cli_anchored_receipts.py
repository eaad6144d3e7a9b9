"""``verify receipt --on-chain`` and ``receipts ID --export``: against the chain, then from the file alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cloister.core.receipts.merkle import leaf_hash, root_of
from support.fake_gateway import FakeGateway


def receipt_of(run: Any, net: Any) -> tuple[str, Any]:
    """A call's receipt id, and the worker that gave it: everything that it issued is witnessed."""
    assert run("call", "0x" + net.agent.hex(), "/", net=net).exit_code == 0
    (row,) = json.loads(run("receipts", "--json").stdout)
    worker = next(one for one in net.workers if one.issued)
    gateway: FakeGateway = net.gateway
    gateway.proofs[worker.issued[0].id] = worker.proof(worker.issued[0].id)
    return row["id"], worker


def record(net: Any, worker: Any) -> None:
    net.world.add_root(worker.address, worker.boot, root_of([leaf_hash(r.id) for r in worker.issued]), 1)
    net.world.mine()


def test_a_receipt_goes_against_the_chain_and_into_a_file(run: Any, chained_net: Any, tmp_path: Path) -> None:
    name, worker = receipt_of(run, chained_net)
    early = run("verify", "receipt", name, "--on-chain", net=chained_net)
    assert early.exit_code != 0
    assert "ten minutes" in early.stderr
    file = tmp_path / "bundle.json"
    assert "(receipt.not_anchored)" in run("receipts", name, "--export", str(file), net=chained_net).stderr
    assert not file.exists()
    record(chained_net, worker)
    report = json.loads(run("verify", "receipt", name, "--on-chain", "--json", net=chained_net).stdout)
    assert report["ok"]
    assert len(report["steps"]) == 8
    made = run("receipts", name, "--export", str(file), net=chained_net)
    assert (made.exit_code, "salt" in made.stderr) == (0, True)
    assert file.stat().st_mode & 0o077 == 0
    pin = ("--fingerprint", chained_net.world.network.fingerprint())
    chained_net.gateway.checkpoint = None  # whoever asked would notice
    offline = json.loads(run(*pin, "verify", "receipt", str(file), "--offline", "--json").stdout)
    assert offline["ok"]
    assert [step["code"] for step in offline["steps"]][-2:] == ["receipt.not_anchored", "receipt.not_consistent"]


def test_a_file_without_the_pinned_fingerprint_is_not_judged(run: Any, chained_net: Any, tmp_path: Path) -> None:
    name, worker = receipt_of(run, chained_net)
    record(chained_net, worker)
    file = tmp_path / "bundle.json"
    assert run("receipts", name, "--export", str(file), net=chained_net).exit_code == 0
    elsewhere = ("--home", str(tmp_path / "elsewhere"))
    assert "(cli.no_network_file)" in run(*elsewhere, "verify", "receipt", str(file), "--offline").stderr
    wrong = run(*elsewhere, "--fingerprint", "11" * 32, "verify", "receipt", str(file), "--offline")
    assert "(encoding.fingerprint)" in wrong.stderr
    spoilt = json.loads(file.read_text())
    spoilt["anchor"]["path"] = "0x" + "22" * 32
    file.write_text(json.dumps(spoilt))
    pin = (*elsewhere, "--fingerprint", chained_net.world.network.fingerprint())
    told = run(*pin, "verify", "receipt", str(file), "--offline", "--json")
    assert told.exit_code != 0
    assert json.loads(told.stdout)["steps"][-1]["code"] == "receipt.not_consistent"


def test_a_receipt_alone_has_nothing_about_the_chain(run: Any, chained_net: Any, tmp_path: Path) -> None:
    name, _ = receipt_of(run, chained_net)
    file, network = tmp_path / "r.json", tmp_path / "network.json"
    file.write_text(run("receipts", name).stdout)
    network.write_bytes(chained_net.world.network.encode())
    pin = ("--network", str(network))
    assert "(client.receipt_bundle)" in run(*pin, "verify", "receipt", str(file), "--offline", "--on-chain").stderr
    assert "(client.receipt_unknown)" in run("receipts", "--export", str(tmp_path / "b.json")).stderr
