"""May this member sign it: one sentence per rule of spec/gatekeepers.md S1-S9."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.chain.abi import encode, parse
from cloister.core.chainview.ceremonies import CeremonyView, Ending, EpochRecord, EpochState, TermRecord
from cloister.core.chainview.seats import RulesRecord
from cloister.core.encoding.contract_statements import Resealed, WorkerBumps
from cloister.core.encoding.handover import (
    EpochDestruction,
    MasterResume,
    MasterRotation,
    ReceiverRefusal,
    SeatRevocation,
)
from cloister.core.encoding.identity import Epochs
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.statements import Statement, WorkerRemoval
from cloister.core.errors import CloisterError
from cloister.core.policy.committee_due import due
from cloister.core.policy.committee_statements import (
    KINDS,
    MAX_BATCH,
    AgentKnown,
    Known,
    Proposal,
    Scene,
    call_of,
    lists_hash,
    may_sign,
    resealed,
    worker_bumps,
)
from cloister.core.threshold.phases import Deadlines, Kind

MEMBERS = tuple(bytes([i]) * 20 for i in range(1, 6))
ME, WORKER, CLUSTER = MEMBERS[0], b"\xee" * 20, b"\xc2" * 32
RULES = RulesRecord(12, 400, 300, 1000, 10, 10, 0, 0)
TERM = TermRecord(2, 3, 50, 0, 1, 3, bytes(32), frozenset(), MEMBERS)
PERIOD = 20


def epoch(number: int, state: EpochState, **changes: int) -> EpochRecord:
    base = EpochRecord(number, state, number, 2, 100 * number, 0, 0, bytes(32), bytes(96))
    return replace(base, **changes)


def rotation(number: int = 2) -> CeremonyView:
    ends = Deadlines.after(100, 12)
    seats = (MEMBERS, MEMBERS, tuple(m + bytes(12) for m in MEMBERS))
    return CeremonyView(2, b"\x0d" * 32, Kind.ROTATE, bytes(32), 2, number, 3, 3, *seats, 0, bytes(96), bytes(32), 100,
                        ends, Ending.DONE, 200)  # fmt: skip


def calm(**changes: Any) -> Scene:
    """One master epoch, nothing open, long before a rotation is due."""
    base = Scene(300, ME, TERM, epoch(1, EpochState.RELEASED), None, None, False, RULES, PERIOD)
    return replace(base, **changes)


def moving(**changes: Any) -> Scene:
    """Epoch 2 runs since block 210, epoch 1 lives; leases of epoch 1 end at block 240."""
    newest = epoch(2, EpochState.RESUMED, resumed_at=210)
    return calm(newest=newest, older=epoch(1, EpochState.PAUSED), made=rotation(), **changes)


def one(token: int = 7, **changes: Any) -> AgentKnown:
    """An agent whose state and secrets are under master epoch 2."""
    now = Epochs(4, 1, 2, CLUSTER)
    return replace(AgentKnown(bytes([token]) * 32, 4, 1, True, now, None, 0, 2), **changes)


def agents(*found: AgentKnown, **more: Any) -> Known:
    return Known({a.agent[0]: a for a in found}, **more)


def code_of(proposal: Proposal, scene: Scene, known: Known | None = None) -> str:
    """The refusal's code, or empty."""
    try:
        may_sign(proposal, scene, known or Known())
    except CloisterError as error:
        return error.code
    return ""


ROTATE = Proposal(MasterRotation(2, 1))
REVOKE = Proposal(SeatRevocation(2, MEMBERS[4]))
DESTROY = Proposal(EpochDestruction(2, 1))
CEREMONY = b"\x0f" * 32
REFUSE = Proposal(ReceiverRefusal(2, CEREMONY, WORKER))
RESUME = Proposal(MasterResume(2, b"\x0d" * 32, 2))
WAITING = calm(newest=epoch(2, EpochState.PAUSED), older=epoch(1, EpochState.PAUSED), made=rotation())
CONSENTED = frozenset({ROTATE.statement, REVOKE.statement})

COMMITTEE = {
    "a resume of the epoch that waits": (RESUME, WAITING, ""),
    "a resume of an epoch that was resumed": (RESUME, moving(), "policy.statement_epoch"),
    "a resume that names another ceremony": (
        Proposal(MasterResume(2, b"\x0e" * 32, 2)),
        WAITING,
        "policy.statement_epoch",
    ),
    "a resume where no rotation was": (RESUME, calm(), "policy.statement_epoch"),
    "a resume of what a reshare made": (
        RESUME,
        replace(WAITING, made=replace(rotation(), kind=Kind.RESHARE)),
        "policy.statement_epoch",
    ),
    "a rotation that is due": (ROTATE, calm(number=1100), ""),
    "a rotation one block early": (ROTATE, calm(number=1099), "policy.no_consent"),
    "a rotation with consent": (ROTATE, calm(consents=CONSENTED), ""),
    "a rotation with a consent to another epoch's": (
        ROTATE,
        calm(consents=frozenset({MasterRotation(2, 2)})),
        "policy.no_consent",
    ),
    "a rotation with a consent of another term": (
        ROTATE,
        calm(consents=frozenset({MasterRotation(1, 1)})),
        "policy.no_consent",
    ),
    "a rotation of an epoch that is not the newest": (
        Proposal(MasterRotation(2, 2)),
        calm(number=1100),
        "policy.statement_epoch",
    ),
    "a rotation while two epochs live": (
        Proposal(MasterRotation(2, 2)),
        moving(consents=frozenset({MasterRotation(2, 2)})),
        "policy.statement_epoch",
    ),
    "a rotation while a ceremony is open": (ROTATE, calm(number=1100, open=True), "policy.statement_busy"),
    "a rotation while a revoked seat sits": (
        ROTATE,
        calm(number=1100, term=replace(TERM, revoked=frozenset({5}))),
        "policy.statement_busy",
    ),
    "a revocation with consent": (REVOKE, calm(consents=CONSENTED), ""),
    "a revocation without": (REVOKE, calm(), "policy.no_consent"),
    "a revocation of another seat than consented": (
        Proposal(SeatRevocation(2, MEMBERS[3])),
        calm(consents=CONSENTED),
        "policy.no_consent",
    ),
    "a revocation of a stranger": (
        Proposal(SeatRevocation(2, WORKER)),
        calm(consents=frozenset({SeatRevocation(2, WORKER)})),
        "policy.revocation",
    ),
    "a revocation of a revoked seat": (
        REVOKE,
        calm(consents=CONSENTED, term=replace(TERM, revoked=frozenset({5}))),
        "policy.revocation",
    ),
    "a revocation that leaves fewer than t": (
        REVOKE,
        calm(consents=CONSENTED, term=replace(TERM, revoked=frozenset({3, 4}))),
        "policy.revocation",
    ),
    "a refusal that it stands behind": (REFUSE, calm(open=True), ""),
    "a refusal of another receiver": (
        Proposal(ReceiverRefusal(2, CEREMONY, MEMBERS[3])),
        calm(open=True),
        "policy.not_refused",
    ),
    "a refusal in another ceremony": (
        Proposal(ReceiverRefusal(2, b"\x0e" * 32, WORKER)),
        calm(open=True),
        "policy.not_refused",
    ),
    "a refusal of the term before": (
        Proposal(ReceiverRefusal(1, CEREMONY, WORKER)),
        calm(open=True),
        "policy.statement_term",
    ),
    "a destruction of what nobody needs": (DESTROY, moving(), ""),
    "a destruction while one agent remains": (DESTROY, moving(remaining=1), "policy.epoch_needed"),
    "a destruction while a lease of it may run": (DESTROY, moving(number=239), "policy.epoch_needed"),
    "a destruction right after a late resume": (
        DESTROY,
        replace(moving(), newest=epoch(2, EpochState.RESUMED, resumed_at=295)),
        "policy.epoch_needed",
    ),
    "a destruction while the new epoch waits": (DESTROY, replace(WAITING, number=900), "policy.statement_epoch"),
    "a destruction of the newest epoch": (Proposal(EpochDestruction(2, 2)), moving(), "policy.statement_epoch"),
    "a destruction of the only epoch": (DESTROY, calm(), "policy.statement_epoch"),
    "a destruction while a ceremony is open": (DESTROY, moving(open=True), "policy.statement_busy"),
    "a statement of the term before": (Proposal(EpochDestruction(1, 1)), moving(), "policy.statement_term"),
    "a statement of the next term": (Proposal(EpochDestruction(3, 1)), moving(), "policy.statement_term"),
    "asked of a stranger": (DESTROY, moving(member=WORKER), "policy.statement_seat"),
    "asked of a revoked seat": (DESTROY, moving(term=replace(TERM, revoked=frozenset({1}))), "policy.statement_seat"),
    "a list where the kind has none": (replace(DESTROY, tokens=(1,)), moving(), "policy.statement_batch"),
}


@pytest.mark.parametrize("sentence", COMMITTEE)
def test_statements_about_the_committee(sentence: str) -> None:
    proposal, scene, code = COMMITTEE[sentence]
    assert code_of(proposal, scene, Known(refused=frozenset({(CEREMONY, WORKER)}))) == code


EARLY = 230
BATCH = resealed(2, 2, [7])
AGENTS = {
    "state under the new epoch": (one(), 300, ""),
    "state under the new epoch, early": (one(floor=1), EARLY, ""),
    "state under the old one": (one(sealed=Epochs(4, 1, 1, CLUSTER)), 300, "policy.not_resealed"),
    "secrets under the old one, set after the state was sealed": (
        one(sealed=Epochs(3, 1, 2, CLUSTER), secrets=Epochs(4, 1, 1, CLUSTER)),
        300,
        "policy.not_resealed",
    ),
    "secrets of before, carried with the state": (one(secrets=Epochs(3, 1, 1, CLUSTER)), 300, ""),
    "no state, and secrets under the old one": (
        one(sealed=None, secrets=Epochs(4, 1, 1, CLUSTER)),
        300,
        "policy.not_resealed",
    ),
    "no state, and secrets under the new one": (one(sealed=None, secrets=Epochs(4, 1, 2, CLUSTER)), EARLY, ""),
    "nothing at all, keys of the new epoch given": (one(sealed=None), EARLY, ""),
    "nothing at all, while an old lease may write": (one(sealed=None, floor=1), EARLY, "policy.not_resealed"),
    "nothing at all, after old leases ended": (one(sealed=None, floor=1), 240, ""),
    "state that the owner wiped": (one(sealed=Epochs(2, 1, 1, CLUSTER), wiped_below=3), 300, ""),
    "wiped state, and secrets that only it carried": (
        one(sealed=Epochs(2, 1, 1, CLUSTER), wiped_below=3, secrets=Epochs(1, 1, 1, CLUSTER)),
        300,
        "",
    ),
    "a member in doubt about the agent": (one(settled=False), 300, "policy.not_resealed"),
    "no such agent": (one(epoch=0), 300, "policy.not_resealed"),
    "counted under the new epoch already": (one(counted=2), 300, "policy.not_resealed"),
}


@pytest.mark.parametrize("sentence", AGENTS)
def test_an_agent_that_left_the_old_master_epoch(sentence: str) -> None:
    found, number, code = AGENTS[sentence]
    assert code_of(BATCH, moving(number=number), agents(found)) == code


def test_one_agent_that_stayed_behind_refuses_the_whole_batch() -> None:
    behind = one(8, sealed=Epochs(4, 1, 1, CLUSTER))
    assert code_of(resealed(2, 2, [7, 8]), moving(), agents(one(), behind)) == "policy.not_resealed"
    assert code_of(resealed(2, 2, [7, 9]), moving(), agents(one())) == "policy.not_resealed", "unknown to this member"
    assert [p.tokens for p in due(moving(remaining=2), agents(one(), behind), frozenset())] == [(7,)]


@pytest.mark.parametrize("number", [1, 3])
def test_agents_leave_for_the_newest_epoch_alone(number: int) -> None:
    assert code_of(resealed(2, number, [7]), moving(), agents(one())) == "policy.statement_epoch"
    assert code_of(resealed(2, 2, [7]), WAITING, agents(one())) == "policy.statement_epoch", "before the resume"


LEASED = {WORKER: frozenset({(bytes([7]) * 32, 4), (bytes([8]) * 32, 3)})}
BUMPS = {
    "an agent that was leased there": ({7: 4}, {WORKER}, LEASED, ""),
    "an agent that was never leased there": ({9: 4}, {WORKER}, LEASED, "policy.never_leased"),
    "an agent that was leased there at an epoch that ended": ({8: 4}, {WORKER}, LEASED, "policy.never_leased"),
    "an epoch that the agent has left": ({8: 3}, {WORKER}, LEASED, "policy.never_leased"),
    "one that was, one that was not": ({7: 4, 9: 4}, {WORKER}, LEASED, "policy.never_leased"),
    "a worker in service": ({7: 4}, set(), LEASED, "policy.not_removed"),
    "leases of another worker": ({7: 4}, {WORKER}, {b"\xdd" * 20: LEASED[WORKER]}, "policy.never_leased"),
    "nobody's leases": ({7: 4}, {WORKER}, {}, "policy.never_leased"),
}


@pytest.mark.parametrize("sentence", BUMPS)
def test_bumps_for_a_removed_worker(sentence: str) -> None:
    ends, removed, leased, code = BUMPS[sentence]
    known = agents(one(7), one(8), one(9), removed=frozenset(removed), leased=leased)
    assert code_of(worker_bumps(2, WORKER, ends), calm(), known) == code


def test_a_member_bumps_all_that_the_removed_worker_held_and_nothing_else() -> None:
    known = agents(one(7), one(8), one(9), removed=frozenset({WORKER}), leased=LEASED)
    assert due(calm(), known, frozenset()) == [worker_bumps(2, WORKER, {7: 4})]
    assert due(calm(), known, frozenset({("WorkerBumps", 7)})) == []
    assert due(calm(), replace(known, removed=frozenset()), frozenset()) == []


REMOVE = Proposal(WorkerRemoval(2, WORKER))
THERE, CAUSED = frozenset({WORKER}), frozenset({WORKER})
WANTED = frozenset({REMOVE.statement})
REMOVALS = {
    "a worker that its operators gave up": (WANTED, THERE, frozenset(), ""),
    "a worker that signed two logs of one size": (frozenset(), THERE, CAUSED, ""),
    "both at once": (WANTED, THERE, CAUSED, ""),
    "a worker without a cause": (frozenset(), THERE, frozenset(), "policy.no_consent"),
    "a cause of another worker": (frozenset(), THERE, frozenset({b"\xdd" * 20}), "policy.no_consent"),
    "a consent to another worker's removal": (
        frozenset({WorkerRemoval(2, b"\xdd" * 20)}),
        THERE,
        frozenset(),
        "policy.no_consent",
    ),
    "a consent of another term": (frozenset({WorkerRemoval(1, WORKER)}), THERE, frozenset(), "policy.no_consent"),
    "a worker that is removed already": (WANTED, frozenset(), frozenset(), "policy.no_such_worker"),
    "a stranger, with cause and consent": (WANTED, frozenset({b"\xdd" * 20}), CAUSED, "policy.no_such_worker"),
}


@pytest.mark.parametrize("sentence", REMOVALS)
def test_removals_of_workers(sentence: str) -> None:
    consents, there, caused, code = REMOVALS[sentence]
    assert code_of(REMOVE, calm(consents=consents), Known(workers=there, caused=caused)) == code


def test_a_cause_is_proposed_by_itself_and_a_consent_beside_it_only_once() -> None:
    known = Known(workers=THERE, caused=CAUSED)
    assert due(calm(), known, frozenset()) == due(calm(consents=WANTED), known, frozenset()) == [REMOVE]
    assert due(calm(), Known(workers=THERE), frozenset()) == []
    assert due(calm(), Known(caused=CAUSED), frozenset()) == [], "removed meanwhile"


def test_a_removal_names_the_term_in_office() -> None:
    wanted = Proposal(WorkerRemoval(1, WORKER))
    assert code_of(wanted, calm(), Known(workers=THERE, caused=CAUSED)) == "policy.statement_term"


FORMS = {
    "no agent": replace(resealed(2, 2, []), tokens=()),
    "an agent twice": Proposal(Resealed(2, 2, lists_hash([7, 7])), (7, 7)),
    "agents in another order": Proposal(Resealed(2, 2, lists_hash([8, 7])), (8, 7)),
    "too many": resealed(2, 2, range(1, MAX_BATCH + 2)),
    "another list than the hash": replace(BATCH, tokens=(8,)),
    "epochs where none belong": replace(BATCH, epochs=(4,)),
    "fewer epochs than agents": Proposal(WorkerBumps(2, WORKER, lists_hash([7, 8], [4])), (7, 8), (4,)),
    "another epoch than the hash": replace(worker_bumps(2, WORKER, {7: 4}), epochs=(5,)),
}


@pytest.mark.parametrize("sentence", FORMS)
def test_lists_have_one_form(sentence: str) -> None:
    known = agents(one(7), one(8), removed=frozenset({WORKER}), leased=LEASED)
    assert code_of(FORMS[sentence], moving(), known) == "policy.statement_batch"


def test_a_statement_of_no_kind_is_a_mistake_of_ours() -> None:
    @dataclass(frozen=True, slots=True)
    class Other(Statement):
        NAME: ClassVar[str] = "Resealed"

    with pytest.raises(TypeError):
        may_sign(Proposal(Other()), calm(), Known())


@given(st.lists(st.integers(0, 2**256 - 1), max_size=6), st.lists(st.integers(0, 2**64 - 1), max_size=6))
def test_lists_are_hashed_as_the_contracts_do(tokens: list[int], epochs: list[int]) -> None:
    types = [parse({"type": name}) for name in ("uint256[]", "uint64[]")]
    assert lists_hash(tokens) == keccak256(encode(types[:1], [tokens]))
    assert lists_hash(tokens, epochs) == keccak256(encode(types, [tokens, epochs]))


def test_each_kind_is_brought_to_its_contract() -> None:
    found = {name: (kind.contract, kind.function) for name, kind in KINDS.items()}
    assert found["Resealed"] == ("Reseals", "record")
    assert found["WorkerBumps"] == ("Agents", "bumpEpochsByCommittee")
    assert found["ReceiverRefusal"] == ("Gatekeepers", "refuseReceiver")
    assert found["WorkerRemoval"] == ("Workers", "removeByCommittee")
    assert {contract for contract, _ in found.values()} == {"Reseals", "Agents", "Gatekeepers", "Workers"}
    bumps = worker_bumps(2, WORKER, {7: 4})
    said = bumps.statement
    assert isinstance(said, WorkerBumps)
    expected = ((2, WORKER, said.agents), (7,), (4,), (b"s",))
    assert call_of(bumps, [b"s"]) == ("Agents", "bumpEpochsByCommittee", expected)


def test_what_is_due_is_what_the_rules_allow_and_nothing_twice() -> None:
    assert due(WAITING, Known(), frozenset()) == [RESUME]
    assert due(calm(), Known(), frozenset()) == []
    assert {type(p.statement) for p in due(calm(consents=CONSENTED), Known(), frozenset())} == {
        MasterRotation,
        SeatRevocation,
    }
    assert due(moving(), Known(), frozenset()) == [DESTROY]
    assert due(calm(open=True), Known(refused=frozenset({(CEREMONY, WORKER)})), frozenset()) == [REFUSE]
    many = Known({token: one() for token in range(1, 2 * MAX_BATCH + 2)})
    batches = [len(p.tokens) for p in due(moving(remaining=513), many, frozenset()) if p.tokens]
    assert batches == [MAX_BATCH, MAX_BATCH, 1]
    covered = frozenset(("Resealed", token) for token in range(1, MAX_BATCH + 1))
    assert [len(p.tokens) for p in due(moving(remaining=513), many, covered)] == [MAX_BATCH, 1]
