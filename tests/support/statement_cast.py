"""A committee of five, any three of which speak, over the chain in memory: what members know, and what liars show."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from cloister.core.chainview.ceremonies import CeremonyView, Ending, EpochState
from cloister.core.encoding.identity import Epochs
from cloister.core.encoding.statements import Lease, Statement
from cloister.core.policy.committee_statements import Proposal
from cloister.core.policy.release import AgentFacts
from cloister.core.state.rows import Head
from cloister.core.threshold.phases import Deadlines, Kind
from cloister.devnet.layout import free_ports
from cloister.wire.statements import CONSENTS_FILE, SignedProposal, consents_to_json, rows_to_json
from support.committee_chain import Opened
from support.gatekeepers import PretendWorker, Seat, Sitting, World, policy, sit, turn_all

THRESHOLD = 3
CLUSTER = b"\xc2" * 32


@asynccontextmanager
async def committee(folder: Path, count: int = 5) -> AsyncIterator[tuple[World, list[Seat], Sitting]]:
    """In office since block 8, on paper."""
    world = World(policy(period_blocks=20))
    seats = [Seat(world, folder / f"gk-{i}", i, port) for i, port in enumerate(free_ports(count))]
    sitting = sit(world, seats, THRESHOLD)
    try:
        for seat in seats:
            await seat.open()
        yield world, seats, sitting
    finally:
        for seat in seats:
            await seat.close()


async def blocks(world: World, seats: Sequence[Seat], count: int = 4) -> None:
    """Blocks go by; the members look after each fourth: they look for statements no more often."""
    for _ in range(count):
        world.mine(4 - world.final.number % 4)
        await turn_all(seats)


def consent(seat: Seat, *statements: Statement) -> None:
    """What an operator's command writes."""
    (seat.folder / CONSENTS_FILE).write_text(json.dumps(consents_to_json(statements)))


def lease_of(world: World, worker: PretendWorker, agent: AgentFacts, **changes: Any) -> Lease:
    """A lease as members grant it."""
    fields: dict[str, Any] = {
        "term": 1,
        "agent": agent.agent,
        "code_hash": agent.code_hash,
        "manifest_hash": agent.manifest_hash,
        "cluster": agent.cluster,
        "master_epoch": 1,
        "cluster_epoch": 1,
        "agent_epoch": agent.agent_epoch,
        "period": 0,
        "worker": worker.address,
        "boot": worker.boot,
        "checkpoint": world.final.number,
        "expiry": world.final.number + 600,
    }
    return Lease(**(fields | changes))


def sealed_under(seat: Seat, agent: AgentFacts, master_epoch: int, *, height: int = 1) -> None:
    """The member takes over a head of an agent, as after q endorsements."""
    epochs = Epochs(agent.agent_epoch, agent.cluster_epoch, master_epoch, agent.cluster)
    head = Head(epochs, height, bytes([height]) * 32, bytes([height + 1, master_epoch]) * 16)
    seat.gatekeeper.require_desks().heads.table.adopt(agent.agent, head)


def show(seat: Seat, network: bytes, *proposals: Proposal, key: Seat | None = None) -> None:
    """From now on this member, a liar, shows these with its signature (or that of ``key``) and decides nothing."""
    signer = (key or seat).keys
    rows = [SignedProposal(p, signer.sign(p.statement.digest(network))) for p in proposals]
    liar = seat.gatekeeper.statements

    async def idle(*_: object) -> None:
        return None

    liar.served = lambda: rows_to_json(rows)  # type: ignore[method-assign]
    liar.step = idle  # type: ignore[method-assign, assignment]


def signed_kinds(seat: Seat) -> list[str]:
    """Kinds of what a member shows now."""
    return [row["kind"] for row in seat.gatekeeper.statements.served()["statements"]]


def rotated(world: World) -> None:
    """Master epoch 2 runs, epoch 1 lives: as after a rotation that strangers held. Members have shares of epoch 1."""
    contract, number = world.now.contract, len(world.headers)
    strangers = tuple(bytes([0xA0 + i]) * 20 for i in range(3))
    keys = tuple(bytes([0xA0 + i]) * 32 for i in range(3))
    view = CeremonyView(
        number=len(contract.ceremonies) + 1,
        id=b"\x0d" * 32,
        kind=Kind.ROTATE,
        base=contract.seats.network_id,
        term=1,
        master_epoch=2,
        threshold=2,
        quorum=2,
        dealers=strangers,
        receivers=strangers,
        keys=keys,
        dealer_term=0,
        old_mpk=bytes(96),
        old_transcript=bytes(32),
        opened_at=number,
        deadlines=Deadlines.after(number, 12),
        ending=Ending.DONE,
        ended_at=number,
    )
    contract.ceremonies.append(Opened(view))
    first = contract.epochs[1]
    contract.epochs[1] = replace(first, state=EpochState.PAUSED)
    contract.epochs[2] = replace(
        first, epoch=2, state=EpochState.RESUMED, ceremony=view.number, confirmed_at=number, resumed_at=number
    )
    contract.seats = replace(contract.seats, master_epoch=2)
