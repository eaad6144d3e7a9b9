"""Running a view of a contract inside the TEE, over proven accounts and words only (spec/chainview.md 23).

Pure: what the code reads is asked of a ``ProvenWorld``; what is not there yet is a ``NeedState``, which whoever has a
chain endpoint answers with a proof before it runs the call again. Everything runs as in STATICCALL. Whatever is not
proven (the block's beneficiary, its randomness, older block hashes) or not built in (some precompiles) ends the whole
run with a refusal: code cannot catch it and go on. Rules and gas: execution-specs, Cancun.
"""

from __future__ import annotations

from cloister.core.chainview.evm_machine import MAX_GAS, AccountFacts, Block, Machine, NeedState, Outcome, ProvenWorld
from cloister.core.chainview.evm_ops import INSTRUCTIONS

__all__ = ["MAX_GAS", "AccountFacts", "Block", "NeedState", "Outcome", "ProvenWorld", "view"]


def view(
    world: ProvenWorld, block: Block, to: bytes, data: bytes, *, caller: bytes = bytes(20), gas: int = MAX_GAS
) -> Outcome:
    """The outcome of calling ``to`` (20 bytes) with ``data``, changing nothing.

    Raises NeedState for state that is not proven yet; ChainViewError (chainview.evm) for what no proof can answer."""
    machine = Machine(INSTRUCTIONS, world, block, caller)
    machine.warm.add(to)
    return machine.enter(to, caller, to, data, gas, 0)
