"""What members show each other of statements of t members, and what an operator writes for one (gatekeeper-api.md 3).

``GET /v1/statements`` → {statements: [row]}; ``GET /v1/leases/{worker}`` → {leases: [{statement, signature}]}. A row is
{kind, statement, tokens, epochs, signature}. Who reads believes no row: it counts by the signature of its member, and
for signing by the reader's own rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloister.core.encoding.hexes import from_hex, need_fields, need_uint, to_hex
from cloister.core.encoding.signatures import verify_signer
from cloister.core.encoding.statements import Lease, Statement
from cloister.core.errors import TransportError, define
from cloister.core.policy.committee_statements import KINDS, MAX_BATCH, Proposal

MAX_ROWS: Final = 16
MAX_LEASES: Final = 1024
MAX_CONSENTS: Final = 64
CONSENTS_FILE: Final = "consents.json"
MAX_CONSENTS_FILE: Final = 64 << 10

BAD_ROW = define(
    "wire.statement",
    TransportError,
    check="a list of statements has at most its number of rows, each of a known kind with its lists",
    remedy="the peer is broken or of another version; compare builds",
    status=502,
)


@dataclass(frozen=True, slots=True)
class SignedProposal:
    """A proposal and one member's signature (65 bytes) over its statement."""

    proposal: Proposal
    signature: bytes

    def verify(self, network: bytes, member: bytes) -> None:
        """Raise EncodingError unless ``member`` signed it in this network (32-byte id)."""
        verify_signer(self.proposal.statement.digest(network), self.signature, member)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready row."""
        one = self.proposal
        row = {**statement_to_json(one.statement), "tokens": [str(token) for token in one.tokens]}
        return {**row, "epochs": list(one.epochs), "signature": to_hex(self.signature)}

    @classmethod
    def from_json(cls, value: object) -> SignedProposal:
        """Parse a row. Raises EncodingError, TransportError (wire.statement)."""
        data = need_fields("row", value, {"kind", "statement", "tokens", "epochs", "signature"})
        statement = statement_from_json({"kind": data["kind"], "statement": data["statement"]})
        tokens = tuple(_token(item) for item in _list(data["tokens"], MAX_BATCH))
        epochs = tuple(need_uint("epoch", item, 64) for item in _list(data["epochs"], MAX_BATCH))
        return cls(Proposal(statement, tokens, epochs), from_hex(data["signature"], 65, name="signature"))


def statement_to_json(statement: Statement) -> dict[str, Any]:
    """{kind, statement}."""
    return {"kind": type(statement).NAME, "statement": statement.to_json()}


def statement_from_json(value: object) -> Statement:
    """A statement of a kind that t members make. Raises EncodingError, TransportError (wire.statement)."""
    data = need_fields("statement", value, {"kind", "statement"})
    kind = KINDS.get(data["kind"]) if isinstance(data["kind"], str) else None
    if kind is None:
        raise BAD_ROW(expected="a kind of statement of t members", found=str(data["kind"])[:40])
    return kind.statement.from_json(data["statement"])


def rows_to_json(rows: Sequence[SignedProposal]) -> dict[str, Any]:
    """The answer of ``GET /v1/statements``: at most 16 rows."""
    return {"statements": [row.to_json() for row in rows[:MAX_ROWS]]}


def rows_from_json(value: object) -> tuple[SignedProposal, ...]:
    """Parse that answer. Raises EncodingError, TransportError."""
    rows = _list(need_fields("statements", value, {"statements"})["statements"], MAX_ROWS)
    return tuple(SignedProposal.from_json(row) for row in rows)


def leases_to_json(leases: Sequence[tuple[Lease, bytes]]) -> dict[str, Any]:
    """The answer of ``GET /v1/leases/{worker}``: at most 1024 leases, each with its member's signature."""
    rows = [{"statement": one.to_json(), "signature": to_hex(signature)} for one, signature in leases[:MAX_LEASES]]
    return {"leases": rows}


def leases_from_json(value: object) -> tuple[tuple[Lease, bytes], ...]:
    """Parse that answer. Raises EncodingError, TransportError."""
    found = []
    for row in _list(need_fields("leases", value, {"leases"})["leases"], MAX_LEASES):
        data = need_fields("lease", row, {"statement", "signature"})
        found.append((Lease.from_json(data["statement"]), from_hex(data["signature"], 65, name="signature")))
    return tuple(found)


def consents_to_json(consents: Sequence[Statement]) -> list[dict[str, Any]]:
    """What an operator wants signed: the file ``consents.json`` in a member's folder."""
    return [statement_to_json(one) for one in consents[-MAX_CONSENTS:]]


def consents_from_json(value: object) -> frozenset[Statement]:
    """Parse that file. Raises EncodingError, TransportError."""
    return frozenset(statement_from_json(item) for item in _list(value, MAX_CONSENTS))


def _list(value: object, most: int) -> list[Any]:
    if not isinstance(value, list) or len(value) > most:
        found = f"{len(value)} items" if isinstance(value, list) else type(value).__name__
        raise BAD_ROW(expected=f"a list of at most {most}", found=found)
    return value


def _token(value: object) -> int:
    """A token id: decimal text, for JSON numbers end at 2**53."""
    if not isinstance(value, str) or not value.isascii() or not value.isdigit() or len(value) > 78:
        raise BAD_ROW(expected="a token id as decimal text", found=str(value)[:24])
    if str(int(value)) != value:
        raise BAD_ROW(expected="a token id without leading zeros", found=value[:24])
    return need_uint("token id", int(value), 256)
