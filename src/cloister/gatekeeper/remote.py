"""POST /v1/remote-agent: telling a connected chain of an agent (spec/chains.md 26-29)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import verify_signer
from cloister.core.encoding.statements import Checkpoint, Lease
from cloister.core.policy.remote_agent import RemoteFacts, may_tell
from cloister.gatekeeper.audit import AuditLog
from cloister.gatekeeper.checkpoints import HALTED, Checkpoints
from cloister.gatekeeper.limits import RateLimit
from cloister.gatekeeper.office import Office
from cloister.gatekeeper.ports import Chain
from cloister.wire.messages import parse
from cloister.wire.remote import RemoteAgentRequest


class RemoteAgentDesk:
    """Answers workers that serve connected chains. ``places``: chain id -> address of each Anchor that counts now."""

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
        """This member's signature on what the chain is told, or the refusal. Raises CloisterError.

        1. size and shape; 2. rate; 3. t signatures on the lease shown; 4. the signature of its worker; 5. facts, proven
        at the newest final block and at the one named, which this member signed, and newer ones; 6. the decision;
        7. signed and audited."""
        request = parse(RemoteAgentRequest.from_json, body)  # 1
        asked, held = request.asked, request.held.statement
        assert isinstance(held, Lease)  # noqa: S101 - parsed as one
        self._limit.take((remote, held.worker))  # 2
        request.held.verify(self._office.signers, self._office.network)  # 3
        verify_signer(asked.digest(self._office.network), request.signature, held.worker)  # 4
        self._checkpoints.require_running()
        head, named = self._checkpoints.head, self._checkpoints.at(asked.height).statement
        if head is None or not isinstance(named, Checkpoint):
            raise HALTED(expected="a signed checkpoint", found="none")
        at, then = self._chain.at(head), self._chain.at(named)
        worker, agent, newest, before, people, speakers = await asyncio.gather(  # 5
            at.worker(held.worker),
            at.agent(asked.agent),
            self._chain.newest(asked.agent, held.worker),
            then.agent(asked.agent),
            then.people(asked.agent, asked.chain_id),
            self._chain.newest_speakers(asked.agent, asked.chain_id),
        )
        anchor = self._places().get(asked.chain_id, b"")  # of a chain that is not connected: nothing fits it
        facts = RemoteFacts(
            head, self._office.term, anchor, held, asked, worker, agent, newest, before, people, speakers
        )
        may_tell(facts)  # 6
        self._audit.append("remote agent", agent=to_hex(asked.agent), chain=str(asked.chain_id))  # 7
        return self._office.sign(asked)
