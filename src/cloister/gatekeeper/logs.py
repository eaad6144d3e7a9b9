"""Witnessing receipt logs: one newest head per worker and boot, which only grows (spec/receipts.md 12)."""

from __future__ import annotations

from collections.abc import Callable

from cloister.core.encoding import jcs
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.log_statements import WorkerLog
from cloister.core.errors import PolicyError, define
from cloister.core.policy.conflicts import Conflict, excludes
from cloister.core.policy.refusals import WORKER_REMOVED, WORKER_UNKNOWN
from cloister.core.receipts.merkle import verify_consistency
from cloister.gatekeeper.checkpoints import Checkpoints
from cloister.gatekeeper.limits import RateLimit
from cloister.gatekeeper.office import NOT_IN_OFFICE, Office
from cloister.gatekeeper.ports import Chain
from cloister.gatekeeper.store import Store
from cloister.wire.logs import HeldLog, LogAnswer, LogRequest, head_of
from cloister.wire.messages import parse

OTHER_BOOT = define(
    "gatekeeper.log_boot",
    PolicyError,
    check="a log's head is of the boot that finalised state has for its worker",
    remedy="register this boot first; heads of earlier boots are not signed again",
    status=403,
)


class LogDesk:
    """Signs heads of workers' logs, one history per worker and boot."""

    def __init__(
        self,
        office: Office,
        checkpoints: Checkpoints,
        chain: Chain,
        store: Store,
        *,
        limit: RateLimit,
        note: Callable[[Conflict], None],
    ) -> None:
        """``note``: takes two heads of one size that a worker signed."""
        self._office, self._checkpoints, self._chain = office, checkpoints, chain
        self._store, self._limit, self._note = store, limit, note

    async def witness(self, body: bytes, remote: str) -> LogAnswer:
        """This member's signature over the head, or what it holds. Raises CloisterError (spec/receipts.md 12).

        1. shape; 2. rate; 3. the worker signed; 4. in service, with this boot; 5. it continues what is held; then it is
        stored, and signed."""
        request = parse(LogRequest.from_json, body)  # 1
        self._limit.take((remote, request.log.worker))  # 2
        request.verify(self._office.network)  # 3
        await self._require_boot(request.log)  # 4
        self._checkpoints.require_running()
        held = self.held(request.log.worker, request.log.boot)
        if held is not None and held.log.size not in (request.start, request.log.size):
            return LogAnswer(None, held)
        if held is not None and excludes(held.log, request.log):
            self._note(Conflict(held.log, held.signature, request.log, request.signature))
        self._require_growth(request, held)  # 5
        new = HeldLog(request.log, request.signature)
        if held != new:
            self._store.put(_name(request.log.worker, request.log.boot), jcs.encode(new.to_json()))
        return LogAnswer(self._office.sign(head_of(request.log, self._office.term)), None)

    def held(self, worker: bytes, boot: bytes) -> HeldLog | None:
        """The newest head of a worker's boot that this member stored. Boots stay: a worker may register one again."""
        data = self._store.get(_name(worker, boot))
        return None if data is None else HeldLog.from_json(jcs.decode(data))

    async def _require_boot(self, log: WorkerLog) -> None:
        if (await self._chain.newest(None, log.worker)).removed:
            raise WORKER_REMOVED(expected="a worker in service", found="removed")
        head = self._checkpoints.head
        if head is None:
            raise NOT_IN_OFFICE(expected="a signed checkpoint", found="none")
        facts = await self._chain.at(head).worker(log.worker)
        if facts is None or facts.removed:
            raise WORKER_UNKNOWN(expected="a registered worker", found=to_hex(log.worker))
        if facts.boot != log.boot:
            raise OTHER_BOOT(expected=f"boot {to_hex(facts.boot)[:18]}", found=to_hex(log.boot)[:18])

    @staticmethod
    def _require_growth(request: LogRequest, held: HeldLog | None) -> None:
        log = request.log
        if held is None:
            return  # the first head of this boot that this member sees: it stands for all below it
        path = () if held.log.size == log.size else request.path
        verify_consistency(held.log.size, held.log.root, log.size, log.root, path)


def _name(worker: bytes, boot: bytes) -> str:
    return f"log/{worker.hex()}/{boot.hex()}"
