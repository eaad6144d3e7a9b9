"""What hostile endpoints, workers and gateways tell a client, sentence by sentence, and the code of each refusal.

The clients of every language are held to these tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cloister.core.encoding.hexes import to_hex
from support.fake_world import MEMBERS, STRANGERS, fresh

Change = Callable[[Any], None]


def reoffer(net: Any, *workers: Any, **changes: Any) -> None:
    net.gateway.offer(net.agent, *workers, **changes)


def strangers_checkpoint(net: Any) -> None:
    net.gateway.checkpoint = lambda: net.world.sign(net.world.checkpoint(), STRANGERS[:3])


def two_signatures(net: Any) -> None:
    net.gateway.checkpoint = lambda: net.world.sign(net.world.checkpoint(), MEMBERS[:2])


def one_signed_twice(net: Any) -> None:
    net.gateway.checkpoint = lambda: net.world.sign(net.world.checkpoint(), (MEMBERS[0],) * 3)


def other_term(net: Any) -> None:
    net.gateway.checkpoint = lambda: net.world.sign(replace(net.world.checkpoint(), term=2))


def altered_checkpoint(net: Any) -> None:
    def made() -> Any:
        good = net.world.sign(net.world.checkpoint())
        return replace(good, statement=replace(good.statement, state_root=fresh()))

    net.gateway.checkpoint = made


def stale_clock(net: Any) -> None:
    net.world.now += 121


def future_clock(net: Any) -> None:
    net.world.now -= 40


def agent_paused(net: Any) -> None:
    net.world.set_agent(paused=True)
    net.world.mine()


def agent_paused_in_a_newer_block(net: Any) -> None:
    net.world.paused_now.add(net.agent)


def no_such_agent(net: Any) -> None:
    net.agent = fresh()
    net.world.agents[net.agent] = next(iter(net.world.agents.values()))


def no_seats(net: Any) -> None:
    net.gateway.seats = {}


def garbage_seats(net: Any) -> None:
    net.gateway.seats[net.agent] = [1, {}, None, {"certificate": {}, "certificate_signature": "0x", "lease": {}}]


def strangers_lease(net: Any) -> None:
    reoffer(net, members=STRANGERS[:3])


def two_members_lease(net: Any) -> None:
    reoffer(net, members=MEMBERS[:2])


def certificate_without_lease(net: Any) -> None:
    for seat in net.gateway.seats[net.agent]:
        seat["certificate"]["hpke_key"] = to_hex(fresh())


def certificate_of_another_boot(net: Any) -> None:
    for seat in net.gateway.seats[net.agent]:
        seat["certificate"]["boot"] = to_hex(fresh())


def longer_certificate(net: Any) -> None:
    for seat in net.gateway.seats[net.agent]:
        seat["certificate"]["expiry"] += 1


def expired_lease(net: Any) -> None:
    reoffer(net, expiry=net.world.number)


def old_code(net: Any) -> None:
    net.world.set_agent(code_hash=fresh())
    net.world.mine()


def old_epoch(net: Any) -> None:
    net.world.set_agent(epoch=2)
    net.world.mine()


def worker_restarted(net: Any) -> None:
    for worker in (net.one, net.two):
        net.world.set_worker(worker.key, fresh())
    net.world.mine()


def workers_removed(net: Any) -> None:
    for worker in (net.one, net.two):
        net.world.set_worker(worker.key, worker.boot, removed=True)
    net.world.mine()


def workers_expired(net: Any) -> None:
    for worker in (net.one, net.two):
        net.world.set_worker(worker.key, worker.boot, expiry=net.world.number)
    net.world.mine()


def workers_removed_in_a_newer_block(net: Any) -> None:
    net.world.removed_now |= {net.one.address, net.two.address}


def other_committee(net: Any) -> None:
    net.world.stores["Gatekeepers"].struct("_committee", None, {"term": 3})
    net.world.mine()


def other_code_at_the_contract(net: Any) -> None:
    net.world.code_hash = lambda name: b"\x01" * 32
    net.world.mine()


def lying_proof(net: Any) -> None:
    original = net.world.get_proof

    def lie(address: bytes, slots: list[int], number: int) -> dict[str, Any]:
        answer: dict[str, Any] = original(address, slots, number)
        for entry in answer["storageProof"]:
            entry["value"] = hex(int(entry["value"], 16) ^ 1)
        return answer

    net.world.get_proof = lie


REFUSED: dict[str, tuple[Change, str]] = {
    "a checkpoint that strangers signed": (strangers_checkpoint, "encoding.signature"),
    "a checkpoint with two signatures of three": (two_signatures, "encoding.too_few_signers"),
    "one member's signature three times": (one_signed_twice, "encoding.too_few_signers"),
    "a checkpoint of another term": (other_term, "chainview.unknown_term"),
    "a checkpoint with a changed state root": (altered_checkpoint, "encoding.signature"),
    "a checkpoint that is stale by the client's clock": (stale_clock, "chainview.stale"),
    "a checkpoint from the future": (future_clock, "chainview.stale"),
    "an agent that is paused at the checkpoint": (agent_paused, "policy.paused"),
    "an agent that is paused in a newer block": (agent_paused_in_a_newer_block, "policy.paused"),
    "an agent that does not exist": (no_such_agent, "policy.agent_unknown"),
    "no seats at all": (no_seats, "client.no_seat"),
    "seats that are garbage": (garbage_seats, "encoding.field"),
    "a lease that strangers signed": (strangers_lease, "encoding.signature"),
    "a lease with two signatures": (two_members_lease, "encoding.too_few_signers"),
    "a certificate for a key that the worker did not sign": (certificate_without_lease, "encoding.signature"),
    "a certificate for a boot without a lease": (certificate_of_another_boot, "envelope.not_leased"),
    "a certificate that outlives its lease": (longer_certificate, "envelope.not_leased"),
    "a lease that has ended": (expired_lease, "envelope.certificate_expired"),
    "a seat leased for the code before": (old_code, "client.old_seat"),
    "a seat leased for the epoch before": (old_epoch, "client.old_seat"),
    "a worker that registered another boot": (worker_restarted, "client.worker_not_admitted"),
    "a worker that was removed": (workers_removed, "client.worker_not_admitted"),
    "a worker whose registration ended": (workers_expired, "client.worker_not_admitted"),
    "a worker that was removed in a newer block": (workers_removed_in_a_newer_block, "policy.worker_removed"),
    "a committee that is not the pinned one": (other_committee, "client.committee"),
    "a contract with other code": (other_code_at_the_contract, "chainview.wrong_contract"),
    "a proof with another value beside it": (lying_proof, "chainview.proof"),
}


def flip(at: float) -> Callable[[bytes], bytes]:
    def spoil(data: bytes) -> bytes:
        where = min(int(len(data) * at), len(data) - 1)
        return data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :]

    return spoil


SPOILED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "one bit in the random part": (flip(0.0), "envelope.not_authentic"),
    "one bit in the middle": (flip(0.5), "envelope.not_authentic"),
    "one bit at the end": (flip(1.0), "envelope.not_authentic"),
    "the last byte missing": (lambda d: d[:-1], "envelope.truncated"),
    "the last chunk missing": (lambda d: d[:200], "envelope.truncated"),
    "nothing at all": (lambda d: b"", "envelope.truncated"),
    "bytes after the end": (lambda d: d + b"x", "envelope.malformed"),
    "another text": (lambda d: b"hello" * 30, "envelope.malformed"),
}
