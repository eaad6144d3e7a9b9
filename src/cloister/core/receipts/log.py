"""The Merkle log of one worker boot: leaf i is the id of receipt i (spec/receipts.md 10, 12, 14).

``Log`` keeps little: the roots of every 256 receipts (a tile) and above, and the leaves of the last tile. A proof about
older receipts takes the ids of at most two tiles from the store; they are checked against the roots kept here, so that
a store that changed them is found out and not believed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hmac import compare_digest
from typing import Any, Final

from cloister.core.encoding.hexes import from_hex, need_fields, need_uint, to_hex
from cloister.core.encoding.log_statements import LogHead
from cloister.core.encoding.signatures import Signed, SignerSet
from cloister.core.errors import ReceiptError, define
from cloister.core.receipts.merkle import (
    EMPTY_ROOT,
    MAX_PATH,
    Part,
    consistency_path,
    hashes_from,
    inclusion_path,
    leaf_hash,
    node_hash,
    root_of,
    split,
    verify_inclusion,
)
from cloister.core.receipts.receipt import Receipt

TILE: Final = 256
_SIGNATURES: Final = 64
Tiles = Mapping[int, Sequence[bytes]]

DAMAGED = define(
    "receipt.log_damaged",
    ReceiptError,
    check="the store still has the receipts that this log was built from",
    remedy="restore the worker's store; receipts that callers kept are still good",
    status=500,
)
OTHER_LOG = define(
    "receipt.other_log",
    ReceiptError,
    check="the head that the committee signed is of the receipt's worker and boot, and covers its number",
    remedy="ask for the proof again later: the committee signs heads every few seconds",
    status=403,
)


def witness_quorum(members: int, faults: int = 1) -> int:
    """How many of ``members`` sign a head: with fewer, ``faults`` liars could sign two forks (2q - n > f)."""
    return min(members, (members + faults) // 2 + 1)


class Log:
    """Append-only. Sizes and indexes count receipts; ids and roots are 32 bytes."""

    def __init__(self) -> None:
        self._rows: list[bytearray] = [bytearray()]  # row k: roots of 256·2^k leaves, one after the other
        self._tail: list[bytes] = []
        self.size = 0

    def append(self, receipt_id: bytes) -> None:
        """Add the id of receipt number ``size``."""
        self.append_leaf(leaf_hash(receipt_id))

    def append_leaf(self, leaf: bytes) -> None:
        """The same, by the ``leaf_hash`` of its id."""
        self._tail.append(leaf)
        self.size += 1
        if len(self._tail) == TILE:
            self._close(root_of(self._tail))
            self._tail = []

    def tiles_of(self, *positions: int) -> set[int]:
        """Numbers of the whole tiles whose ids ``root``, ``inclusion`` or ``consistency`` of these positions need."""
        return {at // TILE for at in positions if at // TILE < self.size // TILE}

    def root(self, size: int, tiles: Tiles) -> bytes:
        """The root of the first ``size`` receipts. Raises ReceiptError (receipt.log_damaged)."""
        return self._part(tiles)(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int, tiles: Tiles) -> list[bytes]:
        """The path of receipt ``index`` in the log of ``size``. Needs the tiles of both."""
        return inclusion_path(index, size, self._part(tiles))

    def consistency(self, old: int, new: int, tiles: Tiles) -> list[bytes]:
        """The path from the log of ``old`` to that of ``new``. Needs the tiles of both."""
        return consistency_path(old, new, self._part(tiles))

    def _close(self, root: bytes) -> None:
        for row in self._rows:
            row += root
            if (len(row) // 32) & 1:
                return
            root = node_hash(bytes(row[-64:-32]), bytes(row[-32:]))
        self._rows.append(bytearray(root))

    def _part(self, tiles: Tiles) -> Part:
        leaves = {number: self._checked(number, ids) for number, ids in tiles.items()}

        def part(start: int, end: int) -> bytes:
            if end > self.size:
                raise ValueError("the log is shorter")
            found = self._node(start, end)
            if found is not None:
                return found
            tile = start // TILE
            if (end - 1) // TILE == tile:
                of = self._tail if tile == self.size // TILE else leaves[tile]
                return root_of(of[start - tile * TILE : end - tile * TILE])
            middle = start + split(end - start)
            return node_hash(part(start, middle), part(middle, end))

        return part

    def _node(self, start: int, end: int) -> bytes | None:
        """A root that is kept: of a whole tile, or of 2^k of them."""
        width = end - start
        if width < TILE or width & (width - 1) or start % width:
            return None
        row = self._rows[(width // TILE).bit_length() - 1]
        at = start // width * 32
        return bytes(row[at : at + 32])

    def _checked(self, number: int, ids: Sequence[bytes]) -> list[bytes]:
        leaves = [leaf_hash(one) for one in ids]
        kept = bytes(self._rows[0][number * 32 : number * 32 + 32])
        if len(leaves) != TILE or not compare_digest(root_of(leaves), kept):
            raise DAMAGED(expected=f"receipts {number * TILE} to {number * TILE + TILE - 1} as logged", found="others")
        return leaves


@dataclass(frozen=True, slots=True)
class LogProof:
    """A receipt's place in a log whose head the committee signed. ``path``: hashes, nearest first."""

    index: int
    path: tuple[bytes, ...]
    head: Signed

    @property
    def statement(self) -> LogHead:
        """What the committee signed."""
        assert isinstance(self.head.statement, LogHead)  # noqa: S101 - built so by from_json and by workers
        return self.head.statement

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: {head: {statement, signatures}, index, path (hex, nearest first)}."""
        signatures = [to_hex(s) for s in self.head.signatures]
        head = {"statement": self.head.statement.to_json(), "signatures": signatures}
        return {"head": head, "index": self.index, "path": to_hex(b"".join(self.path))}

    @classmethod
    def from_json(cls, value: object) -> LogProof:
        """Parse ``to_json`` output. Raises EncodingError, ReceiptError."""
        data = need_fields("log proof", value, {"head", "index", "path"})
        path = hashes_from(data["path"], MAX_PATH)
        return cls(need_uint("index", data["index"], 53), path, log_head_from(data["head"]))

    def verify(self, receipt: Receipt, signers: SignerSet, network: bytes) -> None:
        """Raise unless the committee signed a log that has this receipt at its number (spec/receipts.md 14).

        1. q members signed the head (``witness_quorum``); 2. it is of the receipt's worker and boot; 3. index = seq,
        below size; 4. path."""
        said = self.statement
        quorum = max(signers.threshold, witness_quorum(len(signers.members)))
        self.head.verify(replace(signers, threshold=quorum), network)  # 1
        if (said.worker, said.boot) != (receipt.worker, receipt.boot):  # 2
            raise OTHER_LOG(expected="the receipt's worker and boot", found="another log")
        if self.index != receipt.seq or self.index >= said.size:  # 3
            raise OTHER_LOG(expected=f"number {receipt.seq} in a log of {said.size}", found=str(self.index))
        verify_inclusion(leaf_hash(receipt.id), self.index, said.size, self.path, said.root)  # 4


def log_head_from(value: object) -> Signed:
    """A signed ``LogHead`` from {statement, signatures}. Raises EncodingError."""
    data = need_fields("signed log head", value, {"statement", "signatures"})
    given = data["signatures"]
    if not isinstance(given, list) or len(given) > _SIGNATURES:
        raise OTHER_LOG(expected=f"at most {_SIGNATURES} signatures", found="another shape")
    signatures = tuple(from_hex(one, 65, name="signature") for one in given)
    return Signed(LogHead.from_json(data["statement"]), signatures)
