"""What a gatekeeper remembers about heads (spec/state.md 10, spec/epochs.md).

A member keeps the newest head of each agent with the epochs that it is sealed under, and signs one child per parent. It
never signs an older height, a second head of one height, or a head under epochs that were left. A restarted member's
disk may be old: it signs nothing until it merged the tables of others, and nothing about an agent whose newest head
they do not agree on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cloister.core.encoding.hexes import need_bytes, need_fields, need_uint, to_hex
from cloister.core.encoding.identity import Epochs
from cloister.core.state.endorse import (
    FORKED,
    MAX_HEADS,
    NO_QUORUM,
    NOT_MERGED,
    ROLLED_BACK,
    TABLE_FULL,
    UNKNOWN_PARENT,
)
from cloister.core.state.rows import Head, head_row, parse_row


class HeadTable:
    """The heads that one member remembers. Pure: the caller stores ``to_json`` durably *before* it signs."""

    def __init__(self, *, merged: bool) -> None:
        """``merged``: True only for a founding member's first table; every other starts with ``merge``.

        ``acceptances``: how many heads owners had accepted on chain when this table first looked (None: not yet);
        ``followed``: how many of them it has read."""
        self._heads: dict[bytes, Head] = {}
        self._doubts: set[bytes] = set()
        self.merged = merged
        self.acceptances: int | None = None
        self.followed = 0

    def __len__(self) -> int:
        return len(self._heads)

    @property
    def doubts(self) -> int:
        """Agents that nothing is signed for, because members did not agree. ``merge`` again to ask again."""
        return len(self._doubts)

    def get(self, agent: bytes) -> Head | None:
        """The newest head of this agent, if any was endorsed."""
        return self._heads.get(agent)

    def sealed(self, agent: bytes) -> Epochs | None:
        """Under which epochs the agent's state is, as far as this member may say: None if it knows no head, is not
        merged, or is in doubt. What keys of earlier epochs a release gives rests on it (spec/epochs.md 5)."""
        found = self._heads.get(agent)
        return None if found is None or not self.merged or agent in self._doubts else found.epochs

    def settled(self, agent: bytes) -> bool:
        """Whether this member may speak about the agent: its table is merged, and members agreed on the agent."""
        return self.merged and agent not in self._doubts

    def propose(self, agent: bytes, new: Head, *, genesis: bytes | None = None, wiped: bool = False) -> None:
        """Accept a head, or raise. After it returns the member may sign; the same head again is accepted again.

        ``genesis``: h0 of the head's own epochs, if the caller knows it: a first parent must be it. ``wiped``: the
        chain says that the old epochs' state is left behind, so the new ones may start from h0.
        1. the table is merged, and this agent is in no doubt; 2. the epochs are not left behind; 3. a first head has
        height 1; 4. newer epochs continue the chain of the older ones; 5. not older; 6. no second head at one height;
        7. it follows directly. Raises StateError not_merged, rolled_back, forked, unknown_parent, table_full.
        """
        need_bytes("agent", agent, 32)
        if not self.merged:  # 1
            raise NOT_MERGED(expected="a merged table", found="one that was just loaded")
        if agent in self._doubts:
            raise NOT_MERGED(
                expected="members that agree on this agent's newest head", found="heads far apart or forked"
            )
        old = self.get(agent)
        self._check_epochs(old, new)  # 2
        first = new.height == 1 and new.parent == (new.parent if genesis is None else genesis)
        if old is None or (wiped and old.epochs < new.epochs):  # 3
            if not first:
                raise UNKNOWN_PARENT(expected="height 1 on the genesis head", found=f"height {new.height}")
        elif old.epochs < new.epochs:  # 4
            self._check_child(old, new)
        elif new.height < old.height:  # 5
            raise ROLLED_BACK(expected=f"a height above {old.height}", found=str(new.height))
        elif new.height == old.height and new != old:  # 6
            raise FORKED(expected=f"head {to_hex(old.head)}", found=to_hex(new.head))
        elif new != old:  # 7
            self._check_child(old, new)
        self._set(agent, new)

    def adopt(self, agent: bytes, new: Head) -> None:
        """Take over a head that q members signed (the caller verified them): how a member that missed some catches up.

        Never goes back. At one height it replaces: a head with q signatures leaves no room for another one."""
        old = self.get(need_bytes("agent", agent, 32))
        self._check_epochs(old, new)
        if old is not None and old.epochs == new.epochs and new.height < old.height:
            raise ROLLED_BACK(expected=f"a height of at least {old.height}", found=str(new.height))
        self._set(agent, new)
        self._doubts.discard(agent)

    def accept(self, agent: bytes, new: Head, *, fresh: bool) -> bool:
        """Take over the head that the agent's owner accepted on chain, where r members held it; whether it did
        (spec/state.md 13).

        ``fresh``: it was accepted since this table was merged. 1. epochs that were left, and lower heights, stay left:
        we cannot tell whether our head stands on it; 2. of an agent in doubt only a fresh one counts: what we forgot
        may stand on an older one."""
        old = self.get(need_bytes("agent", agent, 32))
        if old == new or (old is not None and (new.epochs, new.height) < (old.epochs, old.height)):  # 1
            return False
        if not self.merged or (agent in self._doubts and not fresh):  # 2
            return False
        self._set(agent, new)
        self._doubts.discard(agent)
        return True

    def merge(self, tables: Sequence[HeadTable], quorum: int) -> None:
        """Take over heads from the tables of at least ``quorum`` (r = n + f + 1 - q) distinct other members.

        Every head that q members signed is held, or built on, in more than spare = len(tables) - r of them. So, of
        every agent: 1. what at most spare tables know is not taken over; 2. else the highest head, not below our own,
        that all but spare tables hold or directly lead to; 3. else the agent is in doubt. No endorsed head is left
        behind, whatever one liar says and whatever a host fed to a few. Afterwards the table may sign. A later merge
        looks at doubts only. Raises StateError state.no_quorum."""
        spare = len(tables) - quorum
        if spare < 0 or quorum < 1:
            raise NO_QUORUM(expected=f"{quorum} tables of other members", found=str(len(tables)))
        for agent in self._doubts.copy() if self.merged else {agent for table in tables for agent in table._heads}:
            known = [h for h in (t.get(agent) for t in tables) if h is not None]
            self._doubts.discard(agent)
            if len(known) <= spare:  # 1
                continue
            agreed = _agreed(self.get(agent), known, spare - len(tables) + len(known))
            if agreed is not None:  # 2
                self._set(agent, agreed)
            else:  # 3
                self._doubts.add(agent)
        self.merged = True

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: a list of rows, sorted."""
        return {"version": 1, "heads": [head_row(agent, head) for agent, head in self._rows()]}

    @classmethod
    def from_json(cls, value: object) -> HeadTable:
        """A stored or a peer's table: not merged, so it signs nothing yet. Raises EncodingError, StateError."""
        data = need_fields("head table", value, {"version", "heads"})
        rows = data["heads"]
        if need_uint("version", data["version"], 8) != 1 or not isinstance(rows, list) or len(rows) > MAX_HEADS:
            raise TABLE_FULL(expected=f"version 1 with at most {MAX_HEADS} rows", found="another form")
        table = cls(merged=False)
        for row in rows:
            table._set(*parse_row(row))
        return table

    @staticmethod
    def _check_epochs(old: Head | None, new: Head) -> None:
        if old is not None and new.epochs < old.epochs:
            raise ROLLED_BACK(expected=f"epochs {old.epochs[:3]} or later", found=str(new.epochs[:3]))

    @staticmethod
    def _check_child(old: Head, new: Head) -> None:
        if (new.height, new.parent) != (old.height + 1, old.head):
            raise UNKNOWN_PARENT(
                expected=f"height {old.height + 1} on {to_hex(old.head)}",
                found=f"height {new.height} on {to_hex(new.parent)}",
            )

    def _set(self, agent: bytes, head: Head) -> None:
        if agent not in self._heads and len(self._heads) >= MAX_HEADS:
            raise TABLE_FULL(expected=f"at most {MAX_HEADS} heads", found="one more")
        self._heads[agent] = head

    def _rows(self) -> Iterable[tuple[bytes, Head]]:
        return sorted(self._heads.items(), key=lambda row: row[0])

    def __iter__(self) -> Iterator[tuple[bytes, Head]]:
        """Every agent with its newest head, sorted."""
        return iter(self._rows())


def _agreed(ours: Head | None, theirs: Sequence[Head], spare: int) -> Head | None:
    """The highest head that at most ``spare`` of ``theirs`` speak against; at one height what most hold, then our own,
    then the smaller hash. None if there is none, or only below our own."""
    known = [*theirs, ours] if ours else list(theirs)
    order = sorted(
        set(known),
        key=lambda h: (h.epochs, h.height, known.count(h), h == ours, bytes(255 - b for b in h.head)),
        reverse=True,
    )
    for head in order:
        if ours is not None and (head.epochs, head.height) < (ours.epochs, ours.height):
            return None
        if sum(not _leads_to(other, head) for other in theirs) <= spare:
            return head
    return None


def _leads_to(other: Head, head: Head) -> bool:
    return other == head or (other.height + 1 == head.height and other.head == head.parent)
