"""May a member give its word for a candidate, so that elections consider it? (spec/gatekeepers.md E9)

Pure. The evidence itself is verified by whoever asks this, last: it costs most.
"""

from __future__ import annotations

from typing import Final

from cloister.core.chainview.founding import CandidateRecord
from cloister.core.encoding.handover import CandidateAdmission
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import PolicyError, define

ADMISSION_BLOCKS: Final = 4096
"""How long an admission counts at most; the contract has the same number."""

NOT_STANDING = define(
    "policy.candidate",
    PolicyError,
    check="whoever is to be admitted stands on chain as a candidate, does not sit, and asks for the term in office",
    remedy="wait until the candidate's registration is final; who sits needs no admission",
    status=409,
)
OTHERWISE_DESCRIBED = define(
    "policy.candidate_described",
    PolicyError,
    check="an admission says of a candidate what stands on chain: operator, vendor class, key and endpoint",
    remedy="ask again once the candidate's newest description is final",
    status=409,
)
BAD_EXPIRY = define(
    "policy.candidate_expiry",
    PolicyError,
    check=f"an admission ends after this member's newest block, and within {ADMISSION_BLOCKS} blocks of it",
    remedy="ask for a later, or an earlier, end; see whether the candidate's chain endpoints are in step",
    status=409,
)


def admission_of(record: CandidateRecord, term: int, expiry: int) -> CandidateAdmission:
    """What t members of ``term`` sign of a candidate, until block ``expiry``."""
    return CandidateAdmission(
        term=term,
        member=record.member,
        operator=record.operator,
        vendor_class=record.vendor_class,
        dkg_key=record.dkg_key,
        endpoint=keccak256(record.endpoint.encode()),
        expiry=expiry,
    )


def may_admit(
    asked: CandidateAdmission, record: CandidateRecord | None, members: tuple[bytes, ...], term: int, number: int
) -> None:
    """Raise PolicyError unless a member may sign ``asked``, once it has verified the candidate's evidence.

    record: the candidate's on chain. members, term: the committee in office. number: this member's newest block.

    1. for the term in office; 2. a candidate that does not sit; 3. as it stands on chain; 4. not for long.
    """
    if asked.term != term:  # 1
        raise NOT_STANDING(expected=f"term {term}", found=f"term {asked.term}")
    if record is None or record.member != asked.member or asked.member in members:  # 2
        found = "a sitting member" if asked.member in members else "nobody"
        raise NOT_STANDING(expected=f"candidate {to_hex(asked.member)}", found=found)
    if asked != admission_of(record, term, asked.expiry):  # 3
        raise OTHERWISE_DESCRIBED(expected=f"candidate {to_hex(asked.member)} as on chain", found="otherwise")
    if not number < asked.expiry <= number + ADMISSION_BLOCKS:  # 4
        raise BAD_EXPIRY(expected=f"a block in {number + 1}..{number + ADMISSION_BLOCKS}", found=str(asked.expiry))
