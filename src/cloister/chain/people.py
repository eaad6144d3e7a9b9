"""Who stands in an agent's record, as a connected chain may be told of it (spec/chains.md 27)."""

from __future__ import annotations

import asyncio

from cloister.chain.proven import ProvenState
from cloister.core.encoding.contract_statements import NOBODY, People


async def people_of(state: ProvenState, agent: bytes, chain_id: int) -> People | None:
    """By proof at a checkpoint; None if there is no such agent. The owner is whom it named for that chain. Without such
    a word an owner with code is nobody elsewhere, as a guardian with code is: its address there may be another's.
    Raises ChainError, ChainViewError."""
    record, rules, speaker = await asyncio.gather(
        state.agent(agent), state.agent_rules(agent), state.speaker(agent, chain_id)
    )
    if record is None:
        return None
    owner, guardian = await asyncio.gather(_keyed(state, record.owner), _keyed(state, record.guardian))
    return People(owner if speaker == NOBODY else speaker, guardian, rules.fee_payer, speaker)


async def _keyed(state: ProvenState, who: bytes) -> bytes:
    return NOBODY if await state.has_code(who) else who
