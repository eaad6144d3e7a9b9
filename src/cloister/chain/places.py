"""Where the committee's members say that they answer. Unproven: what they answer is signed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cloister.chain.contracts import call
from cloister.chain.rpc import Rpc
from cloister.core.encoding.signatures import MAX_MEMBERS


async def endpoints_of(rpc: Rpc, gatekeepers: bytes, members: Sequence[bytes] | None = None) -> tuple[str, ...]:
    """Base URLs of members (20-byte addresses) that named one; of those in office without ``members``.

    ``gatekeepers``: address of the contract. Raises ChainError."""
    if members is None:
        members = await call(rpc, gatekeepers, "Gatekeepers", "members")
    asked = (call(rpc, gatekeepers, "Gatekeepers", "candidate", one) for one in members[:MAX_MEMBERS])
    return tuple(one["endpoint"].rstrip("/") for one in await asyncio.gather(*asked) if one["endpoint"])
