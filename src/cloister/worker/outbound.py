"""``ctx.agents.fetch``: one agent calls another over the same sealed path as everybody (spec/sandbox.md 9).

The worker makes the call as the agent: with the agent's own key, certified under the lease. Which agents stand above,
how many calls are left and when the time is over travel with it, written by workers, never by agents.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cloister.core.encoding.contexts import Context, digest
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.envelope.model import AgentProof, CallerKind
from cloister.core.errors import CloisterError, PolicyError, define
from cloister.core.policy.access import Uses
from cloister.worker.host import BAD_ARGUMENT, Extra, Origin, need_data
from cloister.worker.leases import AgentKeys
from cloister.worker.signing import epoch_key

MAX_DEPTH: Final = 8
MAX_BODY: Final = 2 << 20
# A little less than what a worker accepts (spec/sealed-http.md 6.10): for requests that say no deadline of their own.
MAX_AHEAD_MS: Final = 590_000
PATH, BUDGET = "cloister-path", "cloister-budget"
RESERVED: Final = "cloister-"

CYCLE = define(
    "worker.call_cycle",
    PolicyError,
    check="an agent does not call one that waits for its answer, itself included",
    remedy="call agents downwards only; pass what is needed as arguments",
    status=508,
)
TOO_DEEP = define(
    "worker.call_depth",
    PolicyError,
    check=f"at most {MAX_DEPTH} agents stand above a called one",
    remedy="call fewer agents through one another",
    status=508,
)
NO_BUDGET = define(
    "worker.call_budget",
    PolicyError,
    check="the request may still cause that many calls of agents",
    remedy="make fewer calls, or give each a smaller budget",
    status=429,
)
NO_TIME = define(
    "worker.call_deadline",
    PolicyError,
    check="there is time left for a call of another agent",
    remedy="call earlier, or give the first request more time",
    status=504,
)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One call, ready to be sealed. ``path`` of the request includes the query; ``deadline_ms``: Unix ms."""

    agent: bytes
    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    deadline_ms: int
    idempotency_key: str | None


class Answered(Protocol):
    """What came back (``client.reply.Reply``)."""

    @property
    def status(self) -> int:
        """The other agent's status."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Its headers."""

    @property
    def body(self) -> bytes:
        """Its whole body."""


class Identity:
    """An agent as a caller. Implements ``client.call.Who``: its key, and the worker's word under the lease."""

    def __init__(self, keys: AgentKeys, sign: Callable[[bytes], bytes]) -> None:
        self._key = epoch_key(keys)
        self.address = address_of(self._key)
        signature = sign(caller_digest(keys.seat.certificate.id, self.address))
        self._proof = AgentProof(keys.seat.to_json(), to_hex(signature))

    @property
    def agent(self) -> AgentProof:
        """The seat, and its worker's signature over this address."""
        return self._proof

    @property
    def kind(self) -> CallerKind:
        """An agent's key is a wallet."""
        return "wallet"

    def sign(self, statement: bytes) -> bytes:
        """65 bytes over a 32-byte digest."""
        return sign_digest(self._key, statement)


Send = Callable[[Outgoing, Identity], Awaitable[Answered]]


def caller_digest(certificate_id: bytes, address: bytes) -> bytes:
    """What a worker signs to say that ``address`` is the key of its certificate's agent. 32 bytes."""
    return digest(Context.AGENT_CALLER, certificate_id, address)


class AgentCalls:
    """Calls of other agents by one agent. ``keys``: its lease of now. ``sign``: by the worker's node key. ``uses``:
    tools and models that its manifest and its owner's lists leave now."""

    def __init__(
        self,
        agent: bytes,
        keys: Callable[[], AgentKeys],
        sign: Callable[[bytes], bytes],
        send: Send,
        uses: Callable[[], Awaitable[Uses]],
        now_ms: Callable[[], int],
    ) -> None:
        self._agent, self._keys, self._sign, self._send, self._now_ms = agent, keys, sign, send, now_ms
        self._uses = uses
        self._known: tuple[bytes, Identity] | None = None

    def calls(self) -> Mapping[str, Extra]:
        """What agent code may call."""
        return {"agents.fetch": self._fetch}

    async def _fetch(self, origin: Origin, args: Mapping[str, Any]) -> dict[str, Any]:
        """1. the arguments; 2. no cycle, not too deep; 3. lists and manifest allow it; 4. time is left; 5. the budget
        pays for this call and what it gets; 6. call as this agent. Raises worker.call_*, policy.not_listed, and by name
        what the other side refuses."""
        agent, budget = _agent(args), _whole(args, "budget")  # 1
        headers = _headers(args.get("headers"))
        path = (*origin.path, self._agent)
        require_path(path, agent)  # 2
        method, target, body = _text(args, "method", "GET"), _text(args, "path", "/"), _body(args)
        (await self._uses()).require_call(agent, method, target, body)  # 3
        wanted = _whole(args, "deadline")
        most = min(origin.deadline_ms, self._now_ms() + MAX_AHEAD_MS)
        deadline = most if wanted is None else min(wanted, most)
        if deadline <= self._now_ms():  # 4
            raise NO_TIME(expected="a deadline ahead", found="one that is over")
        share = max(0, origin.budget - 1) // 2 if budget is None else budget  # 5
        if origin.budget < 1 + share:
            raise NO_BUDGET(expected=f"at most {max(0, origin.budget - 1)} for it", found=f"{share}")
        outgoing = Outgoing(
            agent,
            method,
            target,
            (*headers, *carried(path, share)),
            body,
            deadline,
            None if args.get("idempotency_key") is None else _text(args, "idempotency_key", ""),
        )
        origin.budget -= 1 + share
        reply = await self._send(outgoing, self._identity())  # 6
        if len(reply.body) > MAX_BODY:
            raise BAD_ARGUMENT(expected=f"an answer of at most {MAX_BODY} bytes", found=f"{len(reply.body)} bytes")
        pairs = [[name, value] for name, value in reply.headers.items()]
        return {"status": reply.status, "headers": pairs, "body": base64.b64encode(reply.body).decode()}

    def _identity(self) -> Identity:
        keys = self._keys()
        if self._known is None or self._known[0] != keys.seat.certificate.id:
            self._known = keys.seat.certificate.id, Identity(keys, self._sign)
        return self._known[1]


def require_path(path: tuple[bytes, ...], agent: bytes) -> None:
    """Raise unless ``agent`` may be called below ``path``: worker.call_cycle, worker.call_depth."""
    if agent in path:
        raise CYCLE(expected="an agent that is not waiting", found=to_hex(agent)[:18])
    if len(path) > MAX_DEPTH:
        raise TOO_DEEP(expected=f"at most {MAX_DEPTH} agents above", found=f"{len(path)}")


def carried(path: tuple[bytes, ...], budget: int) -> tuple[tuple[str, str], ...]:
    """The headers of a call between agents."""
    return (PATH, ",".join(to_hex(agent) for agent in path)), (BUDGET, str(budget))


def _agent(args: Mapping[str, Any]) -> bytes:
    value = args.get("agent")
    try:
        return from_hex(value, 32, name="agent id") if isinstance(value, str) else from_hex("", 32, name="agent id")
    except CloisterError:
        raise BAD_ARGUMENT(expected="an agent id of 0x and 64 hex digits", found=type(value).__name__) from None


def _text(args: Mapping[str, Any], name: str, default: str) -> str:
    value = args.get(name, default)
    if not isinstance(value, str):
        raise BAD_ARGUMENT(expected=f"{name} as a text", found=type(value).__name__)
    return value


def _whole(args: Mapping[str, Any], name: str) -> int | None:
    value = args.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 53):
        raise BAD_ARGUMENT(expected=f"{name} as a whole number", found=type(value).__name__)
    return value


def _body(args: Mapping[str, Any]) -> bytes:
    body = need_data(args.get("body", ""))
    if len(body) > MAX_BODY:
        raise BAD_ARGUMENT(expected=f"a body of at most {MAX_BODY} bytes", found=f"{len(body)} bytes")
    return body


def _headers(value: object) -> tuple[tuple[str, str], ...]:
    """Headers of the agent's own: none that workers write."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair) for pair in value
    ):
        raise BAD_ARGUMENT(expected="headers as [name, value] pairs", found=type(value).__name__)
    if any(name.lower().startswith(RESERVED) for name, _ in value):
        raise BAD_ARGUMENT(expected=f"headers that do not begin with {RESERVED}", found="one that does")
    return tuple((name.lower(), text) for name, text in value)
