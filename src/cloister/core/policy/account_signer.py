"""May a committee member sign who acts for an agent's contract account? (spec/accounts.md 2)

Pure. The signer is the agent's own key of one epoch, which every worker with a lease of it derives. A member cannot
derive it; so it signs one signer per agent epoch and remembers it. Whoever names a wrong one gains nothing that the
key itself would not give, and ends with the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass

from cloister.core.encoding.statements import Checkpoint, Lease, SetSigner
from cloister.core.errors import PolicyError, define
from cloister.core.policy.release import AgentFacts, Newest, WorkerFacts
from cloister.core.policy.serving import require_in_epoch, require_serving

WRONG_SIGNER = define(
    "policy.account_signer",
    PolicyError,
    check="a worker names the signer of an agent's account for the agent and epoch of its own lease",
    remedy="ask again with a lease of the agent's present epoch",
    status=403,
)
SIGNER_KNOWN = define(
    "policy.account_signer_known",
    PolicyError,
    check="an agent's account has one signer per agent epoch, and this member has signed for another one",
    remedy="one of the agent's workers names a wrong key: the owner bumps the agent's epoch, and asks for its removal",
    status=409,
)


@dataclass(frozen=True, slots=True)
class SignerFacts:
    """What the decision rests on. ``held``: the worker's lease, t signatures already checked. ``known``: whom this
    member signed for in that agent epoch (20 bytes), None: nobody yet."""

    head: Checkpoint
    term: int
    held: Lease
    asked: SetSigner
    worker: WorkerFacts | None
    agent: AgentFacts | None
    newest: Newest
    known: bytes | None


def may_sign_signer(facts: SignerFacts) -> None:
    """Raise PolicyError unless the member may sign ``facts.asked``.

    1. it is for this term, and names somebody; 2. the held lease is of the same agent and epoch, and lasts; 3. the
    worker is in service, this very boot; 4. the agent runs, at this epoch, with the code of the lease, and no newer
    block paused it or closed the epoch; 5. this member signed for no other key in that epoch.
    """
    asked, held = facts.asked, facts.held
    if asked.term != facts.term or not any(asked.signer):  # 1
        raise WRONG_SIGNER(expected=f"a signer, in term {facts.term}", found=f"term {asked.term}, or nobody")
    if (held.agent, held.agent_epoch) != (asked.agent, asked.agent_epoch):  # 2
        raise WRONG_SIGNER(expected="the agent and epoch of the lease held", found="others")
    if held.expiry <= facts.head.number:
        raise WRONG_SIGNER(expected=f"a lease beyond block {facts.head.number}", found=f"block {held.expiry}")
    require_serving(facts.worker, facts.newest, held, facts.head.number)  # 3
    require_in_epoch(facts.agent, facts.newest, asked.agent_epoch, held.code_hash)  # 4
    if facts.known is not None and facts.known != asked.signer:  # 5
        raise SIGNER_KNOWN(expected=f"the signer of epoch {asked.agent_epoch} that we know", found="another")
