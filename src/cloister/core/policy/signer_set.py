"""Which signer set a connected chain's Anchor gets next: it follows from two terms' records (spec/chains.md 21-24)."""

from __future__ import annotations

from typing import Final

from cloister.core.chainview.ceremonies import TermRecord
from cloister.core.encoding.contract_statements import SignerHandover
from cloister.core.encoding.handover import members_hash
from cloister.core.errors import PolicyError, define

# How long a set counts from its term's first block. The contract takes at most 90 days from the block that installs it.
SET_S: Final = 80 * 24 * 3600

NOT_A_VOTER = define(
    "policy.not_a_voter",
    PolicyError,
    check="a signer set is handed over by members of the term before, none of them revoked, to the term that followed",
    remedy="ask the members of that term; a term hands over to the very next one only",
    status=403,
)


def signer_handover(old: TermRecord, new: TermRecord, chain_id: int, anchor: bytes) -> SignerHandover:
    """The statement of two terms in a row: every member makes the same one. Raises PolicyError for other terms."""
    if new.term != old.term + 1:
        raise NOT_A_VOTER(expected=f"term {old.term + 1}", found=f"term {new.term}")
    return SignerHandover(
        term=old.term,
        chain_id=chain_id,
        anchor=anchor,
        next_term=new.term,
        threshold=new.threshold,
        members=members_hash(new.members),
        expiry=new.timestamp + SET_S,
    )


def voters(old: TermRecord) -> tuple[bytes, ...]:
    """Members of a term whose signature counts: no revoked seat signs anything."""
    return tuple(member for seat, member in enumerate(old.members, 1) if seat not in old.revoked)


def may_sign_handover(old: TermRecord, member: bytes) -> None:
    """Raise PolicyError unless ``member`` sat in the term that hands over."""
    if member not in voters(old):
        raise NOT_A_VOTER(expected=f"a member of term {old.term}", found="another")
