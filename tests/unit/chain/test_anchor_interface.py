"""The Anchor's other faces: the Vyper interface, and the page that contract developers copy from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cloister.chain.contracts import artifact, encode
from cloister.chain.events import topic
from cloister.core.encoding.keccak import keccak256

ROOT = Path(__file__).resolve().parents[3]
VYPER = (ROOT / "contracts" / "vyper" / "IAnchor.vyi").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "use" / "contracts.md").read_text(encoding="utf-8")
STRUCT = re.compile(r"^struct (\w+):\n((?:    .+\n)+)", re.MULTILINE)
FUNCTION = re.compile(r"@external\n((?:@\w+\n)*)def (\w+)\((.*?)\)(?: -> (.+?))?: \.\.\.")
REQUEST_WORDS = 10


def plain(kind: str, structs: dict[str, str]) -> str:
    """A Vyper type as the ABI writes it."""
    return "bytes" if kind.startswith("Bytes[") else structs.get(kind, kind)


def shape(item: dict[str, Any]) -> str:
    if item["type"] == "tuple":
        return f"({','.join(shape(c) for c in item['components'])})"
    return str(item["type"])


def vyper_functions() -> dict[str, tuple[str, str, str]]:
    """Name -> (arguments, results, mutability) of the .vyi file."""
    structs: dict[str, str] = {}
    for name, body in STRUCT.findall(VYPER):
        structs[name] = f"({','.join(line.split(':')[1].strip() for line in body.strip().splitlines())})"
    found = {}
    for marks, name, arguments, results in FUNCTION.findall(VYPER):
        kinds = [plain(part.split(":")[1].strip(), structs) for part in arguments.split(", ") if part]
        outs = [plain(part.strip(), structs) for part in results.strip("()").split(",") if part]
        state = next((m for m in ("payable", "view") if f"@{m}\n" in marks), "nonpayable")
        found[name] = (",".join(kinds), ",".join(outs), state)
    return found


def test_the_vyper_interface_is_the_artifacts() -> None:
    abi = {
        e["name"]: (",".join(map(shape, e["inputs"])), ",".join(map(shape, e["outputs"])), e["stateMutability"])
        for e in artifact("Anchor").abi
        if e["type"] == "function"
    }
    stated = vyper_functions()
    assert len(stated) == VYPER.count("@external")
    assert stated.items() <= abi.items()


@pytest.mark.parametrize(("block", "file"), [(0, "examples/Weather.sol"), (1, "test/Weather.t.sol")])
def test_the_pages_code_is_compiled_and_run_by_forge(block: int, file: str) -> None:
    blocks = re.findall(r"```solidity\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    assert blocks[block] == (ROOT / "contracts" / file).read_text(encoding="utf-8")


def test_the_pages_limits_are_the_contracts() -> None:
    source = (ROOT / "contracts" / "src" / "Anchor.sol").read_text(encoding="utf-8")
    for name, value in (("MAX_PAYLOAD", "16,384"), ("MAX_GAS", "5,000,000"), ("MAX_COPIES", "8")):
        constant = re.search(rf"constant {name} = ([\d_]+);", source)
        assert constant is not None
        assert constant[1].replace("_", ",") == value
        assert value in PAGE


def test_a_request_is_ten_words_so_that_its_hash_needs_no_decoding() -> None:
    """spec/anchor.md 5: the contract hashes 320 bytes of calldata."""
    fields: dict[str, int | bytes] = {
        "agent": b"\1" * 32, "index": 7, "requester": b"\2" * 20, "fee": 3, "codeHash": bytes(32), "gasLimit": 4,
        "deadline": 5, "copies": 1, "flags": 0, "payloadHash": b"\3" * 32,
    }  # fmt: skip
    data = encode("Anchor", "commitment", fields)[4:]
    assert len(data) == 32 * REQUEST_WORDS
    words = [v if isinstance(v, bytes) else v.to_bytes(32, "big") for v in fields.values()]
    assert keccak256(data) == keccak256(b"".join(w.rjust(32, b"\0") for w in words))


def test_the_events_that_workers_look_for() -> None:
    assert topic("Anchor", "Requested") == keccak256(
        b"Requested(bytes32,uint64,address,uint128,bytes32,uint64,uint64,uint8,uint8,bytes)"
    )
    assert topic("Anchor", "Answered") == keccak256(b"Answered(bytes32,uint64,bool,bytes)")


def test_a_round_trip_stays_within_its_gas() -> None:
    figures = json.loads((ROOT / "contracts" / "gas" / "Cloister.json").read_text(encoding="utf-8"))
    assert int(figures["request and callback 256 B"]) <= 140_000
    wanted = {
        "register agent", "update code", "pause", "request 256 B", "request 1 KiB", "response and callback 256 B",
        "batch of 50 responses 256 B", "validation, renewed",
    }  # fmt: skip
    assert wanted <= figures.keys()
