"""May this worker have this agent's keys? One pure decision over verified facts (spec/gatekeeper-api.md 6).

Everything in :class:`Facts` was verified before: the boot and measurement by attestation, the records by proof at a
checkpoint that t members signed, the newest facts from any block seen. The decision builds the lease and the key
identities itself; a requester never names an epoch, a period or an identity.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cloister.core.encoding.hexes import BAD_FIELD
from cloister.core.encoding.identity import AgentVersion, KeyIdentity
from cloister.core.encoding.statements import Checkpoint, Lease
from cloister.core.policy.identities import granted_identities
from cloister.core.policy.placement import may_hold
from cloister.core.policy.refusals import (
    AGENT_UNKNOWN,
    BOOT_MISMATCH,
    CAP,
    EPOCH_CLOSED,
    MEASUREMENT_MISMATCH,
    PAUSED,
    WORKER_EXPIRED,
    WORKER_REMOVED,
    WORKER_UNKNOWN,
    WRONG_TERM,
)


@dataclass(frozen=True, slots=True)
class Requester:
    """What attestation proved: worker address (20), boot (32), measurement id (32), vendor class id (32)."""

    worker: bytes
    boot: bytes
    measurement: bytes
    vendor_class: bytes


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """The worker's record at the checkpoint. It covers blocks below ``expiry``."""

    boot: bytes
    measurement: bytes
    vendor_class: bytes
    expiry: int
    removed: bool


@dataclass(frozen=True, slots=True)
class AgentFacts:
    """The agent's and its cluster's record at the checkpoint, and where placement puts it."""

    agent: bytes
    code_hash: bytes
    manifest_hash: bytes
    cluster: bytes
    agent_epoch: int
    cluster_epoch: int
    seats: int
    paused: bool


@dataclass(frozen=True, slots=True)
class CommitteeFacts:
    """The committee in office at the checkpoint: network id, term, placement seed of the term, master epoch."""

    network: bytes
    term: int
    seed: bytes
    master_epoch: int


@dataclass(frozen=True, slots=True)
class Newest:
    """Restrictive facts at the newest block seen, proven or not: they bind at once.

    removed: for cause. left: the worker gave up its registration. agent_epoch 0: not known."""

    paused: bool = False
    removed: bool = False
    left: bool = False
    agent_epoch: int = 0


@dataclass(frozen=True, slots=True)
class Ledger:
    """What this member granted before: agents per (term, worker), and the newest epochs it ever released.

    held: the worker's agents in this term. floor: agent epoch, cluster epoch, master epoch below which all is closed.
    """

    held: frozenset[bytes] = frozenset()
    floor: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Limits:
    """Network parameters of the proven policy."""

    period_blocks: int
    max_agents_per_worker: int


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a release depends on. ``live``: workers registered, not removed, not expired at the checkpoint."""

    checkpoint: Checkpoint
    requester: Requester
    worker: WorkerFacts | None
    agent: AgentFacts | None
    committee: CommitteeFacts
    live: frozenset[bytes]
    limits: Limits
    newest: Newest = field(default_factory=Newest)
    ledger: Ledger = field(default_factory=Ledger)


@dataclass(frozen=True, slots=True)
class Grant:
    """The lease to sign and the key identities to evaluate. Equal facts give equal bytes at every member."""

    lease: Lease
    identities: tuple[KeyIdentity, ...]


def vendor_class_id(name: str) -> bytes:
    """The 32 bytes of a vendor class ("intel", "amd", "aws", ...) in statements and on chain: ASCII, zero-padded.

    Raises EncodingError for names that do not fit."""
    text = name.encode("ascii", "replace")
    if not 0 < len(text) <= 32 or b"?" in text or b"\0" in text:
        raise BAD_FIELD(expected="a vendor class of 1 to 32 ASCII letters", found=repr(name)[:40])
    return text.ljust(32, b"\0")


def may_release(facts: Facts) -> Grant:
    """Decide. Raises the PolicyError of the first rule that says no.

    1. the checkpoint is of this term; 2. the worker's record; 3. the agent's record; 4. no newer epoch was released;
    5. placement; 6. caps; 7. build the lease and the identities.
    """
    if facts.checkpoint.term != facts.committee.term:  # 1
        raise WRONG_TERM(expected=f"term {facts.committee.term}", found=f"term {facts.checkpoint.term}")
    _may_worker(facts)  # 2
    agent = _may_agent(facts)  # 3
    _not_closed(facts, agent)  # 4
    may_hold(facts.committee.seed, agent.agent, facts.live, agent.seats, facts.requester.worker)  # 5
    _within_cap(facts, agent)  # 6
    return _grant(facts, agent)  # 7


def _may_worker(facts: Facts) -> None:
    record, asked = facts.worker, facts.requester
    if record is None:
        raise WORKER_UNKNOWN(expected="a registered worker", found=f"0x{asked.worker.hex()}")
    if record.removed or facts.newest.removed or facts.newest.left:
        where = "at the checkpoint" if record.removed else "at a newer block"
        raise WORKER_REMOVED(expected="a worker in service", found=f"removed {where}")
    if record.boot != asked.boot:
        raise BOOT_MISMATCH(expected=f"boot 0x{record.boot.hex()[:16]}…", found=f"0x{asked.boot.hex()[:16]}…")
    if record.expiry <= facts.checkpoint.number:
        raise WORKER_EXPIRED(expected=f"expiry above block {facts.checkpoint.number}", found=f"block {record.expiry}")
    if (record.measurement, record.vendor_class) != (asked.measurement, asked.vendor_class):
        raise MEASUREMENT_MISMATCH(
            expected=f"0x{record.measurement.hex()[:16]}…", found=f"0x{asked.measurement.hex()[:16]}… or another vendor"
        )


def _may_agent(facts: Facts) -> AgentFacts:
    agent = facts.agent
    if agent is None:
        raise AGENT_UNKNOWN(expected="an agent at the checkpoint", found="no record")
    if bytes(32) in (agent.code_hash, agent.manifest_hash):
        raise AGENT_UNKNOWN(expected="an agent with code and manifest", found="an identity without code")
    if agent.paused or facts.newest.paused:
        where = "at the checkpoint" if agent.paused else "at a newer block"
        raise PAUSED(expected="a running agent", found=f"paused {where}")
    return agent


def _not_closed(facts: Facts, agent: AgentFacts) -> None:
    epochs = (agent.agent_epoch, agent.cluster_epoch, facts.committee.master_epoch)
    floor = (max(facts.ledger.floor[0], facts.newest.agent_epoch), *facts.ledger.floor[1:])
    if any(epoch < low for epoch, low in zip(epochs, floor, strict=True)):
        raise EPOCH_CLOSED(expected=f"epochs (agent, cluster, master) >= {floor}", found=str(epochs))


def _within_cap(facts: Facts, agent: AgentFacts) -> None:
    held, cap = facts.ledger.held, facts.limits.max_agents_per_worker
    if agent.agent not in held and len(held) >= cap:
        raise CAP(expected=f"at most {cap} agents in this term", found=f"{len(held)} held, one more asked")


def _grant(facts: Facts, agent: AgentFacts) -> Grant:
    checkpoint, committee = facts.checkpoint, facts.committee
    period = checkpoint.number // facts.limits.period_blocks
    version = AgentVersion(
        network=committee.network,
        master_epoch=committee.master_epoch,
        cluster=agent.cluster,
        cluster_epoch=agent.cluster_epoch,
        agent=agent.agent,
        agent_epoch=agent.agent_epoch,
    )
    lease = Lease(
        term=committee.term,
        agent=agent.agent,
        code_hash=agent.code_hash,
        manifest_hash=agent.manifest_hash,
        cluster=agent.cluster,
        master_epoch=committee.master_epoch,
        cluster_epoch=agent.cluster_epoch,
        agent_epoch=agent.agent_epoch,
        period=period,
        worker=facts.requester.worker,
        boot=facts.requester.boot,
        checkpoint=checkpoint.number,
        expiry=(period + 2) * facts.limits.period_blocks,
    )
    return Grant(lease, granted_identities(version, period))
