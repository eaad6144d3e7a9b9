"""What other members granted, looked at while it can be proven: no lease stays hidden (spec/gatekeepers.md W6).

A worker may take an agent's keys from t - 1 liars and one honest member alone. That one shows what it grants; the
others find by proof at the lease's own block that the agent was placed on that worker, and remember it. When the worker
is removed they bump the agent's epoch with the honest one. Nobody's word is in it: who shows an agent that was not
placed there is not heard.
"""

from __future__ import annotations

import contextlib
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
        self._terms: list[tuple[Office, Checkpoints]] = []
        self._refuted: set[Granted] = set()

    def serve(self, office: Office, book: Checkpoints) -> None:
        """In which office we grant and look from now on, and the blocks that we sign in it. The term before counts on:
        its last leases are still to be looked at."""
        before = [one for one in self._terms if one[0].term != office.term]
        self._terms = [(office, book), *before[:1]]
        self._refuted.clear()

    def served(self, height: int) -> tuple[Granted, ...]:
        """Our newest leases of checkpoints from ``height`` on, oldest first; at most 2048."""
        since = max(height, self._floor())
        found = [self._store.granted_since(office.term, since, MAX_GRANTS) for office, _ in reversed(self._terms)]
        return tuple(one for part in found for one in part)[:MAX_GRANTS]

    async def hear(self, shown: Iterable[Granted]) -> None:
        """Look at what one member shows. Raises nothing of the chain's: what cannot be read now may be shown again."""
        floor = self._floor()
        new = (one for one in shown if one.number >= floor and one not in self._refuted)
        blocks = ((one, self._block(one.number)) for one in new)  # 1
        unknown = [(one, *at) for one, at in blocks if at and not self._store.knows_grant(at[0].term, one)]
        found: dict[int, list[Granted]] = {}
        for one, office, block in unknown[:MAX_LOOKS]:
            if await self._was_placed(office, block, one):
                found.setdefault(office.term, []).append(one)
        for term, some in found.items():
            self._store.witness(term, some)
            _log.info("granted by others alone", term=term, agents=len(some))

    async def _was_placed(self, office: Office, block: Checkpoint, one: Granted) -> bool:
        """1. at a block that we signed; 2. by proof at it the agent has that epoch; 3. it is placed on that worker."""
        try:
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

    def _block(self, number: int) -> tuple[Office, Checkpoint] | None:
        """Our own checkpoint of a height, with the office that we signed it in; None if we keep none."""
        for office, book in self._terms:
            with contextlib.suppress(CloisterError):
                said = book.at(number).statement
                if isinstance(said, Checkpoint):
                    return office, said
        return None

    def _floor(self) -> int:
        heads = [head.number for _, book in self._terms if (head := book.head) is not None]
        return max(0, max(heads, default=0) - LOOK_BACK)
