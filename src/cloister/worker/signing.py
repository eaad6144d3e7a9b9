"""``ctx.keys``: what the agent's own key signs, as the manifest allows (spec/sandbox.md 8). The key stays here.

By default a signature counts for the agent's contract account (EIP-1271), whose limits bind on chain. Only a manifest
that says ``raw`` gets signatures of the key's own address.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from coincurve import PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.identity import AgentVersion, Purpose
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.encoding.typed_data import account_digest, message_digest, typed_digest
from cloister.core.errors import PolicyError, define
from cloister.core.keys.account import ed25519_key, signing_key
from cloister.core.policy.manifest import KeyRules
from cloister.core.threshold.ibe import DerivedKey
from cloister.worker.host import BAD_ARGUMENT, Extra, Origin, need_data

MAX_MESSAGE: Final = 64 << 10
# Domains of this system: what is signed under them moves its own accounts and sessions.
_OURS: Final = "Cloister"

DENIED = define(
    "worker.keys_denied",
    PolicyError,
    check="the manifest lets the agent's key sign this",
    remedy='add it to "keys" in cloister.json: {"messages": true} or {"typed_data": ["CHAIN:0xCONTRACT"]}',
    status=403,
)


@dataclass(frozen=True, slots=True)
class Account:
    """An agent's contract account: where it is or will be (20 bytes), and on which chain."""

    chain_id: int
    address: bytes


class Keys(Protocol):
    """Keys of an agent by purpose (``leases.AgentKeys``)."""

    @property
    def version(self) -> AgentVersion:
        """What they are named by."""

    def key(self, purpose: Purpose, period: int = 0) -> DerivedKey:
        """One of them."""


class AgentSigner:
    """Signs for one agent. ``keys``: the lease of now. ``rules``: of its manifest, None where it signs nothing.
    ``account``: its contract account."""

    def __init__(
        self,
        keys: Callable[[], Keys],
        rules: Callable[[], Awaitable[KeyRules | None]],
        account: Account,
    ) -> None:
        self._keys, self._rules, self._account = keys, rules, account

    def calls(self) -> Mapping[str, Extra]:
        """What agent code may call."""
        return {
            "keys.address": self._address,
            "keys.account": self._facts,
            "keys.sign_message": self._message,
            "keys.sign_typed_data": self._typed,
            "keys.ed25519_key": self._ed25519_key,
            "keys.sign_ed25519": self._ed25519,
        }

    async def _address(self, origin: Origin, args: Mapping[str, Any]) -> str:
        return to_hex(self._shown(await self._allowed()))

    async def _facts(self, origin: Origin, args: Mapping[str, Any]) -> dict[str, Any]:
        rules, account = await self._allowed(), self._account
        facts = {
            "address": self._shown(rules),
            "account": account.address,
            "signer": address_of(epoch_key(self._keys())),
        }
        return {**{name: to_hex(value) for name, value in facts.items()}, "chainId": account.chain_id}

    async def _message(self, origin: Origin, args: Mapping[str, Any]) -> str:
        rules, message = await self._allowed(), need_data(args.get("message"))
        if not rules.messages:
            raise DENIED(expected='"messages": true in keys', found="a manifest without it")
        if len(message) > MAX_MESSAGE:
            raise BAD_ARGUMENT(expected=f"a message of at most {MAX_MESSAGE} bytes", found=f"{len(message)} bytes")
        return self._signed(message_digest(message), rules)

    async def _typed(self, origin: Origin, args: Mapping[str, Any]) -> str:
        """1. it is typed data; 2. its domain is one of the manifest's; 3. a raw key signs none of our own domains."""
        rules, typed = await self._allowed(), args.get("typed")
        digest = typed_digest(typed)  # 1
        domain = typed["domain"] if isinstance(typed, Mapping) else {}
        contract, chain = str(domain.get("verifyingContract", "")).lower(), str(domain.get("chainId", ""))
        if f"{chain}:{contract}" not in rules.typed_data:  # 2
            raise DENIED(expected="a domain of typed_data in keys", found="another chain or contract")
        if rules.raw and str(domain.get("name", "")).startswith(_OURS):  # 3
            raise DENIED(expected="a domain of others", found="one of this system")
        return self._signed(digest, rules)

    async def _ed25519_key(self, origin: Origin, args: Mapping[str, Any]) -> str:
        return to_hex((await self._second()).public_key().public_bytes_raw())

    async def _ed25519(self, origin: Origin, args: Mapping[str, Any]) -> str:
        key, message = await self._second(), need_data(args.get("message"))
        if len(message) > MAX_MESSAGE:
            raise BAD_ARGUMENT(expected=f"a message of at most {MAX_MESSAGE} bytes", found=f"{len(message)} bytes")
        return to_hex(key.sign(message))

    async def _second(self) -> Ed25519PrivateKey:
        """The Ed25519 key, if the manifest opts in: no contract limits what it signs."""
        if not (await self._allowed()).ed25519:
            raise DENIED(expected='"ed25519": true in keys', found="a manifest without it")
        keys = self._keys()
        return ed25519_key(keys.key(Purpose.IDENTITY), bytes(keys.version.key(Purpose.IDENTITY)))

    async def _allowed(self) -> KeyRules:
        rules = await self._rules()
        if rules is None:
            raise DENIED(expected="keys in the manifest", found="a manifest without them")
        return rules

    def _shown(self, rules: KeyRules) -> bytes:
        return address_of(epoch_key(self._keys())) if rules.raw else self._account.address

    def _signed(self, digest: bytes, rules: KeyRules) -> str:
        """65 bytes: over the digest itself, or over what the account's EIP-1271 check recovers from."""
        if not rules.raw:
            account = self._account
            digest = account_digest(digest, account.chain_id, account.address)
        return to_hex(sign_digest(epoch_key(self._keys()), digest))


def epoch_key(keys: Keys) -> PrivateKey:
    """The agent's signing key under a lease."""
    return signing_key(keys.key(Purpose.IDENTITY), bytes(keys.version.key(Purpose.IDENTITY)))
