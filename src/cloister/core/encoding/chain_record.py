"""A connected chain, in bytes whose hash the network's Directory holds (spec/chains.md 1-3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from cloister.core.encoding import jcs
from cloister.core.encoding.hexes import from_hex, need_bytes, need_fields, need_uint, to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.network import ContractRef
from cloister.core.errors import EncodingError, define

FORMAT: Final = "cloister/v1/chain"
MAX_RECORD: Final = 4096
MAX_AGE_S: Final = 24 * 3600
MAX_DEPTH: Final = 1 << 20
_FIELDS: Final = frozenset({"format", "chain_id", "genesis_hash", "anchor", "since", "tag", "depth", "max_age_s"})

BAD_RECORD = define(
    "encoding.chain_record",
    EncodingError,
    check="a chain's record is complete, canonical, and says when a block of it is final",
    remedy="take the record from the network's operators again and compare its key with the Directory",
)


@dataclass(frozen=True, slots=True)
class ChainRecord:
    """A chain that a network follows beside its own.

    genesis_hash: of its block 0. anchor: this network's Anchor there. since: the block that made it. tag: whether the
    endpoints' `finalized` counts. depth: blocks that stand above a final one, at least. max_age_s: how far its newest
    checkpoint may lie behind the network's own one, by the blocks' times, before workers stop trusting it."""

    chain_id: int
    genesis_hash: bytes
    anchor: ContractRef
    since: int
    tag: bool
    depth: int
    max_age_s: int

    def __post_init__(self) -> None:
        need_uint("chain_id", self.chain_id, 53)
        need_bytes("genesis hash", self.genesis_hash, 32)
        need_uint("since", self.since, 53)
        if not isinstance(self.tag, bool) or not 0 <= self.depth <= MAX_DEPTH or not (self.tag or self.depth):
            raise BAD_RECORD(expected="a finality tag or a depth", found=f"tag {self.tag}, depth {self.depth}")
        if not 1 <= self.max_age_s <= MAX_AGE_S:
            raise BAD_RECORD(expected=f"max_age_s from 1 to {MAX_AGE_S}", found=str(self.max_age_s))

    def encode(self) -> bytes:
        """The canonical bytes."""
        return jcs.encode(
            {
                "format": FORMAT,
                "chain_id": self.chain_id,
                "genesis_hash": to_hex(self.genesis_hash),
                "anchor": self.anchor.to_json(),
                "since": self.since,
                "tag": self.tag,
                "depth": self.depth,
                "max_age_s": self.max_age_s,
            }
        )

    def key(self) -> bytes:
        """keccak256 of the bytes: under this name the Directory has the network's own Anchor while the chain counts."""
        return keccak256(self.encode())

    @classmethod
    def parse(cls, data: bytes) -> ChainRecord:
        """Parse canonical bytes. Raises EncodingError for any that ``encode`` does not give."""
        said: dict[str, Any] = need_fields("chain record", jcs.decode(data, max_size=MAX_RECORD), set(_FIELDS))
        if said["format"] != FORMAT:
            raise BAD_RECORD(expected=FORMAT, found=str(said["format"])[:40])
        record = cls(
            chain_id=need_uint("chain_id", said["chain_id"], 53),
            genesis_hash=from_hex(said["genesis_hash"], 32, name="genesis_hash"),
            anchor=ContractRef.from_json(said["anchor"]),
            since=need_uint("since", said["since"], 53),
            tag=said["tag"],
            depth=need_uint("depth", said["depth"], 32),
            max_age_s=need_uint("max_age_s", said["max_age_s"], 32),
        )
        if record.encode() != data:
            raise BAD_RECORD(expected="the record as this build writes it", found="another spelling")
        return record
