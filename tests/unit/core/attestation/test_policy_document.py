"""The policy document: strict reading, one hash, shipped policies, and the schema that others read."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.attestation.policy import KIND_RULES, SHIPPED, NetworkParameters, Policy, devnet, schema, shipped
from cloister.core.attestation.roots import Roots
from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context, digest
from cloister.core.errors import AttestationError, CloisterError, EncodingError, PolicyError
from support.hardware import policy, roots


def _conforms(value: Any, rule: dict[str, Any], place: str = "$") -> list[str]:
    """The little of JSON schema 2020-12 that our schema uses; returns what is wrong."""
    wrong: list[str] = []
    types = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    if "const" in rule and value != rule["const"]:
        wrong.append(f"{place}: not {rule['const']}")
    if "enum" in rule and value not in rule["enum"]:
        wrong.append(f"{place}: not one of {rule['enum']}")
    kind = rule.get("type")
    if kind and (not isinstance(value, types[kind]) or (kind == "integer" and isinstance(value, bool))):
        return [f"{place}: not {kind}"]
    if kind == "integer" and not rule.get("minimum", value) <= value <= rule.get("maximum", value):
        wrong.append(f"{place}: out of range")
    if kind == "string":
        if not rule.get("minLength", 0) <= len(value) <= rule.get("maxLength", len(value)):
            wrong.append(f"{place}: length")
        if "pattern" in rule and not re.search(rule["pattern"], value):
            wrong.append(f"{place}: pattern")
    if kind == "array":
        if len(value) > rule.get("maxItems", len(value)):
            wrong.append(f"{place}: too many")
        for at, item in enumerate(value):
            wrong += _conforms(item, rule["items"], f"{place}[{at}]")
    if kind == "object":
        wrong += _object(value, rule, place)
    return wrong


def _object(value: dict[str, Any], rule: dict[str, Any], place: str) -> list[str]:
    wrong = [f"{place}.{name}: missing" for name in rule.get("required", ()) if name not in value]
    for name, item in value.items():
        inner = rule.get("properties", {}).get(name, rule.get("additionalProperties", True))
        if inner is False:
            wrong.append(f"{place}.{name}: unknown")
        elif isinstance(inner, dict):
            wrong += _conforms(item, inner, f"{place}.{name}")
    return wrong


NEVER_ALLOWED = {"allow_migration_agent", "allow_secure_boot_off", "allow_unsaid_mode", "allow_missing_fwid"}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_policies_are_for_production_and_refuse_milan(name: str) -> None:
    one = shipped(name)
    assert (one.name, one.mode) == (name, "production")
    assert one.roots == Roots.production()
    assert "Milan" in one.refused_generations
    assert {"tdx", "snp", "nitro", "nvidia-gpu", "nvidia-switch"} <= set(one.kinds)
    assert "tpm" not in one.kinds
    assert "OutOfDate" not in one.kinds["tdx"]["tcb"]
    assert _conforms(one.to_json(), schema()) == []


def test_strict_is_stricter_than_cloud() -> None:
    strict, cloud = shipped("strict").kinds, shipped("cloud").kinds
    assert {kind for kind in cloud if kind.startswith("azure")}
    assert not any(kind.startswith("azure") for kind in strict)
    assert set(strict["nvidia-gpu"]["features"]) < set(cloud["nvidia-gpu"]["features"])
    for kind in strict:
        assert set(strict[kind]["tcb"]) <= set(cloud[kind]["tcb"])
        for name, value in strict[kind].items():
            if name.startswith("allow_"):
                assert value is False
                assert cloud[kind][name] is (name not in NEVER_ALLOWED)
    assert strict["snp"]["max_vmpl"] < cloud["snp"]["max_vmpl"]


def test_unknown_shipped_names_are_refused() -> None:
    with pytest.raises(PolicyError):
        shipped("../strict")


def test_the_devnet_policy_has_its_own_roots_and_takes_overrides() -> None:
    one = devnet(roots(), seats=3, period_blocks=10)
    assert (one.mode, one.roots, one.network.seats) == ("devnet", roots(), 3)
    assert one.network.lease_blocks == 20
    assert _conforms(one.to_json(), schema()) == []
    with pytest.raises(PolicyError):
        devnet(roots(), seats=0)


def test_json_goes_there_and_back_with_one_hash() -> None:
    for one in (shipped("strict"), shipped("cloud"), policy()):
        again = Policy.decode(one.encode())
        assert again == one
        assert again.hash() == one.hash() == digest(Context.POLICY, jcs.encode(one.to_json()))
    assert shipped("strict").hash() != shipped("cloud").hash()


def test_production_never_takes_a_simulated_root() -> None:
    document = policy().to_json() | {"mode": "production"}
    with pytest.raises(AttestationError) as caught:
        Policy.from_json(document)
    assert caught.value.code == "attestation.simulated_root"
    with pytest.raises(AttestationError):
        dataclasses.replace(policy(), mode="production")


def test_bytes_that_are_not_canonical_are_refused() -> None:
    honest = policy().encode()
    for bad in (honest + b" ", b" " + honest, honest[:-1], b"", honest.replace(b"300", b"3e2"), b"\xff"):
        with pytest.raises(EncodingError):
            Policy.decode(bad)
    with pytest.raises(EncodingError):
        Policy.decode(b'"' + b"x" * 70000 + b'"')


def _at(*path: str) -> Callable[[dict[str, Any], Any], None]:
    def put(document: dict[str, Any], value: Any) -> None:
        inner = document
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = value

    return put


BAD: dict[str, tuple[Callable[[dict[str, Any], Any], None], Any]] = {
    "another version": (_at("version"), 2),
    "a mode that nobody knows": (_at("mode"), "test"),
    "an empty name": (_at("name"), ""),
    "a name that is a number": (_at("name"), 7),
    "an unknown field": (_at("allow_everything"), True),
    "kinds in a list": (_at("kinds"), []),
    "an unknown kind": (_at("kinds", "sgx2"), {"tcb": []}),
    "rules that are a list": (_at("kinds", "tdx"), []),
    "an unknown rule": (_at("kinds", "tdx", "allow_debug"), True),
    "a switch that is a number": (_at("kinds", "tdx", "allow_smt_enabled"), 1),
    "a switch that is text": (_at("kinds", "tdx", "allow_smt_enabled"), "true"),
    "statuses in a text": (_at("kinds", "tdx", "tcb"), "UpToDate"),
    "a status twice": (_at("kinds", "tdx", "tcb"), ["UpToDate", "UpToDate"]),
    "an empty status": (_at("kinds", "tdx", "tcb"), [""]),
    "a level above three": (_at("kinds", "snp", "max_vmpl"), 4),
    "a level below zero": (_at("kinds", "snp", "max_vmpl"), -1),
    "a level that is a flag": (_at("kinds", "snp", "max_vmpl"), True),
    "a floor of an unknown part": (_at("kinds", "snp", "minimum_tcb"), {"Genoa": {"bios": 1}}),
    "a floor that is no number": (_at("kinds", "snp", "minimum_tcb"), {"Genoa": {"snp": "1"}}),
    "floors in a list": (_at("kinds", "snp", "minimum_tcb"), []),
    "generations in a text": (_at("refused_generations"), "Milan"),
    "no maximal age": (_at("max_evidence_age_s"), 0),
    "an age with a fraction": (_at("max_evidence_age_s"), 1.5),
    "an unknown parameter": (_at("network", "cap"), 1),
    "a lease of one period": (_at("network", "lease_blocks"), 300),
    "no seats": (_at("network", "seats"), 0),
    "a negative delay": (_at("network", "measurement_delay"), -1),
    "roots of nobody": (_at("roots", "acme"), []),
}


@pytest.mark.parametrize("sentence", BAD)
def test_a_document_outside_its_format_is_refused(sentence: str) -> None:
    put, value = BAD[sentence]
    document = copy.deepcopy(policy().to_json())
    put(document, value)
    with pytest.raises((PolicyError, EncodingError)):
        Policy.from_json(document)
    assert _conforms(document, schema()) or sentence in ("a status twice", "a lease of one period")


@pytest.mark.parametrize("name", [*policy().to_json()])
def test_every_field_is_required(name: str) -> None:
    document = policy().to_json()
    del document[name]
    with pytest.raises(PolicyError):
        Policy.from_json(document)
    assert _conforms(document, schema())


def test_the_schema_names_exactly_the_fields_that_are_read() -> None:
    properties = schema()["properties"]
    assert set(properties) == set(policy().to_json()) == set(schema()["required"])
    for kind, rules in KIND_RULES.items():
        assert set(properties["kinds"]["properties"][kind]["properties"]) == set(rules)
    names = {field.name for field in dataclasses.fields(NetworkParameters)}
    assert set(properties["network"]["properties"]) == names


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_is_a_named_refusal(data: bytes) -> None:
    with pytest.raises(CloisterError):
        Policy.decode(data)


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted(policy().to_json())),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda c: st.lists(c, max_size=3) | st.dictionaries(st.text(max_size=5), c, max_size=3),
    ),
)
def test_any_value_in_any_field_is_read_or_refused(name: str, value: Any) -> None:
    document = policy().to_json() | {name: value}
    try:
        again = Policy.from_json(document)
    except CloisterError:
        return
    assert again.to_json() == document


def test_flipped_bytes_never_give_the_same_hash() -> None:
    honest = policy()
    data = honest.encode()
    for place in range(0, len(data), 7):
        bad = bytearray(data)
        bad[place] ^= 1
        try:
            assert Policy.decode(bytes(bad)).hash() != honest.hash()
        except CloisterError:
            continue
