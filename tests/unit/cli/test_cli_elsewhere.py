"""`cloister request relay` and `cloister chain carry | account | stop`: what anybody with gas does, on either chain."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cloister.chain.contracts import call, encode, encode_constructor
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender, create_address
from cloister.client.home import write_private
from cloister.core.chainview.anchor import Asked
from cloister.core.chainview.records import agent_id
from cloister.core.encoding.chain_record import ChainRecord
from cloister.core.encoding.contract_statements import AnchorAnswer, AnchorLease, RemoteAgent
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.network import ContractRef
from cloister.core.encoding.signatures import Signed, address_of, sign_digest
from cloister.core.encoding.statements import Statement
from cloister.core.keys.keystore import encrypt_key
from cloister.wire.anchor import Ready
from support.anvil import THRESHOLD, TestChain, send, test_key
from support.fake_gateway import serving
from support.live_gateway import LiveGateway, live_gateway

OWNER, WORKER = test_key("owner of an agent elsewhere"), test_key("a worker without a coin")
CODE = b"\x0c" * 32


@dataclass
class Town:
    """A network with one agent, and its Anchor on a chain that stands for another one."""

    gateway: LiveGateway
    agent: bytes
    anchor: bytes
    registry: bytes
    record: Path
    ready: dict[int, Any]

    @property
    def chain(self) -> TestChain:
        return self.gateway.chain

    def signed(self, statement: Statement) -> Signed:
        """By t members."""
        digest = statement.digest(self.gateway.parsed.id)
        return Signed(statement, tuple(sign_digest(k, digest) for k in self.gateway.members[:THRESHOLD]))

    def waits(self, anchor: bytes, index: int, *, told: bool) -> Ready:
        """A worker's answer to a request that OWNER made just now, with all that the chain lacks."""
        now, chain_id = int(time.time()), self.chain.chain_id

        async def ask() -> int:
            async with Rpc(self.chain.url) as rpc:
                block = await rpc.call("eth_getBlockByNumber", "latest", False)
                until = int(block["timestamp"], 16) + 3600
                choice = (self.agent, bytes(32), 100_000, until, 1, 0)
                payer = Sender(rpc, OWNER, chain_id)
                await payer.send(anchor, encode("Anchor", "request", choice, b"?"), value=7)
                return until

        until = asyncio.run(ask())
        asked = Asked(self.agent, index, address_of(OWNER), 7, bytes(32), 100_000, until, 1, 0, keccak256(b"?"))
        said = AnchorAnswer(chain_id, anchor, asked.commitment(), keccak256(b"!"), bytes(32))
        by = ((address_of(WORKER), sign_digest(WORKER, said.digest(self.gateway.parsed.id))),)
        lease = AnchorLease(
            1, chain_id, anchor, self.agent, 1, CODE, address_of(WORKER), b"\x01" * 32, b"\x02" * 20, until
        )
        facts = RemoteAgent(1, chain_id, anchor, self.agent, 1, address_of(OWNER), bytes(20), bytes(20), now, until)
        return Ready(chain_id, asked, b"!", by, self.signed(lease), self.signed(facts) if told else None)


class AnsweringGateway(LiveGateway):
    """A gateway whose workers hold answers that they cannot pay to bring."""

    def __init__(self, other: LiveGateway) -> None:
        super().__init__(other.chain, other.parsed, other.members)
        self.ready: dict[int, Any] = {}

    def app(self) -> web.Application:
        made = super().app()
        made.router.add_get("/v1/answers/{agent}/{index}", self._answer)
        return made

    async def _answer(self, request: web.Request) -> web.Response:
        found = self.ready.get(int(request.match_info["index"]))
        if found is None:
            error = {"code": "worker.no_answer_waits", "expected": "an answer", "found": "none", "status": 404}
            return web.json_response({"error": error}, status=404)
        return web.json_response(found)


async def elsewhere(gateway: LiveGateway, folder: Path) -> tuple[bytes, bytes, bytes, Path]:
    """Agent, Anchor and registry there, and the record, which the Directory has not yet."""
    fresh = gateway.chain
    async with Rpc(fresh.url) as rpc:
        await send(fresh, rpc, OWNER, "Agents", "register")
        await send(fresh, rpc, OWNER, "Anchor", "adopt")
        founder = Sender(rpc, OWNER, fresh.chain_id)
        nonce = int(await rpc.call("eth_getTransactionCount", to_hex(founder.address), "latest"), 16)
        anchor = create_address(founder.address, nonce + 1)
        made = await founder.send(None, encode_constructor("RemoteAgents", anchor))
        assert made.contract is not None
        await founder.send(None, encode_constructor("Anchor", made.contract, bytes(20), founder.address))
        members = [address_of(k) for k in gateway.members]
        install = encode("Anchor", "install", gateway.parsed.id, 1, members, THRESHOLD, int(time.time()) + 80 * 86400)
        await founder.send(anchor, install)
        genesis = gateway.parsed.genesis
        record = ChainRecord(
            fresh.chain_id, genesis.genesis_hash, ContractRef(anchor, b"\x01" * 32), made.block_number, True, 0, 60
        )
    file = folder / "there.json"
    file.write_bytes(record.encode())
    return agent_id(fresh.chain_id, fresh.contracts["Agents"], 1), anchor, made.contract, file


@pytest.fixture
def town(chain: TestChain, tmp_path: Path) -> Iterator[Town]:
    chain.fund(OWNER)
    gateway = AnsweringGateway(asyncio.run(live_gateway(chain)))
    agent, anchor, registry, record = asyncio.run(elsewhere(gateway, tmp_path))
    with serving(gateway):
        home = Path(os.environ["CLOISTER_HOME"])
        document = encrypt_key(OWNER.secret, "the owner's words", os.urandom, 1 << 8)
        write_private(home / "owner.keystore.json", json.dumps(document).encode())
        write_private(home / "owner.passphrase", b"the owner's words")
        facts = {
            "owner_keystore": str(home / "owner.keystore.json"),
            "owner_passphrase_file": str(home / "owner.passphrase"),
            "gateway": gateway.url,
            "fingerprint": gateway.parsed.fingerprint(),
        }
        write_private(home / "devnet.json", json.dumps(facts).encode())
        yield Town(gateway, agent, anchor, registry, record, gateway.ready)


def facts(run: Any, *words: str) -> Any:
    """Of a command, once the newest checkpoint shows what it needs."""
    for _ in range(12):
        result = run(*words, "--json")
        if result.exit_code == 0:
            return json.loads(result.stdout)
        time.sleep(0.2)
    raise AssertionError(result.output)


def publish(town: Town) -> None:
    async def do() -> None:
        async with Rpc(town.chain.url) as rpc:
            key = ChainRecord.parse(town.record.read_bytes()).key()
            target = town.gateway.parsed.genesis.address("Anchor")
            await send(town.chain, rpc, town.chain.deployer, "Directory", "publish", key, 1, target)

    asyncio.run(do())


def owed(town: Town, anchor: bytes) -> int:
    async def read() -> int:
        async with Rpc(town.chain.url) as rpc:
            return int(await call(rpc, anchor, "Anchor", "credits", b"\x02" * 20))

    return asyncio.run(read())


def test_an_answer_is_brought_at_home_once(run: Any, town: Town) -> None:
    home = town.gateway.parsed.genesis.address("Anchor")
    assert "(worker.no_answer_waits)" in run("request", "relay", to_hex(town.agent), "1").stderr
    town.ready[1] = town.waits(home, 1, told=False).to_json()
    shown = facts(run, "request", "relay", to_hex(town.agent), "1")
    assert (shown["index"], owed(town, home)) == (1, 7)
    assert shown["gas"] > 50_000
    assert "NotOpen" in run("request", "relay", to_hex(town.agent), "1").stderr
    assert run("request", "relay", to_hex(town.agent), "1", "--record", str(town.record)).exit_code == 2
    lying = dict(town.ready[1]) | {"reply": "YW5vdGhlcg=="}
    town.ready[1] = town.waits(home, 2, told=False).to_json() | {"reply": lying["reply"]}
    assert "(client.wrong_anchor)" in run("request", "relay", to_hex(town.agent), "1").stderr
    town.ready[2] = town.ready[1]
    assert "NotSignedBy" in run("request", "relay", to_hex(town.agent), "2").stderr
    assert owed(town, home) == 7


@pytest.mark.long
def test_elsewhere_what_the_chain_lacks_is_brought_first_and_its_owner_stops_the_agent(run: Any, town: Town) -> None:
    there = (str(town.record), to_hex(town.agent), "--rpc", town.chain.url)
    words = ("request", "relay", to_hex(town.agent), "1", "--record", str(town.record), "--rpc", town.chain.url)
    town.ready[1] = town.waits(town.anchor, 1, told=True).to_json()
    assert "(chainview.chain_not_connected)" in run(*words).stderr
    assert "(chainview.chain_not_connected)" in run("chain", "carry", str(town.record), "--rpc", town.chain.url).stderr
    publish(town)
    assert facts(run, *words)["index"] == 1
    assert owed(town, town.anchor) == 7
    assert facts(run, "chain", "carry", str(town.record), "--rpc", town.chain.url) == [], "nothing to carry"

    shown = facts(run, "chain", "account", *there)
    assert (shown["exists"], shown["epoch"], shown["stopped"]) == (False, 1, False)
    assert shown["owner"].lower() == to_hex(address_of(OWNER))
    assert facts(run, "chain", "stop", *there)["stopped"] is True
    assert facts(run, "chain", "account", *there)["stopped"] is True
    town.ready[2] = town.waits(town.anchor, 2, told=False).to_json() | {"lease": None}
    again = (*words[:3], "2", *words[4:])
    assert "AgentPaused" in run(*again).stderr
    assert facts(run, "chain", "stop", *there, "--resume")["stopped"] is False
    assert facts(run, *again)["index"] == 2


@pytest.mark.long
def test_an_owner_names_who_it_is_on_another_chain(run: Any, town: Town) -> None:
    agent, there = to_hex(town.agent), "8453"
    speaker = "0x" + "5b" * 20
    shown = facts(run, "agent", "speaker", "show", agent, there)
    assert (shown["speaker"], shown["told"]) == (None, to_hex(address_of(OWNER))), "a key is itself everywhere"
    assert "(client.speaker_at_home)" in run("agent", "speaker", "set", agent, str(town.chain.chain_id), speaker).stderr
    call_of = facts(run, "agent", "speaker", "set", agent, there, speaker, "--calldata")
    wanted = encode("Agents", "setSpeaker", 1, 8453, bytes.fromhex("5b" * 20))
    assert (call_of["data"], call_of["value"]) == (to_hex(wanted), 0)
    assert call_of["to"] == to_hex(town.gateway.parsed.genesis.address("Agents"))
    done = facts(run, "agent", "speaker", "set", agent, there, speaker)
    assert (done["chain"], done["speaker"]) == (8453, speaker)
    for _ in range(30):
        shown = facts(run, "agent", "speaker", "show", agent, there)
        if shown["speaker"] is not None:
            break
        time.sleep(0.2)
    assert (shown["speaker"], shown["told"]) == (speaker, speaker)
    assert facts(run, "agent", "speaker", "show", agent, "10")["speaker"] is None
    assert facts(run, "agent", "speaker", "set", agent, there, "none")["speaker"] == "none"
