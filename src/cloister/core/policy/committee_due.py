"""What a member proposes by itself: all that its own rules let it sign now (spec/gatekeepers.md S9). Pure."""

from __future__ import annotations

from collections.abc import Iterator, Set

from cloister.core.chainview.ceremonies import EpochState
from cloister.core.encoding.handover import EpochDestruction, MasterResume, ReceiverRefusal
from cloister.core.encoding.statements import WorkerRemoval
from cloister.core.errors import CloisterError
from cloister.core.policy.committee_statements import (
    MAX_BATCH,
    Known,
    Proposal,
    Scene,
    is_resealed,
    may_sign,
    resealed,
    worker_bumps,
)


def due(scene: Scene, known: Known, covered: Set[tuple[str, int]]) -> list[Proposal]:
    """The proposals that ``may_sign`` lets through, in a fixed order.

    ``covered``: (kind, token id) of agents that a proposal signed lately names already: not proposed again."""
    found = []
    for proposal in (*_of_committee(scene, known), *_of_agents(scene, known, covered)):
        try:
            may_sign(proposal, scene, known)
        except CloisterError:
            continue
        found.append(proposal)
    return found


def _of_committee(scene: Scene, known: Known) -> Iterator[Proposal]:
    term = scene.term.term
    for ceremony, member in sorted(known.refused):
        yield Proposal(ReceiverRefusal(term, ceremony, member))
    if scene.made is not None:
        yield Proposal(MasterResume(term, scene.made.id, scene.newest.epoch))
    for statement in sorted(scene.consents, key=lambda one: one.struct_hash()):
        yield Proposal(statement)
    if scene.older is not None:
        yield Proposal(EpochDestruction(term, scene.older.epoch))


def _of_agents(scene: Scene, known: Known, covered: Set[tuple[str, int]]) -> Iterator[Proposal]:
    term, newest = scene.term.term, scene.newest
    for worker in sorted(known.caused):
        if WorkerRemoval(term, worker) not in scene.consents:
            yield Proposal(WorkerRemoval(term, worker))
    for worker in sorted(known.removed):
        leased = known.leased.get(worker, frozenset())
        ends = {
            token: one.epoch
            for token, one in sorted(known.agents.items())
            if (one.agent, one.epoch) in leased and ("WorkerBumps", token) not in covered
        }
        for part in _parts(list(ends)):
            yield worker_bumps(term, worker, {token: ends[token] for token in part})
    if scene.older is None or newest.state is not EpochState.RESUMED:
        return
    moved = [
        token
        for token, one in sorted(known.agents.items())
        if one.counted < newest.epoch and ("Resealed", token) not in covered and is_resealed(one, scene, newest.epoch)
    ]
    for part in _parts(moved):
        yield resealed(term, newest.epoch, part)


def _parts(tokens: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(tokens), MAX_BATCH):
        yield tokens[start : start + MAX_BATCH]
