"""Messages travel unchanged, and whatever is not exactly their shape is refused by name."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from coincurve import PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.attestation.model import Binding, Evidence
from cloister.core.encoding.identity import Epochs, Purpose
from cloister.core.encoding.signatures import Signed, address_of
from cloister.core.encoding.statements import Checkpoint, HeartBeat, Lease, StateHead, WorkerAdmission
from cloister.core.errors import CloisterError
from cloister.wire import heads, messages

KEY = PrivateKey(b"\1" * 32)
B32, SIG = b"\7" * 32, b"\5" * 65
POINTS = Checkpoint(1, 31337, 10, B32, B32, 1_700_000_000)
CHECKPOINT = Signed(POINTS, (SIG,) * 3)
BINDING = Binding(B32, "worker", b"\4" * 20, B32, B32, B32, B32, {"transport": b"\4" * 48})
SHOWN = messages.Shown(Evidence("tdx", b"quote", {"collateral": b"{}"}), BINDING)
LEASE = Lease(1, B32, B32, B32, B32, 1, 1, 1, 0, b"\4" * 20, B32, 10, 600)
EPOCHS = Epochs(1, 1, 1, B32)
MOVE = heads.HeadMove(B32, EPOCHS, 1, B32, B32)
PARTIAL = messages.KeyPartial(Purpose.CALL, 3, 1, b"\1" * 48, b"\2" * 96, b"\3" * 48)
OLD = messages.OldPartial(EPOCHS, messages.KeyPartial(Purpose.STATE, 0, 1, b"\1" * 48, b"\2" * 96, b"\3" * 48))
LEASES = (Signed(LEASE, (SIG,)),)
PROVEN = (Signed(StateHead(1, B32, B32, 1, 1, 1, 1, B32, B32), (SIG,) * 4),)
HEADS = heads.HeadsRequest((MOVE,), address_of(KEY), B32, LEASES, PROVEN)
ROW = {"agent": "0x", "height": 1, "parent": "0x", "head": "0x", **EPOCHS.to_json()}

ALL: dict[str, Any] = {
    "info before the key exists": messages.Info(b"\4" * 20, 0, 0, None, B32, "intel", False, 0),
    "info": messages.Info(b"\4" * 20, 2, 1, B32, B32, "intel", True, 77),
    "evidence": SHOWN,
    "admission request": messages.AdmissionRequest(SHOWN, b"\4" * 20, CHECKPOINT),
    "keys request": messages.KeysRequest(SHOWN, B32, CHECKPOINT),
    "partial": PARTIAL,
    "keys answer": messages.KeysAnswer(LEASE, SIG, (PARTIAL,), (OLD,)),
    "heads request": HEADS.signed(KEY),
    "head move": MOVE,
    "endorsed head": heads.EndorsedHead(MOVE, SIG),
    "head answer": heads.HeadAnswer(heads.EndorsedHead(MOVE, SIG), SIG),
    "no head": heads.HeadAnswer(None, SIG),
    "table page": heads.TablePage((ROW,), True, SIG),
    "heartbeat": messages.HeartbeatRequest(B32),
}


@pytest.mark.parametrize("name", ALL)
def test_travels_unchanged(name: str) -> None:
    value = ALL[name]
    again = type(value).from_json(messages.parse_json(messages.dump_json(value.to_json())))
    assert again == value


SIGNED = {
    "checkpoint": POINTS,
    "lease": LEASE,
    "admission": WorkerAdmission(1, b"\4" * 20, b"\4" * 20, B32, B32, B32, 900),
    "heartbeat": HeartBeat(1, B32, 10, B32),
}


@pytest.mark.parametrize("name", SIGNED)
def test_a_signed_statement_travels_under_its_own_name(name: str) -> None:
    one = messages.SignedBy(SIGNED[name], SIG)
    assert set(one.to_json()) == {name, "signature"}
    assert messages.SignedBy.from_json(type(SIGNED[name]), one.to_json()) == one
    with pytest.raises(CloisterError):
        messages.SignedBy.from_json(type(SIGNED[name]), {**one.to_json(), "extra": 1})


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    here = [at] if at else []
    if isinstance(value, dict):
        return here + [p for k, v in value.items() for p in paths(v, (*at, k))]
    if isinstance(value, list):
        return here + [p for i, v in enumerate(value) for p in paths(v, (*at, i))]
    return here


def with_value(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    changed = copy.deepcopy(value)
    spot = changed
    for step in path[:-1]:
        spot = spot[step]
    spot[path[-1]] = new
    return changed


FREE_TEXT = {"kind", "vendor", "role", "collateral", "transport", "rows", "aux", "keys"}


@pytest.mark.parametrize("name", ALL)
def test_a_field_of_another_type_is_refused(name: str) -> None:
    kind, plain = type(ALL[name]), ALL[name].to_json()
    for path in paths(plain):
        if FREE_TEXT & set(path) or (path == ("network",) and name.startswith("info")) or path == ("head",):
            continue
        wrong: tuple[Any, ...] = (1.5, [[]], "0xZZ", -1)
        for new in wrong:
            with pytest.raises(CloisterError):
                kind.from_json(with_value(plain, path, new))


@pytest.mark.parametrize("name", ALL)
def test_a_missing_or_extra_field_is_refused(name: str) -> None:
    kind, plain = type(ALL[name]), ALL[name].to_json()
    for field in plain:
        with pytest.raises(CloisterError):
            kind.from_json({k: v for k, v in plain.items() if k != field})
    with pytest.raises(CloisterError):
        kind.from_json({**plain, "more": 1})
    others: tuple[Any, ...] = (None, [], "text", 5)
    for other in others:
        with pytest.raises(CloisterError):
            kind.from_json(other)


LISTS: dict[str, Callable[[], object]] = {
    "signatures": lambda: messages.signed_from_json(
        Checkpoint, {"statement": POINTS.to_json(), "signatures": ["0x"] * 65}
    ),
    "partials": lambda: messages.KeysAnswer.from_json(
        {**messages.KeysAnswer(LEASE, SIG, ()).to_json(), "partials": [{}] * 17}
    ),
    "old partials": lambda: messages.KeysAnswer.from_json(
        {**messages.KeysAnswer(LEASE, SIG, ()).to_json(), "old": [{}] * 5}
    ),
    "heads": lambda: heads.HeadsRequest.from_json({**HEADS.signed(KEY).to_json(), "heads": [{}] * 257}),
    "leases": lambda: heads.HeadsRequest.from_json({**HEADS.signed(KEY).to_json(), "leases": [{}] * 257}),
    "rows": lambda: heads.TablePage.from_json({"rows": [{}] * 2001, "more": False, "fresh": "0x" + "05" * 65}),
}


@pytest.mark.parametrize("name", LISTS)
def test_lists_are_capped_before_their_items_are_read(name: str) -> None:
    with pytest.raises(CloisterError) as caught:
        LISTS[name]()
    assert caught.value.code == "wire.message"


def test_a_heads_request_is_signed_by_its_worker() -> None:
    HEADS.signed(KEY).verify()
    with pytest.raises(CloisterError):
        HEADS.signed(PrivateKey(b"\2" * 32)).verify()


HEAD_CHANGES: dict[str, dict[str, Any]] = {
    "another head": {"heads": [{**MOVE.to_json(), "head": "0x" + "08" * 32}]},
    "no leases": {"leases": []},
    "another boot": {"boot": "0x" + "08" * 32},
    "no proven heads": {"proven": []},
}


@pytest.mark.parametrize("change", HEAD_CHANGES)
def test_the_worker_signs_every_part_of_it(change: str) -> None:
    altered = heads.HeadsRequest.from_json({**HEADS.signed(KEY).to_json(), **HEAD_CHANGES[change]})
    with pytest.raises(CloisterError):
        altered.verify()


def test_freshness_binds_network_term_nonce_agent_and_answer() -> None:
    head = heads.EndorsedHead(MOVE, SIG)
    other = b"\x08" * 32
    variants = {
        heads.fresh_digest(B32, 1, B32, B32, head),
        heads.fresh_digest(other, 1, B32, B32, head),
        heads.fresh_digest(B32, 2, B32, B32, head),
        heads.fresh_digest(B32, 1, other, B32, head),
        heads.fresh_digest(B32, 1, B32, other, head),
        heads.fresh_digest(B32, 1, B32, B32, None),
    }
    assert len(variants) == 6


BODIES = {
    "not JSON": b"{",
    "not UTF-8": b"\xff\xfe",
    "a duplicate key": b'{"nonce": "0x", "nonce": "0x"}',
    "NaN": b'{"nonce": NaN}',
    "too deep": b"[" * 100_000,
    "nothing": b"",
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_is_refused(name: str) -> None:
    with pytest.raises(CloisterError) as caught:
        messages.parse(messages.HeartbeatRequest.from_json, BODIES[name])
    assert caught.value.code == "wire.message"


def test_a_body_above_the_cap_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(CloisterError) as caught:
        messages.parse_json(b"[" * (messages.MAX_BODY + 1))
    assert (caught.value.code, caught.value.status) == ("wire.too_large", 413)


@given(st.binary(max_size=200))
def test_garbage_never_escapes_the_error_family(data: bytes) -> None:
    for value in ALL.values():
        with pytest.raises(CloisterError):
            messages.parse(type(value).from_json, data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, st.sampled_from(sorted(ALL)), st.data())
def test_any_json_in_any_place_never_escapes_the_error_family(new: Any, name: str, data: st.DataObject) -> None:
    plain = json.loads(messages.dump_json(ALL[name].to_json()))
    path = data.draw(st.sampled_from(paths(plain)))
    try:
        type(ALL[name]).from_json(with_value(plain, path, new))
    except CloisterError:
        return


@pytest.mark.parametrize("purpose", [Purpose.CALL, Purpose.IDENTITY, Purpose.LOG])
def test_only_state_and_secrets_have_keys_of_earlier_epochs(purpose: Purpose) -> None:
    partial = messages.KeyPartial(purpose, 0, 1, b"\1" * 48, b"\2" * 96, b"\3" * 48)
    with pytest.raises(CloisterError) as caught:
        messages.OldPartial(EPOCHS, partial)
    assert caught.value.code == "wire.message"
    with pytest.raises(CloisterError):
        messages.OldPartial.from_json({**EPOCHS.to_json(), "partial": partial.to_json()})


def test_a_move_travels_with_the_epochs_it_is_sealed_under() -> None:
    statement = MOVE.statement(4)
    assert heads.move_of(statement) == MOVE
    assert (statement.term, statement.cluster, statement.agent_epoch) == (4, B32, 1)
