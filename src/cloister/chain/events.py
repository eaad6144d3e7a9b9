"""Events of the contracts: their topics, and logs as an endpoint gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cloister.chain import abi
from cloister.chain.abi import BAD_ANSWER
from cloister.chain.contracts import artifact, signature_of, types_of
from cloister.core.encoding.hexes import from_hex
from cloister.core.encoding.keccak import keccak256

_MAX_TOPICS = 4


def topic(name: str, event: str) -> bytes:
    """Topic 0 of an event: 32 bytes."""
    return keccak256(signature_of(_entry(name, "event", event)).encode())


def decode_event(name: str, log: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Event name and fields of an RPC log. Indexed dynamic fields stay hashes. Raises ChainError if unknown."""
    said = log.get("topics")
    if not isinstance(said, (list, tuple)) or len(said) > _MAX_TOPICS:
        raise BAD_ANSWER(expected=f"at most {_MAX_TOPICS} topics", found=type(said).__name__)
    topics = [from_hex(t, 32, name="topic") for t in said]
    for entry in artifact(name).abi:
        if entry["type"] == "event" and topics and keccak256(signature_of(entry).encode()) == topics[0]:
            return str(entry["name"]), _decode_log(entry, topics[1:], from_hex(log.get("data"), name="log data"))
    raise BAD_ANSWER(expected=f"an event of {name}", found="another topic")


def _entry(name: str, kind: str, wanted: str) -> dict[str, Any]:
    found = [e for e in artifact(name).abi if e["type"] == kind and e["name"] == wanted]
    if not found:
        raise TypeError(f"{name} has no {kind} {wanted}")
    return found[0]


def _decode_log(entry: Mapping[str, Any], topics: Sequence[bytes], data: bytes) -> dict[str, Any]:
    indexed = [i for i in entry["inputs"] if i["indexed"]]
    plain = [i for i in entry["inputs"] if not i["indexed"]]
    if len(indexed) != len(topics):
        raise BAD_ANSWER(expected=f"{len(indexed)} indexed fields", found=str(len(topics)))
    values = dict(zip((i["name"] for i in plain), abi.decode(types_of(plain), data), strict=True))
    for item, word in zip(indexed, topics, strict=True):
        kind = abi.parse(item)
        values[item["name"]] = abi.decode([kind], word)[0] if kind.is_value else word
    return values
