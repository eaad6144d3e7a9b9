"""``python -m support.two_faced_gatekeeper --config FILE``: a gatekeeper that signs two blocks of one height.

Everything is the product's own until a file named ``TRIGGER`` lies in its folder. From then on every second asker of
``GET /v1/witnessed`` is shown another block of its newest height, under this member's true signature.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

from cloister.core.encoding.signatures import recover
from cloister.core.encoding.statements import Checkpoint
from cloister.gatekeeper.service import Gatekeeper
from cloister.wire.conflicts import Witnessed
from cloister.wire.messages import SignedBy

TRIGGER = "two-faced"


def forked(member: Gatekeeper, shown: Witnessed) -> Witnessed:
    """What it shows, with another block in place of its newest one."""
    network, rows = member.require_desks().office.network, list(shown.checkpoints)
    mine = [
        i for i, row in enumerate(rows) if recover(row.statement.digest(network), row.signature) == member.keys.address
    ]
    newest = max(mine, key=lambda i: getattr(rows[i].statement, "number", 0))
    said = rows[newest].statement
    assert isinstance(said, Checkpoint)
    other = replace(said, block_hash=hashlib.sha256(b"another" + said.block_hash).digest())
    rows[newest] = SignedBy(other, member.keys.sign(other.digest(network)))
    return replace(shown, checkpoints=tuple(rows))


def show_two_faces() -> None:
    """From now on this process lies when it is told to."""
    honest: Callable[[Gatekeeper, int], dict[str, object]] = Gatekeeper.witnessed
    asked = count()

    def witnessed(self: Gatekeeper, height: int) -> dict[str, Any]:
        shown = honest(self, height)
        if not (self.config.data / TRIGGER).exists() or next(asked) % 2:
            return shown
        return forked(self, Witnessed.from_json(shown)).to_json()

    Gatekeeper.witnessed = witnessed  # type: ignore[method-assign]


if __name__ == "__main__":
    show_two_faces()
    from cloister.gatekeeper.__main__ import main

    sys.exit(main())
