"""What a gatekeeper remembers about heads (spec/state.md 6).

A member keeps the newest head per (agent, agent epoch) and signs one child per parent. It never signs an older height
nor a second head of one height. A restarted member's disk may be old: it signs nothing until it merged the tables of
others, and nothing about an agent whose newest head they do not agree on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cloister.core.encoding.hexes import from_hex, need_bytes, need_fields, need_uint, to_hex
from cloister.core.state.endorse import (
    FORKED,
    MAX_HEADS,
    NO_QUORUM,
    NOT_MERGED,
    ROLLED_BACK,
    TABLE_FULL,
    UNKNOWN_PARENT,
)

KEPT_EPOCHS = 2


@dataclass(frozen=True, slots=True)
class Head:
    """The newest head of one agent version. ``parent`` is the head before it. 32 bytes each."""

    height: int
    parent: bytes
    head: bytes

    def __post_init__(self) -> None:
        need_uint("height", self.height, 64)
        need_bytes("parent", self.parent, 32)
        need_bytes("head", self.head, 32)


class HeadTable:
    """The heads that one member remembers. Pure: the caller stores ``to_json`` durably *before* it signs."""

    def __init__(self, *, merged: bool) -> None:
        """``merged``: True only for a founding member's first table; every other starts with ``merge``."""
        self._heads: dict[bytes, dict[int, Head]] = {}
        self._count = 0
        self._doubts: set[tuple[bytes, int]] = set()
        self.merged = merged

    def __len__(self) -> int:
        return self._count

    @property
    def doubts(self) -> int:
        """Agent versions that nothing is signed for, because members did not agree. ``merge`` again to ask again."""
        return len(self._doubts)

    def get(self, agent: bytes, epoch: int) -> Head | None:
        """The newest head of this agent version, if any was endorsed."""
        return self._heads.get(agent, {}).get(epoch)

    def propose(
        self, agent: bytes, epoch: int, height: int, parent: bytes, head: bytes, *, genesis: bytes | None = None
    ) -> None:
        """Accept a head, or raise. After it returns the member may sign; the same head again is accepted again.

        ``genesis``: h0 of this agent version, if the caller knows it: the first parent must be it.
        1. the table is merged, and this version is in no doubt; 2. the epoch is not left behind; 3. a first head has
        height 1; 4. not older; 5. no second head at one height; 6. it follows directly. Raises StateError not_merged,
        rolled_back, forked, unknown_parent, table_full.
        """
        new = Head(height, parent, head)
        if not self.merged:  # 1
            raise NOT_MERGED(expected="a merged table", found="one that was just loaded")
        if (agent, epoch) in self._doubts:
            raise NOT_MERGED(
                expected="members that agree on this agent's newest head", found="heads far apart or forked"
            )
        self._check_epoch(agent, epoch)  # 2
        old = self.get(agent, epoch)
        if old is None:  # 3
            if height != 1 or parent != (parent if genesis is None else genesis):
                raise UNKNOWN_PARENT(expected="height 1 on the genesis head", found=f"height {height}")
        elif height < old.height:  # 4
            raise ROLLED_BACK(expected=f"a height above {old.height}", found=str(height))
        elif height == old.height and new != old:  # 5
            raise FORKED(expected=f"head {to_hex(old.head)}", found=to_hex(head))
        elif height > old.height and (height != old.height + 1 or parent != old.head):  # 6
            raise UNKNOWN_PARENT(
                expected=f"height {old.height + 1} on {to_hex(old.head)}", found=f"height {height} on {to_hex(parent)}"
            )
        self._set(need_bytes("agent", agent, 32), epoch, new)

    def adopt(self, agent: bytes, epoch: int, height: int, parent: bytes, head: bytes) -> None:
        """Take over a head that q members signed (the caller verified them): how a member that missed some catches up.

        Never goes back. At one height it replaces: a head with q signatures leaves no room for another one."""
        new, old = Head(height, parent, head), self.get(agent, epoch)
        self._check_epoch(agent, epoch)
        if old is not None and height < old.height:
            raise ROLLED_BACK(expected=f"a height of at least {old.height}", found=str(height))
        self._set(need_bytes("agent", agent, 32), need_uint("agent epoch", epoch, 64), new)
        self._doubts.discard((agent, epoch))

    def merge(self, tables: Sequence[HeadTable], quorum: int) -> None:
        """Take over heads from the tables of at least ``quorum`` (r = n + f + 1 - q) distinct other members.

        Every head that q members signed is held, or built on, in more than spare = len(tables) - r of them. So, of
        every agent version: 1. what at most spare tables know is not taken over; 2. else the highest head, not below
        our own, that all but spare tables hold or directly lead to; 3. else the version is in doubt. No endorsed head
        is left behind, whatever one liar says and whatever a host fed to a few. Afterwards the table may sign. A later
        merge looks at doubts only. Raises StateError state.no_quorum."""
        spare = len(tables) - quorum
        if spare < 0 or quorum < 1:
            raise NO_QUORUM(expected=f"{quorum} tables of other members", found=str(len(tables)))
        for agent, epoch in self._doubts.copy() if self.merged else {key for table in tables for key in table._keys()}:
            known = [h for h in (t.get(agent, epoch) for t in tables) if h is not None]
            self._doubts.discard((agent, epoch))
            if len(known) <= spare:  # 1
                continue
            agreed = _agreed(self.get(agent, epoch), known, spare - len(tables) + len(known))
            if agreed is not None:  # 2
                self._set(agent, epoch, agreed)
            else:  # 3
                self._doubts.add((agent, epoch))
        self.merged = True

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: a list of rows, sorted."""
        rows = [
            {"agent": to_hex(a), "epoch": e, "height": h.height, "parent": to_hex(h.parent), "head": to_hex(h.head)}
            for a, e, h in self._rows()
        ]
        return {"version": 1, "heads": rows}

    @classmethod
    def from_json(cls, value: object) -> HeadTable:
        """A stored or a peer's table: not merged, so it signs nothing yet. Raises EncodingError, StateError."""
        data = need_fields("head table", value, {"version", "heads"})
        rows = data["heads"]
        if need_uint("version", data["version"], 8) != 1 or not isinstance(rows, list) or len(rows) > MAX_HEADS:
            raise TABLE_FULL(expected=f"version 1 with at most {MAX_HEADS} rows", found="another form")
        table = cls(merged=False)
        for row in rows:
            fields = need_fields("head", row, {"agent", "epoch", "height", "parent", "head"})
            head = Head(fields["height"], from_hex(fields["parent"], 32), from_hex(fields["head"], 32))
            table._set(from_hex(fields["agent"], 32, name="agent"), need_uint("epoch", fields["epoch"], 64), head)
        return table

    def _check_epoch(self, agent: bytes, epoch: int) -> None:
        newest = max(self._heads.get(agent, {need_uint("agent epoch", epoch, 64): None}))
        if epoch < newest:
            raise ROLLED_BACK(expected=f"agent epoch {newest} or later", found=str(epoch))

    def _set(self, agent: bytes, epoch: int, head: Head) -> None:
        epochs = self._heads.get(agent, {})
        if epoch not in epochs and self._count >= MAX_HEADS:
            raise TABLE_FULL(expected=f"at most {MAX_HEADS} heads", found="one more")
        kept = dict(sorted({**epochs, epoch: head}.items())[-KEPT_EPOCHS:])
        self._heads[agent] = kept
        self._count += len(kept) - len(epochs)

    def _keys(self) -> Iterator[tuple[bytes, int]]:
        return ((agent, epoch) for agent, epochs in self._heads.items() for epoch in epochs)

    def _rows(self) -> Iterable[tuple[bytes, int, Head]]:
        return sorted(((a, e, h) for a, epochs in self._heads.items() for e, h in epochs.items()), key=lambda r: r[:2])


def _agreed(ours: Head | None, theirs: Sequence[Head], spare: int) -> Head | None:
    """The highest head that at most ``spare`` of ``theirs`` speak against; at one height what most hold, then our own,
    then the smaller hash. None if there is none, or only below our own."""
    known = [*theirs, ours] if ours else list(theirs)
    order = sorted(
        set(known), key=lambda h: (h.height, known.count(h), h == ours, bytes(255 - b for b in h.head)), reverse=True
    )
    for head in order:
        if ours is not None and head.height < ours.height:
            return None
        if sum(not _leads_to(other, head) for other in theirs) <= spare:
            return head
    return None


def _leads_to(other: Head, head: Head) -> bool:
    return other == head or (other.height + 1 == head.height and other.head == head.parent)
