"""Settings of connected chains, the same for gatekeepers and workers (docs/operate/chains.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloister.chain.kinds import kind_of
from cloister.core.encoding.chain_record import MAX_RECORD, ChainRecord
from cloister.core.errors import ConfigError, define

MAX_CHAINS: Final = 16

BAD_CHAIN = define(
    "config.chain",
    ConfigError,
    check="each connected chain has a readable record, endpoints for its quorum, and a chain id of its own",
    remedy="correct the entry of `chains`; docs/operate/chains.md shows one",
)


@dataclass(frozen=True, slots=True)
class ChainSetting:
    """record: its file. rpc: endpoints, the first serves proofs. rpc_quorum: how many must agree (0: all). kind: as in
    ``chain.kinds``."""

    record: Path
    rpc: list[str]
    rpc_quorum: int = 0
    kind: str = "ethereum"

    def quorum(self) -> int:
        """How many endpoints must agree. Raises ConfigError."""
        wanted = self.rpc_quorum or len(self.rpc)
        if not 1 <= wanted <= len(self.rpc):
            raise BAD_CHAIN(expected=f"at least {max(wanted, 1)} endpoints", found=str(len(self.rpc)))
        return wanted


def load_chains(settings: Sequence[ChainSetting], home: int) -> list[tuple[ChainSetting, ChainRecord]]:
    """Every setting with its record. ``home``: the network's own chain id. Raises ConfigError, EncodingError."""
    found = []
    for setting in settings:
        setting.quorum()
        kind_of(setting.kind)
        found.append((setting, ChainRecord.parse(_read(setting.record))))
    ids = [home, *(record.chain_id for _, record in found)]
    if len(set(ids)) != len(ids) or len(found) > MAX_CHAINS:
        raise BAD_CHAIN(expected=f"at most {MAX_CHAINS} chains beside the own one, each once", found="others")
    return found


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_RECORD + 1)
    except OSError as error:
        raise BAD_CHAIN(expected=f"to read {path.name}", found=error.strerror or "an error") from None
