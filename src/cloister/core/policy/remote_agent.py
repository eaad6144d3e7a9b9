"""May a committee member tell a connected chain of an agent? (spec/chains.md 26-29)

Pure. The facts are those of one final block that the worker names, so that members say the same, and an older block
never counts after a newer one. What restricts counts from any newer block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cloister.core.encoding.contract_statements import REMOTE_SECONDS, People, RemoteAgent
from cloister.core.encoding.statements import Checkpoint, Lease
from cloister.core.errors import PolicyError, define
from cloister.core.policy.release import AgentFacts, Newest, WorkerFacts
from cloister.core.policy.serving import require_in_epoch, require_serving

# How far the block that a worker names may lie behind this member's newest one.
MAX_BEHIND: Final = 16

WRONG_REMOTE = define(
    "policy.remote_agent",
    PolicyError,
    check="what a connected chain is told of an agent is so at the block named, fits term and Anchor, and ends soon",
    remedy="ask again with a newer checkpoint; an agent that is paused is not told of",
    status=403,
)


@dataclass(frozen=True, slots=True)
class RemoteFacts:
    """What the decision rests on. ``held``: the worker's lease, t signatures already checked; ``asked``: what it wants
    signed, its own signature checked. ``anchor``: 20 bytes, of the chain asked for. ``then`` and ``people``: the agent
    at the block named; ``speakers``: whom the newest blocks of this member's endpoints name for that chain; all else
    at the newest final block ``head``, or newer."""

    head: Checkpoint
    term: int
    anchor: bytes
    held: Lease
    asked: RemoteAgent
    worker: WorkerFacts | None
    agent: AgentFacts | None
    newest: Newest
    then: AgentFacts | None
    people: People | None
    speakers: frozenset[bytes]


def may_tell(facts: RemoteFacts) -> None:
    """Raise PolicyError unless the member may sign ``facts.asked``.

    1. it is for this place and term; 2. the held lease is of the same agent and epoch, and lasts; 3. the worker is in
    service, this very boot; 4. the agent runs, at this epoch, with the code of the lease, at the newest final block, at
    the one named, and no newer block paused it; 5. the block named is a recent one, and owner, guardian and payer are
    those of it, and no newer block names another address for the owner there; 6. the end is ahead, at most two hours.
    """
    asked, held = facts.asked, facts.held
    if (asked.term, asked.anchor) != (facts.term, facts.anchor):  # 1
        raise WRONG_REMOTE(expected=f"term {facts.term} and the chain's Anchor", found="another place or term")
    if (held.agent, held.agent_epoch) != (asked.agent, asked.agent_epoch):  # 2
        raise WRONG_REMOTE(expected="the agent and epoch of the lease held", found="others")
    if held.expiry <= facts.head.number:
        raise WRONG_REMOTE(expected=f"a lease beyond block {facts.head.number}", found=f"block {held.expiry}")
    require_serving(facts.worker, facts.newest, held, facts.head.number)  # 3
    for agent in (facts.agent, facts.then):  # 4
        require_in_epoch(agent, facts.newest, asked.agent_epoch, held.code_hash)
    if facts.then is None or facts.then.agent_epoch != asked.agent_epoch:
        raise WRONG_REMOTE(expected="the epoch of the block named", found="another")
    if not 0 <= facts.head.number - asked.height <= MAX_BEHIND:  # 5
        raise WRONG_REMOTE(expected=f"a block near {facts.head.number}", found=f"block {asked.height}")
    people = facts.people
    if people is None or (people.owner, people.guardian, people.payer) != (asked.owner, asked.guardian, asked.payer):
        raise WRONG_REMOTE(expected="owner, guardian and payer of the block named", found="others")
    if facts.speakers != {people.speaker}:
        raise WRONG_REMOTE(expected="an owner who names nobody else by now", found="another name at a newer block")
    ahead = asked.expiry - facts.head.timestamp
    if not 0 < ahead <= REMOTE_SECONDS:  # 6
        raise WRONG_REMOTE(expected=f"an end 1 to {REMOTE_SECONDS} s ahead", found=f"{ahead} s")
