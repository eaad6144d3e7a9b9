"""CCEL logs: real ones against the quotes of their machines, simulated ones changed in every way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from dcap_qvl import parse_quote
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.attestation import eventlog, tdx
from cloister.core.attestation.model import Evidence
from cloister.core.errors import AttestationError
from support.hardware import NOW, collateral, roots
from support.intel_kit import ccel, fold, tdx_quote
from support.vectors import vectors

Events = list[tuple[int, int, bytes]]
EVENTS: Events = [
    (1, 0x80000008, b"firmware"),
    (1, 4, b"separator"),
    (2, 0x80000003, b"boot loader"),
    (3, 13, b"kernel"),
    (3, 13, b"command line"),
    (4, 13, b"late"),
]


def _registers(events: Events) -> list[bytes]:
    digests = [(index, hashlib.sha384(data).digest()) for index, kind, data in events if kind != 3]
    return [fold(d for i, d in digests if i == place) for place in (1, 2, 3, 4)]


def _code(call: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as caught:
        call()
    return caught.value.code


def _live(name: str) -> tuple[bytes, list[bytes]]:
    folder = vectors() / "intel-dcap/attestation-rs"
    report = parse_quote((folder / "tdx_quote_live.dat").read_bytes()).report
    return (folder / name).read_bytes(), [report.rt_mr0, report.rt_mr1, report.rt_mr2, report.rt_mr3]


def test_the_real_log_of_a_machine_replays_to_its_quote() -> None:
    log, signed = _live("tdx_ccel_live2.dat")
    assert eventlog.need_rtmrs(log, signed) == 20


def test_the_real_log_of_another_boot_differs_in_one_register() -> None:
    log, signed = _live("tdx_ccel_live.bin")
    with pytest.raises(AttestationError) as caught:
        eventlog.need_rtmrs(log, signed)
    assert caught.value.code == "attestation.event_log"
    assert caught.value.expected.startswith("RTMR2 ")


def test_other_real_logs_parse() -> None:
    counts = {}
    for name in ("dstack/ccel.bin", "tpm/eventlogs/rhel8-uefi.bin", "tpm/eventlogs/ubuntu-2404-amd-sevsnp.bin"):
        counts[name] = len(eventlog.parse((vectors() / name).read_bytes()))
    assert all(count > 5 for count in counts.values()), counts
    old = (vectors() / "tpm/eventlogs/debian-10.bin").read_bytes()  # SHA-1 only, without a description
    assert _code(lambda: eventlog.parse(old)) == "attestation.malformed"


def test_a_log_replays_to_the_registers_that_it_was_made_for() -> None:
    assert eventlog.replay_rtmrs(ccel(EVENTS)) == (_registers(EVENTS), len(EVENTS))
    assert eventlog.replay_rtmrs(ccel([])) == ([bytes(48)] * 4, 0)


def test_events_without_action_extend_nothing() -> None:
    noisy = [EVENTS[0], (2, 3, b"a remark"), *EVENTS[1:], (1, 3, b"another")]
    assert eventlog.replay_rtmrs(ccel(noisy))[0] == _registers(EVENTS)


def test_the_filler_ends_the_log_and_nothing_behind_it_counts() -> None:
    log = ccel(EVENTS, filler=4) + ccel(EVENTS)[62:]
    assert eventlog.replay_rtmrs(log)[1] == len(EVENTS)
    assert eventlog.replay_rtmrs(ccel(EVENTS, filler=0))[0] == _registers(EVENTS)


CHANGED: dict[str, Callable[[Events], Events]] = {
    "an event inserted": lambda e: [*e[:2], (2, 13, b"implant"), *e[2:]],
    "an event at the end": lambda e: [*e, (4, 13, b"implant")],
    "an event dropped": lambda e: e[:3] + e[4:],
    "the last event dropped": lambda e: e[:-1],
    "two events of a register swapped": lambda e: [*e[:3], e[4], e[3], *e[5:]],
    "an event under another register": lambda e: [*e[:2], (3, *e[2][1:]), *e[3:]],
    "an event twice": lambda e: [*e, e[-1]],
    "an event that no longer acts": lambda e: [*e[:2], (2, 3, e[2][2]), *e[3:]],
    "no event": lambda e: [],
}


@pytest.mark.parametrize("sentence", CHANGED)
def test_a_changed_log_is_refused(sentence: str) -> None:
    log = ccel(CHANGED[sentence](EVENTS))
    assert _code(lambda: eventlog.need_rtmrs(log, _registers(EVENTS))) == "attestation.event_log"


def test_swapping_events_of_different_registers_changes_nothing() -> None:
    assert eventlog.need_rtmrs(ccel([EVENTS[2], *EVENTS[:2], *EVENTS[3:]]), _registers(EVENTS)) == 6


def _header(log: bytes, place: int, value: bytes) -> bytes:
    return log[:place] + value + log[place + len(value) :]


BROKEN: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "over the limit": lambda: bytes(eventlog.MAX_LOG + 1),
    "no description first": lambda: ccel(EVENTS)[65:],
    "an event cut short": lambda: ccel(EVENTS, filler=0)[:-1],
    "a description of no algorithm": lambda: _header(ccel(EVENTS), 32 + 24, bytes(4)),
    "a description of nine": lambda: _header(ccel(EVENTS), 32 + 24, b"\x09\0\0\0"),
    "SHA-384 of 32 bytes": lambda: _header(ccel(EVENTS), 32 + 30, b"\x20\0"),
    "another signature": lambda: _header(ccel(EVENTS), 32, b"Spec ID Event02"),
    "a register that no TD has": lambda: ccel([(5, 13, b"x")]),
    "an event of register 0": lambda: ccel([(0, 13, b"x")]),
    "a register beyond all": lambda: ccel([(32, 13, b"x")]),
    "more events than the limit": lambda: ccel([(1, 13, b"")] * (eventlog.MAX_EVENTS + 1)),
}


@pytest.mark.parametrize("sentence", BROKEN)
def test_a_log_outside_its_format_is_refused(sentence: str) -> None:
    assert _code(lambda: eventlog.replay_rtmrs(BROKEN[sentence]())) == "attestation.malformed"


def test_an_event_without_the_digest_that_counts_is_refused() -> None:
    log = bytearray(ccel(EVENTS, filler=0))
    at = log.index(b"\x01\0\0\0\x0c\0", 65)
    log[at : at + 4] = bytes(4)
    assert _code(lambda: eventlog.replay_rtmrs(bytes(log))) == "attestation.malformed"


def test_a_quote_with_the_log_of_its_boot() -> None:
    quote = tdx_quote(_registers(EVENTS))
    aux = {"collateral": collateral(), "event_log": ccel(EVENTS)}
    claims = tdx.verify(Evidence("tdx", quote, aux), roots(), NOW)
    assert claims.details["log_events"] == len(EVENTS)
    assert [claims.measurements[name] for name in tdx.RTMRS] == _registers(EVENTS)
    without = tdx.verify(Evidence("tdx", quote, {"collateral": collateral()}), roots(), NOW)
    assert without.details["log_events"] is None
    assert tdx.launch_measurement(without) == tdx.launch_measurement(claims)


@pytest.mark.parametrize("sentence", CHANGED)
def test_a_quote_with_another_log_is_refused(sentence: str) -> None:
    aux = {"collateral": collateral(), "event_log": ccel(CHANGED[sentence](EVENTS))}
    evidence = Evidence("tdx", tdx_quote(_registers(EVENTS)), aux)
    assert _code(lambda: tdx.verify(evidence, roots(), NOW)) == "attestation.event_log"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=600))
def test_garbage_is_a_named_refusal(data: bytes) -> None:
    assert _code(lambda: eventlog.replay_rtmrs(data)) == "attestation.malformed"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_after_a_good_description_parses_or_is_refused(data: bytes) -> None:
    try:
        values, count = eventlog.replay_rtmrs(ccel([], filler=0) + data)
    except AttestationError:
        return
    assert len(values) == 4
    assert count <= len(data)


def test_flips_in_digests_and_registers_change_the_replay() -> None:
    log, first = ccel(EVENTS, filler=0), 65
    digest = log.index(hashlib.sha384(b"firmware").digest())
    for place in (*range(digest, digest + 48), first):
        bad = bytearray(log)
        bad[place] ^= 2
        assert _code(lambda: eventlog.need_rtmrs(bytes(bad), _registers(EVENTS))) in (  # noqa: B023
            "attestation.event_log",
            "attestation.malformed",
        )
