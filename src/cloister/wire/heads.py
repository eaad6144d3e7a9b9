"""Messages about state heads: what a worker sends to be endorsed, what a loader and a restarted member ask.

Same rules as ``messages.py`` (spec/gatekeeper-api.md 7).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from coincurve import PrivateKey

from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context, digest
from cloister.core.encoding.hexes import from_hex, need_bytes, need_fields, need_uint, to_hex
from cloister.core.encoding.identity import Epochs
from cloister.core.encoding.signatures import Signed, sign_digest, verify_signer
from cloister.core.encoding.statements import Lease, StateHead
from cloister.core.state.rows import Head, head_row, parse_row
from cloister.wire.messages import BAD_MESSAGE, SIGNATURE, need_list, signed_from_json, signed_to_json

MAX_HEADS = 256
PAGE_ROWS = 2000


@dataclass(frozen=True, slots=True)
class HeadMove:
    """One state move to endorse: ``parent`` -> ``head`` at ``height`` of an agent, sealed under these epochs."""

    agent: bytes
    epochs: Epochs
    height: int
    parent: bytes
    head: bytes

    def __post_init__(self) -> None:
        for name in ("agent", "parent", "head"):
            need_bytes(name, getattr(self, name), 32)
        self.epochs.check()
        need_uint("height", self.height, 64)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return head_row(self.agent, self.as_head())

    @classmethod
    def from_json(cls, value: object) -> HeadMove:
        """Parse ``to_json`` output."""
        agent, head = parse_row(value)
        return cls.of(agent, head)

    @classmethod
    def of(cls, agent: bytes, head: Head) -> HeadMove:
        """The move that ends in this head."""
        return cls(agent, head.epochs, head.height, head.parent, head.head)

    def as_head(self) -> Head:
        """What a member's table remembers of it."""
        return Head(self.epochs, self.height, self.parent, self.head)

    def statement(self, term: int) -> StateHead:
        """What a member of ``term`` signs for this move."""
        at = self.epochs
        return StateHead(term, self.agent, at.of, at.master, at.cluster, at.agent, self.height, self.parent, self.head)


def move_of(said: StateHead) -> HeadMove:
    """The move that a statement is about."""
    epochs = Epochs(said.agent_epoch, said.cluster_epoch, said.master_epoch, said.cluster)
    return HeadMove(said.agent, epochs, said.height, said.parent, said.head)


@dataclass(frozen=True, slots=True)
class HeadsRequest:
    """POST /v1/heads, signed by the worker's node key. Empty ``signature``: not signed yet.

    ``leases``: committee-signed leases of the worker for the agents named, for members that were not among those who
    granted them. ``proven``: heads that q members signed, for members that missed some and must catch up.
    """

    heads: tuple[HeadMove, ...]
    worker: bytes
    boot: bytes
    leases: tuple[Signed, ...] = ()
    proven: tuple[Signed, ...] = ()
    signature: bytes = b""

    def signing_digest(self) -> bytes:
        """The 32 bytes that the worker signs."""
        return digest(Context.STATE_HEAD, b"request", jcs.encode(self._body()))

    def signed(self, key: PrivateKey) -> HeadsRequest:
        """The request with the worker's signature."""
        return replace(self, signature=sign_digest(key, self.signing_digest()))

    def verify(self) -> None:
        """Raise EncodingError unless ``worker`` signed the request."""
        verify_signer(self.signing_digest(), self.signature, self.worker)

    def _body(self) -> dict[str, Any]:
        return {
            "heads": [h.to_json() for h in self.heads],
            "worker": to_hex(self.worker),
            "boot": to_hex(self.boot),
            "leases": [signed_to_json(s) for s in self.leases],
            "proven": [signed_to_json(s) for s in self.proven],
        }

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**self._body(), "signature": to_hex(self.signature)}

    @classmethod
    def from_json(cls, value: object) -> HeadsRequest:
        """Parse ``to_json`` output. At most 256 heads, leases and proven heads each."""
        data = need_fields("heads request", value, {"heads", "worker", "boot", "leases", "proven", "signature"})
        return cls(
            tuple(HeadMove.from_json(h) for h in need_list("heads", data["heads"], MAX_HEADS)),
            from_hex(data["worker"], 20, name="worker"),
            from_hex(data["boot"], 32, name="boot"),
            tuple(signed_from_json(Lease, s) for s in need_list("leases", data["leases"], MAX_HEADS)),
            tuple(signed_from_json(StateHead, s) for s in need_list("proven", data["proven"], MAX_HEADS)),
            from_hex(data["signature"], SIGNATURE, name="signature"),
        )


@dataclass(frozen=True, slots=True)
class EndorsedHead:
    """The newest head of an agent that one member endorsed, with its signature over the StateHead statement."""

    move: HeadMove
    signature: bytes

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"move": self.move.to_json(), "signature": to_hex(self.signature)}

    @classmethod
    def from_json(cls, value: object) -> EndorsedHead:
        """Parse ``to_json`` output."""
        data = need_fields("endorsed head", value, {"move", "signature"})
        return cls(HeadMove.from_json(data["move"]), from_hex(data["signature"], SIGNATURE, name="signature"))


@dataclass(frozen=True, slots=True)
class HeadAnswer:
    """GET /v1/heads/{agent}?nonce=…: a head or None, and a member's signature that the answer is fresh.

    Without the nonce whoever carries the answer could replay an old head, or say that there is none."""

    head: EndorsedHead | None
    fresh: bytes

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"head": None if self.head is None else self.head.to_json(), "fresh": to_hex(self.fresh)}

    @classmethod
    def from_json(cls, value: object) -> HeadAnswer:
        """Parse ``to_json`` output."""
        data = need_fields("head answer", value, {"head", "fresh"})
        head = None if data["head"] is None else EndorsedHead.from_json(data["head"])
        return cls(head, from_hex(data["fresh"], SIGNATURE, name="fresh"))


def fresh_digest(network: bytes, term: int, nonce: bytes, agent: bytes, head: EndorsedHead | None) -> bytes:
    """The 32 bytes that ``HeadAnswer.fresh`` signs."""
    at = need_uint("term", term, 64).to_bytes(8, "big")
    body = jcs.encode(None if head is None else head.to_json())
    return digest(Context.FRESHNESS, b"head", network, nonce, agent, at, body)


@dataclass(frozen=True, slots=True)
class TablePage:
    """GET /v1/headtable?nonce=…&after=…: rows of a member's head table after a cursor, signed as fresh.

    ``rows`` as in ``core.state.table.HeadTable.to_json``, sorted by agent. ``more``: there are further rows.
    """

    rows: tuple[Mapping[str, Any], ...]
    more: bool
    fresh: bytes

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"rows": [dict(r) for r in self.rows], "more": self.more, "fresh": to_hex(self.fresh)}

    @classmethod
    def from_json(cls, value: object) -> TablePage:
        """Parse ``to_json`` output. Rows are checked when they enter a HeadTable."""
        data = need_fields("table page", value, {"rows", "more", "fresh"})
        rows = need_list("rows", data["rows"], PAGE_ROWS)
        if not all(isinstance(row, dict) for row in rows) or not isinstance(data["more"], bool):
            raise BAD_MESSAGE(expected="rows and a flag", found="another shape")
        return cls(tuple(rows), data["more"], from_hex(data["fresh"], SIGNATURE, name="fresh"))


def page_digest(network: bytes, nonce: bytes, after: bytes, rows: Sequence[Mapping[str, Any]], more: bool) -> bytes:
    """The 32 bytes that ``TablePage.fresh`` signs."""
    body = jcs.encode({"rows": [dict(r) for r in rows], "more": more})
    return digest(Context.FRESHNESS, b"head table", network, nonce, after, body)


def after_row(row: Mapping[str, Any]) -> bytes:
    """The cursor of a row: its agent, 32 bytes. Raises EncodingError for a row without one."""
    return from_hex(row.get("agent"), 32, name="agent")
