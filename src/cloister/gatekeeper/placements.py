"""What other members granted, looked at while it can be proven: no lease stays hidden (spec/gatekeepers.md W6).

A worker may take an agent's keys from t - 1 liars and one honest member alone. That one shows what it grants; the
others find by proof at the lease's own block that the agent was placed on that worker, and remember it. When the worker
is removed they bump the agent's epoch with the honest one. Nobody's word is in it: who shows an agent that was not
placed there is not heard.
"""

from __future__ import annotations

from collections.abc import Iterable

from cloister.core.attestation.policy import Policy
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import CloisterError
from cloister.core.policy.placement import NOT_PLACED, may_hold
from cloister.gatekeeper.checkpoints import Checkpoints
from cloister.gatekeeper.office import Office
from cloister.gatekeeper.ports import Chain
from cloister.gatekeeper.store import Store
from cloister.node import logs
from cloister.wire.conflicts import MAX_GRANTS, Granted

# How many blocks below our head what was granted is shown, and looked at.
LOOK_BACK = 64
# Of each member, at each question: how many that we did not know are looked at.
MAX_LOOKS = 64
MAX_REFUTED = 4096
_log = logs.get("placements")


class Placements:
    """What we show of our grants, and what we find about others'."""

    def __init__(self, store: Store, policy: Policy, chain: Chain) -> None:
        self._store, self._chain, self._most = store, chain, policy.network.max_agents_per_worker
        self._office: Office | None = None
        self._book: Checkpoints | None = None
        self._refuted: set[Granted] = set()

    def serve(self, office: Office, book: Checkpoints) -> None:
        """In which office we grant and look from now on, and the blocks that we sign in it."""
        self._office, self._book = office, book
        self._refuted.clear()

    def served(self, height: int) -> tuple[Granted, ...]:
        """Our newest leases of checkpoints from ``height`` on, oldest first; at most 2048."""
        if self._office is None:
            return ()
        return tuple(self._store.granted_since(self._office.term, max(height, self._floor()), MAX_GRANTS))

    async def hear(self, shown: Iterable[Granted]) -> None:
        """Look at what one member shows. Raises nothing of the chain's: what cannot be read now may be shown again."""
        if self._office is None:
            return
        term, floor = self._office.term, self._floor()
        new = (one for one in shown if one.number >= floor and one not in self._refuted)
        unknown = [one for one in new if not self._store.knows_grant(term, one)][:MAX_LOOKS]
        found = [one for one in unknown if await self._was_placed(self._office, one)]
        if found and self._office.term == term:
            self._store.witness(term, found)
            _log.info("granted by others alone", agents=len(found))

    async def _was_placed(self, office: Office, one: Granted) -> bool:
        """1. at a block that we signed; 2. by proof at it the agent has that epoch; 3. it is placed on that worker."""
        try:
            block = self._block(one.number)  # 1
            at = self._chain.at(block)
            agent = await at.agent(one.agent)
            if agent is not None and agent.agent_epoch == one.epoch:  # 2
                may_hold(office.seed, one.agent, await at.placeable(self._most), agent.seats, one.worker)  # 3
                return True
        except CloisterError as error:
            if error.code != NOT_PLACED.code:
                return False
        if len(self._refuted) < MAX_REFUTED:
            self._refuted.add(one)
        return False

    def _block(self, number: int) -> Checkpoint:
        """Our own checkpoint of a height. Raises ChainViewError."""
        assert self._book is not None  # noqa: S101 - serve() gave it with the office
        said = self._book.at(number).statement
        assert isinstance(said, Checkpoint)  # noqa: S101 - the book holds nothing else
        return said

    def _floor(self) -> int:
        head = None if self._book is None else self._book.head
        return 0 if head is None else max(0, head.number - LOOK_BACK)
