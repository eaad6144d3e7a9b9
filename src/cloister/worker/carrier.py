"""Carrying the committee to a connected chain's Anchor, so that answers there keep counting (spec/chains.md 23-25)."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from typing import Final

from cloister.client.carrying import carry_signers
from cloister.node import logs
from cloister.wire.ask import new_session
from cloister.worker.chains import OtherChain
from cloister.worker.chainwatch import ChainWatch
from cloister.worker.leases import NodeIdentity

# Workers take turns: each next one waits so much longer, and whoever tried waits as long before it tries again.
PATIENCE_S: Final = 30
_log = logs.get("carrier")


class Carrier:
    """Carries to one Anchor with this worker's coin. ``members()``: where gatekeepers of all terms may answer."""

    def __init__(
        self, chain: OtherChain, watch: ChainWatch, node: NodeIdentity, members: Callable[[], Sequence[str]]
    ) -> None:
        self._chain, self._watch, self._node, self._members = chain, watch, node, members
        self._due: tuple[int, int] | None = None

    async def turn(self) -> None:
        """See whether the Anchor lags behind the network's own chain, and carry if it is this worker's turn.

        1. both by proof; 2. the workers before us have their time; 3. set by set: what somebody else carried meanwhile
        is left. Raises client.set_not_carried, client.set_expired, ChainError, ChainViewError."""
        own, state = self._watch.require_fresh(), self._watch.state()
        committee, workers = await asyncio.gather(state.committee(), state.workers())
        held, _ = await self._chain.anchor.term(self._chain.state())  # 1
        if not 0 < held < committee.term:
            self._due = None
            return
        live = [w.worker for w in workers if w.live_at(own.number)]
        if self._due is None or self._due[0] != committee.term:
            self._due = committee.term, own.timestamp + self._place(committee.term, live) * PATIENCE_S
        if own.timestamp < self._due[1]:  # 2
            return
        self._due = committee.term, own.timestamp + max(1, len(live)) * PATIENCE_S
        await self._carry(committee.term)

    async def _carry(self, term: int) -> None:
        session, sender = new_session(), self._chain.sender
        try:
            anchor = self._chain.record.anchor.address
            done = await carry_signers(session, self._members(), self._node.network, sender, anchor, term)  # 3
        finally:
            await session.close()
        for receipt in done:
            _log.info("signer set carried", chain=sender.chain_id, block=receipt.block_number)

    def _place(self, term: int, workers: Sequence[bytes]) -> int:
        """This worker's place in a line that is another one for every term."""
        line = sorted(workers, key=lambda w: hashlib.sha256(term.to_bytes(8, "big") + w).digest())
        return line.index(self._node.address) if self._node.address in line else len(line)
