"""The contracts as Python sees them: artifacts, call data, answers, revert reasons. Events are in ``events.py``.

Addresses and hashes are ``bytes`` here, structs are dicts by field name, numbers are ``int``. Artifacts are built by
``contracts/build.py`` and ship in the wheel, so nobody needs a compiler.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Protocol

from cloister.chain import abi
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import ChainError, define

WRONG_CODE = define(
    "chain.wrong_code",
    ChainError,
    check="the code at a contract's address is the code that this build was made with",
    remedy="compare network.json with the network; use the release of Cloister that the network runs",
)
_BUILTIN_ERRORS = ({"type": "error", "name": "Error", "inputs": [{"type": "string", "name": "reason"}]},
                   {"type": "error", "name": "Panic", "inputs": [{"type": "uint256", "name": "code"}]})  # fmt: skip


class Caller(Protocol):
    """What this module needs of an RPC client."""

    async def call(self, method: str, *params: Any) -> Any:
        """One JSON-RPC call. Raises ChainError."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """One compiled contract. ``layout`` is the compiler's storage layout as plain data."""

    name: str
    abi: tuple[dict[str, Any], ...]
    bytecode: bytes
    deployed_hash: bytes
    deployed_size: int
    immutables: tuple[tuple[int, int], ...]
    layout: dict[str, Any]

    def verify_code(self, code: bytes) -> None:
        """Raise ChainError (chain.wrong_code) unless ``code`` is this contract's, immutable values aside."""
        masked = bytearray(code)
        if len(masked) == self.deployed_size:
            for start, length in self.immutables:
                masked[start : start + length] = bytes(length)
        if keccak256(bytes(masked)) != self.deployed_hash:
            raise WRONG_CODE(expected=f"the code of {self.name}", found=f"other code, {len(code)} bytes")


@cache
def artifact(name: str) -> Artifact:
    """The artifact of a contract. Raises RuntimeError for an unknown name: that is our mistake."""
    path = resources.files("cloister.chain") / "artifacts" / f"{name}.json"
    if not name.isalnum() or not path.is_file():
        raise RuntimeError(f"no contract artifact named {name!r}")
    data = json.loads(path.read_text(encoding="utf-8"))
    deployed = data["deployed"]
    return Artifact(
        name=name,
        abi=tuple(data["abi"]),
        bytecode=from_hex(data["bytecode"]),
        deployed_hash=from_hex(deployed["hash"], 32),
        deployed_size=deployed["size"],
        immutables=tuple((start, length) for start, length in deployed["immutables"]),
        layout=data["layout"],
    )


def names() -> list[str]:
    """Names of all shipped contracts."""
    folder = resources.files("cloister.chain") / "artifacts"
    return sorted(p.name.removesuffix(".json") for p in folder.iterdir() if p.name.endswith(".json"))


# --- functions ---


def encode(name: str, fn: str, *args: Any) -> bytes:
    """Call data of ``fn`` of contract ``name``; overloads are told apart by the number of arguments.

    Addresses are 20 bytes; structs are dicts, dataclasses (fields in order) or sequences.
    """
    shape = _shape(name, fn, len(args))
    return shape.selector + abi.encode(shape.inputs, args)


def encode_constructor(name: str, *args: Any) -> bytes:
    """Creation code with constructor arguments."""
    found = [e for e in artifact(name).abi if e["type"] == "constructor"]
    inputs = found[0]["inputs"] if found else []
    if len(inputs) != len(args):
        raise TypeError(f"{name} takes {len(inputs)} constructor arguments, got {len(args)}")
    return artifact(name).bytecode + abi.encode(types_of(inputs), args)


def decode(name: str, fn: str, data: bytes) -> Any:
    """The answer of ``fn``: None, one value, or a tuple. Raises ChainError for bytes of another form."""
    outputs = _shape(name, fn, None).outputs
    values = abi.decode(outputs, data)
    if not outputs:
        return None
    return values[0] if len(outputs) == 1 else tuple(values)


async def call(rpc: Caller, address: bytes, name: str, fn: str, *args: Any, block: int | str = "latest") -> Any:
    """``eth_call`` of ``fn`` and its decoded answer. Unproven: never base a permissive decision on it."""
    request = {"to": to_hex(address), "data": to_hex(encode(name, fn, *args))}
    answer = await rpc.call("eth_call", request, hex(block) if isinstance(block, int) else block)
    return decode(name, fn, from_hex(answer, name="eth_call answer"))


# --- errors ---


def describe_revert(data: bytes) -> str:
    """A revert's reason for people: ``Name(arg, …)`` of our custom errors, the text of ``Error(string)``, else hex."""
    if not data:
        return "no reason"
    entry = _errors().get(data[:4])
    if entry is None:
        return f"unknown error 0x{data[:4].hex()}"
    try:
        values = abi.decode(types_of(entry["inputs"]), data[4:])
    except ChainError:
        return f"{entry['name']}(malformed)"
    return f"{entry['name']}({', '.join(_show(v) for v in values)})"


def revert_name(data: bytes) -> str:
    """Just the name of a custom error; "" if unknown."""
    entry = _errors().get(data[:4])
    return str(entry["name"]) if entry else ""


# --- inside ---


@cache
def _errors() -> dict[bytes, dict[str, Any]]:
    known: dict[bytes, dict[str, Any]] = {_selector(e): e for e in _BUILTIN_ERRORS}
    for name in names():
        known |= {_selector(e): e for e in artifact(name).abi if e["type"] == "error"}
    return known


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a call of a function needs, read from the artifact once."""

    selector: bytes
    inputs: tuple[abi.Type, ...]
    outputs: tuple[abi.Type, ...]


@cache
def _shape(name: str, fn: str, arity: int | None) -> _Shape:
    entry = _function(name, fn, arity)
    return _Shape(_selector(entry), tuple(types_of(entry["inputs"])), tuple(types_of(entry["outputs"])))


def _function(name: str, fn: str, arity: int | None) -> dict[str, Any]:
    found = [e for e in artifact(name).abi if e["type"] == "function" and e["name"] == fn]
    fitting = [e for e in found if arity is None or len(e["inputs"]) == arity]
    if not fitting:
        wanted = " or ".join(signature_of(e) for e in found) or "no such function"
        raise TypeError(f"{name}.{fn}: {wanted}, got {arity} arguments")
    return fitting[0]


def types_of(items: Sequence[Mapping[str, Any]]) -> list[abi.Type]:
    """The types of an artifact's inputs or outputs."""
    return [abi.parse(item) for item in items]


def signature_of(entry: Mapping[str, Any]) -> str:
    """``name(type,…)`` of a function, an event or an error."""
    return f"{entry['name']}({','.join(t.text for t in types_of(entry['inputs']))})"


def _selector(entry: Mapping[str, Any]) -> bytes:
    return keccak256(signature_of(entry).encode())[:4]


def _show(value: Any) -> str:
    return to_hex(value) if isinstance(value, bytes) else str(value)
