"""POST /v1/keys: the one door through which keys leave (spec/gatekeeper-api.md 6)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from cloister.core.attestation.appraise import REPORT_DATA
from cloister.core.attestation.policy import Policy
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.identity import Epochs, KeyIdentity
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import CloisterError
from cloister.core.policy.release import (
    AgentFacts,
    EpochFacts,
    EpochState,
    Facts,
    Grant,
    Limits,
    Requester,
    may_release,
)
from cloister.core.threshold.partial import Evaluator, Masks
from cloister.gatekeeper.attest import attest
from cloister.gatekeeper.audit import AuditLog
from cloister.gatekeeper.checkpoints import Checkpoints
from cloister.gatekeeper.limits import RateLimit
from cloister.gatekeeper.office import Office
from cloister.gatekeeper.ports import Chain
from cloister.gatekeeper.store import Store
from cloister.wire.messages import KeyPartial, KeysAnswer, KeysRequest, OldPartial, parse

TRANSPORT = "transport"
# Keys of a lease, each under a mask of its own: call (two periods), state, secrets, identity, log.
KEYS = 6
# Turns of the event loop that it takes until questions to other members have left.
LEAVING = 4


_STRICT = (EpochState.RELEASED, EpochState.RESUMED, EpochState.PAUSED, EpochState.DESTROYED)


class KeyDesk:
    """Answers key requests of workers, one decision at a time."""

    def __init__(
        self,
        office: Office,
        checkpoints: Checkpoints,
        chain: Chain,
        store: Store,
        audit: AuditLog,
        *,
        policy: Policy,
        limit: RateLimit,
        rng: Callable[[int], bytes],
        sealed: Callable[[bytes], Epochs | None],
        look: Callable[[], Awaitable[None]],
    ) -> None:
        """``sealed(agent)``: under which epochs its state is, as far as this member may say (``HeadDesk.sealed``).

        ``look``: raises unless this member sees what the others see (``Lookout.require``)."""
        self._office, self._checkpoints, self._chain, self._store, self._audit = (
            office,
            checkpoints,
            chain,
            store,
            audit,
        )
        self._policy, self._limit, self._rng, self._sealed, self._look = policy, limit, rng, sealed, look
        self._evaluators: dict[int, Evaluator] = {}  # by master epoch; they go with this office

    async def answer(self, body: bytes, remote: str) -> KeysAnswer:
        """A lease and partials, or the refusal. Raises CloisterError; each outcome past the rate limit is audited.

        1. size and shape; 2. rate, and t members near our head (K1), asked while we look at 3 to 5; 3. the checkpoint;
        4. evidence, under the policy proven at it; 5. facts, proven and newest; masks while we wait; 6. the
        decision, not before the others answered; 7. signed and evaluated; 8. remembered, answered.
        """
        request = parse(KeysRequest.from_json, body)  # 1
        transport = request.shown.binding.keys.get(TRANSPORT)
        if transport is None or len(transport) != 48:
            raise REPORT_DATA(expected="a transport key of 48 bytes in the binding", found="none")
        node = request.shown.binding.node
        self._limit.take((remote, node))  # 2
        looking = asyncio.ensure_future(self._look())
        try:
            for _ in range(LEAVING):
                await asyncio.sleep(0)
            grant, operator, masks = await self._decide(request, looking)
            partials = self._partials(grant.identities, masks)  # 7
            old = tuple(map(OldPartial, (i.version.epochs for i in grant.old), self._partials(grant.old, masks)))
            answer = KeysAnswer(grant.lease, self._office.sign(grant.lease), partials, old)
            self._store.record_grant(grant.lease, canary=grant.canary, operator=operator)  # 8
        except CloisterError as error:
            self._note(request, error.code, None)
            raise
        finally:
            await _ended(looking)
        self._note(request, "granted", grant)
        return answer

    async def _decide(self, request: KeysRequest, looking: asyncio.Future[None]) -> tuple[Grant, bytes, Masks]:
        """What is granted, the worker's operator (empty where operators do not matter), and masks for the answer."""
        checkpoint = self._checkpoints.accept(request.checkpoint)  # 3
        head = self._checkpoints.head or checkpoint
        _, requester = await attest(  # 4
            request.shown,
            self._chain.at(checkpoint),
            policy=self._policy,
            role="worker",
            network=self._office.network,
            number=checkpoint.number,
            now=max(head.timestamp, checkpoint.timestamp),
            checkpoints=self._checkpoints.recent() | {checkpoint.block_hash},
        )
        masks = Masks(request.shown.binding.keys[TRANSPORT], self._rng, KEYS)
        facts = await self._facts(checkpoint, requester, request.agent, lambda: _while(looking, masks))  # 5
        return may_release(replace(facts, code=request.code)), facts.backing.operator, masks  # 6

    async def _facts(
        self, checkpoint: Checkpoint, requester: Requester, agent: bytes, waited: Callable[[], Awaitable[None]]
    ) -> Facts:
        at, parameters = self._chain.at(checkpoint), self._policy.network
        worker, found, live, newest, backing = await asyncio.gather(
            at.worker(requester.worker),
            at.agent(agent),
            at.placeable(parameters.max_agents_per_worker),
            self._chain.newest(agent, requester.worker),
            self._chain.at(self._checkpoints.head or checkpoint).backing(requester.worker),
        )
        masters = await self._masters(checkpoint, agent, found)
        await waited()  # 2
        # From here to record_grant nothing waits: two requests at once cannot both take the last free place.
        self._checkpoints.require_running()
        return Facts(
            checkpoint=checkpoint,
            requester=requester,
            worker=worker,
            agent=found,
            committee=self._office.facts(),
            live=live,
            limits=Limits(parameters.period_blocks, parameters.max_agents_per_worker),
            newest=newest,
            ledger=replace(
                self._store.ledger(self._office.term, requester.worker, agent),
                sealed=self._sealed(agent),
                operator_held=self._store.operator_held(self._office.term, backing.operator),
            ),
            masters=masters,
            backing=backing,
        )

    async def _masters(self, checkpoint: Checkpoint, agent: bytes, found: AgentFacts | None) -> EpochFacts:
        """What the chain says of the master epoch in use, the next one, and those that the agent is still under.

        The more restrictive word of the shown checkpoint and of our own newest block counts. An epoch that we hold and
        that a checkpoint does not know yet is paused: nothing is released in it before its ``resume`` is final (M2)."""
        sealed, newest = self._sealed(agent), self._office.facts().master_epoch
        older = {e.master for e in (sealed, found.secrets if found else None) if e is not None and e.master < newest}
        states: dict[int, EpochState] = {}
        blocks = {checkpoint, self._checkpoints.head or checkpoint}
        asked = [(self._chain.at(block), epoch) for block in blocks for epoch in {newest, newest + 1} | older]
        for record in await asyncio.gather(*(at.epoch_record(epoch) for at, epoch in asked)):
            if record.state.name == "NONE" and record.epoch > newest:
                continue
            state = EpochState.PAUSED if record.state.name == "NONE" else EpochState[record.state.name]
            states[record.epoch] = max(state, states.get(record.epoch, state), key=_STRICT.index)
        return EpochFacts(states)

    def _partials(self, identities: Sequence[KeyIdentity], masks: Masks) -> tuple[KeyPartial, ...]:
        found: dict[KeyIdentity, KeyPartial] = {}
        for epoch in {identity.version.master_epoch for identity in identities}:
            of = [identity for identity in identities if identity.version.master_epoch == epoch]
            made = self._evaluator(epoch).masked([bytes(identity) for identity in of], masks)
            for i, p in zip(of, made, strict=True):
                found[i] = KeyPartial(i.purpose, i.period, p.index, p.e1, p.e2, p.e3, p.term)
        return tuple(found[identity] for identity in identities)

    def _evaluator(self, epoch: int) -> Evaluator:
        share = self._office.share_for(epoch)
        return self._evaluators.setdefault(epoch, Evaluator(share))

    def _note(self, request: KeysRequest, outcome: str, grant: Grant | None) -> None:
        binding = request.shown.binding
        facts = {"worker": to_hex(binding.node), "agent": to_hex(request.agent), "outcome": outcome}
        if grant is not None:
            lease = grant.lease
            facts |= {"checkpoint": str(lease.checkpoint), "epoch": str(lease.agent_epoch), "period": str(lease.period)}
            if grant.canary:
                facts["code"] = to_hex(lease.code_hash)
            if grant.old:
                facts["reason"] = grant.reason
        self._audit.append("keys", **facts)


async def _while(looking: asyncio.Future[None], masks: Masks) -> None:
    """Make masks until the others answered, one after the other: what they ask us meanwhile must not wait long."""
    for _ in range(KEYS):
        if looking.done():
            break
        masks.prepare()
        await asyncio.sleep(0)
    await looking


async def _ended(looking: asyncio.Future[None]) -> None:
    """Nobody waits for it any more: stop it, and let what it would have raised go."""
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
