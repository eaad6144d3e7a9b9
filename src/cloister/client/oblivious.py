"""Oblivious calls (spec/ohttp.md): each request in a context of its own, through a relay that cannot read it.

Seats, leases, receipts and what an attempt can end with are those of ``call.py``. A call's answer is one padded
message; a stream's comes in chunks. There is no way down from here: a worker that has no oblivious key is not called in
another way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from cloister.client.call import CALLER_LIFE_S, Caller, Lost, Request, Sealed, Who, _Tries
from cloister.client.gateway import Answering, Gateway
from cloister.client.receipts import Ledger
from cloister.client.resolve import Resolver, Sitting
from cloister.core.envelope.oblivious import ObliviousKey
from cloister.core.envelope.oblivious_client import ObliviousRequest, Speaker, meant_for, seal, verify_key
from cloister.core.envelope.ohttp import KeyConfig
from cloister.core.errors import CloisterError, EnvelopeError, define

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

    async def _sealed(self, sitting: Sitting, request: Request, who: Who | None, tries: _Tries) -> ObliviousRequest:
        """1. the worker's key, verified; 2. one encapsulated request: its answer is one message where all of it is
        collected, chunks where it is read as it comes."""
        request = self._named(request, tries)
        config = await self._config(sitting, request)  # 1
        certificate, speaker = sitting.seat.certificate, _speaker(who, int(self._clock()))
        head, body = request.head(), request.body
        return seal(config, certificate, head, body, self._rng, speaker, chunked=not tries.whole)  # 2

    def _sent(self, sitting: Sitting, sealed: Sealed, request: Request, tries: _Tries, patience_s: float) -> Answering:
        to, chunked = sitting.seat.certificate, not tries.whole
        return self._gateway.oblivious(to.agent, to.boot, sealed.data, chunked=chunked, patience_s=patience_s)

    def _named(self, request: Request, tries: _Tries) -> Request:
        """A worker takes a request id once: what is repeated without a key to it (GET, HEAD) gets a new one."""
        if tries.count == 1 or request.idempotency_key is not None:
            return request
        return replace(request, id=self._rng(16))

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
