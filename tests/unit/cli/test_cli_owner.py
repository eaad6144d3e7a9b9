"""An owner's commands over a real development chain, as in the quickstart."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloister.cli.project import new_project
from cloister.client.home import write_private
from cloister.core.encoding.signatures import address_of
from cloister.core.keys.keystore import encrypt_key
from support.anvil import TestChain
from support.fake_gateway import serving
from support.live_gateway import LiveGateway, live_gateway


@pytest.fixture
def devnet(chain: TestChain) -> Iterator[LiveGateway]:
    """A home with devnet.json and a funded owner, as ``cloister up`` leaves it."""
    gateway = asyncio.run(live_gateway(chain))
    home = Path(os.environ["CLOISTER_HOME"])
    owner = chain.fund(chain.keys[2])
    document = encrypt_key(owner.secret, "the owner's words", os.urandom, 1 << 8)
    write_private(home / "owner.keystore.json", json.dumps(document).encode())
    write_private(home / "owner.passphrase", b"the owner's words")
    with serving(gateway):
        facts = {
            "gateway": gateway.url,
            "fingerprint": gateway.parsed.fingerprint(),
            "owner_keystore": str(home / "owner.keystore.json"),
            "owner_passphrase_file": str(home / "owner.passphrase"),
        }
        write_private(home / "devnet.json", json.dumps(facts).encode())
        yield gateway


def facts(result: Any) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def until(run: Any, token: str, name: str, value: Any) -> Any:
    """The agent's record, once it says so by proof."""
    for _ in range(100):
        result = run("agent", "show", token, "--json")
        if result.exit_code == 0 and json.loads(result.stdout)[name] == value:
            return json.loads(result.stdout)
        time.sleep(0.1)
    raise AssertionError(f"{name} did not become {value}: {result.output}")


def test_deploy_pause_secrets_resume(run: Any, devnet: LiveGateway, chain: TestChain, tmp_path: Path) -> None:
    folder = new_project("hello", "minimal", tmp_path)
    done = facts(run("agent", "deploy", str(folder), "--no-wait", "--json"))
    token = str(done["token_id"])
    shown = until(run, token, "paused", False)
    assert shown["owner"].lower() == "0x" + address_of(chain.keys[2]).hex()
    assert shown["upgrade"] == "delay 100 blocks"
    assert shown["why_no_seat"].startswith("client.no_seat")
    assert [r["token_id"] for r in facts(run("agent", "list", "--mine", "--json"))] == [done["token_id"]]

    assert facts(run("agent", "pause", token, "--json"))["paused"] is True
    until(run, token, "paused", True)
    assert "(policy.paused)" in run("call", token).stderr
    assert facts(run("agent", "resume", token, "--json"))["paused"] is False

    assert "has no secrets" in run("agent", "secrets", "list", token).stderr
    result = run("agent", "secrets", "set", token, "API_KEY", "--json", input="hunter2\n")
    put = facts(result)
    assert "does not declare API_KEY" in result.stderr
    assert (put["version"], put["names"]) == (1, ["API_KEY"])
    until(run, token, "secrets_version", 1)
    listed = facts(run("agent", "secrets", "list", token, "--json"))
    assert (listed["names"], listed["hash"]) == (["API_KEY"], put["hash"])
    assert run("agent", "secrets", "set", token, "A", "B", "--fd", "3").exit_code == 2
    assert all(b"hunter2" not in blob for blob in devnet.world.blobs.values())

    network = run("verify", "network")
    assert network.exit_code == 0, network.output
    report = json.loads(run("verify", "agent", token, "--json").stdout)
    assert [s["code"] for s in report["steps"] if not s["ok"]] == ["client.no_seat"]


def test_update_rollback_and_what_the_folder_remembers(run: Any, devnet: LiveGateway, tmp_path: Path) -> None:
    folder = new_project("hello", "minimal", tmp_path)
    (folder / "cloister.json").write_text('{"upgrade": {"rule": "delay", "blocks": 2}}')
    first = facts(run("agent", "deploy", str(folder), "--no-wait", "--json"))
    token = str(first["token_id"])
    until(run, token, "code_hash", first["code_hash"])
    assert "(client.same_code)" in run("agent", "update", token, str(folder)).stderr

    agent = folder / "agent.ts"
    agent.write_text(agent.read_text().replace('"world"', '"again"'))
    second = facts(run("agent", "update", token, str(folder), "--json"))
    assert second["ready_at"] == second["block"] + 2
    applied = when_ready(run, "agent", "update", token, str(folder), "--apply", "--json")
    assert (applied["code_hash"], applied["ready_at"]) == (second["code_hash"], None)
    until(run, token, "code_hash", second["code_hash"])

    back = facts(run("agent", "rollback", token, str(folder), "--json"))
    assert back["code_hash"] == first["code_hash"]
    assert facts(run("agent", "update", token, str(folder), "--cancel", "--json"))["cancelled"] is True
    assert "(client.nothing_waits)" in run("agent", "update", token, "--apply").stderr
    again = facts(run("agent", "rollback", token, str(folder), "--to", first["code_hash"], "--json"))
    when_ready(run, "agent", "update", token, str(folder), "--apply", "--json")
    until(run, token, "code_hash", first["code_hash"])

    kept = facts(run("agent", "versions", str(folder), "--json"))
    hashes = [first["code_hash"], *[second["code_hash"]] * 2, *[first["code_hash"]] * 3]
    assert [one["code_hash"] for one in kept] == hashes
    assert again in kept
    assert "(client.no_version)" in run("agent", "rollback", token, str(folder), "--to", "0x" + "ab" * 32).stderr
    assert "(client.no_version)" in run("agent", "rollback", token, str(tmp_path)).stderr
    assert run("agent", "update", token, "--apply", "--cancel").exit_code == 2

    (folder / "cloister.json").write_text('{"upgrade": {"rule": "instant"}}')
    refused = run("agent", "update", token, str(folder))
    assert (refused.exit_code, "(client.rule_changed)" in refused.stderr) == (1, True)
    assert "expected delay 2 blocks, found instant" in refused.stderr


def test_a_canary_is_set_shared_out_promoted_and_ended(run: Any, devnet: LiveGateway, tmp_path: Path) -> None:
    folder = new_project("hello", "minimal", tmp_path)
    (folder / "cloister.json").write_text('{"upgrade": {"rule": "delay", "blocks": 2}}')
    first = facts(run("agent", "deploy", str(folder), "--no-wait", "--json"))
    token = str(first["token_id"])
    until(run, token, "code_hash", first["code_hash"])
    assert "(client.same_code)" in run("agent", "update", token, str(folder), "--canary", "10").stderr
    assert "(client.nothing_waits)" in run("agent", "promote", token, str(folder)).stderr
    agent = folder / "agent.ts"
    agent.write_text(agent.read_text().replace('"world"', '"again"'))

    beside = facts(run("agent", "update", token, str(folder), "--canary", "10", "--json"))
    assert (beside["canary"], beside["ready_at"]) == (10, beside["block"] + 2)
    shown = until(run, token, "canary_share", 10)
    assert (shown["canary"], shown["code_hash"]) == (beside["code_hash"], first["code_hash"])
    more = facts(run("agent", "update", token, str(folder), "--canary", "60", "--json"))
    assert more["ready_at"] in (None, beside["ready_at"]), "another share waits no more"
    ended = facts(run("agent", "rollback", token, str(folder), "--json"))
    assert ended["canary"] is None
    until(run, token, "canary", None)

    run("agent", "update", token, str(folder), "--canary", "0")
    promoted = when_ready(run, "agent", "promote", token, str(folder), "--json")
    assert promoted["code_hash"] == beside["code_hash"]
    assert until(run, token, "code_hash", beside["code_hash"])["canary"] is None
    kept = facts(run("agent", "versions", str(folder), "--json"))
    assert [one["code_hash"] for one in kept] == [first["code_hash"], beside["code_hash"]]
    for words in (("--canary", "101"), ("--canary", "5", "--apply"), ("--canary", "5", "--cancel")):
        assert run("agent", "update", token, str(folder), *words).exit_code == 2


def when_ready(run: Any, *words: str) -> Any:
    """The facts of a command that may be too early."""
    for _ in range(100):
        result = run(*words)
        if result.exit_code == 0:
            return json.loads(result.stdout)
        assert "(client.nothing_waits)" in result.stderr
        time.sleep(0.2)
    raise AssertionError(f"never ready: {result.output}")


def test_a_frozen_agent_stays_and_secrets_are_removed(run: Any, devnet: LiveGateway, tmp_path: Path) -> None:
    folder = new_project("still", "minimal", tmp_path)
    (folder / "cloister.json").write_text('{"upgrade": {"rule": "frozen"}, "secrets": ["A", "B"]}')
    token = str(facts(run("agent", "deploy", str(folder), "--no-wait", "--json"))["token_id"])
    until(run, token, "paused", False)
    assert "(client.frozen)" in run("agent", "update", token, str(folder)).stderr
    facts(run("agent", "secrets", "set", token, "A", "--json", input="one\n"))
    until(run, token, "secrets_version", 1)
    both = facts(run("agent", "secrets", "set", token, "B", "--json", input="two\n"))
    assert (both["version"], both["names"]) == (2, ["A", "B"]), "the first stays, and is not asked for"
    until(run, token, "secrets_version", 2)
    assert facts(run("agent", "secrets", "list", token, "--json"))["names"] == ["A", "B"]
    assert "(client.secret_name)" in run("agent", "secrets", "rm", token, "C").stderr
    left = facts(run("agent", "secrets", "rm", token, "A", "--json"))
    assert (left["version"], left["removed"]) == (3, ["A"])
    until(run, token, "secrets_version", 3)
    assert facts(run("agent", "secrets", "list", token, "--json"))["names"] == ["B"]
    removed = facts(run("agent", "secrets", "rm", token, "--json"))
    assert (removed["version"], removed["names"]) == (4, [])
    until(run, token, "secrets_version", 4)
    assert facts(run("agent", "secrets", "list", token, "--json"))["names"] == []


BAD_MANIFESTS = {
    "memory that no worker offers": ('{"limits": {"memory_mb": 99999999}}', "manifest.limit", "memory_mb"),
    "a field that does not exist": ('{"cpu": 4}', "manifest.field", "cpu"),
    "a host that is a URL": ('{"egress": ["https://a.example/"]}', "sandbox.egress", ""),
    "an environment secret that is not declared": ('{"env": ["KEY"]}', "manifest.name", "KEY"),
}


@pytest.mark.parametrize("sentence", BAD_MANIFESTS)
def test_a_manifest_that_is_refused_says_why_before_anything_is_sent(run: Any, sentence: str, tmp_path: Path) -> None:
    text, code, reason = BAD_MANIFESTS[sentence]
    folder = new_project("hello", "minimal", tmp_path)
    (folder / "cloister.json").write_text(text)
    refused = run("agent", "deploy", str(folder))
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert f"({code})" in refused.stderr
    assert reason in refused.stderr
    assert "hint:" in refused.stderr
