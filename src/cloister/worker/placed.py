"""One agent on this worker under one version of its code and epochs, and what holding agents needs of the machine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cloister.core.chainview.records import AgentRecord
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import Signed
from cloister.core.envelope.certificate import KeyCertificate
from cloister.core.state.endorse import Answer
from cloister.sandbox.ports import Reserve
from cloister.wire.heads import HeadMove
from cloister.worker.agentlog import AgentLog
from cloister.worker.bundles import Outside
from cloister.worker.host import AgentHost, Extra
from cloister.worker.leases import AgentKeys
from cloister.worker.processes import NOT_HERE, Budget, Pool
from cloister.worker.state import AgentState


@dataclass(slots=True, eq=False)
class Placed:
    """One agent on this worker. ``keys`` is the newest period's lease, ``older`` the one before while it is valid.

    ``pool``: its processes. ``secrets``: of the newest one. ``closed``: dropped; requests that still hold it start
    nothing and commit nothing. ``canary``: the second version that runs beside it, over the same state."""

    keys: AgentKeys
    record: AgentRecord
    state: AgentState
    host: AgentHost
    pool: Pool
    older: AgentKeys | None = None
    secrets: tuple[str, ...] = field(default=(), repr=False)
    closed: bool = False
    canary: Placed | None = None

    def versions(self) -> Iterator[Placed]:
        """Itself and its canary."""
        yield self
        if self.canary is not None:
            yield self.canary

    def serving(self, certificate: KeyCertificate) -> Placed:
        """The version that a certificate was made for: the caller chose it, and it alone answers.

        Raises worker.no_such_agent when it ended meanwhile."""
        if self.keys.terms.code_hash == certificate.code_hash:
            return self
        if self.canary is not None and self.canary.keys.terms.code_hash == certificate.code_hash:
            return self.canary
        raise NOT_HERE(expected="a version that runs", found=to_hex(certificate.code_hash)[:18])

    def open_psk(self, certificate: KeyCertificate, ibe: bytes) -> bytes:
        """Decrypt a caller's pre-shared key by the lease that the certificate belongs to.

        Raises worker.no_such_agent when that lease has ended, ThresholdError for a ciphertext that does not open."""
        for keys in (keys for one in self.versions() for keys in (one.keys, one.older)):
            if keys is not None and keys.seat.certificate.id == certificate.id:
                return keys.open_psk(certificate, ibe)
        raise NOT_HERE(expected="a certificate of a lease held now", found=f"period {certificate.period}")


class Acquire(Protocol):
    """Gets an agent's keys under a lease of its version in force, or of the canary with this code hash."""

    async def __call__(self, agent: bytes, code: bytes | None = None) -> AgentKeys:
        """Raises the committee's refusal, EvidenceError, ThresholdError."""


@dataclass(frozen=True, slots=True)
class Devices:
    """What the table needs from this machine. ``acquire(agent)`` gets keys, ``(agent, code)`` those of its canary;
    ``heads(agent)`` what the committee remembers, with the quorum; ``endorse(keys, moves)`` a quorum's signatures on
    the last of these moves; ``attest(nonce)`` evidence for agent code; ``log(agent)`` an agent's log; ``offer(placed)``
    what its code may ask besides its state; ``budget``: what processes may use; ``blanks``: those that wait without an
    agent's code."""

    acquire: Acquire
    heads: Callable[[bytes], Awaitable[tuple[Sequence[Answer], int]]]
    endorse: Callable[[AgentKeys, Sequence[HeadMove]], Awaitable[Signed]]
    attest: Callable[[bytes], Awaitable[Mapping[str, Any]]]
    log: Callable[[bytes], AgentLog]
    rng: Callable[[int], bytes]
    outside: Outside
    offer: Callable[[Placed], Mapping[str, Extra]] = lambda placed: {}
    budget: Budget = field(default_factory=Budget)
    blanks: Reserve | None = None
