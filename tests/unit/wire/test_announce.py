"""Announcements: what a worker says of itself parses exactly, and anything else is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.encoding.signatures import address_of
from cloister.core.errors import CloisterError
from cloister.wire import announce
from cloister.wire.announce import MAX_PAGES, MAX_SEATS, Announcement, call_payload, split_call
from support.sealed import BOOT, WORKER, make_seat

SEAT = make_seat(b"\x09" * 32)
GOOD = Announcement(address_of(WORKER), BOOT, (SEAT, make_seat(b"\x08" * 32, agent=b"\x23" * 32)))


def test_an_announcement_round_trips() -> None:
    assert Announcement.decode(GOOD.encode()) == GOOD
    none = replace(GOOD, seats=())
    assert Announcement.decode(none.encode()) == none


@given(st.integers(0, 9), st.integers(1, 4))
def test_pages_hold_all_seats_in_order_and_round_trip(count: int, per_page: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(announce, "MAX_SEATS", per_page)
        pages = [Announcement.decode(page.encode()) for page in replace(GOOD, seats=(SEAT,) * count).split()]
    assert sum(len(page.seats) for page in pages) == count
    assert len(pages) == max(1, -(-count // per_page))
    assert {(page.page, page.pages) for page in pages} == {(n, len(pages)) for n in range(len(pages))}


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    value = json.loads(GOOD.encode())
    change(value)
    return json.dumps(value).encode()


BAD: dict[str, bytes] = {
    "no JSON": b"{",
    "a list": b"[]",
    "another version": changed(lambda v: v.update(v=2)),
    "an unknown field": changed(lambda v: v.update(x=1)),
    "a missing field": changed(lambda v: v.pop("boot")),
    "a short boot": changed(lambda v: v.update(boot="0x00")),
    "seats as an object": changed(lambda v: v.update(seats={})),
    "too many seats": changed(lambda v: v.update(seats=[None] * (MAX_SEATS + 1))),
    "a seat of another boot": changed(lambda v: v.update(boot="0x" + "99" * 32)),
    "a seat of another worker": changed(lambda v: v.update(worker="0x" + "99" * 20)),
    "a seat without a lease": changed(lambda v: v["seats"][0].pop("lease")),
    "page one of one": changed(lambda v: v.update(page=0, pages=1)),
    "a page beyond the last": changed(lambda v: v.update(page=2, pages=2)),
    "too many pages": changed(lambda v: v.update(page=0, pages=MAX_PAGES + 1)),
    "pages without a page": changed(lambda v: v.update(pages=2)),
    "a page without pages": changed(lambda v: v.update(page=0)),
    "a page that is a text": changed(lambda v: v.update(page="0", pages=2)),
    "too many bytes": b" " * ((4 << 20) + 1),
    "depth": b"[" * 100_000,
}


@pytest.mark.parametrize("sentence", BAD)
def test_announcements_refused_for(sentence: str) -> None:
    with pytest.raises(CloisterError):
        Announcement.decode(BAD[sentence])


@given(st.binary(max_size=100))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(CloisterError):
        Announcement.decode(data)


def test_a_call_splits_into_what_was_joined() -> None:
    assert split_call(call_payload(b"a" * 32, b"record")) == (b"a" * 32, b"record")
    with pytest.raises(CloisterError):
        split_call(b"short")
