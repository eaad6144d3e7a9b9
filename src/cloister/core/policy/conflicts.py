"""Two statements of one signer that exclude each other: who signed both is named by them (spec/gatekeepers.md W1-W3).

Whoever holds a ``Conflict`` proves it to anybody; nobody's word is needed. Only statements that an honest signer never
makes twice count. Heads of agents' state are none: an honest member signs another head of one height when q members
did (state.md 10).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cloister.core.encoding.hexes import from_hex, need_fields, to_hex
from cloister.core.encoding.log_statements import WorkerLog
from cloister.core.encoding.signatures import recover, verify_signer
from cloister.core.encoding.statements import Checkpoint, Statement
from cloister.core.errors import PolicyError, define

# Of each kind: statements that agree in these fields, and differ, are never both signed by an honest signer.
EXCLUDING: Final[Mapping[type[Statement], tuple[str, ...]]] = {
    Checkpoint: ("term", "chain_id", "number"),
    WorkerLog: ("worker", "boot", "size"),
}
_KINDS: Final = {kind.NAME: kind for kind in EXCLUDING}
_SIGNATURE: Final = 65

NO_CONFLICT = define(
    "policy.no_conflict",
    PolicyError,
    check="two statements of one signer exclude each other: two checkpoints of one height, two logs of one size",
    remedy="both have to be shown as they were signed; two heads of an agent's state prove nothing",
    status=403,
)


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two statements of one kind, each with its signature (65 bytes)."""

    first: Statement
    first_signature: bytes
    second: Statement
    second_signature: bytes

    def verify(self, network: bytes) -> bytes:
        """Who signed both: an address (20 bytes), in this network (32-byte id). Raises PolicyError, EncodingError.

        1. one kind, of those that exclude each other; 2. the same place, and not the same; 3. one signer; 4. a worker's
        log is signed by the worker that it names."""
        kind = type(self.first)
        if type(self.second) is not kind or kind not in EXCLUDING:  # 1
            raise NO_CONFLICT(expected="two checkpoints, or two logs", found=f"{kind.NAME}, {type(self.second).NAME}")
        if not excludes(self.first, self.second):  # 2
            raise NO_CONFLICT(expected="two of one place that differ", found="statements that go together")
        signer = recover(self.first.digest(network), self.first_signature)
        verify_signer(self.second.digest(network), self.second_signature, signer)  # 3
        if isinstance(self.first, WorkerLog) and self.first.worker != signer:  # 4
            raise NO_CONFLICT(expected=f"signatures of {to_hex(self.first.worker)}", found=to_hex(signer))
        return signer

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: {kind, first, first_signature, second, second_signature}."""
        return {
            "kind": type(self.first).NAME,
            "first": self.first.to_json(),
            "first_signature": to_hex(self.first_signature),
            "second": self.second.to_json(),
            "second_signature": to_hex(self.second_signature),
        }

    @classmethod
    def from_json(cls, value: object) -> Conflict:
        """Parse ``to_json`` output; nothing is verified. Raises EncodingError, PolicyError (policy.no_conflict)."""
        names = {"kind", "first", "first_signature", "second", "second_signature"}
        data = need_fields("conflict", value, names)
        kind = _KINDS.get(data["kind"]) if isinstance(data["kind"], str) else None
        if kind is None:
            raise NO_CONFLICT(expected=" or ".join(sorted(_KINDS)), found=str(data["kind"])[:40])
        return cls(
            kind.from_json(data["first"]),
            from_hex(data["first_signature"], _SIGNATURE, name="signature"),
            kind.from_json(data["second"]),
            from_hex(data["second_signature"], _SIGNATURE, name="signature"),
        )


def excludes(first: Statement, second: Statement) -> bool:
    """Whether no honest signer signs both."""
    fields = EXCLUDING.get(type(first))
    if fields is None or type(second) is not type(first) or first == second:
        return False
    return all(getattr(first, name) == getattr(second, name) for name in fields)
