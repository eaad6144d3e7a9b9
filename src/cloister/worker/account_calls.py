"""``ctx.keys.send``: calls by the agent's account, queued with the request's own writes (spec/accounts.md 4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from cloister.core.encoding.contexts import Context, digest
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.errors import CloisterError
from cloister.core.policy.manifest import KeyRules
from cloister.worker.account import ENDED, MAX_DATA, AccountCall, ended
from cloister.worker.chains import ChainView
from cloister.worker.host import BAD_ARGUMENT, Extra, Origin, StatePort
from cloister.worker.signing import DENIED

MAX_VALUE: Final = 1 << 256
MIN_S, MAX_S, USUAL_S = 30, 3600, 600
MAX_KEY: Final = 256


class AccountCalls:
    """Host calls of one agent. ``rules``: of its manifest; ``now()``: seconds of the newest checkpoint, or a refusal;
    ``rng(n)``: random bytes; ``named(args)``: the chain that a call names, if the agent may use it; ``chains``: ids of
    connected chains."""

    def __init__(
        self,
        agent: bytes,
        rules: Callable[[], Awaitable[KeyRules | None]],
        now: Callable[[], int],
        rng: Callable[[int], bytes],
        named: Callable[[Mapping[str, Any]], Awaitable[ChainView]],
        chains: Sequence[int] = (),
    ) -> None:
        self._agent, self._rules, self._now, self._rng = agent, rules, now, rng
        self._named, self._chains = named, tuple(chains)

    def calls(self) -> Mapping[str, Extra]:
        """What agent code may call."""
        return {"keys.send": self._send, "keys.sent": self._sent}

    async def _send(self, origin: Origin, args: Mapping[str, Any]) -> str:
        """Queue a call; its nonce, 0x-hex. 1. the manifest allows it; 2. arguments; 3. one key, one call: a repeat
        changes nothing; 4. queued."""
        rules = await self._rules()
        if rules is None or not rules.calls or rules.raw:  # 1
            raise DENIED(expected='"calls": true in keys, and no raw', found="a manifest without it")
        to, value, data, within = _call(args)  # 2
        chain, now = await self._where(args)
        nonce = self._nonce(args.get("key"), chain)
        state = _state(origin)
        call = AccountCall(nonce, to, value, data, now + within, now, chain)
        known = await state.get(call.name)
        if known is None and ended(await state.get(ENDED), nonce) is None:  # 3
            await state.put(call.name, call.encode())  # 4
        return to_hex(nonce)

    async def _sent(self, origin: Origin, args: Mapping[str, Any]) -> dict[str, Any]:
        """{state, reason}: "waiting"; "made" and "expired" are proven; "unknown": never asked for, or long over."""
        nonce, state = _hex(args, "nonce", 32), _state(origin)
        end = ended(await state.get(ENDED), nonce)
        if end is not None:
            return {"state": end["state"], "reason": end["reason"]}
        for chain in (None, *self._chains):
            if await state.get(AccountCall(nonce, b"", 0, b"", 0, 0, chain).name) is not None:
                return {"state": "waiting", "reason": None}
        return {"state": "unknown", "reason": None}

    async def _where(self, args: Mapping[str, Any]) -> tuple[int | None, int]:
        """The connected chain that is meant, None for the network's own; and seconds of its newest checkpoint."""
        if args.get("chain") is None:
            return None, self._now()
        chain = await self._named(args)
        return chain.remote, chain.require_fresh().timestamp

    def _nonce(self, key: object, chain: int | None) -> bytes:
        """Random, or of the agent's own idempotency key: on another chain it names another call."""
        if key is None:
            return self._rng(32)
        if not isinstance(key, str) or not 1 <= len(key) <= MAX_KEY or not key.isascii():
            raise BAD_ARGUMENT(expected=f"a key of 1 to {MAX_KEY} ASCII characters", found="another")
        place = () if chain is None else (chain.to_bytes(8, "big"),)
        return digest(Context.ACCOUNT_NONCE, self._agent, key.encode(), *place)


def _call(args: Mapping[str, Any]) -> tuple[bytes, int, bytes, int]:
    value, within = args.get("value"), args.get("within_s", USUAL_S)
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 79 else -1
    if not 0 <= number < MAX_VALUE:
        raise BAD_ARGUMENT(expected="value as decimal text, wei", found=type(value).__name__)
    if not isinstance(within, int) or isinstance(within, bool) or not MIN_S <= within <= MAX_S:
        raise BAD_ARGUMENT(expected=f"within_s from {MIN_S} to {MAX_S}", found="another")
    return _hex(args, "to", 20), number, _hex(args, "data", None), within


def _hex(args: Mapping[str, Any], name: str, size: int | None) -> bytes:
    try:
        return from_hex(args.get(name), size, name=name, max_size=MAX_DATA)
    except CloisterError:
        raise BAD_ARGUMENT(expected=f"{name} as 0x-hex of {size or 'some'} bytes", found="another") from None


def _state(origin: Origin) -> StatePort:
    if origin.state is None:
        raise RuntimeError("a host call without its request's state")
    return origin.state
