"""Showing this boot's log to the committee, and its root to the chain (spec/receipts.md 12, 13)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from cloister.chain.contracts import encode
from cloister.core.encoding import jcs
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.log_statements import LogHead, WorkerLog
from cloister.core.encoding.signatures import Signed, SignerSet
from cloister.core.encoding.statements import Statement
from cloister.core.errors import CloisterError, ReceiptError, define
from cloister.core.receipts.log import witness_quorum
from cloister.fabric.ports import ReceiptLogs
from cloister.wire.logs import HeldLog, LogAnswer, LogRequest, head_of
from cloister.worker.leases import NodeIdentity
from cloister.worker.membership import SendPort
from cloister.worker.receipts import ReceiptDesk

FORKED = define(
    "worker.log_forked",
    ReceiptError,
    check="what a gatekeeper remembers of this boot's log is the beginning of it",
    remedy="restart the worker: its log and the committee's memory do not fit, and no head can be signed",
    status=500,
)


class WitnessPort(Protocol):
    """What witnessing asks of the committee (``wire.committee.Committee``, or one that follows terms)."""

    @property
    def now(self) -> Asked:
        """Those in office. What is asked of them is counted among them alone."""


class Asked(Protocol):
    """The members of one term."""

    @property
    def signers(self) -> SignerSet:
        """Who they are."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where they answer."""

    async def caught(self, url: str, method: str, path: str, body: Any = None) -> Any:
        """One question to one endpoint; a refusal is the answer."""

    def member(self, statement: Statement, signature: bytes) -> bytes:
        """Which member of this term signed."""

    def too_few(self, need: int, refused: list[CloisterError]) -> CloisterError:
        """Why ``need`` members did not agree."""


class Witness:
    """Has the log signed by the committee whenever it grew. ``head``: the newest that enough members signed."""

    def __init__(self, node: NodeIdentity, desk: ReceiptDesk, store: ReceiptLogs, committee: WitnessPort) -> None:
        self._node, self._desk, self._store, self._committee = node, desk, store, committee
        self._known: dict[str, int] = {}
        self.head: Signed | None = None

    @property
    def size(self) -> int:
        """Receipts under the newest signed head."""
        return getattr(self.head.statement, "size", 0) if self.head is not None else 0

    @property
    def _term(self) -> int:
        return 0 if self.head is None else int(getattr(self.head.statement, "term", 0))

    async def turn(self) -> bool:
        """Ask for signatures if there is something new, or a new term. True: a new head was signed and stored.

        Raises the members' refusal, FabricError, worker.log_forked."""
        await self._desk.retry()
        size, committee = self._desk.log.size, self._committee.now
        if size == self.size and self._term in (0, committee.signers.term):
            return False
        root = self._desk.log.root(size, await self._desk.tiles(size))
        log = WorkerLog(self._node.address, self._node.boot, size, root)
        signature = self._node.sign(log.digest(self._node.network))
        asked = [self._ask(committee, url, log, signature) for url in committee.endpoints]
        answers = await asyncio.gather(*asked)
        signed = dict(a for a in answers if not isinstance(a, CloisterError))
        need = witness_quorum(len(committee.signers.members))
        if len(signed) < need:
            raise committee.too_few(need, [a for a in answers if isinstance(a, CloisterError)])
        self.head = Signed(head_of(log, committee.signers.term), tuple(signed.values()))
        await self._keep(self.head)
        return True

    async def _keep(self, head: Signed) -> None:
        signatures = [to_hex(s) for s in head.signatures]
        data = jcs.encode({"statement": head.statement.to_json(), "signatures": signatures})
        await self._store.put_head(self._desk.name, data)

    async def _ask(
        self, committee: Asked, url: str, log: WorkerLog, signature: bytes
    ) -> tuple[bytes, bytes] | CloisterError:
        """(member, signature), or why not. A member that holds another size is asked once more from there."""
        try:
            for _ in range(2):
                start = min(self._known.get(url, 0), log.size)
                path = self._desk.log.consistency(start, log.size, await self._desk.tiles(start, log.size))
                request = LogRequest(log, signature, start, tuple(path))
                said = await committee.caught(url, "POST", "/v1/logs", request.to_json())
                if isinstance(said, CloisterError):
                    return said
                answer = LogAnswer.from_json(said)
                if answer.signature is not None:
                    member = committee.member(head_of(log, committee.signers.term), answer.signature)
                    self._known[url] = log.size
                    return member, answer.signature
                self._known[url] = await self._start_of(answer.held, log)
            return FORKED(expected="a member that says one thing", found="two heads in a row")
        except CloisterError as error:
            return error

    async def _start_of(self, held: HeldLog | None, log: WorkerLog) -> int:
        """Where to begin for a member that holds this head, which must be a beginning of our own log."""
        if held is None or (held.log.worker, held.log.boot) != (log.worker, log.boot) or held.log.size > log.size:
            raise FORKED(expected=f"a head of at most {log.size} receipts", found="another")
        if held.log.root != self._desk.log.root(held.log.size, await self._desk.tiles(held.log.size)):
            raise FORKED(expected=f"our root at {held.log.size} receipts", found="another")
        return held.log.size


class RootKeeper:
    """Puts signed heads on chain, at most one every ``every_s`` seconds. ``contract``: address of Receipts."""

    def __init__(self, sender: SendPort, contract: bytes, *, every_s: float, monotonic: Callable[[], float]) -> None:
        self._sender, self._contract, self._every_s, self._monotonic = sender, contract, every_s, monotonic
        self._next = monotonic() + every_s
        self._size = 0

    async def turn(self, head: Signed | None) -> bool:
        """Send the head if it is time and it is new. True: it is on chain. Raises ChainError."""
        said = None if head is None else head.statement
        if head is None or not isinstance(said, LogHead) or said.size == self._size:
            return False
        if self._monotonic() < self._next:
            return False
        self._next = self._monotonic() + self._every_s
        fields = [getattr(said, name) for name in said.TYPES]
        await self._sender.send(self._contract, encode("Receipts", "record", fields, list(head.signatures)))
        self._size = said.size
        return True
