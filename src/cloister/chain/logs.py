"""Logs in pieces that an endpoint is willing to answer: caps differ by provider, and nobody says them beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from cloister.chain.abi import BAD_ANSWER
from cloister.chain.rpc import RPC_ERROR, TOO_LARGE, UNREACHABLE, Rpc
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import ChainError

# Refusals that a smaller question may not meet; an endpoint that cuts the connection is too slow for the question.
_SMALLER: Final = frozenset({RPC_ERROR.code, TOO_LARGE.code, UNREACHABLE.code, BAD_ANSWER.code})


async def get_logs(
    rpc: Rpc, address: bytes, topics: Sequence[Any], since: int, until: int, *, span: int, most: int
) -> list[Any]:
    """Logs of blocks ``since`` to ``until``, in the endpoint's order: claims. At most ``most``.

    A piece that is refused is asked for in halves, down to one block. Raises ChainError when that is refused too."""
    found: list[Any] = []
    start = since
    while start <= until:
        end = min(start + span - 1, until)
        wanted = {"address": to_hex(address), "topics": list(topics), "fromBlock": hex(start), "toBlock": hex(end)}
        try:
            logs = await rpc.call("eth_getLogs", wanted)
        except ChainError as error:
            if error.code not in _SMALLER or start == end:
                raise
            span = max(1, (end - start + 1) // 2)
            continue
        if not isinstance(logs, list) or len(logs) + len(found) > most:
            raise BAD_ANSWER(expected=f"at most {most} logs", found=type(logs).__name__)
        found += logs
        start = end + 1
    return found
