"""A small world for oblivious calls: a certificate, its key, a door, and a client's end. No network."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from cloister.core.encoding.signatures import sign_digest
from cloister.core.envelope import oblivious, oblivious_client, ohttp, ohttp_client
from cloister.core.envelope.bhttp import BinaryRequest
from cloister.core.envelope.bhttp_client import encode_request
from cloister.core.envelope.certificate import KeyCertificate
from cloister.core.envelope.model import Headers, RequestHead
from cloister.core.envelope.oblivious import Issued, ObliviousKey
from cloister.core.envelope.oblivious_answer import opener_of
from cloister.core.envelope.oblivious_client import ObliviousRequest
from cloister.core.envelope.oblivious_door import Held, ObliviousDoor
from cloister.core.envelope.opener import Body, Failed, Final, Head
from cloister.core.envelope.server import OpenRequest, SealedRefusalError
from cloister.core.keys import hpke
from cloister.core.keys.xwing import XWingKey
from support.sealed import MPK, NOW, WORKER, derived, head, make_seat

RECEIPT = b'{"r":1}'


@dataclass(frozen=True)
class Answer:
    """A good answer, put together; ``commitment``: what its receipt must say of it; ``pieces``: the body as it came."""

    head: Head
    pieces: tuple[bytes, ...]
    final: Final
    commitment: bytes

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(self.pieces)


def told(sealed: ObliviousRequest, data: bytes, step: int = 1 << 30) -> Answer | Failed:
    """What a client makes of an answer that arrives ``step`` bytes at a time."""
    events = [event for at in range(0, len(data), step) for event in sealed.opener.feed(data[at : at + step])]
    events += sealed.opener.close()
    if isinstance(events[-1], Failed):
        return events[-1]
    head, *body, final = events
    assert isinstance(head, Head)
    assert isinstance(final, Final)
    pieces = tuple(event.data for event in body if isinstance(event, Body))
    return Answer(head, pieces, final, sealed.opener.commitment(sealed.salt))


def certificate(*, hybrid: bool = False, **changes: Any) -> KeyCertificate:
    """One of the world of sealed calls, over new keys: ``hybrid`` with X-Wing besides."""
    xwing = XWingKey(os.urandom(32)).public if hybrid else b""
    return make_seat(hpke.private_key(os.urandom(32)).public_key().public_bytes_raw(), xwing, **changes).certificate


def issued(of: KeyCertificate) -> tuple[ObliviousKey, ohttp.Recipient]:
    """The key that clients seal to, by the honest worker with the honest `call` key."""
    return all_issued(of)[-1]


def all_issued(of: KeyCertificate) -> tuple[Issued, ...]:
    """Every oblivious key of it: X25519 first."""
    return oblivious.issue(of, derived(of), MPK, lambda d: sign_digest(WORKER, d), os.urandom)


@dataclass
class Oblivious:
    """One worker boot that serves one agent obliviously. ``changes``: of the lease."""

    changes: dict[str, Any] = field(default_factory=dict)
    hybrid: bool = False
    chunked: bool = False
    max_body: int = 1 << 16

    def __post_init__(self) -> None:
        self.certificate = certificate(hybrid=self.hybrid, **self.changes)
        self.issued = all_issued(self.certificate)
        self.shown, self.recipient = self.issued[-1]
        self.config = ohttp_client.decode_config(self.shown.config)
        self.door = ObliviousDoor(os.urandom, max_body=self.max_body)

    @property
    def held(self) -> list[Held]:
        """What the worker opens with."""
        return [(self.certificate, key) for _, key in self.issued]

    def seal(self, body: bytes = b"question", at: RequestHead | None = None, **changes: Any) -> ObliviousRequest:
        """A client's request."""
        return oblivious_client.seal(
            self.config, self.certificate, at or head(**changes), body, os.urandom, chunked=self.chunked
        )

    def open(self, data: bytes, now_ms: int = NOW) -> OpenRequest:
        """The worker's end."""
        return self.door.open_request(data, now_ms, self.held, chunked=self.chunked)

    def message(self, **changes: Any) -> BinaryRequest:
        """An honest message, for tests that change it."""
        return oblivious_client.to_message(self.certificate, head(**changes), b"question")

    def inside(self, message: BinaryRequest | bytes, now_ms: int = NOW) -> str:
        """What is said, sealed, to a sender who knows the key and writes this; "" where it is taken."""
        text = message if isinstance(message, bytes) else encode_request(message)
        data, exchange = ohttp_client.encapsulate(self.config, text, os.urandom, chunked=self.chunked)
        caught: list[SealedRefusalError] = []
        try:
            self.open(data, now_ms)
        except SealedRefusalError as refusal:
            caught.append(refusal)
        if not caught:
            return ""
        found = told(ObliviousRequest(data, opener_of(exchange), bytes(32), bytes(32), ""), caught[0].sealed)
        assert isinstance(found, Failed)
        assert found.error.code == caught[0].code
        return caught[0].code


def answered(
    request: OpenRequest, body: bytes = b"answer", headers: Headers = (("content-type", "text/plain"),)
) -> bytes:
    """A whole good answer, all its bytes."""
    responder = request.responder
    begun = responder.head(200, headers, 123) + responder.chunk(body[:3]) + responder.chunk(body[3:])
    assert responder.started == bool(begun)
    return begun + responder.final(RECEIPT, b"\x01" * 65)


def good(request: ObliviousRequest, data: bytes) -> Answer:
    """The answer, which must be one."""
    found = told(request, data)
    assert isinstance(found, Answer)
    return found
