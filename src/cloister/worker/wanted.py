"""What finalised state asks of this worker for one agent: its version in force, and its canary (spec/canary.md)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from cloister.core.chainview.records import AgentRecord
from cloister.core.encoding.statements import Lease


@dataclass(frozen=True, slots=True)
class Wanted:
    """An agent that finalised state places here: its record and the epochs above its own. ``number``: the checkpoint's.

    The record names the version that is meant: ``canary`` gives the same for the second one."""

    record: AgentRecord
    cluster_epoch: int
    master_epoch: int
    number: int = 0

    @property
    def canary(self) -> Wanted | None:
        """The canary that may run now, None without one."""
        found = self.record.canary_at(self.number)
        if found is None:
            return None
        record = replace(self.record, code_hash=found.code_hash, manifest_hash=found.manifest_hash, canary=None)
        return replace(self, record=record)

    def only_code(self, terms: Lease) -> bool:
        """Whether nothing but code or manifest is newer than a lease: what began under it may end."""
        epochs = (terms.agent_epoch, terms.cluster_epoch, terms.master_epoch)
        here = (self.record.epoch, self.cluster_epoch, self.master_epoch)
        return epochs == here and terms.cluster == self.record.cluster

    def fits(self, terms: Lease) -> bool:
        """Whether a lease is of this very version: code, manifest, cluster and all three epochs."""
        code = (self.record.code_hash, self.record.manifest_hash)
        return (terms.code_hash, terms.manifest_hash) == code and self.only_code(terms)
