"""This boot's receipts: numbered, signed once per turn of the loop, stored before answers end (spec/receipts.md 9-11).

::

    issue -> numbered, sealed, waiting -> next turn: one signature, one write -> the answers' last chunks
                                                          | the store fails
                                                          v
                             those answers fail; what was numbered is written first, before anything new
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable
from typing import Any, Final, Protocol

import msgspec

from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.identity import Purpose
from cloister.core.encoding.signatures import Signed
from cloister.core.envelope.certificate import KeyCertificate
from cloister.core.envelope.stream import final_json
from cloister.core.errors import CloisterError, ReceiptError, define
from cloister.core.receipts.batch import MAX_BATCH, BatchPath, SignedBatch
from cloister.core.receipts.kept import OwnerKey, open_as_owner, seal_kept
from cloister.core.receipts.log import TILE, Log, LogProof, log_head_from
from cloister.core.receipts.merkle import leaf_hash, paths_of
from cloister.core.receipts.receipt import (
    NO_CHANGE,
    NO_USAGE,
    Exchange,
    Receipt,
    ReceiptChain,
    StateChange,
    Usage,
)
from cloister.fabric.ports import ReceiptBatch, ReceiptLogs
from cloister.worker.leases import AgentKeys, NodeIdentity

_OWNER_INFO: Final = b"owner"
_OWNERS: Final = 1024
MAX_UNSTORED: Final = 4096
_OLD_LOGS: Final = 4
_MAX_OLD: Final = 1 << 22
# One answer to an owner: receipts looked at, and shown.
MAX_LOOKED, MAX_SHOWN = 4096, 256

UNSTORED = define(
    "worker.receipts_unstored",
    ReceiptError,
    check="the store takes this worker's receipts",
    remedy="look at the disk of the store; the worker goes on by itself as soon as it writes again",
    status=503,
)
NOT_WITNESSED = define(
    "worker.receipt_not_witnessed",
    ReceiptError,
    check="the committee signed a head of the log that covers the receipt",
    remedy="ask again in some seconds; a boot that ended before its last receipts were witnessed stays without",
    status=404,
)

BAD_QUESTION = define(
    "worker.receipt_question",
    ReceiptError,
    check="a question about a receipt is a kind, an id, and sizes that its log has",
    remedy="run the worker and the gateway in the same version",
)


class Issued(msgspec.Struct, frozen=True):
    """A receipt that is stored: the one with this ``index`` in what was ``signed``."""

    receipt: Receipt
    signed: SignedBatch
    index: int

    @property
    def signature(self) -> bytes:
        """65 bytes."""
        return self.signed.signature

    @property
    def batch(self) -> BatchPath | None:
        """Its place in what was signed."""
        return self.signed.path(self.index)

    def final(self) -> bytes:
        """The last chunk of its answer."""
        batch = self.batch
        return final_json(self.receipt.encoded, self.signature, None if batch is None else batch.to_wire())


class Waiter(Protocol):
    """Who gets a receipt. Calls come from the loop and must not raise; one of the first two is the last."""

    def issued(self, issued: Issued) -> None:
        """It is stored: the answer may end."""

    def failed(self, error: Exception) -> None:
        """The store does not take it."""

    def waits(self) -> None:
        """The store takes its time."""


class _Future:
    """A waiter that is awaited."""

    __slots__ = ("done",)

    def __init__(self) -> None:
        self.done: asyncio.Future[Issued] = asyncio.get_running_loop().create_future()

    def issued(self, issued: Issued) -> None:
        if not self.done.done():
            self.done.set_result(issued)

    def failed(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)

    def waits(self) -> None:
        """Whoever awaits has a deadline."""


class _Waiting(msgspec.Struct, frozen=True):
    receipt: Receipt
    kept: bytes
    waiter: Waiter


class _Unstored(msgspec.Struct, frozen=True):
    batch: ReceiptBatch
    leaves: list[bytes]


class ReceiptDesk:
    """Issues this boot's receipts and knows its log."""

    def __init__(self, node: NodeIdentity, store: ReceiptLogs) -> None:
        self._node, self._store = node, store
        self._chain = ReceiptChain(node.address, node.boot, node.sign)
        self.name = log_name(node.address, node.boot)
        self.log = Log()
        self._waiting: list[_Waiting] = []
        self._unstored: list[_Unstored] = []
        self._flushing = False
        self._task: asyncio.Task[None] | None = None
        self._owners: OrderedDict[bytes, OwnerKey] = OrderedDict()

    async def issue(
        self,
        keys: AgentKeys,
        salt: bytes,
        certificate: KeyCertificate,
        exchange: Exchange,
        *,
        checkpoint: int,
        host_time_ms: int,
        state: StateChange | None = None,
        usage: Usage | None = None,
        alone: bool = False,
    ) -> Issued:
        """The next receipt, signed and stored: the answer may end. ``salt``: the one of its commitments. ``alone``: no
        other request is in progress, so nothing is waited for.

        Raises worker.receipts_unstored, FabricError."""
        waiter = _Future()
        said = (keys, salt, certificate, exchange, checkpoint, host_time_ms, state or NO_CHANGE, usage or NO_USAGE)
        self.ask(waiter, *said, alone=alone)
        return await waiter.done

    def ask(
        self,
        waiter: Waiter,
        keys: AgentKeys,
        salt: bytes,
        certificate: KeyCertificate,
        exchange: Exchange,
        checkpoint: int,
        host_time_ms: int,
        state: StateChange,
        usage: Usage,
        *,
        alone: bool,
    ) -> None:
        """``issue`` for a ``waiter``, which may be told before this returns. Raises worker.receipts_unstored."""
        if (self._waiting or self._unstored) and self.unstored >= MAX_UNSTORED:
            raise UNSTORED(expected="a store that writes", found=f"{self.unstored} receipts waiting")
        receipt = self._chain.add(
            certificate, exchange, checkpoint=checkpoint, host_time_ms=host_time_ms, state=state, usage=usage
        )
        self._waiting.append(_Waiting(receipt, seal_kept(receipt, salt, self._owner(keys)), waiter))
        if not self._flushing:
            self._flushing = True
            if alone:
                self._flush()
            else:
                asyncio.get_running_loop().call_soon(self._flush)

    @property
    def head(self) -> tuple[int, bytes]:
        """(receipts numbered so far, id of the last or zero)."""
        return self._chain.head

    @property
    def unstored(self) -> int:
        """Receipts that have their number and wait for the store."""
        return len(self._waiting) + sum(len(one.leaves) for one in self._unstored)

    def name_of(self, boot: bytes) -> str:
        """The log of this worker's boot, 32 bytes; older ones too."""
        return log_name(self._node.address, boot)

    @staticmethod
    def owner_key(keys: AgentKeys, boot: bytes) -> OwnerKey:
        """What opens an agent's receipts of one boot, for its epochs of now."""
        return OwnerKey(keys.key(Purpose.LOG).symmetric(Context.RECEIPT_KEPT, _OWNER_INFO), boot)

    def _owner(self, keys: AgentKeys) -> OwnerKey:
        name = keys.seat.certificate.id
        found = self._owners.get(name)
        if found is None:
            found = self._owners[name] = self.owner_key(keys, self._node.boot)
            if len(self._owners) > _OWNERS:
                self._owners.popitem(last=False)
        return found

    def _flush(self) -> None:
        """Sign and store what came in this turn. All that is written by the time this returns goes on at once."""
        some, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        try:
            signed = self._signed(some)
            pending = self._store_next()
        except Exception as error:
            self._fail(some, error)
            return
        if pending is None and not self._unstored:
            self._finish(some, signed)
            return
        for one in some:
            one.waiter.waits()
        self._task = asyncio.ensure_future(self._store_rest(pending, some, signed))

    def _signed(self, some: list[_Waiting]) -> SignedBatch:
        signed = SignedBatch([one.receipt for one in some], self._chain.sign)
        ids = tuple([one.receipt.id for one in some])
        batch = ReceiptBatch(some[0].receipt.seq, signed.signature, ids, tuple([one.kept for one in some]))
        self._unstored.append(_Unstored(batch, signed.leaves))
        return signed

    def _store_next(self) -> Awaitable[None] | None:
        """Give the store the oldest batch; None: it has it, and it is in the log."""
        pending = self._store.append(self.name, self._unstored[0].batch)
        if pending is None:
            self._stored()
        return pending

    def _stored(self) -> None:
        for leaf in self._unstored.pop(0).leaves:
            self.log.append_leaf(leaf)

    async def _store_rest(self, pending: Awaitable[None] | None, some: list[_Waiting], signed: SignedBatch) -> None:
        try:
            while True:
                if pending is not None:
                    await pending
                    self._stored()
                if not self._unstored:
                    break
                pending = self._store_next()
        except Exception as error:
            self._fail(some, error)
            return
        self._finish(some, signed)

    def _finish(self, some: list[_Waiting], signed: SignedBatch) -> None:
        for index, one in enumerate(some):
            one.waiter.issued(Issued(one.receipt, signed, index))
        self._again()

    def _fail(self, some: list[_Waiting], error: Exception) -> None:
        """Their answers fail. The batch stays first in line; ``retry`` or the next answer writes it."""
        for one in some:
            one.waiter.failed(error)
        self._again()

    def _again(self) -> None:
        self._flushing = bool(self._waiting)
        if self._flushing:
            asyncio.get_running_loop().call_soon(self._flush)

    async def retry(self) -> None:
        """Write what the store refused before, if nobody else does. Raises the store's refusal."""
        if self._flushing or not self._unstored:
            return
        self._flushing = True
        try:
            while self._unstored:
                pending = self._store_next()
                if pending is not None:
                    await pending
                    self._stored()
        finally:
            self._again()

    async def tiles(self, *positions: int) -> dict[int, list[bytes]]:
        """The ids that proofs about these positions need (``core.receipts.log.Log``)."""
        return await tiles_from(self._store, self.name, self.log, positions)


def log_name(worker: bytes, boot: bytes) -> str:
    """A log's name in the store."""
    return f"{worker.hex()}.{boot.hex()}"


async def tiles_from(store: ReceiptLogs, name: str, log: Log, positions: tuple[int, ...]) -> dict[int, list[bytes]]:
    """Whole tiles of a stored log, as many as it needs when this returns: it may grow meanwhile. Raises FabricError."""
    tiles: dict[int, list[bytes]] = {}
    while missing := log.tiles_of(*positions) - tiles.keys():
        for number in missing:
            tiles[number] = await store.ids(name, number * TILE, TILE)
    return tiles


class ReceiptDoor:
    """Answers questions about stored receipts, of this boot and earlier ones (spec/receipts.md 15)."""

    def __init__(self, desk: ReceiptDesk, store: ReceiptLogs) -> None:
        self._desk, self._store = desk, store
        self._old: OrderedDict[str, Log] = OrderedDict()

    async def answer(self, question: bytes) -> dict[str, Any]:
        """What a gateway's stream of kind RECEIPT asks: u8 (1 receipt, 2 proof, 3 consistency) ‖ id 32, and with 3 also
        u64 from ‖ u64 to. Raises CloisterError."""
        kind, named, sizes = question[:1], question[1:33], question[33:]
        if kind in (b"\1", b"\2") and len(named) == 32 and not sizes:
            return await (self.receipt if kind == b"\1" else self.proof)(named)
        if kind != b"\3" or len(sizes) != 16:
            raise BAD_QUESTION(expected="1 or 2 and an id, or 3, an id and two sizes", found=f"{len(question)} bytes")
        return await self.consistency(named, int.from_bytes(sizes[:8], "big"), int.from_bytes(sizes[8:], "big"))

    async def receipt(self, receipt_id: bytes) -> dict[str, Any]:
        """{id, worker, boot, seq, kept, signature, batch}. Raises fabric.no_receipt."""
        name, number = await self._store.find(receipt_id)
        batch = await self._store.read(name, number)
        worker, boot = name.split(".")
        return {
            "id": to_hex(receipt_id),
            "worker": f"0x{worker}",
            "boot": f"0x{boot}",
            "seq": number,
            "kept": to_hex(batch.sealed[number - batch.first]),
            "signature": to_hex(batch.signature),
            "batch": _path_in(batch, number - batch.first),
        }

    async def proof(self, receipt_id: bytes) -> dict[str, Any]:
        """A ``LogProof`` at the newest head that the committee signed. Raises fabric.no_receipt, NOT_WITNESSED."""
        name, number = await self._store.find(receipt_id)
        head = await signed_head(self._store, name)
        size = 0 if head is None else getattr(head.statement, "size", 0)
        if head is None or number >= size:
            raise NOT_WITNESSED(expected=f"a head beyond receipt {number}", found=f"a log of {size}")
        log = await self._log(name, size)
        tiles = await tiles_from(self._store, name, log, (number, size))
        return LogProof(number, tuple(log.inclusion(number, size, tiles)), head).to_json()

    async def consistency(self, receipt_id: bytes, old: int, new: int) -> dict[str, Any]:
        """{path}: that a receipt's log begins with its first ``old`` receipts at ``new``. Raises fabric.no_receipt,
        NOT_WITNESSED, BAD_QUESTION."""
        name, _ = await self._store.find(receipt_id)
        log = await self._log(name, new)
        if not 0 < old <= new <= log.size:
            raise BAD_QUESTION(expected=f"sizes in order, of at most {log.size}", found=f"{old} and {new}")
        path = log.consistency(old, new, await tiles_from(self._store, name, log, (old, new)))
        return {"path": to_hex(b"".join(path))}

    async def of_agent(self, keys: AgentKeys, boot: bytes, first: int) -> dict[str, Any]:
        """An agent's own receipts in a log of this worker, from number ``first`` on, as far as one answer goes.

        {boot, size, pruned, next, receipts: [{receipt: text, signature, batch}]}: go on at ``next`` until it is
        ``size``. Those of other agents, and of closed epochs, do not open under this agent's key and are left out, and
        so are the first ``pruned`` of the log."""
        name, owner = self._desk.name_of(boot), self._desk.owner_key(keys, boot)
        size, pruned = await self._store.size(name), await self._store.begins(name)
        first = at = max(first, pruned)
        found: list[dict[str, Any]] = []
        while at < min(size, first + MAX_LOOKED) and len(found) < MAX_SHOWN:
            batch = await self._store.read(name, at)
            found += _opened_of(batch, at, keys.terms.agent, owner)
            at = batch.first + len(batch.ids)
        return {"boot": to_hex(boot), "size": size, "pruned": pruned, "next": at, "receipts": found}

    async def _log(self, name: str, size: int) -> Log:
        """The tree of a log, with ``size`` receipts if the store has them; of logs of others, a few are remembered."""
        if name == self._desk.name:
            return self._desk.log
        log = self._old.setdefault(name, Log())
        if log.size < size:
            await _extend(log, self._store, name)
        if len(self._old) > _OLD_LOGS:
            self._old.popitem(last=False)
        return log


def _opened_of(batch: ReceiptBatch, first: int, agent: bytes, owner: OwnerKey) -> list[dict[str, Any]]:
    """An agent's receipts in one batch, from number ``first`` on."""
    found: list[dict[str, Any]] = []
    for at in range(first - batch.first, len(batch.ids)):
        try:
            receipt = open_as_owner(batch.sealed[at], batch.ids[at], batch.first + at, owner)
        except CloisterError:
            continue  # another agent's
        if receipt.agent == agent:
            signed = {"signature": to_hex(batch.signature), "batch": _path_in(batch, at)}
            found.append({"receipt": receipt.encoded.decode(), **signed})
    return found


def _path_in(batch: ReceiptBatch, at: int) -> dict[str, Any] | None:
    """The place of a batch's receipt ``at`` in what was signed; None for one that was signed alone."""
    if len(batch.ids) == 1:
        return None
    _, paths = paths_of([leaf_hash(one) for one in batch.ids])
    return BatchPath(batch.first, len(batch.ids), tuple(paths[at])).to_json()


async def _extend(log: Log, store: ReceiptLogs, name: str) -> None:
    while (at := log.size) < _MAX_OLD:
        ids = await store.ids(name, at, MAX_BATCH)
        if log.size != at:
            continue  # somebody else read them meanwhile
        for one in ids:
            log.append(one)
        if len(ids) < MAX_BATCH:
            break


async def signed_head(store: ReceiptLogs, name: str) -> Signed | None:
    """The newest head of a log that the committee signed, as the store has it. A damaged one counts as none."""
    data = await store.head(name)
    if data is None:
        return None
    try:
        return log_head_from(jcs.decode(data, max_size=1 << 16))
    except CloisterError:
        return None
