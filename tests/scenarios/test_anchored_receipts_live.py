"""Receipts below roots on a live chain, and oblivious calls of the TypeScript client: deploy, call, receipt, the chain.

1. `cloister verify receipt --on-chain` accepts the receipt of a real call once its worker put a root on chain.
2. Each part of what was kept, altered, is refused under its own code, though the root on chain is good.
3. The TypeScript client calls through the relay's own process, by X-Wing, and its receipt is judged in the same way.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cloister.client.client import Client
from cloister.client.deploy import await_seats, deploy_agent
from cloister.client.receipts import Kept
from cloister.client.verify import Report, verify_anchored_receipt, with_proof
from cloister.core.encoding.hexes import to_hex
from cloister.core.envelope.ohttp import KEM_XWING
from cloister.core.policy.manifest import normalize
from cloister.devnet.demo.steps import owner_wallet
from cloister.devnet.network import Devnet, Options
from support.live_relay import relay_of
from support.typescript import driver

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800), pytest.mark.asyncio(loop_scope="session")]

PATIENCE_S = 600.0
ECHO = b"""export default { async fetch(request) {
  return new Response(request.method + " " + await request.text());
} };
"""


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def rooted() -> AsyncIterator[Devnet]:
    """A network whose workers put roots on chain every ten seconds."""
    home = Path(tempfile.mkdtemp(prefix="clo-"))
    try:
        async with Devnet(Options(home, workers=2, with_model=False, root_s=10)) as running:
            yield running
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def owner(rooted: Devnet) -> AsyncIterator[Client]:
    assert rooted.network is not None
    async with Client(
        rooted.gateway_url,
        fingerprint=rooted.network.fingerprint(),
        wallet=owner_wallet(rooted),
        home=rooted.options.home / "client",
    ) as connected:
        yield connected


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def echo(owner: Client) -> bytes:
    """The agent that is called, by id."""
    deployed = await deploy_agent(owner, ECHO, normalize({"upgrade": {"rule": "delay", "blocks": 100}}))
    await await_seats(owner, deployed.agent, within_s=PATIENCE_S)
    return deployed.agent


async def on_chain(owner: Client, kept: Kept) -> tuple[Kept, Report]:
    """The receipt with its place in a witnessed log, once a root on chain covers it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            kept = kept if kept.proof is not None else await with_proof(owner, kept)
            if kept.proof is not None:
                report, _ = await verify_anchored_receipt(owner, kept)
                if report.ok or failed(report) != "receipt.not_anchored":
                    return kept, report
            await asyncio.sleep(2)


def failed(report: Report) -> str:
    """The code of the first step that did not hold."""
    return next((step.code for step in report.steps if not step.ok), "")


async def cloister(rooted: Devnet, *words: str) -> tuple[int, Any]:
    """A command of the CLI as a process: its status and what it says in JSON."""
    assert rooted.network is not None
    given = ("--gateway", rooted.gateway_url, "--fingerprint", rooted.network.fingerprint())
    command = (sys.executable, "-m", "cloister.cli", *given, *words, "--json")
    environment = {**os.environ, "CLOISTER_HOME": str(rooted.options.home / "client")}
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=environment)
    said, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    return process.returncode or 0, json.loads(said)


def bent(kept: dict[str, Any], *path: str, by: Callable[[Any], Any]) -> dict[str, Any]:
    """A kept receipt with one part of it changed."""
    copy: dict[str, Any] = json.loads(json.dumps(kept))
    inner = copy
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = by(inner[path[-1]])
    return copy


def flip(text: str) -> str:
    """Hex with its last digit changed."""
    return text[:-1] + ("0" if text[-1] != "0" else "1")


LIES: dict[str, tuple[tuple[str, ...], Callable[[Any], Any], str]] = {
    "another answer": (("receipt",), lambda r: r.replace('"status":200', '"status":201'), "receipt.signature"),
    "another signature": (("signature",), flip, "receipt.signature"),
    "another place in the log": (("proof", "index"), lambda n: n + 1, "receipt.other_log"),
    "another root than was witnessed": (("proof", "head", "statement", "root"), flip, "encoding."),
}


async def test_a_receipt_of_a_live_call_is_below_a_root_on_chain(
    rooted: Devnet, owner: Client, echo: bytes, tmp_path: Path
) -> None:
    reply = await (await owner.agent(echo)).post("/", body=b"remember", deadline_s=120.0)
    assert reply.text == "POST remember"
    kept, report = await on_chain(owner, owner.ledger.load(reply.receipt.id))
    assert report.ok, report.to_json()
    status, said = await cloister(rooted, "verify", "receipt", to_hex(reply.receipt.id), "--on-chain")
    assert (status, said["ok"], len(said["steps"])) == (0, True, 8)
    good = kept.to_json()
    for what, (path, change, code) in LIES.items():
        file = tmp_path / "kept.json"
        file.write_text(json.dumps(bent(good, *path, by=change)))
        status, said = await cloister(rooted, "verify", "receipt", str(file), "--on-chain")
        codes = [step["code"] for step in said["steps"] if not step["ok"]]
        assert status != 0, what
        assert codes, what
        assert codes[0].startswith(code), (what, codes)


async def test_the_typescript_client_calls_through_a_relay(rooted: Devnet, owner: Client, echo: bytes) -> None:
    assert rooted.network is not None
    async with relay_of(rooted) as url:
        with driver() as typescript:
            pin = {"fingerprint": rooted.network.fingerprint(), "oblivious": url}
            await typescript.aok("connect", url="http://gateway.invalid", **pin)
            await typescript.aok("agent", name=to_hex(echo), demand={"postQuantum": True})
            init = {"method": "POST", "body": "through a relay", "deadlineMs": 120_000}
            answer = await typescript.aok("call", path="/", init=init, how="request")
    assert answer["text"] == "POST through a relay"
    kept = Kept.from_json(answer["kept"])
    shown = await owner.gateway.oblivious_keys(echo, kept.seat.certificate.boot)
    assert KEM_XWING in {int(one["config"][4:8], 16) for one in shown}
    _, report = await on_chain(owner, kept)
    assert report.ok, report.to_json()
