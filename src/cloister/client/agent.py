"""An agent as its caller holds it: resolved, checked against the caller's demand, ready to be called."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from cloister.client.agree import Agreement, agree, require_safe
from cloister.client.call import MAX_DEADLINE_S, Answered, Check, Request
from cloister.client.demand import Demand
from cloister.client.reply import HeaderMap, Proof, Reply
from cloister.client.resolve import Resolution
from cloister.core.chainview.records import AgentRecord
from cloister.core.encoding.hexes import to_hex
from cloister.core.envelope.opener import Body, Head
from cloister.core.receipts.receipt import Receipt

if TYPE_CHECKING:
    from cloister.client.client import Client

HeaderInput = Mapping[str, str] | Sequence[tuple[str, str]] | None


class Agent:
    """Call it like a web server. ``id`` is 32 bytes; ``record`` is its proven state when it was resolved.

    Every method seals the request to a worker that holds a lease, verifies the answer and its receipt, and raises a
    CloisterError otherwise. A status such as 404 that the *agent* chose is an answer, not an error.
    """

    def __init__(self, client: Client, agent: bytes, record: AgentRecord, demand: Demand, *, anonymous: bool) -> None:
        self._client = client
        self._demand = demand
        self._anonymous = anonymous
        self.id = agent
        self.record = record

    def __repr__(self) -> str:
        return f"Agent({to_hex(self.id)})"

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: HeaderInput = None,
        body: bytes | str | None = None,
        json: Any = None,
        idempotency_key: str | None = None,
        deadline_s: float = 30.0,
    ) -> Reply:
        """One request and its whole answer.

        Args: ``path`` includes the query; ``json`` is encoded as the body; ``idempotency_key`` makes a POST safe to
        repeat; ``deadline_s`` (at most 600) is how long the worker may work.
        Raises: ``client.outcome_unknown`` if the answer was lost and repeating is not safe; the worker's refusal; a
        ReceiptError if the answer and its receipt do not fit; a TransportError if nothing was reached.
        """
        request = self._build(method, path, headers, body, json, idempotency_key, deadline_s)
        return await self._client.calls.call(self.id, request, self._check, self._who)

    async def get(self, path: str, **options: Any) -> Reply:
        """``request("GET", …)``."""
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> Reply:
        """``request("POST", …)``."""
        return await self.request("POST", path, **options)

    async def put(self, path: str, **options: Any) -> Reply:
        """``request("PUT", …)``."""
        return await self.request("PUT", path, **options)

    async def delete(self, path: str, **options: Any) -> Reply:
        """``request("DELETE", …)``."""
        return await self.request("DELETE", path, **options)

    async def agreed(
        self,
        path: str,
        *,
        method: str = "GET",
        workers: int = 2,
        vendors: int = 2,
        headers: HeaderInput = None,
        deadline_s: float = 30.0,
    ) -> Agreement:
        """The same answer from several workers, on hardware of several vendors; for GET and HEAD.

        Raises: ``client.too_few_to_agree``, ``client.disagree``, and what ``request`` raises if too few answered.
        """
        method = require_safe(method)
        calls = self._client.calls

        def fresh() -> Request:
            return self._build(method, path, headers, None, None, None, deadline_s)

        async def one(request: Request, check: Check) -> Reply:
            return await calls.call(self.id, request, check, self._who)

        found = await self._check(await self._client.resolver.resolve(self.id, again=True))
        return await agree(found, fresh, one, self._check, workers=workers, vendors=vendors)

    def stream(
        self,
        method: str,
        path: str,
        *,
        headers: HeaderInput = None,
        body: bytes | str | None = None,
        json: Any = None,
        idempotency_key: str | None = None,
        deadline_s: float = 570.0,  # workers take 600 by their own clock: ours may be ahead
    ) -> Stream:
        """One request whose answer is read in pieces: ``async for chunk in agent.stream("GET", "/events")``.

        Each chunk is authentic when it is yielded. That the answer is complete is known only when the loop ends
        without an error; then ``receipt`` and ``proof`` are there.
        """
        request = self._build(method, path, headers, body, json, idempotency_key, deadline_s)
        return Stream(self._client.calls.events(self.id, request, self._check, self._who))

    @property
    def _who(self) -> Any:
        return None if self._anonymous else self._client.caller

    async def _check(self, resolution: Resolution) -> Resolution:
        found = self._demand.apply(resolution, self._client.caller_address)
        return await self._client.with_evidence(found) if self._demand.evidence else found

    def _build(
        self,
        method: str,
        path: str,
        headers: HeaderInput,
        body: bytes | str | None,
        json: Any,
        idempotency_key: str | None,
        deadline_s: float,
    ) -> Request:
        if not 0 < deadline_s <= MAX_DEADLINE_S:
            raise ValueError(f"deadline_s is above 0 and at most {MAX_DEADLINE_S:.0f}")
        return Request.build(
            method,
            path,
            headers=headers,
            body=body,
            json_body=json,
            idempotency_key=idempotency_key,
            request_id=self._client.rng(16),
            deadline_ms=int((self._client.clock() + deadline_s) * 1000),
        )


class Stream:
    """A streamed answer. ``status`` and ``headers`` are there after the first event, ``receipt`` after the last."""

    def __init__(self, events: AsyncIterator[Head | Body | Answered]) -> None:
        self._events = events
        self.status = 0
        self.headers = HeaderMap(())
        self.receipt: Receipt | None = None
        self.proof: Proof | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks()

    async def __aenter__(self) -> Stream:
        """Wait for the head, so that ``status`` can be looked at before the body."""
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Wait for the head. Harmless when it is there already."""
        if self.status == 0:
            self._note(await anext(self._events))

    async def close(self) -> None:
        """Stop reading. The worker notices and stops too."""
        close = getattr(self._events, "aclose", None)
        if close is not None:
            await close()

    async def _chunks(self) -> AsyncIterator[bytes]:
        try:
            async for event in self._events:
                self._note(event)
                if isinstance(event, Body):
                    yield event.data
        finally:
            await self.close()

    def _note(self, event: Head | Body | Answered) -> None:
        if isinstance(event, Head):
            self.status, self.headers = event.status, HeaderMap(event.headers)
        elif isinstance(event, Answered):
            self.receipt, self.proof = event.receipt, event.proof
