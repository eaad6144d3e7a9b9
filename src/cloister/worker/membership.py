"""Becoming a worker and staying one: attest, be admitted by t members, stand in the Workers contract (DESIGN 2).

A registration names this boot, so a restarted worker registers again; it ends at a block, so a worker that stops
attesting falls out by itself. The evidence names the operator: whoever sees a worker's evidence cannot register it
under another one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from cloister.chain.contracts import encode
from cloister.chain.tx import Receipt
from cloister.core.chainview.records import WorkerRecord
from cloister.core.encoding.signatures import Signed, SignerSet
from cloister.core.encoding.statements import Checkpoint, WorkerAdmission
from cloister.core.errors import PolicyError, define
from cloister.evidence.tee import Tee
from cloister.wire.messages import AdmissionRequest
from cloister.worker.chainwatch import REMOVED
from cloister.worker.leases import NodeIdentity, show

RENEW_AT = 0.5
# Blocks after the transaction's own until the record must show it, else it is sent again.
SETTLES = 8
# An endpoint's claim where it included a transaction is believed so far above the checkpoint.
MAX_AHEAD = 1024

WRONG_ADMISSION = define(
    "worker.wrong_admission",
    PolicyError,
    check="the admission names this worker, boot and operator, and ends after the checkpoint",
    remedy="see what the gatekeepers answer with `cloister status`",
    status=503,
)


class AdmitPort(Protocol):
    """What membership asks of the committee (``wire.committee.Committee``)."""

    async def admission(self, request: AdmissionRequest) -> Signed:
        """A WorkerAdmission with t signatures."""


class SendPort(Protocol):
    """The worker's chain account (``chain.tx.Sender``)."""

    async def send(self, to: bytes | None, data: bytes = b"", value: int = 0, gas: int | None = None) -> Receipt:
        """Send a transaction and wait until it is in a block."""


class Membership:
    """This worker's seat in the Workers contract.

    ``signers``: who is in office. ``workers``: address of the contract. ``operator``: who answers for the worker.
    ``endpoint``: where it says it is.
    """

    def __init__(
        self,
        node: NodeIdentity,
        tee: Tee,
        committee: AdmitPort,
        signers: Callable[[], SignerSet],
        sender: SendPort,
        *,
        workers: bytes,
        operator: bytes,
        endpoint: str,
    ) -> None:
        self._node, self._tee, self._committee, self._signers = node, tee, committee, signers
        self._sender, self._workers, self._operator, self._endpoint = sender, workers, operator, endpoint
        self._renew_at = 0
        self._retry_at = 0

    def needed(self, record: WorkerRecord | None, height: int) -> bool:
        """Whether to register now: not (yet) on chain with this boot, or past half of the registration's life.

        1. a worker that was removed, or that its operator took out since, does not come back by itself (worker.removed
        is raised); 2. a registration on its way gets some blocks to become final; 3. on chain, and young enough?"""
        ours = record is not None and record.boot == self._node.boot
        if record is not None and (record.removed or (ours and not record.listed)):  # 1
            raise REMOVED(expected="a worker in service", found="removed" if record.removed else "departed")
        if height < self._retry_at:  # 2
            return False
        stands = record is not None and ours and record.expiry > height  # 3
        return not stands or height >= self._renew_at

    async def register(self, checkpoint: Signed) -> WorkerAdmission:
        """Attest, get admitted, send the transaction. Raises the committee's refusal, ChainError, EvidenceError.

        1. fresh evidence over this boot and operator; 2. t signatures; 3. they are members', for this network and
        this worker; 4. on chain.
        """
        at = checkpoint.statement
        assert isinstance(at, Checkpoint)  # noqa: S101 - the chain watch holds checkpoints only
        keys = {"operator": self._operator}
        shown = await show(self._tee, self._node.binding("worker", at.block_hash, bytes(32), keys))  # 1
        signed = await self._committee.admission(AdmissionRequest(shown, self._operator, checkpoint))  # 2
        signed.verify(self._signers(), self._node.network)  # 3
        admission = self._ours(signed, at.number)
        fields = [getattr(admission, name) for name in admission.TYPES]
        data = encode("Workers", "register", fields, list(signed.signatures), self._endpoint)
        receipt = await self._sender.send(self._workers, data)  # 4
        self._retry_at = min(receipt.block_number, at.number + MAX_AHEAD) + SETTLES
        self._renew_at = at.number + int((admission.expiry - at.number) * RENEW_AT)
        return admission

    def _ours(self, signed: Signed, height: int) -> WorkerAdmission:
        admission = signed.statement
        mine = (self._node.address, self._node.boot, self._operator)
        if not isinstance(admission, WorkerAdmission) or admission.expiry <= height:
            raise WRONG_ADMISSION(expected=f"an admission beyond block {height}", found="another statement")
        if (admission.worker, admission.boot, admission.operator) != mine:
            raise WRONG_ADMISSION(expected="this worker, boot and operator", found="others")
        return admission
