"""Boot logs of TPMs: read to the last byte, replayed bank by bank."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.attestation import eventlog
from cloister.core.errors import AttestationError
from support.tpm_kit import SHA256, SHA384, boot_log
from support.vectors import vectors

LOG = boot_log((4, 13, b"kernel"), (0, 8, b"version"))
BOTH = boot_log((4, 13, b"kernel"), (4, 13, b"initrd"), banks=(SHA256, SHA384))


def _refused(step: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as caught:
        step()
    return caught.value.code


def _outcome(step: Callable[[], object]) -> str:
    """The code of the refusal, or nothing."""
    try:
        step()
    except AttestationError as error:
        return error.code
    return ""


def _fold(name: str, *data: bytes) -> bytes:
    value = bytes(hashlib.new(name).digest_size)
    for one in data:
        value = hashlib.new(name, value + hashlib.new(name, one).digest()).digest()
    return value


def test_every_bank_of_a_log_is_replayed() -> None:
    values, count = eventlog.replay_pcrs(BOTH)
    assert count == 2
    assert values == {(bank, 4): _fold(name, b"kernel", b"initrd") for bank, name in eventlog.HASHES.items()}


def test_where_the_first_register_begins() -> None:
    locality = b"StartupLocality\0\3"
    events = eventlog.parse(boot_log((0, 3, locality), (0, 8, b"version")))
    begin = bytes(31) + b"\3"
    assert eventlog.replay(events, SHA256)[0] == hashlib.sha256(begin + hashlib.sha256(b"version").digest()).digest()
    late = eventlog.parse(boot_log((0, 8, b"version"), (0, 3, locality)))
    assert eventlog.replay(late, SHA256)[0] == _fold("sha256", b"version")


@pytest.mark.parametrize(
    ("path", "events", "registers"),
    [
        ("tpm/dstack/tpm_eventlog.bin", 45, 10),
        ("tpm/eventlogs/rhel8-uefi.bin", 82, 11),
        ("tpm/eventlogs/ubuntu-2404-amd-sevsnp.bin", 116, 11),
    ],
)
def test_real_logs(path: str, events: int, registers: int) -> None:
    values, count = eventlog.replay_pcrs((vectors() / path).read_bytes())
    assert count == events
    assert {bank for bank, _ in values} == {SHA256, SHA384}
    assert len(values) == 2 * registers


def test_a_log_of_sha1_alone_is_refused() -> None:
    log = (vectors() / "tpm/eventlogs/debian-10.bin").read_bytes()
    assert _refused(lambda: eventlog.replay_pcrs(log)) == "attestation.malformed"


def test_every_truncation_is_refused_or_ends_at_an_event() -> None:
    ends = [size for size in range(len(LOG)) if _outcome(lambda size=size: eventlog.parse(LOG[:size])) == ""]  # type: ignore[misc]
    first = len(boot_log((4, 13, b"kernel")))
    assert ends == [len(boot_log()), first]
    assert [len(eventlog.parse(LOG[:size])) for size in ends] == [0, 1]


def test_the_unused_rest_of_an_area_is_no_event() -> None:
    assert eventlog.parse(LOG + b"\xff" * 64) == eventlog.parse(LOG)


HEAD = 32  # of the first event; then its data


def _with(place: int, new: bytes) -> bytes:
    return LOG[:place] + new + LOG[place + len(new) :]


SHAPES: dict[str, bytes] = {
    "nothing": b"",
    "more than a mebibyte": bytes((1 << 20) + 1),
    "a first event of a high register": _with(0, b"\2"),
    "a first event of another type": _with(4, b"\1"),
    "a description of 257 bytes": _with(28, b"\1\1"),
    "another version": _with(HEAD, b"Spec ID Event02\0"),
    "no algorithm": _with(HEAD + 24, bytes(4)),
    "nine algorithms": _with(HEAD + 24, b"\x09"),
    "SHA-256 of 48 bytes": _with(HEAD + 30, b"\x30"),
    "an algorithm of no bytes": _with(HEAD + 28, b"\x04\0\0\0"),
    "an algorithm of 65 bytes": _with(HEAD + 28, b"\x04\0\x41\0"),
    "vendor data beyond the end": _with(HEAD + 32, b"\1"),
    "a register of number 32": LOG + (32).to_bytes(4, "little") + bytes(8),
    "more digests than algorithms": LOG + bytes(4) + (13).to_bytes(4, "little") + b"\2\0\0\0",
    "a digest of another algorithm": LOG + bytes(4) + (13).to_bytes(4, "little") + b"\1\0\0\0\x0c\0" + bytes(52),
    "an event of 4 GiB": LOG + bytes(4) + (13).to_bytes(4, "little") + bytes(4) + b"\xff" * 4,
}


@pytest.mark.parametrize("sentence", SHAPES)
def test_logs_of_another_shape(sentence: str) -> None:
    assert _refused(lambda: eventlog.parse(SHAPES[sentence])) == "attestation.malformed"


def test_an_algorithm_or_a_digest_twice_is_refused() -> None:
    twice = boot_log(banks=(SHA256, SHA256))
    assert _refused(lambda: eventlog.parse(twice)) == "attestation.malformed"
    digest = SHA256.to_bytes(2, "little") + bytes(32)
    event = bytes(4) + (13).to_bytes(4, "little") + (2).to_bytes(4, "little") + 2 * digest + bytes(4)
    log = boot_log(banks=(SHA256, SHA384)) + event
    assert _refused(lambda: eventlog.parse(log)) == "attestation.malformed"


def test_at_most_4096_events() -> None:
    event = boot_log((0, 3, b""))[len(boot_log()) :]
    assert len(eventlog.parse(boot_log() + 4096 * event)) == 4096
    assert _refused(lambda: eventlog.parse(boot_log() + 4097 * event)) == "attestation.malformed"


def test_an_event_without_a_banks_digest_cannot_be_replayed() -> None:
    event = bytes(4) + (13).to_bytes(4, "little") + bytes(8)
    log = boot_log() + event + boot_log((4, 13, b"kernel"))[len(boot_log()) :]
    assert _refused(lambda: eventlog.replay_pcrs(log)) == "attestation.malformed"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_behind_a_good_description(data: bytes) -> None:
    assert _outcome(lambda: eventlog.replay_pcrs(boot_log() + data)) in ("", "attestation.malformed")
    assert _refused(lambda: eventlog.parse(b"\1" + data)) == "attestation.malformed"
