"""Which committee is in office: from a pinned term along signed hand-overs (spec/gatekeepers.md H1-H3).

A verifier pins one term. Each ``Handover`` leads to the next; then the old term's word counts only up to the block of
the hand-over. Time is the verifier's own clock: who holds the keys of a term long gone could otherwise write a second
history, and date it as it likes. So a verifier that was away for longer than ``max_term_age`` must pin anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from cloister.core.encoding.handover import Handover, members_hash
from cloister.core.encoding.hexes import from_hex, need_bytes, need_fields, need_uint, to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.network import Network
from cloister.core.encoding.signatures import MAX_MEMBERS, Signed, SignerSet
from cloister.core.encoding.statements import Lease, Statement
from cloister.core.errors import ChainViewError, CloisterError, define

MAX_HANDOVERS: Final = 4096
# How many hand-overs one endpoint's answer may hold; what is beyond is not looked at.
MAX_OFFERED: Final = 512
FUTURE_SKEW_S: Final = 30
MAX_TERM_AGE_S: Final = 90 * 24 * 3600

BAD_HANDOVER = define(
    "chainview.handover",
    ChainViewError,
    check="a hand-over names the next term, the members whose hash it holds, and a later block",
    remedy="fetch the hand-overs again from another gateway or gatekeeper",
)
HANDOVER_GAP = define(
    "chainview.handover_gap",
    ChainViewError,
    check="hand-overs lead from the pinned term on, one term at a time",
    remedy="fetch the missing ones; gatekeepers and the Gatekeepers contract hold them all",
)
HANDOVER_FORK = define(
    "chainview.handover_fork",
    ChainViewError,
    check="a term hands over once",
    remedy="t members of that term signed two successors: trust neither, and pin the network anew from its contract",
    status=409,
)
MASTER_KEY_MOVED = define(
    "chainview.master_key_moved",
    ChainViewError,
    check="the master key changes with the master epoch only, and the epoch never goes back",
    remedy="do not trust this successor; resharing keeps the key",
)
TERM_TOO_OLD = define(
    "chainview.term_too_old",
    ChainViewError,
    check="the pinned term was known to be in office lately, and the last term did not outstay its time (H3)",
    remedy="fetch newer hand-overs; if there are none, pin the network anew from its contract",
    status=503,
)
TERM_OVER = define(
    "chainview.term_over",
    ChainViewError,
    check="a term speaks of blocks from its first to that of its hand-over",
    remedy="ask the committee in office",
    status=409,
)
UNKNOWN_TERM = define(
    "chainview.unknown_term",
    ChainViewError,
    check="a statement is of a term that this verifier knows",
    remedy="fetch newer hand-overs; a term before the pinned one is not trusted",
    status=409,
)


@dataclass(frozen=True, slots=True)
class Term:
    """A committee of one term. mpk: keccak256 of the master key; height: the block that put it in office.

    ``seen``: Unix seconds by the verifier's clock when it last knew this term in office; later terms: of that block.
    """

    signers: SignerSet
    master_epoch: int
    mpk: bytes
    height: int
    seen: int

    def __post_init__(self) -> None:
        need_bytes("mpk hash", self.mpk, 32)
        for name in ("master_epoch", "height", "seen"):
            need_uint(name, getattr(self, name), 64)


@dataclass(frozen=True, slots=True)
class SignedHandover:
    """A hand-over as it travels: the statement, the members behind its hash (20 bytes each), t signatures (65)."""

    statement: Handover
    members: tuple[bytes, ...]
    signatures: tuple[bytes, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready fields."""
        return {
            "statement": self.statement.to_json(),
            "members": [to_hex(member) for member in self.members],
            "signatures": [to_hex(signature) for signature in self.signatures],
        }

    @classmethod
    def from_json(cls, value: object) -> SignedHandover:
        """Parse ``to_json`` output. Raises EncodingError, ChainViewError."""
        data = need_fields("hand-over", value, {"statement", "members", "signatures"})
        return cls(
            Handover.from_json(data["statement"]),
            _hex_list("members", data["members"], 20),
            _hex_list("signatures", data["signatures"], 65),
        )


@dataclass(frozen=True, slots=True)
class Terms:
    """The terms that a verifier knows, the last one in office. ``network``: 32-byte id under which they sign.

    ``told``: the hand-over of each but the last, in order."""

    network: bytes
    known: tuple[Term, ...]
    told: tuple[SignedHandover, ...] = ()

    @property
    def in_office(self) -> Term:
        """The last term."""
        return self.known[-1]

    def signers_of(self, statement: Statement, number: int) -> SignerSet:
        """The committee of the term that a statement names, if it may speak of block ``number`` (H2).

        ``number`` is the checkpoint that the statement rests on. 1. the term is known; 2. the block is within it.
        Raises ChainViewError."""
        place = self._place(getattr(statement, "term", None))  # 1
        last = self.known[place + 1].height if place + 1 < len(self.known) else None
        if number < self.known[place].height or (last is not None and number > last):  # 2
            span = f"blocks {self.known[place].height} to {'now' if last is None else last}"
            raise TERM_OVER(expected=f"{span} in term {self.known[place].signers.term}", found=f"block {number}")
        return self.known[place].signers

    def members_of(self, statement: Statement) -> SignerSet:
        """The committee of the term that a statement of no block names, such as a log's head. Raises ChainViewError."""
        return self.known[self._place(getattr(statement, "term", None))].signers

    def lessors(self, lease: Statement, period_blocks: int) -> SignerSet:
        """The committee that may have signed a lease. Raises ChainViewError.

        1. its term may speak of its checkpoint; 2. a lease of a term that is over ends by the second period after that
        term's last block: members of a term long gone date no lease into the future. What is no lease is left to who
        verifies its form: nothing but leases of the term in office passes there."""
        if not isinstance(lease, Lease):
            return self.in_office.signers
        signers, place = self.signers_of(lease, lease.checkpoint), self._place(lease.term)  # 1
        if place + 1 < len(self.known):
            end = (self.known[place + 1].height // period_blocks + 2) * period_blocks
            if lease.expiry > end:  # 2
                raise TERM_OVER(expected=f"an end by block {end} in term {lease.term}", found=f"block {lease.expiry}")
        return signers

    def verify(self, signed: Signed, number: int) -> None:
        """Raise unless t members of a known term signed, and the term may speak of block ``number`` (H2).

        ``signers_of``, then the signatures. Raises ChainViewError, EncodingError."""
        signed.verify(self.signers_of(signed.statement, number), self.network)

    def require_key(self, epoch: int, mpk: bytes) -> None:
        """Raise chainview.master_key_moved if a hand-over, or the pin, named another key (96 bytes) of this epoch."""
        for one in self.known:
            if one.master_epoch == epoch and one.mpk != keccak256(mpk):
                found = f"epoch {epoch} with another key"
                raise MASTER_KEY_MOVED(expected=f"the key that term {one.signers.term} began with", found=found)

    def require_fresh(self, now: int, max_term_age: int = MAX_TERM_AGE_S) -> None:
        """Raise chainview.term_too_old unless the term in office was known to be so lately, by our own clock (H3)."""
        _require_fresh(self.in_office, now, max_term_age)

    def seen(self, now: int) -> Terms:
        """The same, with the term in office known to be so at ``now`` (H3)."""
        last = replace(self.in_office, seen=max(now, self.in_office.seen))
        return replace(self, known=(*self.known[:-1], last))

    def _place(self, term: object) -> int:
        place = next((i for i, one in enumerate(self.known) if one.signers.term == term), None)
        if place is None:
            known = f"terms {self.known[0].signers.term} to {self.in_office.signers.term}"
            raise UNKNOWN_TERM(expected=known, found=f"term {term}")
        return place


def pinned(network: Network, now: int) -> Terms:
    """The committee that a network file names, as in office at ``now``: who pins the file vouches for it (H3)."""
    term = Term(network.founding, network.master_epoch, keccak256(network.mpk), 0, now)
    return Terms(network.id, (term,))


def follow(terms: Terms, offered: Sequence[SignedHandover], now: int, max_term_age: int = MAX_TERM_AGE_S) -> Terms:
    """On from the term in office along hand-overs that anybody offered. Times in seconds, ``now`` by our own clock.

    1. the term in office was known to be so within ``max_term_age``; 2. no second successor of a term that handed over,
    signed by its t members; 3. offers of the term in office that t of its members signed: one successor; 4. it names
    the members that it hashes, and a later block, and the key moves only with the epoch; again from it. 5. the last one
    is not too old, nor of the future. Offers that do not count are passed over: one liar stops nobody.
    Raises ChainViewError."""
    _require_fresh(terms.in_office, now, max_term_age)  # 1
    said = {one.statement.term: (one.statement, term) for one, term in zip(terms.told, terms.known, strict=False)}
    for one in offered:  # 2
        mine, term = said.get(one.statement.term, (one.statement, terms.in_office))
        if mine != one.statement and _counts(one, term, terms.network):
            raise HANDOVER_FORK(expected=f"one successor of term {mine.term}", found="two, both signed")
    before = terms
    while good := _good(terms, offered):
        if len(good) > 1:  # 3
            raise HANDOVER_FORK(expected=f"one successor of term {good[0].statement.term}", found="two, both signed")
        terms = Terms(terms.network, (*terms.known, _next(terms.in_office, good[0])), (*terms.told, good[0]))  # 4
    if terms is not before:
        _require_fresh(terms.in_office, now, max_term_age)  # 5
    return terms


def _good(terms: Terms, offered: Sequence[SignedHandover]) -> list[SignedHandover]:
    """Offers of the term in office that t of its members signed: one of each statement."""
    last, found = terms.in_office, dict[Handover, SignedHandover]()
    for one in offered:
        ours = one.statement.term == last.signers.term and one.statement not in found
        if ours and _counts(one, last, terms.network):
            found[one.statement] = one
    return list(found.values())


def _counts(one: SignedHandover, term: Term, network: bytes) -> bool:
    if members_hash(one.members) != one.statement.members:
        return False
    try:
        Signed(one.statement, one.signatures).verify(term.signers, network)
    except CloisterError:
        return False
    return True


def offers(value: object) -> list[SignedHandover]:
    """The complete hand-overs of an answer of ``GET /v1/handovers``; what is none is left out. Raises EncodingError."""
    items = need_fields("hand-overs", value, {"handovers", "signing"})["handovers"]
    found: list[SignedHandover] = []
    for item in items[:MAX_OFFERED] if isinstance(items, list) else []:
        with contextlib.suppress(CloisterError):
            found.append(SignedHandover.from_json(item))
    return found


def terms_from(pinned: Term, handovers: Sequence[SignedHandover], network: bytes, now: int, max_term_age: int) -> Terms:
    """The terms from a pinned one to the one in office. Times in seconds, ``now`` by the verifier's own clock.

    1. the pinned term was seen in office within ``max_term_age``; 2. not too many hand-overs; for each, in order of
    term: 3. t members of its term signed it; 4. it is no second one of a term; 5. it follows the last without a gap;
    6. it names the members it hashes, and a later block; 7. the key moves only with the epoch. 8. the last term is no
    older than ``max_term_age``. Hand-overs that lead up to the pinned term are left out. Raises ChainViewError,
    EncodingError.
    """
    _require_fresh(pinned, now, max_term_age)  # 1
    if len(handovers) > MAX_HANDOVERS:  # 2
        raise BAD_HANDOVER(expected=f"at most {MAX_HANDOVERS} hand-overs", found=str(len(handovers)))
    known = [pinned]
    told: list[SignedHandover] = []
    said: dict[int, Handover] = {}
    for handover in sorted(handovers, key=lambda one: one.statement.term):
        statement, last = handover.statement, known[-1]
        if statement.term < pinned.signers.term:
            continue
        behind = [one for one in known if one.signers.term == statement.term]
        if not behind:  # 5
            raise HANDOVER_GAP(expected=f"a hand-over of term {last.signers.term}", found=f"of {statement.term}")
        Signed(statement, handover.signatures).verify(behind[0].signers, network)  # 3
        before = said.setdefault(statement.term, statement)
        if before != statement:  # 4
            raise HANDOVER_FORK(expected=f"one successor of term {statement.term}", found="two, both signed")
        if behind[0] is last:
            known.append(_next(last, handover))  # 6, 7
            told.append(handover)
    if len(known) > 1:
        _require_fresh(known[-1], now, max_term_age)  # 8
    return Terms(need_bytes("network id", network, 32), tuple(known), tuple(told))


def _next(last: Term, handover: SignedHandover) -> Term:
    said = handover.statement
    if said.next_term != last.signers.term + 1 or members_hash(handover.members) != said.members:  # 6
        expected = f"term {last.signers.term + 1} and the members of the statement"
        raise BAD_HANDOVER(expected=expected, found=f"term {said.next_term}, {len(handover.members)} members")
    if said.height <= last.height:
        raise BAD_HANDOVER(expected=f"a block after {last.height}", found=str(said.height))
    if said.master_epoch < last.master_epoch or (said.master_epoch == last.master_epoch and said.mpk != last.mpk):  # 7
        found = f"epoch {said.master_epoch} with {to_hex(said.mpk)[:18]}…"
        raise MASTER_KEY_MOVED(expected=f"epoch {last.master_epoch} with {to_hex(last.mpk)[:18]}…", found=found)
    signers = SignerSet(said.next_term, said.threshold, handover.members)
    return Term(signers, said.master_epoch, said.mpk, said.height, said.timestamp)


def _require_fresh(term: Term, now: int, max_term_age: int) -> None:
    age = now - term.seen
    if age > max_term_age:
        raise TERM_TOO_OLD(expected=f"term {term.signers.term} known within {max_term_age} s", found=f"{age} s ago")
    if age < -FUTURE_SKEW_S:
        raise TERM_TOO_OLD(expected=f"at most {FUTURE_SKEW_S} s ahead of this clock", found=f"{-age} s ahead")


def _hex_list(name: str, value: object, size: int) -> tuple[bytes, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MEMBERS:
        raise BAD_HANDOVER(expected=f"{name} as a list of 1 to {MAX_MEMBERS}", found=type(value).__name__)
    return tuple(from_hex(item, size, name=name) for item in value)
