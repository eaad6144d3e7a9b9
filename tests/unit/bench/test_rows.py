"""Each part that needs no network gives well-formed rows; answers of the sealed pools are checked, not only counted."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from bench import attestation, baseline, evidence, keys, state, threshold
from bench.calls import KINDS, Clocks, Samples, first_body_ms
from bench.live import Loaded, Pool, get, head, post
from bench.load import Answer
from bench.measure import Row

from cloister.core.attestation import kinds
from support.sealed import World, answer


def good(rows: list[Row]) -> None:
    assert rows
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert math.isfinite(row.value)
        assert row.value > 0
        assert row.unit
        assert (row.target is None) == (row.ok is None)
        assert (row.baseline is None) == (row.ratio is None)


def test_rows_of_the_threshold_keys() -> None:
    rows = keys.rows(rounds=1)
    good(rows)
    assert rows[0].target == 50.0


def test_rows_of_ceremonies_say_cpu_bytes_and_messages_by_size() -> None:
    rows = threshold.rows(rounds=1, sizes=(1, 4))
    good([row for row in rows if row.value])
    by_name = {row.name: row.value for row in rows}
    assert by_name["DKG 3 of 4: dealings in and out of a node"] == 6
    assert by_name["resharing 3 of 4, t dealers: dealings in and out of a node"] == 5
    assert [threshold.threshold_of(n) for n in threshold.SIZES] == [3, 5, 11, 21]


def test_rows_of_evidence_name_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "VECTORS", tmp_path / "none")
    rows = evidence.rows(tmp_path, rounds=2)
    good(rows)
    assert [row.name.split()[2:4] for row in rows] == [["pretend", "tdx"], ["pretend", "snp"], ["pretend", "nitro"]]


async def test_rows_of_state_have_the_disk_as_baseline(tmp_path: Path) -> None:
    rows = await state.rows(tmp_path, 0.1)
    good(rows)
    assert all(row.baseline for row in rows)


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert baseline.main(["nothing"]) == 2
    assert "parts are" in capsys.readouterr().err


def test_every_part_is_either_local_or_on_the_network() -> None:
    assert set(baseline.PARTS) == set(baseline.LOCAL) | set(baseline.NETWORK)
    assert not set(baseline.LOCAL) & set(baseline.NETWORK)


def test_requests_are_whole_http() -> None:
    assert post("/p", "a/b", b"xyz").endswith(b"content-length: 3\r\n\r\nxyz")
    assert get("/p").startswith(b"GET /p HTTP/1.1\r\n")
    assert head().check().headers == (("content-type", "application/json"),)
    assert head("GET", "/stream").check().headers == ()


# --- the pools ---


def pool(count: int) -> tuple[World, Pool]:
    world = World()
    return world, Pool(None, [[world.seal() for _ in range(count)]], [])  # type: ignore[arg-type]


def answered(index: int, body: bytes) -> Answer:
    return Answer(0, index, 1, body, ())


def test_a_missing_answer_is_noticed() -> None:
    world, made = pool(2)
    body = answer(world.open(made.sealed[0][0].data))
    with pytest.raises(RuntimeError, match="once"):
        made.verify([answered(0, body)])


def test_an_answer_to_another_request_is_noticed() -> None:
    world, made = pool(2)
    bodies = [answer(world.open(one.data)) for one in made.sealed[0]]
    with pytest.raises(Exception, match="envelope"):
        made.verify([answered(0, bodies[1]), answered(1, bodies[0])])


def test_a_cut_answer_is_noticed() -> None:
    world, made = pool(1)
    body = answer(world.open(made.sealed[0][0].data))
    with pytest.raises(Exception, match="envelope"):
        made.verify([answered(0, body[:-3])])


def test_a_sealed_refusal_is_no_answer() -> None:
    world, made = pool(1)
    request = world.open(made.sealed[0][0].data)
    from cloister.core.envelope.server import DEADLINE

    body = request.responder.error(DEADLINE(expected="later", found="now"))
    with pytest.raises(Exception, match="deadline"):
        made.verify([answered(0, body)])


def test_a_receipt_that_does_not_parse_is_noticed() -> None:
    world, made = pool(1)
    body = answer(world.open(made.sealed[0][0].data), receipt=b'{"r":1}')

    class Sitting:
        seat = world.seat
        admission = None

    made.sitting = Sitting()  # type: ignore[assignment]
    with pytest.raises(Exception, match="receipt"):
        made.verify([answered(0, body)])


def test_the_first_body_byte_is_that_of_the_second_chunk() -> None:
    world, made = pool(1)
    request = world.open(made.sealed[0][0].data)
    first = request.responder.head(200, (), 5)
    second = request.responder.chunk(b"data")
    last = request.responder.final(b'{"r":1}', b"\x01" * 65)
    sizes = (len(first), len(first + second), len(first + second + last))
    arrivals = tuple((1_000_000 * (n + 1), size) for n, size in enumerate(sizes))
    assert first_body_ms(Answer(0, 0, 9, first + second + last, arrivals)) == 2.0


def test_samples_keep_medians_per_process() -> None:
    clocks = Clocks(os.getpid(), os.getpid(), os.getpid())
    clocks.marks = [(0.0, 0.0, 0.0, 0.0), (100.0, 200.0, 300.0, 400.0)]
    samples = Samples()
    for seconds in (1.0, 2.0, 4.0):
        samples.wide(Loaded(seconds, 10, 50.0, [answered(0, b"")] * 10), clocks)
    assert [samples.part(n) for n in range(4)] == [10.0, 20.0, 30.0, 40.0]
    assert samples.rates == [10.0, 5.0, 2.5]
    assert samples.load == [5.0, 5.0, 5.0]


def test_the_floors_are_those_of_the_design() -> None:
    assert [(kind.share, kind.added_ms) for kind in KINDS] == [(0.40, 0.25), (0.15, 0.5)]


def test_rows_of_attestation_name_every_kind_and_floors_stand_where_the_issue_sets_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attestation, "VECTORS", tmp_path / "none")
    *rows, memory = attestation.rows(tmp_path, rounds=5, times=30)
    good(rows)  # the last row may be zero: nothing grew
    assert {row.name.split()[1] for row in rows} == set(kinds.KINDS)
    floors = {row.name.split()[1]: row.target for row in rows if row.target}
    assert floors == {"tdx": 1, "snp": 1, "nitro": 4, "azure-snp": 4, "azure-tdx": 4, "nvidia-gpu": 4}
    assert all(bool(row.baseline) == ("dcap-qvl" in row.name) for row in rows)
    assert (memory.unit, memory.target) == ("KiB", attestation.FLAT_KIB)
