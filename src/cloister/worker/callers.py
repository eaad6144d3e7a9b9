"""Who calls: what the envelope cannot verify alone (spec/sealed-http.md 9, 11, 12; spec/sandbox.md 9).

A wallet's signature over the session is verified there. Here: whose key an agent's wallet is, with its lease, its
worker and the path that workers carried; whether a contract account accepts the signature that came; whether an API
key holds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from cloister.core.chainview.records import WorkerRecord
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.signatures import SignerSet, verify_signer
from cloister.core.encoding.statements import Statement
from cloister.core.envelope.certificate import Seat
from cloister.core.envelope.model import RequestHead
from cloister.core.envelope.server import BAD_CALLER, VerifiedCaller
from cloister.core.errors import CloisterError, PolicyError, define
from cloister.worker.host import CALLS, Origin
from cloister.worker.outbound import BUDGET, MAX_DEPTH, PATH, RESERVED, caller_digest, require_path

MAX_KNOWN: Final = 1024

BAD_AGENT = define(
    "worker.agent_caller",
    PolicyError,
    check="a caller that says it is an agent shows a lease of now, its worker's word, and a path that ends with it",
    remedy="call through ctx.agents.fetch; the calling worker renews its proof every period",
    status=403,
)


Height = Callable[[], int]
# Raises CloisterError unless the contract account (20 bytes) accepts the signature over the digest (32 bytes).
Signature = Callable[[bytes, bytes, bytes], Awaitable[None]]
# Raises CloisterError unless the agent (32 bytes) knows the caller's API key and it holds.
Keys = Callable[[bytes, VerifiedCaller], Awaitable[None]]
Workers = Callable[[bytes], Awaitable[WorkerRecord | None]]
# The committee that may have signed a lease (``core.chainview.terms.Terms.lessors``). Raises ChainViewError.
Lessors = Callable[[Statement], SignerSet]


class Callers:
    """Verifies agents that call. A proof is verified once, and its height and worker at every call.

    ``height``: the newest that the committee vouched for; ``worker``: a worker's record by proof at it;
    ``signature`` asks a contract account and ``keys`` the agent's API keys, at every request."""

    def __init__(
        self, height: Height, worker: Workers, lessors: Lessors, network: bytes, signature: Signature, keys: Keys
    ) -> None:
        self._height, self._worker, self._lessors, self._network = height, worker, lessors, network
        self._signature, self._keys = signature, keys
        self._known: OrderedDict[tuple[bytes, str], Seat] = OrderedDict()

    async def origin(self, agent: bytes, caller: VerifiedCaller | None, head: RequestHead) -> Origin:
        """Where a request for ``agent`` stands. Raises worker.agent_caller, worker.call_cycle, worker.call_depth, and
        what ``signature`` and ``keys`` raise.

        1. a word that the envelope could not verify holds now; 2. people and nobody carry no path: what they wrote
        there is not believed; 3. the seat holds now and its worker signed the key; 4. that worker is admitted, live, of
        this boot; 5. the path ends with the caller, and this agent may stand below it."""
        if caller is not None and caller.kind != "wallet":
            await self._require_claim(agent, caller)  # 1
        if caller is None or caller.agent is None:  # 2
            return Origin(deadline_ms=head.deadline_ms)
        seat = self._seat(caller)  # 3
        certificate = seat.certificate
        worker = await self._worker(certificate.worker)  # 4
        if worker is None or not worker.live_at(self._height()) or worker.boot != certificate.boot:
            raise BAD_AGENT(expected="a live worker of this boot", found="another")
        path, budget = _carried(head)  # 5
        if path[-1] != certificate.agent:
            raise BAD_AGENT(expected="a path that ends with the caller", found="another end")
        require_path(path, agent)
        return Origin(path, budget, head.deadline_ms, certificate.agent)

    @staticmethod
    def plain(caller: VerifiedCaller | None) -> bool:
        """Whether ``origin`` has nothing to verify: nobody calls, or a person whose signature the envelope verified."""
        return caller is None or (caller.kind == "wallet" and caller.agent is None)

    async def _require_claim(self, agent: bytes, caller: VerifiedCaller) -> None:
        if caller.claim is None:
            raise BAD_CALLER(expected="a word over this session", found="none")
        if caller.kind == "contract":
            await self._signature(caller.address, caller.claim.digest, caller.claim.word)
        else:
            await self._keys(agent, caller)

    def _seat(self, caller: VerifiedCaller) -> Seat:
        proof = caller.agent
        if proof is None:
            raise RuntimeError("only agents have a seat")
        name = caller.address, proof.signature
        seat = self._known.get(name)
        if seat is None or seat.to_json() != proof.seat:
            seat = self._verified(caller)
            self._known[name] = seat
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        if seat.certificate.expiry <= self._height():
            raise BAD_AGENT(expected=f"a lease beyond block {self._height()}", found="one that has ended")
        return seat

    def _verified(self, caller: VerifiedCaller) -> Seat:
        proof = caller.agent
        if proof is None:
            raise RuntimeError("only agents have a seat")
        try:
            seat = Seat.from_json(proof.seat)
            seat.verify(self._lessors(seat.lease.statement), self._network, self._height())
            signature = from_hex(proof.signature, 65, name="signature")
            verify_signer(caller_digest(seat.certificate.id, caller.address), signature, seat.certificate.worker)
        except CloisterError as error:
            raise BAD_AGENT(expected="a lease of now and its worker's signature", found=error.code) from None
        return seat


def _carried(head: RequestHead) -> tuple[tuple[bytes, ...], int]:
    """The path and the budget that a worker wrote. Raises worker.agent_caller."""
    found = {name: value for name, value in head.headers if name in (PATH, BUDGET)}
    path, budget = found.get(PATH, "").split(","), found.get(BUDGET, "")
    if len(path) > MAX_DEPTH or not budget.isascii() or not budget.isdecimal() or len(budget) > 4:
        raise BAD_AGENT(expected=f"1 to {MAX_DEPTH} agents and a budget", found="others")
    try:
        return tuple(from_hex(agent, 32, name="agent id") for agent in path), min(int(budget), CALLS)
    except CloisterError:
        raise BAD_AGENT(expected="agent ids in 0x-hex", found="others") from None


def shown(caller: VerifiedCaller | None, origin: Origin) -> dict[str, str] | None:
    """The caller as agent code sees it."""
    if caller is None:
        return None
    if origin.caller is not None:
        return {"kind": "agent", "address": to_hex(caller.address), "agent": to_hex(origin.caller)}
    kind, address = kind_of(caller), to_hex(caller.address)
    return {"kind": kind, "address": f"apikey:{address}" if kind == "apikey" else address}


def kind_of(caller: VerifiedCaller | None) -> str:
    """What hooks and agents know a caller as. A contract account that signs is a wallet to them: "contract" is one that
    asks on chain (spec/anchor.md)."""
    return "anonymous" if caller is None else "apikey" if caller.kind == "apikey" else "wallet"


def without_carried(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Headers for agent code: what workers say to one another is not in them."""
    return tuple([pair for pair in headers if not pair[0].startswith(RESERVED)])
