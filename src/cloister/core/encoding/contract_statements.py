"""Statements for contracts that no worker makes by itself: validations, hand-overs, the Anchor (spec/statements.md).

Apart from ``statements``, which every service loads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from cloister.core.encoding.statements import ADDRESS, B32, U64, U256, Statement


@dataclass(frozen=True, slots=True)
class TeeValidation(Statement):
    """The committee rates an agent's attestation, 0 (revoked) to 100, until block ``expiry``. Signed by t members."""

    NAME: ClassVar[str] = "TeeValidation"
    TYPES: ClassVar[dict[str, str]] = {
        "term": U64,
        "agent": B32,
        "agent_epoch": U64,
        "serial": U64,
        "response": U64,
        "evidence": B32,
        "expiry": U64,
    }
    term: int
    agent: bytes
    agent_epoch: int
    serial: int
    response: int
    evidence: bytes
    expiry: int


@dataclass(frozen=True, slots=True)
class SignerHandover(Statement):
    """An Anchor's next signer set; ``members`` = keccak256(abi.encode(addresses)). Signed by t of the current set."""

    NAME: ClassVar[str] = "SignerHandover"
    TYPES: ClassVar[dict[str, str]] = {
        "term": U64,
        "chain_id": U256,
        "anchor": ADDRESS,
        "next_term": U64,
        "threshold": U64,
        "members": B32,
        "expiry": U64,
    }
    term: int
    chain_id: int
    anchor: bytes
    next_term: int
    threshold: int
    members: bytes
    expiry: int


@dataclass(frozen=True, slots=True)
class AnchorLease(Statement):
    """Worker W may answer for agent A at this Anchor until ``expiry`` (Unix seconds). Signed by t members."""

    NAME: ClassVar[str] = "AnchorLease"
    TYPES: ClassVar[dict[str, str]] = {
        "term": U64,
        "chain_id": U256,
        "anchor": ADDRESS,
        "agent": B32,
        "agent_epoch": U64,
        "code_hash": B32,
        "worker": ADDRESS,
        "vendor_class": B32,
        "payee": ADDRESS,
        "expiry": U64,
    }
    term: int
    chain_id: int
    anchor: bytes
    agent: bytes
    agent_epoch: int
    code_hash: bytes
    worker: bytes
    vendor_class: bytes
    payee: bytes
    expiry: int


@dataclass(frozen=True, slots=True)
class AnchorAnswer(Statement):
    """A worker answers a contract's request: commitment, keccak256 of the reply, hash of its commit (0: none)."""

    NAME: ClassVar[str] = "AnchorAnswer"
    TYPES: ClassVar[dict[str, str]] = {"chain_id": U256, "anchor": ADDRESS, "request": B32, "reply": B32, "commit": B32}
    chain_id: int
    anchor: bytes
    request: bytes
    reply: bytes
    commit: bytes


@dataclass(frozen=True, slots=True)
class AnchorCommit(Statement):
    """A worker commits to an agent's store at an Anchor, without a request, until ``deadline`` (Unix seconds)."""

    NAME: ClassVar[str] = "AnchorCommit"
    TYPES: ClassVar[dict[str, str]] = {
        "chain_id": U256,
        "anchor": ADDRESS,
        "agent": B32,
        "commit": B32,
        "deadline": U64,
    }
    chain_id: int
    anchor: bytes
    agent: bytes
    commit: bytes
    deadline: int


@dataclass(frozen=True, slots=True)
class People:
    """Who stands in an agent's record at a block, as one connected chain is told, 20 bytes each.

    ``owner``: whom the owner named for that chain, else itself; an owner that named none, or a guardian, with code is
    ``NOBODY``. ``speaker``: whom it named, or ``NOBODY``."""

    owner: bytes
    guardian: bytes
    payer: bytes
    speaker: bytes = bytes(20)


NOBODY: Final = bytes(20)
# How long a RemoteAgent counts: so long a pause at home may pass unseen there, whoever is broken.
REMOTE_SECONDS: Final = 2 * 3600


@dataclass(frozen=True, slots=True)
class RemoteAgent(Statement):
    """An agent as it was at block ``height`` of the network's own chain, for the registry beside this Anchor, until
    ``expiry`` (Unix seconds). An owner or guardian with code is 0: elsewhere its address may be somebody else's. Signed
    by t members (spec/chains.md 26-29)."""

    NAME: ClassVar[str] = "RemoteAgent"
    TYPES: ClassVar[dict[str, str]] = {
        "term": U64,
        "chain_id": U256,
        "anchor": ADDRESS,
        "agent": B32,
        "agent_epoch": U64,
        "owner": ADDRESS,
        "guardian": ADDRESS,
        "payer": ADDRESS,
        "height": U64,
        "expiry": U64,
    }
    term: int
    chain_id: int
    anchor: bytes
    agent: bytes
    agent_epoch: int
    owner: bytes
    guardian: bytes
    payer: bytes
    height: int
    expiry: int


@dataclass(frozen=True, slots=True)
class WorkerBumps(Statement):
    """The committee ends the epochs of agents that a removed worker held; ``agents`` = keccak256(abi.encode(token ids,
    the epochs that end)). Signed by t members."""

    NAME: ClassVar[str] = "WorkerBumps"
    TYPES: ClassVar[dict[str, str]] = {"term": U64, "worker": ADDRESS, "agents": B32}
    term: int
    worker: bytes
    agents: bytes


@dataclass(frozen=True, slots=True)
class Resealed(Statement):
    """The newest endorsed heads of these agents are under ``master_epoch`` or a later one; ``agents`` =
    keccak256(abi.encode(token ids)). Signed by t members."""

    NAME: ClassVar[str] = "Resealed"
    TYPES: ClassVar[dict[str, str]] = {"term": U64, "master_epoch": U64, "agents": B32}
    term: int
    master_epoch: int
    agents: bytes
