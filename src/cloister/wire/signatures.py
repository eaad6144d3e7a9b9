"""Asking every member to sign one statement: leases at the Anchor, signers of accounts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar

from cloister.core.encoding.hexes import from_hex, need_fields, to_hex
from cloister.core.encoding.signatures import Signed
from cloister.core.encoding.statements import Lease, Statement
from cloister.core.errors import CloisterError
from cloister.wire.committee import Committee
from cloister.wire.messages import SIGNATURE, signed_from_json, signed_to_json

S = TypeVar("S", bound=Statement)


@dataclass(frozen=True, slots=True)
class LeasedRequest(Generic[S]):
    """A worker asks for signatures. ``asked``: what is to be signed, with the worker's signature over it; ``held``: its
    lease of the agent. Subclasses name the statement's class and the request."""

    STATEMENT: ClassVar[type[Statement]]
    TITLE: ClassVar[str]
    asked: S
    signature: bytes
    held: Signed

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "asked": self.asked.to_json(),
            "signature": to_hex(self.signature),
            "held": signed_to_json(self.held),
        }

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Parse ``to_json``. Raises EncodingError. Signatures are not verified here."""
        data = need_fields(cls.TITLE, value, {"asked", "signature", "held"})
        asked: Any = cls.STATEMENT.from_json(data["asked"])
        signature = from_hex(data["signature"], SIGNATURE, name="signature")
        return cls(asked, signature, signed_from_json(Lease, data["held"]))


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
