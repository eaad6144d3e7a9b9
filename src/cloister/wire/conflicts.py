"""``GET /v1/witnessed/{height}``: checkpoints that a member saw signed, conflicts that it knows, and what it granted.

{checkpoints: [{checkpoint, signature}], conflicts: [Conflict], granted: [{worker, agent, epoch, number}]}. Who reads
believes no row: the first two count by the signatures on them, the last by proof at the block that it names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from cloister.core.encoding.hexes import from_hex, need_fields, need_uint, to_hex
from cloister.core.encoding.statements import Checkpoint
from cloister.core.policy.conflicts import Conflict
from cloister.wire.messages import SignedBy, need_list

WITNESSED_ROUTE: Final = "/v1/witnessed/{height}"
MAX_SIGHTINGS: Final = 1024
MAX_CONFLICTS: Final = 16
MAX_GRANTS: Final = 2048


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease that a member granted: of an agent (32-byte id) in an agent epoch, to a worker (20), at a block."""

    worker: bytes
    agent: bytes
    epoch: int
    number: int

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        who = {"worker": to_hex(self.worker), "agent": to_hex(self.agent)}
        return {**who, "epoch": self.epoch, "number": self.number}

    @classmethod
    def from_json(cls, value: object) -> Granted:
        """Parse ``to_json`` output. Raises EncodingError."""
        data = need_fields("granted", value, {"worker", "agent", "epoch", "number"})
        worker, agent = from_hex(data["worker"], 20, name="worker"), from_hex(data["agent"], 32, name="agent")
        return cls(worker, agent, need_uint("epoch", data["epoch"], 53), need_uint("number", data["number"], 53))


@dataclass(frozen=True, slots=True)
class Witnessed:
    """What a member saw: signed checkpoints, each with one signature, and conflicts; and what it granted. Nothing in it
    is verified."""

    checkpoints: tuple[SignedBy, ...]
    conflicts: tuple[Conflict, ...]
    granted: tuple[Granted, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: at most 1024 checkpoints, 16 conflicts and 2048 grants."""
        return {
            "granted": [one.to_json() for one in self.granted[:MAX_GRANTS]],
            "checkpoints": [row.to_json() for row in self.checkpoints[:MAX_SIGHTINGS]],
            "conflicts": [one.to_json() for one in self.conflicts[:MAX_CONFLICTS]],
        }

    @classmethod
    def from_json(cls, value: object) -> Witnessed:
        """Parse ``to_json`` output. Raises EncodingError, PolicyError (policy.no_conflict)."""
        data = need_fields("witnessed", value, {"checkpoints", "conflicts", "granted"})
        rows: Sequence[object] = need_list("checkpoints", data["checkpoints"], MAX_SIGHTINGS)
        conflicts = need_list("conflicts", data["conflicts"], MAX_CONFLICTS)
        return cls(
            tuple(SignedBy.from_json(Checkpoint, row) for row in rows),
            tuple(Conflict.from_json(one) for one in conflicts),
            tuple(Granted.from_json(one) for one in need_list("granted", data["granted"], MAX_GRANTS)),
        )
