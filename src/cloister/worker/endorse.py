"""Sending new state heads to the committee, in batches of at most a second (spec/state.md 6).

Answers do not wait for this: a receipt says ``local`` until a quorum has signed. A head that was refused or unanswered
stays pending in the store's own record and is sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from cloister.core.encoding.signatures import Signed
from cloister.core.errors import CloisterError
from cloister.wire.heads import HeadMove, HeadsRequest
from cloister.worker.agents import Placed
from cloister.worker.leases import NodeIdentity

BATCH = 64


class EndorsePort(Protocol):
    """What endorsing asks of the committee (``wire.committee.Committee``)."""

    async def endorse_heads(self, request: HeadsRequest) -> tuple[Signed | CloisterError, ...]:
        """Per head: q signatures, or why not."""


class Endorser:
    """Keeps the committee's memory of every placed agent's head up to date."""

    def __init__(
        self, node: NodeIdentity, committee: EndorsePort, placed: Callable[[], Mapping[bytes, Placed]]
    ) -> None:
        self._node, self._committee, self._placed = node, committee, placed
        self._done: dict[tuple[bytes, int], tuple[int, Signed | None]] = {}
        self.refusals: dict[bytes, CloisterError] = {}

    async def turn(self) -> int:
        """Send what is not endorsed yet, oldest first; returns how many heads were endorsed. Raises StateError."""
        endorsed = 0
        for agent, placed in list(self._placed().items()):
            endorsed += await self._agent(agent, placed)
        return endorsed

    async def _agent(self, agent: bytes, placed: Placed) -> int:
        epoch = placed.keys.version.agent_epoch
        height, proof = self._done.get((agent, epoch), (0, None))
        record = (await placed.state.snapshot()).record
        links = [link for link in record.links() if link.height > height][:BATCH]
        if not links:
            return 0
        moves = tuple(HeadMove(agent, epoch, link.height, link.parent, link.head) for link in links)
        request = HeadsRequest(
            moves,
            self._node.address,
            self._node.boot,
            leases=(placed.keys.seat.lease,),
            proven=() if proof is None else (proof,),
        )
        answers = await self._committee.endorse_heads(request.signed(self._node.key))
        count = 0
        for link, answer in zip(links, answers, strict=True):
            if isinstance(answer, CloisterError):
                self.refusals[agent] = answer
                break
            self._done[agent, epoch] = (link.height, answer)
            placed.state.endorsed(link.height)
            self.refusals.pop(agent, None)
            count += 1
        return count
