"""What comes back from a call: the answer, its receipt, and what was checked on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cloister.core.envelope.model import Headers
from cloister.core.errors import EnvelopeError, define
from cloister.core.receipts.receipt import Receipt

NOT_JSON = define(
    "client.not_json",
    EnvelopeError,
    check="the agent answered with JSON",
    remedy="look at reply.body and reply.headers; the agent answers in another format",
)


class HeaderMap(Mapping[str, str]):
    """Response headers: case-insensitive reading, the last of a repeated name wins; ``pairs`` keeps all in order."""

    def __init__(self, pairs: Headers) -> None:
        self.pairs = pairs
        self._last = {name.lower(): value for name, value in pairs}

    def __getitem__(self, name: str) -> str:
        return self._last[name.lower()]

    def __iter__(self) -> Any:
        return iter(self._last)

    def __len__(self) -> int:
        return len(self._last)

    def __repr__(self) -> str:
        return f"HeaderMap({list(self.pairs)!r})"


@dataclass(frozen=True, slots=True)
class Proof:
    """What the client verified before it believed the answer. Hashes and ids are bytes, heights are block numbers.

    ``committee`` says how many members' signatures stand behind checkpoint and lease; ``receipt_id`` names the receipt
    in ``HOME/receipts``. It proves: signed by hardware attested as ``vendor``. It does not prove a true answer.
    """

    network: bytes
    agent: bytes
    code_hash: bytes
    manifest_hash: bytes
    worker: bytes
    boot: bytes
    vendor: str
    measurement: bytes
    checkpoint: int
    lease_expiry: int
    committee: int
    receipt_id: bytes

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, bytes as hex."""
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {name: "0x" + value.hex() if isinstance(value, bytes) else value for name, value in plain.items()}


@dataclass(frozen=True, slots=True)
class Reply:
    """A verified answer. ``receipt`` was checked against what was sent and received; ``attempts`` counts workers."""

    status: int
    headers: HeaderMap
    body: bytes = field(repr=False)
    receipt: Receipt
    proof: Proof
    request_id: str
    attempts: int = 1

    @property
    def ok(self) -> bool:
        """Whether the agent's status is 2xx."""
        return 200 <= self.status < 300

    @property
    def text(self) -> str:
        """The body as UTF-8; what is not UTF-8 becomes a replacement character."""
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """The body as JSON. Raises EnvelopeError (client.not_json)."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            kind = self.headers.get("content-type", "no content type")
            raise NOT_JSON(expected="a JSON body", found=f"{len(self.body)} bytes of {kind}") from None
