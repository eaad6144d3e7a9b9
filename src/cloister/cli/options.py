"""Options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from cloister.client.demand import Demand

AsJson = Annotated[bool, typer.Option("--json", help="Print facts as JSON.")]
WalletName = Annotated[str | None, typer.Option("--wallet", help="Wallet that signs.", metavar="NAME")]
PassphraseFd = Annotated[int | None, typer.Option("--passphrase-fd", help="Descriptor to read the passphrase from.")]
AllowInstant = Annotated[
    bool, typer.Option("--allow-instant", help="Also call an agent whose owner may swap its code at once.")
]


def demand_of(code_hash: str | None, vendor: str | None, allow_instant: bool, evidence: bool) -> Demand:
    """The demand that these options make. Raises EncodingError for a malformed hash."""
    from cloister.client.demand import Demand
    from cloister.core.encoding.hexes import from_hex

    return Demand(
        code_hash=from_hex(code_hash.lower(), 32, name="code hash") if code_hash else None,
        vendor=vendor,
        upgrade_not_instant=not allow_instant,
        evidence=evidence,
    )


AgentName = Annotated[str, typer.Argument(help="Agent id (0x…) or token id.")]
