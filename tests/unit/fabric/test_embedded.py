"""What only the SQLite adapter promises: files, kill -9, lost outcomes, several processes, sweeping."""

from __future__ import annotations

import asyncio
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import apsw
import pytest

from cloister.core.errors import CloisterError, FabricError, StateError
from cloister.fabric.embedded import EmbeddedFabric, open_fabric
from cloister.fabric.embedded import state as state_module
from cloister.fabric.embedded import writer as writer_module
from cloister.fabric.ports import Expect, Job, Put, Tx
from cloister.node.clock import ManualClock
from support.fabric_load import AGENT, LANES

LOAD = Path(__file__).parents[2] / "support" / "fabric_load.py"


@pytest.fixture
async def fabric(tmp_path: Path) -> AsyncIterator[EmbeddedFabric]:
    opened = cast(EmbeddedFabric, await open_fabric(tmp_path / "f"))
    yield opened
    await opened.close()


def tx(name: str, value: bytes = b"v", *, jobs: tuple[Job, ...] = ()) -> Tx:
    return Tx(name, {"k": Put(value, Expect.ANY)}, jobs)


def inside(folder: Path, statement: str) -> list[tuple[Any, ...]]:
    db = apsw.Connection(str(folder / "fabric.db"))
    try:
        return db.execute(statement).fetchall()
    finally:
        db.close()


# --- files


async def test_every_file_is_for_its_owner_only(fabric: EmbeddedFabric, tmp_path: Path) -> None:
    await fabric.state.commit(AGENT, tx("t"))
    await fabric.blobs.put(b"blob")
    for path in [tmp_path / "f", *(tmp_path / "f").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


async def test_a_store_that_others_may_read_is_refused(tmp_path: Path) -> None:
    await (await open_fabric(tmp_path / "f")).close()
    (tmp_path / "f" / "fabric.db").chmod(0o644)
    with pytest.raises(FabricError) as caught:
        await open_fabric(tmp_path / "f")
    assert caught.value.code == "fabric.damaged"


@pytest.mark.parametrize("content", [b"garbage" * 1000, b"SQLite format 3\0" + bytes(4096)], ids=["text", "header"])
async def test_a_file_that_is_no_store_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "fabric.db").write_bytes(content)
    (tmp_path / "fabric.db").chmod(0o600)
    with pytest.raises(FabricError) as caught:
        await open_fabric(tmp_path)
    assert caught.value.code == "fabric.damaged"


@pytest.mark.parametrize("pragma", ["user_version=2", "application_id=7"])
async def test_a_store_of_another_version_or_program_is_refused(tmp_path: Path, pragma: str) -> None:
    await (await open_fabric(tmp_path)).close()
    inside(tmp_path, f"PRAGMA {pragma}")
    with pytest.raises(FabricError) as caught:
        await open_fabric(tmp_path)
    assert caught.value.code == "fabric.damaged"


async def test_a_link_in_place_of_the_file_and_a_file_in_place_of_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "fabric.db").symlink_to(tmp_path / "elsewhere")
    for folder in (tmp_path / "f", tmp_path / "elsewhere"):
        with pytest.raises(FabricError) as caught:
            await open_fabric(folder)
        assert caught.value.code == "fabric.unavailable"


async def test_the_file_is_opened_with_full_durability(fabric: EmbeddedFabric) -> None:
    db = fabric._writer._db
    assert db.execute("PRAGMA synchronous").fetchall() == [(2,)]
    assert db.execute("PRAGMA journal_mode").fetchall() == [("wal",)]


async def test_no_statement_is_planned_anew_because_other_values_are_bound(fabric: EmbeddedFabric) -> None:
    for db in (fabric._reader, fabric._writer._db):
        assert db.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, -1) == 1
        plan = "EXPLAIN QUERY PLAN " + state_module._NEWEST
        assert "entries_newest" in str(db.execute(plan, (AGENT, "k")).fetchall())


# --- kill -9


def kill_under_load(folder: Path, lines: int) -> dict[int, int]:
    """Run the writer until it acknowledged ``lines`` commits, then SIGKILL it; returns the last number per lane."""
    process = subprocess.Popen([sys.executable, str(LOAD), str(folder), "pairs"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged: dict[int, int] = {}
    try:
        for _ in range(lines):
            lane, number = process.stdout.readline().split()
            acknowledged[int(lane)] = int(number)
    finally:
        process.send_signal(signal.SIGKILL)
    for line in process.stdout.read().splitlines():
        if len(line.split()) == 2:
            acknowledged[int(line.split()[0])] = int(line.split()[1])
    assert process.wait() == -signal.SIGKILL
    return acknowledged


async def test_kill_9_loses_no_acknowledged_commit_and_shows_no_partial_one(tmp_path: Path) -> None:
    for lines in (40, 90):
        folder = tmp_path / str(lines)
        acknowledged = kill_under_load(folder, lines)
        fabric = await open_fabric(folder)
        for lane in range(LANES):
            a, b = await fabric.state.get(AGENT, f"{lane}.a"), await fabric.state.get(AGENT, f"{lane}.b")
            stored = [int.from_bytes(e.value[:8], "big") if e else 0 for e in (a, b)]
            assert stored[0] == stored[1] >= acknowledged.get(lane, 0)
            ours = "SELECT hex(substr(body, 2)) FROM jobs WHERE hex(substr(body, 1, 1)) = '%02X' ORDER BY id"
            jobs = [int(row[0], 16) for row in inside(folder, ours % lane)]
            assert jobs == list(range(1, stored[0] + 1))
            again = Tx(f"{lane}.{acknowledged.get(lane, 0)}", {f"{lane}.a": Put(b"twice", Expect.ANY)})
            if lane in acknowledged:
                await fabric.state.commit(AGENT, again)
                entry = await fabric.state.get(AGENT, f"{lane}.a")
                assert entry is not None
                assert entry.value != b"twice"
        await fabric.close()


def count_in_processes(folder: Path, processes: int, times: int) -> list[str]:
    command = [sys.executable, str(LOAD), str(folder), "count", str(times)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    try:
        return [process.communicate(timeout=60)[0] for process in started]
    finally:
        for process in started:
            process.kill()


async def test_compare_and_set_holds_across_processes(tmp_path: Path) -> None:
    outputs = count_in_processes(tmp_path, 3, 60)
    assert [out.split()[0] for out in outputs] == ["60", "60", "60"]
    fabric = await open_fabric(tmp_path)
    entry = await fabric.state.get(AGENT, "n")
    await fabric.close()
    assert entry is not None
    assert entry.value == b"180"


# --- outcomes that nobody knows


async def test_a_commit_whose_answer_was_lost_is_unknown_and_a_retry_does_it_once(
    fabric: EmbeddedFabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = fabric._writer._commit

    def lose() -> None:
        commit()
        raise apsw.IOError("injected: after the commit")

    monkeypatch.setattr(fabric._writer, "_commit", lose)
    wanted = tx("t", jobs=(Job("q", b"1"),))
    with pytest.raises(StateError) as caught:
        await fabric.state.commit(AGENT, wanted)
    assert caught.value.code == "state.outcome_unknown"
    monkeypatch.undo()
    await fabric.state.commit(AGENT, wanted)
    assert len(await fabric.state.history(AGENT, "k")) == 1
    assert len(await fabric.jobs.take("q", 9, 9)) == 1


async def test_a_commit_that_failed_is_unknown_and_a_retry_does_it_once(fabric: EmbeddedFabric) -> None:
    fabric._writer._db.set_commit_hook(lambda: True)
    with pytest.raises(StateError) as caught:
        await fabric.state.commit(AGENT, tx("t"))
    assert caught.value.code == "state.outcome_unknown"
    assert await fabric.state.get(AGENT, "k") is None
    fabric._writer._db.set_commit_hook(None)
    await fabric.state.commit(AGENT, tx("t"))
    assert len(await fabric.state.history(AGENT, "k")) == 1


async def test_a_failed_batch_makes_every_outcome_in_it_unknown_conflicts_too(fabric: EmbeddedFabric) -> None:
    await fabric.state.commit(AGENT, tx("t0"))
    fabric._writer._db.set_commit_hook(lambda: True)
    absent = Tx("t1", {"k": Put(b"v", Expect.ABSENT)})
    results = await asyncio.gather(
        *(fabric.state.commit(AGENT, t) for t in (absent, tx("t2"))),
        fabric.leases.hold("l", "me", 1),
        return_exceptions=True,
    )
    codes = [r.code for r in results if isinstance(r, CloisterError)]
    assert codes == ["state.outcome_unknown", "state.outcome_unknown", "fabric.unavailable"]
    fabric._writer._db.set_commit_hook(None)


async def test_an_error_inside_one_operation_leaves_nothing_of_the_batch_and_the_writer_alive(
    fabric: EmbeddedFabric,
) -> None:
    def broken(db: apsw.Connection) -> None:
        db.execute("INSERT INTO jobs (queue, body, due) VALUES ('q', x'00', 0)")
        db.execute("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(FabricError) as caught:
        await fabric._writer.submit(broken)
    assert caught.value.code == "fabric.unavailable"
    assert await fabric.jobs.take("q", 1, 1) == []
    await fabric.state.commit(AGENT, tx("t"))


async def test_a_store_locked_by_another_program_is_unknown_not_a_hang(fabric: EmbeddedFabric, tmp_path: Path) -> None:
    fabric._writer._db.set_busy_timeout(10)
    other = apsw.Connection(str(tmp_path / "f" / "fabric.db"))
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StateError) as caught:
        await fabric.state.commit(AGENT, tx("t"))
    assert caught.value.code == "state.outcome_unknown"
    other.execute("ROLLBACK")
    other.close()
    await fabric.state.commit(AGENT, tx("t"))


async def test_a_caller_that_went_away_does_not_disturb_the_batch(fabric: EmbeddedFabric) -> None:
    gone = asyncio.ensure_future(fabric.state.commit(AGENT, tx("t1")))
    kept = asyncio.ensure_future(fabric.state.commit(AGENT, tx("t2")))
    await asyncio.sleep(0)
    gone.cancel()
    assert "k" in await kept
    assert gone.cancelled()


async def test_close_finishes_what_waits(tmp_path: Path) -> None:
    fabric = await open_fabric(tmp_path)
    waiting = [asyncio.ensure_future(fabric.state.commit(AGENT, tx(f"t{n}"))) for n in range(20)]
    await asyncio.sleep(0)
    await fabric.close()
    assert all("k" in revs for revs in await asyncio.gather(*waiting))


async def test_more_waiting_bytes_than_the_cap_are_refused_at_once(
    fabric: EmbeddedFabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "MAX_PENDING_BYTES", 10_000)
    many = [fabric.state.commit(AGENT, tx(f"t{n}", bytes(4000))) for n in range(5)]
    results = await asyncio.gather(*many, return_exceptions=True)
    assert [getattr(r, "code", "ok") for r in results] == ["ok"] + ["fabric.busy"] * 4
    await fabric.state.commit(AGENT, tx("later", bytes(4000)))


async def test_a_scan_that_would_not_fit_is_refused_not_cut(
    fabric: EmbeddedFabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloister.fabric.embedded.state.MAX_SCAN_BYTES", 1000)
    for n in range(3):
        await fabric.state.commit(AGENT, Tx(f"t{n}", {f"k{n}": Put(bytes(500), Expect.ANY)}))
    assert len(await fabric.state.scan(AGENT, "", 2)) == 2
    with pytest.raises(FabricError) as caught:
        await fabric.state.scan(AGENT, "")
    assert caught.value.code == "fabric.too_large"


# --- groups and rows


async def test_what_one_turn_of_the_loop_submits_is_one_batch_in_its_order(
    fabric: EmbeddedFabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, execute = list[int](), fabric._writer._execute

    def watched(batch: list[Any]) -> list[Any]:
        sizes.append(len(batch))
        return execute(batch)

    monkeypatch.setattr(fabric._writer, "_execute", watched)
    values = [b"%d" % n for n in range(40)]
    await asyncio.gather(*(fabric.state.commit(AGENT, tx(f"t{n}", value)) for n, value in enumerate(values)))
    assert sizes == [40]
    assert [entry.value for entry in await fabric.state.history(AGENT, "k")] == values[:-17:-1]


async def test_a_transaction_of_many_puts_names_the_revision_of_each(fabric: EmbeddedFabric) -> None:
    first = await fabric.state.commit(AGENT, Tx("t1", {f"k{n}": Put(b"%d" % n, Expect.ANY) for n in range(21)}))
    puts = {f"k{n}": Put(None if n % 3 == 0 else b"new%d" % n, first[f"k{n}"]) for n in range(20)}
    second = await fabric.state.commit(AGENT, Tx("t2", puts))
    assert set(second) == {f"k{n}" for n in range(20) if n % 3}
    for n in range(21):
        entry = await fabric.state.get(AGENT, f"k{n}")
        if n == 20:
            assert entry is not None
            assert (entry.value, entry.rev) == (b"20", first["k20"])
        elif n % 3:
            assert entry is not None
            assert (entry.value, entry.rev) == (b"new%d" % n, second[f"k{n}"])
        else:
            assert entry is None


@pytest.mark.parametrize("counted", [1, 100])
async def test_a_few_more_than_sixteen_old_values_stay_however_often_a_key_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: int
) -> None:
    monkeypatch.setattr(state_module, "_COUNTED", counted)
    for turn in range(3):
        fabric = await open_fabric(tmp_path)
        many = (Tx(f"t{turn}.{n}", {k: Put(b"%d" % n, Expect.ANY) for k in ("k", "other")}) for n in range(40))
        await asyncio.gather(*(fabric.state.commit(AGENT, one) for one in many))
        assert [e.value for e in await fabric.state.history(AGENT, "k")] == [b"%d" % n for n in range(39, 23, -1)]
        await fabric.close()
    stored = inside(tmp_path, "SELECT count(*) FROM entries GROUP BY key")
    assert all(16 <= count <= 16 + state_module._SLACK for (count,) in stored), stored


# --- sweeping


async def test_old_transaction_ids_deleted_keys_and_dead_leases_are_swept(tmp_path: Path) -> None:
    clock = ManualClock()
    fabric = await open_fabric(tmp_path, clock=clock.now)
    await fabric.state.commit(AGENT, Tx("t1", {"gone": Put(b"x", Expect.ANY), "kept": Put(b"y", Expect.ANY)}))
    await fabric.state.commit(AGENT, Tx("t2", {"gone": Put(None, Expect.ANY)}))
    await fabric.leases.hold("dead", "me", 1)
    clock.advance(2 * 24 * 3600)
    await fabric.state.commit(AGENT, Tx("t3", {"other": Put(b"z", Expect.ANY)}))
    await fabric.close()
    assert inside(tmp_path, "SELECT DISTINCT key FROM entries ORDER BY key") == [("kept",), ("other",)]
    assert inside(tmp_path, "SELECT id FROM done") == [("t3",)]
    assert inside(tmp_path, "SELECT count(*) FROM leases") == [(0,)]


async def test_a_deleted_key_that_was_written_again_is_not_swept(tmp_path: Path) -> None:
    clock = ManualClock()
    fabric = await open_fabric(tmp_path, clock=clock.now)
    for n, value in enumerate([b"1", None, b"2"]):
        await fabric.state.commit(AGENT, Tx(f"t{n}", {"k": Put(value, Expect.ANY)}))
    clock.advance(2 * 24 * 3600)
    await fabric.state.commit(AGENT, Tx("late", {"other": Put(b"z", Expect.ANY)}))
    entry = await fabric.state.get(AGENT, "k")
    await fabric.close()
    assert entry is not None
    assert entry.value == b"2"


async def test_stray_files_of_a_killed_blob_write_are_never_served(fabric: EmbeddedFabric, tmp_path: Path) -> None:
    digest = await fabric.blobs.put(b"blob")
    folder = tmp_path / "f" / "blobs" / digest.hex()[:2]
    (folder / ".half").write_bytes(b"blo")
    assert await fabric.blobs.get(digest) == b"blob"
    (folder / digest.hex()).unlink()
    (folder / digest.hex()).symlink_to(folder / ".half")
    with pytest.raises(FabricError) as caught:
        await fabric.blobs.get(digest)
    assert caught.value.code == "fabric.no_blob"
