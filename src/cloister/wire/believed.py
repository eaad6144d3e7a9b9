"""An operator's word for a halted gatekeeper: which block it believes (spec/gatekeepers.md K4). ``believed.json``, and
``believed-ID.json`` for a connected chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from cloister.core.encoding.hexes import from_hex, need_bytes, need_fields, need_uint, to_hex

BELIEVED_FILE: Final = "believed.json"
CHAIN_FILE: Final = "believed-{}.json"
MAX_BELIEVED_FILE: Final = 1024


def believed_file(chain: int | None) -> str:
    """The name of the file with the word on a connected chain (its id), or on the network's own (None)."""
    return BELIEVED_FILE if chain is None else CHAIN_FILE.format(need_uint("chain", chain, 53))


@dataclass(frozen=True, slots=True)
class Believed:
    """A block of one chain: its height, and its hash (32 bytes). The file's name says which chain."""

    number: int
    block_hash: bytes

    def __post_init__(self) -> None:
        need_uint("number", self.number, 53)
        need_bytes("block hash", self.block_hash, 32)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"number": self.number, "block_hash": to_hex(self.block_hash)}

    @classmethod
    def from_json(cls, value: object) -> Believed:
        """Parse ``to_json`` output. Raises EncodingError."""
        data = need_fields("believed block", value, {"number", "block_hash"})
        return cls(need_uint("number", data["number"], 53), from_hex(data["block_hash"], 32, name="block hash"))
