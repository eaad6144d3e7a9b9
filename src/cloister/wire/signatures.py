"""Asking every member to sign one statement: leases at the Anchor, signers of accounts."""

from __future__ import annotations

import asyncio
from typing import Any

from cloister.core.encoding.hexes import from_hex, need_fields
from cloister.core.encoding.signatures import Signed
from cloister.core.encoding.statements import Statement
from cloister.core.errors import CloisterError
from cloister.wire.committee import Committee
from cloister.wire.messages import SIGNATURE


async def ask_signatures(committee: Committee, route: str, body: Any, statement: Statement) -> Signed:
    """A statement with t members' signatures, each asked for it at ``route``. Raises gatekeeper.too_few, or the refusal
    that t members share. What is no member's signature over it does not count."""
    answers = await asyncio.gather(*(committee.caught(url, "POST", route, body) for url in committee.endpoints))
    good: dict[bytes, bytes] = {}
    refused: list[CloisterError] = []
    for answer in answers:
        try:
            if isinstance(answer, CloisterError):
                raise answer
            data = need_fields("signature answer", answer, {"signature"})
            signature = from_hex(data["signature"], SIGNATURE, name="signature")
            good[committee.member(statement, signature)] = signature
        except CloisterError as error:
            refused.append(error)
    if len(good) < committee.signers.threshold:
        raise committee.too_few(committee.signers.threshold, refused)
    return Signed(statement, tuple(good.values()))
