"""Becoming a worker and staying one: attest, be admitted by t members, stand in the Workers contract (DESIGN 2).

A registration names this boot, so a restarted worker registers again; it ends at a block, so a worker that stops
attesting falls out by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from cloister.chain.contracts import encode
from cloister.chain.tx import Receipt
from cloister.core.chainview.records import WorkerRecord
from cloister.core.encoding.signatures import Signed, SignerSet
from cloister.core.encoding.statements import Checkpoint, WorkerAdmission
from cloister.evidence.tee import Tee
from cloister.wire.messages import AdmissionRequest
from cloister.worker.leases import NodeIdentity, show

RENEW_AT = 0.5
SETTLES = 8


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

    ``workers``: address of the contract. ``operator``: who answers for the worker. ``endpoint``: where it says it is.
    """

    def __init__(
        self,
        node: NodeIdentity,
        tee: Tee,
        committee: AdmitPort,
        signers: SignerSet,
        sender: SendPort,
        *,
        workers: bytes,
        operator: bytes,
        endpoint: str,
    ) -> None:
        self._node, self._tee, self._committee, self._signers = node, tee, committee, signers
        self._sender, self._workers, self._operator, self._endpoint = sender, workers, operator, endpoint
        self._until = 0
        self._renew_at = 0

    def needed(self, record: WorkerRecord | None, height: int) -> bool:
        """Whether to register now: not (yet) on chain with this boot, or past half of the registration's life.

        After a registration its effect gets a few blocks to become final before it is tried again."""
        if height < self._renew_at:
            return False
        stands = record is not None and record.boot == self._node.boot and record.expiry > height
        return not stands or height >= self._until

    async def register(self, checkpoint: Signed, rng: Callable[[int], bytes]) -> WorkerAdmission:
        """Attest, get admitted, send the transaction. Raises the committee's refusal, ChainError, EvidenceError.

        1. fresh evidence over this boot; 2. t signatures; 3. they are members' and for this network; 4. on chain.
        """
        at = checkpoint.statement
        assert isinstance(at, Checkpoint)  # noqa: S101 - the chain watch holds checkpoints only
        shown = await show(self._tee, self._node.binding("worker", at.block_hash, bytes(32), {}))  # 1
        signed = await self._committee.admission(AdmissionRequest(shown, self._operator, checkpoint))  # 2
        signed.verify(self._signers, self._node.network)  # 3
        admission = signed.statement
        assert isinstance(admission, WorkerAdmission)  # noqa: S101 - the committee port answers with admissions
        fields = [getattr(admission, name) for name in admission.TYPES]
        data = encode("Workers", "register", fields, list(signed.signatures), self._endpoint)
        await self._sender.send(self._workers, data)  # 4
        self._renew_at = at.number + SETTLES
        self._until = at.number + int((admission.expiry - at.number) * RENEW_AT)
        return admission
