"""What a local agent may ask besides its state: its lists, a key of its own, other local agents.

The same code as a worker's, over stand-ins: the key is made from the folder's, so that nobody believes it; its account
is on chain 0, which no chain is; calls by the account wait for ever; other agents are addresses that somebody names.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final

import aiohttp

from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.identity import AgentVersion, Purpose
from cloister.core.errors import CloisterError, ConfigError, define
from cloister.core.policy.access import Uses
from cloister.core.policy.manifest import KeyRules, Manifest
from cloister.core.threshold.ibe import DerivedKey
from cloister.sandbox.calls import kept_headers
from cloister.worker.account_calls import AccountCalls
from cloister.worker.agentlog import Sink
from cloister.worker.chain_calls import NO_CHAIN
from cloister.worker.chains import ChainView
from cloister.worker.host import CALLS, Extra, Origin
from cloister.worker.listed import uses_of
from cloister.worker.outbound import BUDGET, MAX_BODY, MAX_DEPTH, PATH, AgentCalls, Answered, Identity, Outgoing
from cloister.worker.signing import Account, AgentSigner

CALLEE_HEADER: Final = "x-cloister-agent"
NO_CHAIN_ID: Final = 0

NO_AGENT = define(
    "local.no_agent",
    ConfigError,
    check="the agent that is called runs on this machine, and its address was named",
    remedy="start it with `cloister agent dev` and name it: --agent ID=URL; in a test export `agents`",
    status=503,
)
BAD_AGENT = define(
    "local.agent",
    ConfigError,
    check="another local agent is ID=URL, with the id that its `cloister agent dev` says, on 127.0.0.1",
    remedy="for example --agent 0x12…=http://127.0.0.1:8081",
)
BAD_PATH = define(
    "local.path",
    ConfigError,
    check=f"{PATH} and {BUDGET} are what another local agent's call carries",
    remedy="leave them out: they are written by `ctx.agents.fetch`",
)


class LocalKeys:
    """Keys of a local agent, by purpose, from its folder's 32 bytes. They open and prove nothing elsewhere."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.agent = hashlib.sha256(b"cloister: a local agent" + secret).digest()
        self.version = AgentVersion(bytes(32), 1, bytes(32), 1, self.agent, 1)

    def key(self, purpose: Purpose, period: int = 0) -> DerivedKey:
        """A key in the form of a derived one."""
        name = b"cloister: a local key" + bytes([purpose]) + self._secret
        return DerivedKey(hashlib.shake_256(name).digest(48))


class LocalOffers:
    """Extra host calls of one local agent. ``agents``: addresses of others by id. ``log`` says what is not real."""

    def __init__(self, keys: LocalKeys, manifest: Manifest, agents: Mapping[bytes, str], log: Sink) -> None:
        self._keys, self._manifest, self._agents, self._log = keys, manifest, dict(agents), log

    def calls(self) -> Mapping[str, Extra]:
        """``keys.*``, ``agents.fetch`` and ``lists``."""
        account = Account(NO_CHAIN_ID, self._keys.agent[:20])
        signer = AgentSigner(lambda: self._keys, self._rules, account)
        queue = AccountCalls(self._keys.agent, self._rules, lambda: int(time.time()), secrets.token_bytes, _no_chain)
        others = LocalCalls(self._keys.agent, self._send, self._uses)
        made = {**signer.calls(), **queue.calls(), **others.calls(), "lists": self._lists}
        return {**made, "keys.send": self._said(made["keys.send"])}

    async def _rules(self) -> KeyRules | None:
        return self._manifest.keys

    async def _uses(self) -> Uses:
        return uses_of(self._manifest)

    async def _lists(self, origin: Origin, args: Mapping[str, Any]) -> dict[str, Any]:
        left = await self._uses()
        return {n: None if s is None else sorted(s) for n, s in (("tools", left.tools), ("models", left.models))}

    def _said(self, send: Extra) -> Extra:
        async def queued(origin: Origin, args: Mapping[str, Any]) -> Any:
            nonce = await send(origin, args)
            self._log("warn", f"not real: keys.send to {str(args.get('to'))[:42]} waits here, no chain will see it")
            return nonce

        return queued

    async def _send(self, outgoing: Outgoing, identity: Identity) -> Answered:
        """Ask another local server, as this agent says that it is. Raises local.no_agent."""
        url = self._agents.get(outgoing.agent)
        if url is None:
            raise NO_AGENT(expected="an agent named by --agent", found=to_hex(outgoing.agent)[:18])
        keys = () if outgoing.idempotency_key is None else (("idempotency-key", outgoing.idempotency_key),)
        headers = [*outgoing.headers, *keys, (CALLEE_HEADER, to_hex(outgoing.agent))]
        left = max(0.1, outgoing.deadline_ms / 1000 - time.time())
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=left)) as session,
                session.request(
                    outgoing.method, url + outgoing.path, headers=headers, data=outgoing.body, allow_redirects=False
                ) as answer,
            ):
                body = await answer.content.read(MAX_BODY + 1)
                while not answer.content.at_eof() and len(body) <= MAX_BODY:
                    body += await answer.content.read(MAX_BODY + 1)
                return _Answer(answer.status, dict(kept_headers(list(answer.headers.items()))), body)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NO_AGENT(expected=f"an answer of {url}", found=type(error).__name__) from None


class LocalCalls(AgentCalls):
    """``agents.fetch`` without a lease: whoever is called believes what the caller says."""

    def __init__(self, agent: bytes, send: Any, uses: Any) -> None:
        super().__init__(agent, _no_lease, _no_word, send, uses, lambda: int(time.time() * 1000))

    def _identity(self) -> Any:
        return None


class _Answer:
    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body


def parse_agents(texts: list[str]) -> dict[bytes, str]:
    """Addresses by id, of ID=URL each. Raises ConfigError (local.agent)."""
    found = {}
    for text in texts:
        name, _, url = text.partition("=")
        try:
            agent = from_hex(name.lower(), 32, name="agent id")
        except CloisterError:
            raise BAD_AGENT(expected="an id of 0x and 64 hex digits", found=name[:80]) from None
        if not url.startswith(("http://127.0.0.1:", "http://localhost:")):
            raise BAD_AGENT(expected="an address on this machine", found=url[:80])
        found[agent] = url.rstrip("/")
    return found


def carried_path(headers: Mapping[str, str]) -> tuple[tuple[bytes, ...], int]:
    """Agents above a request and the calls that it may cause, as another local agent wrote them. Raises local.path."""
    text, budget = headers.get(PATH), headers.get(BUDGET, "0")
    if text is None:
        return (), CALLS
    try:
        path = tuple(from_hex(part, 32, name="agent id") for part in text.split(",")[: MAX_DEPTH + 1])
    except CloisterError:
        raise BAD_PATH(expected="agent ids in 0x-hex", found="others") from None
    if not budget.isascii() or not budget.isdecimal() or len(budget) > 4 or len(path) > MAX_DEPTH:
        raise BAD_PATH(expected=f"at most {MAX_DEPTH} agents and a budget", found="others")
    return path, min(int(budget), CALLS)


async def _no_chain(args: Mapping[str, Any]) -> ChainView:
    raise NO_CHAIN(expected="a connected chain", found="none on a developer's machine")


def _no_lease() -> Any:
    raise RuntimeError("a local agent has no lease")


def _no_word(digest: bytes) -> bytes:
    raise RuntimeError("a local agent has no worker that signs")
