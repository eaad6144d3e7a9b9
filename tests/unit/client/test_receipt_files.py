"""Files of kept receipts that were damaged, cut, mixed or moved: what is whole is found, nothing else is believed."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.client.home import Home
from cloister.client.receipts import FOLDER, MAX_LINE, Kept, Ledger
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError
from cloister.core.receipts.receipt import Exchange, ReceiptChain
from support.fake_gateway import FakeWorker
from support.fake_world import World, fresh

DAY = 86_400


@pytest.fixture(scope="module")
def issued() -> list[Kept]:
    """Six receipts of one worker, kept on three days."""
    world = World()
    agent = world.set_agent()
    worker = FakeWorker(world)
    world.mine()
    seat = worker.seat(agent)
    chain = ReceiptChain(worker.address, worker.boot, lambda d: b"\x01" * 65)
    kept = []
    for i in range(6):
        exchange = Exchange(fresh()[:16], 200 + i, fresh(), fresh())
        receipt, signature = chain.issue(seat.certificate, exchange, checkpoint=1001, host_time_ms=1)
        kept.append(Kept(receipt.encoded, signature, fresh(), seat, int(world.now) + (i // 2) * DAY))
    return kept


@pytest.fixture
def ledger(issued: list[Kept], tmp_path: Path) -> Ledger:
    """A ledger with all six."""
    clock = iter([float(k.at) for k in issued])
    made = Ledger(Home(tmp_path), clock=lambda: next(clock))
    for one in issued:
        made.keep(one.raw, one.signature, one.salt, one.seat)
    return made


def files(home: Path) -> list[Path]:
    return sorted((home / FOLDER).iterdir())


def test_one_file_per_day_private_and_in_order(ledger: Ledger, issued: list[Kept], tmp_path: Path) -> None:
    assert [f.name for f in files(tmp_path)] == ["2027-01-15.jsonl", "2027-01-16.jsonl", "2027-01-17.jsonl"]
    assert [len(f.read_bytes().splitlines()) for f in files(tmp_path)] == [2, 2, 2]
    assert {stat.S_IMODE(f.stat().st_mode) for f in files(tmp_path)} == {0o600}
    assert stat.S_IMODE((tmp_path / FOLDER).stat().st_mode) == 0o700
    assert list(ledger.newest()) == issued[::-1]


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 100])
def test_a_limit_counts_over_files(ledger: Ledger, issued: list[Kept], limit: int) -> None:
    assert list(ledger.newest(limit)) == issued[::-1][:limit]


def test_a_limit_counts_only_what_is_given(ledger: Ledger, issued: list[Kept], tmp_path: Path) -> None:
    with files(tmp_path)[-1].open("ab") as file:
        file.write(b"garbage\n" * 3)
    assert list(ledger.newest(2)) == issued[::-1][:2]
    assert list(ledger.newest(2, agent=fresh())) == []
    assert list(ledger.newest(2, agent=issued[0].seat.certificate.agent)) == issued[::-1][:2]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "the last line was cut by a crash": lambda line: line[: len(line) // 2],
    "a line is empty": lambda line: b"",
    "a line is no JSON": lambda line: b"{" + line,
    "a line is too long": lambda line: line[:-1] + b" " * MAX_LINE + b"}",
    "a line is another document": lambda line: b'{"receipt": "x"}',
    "a line has one field more": lambda line: line[:-1] + b',"more":1}',
    "the signature is short": lambda line: _with(line, signature="0x01"),
    "the salt is no hex": lambda line: _with(line, salt="salt"),
    "the time is negative": lambda line: _with(line, at=-1),
    "the time is a text": lambda line: _with(line, at="now"),
    "the receipt is not canonical": lambda line: _with(line, receipt=json.loads(line)["receipt"].replace(",", ", ")),
    "the receipt is a number": lambda line: _with(line, receipt=7),
    "the seat is missing": lambda line: _with(line, seat=None),
    "bytes that are no text": lambda line: b"\xff\xfe" + line,
}


def _with(line: bytes, **changes: Any) -> bytes:
    return json.dumps({**json.loads(line), **changes}).encode()


@pytest.mark.parametrize("sentence", DAMAGE)
def test_a_damaged_line_is_left_out_and_the_others_are_found(
    ledger: Ledger, issued: list[Kept], tmp_path: Path, sentence: str
) -> None:
    path = files(tmp_path)[1]
    first, second = path.read_bytes().splitlines()
    path.write_bytes(first + b"\n" + DAMAGE[sentence](second))
    left = [k for k in issued[::-1] if k is not issued[3]]
    assert list(ledger.newest()) == left
    assert ledger.load(issued[2].receipt.id) == issued[2]
    with pytest.raises(CloisterError) as caught:
        ledger.load(issued[3].receipt.id)
    assert caught.value.code == "client.receipt_unknown"


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_with_random_bytes_written_over_it_never_raises_and_never_lies(
    issued: list[Kept], tmp_path: Path, data: st.DataObject
) -> None:
    """Whatever is found has a receipt whose id was issued, or one that is visibly another receipt."""
    lines = b"".join(json.dumps(k.to_json()).encode() + b"\n" for k in issued[:2])
    at = data.draw(st.integers(0, len(lines) - 1))
    spoiled = lines[:at] + data.draw(st.binary(min_size=1, max_size=8)) + lines[at + 1 :]
    (tmp_path / FOLDER).mkdir(exist_ok=True)
    (tmp_path / FOLDER / "2027-01-15.jsonl").write_bytes(spoiled)
    found = list(Ledger(Home(tmp_path)).newest())
    assert len(found) <= 3
    for one in found:
        known = {k.receipt.id: k for k in issued}
        if one.receipt.id in known:
            assert one.raw == known[one.receipt.id].raw


def test_prefixes(ledger: Ledger, issued: list[Kept]) -> None:
    wanted = issued[4].receipt.id
    assert ledger.load(wanted[:4]) == issued[4]
    for prefix, found in ((wanted[:3], 1), (b"", 6), (bytes([wanted[0] ^ 1, *wanted[1:4]]), 0)):
        with pytest.raises(CloisterError) as caught:
            ledger.load(prefix)
        assert caught.value.code == "client.receipt_unknown"
        assert caught.value.found == f"{found} of that name"
        assert caught.value.expected == f"one receipt {to_hex(prefix)}"


def test_the_same_receipt_kept_twice_is_one(ledger: Ledger, issued: list[Kept], tmp_path: Path) -> None:
    """A file that was copied over: the id names one receipt, not a conflict."""
    (tmp_path / FOLDER / "2026-12-31.jsonl").write_bytes(files(tmp_path)[0].read_bytes())
    assert ledger.load(issued[0].receipt.id).raw == issued[0].raw
    assert len(list(ledger.newest())) == 8


def test_other_files_in_the_folder_are_not_read(ledger: Ledger, tmp_path: Path) -> None:
    for name in ("notes.txt", ".2027-01-18.jsonl.draft", "x.jsonl~"):
        (tmp_path / FOLDER / name).write_bytes(files(tmp_path)[0].read_bytes())
    assert len(list(ledger.newest())) == 6


def test_a_folder_that_cannot_be_written_is_named(issued: list[Kept], tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file where the folder should be")
    one = issued[0]
    with pytest.raises(CloisterError) as caught:
        Ledger(Home(tmp_path)).keep(one.raw, one.signature, one.salt, one.seat)
    assert caught.value.code == "client.file"
    assert FOLDER in caught.value.expected


def test_a_ledger_that_is_off_gives_the_entry_and_writes_nothing(issued: list[Kept], tmp_path: Path) -> None:
    one = issued[0]
    made = Ledger(Home(tmp_path), clock=lambda: 5.9, on=False).keep(one.raw, one.signature, one.salt, one.seat)
    assert made == replace(one, at=5)
    assert not list(tmp_path.iterdir())
    assert list(Ledger(Home(tmp_path)).newest()) == []
