"""The nine steps of the demo, one method each, so that scenario tests run them one by one on their own network."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from cloister.client.agent import Agent
from cloister.client.build import build
from cloister.client.client import Client
from cloister.client.deploy import Deployed, await_seats, deploy_agent, set_paused
from cloister.client.secrets import set_secrets
from cloister.client.verify import Report, verify_agent, verify_kept_receipt, verify_network, verify_worker
from cloister.client.wallet import Wallet
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import SignerSet
from cloister.core.errors import CloisterError
from cloister.core.policy.manifest import Manifest, normalize
from cloister.core.policy.refusals import PAUSED
from cloister.devnet import tools
from cloister.devnet.demo.attacks import RogueNode, SealedAttacker, refusal
from cloister.devnet.demo.screen import Screen, expect
from cloister.devnet.layout import WORKERS
from cloister.devnet.network import Devnet
from cloister.wire.committee import Committee

NOTE_CHARS = 5_000
ROOT = Path(__file__).parents[4]
DOCUMENTS = ("README.md", "docs/threat-model.md", "docs/limitations.md", "docs/decisions/README.md")
QUESTIONS = ("Does the devnet run on real TEE hardware?", "What happens if a node's data folder is copied elsewhere?")


class Demo:
    """The steps after the network is up (1 to 4). ``owner`` owns the agent and is the caller."""

    def __init__(self, devnet: Devnet, client: Client, screen: Screen) -> None:
        self.devnet, self.client, self.screen = devnet, client, screen
        self.deployed: Deployed | None = None
        network = client.network
        signers: SignerSet = network.founding
        self.committee = Committee(devnet.gatekeeper_urls(), signers, network.id)

    @property
    def agent_id(self) -> bytes:
        """The notes agent's id, 32 bytes."""
        assert self.deployed is not None  # noqa: S101 - step 5 comes first
        return self.deployed.agent

    async def agent(self) -> Agent:
        """The notes agent, resolved."""
        return await self.client.agent(self.agent_id)

    async def close(self) -> None:
        """Close connections."""
        await self.committee.close()

    async def deploy(self) -> None:
        """Step 5: bundle agents/notes and put it on chain; wait until two workers hold it."""
        out = self.devnet.layout.home / "build" / "notes"
        built = await build(ROOT / "agents" / "notes", out, deno=tools.deno())
        manifest = with_base_url(built.manifest, os.environ.get("OPENAI_BASE_URL"))
        self.screen.fact("bundle", f"{len(built.bundle)} bytes, sha256 {built.code_hash.hex()[:16]}…")
        self.deployed = await deploy_agent(self.client, built.bundle, manifest)
        self.screen.fact("agent", to_hex(self.deployed.agent))
        await await_seats(self.client, self.agent_id, seats=2)
        self.screen.good("two workers hold a lease that three gatekeepers signed")

    async def set_key(self) -> None:
        """Step 6a: seal the API key to the agent; nobody else can read it, the chain holds its hash."""
        values = {"OPENAI_API_KEY": os.environ.get("OPENAI_API_KEY") or self.devnet.api_key()}
        if base := os.environ.get("OPENAI_BASE_URL"):
            values["OPENAI_BASE_URL"] = base
        done = await set_secrets(self.client, self.agent_id, values)
        self.screen.fact("secrets", f"version {done.version}, ciphertext hash {done.hash.hex()[:16]}… on chain")
        await self._until_secrets(done.block)

    async def feed(self, documents: Sequence[str] = DOCUMENTS) -> int:
        """Step 6b: real documents through sealed calls. Returns how many notes the agent keeps."""
        agent, stored = await self.agent(), 0
        for name in documents:
            text = (ROOT / name).read_text()
            for part in parts(text):
                reply = await agent.post("/notes", json={"title": name, "text": part}, deadline_s=60)
                expect(reply.status in (200, 201), "a stored note", f"{reply.status} {reply.text[:200]}")
            stored += 1
            self.screen.say(f"{name}: {len(text)} characters, sealed, embedded, stored as ciphertext")
        return stored

    async def ask(self, question: str) -> list[dict[str, Any]]:
        """Step 6c: one question; prints the passages found."""
        agent = await self.agent()
        reply = await agent.get(f"/search?k=2&q={quote(question)}")
        expect(reply.status == 200, "passages", f"{reply.status} {reply.text[:200]}")
        found: list[dict[str, Any]] = reply.json()["results"]
        expect(found, "at least one passage", "none")
        self.screen.say(question)
        for item in found:
            self.screen.passage(float(item["score"]), str(item["title"]), str(item["excerpt"]))
        return found

    async def verify(self) -> list[Report]:
        """Step 7a: everything that a sceptic checks, one line per check."""
        reply = await (await self.agent()).get("/notes")
        worker = (await self.client.resolver.resolve(self.agent_id)).sittings[0].worker.worker
        reports = [
            await verify_network(self.client),
            await verify_agent(self.client, self.agent_id),
            await verify_worker(self.client, worker),
            await verify_kept_receipt(self.client, self.client.ledger.load(reply.receipt.id)),
        ]
        for report in reports:
            for step in report.steps:
                expect(step.ok, step.check, f"{step.code}: {step.found}")
                self.screen.good(f"{report.subject.split(' ')[0]:<9} {step.expected}")
        return reports

    async def attack(self) -> list[str]:
        """Step 7b: five attacks. Returns the codes that refused them, in order."""
        wire, rogue = SealedAttacker(self.client, self.agent_id), RogueNode(self.devnet, self.client, self.committee)
        attacks = (
            ("a tampered answer", wire.tampered_answer()),
            ("a replayed request", wire.replayed_request()),
            ("the same ciphertext given to another worker", wire.moved_request()),
            (
                "a worker with an unlisted measurement asking for the agent's key",
                rogue.unlisted_measurement(self.agent_id),
            ),
            ("an attested worker asking for an agent that is not placed on it", rogue.not_placed(self.agent_id)),
        )
        codes = []
        for what, attempt in attacks:
            error = await refusal(attempt)
            self.screen.refused(what, error)
            codes.append(error.code)
        return codes

    async def kill_worker(self) -> tuple[str, str]:
        """Step 8a: SIGKILL the worker that answered; the next call goes to the other one. Returns both names."""
        agent = await self.agent()
        before = (await agent.get("/notes")).receipt
        name = self._name_of(before.worker)
        await self.devnet.children[name].kill()
        self.screen.say(f"{name} is dead")
        reply = await agent.get("/notes")
        other = self._name_of(reply.receipt.worker)
        expect(other != name, "another worker", other)
        expect(reply.json()["notes"], "the notes still there", reply.text[:100])
        self.screen.good(f"the client sealed again to {other}: {len(reply.json()['notes'])} notes are still there")
        return name, other

    async def kill_vendor(self, worker: str) -> None:
        """Step 8b: SIGKILL both TDX gatekeepers; a restarted worker still gets new leases from the other three."""
        for gatekeeper in ("gk-1", "gk-2"):
            await self.devnet.children[gatekeeper].kill()
        self.screen.say("both TDX gatekeepers are dead; the killed worker comes back")
        child = await self.devnet.start_worker(worker)
        address = bytes.fromhex(str(child.ready["address"])[2:])
        for _ in range(150):
            found = await self.client.resolver.resolve(self.agent_id, again=True)
            boots = {to_hex(s.worker.boot) for s in found.sittings if s.worker.worker == address}
            if child.ready["boot"] in boots:
                self.screen.good(f"{worker} holds a new lease: no vendor can stop the network")
                return
            await asyncio.sleep(0.2)
        expect(False, "a new lease from three gatekeepers within 30 s", "none")

    async def pause(self) -> tuple[int, int]:
        """Step 9: pause by transaction; returns (block of the transaction, blocks until refused). Then resume."""
        agent = await self.agent()
        receipt = await set_paused(self.client, self.agent_id, True)
        error, seen = await self._until_refused(agent)
        blocks = seen - receipt.block_number
        self.screen.refused(f"a call {blocks} block(s) after the pause in block {receipt.block_number}", error)
        expect(blocks <= 2, "refused at most two blocks after the transaction", f"{blocks} blocks")
        await set_paused(self.client, self.agent_id, False)
        await self._until_answered()
        self.screen.good("resumed: it answers again")
        return receipt.block_number, blocks

    # --- waiting ---

    async def _until_secrets(self, block: int) -> None:
        """Until the checkpoint has the transaction, and workers had a second to act on it."""
        for _ in range(150):
            if (await self.client.resolver.view()).checkpoint.number >= block:
                break
            await asyncio.sleep(0.2)
        await asyncio.sleep(1.0)

    async def _until_refused(self, agent: Agent) -> tuple[CloisterError, int]:
        for _ in range(200):
            try:
                await agent.get("/notes")
            except CloisterError as error:
                if error.code == PAUSED.code:
                    head = await self.client.rpc.call("eth_blockNumber")
                    return error, int(head, 16)
            await asyncio.sleep(0.05)
        expect(False, "a paused agent refused within 10 s", "it still answers")
        raise RuntimeError("expect raised")

    async def _until_answered(self) -> None:
        for _ in range(150):
            try:
                reply = await (await self.agent()).get("/notes")
            except CloisterError:
                await asyncio.sleep(0.2)
                continue
            expect(reply.status == 200, "an answer", reply.status)
            return
        expect(False, "an answer within 30 s of resuming", "none")

    def _name_of(self, worker: bytes) -> str:
        for name, _ in WORKERS:
            if name in self.devnet.children and self.devnet.children[name].ready["address"] == to_hex(worker):
                return name
        return to_hex(worker)


def with_base_url(manifest: Manifest, base_url: str | None) -> Manifest:
    """The manifest for a user's own OPENAI_BASE_URL: its host is reachable, and it is a secret like the key."""
    host = urlsplit(base_url).netloc if base_url else ""
    if not host:
        return manifest
    name = {"OPENAI_BASE_URL"}
    more = {
        "egress": sorted({*manifest.egress, host}),
        "secrets": sorted(name | set(manifest.secrets)),
        "env": sorted(name | set(manifest.env)),
    }
    return normalize({**manifest.to_json(), **more})


def parts(text: str, limit: int = NOTE_CHARS) -> list[str]:
    """The text in pieces of whole paragraphs, each at most ``limit`` characters unless one paragraph is longer."""
    pieces: list[str] = []
    for paragraph in text.split("\n\n"):
        if pieces and len(pieces[-1]) + len(paragraph) + 2 <= limit:
            pieces[-1] += "\n\n" + paragraph
        else:
            pieces.append(paragraph)
    return pieces


def owner_wallet(devnet: Devnet) -> Wallet:
    """The devnet owner's wallet."""
    return Wallet(devnet.owner())
