"""Statements that the committee, workers and wallets sign: EIP-712 typed data (spec/statements.md).

Domain: name "Cloister", version "1", salt = network id. No chain id and no contract address: the network id commits
to both. A class here is the whole definition: its EIP-712 type string follows from its annotations, and the Solidity
library ``Statements.sol`` and the TypeScript SDK are tested against the vectors that this module generates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Self

from cloister.core.encoding.hexes import BAD_SIZE, from_hex, need_bytes, need_fields, need_uint, to_hex
from cloister.core.encoding.identity import Epochs
from cloister.core.encoding.keccak import keccak256

_DOMAIN_TYPE = keccak256(b"EIP712Domain(string name,string version,bytes32 salt)")
_NAME, _VERSION = keccak256(b"Cloister"), keccak256(b"1")

U64, U256, B32, ADDRESS = "uint64", "uint256", "bytes32", "address"
_DECIMAL = re.compile("0|[1-9][0-9]{0,77}")


@lru_cache(maxsize=64)
def domain_separator(network: bytes) -> bytes:
    """EIP-712 domain separator of a network id (32 bytes)."""
    return keccak256(_DOMAIN_TYPE, _NAME, _VERSION, need_bytes("network id", network, 32))


@dataclass(frozen=True, slots=True)
class Statement:
    """Base: ``digest(network)`` is what is signed; ``to_json``/``from_json`` is how it travels.

    TYPES names the fields of the class, in their order."""

    TYPES: ClassVar[dict[str, str]] = {}
    NAME: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, kind in self.TYPES.items():
            _word(kind, name, getattr(self, name))

    @classmethod
    def type_string(cls) -> str:
        """The EIP-712 encodeType text."""
        return _type_string(cls.NAME, cls.TYPES.items())

    def struct_hash(self) -> bytes:
        """EIP-712 hashStruct. 32 bytes."""
        words = [_word(kind, name, getattr(self, name)) for name, kind in self.TYPES.items()]
        return keccak256(_hash_of(self.NAME, tuple(self.TYPES.items())), *words)

    def digest(self, network: bytes) -> bytes:
        """The 32 bytes to sign, under this network's domain."""
        return keccak256(b"\x19\x01", domain_separator(network), self.struct_hash())

    def to_json(self) -> dict[str, Any]:
        """JSON-ready fields: bytes as hex, integers as integers (uint256 as decimal text)."""
        return {name: _plain(kind, getattr(self, name)) for name, kind in self.TYPES.items()}

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Parse ``to_json`` output. Raises EncodingError for anything else, unknown fields included."""
        data = need_fields(cls.NAME, value, set(cls.TYPES))
        return cls(**{name: _parse(cls.TYPES[name], name, item) for name, item in data.items()})


@dataclass(frozen=True, slots=True)
class Checkpoint(Statement):
    """A finalised block that the committee vouches for. Signed by t members, descendants of the last signed only."""

    NAME: ClassVar[str] = "Checkpoint"
    TYPES: ClassVar[dict[str, str]] = {
        "term": U64,
        "chain_id": U256,
        "number": U64,
        "block_hash": B32,
        "state_root": B32,
        "timestamp": U64,
    }
    term: int
    chain_id: int
    number: int
    block_hash: bytes
    state_root: bytes
    timestamp: int


@dataclass(frozen=True, slots=True)
class Lease(Statement):
    """Worker W (boot b) may run agent A at these versions until block ``expiry``. Signed by t members."""

    NAME: ClassVar[str] = "Lease"
    TYPES: ClassVar[dict[str, str]] = {
        "term": U64,
        "agent": B32,
        "code_hash": B32,
        "manifest_hash": B32,
        "cluster": B32,
        "master_epoch": U64,
        "cluster_epoch": U64,
        "agent_epoch": U64,
        "period": U64,
        "worker": ADDRESS,
        "boot": B32,
        "checkpoint": U64,
        "expiry": U64,
    }
    term: int
    agent: bytes
    code_hash: bytes
    manifest_hash: bytes
    cluster: bytes
    master_epoch: int
    cluster_epoch: int
    agent_epoch: int
    period: int
    worker: bytes
    boot: bytes
    checkpoint: int
    expiry: int

    @property
    def epochs(self) -> Epochs:
        """The epochs of the keys that the lease stands for."""
        return Epochs(self.agent_epoch, self.cluster_epoch, self.master_epoch, self.cluster)


@dataclass(frozen=True, slots=True)
class StateHead(Statement):
    """Agent state under these epochs moved from ``parent`` to ``head``. A member signs one child per parent."""

    NAME: ClassVar[str] = "StateHead"
    TYPES: ClassVar[dict[str, str]] = {
        "term": U64,
        "agent": B32,
        "cluster": B32,
        "master_epoch": U64,
        "cluster_epoch": U64,
        "agent_epoch": U64,
        "height": U64,
        "parent": B32,
        "head": B32,
    }
    term: int
    agent: bytes
    cluster: bytes
    master_epoch: int
    cluster_epoch: int
    agent_epoch: int
    height: int
    parent: bytes
    head: bytes


@dataclass(frozen=True, slots=True)
class WorkerAdmission(Statement):
    """The committee checked this worker's evidence; Workers.register takes it with t signatures."""

    NAME: ClassVar[str] = "WorkerAdmission"
    TYPES: ClassVar[dict[str, str]] = {
        "term": U64,
        "worker": ADDRESS,
        "operator": ADDRESS,
        "vendor_class": B32,
        "measurement": B32,
        "boot": B32,
        "expiry": U64,
    }
    term: int
    worker: bytes
    operator: bytes
    vendor_class: bytes
    measurement: bytes
    boot: bytes
    expiry: int


@dataclass(frozen=True, slots=True)
class WorkerRemoval(Statement):
    """The committee removes a worker for cause, for good. Signed by t members."""

    NAME: ClassVar[str] = "WorkerRemoval"
    TYPES: ClassVar[dict[str, str]] = {"term": U64, "worker": ADDRESS}
    term: int
    worker: bytes


@dataclass(frozen=True, slots=True)
class EpochBump(Statement):
    """The committee ends an agent epoch for cause; names the epoch that ends. Signed by t members."""

    NAME: ClassVar[str] = "EpochBump"
    TYPES: ClassVar[dict[str, str]] = {"term": U64, "agent": B32, "agent_epoch": U64}
    term: int
    agent: bytes
    agent_epoch: int


@dataclass(frozen=True, slots=True)
class SetSigner(Statement):
    """The epoch key that may sign for an agent's contract account."""

    NAME: ClassVar[str] = "SetSigner"
    TYPES: ClassVar[dict[str, str]] = {"term": U64, "agent": B32, "agent_epoch": U64, "signer": ADDRESS}
    term: int
    agent: bytes
    agent_epoch: int
    signer: bytes


@dataclass(frozen=True, slots=True)
class CallerSession(Statement):
    """A wallet opens one sealed session: bound to the agent, the worker's boot and this very HPKE context."""

    NAME: ClassVar[str] = "CallerSession"
    TYPES: ClassVar[dict[str, str]] = {"agent": B32, "boot": B32, "exporter": B32, "expiry": U64}
    agent: bytes
    boot: bytes
    exporter: bytes
    expiry: int


@dataclass(frozen=True, slots=True)
class HeartBeat(Statement):
    """A gatekeeper's answer to a worker's nonce: what height it sees. Signed by one member."""

    NAME: ClassVar[str] = "HeartBeat"
    TYPES: ClassVar[dict[str, str]] = {"term": U64, "nonce": B32, "number": U64, "block_hash": B32}
    term: int
    nonce: bytes
    number: int
    block_hash: bytes


@lru_cache(maxsize=256)
def _hash_of(name: str, types: tuple[tuple[str, str], ...]) -> bytes:
    return keccak256(_type_string(name, types).encode())


def _type_string(name: str, types: Iterable[tuple[str, str]]) -> str:
    return f"{name}({','.join(f'{kind} {_camel(field)}' for field, kind in types)})"


@lru_cache(maxsize=64)
def _bits(kind: str) -> int:
    return int(kind.removeprefix("uint"))


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _word(kind: str, name: str, value: object) -> bytes:
    if kind == B32:
        return need_bytes(name, value, 32)
    if kind == ADDRESS:
        return need_bytes(name, value, 20).rjust(32, b"\0")
    return need_uint(name, value, _bits(kind)).to_bytes(32, "big")


def _plain(kind: str, value: Any) -> Any:
    if isinstance(value, bytes):
        return to_hex(value)
    return str(value) if kind == U256 else value


def _parse(kind: str, name: str, value: object) -> Any:
    if kind in (B32, ADDRESS):
        return from_hex(value, 32 if kind == B32 else 20, name=name)
    if kind != U256:
        return need_uint(name, value, _bits(kind))
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
        raise BAD_SIZE(expected=f"{name} as decimal text, no zeros in front", found=type(value).__name__)
    return need_uint(name, int(value), 256)
