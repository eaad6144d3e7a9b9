"""Who stands in an agent's record, as a connected chain may be told of it (spec/chains.md 27)."""

from __future__ import annotations

import asyncio

from cloister.chain.proven import ProvenState
from cloister.core.encoding.contract_statements import NOBODY, People


async def people_of(state: ProvenState, agent: bytes) -> People | None:
    """By proof at a checkpoint; None if there is no such agent. An owner or guardian with code is nobody elsewhere: its
    address there may be another's. Raises ChainError, ChainViewError."""
    record, rules = await asyncio.gather(state.agent(agent), state.agent_rules(agent))
    if record is None:
        return None
    both = (record.owner, record.guardian)
    coded = await asyncio.gather(*(state.has_code(who) for who in both))
    owner, guardian = (NOBODY if code else who for who, code in zip(both, coded, strict=True))
    return People(owner, guardian, rules.fee_payer)
