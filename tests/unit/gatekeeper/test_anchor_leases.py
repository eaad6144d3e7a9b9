"""A member's desk for leases at the Anchor: who asks, what it shows, what it gets; and asking the whole committee."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey

from cloister.core.encoding.contract_statements import AnchorLease
from cloister.core.encoding.signatures import Signed, SignerSet, address_of, sign_digest, verify_signer
from cloister.core.encoding.statements import Checkpoint, Lease
from cloister.core.errors import CloisterError
from cloister.core.policy.release import AgentFacts, Newest, WorkerFacts
from cloister.gatekeeper.anchor import AnchorLeaseDesk
from cloister.gatekeeper.audit import AuditLog
from cloister.gatekeeper.limits import RateLimit
from cloister.wire.anchor import AnchorLeaseRequest, ask_anchor_lease
from cloister.wire.committee import Committee

NETWORK = b"\x07" * 32
MEMBERS = tuple(PrivateKey(hashlib.sha256(b"member %d" % i).digest()) for i in range(5))
SIGNERS = SignerSet(3, 3, tuple(address_of(m) for m in MEMBERS))
WORKER = PrivateKey(hashlib.sha256(b"worker").digest())
AGENT, CODE, BOOT, CLASS, CLUSTER = (hashlib.sha256(bytes([n])).digest() for n in range(5))
ANCHOR, NOW, NUMBER = b"\x02" * 20, 1_800_000_000, 500
WORKER_FACTS = WorkerFacts(BOOT, CODE, CLASS, NUMBER + 50, False)
AGENT_FACTS = AgentFacts(AGENT, CODE, CODE, CLUSTER, 4, 1, 3, False)


@dataclass
class Facts:
    """The chain as one member sees it, and its office and book, as far as the desk asks."""

    key: PrivateKey
    worker_facts: WorkerFacts | None = WORKER_FACTS
    agent_facts: AgentFacts | None = AGENT_FACTS
    newest_facts: Newest = field(default_factory=lambda: Newest(agent_epoch=4))
    head: Checkpoint | None = field(default_factory=lambda: Checkpoint(3, 7, NUMBER, b"\x09" * 32, b"\x08" * 32, NOW))
    term: int = 3
    network: bytes = NETWORK
    signers: SignerSet = SIGNERS

    def require_running(self) -> None:
        """It never halted."""

    def sign(self, statement: AnchorLease) -> bytes:
        return sign_digest(self.key, statement.digest(NETWORK))

    def at(self, checkpoint: Checkpoint) -> Facts:
        return self

    async def worker(self, worker: bytes) -> WorkerFacts | None:
        return self.worker_facts

    async def agent(self, agent: bytes) -> AgentFacts | None:
        return self.agent_facts

    async def newest(self, agent: bytes, worker: bytes) -> Newest:
        return self.newest_facts


def asked(**changes: Any) -> AnchorLease:
    base = AnchorLease(3, 7, ANCHOR, AGENT, 4, CODE, address_of(WORKER), CLASS, b"\x03" * 20, NOW + 3600)
    return replace(base, **changes)


def message(lease: AnchorLease | None = None, *, key: PrivateKey = WORKER, signers: int = 3) -> AnchorLeaseRequest:
    lease = lease or asked()
    held = Lease(
        term=3, agent=AGENT, code_hash=CODE, manifest_hash=CODE, cluster=CLUSTER, master_epoch=1, cluster_epoch=1,
        agent_epoch=4, period=5, worker=address_of(WORKER), boot=BOOT, checkpoint=NUMBER - 5, expiry=NUMBER + 100,
    )  # fmt: skip
    signatures = tuple(sign_digest(m, held.digest(NETWORK)) for m in MEMBERS[:signers])
    return AnchorLeaseRequest(lease, sign_digest(key, lease.digest(NETWORK)), Signed(held, signatures))


def desk(facts: Facts, folder: Path, burst: int = 100) -> AnchorLeaseDesk:
    limit = RateLimit(per_s=1.0, burst=burst, clock=lambda: 0.0)
    any_: Any = facts
    return AnchorLeaseDesk(any_, any_, any_, AuditLog(folder / "audit"), places=lambda: {7: ANCHOR}, limit=limit)


def body(request: AnchorLeaseRequest) -> bytes:
    return json.dumps(request.to_json()).encode()


async def test_a_member_signs_what_the_worker_may_have(tmp_path: Path) -> None:
    signature = await desk(Facts(MEMBERS[0]), tmp_path).answer(body(message()), "here")
    verify_signer(asked().digest(NETWORK), signature, address_of(MEMBERS[0]))
    assert "anchor lease" in (tmp_path / "audit").read_text()


REFUSED: dict[str, tuple[Facts, AnchorLeaseRequest, str]] = {
    "somebody else's signature": (Facts(MEMBERS[0]), message(key=MEMBERS[1]), "encoding.signature"),
    "a lease that too few signed": (Facts(MEMBERS[0]), message(signers=2), "encoding.too_few_signers"),
    "a paused agent": (Facts(MEMBERS[0], newest_facts=Newest(paused=True)), message(), "policy.paused"),
    "a worker that is gone": (Facts(MEMBERS[0], worker_facts=None), message(), "policy.worker_unknown"),
    "another Anchor": (Facts(MEMBERS[0]), message(asked(anchor=b"\x05" * 20)), "policy.anchor_lease"),
    "too long": (Facts(MEMBERS[0]), message(asked(expiry=NOW + 86_400)), "policy.anchor_lease"),
    "before the first checkpoint": (Facts(MEMBERS[0], head=None), message(), "gatekeeper.halted"),
}


@pytest.mark.parametrize("sentence", REFUSED)
async def test_a_member_refuses(tmp_path: Path, sentence: str) -> None:
    facts, request, code = REFUSED[sentence]
    with pytest.raises(CloisterError) as error:
        await desk(facts, tmp_path).answer(body(request), "here")
    assert error.value.code == code, sentence


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"lease": 1}', b"\xff", body(message())[:-1]])
async def test_garbage_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(CloisterError):
        await desk(Facts(MEMBERS[0]), tmp_path).answer(data, "here")


async def test_who_asks_too_often_waits(tmp_path: Path) -> None:
    one = desk(Facts(MEMBERS[0]), tmp_path, burst=2)
    for _ in range(2):
        await one.answer(body(message()), "here")
    with pytest.raises(CloisterError) as error:
        await one.answer(body(message()), "here")
    assert error.value.code == "gatekeeper.rate"


# --- asking all of them ---


class Asking(Committee):
    """A committee whose members answer in this process."""

    def __init__(self, folder: Path, members: dict[int, Facts]) -> None:
        super().__init__([f"m{i}" for i in range(5)], SIGNERS, NETWORK)
        self._desks = {f"m{i}": desk(facts, folder / str(i)) for i, facts in members.items()}
        self.lie: bytes | None = None

    async def caught(self, url: str, method: str, path: str, body: Any = None) -> Any:
        """One member's answer."""
        if self.lie is not None and url == "m0":
            return {"signature": "0x" + self.lie.hex()}
        found = self._desks.get(url)
        if found is None:
            return self.too_few(1, [])
        try:
            return {"signature": "0x" + (await found.answer(json.dumps(body).encode(), "here")).hex()}
        except CloisterError as error:
            return error


def committee(folder: Path, count: int, **facts: Any) -> Asking:
    for i in range(count):
        (folder / str(i)).mkdir()
    return Asking(folder, {i: Facts(MEMBERS[i], **facts) for i in range(count)})


async def test_three_members_make_a_lease(tmp_path: Path) -> None:
    signed = await ask_anchor_lease(committee(tmp_path, 3), message())
    signed.verify(SIGNERS, NETWORK)


async def test_two_members_do_not(tmp_path: Path) -> None:
    with pytest.raises(CloisterError) as error:
        await ask_anchor_lease(committee(tmp_path, 2), message())
    assert error.value.code == "gatekeeper.too_few"


async def test_what_all_say_is_the_reason(tmp_path: Path) -> None:
    with pytest.raises(CloisterError) as error:
        await ask_anchor_lease(committee(tmp_path, 5, newest_facts=Newest(paused=True)), message())
    assert error.value.code == "policy.paused"


@pytest.mark.parametrize("lie", [b"\0" * 65, sign_digest(WORKER, asked().digest(NETWORK)), b"short"])
async def test_a_lying_member_does_not_count(tmp_path: Path, lie: bytes) -> None:
    four = committee(tmp_path, 4)
    four.lie = lie
    signed = await ask_anchor_lease(four, message())
    signed.verify(SIGNERS, NETWORK)
    assert len(signed.signatures) == 3
