"""May this worker have this agent's keys? One pure decision over verified facts (spec/gatekeeper-api.md 6).

Everything in :class:`Facts` was verified before: the boot and measurement by attestation, the records by proof at a
checkpoint that t members signed, the newest facts from any block seen. The decision builds the lease and the key
identities itself; a requester never names an epoch, a period or an identity.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from cloister.core.encoding.hexes import BAD_FIELD
from cloister.core.encoding.identity import AgentVersion, Epochs, KeyIdentity
from cloister.core.encoding.statements import Checkpoint, Lease
from cloister.core.policy.caps import Backing, Held, within_caps
from cloister.core.policy.identities import granted_identities, resealing_identities
from cloister.core.policy.placement import may_hold
from cloister.core.policy.refusals import (
    AGENT_UNKNOWN,
    BOOT_MISMATCH,
    EPOCH_CLOSED,
    MEASUREMENT_MISMATCH,
    NO_VERSION,
    PAUSED,
    ROTATING,
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
    """The agent's and its cluster's record at the checkpoint, and where placement puts it.

    secrets: the epochs under which the owner's secrets were set; None if none are set. wiped_below: state sealed under
    an agent epoch below this one is left behind, by the owner's choice. canary: code and manifest hash of the second
    version that may run at the checkpoint; None without one. token_id: its number in the Agents contract."""

    agent: bytes
    code_hash: bytes
    manifest_hash: bytes
    cluster: bytes
    agent_epoch: int
    cluster_epoch: int
    seats: int
    paused: bool
    secrets: Epochs | None = None
    wiped_below: int = 0
    canary: tuple[bytes, bytes] | None = None
    token_id: int = 0


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

    held: the worker's agents in this term. operator_held: those of all its operator's workers.
    floor: agent epoch, cluster epoch, master epoch below which all is closed.
    sealed: the epochs of the newest head that this member endorsed; None if it knows none, or may not say.
    """

    held: frozenset[bytes] = frozenset()
    floor: tuple[int, int, int] = (0, 0, 0)
    sealed: Epochs | None = None
    operator_held: frozenset[bytes] = frozenset()


class EpochState(Enum):
    """What the chain says of one master epoch (spec/gatekeepers.md M1-M4)."""

    RELEASED = "released"
    PAUSED = "paused"
    RESUMED = "resumed"
    DESTROYED = "destroyed"


@dataclass(frozen=True, slots=True)
class EpochFacts:
    """Master epochs at the checkpoint. Those not named are released: no rotation ever touched them."""

    states: Mapping[int, EpochState] = field(default_factory=dict)

    def of(self, epoch: int) -> EpochState:
        """The state of one master epoch."""
        return self.states.get(epoch, EpochState.RELEASED)

    def writable(self, epoch: int) -> bool:
        """Whether keys of this master epoch are released for writing: of the newest one alone, once it runs."""
        return self.of(epoch) in (EpochState.RELEASED, EpochState.RESUMED) and epoch >= max(self.states, default=0)


@dataclass(frozen=True, slots=True)
class Limits:
    """Network parameters of the proven policy."""

    period_blocks: int
    max_agents_per_worker: int


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a release depends on. ``live``: workers registered, not removed, not expired at the checkpoint, with
    their weights where they do not weigh the same (``placement.place``).

    ``code``: the code hash that is asked for; None: of the version in force."""

    checkpoint: Checkpoint
    requester: Requester
    worker: WorkerFacts | None
    agent: AgentFacts | None
    committee: CommitteeFacts
    live: Collection[bytes]
    limits: Limits
    newest: Newest = field(default_factory=Newest)
    ledger: Ledger = field(default_factory=Ledger)
    masters: EpochFacts = field(default_factory=EpochFacts)
    code: bytes | None = None
    backing: Backing = field(default_factory=Backing)


@dataclass(frozen=True, slots=True)
class Grant:
    """The lease to sign and the key identities to evaluate. Equal facts give equal bytes at every member.

    old: keys of earlier epochs, for re-sealing alone; ``reason`` says why they go along, or why none do. canary: the
    lease is of the second version."""

    lease: Lease
    identities: tuple[KeyIdentity, ...]
    old: tuple[KeyIdentity, ...] = ()
    reason: str = ""
    canary: bool = False


def vendor_class_id(name: str) -> bytes:
    """The 32 bytes of a vendor class ("intel", "amd", "aws", ...) in statements and on chain: ASCII, zero-padded.

    Raises EncodingError for names that do not fit."""
    text = name.encode("ascii", "replace")
    if not 0 < len(text) <= 32 or b"?" in text or b"\0" in text:
        raise BAD_FIELD(expected="a vendor class of 1 to 32 ASCII letters", found=repr(name)[:40])
    return text.ljust(32, b"\0")


def may_release(facts: Facts) -> Grant:
    """Decide. Raises the PolicyError of the first rule that says no.

    1. the checkpoint is of this term; 2. the worker's record; 3. the agent's record, in the version that is asked for;
    4. no newer epoch was released, and the master epoch is not paused by a rotation; 5. placement; 6. caps; 7. build
    the lease and the identities; 8. keys of the epochs that state and secrets are still sealed under.
    """
    if facts.checkpoint.term != facts.committee.term:  # 1
        raise WRONG_TERM(expected=f"term {facts.committee.term}", found=f"term {facts.checkpoint.term}")
    _may_worker(facts)  # 2
    agent = _may_agent(facts)  # 3
    _not_closed(facts, agent)  # 4
    may_hold(facts.committee.seed, agent.agent, facts.live, agent.seats, facts.requester.worker)  # 5
    _within_cap(facts, agent)  # 6
    lease, identities = _grant(facts, agent)  # 7
    old, reason = _resealing(facts, agent, lease)  # 8
    return Grant(lease, identities, old, reason, canary=facts.agent != agent)


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
    return _in_version(agent, facts.code)


def _in_version(agent: AgentFacts, code: bytes | None) -> AgentFacts:
    """The agent as the version that is asked for: the one in force, or its canary. Raises policy.no_such_version."""
    if code is None or code == agent.code_hash:
        return agent
    if agent.canary is None or agent.canary[0] != code:
        raise NO_VERSION(expected="the code in force or a canary that may run", found=f"0x{code.hex()[:16]}…")
    return replace(agent, code_hash=agent.canary[0], manifest_hash=agent.canary[1])


def _not_closed(facts: Facts, agent: AgentFacts) -> None:
    epochs = (agent.agent_epoch, agent.cluster_epoch, facts.committee.master_epoch)
    floor = (max(facts.ledger.floor[0], facts.newest.agent_epoch), *facts.ledger.floor[1:])
    if is_closed(epochs, floor):
        raise EPOCH_CLOSED(expected=f"epochs (agent, cluster, master) >= {floor}", found=str(epochs))
    master = facts.committee.master_epoch
    if not facts.masters.writable(master):
        raise ROTATING(expected="a master epoch in use", found=f"epoch {master} {facts.masters.of(master).value}")


def is_closed(epochs: tuple[int, int, int], floor: tuple[int, int, int]) -> bool:
    """Whether (agent, cluster, master) epochs lie below a floor. The cluster's epoch counts within one agent epoch: an
    agent that moved to another cluster has a new epoch of its own, and the other cluster counts by itself."""
    agent, cluster, master = epochs
    return agent < floor[0] or master < floor[2] or (agent == floor[0] and cluster < floor[1])


def _resealing(facts: Facts, agent: AgentFacts, lease: Lease) -> tuple[tuple[KeyIdentity, ...], str]:
    """Keys of earlier epochs, and why (spec/epochs.md 5).

    1. what is re-sealed stays closed; 2. state sealed below the owner's mark is left behind; 3. secrets are sealed
    where the owner set them, or where the state is, when a re-seal carried them; none are set after a transfer;
    4. nothing of a destroyed master epoch.
    """
    now, sealed = lease.epochs, facts.ledger.sealed
    if sealed is not None and sealed >= now:  # 1
        return (), "re-sealed"
    state = None if sealed is None or sealed.agent < agent.wiped_below else sealed  # 2
    secrets = agent.secrets
    if secrets is not None and sealed is not None and secrets < sealed:  # 3
        secrets = state
    kept = [
        None if e is None or facts.masters.of(e.master) is EpochState.DESTROYED else e for e in (state, secrets)
    ]  # 4
    old = resealing_identities(facts.committee.network, lease.agent, now, *kept)
    return old, "to re-seal: " + ", ".join(i.purpose.name.lower() for i in old) if old else "nothing to re-seal"


def _within_cap(facts: Facts, agent: AgentFacts) -> None:
    held = Held(facts.ledger.held, facts.ledger.operator_held)
    within_caps(agent.agent, facts.limits.max_agents_per_worker, facts.backing, held)


def _grant(facts: Facts, agent: AgentFacts) -> tuple[Lease, tuple[KeyIdentity, ...]]:
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
    return lease, granted_identities(version, period)
