"""What ``--json`` prints, command by command: names and kinds of every field, so that scripts can rely on them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cloister.cli.app import app
from cloister.cli.project import new_project
from cloister.client import Wallet
from cloister.core.encoding.hexes import to_hex

HASH, ADDRESS, CHECKSUMMED = r"0x[0-9a-f]{64}", r"0x[0-9a-f]{40}", r"0x[0-9a-fA-F]{40}"
CHECK = {
    "number": int,
    "code": r"[a-z]+\.[a-z_0-9]+",
    "check": str,
    "expected": str,
    "found": str,
    "remedy": str,
    "ok": bool,
}
REPORT = {"subject": str, "ok": bool, "steps": [CHECK], "facts": dict, "notes": list}
AGENT = {
    "agent": HASH,
    "token_id": int,
    "owner": CHECKSUMMED,
    "paused": bool,
    "epoch": int,
    "upgrade": r"instant|frozen|delay \d+ blocks",
    "code_hash": HASH,
    "manifest_hash": HASH,
    "canary": type(None),
    "canary_share": type(None),
    "cluster": HASH,
    "account": CHECKSUMMED,
    "secrets_version": int,
}
LIMITS = {
    "guardian": type(None),
    "access_hook": type(None),
    "fee_payer": type(None),
    "emergency_until": int,
    "rules_version": int,
}
PROOF = {
    "network": HASH,
    "agent": HASH,
    "code_hash": HASH,
    "manifest_hash": HASH,
    "worker": ADDRESS,
    "boot": HASH,
    "vendor": str,
    "measurement": HASH,
    "checkpoint": int,
    "lease_expiry": int,
    "committee": int,
    "receipt_id": HASH,
}
WALLET = {"name": str, "address": CHECKSUMMED}

SHAPES: dict[tuple[str, ...], Any] = {
    ("agent", "list"): [AGENT],
    ("agent", "show", "1"): {**AGENT, **LIMITS, "seats": [{"worker": ADDRESS, "vendor": "intel|amd", "boot": HASH}]},
    ("agent", "secrets", "list", "1"): [],
    ("call", "1", "/x"): {
        "status": int,
        "headers": [[str]],
        "body": str,
        "request_id": r"0x[0-9a-f]{32}",
        "receipt": HASH,
        "proof": PROOF,
    },
    ("receipts",): [
        {
            "id": HASH,
            "when": r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ",
            "agent": HASH,
            "status": int,
            "worker": ADDRESS,
            "checkpoint": int,
        }
    ],
    ("verify", "network"): REPORT,
    ("verify", "agent", "1"): REPORT,
    ("status",): {"workers": int, "version": str},
    ("wallet", "list"): [WALLET],
}


def fits(value: Any, shape: Any, where: str = "$") -> None:
    """Assert that a JSON value has the shape: a type, a pattern for a text, an object of shapes, a list of a shape."""
    if isinstance(shape, dict):
        assert isinstance(value, dict), where
        assert set(value) == set(shape), (where, set(value) ^ set(shape))
        for name, inner in shape.items():
            fits(value[name], inner, f"{where}.{name}")
    elif isinstance(shape, list):
        assert isinstance(value, list), where
        assert bool(value) == bool(shape), where
        for i, inner in enumerate(value):
            fits(inner, shape[0], f"{where}[{i}]")
    elif isinstance(shape, str):
        assert isinstance(value, str), (where, value)
        assert re.fullmatch(shape, value), (where, value)
    else:
        assert type(value) is shape, (where, value)


@pytest.fixture(scope="module")
def used(shared_net: Any) -> Any:
    """The network after one call, with one wallet."""
    Wallet.create("alice", "words", home=shared_net.home, cost=1 << 8)
    assert CliRunner().invoke(app, [*shared_net.options, "call", "1", "/x"]).exit_code == 0
    return shared_net


@pytest.mark.parametrize("words", SHAPES, ids=" ".join)
def test_a_command_prints_one_document_of_its_shape(words: tuple[str, ...], run: Any, used: Any) -> None:
    result = run(*words, "--json", net=used)
    assert result.exit_code == 0, result.output
    fits(json.loads(result.stdout), SHAPES[words])
    assert "\x1b" not in result.stdout


def test_a_built_agents_facts(run: Any, tmp_path: Path) -> None:
    folder = new_project("hello", "minimal", tmp_path)
    result = run("agent", "build", str(folder), "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    manifest = facts.pop("manifest")
    fits(facts, {"code_hash": HASH, "manifest_hash": HASH, "bundle_bytes": int})
    assert (manifest["entry"], manifest["upgrade"]) == ("fetch", {"rule": "delay", "blocks": 100})


def test_one_receipt_whole_is_what_verify_takes(run: Any, used: Any, tmp_path: Path) -> None:
    listed = json.loads(run("receipts", "--json", net=used).stdout)
    whole = run("receipts", listed[0]["id"][:10], net=used)
    shown = json.loads(whole.stdout)
    seat = shown.pop("seat")
    fits(shown, {"receipt": str, "signature": r"0x[0-9a-f]{130}", "salt": HASH, "at": int})
    assert {"certificate", "lease"} <= set(seat)
    (tmp_path / "r.json").write_text(whole.stdout)
    report = json.loads(run("verify", "receipt", str(tmp_path / "r.json"), "--json", net=used).stdout)
    fits(report, REPORT)
    assert report["subject"] == f"receipt {listed[0]['id']}"


def test_tables_cut_long_hex_and_json_does_not(run: Any, used: Any) -> None:
    agent = to_hex(used.agent)
    text = run("agent", "list", net=used).stdout
    assert f"{agent[:18]}…" in text
    assert agent not in text
    assert agent in run("agent", "list", "--json", net=used).stdout
    header, row = (line.split() for line in text.splitlines())
    assert header == ["token", "id", "agent", "owner", "paused", "upgrade", "code", "hash"]
    assert row[0] == "1"


def test_a_receipt_cut_in_a_table_is_found_by_what_the_table_shows(run: Any, used: Any) -> None:
    """Copying `0x1234abcd…` from the table works, dots and all."""
    shown = run("receipts", net=used).stdout.splitlines()[1].split()[0]
    assert shown.endswith("…")
    assert run("receipts", shown, net=used).exit_code == 0
    assert run("verify", "receipt", shown, net=used).exit_code == 0


def test_stream_and_json_together_are_one_document(run: Any, used: Any) -> None:
    result = run("call", "1", "/x", "--stream", "--json", net=used)
    fits(json.loads(result.stdout), SHAPES["call", "1", "/x"])


def test_the_answers_bytes_are_printed_as_they_are(run: Any, used: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = bytes(range(256)) * 3
    for worker in used.workers:
        monkeypatch.setattr(worker, "handler", lambda r: (200, (), [raw[:100], raw[100:]]))
    for more in ((), ("--stream",)):
        assert run("call", "1", *more, net=used).stdout_bytes == raw
    facts = json.loads(run("call", "1", "--json", net=used).stdout)
    assert facts["body"] == raw.decode("utf-8", "replace")
