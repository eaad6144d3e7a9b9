"""Statements of t members: each decides alone, shows its signature, takes the others'; one of them sends (S1-S10).

::

    ask      every peer: what did you sign?   GET /v1/statements
    decide   ``core.policy.committee_statements`` on what they propose, and on what is due
    show     what we sign, until its rule holds no longer: then it is done, or must not be done
    send     t distinct signatures, one member after the other by seat
    again    in the same block, the first member alone: others sign the same at it, a moment later or earlier

Nothing is stored. What is signed follows from the chain and from tables that are on disk, so a restart signs the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp

from cloister.core.chainview.founding import SeatsRecord
from cloister.core.chainview.header import Header
from cloister.core.encoding.contract_statements import Resealed
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.statements import Lease, Statement
from cloister.core.errors import CloisterError, PolicyError, define
from cloister.core.policy.committee_due import due
from cloister.core.policy.committee_statements import (
    LEASE_TERMS,
    Known,
    Proposal,
    Scene,
    call_of,
    check_form,
    may_sign,
)
from cloister.gatekeeper.audit import AuditLog
from cloister.gatekeeper.deeds import Deeds
from cloister.gatekeeper.knowing import Knowing
from cloister.gatekeeper.leases import ShownLeases
from cloister.gatekeeper.memory import HeadDesk
from cloister.gatekeeper.ports import Snapshot
from cloister.gatekeeper.store import Store
from cloister.gatekeeper.watch import Watch
from cloister.node import logs
from cloister.node.identity import NodeKeys
from cloister.wire.ask import ask
from cloister.wire.statements import (
    MAX_LEASES,
    MAX_ROWS,
    SignedProposal,
    leases_from_json,
    leases_to_json,
    rows_from_json,
    rows_to_json,
    statement_to_json,
)

PATIENCE = 3
# How long a proposal that others do not sign keeps its agents from being proposed anew.
COVER_BLOCKS = 32
# How often peers are asked while nothing of ours is open.
ASK_BLOCKS = 4
# How often the first member asks again within the block at which it signed something, once each poll.
AGAIN = 16

NOT_SHOWN = define(
    "gatekeeper.not_removed",
    PolicyError,
    check="leases are shown of workers that were removed for cause alone",
    remedy="wait until the removal is final",
    status=404,
)
_log = logs.get("statements")
_T = TypeVar("_T")


@dataclass
class _Open:
    """A statement that we signed. since: block at which we did. ready: at which t signatures were first there."""

    proposal: Proposal
    signature: bytes
    since: int
    ready: int | None = None


@dataclass(frozen=True)
class _Heard:
    """What peers showed: signatures by statement and member, and the proposals themselves."""

    votes: dict[Statement, dict[bytes, bytes]] = field(default_factory=dict)
    proposals: dict[Proposal, None] = field(default_factory=dict)


class Gatherer:
    """This member's part in statements of t members."""

    def __init__(
        self,
        store: Store,
        keys: NodeKeys,
        session: aiohttp.ClientSession,
        deeds: Deeds,
        audit: AuditLog,
        knowing: Knowing,
        watch: Watch,
    ) -> None:
        self._store, self._keys, self._session, self._deeds = store, keys, session, deeds
        self._audit, self._knowing, self._watch = audit, knowing, watch
        self._open: dict[Statement, _Open] = {}
        self._network, self._term, self._left = bytes(32), 0, 0
        self._last: tuple[Snapshot, Header, Scene] | None = None
        self._rounds = 0

    # --- what is shown ---

    def served(self) -> dict[str, Any]:
        """GET /v1/statements: what we signed and still would sign."""
        return rows_to_json([SignedProposal(one.proposal, one.signature) for one in self._open.values()])

    def served_leases(self, worker: bytes) -> dict[str, Any]:
        """GET /v1/leases/{worker}: leases that we granted to a removed worker. Raises PolicyError."""
        if worker not in self._knowing.removed:
            raise NOT_SHOWN(expected="a worker removed for cause", found=to_hex(worker))
        return leases_to_json(self._own_leases(worker))

    def progress(self) -> dict[str, Any]:
        """For people: what we signed, and how many agents the older master epoch still has."""
        return {
            "signed": [statement_to_json(statement) for statement in self._open],
            "not_resealed": self._left,
        }

    # --- one turn ---

    async def step(self, at: Snapshot, head: Header, seats: SeatsRecord, heads: HeadDesk | None) -> None:
        """Ask, decide, show, send, at a final block. ``heads``: our table; None out of office. Raises CloisterError."""
        scene = await self._knowing.scene(at, head, seats)
        self._network, self._term, self._left = seats.network_id, seats.term, scene.remaining
        self._last, self._rounds = None, 0
        if self._keys.address not in scene.voters:
            self._open.clear()
            return
        if head.number % ASK_BLOCKS == 0:
            await self._watch.step(at, scene, head, lambda path, parse: self._each(at, scene, path, parse))
        heard = await self._listen(at, scene) if self._listens(scene) else _Heard()
        proposals = [one for one in self._proposals(heard) if self._allowed(one, lambda p: check_form(p, scene))]
        known = await self._knowing.known(
            at, scene, proposals, heads, lambda worker: self._ask_leases(at, scene, worker)
        )
        self._decide(proposals, scene, known)
        await self._send(scene, head, heard)
        self._last = at, head, scene

    async def again(self) -> None:
        """In the same block: what we signed at it and are the first to send may have t signatures by now.

        So it is sent one block earlier (M2 waits for it). Decides nothing. Raises CloisterError."""
        if self._last is None or self._rounds >= AGAIN:
            return
        at, head, scene = self._last
        new = any(one.since == scene.number and one.ready is None for one in self._open.values())
        if new and scene.voters[0] == self._keys.address:
            self._rounds += 1
            await self._send(scene, head, await self._listen(at, scene))

    async def _send(self, scene: Scene, head: Header, heard: _Heard) -> None:
        for one in self._ours(scene, heard):
            contract, function, arguments = call_of(one.proposal, self._signatures(one, scene, heard))
            await self._deeds.once((function, arguments), head, contract)

    def _listens(self, scene: Scene) -> bool:
        return bool(self._open or scene.consents) or scene.number % ASK_BLOCKS == 0 or scene.older is not None

    def _proposals(self, heard: _Heard) -> list[Proposal]:
        """Ours first. A liar's wrong lists under a true statement stand beside the true ones, and shadow nothing."""
        return list({**{one.proposal: None for one in self._open.values()}, **heard.proposals})

    def _decide(self, proposals: Sequence[Proposal], scene: Scene, known: Known) -> None:
        """Sign what the rules allow; let go of what they allow no longer."""
        allowed: dict[Statement, _Open] = {}
        for proposal in proposals:
            if self._allowed(proposal, lambda p: may_sign(p, scene, known)):
                allowed[proposal.statement] = self._sign(proposal, scene)
        fresh = (one for one in allowed.values() if one.since + COVER_BLOCKS > scene.number)
        covered = {(type(one.proposal.statement).NAME, token) for one in fresh for token in one.proposal.tokens}
        for proposal in due(scene, known, covered):
            if proposal.statement not in allowed:
                allowed[proposal.statement] = self._sign(proposal, scene)
        first = sorted(allowed.items(), key=lambda one: isinstance(one[0], Resealed))  # nobody crowds the others out
        self._open = dict(first[:MAX_ROWS])

    @staticmethod
    def _allowed(proposal: Proposal, rule: Callable[[Proposal], object]) -> bool:
        try:
            rule(proposal)
        except CloisterError as error:
            _log.debug("not signed", kind=type(proposal.statement).NAME, code=error.code, found=error.found)
            return False
        return True

    def _sign(self, proposal: Proposal, scene: Scene) -> _Open:
        """Our signature, noted in the audit log the first time."""
        known = self._open.get(proposal.statement)
        if known is not None:
            return known
        said = statement_to_json(proposal.statement)
        self._audit.append("statement", block=str(scene.number), **said)
        _log.info("signed", kind=said["kind"], block=scene.number)
        return _Open(proposal, self._keys.sign(proposal.statement.digest(self._network)), scene.number)

    def _ours(self, scene: Scene, heard: _Heard) -> Iterator[_Open]:
        """Statements with t signatures whose sending is our turn."""
        turn = PATIENCE * scene.voters.index(self._keys.address)
        for one in self._open.values():
            if len(self._signatures(one, scene, heard)) < scene.term.threshold:
                one.ready = None
                continue
            one.ready = scene.number if one.ready is None else one.ready
            if scene.number >= one.ready + turn:
                yield one

    def _signatures(self, one: _Open, scene: Scene, heard: _Heard) -> list[bytes]:
        """t signatures of distinct voters, in order of seats; fewer if there are not as many."""
        votes = {**heard.votes.get(one.proposal.statement, {}), self._keys.address: one.signature}
        return [votes[member] for member in scene.voters if member in votes][: scene.term.threshold]

    # --- peers ---

    async def _listen(self, at: Snapshot, scene: Scene) -> _Heard:
        """What the other voters show; each row counts by its member's signature."""
        heard = _Heard()
        for member, rows in await self._each(at, scene, "/v1/statements", rows_from_json):
            for row in rows:
                statement = row.proposal.statement
                try:
                    row.verify(self._network, member)
                except CloisterError:
                    break
                heard.votes.setdefault(statement, {})[member] = row.signature
                heard.proposals[row.proposal] = None
        return heard

    async def _ask_leases(self, at: Snapshot, scene: Scene, worker: bytes) -> list[ShownLeases]:
        answers = await self._each(at, scene, f"/v1/leases/{to_hex(worker)}", leases_from_json)
        own = ShownLeases(self._network, self._keys.address, tuple(self._own_leases(worker)))
        return [own, *(ShownLeases(self._network, member, leases) for member, leases in answers)]

    async def _each(self, at: Snapshot, scene: Scene, path: str, parse: Callable[[Any], _T]) -> list[tuple[bytes, _T]]:
        """The answers of the other voters that parse, each with its member."""
        others = tuple(member for member in scene.voters if member != self._keys.address)
        records = await at.candidates(others)
        asked = [(m, c.endpoint.rstrip("/")) for m, c in zip(others, records, strict=True) if c is not None]
        answers = await asyncio.gather(*(self._one(endpoint + path, parse) for _, endpoint in asked))
        return [(member, found) for (member, _), found in zip(asked, answers, strict=True) if found is not None]

    async def _one(self, url: str, parse: Callable[[Any], _T]) -> _T | None:
        try:
            return parse(await ask(self._session, "GET", url))
        except CloisterError as error:
            _log.debug("nothing shown", url=url, code=error.code)
            return None

    def _own_leases(self, worker: bytes) -> list[tuple[Lease, bytes]]:
        since = max(1, self._term - LEASE_TERMS)
        newest = {(one.agent, one.agent_epoch): one for one in self._store.granted_to(worker, since)}
        return [(one, self._keys.sign(one.digest(self._network))) for one in list(newest.values())[-MAX_LEASES:]]
