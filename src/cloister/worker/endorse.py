"""Sending new state heads to the committee, in batches of at most a second (spec/state.md 9, 10).

Answers do not wait for this: a receipt says ``local`` until a quorum has signed. Heads of one agent are a chain, so a
quorum on one head covers all below it: members that are ahead refuse the older ones, and that is no harm. A head that
was refused or unanswered stays pending in the store's own record and is sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from cloister.core.encoding.identity import Epochs
from cloister.core.encoding.signatures import Signed
from cloister.core.errors import CloisterError
from cloister.core.state.heads import Link
from cloister.wire.heads import HeadMove, HeadsRequest
from cloister.worker.leases import AgentKeys, NodeIdentity
from cloister.worker.placed import Placed

# Heads in one request, and of one agent among them.
BATCH, SHARE = 128, 64
# Agents that wrote nothing here, whose stores one turn reads: another worker may have left heads behind.
SWEEP = 16


class EndorsePort(Protocol):
    """What endorsing asks of the committee (``wire.committee.Committee``)."""

    async def endorse_heads(self, request: HeadsRequest) -> tuple[Signed | CloisterError, ...]:
        """Per head: q signatures, or why not."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """One head that is not endorsed yet."""

    agent: bytes
    placed: Placed
    link: Link

    @property
    def version(self) -> tuple[bytes, Epochs]:
        return self.agent, self.placed.keys.version.epochs


class Endorser:
    """Keeps the committee's memory of every placed agent's head up to date.

    ``refusals``: per agent why its newest head is not endorsed."""

    def __init__(
        self, node: NodeIdentity, committee: EndorsePort, placed: Callable[[], Mapping[bytes, Placed]]
    ) -> None:
        self._node, self._committee, self._placed = node, committee, placed
        self._done: dict[tuple[bytes, Epochs], tuple[int, Signed]] = {}
        self._swept = 0
        self.refusals: dict[bytes, CloisterError] = {}

    async def turn(self) -> int:
        """Send what is not endorsed yet, oldest first; returns how many heads were endorsed.

        Under leases of the newest term only: members refuse others, and those are renewed now. One agent's unreadable
        store stops no other agent. Raises the committee's refusal of a whole request."""
        placed = dict(self._placed())
        self._forget(placed)
        waiting: list[_Waiting] = []
        term = max((one.keys.terms.term for one in placed.values()), default=0)
        for agent, one in self._looked_at(placed):
            if one.keys.terms.term < term:
                continue
            try:
                waiting += await self._waiting(agent, one)
            except CloisterError as error:
                self.refusals[agent] = error
        count = 0
        for start in range(0, len(waiting), BATCH):
            count += await self._send(waiting[start : start + BATCH])
        return count

    def _looked_at(self, placed: Mapping[bytes, Placed]) -> list[tuple[bytes, Placed]]:
        """Agents whose newest known head is not endorsed, and by turns some of the others: those that sleep cost a
        comparison, not a read of the store."""
        names = list(placed)
        start, count = self._swept % max(1, len(names)), min(SWEEP, len(names))
        self._swept = start + count
        swept = {names[(start + step) % len(names)] for step in range(count)}
        return [
            (agent, one)
            for agent, one in placed.items()
            if agent in swept or agent in self.refusals or one.state.height > self._height(agent, one)
        ]

    def _height(self, agent: bytes, placed: Placed) -> int:
        done = self._done.get((agent, placed.keys.version.epochs))
        return 0 if done is None else done[0]

    def _forget(self, placed: Mapping[bytes, Placed]) -> None:
        now = {(agent, one.keys.version.epochs) for agent, one in placed.items()}
        self._done = {version: done for version, done in self._done.items() if version in now}
        self.refusals = {agent: error for agent, error in self.refusals.items() if agent in placed}

    async def _waiting(self, agent: bytes, placed: Placed) -> list[_Waiting]:
        record = (await placed.state.snapshot()).record
        height = self._height(agent, placed)
        if record.height <= height:
            return []
        return [_Waiting(agent, placed, link) for link in record.links() if link.height > height][:SHARE]

    async def _send(self, batch: Sequence[_Waiting]) -> int:
        """One request. ``proven``: the newest head of each agent that has a quorum, for members that missed it."""
        versions = {one.version: one.placed for one in batch}
        moves = [HeadMove(*one.version, one.link.height, one.link.parent, one.link.head) for one in batch]
        request = HeadsRequest(
            tuple(moves),
            self._node.address,
            self._node.boot,
            leases=tuple(placed.keys.seat.lease for placed in versions.values()),
            proven=self._proven(versions),
        )
        answers = await self._committee.endorse_heads(request.signed(self._node.key))
        count = 0
        for version in versions:
            mine = [(o, a) for o, a in zip(batch, answers, strict=True) if o.version == version]
            count += self._took(version[0], mine)
        return count

    def _proven(self, versions: Mapping[tuple[bytes, Epochs], Placed]) -> tuple[Signed, ...]:
        """Heads with a quorum of the lease's own term: new members learn what others signed from one another."""
        done = [(self._done[version][1], placed) for version, placed in versions.items() if version in self._done]
        return tuple(s for s, placed in done if getattr(s.statement, "term", 0) == placed.keys.terms.term)

    def _took(self, agent: bytes, answers: Sequence[tuple[_Waiting, Signed | CloisterError]]) -> int:
        """The highest head with a quorum covers those below it; what is above it waits."""
        signed = [(n, one, a) for n, (one, a) in enumerate(answers, 1) if isinstance(a, Signed)]
        count = 0
        if signed:
            count, one, proof = signed[-1]
            self._done[one.version] = (one.link.height, proof)
            one.placed.state.endorsed(one.link.height)
        newest = answers[-1][1]
        if isinstance(newest, CloisterError):
            self.refusals[agent] = newest
        else:
            self.refusals.pop(agent, None)
        return count


async def endorse_moves(
    node: NodeIdentity, committee: EndorsePort, keys: AgentKeys, moves: Sequence[HeadMove]
) -> Signed:
    """A quorum's signatures on the last of these moves, under the lease of ``keys``: it covers those before.

    Raises the committee's refusal."""
    request = HeadsRequest(tuple(moves), node.address, node.boot, leases=(keys.seat.lease,))
    last = (await committee.endorse_heads(request.signed(node.key)))[-1]
    if isinstance(last, CloisterError):
        raise last
    return last
