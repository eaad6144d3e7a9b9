"""Index buckets, marks, the head chain and the head record."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.encoding.contexts import Context, digest
from cloister.core.errors import StateError
from cloister.core.state.heads import (
    MAX_PENDING,
    HeadRecord,
    commit_digest,
    commit_of,
    genesis_head,
    genesis_record,
    index_root,
    job_digest,
    next_head,
    writes_digest,
    writes_of,
)
from cloister.core.state.index import MAX_DONE, Bucket, Done, Item, Marks, bucket_of, bucket_slot, marks_slot
from support.state_kit import IDENTITY

T = TypeVar("T")

ITEMS = st.dictionaries(
    st.text("abc/é", min_size=1, max_size=20),
    st.builds(Item, st.integers(0, 2**32 - 1), st.binary(min_size=32, max_size=32)),
    max_size=12,
)
MARKS = st.lists(
    st.builds(Done, st.binary(min_size=16, max_size=16), st.integers(0, 2**64 - 1), st.binary(min_size=32, max_size=32))
)


def tampered(parse: object, data: bytes) -> None:
    with pytest.raises(StateError) as caught:
        parse(data)  # type: ignore[operator]
    assert caught.value.code == "state.tampered"


def parsed(parse: Callable[[bytes], T], data: bytes) -> T | None:
    """What the bytes mean, or None if they are refused as they must be."""
    with contextlib.suppress(StateError):
        return parse(data)
    return None


def chain(length: int, *, base: int = 0) -> HeadRecord:
    record = genesis_record(IDENTITY)
    for height in range(1, length + 1):
        index, writes = {height % 64: bytes([height % 256]) * 32}, height.to_bytes(32, "big")
        commit = commit_of(writes, index_root(index, height, 10 * height))
        record = replace(
            record,
            height=height,
            parent=record.head,
            head=next_head(record.head, height, commit),
            commit=commit,
            request_id=f"r{height}",
            pending=(*record.pending, commit),
            index=index,
            writes=writes,
            marks={63: bytes(32)},
            keys=height,
            size=10 * height,
        )
    return record.trimmed(base)


# --- buckets and marks


@given(ITEMS)
@settings(max_examples=60)
def test_a_bucket_reads_back(items: dict[str, Item]) -> None:
    bucket = Bucket()
    for name, item in items.items():
        bucket = bucket.with_item(name, item)
    again = Bucket.parse(bytes(bucket))
    assert dict(again.items) == items
    assert bytes(again) == bytes(bucket)


@given(st.binary(max_size=200))
@settings(max_examples=80)
def test_bytes_are_a_bucket_only_in_its_one_form(data: bytes) -> None:
    bucket = parsed(Bucket.parse, data)
    assert bucket is None or bytes(bucket) == data


def test_a_bucket_cut_extended_unsorted_or_doubled_is_refused() -> None:
    one = Bucket().with_item("a", Item(1, bytes(32)))
    data = bytes(one.with_item("b", Item(2, bytes(32))))
    for at in range(len(data)):
        tampered(Bucket.parse, data[:at])
    tampered(Bucket.parse, data + b"\0")
    first, second = bytes(one)[2:], bytes(Bucket().with_item("b", Item(2, bytes(32))))[2:]
    tampered(Bucket.parse, b"\0\2" + second + first)
    tampered(Bucket.parse, b"\0\2" + first + first)
    tampered(Bucket.parse, b"\xff\xff" + first)


def test_a_bucket_does_not_change_under_its_reader() -> None:
    before = Bucket().with_item("a", Item(1, bytes(32)))
    after = before.with_item("a", None).with_item("b", Item(2, bytes(32)))
    assert (set(before.items), set(after.items)) == ({"a"}, {"b"})
    with pytest.raises(TypeError):
        after.items["c"] = Item(0, b"")  # type: ignore[index]


@given(MARKS)
@settings(max_examples=40)
def test_marks_read_back_and_keep_the_newest(done: list[Done]) -> None:
    marks = Marks()
    for mark in done:
        marks = marks.with_done(mark)
    assert marks.done == tuple(done[-MAX_DONE:])
    assert Marks.parse(bytes(marks)) == marks


def test_a_mark_is_found_by_its_tag_until_64_newer_ones_came() -> None:
    marks = Marks().with_done(Done(b"t" * 16, 1, bytes(32)))
    for n in range(MAX_DONE - 1):
        marks = marks.with_done(Done(n.to_bytes(16, "big"), n, bytes(32)))
    assert marks.find(b"t" * 16) == Done(b"t" * 16, 1, bytes(32))
    assert marks.with_done(Done(b"u" * 16, 99, bytes(32))).find(b"t" * 16) is None


def test_a_tag_is_found_at_the_place_of_a_tag_only() -> None:
    head = b"h" * 8 + b"t" * 16 + b"h" * 8
    other = Marks().with_done(Done(b"o" * 16, 1, head))
    assert other.find(b"t" * 16) is None
    found = other.with_done(Done(b"t" * 16, 2, head))
    assert found.find(b"t" * 16) == Done(b"t" * 16, 2, head)
    assert found.done == (Done(b"o" * 16, 1, head), Done(b"t" * 16, 2, head))


@pytest.mark.parametrize("size", [1, 55, 57, 56 * (MAX_DONE + 1)])
def test_marks_of_another_size_are_refused(size: int) -> None:
    tampered(Marks.parse, bytes(size))


def test_there_are_64_buckets_by_the_top_bits() -> None:
    assert [bucket_of(s) for s in ("00ff", "03", "04", "ff")] == [0, 0, 1, 63]
    assert bucket_of(bytes([0xFC])) == bucket_of("fc") == 63
    assert (bucket_slot(10), marks_slot(63)) == ("b.0a", "d.3f")


# --- digests


def test_the_chain_follows_the_spec() -> None:
    h0, commit = digest(Context.STATE_HEAD, IDENTITY), bytes([5]) * 32
    assert genesis_head(IDENTITY) == h0
    assert next_head(h0, 1, commit) == digest(Context.STATE_HEAD, h0, (1).to_bytes(8, "big"), commit)


PUTS: dict[str, bytes | None] = {"a": b"1", "b": None}
JOB = job_digest("q", b"body", 5)
CHANGES: dict[str, tuple[Mapping[str, bytes | None], Sequence[bytes], bytes, bytes]] = {
    "another value": ({"a": b"2", "b": None}, [JOB], bytes(32), b"r"),
    "a value in place of a deletion": ({"a": b"1", "b": b""}, [JOB], bytes(32), b"r"),
    "another key": ({"aa": b"1", "b": None}, [JOB], bytes(32), b"r"),
    "one key less": ({"a": b"1"}, [JOB], bytes(32), b"r"),
    "another queue": (PUTS, [job_digest("p", b"body", 5)], bytes(32), b"r"),
    "another body": (PUTS, [job_digest("q", b"b0dy", 5)], bytes(32), b"r"),
    "another time": (PUTS, [job_digest("q", b"body", 6)], bytes(32), b"r"),
    "a job twice": (PUTS, [JOB, JOB], bytes(32), b"r"),
    "no job": (PUTS, [], bytes(32), b"r"),
    "another index": (PUTS, [JOB], bytes([1]) * 32, b"r"),
    "another request": (PUTS, [JOB], bytes(32), b"s"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_commit_digest_changes_with(case: str) -> None:
    assert commit_digest(*CHANGES[case]) != commit_digest(PUTS, [JOB], bytes(32), b"r")


def test_a_commit_digest_does_not_depend_on_the_order_of_puts() -> None:
    assert commit_digest(dict(reversed(PUTS.items())), [JOB]) == commit_digest(PUTS, [JOB])


def test_a_digest_of_known_ciphertext_digests_is_the_same() -> None:
    jobs, puts = [bytes([1]) * 32], {"b.00": b"bucket", "aa" * 16: None, "ab" * 16: b"value"}
    known = {key: bytes(32) if blob is None else hashlib.sha256(blob).digest() for key, blob in puts.items()}
    assert writes_of(known, jobs, b"tag") == writes_digest(puts, jobs, b"tag")


def test_an_index_root_covers_buckets_and_totals() -> None:
    roots = {
        index_root(*args)
        for args in [({}, 0, 0), ({1: bytes(32)}, 0, 0), ({2: bytes(32)}, 0, 0), ({}, 1, 0), ({}, 0, 1)]
    }
    assert len(roots) == 5


# --- the record


@pytest.mark.parametrize(("length", "base"), [(1, 0), (3, 0), (40, 12), (70, 69)])
def test_a_record_reads_back(length: int, base: int) -> None:
    record = chain(length, base=base)
    assert HeadRecord.parse(bytes(record)) == record


def test_a_record_with_any_byte_changed_or_cut_is_refused_or_differs() -> None:
    record = chain(3)
    data = bytes(record)
    for at in range(len(data)):
        tampered(HeadRecord.parse, data[:at])
        spoilt = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        assert parsed(HeadRecord.parse, spoilt) != record
    tampered(HeadRecord.parse, data + b"\0")


WRONG = {
    "a head that does not follow": {"head": bytes(32)},
    "a parent that does not lead there": {"parent": bytes(32)},
    "a height that is not the chain's": {"height": 9},
    "a commit that is not the last": {"commit": bytes(32)},
    "links that are missing": {"pending": ()},
    "another base": {"base_head": bytes(32)},
    "a bucket that does not exist": {"index": {64: bytes(32)}},
    "a bucket that the commit was not made over": {"index": {3: bytes(32)}},
    "another number of keys": {"keys": 4},
    "another size": {"size": 31},
    "other writes": {"writes": bytes(32)},
    "marks that do not exist": {"marks": {200: bytes(32)}},
}


@pytest.mark.parametrize("case", WRONG)
def test_a_record_is_refused_with(case: str) -> None:
    tampered(HeadRecord.parse, bytes(replace(chain(3), **WRONG[case])))  # type: ignore[arg-type]


@given(st.binary(max_size=400))
@settings(max_examples=60)
def test_garbage_is_no_record(data: bytes) -> None:
    tampered(HeadRecord.parse, data)


def test_ancestors_are_known_from_the_base_to_the_tip() -> None:
    full, cut = chain(10), chain(10, base=6)
    assert full.ancestor(0) == genesis_head(IDENTITY)
    assert [cut.ancestor(h) for h in range(6, 11)] == [full.ancestor(h) for h in range(6, 11)]
    assert full.ancestor(10) == full.head
    assert [cut.ancestor(5), cut.ancestor(11), full.ancestor(-1)] == [None, None, None]


def test_links_lead_from_the_base_to_the_tip() -> None:
    links = chain(10, base=6).links()
    assert [link.height for link in links] == [7, 8, 9, 10]
    assert all(later.parent == earlier.head for earlier, later in itertools.pairwise(links))
    assert links[-1].head == chain(10).head


def test_trimming_goes_forward_only_and_never_past_the_tip() -> None:
    record = chain(10, base=6)
    assert record.trimmed(3) == record
    assert record.trimmed(6) == record
    assert record.trimmed(99).base_height == 10
    assert record.trimmed(99).pending == ()


def test_a_record_with_too_many_links_is_refused() -> None:
    record = replace(chain(1), pending=tuple(bytes(32) for _ in range(MAX_PENDING + 1)))
    tampered(HeadRecord.parse, bytes(record))
