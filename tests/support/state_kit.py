"""Keys, identities and a counting random source for tests of agent state."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from cloister.core.encoding.identity import AgentVersion, Epochs, Purpose
from cloister.core.state.rows import Head
from cloister.core.state.sealing import StateKeys

AGENT = bytes([0xAB]) * 32
CLUSTER = bytes([2]) * 32
VERSION = AgentVersion(bytes([1]) * 32, 1, bytes([2]) * 32, 3, AGENT, 4)
IDENTITY = bytes(VERSION.key(Purpose.STATE))
STATE_KEY = bytes([7]) * 32


def counter_rng(seed: bytes = b"") -> Callable[[int], bytes]:
    """Bytes that never repeat and are the same in every run."""
    calls = iter(range(1 << 30))

    def draw(size: int) -> bytes:
        return hashlib.shake_256(seed + next(calls).to_bytes(8, "big")).digest(size)

    return draw


def keys(identity: bytes = IDENTITY, key: bytes = STATE_KEY) -> StateKeys:
    """The state keys of the test agent."""
    return StateKeys(key, identity)


def at(agent: int = 1, cluster: int = 1, master: int = 1, of: bytes = CLUSTER) -> Epochs:
    """Epochs."""
    return Epochs(agent, cluster, master, of)


def head(height: int, parent: bytes, name: bytes, epoch: int | Epochs = 1) -> Head:
    """A head at an agent epoch, or at given epochs."""
    return Head(at(epoch) if isinstance(epoch, int) else epoch, height, parent, name)


def member(number: int) -> bytes:
    """A gatekeeper's address."""
    return bytes([number]) * 20
