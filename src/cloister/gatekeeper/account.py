"""POST /v1/account-signer: signing who acts for agents' accounts (spec/accounts.md 2)."""

from __future__ import annotations

import asyncio

from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import verify_signer
from cloister.core.encoding.statements import Lease, SetSigner
from cloister.core.policy.account_signer import SignerFacts, may_sign_signer
from cloister.gatekeeper.audit import AuditLog
from cloister.gatekeeper.checkpoints import HALTED, Checkpoints
from cloister.gatekeeper.limits import RateLimit
from cloister.gatekeeper.office import Office
from cloister.gatekeeper.ports import Chain
from cloister.gatekeeper.store import Store
from cloister.wire.account import AccountSignerRequest
from cloister.wire.messages import parse


class AccountSignerDesk:
    """Answers workers whose agents act by their accounts."""

    def __init__(
        self,
        office: Office,
        checkpoints: Checkpoints,
        chain: Chain,
        store: Store,
        audit: AuditLog,
        *,
        limit: RateLimit,
    ) -> None:
        self._office, self._checkpoints, self._chain = office, checkpoints, chain
        self._store, self._audit, self._limit = store, audit, limit

    async def answer(self, body: bytes, remote: str) -> bytes:
        """This member's signature on who acts, or the refusal. Raises CloisterError.

        1. size and shape; 2. rate; 3. t signatures on the lease shown; 4. the signature of its worker; 5. facts,
        proven at the newest final block, and newer ones; 6. the decision; 7. remembered, audited, signed."""
        request = parse(AccountSignerRequest.from_json, body)  # 1
        asked, held = request.asked, request.held.statement
        assert isinstance(held, Lease)  # noqa: S101 - parsed as one
        self._limit.take((remote, held.worker))  # 2
        request.held.verify(self._office.signers, self._office.network)  # 3
        verify_signer(asked.digest(self._office.network), request.signature, held.worker)  # 4
        self._checkpoints.require_running()
        head = self._checkpoints.head
        if head is None:
            raise HALTED(expected="a signed checkpoint", found="none")
        at = self._chain.at(head)
        worker, agent, newest = await asyncio.gather(  # 5
            at.worker(held.worker), at.agent(asked.agent), self._chain.newest(asked.agent, held.worker)
        )
        known = self._store.get(_name(asked))
        may_sign_signer(SignerFacts(head, self._office.term, held, asked, worker, agent, newest, known))  # 6
        if known is None:  # 7
            self._store.put(_name(asked), asked.signer)
        facts = {"worker": to_hex(held.worker), "agent": to_hex(asked.agent), "signer": to_hex(asked.signer)}
        self._audit.append("account signer", **facts)
        return self._office.sign(asked)


def _name(asked: SetSigner) -> str:
    """Where the signer of an agent epoch is remembered."""
    return f"signer/{asked.agent.hex()}/{asked.agent_epoch}"
