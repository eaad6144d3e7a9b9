"""POST /v1/anchor-lease: signing workers' leases at the Anchor (spec/anchor.md 34)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from cloister.core.encoding.signatures import verify_signer
from cloister.core.encoding.statements import Lease
from cloister.core.policy.anchor_lease import AnchorFacts, may_sign_anchor_lease
from cloister.gatekeeper.audit import AuditLog
from cloister.gatekeeper.checkpoints import HALTED, Checkpoints
from cloister.gatekeeper.limits import RateLimit
from cloister.gatekeeper.office import Office
from cloister.gatekeeper.ports import Chain
from cloister.wire.anchor import AnchorLeaseRequest
from cloister.wire.messages import parse


class AnchorLeaseDesk:
    """Answers workers that serve contracts. ``places``: chain id -> address of each Anchor that counts now."""

    def __init__(
        self,
        office: Office,
        checkpoints: Checkpoints,
        chain: Chain,
        audit: AuditLog,
        *,
        places: Callable[[], Mapping[int, bytes]],
        limit: RateLimit,
    ) -> None:
        self._office, self._checkpoints, self._chain, self._audit = office, checkpoints, chain, audit
        self._places, self._limit = places, limit

    async def answer(self, body: bytes, remote: str) -> bytes:
        """This member's signature on the lease, or the refusal. Raises CloisterError.

        1. size and shape; 2. rate; 3. the worker's own signature; 4. t signatures on the lease that it holds; 5. facts,
        proven at the newest final block, and newer ones; 6. the decision; 7. signed and audited."""
        request = parse(AnchorLeaseRequest.from_json, body)  # 1
        asked, held = request.lease, request.held.statement
        self._limit.take((remote, asked.worker))  # 2
        verify_signer(asked.digest(self._office.network), request.signature, asked.worker)  # 3
        request.held.verify(self._office.signers, self._office.network)  # 4
        assert isinstance(held, Lease)  # noqa: S101 - parsed as one
        self._checkpoints.require_running()
        head = self._checkpoints.head
        if head is None:
            raise HALTED(expected="a signed checkpoint", found="none")
        at = self._chain.at(head)
        worker, agent, newest = await asyncio.gather(  # 5
            at.worker(asked.worker), at.agent(asked.agent), self._chain.newest(asked.agent, asked.worker)
        )
        # 6; a chain that is not connected has no Anchor: nothing fits it
        anchor = self._places().get(asked.chain_id, b"")
        may_sign_anchor_lease(
            AnchorFacts(head, self._office.term, asked.chain_id, anchor, held, asked, worker, agent, newest)
        )
        self._audit.append("anchor lease", worker=asked.worker.hex(), agent=asked.agent.hex())  # 7
        return self._office.sign(asked)
