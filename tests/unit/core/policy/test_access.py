"""Access rules as pure policy: lists, hooks' questions and answers, contract signatures."""

from __future__ import annotations

import contextlib
import hashlib
import json

import pytest
from eth_abi import encode as abi
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.chainview.evm import Outcome
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import CloisterError
from cloister.core.policy import access
from cloister.core.policy.access import NOTHING, Narrowing, Uses, narrowing

NAMES = st.lists(st.from_regex(r"[a-z][a-z0-9.]{0,20}", fullmatch=True), max_size=10)
TRUE = (1).to_bytes(32, "big")


def code_of(error: pytest.ExceptionInfo[CloisterError]) -> str:
    return error.value.code


# --- lists ---


@given(NAMES)
@settings(max_examples=50, deadline=None)
def test_a_list_reads_back_as_what_it_says(names: list[str]) -> None:
    data = access.encode_list(names)
    assert access.parse_list(data) == tuple(sorted(set(names)))
    assert access.list_hash(data) == hashlib.sha256(data).digest()


@given(st.binary(max_size=80))
@settings(max_examples=100, deadline=None)
def test_garbage_is_a_named_refusal_or_a_list(data: bytes) -> None:
    try:
        names = access.parse_list(data)
    except CloisterError:
        return
    assert access.encode_list(names) == data


@pytest.mark.parametrize(
    ("why", "data"),
    [
        ("an object", b"{}"),
        ("a number in it", b"[1]"),
        ("an empty name", b'[""]'),
        ("another order", b'["b","a"]'),
        ("one twice", b'["a","a"]'),
        ("spaces", b'["a", "b"]'),
        ("more than 64", access.jcs.encode(sorted(f"n{i:03d}" for i in range(65)))),
        ("a name beyond 260 characters", access.jcs.encode(["a" * 261])),
        ("more bytes than a list has", b'["' + b"a" * (33 << 10) + b'"]'),
    ],
)
def test_what_is_no_list(why: str, data: bytes) -> None:
    with pytest.raises(CloisterError):
        access.parse_list(data)


@given(NAMES)
@settings(max_examples=30, deadline=None)
def test_each_spoilt_byte_changes_the_hash(names: list[str]) -> None:
    data = access.encode_list(names)
    for i in range(len(data)):
        assert access.list_hash(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :]) != access.list_hash(data)


# --- narrowing ---

HOSTS: dict[str, tuple[tuple[str, ...] | None, bool]] = {
    "no list leaves every host to the manifest": (None, True),
    "a list with the host leaves it": (("api.example.org",), True),
    "a list with a wildcard above it leaves it": (("*.example.org",), True),
    "a list without it does not": (("other.example.org",), False),
    "a list with another port of it does not": (("api.example.org:8443",), False),
    "an empty list leaves none": ((), False),
}


@pytest.mark.parametrize("sentence", HOSTS)
def test_hosts(sentence: str) -> None:
    names, allowed = HOSTS[sentence]
    assert narrowing(names, None, None).allows_host("api.example.org", 443) is allowed


def test_an_egress_list_with_something_that_is_no_pattern_is_refused() -> None:
    with pytest.raises(CloisterError):
        narrowing(("http://x",), None, None)


@given(NAMES, NAMES, NAMES)
@settings(max_examples=60, deadline=None)
def test_two_narrowings_leave_what_both_leave(one: list[str], other: list[str], asked: list[str]) -> None:
    a, b = narrowing(None, tuple(one), None), narrowing(None, tuple(other), None)
    for both in (a.also(b), b.also(a), a.also(b).also(a)):
        assert both.tools == frozenset(one) & frozenset(other)
    assert a.also(Narrowing()) == a
    assert a.also(NOTHING).tools == frozenset()


@given(st.lists(st.sampled_from(["a.org", "b.org", "*.c.org"]), max_size=3), st.sampled_from(["a.org", "x.c.org", "z"]))
@settings(max_examples=50, deadline=None)
def test_a_further_list_never_adds_a_host(names: list[str], host: str) -> None:
    base = narrowing(("a.org", "*.c.org"), None, None)
    more = base.also(narrowing(tuple(names), None, None))
    assert base.allows_host(host, 443) or not more.allows_host(host, 443)


def test_nothing_allows_nothing() -> None:
    assert not NOTHING.allows_host("a.org", 443)
    with pytest.raises(CloisterError):
        NOTHING.require_uses(Uses(tools=frozenset({"t"})))


# --- tools and models of calls ---

AGENT = b"\x0a" * 32
FREE = frozenset({access.tool_of(AGENT)})
CHAT = "/v1/chat/completions"


def call(path: str, body: object, *, tools: set[str] | None = None, models: set[str] | None = None) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    uses = Uses(None if tools is None else FREE | tools, None if models is None else frozenset(models))
    uses.require_call(AGENT, "POST", path, data)


@pytest.mark.parametrize(
    ("why", "path", "body", "allowed"),
    [
        ("a listed model", CHAT, {"model": "m"}, True),
        ("another model", CHAT, {"model": "n"}, False),
        ("no model", CHAT, {}, False),
        ("no body", CHAT, b"", False),
        ("a body that is no JSON", CHAT, b"model=m", False),
        ("a model that is no text", CHAT, {"model": ["m"]}, False),
        ("a list of requests", CHAT, [{"model": "m"}], False),
        ("two models, of which readers take one or the other", CHAT, b'{"model":"m","model":"n"}', False),
        ("the same model twice", CHAT, b'{"model":"m","model":"m"}', True),
        ("nested deeper than a parser goes", CHAT, b"[" * 60_000, False),
        ("more brackets than are read", CHAT, b'{"model":"m","x":[' + b"1," * 70_000 + b"1]}", False),
        ("below a prefix", "/api" + CHAT, {"model": "n"}, False),
        ("with a query", CHAT + "?model=m", {"model": "n"}, False),
        ("with a slash at its end", CHAT + "/", {"model": "n"}, False),
        ("with slashes doubled", "//v1//chat//completions", {"model": "n"}, False),
        ("in other letters", "/V1/Chat/Completions", {"model": "n"}, False),
        ("percent-encoded", "/v1/chat%2Fcompletions", {"model": "n"}, False),
        ("embeddings", "/v1/embeddings", {"model": "n"}, False),
        ("responses", "/v1/responses", {"model": "n"}, False),
        ("images", "/v1/images/generations", {"model": "n"}, False),
        ("a path that asks no model", "/cars", {"model": "n"}, True),
    ],
)
def test_a_call_that_declares_a_model_needs_it(why: str, path: str, body: object, allowed: bool) -> None:
    call(path, body)
    if allowed:
        call(path, body, models={"m"})
        return
    with pytest.raises(CloisterError, match=r"policy\.not_listed"):
        call(path, body, models={"m"})


def rpc(name: object = "t", method: str = "tools/call") -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"name": name}}


@pytest.mark.parametrize(
    ("why", "body", "allowed"),
    [
        ("a listed tool", rpc(), True),
        ("another tool", rpc("u"), False),
        ("another method", rpc("u", "tools/list"), True),
        ("a batch with one that is not listed", [rpc(), rpc("u")], False),
        ("a batch of listed ones", [rpc(), rpc()], True),
        ("a call that names none", {"method": "tools/call", "params": {}}, False),
        ("a call without parameters", {"method": "tools/call"}, False),
        ("a name that is no text", rpc(7), False),
        ("two names", b'{"method":"tools/call","params":{"name":"t","name":"u"}}', False),
        ("two methods", b'{"method":"ping","method":"tools/call","params":{"name":"u"}}', False),
        ("two lists of parameters", b'{"method":"tools/call","params":{"name":"t"},"params":{"name":"u"}}', False),
        ("a text", b'"tools/call"', False),
        ("no JSON", b"\xff", False),
    ],
)
def test_a_call_of_a_tool_needs_it(why: str, body: object, allowed: bool) -> None:
    call("/mcp", body)
    if allowed:
        call("/mcp", body, tools={"t"})
        return
    with pytest.raises(CloisterError, match=r"policy\.not_listed"):
        call("/mcp", body, tools={"t"})


def test_an_agent_that_is_no_listed_tool_is_not_called_at_all() -> None:
    with pytest.raises(CloisterError, match=r"policy\.not_listed"):
        Uses(tools=FREE).require_call(b"\x0b" * 32, "GET", "/", b"")
    Uses(tools=FREE).require_call(AGENT, "GET", "/", b"")
    Uses(tools=FREE, models=frozenset()).require_call(AGENT, "GET", CHAT, b"")


@given(st.binary(max_size=60))
@settings(max_examples=60, deadline=None)
def test_a_garbled_body_is_a_named_refusal_or_allowed(body: bytes) -> None:
    for path in (CHAT, "/mcp"):
        with contextlib.suppress(CloisterError):
            call(path, body, tools={"t"}, models={"m"})


def test_a_manifest_needs_every_list_for_what_it_names() -> None:
    left = narrowing(None, ("t",), None).also(narrowing(None, ("t", "u"), ("m",)))
    left.require_uses(Uses(frozenset({"t"}), frozenset({"m"})))
    left.require_uses(Uses())
    for uses in (Uses(tools=frozenset({"u"})), Uses(models=frozenset({"n"}))):
        with pytest.raises(CloisterError, match=r"policy\.not_listed"):
            left.require_uses(uses)
    assert left.left(Uses()) == Uses(frozenset({"t"}), frozenset({"m"}))
    assert Narrowing().left(Uses(models=frozenset({"m"}))) == Uses(None, frozenset({"m"}))


# --- the hook's question and answer ---


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=20, max_size=20), st.binary(max_size=100))
@settings(max_examples=50, deadline=None)
def test_the_question_is_what_a_contract_decodes(agent: bytes, caller: bytes, context: bytes) -> None:
    selector = access.selector_of("POST", "/x")
    kinds = ["bytes32", "address", "bytes4", "bytes"]
    expected = abi(kinds, [agent, "0x" + caller.hex(), selector, context])
    name = keccak256(b"isAllowed(bytes32,address,bytes4,bytes)")[:4]
    assert access.question(agent, caller, selector, context) == name + expected


def test_a_selector_is_of_method_and_path_without_the_query() -> None:
    assert access.selector_of("GET", "/notes?x=1") == hashlib.sha256(b"GET /notes").digest()[:4]
    assert access.selector_of("GET", "/notes") != access.selector_of("POST", "/notes")


def test_a_context_is_canonical_and_has_no_query() -> None:
    assert access.context_of("wallet", "GET", "/a?secret=1") == b'{"kind":"wallet","method":"GET","path":"/a"}'


def test_a_path_that_fits_no_context_is_refused() -> None:
    with pytest.raises(CloisterError) as error:
        access.context_of("wallet", "GET", "/" + "a" * 4096)
    assert code_of(error) == "policy.access_denied"


@pytest.mark.parametrize(
    ("sentence", "outcome", "allowed"),
    [
        ("exactly the word 1 is a yes", Outcome(True, TRUE, 0), True),
        ("0 is a no", Outcome(True, bytes(32), 0), False),
        ("2 is a no", Outcome(True, (2).to_bytes(32, "big"), 0), False),
        ("nothing is a no", Outcome(True, b"", 0), False),
        ("a byte more is a no", Outcome(True, TRUE + b"\0", 0), False),
        ("a revert that says 1 is a no", Outcome(False, TRUE, 0), False),
    ],
)
def test_answers(sentence: str, outcome: Outcome, allowed: bool) -> None:
    if allowed:
        access.require_allowed(outcome)
        return
    with pytest.raises(CloisterError) as error:
        access.require_allowed(outcome)
    assert code_of(error) == "policy.access_denied", sentence


# --- EIP-1271 ---

MAGIC = bytes.fromhex("1626ba7e")


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
@settings(max_examples=30, deadline=None)
def test_the_signature_question_is_what_a_contract_decodes(digest: bytes, signature: bytes) -> None:
    assert access.signature_question(digest, signature) == MAGIC + abi(["bytes32", "bytes"], [digest, signature])


@pytest.mark.parametrize(
    ("sentence", "outcome", "valid"),
    [
        ("the magic word counts", Outcome(True, MAGIC.ljust(32, b"\0"), 0), True),
        ("another word does not", Outcome(True, b"\xff" * 32, 0), False),
        ("an account without code says nothing, which is no yes", Outcome(True, b"", 0), False),
        ("four bytes alone do not", Outcome(True, MAGIC, 0), False),
        ("a revert does not", Outcome(False, MAGIC.ljust(32, b"\0"), 0), False),
    ],
)
def test_contract_signatures(sentence: str, outcome: Outcome, valid: bool) -> None:
    if valid:
        access.require_valid(outcome)
        return
    with pytest.raises(CloisterError) as error:
        access.require_valid(outcome)
    assert code_of(error) == "policy.contract_signature", sentence
