"""What an agent's owner and the DAO may narrow on chain, and what that means for one call (spec/chainview.md 17-26).

Pure. Lists and hooks only ever narrow: a host, tool or model needs the manifest's leave and every list's. Rules that
are proven and rules seen in newer blocks all bind at once: a restriction counts from any block seen, a loosening when
it is final.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cloister.core.chainview.evm import Outcome
from cloister.core.chainview.layout import address_key
from cloister.core.encoding import jcs
from cloister.core.encoding.hexes import need_bytes
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import PolicyError, define
from cloister.core.policy.egress import Rule, parse_rules

MAX_NAMES: Final = 64
MAX_NAME: Final = 260
MAX_LIST: Final = 32 << 10
MAX_CONTEXT: Final = 4096
ANYBODY: Final = bytes(20)
_IS_ALLOWED: Final = keccak256(b"isAllowed(bytes32,address,bytes4,bytes)")[:4]
_IS_VALID_SIGNATURE: Final = keccak256(b"isValidSignature(bytes32,bytes)")[:4]

DENIED = define(
    "policy.access_denied",
    PolicyError,
    check="the agent's access hook allows this caller to make this call",
    remedy="ask the agent's owner; the rule is the contract that `cloister agent policy show` names",
    status=403,
)
BAD_LIST = define(
    "policy.list",
    PolicyError,
    check="a list that the chain names is a sorted canonical JSON array of at most 64 distinct texts",
    remedy="set the lists again with `cloister agent policy set`",
    status=503,
)
NOT_LISTED = define(
    "policy.not_listed",
    PolicyError,
    check="manifest and every list on chain allow what the agent uses",
    remedy="see `cloister agent policy show`; the owner changes lists with `cloister agent policy set`",
    status=403,
)
BAD_CONTRACT_SIGNATURE = define(
    "policy.contract_signature",
    PolicyError,
    check="the contract account says that the signature is its own (EIP-1271)",
    remedy="sign with the keys that the account obeys at the newest final block",
    status=403,
)


# --- lists ---


def encode_list(names: Iterable[str]) -> bytes:
    """The document of a list: its SHA-256 goes on chain. Raises PolicyError (policy.list)."""
    data = jcs.encode(sorted(set(names)))
    parse_list(data)
    return data


def list_hash(data: bytes) -> bytes:
    """What the Agents contract holds of a list document: 32 bytes."""
    return hashlib.sha256(data).digest()


def parse_list(data: bytes) -> tuple[str, ...]:
    """The names in a list document. Raises PolicyError (policy.list) or EncodingError."""
    value = jcs.decode(data, max_size=MAX_LIST)
    if not isinstance(value, list) or not all(isinstance(n, str) and 0 < len(n) <= MAX_NAME for n in value):
        raise BAD_LIST(expected=f"texts of 1 to {MAX_NAME} characters", found="another form")
    if len(value) > MAX_NAMES or sorted(set(value)) != value:
        raise BAD_LIST(expected=f"at most {MAX_NAMES}, sorted, each once", found=f"{len(value)} in another order")
    return tuple(value)


@dataclass(frozen=True, slots=True)
class Narrowing:
    """What lists leave of a manifest. None: no list, the manifest alone binds. Empty: nothing is allowed."""

    egress: tuple[tuple[Rule, ...], ...] = ()
    tools: frozenset[str] | None = None
    models: frozenset[str] | None = None

    def allows_host(self, host: str, port: int) -> bool:
        """Whether every egress list has the host (lower case) and port. The manifest is asked besides."""
        return all(any(rule.allows(host, port) for rule in rules) for rules in self.egress)

    def require_tool(self, name: str) -> None:
        """Raise PolicyError (policy.not_listed) for a tool that a list leaves out."""
        _require(self.tools, "tool", name)

    def require_model(self, name: str, manifest: Iterable[str]) -> None:
        """Raise PolicyError (policy.not_listed) for a model that the manifest or a list leaves out."""
        _require(frozenset(manifest), "model", name)
        _require(self.models, "model", name)

    def also(self, other: Narrowing) -> Narrowing:
        """Both at once."""
        return Narrowing(self.egress + other.egress, _both(self.tools, other.tools), _both(self.models, other.models))


NOTHING: Final = Narrowing(egress=((),), tools=frozenset(), models=frozenset())


def narrowing(
    egress: tuple[str, ...] | None, tools: tuple[str, ...] | None, models: tuple[str, ...] | None
) -> Narrowing:
    """What three lists mean; None: that list is not set. Raises SandboxError for an egress pattern that is none."""
    return Narrowing(
        egress=() if egress is None else (parse_rules(egress),),
        tools=None if tools is None else frozenset(tools),
        models=None if models is None else frozenset(models),
    )


# --- the hook ---


def selector_of(method: str, path: str) -> bytes:
    """First 4 bytes of sha256(method, one space, path without query)."""
    return hashlib.sha256(f"{method} {path.partition('?')[0]}".encode()).digest()[:4]


def context_of(kind: str, method: str, path: str) -> bytes:
    """What a hook learns of the call besides, canonical JSON. Raises PolicyError over 4096 bytes."""
    data = jcs.encode({"kind": kind, "method": method, "path": path.partition("?")[0]})
    if len(data) > MAX_CONTEXT:
        raise DENIED(expected=f"a path that fits a context of {MAX_CONTEXT} bytes", found=f"{len(data)} bytes")
    return data


def question(agent: bytes, caller: bytes, selector: bytes, context: bytes) -> bytes:
    """Call data of isAllowed. agent: 32 bytes; caller: 20, zero for an anonymous one; selector: 4."""
    head = need_bytes("agent", agent, 32) + address_key(caller) + need_bytes("selector", selector, 4).ljust(32, b"\0")
    return _IS_ALLOWED + head + (128).to_bytes(32, "big") + _tail(context)


def require_allowed(outcome: Outcome) -> None:
    """Raise PolicyError unless the hook returned exactly the word 1. A failure, or anything else, is a no."""
    if not outcome.ok or not hmac.compare_digest(outcome.output, (1).to_bytes(32, "big")):
        found = "no" if outcome.ok and outcome.output == bytes(32) else "a failure or another form of answer"
        raise DENIED(expected="isAllowed to return true", found=found)


# --- EIP-1271 ---


def signature_question(digest: bytes, signature: bytes) -> bytes:
    """Call data of isValidSignature(bytes32,bytes)."""
    return _IS_VALID_SIGNATURE + need_bytes("digest", digest, 32) + (64).to_bytes(32, "big") + _tail(signature)


def require_valid(outcome: Outcome) -> None:
    """Raise PolicyError unless a contract account returned EIP-1271's magic word."""
    magic = _IS_VALID_SIGNATURE.ljust(32, b"\0")
    if not outcome.ok or not hmac.compare_digest(outcome.output[:32], magic):
        raise BAD_CONTRACT_SIGNATURE(expected="the magic value of EIP-1271", found="another answer")


# --- inside ---


def _tail(data: bytes) -> bytes:
    return len(data).to_bytes(32, "big") + data + bytes(-len(data) % 32)


def _require(names: frozenset[str] | None, kind: str, name: str) -> None:
    if names is not None and name not in names:
        raise NOT_LISTED(expected=f"a listed {kind}", found=name[:80])


def _both(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other
