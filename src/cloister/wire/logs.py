"""Heads of receipt logs: what a worker asks each gatekeeper to sign (spec/receipts.md 12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from cloister.core.encoding.hexes import from_hex, need_fields, need_uint, to_hex
from cloister.core.encoding.log_statements import LogHead, WorkerLog
from cloister.core.encoding.signatures import verify_signer
from cloister.core.receipts.merkle import MAX_PATH, hashes_from

SIGNATURE: Final = 65


@dataclass(frozen=True, slots=True)
class LogRequest:
    """POST /v1/logs: a head that the worker signed, and the consistency path from ``start`` receipts to it."""

    log: WorkerLog
    signature: bytes
    start: int
    path: tuple[bytes, ...]

    def verify(self, network: bytes) -> None:
        """Raise EncodingError unless the worker that is named signed the head."""
        verify_signer(self.log.digest(network), self.signature, self.log.worker)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        path = to_hex(b"".join(self.path))
        return {"log": self.log.to_json(), "signature": to_hex(self.signature), "start": self.start, "path": path}

    @classmethod
    def from_json(cls, value: object) -> LogRequest:
        """Parse ``to_json`` output. Raises EncodingError, ReceiptError."""
        data = need_fields("log request", value, {"log", "signature", "start", "path"})
        return cls(
            WorkerLog.from_json(data["log"]),
            from_hex(data["signature"], SIGNATURE, name="signature"),
            need_uint("start", data["start"], 53),
            hashes_from(data["path"], MAX_PATH),
        )


@dataclass(frozen=True, slots=True)
class HeldLog:
    """What a member remembers of a worker's log: its newest head, as the worker signed it."""

    log: WorkerLog
    signature: bytes

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"log": self.log.to_json(), "signature": to_hex(self.signature)}

    @classmethod
    def from_json(cls, value: object) -> HeldLog:
        """Parse ``to_json`` output. Raises EncodingError."""
        data = need_fields("held log", value, {"log", "signature"})
        return cls(WorkerLog.from_json(data["log"]), from_hex(data["signature"], SIGNATURE, name="signature"))


@dataclass(frozen=True, slots=True)
class LogAnswer:
    """A member's answer: its signature over the ``LogHead`` of the request, or the head that it holds instead.

    ``held`` says: the path begins elsewhere than my head; ask again from there."""

    signature: bytes | None
    held: HeldLog | None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        signature = None if self.signature is None else to_hex(self.signature)
        return {"signature": signature, "held": None if self.held is None else self.held.to_json()}

    @classmethod
    def from_json(cls, value: object) -> LogAnswer:
        """Parse ``to_json`` output. Raises EncodingError."""
        data = need_fields("log answer", value, {"signature", "held"})
        given, held = data["signature"], data["held"]
        signature = None if given is None else from_hex(given, SIGNATURE, name="signature")
        return cls(signature, None if held is None else HeldLog.from_json(held))


def head_of(log: WorkerLog, term: int) -> LogHead:
    """What a member of ``term`` signs for a worker's head."""
    return LogHead(term, log.worker, log.boot, log.size, log.root)
