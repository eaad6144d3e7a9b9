"""The gateway as the client sees it (spec/gateway-api.md): a door without authority.

Everything read here is untrusted until another module verified it. Sizes are capped before bytes are kept, foreign
exceptions end here, and an error text of the gateway is a hint: it is never proof that a request did not run.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from cloister.core.chainview.terms import SignedHandover, offers
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.envelope.oblivious import MAX_ANSWER as OBLIVIOUS_ANSWER
from cloister.core.envelope.ohttp import (
    CHUNKED_REQUEST_TYPE,
    CHUNKED_RESPONSE_TYPE,
    REQUEST_TYPE,
    RESPONSE_TYPE,
)
from cloister.core.errors import CloisterError, ConfigError, TransportError, define, from_wire
from cloister.wire.terms import HANDOVERS

SEALED = "application/cloister-sealed"
MAX_JSON = 4 << 20
MAX_BLOB = 64 << 20
MAX_ANSWER = 64 << 20

UNREACHABLE = define(
    "client.unreachable",
    TransportError,
    check="the gateway accepts a connection",
    remedy="check --gateway, or start a network on this machine with `cloister up`",
    status=503,
)
BROKEN_OFF = define(
    "client.broken_off",
    TransportError,
    check="the gateway answers to the end within the time limit",
    remedy="try again; if it repeats, the gateway or the path to it is overloaded",
    status=503,
)
BAD_ANSWER = define(
    "client.bad_answer",
    TransportError,
    check="the gateway's answer has the form of its API and at most the agreed size",
    remedy="this is no Cloister gateway, or a broken one; use another with --gateway",
    status=502,
)
BAD_URL = define(
    "client.gateway_url",
    ConfigError,
    check="the gateway is named by an http or https address",
    remedy="give --gateway http://127.0.0.1:8080",
)
WRONG_BLOB = define(
    "client.blob",
    TransportError,
    check="a blob hashes to its name",
    remedy="the gateway served other bytes than were asked for; use another gateway",
    status=502,
)


@dataclass(frozen=True, slots=True)
class NotOpened:
    """A plain, unauthenticated refusal of a call: a hint about what to try next, and nothing more."""

    error: CloisterError


Answering = AbstractAsyncContextManager[AsyncIterator[bytes] | NotOpened]
# Content types of request and answer, and the answer's cap.
_WHOLE = (REQUEST_TYPE, RESPONSE_TYPE, OBLIVIOUS_ANSWER)
_CHUNKED = (CHUNKED_REQUEST_TYPE, CHUNKED_RESPONSE_TYPE, MAX_ANSWER)


class Gateway:
    """One gateway. Use inside a running event loop; ``close`` it. ``timeout_s`` bounds every single wait."""

    def __init__(self, url: str, *, timeout_s: float = 30.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise BAD_URL(expected="http(s)://host[:port]", found=f"scheme {parts.scheme[:16]!r}")
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    @property
    def rpc_url(self) -> str:
        """Address of the JSON-RPC relay."""
        return f"{self.url}/v1/rpc"

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def network(self) -> bytes:
        """network.json as served: pin it before you believe it."""
        return await self._fetch("GET", "/v1/network", limit=1 << 20)

    async def checkpoint(self) -> dict[str, Any]:
        """{checkpoint, signatures}, unverified."""
        return await self._json("GET", "/v1/checkpoint")

    async def handovers(self) -> list[SignedHandover]:
        """Hand-overs from term to term, unverified: give them to ``core.chainview.terms.follow``."""
        return offers(await self._json("GET", HANDOVERS))

    async def seats(self, agent: bytes) -> list[Any]:
        """The seats of an agent, unverified: at most 64 are looked at."""
        answer = await self._json("GET", f"/v1/agents/{to_hex(agent)}/seats")
        seats = answer.get("seats")
        if not isinstance(seats, list):
            raise BAD_ANSWER(expected="{seats: […]}", found=type(seats).__name__)
        return seats[:64]

    async def evidence(self, worker: bytes, nonce: bytes) -> dict[str, Any]:
        """{evidence, binding} of a worker over our nonce, unverified."""
        return await self._json("GET", f"/v1/workers/{to_hex(worker)}/evidence?nonce={to_hex(nonce)}")

    async def receipt(self, receipt_id: bytes) -> dict[str, Any]:
        """What a worker's store has of a receipt (32-byte id), unverified (spec/receipts.md 15)."""
        return await self._json("GET", f"/v1/receipts/{to_hex(receipt_id)}")

    async def receipt_proof(self, receipt_id: bytes) -> dict[str, Any]:
        """Its place in a log that the committee signed, unverified: give it to ``LogProof.from_json``."""
        return await self._json("GET", f"/v1/receipts/{to_hex(receipt_id)}/proof")

    async def receipt_consistency(self, receipt_id: bytes, old: int, new: int) -> dict[str, Any]:
        """{path}: from the first ``old`` to the first ``new`` receipts of a receipt's log, unverified."""
        return await self._json("GET", f"/v1/receipts/{to_hex(receipt_id)}/consistency?from={old}&to={new}")

    async def answer(self, chain_id: int, agent: bytes, index: int) -> dict[str, Any]:
        """A contract's answer that a worker signed and cannot pay to bring, unverified: ``client.relaying``."""
        return await self._json("GET", f"/v1/answers/{to_hex(agent)}/{index}?chain={chain_id}")

    async def status(self) -> dict[str, Any]:
        """Counts and versions, for display only."""
        return await self._json("GET", "/v1/status")

    async def put_blob(self, data: bytes) -> bytes:
        """Upload; returns the sha256 digest. Raises TransportError (client.blob) if the gateway names another."""
        digest = hashlib.sha256(data).digest()
        answer = _object(await self._fetch("PUT", "/v1/blobs", limit=MAX_JSON, data=data))
        if not hmac.compare_digest(from_hex(answer.get("digest"), 32, name="digest"), digest):
            raise WRONG_BLOB(expected=to_hex(digest), found=str(answer.get("digest")))
        return digest

    async def get_blob(self, digest: bytes) -> bytes:
        """Download and verify against the digest. Raises TransportError (client.blob)."""
        data = await self._fetch("GET", f"/v1/blobs/{to_hex(digest)}", limit=MAX_BLOB)
        found = hashlib.sha256(data).digest()
        if not hmac.compare_digest(found, digest):
            raise WRONG_BLOB(expected=to_hex(digest), found=to_hex(found))
        return data

    async def oblivious_keys(self, agent: bytes, boot: bytes) -> list[Any]:
        """A worker's keys for oblivious calls of an agent, unverified: give them to ``ObliviousKey.from_json``."""
        answer = await self._json("GET", f"/v1/oblivious/{to_hex(agent)}/keys?boot={to_hex(boot)}")
        keys = answer.get("keys")
        if not isinstance(keys, list):
            raise BAD_ANSWER(expected="{keys: […]}", found=type(keys).__name__)
        return keys[:8]

    def oblivious(
        self, agent: bytes, boot: bytes, data: bytes, *, chunked: bool, patience_s: float | None = None
    ) -> Answering:
        """Send an encapsulated request; yields the encapsulated response's bytes, or the plain refusal.
        ``chunked``: both are of chunked Oblivious HTTP. Raises as ``call`` does."""
        path = f"/v1/oblivious/{to_hex(agent)}?boot={to_hex(boot)}"
        takes, gives, most = _CHUNKED if chunked else _WHOLE
        return self._exchange(path, data, {"content-type": takes}, gives, most, patience_s)

    def call(
        self, agent: bytes, boot: bytes, sealed: bytes, *, patience_s: float | None = None, trace: str | None = None
    ) -> Answering:
        """Send a sealed request; yields the sealed answer's chunks, or the plain refusal.

        ``patience_s``: how long the answer may be silent. ``trace``: a ``traceparent`` that the gateway may see.

        Raises TransportError: client.unreachable if nothing was sent, client.broken_off if we cannot know.
        """
        path = f"/v1/call/{to_hex(agent)}?boot={to_hex(boot)}"
        headers = {"content-type": SEALED} | ({} if trace is None else {"traceparent": trace})
        return self._exchange(path, sealed, headers, SEALED, MAX_ANSWER, patience_s)

    @asynccontextmanager
    async def _exchange(
        self, path: str, data: bytes, headers: dict[str, str], gives: str, most: int, patience_s: float | None
    ) -> AsyncIterator[AsyncIterator[bytes] | NotOpened]:
        with _border():
            async with self._open().post(
                self.url + path,
                data=data,
                headers=headers,
                timeout=self._patience(patience_s),
                allow_redirects=False,
            ) as answer:
                if answer.status != 200 or answer.content_type != gives:
                    yield NotOpened(_refusal(answer.status, await _read(answer, MAX_JSON)))
                else:
                    yield _chunks(answer, most)

    async def _json(self, method: str, path: str) -> dict[str, Any]:
        return _object(await self._fetch(method, path, limit=MAX_JSON))

    async def _fetch(self, method: str, path: str, *, limit: int, data: bytes | None = None) -> bytes:
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        with _border():
            async with self._open().request(
                method, self.url + path, data=data, timeout=timeout, allow_redirects=False
            ) as answer:
                body = await _read(answer, limit)
                if answer.status != 200:
                    raise _refusal(answer.status, body)
                return body

    def _patience(self, silent_s: float | None) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=None, connect=self.timeout_s, sock_read=silent_s or self.timeout_s)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())
        return self._session


class _border:  # noqa: N801
    """Foreign exceptions of the HTTP library become TransportError here, nowhere else."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, aiohttp.ClientConnectorError):
            raise UNREACHABLE(expected="a connection", found=type(error).__name__) from None
        if isinstance(error, (aiohttp.ClientError, asyncio.TimeoutError, OSError)):
            raise BROKEN_OFF(expected="a whole answer", found=type(error).__name__) from None


async def _read(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    kept = bytearray()
    async for chunk in answer.content.iter_chunked(1 << 16):
        kept += chunk
        if len(kept) > limit:
            raise BAD_ANSWER(expected=f"at most {limit} bytes", found="more")
    return bytes(kept)


async def _chunks(answer: aiohttp.ClientResponse, most: int) -> AsyncIterator[bytes]:
    total = 0
    with _border():
        async for chunk in answer.content.iter_any():
            total += len(chunk)
            if total > most:
                raise BAD_ANSWER(expected=f"a sealed answer of at most {most} bytes", found="more")
            yield chunk


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BAD_ANSWER(expected="a JSON object", found=f"{len(body)} bytes of something else")
    return value


def _refusal(status: int, body: bytes) -> CloisterError:
    """The error that an HTTP error body claims; one of ours (client.bad_answer) where it claims none."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    error = value.get("error") if isinstance(value, dict) else None
    if isinstance(error, dict) and isinstance(error.get("code"), str):
        return from_wire(error, status=status)
    return BAD_ANSWER(expected="an answer of this API", found=f"HTTP {status}")
