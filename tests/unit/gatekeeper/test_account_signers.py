"""A member's desk for signers of agents' accounts: one key per agent epoch, named by a worker that holds the agent."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey

from cloister.core.encoding.signatures import Signed, SignerSet, address_of, sign_digest, verify_signer
from cloister.core.encoding.statements import Checkpoint, Lease, SetSigner
from cloister.core.errors import CloisterError
from cloister.core.policy.release import AgentFacts, Newest, WorkerFacts
from cloister.gatekeeper.account import AccountSignerDesk
from cloister.gatekeeper.audit import AuditLog
from cloister.gatekeeper.limits import RateLimit
from cloister.gatekeeper.store import Store
from cloister.wire.account import AccountSignerRequest, ask_account_signer
from cloister.wire.committee import Committee

NETWORK = b"\x07" * 32
MEMBERS = tuple(PrivateKey(hashlib.sha256(b"member %d" % i).digest()) for i in range(5))
SIGNERS = SignerSet(3, 3, tuple(address_of(m) for m in MEMBERS))
WORKER = PrivateKey(hashlib.sha256(b"worker").digest())
AGENT, CODE, BOOT, CLASS, CLUSTER = (hashlib.sha256(bytes([n])).digest() for n in range(5))
NOW, NUMBER, EPOCH = 1_800_000_000, 500, 4
SIGNER, OTHER = b"\x51" * 20, b"\x52" * 20
WORKER_FACTS = WorkerFacts(BOOT, CODE, CLASS, NUMBER + 50, False)
AGENT_FACTS = AgentFacts(AGENT, CODE, CODE, CLUSTER, EPOCH, 1, 3, False)
HEAD = Checkpoint(3, 7, NUMBER, b"\x09" * 32, b"\x08" * 32, NOW)


@dataclass
class Facts:
    """The chain as one member sees it, and its office and book, as far as the desk asks."""

    key: PrivateKey = MEMBERS[0]
    worker_facts: WorkerFacts | None = WORKER_FACTS
    agent_facts: AgentFacts | None = AGENT_FACTS
    newest_facts: Newest = field(default_factory=lambda: Newest(agent_epoch=EPOCH))
    head: Checkpoint | None = HEAD
    term: int = 3
    network: bytes = NETWORK
    signers: SignerSet = SIGNERS

    def require_running(self) -> None:
        """It never halted."""

    def sign(self, statement: SetSigner) -> bytes:
        return sign_digest(self.key, statement.digest(NETWORK))

    def at(self, checkpoint: Checkpoint) -> Facts:
        return self

    async def worker(self, worker: bytes) -> WorkerFacts | None:
        return self.worker_facts

    async def agent(self, agent: bytes) -> AgentFacts | None:
        return self.agent_facts

    async def newest(self, agent: bytes, worker: bytes) -> Newest:
        return self.newest_facts


def asked(**changes: Any) -> SetSigner:
    return replace(SetSigner(3, AGENT, EPOCH, SIGNER), **changes)


def message(
    what: SetSigner | None = None, *, key: PrivateKey = WORKER, signers: int = 3, **lease: Any
) -> AccountSignerRequest:
    what = what or asked()
    held = Lease(
        term=3, agent=AGENT, code_hash=CODE, manifest_hash=CODE, cluster=CLUSTER, master_epoch=1, cluster_epoch=1,
        agent_epoch=EPOCH, period=5, worker=address_of(WORKER), boot=BOOT, checkpoint=NUMBER - 5, expiry=NUMBER + 100,
    )  # fmt: skip
    held = replace(held, **lease)
    signatures = tuple(sign_digest(m, held.digest(NETWORK)) for m in MEMBERS[:signers])
    return AccountSignerRequest(what, sign_digest(key, what.digest(NETWORK)), Signed(held, signatures))


def desk(facts: Facts, folder: Path, burst: int = 100) -> AccountSignerDesk:
    folder.mkdir(exist_ok=True)
    limit = RateLimit(per_s=1.0, burst=burst, clock=lambda: 0.0)
    any_: Any = facts
    return AccountSignerDesk(any_, any_, any_, Store(folder / "state.db"), AuditLog(folder / "audit"), limit=limit)


def body(request: AccountSignerRequest) -> bytes:
    return json.dumps(request.to_json()).encode()


async def refusal(one: AccountSignerDesk, data: bytes) -> str:
    with pytest.raises(CloisterError) as error:
        await one.answer(data, "here")
    return error.value.code


async def test_a_member_signs_the_key_that_a_worker_of_the_agent_names(tmp_path: Path) -> None:
    signature = await desk(Facts(), tmp_path).answer(body(message()), "here")
    verify_signer(asked().digest(NETWORK), signature, address_of(MEMBERS[0]))
    assert f"0x{SIGNER.hex()}" in (tmp_path / "audit").read_text()


LEFT = Newest(agent_epoch=EPOCH, left=True)
REFUSED: dict[str, tuple[Facts, AccountSignerRequest, str]] = {
    "somebody else's signature": (Facts(), message(key=MEMBERS[1]), "encoding.signature"),
    "a lease that too few signed": (Facts(), message(signers=2), "encoding.too_few_signers"),
    "another term": (Facts(), message(asked(term=2)), "policy.account_signer"),
    "nobody as the signer": (Facts(), message(asked(signer=bytes(20))), "policy.account_signer"),
    "another agent than the lease's": (Facts(), message(asked(agent=CODE)), "policy.account_signer"),
    "another epoch than the lease's": (Facts(), message(asked(agent_epoch=5)), "policy.account_signer"),
    "a lease that has ended": (Facts(), message(expiry=NUMBER), "policy.account_signer"),
    "a lease of an older boot": (Facts(), message(boot=CODE), "policy.boot_mismatch"),
    "a lease of older code": (Facts(), message(code_hash=BOOT), "policy.epoch_closed"),
    "an epoch that a newer block closed": (
        Facts(newest_facts=Newest(agent_epoch=EPOCH + 1)),
        message(),
        "policy.epoch_closed",
    ),
    "a paused agent": (Facts(newest_facts=Newest(paused=True, agent_epoch=EPOCH)), message(), "policy.paused"),
    "an agent that is none": (Facts(agent_facts=None), message(), "policy.agent_unknown"),
    "a worker that is gone": (Facts(worker_facts=None), message(), "policy.worker_unknown"),
    "a worker that just left": (Facts(newest_facts=LEFT), message(), "policy.worker_removed"),
    "a worker whose registration is over": (
        Facts(worker_facts=replace(WORKER_FACTS, expiry=NUMBER)),
        message(),
        "policy.worker_expired",
    ),
    "before the first checkpoint": (Facts(head=None), message(), "gatekeeper.halted"),
}


@pytest.mark.parametrize("sentence", REFUSED)
async def test_a_member_refuses_and_remembers_nothing(tmp_path: Path, sentence: str) -> None:
    facts, request, code = REFUSED[sentence]
    assert await refusal(desk(facts, tmp_path), body(request)) == code, sentence
    if request.asked.term == 3 and any(request.asked.signer):
        other = message(replace(request.asked, agent=AGENT, agent_epoch=EPOCH, signer=OTHER))
        await desk(Facts(), tmp_path).answer(body(other), "here")  # the place is still free


async def test_an_agent_epoch_has_one_signer_also_after_a_restart(tmp_path: Path) -> None:
    one = desk(Facts(), tmp_path)
    first = await one.answer(body(message()), "here")
    assert await one.answer(body(message()), "here") == first
    other = body(message(asked(signer=OTHER)))
    assert await refusal(one, other) == "policy.account_signer_known"
    assert await refusal(desk(Facts(), tmp_path), other) == "policy.account_signer_known"


async def test_the_next_epoch_has_a_signer_of_its_own(tmp_path: Path) -> None:
    await desk(Facts(), tmp_path).answer(body(message()), "here")
    later = Facts(agent_facts=replace(AGENT_FACTS, agent_epoch=5), newest_facts=Newest(agent_epoch=5))
    next_one = asked(agent_epoch=5, signer=OTHER)
    signature = await desk(later, tmp_path).answer(body(message(next_one, agent_epoch=5)), "here")
    verify_signer(next_one.digest(NETWORK), signature, address_of(MEMBERS[0]))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"asked": 1}', b"\xff", body(message())[:-1]])
async def test_garbage_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    await refusal(desk(Facts(), tmp_path), data)


async def test_who_asks_too_often_waits(tmp_path: Path) -> None:
    one = desk(Facts(), tmp_path, burst=2)
    for _ in range(2):
        await one.answer(body(message()), "here")
    assert await refusal(one, body(message())) == "gatekeeper.rate"


# --- asking all of them ---


class Asking(Committee):
    """A committee whose members answer in this process; ``lie``: what the first one says instead."""

    def __init__(self, folder: Path, count: int, lie: bytes | None = None) -> None:
        super().__init__([f"m{i}" for i in range(5)], SIGNERS, NETWORK)
        self._desks = {f"m{i}": desk(Facts(MEMBERS[i]), folder / str(i)) for i in range(count)}
        self._lie = lie

    async def caught(self, url: str, method: str, path: str, body: Any = None) -> Any:
        """One member's answer."""
        assert (method, path) == ("POST", "/v1/account-signer")
        if self._lie is not None and url == "m0":
            return {"signature": "0x" + self._lie.hex()}
        try:
            found = self._desks[url]
            return {"signature": "0x" + (await found.answer(json.dumps(body).encode(), "here")).hex()}
        except KeyError:
            return self.too_few(1, [])
        except CloisterError as error:
            return error


async def test_three_members_make_a_signer(tmp_path: Path) -> None:
    signed = await ask_account_signer(Asking(tmp_path, 3), message())
    signed.verify(SIGNERS, NETWORK)
    assert signed.statement == asked()


async def test_two_members_do_not(tmp_path: Path) -> None:
    with pytest.raises(CloisterError) as error:
        await ask_account_signer(Asking(tmp_path, 2), message())
    assert error.value.code == "gatekeeper.too_few"


async def test_two_workers_with_two_keys_get_at_most_one_of_them_signed(tmp_path: Path) -> None:
    """t of n members sign one key; for the other n - t < t are left."""
    town = Asking(tmp_path, 5)
    await ask_account_signer(town, message())
    with pytest.raises(CloisterError) as error:
        await ask_account_signer(town, message(asked(signer=OTHER)))
    assert error.value.code == "policy.account_signer_known"


@pytest.mark.parametrize("lie", [b"\0" * 65, sign_digest(WORKER, asked().digest(NETWORK)), b"short"])
async def test_a_lying_member_does_not_count(tmp_path: Path, lie: bytes) -> None:
    signed = await ask_account_signer(Asking(tmp_path, 4, lie), message())
    signed.verify(SIGNERS, NETWORK)
    assert len(signed.signatures) == 3
