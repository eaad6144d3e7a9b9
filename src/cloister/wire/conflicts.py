"""``GET /v1/witnessed/{height}``: checkpoints that a member saw signed, and conflicts that it knows.

{checkpoints: [{checkpoint, signature}], conflicts: [Conflict]}. Who reads believes no row: each counts by the signature
on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloister.core.encoding.hexes import need_fields
from cloister.core.encoding.statements import Checkpoint
from cloister.core.policy.conflicts import Conflict
from cloister.wire.messages import SignedBy, need_list

WITNESSED_ROUTE: Final = "/v1/witnessed/{height}"
MAX_SIGHTINGS: Final = 1024
MAX_CONFLICTS: Final = 16


@dataclass(frozen=True, slots=True)
class Witnessed:
    """What a member saw: signed checkpoints, each with one signature, and conflicts. Nothing in it is verified."""

    checkpoints: tuple[SignedBy, ...]
    conflicts: tuple[Conflict, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: at most 1024 checkpoints and 16 conflicts."""
        return {
            "checkpoints": [row.to_json() for row in self.checkpoints[:MAX_SIGHTINGS]],
            "conflicts": [one.to_json() for one in self.conflicts[:MAX_CONFLICTS]],
        }

    @classmethod
    def from_json(cls, value: object) -> Witnessed:
        """Parse ``to_json`` output. Raises EncodingError, PolicyError (policy.no_conflict)."""
        data = need_fields("witnessed", value, {"checkpoints", "conflicts"})
        rows: Sequence[object] = need_list("checkpoints", data["checkpoints"], MAX_SIGHTINGS)
        conflicts = need_list("conflicts", data["conflicts"], MAX_CONFLICTS)
        return cls(
            tuple(SignedBy.from_json(Checkpoint, row) for row in rows),
            tuple(Conflict.from_json(one) for one in conflicts),
        )
