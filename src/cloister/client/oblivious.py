"""Oblivious calls (spec/ohttp.md): each request in a context of its own, through a relay that cannot read it.

Seats, leases, receipts and what an attempt can end with are those of ``call.py``. An answer comes whole. There is no
way down from here: a worker that has no oblivious key is not called in another way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace

from cloister.client.call import CALLER_LIFE_S, GRACE_S, Answered, Caller, Lost, Request, Who, _refused, _Tries
from cloister.client.call import _fresh_enough as fresh_enough
from cloister.client.gateway import Gateway, NotOpened
from cloister.client.receipts import Ledger
from cloister.client.resolve import Resolution, Resolver, Sitting
from cloister.core.encoding.hexes import from_hex
from cloister.core.envelope.oblivious import ObliviousKey
from cloister.core.envelope.oblivious_client import Answer, ObliviousRequest, Speaker, meant_for, seal, verify_key
from cloister.core.envelope.ohttp import KeyConfig
from cloister.core.envelope.opener import Body, Failed, Final, Head
from cloister.core.errors import CloisterError, EnvelopeError, TransportError, define
from cloister.core.receipts.receipt import Exchange

MAX_KEYS = 256

NO_KEY = define(
    "client.oblivious_key",
    EnvelopeError,
    check="the worker shows an oblivious key for the certificate of its seat",
    remedy="take another worker, or make a sealed call: without --oblivious",
    status=503,
)


class ObliviousCaller(Caller):
    """Makes oblivious calls over one relay. ``clock`` gives Unix seconds."""

    def __init__(
        self,
        gateway: Gateway,
        resolver: Resolver,
        ledger: Ledger,
        *,
        rng: Callable[[int], bytes],
        clock: Callable[[], float],
    ) -> None:
        super().__init__(gateway, resolver, ledger, rng=rng, clock=clock)
        self._rng = rng
        self._configs: OrderedDict[bytes, KeyConfig] = OrderedDict()

    async def _attempt(
        self, sitting: Sitting, resolution: Resolution, request: Request, who: Who | None, tries: _Tries
    ) -> AsyncGenerator[Head | Body | Answered, None]:
        """1. the worker's key, verified; 2. one encapsulated request; 3. its answer, or ``Lost``; 4. the receipt."""
        request = self._named(request, tries)
        config = await self._config(sitting, request)  # 1
        certificate, now = sitting.seat.certificate, self._clock()
        sealed = seal(config, certificate, request.head(), request.body, self._rng, _speaker(who, int(now)))  # 2
        patience = max(request.deadline_ms / 1000 - now, 1.0) + GRACE_S
        answer = await self._exchanged(sitting, sealed, patience)  # 3
        if isinstance(answer, Failed):
            _refused(answer, request, tries)
            return
        head = Head(answer.status, answer.headers, answer.checkpoint)
        fresh_enough(head, resolution, request)
        self._resolver.outdated(certificate.agent, answer.checkpoint)
        exchange = Exchange(
            from_hex(sealed.request_id, 16, name="request id"), answer.status, sealed.commitment, answer.commitment
        )
        final = Final(answer.receipt, answer.signature, answer.batch)
        answered = self._believed(final, exchange, sealed.salt, sitting, resolution, tries)  # 4
        yield head
        if answer.body:
            yield Body(answer.body)
        yield answered

    def _named(self, request: Request, tries: _Tries) -> Request:
        """A worker takes a request id once: what is repeated without a key to it (GET, HEAD) gets a new one."""
        if tries.count == 1 or request.idempotency_key is not None:
            return request
        return replace(request, id=self._rng(16))

    async def _exchanged(self, sitting: Sitting, sealed: ObliviousRequest, patience_s: float) -> Answer | Failed:
        certificate = sitting.seat.certificate
        try:
            said = await self._gateway.oblivious(
                certificate.agent, certificate.boot, sealed.data, patience_s=patience_s
            )
            if isinstance(said, NotOpened):
                raise Lost(said.error)
            return sealed.open(said)
        except TransportError as error:
            if error.code == "client.unreachable":
                raise
            raise Lost(error) from None
        except CloisterError as error:
            raise Lost(error) from None

    async def _config(self, sitting: Sitting, request: Request) -> KeyConfig:
        """The verified key of a seat. Nothing has left yet: a failure is raised, or another seat is tried."""
        certificate = sitting.seat.certificate
        try:
            if certificate.id not in self._configs:
                self._configs[certificate.id] = await self._fetched(sitting)
                if len(self._configs) > MAX_KEYS:
                    self._configs.popitem(last=False)
        except CloisterError as error:
            if error.code == "client.unreachable" or not request.repeatable:
                raise
            raise Lost(error) from None
        return self._configs[certificate.id]

    async def _fetched(self, sitting: Sitting) -> KeyConfig:
        certificate = sitting.seat.certificate
        offered = await self._gateway.oblivious_keys(certificate.agent, certificate.boot)
        for one in map(ObliviousKey.from_json, offered):
            if meant_for(one, certificate):
                return verify_key(one, certificate, self._resolver.mpk(certificate.master_epoch))
        raise NO_KEY(expected="a key of the seat's certificate and suite", found=f"{len(offered)} others")

    def _after_loss(self, sitting: Sitting, who: Who | None, lost: Lost) -> None:
        self._configs.pop(sitting.seat.certificate.id, None)


def _speaker(who: Who | None, now: int) -> Speaker | None:
    if who is None:
        return None
    return Speaker(who.address, now + CALLER_LIFE_S, who.sign, who.agent, who.kind)
