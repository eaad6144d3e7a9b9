"""The sealed call: sessions, keys and failover (spec/sealed-http.md; DESIGN section 7).

What an attempt can end with:

    answer       the stream opened to its final chunk and the receipt holds: done
    refusal      the worker refused inside the seal, which is authentic: raised, or another seat if it says "busy"
    lost         anything else after bytes left: a plain hint of the gateway, a broken or altered stream. Nobody knows
                 whether the agent ran
    unreachable  nothing left this machine: raised

A lost request goes to another seat, or again to the same one, under the *same request id* only if repeating is safe:
GET, HEAD, or a request with an idempotency key. Else ``client.outcome_unknown``: the gateway is not trusted, so its
"not delivered" never counts as proof that nothing happened.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from cloister.client.gateway import Answering, Gateway, NotOpened
from cloister.client.receipts import Ledger
from cloister.client.reply import HeaderMap, Proof, Reply
from cloister.client.resolve import Resolution, Resolver, Sitting
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.envelope.client import ClientSession, Psk
from cloister.core.envelope.model import TOO_LARGE, AgentProof, CallerKind, RequestHead
from cloister.core.envelope.opener import Body, Event, Failed, Final, Head
from cloister.core.envelope.trace import HEADER, TraceContext, outer
from cloister.core.errors import CloisterError, EncodingError, EnvelopeError, TransportError, define
from cloister.core.receipts.receipt import Exchange, Receipt
from cloister.core.receipts.verify import verify_receipt

MAX_ATTEMPTS = 4
MAX_BODY = 8 << 20
MAX_SESSIONS = 256
MAX_DEADLINE_S = 600.0
GRACE_S = 5.0
CALLER_LIFE_S = 3600
SAFE_METHODS = frozenset({"GET", "HEAD"})
# Hints after which the seats are fetched again before the next attempt.
RESOLVE_AGAIN = frozenset(
    {"envelope.wrong_boot", "envelope.certificate_unknown", "envelope.not_leased", "envelope.certificate_expired"}
)
# Authentic refusals that say "not here, not now": another seat may serve a request that is safe to repeat.
ELSEWHERE = frozenset({421, 503})

OUTCOME_UNKNOWN = define(
    "client.outcome_unknown",
    TransportError,
    check="the client learned whether the agent ran the request",
    remedy="ask the agent what happened, or repeat with an idempotency key: then it runs at most once",
    status=503,
)
STALE_ANSWER = define(
    "client.stale_answer",
    EnvelopeError,
    check="the worker answered at a recent checkpoint by this client's clock",
    remedy="the worker is cut off from the chain, or somebody holds it back; call again",
    status=503,
)
PAST_DEADLINE = define(
    "client.deadline",
    TransportError,
    check="the request was answered before its deadline",
    remedy="allow more time, or try again later",
    status=504,
)


Check = Callable[[Resolution], Awaitable[Resolution]]


class Who(Protocol):
    """Whom calls are made as: a wallet, an agent's key with the proof that it is one, a contract, an API key."""

    @property
    def address(self) -> bytes:
        """20 bytes: of the wallet or contract; an API key's id."""

    @property
    def kind(self) -> CallerKind:
        """Which of them."""

    @property
    def agent(self) -> AgentProof | None:
        """What proves the agent; a new one every period."""

    def sign(self, digest: bytes) -> bytes:
        """The caller's word over a 32-byte digest: 65 bytes of a wallet, a contract's signature, a key's MAC."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request to an agent. ``path`` includes the query; ``id`` is 16 bytes; ``deadline_ms`` is Unix time."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)
    id: bytes
    deadline_ms: int
    idempotency_key: str | None = None

    @property
    def repeatable(self) -> bool:
        """Whether running it twice is safe: GET, HEAD, or with an idempotency key."""
        return self.method in SAFE_METHODS or self.idempotency_key is not None

    @classmethod
    def build(
        cls,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] | None,
        body: bytes | str | None,
        json_body: Any,
        idempotency_key: str | None,
        request_id: bytes,
        deadline_ms: int,
    ) -> Request:
        """Put a request together. Raises EnvelopeError (envelope.too_large); TypeError for two bodies."""
        pairs = [(n.lower(), v) for n, v in (headers.items() if isinstance(headers, Mapping) else headers or ())]
        if json_body is not None:
            if body is not None:
                raise TypeError("give body or json, not both")
            body = json.dumps(json_body, ensure_ascii=False, separators=(",", ":"))
            if all(name != "content-type" for name, _ in pairs):
                pairs.append(("content-type", "application/json"))
        data = body.encode() if isinstance(body, str) else body or b""
        if len(data) > MAX_BODY:
            raise TOO_LARGE(expected=f"a body of at most {MAX_BODY} bytes", found=f"{len(data)} bytes")
        return cls(method.upper(), path, tuple(pairs), data, request_id, deadline_ms, idempotency_key)

    def head(self) -> RequestHead:
        """The sealed head."""
        return RequestHead(
            request_id=to_hex(self.id),
            method=self.method,
            path=self.path,
            deadline_ms=self.deadline_ms,
            headers=self.headers,
            idempotency_key=self.idempotency_key,
        )


class Lost(Exception):  # noqa: N818
    """An attempt after which nobody knows whether the agent ran. ``hint`` says what was seen; it proves nothing."""

    def __init__(self, hint: CloisterError) -> None:
        super().__init__(hint.code)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Answered:
    """The last event of a good answer: the verified receipt and what stands behind it."""

    receipt: Receipt
    proof: Proof
    attempts: int


class Sessions:
    """Open HPKE sessions and PSKs, by certificate and caller. The least recently used go first."""

    def __init__(self, mpk: Callable[[int], bytes], rng: Callable[[int], bytes]) -> None:
        """``mpk``: the master public key of a master epoch."""
        self._mpk, self._rng = mpk, rng
        self._psks: OrderedDict[bytes, Psk] = OrderedDict()
        self._sessions: OrderedDict[tuple[bytes, bytes], ClientSession] = OrderedDict()
        self._ends: dict[tuple[bytes, bytes], int] = {}

    def session(self, sitting: Sitting, caller: Who | None, now: int) -> ClientSession:
        """The session with this seat as this caller; a new one where none is open or the caller's word expires."""
        certificate = sitting.seat.certificate
        name = (certificate.id, _name(caller))
        if name in self._sessions and (caller is None or now + 30 < self._ends[name]):
            self._sessions.move_to_end(name)
            return self._sessions[name]
        session = ClientSession(certificate, self._psk(sitting), self._rng)
        if caller is not None:
            session.authenticate(caller.address, now + CALLER_LIFE_S, caller.sign, caller.agent, kind=caller.kind)
            self._ends[name] = now + CALLER_LIFE_S
        self._sessions[name] = session
        while len(self._sessions) > MAX_SESSIONS:
            old, _ = self._sessions.popitem(last=False)
            self._ends.pop(old, None)
        return session

    def drop(self, sitting: Sitting, caller: Who | None) -> None:
        """Forget a session that the worker does not have any more."""
        self._sessions.pop((sitting.seat.certificate.id, _name(caller)), None)

    def _psk(self, sitting: Sitting) -> Psk:
        certificate = sitting.seat.certificate
        if certificate.id not in self._psks:
            self._psks[certificate.id] = Psk.encapsulate(certificate, self._mpk(certificate.master_epoch), self._rng)
            if len(self._psks) > MAX_SESSIONS:
                self._psks.popitem(last=False)
        self._psks.move_to_end(certificate.id)
        return self._psks[certificate.id]


def _name(caller: Who | None) -> bytes:
    """A session belongs to one caller, and an agent's to one proof: a new period opens a new session."""
    if caller is None:
        return b""
    proof = b"" if caller.agent is None else caller.agent.signature.encode()
    return caller.kind.encode() + caller.address + proof


class Sealed(Protocol):
    """What an attempt sends, and what opens its answer."""

    @property
    def data(self) -> bytes:
        """What travels."""

    @property
    def opener(self) -> Openable:
        """One answer's."""

    @property
    def salt(self) -> bytes:
        """Of the receipt."""

    @property
    def commitment(self) -> bytes:
        """To the request."""

    @property
    def request_id(self) -> str:
        """0x and 32 hex digits."""


class Openable(Protocol):
    """An answer's opener: ``opener.Opener`` and those of ``oblivious_answer``."""

    def feed(self, data: bytes) -> list[Event]:
        """The events that these bytes complete."""

    def close(self) -> list[Event]:
        """Those that the stream's end completes."""

    def commitment(self, salt: bytes) -> bytes:
        """To the response."""


class Caller:
    """Makes sealed calls over one gateway, as one wallet or as nobody. ``clock`` gives Unix seconds."""

    def __init__(
        self,
        gateway: Gateway,
        resolver: Resolver,
        ledger: Ledger,
        *,
        rng: Callable[[int], bytes],
        clock: Callable[[], float],
    ) -> None:
        self._gateway, self._resolver, self._ledger = gateway, resolver, ledger
        self._clock = clock
        self._sessions = Sessions(resolver.mpk, rng)

    async def call(self, agent: bytes, request: Request, check: Check, who: Who | None) -> Reply:
        """Send and collect the whole answer. Raises by name: see the module's first lines."""
        head: Head | None = None
        body = bytearray()
        async with aclosing(self.events(agent, request, check, who, whole=True)) as events:
            async for event in events:
                if isinstance(event, Head):
                    head, body = event, bytearray()
                elif isinstance(event, Body):
                    body += event.data
                elif isinstance(event, Answered) and head is not None:
                    return Reply(
                        status=head.status,
                        headers=HeaderMap(head.headers),
                        body=bytes(body),
                        receipt=event.receipt,
                        proof=event.proof,
                        request_id=to_hex(event.receipt.request_id),
                        attempts=event.attempts,
                    )
        raise RuntimeError("an answer ended without its last event")

    async def events(
        self,
        agent: bytes,
        request: Request,
        check: Check,
        who: Who | None,
        *,
        whole: bool = False,
    ) -> AsyncGenerator[Head | Body | Answered, None]:
        """The answer's events, the last one ``Answered``. ``whole``: the consumer starts over at a second Head.

        Without ``whole`` an answer that broke after its head is not tried again: its consumer has seen a part of it.
        """
        tries = _Tries(request, whole=whole)
        while True:
            found = await self._resolver.resolve(agent, quick=request.repeatable, again=tries.resolve_again)
            resolution = (await check(found)).routed(self._resolver.salt if who is None else who.address)
            sitting = tries.choose(resolution)
            started = False
            try:
                async with aclosing(self._attempt(sitting, resolution, request, who, tries)) as events:
                    async for event in events:
                        started = True
                        yield event
                return
            except Lost as lost:
                self._after_loss(sitting, who, lost)
                if started and not whole:
                    raise lost.hint from None
                tries.lost(sitting, lost, self._clock())

    def _after_loss(self, sitting: Sitting, who: Who | None, lost: Lost) -> None:
        if lost.hint.code != "envelope.psk_unknown":
            self._sessions.drop(sitting, who)

    async def _attempt(
        self, sitting: Sitting, resolution: Resolution, request: Request, who: Who | None, tries: _Tries
    ) -> AsyncGenerator[Head | Body | Answered, None]:
        sealed = await self._sealed(sitting, request, who, tries)
        certificate = sitting.seat.certificate
        status = 0
        async with aclosing(self._answer(sitting, sealed, request, tries)) as events:
            async for event in events:
                if isinstance(event, Head):
                    _fresh_enough(event, resolution, request)
                    self._resolver.outdated(certificate.agent, event.checkpoint)
                    status = event.status
                    yield event
                elif isinstance(event, Body):
                    yield event
                elif isinstance(event, Final):
                    yield self._accept(event, sealed, status, sitting, resolution, tries)
                else:
                    _refused(event, request, tries)

    async def _sealed(self, sitting: Sitting, request: Request, who: Who | None, tries: _Tries) -> Sealed:
        """What one attempt sends."""
        session = self._sessions.session(sitting, who, int(self._clock()))
        return session.seal(request.head(), request.body, with_ibe=True if tries.with_ibe else None)

    def _sent(self, sitting: Sitting, sealed: Sealed, request: Request, tries: _Tries, patience_s: float) -> Answering:
        certificate = sitting.seat.certificate
        shown = _shown(request)
        return self._gateway.call(certificate.agent, certificate.boot, sealed.data, patience_s=patience_s, **shown)

    async def _answer(
        self, sitting: Sitting, sealed: Sealed, request: Request, tries: _Tries
    ) -> AsyncGenerator[Event, None]:
        """The opened events of one attempt; whatever is not an authentic stream to its end becomes ``Lost``."""
        patience = max(request.deadline_ms / 1000 - self._clock(), 1.0) + GRACE_S
        try:
            async with self._sent(sitting, sealed, request, tries, patience) as answer:
                if isinstance(answer, NotOpened):
                    raise Lost(answer.error)
                async for chunk in answer:
                    for event in sealed.opener.feed(chunk):
                        yield event
                for event in sealed.opener.close():
                    yield event
        except (EnvelopeError, EncodingError) as error:
            raise Lost(error) from None
        except TransportError as error:
            if error.code == "client.unreachable":
                raise
            raise Lost(error) from None

    def _accept(
        self,
        final: Final,
        sealed: Sealed,
        status: int,
        sitting: Sitting,
        resolution: Resolution,
        tries: _Tries,
    ) -> Answered:
        """The answer's last event, its receipt verified against what was sent and what came, and kept. Raises
        ReceiptError."""
        exchange = Exchange(
            request_id=from_hex(sealed.request_id, 16, name="request id"),
            status=status,
            request=sealed.commitment,
            response=sealed.opener.commitment(sealed.salt),
        )
        receipt = verify_receipt(
            final.receipt, final.signature, sitting.seat.certificate, sitting.admission, exchange, final.batch
        )
        self._ledger.keep(final.receipt, final.signature, sealed.salt, sitting.seat, final.batch)
        return Answered(receipt, resolution.proof(sitting, receipt.id), tries.count)


class _Tries:
    """What was tried for one request, and what the next attempt does."""

    def __init__(self, request: Request, *, whole: bool) -> None:
        self.request, self.whole = request, whole
        self.count = 0
        self.with_ibe = False
        self.resolve_again = False
        self._failed: dict[bytes, int] = {}

    def choose(self, resolution: Resolution) -> Sitting:
        """The seat that failed least, in the resolution's order."""
        self.count += 1
        return min(resolution.sittings, key=lambda s: self._failed.get(s.seat.certificate.boot, 0))

    def lost(self, sitting: Sitting, lost: Lost, now: float) -> None:
        """Note a loss. Raises OUTCOME_UNKNOWN or PAST_DEADLINE where there is no next attempt."""
        hint, boot = lost.hint, sitting.seat.certificate.boot
        if not self.request.repeatable:
            found = f"{hint.code}: {hint.check}; found {hint.found}"
            raise OUTCOME_UNKNOWN(expected="an answer to its end", found=found) from None
        if self.count >= MAX_ATTEMPTS:
            raise hint from None
        if now * 1000 >= self.request.deadline_ms:
            raise PAST_DEADLINE(
                expected="an answer in time", found=f"{self.count} attempts, last {hint.code}"
            ) from None
        self.with_ibe = hint.code == "envelope.psk_unknown"
        self.resolve_again = hint.code in RESOLVE_AGAIN or not self.with_ibe
        if not self.with_ibe:
            self._failed[boot] = self._failed.get(boot, 0) + 1


def _refused(event: Failed, request: Request, tries: _Tries) -> None:
    """An authentic refusal: raised, or ``Lost`` where it says "elsewhere" and repeating is safe."""
    if event.error.status in ELSEWHERE and request.repeatable and tries.count < MAX_ATTEMPTS:
        raise Lost(event.error)
    raise event.error


def _shown(request: Request) -> dict[str, str]:
    """What the gateway sees of a request's trace: ids that only whoever has the sealed ones can tie to them."""
    inner = TraceContext.parse(dict(request.headers).get(HEADER))
    return {} if inner is None else {"trace": outer(inner).header}


def _fresh_enough(head: Head, resolution: Resolution, request: Request) -> None:
    """A worker's height may lag behind the checkpoint that we verified by one period at most."""
    oldest = resolution.checkpoint.number - resolution.parameters.period_blocks
    if head.checkpoint < oldest:
        error = STALE_ANSWER(expected=f"an answer at block {oldest} or later", found=f"block {head.checkpoint}")
        raise Lost(error) if request.repeatable else error
