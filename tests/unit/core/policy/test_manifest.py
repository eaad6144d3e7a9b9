"""The manifest: one form per meaning, every wrong field by name."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.encoding import jcs
from cloister.core.errors import CloisterError
from cloister.core.policy.egress import Rule, parse_rule, parse_rules
from cloister.core.policy.manifest import (
    LIMITS,
    MAX_BUNDLE,
    MAX_MANIFEST,
    Manifest,
    code_hash,
    manifest_hash,
    normalize,
    parse,
)

FULL: dict[str, Any] = {
    "v": 1,
    "entry": "fetch",
    "limits": {"memory_mb": 256, "wall_s": 60},
    "egress": ["api.openai.com", "*.example.org:8443"],
    "env": ["OPENAI_API_KEY"],
    "settings": {"LANGUAGE": "en"},
    "secrets": ["OPENAI_API_KEY", "PIN"],
    "models": ["all-MiniLM-L6-v2"],
    "upgrade": {"rule": "delay", "blocks": 100},
}


def test_defaults_are_filled_in_and_lists_sorted() -> None:
    manifest = normalize({"egress": ["b.example", "a.example"]})
    assert manifest.egress == ("a.example", "b.example")
    assert manifest.limits == {name: default for name, (default, _, _) in LIMITS.items()}
    assert (manifest.entry, manifest.upgrade_delay, manifest.secrets) == ("fetch", 0, ())


def test_bytes_are_canonical_and_parse_back() -> None:
    manifest = normalize(FULL)
    data = bytes(manifest)
    assert jcs.encode(json.loads(data)) == data
    assert parse(data) == Manifest.parse(data) == manifest
    assert manifest_hash(data) == hashlib.sha256(data).digest()
    assert bytes(normalize(manifest.to_json())) == data


def test_two_spellings_of_one_meaning_have_one_hash() -> None:
    other = {**FULL, "egress": FULL["egress"][::-1], "limits": {**FULL["limits"], "heap_mb": 64}}
    assert bytes(normalize(other)) == bytes(normalize(FULL))


def test_only_the_full_form_parses() -> None:
    for source in ({}, FULL, {**normalize(FULL).to_json(), "egress": ["b.example", "a.example"]}):
        with pytest.raises(CloisterError) as caught:
            parse(jcs.encode(source))
        assert caught.value.code == "manifest.field"


def test_code_sees_the_secrets_that_it_declares_and_no_others() -> None:
    manifest, opened = normalize(FULL), {"OPENAI_API_KEY": "k", "OTHER": "x"}
    assert manifest.environment(opened) == {"LANGUAGE": "en", "OPENAI_API_KEY": "k"}
    assert manifest.handles(opened) == {"OPENAI_API_KEY": "k"}
    assert manifest.environment({}) == {"LANGUAGE": "en"}


@pytest.mark.parametrize(("rule", "delay"), [("frozen", None), ("instant", 0), ("delay", 7)])
def test_the_three_upgrade_rules(rule: str, delay: int | None) -> None:
    source = {"rule": rule, "blocks": 7} if rule == "delay" else {"rule": rule}
    manifest = normalize({"upgrade": source})
    assert manifest.upgrade_delay == delay
    assert manifest.to_json()["upgrade"] == source


WRONG: dict[str, tuple[str, object]] = {
    "a list": ("manifest.field", []),
    "an unknown field": ("manifest.field", {"permissions": "all"}),
    "another version": ("manifest.field", {"v": 2}),
    "a boolean version": ("manifest.field", {"v": True}),
    "an unknown entry": ("manifest.entry", {"entry": "init"}),
    "an entry that is a list": ("manifest.entry", {"entry": ["fetch"]}),
    "an unknown limit": ("manifest.field", {"limits": {"disk_mb": 1}}),
    "limits as a list": ("manifest.field", {"limits": []}),
    "too little memory": ("manifest.limit", {"limits": {"memory_mb": 1}}),
    "too much time": ("manifest.limit", {"limits": {"wall_s": 10**6}}),
    "a fraction": ("manifest.limit", {"limits": {"wall_s": 1.5}}),
    "a boolean limit": ("manifest.limit", {"limits": {"concurrency": True}}),
    "a limit as text": ("manifest.limit", {"limits": {"heap_mb": "64"}}),
    "a URL as egress": ("sandbox.egress", {"egress": ["https://api.openai.com"]}),
    "everything as egress": ("sandbox.egress", {"egress": ["*"]}),
    "a whole top-level domain": ("sandbox.egress", {"egress": ["*.com"]}),
    "egress in capitals": ("sandbox.egress", {"egress": ["API.example"]}),
    "egress listed twice": ("manifest.field", {"egress": ["a.example", "a.example"]}),
    "egress as one text": ("manifest.field", {"egress": "a.example"}),
    "an egress entry that is a number": ("manifest.field", {"egress": [1]}),
    "too many hosts": ("sandbox.egress", {"egress": [f"h{i}.example" for i in range(65)]}),
    "a secret name with a dash": ("manifest.name", {"secrets": ["API-KEY"]}),
    "an empty secret name": ("manifest.name", {"secrets": [""]}),
    "a name that the sandbox uses": ("manifest.name", {"settings": {"HTTPS_PROXY": "http://evil"}}),
    "an environment name that is no secret": ("manifest.name", {"env": ["KEY"]}),
    "a name as setting and secret": ("manifest.name", {"settings": {"A": "1"}, "secrets": ["A"]}),
    "too many secrets": ("manifest.name", {"secrets": [f"S{i}" for i in range(65)]}),
    "a setting that is a number": ("manifest.field", {"settings": {"A": 1}}),
    "a setting with NUL": ("manifest.field", {"settings": {"A": "\0"}}),
    "a long setting": ("manifest.field", {"settings": {"A": "x" * 5000}}),
    "settings beyond the manifest's size": ("manifest.field", {"settings": {f"S{i}": "x" * 4000 for i in range(20)}}),
    "a model with a space": ("manifest.field", {"models": ["a b"]}),
    "an upgrade rule of another name": ("manifest.upgrade", {"upgrade": {"rule": "never"}}),
    "a delay without blocks": ("manifest.upgrade", {"upgrade": {"rule": "delay"}}),
    "a delay of zero": ("manifest.upgrade", {"upgrade": {"rule": "delay", "blocks": 0}}),
    "a delay of true": ("manifest.upgrade", {"upgrade": {"rule": "delay", "blocks": True}}),
    "a frozen rule with blocks": ("manifest.upgrade", {"upgrade": {"rule": "frozen", "blocks": 1}}),
    "a rule as text": ("manifest.upgrade", {"upgrade": "frozen"}),
}


@pytest.mark.parametrize("sentence", WRONG)
def test_a_wrong_manifest_is_refused_by_name(sentence: str) -> None:
    code, source = WRONG[sentence]
    with pytest.raises(CloisterError) as caught:
        normalize(source)
    assert caught.value.code == code


@given(st.integers(0, len(bytes(normalize(FULL))) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_another_manifest(at: int, flip: int) -> None:
    data = bytearray(bytes(normalize(FULL)))
    data[at] ^= flip
    try:
        other = parse(bytes(data))
    except CloisterError:
        return
    assert bytes(other) == bytes(data)
    assert other != normalize(FULL)


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(CloisterError):
        parse(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(FULL)), JSON, max_size=5))
def test_any_json_gives_a_manifest_or_a_named_refusal(source: dict[str, Any]) -> None:
    try:
        manifest = normalize(source)
    except CloisterError:
        return
    assert parse(bytes(manifest)) == manifest


def test_sizes_are_bounded() -> None:
    with pytest.raises(CloisterError):
        parse(b" " * (MAX_MANIFEST + 1))
    for bundle in (b"", bytes(MAX_BUNDLE + 1)):
        with pytest.raises(CloisterError) as caught:
            code_hash(bundle)
        assert caught.value.code == "manifest.bundle"
    assert code_hash(b"x") == hashlib.sha256(b"x").digest()


RULES: dict[str, tuple[str, int, bool]] = {
    "api.example": ("api.example", 443, True),
    "api.example:8443": ("api.example", 8443, True),
    "*.example.org": ("a.b.example.org", 443, True),
    "*.example.org:1": ("a.example.org", 1, True),
    "a.example": ("b.a.example", 443, False),
    "*.a.example": ("a.example", 443, False),
    "b.example": ("b.example", 80, False),
}


@pytest.mark.parametrize("pattern", RULES)
def test_rules_allow_what_they_say(pattern: str) -> None:
    host, port, allowed = RULES[pattern]
    assert parse_rule(pattern).allows(host, port) == allowed


def test_rules_are_said_with_their_port() -> None:
    rules = parse_rules(["a.example", "*.b.example:8443"])
    assert [str(rule) for rule in rules] == ["a.example:443", "*.b.example:8443"]
    assert rules[0] == Rule("a.example", 443, wild=False)


@given(st.text(max_size=40))
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    try:
        rule = parse_rule(text)
    except CloisterError as error:
        assert error.code == "sandbox.egress"  # noqa: PT017
        return
    assert parse_rule(str(rule)) == rule


# --- runtime and keys: later fields, which stand in the full form only where they are set ---


def test_an_agents_key_rules_make_the_round_trip() -> None:
    domain = "1:0x" + "ab" * 20
    manifest = normalize({"keys": {"messages": True, "typed_data": ["8453:0x" + "01" * 20, domain]}})
    assert manifest.keys is not None
    assert (manifest.keys.messages, manifest.keys.raw) == (True, False)
    assert manifest.keys.typed_data == (domain, "8453:0x" + "01" * 20)
    assert Manifest.parse(bytes(manifest)) == manifest
    assert b"keys" not in bytes(normalize({}))


def test_later_key_rules_stand_in_the_full_form_only_where_they_are_set() -> None:
    """Manifests that were made before them keep their hash."""
    plain = normalize({"keys": {"messages": True}})
    assert b"ed25519" not in bytes(plain)
    assert b"calls" not in bytes(plain)
    later = normalize({"keys": {"calls": True, "ed25519": True}})
    assert later.keys is not None
    assert (later.keys.calls, later.keys.ed25519, later.keys.messages) == (True, True, False)
    assert Manifest.parse(bytes(later)) == later


BAD_KEYS: dict[str, object] = {
    "a list": [],
    "an unknown field": {"everything": True},
    "a text for true": {"messages": "yes"},
    "one for raw": {"raw": 1},
    "a text for calls": {"calls": "all"},
    "nothing for ed25519": {"ed25519": None},
    "calls by the account and a raw key": {"calls": True, "raw": True},
    "a domain without a chain": {"typed_data": ["0x" + "ab" * 20]},
    "a domain in upper case": {"typed_data": ["1:0x" + "AB" * 20]},
    "chain zero": {"typed_data": ["0:0x" + "ab" * 20]},
    "a star": {"typed_data": ["*"]},
    "too many domains": {"typed_data": [f"{n}:0x" + "ab" * 20 for n in range(1, 70)]},
}


@pytest.mark.parametrize("sentence", BAD_KEYS)
def test_key_rules_out_of_form_are_refused(sentence: str) -> None:
    with pytest.raises(CloisterError) as caught:
        normalize({"keys": BAD_KEYS[sentence]})
    assert caught.value.code == "manifest.keys"


@pytest.mark.parametrize("runtime", ["ruby", "", None, 7, ["deno"]])
def test_an_unknown_runtime_is_refused(runtime: object) -> None:
    with pytest.raises(CloisterError) as caught:
        normalize({"runtime": runtime})
    assert caught.value.code == "manifest.runtime"


def test_the_full_form_of_deno_names_no_runtime() -> None:
    written = jcs.encode({**normalize({}).to_json(), "runtime": "deno"})
    with pytest.raises(CloisterError):
        Manifest.parse(written)


def test_a_manifest_with_one_process_keeps_the_hash_that_it_had_before_there_were_several() -> None:
    assert "processes" not in normalize({}).to_json()
    assert bytes(normalize({"processes": 1})) == bytes(normalize({}))
    several = normalize({"processes": 4})
    assert several.processes == 4
    assert parse(bytes(several)) == several
    assert bytes(several) != bytes(normalize({}))


@pytest.mark.parametrize("value", [0, 9, -1, True, "2", 1.5, None, [2]])
def test_a_number_of_processes_that_no_worker_offers_is_refused(value: object) -> None:
    with pytest.raises(CloisterError) as caught:
        normalize({"processes": value})
    assert caught.value.code == "manifest.processes"
