"""What every fabric adapter promises of receipt logs (fabric/ports.py, spec/receipts.md 10)."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cloister.core.errors import CloisterError
from cloister.fabric.embedded import open_fabric
from cloister.fabric.ports import MAX_RECEIPTS, MAX_SEALED_RECEIPT, Fabric, ReceiptBatch

LOG, OTHER = "ab" * 20 + "." + "01" * 32, "cd" * 20 + "." + "02" * 32
Open = Callable[[Path], Awaitable[Fabric]]
ADAPTERS: dict[str, Open] = {
    "embedded": open_fabric,
    "embedded, synced": lambda folder: open_fabric(folder, synced=True),
}


@dataclass
class Bench:
    """One open store and its folder."""

    fabric: Fabric
    folder: Path
    open: Open

    async def reopen(self) -> None:
        """Close and open again."""
        await self.fabric.close()
        self.fabric = await self.open(self.folder)

    async def append(self, batch: ReceiptBatch, log: str = LOG) -> None:
        """Append and wait."""
        pending = self.fabric.receipts.append(log, batch)
        if pending is not None:
            await pending


@pytest.fixture(params=sorted(ADAPTERS))
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    opener = ADAPTERS[request.param]
    made = Bench(await opener(tmp_path / "fabric"), tmp_path / "fabric", opener)
    yield made
    await made.fabric.close()


def rid(number: int, salt: int = 0) -> bytes:
    return bytes([salt + 1]) + number.to_bytes(31, "little")


def batch(first: int, count: int = 1, salt: int = 0) -> ReceiptBatch:
    numbers = range(first, first + count)
    ids, sealed = tuple(rid(n, salt) for n in numbers), tuple(b"sealed %d" % n for n in numbers)
    return ReceiptBatch(first, bytes([salt]) * 65, ids, sealed)


async def refused(work: Awaitable[object], code: str) -> None:
    with pytest.raises(CloisterError) as caught:
        await work
    assert caught.value.code == code, str(caught.value)


async def or_missing(work: Awaitable[object]) -> object:
    """The result, or "missing" for fabric.no_receipt."""
    try:
        return await work
    except CloisterError as error:
        if error.code != "fabric.no_receipt":
            raise
        return "missing"


async def test_what_was_appended_is_there_in_order(bench: Bench) -> None:
    logs = bench.fabric.receipts
    for first, count in ((0, 1), (1, 3), (4, 300), (304, 1)):
        await bench.append(batch(first, count))
    assert await logs.size(LOG) == 305
    assert await logs.read(LOG, 2) == batch(1, 3)
    assert await logs.ids(LOG, 2, 500) == [rid(n) for n in range(2, 305)]
    assert await logs.ids(LOG, 305, 5) == []
    await bench.reopen()
    assert await bench.fabric.receipts.read(LOG, 304) == batch(304)
    await bench.append(batch(305))
    assert await bench.fabric.receipts.size(LOG) == 306


async def test_logs_are_apart_and_receipts_are_found_by_id(bench: Bench) -> None:
    await bench.append(batch(0, 5))
    await bench.append(batch(0, 5, salt=9), OTHER)
    logs = bench.fabric.receipts
    assert await logs.find(rid(3)) == (LOG, 3)
    assert await logs.find(rid(3, 9)) == (OTHER, 3)
    assert await logs.size("ee.ff") == 0
    for unknown in (rid(5), bytes(32), rid(3)[:-1] + b"\1"):
        await refused(logs.find(unknown), "fabric.no_receipt")
    await refused(logs.find(b"short"), "fabric.no_receipt")


async def test_an_id_that_begins_like_another_is_told_apart(bench: Bench) -> None:
    twin = replace(batch(0, 2), ids=(b"\7" * 32, b"\7" * 31 + b"\1"))
    await bench.append(twin)
    assert await bench.fabric.receipts.find(b"\7" * 31 + b"\1") == (LOG, 1)


async def test_the_same_batch_again_changes_nothing_and_another_in_its_place_is_refused(bench: Bench) -> None:
    await bench.append(batch(0, 3))
    await bench.append(batch(3))
    await bench.append(batch(0, 3))
    assert await bench.fabric.receipts.size(LOG) == 4
    for wrong in (batch(0, 3, salt=1), batch(1), batch(3, 2), batch(5), batch(2)):
        await refused(bench.append(wrong), "fabric.log_position")
    assert await bench.fabric.receipts.read(LOG, 3) == batch(3)


REFUSED: dict[str, tuple[ReceiptBatch, str]] = {
    "no receipts": (ReceiptBatch(0, bytes(65), (), ()), "fabric.bad_limit"),
    "too many": (batch(0, MAX_RECEIPTS + 1), "fabric.bad_limit"),
    "a signature of another size": (replace(batch(0), signature=bytes(64)), "fabric.bad_limit"),
    "an id of another size": (replace(batch(0), ids=(bytes(31),)), "fabric.bad_limit"),
    "fewer bodies than ids": (replace(batch(0, 2), sealed=(b"x",)), "fabric.bad_limit"),
    "a number below zero": (replace(batch(0), first=-1), "fabric.bad_limit"),
    "a body too large": (replace(batch(0), sealed=(bytes(MAX_SEALED_RECEIPT + 1),)), "fabric.too_large"),
}


@pytest.mark.parametrize("sentence", REFUSED)
async def test_it_refuses(sentence: str, bench: Bench) -> None:
    wrong, code = REFUSED[sentence]
    await refused(bench.append(wrong), code)
    assert await bench.fabric.receipts.size(LOG) == 0


@pytest.mark.parametrize("name", ["", "../x", "A", "a/b", "x" * 129])
async def test_names_are_names(bench: Bench, name: str) -> None:
    await refused(bench.append(batch(0), name), "fabric.bad_name")
    await refused(bench.fabric.receipts.size(name), "fabric.bad_name")


async def test_reading_beyond_the_end_or_an_unknown_log_is_refused(bench: Bench) -> None:
    await bench.append(batch(0))
    await refused(bench.fabric.receipts.read(LOG, 1), "fabric.no_receipt")
    await refused(bench.fabric.receipts.read(OTHER, 0), "fabric.no_receipt")


async def test_heads_are_replaced(bench: Bench) -> None:
    logs = bench.fabric.receipts
    assert await logs.head(LOG) is None
    await logs.put_head(LOG, b"one")
    await logs.put_head(LOG, b"two")
    assert await logs.head(LOG) == b"two"
    assert await logs.head(OTHER) is None
    await refused(logs.put_head(LOG, bytes(70_000)), "fabric.too_large")


_WRITER = """
import asyncio, sys
sys.path[:0] = [sys.argv[2]]
from pathlib import Path
from cloister.fabric.embedded import open_fabric
from test_receipt_logs import LOG, batch
async def main():
    fabric = await open_fabric(Path(sys.argv[1]))
    for first in range(10_000):
        pending = fabric.receipts.append(LOG, batch(first))
        if pending is not None:
            await pending
        print(first, flush=True)
asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_kill_9(bench: Bench) -> None:
    """The promise of spec/receipts.md 10: the writer dies in the middle; whatever it said is there."""
    command = [sys.executable, "-c", _WRITER, str(bench.folder), str(Path(__file__).parent)]
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    said = [int(await child.stdout.readline()) for _ in range(200)]
    child.send_signal(signal.SIGKILL)
    said += [int(line) for line in (await child.stdout.read()).splitlines(keepends=True) if line.endswith(b"\n")]
    await child.wait()
    logs = bench.fabric.receipts
    size = await logs.size(LOG)
    assert size >= len(said)
    for number in (0, 100, len(said) - 1):
        assert await logs.find(rid(number)) == (LOG, number)
        assert await logs.read(LOG, number) == batch(number)
    await bench.append(batch(size))
    assert await logs.size(LOG) == size + 1


# --- the embedded adapter's files ---


def files(folder: Path) -> tuple[Path, Path]:
    return folder / "receipts" / f"{LOG}.log", folder / "receipts" / f"{LOG}.idx"


@pytest.mark.parametrize("cut", [1, 30, 100])
async def test_a_torn_record_at_the_end_is_as_if_it_were_not_there(bench: Bench, cut: int) -> None:
    await bench.append(batch(0, 2))
    await bench.append(batch(2))
    await bench.fabric.close()
    log, _ = files(bench.folder)
    log.write_bytes(log.read_bytes()[:-cut])
    bench.fabric = await bench.open(bench.folder)
    assert await bench.fabric.receipts.size(LOG) == 2
    await bench.append(batch(2, 2))
    assert await bench.fabric.receipts.ids(LOG, 0, 10) == [rid(n) for n in range(4)]


async def test_a_flipped_byte_is_a_missing_receipt_not_another_one(bench: Bench) -> None:
    await bench.append(batch(0, 2))
    await bench.append(batch(2, 2))
    log, index = files(bench.folder)
    whole = log.read_bytes()
    for at in range(0, len(whole), 5):
        log.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        for number in (0, 2):
            assert await or_missing(bench.fabric.receipts.read(LOG, number)) in (batch(number, 2), "missing")
    log.write_bytes(whole)
    rows = index.read_bytes()
    for at in range(len(rows)):
        index.write_bytes(rows[:at] + bytes([rows[at] ^ 1]) + rows[at + 1 :])
        assert await or_missing(bench.fabric.receipts.find(rid(1))) in ((LOG, 1), "missing")
    index.write_bytes(rows)


async def test_files_are_the_owner_s_alone(bench: Bench) -> None:
    await bench.append(batch(0))
    await bench.fabric.receipts.put_head(LOG, b"head")
    for path in (bench.folder / "receipts").iterdir():
        assert path.stat().st_mode & 0o077 == 0
    assert (bench.folder / "receipts").stat().st_mode & 0o077 == 0


async def test_a_disk_that_refuses_is_a_refusal_by_name(bench: Bench) -> None:
    (bench.folder / "receipts").mkdir(exist_ok=True)
    (bench.folder / "receipts" / f"{LOG}.log").mkdir()
    await refused(bench.append(batch(0)), "fabric.unavailable")
