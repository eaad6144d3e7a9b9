"""``ctx.chain(id)``: verified values of a chain that the manifest names, and acts on it (spec/chains.md 12-17)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from cloister.chain.proven_calls import ProvenCalls
from cloister.core.chainview.anchor import MAX_VALUE
from cloister.core.chainview.evm import MAX_GAS
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import ChainViewError, CloisterError, PolicyError, StateError, define
from cloister.core.policy.access import Uses
from cloister.worker.acts import Act
from cloister.worker.chains import ChainView
from cloister.worker.host import BAD_ARGUMENT, Extra, Origin, need_data

MAX_DATA: Final = 16 << 10
# Questions of one agent about chains that are proven at once; the others wait.
AT_ONCE: Final = 4

NO_CHAIN = define(
    "worker.no_chain",
    PolicyError,
    check="the manifest names the chain as a tool, no list of the owner leaves it out, and this worker follows it",
    remedy='add "chain:CHAIN_ID" to "tools" in cloister.json; the operator lists the chains that a worker follows',
    status=403,
)
REVERTED_VIEW = define(
    "worker.view_reverted",
    ChainViewError,
    check="the view that agent code asked for answers",
    remedy="the contract refuses this call at the checkpoint: read its reason in the answer's data",
    status=409,
)
OTHER_VERSION = define(
    "worker.act_version",
    StateError,
    check="an act replaces the version that the newest checkpoint shows, and no other act on that key waits",
    remedy="read the entry again; wait until the act before it is final",
    status=409,
)


def tool_of_chain(chain_id: int) -> str:
    """A chain's name in the list of tools."""
    return f"chain:{chain_id}"


class ChainCalls:
    """Host calls of one agent. ``chains``: those that this worker follows; ``uses()``: what the agent may use now."""

    def __init__(self, agent: bytes, chains: Mapping[int, ChainView], uses: Callable[[], Awaitable[Uses]]) -> None:
        self._agent, self._chains, self._uses = agent, chains, uses
        self._free = asyncio.Semaphore(AT_ONCE)
        self._calls: dict[int, ProvenCalls] = {}

    def calls(self) -> Mapping[str, Extra]:
        """What agent code may call."""
        return {
            "chain.at": self._at,
            "chain.word": self._word,
            "chain.call": self._call,
            "chain.get": self._get,
            "chain.put": self._put,
        }

    async def _at(self, origin: Origin, args: Mapping[str, Any]) -> dict[str, Any]:
        return _named((await self.named(args)).require_fresh())

    async def _word(self, origin: Origin, args: Mapping[str, Any]) -> dict[str, Any]:
        """One word of any contract's storage."""
        calls = self._proven(await self.named(args))
        address, slot = _hex(args, "address", 20), int.from_bytes(_hex(args, "slot", 32), "big")
        async with self._free:
            word = await calls.word(address, slot)
        return {"value": f"0x{word:064x}", "checkpoint": _named(calls.checkpoint)}

    async def _call(self, origin: Origin, args: Mapping[str, Any]) -> dict[str, Any]:
        """What a view of any contract answers. Raises worker.view_reverted."""
        calls = self._proven(await self.named(args))
        to, data = _hex(args, "to", 20), _hex(args, "data", None)
        async with self._free:
            outcome = await calls.view(to, data, gas=MAX_GAS)
        if not outcome.ok:
            raise REVERTED_VIEW(expected="an answer", found=f"a revert with {to_hex(outcome.output[:256])}")
        return {"data": to_hex(outcome.output), "checkpoint": _named(calls.checkpoint)}

    async def _get(self, origin: Origin, args: Mapping[str, Any]) -> dict[str, Any]:
        """The agent's own entry at the chain's Anchor, and the act that waits to replace it."""
        chain, key = await self.named(args), _hex(args, "key", 32)
        chain.require_fresh()
        version, value, at = await self._entry(chain, key)
        waits = await self._waits(origin, chain, key)
        found = {"version": version, "value": to_hex(value), "checkpoint": _named(at)}
        return found | {"waiting": None if waits is None else to_hex(waits.value)}

    async def _put(self, origin: Origin, args: Mapping[str, Any]) -> None:
        """Queue an act with the request's own writes. 1. arguments; 2. the version is the one at the newest checkpoint;
        3. nothing else waits for this key; the same act again is none; 4. queued."""
        chain, key, value = await self.named(args), _hex(args, "key", 32), need_data(args.get("value"))
        wanted = args.get("version")
        if (
            not isinstance(wanted, int)
            or isinstance(wanted, bool)
            or not 0 <= wanted < 1 << 53
            or len(value) > MAX_VALUE
        ):
            raise BAD_ARGUMENT(expected=f"a version, and at most {MAX_VALUE} bytes", found="others")  # 1
        at = chain.require_fresh()
        waits = await self._waits(origin, chain, key)
        if waits is not None and (waits.version, waits.value) == (wanted, value):  # 3
            return
        version, _, _ = await self._entry(chain, key)
        if waits is not None or version != wanted:  # 2
            found = f"version {version}" if waits is None else "an act that waits"
            raise OTHER_VERSION(expected=f"version {wanted} and no act that waits", found=found)
        act = Act(key, wanted, value, at.timestamp)
        await _state(origin).put(act.name(chain.chain_id), act.encode())  # 4

    def _proven(self, chain: ChainView) -> ProvenCalls:
        """This agent's own views at the chain's newest checkpoint, with what was proven for them."""
        at, known = chain.require_fresh(), self._calls.get(chain.chain_id)
        if known is None or known.checkpoint != at:
            known = self._calls[chain.chain_id] = chain.calls()
        return known

    async def _waits(self, origin: Origin, chain: ChainView, key: bytes) -> Act | None:
        data = await _state(origin).get(Act(key, 0, b"", 0).name(chain.chain_id))
        return None if data is None else Act.decode(key, data)

    async def _entry(self, chain: ChainView, key: bytes) -> tuple[int, bytes, Checkpoint]:
        if chain.anchor is None:
            raise NO_CHAIN(expected="a chain with an Anchor", found="one without")
        state = chain.state()
        async with self._free:
            return *await chain.anchor.entry(state, self._agent, key), state.checkpoint

    async def named(self, args: Mapping[str, Any]) -> ChainView:
        """The chain that ``args`` names, if the agent may use it. Raises worker.no_chain, worker.bad_argument."""
        wanted = args.get("chain")
        if not isinstance(wanted, int) or isinstance(wanted, bool):
            raise BAD_ARGUMENT(expected="a chain id", found=type(wanted).__name__)
        tools = (await self._uses()).tools
        if tools is None or tool_of_chain(wanted) not in tools or wanted not in self._chains:
            raise NO_CHAIN(expected="a chain that the agent may use here", found=f"chain {wanted}"[:40])
        return self._chains[wanted]


def _state(origin: Origin) -> Any:
    if origin.state is None:
        raise RuntimeError("a host call without its request's state")
    return origin.state


def _named(at: Checkpoint) -> dict[str, Any]:
    """What an answer rests on."""
    return {"chain": at.chain_id, "number": at.number, "hash": to_hex(at.block_hash), "timestamp": at.timestamp}


def _hex(args: Mapping[str, Any], name: str, size: int | None) -> bytes:
    try:
        value = args.get(name)
        return from_hex(value, size, name=name, max_size=MAX_DATA) if isinstance(value, str) else from_hex("", 1)
    except CloisterError:
        raise BAD_ARGUMENT(expected=f"{name} as 0x-hex of {size or 'some'} bytes", found="another") from None
