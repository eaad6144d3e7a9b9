"""dstack guests: the real quote and its log in both forms, and simulated ones changed in every way."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.attestation import dstack, kinds, tdx
from cloister.core.attestation.examine import examine
from cloister.core.attestation.model import Claims, Evidence
from cloister.core.attestation.policy import shipped
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError, CloisterError
from support.hardware import NOW, collateral, policy, roots
from support.intel_kit import RUNTIME, dstack_evidence, fold, runtime_event
from support.vectors import at, vectors

WHEN = at("2026-02-20T00:00:00+00:00")
APP, COMPOSE, INSTANCE = b"a" * 20, b"c" * 32, b"i" * 20
Log = list[dict[str, Any]]


def _boot(**options: Any) -> Log:
    return [
        runtime_event("system-preparing", b"", **options),
        runtime_event("app-id", APP, **options),
        runtime_event("compose-hash", COMPOSE, **options),
        runtime_event("instance-id", INSTANCE, **options),
        runtime_event("boot-mr-done", b"", **options),
        runtime_event("key-provider", b'{"name":"kms"}', **options),
        runtime_event("system-ready", b"", **options),
        runtime_event("by-the-app", b"anything", **options),
    ]


def _verify(evidence: Evidence) -> Claims:
    return dstack.verify(evidence, roots(), NOW)


def _refusal(call: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as caught:
        call()
    return caught.value.code


def _real() -> tuple[bytes, Log, bytes]:
    value = json.loads((vectors() / "dstack/quote-report.json").read_bytes())
    aux = (vectors() / "intel-dcap/phala/tdx_quote_outdated_collateral.json").read_bytes()
    return bytes.fromhex(value["quote"]), json.loads(value["event_log"]), aux


def _real_evidence(change: Callable[[Log], object] = lambda log: None) -> Evidence:
    quote, log, aux = _real()
    change(log)
    return Evidence("dstack", quote, {"collateral": aux, "event_log": json.dumps(log).encode()})


def _real_code(change: Callable[[Log], object]) -> str:
    return _refusal(lambda: dstack.verify(_real_evidence(change), Roots.production(), WHEN))


def test_the_real_guest() -> None:
    claims = dstack.verify(_real_evidence(), Roots.production(), WHEN)
    assert (claims.kind, claims.tcb_status, claims.details["log_events"]) == ("dstack", "UpToDate", 28)
    assert claims.measurements["compose_hash"].hex().startswith("3763bc34552cf3a2")
    assert claims.measurements["app_id"] == claims.measurements["compose_hash"][:20]
    assert claims.measurements["instance_id"].hex() == "c3714eb66990eace777b4e664c16e09375dec4c9"
    assert claims.report_data.hex() == "1234" + "00" * 62
    assert claims.details["boot"] == ("system-preparing", "app-id", "compose-hash", "instance-id")
    assert claims.details["after_boot"] == ("key-provider", "system-ready", "LIUM_MINER_HOTKEY")
    assert examine(_real_evidence(), policy=shipped("cloud"), now=WHEN).accepted


def _lite(log: Log) -> None:
    for event in log:
        if event["event_type"] == RUNTIME:
            del event["digest"]
        else:
            event["event_payload"] = ""


def test_the_lite_form_of_the_real_log_says_the_same() -> None:
    full = dstack.verify(_real_evidence(), Roots.production(), WHEN)
    lite = dstack.verify(_real_evidence(_lite), Roots.production(), WHEN)
    assert lite == full
    blank = dstack.verify(
        _real_evidence(lambda log: [e.update(digest="") for e in log if e["event"]]), _production(), WHEN
    )
    assert blank == full


def _production() -> Roots:
    return Roots.production()


def _at(name: str) -> Callable[[Log], int]:
    return lambda log: next(n for n, event in enumerate(log) if event["event"] == name)


def _relabel(name: str, **fields: Any) -> Callable[[Log], object]:
    return lambda log: log[_at(name)(log)].update(fields)


def _swap(log: Log) -> None:
    place = _at("app-id")(log)
    log[place], log[place + 1] = log[place + 1], log[place]


def _both(*changes: Callable[[Log], object]) -> Callable[[Log], object]:
    return lambda log: [change(log) for change in changes]


def _drop_app(log: Log) -> None:
    del log[-1]


REAL_CHANGES: dict[str, tuple[Callable[[Log], object], str]] = {
    "a runtime event dropped": (lambda log: log.pop(_at("app-id")(log)), "attestation.event_log"),
    "the app's own event dropped": (_drop_app, "attestation.event_log"),
    "a firmware event dropped": (lambda log: log.pop(3), "attestation.event_log"),
    "an event inserted": (lambda log: log.insert(22, _plain("harmless", b"")), "attestation.event_log"),
    "an event at the end": (lambda log: log.append(_plain("harmless", b"")), "attestation.event_log"),
    "two events swapped": (_swap, "attestation.event_log"),
    "another compose hash": (_relabel("compose-hash", event_payload="00" * 32), "attestation.event_log"),
    "another compose hash in a lite log": (
        _both(_lite, _relabel("compose-hash", event_payload="00" * 32)),
        "attestation.event_log",
    ),
    "another compose hash with its own digest": (
        _relabel("compose-hash", event_payload="00" * 32, digest=dstack.digest("compose-hash", bytes(32)).hex()),
        "attestation.event_log",
    ),
    "the name of another event": (_relabel("key-provider", event="compose-hash"), "attestation.event_log"),
    "an event under another register": (lambda log: log[2].update(imr=1), "attestation.event_log"),
    "a runtime event under another register": (_relabel("app-id", imr=2), "attestation.malformed"),
    "a runtime event called firmware's": (_relabel("compose-hash", event_type=1), "attestation.malformed"),
    "a firmware event called the guest's": (lambda log: log[2].update(event_type=RUNTIME), "attestation.malformed"),
    "the border between name and payload moved": (
        _both(_lite, _relabel("key-provider", event='key-provider:{"name"')),
        "attestation.malformed",
    ),
    "another version": (_relabel("app-id", version=2), "attestation.event_log"),
    "a version that nobody knows": (_relabel("app-id", version=3), "attestation.malformed"),
    "a version that is a flag": (_relabel("app-id", version=True), "attestation.malformed"),
    "a firmware digest changed": (lambda log: log[4].update(digest="00" * 48), "attestation.event_log"),
    "a firmware digest left out": (lambda log: log[4].update(digest=""), "attestation.malformed"),
    "a field that nobody knows": (lambda log: log[4].update(more=1), "attestation.malformed"),
    "a field left out": (lambda log: log[4].pop("imr"), "attestation.malformed"),
    "no events": (lambda log: log.clear(), "attestation.malformed"),
}


def _plain(name: str, payload: bytes) -> dict[str, Any]:
    return {k: v for k, v in runtime_event(name, payload).items() if k != "_digest"}


@pytest.mark.parametrize("sentence", REAL_CHANGES)
def test_changes_of_the_real_log(sentence: str) -> None:
    change, code = REAL_CHANGES[sentence]
    assert _real_code(change) == code


def test_payloads_of_firmware_events_are_not_bound_and_not_used() -> None:
    changed = dstack.verify(_real_evidence(lambda log: log[4].update(event_payload="00")), Roots.production(), WHEN)
    assert changed == dstack.verify(_real_evidence(), Roots.production(), WHEN)


@pytest.mark.parametrize("options", [{}, {"lite": True}, {"version": 1}, {"version": 2}, {"version": 2, "lite": True}])
def test_simulated_guests_of_every_form(options: dict[str, Any]) -> None:
    claims = _verify(dstack_evidence(_boot(**options)))
    assert claims.measurements["app_id"] == APP
    assert claims.measurements["compose_hash"] == COMPOSE
    assert claims.measurements["instance_id"] == INSTANCE
    assert claims.details["boot"] == ("system-preparing", "app-id", "compose-hash", "instance-id")


def test_version_two_is_known_by_its_digest_where_the_log_does_not_say_it() -> None:
    events = _boot(version=2)
    for event in events:
        del event["version"]
    assert _verify(dstack_evidence(events)).measurements["app_id"] == APP


def test_both_formulas() -> None:
    one = hashlib.sha384(b"\x01\x00\x00\x08:app-id:" + b"\xde\xad").digest()
    two = hashlib.sha384(b'{"name":"app-id","payload":"dead","type":134217729}').digest()
    assert (dstack.digest("app-id", b"\xde\xad"), dstack.digest("app-id", b"\xde\xad", 2)) == (one, two)


def _without(name: str) -> Log:
    return [event for event in _boot() if event["event"] != name]


def _after(name: str, payload: bytes) -> Log:
    return [*_boot(), runtime_event(name, payload)]


IDENTITY: dict[str, Callable[[], Log]] = {
    "no app id": lambda: _without("app-id"),
    "no compose hash": lambda: _without("compose-hash"),
    "no end of the boot": lambda: _boot()[:4],
    "app id only after the boot": lambda: [*_without("app-id"), runtime_event("app-id", APP)],
    "compose hash only after the boot": lambda: [*_without("compose-hash"), runtime_event("compose-hash", COMPOSE)],
    "instance id only after the boot": lambda: [*_without("instance-id"), runtime_event("instance-id", INSTANCE)],
    "a second app id": lambda: _after("app-id", b"b" * 20),
    "a second compose hash": lambda: _after("compose-hash", COMPOSE),
    "a second instance id": lambda: _after("instance-id", INSTANCE),
    "a second compose hash during the boot": lambda: [runtime_event("compose-hash", COMPOSE), *_boot()],
    "the end of the boot before everything": lambda: [runtime_event("system-ready", b""), *_boot()],
    "a short app id": lambda: [runtime_event("app-id", b"a"), *_without("app-id")],
    "a long compose hash": lambda: [runtime_event("compose-hash", b"c" * 33), *_without("compose-hash")],
    "a short instance id": lambda: [runtime_event("instance-id", b"i"), *_without("instance-id")],
}


@pytest.mark.parametrize("sentence", IDENTITY)
def test_identity_comes_once_and_before_the_app(sentence: str) -> None:
    assert _refusal(lambda: _verify(dstack_evidence(IDENTITY[sentence]()))) == "attestation.dstack_identity"


def test_a_guest_may_have_no_instance_id() -> None:
    assert _verify(dstack_evidence(_without("instance-id"))).measurements["instance_id"] == b""
    unnamed = [runtime_event("instance-id", b""), *_without("instance-id")]
    assert _verify(dstack_evidence(unnamed)).measurements["instance_id"] == b""


def test_boot_ends_with_system_ready_where_the_other_mark_is_absent() -> None:
    claims = _verify(dstack_evidence(_without("boot-mr-done")))
    assert claims.details["boot"][-1] == "key-provider"
    assert claims.details["after_boot"] == ("by-the-app",)


def test_the_launch_measurement_names_the_app_and_neither_instance_nor_what_comes_later() -> None:
    base = kinds.launch_measurement(_verify(dstack_evidence(_boot())))
    assert len(base) == 48
    other_instance = [e if e["event"] != "instance-id" else runtime_event("instance-id", b"j" * 20) for e in _boot()]
    assert kinds.launch_measurement(_verify(dstack_evidence(other_instance))) == base
    assert kinds.launch_measurement(_verify(dstack_evidence(_after("more", b"x")))) == base
    other_app = [e if e["event"] != "compose-hash" else runtime_event("compose-hash", b"d" * 32) for e in _boot()]
    early = [runtime_event("init-script-hash", b"s" * 32), *_boot()]
    others = [dstack_evidence(other_app), dstack_evidence(early), dstack_evidence(_boot(), boot=3)]
    assert len({base, *(kinds.launch_measurement(_verify(one)) for one in others)}) == 4


def test_boot_events_are_a_fold_that_anybody_can_redo() -> None:
    claims = _verify(dstack_evidence(_boot()))
    digests = [e["_digest"] for e in _boot()[:4] if e["event"] != "instance-id"]
    assert claims.measurements["boot_events"] == fold(digests)


RULES = shipped("cloud").kinds["dstack"]


@pytest.mark.parametrize(
    ("rules", "good"),
    [
        ({}, True),
        ({"compose_hashes": (COMPOSE.hex(),)}, True),
        ({"compose_hashes": ("00" * 32,)}, False),
        ({"apps": (APP.hex(), "00" * 20)}, True),
        ({"apps": ("00" * 20,)}, False),
        ({"platforms": ("00" * 16,)}, False),
        ({"min_tcb_evaluation_number": 99}, False),
    ],
)
def test_what_policy_may_list(rules: dict[str, Any], good: bool) -> None:
    claims = _verify(dstack_evidence(_boot()))
    if good:
        dstack.check_platform(claims, {**RULES, **rules})
    else:
        assert _refusal(lambda: dstack.check_platform(claims, {**RULES, **rules})) == "attestation.platform"


def test_the_devnet_policy_accepts_a_simulated_guest() -> None:
    assert examine(dstack_evidence(_boot()), policy=policy(), now=NOW).accepted


SHAPES: dict[str, Callable[[Evidence], Evidence]] = {
    "no log": lambda e: dataclasses.replace(e, aux={"collateral": collateral()}),
    "no collateral": lambda e: dataclasses.replace(e, aux={"event_log": e.aux["event_log"]}),
    "something beside": lambda e: dataclasses.replace(e, aux={**e.aux, "vm_config": b"{}"}),
    "an empty log": lambda e: dataclasses.replace(e, aux={**e.aux, "event_log": b""}),
    "a log over the limit": lambda e: dataclasses.replace(e, aux={**e.aux, "event_log": b" " * (1 << 20) + b"[]"}),
    "a log that is an object": lambda e: dataclasses.replace(e, aux={**e.aux, "event_log": b"{}"}),
    "a log that is no text": lambda e: dataclasses.replace(e, aux={**e.aux, "event_log": b"\xff"}),
    "a log of depth": lambda e: dataclasses.replace(e, aux={**e.aux, "event_log": b"[" * 100000}),
    "a field twice": lambda e: dataclasses.replace(
        e, aux={**e.aux, "event_log": e.aux["event_log"].replace(b'"imr": 0', b'"imr": 1, "imr": 0', 1)}
    ),
    "a binary log": lambda e: dataclasses.replace(e, aux={**e.aux, "event_log": b"\x01\0\0\0\x03\0\0\0"}),
}


@pytest.mark.parametrize("sentence", SHAPES)
def test_shapes(sentence: str) -> None:
    assert _refusal(lambda: _verify(SHAPES[sentence](dstack_evidence(_boot())))) == "attestation.malformed"


NAMES = {
    "a colon": "a:b",
    "a line break": "a\nb",
    "a lone surrogate": "\ud800",
    "too many characters": "x" * 129,
}


@pytest.mark.parametrize("sentence", NAMES)
def test_names_of_events(sentence: str) -> None:
    event = {"imr": 3, "event_type": RUNTIME, "event": NAMES[sentence], "event_payload": "", "digest": ""}
    assert _refusal(lambda: dstack.parse(json.dumps([event]).encode())) == "attestation.malformed"


def test_a_log_of_a_quote_of_another_guest_is_refused() -> None:
    one, other = dstack_evidence(_boot()), dstack_evidence(_after("x", b"y"))
    mixed = dataclasses.replace(one, aux={**one.aux, "event_log": other.aux["event_log"]})
    assert _refusal(lambda: _verify(mixed)) == "attestation.event_log"
    assert tdx.verify(Evidence("tdx", one.blob, {"collateral": collateral()}), roots(), NOW).kind == "tdx"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_garbage_is_a_named_refusal(data: bytes) -> None:
    assert _refusal(lambda: dstack.parse(data)) == "attestation.malformed"


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.sampled_from(["00" * 48, "zz"]),
    lambda c: st.lists(c, max_size=3) | st.dictionaries(st.text(max_size=3), c, max_size=3),
)
_fields = st.sampled_from(["imr", "event_type", "digest", "event", "event_payload", "version", "other"])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.dictionaries(_fields, _json, max_size=7), max_size=4))
def test_any_json_parses_or_is_a_named_refusal(value: Any) -> None:
    try:
        events = dstack.parse(json.dumps(value).encode())
    except AttestationError:
        return
    assert all(len(event.digest) == 48 for event in events)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_other_order_of_runtime_events_is_refused(data: st.DataObject) -> None:
    events = _boot()
    order = data.draw(st.permutations(range(len(events))))
    evidence = dstack_evidence(events)
    log = json.loads(evidence.aux["event_log"])
    head, tail = log[: -len(events)], log[-len(events) :]
    mixed = json.dumps([*head, *(tail[n] for n in order)]).encode()
    shown = dataclasses.replace(evidence, aux={**evidence.aux, "event_log": mixed})
    if list(order) == list(range(len(events))):
        assert _verify(shown).kind == "dstack"
        return
    with pytest.raises(CloisterError):
        _verify(shown)
