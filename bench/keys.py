"""The threshold keys: founding ceremony per node, one derived key from 3 of 5, and the same over the network.

``python -m bench.keys [rounds]`` prints what needs no network; the last row is part of ``bench.baseline``.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from coincurve import PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from bench.live import Live
from bench.measure import Row, at_most, cpu_us, fact, finish, median, percentile
from cloister.core.encoding.signatures import address_of
from cloister.core.encoding.statements import Checkpoint
from cloister.core.policy.placement import place
from cloister.core.threshold.dkg import Ceremony, Dealing, KeyShare, Member, deal, verify_dealing
from cloister.core.threshold.dkg import finish as finish_ceremony
from cloister.core.threshold.partial import Partial, TransportKey, Wanted, evaluate, recover, recover_all
from cloister.core.threshold.shares import PublicShares
from cloister.devnet.demo.attacks import RogueNode
from cloister.evidence.tee import Tee
from cloister.wire.committee import Committee
from cloister.wire.messages import KeysRequest, Shown

DKG_MEMBERS = 16
DKG_FLOOR_MS = 50.0
KEY_FLOOR_MS = 30.0


def ceremony_of(size: int, threshold: int) -> tuple[Ceremony, list[bytes]]:
    """A ceremony and its members' private transport keys."""
    privates = [X25519PrivateKey.generate() for _ in range(size)]
    publics = [key.public_key().public_bytes_raw() for key in privates]
    members = tuple(Member(i + 1, os.urandom(20), public) for i, public in enumerate(publics))
    return Ceremony(os.urandom(32), threshold, members), [key.private_bytes_raw() for key in privates]


def dealt(ceremony: Ceremony) -> dict[int, Dealing]:
    """Every member's dealing."""
    return {m.index: deal(ceremony, m.index, os.urandom) for m in ceremony.members}


def node_cpu_ms(size: int = DKG_MEMBERS) -> float:
    """CPU milliseconds of one member's whole part: its dealing, the others' checked, its share."""
    ceremony, privates = ceremony_of(size, size // 2 + 1)
    others = dealt(ceremony)
    committed = {index: dealing.digest(ceremony) for index, dealing in others.items()}
    began = time.process_time_ns()
    deal(ceremony, 1, os.urandom)
    for index, dealing in others.items():
        if index != 1:
            verify_dealing(ceremony, dealing)
    finish_ceremony(ceremony, others, committed, 1, privates[0])
    return (time.process_time_ns() - began) / 1e6


def recovered_cpu_ms(shares: Sequence[KeyShare], public: PublicShares) -> tuple[float, float]:
    """CPU ms of (one member's partial, the asker's recovery from three)."""
    identity, transport = os.urandom(40), TransportKey.generate(os.urandom)
    began = time.process_time_ns()
    partials = [evaluate(share, identity, transport.public, os.urandom) for share in shares[:3]]
    middle = time.process_time_ns()
    recover(partials, 3, public, identity, transport)
    return (middle - began) / 3e6, (time.process_time_ns() - middle) / 1e6


def rows(*, rounds: int = 7) -> list[Row]:
    """What needs no network."""
    ceremony, privates = ceremony_of(5, 3)
    dealings = dealt(ceremony)
    committed = {index: dealing.digest(ceremony) for index, dealing in dealings.items()}
    shares = [finish_ceremony(ceremony, dealings, committed, i + 1, privates[i]) for i in range(5)]
    times = [recovered_cpu_ms(shares, shares[0].public) for _ in range(4 * rounds)]
    node = median(node_cpu_ms() for _ in range(rounds))
    return [
        at_most(f"key generation, {DKG_MEMBERS} members (CPU per node)", node, "ms", DKG_FLOOR_MS),
        fact("  a member's partial key (CPU)", median(t[0] for t in times), "ms"),
        fact("  a key recovered from 3 partials (CPU)", median(t[1] for t in times), "ms"),
    ]


# --- over the network ---


@dataclass(slots=True)
class Asked:
    """Times of one request for keys, ms: the evidence, the committee's answer, opening what it sent."""

    quote: float
    committee: float
    open: float


class BenchNode(RogueNode):
    """An honest worker made of its keys alone: registered, placed, and asking again and again."""

    _asker: tuple[Tee, PrivateKey]

    async def ask(self, agent: bytes, rounds: int) -> list[Asked]:
        """Register, wait until the committee knows, then ask ``rounds`` times."""
        tee = await self._machine("bench", None)
        key = await self._placed_key(agent)
        await self._register(tee, key)
        await self._when_final(address_of(key))
        self._asker = tee, key
        return await self.again(agent, rounds + 2)

    async def again(self, agent: bytes, rounds: int) -> list[Asked]:
        """Ask ``rounds`` times more."""
        return [await self._once(*self._asker, agent) for _ in range(rounds)]

    async def _placed_key(self, agent: bytes) -> PrivateKey:
        view = await self._client.resolver.view()
        committee, workers = await view.state.committee(), await view.state.workers()
        live = [w.worker for w in workers if w.live_at(view.checkpoint.number)]
        record = await self._client.resolver.record(agent)
        cluster = await view.state.cluster(record.cluster)
        assert cluster is not None
        while True:
            key = PrivateKey()
            if address_of(key) in place(committee.term_seed, agent, [*live, address_of(key)], cluster.seats):
                return key

    async def _once(self, tee: Tee, key: PrivateKey, agent: bytes) -> Asked:
        signed = await self._committee.checkpoint()
        at = signed.statement
        assert isinstance(at, Checkpoint)
        began = time.perf_counter()
        transport = TransportKey.generate(secrets.token_bytes)
        shown: Shown = await self._show(tee, self._binding(key, at, {"transport": transport.public}))
        quoted = time.perf_counter()
        granted = await self._committee.keys(KeysRequest(shown, agent, signed))
        answered = time.perf_counter()
        network = self._client.network
        public = PublicShares(network.mpk, network.share_keys, network.transcript)
        wanted = [
            Wanted(bytes(granted.identities[name]), public, [Partial(p.index, p.e1, p.e2, p.e3, p.term) for p in parts])
            for name, parts in granted.partials.items()
        ]
        recover_all(wanted, network.founding.threshold, transport, secrets.token_bytes)  # as a worker does
        over = time.perf_counter()
        return Asked((quoted - began) * 1e3, (answered - quoted) * 1e3, (over - answered) * 1e3)


def _members_cpu_us(net: Live) -> float:
    """CPU of all gatekeepers until now."""
    children = (child for name, child in net.devnet.children.items() if name.startswith("gk-"))
    return sum(cpu_us(child.process.pid) for child in children)


async def live_rows(net: Live, *, rounds: int = 60) -> list[Row]:
    """An agent's keys from 3 of 5 gatekeepers on this machine. Leaves one more worker registered: measure it last.

    CPU of the members is all that they used meanwhile, new blocks and their proofs too, by the number of requests."""
    network = net.client.network
    committee = Committee(net.devnet.gatekeeper_urls(), network.founding, network.id, timeout_s=30.0)
    node = BenchNode(net.devnet, net.client, committee)
    try:
        await node.ask(net.agent, 1)
        before = _members_cpu_us(net)
        asked = await node.again(net.agent, rounds)
        spent = (_members_cpu_us(net) - before) / 1000 / rounds
    finally:
        await committee.close()
    times = [a.committee + a.open for a in asked]
    return [
        at_most("key of an agent from 3 of 5 gatekeepers, p50", percentile(times, 0.5), "ms", KEY_FLOOR_MS),
        fact("  p99", percentile(times, 0.99), "ms"),
        fact("  CPU of the five members together, for each key request", spent, "ms"),
        fact("  of which the committee's answer", percentile([a.committee for a in asked], 0.5), "ms"),
        fact("  of which opening all its keys", percentile([a.open for a in asked], 0.5), "ms"),
        fact("  before it: pretend hardware's quote", percentile([a.quote for a in asked], 0.5), "ms"),
    ]


def main(arguments: Sequence[str]) -> int:
    """The rows of this module that need no network."""
    return finish(rows(rounds=int(arguments[0]) if arguments else 7))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
