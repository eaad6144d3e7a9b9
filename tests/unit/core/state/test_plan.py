"""From writes to puts: what a commit holds, what it costs, what it refuses."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.errors import StateError
from cloister.core.state.heads import MAX_PENDING, HeadRecord, genesis_record, next_head
from cloister.core.state.index import Bucket, Marks, bucket_of, bucket_slot, marks_slot
from cloister.core.state.plan import CommitPlan, Limits, OutJob, plan_commit
from cloister.core.state.sealing import job_slot
from support.state_kit import IDENTITY, counter_rng, keys

RNG = counter_rng(b"plan")


class Model:
    """The state that plans lead to, kept in memory: what a store would hold after each commit."""

    def __init__(self) -> None:
        self.record: HeadRecord = genesis_record(IDENTITY)
        self.buckets: dict[int, Bucket] = {n: Bucket() for n in range(64)}
        self.marks: dict[int, Marks] = {}
        self.stored: dict[str, bytes] = {}

    def commit(
        self,
        writes: Mapping[str, bytes | None],
        request: str,
        jobs: list[OutJob] | None = None,
        top: Limits | None = None,
    ) -> CommitPlan:
        number = bucket_of(keys().request_tag(request))
        plan = plan_commit(
            keys(),
            self.record,
            self.buckets,
            self.marks.get(number, Marks()),
            writes,
            jobs or [],
            request,
            RNG,
            top or Limits(),
        )
        self.record, self.marks[number] = plan.record, plan.marks
        self.buckets.update(plan.buckets)
        for stored, blob in plan.puts.items():
            if blob is None:
                del self.stored[stored]
            else:
                self.stored[stored] = blob
        return plan

    def read(self) -> dict[str, bytes]:
        """Everything, found only through the stored head record."""
        record = HeadRecord.parse(keys().open_at("h", self.stored["h"]).value)
        found: dict[str, bytes] = {}
        for number, digest in record.index.items():
            blob = self.stored[bucket_slot(number)]
            assert hashlib.sha256(blob).digest() == digest
            bucket = Bucket.parse(keys().open_at(bucket_slot(number), blob).value)
            for name, item in bucket.items.items():
                value = self.stored[keys().name(name)]
                assert hashlib.sha256(value).digest() == item.digest
                found[name] = keys().open(name, value)
                assert len(found[name]) == item.size
        assert (record.keys, record.size) == (len(found), sum(map(len, found.values())))
        return found


@given(
    st.lists(
        st.dictionaries(st.sampled_from([f"k{n}" for n in range(12)]), st.none() | st.binary(max_size=20), min_size=1),
        min_size=1,
        max_size=8,
    )
)
@settings(max_examples=30, deadline=None)
def test_the_head_leads_to_exactly_what_was_written(history: list[dict[str, bytes | None]]) -> None:
    model, expected = Model(), dict[str, bytes]()
    for number, writes in enumerate(history):
        model.commit(writes, f"r{number}")
        expected = {k: v for k, v in {**expected, **writes}.items() if v is not None}
    assert model.read() == expected


def test_a_commit_holds_the_value_its_bucket_the_marks_and_the_head() -> None:
    plan = Model().commit({"name": b"value"}, "r1")
    stored, tag = keys().name("name"), keys().request_tag("r1")
    assert set(plan.puts) == {stored, bucket_slot(bucket_of(stored)), marks_slot(bucket_of(tag)), "h"}


def test_no_stored_byte_shows_a_name_a_value_a_job_or_a_request() -> None:
    plan = Model().commit({"plain-name": b"plain-value"}, "plain-request", [OutJob("q", b"plain-job")])
    everything = b"".join(v or b"" for v in plan.puts.values()) + plan.jobs[0][1] + "".join(plan.puts).encode()
    assert b"plain" not in everything


def test_heads_follow_each_other_and_all_blobs_carry_the_height() -> None:
    model = Model()
    for height in range(1, 4):
        parent = model.record.head
        plan = model.commit({"a": b"%d" % height}, f"r{height}")
        assert plan.record.height == height
        assert plan.record.parent == parent
        assert plan.record.head == next_head(parent, height, plan.record.commit)
        assert {int.from_bytes(blob[1:9], "big") for blob in plan.puts.values() if blob} == {height}


def test_a_request_is_marked_done_with_the_head_it_made() -> None:
    model = Model()
    plan = model.commit({"a": b"1"}, "r1")
    done = plan.marks.find(keys().request_tag("r1"))
    assert done is not None
    assert (done.height, done.head) == (1, plan.record.head)
    assert plan.record.request_id == "r1"


def test_a_job_is_sealed_for_its_queue() -> None:
    plan = Model().commit({}, "r1", [OutJob("q", b"body", 9)])
    ((queue, blob, not_before),) = plan.jobs
    assert (queue, not_before) == ("q", 9)
    assert keys().open_at(job_slot("q"), blob).value == b"body"
    with pytest.raises(StateError):
        keys().open_at(job_slot("other"), blob)


def test_deleting_what_is_not_there_writes_no_value_yet_marks_the_request() -> None:
    model = Model()
    plan = model.commit({"none": None}, "r1")
    assert set(plan.puts) == {marks_slot(bucket_of(keys().request_tag("r1"))), "h"}
    assert plan.record.keys == 0
    other = Model().commit({"none": None}, "r2")
    assert other.record.head != plan.record.head


REFUSED: dict[str, tuple[dict[str, bytes | None], list[OutJob], Limits]] = {
    "too many writes": ({"a": b"", "b": b""}, [], Limits(writes=1)),
    "too many jobs": ({}, [OutJob("q", b""), OutJob("q", b"")], Limits(jobs=1)),
    "too many bytes at once": ({"a": bytes(6)}, [OutJob("q", bytes(5))], Limits(commit_size=10)),
    "too many keys": ({"a": b"", "b": b"", "c": b""}, [], Limits(keys=2)),
    "too many bytes in all": ({"a": bytes(11)}, [], Limits(size=10)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_commit_is_refused_for(case: str) -> None:
    writes, jobs, top = REFUSED[case]
    with pytest.raises(StateError) as caught:
        Model().commit(writes, "r", jobs, top)
    assert caught.value.code == "state.too_large"


def test_deleting_and_shrinking_free_what_the_caps_count() -> None:
    model, top = Model(), Limits(keys=2, size=10)
    model.commit({"a": bytes(5), "b": bytes(5)}, "r1", top=top)
    model.commit({"a": None, "b": bytes(4), "c": bytes(6)}, "r2", top=top)
    assert (model.record.keys, model.record.size) == (2, 10)


def test_commits_stop_when_too_many_wait_for_endorsement_and_go_on_after_it() -> None:
    model = Model()
    full = replace(model.record, pending=tuple(bytes(32) for _ in range(MAX_PENDING)), height=MAX_PENDING)
    model.record = full
    with pytest.raises(StateError) as caught:
        model.commit({"a": b""}, "r1")
    assert caught.value.code == "state.unendorsed"
    model.record = full.trimmed(MAX_PENDING - 10)
    assert len(model.commit({"a": b""}, "r1").record.pending) == 11


@pytest.mark.parametrize("request_id", ["", "A", "a b", "é", "x" * 65, 7, None])
def test_a_request_id_of_another_form_is_refused(request_id: str) -> None:
    with pytest.raises(StateError) as caught:
        plan_commit(keys(), genesis_record(IDENTITY), {}, Marks(), {}, [], request_id, RNG)
    assert caught.value.code == "state.bad_request_id"
