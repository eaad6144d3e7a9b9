"""Obeying an agent's rules on chain at every call and connection (spec/chainview.md 17-26).

Lists are documents in the store, named by their hash on chain: one that is missing or spoilt allows nothing. The hook
runs here over proven state and must say yes; the newest block that an endpoint shows can only add a no.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from hashlib import sha256
from hmac import compare_digest
from typing import Final

from cloister.chain.rpc import REVERTED
from cloister.core.chainview.evm import Outcome
from cloister.core.chainview.records import AgentRules
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import ChainError, CloisterError, PolicyError, define
from cloister.core.policy import access
from cloister.core.policy.access import ANYBODY, NOTHING, Narrowing
from cloister.fabric.ports import Blobs
from cloister.node import logs
from cloister.worker.chainwatch import ChainWatch, short

MAX_LISTS: Final = 1024
MAX_ANSWERS: Final = 8192
# Views of contracts that callers name: how many at once, and gas for each.
MAX_CHECKS: Final = 8
SIGNATURE_GAS: Final = 200_000

NOT_READ = define(
    "worker.rules_unread",
    PolicyError,
    check="the agent's rules on chain are known here, with the lists that they name",
    remedy="wait for the next block; if it lasts, the owner sets the lists again",
    status=503,
)
BUSY = define(
    "worker.signatures_busy",
    PolicyError,
    check=f"at most {MAX_CHECKS} signatures of contract accounts are checked at once",
    remedy="repeat in a second",
    status=503,
)
_log = logs.get("access")


class Access:
    """What binds each agent now. ``load`` brings it in; ``narrowing`` and ``allows`` answer at once."""

    def __init__(self, watch: ChainWatch, blobs: Blobs) -> None:
        self._watch, self._blobs = watch, blobs
        self._lists: OrderedDict[bytes, tuple[str, ...]] = OrderedDict()
        self._answers: OrderedDict[tuple[int, bytes, bytes], Outcome] = OrderedDict()
        self._missing: set[bytes] = set()
        self._hookless: dict[bytes, int] = {}  # agents without a hook, and the news that this was said of
        self._signatures: OrderedDict[tuple[bytes, bytes], Outcome] = OrderedDict()
        self._signed_at, self._checking = -1, 0

    async def load(self, agent: bytes) -> Narrowing:
        """Read the agent's rules by proof and the lists that they and newer ones name.

        Raises ChainError, ChainViewError. A list that the store does not have, or that is none, narrows to nothing:
        that is no error here."""
        await self._watch.rules(agent)
        for rules in self._watch.rules_in_force(agent):
            for name in _lists(rules):
                if name is not None and name not in self._lists:
                    await self._fetch(agent, name)
        return self.narrowing(agent)

    def narrowing(self, agent: bytes) -> Narrowing:
        """What all rules in force leave, as far as they were loaded. Unknown rules or lists leave nothing."""
        found = self._watch.rules_in_force(agent)
        if not found:
            return NOTHING
        left = Narrowing()
        for rules in found:
            left = left.also(self._narrowed(rules))
        return left

    def allows(self, agent: bytes) -> Callable[[str, int], bool]:
        """For the egress proxy of one agent: whether a host and port may be reached now."""
        return lambda host, port: self.narrowing(agent).allows_host(host, port)

    async def require_call(
        self, agent: bytes, caller: bytes | None, method: str, path: str, *, kind: str = "wallet"
    ) -> None:
        """Raise PolicyError (policy.access_denied) unless every hook in force lets the caller in.

        1. rules by proof at the newest checkpoint; 2. every hook in force says yes over proven state; 3. none says no
        at the newest block seen. What cannot be proven or answered is a no. That no hook is in force is found once
        per news of the chain watch: each checkpoint, and each change of a rule, is news."""
        if self.open_to_all(agent):
            return
        news = self._watch.news
        await self._watch.rules(agent)  # 1
        found = self._watch.rules_in_force(agent)
        hooks = {rules.access_hook for rules in found} - {bytes(20)}
        if not hooks:
            if len(self._hookless) >= MAX_ANSWERS:
                self._hookless.clear()
            self._hookless[agent] = news
            return
        kind = "anonymous" if caller is None else kind
        selector, context = access.selector_of(method, path), access.context_of(kind, method, path)
        asked = access.question(agent, caller or ANYBODY, selector, context)
        for hook in sorted(hooks):
            access.require_allowed(await self._proven(hook, asked))  # 2
            access.require_allowed(await self._newest(hook, asked))  # 3

    def open_to_all(self, agent: bytes) -> bool:
        """Whether ``require_call`` found since the last news that no hook is in force: then it says yes at once."""
        return self._hookless.get(agent) == self._watch.news

    async def require_signature(self, account: bytes, digest: bytes, signature: bytes) -> None:
        """Raise PolicyError (policy.contract_signature) unless a contract account accepts the signature (EIP-1271).

        1. yes over proven state at the newest checkpoint, asked once for each; 2. no no at the newest block seen. So a
        key that the account gives up counts no more from any block seen. Anybody may name any contract here: few run
        at once, with little gas. Raises worker.signatures_busy, ChainError, ChainViewError."""
        asked = access.signature_question(digest, signature)
        access.require_valid(await self._signed(account, asked))  # 1
        access.require_valid(await self._newest(account, asked))  # 2

    # --- inside ---

    def _narrowed(self, rules: AgentRules) -> Narrowing:
        lists = []
        for name in _lists(rules):
            if name is not None and name not in self._lists:
                return NOTHING
            lists.append(None if name is None else self._lists[name])
        try:
            return access.narrowing(*lists)
        except CloisterError:
            return NOTHING  # a pattern that is none

    async def _fetch(self, agent: bytes, name: bytes) -> None:
        try:
            data = await self._blobs.get(name)
            if not compare_digest(access.list_hash(data), name):
                raise NOT_READ(expected=to_hex(name), found="other bytes")
            self._lists[name] = access.parse_list(data)
        except CloisterError as error:
            if name not in self._missing:
                _log.warning("a list narrows to nothing", agent=short(agent), list=to_hex(name), code=error.code)
                self._missing = {*self._missing, name} if len(self._missing) < MAX_LISTS else {name}
            return
        self._missing.discard(name)
        while len(self._lists) > MAX_LISTS:
            self._lists.popitem(last=False)

    async def _proven(self, hook: bytes, asked: bytes) -> Outcome:
        """The hook's answer at the newest checkpoint; asked once per checkpoint and question."""
        at = self._watch.checkpoint.number
        key = (at, hook, asked)
        if key not in self._answers:
            for old in [k for k in self._answers if k[0] != at][:64]:
                del self._answers[old]
            self._answers[key] = await self._watch.calls().view(hook, asked)
            if len(self._answers) > MAX_ANSWERS:
                self._answers.popitem(last=False)
        return self._answers[key]

    async def _signed(self, account: bytes, asked: bytes) -> Outcome:
        """A contract account's answer at the newest checkpoint."""
        at = self._watch.checkpoint.number
        if at != self._signed_at:
            self._signed_at = at
            self._signatures.clear()
        key = account, sha256(asked).digest()
        if key not in self._signatures:
            if self._checking >= MAX_CHECKS:
                raise BUSY(expected=f"fewer than {MAX_CHECKS} in progress", found="as many")
            self._checking += 1
            try:
                answer = await self._watch.calls().view(account, asked, gas=SIGNATURE_GAS)
            finally:
                self._checking -= 1
            if at != self._signed_at:
                return answer
            self._signatures[key] = answer
            if len(self._signatures) > MAX_LISTS:
                self._signatures.popitem(last=False)
        return self._signatures[key]

    async def _newest(self, to: bytes, asked: bytes) -> Outcome:
        """What a contract says at the newest block seen: it may only forbid."""
        try:
            return Outcome(True, await self._watch.state().newest_call(to, asked), 0)
        except ChainError as error:
            if error.code != REVERTED.code:
                raise
            return Outcome(False, b"", 0)


def _lists(rules: AgentRules) -> Iterable[bytes | None]:
    """The hashes of the three lists; None for one that is not set."""
    return [name if any(name) else None for name in (rules.egress_hash, rules.tools_hash, rules.models_hash)]
