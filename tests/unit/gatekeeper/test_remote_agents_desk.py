"""A member's desk for what connected chains are told of agents: facts of a block that it signed, by proof."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from coincurve import PrivateKey

from cloister.core.encoding.contract_statements import NOBODY, People, RemoteAgent
from cloister.core.encoding.signatures import Signed, SignerSet, address_of, sign_digest, verify_signer
from cloister.core.encoding.statements import Checkpoint, Lease
from cloister.core.errors import CloisterError
from cloister.core.policy.release import AgentFacts, Newest, WorkerFacts
from cloister.gatekeeper.audit import AuditLog
from cloister.gatekeeper.checkpoints import NO_CHECKPOINT
from cloister.gatekeeper.limits import RateLimit
from cloister.gatekeeper.remote import RemoteAgentDesk
from cloister.wire.remote import RemoteAgentRequest

NETWORK = b"\x07" * 32
MEMBERS = tuple(PrivateKey(hashlib.sha256(b"member %d" % i).digest()) for i in range(5))
SIGNERS = SignerSet(3, 3, tuple(address_of(m) for m in MEMBERS))
WORKER = PrivateKey(hashlib.sha256(b"worker").digest())
AGENT, CODE, BOOT, CLASS, CLUSTER = (hashlib.sha256(bytes([n])).digest() for n in range(5))
NOW, NUMBER, EPOCH, CHAIN = 1_800_000_000, 500, 4, 77
ANCHOR, OWNER = b"\x0a" * 20, b"\x51" * 20
HEAD = Checkpoint(3, 7, NUMBER, b"\x09" * 32, b"\x08" * 32, NOW)
THEN = Checkpoint(3, 7, NUMBER - 3, b"\x0b" * 32, b"\x08" * 32, NOW - 3)


@dataclass
class Facts:
    """The chain as one member sees it, and its office and book, as far as the desk asks."""

    key: PrivateKey = MEMBERS[0]
    newest_facts: Newest = field(default_factory=lambda: Newest(agent_epoch=EPOCH))
    owner_then: bytes = OWNER
    paused: bool = False
    speaker: bytes = NOBODY
    named: tuple[bytes, ...] = (NOBODY,)
    seen: list[int] = field(default_factory=list)
    term: int = 3
    network: bytes = NETWORK
    signers: SignerSet = SIGNERS
    head: Checkpoint | None = HEAD

    def require_running(self) -> None:
        """It never halted."""

    def sign(self, statement: RemoteAgent) -> bytes:
        return sign_digest(self.key, statement.digest(NETWORK))

    def at(self, what: Any) -> Any:
        """A checkpoint of the book by its height, and facts at a checkpoint."""
        if isinstance(what, Checkpoint):
            self.seen.append(what.number)
            return self
        if what != THEN.number:
            raise NO_CHECKPOINT(expected="a checkpoint of this height", found="none")
        return SimpleNamespace(statement=THEN)

    async def worker(self, worker: bytes) -> WorkerFacts | None:
        return WorkerFacts(BOOT, CODE, CLASS, NUMBER + 50, False)

    async def agent(self, agent: bytes) -> AgentFacts | None:
        return AgentFacts(AGENT, CODE, CODE, CLUSTER, EPOCH, 1, 3, self.paused)

    async def people(self, agent: bytes, chain_id: int) -> People | None:
        assert chain_id in (CHAIN, 78)
        return People(self.owner_then, NOBODY, NOBODY, self.speaker)

    async def newest_speakers(self, agent: bytes, chain_id: int) -> frozenset[bytes]:
        return frozenset(self.named)

    async def newest(self, agent: bytes, worker: bytes) -> Newest:
        return self.newest_facts


def asked(**changes: Any) -> RemoteAgent:
    base = RemoteAgent(3, CHAIN, ANCHOR, AGENT, EPOCH, OWNER, NOBODY, NOBODY, THEN.number, NOW + 600)
    return replace(base, **changes)


def message(what: RemoteAgent | None = None, *, key: PrivateKey = WORKER, signers: int = 3) -> RemoteAgentRequest:
    what = what or asked()
    held = Lease(
        term=3, agent=AGENT, code_hash=CODE, manifest_hash=CODE, cluster=CLUSTER, master_epoch=1, cluster_epoch=1,
        agent_epoch=EPOCH, period=5, worker=address_of(WORKER), boot=BOOT, checkpoint=NUMBER - 5, expiry=NUMBER + 100,
    )  # fmt: skip
    signatures = tuple(sign_digest(m, held.digest(NETWORK)) for m in MEMBERS[:signers])
    return RemoteAgentRequest(what, sign_digest(key, what.digest(NETWORK)), Signed(held, signatures))


def desk(facts: Facts, folder: Path, burst: int = 100) -> RemoteAgentDesk:
    folder.mkdir(exist_ok=True)
    limit = RateLimit(per_s=1.0, burst=burst, clock=lambda: 0.0)
    any_: Any = facts
    audit = AuditLog(folder / "audit")
    return RemoteAgentDesk(any_, any_, any_, audit, places=lambda: {CHAIN: ANCHOR}, limit=limit)


def body(request: RemoteAgentRequest) -> bytes:
    return json.dumps(request.to_json()).encode()


async def test_a_member_signs_what_it_proved_at_the_block_named(tmp_path: Path) -> None:
    facts = Facts()
    signature = await desk(facts, tmp_path).answer(body(message()), "here")
    verify_signer(asked().digest(NETWORK), signature, address_of(MEMBERS[0]))
    assert sorted(facts.seen) == [THEN.number, NUMBER]
    assert "remote agent" in (tmp_path / "audit").read_text()


REFUSED: dict[str, tuple[Facts, RemoteAgentRequest, str]] = {
    "somebody else's signature": (Facts(), message(key=MEMBERS[1]), "encoding.signature"),
    "a lease that too few signed": (Facts(), message(signers=2), "encoding.too_few_signers"),
    "a block that it did not sign": (Facts(), message(asked(height=NUMBER - 4)), "chainview.no_checkpoint"),
    "a chain that is not connected": (Facts(), message(asked(chain_id=78)), "policy.remote_agent"),
    "another owner than at that block": (Facts(owner_then=ANCHOR), message(), "policy.remote_agent"),
    "an owner there that a newer block takes back": (
        Facts(speaker=OWNER, named=(NOBODY,)),
        message(),
        "policy.remote_agent",
    ),
    "one endpoint that saw another name": (
        Facts(speaker=OWNER, named=(OWNER, ANCHOR)),
        message(),
        "policy.remote_agent",
    ),
    "a paused agent": (Facts(paused=True), message(), "policy.paused"),
    "a pause in a newer block": (Facts(newest_facts=Newest(paused=True)), message(), "policy.paused"),
    "facts that last too long": (Facts(), message(asked(expiry=NOW + 7201)), "policy.remote_agent"),
    "a member that never signed anything": (Facts(head=None), message(), "gatekeeper.halted"),
}


@pytest.mark.parametrize("sentence", REFUSED)
async def test_what_it_refuses(tmp_path: Path, sentence: str) -> None:
    facts, request, code = REFUSED[sentence]
    with pytest.raises(CloisterError) as error:
        await desk(facts, tmp_path).answer(body(request), "here")
    assert error.value.code == code, sentence


async def test_a_worker_that_asks_all_the_time_is_slowed_down(tmp_path: Path) -> None:
    one = desk(Facts(), tmp_path, burst=1)
    await one.answer(body(message()), "here")
    with pytest.raises(CloisterError) as error:
        await one.answer(body(message()), "here")
    assert error.value.code == "gatekeeper.rate"


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff" * 40, b'{"asked": 1, "signature": "0x", "held": {}}'])
async def test_garbage_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(CloisterError):
        await desk(Facts(), tmp_path).answer(data, "here")
