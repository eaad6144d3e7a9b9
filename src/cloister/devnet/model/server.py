"""The HTTP face: ``POST /v1/embeddings`` and ``GET /v1/models`` as OpenAI documents them, errors included."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from cloister.devnet.model.encoder import DIMENSIONS, MODEL, Encoded, Encoder

MAX_BODY: Final = 8 << 20
MAX_INPUTS: Final = 2048
_FIELDS: Final = frozenset({"model", "input", "encoding_format", "dimensions", "user"})
_CREATED: Final = 1_630_000_000

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class RefusedError(Exception):
    """An answer in OpenAI's error format."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def response(self) -> web.Response:
        """{"error": {message, type, param, code}} with the status."""
        kind = "authentication_error" if self.status == 401 else "invalid_request_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return web.json_response({"error": error}, status=self.status)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A valid embeddings request."""

    texts: list[str]
    as_base64: bool


class ModelServer:
    """One model behind one API key. Requests are computed one after the other, off the event loop."""

    def __init__(self, encoder: Encoder, api_key: str) -> None:
        self._encoder, self._key = encoder, api_key.encode()
        self._pool = ThreadPoolExecutor(1, "encoder")

    def app(self) -> web.Application:
        """The routes."""
        app = web.Application(client_max_size=MAX_BODY, middlewares=[self._guard])
        app.router.add_post("/v1/embeddings", self._embeddings)
        app.router.add_get("/v1/models", self._models)
        app.on_cleanup.append(self._cleanup)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ").encode()
            if not hmac.compare_digest(given, self._key):
                raise RefusedError(401, "Incorrect API key provided.", code="invalid_api_key")
            return await handler(request)
        except RefusedError as refusal:
            return refusal.response()
        except web.HTTPException as refusal:
            return RefusedError(refusal.status, refusal.reason).response()

    async def _models(self, request: web.Request) -> web.Response:
        model = {"id": MODEL, "object": "model", "created": _CREATED, "owned_by": "sentence-transformers"}
        return web.json_response({"object": "list", "data": [model]})

    async def _embeddings(self, request: web.Request) -> web.Response:
        wanted = parse(await request.read())
        loop = asyncio.get_running_loop()
        encoded = await loop.run_in_executor(self._pool, self._encoder.encode, wanted.texts)
        return web.json_response(_answer(encoded, wanted.as_base64))

    async def _cleanup(self, app: web.Application) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def parse(body: bytes) -> Wanted:
    """A request's body. Raises RefusedError as OpenAI would answer."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusedError(400, "The body is not JSON.") from None
    if not isinstance(value, dict) or not set(value) <= _FIELDS:
        raise RefusedError(400, f"The body is an object with only {', '.join(sorted(_FIELDS))}.")
    if value.get("model") != MODEL:
        raise RefusedError(404, f"This server has one model: {MODEL}.", param="model", code="model_not_found")
    if value.get("dimensions", DIMENSIONS) != DIMENSIONS:
        raise RefusedError(400, f"The model has {DIMENSIONS} dimensions.", param="dimensions")
    form = value.get("encoding_format", "float")
    if form not in ("float", "base64"):
        raise RefusedError(400, "encoding_format is float or base64.", param="encoding_format")
    return Wanted(_texts(value.get("input")), form == "base64")


def _texts(value: object) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not 0 < len(texts) <= MAX_INPUTS:
        raise RefusedError(400, f"input is a text or a list of 1 to {MAX_INPUTS} texts.", param="input")
    if not all(isinstance(text, str) and text and _is_unicode(text) for text in texts):
        raise RefusedError(400, "Every input is a text that is not empty.", param="input")
    return texts


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _answer(encoded: Encoded, as_base64: bool) -> dict[str, Any]:
    vectors = [
        base64.b64encode(row.astype("<f4").tobytes()).decode() if as_base64 else row.tolist() for row in encoded.vectors
    ]
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
    total = sum(encoded.tokens)
    return {"object": "list", "data": data, "model": MODEL, "usage": {"prompt_tokens": total, "total_tokens": total}}
