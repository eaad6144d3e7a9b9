"""The table of workers: newest announcement counts, a lost connection takes only what is its own."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.encoding.signatures import address_of
from cloister.core.errors import CloisterError
from cloister.gateway.workers import Workers
from cloister.wire.announce import Announcement
from cloister.wire.frames import Connection
from support.sealed import AGENT, BOOT, WORKER, make_seat


class Link(Connection):
    """A connection without a socket."""

    def __init__(self) -> None:
        self.is_closed = False

    @property
    def closed(self) -> bool:
        return self.is_closed


@cache
def said(boot: bytes = BOOT, agents: int = 1, worker: bytes | None = None) -> bytes:
    address = worker or address_of(WORKER)
    seats = tuple(make_seat(b"\x09" * 32, agent=bytes([n]) * 32, boot=boot, worker=address) for n in range(agents))
    return Announcement(address, boot, seats).encode()


def test_a_worker_is_found_by_boot_and_by_address() -> None:
    table, link = Workers(), Link()
    table.announced(link, said())
    assert table.by_boot(BOOT).connection is link
    assert table.by_address(address_of(WORKER)).boot == BOOT
    assert table.counts() == {"workers": 1, "agents": 1, "seats": 1}


@pytest.mark.parametrize("how", ["never announced", "lost", "closing"])
def test_a_worker_that_is_not_there_is_named(how: str) -> None:
    table, link = Workers(), Link()
    if how != "never announced":
        table.announced(link, said())
    if how == "lost":
        table.lost(link)
    link.is_closed = how == "closing"
    with pytest.raises(CloisterError, match=r"gateway\.no_worker"):
        table.by_boot(BOOT)
    with pytest.raises(CloisterError, match=r"gateway\.no_worker"):
        table.by_address(address_of(WORKER))


def test_the_newest_announcement_of_a_connection_counts() -> None:
    table, link = Workers(), Link()
    table.announced(link, said(agents=5))
    table.announced(link, said(agents=2))
    assert table.counts() == {"workers": 1, "agents": 2, "seats": 2}


def test_a_connection_that_changes_its_boot_gives_up_the_old_one() -> None:
    table, link = Workers(), Link()
    table.announced(link, said())
    table.announced(link, said(boot=b"\x44" * 32))
    assert table.by_boot(b"\x44" * 32).connection is link
    with pytest.raises(CloisterError, match=r"gateway\.no_worker"):
        table.by_boot(BOOT)


def test_an_old_connection_that_goes_late_does_not_take_the_new_one_along() -> None:
    table, old, new = Workers(), Link(), Link()
    table.announced(old, said())
    table.announced(new, said())
    table.lost(old)
    assert table.by_boot(BOOT).connection is new
    table.lost(new)
    table.lost(new)
    assert table.all() == []


def test_a_boot_that_was_taken_over_and_left_again_harms_nobody() -> None:
    table, first, second = Workers(), Link(), Link()
    table.announced(first, said())
    table.announced(second, said())
    table.announced(second, said(boot=b"\x44" * 32))
    table.lost(first)
    assert [linked.boot for linked in table.all()] == [b"\x44" * 32]


def test_a_malformed_announcement_leaves_the_table_as_it_was() -> None:
    table, link = Workers(), Link()
    table.announced(link, said(agents=3))
    for bad in (b"", b"{}", b"[1]", said()[:-1]):
        with pytest.raises(CloisterError):
            table.announced(link, bad)
    assert table.counts()["seats"] == 3


def test_seats_of_several_workers_are_listed_together_for_their_agent_only() -> None:
    table = Workers()
    for number in range(3):
        boot = bytes([0x50 + number]) * 32
        seat = make_seat(b"\x09" * 32, boot=boot)
        table.announced(Link(), Announcement(address_of(WORKER), boot, (seat,)).encode())
    seats = json.loads(table.seats(AGENT))["seats"]
    assert {s["certificate"]["boot"] for s in seats} == {"0x" + f"{0x50 + n:02x}" * 32 for n in range(3)}
    assert json.loads(table.seats(b"\x01" * 32)) == {"seats": []}


def test_two_seats_of_one_agent_on_one_worker_are_both_offered() -> None:
    table = Workers()
    seats = (make_seat(b"\x09" * 32), make_seat(b"\x08" * 32, period=5))
    table.announced(Link(), Announcement(address_of(WORKER), BOOT, seats).encode())
    assert len(json.loads(table.seats(AGENT))["seats"]) == 2


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), max_size=30))
def test_the_table_holds_exactly_what_the_live_connections_said_last(steps: list[tuple[int, int, bool]]) -> None:
    table, links, model = Workers(), [Link() for _ in range(4)], dict[bytes, int]()
    says: dict[int, bytes] = {}
    for who, number, leaves in steps:
        boot = bytes([0x60 + number]) * 32
        before = says.pop(who, None)
        if before is not None and model.get(before) == who and (leaves or before != boot):
            del model[before]
        if leaves:
            table.lost(links[who])
            continue
        table.announced(links[who], said(boot=boot))
        says[who], model[boot] = boot, who
    assert {linked.boot: links.index(linked.connection) for linked in table.all()} == model  # type: ignore[arg-type]


def test_a_worker_at_another_address_is_another_worker() -> None:
    table = Workers()
    table.announced(Link(), said(worker=b"\x07" * 20))
    with pytest.raises(CloisterError, match=r"gateway\.no_worker"):
        table.by_address(address_of(WORKER))
    assert replace(table.by_address(b"\x07" * 20)).worker == b"\x07" * 20


# --- pages ---


def pages_of(count: int, boot: bytes = BOOT) -> list[bytes]:
    """An announcement of one seat per page."""
    whole = Announcement.decode(said(boot, count))
    made = [replace(whole, seats=(seat,), page=at, pages=count) for at, seat in enumerate(whole.seats)]
    return [page.encode() for page in made]


def test_pages_count_together_once_the_last_one_came() -> None:
    table, link = Workers(), Link()
    table.announced(link, said())
    for data in pages_of(3)[:-1]:
        table.announced(link, data)
        assert table.counts()["seats"] == 1, "what was offered before stands"
    table.announced(link, pages_of(3)[-1])
    assert table.counts() == {"workers": 1, "agents": 3, "seats": 3}
    table.announced(link, said())
    assert table.counts()["seats"] == 1, "the next announcement replaces all of them"


STRAY: dict[str, list[int]] = {
    "no first page": [1],
    "a page twice": [0, 1, 1],
    "a page left out": [0, 2],
    "the last page first": [2],
    "a page after the last": [0, 1, 2, 2],
}


@pytest.mark.parametrize("sentence", STRAY)
def test_pages_that_do_not_follow_are_refused_and_forgotten(sentence: str) -> None:
    table, link, pages = Workers(), Link(), pages_of(3)
    *before, stray = STRAY[sentence]
    for number in before:
        table.announced(link, pages[number])
    counts = table.counts()
    with pytest.raises(CloisterError) as caught:
        table.announced(link, pages[stray])
    assert caught.value.code == "wire.announcement"
    assert table.counts() == counts
    for data in pages:
        table.announced(link, data)
    assert table.counts()["seats"] == 3


def test_pages_of_another_boot_or_connection_do_not_join() -> None:
    table, link, pages = Workers(), Link(), pages_of(2)
    table.announced(link, pages[0])
    with pytest.raises(CloisterError):
        table.announced(link, pages_of(2, b"\x77" * 32)[1])
    table.announced(link, pages[0])
    with pytest.raises(CloisterError):
        table.announced(Link(), pages[1])


def test_a_connection_that_goes_in_the_middle_leaves_nothing() -> None:
    table, link = Workers(), Link()
    table.announced(link, pages_of(2)[0])
    table.lost(link)
    assert not table._coming
    with pytest.raises(CloisterError):
        table.announced(link, pages_of(2)[1])
