"""Endorsement: what a loader asks of gatekeepers about heads, and what both sides refuse (spec/state.md 6, 7).

What a gatekeeper remembers is in ``table.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloister.core.encoding.hexes import need_bytes, to_hex
from cloister.core.encoding.identity import Epochs
from cloister.core.errors import StateError, define
from cloister.core.state.heads import HeadRecord

MAX_HEADS = 200_000

FORKED = define(
    "state.forked",
    StateError,
    check="a head has one child: no other head of this height was seen",
    remedy="stop: the store was forked. The owner may accept one head on chain",
    status=409,
)
ROLLED_BACK = define(
    "state.rolled_back",
    StateError,
    check="state is never older than what the committee remembers",
    remedy="restore the newest copy of the store; else the owner accepts an older head on chain",
    status=409,
)
UNKNOWN_PARENT = define(
    "state.unknown_parent",
    StateError,
    check="a head follows directly on the newest one known",
    remedy="send the heads in between, or a head that q members signed",
    status=409,
)
NO_QUORUM = define(
    "state.no_quorum",
    StateError,
    check="enough distinct members answered",
    remedy="wait until more gatekeepers answer: state without them may be old",
    status=503,
)
NOT_MERGED = define(
    "state.not_merged",
    StateError,
    check="a restarted member merged the head tables of q others before it signs",
    remedy="wait until it reached them",
    status=503,
)
TABLE_FULL = define(
    "state.table_full",
    StateError,
    check=f"a member remembers at most {MAX_HEADS} agent versions",
    remedy="remove deleted agents from the table",
    status=503,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """One member's answer to a loader: its address (20 bytes), the height and head it signed, and the epochs that this
    head is sealed under; height 0 for none.

    The caller checked the member's signature and that it sits in the committee."""

    member: bytes
    height: int
    head: bytes
    epochs: Epochs | None = None


def require_fresh(local: HeadRecord, endorsed: Sequence[Answer], quorum: int) -> None:
    """Raise unless the store's head is at least as new as anything the committee remembers, and on its chain.

    1. ``quorum`` distinct members answered; 2. none remembers a later height; 3. every remembered head is an ancestor
    of ours (heads below our base were endorsed by q members when they were trimmed).
    Raises StateError state.no_quorum, state.rolled_back, state.forked.
    """
    members = {need_bytes("member", a.member, 20) for a in endorsed}
    if len(members) < quorum or len(members) != len(endorsed) or quorum < 1:  # 1
        raise NO_QUORUM(expected=f"answers of {quorum} distinct members", found=f"{len(members)} members")
    newest = max(endorsed, key=lambda a: a.height)
    if newest.height > local.height:  # 2
        raise ROLLED_BACK(expected=f"height {newest.height} or later", found=f"height {local.height}")
    if newest.height < local.base_height:
        raise NO_QUORUM(expected=f"members that know height {local.base_height}", found=f"height {newest.height}")
    for answer in endorsed:  # 3
        own = local.ancestor(answer.height)
        if answer.height and answer.height >= local.base_height and own != answer.head:
            raise FORKED(expected=f"head {to_hex(answer.head)} at height {answer.height}", found="another head there")
