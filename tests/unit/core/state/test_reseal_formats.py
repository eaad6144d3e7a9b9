"""What a re-seal writes beside the old state: journals, the list of leftovers, the head record (spec/epochs.md 7)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.errors import CloisterError, StateError
from cloister.core.state.heads import HeadRecord, commit_of, genesis_head, genesis_record, index_root, next_head
from cloister.core.state.index import BUCKETS, Bucket, Item, bucket_of
from cloister.core.state.reseal import (
    Journal,
    Leftover,
    journal_slot,
    leftover_slot,
    new_area,
    rebucket,
    reseal_writes,
    resealed_record,
)
from support.state_kit import IDENTITY, keys

D = bytes([3]) * 32
BUCKET = Bucket({"a": Item(3, D), "b": Item(4, D)})
JOURNAL = Journal(bytes([9]) * 32, BUCKET)
LEFT = Leftover(".0123456789abcdef", ("00" * 16, "ff" * 16))
NEW = keys(IDENTITY + b"2", bytes([8]) * 32)


def test_formats_read_back() -> None:
    assert Journal.parse(bytes(JOURNAL)) == JOURNAL
    for left in (LEFT, Leftover("", ())):
        assert Leftover.parse(bytes(left)) == left


@pytest.mark.parametrize("kind", [Journal, Leftover])
@given(data=st.binary(max_size=120))
@settings(max_examples=60)
def test_garbage_is_refused_or_reads_back(kind: type[Journal] | type[Leftover], data: bytes) -> None:
    try:
        found = kind.parse(data)
    except StateError as error:
        assert error.code == "state.tampered"  # noqa: PT017
        return
    assert bytes(found) == data


def test_every_cut_and_flip_is_refused_or_differs() -> None:
    for value in (JOURNAL, LEFT):
        data, kind = bytes(value), type(value)
        spoilt = [data[:at] for at in range(len(data))]
        spoilt += [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(len(data))]
        for one in spoilt:
            try:
                assert kind.parse(one) != value
            except CloisterError as error:
                assert error.code == "state.tampered"  # noqa: PT017


def test_leftovers_name_nothing_of_the_new_state() -> None:
    area = new_area(NEW)
    places = LEFT.places(area)
    assert len(places) == 2 + 3 * BUCKETS
    assert not {p for p in places if p.startswith(("b.", "d.")) and p.endswith(area)}
    assert {journal_slot(n, area) for n in range(BUCKETS)} <= set(places)
    assert "h" not in places
    assert leftover_slot(area) not in places
    assert Leftover(area, ()).area != new_area(keys())


def test_a_list_longer_than_a_sealed_blob_is_refused() -> None:
    with pytest.raises(StateError) as caught:
        bytes(Leftover("", ("00" * 16,) * 40_000))
    assert caught.value.code == "state.too_large"


def test_values_go_to_the_buckets_of_their_new_names() -> None:
    names = {f"n{i}": Item(i, D) for i in range(200)}
    found = rebucket(NEW, [Bucket({k: v}) for k, v in names.items()])
    assert {n: i for b in found.values() for n, i in b.items.items()} == names
    assert all(bucket_of(NEW.name(name)) == number for number, b in found.items() for name in b.items)


def test_the_new_record_stands_on_the_old_head_and_reads_back() -> None:
    first = resealed_record(keys(), None, keys().tag_key(), [BUCKET], {1: D}, {})
    assert (first.height, first.parent) == (1, genesis_head(IDENTITY))
    second = resealed_record(NEW, first, first.tag_key, [BUCKET], {2: D}, {5: D})
    assert (second.height, second.parent, second.base_height, second.base_head) == (2, first.head, 1, first.head)
    assert (second.keys, second.size, second.request_id) == (2, 7, "")
    commit = commit_of(reseal_writes(NEW.identity), index_root({2: D}, 2, 7))
    assert second.head == next_head(first.head, 2, commit)
    for record in (first, second):
        assert HeadRecord.parse(bytes(record)) == record
        assert record.resealed


def test_two_epochs_of_one_state_give_two_heads() -> None:
    one = resealed_record(keys(), None, D, [], {}, {})
    other = resealed_record(NEW, None, D, [], {}, {})
    assert one.head != other.head
    assert reseal_writes(IDENTITY) != reseal_writes(NEW.identity)
    assert not genesis_record(IDENTITY).resealed
