"""May this member sign it? One pure decision per kind of statement that t members make (gatekeepers.md S1-S13).

Everything in :class:`Scene` and :class:`Known` was proven at one final block, or is what this member itself remembers.
Nothing that a peer says decides anything, but leases that t members of a term show. ``KINDS`` is the one place where a
kind is named: its rule, and the contract's function that takes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from cloister.core.chainview.ceremonies import CeremonyView, EpochRecord, EpochState, TermRecord
from cloister.core.chainview.seats import RulesRecord
from cloister.core.encoding.contract_statements import Resealed, WorkerBumps
from cloister.core.encoding.handover import (
    EpochDestruction,
    MasterResume,
    MasterRotation,
    ReceiverRefusal,
    SeatRevocation,
)
from cloister.core.encoding.hexes import need_uint, to_hex
from cloister.core.encoding.identity import Epochs
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.statements import Statement, WorkerRemoval
from cloister.core.errors import PolicyError, define
from cloister.core.threshold.phases import Kind as CeremonyKind

MAX_BATCH: Final = 256
# A worker that is removed may have kept keys of any lease of an epoch that still runs; members look this far back.
LEASE_TERMS: Final = 8

WRONG_TERM = define(
    "policy.statement_term",
    PolicyError,
    check="a statement of t members names the term in office",
    remedy="propose it anew: the committee changed, and what was signed for another term counts no more",
    status=409,
)
NO_SEAT = define(
    "policy.statement_seat",
    PolicyError,
    check="who signs for the committee holds a seat in office that was not revoked",
    remedy="ask the members that sit; a revoked seat signs nothing",
    status=403,
)
BAD_BATCH = define(
    "policy.statement_batch",
    PolicyError,
    check="a batch names 1 to 256 agents, each once, in order, and its hash is in the statement",
    remedy="the member that proposed it is broken or lies; its proposal is passed over",
)
BAD_EPOCH = define(
    "policy.statement_epoch",
    PolicyError,
    check="the statement names the master epoch that its kind is about, in the state that it takes (M1-M4)",
    remedy="look with `cloister gatekeeper status`; what was done already is not done again",
    status=409,
)
IN_THE_WAY = define(
    "policy.statement_busy",
    PolicyError,
    check="no open ceremony and no revoked seat stands in the way",
    remedy="wait until the ceremony has ended, or the next election took the seat",
    status=409,
)
NO_CAUSE = define(
    "policy.no_consent",
    PolicyError,
    check="a rotation is due, a cause is proven, or this member's operator consented to exactly this statement",
    remedy="on the member's machine: `cloister gatekeeper propose-rotation --consent FOLDER` (or propose-revocation, "
    "propose-removal)",
    status=403,
)
BAD_SEAT = define(
    "policy.revocation",
    PolicyError,
    check="a revocation names a seat in office, and leaves at least t seats",
    remedy="elect new members before further seats are revoked",
    status=409,
)
NOT_REFUSED = define(
    "policy.not_refused",
    PolicyError,
    check="this member refused that receiver's evidence in the open ceremony, at its last try, and has dealt nothing",
    remedy="members that verified it deal, and the ceremony goes on without the others",
    status=409,
)
NOT_RESEALED = define(
    "policy.not_resealed",
    PolicyError,
    check="state and secrets of every agent in the batch are under the new master epoch, as this member knows it",
    remedy="wait until workers have re-sealed the agents, or let their owners waive; a paused agent is not re-sealed",
    status=409,
)
NOT_REMOVED = define(
    "policy.not_removed",
    PolicyError,
    check="agents are bumped for a worker that was removed for cause, at a final block",
    remedy="the DAO or t members remove the worker first",
    status=409,
)
NO_WORKER = define(
    "policy.no_such_worker",
    PolicyError,
    check="a removal names a worker that registered once, and was not removed yet",
    remedy="see its record in the Workers contract; who was removed is removed for good",
    status=409,
)
NEVER_LEASED = define(
    "policy.never_leased",
    PolicyError,
    check="each agent in the batch was leased to the removed worker at its present epoch",
    remedy="the member that proposed it is broken or lies; owners bump their agents' epochs by themselves",
    status=403,
)
STILL_NEEDED = define(
    "policy.epoch_needed",
    PolicyError,
    check="nothing is under the master epoch any more, and every lease of it has ended",
    remedy="`cloister gatekeeper status` shows how many agents remain; they re-seal, or their owners waive",
    status=409,
)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A statement with the lists that it commits to. ``tokens``: Agents token ids; ``epochs``: the agent epochs that
    end, one for each (``WorkerBumps`` alone)."""

    statement: Statement
    tokens: tuple[int, ...] = ()
    epochs: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Scene:
    """The committee at a final block, and who asks. Proven, but for ``consents``.

    number: the block. member: this member's address (20 bytes). term: in office. newest: the newest master epoch;
    older: the one below it while it lives, else None. made: the ceremony that made ``newest``. open: whether a ceremony
    runs. remaining: how many agents are counted under ``older``. consents: what this member's operator wants signed."""

    number: int
    member: bytes
    term: TermRecord
    newest: EpochRecord
    older: EpochRecord | None
    made: CeremonyView | None
    open: bool
    rules: RulesRecord
    period_blocks: int
    remaining: int = 0
    consents: frozenset[Statement] = frozenset()

    @property
    def voters(self) -> tuple[bytes, ...]:
        """Members whose signatures count, in order of seats (E7)."""
        return tuple(m for seat, m in enumerate(self.term.members, 1) if seat not in self.term.revoked)

    @property
    def leases_over(self) -> int:
        """The block from which on no lease of an earlier master epoch runs: none is granted after the confirmation."""
        return self.newest.confirmed_at + 2 * self.period_blocks


@dataclass(frozen=True, slots=True)
class AgentKnown:
    """One agent. Proven: epoch (0: no such agent), counted (the master epoch that ``Reseals`` has it under), secrets,
    wiped_below. This member's own: settled (its table is merged and not in doubt), sealed (its newest head's epochs),
    floor (the newest master epoch that it released keys of)."""

    agent: bytes
    epoch: int
    counted: int
    settled: bool
    sealed: Epochs | None
    secrets: Epochs | None
    wiped_below: int
    floor: int


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of agents (by token id) and of workers. removed: workers removed for cause, proven. workers: of
    those that are named, who registered and was not removed, proven. caused: who signed what excludes each other.

    leased: for a worker the (agent, agent epoch) pairs of leases that this member granted, or that t members show.
    refused: (ceremony id, receiver) of the open ceremony, whose evidence this member refused and waited for in vain."""

    agents: Mapping[int, AgentKnown] = field(default_factory=dict)
    removed: frozenset[bytes] = frozenset()
    leased: Mapping[bytes, frozenset[tuple[bytes, int]]] = field(default_factory=dict)
    workers: frozenset[bytes] = frozenset()
    caused: frozenset[bytes] = frozenset()
    refused: frozenset[tuple[bytes, bytes]] = frozenset()


Rule = Callable[[Proposal, Scene, Known], None]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of statement: its class, the rule, and the function that takes (fields, lists …, signatures)."""

    statement: type[Statement]
    rule: Rule
    contract: str
    function: str
    lists: int = 0


def may_sign(proposal: Proposal, scene: Scene, known: Known) -> None:
    """Decide. Raises the PolicyError of the first rule that says no; TypeError for a statement of no kind here."""
    check_form(proposal, scene).rule(proposal, scene, known)


def check_form(proposal: Proposal, scene: Scene) -> Kind:
    """What can be said before anything is read for it. Raises PolicyError, TypeError as ``may_sign``.

    S1. a seat in office that was not revoked signs, for the term in office alone; S2. lists have the hash that the
    statement names."""
    kind = KINDS.get(type(proposal.statement).NAME)
    if kind is None or type(proposal.statement) is not kind.statement:
        raise TypeError(f"no rule for {type(proposal.statement).__name__}")
    if scene.member not in scene.voters:  # S1
        raise NO_SEAT(expected="a seat in office", found=to_hex(scene.member))
    term = getattr(proposal.statement, "term", 0)
    if term != scene.term.term:
        raise WRONG_TERM(expected=f"term {scene.term.term}", found=f"term {term}")
    _check_lists(proposal, kind)  # S2
    return kind


def call_of(proposal: Proposal, signatures: Sequence[bytes]) -> tuple[str, str, tuple[object, ...]]:
    """The transaction that brings a statement: contract, function, arguments."""
    said = proposal.statement
    kind = KINDS[type(said).NAME]
    fields = tuple(getattr(said, name) for name in type(said).TYPES)
    lists = (proposal.tokens, proposal.epochs)[: kind.lists]
    return kind.contract, kind.function, (fields, *lists, tuple(signatures))


def resealed(term: int, master_epoch: int, tokens: Sequence[int]) -> Proposal:
    """The proposal that these agents (token ids) left every earlier master epoch."""
    tokens = tuple(sorted(tokens))
    return Proposal(Resealed(term, master_epoch, lists_hash(tokens)), tokens)


def worker_bumps(term: int, worker: bytes, epochs: Mapping[int, int]) -> Proposal:
    """The proposal that ends these agents' epochs (by token id) for a removed worker (20-byte address)."""
    tokens = tuple(sorted(epochs))
    ends = tuple(epochs[token] for token in tokens)
    return Proposal(WorkerBumps(term, worker, lists_hash(tokens, ends)), tokens, ends)


def lists_hash(*lists: Sequence[int]) -> bytes:
    """keccak256(abi.encode(…)) of one or two arrays of numbers, 32 bytes."""
    words, place = [], 32 * len(lists)
    for one in lists:
        words.append(place)
        place += 32 * (1 + len(one))
    for one in lists:
        words += [len(one), *one]
    return keccak256(*(need_uint("number", word, 256).to_bytes(32, "big") for word in words))


def is_resealed(one: AgentKnown, scene: Scene, master_epoch: int) -> bool:
    """S6: whether a release would hand out no key of the agent under an earlier master epoch, now or later.

    1. this member may speak about the agent; 2. state and secrets, where the chain and its table have them, are under
    the epoch (the same reading as release, epochs.md 5); 3. without state, no lease of an earlier epoch writes any."""
    if not one.epoch or not one.settled:  # 1
        return False
    state = None if one.sealed is None or one.sealed.agent < one.wiped_below else one.sealed
    secrets = one.secrets
    if secrets is not None and one.sealed is not None and secrets < one.sealed:
        secrets = state
    if any(found is not None and found.master < master_epoch for found in (state, secrets)):  # 2
        return False
    return state is not None or one.floor >= master_epoch or scene.number >= scene.leases_over  # 3


# --- the rules ---


def _resume(proposal: Proposal, scene: Scene, known: Known) -> None:
    """S3 (M2): the newest epoch waits for it, and this rotation made it."""
    made, newest = scene.made, scene.newest
    waits = newest.state is EpochState.PAUSED and newest.epoch > 1
    fits = made is not None and made.kind is CeremonyKind.ROTATE and made.master_epoch == newest.epoch
    due = None if made is None else MasterResume(scene.term.term, made.id, newest.epoch)
    if not waits or not fits or proposal.statement != due:
        raise BAD_EPOCH(expected="the epoch that waits for its resume", found=_epoch(newest))


def _rotation(proposal: Proposal, scene: Scene, known: Known) -> None:
    """S4 (M1): the newest epoch, alone, nothing in the way; it is due, or the operator consented."""
    if proposal.statement != MasterRotation(scene.term.term, scene.newest.epoch) or scene.older is not None:
        raise BAD_EPOCH(expected="the only master epoch that lives", found=_epoch(scene.older or scene.newest))
    if scene.open or scene.term.revoked:
        raise IN_THE_WAY(expected="no ceremony, no revoked seat", found="an open one" if scene.open else "a seat")
    due = scene.newest.confirmed_at + scene.rules.rotation_blocks
    if scene.number < due and proposal.statement not in scene.consents:
        raise NO_CAUSE(expected=f"block {due}, or a consent", found=f"block {scene.number}, and none")


def _revocation(proposal: Proposal, scene: Scene, known: Known) -> None:
    """S5 (E7): a seat in office, not revoked yet; t seats are left; the operator consented."""
    said = proposal.statement
    assert isinstance(said, SeatRevocation)  # noqa: S101 - by its kind
    if said.member not in scene.voters:
        raise BAD_SEAT(expected="a member in office", found=to_hex(said.member))
    if len(scene.voters) - 1 < scene.term.threshold:
        raise BAD_SEAT(expected=f"{scene.term.threshold} seats left", found=str(len(scene.voters) - 1))
    if said not in scene.consents:
        raise NO_CAUSE(expected="a consent of this member's operator", found="none")


def _refusal(proposal: Proposal, scene: Scene, known: Known) -> None:
    """S13 (G15): this member refused the receiver's evidence itself, and would deal if it were not for that."""
    said = proposal.statement
    assert isinstance(said, ReceiverRefusal)  # noqa: S101 - by its kind
    if (said.ceremony, said.member) not in known.refused:
        raise NOT_REFUSED(expected="a receiver that showed this member no good evidence", found=to_hex(said.member))


def _resealed(proposal: Proposal, scene: Scene, known: Known) -> None:
    """S6 (epochs.md 13): every agent is under the newest epoch, which runs, and the contract counts it earlier."""
    said = proposal.statement
    assert isinstance(said, Resealed)  # noqa: S101 - by its kind
    if said.master_epoch != scene.newest.epoch or scene.newest.state is not EpochState.RESUMED:
        raise BAD_EPOCH(expected="the newest master epoch, resumed", found=_epoch(scene.newest))
    for token in proposal.tokens:
        one = known.agents.get(token)
        if one is None or not is_resealed(one, scene, said.master_epoch):
            raise NOT_RESEALED(expected=f"agent {token} under epoch {said.master_epoch}", found="not that I know")
        if one.counted >= said.master_epoch:
            raise NOT_RESEALED(expected=f"agent {token} counted earlier", found=f"under epoch {one.counted} already")


def _removal(proposal: Proposal, scene: Scene, known: Known) -> None:
    """S12: a worker that is there; the worker itself proved the cause, or the operator consented."""
    said = proposal.statement
    assert isinstance(said, WorkerRemoval)  # noqa: S101 - by its kind
    if said.worker not in known.workers:
        raise NO_WORKER(expected="a worker that was not removed", found=to_hex(said.worker))
    if said.worker not in known.caused and said not in scene.consents:
        raise NO_CAUSE(expected="two heads of its log, or a consent of this member's operator", found="neither")


def _bumps(proposal: Proposal, scene: Scene, known: Known) -> None:
    """S7 (epochs.md 10): a removed worker, and agents that were leased to it at the epochs that they have."""
    said = proposal.statement
    assert isinstance(said, WorkerBumps)  # noqa: S101 - by its kind
    if said.worker not in known.removed:
        raise NOT_REMOVED(expected="a worker removed for cause", found=to_hex(said.worker))
    leased = known.leased.get(said.worker, frozenset())
    for token, epoch in zip(proposal.tokens, proposal.epochs, strict=True):
        one = known.agents.get(token)
        if one is None or one.epoch != epoch or (one.agent, epoch) not in leased:
            raise NEVER_LEASED(expected=f"a lease of agent {token} at epoch {epoch}", found="none that I know")


def _destruction(proposal: Proposal, scene: Scene, known: Known) -> None:
    """S8 (M4): the older epoch, no ceremony, nobody under it, and no key of it in any worker's lease."""
    older, newest = scene.older, scene.newest
    lives = older is not None and newest.state is EpochState.RESUMED
    if older is None or not lives or proposal.statement != EpochDestruction(scene.term.term, older.epoch):
        raise BAD_EPOCH(expected="the epoch before a resumed one", found=_epoch(older or newest))
    if scene.open:
        raise IN_THE_WAY(expected="no ceremony", found="an open one")
    if scene.remaining:
        raise STILL_NEEDED(expected="no agent counted under it", found=str(scene.remaining))
    over = max(scene.leases_over, newest.resumed_at + scene.rules.erase_delay)
    if scene.number < over:
        raise STILL_NEEDED(expected=f"block {over}", found=f"block {scene.number}")


KINDS: Final[Mapping[str, Kind]] = {
    kind.statement.NAME: kind
    for kind in (
        Kind(MasterResume, _resume, "Gatekeepers", "resume"),
        Kind(MasterRotation, _rotation, "Gatekeepers", "rotateByCommittee"),
        Kind(SeatRevocation, _revocation, "Gatekeepers", "revokeByCommittee"),
        Kind(ReceiverRefusal, _refusal, "Gatekeepers", "refuseReceiver"),
        Kind(WorkerRemoval, _removal, "Workers", "removeByCommittee"),
        Kind(Resealed, _resealed, "Reseals", "record", lists=1),
        Kind(WorkerBumps, _bumps, "Agents", "bumpEpochsByCommittee", lists=2),
        Kind(EpochDestruction, _destruction, "Gatekeepers", "destroyEpoch"),
    )
}


# --- inside ---


def _check_lists(proposal: Proposal, kind: Kind) -> None:
    lists = (proposal.tokens, proposal.epochs)
    if any(lists[kind.lists :]):
        raise BAD_BATCH(expected=f"{kind.lists} lists", found="more")
    if not kind.lists:
        return
    tokens = proposal.tokens
    sizes = {len(one) for one in lists[: kind.lists]}
    if sizes != {len(tokens)} or not 1 <= len(tokens) <= MAX_BATCH or list(tokens) != sorted(set(tokens)):
        raise BAD_BATCH(expected=f"1 to {MAX_BATCH} agents in order", found=f"{len(tokens)} named")
    if lists_hash(*lists[: kind.lists]) != getattr(proposal.statement, "agents", b""):
        raise BAD_BATCH(expected="the lists that were hashed", found="others")


def _epoch(record: EpochRecord) -> str:
    return f"epoch {record.epoch} {record.state.name.lower()}"
