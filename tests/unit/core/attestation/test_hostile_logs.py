"""Logs of real machines with entries inserted, dropped, reordered, relabelled, at every place: what must be noticed is.

The logs are taken apart and put together here by a reader of our own, which shares no code with the verifier's.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import pytest
from dcap_qvl import parse_quote
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.attestation import dstack, eventlog, kinds, tpm
from cloister.core.attestation.model import Claims, Evidence
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError
from support.vectors import at, vectors

THEN = at("2026-02-20T00:00:00+00:00")
RUNTIME = 0x08000001
SHA1, SHA256, SHA384 = 0x0004, 0x000B, 0x000C
WIDTHS = {SHA1: 20, SHA256: 32, SHA384: 48, 0x000D: 64}
Judge = Callable[[bytes], None]


# -- TCG logs -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One event of a crypto-agile log, taken apart."""

    index: int
    kind: int
    digests: tuple[tuple[int, bytes], ...]
    data: bytes

    def encode(self) -> bytes:
        out = struct.pack("<III", self.index, self.kind, len(self.digests))
        out += b"".join(struct.pack("<H", algorithm) + value for algorithm, value in self.digests)
        return out + struct.pack("<I", len(self.data)) + self.data


@dataclass(frozen=True)
class TcgLog:
    """Head, entries, and what stands behind them."""

    head: bytes
    entries: tuple[Entry, ...]
    tail: bytes

    @classmethod
    def parse(cls, log: bytes) -> TcgLog:
        size = struct.unpack_from("<I", log, 28)[0]
        at_, entries = 32 + size, []
        head = log[:at_]
        while at_ + 8 <= len(log) and log[at_ : at_ + 4] != b"\xff\xff\xff\xff":
            index, kind, count = struct.unpack_from("<III", log, at_)
            at_ += 12
            digests = []
            for _ in range(count):
                (algorithm,) = struct.unpack_from("<H", log, at_)
                digests.append((algorithm, log[at_ + 2 : at_ + 2 + WIDTHS[algorithm]]))
                at_ += 2 + WIDTHS[algorithm]
            (length,) = struct.unpack_from("<I", log, at_)
            entries.append(Entry(index, kind, tuple(digests), log[at_ + 4 : at_ + 4 + length]))
            at_ += 4 + length
        return cls(head, tuple(entries), log[at_:])

    def encode(self) -> bytes:
        return self.head + b"".join(entry.encode() for entry in self.entries) + self.tail

    def with_entries(self, *entries: Entry) -> bytes:
        return replace(self, entries=entries).encode()


@lru_cache(maxsize=1)
def _ccel() -> tuple[TcgLog, list[bytes]]:
    folder = vectors() / "intel-dcap/attestation-rs"
    report = parse_quote((folder / "tdx_quote_live.dat").read_bytes()).report
    return TcgLog.parse((folder / "tdx_ccel_live2.dat").read_bytes()), [
        report.rt_mr0,
        report.rt_mr1,
        report.rt_mr2,
        report.rt_mr3,
    ]


@lru_cache(maxsize=1)
def _boot() -> tuple[TcgLog, dict[tuple[int, int], bytes]]:
    folder = vectors() / "tpm/software-vm"
    values = json.loads((folder / "pcrs_sha256.json").read_text())
    pcrs = {(SHA256, int(index)): bytes.fromhex(value) for index, value in values.items()}
    separator = hashlib.sha256(bytes(32) + hashlib.sha256(bytes(4)).digest()).digest()
    pcrs |= {(SHA256, index): separator for index in (3, 6)}  # the file lists no PCR that holds a separator alone
    return TcgLog.parse((folder / "binary_bios_measurements").read_bytes()), pcrs


def _judge_ccel(log: bytes) -> None:
    eventlog.need_rtmrs(log, _ccel()[1])


def _judge_boot(log: bytes) -> None:
    tpm.check_log(log, _boot()[1])


SOURCES: dict[str, tuple[Callable[[], TcgLog], Judge]] = {
    "CCEL of a TD": (lambda: _ccel()[0], _judge_ccel),
    "TPM log of a machine": (lambda: _boot()[0], _judge_boot),
}
FORMATS = pytest.mark.parametrize("name", SOURCES)


def _notices(judge: Judge, log: bytes) -> bool:
    try:
        judge(log)
    except AttestationError as error:
        return error.code in ("attestation.event_log", "attestation.malformed")
    return False


def _acts(entry: Entry) -> bool:
    return entry.kind != eventlog.EV_NO_ACTION


def _counts(name: str, log: TcgLog, entry: Entry) -> bool:
    """Whether the log tells something else without this entry: a log may leave out all of a PCR from 8."""
    others = [one for one in log.entries if one is not entry and one.index == entry.index and _acts(one)]
    return _acts(entry) and (name.startswith("CCEL") or entry.index < 8 or bool(others))


@FORMATS
def test_our_reader_and_the_verifiers_see_the_same(name: str) -> None:
    source, judge = SOURCES[name]
    log = source()
    judge(log.encode())
    theirs = eventlog.parse(log.encode())
    assert [(e.index, e.kind, e.data) for e in theirs] == [(e.index, e.kind, e.data) for e in log.entries]
    assert [dict(e.digests) for e in theirs] == [dict(e.digests) for e in log.entries]
    assert sum(map(_acts, log.entries)) > 12


@FORMATS
def test_an_entry_dropped_anywhere_is_noticed(name: str) -> None:
    source, judge = SOURCES[name]
    log = source()
    for place, entry in enumerate(log.entries):
        shorter = log.with_entries(*log.entries[:place], *log.entries[place + 1 :])
        assert _notices(judge, shorter) is _counts(name, log, entry), place


@FORMATS
def test_an_entry_repeated_anywhere_is_noticed(name: str) -> None:
    source, judge = SOURCES[name]
    log = source()
    for place, entry in enumerate(log.entries):
        longer = log.with_entries(*log.entries[:place], entry, *log.entries[place:])
        assert _notices(judge, longer) is _acts(entry), place


@FORMATS
def test_an_entry_inserted_anywhere_is_noticed(name: str) -> None:
    source, judge = SOURCES[name]
    log = source()
    model = next(entry for entry in log.entries if _acts(entry))
    forged = replace(model, data=b"forged", digests=tuple((a, b"\xee" * len(v)) for a, v in model.digests))
    for place in range(len(log.entries) + 1):
        for index in {entry.index for entry in log.entries if _acts(entry)}:
            one = replace(forged, index=index)
            assert _notices(judge, log.with_entries(*log.entries[:place], one, *log.entries[place:])), (place, index)


@FORMATS
def test_zeros_inserted_are_an_event_too(name: str) -> None:
    """Extending by zeros changes a register: a digest of zeros is no "nothing"."""
    source, judge = SOURCES[name]
    log = source()
    model = next(entry for entry in log.entries if _acts(entry))
    zero = replace(model, data=b"", digests=tuple((a, bytes(len(v))) for a, v in model.digests))
    for place in range(len(log.entries) + 1):
        assert _notices(judge, log.with_entries(*log.entries[:place], zero, *log.entries[place:]))


@FORMATS
def test_neighbours_of_one_register_cannot_change_places(name: str) -> None:
    source, judge = SOURCES[name]
    log = source()
    swapped = 0
    for place, (one, other) in enumerate(itertools.pairwise(log.entries)):
        changed = log.with_entries(*log.entries[:place], other, one, *log.entries[place + 2 :])
        matters = one.index == other.index and _acts(one) and _acts(other) and one.digests != other.digests
        assert _notices(judge, changed) is matters, place
        swapped += matters
    assert swapped > 3


@FORMATS
def test_an_entry_moved_to_another_register_is_noticed(name: str) -> None:
    source, judge = SOURCES[name]
    log = source()
    for place, entry in enumerate(log.entries):
        for index in {e.index for e in log.entries} - {entry.index}:
            moved = replace(entry, index=index)
            shown = log.with_entries(*log.entries[:place], moved, *log.entries[place + 1 :])
            assert _notices(judge, shown) is _acts(entry), (place, index)


@FORMATS
def test_an_entry_silenced_by_its_type_is_noticed(name: str) -> None:
    """EV_NO_ACTION extends nothing: relabelling an event as one hides it, and the register says so."""
    source, judge = SOURCES[name]
    log = source()
    for place, entry in enumerate(log.entries):
        silent = replace(entry, kind=eventlog.EV_NO_ACTION)
        shown = log.with_entries(*log.entries[:place], silent, *log.entries[place + 1 :])
        assert _notices(judge, shown) is _counts(name, log, entry), place


@FORMATS
def test_a_digest_of_something_else_is_noticed_and_data_is_not_believed(name: str) -> None:
    source, judge = SOURCES[name]
    log = source()
    counted = SHA384 if name.startswith("CCEL") else SHA256
    for place, entry in enumerate(log.entries):
        wrong = tuple((a, hashlib.new("sha512", v).digest()[: len(v)] if a == counted else v) for a, v in entry.digests)
        digest = replace(entry, digests=wrong)
        shown = log.with_entries(*log.entries[:place], digest, *log.entries[place + 1 :])
        assert _notices(judge, shown) is _acts(entry), place
        data = replace(entry, data=entry.data[::-1] + b"more")
        shown = log.with_entries(*log.entries[:place], data, *log.entries[place + 1 :])
        assert not _notices(judge, shown), place


@FORMATS
def test_a_digest_left_out_or_named_otherwise_is_refused(name: str) -> None:
    source, judge = SOURCES[name]
    log = source()
    place = next(place for place, entry in enumerate(log.entries) if _acts(entry))
    entry = log.entries[place]
    for digests in ((), entry.digests * 2, tuple((0x0005, v) for _, v in entry.digests), entry.digests[:-1]):
        shown = log.with_entries(*log.entries[:place], replace(entry, digests=digests), *log.entries[place + 1 :])
        assert _notices(judge, shown), digests


@FORMATS
def test_a_log_cut_at_any_entry_is_noticed(name: str) -> None:
    source, judge = SOURCES[name]
    log = source()
    for count in range(len(log.entries)):
        kept, lost = log.entries[:count], log.entries[count:]
        told = {entry.index for entry in kept if _acts(entry)}
        matters = any(_acts(e) and (name.startswith("CCEL") or e.index < 8 or e.index in told) for e in lost)
        assert _notices(judge, log.with_entries(*kept)) is matters, count


@FORMATS
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_other_order_is_accepted_only_if_each_registers_order_is_kept(name: str, data: st.DataObject) -> None:
    source, judge = SOURCES[name]
    log = source()
    order = data.draw(st.permutations(log.entries))

    def told(entries: tuple[Entry, ...], index: int) -> list[tuple[tuple[int, bytes], ...]]:
        return [entry.digests for entry in entries if entry.index == index and _acts(entry)]

    same = all(told(tuple(order), e.index) == told(log.entries, e.index) for e in log.entries)
    assert _notices(judge, log.with_entries(*order)) is not same


# -- dstack logs --------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _guest() -> tuple[bytes, bytes, list[dict[str, Any]]]:
    whole = json.loads((vectors() / "dstack/quote-report.json").read_text())
    collateral = (vectors() / "intel-dcap/phala/tdx_quote_outdated_collateral.json").read_bytes()
    return bytes.fromhex(whole["quote"]), collateral, json.loads(whole["event_log"])


def _full() -> list[dict[str, Any]]:
    return [dict(event) for event in _guest()[2]]


def _lite() -> list[dict[str, Any]]:
    return [dict(event) | ({"digest": ""} if event["event_type"] == RUNTIME else {}) for event in _guest()[2]]


def _verify(events: list[dict[str, Any]]) -> Claims:
    quote, collateral, _ = _guest()
    aux = {"collateral": collateral, "event_log": json.dumps(events).encode()}
    return kinds.verify(Evidence("dstack", quote, aux), Roots.production(), THEN)


def _replayed(events: list[dict[str, Any]]) -> None:
    """The log alone, against the registers of the quote: what ``verify`` does after the quote's signature."""
    report = parse_quote(_guest()[0]).report
    parsed = dstack.parse(json.dumps(events).encode())
    eventlog.need_equal(dstack.replay(parsed), [report.rt_mr0, report.rt_mr1, report.rt_mr2, report.rt_mr3])
    dstack.read_boot(parsed)


def _refused(events: list[dict[str, Any]]) -> str:
    with pytest.raises(AttestationError) as caught:
        _replayed(events)
    return caught.value.code


FORMS: dict[str, Callable[[], list[dict[str, Any]]]] = {"full": _full, "lite": _lite}
BOTH = pytest.mark.parametrize("form", FORMS)
REPLAY = "attestation.event_log"


def _runtime(events: list[dict[str, Any]]) -> Iterator[int]:
    return (place for place, event in enumerate(events) if event["event_type"] == RUNTIME)


@BOTH
def test_both_forms_of_the_real_guest_say_the_same(form: str) -> None:
    claims = _verify(FORMS[form]())
    assert claims.details["boot"][:2] == ("system-preparing", "app-id")
    assert claims == _verify(_full())


@BOTH
def test_any_guest_event_dropped_is_noticed(form: str) -> None:
    events = FORMS[form]()
    for place in range(len(events)):
        assert _refused(events[:place] + events[place + 1 :]) == REPLAY


@BOTH
def test_any_guest_event_repeated_is_noticed(form: str) -> None:
    events = FORMS[form]()
    for place in range(len(events)):
        assert _refused([*events[:place], events[place], *events[place:]]) == REPLAY


@BOTH
def test_guest_events_of_one_register_cannot_change_places(form: str) -> None:
    events = FORMS[form]()
    for register in range(4):
        own = [place for place, event in enumerate(events) if event["imr"] == register]
        for one, other in itertools.pairwise(own):
            changed = list(events)
            changed[one], changed[other] = changed[other], changed[one]
            if events[one]["digest"] == events[other]["digest"] and register != 3:
                continue
            assert _refused(changed) == REPLAY, (one, other)


@BOTH
def test_a_guest_event_inserted_anywhere_is_noticed(form: str) -> None:
    events = FORMS[form]()
    forged = {"imr": 3, "event_type": RUNTIME, "digest": "", "event": "app-id", "event_payload": "aa" * 20}
    firmware = {"imr": 0, "event_type": 1, "digest": "ee" * 48, "event": "", "event_payload": ""}
    for place in range(len(events) + 1):
        for one in (forged, firmware):
            assert _refused([*events[:place], one, *events[place:]]) == REPLAY


@BOTH
def test_names_and_payloads_of_runtime_events_cannot_be_relabelled(form: str) -> None:
    events = FORMS[form]()
    names = sorted({event["event"] for event in events if event["event_type"] == RUNTIME})
    for place in _runtime(events):
        for name in (*names, "", "app-ids", events[place]["event"].upper()):
            if name != events[place]["event"]:
                assert _refused([*events[:place], events[place] | {"event": name}, *events[place + 1 :]]) == REPLAY
        payload = events[place]["event_payload"]
        for other in ("", "00", payload + "00", payload[:-2], "ff" * 20):
            if other != payload:
                changed = [*events[:place], events[place] | {"event_payload": other}, *events[place + 1 :]]
                assert _refused(changed) == REPLAY


def test_the_payloads_of_two_events_with_their_digests_cannot_be_exchanged() -> None:
    """The stored digest is what the register holds; a payload that it does not fit is refused, not believed."""
    events = _full()
    places = list(_runtime(events))
    for one, other in itertools.pairwise(places):
        changed = [dict(event) for event in events]
        for field in ("event", "event_payload"):
            changed[one][field], changed[other][field] = events[other][field], events[one][field]
        assert _refused(changed) == REPLAY


@BOTH
def test_runtime_events_cannot_pose_as_firmware_or_the_other_way_round(form: str) -> None:
    events = FORMS[form]()
    for place, event in enumerate(events):
        runtime = event["event_type"] == RUNTIME
        for change in ({"event_type": 1}, {"imr": 0}) if runtime else ({"event_type": RUNTIME}, {"imr": 3}):
            shown = [*events[:place], event | change, *events[place + 1 :]]
            assert _refused(shown) == "attestation.malformed", place


def test_a_digest_in_a_lite_log_that_is_not_ours_is_refused() -> None:
    for place in _runtime(_lite()):
        events = _lite()
        events[place]["digest"] = "00" * 48
        assert _refused(events) == REPLAY
        events[place]["digest"] = "00" * 47
        assert _refused(events) == REPLAY


@BOTH
def test_what_is_not_bound_is_not_told(form: str) -> None:
    """Names and payloads of firmware events are bound to nothing; so no claim may come from them."""
    events = FORMS[form]()
    honest = _verify(events)
    for place, event in enumerate(events):
        if event["event_type"] != RUNTIME and place % 5 == 0:
            shown = [*events[:place], event | {"event": "app-id", "event_payload": "aa" * 20}, *events[place + 1 :]]
            assert _verify(shown) == honest


@BOTH
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_other_order_of_guest_events_keeps_the_order_of_each_register(form: str, data: st.DataObject) -> None:
    events = FORMS[form]()
    order = data.draw(st.permutations(range(len(events))))
    shown = [events[place] for place in order]

    def told(some: list[dict[str, Any]], register: int) -> list[tuple[str, str, str]]:
        return [
            (e["digest"], e["event"] * (register == 3), e["event_payload"] * (register == 3))
            for e in some
            if e["imr"] == register
        ]

    if all(told(shown, register) == told(events, register) for register in range(4)):
        _replayed(shown)
    else:
        assert _refused(shown) == REPLAY
