"""Checkpoints: when a reader accepts one, when a member may sign one (spec/chainview.md 1, 3; spec/statements.md 5)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from cloister.core.chainview.header import Header, require_child
from cloister.core.chainview.refusals import NOT_A_CHECKPOINT, NOT_DESCENDANT, SECOND_AT_HEIGHT, STALE
from cloister.core.encoding.signatures import Signed, SignerSet
from cloister.core.encoding.statements import Checkpoint

FUTURE_SKEW_S = 30
MAX_GAP = 1 << 16


def accept_checkpoint(signed: Signed, signers: SignerSet, network: bytes, now: int, max_age: int) -> Checkpoint:
    """The checkpoint, if it counts for a reader whose clock says ``now``. Times are in seconds.

    1. it is a checkpoint; 2. t members of the term signed it under this network; 3. it is at most ``max_age`` old;
    4. it is not from the future. Raises ChainViewError or EncodingError.
    """
    statement = signed.statement
    if not isinstance(statement, Checkpoint):  # 1
        raise NOT_A_CHECKPOINT(expected="a checkpoint", found=statement.NAME)
    signed.verify(signers, network)  # 2
    age = now - statement.timestamp
    if age > max_age:  # 3
        raise STALE(expected=f"at most {max_age} s old", found=f"{age} s")
    if age < -FUTURE_SKEW_S:  # 4
        raise STALE(expected=f"at most {FUTURE_SKEW_S} s ahead of this clock", found=f"{-age} s ahead")
    return statement


def may_sign(previous: Checkpoint | None, candidate: Checkpoint, headers: Sequence[Header]) -> None:
    """Raise ChainViewError unless a member that last signed ``previous`` may sign ``candidate``.

    ``headers`` are verified headers: from the block after ``previous`` to the candidate's, oldest first; just the
    candidate's own if nothing was signed before or the height is the same.
    1. the candidate says what its header says; 2. same chain, term not lower; 3. never two blocks at one height;
    4. only descendants, linked header by header.
    """
    if not headers or len(headers) > MAX_GAP:
        raise NOT_DESCENDANT(expected=f"1 to {MAX_GAP} headers", found=f"{len(headers)}")
    _require_own(candidate, headers[-1])  # 1
    if previous is None:
        return
    if previous.chain_id != candidate.chain_id or candidate.term < previous.term:  # 2
        raise NOT_A_CHECKPOINT(expected=f"chain {previous.chain_id}, term {previous.term} or later",
                               found=f"chain {candidate.chain_id}, term {candidate.term}")  # fmt: skip
    if candidate.number == previous.number:  # 3
        if candidate.block_hash != previous.block_hash:
            raise SECOND_AT_HEIGHT(expected=_name(previous), found=_name(candidate))
        return
    _require_line(previous, headers)  # 4


def _require_own(candidate: Checkpoint, header: Header) -> None:
    said = (candidate.number, candidate.block_hash, candidate.state_root, candidate.timestamp)
    if said != (header.number, header.hash, header.state_root, header.timestamp):
        raise NOT_A_CHECKPOINT(expected=f"what header {header.number} says", found=_name(candidate))


def _require_line(previous: Checkpoint, headers: Sequence[Header]) -> None:
    first = headers[0]
    if first.number != previous.number + 1 or first.parent != previous.block_hash:
        raise NOT_DESCENDANT(expected=f"a child of {_name(previous)}", found=f"block {first.number}")
    for parent, child in pairwise(headers):
        require_child(parent, child)


def _name(checkpoint: Checkpoint) -> str:
    return f"block {checkpoint.number} 0x{checkpoint.block_hash.hex()[:16]}…"
