"""The committee as the chain proves it, term after term, and what its members say of themselves.

::

    pinned committee ─▶ signed hand-overs ─▶ the term in office ─▶ its checkpoint ─▶ proven words of Gatekeepers

Endpoints may come from anybody: hand-overs and checkpoints count by their signatures (spec/gatekeepers.md H2). The pin
counts as known in office now: who gives a fingerprint vouches for it (H3). What a member says of itself in
``GET /v1/status`` is unsigned. It is shown, and nothing rests on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, cast

import aiohttp

from cloister.chain.committees import CeremonyState
from cloister.chain.places import endpoints_of
from cloister.chain.rpc import Rpc
from cloister.core.attestation.policy import Policy
from cloister.core.chainview.ceremonies import CeremonyView, Ending, EpochRecord, EpochState, TermRecord
from cloister.core.chainview.checkpoints import accept_checkpoint
from cloister.core.chainview.seats import RulesRecord
from cloister.core.chainview.terms import Terms, follow, pinned
from cloister.core.encoding.hexes import need_fields, to_hex
from cloister.core.encoding.network import Network
from cloister.core.encoding.signatures import MAX_MEMBERS
from cloister.core.encoding.statements import Checkpoint
from cloister.core.threshold.dealing import Ceremony
from cloister.core.threshold.facts import Facts
from cloister.core.threshold.phases import Phase, phase_at
from cloister.core.threshold.words import MEANS, missing
from cloister.wire.ask import ask, new_session
from cloister.wire.committee import Committee
from cloister.wire.terms import offered_by

_ENDED = {Ending.DONE: Phase.DONE, Ending.FAILED: Phase.FAILED, Ending.CANCELLED: Phase.FAILED}


@dataclass(frozen=True, slots=True)
class Sitting:
    """A seat of the term in office. ``endpoint``: where its member says that it answers, or None."""

    seat: int
    address: bytes
    vendor: str
    endpoint: str | None
    revoked: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """What the chain proves of the committee at one checkpoint. ``epochs``: master epochs that live, oldest first."""

    checkpoint: Checkpoint
    term: TermRecord
    sittings: tuple[Sitting, ...]
    epochs: tuple[EpochRecord, ...]
    rules: RulesRecord
    ceremony: CeremonyView | None
    facts: Facts

    @property
    def newest(self) -> EpochRecord:
        """The newest master epoch."""
        return self.epochs[-1]

    @property
    def running(self) -> bool:
        """Whether a ceremony is open: its end is not recorded."""
        return self.ceremony is not None and self.ceremony.ending is Ending.OPEN

    @property
    def rested(self) -> int:
        """The block from which on the next ceremony may open: one window after the last one (G1)."""
        last = self.ceremony
        return 0 if last is None else last.ended_at + last.deadlines.commit_by - last.opened_at

    @property
    def phase(self) -> Phase | None:
        """The phase of the ceremony that was opened last; None before the first."""
        view = self.ceremony
        if view is None:
            return None
        shape = cast(Ceremony, _Shape(len(view.dealers), view.quorum, view.threshold, view.receivers))
        return _ENDED.get(view.ending) or phase_at(shape, view.deadlines, self.facts, self.checkpoint.number)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; blocks as numbers."""
        confirmed = self.newest.confirmed_at
        return {
            "block": self.checkpoint.number,
            "term": self.term.term,
            "since_block": self.term.height,
            "threshold": self.term.threshold,
            "members": [_sitting(one) for one in self.sittings],
            "master_epochs": [{"epoch": e.epoch, "state": e.state.name.lower(), "term": e.term} for e in self.epochs],
            "refresh_from_block": max(self.term.height + self.rules.refresh_blocks, self.rested),
            "rotation_from_block": max(confirmed + self.rules.rotation_blocks, self.rested),
            "ceremony": None if self.ceremony is None else self._ceremony(self.ceremony),
        }

    def _ceremony(self, view: CeremonyView) -> dict[str, Any]:
        phase = self.phase
        assert phase is not None  # noqa: S101 - there is a ceremony
        over = phase in (Phase.DONE, Phase.FAILED)
        until = None if over else view.deadlines.of(phase)
        return {
            "number": view.number,
            "id": to_hex(view.id),
            "kind": view.kind.value,
            "term": view.term,
            "master_epoch": view.master_epoch,
            "phase": phase.value,
            "means": MEANS[phase],
            "until_block": until,
            "blocks_left": None if until is None else max(0, until - self.checkpoint.number),
            "missing": [] if over else missing(len(view.dealers), len(view.receivers), self.facts, phase),
            "recorded": view.ending is not Ending.OPEN,
        }


@dataclass(frozen=True, slots=True)
class _Shape:
    """As much of a ceremony as its phase depends on: no transport keys, no old shares."""

    dealers: int
    quorum: int
    threshold: int
    members: tuple[bytes, ...]


class CommitteeReader:
    """Reads the committee of a pinned network. Use with ``async with``.

    ``rpc``: any endpoint that serves proofs. ``urls``: members' addresses; without them those that stand on chain.
    ``clock``: Unix seconds. Methods raise CloisterError."""

    def __init__(self, network: Network, rpc: Rpc, *, clock: Callable[[], float], urls: Sequence[str] = ()) -> None:
        self._network, self._rpc, self._clock, self._urls = network, rpc, clock, tuple(urls)[:MAX_MEMBERS]
        self._addresses = {name: ref.address for name, ref in network.genesis.contracts.items()}
        self._codes = {name: ref.code_hash for name, ref in network.genesis.contracts.items()}
        self._max_age = Policy.from_json(dict(network.genesis.policy)).network.max_checkpoint_age_s
        self._session: aiohttp.ClientSession | None = None
        self.terms: Terms | None = None

    async def __aenter__(self) -> Self:
        self._session = new_session()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def read(self) -> Reading:
        """One reading. 1. whom to ask; 2. the term in office; 3. its newest checkpoint; 4. the records, by proof.

        Raises TransportError (nobody answers), ChainViewError, ChainError, EncodingError."""
        urls, now = self._urls or await self.endpoints(), int(self._clock())  # 1
        offered = await offered_by(self._open(), urls)
        self.terms = terms = follow(pinned(self._network, now), offered, now)  # 2
        signers = terms.in_office.signers
        signed = await Committee(urls, signers, self._network.id, session=self._session).checkpoint()  # 3
        at = accept_checkpoint(signed, signers, self._network.id, int(self._clock()), self._max_age)
        return await self._records(CeremonyState(self._rpc, self._addresses, at, code_hashes=self._codes))  # 4

    async def status(self, url: str) -> dict[str, Any]:
        """What a member says of itself, unsigned: the fields of ``GET /v1/status``. Raises TransportError."""
        return await ask_status(self._open(), url)

    async def endpoints(self) -> tuple[str, ...]:
        """Where the members say that they answer; unproven, because what they answer is signed."""
        return await endpoints_of(self._rpc, self._addresses["Gatekeepers"])

    async def _records(self, state: CeremonyState) -> Reading:
        committee, rules, view = await asyncio.gather(state.committee(), state.rules(), state.open_ceremony())
        numbers = range(max(1, committee.master_epoch - 1), committee.master_epoch + 1)
        term, candidates, epochs = await asyncio.gather(
            state.term_record(committee.term),
            state.candidates(committee.members),
            asyncio.gather(*(state.epoch_record(number) for number in numbers)),
        )
        said = zip(committee.members, candidates, strict=True)
        sittings = tuple(
            Sitting(
                seat,
                address,
                "" if one is None else one.vendor_class.rstrip(b"\0").decode("ascii", "replace"),
                None if one is None else one.endpoint,
                seat in term.revoked,
            )
            for seat, (address, one) in enumerate(said, 1)
        )
        live = tuple(e for e in epochs if e.state not in (EpochState.NONE, EpochState.DESTROYED))
        facts = Facts() if view is None else await state.facts(view)
        return Reading(state.checkpoint, term, sittings, live, rules, view, facts)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("use `async with CommitteeReader(…) as reader`")
        return self._session


async def ask_status(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    """What the gatekeeper at ``url`` says of itself. Raises TransportError, EncodingError, or its own refusal."""
    value = await ask(session, "GET", f"{url.rstrip('/')}/v1/status")
    names = {"member", "term", "index", "doing", "block", "shares", "ceremony", "statements"}
    said = need_fields("status", value, names)
    if said["ceremony"] is not None:
        fields = {"number", "id", "kind", "term", "master_epoch", "phase", "means", "until_block", "missing", "trouble"}
        need_fields("ceremony", said["ceremony"], fields)
    return said


def _sitting(one: Sitting) -> dict[str, Any]:
    return {
        "seat": one.seat,
        "member": to_hex(one.address),
        "vendor": one.vendor,
        "endpoint": one.endpoint,
        "revoked": one.revoked,
    }
