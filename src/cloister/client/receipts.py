"""Receipts that this client verified and kept: ``HOME/receipts/YYYY-MM-DD.jsonl``, mode 0600, append only.

One line is one call: the receipt's canonical text, its signature, and the seat (certificate and lease) that the
request was sealed to; so a line can be checked again later, by somebody else, against the chain. Neither the request
nor the answer is kept: the salt is, so whoever has the texts can show that the receipt commits to them.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from cloister.client.home import UNREADABLE, Home
from cloister.core.encoding.hexes import from_hex, need_fields, need_uint, to_hex
from cloister.core.envelope.certificate import Seat
from cloister.core.errors import CloisterError, ReceiptError, define
from cloister.core.receipts.batch import BatchPath
from cloister.core.receipts.log import LogProof
from cloister.core.receipts.receipt import Receipt

FOLDER = "receipts"
MAX_LINE = 64 << 10
MAX_FILES = 3660

NOT_KEPT = define(
    "client.receipt_unknown",
    ReceiptError,
    check="the receipt was kept on this machine or is in the named file",
    remedy="see `cloister receipts`; receipts are kept only by the client that made the call",
    status=404,
)


@dataclass(frozen=True, slots=True)
class Kept:
    """One kept receipt. ``raw`` are its canonical bytes, ``salt`` opens its commitments, ``at`` is Unix seconds.

    ``batch``: its place in what was signed, None if it was signed alone. ``proof``: that the committee saw it in the
    worker's log, once it was fetched (``with_proof``)."""

    raw: bytes
    signature: bytes
    salt: bytes
    seat: Seat
    at: int
    batch: BatchPath | None = None
    proof: LogProof | None = None

    @property
    def receipt(self) -> Receipt:
        """The receipt, parsed and not verified again. Raises ReceiptError."""
        return Receipt.decode(self.raw)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: {receipt (text), signature, salt, seat, at} and batch and proof where there are any."""
        more = {"batch": self.batch, "proof": self.proof}
        return {
            "receipt": self.raw.decode(),
            "signature": to_hex(self.signature),
            "salt": to_hex(self.salt),
            "seat": self.seat.to_json(),
            "at": self.at,
            **{name: value.to_json() for name, value in more.items() if value is not None},
        }

    def with_proof(self, proof: LogProof) -> Kept:
        """The same with a proof beside it; the proof is not verified here."""
        return replace(self, proof=proof)

    @classmethod
    def from_json(cls, value: object) -> Kept:
        """Parse ``to_json`` output. Raises EncodingError."""
        more = {"batch", "proof"} & (value.keys() if isinstance(value, dict) else set())
        data = need_fields("kept receipt", value, {"receipt", "signature", "salt", "seat", "at"} | more)
        return cls(
            raw=str(data["receipt"]).encode(),
            signature=from_hex(data["signature"], 65, name="signature"),
            salt=from_hex(data["salt"], 32, name="salt"),
            seat=Seat.from_json(data["seat"]),
            at=need_uint("at", data["at"], 53),
            batch=BatchPath.from_json(data["batch"]) if "batch" in more else None,
            proof=LogProof.from_json(data["proof"]) if "proof" in more else None,
        )

    @classmethod
    def parse(cls, data: bytes) -> Kept:
        """Parse one line or file. Raises CloisterError for anything else."""
        try:
            value = json.loads(data) if len(data) <= MAX_LINE else None
        except (ValueError, RecursionError):
            value = None
        return cls.from_json(value)


class Ledger:
    """Where kept receipts are. ``clock`` gives Unix seconds; ``on`` False keeps nothing."""

    def __init__(self, home: Home, *, clock: Callable[[], float] = time.time, on: bool = True) -> None:
        self._home, self._clock, self._on = home, clock, on

    def keep(self, raw: bytes, signature: bytes, salt: bytes, seat: Seat, batch: BatchPath | None = None) -> Kept:
        """Append one verified receipt. Raises ConfigError (client.file) if the folder cannot be written."""
        kept = Kept(raw, signature, salt, seat, int(self._clock()), batch)
        if self._on:
            line = json.dumps(kept.to_json(), separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
            day = time.strftime("%Y-%m-%d", time.gmtime(kept.at))
            self._append(f"{day}.jsonl", line)
        return kept

    def load(self, receipt_id: bytes) -> Kept:
        """The kept receipt of this id (32 bytes) or a unique prefix of at least 4 bytes. Raises NOT_KEPT."""
        found = {k.receipt.id: k for k in self.newest() if k.receipt.id.startswith(receipt_id)}
        if len(receipt_id) < 4 or len(found) != 1:
            raise NOT_KEPT(expected=f"one receipt {to_hex(receipt_id)}", found=f"{len(found)} of that name")
        return next(iter(found.values()))

    def newest(self, limit: int | None = None, *, agent: bytes | None = None) -> Iterator[Kept]:
        """Kept receipts, newest first. Lines that do not parse (a torn last line after a crash) are left out."""
        given = 0
        for name in sorted(self._home.names(FOLDER, ".jsonl"), reverse=True)[:MAX_FILES]:
            data = self._home.file(FOLDER, f"{name}.jsonl").read_bytes()
            for line in reversed(data.splitlines()):
                kept = _parsed(line)
                if kept is None or (agent is not None and kept.seat.certificate.agent != agent):
                    continue
                yield kept
                given += 1
                if given == limit:
                    return

    def _append(self, name: str, line: bytes) -> None:
        path = self._home.file(FOLDER, name)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(handle, line)
            finally:
                os.close(handle)
        except OSError as error:
            raise UNREADABLE(expected=f"to write {path}", found=error.strerror or type(error).__name__) from None


def kept_of(home: Home, name: str) -> Kept:
    """The receipt that this home keeps under an id or prefix of it, as people write it. Raises NOT_KEPT."""
    return Ledger(home).load(from_hex(name.lower().rstrip("…"), name="receipt id", max_size=32))


def _parsed(line: bytes) -> Kept | None:
    try:
        kept = Kept.parse(line)
        _ = kept.receipt
    except CloisterError:
        return None
    return kept
