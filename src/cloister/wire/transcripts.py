"""Asking for the public record of a finished ceremony, by its hash (spec/gatekeeper-api.md 3).

Whoever answers need not be believed: the hash names the record, and the digests in it name the dealings.
"""

from __future__ import annotations

import asyncio

import aiohttp

from cloister.core.encoding.hexes import need_fields, need_uint, to_hex
from cloister.core.threshold.dealing import BAD_CEREMONY, Dealing
from cloister.core.threshold.groups import MAX_MEMBERS
from cloister.core.threshold.transcript import OTHER_TRANSCRIPT, Transcript, ceremony_from_json
from cloister.wire.ask import ask

TIMEOUT_S = 10.0


async def ask_transcript(session: aiohttp.ClientSession, url: str, transcript: bytes, term: int) -> Transcript:
    """The record whose hash is ``transcript``. Raises EncodingError, ThresholdError, TransportError.

    ``term``: of the shares that the ceremony made, as proven: the hash of a founding or rotation does not hold it.
    """
    base = url.rstrip("/")
    value = await ask(session, "GET", f"{base}/v1/transcript/{to_hex(transcript)}", timeout_s=TIMEOUT_S)
    data = need_fields("transcript head", value, {"ceremony", "dealers"})
    ceremony, dealers = ceremony_from_json(data["ceremony"]), data["dealers"]
    if not isinstance(dealers, list) or len(dealers) > MAX_MEMBERS:
        raise BAD_CEREMONY(expected=f"at most {MAX_MEMBERS} dealers", found=type(dealers).__name__)
    indexes = [need_uint("dealer", index, 16) for index in dealers]
    dealings = await asyncio.gather(*(ask_dealing(session, base, ceremony.id, index) for index in indexes))
    record = Transcript(ceremony, dict(zip(indexes, dealings, strict=True)))
    if ceremony.term != term:
        raise OTHER_TRANSCRIPT(expected=f"a record of term {term}", found=f"of term {ceremony.term}")
    if record.hash() != transcript:
        raise OTHER_TRANSCRIPT(expected=to_hex(transcript), found=to_hex(record.hash()))
    return record


async def ask_dealing(session: aiohttp.ClientSession, url: str, ceremony: bytes, dealer: int) -> Dealing:
    """A dealing from whoever serves it; whether it is the one committed is for the caller. Raises CloisterError."""
    path = f"{url.rstrip('/')}/v1/dkg/{to_hex(ceremony)}/dealing/{dealer}"
    data = need_fields("dealing", await ask(session, "GET", path, timeout_s=TIMEOUT_S), {"dealing", "signature"})
    found = Dealing.from_json(data["dealing"])
    if found.dealer != dealer:
        raise BAD_CEREMONY(expected=f"the dealing of {dealer}", found=f"of {found.dealer}")
    return found
