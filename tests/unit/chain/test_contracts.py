"""Artifacts, call data, answers, events, reasons: without a chain."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from importlib import resources
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.chain.contracts import artifact, decode, describe_revert, encode, encode_constructor, names, revert_name
from cloister.chain.events import decode_event, topic
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.statements import WorkerAdmission
from cloister.core.errors import ChainError, CloisterError

# ERC-8004, identity registry, as the standard spells it.
STANDARD_FUNCTIONS = (
    "register(string,(string,bytes)[])",
    "register(string)",
    "register()",
    "setAgentURI(uint256,string)",
    "getMetadata(uint256,string)",
    "setMetadata(uint256,string,bytes)",
    "setAgentWallet(uint256,address,uint256,bytes)",
    "getAgentWallet(uint256)",
    "unsetAgentWallet(uint256)",
)
STANDARD_EVENTS = (
    "Registered(uint256,string,address)",
    "URIUpdated(uint256,string,address)",
    "MetadataSet(uint256,string,string,bytes)",
)
REPUTATION_FUNCTIONS = (
    "giveFeedback(uint256,int128,uint8,string,string,string,string,bytes32)",
    "revokeFeedback(uint256,uint64)",
    "appendResponse(uint256,address,uint64,string,bytes32)",
    "getSummary(uint256,address[],string,string)",
    "readFeedback(uint256,address,uint64)",
    "readAllFeedback(uint256,address[],string,string,bool)",
    "getResponseCount(uint256,address,uint64,address[])",
    "getClients(uint256)",
    "getLastIndex(uint256,address)",
    "getIdentityRegistry()",
)
REPUTATION_EVENTS = {
    "NewFeedback(uint256,address,uint64,int128,uint8,string,string,string,string,string,bytes32)": [0, 1, 5],
    "FeedbackRevoked(uint256,address,uint64)": [0, 1, 2],
    "ResponseAppended(uint256,address,uint64,address,string,bytes32)": [0, 1, 3],
}
VALIDATION_FUNCTIONS = (
    "validationRequest(address,uint256,string,bytes32)",
    "validationResponse(bytes32,uint8,string,bytes32,string)",
    "getValidationStatus(bytes32)",
    "getSummary(uint256,address[],string)",
    "getAgentValidations(uint256)",
    "getValidatorRequests(address)",
    "getIdentityRegistry()",
)
VALIDATION_EVENTS = {
    "ValidationRequest(address,uint256,string,bytes32)": [0, 1, 3],
    "ValidationResponse(address,uint256,bytes32,uint8,string,bytes32,string)": [0, 1, 2],
}
OUTPUTS = {
    ("Reputation", "getSummary"): "uint64,int128,uint8",
    ("Reputation", "readFeedback"): "int128,uint8,string,string,bool",
    ("Reputation", "readAllFeedback"): "address[],uint64[],int128[],uint8[],string[],string[],bool[]",
    ("Validation", "getSummary"): "uint64,uint8",
    ("Validation", "getValidationStatus"): "address,uint256,uint8,bytes32,string,uint256",
}
B32 = st.binary(min_size=32, max_size=32)
B20 = st.binary(min_size=20, max_size=20)


def signature(entry: dict[str, Any]) -> str:
    def kind(item: dict[str, Any]) -> str:
        if item["type"].startswith("tuple"):
            return f"({','.join(kind(c) for c in item['components'])}){item['type'][5:]}"
        return str(item["type"])

    return f"{entry['name']}({','.join(kind(i) for i in entry['inputs'])})"


def signatures(name: str, kind: str) -> set[str]:
    return {signature(e) for e in artifact(name).abi if e["type"] == kind}


def test_every_contract_of_the_design_ships() -> None:
    assert set(names()) == {
        "AgentAccount", "AgentAccounts", "Agents", "Anchor", "Clusters", "Directory", "Election", "Gatekeepers",
        "Policies", "Receipts", "RemoteAgents", "Reputation", "Reseals", "Seats", "Stakes", "Timelock", "Token",
        "Validation", "Workers",
    }  # fmt: skip


@pytest.mark.parametrize("name", names())
def test_artifacts_are_complete_and_within_the_limits(name: str) -> None:
    made = artifact(name)
    assert 0 < made.deployed_size <= 24_576
    assert len(made.bytecode) <= 49_152
    assert all(start >= 0 and start + length <= made.deployed_size for start, length in made.immutables)
    assert {"storage", "types"} == set(made.layout)


@pytest.mark.parametrize("name", names())
def test_artifacts_hold_no_path_of_the_machine_that_built_them(name: str) -> None:
    text = (resources.files("cloister.chain") / "artifacts" / f"{name}.json").read_text(encoding="utf-8")
    assert not re.search(r"/(home|work|root|tmp|Users)/|node_modules|npmjs", text)
    assert json.loads(text)["compiler"]["settings"]["metadata"]["bytecodeHash"] == "none"


def test_the_identity_registry_is_the_standards() -> None:
    assert set(STANDARD_FUNCTIONS) <= signatures("Agents", "function")
    assert set(STANDARD_EVENTS) <= signatures("Agents", "event")
    indexed = {
        e["name"]: [i["name"] for i in e["inputs"] if i["indexed"]]
        for e in artifact("Agents").abi
        if e["type"] == "event"
    }
    assert indexed["Registered"] == ["agentId", "owner"]
    assert indexed["URIUpdated"] == ["agentId", "updatedBy"]
    assert indexed["MetadataSet"] == ["agentId", "indexedMetadataKey"]


@pytest.mark.parametrize(
    ("name", "functions", "events"),
    [
        ("Reputation", REPUTATION_FUNCTIONS, REPUTATION_EVENTS),
        ("Validation", VALIDATION_FUNCTIONS, VALIDATION_EVENTS),
    ],
)
def test_the_other_registries_are_the_standards(
    name: str, functions: tuple[str, ...], events: dict[str, list[int]]
) -> None:
    assert set(functions) <= signatures(name, "function")
    found = {
        signature(e): [i for i, item in enumerate(e["inputs"]) if item["indexed"]]
        for e in artifact(name).abi
        if e["type"] == "event"
    }
    assert events.items() <= found.items()


@pytest.mark.parametrize(("name", "function"), OUTPUTS)
def test_what_the_other_registries_answer(name: str, function: str) -> None:
    entry = next(e for e in artifact(name).abi if e["type"] == "function" and e["name"] == function)
    assert ",".join(item["type"] for item in entry["outputs"]) == OUTPUTS[name, function]


def test_no_contract_can_be_upgraded_or_destroyed() -> None:
    for name in names():
        functions = " ".join(signatures(name, "function")).lower()
        assert not re.search(r"upgradeto|initialize|implementation|selfdestruct|delegatecall", functions), name


def test_overloads_by_number_of_arguments() -> None:
    assert encode("Agents", "register")[:4] == keccak256(b"register()")[:4]
    assert encode("Agents", "register", "ipfs://x")[:4] == keccak256(b"register(string)")[:4]
    three = encode("Agents", "register", "ipfs://x", [("k", b"v")])
    assert three[:4] == keccak256(b"register(string,(string,bytes)[])")[:4]


def test_structs_as_dict_tuple_or_statement_encode_alike() -> None:
    statement = WorkerAdmission(1, b"\1" * 20, b"\2" * 20, b"\3" * 32, b"\4" * 32, b"\5" * 32, 99)
    plain = dataclasses.astuple(statement)
    named = dict(
        zip(["term", "worker", "operator", "vendorClass", "measurement", "boot", "expiry"], plain, strict=True)
    )
    forms = {encode("Workers", "renew", form, [b"sig"]) for form in (statement, plain, named)}
    assert len(forms) == 1


@given(B32, st.integers(0, 2**64 - 1), B20)
def test_answers_come_back_as_they_were(code: bytes, number: int, owner: bytes) -> None:
    def word(value: int) -> bytes:
        return value.to_bytes(32, "big")

    data = owner.rjust(32, b"\0") + word(number) + word(7)
    cluster = {"owner": owner, "epoch": number, "seats": 7, "bumpedAt": 8, "maxEpochAge": 9}
    assert decode("Clusters", "cluster", data + word(8) + word(9)) == cluster
    assert decode("Policies", "policyHash", code) == code
    assert decode("Agents", "status", word(number) + word(1) + owner.rjust(32, b"\0")) == (number, True, owner)
    assert decode("Workers", "heartbeat", b"") is None


@given(st.binary(max_size=200))
def test_garbage_answers_are_refused_by_name(data: bytes) -> None:
    """A committee has a dozen words: 200 bytes of anything are none."""
    with pytest.raises(ChainError) as caught:
        decode("Gatekeepers", "committee", data)
    assert caught.value.code == "chain.bad_answer"


@pytest.mark.parametrize("data", [b"", b"\1" * 31, b"\xff" * 32])
def test_short_or_wrong_answers(data: bytes) -> None:
    with pytest.raises(ChainError):
        decode("Agents", "ownerOf", data)


def test_mistakes_of_the_programmer_are_not_chain_errors() -> None:
    mistakes: list[Callable[[], bytes]] = [
        lambda: encode("Agents", "nothing"),
        lambda: encode("Agents", "pause"),
        lambda: encode_constructor("Token"),
        lambda: topic("Agents", "Nothing"),
    ]
    for mistake in mistakes:
        with pytest.raises(TypeError):
            mistake()
    for name in ("Nothing", "../rpc", ""):
        with pytest.raises(RuntimeError):
            artifact(name)


def test_events_by_name_with_indexed_fields() -> None:
    log = {
        "topics": [to_hex(topic("Agents", "CodeSet")), "0x" + "11" * 32],
        "data": "0x" + "22" * 32 + "33" * 32,
    }
    name, fields = decode_event("Agents", log)
    assert name == "CodeSet"
    assert fields == {"agent": b"\x11" * 32, "codeHash": b"\x22" * 32, "manifestHash": b"\x33" * 32}


@pytest.mark.parametrize(
    "log",
    [
        {"topics": [], "data": "0x"},
        {"data": "0x"},
        {"topics": None, "data": "0x"},
        {"topics": 5, "data": "0x"},
        {"topics": ["0x" + "11" * 32] * 5, "data": "0x"},
        {"topics": [7], "data": "0x"},
        {"topics": [to_hex(topic("Agents", "CodeSet")), "0x" + "11" * 32], "data": None},
        {"topics": ["0x" + "11" * 32], "data": "0x"},
        {"topics": [to_hex(topic("Agents", "CodeSet"))], "data": "0x" + "22" * 64},
        {"topics": [to_hex(topic("Agents", "CodeSet")), "0x" + "11" * 32], "data": "0x22"},
    ],
)
def test_logs_of_another_form(log: dict[str, Any]) -> None:
    with pytest.raises(CloisterError):
        decode_event("Agents", log)


def test_reasons_by_name() -> None:
    too_few = keccak256(b"TooFewSigners(uint256,uint256)")[:4] + (2).to_bytes(32, "big") + (3).to_bytes(32, "big")
    assert describe_revert(too_few) == "TooFewSigners(2, 3)"
    assert revert_name(too_few) == "TooFewSigners"
    text = bytes.fromhex("08c379a0") + (32).to_bytes(32, "big") + (2).to_bytes(32, "big") + b"no".ljust(32, b"\0")
    assert describe_revert(text) == "Error(no)"
    assert describe_revert(b"") == "no reason"
    assert describe_revert(b"\1\2\3\4") == "unknown error 0x01020304"
    assert describe_revert(too_few[:20]) == "TooFewSigners(malformed)"


@given(st.binary(max_size=100))
def test_any_revert_data_has_a_description(data: bytes) -> None:
    assert describe_revert(data)


def test_code_is_compared_with_its_immutable_values_left_out() -> None:
    made = artifact("Clusters")
    assert made.immutables
    with pytest.raises(ChainError) as caught:
        made.verify_code(b"\1" * made.deployed_size)
    assert caught.value.code == "chain.wrong_code"
    with pytest.raises(ChainError):
        made.verify_code(b"")
