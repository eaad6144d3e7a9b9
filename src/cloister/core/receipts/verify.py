"""How an outsider checks a receipt and a worker's log of them (spec/receipts.md 4, 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hmac import compare_digest
from itertools import pairwise

from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import verify_signer
from cloister.core.encoding.statements import Lease
from cloister.core.envelope.certificate import KeyCertificate
from cloister.core.errors import CloisterError, ReceiptError, define
from cloister.core.receipts.batch import BatchPath
from cloister.core.receipts.receipt import ZERO, Exchange, Receipt

WRONG_CERTIFICATE = define(
    "receipt.wrong_certificate",
    ReceiptError,
    check="the receipt names the agent, code, epochs, worker and boot that the request was sealed to",
    remedy="do not trust the answer: another worker, code or epoch made it",
    status=403,
)
BAD_SIGNATURE = define(
    "receipt.signature",
    ReceiptError,
    check="the worker's attested key signed the receipt",
    remedy="do not trust the answer",
    status=403,
)
NOT_ADMITTED = define(
    "receipt.not_admitted",
    ReceiptError,
    check="proven chain state admits this worker with this boot at the receipt's height",
    remedy="do not trust the answer: the worker was removed, restarted or never admitted",
    status=403,
)
WRONG_EXCHANGE = define(
    "receipt.wrong_exchange",
    ReceiptError,
    check="the receipt commits to this request and this answer",
    remedy="do not trust the answer: the receipt belongs to another exchange",
    status=403,
)
BROKEN_CHAIN = define(
    "receipt.chain",
    ReceiptError,
    check="receipts of one boot are consecutive and each names the one before it",
    remedy="ask for the missing receipts; a worker that cannot show them hides or forked its log",
    status=403,
)


@dataclass(frozen=True, slots=True)
class Admission:
    """A worker as proven chain state has it: until which height (exclusive), with which boot, removed or not."""

    worker: bytes
    boot: bytes
    expiry: int
    removed: bool = False

    @classmethod
    def of_lease(cls, lease: Lease) -> Admission:
        """The admission that a verified lease vouches for: the committee grants leases to admitted workers alone."""
        return cls(lease.worker, lease.boot, lease.expiry)


def verify_receipt(
    encoded: bytes,
    signature: bytes,
    certificate: KeyCertificate,
    admission: Admission,
    exchange: Exchange | None,
    batch: BatchPath | None = None,
) -> Receipt:
    """The receipt, after the checks of spec/receipts.md 4, by number. Raises ReceiptError at the first that fails.

    ``batch``: its place in what was signed, None if it was signed alone. ``exchange`` None is for an auditor who has
    no texts: then step 5 is left out and the receipt says nothing of them.
    """
    receipt = Receipt.decode(encoded)  # 1
    _same_certificate(receipt, certificate)  # 2
    verify_signed(receipt, signature, batch)  # 3
    _admitted(receipt, admission)  # 4
    if exchange is not None:
        _same_exchange(receipt, exchange)  # 5
    return receipt


def verify_signed(receipt: Receipt, signature: bytes, batch: BatchPath | None) -> None:
    """Raise ReceiptError unless the receipt's worker signed it, alone or in a batch: signature, batch, not_included."""
    signed = receipt.id if batch is None else batch.digest(receipt)
    try:
        verify_signer(signed, signature, receipt.worker)
    except CloisterError as error:
        raise BAD_SIGNATURE(expected=error.expected, found=error.found) from None


def _same_certificate(receipt: Receipt, certificate: KeyCertificate) -> None:
    names = (
        "network",
        "agent",
        "code_hash",
        "manifest_hash",
        "master_epoch",
        "cluster_epoch",
        "agent_epoch",
        "worker",
        "boot",
    )
    differing = [name for name in names if getattr(receipt, name) != getattr(certificate, name)]
    if differing:
        raise WRONG_CERTIFICATE(expected="the certificate's fields", found=f"other {', '.join(differing)}")


def _admitted(receipt: Receipt, admission: Admission) -> None:
    if admission.worker != receipt.worker or admission.boot != receipt.boot:
        raise NOT_ADMITTED(expected=to_hex(receipt.worker), found="another worker or boot")
    if admission.removed or receipt.checkpoint >= admission.expiry:
        found = "a removed worker" if admission.removed else f"an admission until block {admission.expiry}"
        raise NOT_ADMITTED(expected=f"an admission at block {receipt.checkpoint}", found=found)


def _same_exchange(receipt: Receipt, exchange: Exchange) -> None:
    if receipt.request_id != exchange.request_id or receipt.status != exchange.status:
        expected = f"{to_hex(exchange.request_id)}, status {exchange.status}"
        raise WRONG_EXCHANGE(expected=expected, found=f"{to_hex(receipt.request_id)}, status {receipt.status}")
    for name in ("request", "response"):
        if not compare_digest(getattr(receipt, name), getattr(exchange, name)):
            raise WRONG_EXCHANGE(expected=f"the commitment to this {name}", found="another")


def verify_chain(receipts: Sequence[Receipt]) -> None:
    """Raise ReceiptError (receipt.chain) unless these are consecutive receipts of one boot, in order."""
    for before, after in pairwise(receipts):
        if (before.worker, before.boot) != (after.worker, after.boot):
            raise BROKEN_CHAIN(expected="one worker and boot", found="receipts of two")
        if after.seq != before.seq + 1 or after.prev != before.id:
            raise BROKEN_CHAIN(expected=f"receipt {before.seq + 1} after {to_hex(before.id)}", found=str(after.seq))
    if receipts and receipts[0].seq == 0 and receipts[0].prev != ZERO:
        raise BROKEN_CHAIN(expected="zero before the first receipt", found=to_hex(receipts[0].prev))
