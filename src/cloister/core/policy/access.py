"""What an agent's owner and the DAO may narrow on chain, and what that means for one call (spec/chainview.md 17-26).

Pure. Lists and hooks only ever narrow: a host, tool or model needs the manifest's leave and every list's. Rules that
are proven and rules seen in newer blocks all bind at once: a restriction counts from any block seen, a loosening when
it is final.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import unquote

from cloister.core.chainview.evm import Outcome
from cloister.core.chainview.layout import address_key
from cloister.core.encoding import jcs
from cloister.core.encoding.hexes import need_bytes, to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import PolicyError, define
from cloister.core.policy.egress import Rule, parse_rules

MAX_NAMES: Final = 64
MAX_NAME: Final = 260
MAX_LIST: Final = 32 << 10
MAX_CONTEXT: Final = 4096
# Brackets, braces and commas of a body that is read for the names in it: what parsing it may cost.
MAX_MARKS: Final = 65_536
ANYBODY: Final = bytes(20)
# Paths below which calls name a model in "model", and where calls of tools go (MCP over HTTP).
_MODEL_CALLS: Final = re.compile(
    r"(?:/.*)?/v1/(?:chat/completions|completions|responses|embeddings|rerank|moderations|images/.+|audio/.+)/?",
    re.IGNORECASE | re.DOTALL,
)
_TOOL_CALLS: Final = re.compile(r"(?:/.*)?/mcp/?", re.IGNORECASE | re.DOTALL)
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
class Uses:
    """Names of tools and models. None: none are said. As a manifest says them, or as what may be used of them."""

    tools: frozenset[str] | None = None
    models: frozenset[str] | None = None

    def require_call(self, agent: bytes, method: str, path: str, body: bytes) -> None:
        """Raise PolicyError (policy.not_listed) unless a call of another agent uses only these (spec/chainview.md 27).

        1. the agent is a tool, by its id; 2. tools that the call declares; 3. models that it declares. A call that
        must declare and cannot be read is refused. Nothing is read for what nothing binds."""
        _require(self.tools, "tool", tool_of(agent))  # 1
        for names, kind, field in ((self.tools, "tool", _TOOL_CALLS), (self.models, "model", _MODEL_CALLS)):  # 2, 3
            if names is None or method.upper() not in ("POST", "PUT", "PATCH"):
                continue
            if field.fullmatch(re.sub(r"/+", "/", unquote(path.partition("?")[0]))):
                for name in _declared(kind, body):
                    _require(names, kind, name)


@dataclass(frozen=True, slots=True)
class Narrowing:
    """What lists leave of a manifest. None: no list, the manifest alone binds. Empty: nothing is allowed."""

    egress: tuple[tuple[Rule, ...], ...] = ()
    tools: frozenset[str] | None = None
    models: frozenset[str] | None = None

    def allows_host(self, host: str, port: int) -> bool:
        """Whether every egress list has the host (lower case) and port. The manifest is asked besides."""
        return all(any(rule.allows(host, port) for rule in rules) for rules in self.egress)

    def require_uses(self, uses: Uses) -> None:
        """Raise PolicyError (policy.not_listed) where a manifest names a tool or model that a list leaves out."""
        for name in uses.tools or ():
            _require(self.tools, "tool", name)
        for name in uses.models or ():
            _require(self.models, "model", name)

    def left(self, uses: Uses) -> Uses:
        """What lists and manifest leave together; None: nothing binds."""
        return Uses(_both(self.tools, uses.tools), _both(self.models, uses.models))

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


def tool_of(agent: bytes) -> str:
    """The name by which lists of tools and manifests know another agent. agent: 32 bytes."""
    return f"agent:{to_hex(need_bytes('agent', agent, 32))}"


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


class _Object(list[tuple[str, Any]]):
    """A JSON object with every field, those of one name too: readers differ in which of them counts."""


def _declared(kind: str, body: bytes) -> list[str]:
    """Models of a body in the OpenAI API's form, or tools of JSON-RPC calls in MCP's. Raises policy.not_listed."""
    unread = NOT_LISTED(expected=f"a JSON body that says its {kind}", found="another one")
    if sum(body.count(mark) for mark in b"[{,") > MAX_MARKS:
        raise unread
    try:
        said = json.loads(body, object_pairs_hook=_Object)
    except (ValueError, RecursionError):
        raise unread from None
    if kind == "model":
        found = _fields(said, "model")
        if not found:
            raise unread
    else:
        calls = said if isinstance(said, list) and not isinstance(said, _Object) else [said]
        called = [c for c in calls if "tools/call" in _fields(c, "method")]
        found = [name for c in called for params in _fields(c, "params") for name in _fields(params, "name")]
        if len(found) < len(called) or not all(isinstance(c, _Object) for c in calls):
            raise unread
    if not all(isinstance(name, str) for name in found):
        raise unread
    return [str(name) for name in found]


def _fields(value: object, name: str) -> list[Any]:
    return [v for k, v in value if k == name] if isinstance(value, _Object) else []


def _both(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    if one is None or other is None:
        return other if one is None else one
    return one & other
