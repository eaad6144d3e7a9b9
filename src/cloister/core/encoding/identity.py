"""Key identities: which key of which agent, with every version in it (DESIGN section 5, spec/keys.md).

``bytes(identity)`` is what gatekeepers evaluate. It is built from verified state and never taken from a requester.
Layout: frame(KEY_POINT, network 32, master_epoch u64, cluster 32, cluster_epoch u64, agent 32, agent_epoch u64,
purpose u8, period u64), big-endian. ``period`` is 0 for every purpose but ``call``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, NamedTuple

from cloister.core.encoding.contexts import Context, frame
from cloister.core.encoding.hexes import from_hex, need_bytes, need_uint, to_hex

EPOCH_FIELDS = ("agent_epoch", "cluster_epoch", "master_epoch", "cluster")


class Purpose(IntEnum):
    """What a derived key may be used for. Numbers are on the wire: never reuse one."""

    CALL = 1
    STATE = 2
    SECRETS = 3
    IDENTITY = 4
    LOG = 5


class Epochs(NamedTuple):
    """Which keys of an agent: its own epoch, its cluster's, the master key's, and the cluster (32 bytes).

    Tuples compare as time does: what moves an agent to another cluster also raises its own epoch (spec/epochs.md 2).
    """

    agent: int
    cluster: int
    master: int
    of: bytes

    def check(self) -> Epochs:
        """Itself. Raises EncodingError for numbers beyond 64 bits and a cluster id of another size."""
        for name, number in zip(("agent epoch", "cluster epoch", "master epoch"), self[:3], strict=True):
            need_uint(name, number, 64)
        need_bytes("cluster", self.of, 32)
        return self

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: agent_epoch, cluster_epoch, master_epoch, cluster."""
        return dict(zip(EPOCH_FIELDS, (*self[:3], to_hex(self.of)), strict=True))

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Epochs:
        """The epochs among these fields. Raises EncodingError; KeyError for missing ones: check the names before."""
        cluster = from_hex(fields["cluster"], 32, name="cluster")
        return cls(fields["agent_epoch"], fields["cluster_epoch"], fields["master_epoch"], cluster).check()

    def version(self, network: bytes, agent: bytes) -> AgentVersion:
        """An agent (32-byte id) of a network (32-byte id) at these epochs."""
        return AgentVersion(network, self.master, self.of, self.cluster, agent, self.agent)


@dataclass(frozen=True, slots=True)
class AgentVersion:
    """An agent at exactly one set of epochs. All ids are 32 bytes, epochs are unsigned 64-bit."""

    network: bytes
    master_epoch: int
    cluster: bytes
    cluster_epoch: int
    agent: bytes
    agent_epoch: int

    def __post_init__(self) -> None:
        for name in ("network", "cluster", "agent"):
            need_bytes(name, getattr(self, name), 32)
        for name in ("master_epoch", "cluster_epoch", "agent_epoch"):
            need_uint(name, getattr(self, name), 64)

    def key(self, purpose: Purpose, period: int = 0) -> KeyIdentity:
        """The identity of one key of this agent version."""
        return KeyIdentity(self, purpose, period)

    @property
    def epochs(self) -> Epochs:
        """The epochs alone, in the order in which they compare."""
        return Epochs(self.agent_epoch, self.cluster_epoch, self.master_epoch, self.cluster)

    def bumped(self) -> AgentVersion:
        """The same agent one epoch later."""
        return replace(self, agent_epoch=self.agent_epoch + 1)


@dataclass(frozen=True, slots=True)
class KeyIdentity:
    """One key of one agent version. Raises EncodingError if a period is given where none applies."""

    version: AgentVersion
    purpose: Purpose
    period: int = 0

    def __post_init__(self) -> None:
        need_uint("period", self.period, 64)
        if self.purpose is not Purpose.CALL:
            need_uint("period of a key without periods", self.period, 0)

    def __bytes__(self) -> bytes:
        v = self.version
        return frame(
            Context.KEY_POINT,
            v.network,
            v.master_epoch.to_bytes(8, "big"),
            v.cluster,
            v.cluster_epoch.to_bytes(8, "big"),
            v.agent,
            v.agent_epoch.to_bytes(8, "big"),
            bytes([self.purpose]),
            self.period.to_bytes(8, "big"),
        )
