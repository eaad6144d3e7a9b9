"""What this member remembers of agents' state: endorsing heads, and telling loaders (spec/gatekeeper-api.md 7).

::

    not merged   after a restart: the disk may be an old copy, so nothing is endorsed; asking is answered
    merged       the tables of enough other members were taken over: heads are endorsed, but for agents in doubt
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import replace

from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.identity import Epochs, Purpose
from cloister.core.encoding.statements import Lease, StateHead
from cloister.core.errors import CloisterError, PolicyError, define
from cloister.core.policy.refusals import WORKER_REMOVED
from cloister.core.policy.release import is_closed
from cloister.core.state.heads import genesis_head
from cloister.core.state.rows import Head
from cloister.core.state.table import HeadTable
from cloister.gatekeeper.checkpoints import Checkpoints
from cloister.gatekeeper.limits import RateLimit
from cloister.gatekeeper.office import Office
from cloister.gatekeeper.ports import Chain, Snapshot
from cloister.gatekeeper.store import Store
from cloister.wire.committee import Committee
from cloister.wire.heads import (
    PAGE_ROWS,
    EndorsedHead,
    HeadAnswer,
    HeadMove,
    HeadsRequest,
    TablePage,
    fresh_digest,
    move_of,
    page_digest,
)
from cloister.wire.messages import parse

# Acceptances of heads that one turn reads.
MAX_ACCEPTANCES = 64

NO_LEASE = define(
    "gatekeeper.no_lease",
    PolicyError,
    check="the worker holds a lease of the agent, at this epoch and boot, that has not ended",
    remedy="renew the lease with POST /v1/keys, and send it along",
    status=403,
)


class HeadDesk:
    """Endorses moves of agent state."""

    def __init__(
        self,
        office: Office,
        checkpoints: Checkpoints,
        chain: Chain,
        store: Store,
        committee: Committee,
        *,
        limit: RateLimit,
        first: bool,
        table: HeadTable | None = None,
        elders: Committee | None = None,
    ) -> None:
        """``first``: this process founded the committee, so its empty table is the newest there is.

        ``table``: of this member's term before, which goes on. ``elders``: the committee of the term before, whose
        tables a new member merges too (spec/gatekeepers.md R5)."""
        self._office, self._checkpoints, self._chain, self._store = office, checkpoints, chain, store
        self._committee, self._elders, self._limit = committee, elders, limit
        rows = store.head_rows()
        fresh = HeadTable(merged=True) if first and not rows else HeadTable.from_json(_table(rows))
        self._table = fresh if table is None else table

    @property
    def table(self) -> HeadTable:
        """The table, to go on with in the next term."""
        return self._table

    @property
    def merged(self) -> bool:
        """Whether heads are endorsed."""
        return self._table.merged

    @property
    def doubts(self) -> int:
        """Agent versions whose newest head the members did not agree on when this member came back."""
        return self._table.doubts

    async def endorse(self, body: bytes, remote: str) -> list[str | CloisterError]:
        """For each head a signature (hex) or the refusal. Raises CloisterError for the request as a whole.

        1. size and shape; 2. rate; 3. the worker signed it; 4. it is not removed; 5. heads that q members signed are
        taken over; 6. each head under a lease, one child per parent; 7. all remembered, then signed.
        """
        request = parse(HeadsRequest.from_json, body)  # 1
        self._limit.take((remote, request.worker))  # 2
        request.verify()  # 3
        if (await self._chain.newest(None, request.worker)).removed:  # 4
            raise WORKER_REMOVED(expected="a worker in service", found="removed")
        wiped = await self._wiped(request)
        self._checkpoints.require_running()
        leases = self._leases(request)
        changed = self._adopt(request)  # 5
        outcomes = [self._propose(move, leases, wiped) for move in request.heads]  # 6
        accepted = [m for m, o in zip(request.heads, outcomes, strict=True) if o is None]
        self._store.put_heads(changed + [(m.agent, m.as_head()) for m in accepted])  # 7
        return [
            to_hex(self._office.sign(move.statement(self._office.term))) if outcome is None else outcome
            for move, outcome in zip(request.heads, outcomes, strict=True)
        ]

    def sealed(self, agent: bytes) -> Epochs | None:
        """Under which epochs the agent's state is, as far as this member may say (``HeadTable.sealed``)."""
        return self._table.sealed(agent)

    def settled(self, agent: bytes) -> bool:
        """Whether this member may say that an agent has no head (``HeadTable.settled``)."""
        return self._table.settled(agent)

    def newest(self, agent: bytes, nonce: bytes) -> HeadAnswer:
        """The newest head of an agent, or none, signed over the asker's nonce."""
        self._checkpoints.require_running()
        found = self._table.get(agent)
        head = None
        if found is not None:
            move = HeadMove.of(agent, found)
            head = EndorsedHead(move, self._office.sign(move.statement(self._office.term)))
        office = self._office
        what = fresh_digest(office.network, office.term, nonce, agent, head)
        return HeadAnswer(head, office.sign_digest(what))

    def page(self, nonce: bytes, after: bytes) -> TablePage:
        """Rows of the table after a cursor (an agent, or empty), signed over the asker's nonce."""
        rows = self._store.head_rows(after, PAGE_ROWS + 1)
        more, rows = len(rows) > PAGE_ROWS, rows[:PAGE_ROWS]
        what = page_digest(self._office.network, nonce, after, rows, more)
        return TablePage(tuple(rows), more, self._office.sign_digest(what))

    async def follow_acceptances(self, at: Snapshot) -> None:
        """Take over heads that owners accepted, as final state has them (spec/state.md 13). Raises CloisterError.

        From the first one on after each start: what was done already changes nothing. The contract asks for t
        signatures; where r are more, t of them do not prove that no other head has q, and none is taken over."""
        table = self._table
        if not table.merged:
            return
        count = await at.acceptance_count()
        table.acceptances = count if table.acceptances is None else table.acceptances
        start, end = table.followed, min(count, table.followed + MAX_ACCEPTANCES)
        if end <= start:
            return
        found = enumerate(await at.acceptances(start, end), start)
        counts = self._office.signers.threshold >= self._committee.load_quorum
        taken = [
            (agent, head)
            for number, (agent, head) in found
            if counts and table.accept(agent, head, fresh=number >= table.acceptances)
        ]
        self._store.put_heads(taken)
        table.followed = end

    async def merge(self, rng: Callable[[int], bytes]) -> None:
        """Take over the tables of r other members, then endorse; again while agents are in doubt. Raises CloisterError.

        Until it succeeded nothing is signed; afterwards nothing for agents in doubt."""
        if self._table.merged and not self._table.doubts:
            return
        if self._elders is not None:
            await self._merge_elders(self._elders, rng)
        tables = await self._committee.head_tables(self._office.address, rng)
        self._table.merge([HeadTable.from_json(_table(rows)) for rows in tables], self._committee.load_quorum)
        self._store.put_heads(self._table)

    async def _merge_elders(self, elders: Committee, rng: Callable[[int], bytes]) -> None:
        """Learn what the term before endorsed; then the members in office are asked as after a restart."""
        tables = await elders.head_tables(self._office.address, rng)
        learned = HeadTable.from_json(_table(self._store.head_rows()))
        learned.merge([HeadTable.from_json(_table(rows)) for rows in tables], elders.load_quorum)
        self._store.put_heads(learned)
        self._table = HeadTable.from_json(_table(self._store.head_rows()))
        self._elders = None
        await elders.close()

    def _leases(self, request: HeadsRequest) -> dict[bytes, Lease]:
        """The worker's newest lease per agent: one that this member granted, or that t members signed.

        A lease of epochs below those that this member released keys of counts no more: once t members have released
        newer keys, no quorum endorses what a holder of older ones writes (spec/epochs.md 6)."""
        for signed in request.leases:
            signed.verify(self._office.signers, self._office.network)
        shown = [signed.statement for signed in request.leases]
        term, worker = self._office.term, request.worker
        own = [self._store.granted(term, worker, agent) for agent in {h.agent for h in request.heads}]
        head = self._checkpoints.head
        number = 0 if head is None else head.number
        found = [
            lease
            for lease in (*own, *shown)
            if isinstance(lease, Lease)
            and (lease.worker, lease.boot) == (worker, request.boot)
            and lease.expiry > number
            and not is_closed(lease.epochs[:3], self._store.floor(lease.agent))
        ]
        return {lease.agent: lease for lease in sorted(found, key=lambda one: one.epochs)}

    def _adopt(self, request: HeadsRequest) -> list[tuple[bytes, Head]]:
        taken = []
        quorum = replace(self._office.signers, threshold=self._committee.endorse_quorum)
        for signed in request.proven:
            signed.verify(quorum, self._office.network)
            head = signed.statement
            if not isinstance(head, StateHead):
                raise TypeError("proven heads are parsed as heads")
            shown = move_of(head).as_head()
            mine = self._table.get(head.agent)
            if mine is not None and (mine.epochs, mine.height) > (shown.epochs, shown.height):
                continue
            self._table.adopt(head.agent, shown)
            taken.append((head.agent, shown))
        return taken

    def _propose(self, move: HeadMove, leases: dict[bytes, Lease], wiped: Set[bytes]) -> CloisterError | None:
        """A lease lets its holder write under its own epochs, and finish the chain of older ones that it re-seals."""
        lease, held = leases.get(move.agent), self._table.get(move.agent)
        try:
            finishes = held is not None and held.epochs == move.epochs
            if lease is None or move.epochs > lease.epochs or (move.epochs < lease.epochs and not finishes):
                raise NO_LEASE(expected=f"a lease at epochs {move.epochs[:3]}", found="none in force")
            genesis = genesis_head(bytes(move.epochs.version(self._office.network, move.agent).key(Purpose.STATE)))
            self._table.propose(move.agent, move.as_head(), genesis=genesis, wiped=move.agent in wiped)
        except CloisterError as error:
            return error
        return None

    async def _wiped(self, request: HeadsRequest) -> frozenset[bytes]:
        """Agents of which the request shows a first head over older state, and finalised state leaves that behind."""
        head, found = self._checkpoints.head, set()
        for move in request.heads:
            held = self._table.get(move.agent)
            if head is None or held is None or move.height != 1 or held.epochs >= move.epochs:
                continue
            facts = await self._chain.at(head).agent(move.agent)
            if facts is not None and held.epochs.agent < facts.wiped_below:
                found.add(move.agent)
        return frozenset(found)


def _table(rows: list[dict[str, object]]) -> dict[str, object]:
    return {"version": 1, "heads": rows}
