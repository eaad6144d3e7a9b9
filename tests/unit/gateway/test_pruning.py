"""Which bodies of receipts go: by days, by bytes, never what no signed head covers; and how it looks to who asks."""

from __future__ import annotations

import asyncio
import ctypes
import json
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cloister.core.encoding import jcs
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.log_statements import LogHead
from cloister.core.encoding.signatures import Signed, SignerSet, address_of, sign_digest
from cloister.core.errors import CloisterError
from cloister.core.receipts.merkle import leaf_hash, root_of
from cloister.fabric.embedded import open_fabric, pruning
from cloister.fabric.embedded.receipts import EmbeddedReceipts
from cloister.fabric.ports import Fabric, ReceiptBatch
from cloister.gateway.pruning import DAY_S, Pruner, Retention
from support.fake_world import MEMBERS, STRANGERS, fresh

NETWORK = b"\7" * 32
SIGNERS = SignerSet(1, 3, tuple(address_of(one) for one in MEMBERS))
BODY = 4000


@dataclass
class Store:
    """A store of logs, and a clock."""

    fabric: Fabric
    folder: Path
    now: float = 1_800_000_000.0
    ids: dict[str, list[bytes]] = field(default_factory=dict)

    def pruner(self, **limits: int) -> Pruner:
        """One with these limits."""
        return Pruner(
            self.folder / "receipts",
            self.fabric.receipts,
            Retention(**limits),
            lambda statement: SIGNERS,
            NETWORK,
            lambda: self.now,
        )

    def new(self) -> str:
        """A log of a boot."""
        name = f"{fresh()[:20].hex()}.{fresh().hex()}"
        self.ids[name] = []
        return name

    def append(self, log: str, count: int, each: int = 4) -> None:
        """So many batches of ``each`` receipts."""
        held = self.ids[log]
        for _ in range(count):
            ids = tuple(fresh() for _ in range(each))
            batch = ReceiptBatch(len(held), bytes(65), ids, tuple(bytes(BODY) for _ in ids))
            assert self.fabric.receipts.append(log, batch) is None
            held += ids

    async def witness(self, log: str, size: int | None = None, keys: Any = MEMBERS[:4], **lie: Any) -> None:
        """A head over the first ``size`` receipts."""
        size = len(self.ids[log]) if size is None else size
        worker, boot = (bytes.fromhex(part) for part in log.split("."))
        root = root_of([leaf_hash(one) for one in self.ids[log][:size]])
        said = LogHead(**{"term": 1, "worker": worker, "boot": boot, "size": size, "root": root, **lie})
        signed = Signed(said, tuple(sign_digest(key, said.digest(NETWORK)) for key in keys))
        data = {"statement": said.to_json(), "signatures": [to_hex(one) for one in signed.signatures]}
        await self.fabric.receipts.put_head(log, jcs.encode(data))

    def used(self) -> int:
        """Bytes of bodies on the disk."""
        return sum(one.used for one in pruning.logs_of(self.folder / "receipts"))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    fabric = await open_fabric(tmp_path / "fabric")
    yield Store(fabric, tmp_path / "fabric")
    await fabric.close()


async def code_of(work: Any) -> str:
    with pytest.raises(CloisterError) as caught:
        await work
    return caught.value.code


async def test_what_is_older_than_the_days_goes_and_its_place_stays(store: Store) -> None:
    log, pruner = store.new(), store.pruner(days=2)
    store.append(log, 10)
    await store.witness(log)
    before = store.used()
    assert await pruner.turn() == 0  # from now on the days count
    store.now += DAY_S
    store.append(log, 5)
    await store.witness(log)
    assert await pruner.turn() == 0
    store.now += DAY_S
    assert await pruner.turn() == 40
    assert store.used() < before
    logs, ids = store.fabric.receipts, store.ids[log]
    assert await code_of(logs.read(log, 39)) == "fabric.receipt_pruned"
    assert (await logs.read(log, 40)).ids == tuple(ids[40:44])
    assert (await logs.size(log), await logs.begins(log)) == (60, 40)
    assert await logs.ids(log, 0, 1024) == ids
    assert await logs.ids(log, 38, 4) == ids[38:42]
    for number in (0, 39, 40, 59):
        assert await logs.find(ids[number]) == (log, number)
    store.append(log, 2)  # whoever appends noticed nothing
    assert await logs.ids(log, 55, 20) == store.ids[log][55:]
    store.now += 3 * DAY_S
    await store.witness(log)
    await pruner.turn()
    store.now += 3 * DAY_S
    assert await pruner.turn() + pruner.counts.receipts >= 68  # an ended boot goes whole
    assert await logs.size(log) == 68
    assert await logs.ids(log, 0, 1024) == store.ids[log]


async def test_above_the_bytes_the_oldest_go_first(store: Store) -> None:
    old, new = store.new(), store.new()
    for log in (old, new):
        store.append(log, 50)
        await store.witness(log)
    limit = store.used() * 3 // 4
    pruner = store.pruner(size=limit)
    assert await pruner.turn() > 0
    assert store.used() <= limit + 64_000
    assert await store.fabric.receipts.begins(old) > 0
    assert await store.fabric.receipts.begins(new) == 0
    assert await pruner.turn() <= 16  # what is left to do is rounding
    store.append(new, 100)
    await store.witness(new)
    await pruner.turn()
    assert store.used() <= limit + 64_000
    assert await store.fabric.receipts.begins(old) == 200
    assert await store.fabric.receipts.begins(new) > 0


async def test_without_limits_nothing_is_looked_at(store: Store) -> None:
    log, pruner = store.new(), store.pruner()
    store.append(log, 1)
    assert await pruner.turn() == 0
    assert not pruner.on
    assert not (store.folder / "receipts" / "prune.lock").exists()


# --- what no head covers ---


async def forged(store: Store, log: str) -> None:
    await store.witness(log, keys=STRANGERS[:4])


async def too_few(store: Store, log: str) -> None:
    await store.witness(log, keys=MEMBERS[:3])


async def other_boot(store: Store, log: str) -> None:
    await store.witness(log, boot=fresh())


async def other_root(store: Store, log: str) -> None:
    await store.witness(log, root=fresh())


async def longer(store: Store, log: str) -> None:
    await store.witness(log, size=200, root=fresh())


async def garbage(store: Store, log: str) -> None:
    await store.fabric.receipts.put_head(log, b"{}")


async def no_head(store: Store, log: str) -> None:
    return None


UNCOVERED: dict[str, Callable[[Store, str], Any]] = {
    "no head at all": no_head,
    "a head that is garbage": garbage,
    "a head that strangers signed": forged,
    "a head that too few signed": too_few,
    "a head of another boot": other_boot,
    "a head with another root": other_root,
    "a head over more than there is": longer,
}


@pytest.mark.parametrize("sentence", UNCOVERED)
async def test_nothing_goes_under(sentence: str, store: Store) -> None:
    log, pruner = store.new(), store.pruner(size=1)
    store.append(log, 5)
    await UNCOVERED[sentence](store, log)
    assert await pruner.turn() == 0
    assert pruner.counts.held_back == 20
    assert await store.fabric.receipts.begins(log) == 0


async def test_only_the_covered_part_goes(store: Store) -> None:
    log, pruner = store.new(), store.pruner(size=1)
    store.append(log, 5)
    await store.witness(log, 10)  # in the middle of the third batch
    assert await pruner.turn() == 8
    assert await store.fabric.receipts.begins(log) == 8
    assert (await store.fabric.receipts.read(log, 8)).first == 8
    await store.witness(log)
    assert await pruner.turn() == 12


async def test_a_changed_store_is_not_pruned_further(store: Store) -> None:
    log, pruner = store.new(), store.pruner(size=1)
    store.append(log, 5)
    await store.witness(log, 12)
    assert await pruner.turn() == 12
    ids = store.folder / "receipts" / f"{log}.ids"
    ids.write_bytes(bytes(32) + ids.read_bytes()[32:])
    await store.witness(log)
    assert await store.pruner(size=1).turn() == 0  # one that starts anew hashes from the first id on


async def test_marks_that_are_garbage_only_keep_bodies_for_longer(store: Store) -> None:
    log = store.new()
    store.append(log, 3)
    await store.witness(log)
    await store.pruner(days=1).turn()
    marks = store.folder / "receipts" / "retention.json"
    assert marks.stat().st_mode & 0o077 == 0
    for text in ("", "[]", '{"marks":7}', '{"marks":{"x":[[1]]}}', '{"marks":{"' + log + '":[["0",9]]}}', "[" * 9999):
        marks.write_text(text)
        store.now += 2 * DAY_S
        assert await store.pruner(days=1).turn() == 0
    assert log in json.loads(marks.read_text())["marks"]
    store.now += DAY_S
    assert await store.pruner(days=1).turn() == 12


async def test_a_process_that_appends_after_a_restart_goes_on_behind_the_hole(store: Store) -> None:
    log = store.new()
    for part in (5, 5):
        store.append(log, part)
        await store.witness(log)
        assert await store.pruner(size=1).turn() == 4 * part
        reopened = EmbeddedReceipts(store.folder / "receipts", synced=False)
        assert await reopened.size(log) == len(store.ids[log])
        await store.fabric.receipts.close()  # type: ignore[attr-defined]
    store.append(log, 1)
    assert await store.fabric.receipts.ids(log, 0, 99) == store.ids[log]


_KILLED = """
import os, signal, sys
from pathlib import Path
from cloister.fabric.embedded import pruning
real, left = getattr(pruning, sys.argv[3]), int(sys.argv[4])
def dies(*args):
    global left
    if left == 0:
        if sys.argv[5] == "after":
            real(*args)
        elif sys.argv[3] == "_write":
            os.pwrite(args[0], args[1][:45], args[2])  # torn in the middle of an id
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    real(*args)
setattr(pruning, sys.argv[3], dies)
pruning.STEP = 8
pruning.prune(Path(sys.argv[1]), sys.argv[2], 40)
"""


@pytest.mark.parametrize(
    ("where", "step", "when"),
    [("_write", 0, "before"), ("_write", 2, "before"), ("_punch", 0, "before"), ("_punch", 2, "after")],
)
async def test_a_kill_in_the_middle_loses_no_place_and_the_next_turn_ends_it(
    where: str, step: int, when: str, store: Store
) -> None:
    log = store.new()
    store.append(log, 12)
    await store.witness(log)
    folder = store.folder / "receipts"
    command = [sys.executable, "-c", _KILLED, str(folder), log, where, str(step), when]
    child = await asyncio.create_subprocess_exec(*command)
    assert await child.wait() == -signal.SIGKILL
    logs, ids = store.fabric.receipts, store.ids[log]
    assert await logs.size(log) == 48
    assert await logs.ids(log, 0, 99) == ids
    for number in (0, 9, 17, 47):
        assert await logs.find(ids[number]) == (log, number)
    assert (await logs.read(log, 44)).ids == tuple(ids[44:])
    left = 48 - pruning.begins(folder, log)
    assert await store.pruner(size=1).turn() == left > 0
    assert pruning.begins(folder, log) == 48
    assert await logs.ids(log, 0, 99) == ids
    assert store.used() <= 4096  # the block that the next record would share


async def test_one_process_prunes_at_a_time(store: Store) -> None:
    log = store.new()
    store.append(log, 5)
    await store.witness(log)
    with pruning.pruning_alone(store.folder / "receipts"):
        assert await code_of(store.pruner(size=1).turn()) == "fabric.pruning"
    assert await store.pruner(size=1).turn() == 20


async def test_a_file_system_without_holes_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    log = store.new()
    store.append(log, 5)
    await store.witness(log)

    class Libc:
        """A kernel that knows no holes."""

        class fallocate:  # noqa: N801 - the name of the call
            argtypes: Any = None

            def __new__(cls, *args: Any) -> Any:
                return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Libc)
    monkeypatch.setattr(ctypes, "get_errno", lambda: 95)
    assert await code_of(store.pruner(size=1).turn()) == "fabric.no_holes"
    assert (await store.fabric.receipts.read(log, 0)).first == 0


async def test_the_metrics_say_what_was_held_back(store: Store) -> None:
    pruner, log = store.pruner(size=1), store.new()
    store.append(log, 5)
    await store.witness(log, 8)
    await pruner.turn()
    assert (pruner.counts.receipts, pruner.counts.held_back) == (8, 12)
    assert pruner.counts.used == store.used() > 0
