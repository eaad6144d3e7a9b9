"""Writes terms.json: hand-overs, who is in office by them, and what a term may speak of (spec/gatekeepers.md H1-H4).

Run it from the repository root: ``python spec/vectors/gen_terms.py``. Every key in it is a test value.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from coincurve import PrivateKey

from cloister.core.chainview.terms import MAX_TERM_AGE_S, SignedHandover, Term, Terms, follow
from cloister.core.encoding.handover import Handover, members_hash
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.signatures import SignerSet, address_of, sign_digest
from cloister.core.encoding.statements import Lease
from cloister.core.errors import CloisterError

PATH = Path(__file__).with_name("terms.json")
NETWORK, OTHER_NETWORK = b"\x07" * 32, b"\x08" * 32
KEY, OTHER_KEY = bytes(95) + b"\x01", bytes(95) + b"\x02"
MPK, OTHER_MPK = keccak256(KEY), keccak256(OTHER_KEY)
NOW = 1_800_000_000
PERIOD = 100
AGE = MAX_TERM_AGE_S


def keys(term: int) -> list[PrivateKey]:
    """Four members of a term; t is three."""
    return [PrivateKey(keccak256(b"member of terms.json", bytes([term, i]))) for i in range(4)]


def members(term: int) -> tuple[bytes, ...]:
    """Their addresses."""
    return tuple(address_of(key) for key in keys(term))


def height(term: int) -> int:
    """The block that put a term in office."""
    return 1000 * (term - 1)


def handover(term: int, *, signers: int = 3, by: int = 0, network: bytes = NETWORK, **changes: Any) -> SignedHandover:
    """From ``term`` to the next one."""
    there = members(term + 1)
    said = Handover(term, term + 1, 3, members_hash(there), 1, MPK, height(term + 1), NOW - 1000 + term)
    said = replace(said, **changes)
    signed = tuple(sign_digest(key, said.digest(network)) for key in keys(by or term)[:signers])
    return SignedHandover(said, there, signed)


FOUNDING = Term(SignerSet(1, 3, members(1)), 1, MPK, 0, NOW)
PINNED = Terms(NETWORK, (FOUNDING,))
ONE, TWO, THREE = (handover(term) for term in (1, 2, 3))
FORK = handover(1, height=height(2) + 1)
TWICE = replace(handover(1, signers=2), signatures=handover(1, signers=2).signatures + handover(1).signatures[:1])

# name: (known before, offered, seconds after NOW)
CASES: dict[str, tuple[list[SignedHandover], list[SignedHandover], int]] = {
    "nothing is offered": ([], [], 0),
    "one hand-over": ([], [ONE], 0),
    "three, in any order": ([], [THREE, ONE, TWO], 0),
    "the same one by every member": ([], [ONE, ONE, handover(1, signers=4)], 0),
    "on from a known term": ([ONE], [TWO, THREE], 0),
    "what is known, again": ([ONE, TWO], [ONE, TWO], 0),
    "t - 1 members signed": ([], [handover(1, signers=2)], 0),
    "one member's signature twice": ([], [TWICE], 0),
    "members of the next term signed": ([], [handover(1, by=2)], 0),
    "signed for another network": ([], [handover(1, network=OTHER_NETWORK)], 0),
    "a term is skipped": ([], [TWO, THREE], 0),
    "members that the statement does not hash": ([], [replace(ONE, members=members(3))], 0),
    "members in another order": ([], [replace(ONE, members=ONE.members[::-1])], 0),
    "a liar's copy before the true one": ([], [replace(ONE, signatures=ONE.signatures[:1]), ONE], 0),
    "a hand-over of an old term after a newer one": ([ONE, TWO], [ONE], 0),
    "two successors of the term in office": ([], [ONE, FORK], 0),
    "a second successor of a known term": ([ONE], [FORK], 0),
    "a second successor that too few signed": ([ONE], [handover(1, signers=2, height=height(2) + 1)], 0),
    "a term that jumps": ([], [handover(1, next_term=3)], 0),
    "a term that stays": ([], [handover(1, next_term=1)], 0),
    "a block that is not later": ([ONE], [handover(2, height=height(2))], 0),
    "another key in the same epoch": ([], [handover(1, mpk=OTHER_MPK)], 0),
    "another key in the next epoch": ([], [handover(1, mpk=OTHER_MPK, master_epoch=2)], 0),
    "an epoch that goes back": ([], [handover(1, master_epoch=0)], 0),
    "a threshold above n": ([], [handover(1, threshold=5)], 0),
    "a threshold of none": ([], [handover(1, threshold=0)], 0),
    "a term from the future": ([], [handover(1, timestamp=NOW + 31)], 0),
    "the pin at its very age": ([], [], AGE),
    "the pin a second later": ([], [], AGE + 1),
    "a new term after the pin's time": ([], [handover(1, timestamp=NOW + AGE)], AGE + 1),
    "a new term that outstayed its time": ([], [handover(1, timestamp=NOW - AGE - 1)], 0),
}
# name: (term, block): which term may speak of which block, with terms 1 to 3 known.
SPEAKS = {
    "the first term at the block of its hand-over": (1, 1000),
    "the first term above it": (1, 1001),
    "the second term at its first block": (2, 1000),
    "the second term before it": (2, 999),
    "the term in office at any later block": (3, 1 << 40),
    "a term that nobody handed over to": (4, 3000),
    "a term before the pinned one": (0, 5),
}
# name: (term, checkpoint, expiry): whose leases count until when.
LEASES = {
    "of the term in office, however long": (3, 2500, 1 << 40),
    "of a term that is over, until the second period after it": (1, 990, 1200),
    "of a term that is over, a block longer": (1, 990, 1201),
    "of a term that is over, from after it": (1, 1001, 1100),
}


def outcome(work: Any) -> Any:
    """What comes of it, or the code of the refusal."""
    try:
        return work()
    except CloisterError as error:
        return {"refused": error.code}


def _case(name: str, before: list[SignedHandover], offered: list[SignedHandover], after: int) -> dict[str, Any]:
    known = follow(PINNED, before, NOW)

    def made() -> dict[str, Any]:
        last = follow(known, offered, NOW + after).in_office
        said = [to_hex(member) for member in last.signers.members]
        return {"term": last.signers.term, "members": said, "master_epoch": last.master_epoch, "height": last.height}

    texts = {"known": [one.to_json() for one in before], "offered": [one.to_json() for one in offered]}
    return {"name": name, **texts, "now": NOW + after, "outcome": outcome(made)}


def lease(term: int, checkpoint: int, expiry: int) -> Lease:
    """A lease of that term."""
    hashes = (b"\x22" * 32, b"\x44" * 32, b"\x55" * 32, b"\x66" * 32)
    return Lease(term, *hashes, 1, 1, 1, 4, b"\x77" * 20, b"\x33" * 32, checkpoint, expiry)


def build() -> dict[str, Any]:
    """Everything, as JSON-ready values."""
    terms = follow(PINNED, [ONE, TWO], NOW)
    speaks = [
        {"name": name, "term": term, "block": block,
         "outcome": outcome(lambda term=term, block=block: terms.signers_of(lease(term, 1, 2), block).term)}
        for name, (term, block) in SPEAKS.items()
    ]  # fmt: skip
    leases = [
        {"name": name, "lease": lease(*one).to_json(),
         "outcome": outcome(lambda one=one: terms.lessors(lease(*one), PERIOD).term)}
        for name, one in LEASES.items()
    ]  # fmt: skip
    keys_ = [
        {"epoch": epoch, "key": to_hex(key), "outcome": outcome(lambda e=epoch, k=key: terms.require_key(e, k))}
        for epoch, key in ((1, KEY), (1, OTHER_KEY), (2, OTHER_KEY))
    ]
    pin = {"term": 1, "threshold": 3, "members": [to_hex(m) for m in members(1)], "master_epoch": 1, "mpk": to_hex(KEY)}
    return {
        "note": "Hand-overs and who is in office by them (spec/gatekeepers.md H1-H4). Every key is a test value.",
        "network": to_hex(NETWORK),
        "pinned": pin,
        "seen": NOW,
        "max_term_age": AGE,
        "period_blocks": PERIOD,
        "members_hash": to_hex(members_hash(members(2))),
        "digest": to_hex(ONE.statement.digest(NETWORK)),
        "handovers": [one.to_json() for one in (ONE, TWO)],
        "cases": [_case(name, *given) for name, given in CASES.items()],
        "speaks": speaks,
        "leases": leases,
        "keys": keys_,
    }


def main() -> None:
    """Write the file."""
    PATH.write_text(json.dumps(build(), indent=1) + "\n")


if __name__ == "__main__":
    main()
