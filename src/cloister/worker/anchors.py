"""The Anchors of all chains that this worker follows: one service each; trouble on one chain stays there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError, PolicyError, define
from cloister.node import logs
from cloister.wire.anchor import Ready
from cloister.worker.anchor import Waiting
from cloister.worker.anchor_service import AnchorService
from cloister.worker.carrier import Carrier
from cloister.worker.chains import ChainView, OtherChain

NOT_WAITING = define(
    "worker.no_answer_waits",
    PolicyError,
    check="this worker holds a signed answer to the request that it cannot pay to bring",
    remedy="ask another worker; if none has it, the answer is on its way or not made yet: cloister request status",
    status=404,
)
_log = logs.get("chains")


class Anchors:
    """``own``: of the network's own chain, turned by itself. ``others``: connected chains. ``carry`` brings signer sets
    to them."""

    def __init__(
        self,
        own: ChainView,
        others: Sequence[OtherChain],
        serve: Callable[[ChainView], AnchorService],
        carry: Callable[[OtherChain], Carrier],
    ) -> None:
        self.own = serve(own)
        self._others = {chain.chain_id: (chain, serve(chain), carry(chain)) for chain in others}
        self._services = {own.chain_id: self.own} | {n: service for n, (_, service, _) in self._others.items()}
        self._said: dict[int, str] = {}

    @property
    def problems(self) -> Mapping[bytes, CloisterError]:
        """Agents that are not served, of any chain."""
        return {agent: e for service in self._services.values() for agent, e in service.problems.items()}

    async def turn_others(self) -> None:
        """A turn of each connected chain, side by side. A new refusal is logged; none holds up another chain."""
        await asyncio.gather(*(self._turn(*one) for one in self._others.values()))

    async def _turn(self, chain: OtherChain, service: AnchorService, carrier: Carrier) -> None:
        try:
            await chain.refresh()
            try:
                await service.turn()
            finally:  # what waits for a new signer set does not hold it up
                await carrier.turn()
            self._said.pop(chain.chain_id, None)
        except CloisterError as error:
            if self._said.get(chain.chain_id) != error.code:
                _log.warning("waits", chain=chain.chain_id, code=error.code, expected=error.expected, found=error.found)
            self._said[chain.chain_id] = error.code

    def ready(self, chain_id: int, agent: bytes, index: int) -> Ready:
        """What anybody may bring to the chain. Raises worker.no_answer_waits."""
        service = self._services.get(chain_id)
        found: Waiting | None = None if service is None else service.waiting(agent, index)
        if found is None:
            raise NOT_WAITING(expected=f"an answer to request {index}", found=f"none for {to_hex(agent)[:18]}")
        return Ready(chain_id, found.request, found.reply, found.by, found.lease, found.told)

    async def close(self) -> None:
        """Close connections."""
        for chain, _, _ in self._others.values():
            await chain.close()
