"""How chains differ for those who send to them: one small description per kind (docs/operate/chains.md).

What is final is no matter of taste: it stands in the chain's record, which the network's Directory holds. Everything
here only decides whether and when a transaction gets in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cloister.core.errors import ConfigError, define

GWEI: Final = 10**9
# Where chains of the OP stack say what a transaction's data costs on the chain below (its predeployed price oracle).
_OP_ORACLE: Final = bytes.fromhex("420000000000000000000000000000000000000f")

UNKNOWN_KIND = define(
    "chain.unknown_kind",
    ConfigError,
    check="the kind of a chain is one of those in docs/operate/chains.md",
    remedy="choose the kind whose endpoints behave alike; `ethereum` is the usual one",
)


@dataclass(frozen=True, slots=True)
class ChainKind:
    """legacy: transactions have one gas price (EIP-155) instead of EIP-1559's two. tip: wei per gas that validators get
    at least. gas_percent and gas_room: the limit is so much of the estimate, plus the room. pending: the transaction
    count `pending` knows of the pool. data_fee: the contract that says what data costs beside gas (20 bytes), or
    None. log_span: blocks per question for logs, halved when an endpoint refuses."""

    legacy: bool = False
    tip: int = GWEI
    gas_percent: int = 150
    gas_room: int = 300_000
    pending: bool = True
    data_fee: bytes | None = None
    log_span: int = 10_000


ETHEREUM: Final = ChainKind()
KINDS: Final[Mapping[str, ChainKind]] = {
    "ethereum": ETHEREUM,
    "legacy": ChainKind(legacy=True, log_span=2_000),
    "op-stack": ChainKind(tip=GWEI // 1000, data_fee=_OP_ORACLE, log_span=2_000),
    "polygon": ChainKind(tip=30 * GWEI, log_span=1_000),
    # Gas has three dimensions there and an estimate is often three times what is used: no room on top of it. The pool
    # is another system's: its transactions are in no count and found by no hash before their block.
    "polkadot-hub": ChainKind(legacy=True, gas_percent=110, gas_room=0, pending=False, log_span=500),
}


def kind_of(name: str) -> ChainKind:
    """The kind of that name. Raises ConfigError."""
    if name not in KINDS:
        raise UNKNOWN_KIND(expected=f"one of {', '.join(KINDS)}", found=name[:40])
    return KINDS[name]
