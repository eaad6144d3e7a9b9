"""One signature for all receipts of one loop tick (spec/receipts.md 9).

The receipts are consecutive in their boot. Their ids are the leaves of a tree; the worker signs
digest(RECEIPT_BATCH, boot, u64 first, u64 size, root). Number and place are signed too, so that a path has exactly one
length, and neither a leaf nor an inner node passes for a root. An id commits to salted commitments: whoever sees the
ids of others in a path learns nothing of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloister.core.encoding.contexts import Context, digest
from cloister.core.encoding.hexes import need_bytes, need_fields, need_uint, to_hex
from cloister.core.envelope.model import WireBatch
from cloister.core.receipts.merkle import NOT_A_BATCH, hashes_from, leaf_hash, paths_of, root_from_path
from cloister.core.receipts.receipt import Receipt

MAX_BATCH: Final = 1024
MAX_BATCH_PATH: Final = 10  # log2 of MAX_BATCH


@dataclass(frozen=True, slots=True)
class BatchPath:
    """A receipt's place: number of the batch's ``first`` receipt, ``size`` of the batch, ``path`` to its root."""

    first: int
    size: int
    path: tuple[bytes, ...]

    def __post_init__(self) -> None:
        need_uint("first", self.first, 53)
        need_uint("size", self.size, 53)
        if not 2 <= self.size <= MAX_BATCH or len(self.path) > MAX_BATCH_PATH:
            raise NOT_A_BATCH(expected=f"2 to {MAX_BATCH} receipts", found=f"{self.size}, path of {len(self.path)}")
        for one in self.path:
            if type(one) is not bytes or len(one) != 32:
                need_bytes("a hash of a path", one, 32)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: {first, path (the hashes in one hex text, nearest first), size}."""
        return {"first": self.first, "path": to_hex(b"".join(self.path)), "size": self.size}

    @classmethod
    def from_json(cls, value: object) -> BatchPath:
        """Parse ``to_json`` output. Raises EncodingError, ReceiptError (receipt.batch)."""
        data = need_fields("batch", value, {"first", "path", "size"})
        return cls(data["first"], data["size"], hashes_from(data["path"], MAX_BATCH_PATH))

    def to_wire(self) -> WireBatch:
        """As it stands in an answer's last chunk."""
        return WireBatch(self.first, to_hex(b"".join(self.path)), self.size)

    def digest(self, receipt: Receipt) -> bytes:
        """What the worker signed if this path is true. Raises ReceiptError: batch, not_included. 32 bytes."""
        index = receipt.seq - self.first
        if not 0 <= index < self.size:
            raise NOT_A_BATCH(
                expected=f"a number in {self.first}..{self.first + self.size - 1}", found=str(receipt.seq)
            )
        root = root_from_path(leaf_hash(receipt.id), index, self.size, self.path)
        return batch_digest(receipt.boot, self.first, self.size, root)


def batch_digest(boot: bytes, first: int, size: int, root: bytes) -> bytes:
    """digest(RECEIPT_BATCH, boot 32, u64 first, u64 size, root 32). 32 bytes."""
    return digest(Context.RECEIPT_BATCH, boot, first.to_bytes(8, "big"), size.to_bytes(8, "big"), root)


class SignedBatch:
    """Consecutive receipts of one boot under one 65-byte ``signature``; ``leaves``: the leaf hashes of their ids.

    A single receipt is signed alone, by its id, with no path."""

    __slots__ = ("_first", "_paths", "_size", "leaves", "signature")

    def __init__(self, receipts: Sequence[Receipt], sign: Callable[[bytes], bytes]) -> None:
        """Raises ValueError for none, more than 1024, or receipts that are not consecutive: our own mistake."""
        first = receipts[0]
        self._first, self._size = first.seq, len(receipts)
        if self._size > MAX_BATCH or [r.seq for r in receipts] != list(range(first.seq, first.seq + self._size)):
            raise ValueError("a batch is 1 to 1024 consecutive receipts")
        self.leaves = [leaf_hash(r.id) for r in receipts]
        self._paths: list[list[bytes]] = [[]]
        if self._size == 1:
            self.signature = sign(first.id)
            return
        root, self._paths = paths_of(self.leaves)
        self.signature = sign(batch_digest(first.boot, self._first, self._size, root))

    def path(self, index: int) -> BatchPath | None:
        """The place of receipt ``index`` of the batch."""
        return None if self._size == 1 else BatchPath(self._first, self._size, tuple(self._paths[index]))


def sign_together(receipts: Sequence[Receipt], sign: Callable[[bytes], bytes]) -> tuple[bytes, list[BatchPath | None]]:
    """One 65-byte signature for consecutive receipts of one boot, and each one's path. Raises as ``SignedBatch``."""
    batch = SignedBatch(receipts, sign)
    return batch.signature, [batch.path(index) for index in range(len(receipts))]
