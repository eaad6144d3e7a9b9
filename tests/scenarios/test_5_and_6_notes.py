"""Steps 5 and 6: deploy agents/notes, seal its API key to it, feed documents, ask.

1. The code on chain is the bundle that was built, and two workers of the placement hold a lease.
2. The API key is nowhere in clear: not in the store, not in a log; the chain holds its ciphertext's hash.
3. Notes come back by meaning, with a verified receipt each, and belong to their caller alone.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from coincurve import PrivateKey

from cloister.client.client import Client
from cloister.client.wallet import Wallet
from cloister.core.policy.placement import place
from cloister.devnet.demo.steps import Demo
from cloister.devnet.network import Devnet

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_the_agent_is_on_chain_and_placed_on_two_workers(demo: Demo, client: Client) -> None:
    assert demo.deployed is not None
    found = await client.resolver.resolve(demo.agent_id, again=True)
    assert found.record.code_hash == demo.deployed.code_hash
    view = await client.resolver.view()
    workers = [w.worker for w in await view.state.workers() if w.live_at(view.checkpoint.number)]
    seed = (await view.state.committee()).term_seed
    assert {s.worker.worker for s in found.sittings} == set(place(seed, demo.agent_id, workers, 2))


async def test_the_api_key_is_nowhere_in_clear(demo: Demo, devnet: Devnet) -> None:
    key = devnet.api_key().encode()
    own = {devnet.layout.model / "api-key"}
    for path in [p for p in devnet.layout.home.rglob("*") if p.is_file() and p not in own and "tsm" not in p.parts]:
        assert key not in path.read_bytes(), path


async def test_a_question_finds_the_passage_that_answers_it(demo: Demo) -> None:
    found = await demo.ask("Can Python erase secrets from memory?")
    assert "wipe" in found[0]["excerpt"]
    assert found[0]["score"] > 0.3


async def test_every_answer_has_a_receipt_that_names_code_worker_and_state(demo: Demo) -> None:
    assert demo.deployed is not None
    reply = await (await demo.agent()).post("/notes", json={"title": "one", "text": "a short note"})
    receipt = reply.receipt
    assert receipt.code_hash == demo.deployed.code_hash
    assert receipt.state.before != receipt.state.after
    assert receipt.usage.request_bytes > 0


async def test_notes_belong_to_their_caller(demo: Demo, devnet: Devnet, tmp_path: Path) -> None:
    assert devnet.network is not None
    pin = devnet.network.fingerprint()
    async with Client(devnet.gateway_url, fingerprint=pin, wallet=Wallet(PrivateKey()), home=tmp_path) as stranger:
        reply = await (await stranger.agent(demo.agent_id)).get("/notes")
        assert reply.json()["notes"] == []
    async with Client(devnet.gateway_url, fingerprint=pin, home=tmp_path) as nobody:
        assert (await (await nobody.agent(demo.agent_id)).get("/notes")).status == 401
