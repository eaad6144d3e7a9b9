"""`cloister chain deploy | verify | upgrade` and `cloister request` over a real development chain."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cloister.chain.contracts import call
from cloister.chain.deploy import FREE_SEATS
from cloister.chain.rpc import Rpc
from cloister.client.home import write_private
from cloister.core.encoding.hexes import from_hex
from cloister.core.encoding.signatures import address_of
from cloister.core.keys.keystore import encrypt_key
from support.anvil import POLICY_HASH, TestChain, send, test_key
from support.fake_gateway import serving
from support.live_gateway import LiveGateway, live_gateway

OWNER = test_key("owner of a command line")


def home_of(key: Any, **facts: Any) -> None:
    """devnet.json with an owner whose wallet is the default."""
    home = Path(os.environ["CLOISTER_HOME"])
    document = encrypt_key(key.secret, "the owner's words", os.urandom, 1 << 8)
    write_private(home / "owner.keystore.json", json.dumps(document).encode())
    write_private(home / "owner.passphrase", b"the owner's words")
    owner = {
        "owner_keystore": str(home / "owner.keystore.json"),
        "owner_passphrase_file": str(home / "owner.passphrase"),
    }
    write_private(home / "devnet.json", json.dumps(owner | facts).encode())


def facts(result: Any) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def plan_file(chain: TestChain, folder: Path, **changes: Any) -> Path:
    plan = {
        "v": 1,
        "chain_id": chain.chain_id,
        "policy_hash": "0x" + POLICY_HASH.hex(),
        "measurements": [],
        "policy_delay": 1,
        "seats": 3,
        "rules": asdict(FREE_SEATS),
        "timelock_delay": 1,
        "proposers": ["0x" + address_of(OWNER).hex()],
        "treasury": None,
    }
    file = folder / "plan.json"
    file.write_text(json.dumps(plan | changes))
    return file


@pytest.mark.long
def test_deploy_verify_and_what_upgrade_refuses(run: Any, chain: TestChain, tmp_path: Path) -> None:
    home_of(chain.fund(OWNER))
    out, plan = tmp_path / "network.json", plan_file(chain, tmp_path)
    words = ["--rpc", chain.url, "--deployment", str(out)]
    done = run("chain", "deploy", str(plan), *words, "--json")
    shown = facts(done)
    assert "handing over to the Timelock" in done.stderr
    written = json.loads(out.read_text())
    assert written["contracts"]["Anchor"]["address"] == shown["contracts"]["Anchor"]["address"]
    assert any(e.get("name") == "requestSponsored" for e in written["contracts"]["Anchor"]["abi"])
    assert (tmp_path / "network.record.json").exists()

    again = run("chain", "deploy", str(plan), *words, "--json")
    assert facts(again) == shown
    assert again.stderr.strip() == "", "a second run has nothing to say"

    rows = facts(run("chain", "verify", *words, "--json"))
    assert {row["contract"] for row in rows} == set(written["contracts"])
    assert all(row["artifact"] and row["file"] and row["version"] == 1 for row in rows)
    assert "(chain.nothing_new)" in run("chain", "upgrade", "Anchor", *words).stderr
    assert "(chain.not_replaceable)" in run("chain", "upgrade", "Token", *words).stderr

    other = plan_file(chain, tmp_path, seats=4)
    assert "(chain.other_chain)" in run("chain", "deploy", str(other), *words).stderr
    assert run("chain", "verify", "--rpc", chain.url).exit_code == 2

    written["contracts"]["Anchor"]["address"] = "0x" + "11" * 20
    out.write_text(json.dumps(written))
    wrong = run("chain", "verify", *words)
    assert (wrong.exit_code, "(client.wrong_contracts)" in wrong.stderr) == (1, True)


def test_a_development_key_deploys_nothing_on_a_real_chain(run: Any, chain: TestChain, tmp_path: Path) -> None:
    home_of(OWNER)
    plan = plan_file(chain, tmp_path, chain_id=1, proposers=["0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"])
    words = ["--rpc", chain.url, "--deployment", str(tmp_path / "network.json")]
    refused = run("chain", "deploy", str(plan), *words)
    assert (refused.exit_code, "(chain.dev_key)" in refused.stderr) == (1, True)
    assert not (tmp_path / "network.record.json").exists()


@pytest.fixture
def net(chain: TestChain) -> Iterator[LiveGateway]:
    """A network with an agent of the owner's."""
    gateway = asyncio.run(live_gateway(chain))
    with serving(gateway):
        home_of(chain.fund(OWNER), gateway=gateway.url, fingerprint=gateway.parsed.fingerprint())
        yield gateway


def test_ask_by_request_sponsored_and_sealed_and_follow_it(
    run: Any, net: LiveGateway, chain: TestChain, tmp_path: Path
) -> None:
    fresh = net.chain

    async def prepare() -> None:
        async with Rpc(chain.url) as rpc:
            await send(fresh, rpc, OWNER, "Agents", "register")
            await send(fresh, rpc, OWNER, "Agents", "setFeePayer", 1, address_of(OWNER))

    asyncio.run(prepare())
    asked = retried(run, "request", "send", "1", "price?", "--fee", "7", "--json")
    assert asked["index"] == 1
    shown = until(run, "1", 1)
    assert (shown["state"], shown["fee"], shown["copies"]) == ("open", "7", 1)
    assert from_hex(shown["requester"].lower(), 20) == address_of(OWNER)

    assert "NoConsent" in run("request", "send", "1", "q", "--fee", "7", "--sponsored").stderr
    agreed = facts(
        run(
            "request",
            "sponsor",
            "1",
            "--most",
            "7",
            "--total",
            "9",
            "--requester",
            "anybody",
            "--deposit",
            "20",
            "--json",
        )
    )
    assert (agreed["most"], agreed["total"]) == ("7", "9")
    key = tmp_path / "reply.key"
    words = ("--fee", "7", "--sponsored", "--sealed", "--sealed-reply", str(key), "--json")
    assert facts(run("request", "send", "1", "secret", *words))["index"] == 2
    assert key.stat().st_mode & 0o777 == 0o600
    assert until(run, "1", 2)["fee"] == "7"
    assert "NoConsent" in run("request", "send", "1", "q", "--fee", "3", "--sponsored").stderr, "2 of 9 are left"
    assert "(client.no_request)" in run("request", "status", "1", "3").stderr

    async def credit() -> int:
        async with Rpc(chain.url) as rpc:
            return int(await call(rpc, fresh.contracts["Anchor"], "Anchor", "credits", address_of(OWNER)))

    assert asyncio.run(credit()) == 13


def retried(run: Any, *words: str) -> Any:
    """The facts of a command, once the network's newest checkpoint knows the agent."""
    for _ in range(50):
        result = run(*words)
        if result.exit_code == 0:
            return json.loads(result.stdout)
        time.sleep(0.2)
    raise AssertionError(result.output)


def until(run: Any, token: str, index: int) -> Any:
    """The request's facts, once it is final."""
    return retried(run, "request", "status", token, str(index), "--json")
