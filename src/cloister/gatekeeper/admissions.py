"""POST /v1/admission: who may register as a worker (spec/gatekeeper-api.md 5)."""

from __future__ import annotations

from cloister.core.attestation.appraise import REPORT_DATA
from cloister.core.attestation.policy import Policy
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.statements import WorkerAdmission
from cloister.core.errors import CloisterError
from cloister.core.policy.refusals import WORKER_REMOVED
from cloister.gatekeeper.attest import attest
from cloister.gatekeeper.audit import AuditLog
from cloister.gatekeeper.checkpoints import Checkpoints
from cloister.gatekeeper.limits import RateLimit
from cloister.gatekeeper.office import Office
from cloister.gatekeeper.ports import Chain
from cloister.wire.messages import AdmissionRequest, SignedBy, parse

REGISTRATION_PERIODS = 24
OPERATOR = "operator"


class AdmissionDesk:
    """Signs ``WorkerAdmission`` statements."""

    def __init__(
        self,
        office: Office,
        checkpoints: Checkpoints,
        chain: Chain,
        audit: AuditLog,
        *,
        policy: Policy,
        limit: RateLimit,
    ) -> None:
        self._office, self._checkpoints, self._chain, self._audit = office, checkpoints, chain, audit
        self._policy, self._limit = policy, limit

    async def answer(self, body: bytes, remote: str) -> SignedBy:
        """An admission with this member's signature. Raises CloisterError; outcomes past the rate limit are audited.

        1. size and shape; 2. rate; 3. the checkpoint; 4. evidence, which names the operator: evidence that a worker
        shows to others registers it under nobody; 5. not removed, then or now; 6. the statement: every field follows
        from evidence and checkpoint, so t members sign the same.
        """
        request = parse(AdmissionRequest.from_json, body)  # 1
        self._limit.take((remote, request.shown.binding.node))  # 2
        facts = {"worker": to_hex(request.shown.binding.node), "operator": to_hex(request.operator)}
        try:
            admission = await self._decide(request)
        except CloisterError as error:
            self._audit.append("admission", outcome=error.code, **facts)
            raise
        self._audit.append("admission", outcome="admitted", expiry=str(admission.expiry), **facts)
        return SignedBy(admission, self._office.sign(admission))

    async def _decide(self, request: AdmissionRequest) -> WorkerAdmission:
        checkpoint = self._checkpoints.accept(request.checkpoint)  # 3
        head = self._checkpoints.head or checkpoint
        at = self._chain.at(checkpoint)
        _, requester = await attest(  # 4
            request.shown,
            at,
            policy=self._policy,
            role="worker",
            network=self._office.network,
            number=checkpoint.number,
            now=max(head.timestamp, checkpoint.timestamp),
            checkpoints=self._checkpoints.recent() | {checkpoint.block_hash},
        )
        if request.shown.binding.keys.get(OPERATOR) != request.operator:
            raise REPORT_DATA(expected=f"operator {to_hex(request.operator)} in the binding", found="another or none")
        record = await at.worker(requester.worker)
        newest = await self._chain.newest(None, requester.worker)
        if newest.removed or (record is not None and record.removed):  # 5
            raise WORKER_REMOVED(expected="a worker that was not removed for cause", found="a removed one")
        self._checkpoints.require_running()
        return WorkerAdmission(  # 6
            term=self._office.term,
            worker=requester.worker,
            operator=request.operator,
            vendor_class=requester.vendor_class,
            measurement=requester.measurement,
            boot=requester.boot,
            expiry=checkpoint.number + REGISTRATION_PERIODS * self._policy.network.period_blocks,
        )
