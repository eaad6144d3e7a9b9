"""Oblivious calls at the gateway (spec/ohttp.md 8): encapsulated requests in, encapsulated responses out, both opaque.

Refusals are problem documents (RFC 9457), as RFC 9458 section 5.3 wants them; our error stands in them besides.
"""

from __future__ import annotations

import json
import re
from typing import Final

from cloister.core.encoding.hexes import need_fields
from cloister.core.envelope.oblivious import ObliviousKey
from cloister.core.envelope.ohttp import (
    CHUNKED_REQUEST_TYPE,
    CHUNKED_RESPONSE_TYPE,
    KEY_PROBLEM,
    KEY_UNKNOWN,
    KEYS_TYPE,
    NOT_AUTHENTIC,
    REQUEST_TYPE,
    RESPONSE_TYPE,
    SUITE,
    encode_configs,
)
from cloister.core.envelope.ohttp_client import decode_config
from cloister.core.errors import CloisterError
from cloister.gateway.calls import Calls, Door
from cloister.wire.announce import Kind
from cloister.wire.frames import BROKEN
from cloister.wire.http import Exchange
from cloister.wire.messages import parse_json

PREFIX: Final = "/v1/oblivious/"
_AGENT: Final = r"/v1/oblivious/0x([0-9a-f]{64})"
_BOOT: Final = r"\?boot=0x([0-9a-f]{64})"
KEYS: Final = re.compile(rf"{_AGENT}/(keys|ohttp-keys){_BOOT}")
PROBLEM: Final = "application/problem+json"
_OF_THE_KEY: Final = frozenset({KEY_UNKNOWN.code, SUITE.code, NOT_AUTHENTIC.code})
_NO_STORE: Final = b"cache-control: no-store\r\n"


def refuse(exchange: Exchange, error: CloisterError) -> None:
    """Say a refusal as a problem document; where the answer has begun, cut the connection."""
    if exchange.started:
        exchange.abort()
        return
    kind = KEY_PROBLEM if error.code in _OF_THE_KEY else "about:blank"
    body = {"type": kind, "title": error.check, "status": error.status, "error": error.to_wire()}
    exchange.reply(error.status, json.dumps(body, separators=(",", ":")).encode(), PROBLEM, _NO_STORE)


_CALL: Final = re.compile(_AGENT + _BOOT)
OBLIVIOUS_CALLS: Final = Door(_CALL, REQUEST_TYPE, RESPONSE_TYPE, Kind.OBLIVIOUS, refuse)
CHUNKED_CALLS: Final = Door(_CALL, CHUNKED_REQUEST_TYPE, CHUNKED_RESPONSE_TYPE, Kind.OBLIVIOUS_CHUNKED, refuse)


def serve(calls: Calls, exchange: Exchange) -> None:
    """Begin one oblivious call, of either form."""
    chunked = exchange.request.headers.get("content-type") == CHUNKED_REQUEST_TYPE
    try:
        calls.serve(exchange, CHUNKED_CALLS if chunked else OBLIVIOUS_CALLS)
    except CloisterError as error:
        refuse(exchange, error)


def show(exchange: Exchange, said: bytes, *, plain: bool) -> None:
    """Answer with a worker's keys: as it said them, or ``plain`` as application/ohttp-keys.

    Nothing in them is believed here. Raises TransportError for a worker that says something else."""
    if not plain:
        exchange.reply(200, said, extra=_NO_STORE)
        return
    keys = need_fields("oblivious keys", parse_json(said), {"keys"})["keys"]
    if not isinstance(keys, list):
        raise BROKEN(expected="a list of keys", found=type(keys).__name__)
    configs = tuple(decode_config(ObliviousKey.from_json(key).config) for key in keys[:8])
    exchange.reply(200, encode_configs(configs), KEYS_TYPE, _NO_STORE)
