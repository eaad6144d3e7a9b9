"""Running an agent for a contract: the same process, state and rules as for a caller (spec/anchor.md 31-33)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Final

from cloister.core.chainview.anchor import MAX_PAYLOAD, Asked, remote_caller
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.identity import Purpose
from cloister.core.errors import CloisterError
from cloister.core.keys.anchored import open_payload, seal_reply
from cloister.core.keys.hpke import Rng
from cloister.core.threshold.ibe import DerivedKey
from cloister.sandbox.errors import CLOSED
from cloister.sandbox.ports import AgentProcess, AgentRequest, Chunks
from cloister.worker.access import Access
from cloister.worker.agents import AgentTable
from cloister.worker.anchor import BAD_REPLY
from cloister.worker.anchor_outbox import request_id
from cloister.worker.placed import Placed
from cloister.worker.scope import RequestScope
from cloister.worker.state import ALREADY_DONE

PATH: Final = "/.well-known/cloister/request"
WALL_MS: Final = 60_000
_calls = itertools.count(1)


class AgentRunner:
    """Runs one placed agent for contracts. Implements ``anchor.Runner``. ``now_ms``: the host's clock. ``chain``: the
    connected chain that asks; None: the network's own."""

    def __init__(
        self,
        table: AgentTable,
        placed: Placed,
        access: Access,
        now_ms: Callable[[], int],
        rng: Rng,
        *,
        worker: bytes,
        chain: int | None = None,
    ) -> None:
        self._chain = chain
        self._table, self._placed, self._access = table, placed, access
        self._now_ms, self._rng, self._worker = now_ms, rng, worker

    async def run(self, request: Asked, payload: bytes, keep: Callable[[bytes], tuple[str, bytes]]) -> None:
        """1. the access hook lets the requester in; 2. the payload opens; 3. the agent answers; 4. its writes and the
        answer commit together. A request that was run already, by any seat, is left as it is. Raises CloisterError."""
        agent = self._placed.record.agent
        if self._chain is None:  # 1
            await self._access.require_call(agent, request.requester, "POST", PATH, kind="contract")
        else:
            alias = remote_caller(self._chain, request.requester)
            await self._access.require_call(agent, alias, "POST", PATH, kind="remote_contract")
        keys = self._placed.keys
        message = open_payload(  # 2
            self._call_key, keys.mpk, keys.version, request.requester, request.flags, payload, self._chain
        )
        commitment = request.commitment()
        process = await self._table.process(self._placed)

        def answer(body: bytes) -> tuple[str, bytes]:
            return keep(seal_reply(message, commitment, body, self._rng))

        try:
            await self._once(process, request, message.body, answer)  # 3, 4
        except CloisterError as error:
            if error.code != ALREADY_DONE.code:
                raise

    def _call_key(self, period: int) -> DerivedKey | None:
        for keys in (self._placed.keys, self._placed.older):
            if keys is not None and (Purpose.CALL, period) in keys.derived:
                return keys.key(Purpose.CALL, period)
        return None

    async def _once(
        self, process: AgentProcess, request: Asked, body: bytes, answer: Callable[[bytes], tuple[str, bytes]]
    ) -> None:
        """One run under a request id that commits once: of the request, or of this worker's copy of it."""
        who = self._worker.hex() if request.copies > 1 else ""
        where = "" if self._chain is None else f"{self._chain} "
        name = request_id(f"{where}run {request.commitment().hex()} {who}")
        placed, call = self._placed, f"{name}-a{next(_calls)}"
        scope = RequestScope(placed.state, await placed.state.begin(name), name)
        placed.host.open(call, scope)
        try:
            with self._table.figures.counting(placed.record.agent, "contracts", process) as count:
                count.request = len(body)
                head, chunks = await process.fetch(self._request(call, request, body))
                reply = await _whole(head.status, chunks)
                count.response = len(reply)
                if placed.closed:
                    raise CLOSED(expected="an agent of this worker", found="one that was dropped while it ran")
                await scope.put(*answer(reply))
                await scope.commit_head()
        finally:
            placed.host.close(call)
            scope.close()

    def _request(self, call: str, request: Asked, body: bytes) -> AgentRequest:
        headers = (
            ("content-type", "application/octet-stream"),
            ("cloister-request-index", str(request.index)),
            ("cloister-request-fee", str(request.fee)),
            ("cloister-request-deadline", str(request.deadline)),
        )
        return AgentRequest(
            request_id=call,
            method="POST",
            path=PATH,
            headers=headers,
            body=body,
            caller=self._caller(request),
            deadline_ms=self._now_ms() + WALL_MS,
        )

    def _caller(self, request: Asked) -> dict[str, object]:
        """A contract of another chain is of another kind: code that trusts an address here does not trust it there."""
        address = to_hex(request.requester)
        if self._chain is None:
            return {"kind": "contract", "address": address}
        return {"kind": "remote_contract", "chain": self._chain, "address": address}


async def _whole(status: int, chunks: Chunks) -> bytes:
    """The body of a good answer. Raises anchor.bad_reply."""
    data = bytearray()
    try:
        async for chunk in chunks:
            data += chunk
            if len(data) > MAX_PAYLOAD:
                raise BAD_REPLY(expected=f"at most {MAX_PAYLOAD} bytes", found="more")
    finally:
        await chunks.aclose()
    if status != 200:
        raise BAD_REPLY(expected="status 200", found=f"status {status}")
    return bytes(data)
