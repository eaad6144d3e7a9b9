"""What an agent says reaches its owner alone, whole; and what the store's keeper can do to it is noticed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.client.agentlogs import Gap, Line, LogReader, log_key
from cloister.client.wallet import Wallet
from cloister.core.encoding.owner_statements import LogKey
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.errors import CloisterError
from cloister.core.keys import ownerlog
from cloister.core.keys.ownerlog import LAST, Page, encode_page, seal_page
from support.fake_sandbox import Calls, Reply
from support.fake_world import OWNER, test_key
from support.worker_kit import Rig, world_of

NETWORK, AGENT, BOOT = b"\x01" * 32, b"\x02" * 32, b"\x03" * 32
WORKER, OTHER = test_key("a worker"), test_key("another worker")
KEY = log_key(Wallet(OWNER), NETWORK, AGENT)
PUBLIC = KEY.public_key().public_bytes_raw()


def book(
    count: int, *, worker: Any = WORKER, boot: bytes = BOOT, key: bytes = PUBLIC, salt: str = "", **more: Any
) -> list[bytes]:
    """Pages of one boot, a line each; the last one says so."""
    made, previous = [], bytes(32)
    for n in range(count):
        last = LAST if n == count - 1 else 0
        blank = Page(last, address_of(worker), boot, n, n, 0, 1000 + n, previous, key, bytes(32), b"")
        line = f'[{1000 + n},"info","line {n}{salt}"]'.encode()
        page = seal_page(blank, [line], more.get("network", NETWORK), more.get("agent", AGENT), os.urandom)
        previous = page.name(NETWORK, AGENT)
        made.append(encode_page(page, sign_digest(worker, previous)))
    return made


def reader(key: Any = KEY) -> LogReader:
    return LogReader(NETWORK, AGENT, key)


def take(pages: list[bytes], into: LogReader | None = None) -> list[str]:
    """Texts, and gaps."""
    into = into or reader()
    events = [event for page in pages for event in into.take(page)]
    return [e.text if isinstance(e, Line) else f"-- {e.what}" for e in events]


def code(pages: list[bytes], into: LogReader | None = None) -> str:
    with pytest.raises(CloisterError) as caught:
        take(pages, into)
    return caught.value.code


PAGES = book(5)
WHOLE = [f"line {n}" for n in range(5)]


def test_a_whole_log_is_read() -> None:
    assert take(PAGES) == WHOLE


def test_a_page_taken_from_the_middle_is_noticed() -> None:
    assert take([PAGES[0], PAGES[1], PAGES[3]])[2:] == ["-- 1 pages are missing from the store", "line 3"]


def test_a_page_taken_from_the_end_is_noticed_by_the_workers_own_word() -> None:
    mine = reader()
    take(PAGES[:4], mine)
    head = ownerlog.parse_page(PAGES[4], NETWORK, AGENT)[1]
    (gap,) = mine.close(BOOT, address_of(WORKER), 5, head)
    assert isinstance(gap, Gap)
    assert gap.lost
    assert gap.what == "the last 1 pages are missing from the store"
    assert mine.close(BOOT, address_of(WORKER), 5, head) == []


def test_a_log_that_is_taken_away_as_a_whole_is_noticed() -> None:
    mine = reader()
    assert len(mine.close(BOOT, address_of(WORKER), 5, bytes(32))) == 1


def test_a_boot_that_is_over_without_its_last_page_is_noticed() -> None:
    mine = reader()
    take(PAGES[:4], mine)
    assert len(mine.unfinished(set())) == 1
    assert mine.unfinished({BOOT}) == []


def test_a_repeated_page_says_nothing_twice() -> None:
    assert take([*PAGES[:3], PAGES[1], PAGES[2], *PAGES[3:]]) == WHOLE


def test_a_page_of_another_place_in_a_pages_place_is_refused() -> None:
    """The number is signed: renamed in the store, a page still is where it was."""
    assert take([PAGES[1], PAGES[0]]) == ["-- 1 older pages are kept no more", "line 1"]
    mine = reader()
    take(PAGES[:3], mine)
    assert take([PAGES[0]], mine) == []


def test_two_logs_of_one_boot_are_refused() -> None:
    other = book(5, salt=" again")
    assert code([*PAGES[:2], other[1]]) == "client.log_forked"
    assert code([*PAGES[:2], other[2]]) == "client.log_forked"


def test_a_boot_belongs_to_one_worker() -> None:
    assert code([PAGES[0], book(2, worker=OTHER)[1]]) == "client.log_forked"


def test_another_end_than_the_workers_is_refused() -> None:
    mine = reader()
    take(PAGES, mine)
    with pytest.raises(CloisterError) as caught:
        mine.close(BOOT, address_of(WORKER), 5, bytes(32))
    assert caught.value.code == "client.log_forked"


def test_who_keeps_the_log_cannot_write_into_it() -> None:
    """Anybody can seal to a public key; only the worker signs."""
    blank = Page(0, address_of(WORKER), BOOT, 0, 0, 0, 1, bytes(32), PUBLIC, bytes(32), b"")
    page = seal_page(blank, [b'[1,"info","forged"]'], NETWORK, AGENT, os.urandom)
    assert code([encode_page(page, sign_digest(OTHER, page.name(NETWORK, AGENT)))]) == "seal.log_page"


@pytest.mark.parametrize("what", ["network", "agent"])
def test_a_page_of_another_agent_or_network_is_refused(what: str) -> None:
    assert code(book(1, **{what: b"\x09" * 32})) in ("seal.hpke_open", "seal.log_page")


def test_another_owners_key_opens_nothing() -> None:
    stranger = log_key(Wallet(test_key("stranger")), NETWORK, AGENT)
    assert take(PAGES, reader(stranger)) == ["-- 1 lines are sealed to another key"] * 5
    page, _ = ownerlog.parse_page(PAGES[0], NETWORK, AGENT)
    with pytest.raises(CloisterError) as caught:
        ownerlog.open_page(page, stranger, NETWORK, AGENT)
    assert caught.value.code == "seal.hpke_open"


def test_keys_differ_by_wallet_network_and_agent() -> None:
    made = {
        log_key(Wallet(wallet), network, agent).private_bytes_raw()
        for wallet in (OWNER, WORKER)
        for network in (NETWORK, AGENT)
        for agent in (NETWORK, AGENT)
    }
    assert len(made) == 8


@given(at=st.integers(0, len(PAGES[0]) - 1), bit=st.integers(0, 7))
def test_no_bit_of_a_page_can_be_changed(at: int, bit: int) -> None:
    spoilt = bytearray(PAGES[0])
    spoilt[at] ^= 1 << bit
    assert code([bytes(spoilt)]) in ("seal.log_page", "client.log_forked")


@given(data=st.binary(max_size=400))
def test_garbage_is_refused_by_name(data: bytes) -> None:
    assert code([data]) == "seal.log_page"
    assert code([b"CLL1" + data]) == "seal.log_page"


@given(cut=st.integers(0, len(PAGES[0]) - 1))
def test_a_cut_page_is_refused(cut: int) -> None:
    assert code([PAGES[0][:cut]]) == "seal.log_page"


INSIDE = {
    "no JSON": b"[",
    "no line": b"7",
    "a short line": b'[1,"info"]',
    "a number as text": b'[1,"info",2]',
    "a time as text": b'["1","info","x"]',
    "two lines as one": b'[1,"info","x"],[2,"info","y"]',
    "depth": b"[" * 5000,
}


@pytest.mark.parametrize("what", INSIDE)
def test_a_worker_that_seals_nonsense_is_refused_by_name(what: str) -> None:
    blank = Page(0, address_of(WORKER), BOOT, 0, 0, 0, 1, bytes(32), PUBLIC, bytes(32), b"")
    page = seal_page(blank, [INSIDE[what]], NETWORK, AGENT, os.urandom)
    assert code([encode_page(page, sign_digest(WORKER, page.name(NETWORK, AGENT)))]) == "seal.log_page"


async def test_the_operators_store_and_logs_hold_no_plain_text(tmp_path: Path) -> None:
    """An agent says a sentence, its owner's key is published; then every byte on the disk is searched."""
    sentence = b"the patient's name is Ada Quandt"

    async def agent(request: Any, ctx: Calls) -> Reply:
        ctx.host.log(request.request_id, "info", sentence.decode())
        return Reply()

    rig = Rig(world_of(), tmp_path, agent)
    rig.sealed = True
    await rig.open()
    name = await rig.deploy()
    key = log_key(Wallet(OWNER), rig.world.network.id, name)
    said = LogKey(name, address_of(OWNER), key.public_key().public_bytes_raw(), 1)
    body = {
        "statement": said.to_json(),
        "signature": "0x" + sign_digest(OWNER, said.digest(rig.world.network.id)).hex(),
    }
    placed = rig.placed(name)
    kept = await rig.book.publish(placed, body)
    transaction = await placed.state.begin("ab" * 16)
    await transaction.put(*kept)
    await transaction.commit("ab" * 16)
    await rig.call(name)
    await rig.book.turn([placed])
    pages = await rig.fabric.state.scan(f"{name.hex()}.log", "")
    mine = LogReader(rig.world.network.id, name, key)
    assert [e.text for _, entry in pages for e in mine.take(entry.value) if isinstance(e, Line)] == [sentence.decode()]
    await rig.close()
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files
    for file in files:
        data = file.read_bytes()
        assert sentence not in data
        assert sentence[:16] not in data
