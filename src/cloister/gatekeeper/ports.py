"""What the gatekeeper asks of the chain. ``proven.py`` implements it over storage proofs; tests implement it in memory.

A ``Snapshot`` is finalised state at one block: every answer was proven against that block's state root. ``Newest``
facts come from whatever block was seen last, proven or not, and may only restrict.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from cloister.core.chainview.ceremonies import CeremonyView, EpochRecord, TermRecord
from cloister.core.chainview.founding import CandidateRecord, SeatsRecord
from cloister.core.chainview.header import Header
from cloister.core.chainview.records import PolicyRecord
from cloister.core.chainview.reseals import CountedAgent
from cloister.core.chainview.seats import RulesRecord
from cloister.core.encoding.contract_statements import People
from cloister.core.encoding.statements import Checkpoint
from cloister.core.policy.caps import Backing
from cloister.core.policy.release import AgentFacts, Newest, WorkerFacts
from cloister.core.state.rows import Head
from cloister.core.threshold.facts import Facts


class Snapshot(Protocol):
    """Proven state at one finalised block."""

    async def worker(self, worker: bytes) -> WorkerFacts | None:
        """A worker's record, or None if it is not registered."""

    async def backing(self, worker: bytes) -> Backing:
        """What stands behind a worker: its operator, the stake, the caps; nothing bounds where no contract keeps it."""

    async def live_workers(self) -> frozenset[bytes]:
        """Workers that are registered, not removed, and not expired at this block."""

    async def placeable(self, most: int) -> Mapping[bytes, int]:
        """The same, with what placement weighs each by; ``most``: the policy's cap of agents for each."""

    async def agent(self, agent: bytes) -> AgentFacts | None:
        """An agent's record with its cluster's, or None if it does not exist."""

    async def people(self, agent: bytes, chain_id: int) -> People | None:
        """Who stands in an agent's record, as a connected chain is told; None if it does not exist."""

    async def policy(self) -> PolicyRecord:
        """The policy in force and when the list was founded."""

    async def listed_at(self, measurement: bytes) -> int:
        """Block at which a measurement id was listed; 0 if it is not."""

    async def listed(self, name: bytes) -> bytes | None:
        """The newest address that the Directory has under a name; None if there is none."""

    async def committee(self) -> SeatsRecord:
        """The committee, in office or still dealing."""

    async def candidates(self, members: tuple[bytes, ...]) -> tuple[CandidateRecord | None, ...]:
        """What gatekeepers said of themselves, in order; None for strangers."""

    async def standing(self) -> tuple[bytes, ...]:
        """Addresses of those who stand as candidates, oldest first; the first 64."""

    async def admitted_until(self, member: bytes) -> int:
        """The block below which elections consider a candidate; 0 if t members did not admit it."""

    async def open_ceremony(self) -> CeremonyView | None:
        """The ceremony that was opened last, ended or not; None before the first."""

    async def ceremony_at(self, number: int) -> CeremonyView:
        """The ceremony with this number, from 1."""

    async def facts(self, ceremony: CeremonyView) -> Facts:
        """What the contract keeps of a ceremony."""

    async def term_record(self, term: int) -> TermRecord:
        """A term that is or was in office."""

    async def elected_at(self) -> int:
        """Block at which the members were last elected; a refresh elects nobody."""

    async def epoch_record(self, epoch: int) -> EpochRecord:
        """A master epoch."""

    async def handover_signatures(self, term: int) -> tuple[bytes, ...]:
        """The stored signatures of a term's hand-over; empty before."""

    async def rules(self) -> RulesRecord:
        """The contract's parameters."""

    async def agent_count(self) -> int:
        """How many agents exist; their token ids are 1 to this."""

    async def counted(self, tokens: tuple[int, ...]) -> tuple[CountedAgent, ...]:
        """Agents by token id, with the master epoch that each counts under; epoch 0 for one that does not exist."""

    async def remaining(self, epoch: int) -> int:
        """How many agents count under a master epoch (epochs.md 13)."""

    async def acceptance_count(self) -> int:
        """How often owners accepted a head of a forked store (state.md 13)."""

    async def acceptances(self, start: int, end: int) -> tuple[tuple[bytes, Head], ...]:
        """Agents of these acceptances, in order, each with the head that was accepted last of it."""


class Chain(Protocol):
    """The chain, as far as this gatekeeper believes it."""

    async def advance(self) -> tuple[Header, ...]:
        """New finalised headers since the last call, oldest first, each the child of the one before; often empty.

        The first call after ``resume`` continues there; without it, it gives the newest alone. Raises ChainError,
        ChainViewError."""

    def resume(self, last: Checkpoint) -> None:
        """Continue after a block that was signed before a restart."""

    async def header(self, number: int) -> Header:
        """The finalised header at a height, as the verifier has it."""

    def at(self, checkpoint: Checkpoint) -> Snapshot:
        """Proven state at a block."""

    async def newest(self, agent: bytes | None, worker: bytes) -> Newest:
        """Restrictive facts at the newest block seen, proven or not. ``agent`` None: only the worker is asked for."""

    async def newest_speakers(self, agent: bytes, chain_id: int) -> frozenset[bytes]:
        """Whom the newest block of each endpoint names for the agent's owner on another chain, proven or not."""

    async def balance(self, address: bytes) -> int:
        """An account's balance in wei: only to know whether transactions can be paid."""

    async def send(self, function: str, *args: Any, contract: str = "Gatekeepers") -> None:
        """Call a function of a contract of the network as this member; returns once it is in a block."""

    async def published(self, ceremony: CeremonyView, dealer: int) -> bytes | None:
        """The call data of a dealer's publication: the frame of DKG_DEALING. Unproven: its digest decides."""
