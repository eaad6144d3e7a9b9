"""One suite for every fabric adapter: what the port promises, sentence by sentence (fabric/ports.py, spec/state.md 8).

An adapter joins by one line in ADAPTERS: how to open a fresh store in a folder with a given clock, and how to spoil a
stored blob. Nothing here knows which adapter runs.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from cloister.core.errors import CloisterError, FabricError, StateError
from cloister.fabric.embedded import open_fabric
from cloister.fabric.ports import MAX_BLOB, MAX_VALUE, Expect, Fabric, Job, Leased, Put, Rev, Tx
from cloister.node.clock import ManualClock

AGENT, OTHER = "ab" * 32, "cd" * 32
Open = Callable[[Path, Callable[[], float]], Awaitable[Fabric]]


@dataclass(frozen=True)
class Adapter:
    """How to open a store and how its disk spoils a blob."""

    open: Open
    spoil: Callable[[Path, bytes, bytes | None], None]


def _spoil_file(folder: Path, digest: bytes, content: bytes | None) -> None:
    path = folder / "blobs" / digest.hex()[:2] / digest.hex()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


ADAPTERS = {"embedded": Adapter(lambda folder, clock: open_fabric(folder, clock=clock), _spoil_file)}


@dataclass
class Bench:
    """One open store, its folder, its clock."""

    fabric: Fabric
    folder: Path
    clock: ManualClock
    adapter: Adapter

    async def reopen(self) -> None:
        """Close and open again, as a restarted process does."""
        await self.fabric.close()
        self.fabric = await self.adapter.open(self.folder, self.clock.now)


@pytest.fixture(params=sorted(ADAPTERS))
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    adapter, clock = ADAPTERS[request.param], ManualClock()
    made = Bench(await adapter.open(tmp_path / "fabric", clock.now), tmp_path / "fabric", clock, adapter)
    yield made
    await made.fabric.close()


def put(value: bytes | None, expect: Rev | Expect = Expect.ANY) -> Put:
    return Put(value, expect)


async def refused(awaitable: Awaitable[object], code: str) -> CloisterError:
    with pytest.raises(CloisterError) as caught:
        await awaitable
    assert caught.value.code == code
    return caught.value


# --- compare and set


async def test_a_value_that_was_committed_is_read_back_with_its_revision(bench: Bench) -> None:
    state = bench.fabric.state
    revs = await state.commit(AGENT, Tx("t1", {"k": put(b"v", Expect.ABSENT)}))
    entry = await state.get(AGENT, "k")
    assert entry is not None
    assert (entry.value, entry.rev) == (b"v", revs["k"])


async def test_the_empty_value_is_a_value(bench: Bench) -> None:
    await bench.fabric.state.commit(AGENT, Tx("t1", {"k": put(b"")}))
    entry = await bench.fabric.state.get(AGENT, "k")
    assert entry is not None
    assert entry.value == b""


async def test_a_writer_with_an_old_revision_conflicts_and_changes_nothing(bench: Bench) -> None:
    state = bench.fabric.state
    first = await state.commit(AGENT, Tx("t1", {"k": put(b"1")}))
    second = await state.commit(AGENT, Tx("t2", {"k": put(b"2", first["k"])}))
    await refused(state.commit(AGENT, Tx("t3", {"k": put(b"3", first["k"])})), "state.conflict")
    entry = await state.get(AGENT, "k")
    assert entry is not None
    assert (entry.value, entry.rev) == (b"2", second["k"])


async def test_absent_holds_before_the_first_write_and_after_a_delete(bench: Bench) -> None:
    state = bench.fabric.state
    await state.commit(AGENT, Tx("t1", {"k": put(b"1", Expect.ABSENT)}))
    await refused(state.commit(AGENT, Tx("t2", {"k": put(b"2", Expect.ABSENT)})), "state.conflict")
    assert await state.commit(AGENT, Tx("t3", {"k": put(None)})) == {}
    assert await state.get(AGENT, "k") is None
    await state.commit(AGENT, Tx("t4", {"k": put(b"4", Expect.ABSENT)}))


async def test_a_revision_of_a_deleted_or_unknown_key_conflicts(bench: Bench) -> None:
    state = bench.fabric.state
    revs = await state.commit(AGENT, Tx("t1", {"k": put(b"1")}))
    await state.commit(AGENT, Tx("t2", {"k": put(None, revs["k"])}))
    await refused(state.commit(AGENT, Tx("t3", {"k": put(b"3", revs["k"])})), "state.conflict")
    await refused(state.commit(AGENT, Tx("t4", {"never": put(b"3", revs["k"])})), "state.conflict")


async def test_a_revision_never_comes_back(bench: Bench) -> None:
    state = bench.fabric.state
    seen = set()
    for n in range(6):
        revs = await state.commit(AGENT, Tx(f"t{n}", {"k": put(b"same")}))
        seen.add(revs["k"])
        await state.commit(AGENT, Tx(f"d{n}", {"k": put(None)}))
        bench.clock.advance(4 * 3600)
    assert len(seen) == 6


async def test_of_many_writers_with_one_revision_exactly_one_wins(bench: Bench) -> None:
    state = bench.fabric.state
    revs = await state.commit(AGENT, Tx("t", {"k": put(b"0")}))
    tries = [state.commit(AGENT, Tx(f"t{n}", {"k": put(b"%d" % n, revs["k"])})) for n in range(64)]
    results = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(r, dict) for r in results) == 1
    assert {r.code for r in results if isinstance(r, StateError)} == {"state.conflict"}


async def test_agents_do_not_see_each_other(bench: Bench) -> None:
    state = bench.fabric.state
    await state.commit(AGENT, Tx("same", {"k": put(b"mine")}))
    await state.commit(OTHER, Tx("same", {"k": put(b"theirs", Expect.ABSENT)}))
    mine, theirs = await state.get(AGENT, "k"), await state.get(OTHER, "k")
    assert mine is not None
    assert theirs is not None
    assert (mine.value, theirs.value) == (b"mine", b"theirs")


# --- atomicity


async def test_one_failed_expectation_undoes_every_put_and_every_job(bench: Bench) -> None:
    state = bench.fabric.state
    await state.commit(AGENT, Tx("t1", {"a": put(b"1"), "b": put(b"1")}))
    bad = Tx("t2", {"a": put(b"2"), "b": put(b"2", Expect.ABSENT)}, (Job("q", b"job"),))
    await refused(state.commit(AGENT, bad), "state.conflict")
    entry = await state.get(AGENT, "a")
    assert entry is not None
    assert entry.value == b"1"
    assert await bench.fabric.jobs.take("q", 10, 60) == []


async def test_a_conflict_in_a_burst_does_not_disturb_its_neighbours(bench: Bench) -> None:
    state = bench.fabric.state
    await state.commit(AGENT, Tx("t", {"taken": put(b"x")}))
    burst = [
        state.commit(AGENT, Tx(f"t{n}", {f"k{n}" if n % 3 else "taken": put(b"v", Expect.ABSENT)})) for n in range(90)
    ]
    results = await asyncio.gather(*burst, return_exceptions=True)
    assert [isinstance(r, dict) for r in results] == [bool(n % 3) for n in range(90)]
    assert len(await state.scan(AGENT, "k")) == 60


async def test_a_failed_commit_may_be_tried_again_under_the_same_id(bench: Bench) -> None:
    state = bench.fabric.state
    revs = await state.commit(AGENT, Tx("t1", {"k": put(b"1")}))
    await refused(state.commit(AGENT, Tx("t2", {"k": put(b"2", Expect.ABSENT)})), "state.conflict")
    await state.commit(AGENT, Tx("t2", {"k": put(b"2", revs["k"])}))
    entry = await state.get(AGENT, "k")
    assert entry is not None
    assert entry.value == b"2"


async def test_everything_committed_survives_a_restart(bench: Bench) -> None:
    revs = await bench.fabric.state.commit(AGENT, Tx("t1", {"k": put(b"v")}, (Job("q", b"job"),)))
    digest = await bench.fabric.blobs.put(b"blob")
    token = await bench.fabric.leases.hold("l", "me", 60)
    await bench.reopen()
    entry = await bench.fabric.state.get(AGENT, "k")
    assert entry is not None
    assert entry.rev == revs["k"]
    assert [j.body for j in await bench.fabric.jobs.take("q", 1, 1)] == [b"job"]
    assert await bench.fabric.blobs.get(digest) == b"blob"
    assert await bench.fabric.leases.hold("l", "me", 60) == token


# --- idempotence


async def test_a_repeated_id_returns_the_first_result_and_writes_once(bench: Bench) -> None:
    state = bench.fabric.state
    tx = Tx("same", {"k": put(b"v", Expect.ABSENT)}, (Job("q", b"job"),))
    first = await state.commit(AGENT, tx)
    assert await state.commit(AGENT, tx) == first
    await bench.reopen()
    assert await bench.fabric.state.commit(AGENT, tx) == first
    assert len(await bench.fabric.jobs.take("q", 10, 60)) == 1
    assert len(await bench.fabric.state.history(AGENT, "k")) == 1


async def test_a_repeated_id_is_known_for_an_hour_of_other_commits(bench: Bench) -> None:
    state = bench.fabric.state
    first = await state.commit(AGENT, Tx("same", {"k": put(b"v", Expect.ABSENT)}))
    for n in range(60):
        bench.clock.advance(60)
        await state.commit(AGENT, Tx(f"t{n}", {"n": put(b"x")}))
    assert await state.commit(AGENT, Tx("same", {"k": put(b"v", Expect.ABSENT)})) == first


async def test_two_equal_transactions_at_once_happen_once(bench: Bench) -> None:
    tx = Tx("same", {"k": put(b"v", Expect.ABSENT)}, (Job("q", b"job"),))
    results = await asyncio.gather(*(bench.fabric.state.commit(AGENT, tx) for _ in range(8)))
    assert all(r == results[0] for r in results)
    assert len(await bench.fabric.jobs.take("q", 10, 60)) == 1


# --- scan and history


async def test_scan_gives_live_keys_of_the_prefix_in_order(bench: Bench) -> None:
    state = bench.fabric.state
    keys = ["b.2", "b.1", "b.10", "a", "c", "b"]
    await state.commit(AGENT, Tx("t1", {k: put(k.encode()) for k in keys}))
    await state.commit(AGENT, Tx("t2", {"b.1": put(None), "b.2": put(b"new")}))
    assert [(k, e.value) for k, e in await state.scan(AGENT, "b.")] == [("b.10", b"b.10"), ("b.2", b"new")]
    assert [k for k, _ in await state.scan(AGENT, "")] == ["a", "b", "b.10", "b.2", "c"]
    assert [k for k, _ in await state.scan(AGENT, "", 2)] == ["a", "b"]
    assert await state.scan(OTHER, "") == []


async def test_scan_revisions_are_those_of_get(bench: Bench) -> None:
    state = bench.fabric.state
    for n in range(3):
        await state.commit(AGENT, Tx(f"t{n}", {"a": put(b"%d" % n), "b": put(b"%d" % n)}))
    for key, entry in await state.scan(AGENT, ""):
        assert await state.get(AGENT, key) == entry


async def test_history_keeps_the_newest_sixteen_newest_first(bench: Bench) -> None:
    state = bench.fabric.state
    for n in range(20):
        await state.commit(AGENT, Tx(f"t{n}", {"k": put(b"%d" % n)}))
    assert [e.value for e in await state.history(AGENT, "k")] == [b"%d" % n for n in range(19, 3, -1)]
    assert [e.value for e in await state.history(AGENT, "k", 2)] == [b"19", b"18"]
    assert await state.history(AGENT, "none") == []


# --- jobs


async def test_a_job_of_a_commit_is_delivered_and_gone_after_ack(bench: Bench) -> None:
    await bench.fabric.state.commit(AGENT, Tx("t", {}, (Job("q", b"1"), Job("q", b"2"), Job("other", b"3"))))
    jobs = await bench.fabric.jobs.take("q", 10, 60)
    assert [(j.body, j.attempts) for j in jobs] == [(b"1", 1), (b"2", 1)]
    for job in jobs:
        await bench.fabric.jobs.ack(job)
    bench.clock.advance(3600)
    assert await bench.fabric.jobs.take("q", 10, 60) == []


async def test_a_job_in_hand_is_hidden_until_its_lease_runs_out(bench: Bench) -> None:
    await bench.fabric.state.commit(AGENT, Tx("t", {}, (Job("q", b"1"),)))
    (first,) = await bench.fabric.jobs.take("q", 10, 60)
    bench.clock.advance(59)
    assert await bench.fabric.jobs.take("q", 10, 60) == []
    bench.clock.advance(2)
    (second,) = await bench.fabric.jobs.take("q", 10, 60)
    assert (second.job_id, second.attempts) == (first.job_id, 2)


async def test_an_ack_or_nack_after_the_lease_was_lost_changes_nothing(bench: Bench) -> None:
    await bench.fabric.state.commit(AGENT, Tx("t", {}, (Job("q", b"1"),)))
    (late,) = await bench.fabric.jobs.take("q", 1, 60)
    bench.clock.advance(61)
    (held,) = await bench.fabric.jobs.take("q", 1, 60)
    await bench.fabric.jobs.ack(late)
    await bench.fabric.jobs.nack(late, 0)
    assert await bench.fabric.jobs.take("q", 1, 60) == []
    bench.clock.advance(61)
    assert [j.job_id for j in await bench.fabric.jobs.take("q", 1, 60)] == [held.job_id]


async def test_a_nacked_job_comes_back_after_its_delay(bench: Bench) -> None:
    await bench.fabric.state.commit(AGENT, Tx("t", {}, (Job("q", b"1"),)))
    (job,) = await bench.fabric.jobs.take("q", 1, 60)
    await bench.fabric.jobs.nack(job, 30)
    bench.clock.advance(29)
    assert await bench.fabric.jobs.take("q", 1, 60) == []
    bench.clock.advance(2)
    assert [j.attempts for j in await bench.fabric.jobs.take("q", 1, 60)] == [2]


async def test_a_job_waits_until_not_before(bench: Bench) -> None:
    due = int(bench.clock.now()) + 100
    await bench.fabric.state.commit(AGENT, Tx("t", {}, (Job("q", b"later", due), Job("q", b"now"))))
    assert [j.body for j in await bench.fabric.jobs.take("q", 10, 60)] == [b"now"]
    bench.clock.advance(101)
    assert b"later" in [j.body for j in await bench.fabric.jobs.take("q", 10, 60)]


async def test_takers_at_once_share_the_jobs_without_overlap(bench: Bench) -> None:
    await bench.fabric.state.commit(AGENT, Tx("t", {}, tuple(Job("q", b"%d" % n) for n in range(30))))
    taken = await asyncio.gather(*(bench.fabric.jobs.take("q", 5, 60) for _ in range(8)))
    bodies = [j.body for part in taken for j in part]
    assert len(bodies) == len(set(bodies)) == 30


# --- leases and fencing


async def test_a_held_lease_is_refused_to_others_and_renewed_for_its_holder(bench: Bench) -> None:
    leases = bench.fabric.leases
    token = await leases.hold("l", "a", 60)
    await refused(leases.hold("l", "b", 60), "fabric.lease_held")
    bench.clock.advance(50)
    assert await leases.hold("l", "a", 60) == token
    bench.clock.advance(50)
    await refused(leases.hold("l", "b", 60), "fabric.lease_held")


async def test_fencing_tokens_only_grow(bench: Bench) -> None:
    leases, tokens = bench.fabric.leases, []
    for holder in ("a", "b", "a", "a", "c"):
        tokens.append(await leases.hold("l", holder, 60))
        bench.clock.advance(61)
    await leases.release("l", "c")
    tokens.append(await leases.hold("l", "d", 60))
    await leases.release("l", "d")
    bench.clock.advance(10 * 24 * 3600)
    await leases.hold("unrelated", "x", 1)
    tokens.append(await leases.hold("l", "a", 60))
    assert tokens == sorted(set(tokens))


async def test_only_the_holder_releases(bench: Bench) -> None:
    leases = bench.fabric.leases
    await leases.hold("l", "a", 60)
    await leases.release("l", "b")
    await refused(leases.hold("l", "b", 60), "fabric.lease_held")
    await leases.release("l", "a")
    await leases.hold("l", "b", 60)


async def test_a_writer_whose_lease_was_taken_over_is_fenced(bench: Bench) -> None:
    state, leases = bench.fabric.state, bench.fabric.leases
    old = await leases.hold(AGENT, "a", 60)
    await state.commit(AGENT, Tx("t1", {"k": put(b"1")}, fence=old))
    bench.clock.advance(61)
    new = await leases.hold(AGENT, "b", 60)
    await refused(state.commit(AGENT, Tx("t2", {"k": put(b"2")}, fence=old)), "fabric.fenced")
    await state.commit(AGENT, Tx("t3", {"k": put(b"3")}, fence=new))
    await refused(state.commit(AGENT, Tx("t4", {"k": put(b"4")}, fence=old)), "fabric.fenced")


async def test_a_fence_that_wrote_is_remembered_after_its_lease_is_gone(bench: Bench) -> None:
    state, leases = bench.fabric.state, bench.fabric.leases
    old = await leases.hold(AGENT, "a", 1)
    bench.clock.advance(2)
    new = await leases.hold(AGENT, "b", 1)
    await state.commit(AGENT, Tx("t1", {"k": put(b"1")}, fence=new))
    bench.clock.advance(10 * 24 * 3600)
    await leases.hold("unrelated", "x", 1)
    await refused(state.commit(AGENT, Tx("t2", {"k": put(b"2")}, fence=old)), "fabric.fenced")


async def test_a_commit_without_a_fence_is_not_fenced(bench: Bench) -> None:
    await bench.fabric.leases.hold(AGENT, "a", 60)
    await bench.fabric.state.commit(AGENT, Tx("t", {"k": put(b"1")}))


# --- blobs


async def test_a_blob_is_named_by_its_hash_and_read_back(bench: Bench) -> None:
    data = bytes(range(256)) * 1000
    digest = await bench.fabric.blobs.put(data)
    assert digest == hashlib.sha256(data).digest()
    assert await bench.fabric.blobs.put(data) == digest
    assert await bench.fabric.blobs.get(digest) == data


@pytest.mark.parametrize(
    "content", [b"another", b"", b"blob!"[:-1] + b"?", None], ids=["other", "empty", "one byte", "gone"]
)
async def test_a_spoilt_blob_is_refused_and_can_be_stored_again(bench: Bench, content: bytes | None) -> None:
    digest = await bench.fabric.blobs.put(b"blob!")
    bench.adapter.spoil(bench.folder, digest, content)
    await refused(bench.fabric.blobs.get(digest), "fabric.no_blob")
    await bench.fabric.blobs.put(b"blob!")
    assert await bench.fabric.blobs.get(digest) == b"blob!"


@pytest.mark.parametrize("digest", [b"", bytes(31), bytes(33), bytes(32)])
async def test_an_unknown_or_malformed_digest_is_no_blob(bench: Bench, digest: bytes) -> None:
    await refused(bench.fabric.blobs.get(digest), "fabric.no_blob")


# --- caps


async def test_values_jobs_and_blobs_over_their_caps_are_refused(bench: Bench) -> None:
    state, big = bench.fabric.state, bytes(MAX_VALUE + 1)
    await state.commit(AGENT, Tx("t0", {"k": put(bytes(MAX_VALUE))}))
    await refused(state.commit(AGENT, Tx("t1", {"k": put(big)})), "fabric.too_large")
    await refused(state.commit(AGENT, Tx("t2", {}, (Job("q", big),))), "fabric.too_large")
    full = {f"k{n}": put(bytes(MAX_VALUE)) for n in range(40)}
    await refused(state.commit(AGENT, Tx("t3", full)), "fabric.too_large")
    await refused(bench.fabric.blobs.put(bytes(MAX_BLOB + 1)), "fabric.too_large")


BAD_NAMES = ["", "A", "a b", "a/b", "../x", "a*", "a>", "é", "a\n", "a\0", "x" * 129, ".a", "a'--"]


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_a_name_of_another_form_is_refused_everywhere(bench: Bench, name: str) -> None:
    f = bench.fabric
    good = Tx("t", {"k": put(b"v")})
    calls: list[Awaitable[object]] = [
        f.state.get(name, "k"),
        f.state.get(AGENT, name),
        f.state.history(AGENT, name),
        f.state.commit(name, good),
        f.state.commit(AGENT, Tx("t", {name: put(b"v")})),
        f.state.commit(AGENT, Tx("t", {}, (Job(name, b""),))),
        f.state.commit(AGENT, replace(good, id=name)),
        f.jobs.take(name, 1, 1),
        f.leases.hold(name, "a", 1),
        f.leases.hold("l", name, 1),
        f.leases.release(name, "a"),
    ]
    for call in calls:
        await refused(call, "fabric.bad_name")


async def test_counts_and_times_out_of_range_are_refused(bench: Bench) -> None:
    f = bench.fabric
    await f.state.commit(AGENT, Tx("t", {}, (Job("q", b"1"),)))
    (job,) = await f.jobs.take("q", 1, 1)
    many = {f"k{n}": put(b"") for n in range(600)}
    calls: list[Awaitable[object]] = [
        f.state.scan(AGENT, "", 0),
        f.state.scan(AGENT, "", 10**9),
        f.state.history(AGENT, "k", 17),
        f.jobs.take("q", 0, 1),
        f.jobs.take("q", 10**6, 1),
        f.jobs.take("q", 1, -1),
        f.jobs.take("q", 1, float("nan")),
        f.jobs.nack(job, -1),
        f.jobs.nack(job, float("inf")),
        f.leases.hold("l", "a", -1),
        f.leases.hold("l", "a", 1e12),
        f.state.commit(AGENT, Tx("t2", many)),
        f.state.commit(AGENT, Tx("t3", {}, tuple(Job("q", b"") for _ in range(65)))),
        f.state.commit(AGENT, Tx("t4", {}, (Job("q", b"", -1),))),
        f.state.commit(AGENT, Tx("t5", {}, fence=0)),
    ]
    for call in calls:
        await refused(call, "fabric.bad_limit")
    await refused(f.jobs.ack(Leased("x; DROP", b"", "1", 1)), "fabric.bad_name")


async def test_a_closed_store_refuses(bench: Bench) -> None:
    await bench.fabric.close()
    await bench.fabric.close()
    with pytest.raises(FabricError):
        await bench.fabric.state.commit(AGENT, Tx("t", {"k": put(b"v")}))
    with pytest.raises(FabricError):
        await bench.fabric.state.get(AGENT, "k")
