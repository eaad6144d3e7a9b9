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
