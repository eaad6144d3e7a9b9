"""What members see each other and workers sign: who signs what excludes each other is named (gatekeepers.md W1-W5).

::

    look     every fourth block: what did you see signed?   GET /v1/witnessed/{height}
    keep     the first checkpoint of each member and height, in memory; a conflict durably
    tell     conflicts go to whoever asks, a member's also to the contract, which revokes its seat for good
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

from cloister.core.chainview.header import Header
from cloister.core.encoding import jcs
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.log_statements import WorkerLog
from cloister.core.encoding.signatures import Signed, recover
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import CloisterError
from cloister.core.policy.committee_statements import Scene
from cloister.core.policy.conflicts import Conflict, excludes
from cloister.gatekeeper.audit import AuditLog
from cloister.gatekeeper.deeds import Deeds
from cloister.gatekeeper.office import Office
from cloister.gatekeeper.placements import Placements
from cloister.gatekeeper.ports import Snapshot
from cloister.gatekeeper.store import Store
from cloister.node import logs
from cloister.wire.conflicts import MAX_CONFLICTS, Witnessed
from cloister.wire.messages import SignedBy

CONFLICT = "conflict/"
# How many heights are kept, and how many below its head a member asks for.
KEEP_HEIGHTS, LOOK_BACK = 64, 8
# Blocks that one seat waits for those before it.
PATIENCE = 3

AskAll = Callable[[str, Callable[[Any], Witnessed]], Awaitable[list[tuple[bytes, Witnessed]]]]
_log = logs.get("watch")


class Watch:
    """This member's eyes. Everything it keeps names its signer by signatures; nobody's word is in it."""

    def __init__(self, store: Store, audit: AuditLog, deeds: Deeds, me: bytes, placements: Placements) -> None:
        self._store, self._audit, self._deeds, self._me = store, audit, deeds, me
        self.placements = placements
        self._seen: dict[int, dict[bytes, SignedBy]] = {}
        self._network, self._chain_id, self._term, self._head = bytes(32), 0, 0, 0
        self._members: frozenset[bytes] = frozenset()
        self._conflicts = {bytes.fromhex(name.removeprefix(CONFLICT)): one for name, one in _stored(store)}
        self._ready: dict[bytes, int] = {}

    @property
    def caused(self) -> frozenset[bytes]:
        """Workers that signed two logs that exclude each other."""
        return frozenset(who for who, one in self._conflicts.items() if isinstance(one.first, WorkerLog))

    @property
    def named(self) -> Mapping[bytes, Conflict]:
        """Members that signed two checkpoints of one height, each with its conflict."""
        return {who: one for who, one in self._conflicts.items() if isinstance(one.first, Checkpoint)}

    def served(self, height: int, own: Sequence[SignedBy]) -> dict[str, Any]:
        """What we saw from a height on. ``own``: checkpoints that we signed."""
        rows = [row for number, seen in sorted(self._seen.items()) if number >= height for row in seen.values()]
        members_first = sorted(self._conflicts.values(), key=lambda one: isinstance(one.first, WorkerLog))
        return Witnessed((*own, *rows), tuple(members_first), self.placements.served(height)).to_json()

    def serve(self, office: Office, chain_id: int, number: int) -> None:
        """Whose checkpoints count from now on: those of this office's members, in its term, of this chain.

        ``number``: our head."""
        if office.term != self._term:
            self._seen.clear()
        self._network, self._chain_id, self._term = office.network, chain_id, office.term
        self._head = number
        self._members = frozenset(office.signers.members)

    def saw(self, shown: Signed) -> None:
        """Signatures of several members under one checkpoint that anybody showed."""
        if isinstance(shown.statement, Checkpoint):
            for signature in shown.signatures:
                self.see(SignedBy(shown.statement, signature))

    def see(self, row: SignedBy) -> None:
        """One signed checkpoint. Nothing happens unless a member signed it, in the term in office, near our head."""
        said = row.statement
        if not isinstance(said, Checkpoint) or (said.chain_id, said.term) != (self._chain_id, self._term):
            return
        if abs(said.number - self._head) > KEEP_HEIGHTS or row in self._seen.get(said.number, {}).values():
            return
        try:
            member = recover(said.digest(self._network), row.signature)
        except CloisterError:
            return
        if member not in self._members:
            return
        first = self._seen.setdefault(said.number, {}).setdefault(member, row)
        if excludes(first.statement, said):
            self.note(Conflict(first.statement, first.signature, said, row.signature))

    def note(self, conflict: Conflict) -> None:
        """Keep a conflict durably, the first one of its signer. Raises PolicyError, EncodingError if it is none.

        The caller knows that its signer is a member, or a worker of the network: nobody else's is kept."""
        who = conflict.verify(self._network)
        full = isinstance(conflict.first, WorkerLog) and len(self.caused) >= MAX_CONFLICTS
        if who in self._conflicts or full:
            return
        self._store.put(CONFLICT + who.hex(), jcs.encode(conflict.to_json()))
        self._conflicts[who] = conflict
        self._audit.append("conflict", signer=to_hex(who), **conflict.to_json())
        _log.warning("signed what excludes each other", signer=to_hex(who), kind=type(conflict.first).NAME)

    # --- one turn ---

    async def step(self, at: Snapshot, scene: Scene, head: Header, ask: AskAll) -> None:
        """Ask the other members what they saw; tell the contract of members that are named. Raises CloisterError."""
        since = max(0, head.number - KEEP_HEIGHTS, min(self._head, head.number) - LOOK_BACK)
        self._head = head.number
        for _, heard in await ask(f"/v1/witnessed/{since}", Witnessed.from_json):
            for row in heard.checkpoints:
                self.see(row)
            for conflict in heard.conflicts:
                await self._hear(at, conflict)
            await self.placements.hear(heard.granted)
        for number in [number for number in self._seen if number + KEEP_HEIGHTS < head.number]:
            del self._seen[number]
        await self._forget_removed(at)
        await self._tell(scene, head)

    async def _hear(self, at: Snapshot, conflict: Conflict) -> None:
        """A conflict that a peer shows counts by its signatures: of a member in this term, or of a worker."""
        try:
            who = conflict.verify(self._network)
        except CloisterError:
            return
        first = conflict.first
        if isinstance(first, Checkpoint):
            counts = who in self._members and (first.chain_id, first.term) == (self._chain_id, self._term)
        else:
            counts = who not in self._conflicts and await self._may_be_removed(at, who)
        if counts:
            self.note(conflict)

    async def _may_be_removed(self, at: Snapshot, worker: bytes) -> bool:
        """Whether it is registered, or was: one that left has no record, but leases that we granted."""
        record = await at.worker(worker)
        return worker in self._store.granted_workers(0) if record is None else not record.removed

    async def _forget_removed(self, at: Snapshot) -> None:
        """A worker that was removed needs no proof any more; the audit log keeps it. To leave is no way out."""
        for who in self.caused:
            record = await at.worker(who)
            if record is not None and record.removed:
                self._store.erase(CONFLICT + who.hex())
                del self._conflicts[who]

    async def _tell(self, scene: Scene, head: Header) -> None:
        """Send each member's conflict to the contract, one seat after the other."""
        turn = PATIENCE * scene.voters.index(self._me)
        for member, one in self.named.items():
            if member not in scene.voters:
                continue
            if head.number >= self._ready.setdefault(member, head.number) + turn:
                await self._deeds.once(call_of(one), head)


def call_of(conflict: Conflict) -> tuple[str, tuple[Any, ...]]:
    """The transaction that names a member by two checkpoints."""
    return "revokeConflicting", (
        _fields(conflict.first),
        conflict.first_signature,
        _fields(conflict.second),
        conflict.second_signature,
    )


def _fields(said: object) -> tuple[Any, ...]:
    if not isinstance(said, Checkpoint):
        raise TypeError("the contract takes conflicts of checkpoints")
    return tuple(getattr(said, name) for name in Checkpoint.TYPES)


def _stored(store: Store) -> Iterator[tuple[str, Conflict]]:
    for name in store.names(CONFLICT):
        data = store.get(name)
        if data is not None:
            yield name, Conflict.from_json(jcs.decode(data))
