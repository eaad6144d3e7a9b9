"""Asking the committee: t agreeing answers, whatever the others do. Real HTTP, pretend members."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from coincurve import PrivateKey

from cloister.core.attestation.model import Binding, Evidence
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.identity import Epochs, Purpose
from cloister.core.encoding.signatures import Signed, SignerSet, address_of, sign_digest
from cloister.core.encoding.statements import Checkpoint, HeartBeat, Lease, Statement, WorkerAdmission
from cloister.core.errors import CloisterError
from cloister.core.policy.identities import identities_of
from cloister.wire import pace
from cloister.wire.committee import Committee
from cloister.wire.heads import (
    EndorsedHead,
    HeadAnswer,
    HeadMove,
    HeadsRequest,
    TablePage,
    after_row,
    fresh_digest,
    page_digest,
)
from cloister.wire.messages import (
    AdmissionRequest,
    KeyPartial,
    KeysAnswer,
    KeysRequest,
    OldPartial,
    Shown,
    SignedBy,
    signed_to_json,
)

NETWORK, AGENT, BOOT, NODE = b"\x0e" * 32, b"\xaa" * 32, b"\xb0" * 32, b"\x40" * 20
KEYS = [PrivateKey(bytes([i]) * 32) for i in range(1, 6)]
STRANGER = PrivateKey(b"\x77" * 32)
SIGNERS = SignerSet(1, 3, tuple(address_of(k) for k in KEYS))
POINT = {"e1": b"\1" * 48, "e2": b"\2" * 96, "e3": b"\3" * 48}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def checkpoint(number: int, block: bytes = b"") -> Checkpoint:
    return Checkpoint(1, 31337, number, block or number.to_bytes(32, "big"), b"\2" * 32, 1_700_000_000 + number)


def sign(key: PrivateKey, statement: Statement, network: bytes = NETWORK) -> bytes:
    return sign_digest(key, statement.digest(network))


def said(key: PrivateKey, statement: Statement, network: bytes = NETWORK) -> dict[str, Any]:
    return SignedBy(statement, sign(key, statement, network)).to_json()


def refusal(code: str, status: int = 403) -> web.Response:
    body = {"code": code, "check": "c", "expected": "e", "found": "f", "remedy": "r"}
    return web.json_response({"error": body}, status=status)


def answering(answer: Callable[[web.Request, Any], Any]) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else None
        value = answer(request, body)
        return value if isinstance(value, web.StreamResponse) else web.json_response(value)

    return handle


async def hang(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    raise AssertionError("nobody waits that long")


@asynccontextmanager
async def committee(*members: Handler, timeout_s: float = 5.0) -> AsyncIterator[Committee]:
    servers = []
    for handler in members:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        server = TestServer(app)
        await server.start_server(shutdown_timeout=0.01)
        servers.append(server)
    asked = Committee([str(s.make_url("/")) for s in servers], SIGNERS, NETWORK, timeout_s=timeout_s)
    try:
        yield asked
    finally:
        await asked.close()
        for server in servers:
            await server.close()


def signer_of(tip: int, key: PrivateKey) -> Handler:
    """A member whose newest checkpoint is ``tip`` and who keeps older ones."""

    def answer(request: web.Request, _: Any) -> Any:
        last = request.path.rsplit("/", 1)[1]
        number = tip if last == "checkpoint" else int(last)
        return said(key, checkpoint(number)) if number <= tip else refusal("chainview.no_checkpoint", 404)

    return answering(answer)


async def test_the_newest_checkpoint_is_the_one_that_t_members_signed() -> None:
    tips = [12, 10, 11, 10, 12]
    async with committee(*(signer_of(t, k) for t, k in zip(tips, KEYS, strict=True))) as asked:
        signed = await asked.checkpoint()
    signed.verify(SIGNERS, NETWORK)
    assert isinstance(signed.statement, Checkpoint)
    assert 10 <= signed.statement.number <= 11, "at most two members know 12"


async def test_members_a_block_apart_agree_on_the_height_that_t_reached() -> None:
    tips = [12, 11, 10]
    async with committee(*(signer_of(t, k) for t, k in zip(tips, KEYS, strict=False))) as asked:
        signed = await asked.checkpoint()
    assert isinstance(signed.statement, Checkpoint)
    assert signed.statement.number == 10
    assert len(signed.signatures) == 3


async def test_two_dead_members_do_not_matter() -> None:
    alive = [signer_of(10, k) for k in KEYS[:3]]
    async with committee(hang, *alive, hang) as asked:
        await asyncio.wait_for(asked.checkpoint(), 4)


def boaster(tip: int, key: PrivateKey) -> Handler:
    """A member that claims a height nobody has and answers nothing about any other."""

    def answer(request: web.Request, _: Any) -> Any:
        newest = request.path.endswith("checkpoint")
        return said(key, checkpoint(tip)) if newest else refusal("chainview.no_checkpoint", 404)

    return answering(answer)


@pytest.mark.parametrize("tips", [(10, 9, 9), (9, 10, 10), (12, 11, 10), (10, 10, 10), (7, 9, 30)])
async def test_two_boasters_do_not_hide_what_three_honest_members_agree_on(tips: tuple[int, int, int]) -> None:
    """The t-th best claim is the highest honest one here: agreement is below it, at the lowest."""
    honest = [signer_of(t, k) for t, k in zip(tips, KEYS, strict=False)]
    async with committee(boaster(5000, KEYS[3]), *honest, boaster(6000, KEYS[4])) as asked:
        signed = await asked.checkpoint()
    assert signed.statement == checkpoint(min(tips))
    signed.verify(SIGNERS, NETWORK)


async def test_boasters_that_hang_when_asked_again_do_not_hide_it_for_longer_than_a_question() -> None:
    def hanging(tip: int, key: PrivateKey) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            if request.path.endswith("checkpoint"):
                return web.json_response(said(key, checkpoint(tip)))
            return await hang(request)

        return handle

    honest = [signer_of(t, k) for t, k in zip((10, 9, 9), KEYS, strict=False)]
    async with committee(hanging(5000, KEYS[3]), *honest, hanging(6000, KEYS[4]), timeout_s=0.3) as asked:
        assert (await asked.checkpoint()).statement == checkpoint(9)


async def test_members_on_two_forks_agree_on_nothing_and_are_asked_a_bounded_number_of_times() -> None:
    questions = 0

    def forked(tip: int, key: PrivateKey) -> Handler:
        def answer(request: web.Request, _: Any) -> Any:
            nonlocal questions
            questions += 1
            last = request.path.rsplit("/", 1)[1]
            number = tip if last == "checkpoint" else int(last)
            return said(key, checkpoint(number, bytes([tip]) * 32))

        return answering(answer)

    async with committee(*(forked(t, k) for t, k in zip((10, 11, 12, 13, 14), KEYS, strict=True))) as asked:
        with pytest.raises(CloisterError, match=r"gatekeeper\.too_few"):
            await asked.checkpoint()
    assert questions <= 25


async def test_a_lying_member_does_not_drag_the_height() -> None:
    liar = signer_of(10_000, KEYS[0])
    async with committee(liar, *(signer_of(10, k) for k in KEYS[1:4])) as asked:
        signed = await asked.checkpoint()
    assert isinstance(signed.statement, Checkpoint)
    assert signed.statement.number == 10


LIES: dict[str, Callable[[int], Any]] = {
    "signed by a stranger": lambda i: said(STRANGER, checkpoint(10)),
    "signed under another network": lambda i: said(KEYS[i], checkpoint(10), b"\x0f" * 32),
    "of another term": lambda i: said(KEYS[i], dataclasses.replace(checkpoint(10), term=2)),
    "with a broken signature": lambda i: {"checkpoint": checkpoint(10).to_json(), "signature": "0x" + "00" * 65},
    "with an extra field": lambda i: {**said(KEYS[i], checkpoint(10)), "extra": 1},
    "another object": lambda i: {"hello": "world"},
    "a list": lambda i: [],
    "a number": lambda i: 5,
    "one member under many endpoints": lambda i: said(KEYS[0], checkpoint(10)),
    "each its own block": lambda i: said(KEYS[i], checkpoint(10, bytes([i]) * 32)),
    "not JSON": lambda i: web.Response(text="<html>"),
    "a redirect": lambda i: web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}),
    "an error without an object": lambda i: web.Response(status=500, text="oops"),
    "too much": lambda i: web.Response(body=b" " * ((1 << 20) + 1)),
}


@pytest.mark.parametrize("lie", LIES)
async def test_no_checkpoint_from_members_who_say(lie: str) -> None:
    def member(i: int) -> Handler:
        return answering(lambda r, b: LIES[lie](i))

    async with committee(*(member(i) for i in range(5))) as asked:
        with pytest.raises(CloisterError):
            await asked.checkpoint()


@pytest.mark.parametrize("lie", LIES)
async def test_t_honest_members_outvote_two_who_say(lie: str) -> None:
    liars = [answering(lambda r, b: LIES[lie](0)), answering(lambda r, b: LIES[lie](0))]
    async with committee(*liars, *(signer_of(10, k) for k in KEYS[2:])) as asked:
        signed = await asked.checkpoint()
    signed.verify(SIGNERS, NETWORK)


EPOCHS = Epochs(1, 1, 1, b"\3" * 32)


def keys_request(number: int = 10) -> KeysRequest:
    binding = Binding(NETWORK, "worker", NODE, BOOT, bytes(32), b"\1" * 32, bytes(32), {"transport": b"\4" * 48})
    base = checkpoint(number)
    return KeysRequest(
        Shown(Evidence("tdx", b"quote"), binding), AGENT, Signed(base, tuple(sign(k, base) for k in KEYS[:3]))
    )


def lease(**changes: Any) -> Lease:
    base = Lease(1, AGENT, b"\1" * 32, b"\2" * 32, b"\3" * 32, 1, 1, 1, 0, NODE, BOOT, 10, 600)
    return dataclasses.replace(base, **changes)


def grants(
    i: int,
    terms: Lease,
    key: PrivateKey | None = None,
    index: int | None = None,
    drop: int = 0,
    old: Sequence[tuple[Epochs, Purpose]] = (),
) -> Any:
    key = KEYS[i] if key is None else key
    partials = [
        KeyPartial(purpose, period, i + 1 if index is None else index, **POINT)
        for purpose, period in identities_of(terms, NETWORK)
    ]
    released = [OldPartial(e, KeyPartial(p, 0, i + 1 if index is None else index, **POINT)) for e, p in old]
    return KeysAnswer(terms, sign(key, terms), tuple(partials[drop:]), tuple(released)).to_json()


def granting(i: int, terms: Lease | None = None, **how: Any) -> Handler:
    return answering(lambda r, b: grants(i, terms or lease(), **how))


NEW = lease(agent_epoch=3)
FIRST = ((EPOCHS, Purpose.STATE), (EPOCHS, Purpose.SECRETS))
SECOND = ((EPOCHS._replace(agent=2), Purpose.STATE),)
# What each of five members releases of earlier epochs, and what comes of it.
OLD_KEYS: dict[str, tuple[list[Any], Any]] = {
    "all name the same epochs": ([FIRST] * 5, FIRST),
    "one that missed the newest head is counted apart": ([FIRST, SECOND, SECOND, SECOND], SECOND),
    "so is one that may not say": ([(), SECOND, SECOND, SECOND], SECOND),
    "two liars open no closed epoch": ([FIRST, FIRST, (), (), ()], ()),
    "with t members left, what all of them release has to do": ([FIRST, FIRST[:1], FIRST[:1]], FIRST[:1]),
    "or nothing": ([FIRST, SECOND, ()], ()),
}


@pytest.mark.parametrize("sentence", OLD_KEYS)
async def test_keys_of_earlier_epochs(sentence: str) -> None:
    said, expected = OLD_KEYS[sentence]
    async with committee(*(granting(i, NEW, old=old) for i, old in enumerate(said))) as asked:
        granted = await asked.keys(keys_request())
    assert {(i.version.epochs, i.purpose) for i in granted.old} == set(expected)
    assert all(len(parts) >= 3 for parts in granted.old.values())
    assert len(granted.lease.signatures) >= 3


BAD_OLD: dict[str, Any] = {
    "of the lease's own epochs": {"old": ((NEW.epochs, Purpose.STATE),)},
    "of later epochs": {"old": ((EPOCHS._replace(agent=9), Purpose.STATE),)},
    "twice": {"old": (*FIRST, FIRST[0])},
}


@pytest.mark.parametrize("case", BAD_OLD)
async def test_keys_of_earlier_epochs_are_refused(case: str) -> None:
    async with committee(*(granting(i, NEW, **BAD_OLD[case]) for i in range(5))) as asked:
        with pytest.raises(CloisterError) as caught:
            await asked.keys(keys_request())
    assert caught.value.code == "gatekeeper.wrong_answer"


async def test_keys_come_with_t_signatures_and_t_partials_each() -> None:
    async with committee(*(granting(i) for i in range(5))) as asked:
        granted = await asked.keys(keys_request())
    granted.lease.verify(SIGNERS, NETWORK)
    assert granted.terms == lease()
    assert set(granted.partials) == set(granted.identities)
    for parts in granted.partials.values():
        assert len({p.index for p in parts}) == 3


async def test_the_request_reaches_the_member_unchanged() -> None:
    seen: list[Any] = []

    def answer(i: int) -> Handler:
        def take(request: web.Request, body: Any) -> Any:
            seen.append((request.method, request.path, KeysRequest.from_json(body)))
            return grants(i, lease())

        return answering(take)

    async with committee(*(answer(i) for i in range(3))) as asked:
        await asked.keys(keys_request())
    assert seen == [("POST", "/v1/keys", keys_request())] * 3


BAD_GRANTS: dict[str, Callable[[int], Any]] = {
    "a lease for another agent": lambda i: grants(i, lease(agent=b"\xab" * 32)),
    "a lease for another worker": lambda i: grants(i, lease(worker=b"\x41" * 20)),
    "a lease for another boot": lambda i: grants(i, lease(boot=b"\xb1" * 32)),
    "a lease at another checkpoint": lambda i: grants(i, lease(checkpoint=9)),
    "a lease of another term": lambda i: grants(i, lease(term=2)),
    "a stranger's signature": lambda i: grants(i, lease(), key=STRANGER),
    "partials under another member's index": lambda i: grants(i, lease(), index=(i + 1) % 5 + 1),
    "a key missing": lambda i: grants(i, lease(), drop=1),
    "one member twice": lambda i: grants(0, lease()),
    "every member its own epoch": lambda i: grants(i, lease(agent_epoch=i)),
}


@pytest.mark.parametrize("case", BAD_GRANTS)
async def test_no_keys_from(case: str) -> None:
    async with committee(*(answering(lambda r, b, i=i: BAD_GRANTS[case](i)) for i in range(5))) as asked:  # type: ignore[misc]
        with pytest.raises(CloisterError):
            await asked.keys(keys_request())


async def test_an_answer_that_verify_drops_is_replaced_by_another_member() -> None:
    def verify(answer: KeysAnswer) -> None:
        if answer.partials[0].index == 1:
            raise CloisterError(code="threshold.bad_partial", check="c", expected="e", found="f", remedy="r")

    async with committee(*(granting(i) for i in range(4))) as asked:
        granted = await asked.keys(keys_request(), verify=verify)
    assert all(p.index != 1 for parts in granted.partials.values() for p in parts)


async def test_the_refusal_that_t_members_share_is_raised_itself() -> None:
    no = answering(lambda r, b: refusal("policy.paused"))
    async with committee(no, no, no, granting(3), hang) as asked:
        with pytest.raises(CloisterError) as caught:
            await asyncio.wait_for(asked.keys(keys_request()), 4)
    assert caught.value.code == "policy.paused"


async def test_too_few_names_the_commonest_refusal() -> None:
    no = answering(lambda r, b: refusal("policy.not_placed"))
    async with committee(no, no, granting(2), granting(3)) as asked:
        with pytest.raises(CloisterError) as caught:
            await asked.keys(keys_request())
    assert caught.value.code == "gatekeeper.too_few"
    assert "policy.not_placed" in caught.value.found


async def test_a_committee_that_is_gone_is_too_few() -> None:
    asked = Committee(["http://127.0.0.1:1"] * 5, SIGNERS, NETWORK, timeout_s=1)
    with pytest.raises(CloisterError) as caught:
        await asked.keys(keys_request())
    await asked.close()
    assert caught.value.code == "gatekeeper.too_few"
    assert "wire.unreachable" in caught.value.found


def admission(**changes: Any) -> WorkerAdmission:
    base = WorkerAdmission(1, NODE, b"\x50" * 20, b"\x7e" * 32, b"\x1a" * 32, BOOT, 900)
    return dataclasses.replace(base, **changes)


async def test_admission_needs_t_equal_statements() -> None:
    request = AdmissionRequest(keys_request().shown, b"\x50" * 20, keys_request().checkpoint)
    odd = answering(lambda r, b: said(KEYS[0], admission(expiry=901)))
    good = [answering(lambda r, b, k=k: said(k, admission())) for k in KEYS[1:4]]  # type: ignore[misc]
    async with committee(odd, *good) as asked:
        signed = await asked.admission(request)
    signed.verify(SIGNERS, NETWORK)
    assert signed.statement == admission()
    other = [answering(lambda r, b, k=k: said(k, admission(operator=b"\x51" * 20))) for k in KEYS[:3]]  # type: ignore[misc]
    async with committee(*other) as asked:
        with pytest.raises(CloisterError) as caught:
            await asked.admission(request)
    assert caught.value.code == "gatekeeper.wrong_answer"


async def test_heartbeats_answer_our_nonce_only() -> None:
    nonce = b"\x11" * 32

    def beat(key: PrivateKey, number: int, echo: bytes | None = None) -> Handler:
        def answer(request: web.Request, body: Any) -> Any:
            seen = from_hex(body["nonce"], 32) if echo is None else echo
            return said(key, HeartBeat(1, seen, number, b"\1" * 32))

        return answering(answer)

    async with committee(*(beat(k, 10 + i) for i, k in enumerate(KEYS[:3]))) as asked:
        beats = await asked.heartbeat(nonce)
    assert len(beats) == asked.beat_quorum == 2
    assert beats[0].number > beats[1].number
    async with committee(beat(KEYS[0], 10)) as asked:
        with pytest.raises(CloisterError, match=r"gatekeeper\.too_few"):
            await asked.heartbeat(nonce)
    async with committee(*(beat(k, 10, b"\x12" * 32) for k in KEYS[:3])) as asked:
        with pytest.raises(CloisterError):
            await asked.heartbeat(nonce)


MOVE = HeadMove(AGENT, EPOCHS, 1, b"\1" * 32, b"\2" * 32)
OTHER = HeadMove(b"\xab" * 32, EPOCHS, 1, b"\1" * 32, b"\3" * 32)


def heads_request() -> HeadsRequest:
    return HeadsRequest((MOVE, OTHER), NODE, BOOT).signed(KEYS[0])


def endorsing(key: PrivateKey, *, second: bool = True) -> Handler:
    def answer(request: web.Request, body: Any) -> Any:
        error = {"error": {"code": "state.forked", "check": "c", "expected": "e", "found": "f", "remedy": "r"}}
        other = to_hex(sign(key, OTHER.statement(1))) if second else error
        return {"signatures": [to_hex(sign(key, MOVE.statement(1))), other]}

    return answering(answer)


async def test_a_head_is_endorsed_by_four_of_five() -> None:
    async with committee(*(endorsing(k) for k in KEYS[:4])) as asked:
        first, second = await asked.endorse_heads(heads_request())
    assert isinstance(first, Signed)
    assert isinstance(second, Signed)
    assert len(first.signatures) == 4
    first.verify(SIGNERS, NETWORK)


async def test_each_head_stands_for_itself() -> None:
    async with committee(*(endorsing(k, second=i < 2) for i, k in enumerate(KEYS))) as asked:
        first, second = await asked.endorse_heads(heads_request())
    assert isinstance(first, Signed)
    assert isinstance(second, CloisterError)
    assert second.code == "state.forked"


async def test_three_of_five_do_not_endorse() -> None:
    async with committee(*(endorsing(k) for k in KEYS[:3])) as asked:
        first, _ = await asked.endorse_heads(heads_request())
    assert isinstance(first, CloisterError)
    assert first.code == "gatekeeper.too_few"


@pytest.mark.parametrize("shape", [{}, [], {"signatures": []}, {"signatures": ["0x", 5]}, {"signatures": [None] * 2}])
async def test_answers_of_another_shape_endorse_nothing(shape: Any) -> None:
    async with committee(*[answering(lambda r, b: shape)] * 5) as asked:
        for outcome in await asked.endorse_heads(heads_request()):
            assert isinstance(outcome, CloisterError)


def remembering(key: PrivateKey, move: HeadMove | None, *, nonce: bytes | None = None) -> Handler:
    def answer(request: web.Request, body: Any) -> Any:
        asked = from_hex(request.query["nonce"], 32) if nonce is None else nonce
        head = None if move is None else EndorsedHead(move, sign(key, move.statement(1)))
        fresh = sign_digest(key, fresh_digest(NETWORK, 1, asked, AGENT, head))
        return HeadAnswer(head, fresh).to_json()

    return answering(answer)


async def test_a_loader_hears_r_members() -> None:
    async with committee(remembering(KEYS[0], None), *(remembering(k, MOVE) for k in KEYS[1:3])) as asked:
        answers = await asked.heads(AGENT, b"\x11" * 32)
    assert sorted(a.height for a in answers) == [0, 1, 1]
    assert {a.member for a in answers} == set(SIGNERS.members[:3])


async def test_an_older_answer_cannot_be_replayed_to_a_loader() -> None:
    async with committee(*(remembering(k, None, nonce=b"\x12" * 32) for k in KEYS)) as asked:
        with pytest.raises(CloisterError):
            await asked.heads(AGENT, b"\x11" * 32)


async def test_nobody_but_a_member_may_say_that_there_is_no_head() -> None:
    no = answering(lambda r, b: refusal("state.no_head", 404))
    async with committee(no, no, no, remembering(KEYS[3], MOVE), remembering(KEYS[4], MOVE)) as asked:
        with pytest.raises(CloisterError):
            await asked.heads(AGENT, b"\x11" * 32)


async def test_a_head_of_another_agent_is_no_answer() -> None:
    async with committee(*(remembering(k, OTHER) for k in KEYS)) as asked:
        with pytest.raises(CloisterError):
            await asked.heads(AGENT, b"\x11" * 32)


def test_signed_statements_travel_with_their_signatures() -> None:
    request = keys_request()
    assert signed_to_json(request.checkpoint)["signatures"][0].startswith("0x")


def row(number: int) -> dict[str, Any]:
    return {
        "agent": to_hex(number.to_bytes(32, "big")),
        **EPOCHS.to_json(),
        "height": 1,
        "parent": to_hex(b"\1" * 32),
        "head": to_hex(b"\2" * 32),
    }


def table(key: PrivateKey, rows: list[dict[str, Any]], *, size: int = 2, lie: str = "") -> Handler:
    """A member that serves its table in pages of ``size``."""

    def answer(request: web.Request, _: Any) -> Any:
        nonce, after = from_hex(request.query["nonce"], 32), from_hex(request.query["after"])
        rest = [r for r in rows if not after or after_row(r) > after]
        page, more = rest[:size], len(rest) > size
        if lie == "endless":
            page, more = rows[:size], True
        elif lie == "empty":
            page, more = [], True
        seen = b"\x12" * 32 if lie == "replay" else nonce
        signer = STRANGER if lie == "stranger" else KEYS[len(after) % 2] if lie == "two" else key
        fresh = sign_digest(signer, page_digest(NETWORK, seen, after, page, more))
        return TablePage(tuple(page), more, fresh).to_json()

    return answering(answer)


def counter() -> Callable[[int], bytes]:
    numbers = itertools.count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


async def test_whole_tables_of_r_others_arrive_page_by_page() -> None:
    rows = [row(i) for i in range(5)]
    async with committee(*(table(k, rows) for k in KEYS)) as asked:
        tables = await asked.head_tables(SIGNERS.members[0], counter())
    assert len(tables) == 4, "one's own table does not count"
    assert all(t == rows for t in tables)


async def test_an_empty_table_is_a_table() -> None:
    async with committee(*(table(k, []) for k in KEYS)) as asked:
        assert await asked.head_tables(SIGNERS.members[0], counter()) == [[]] * 4


@pytest.mark.parametrize("lie", ["empty", "endless", "replay", "stranger", "two"])
async def test_a_table_does_not_count_that_is(lie: str) -> None:
    liars = [table(k, [row(i) for i in range(5)], lie=lie) for k in KEYS[:3]]
    async with committee(*liars, *(table(k, []) for k in KEYS[3:])) as asked:
        with pytest.raises(CloisterError):
            await asked.head_tables(SIGNERS.members[4], counter())


async def test_one_member_under_many_endpoints_is_one_table() -> None:
    async with committee(*[table(KEYS[1], [])] * 5) as asked:
        with pytest.raises(CloisterError) as caught:
            await asked.head_tables(SIGNERS.members[0], counter())
    assert caught.value.code == "gatekeeper.too_few"


async def test_quorums_of_heads_follow_n_and_f() -> None:
    for n, faults, endorse, load in ((5, 1, 4, 3), (7, 1, 5, 4), (7, 2, 5, 5), (3, 1, 3, 2), (4, 1, 3, 3)):
        members = tuple(bytes([i]) * 20 for i in range(1, n + 1))
        asked = Committee([], SignerSet(1, n // 2 + 1, members), NETWORK, faults=faults)
        assert (asked.endorse_quorum, asked.load_quorum) == (endorse, load)
        assert 2 * endorse - n > faults or endorse == n
        assert endorse + load - n > faults or load == n or endorse == n


async def test_nobody_to_ask_is_too_few() -> None:
    asked = Committee([], SIGNERS, NETWORK)
    for question in (asked.checkpoint(), asked.heartbeat(b"\1" * 32), asked.heads(AGENT, b"\1" * 32)):
        with pytest.raises(CloisterError) as caught:
            await question
        assert caught.value.code == "gatekeeper.too_few"
    await asked.close()


SPELLINGS = ["{upper}", "0X{hex}", "{hex}00", "0x{hex} ", "0x{spaced}", "0x{hex}00", "0x"]


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_a_signature_over_a_head_has_one_spelling(spelling: str) -> None:
    move = HeadMove(AGENT, EPOCHS, 5, b"\1" * 32, b"\2" * 32)
    request = HeadsRequest((move,), NODE, BOOT, signature=bytes(65))

    def endorsing(key: PrivateKey, good: bool) -> Handler:
        def answer(_: web.Request, __: Any) -> Any:
            text = sign(key, move.statement(1)).hex()
            spaced = text[:-2] + " " + text[-1]
            odd = spelling.format(hex=text, upper="0x" + text.upper(), spaced=spaced)
            return {"signatures": ["0x" + text if good else odd]}

        return answering(answer)

    async with committee(*(endorsing(k, i > 1) for i, k in enumerate(KEYS))) as asked:
        assert asked.endorse_quorum == 4
        (found,) = await asked.endorse_heads(request)
    assert isinstance(found, CloisterError)
    async with committee(*(endorsing(k, i > 0) for i, k in enumerate(KEYS))) as asked:
        (found,) = await asked.endorse_heads(request)
    assert isinstance(found, Signed)
    found.verify(SignerSet(1, 4, SIGNERS.members), NETWORK)


# --- keys cost members work: t are asked first ---


def counting(handler: Handler, asked: list[int], i: int) -> Handler:
    """The member, which writes down that it was asked."""

    async def handle(request: web.Request) -> web.StreamResponse:
        asked.append(i)
        return await handler(request)

    return handle


async def test_while_all_answer_only_t_members_are_asked_for_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloister.wire.pace.UNKNOWN_S", 30.0)
    asked: list[int] = []
    async with committee(*(counting(granting(i), asked, i) for i in range(5)), timeout_s=30) as members:
        await members.keys(keys_request())
    assert len(asked) == len(set(asked)) == 3


async def test_members_that_were_slow_or_refused_are_not_the_first_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloister.wire.pace.LEAST_S", 30.0)
    asked: list[int] = []
    async with committee(*(counting(granting(i), asked, i) for i in range(5)), timeout_s=30) as members:
        for url in members.endpoints:
            slow = url in members.endpoints[3:]
            members._pace.note(url, 1e6 if slow else 0.01)
        for _ in range(9):
            await members.keys(keys_request())
    assert sorted(asked) == sorted([0, 1, 2] * 9)


async def test_who_refused_or_never_answered_is_noted_too() -> None:
    def refusing(_: web.Request, __: Any) -> Any:
        return refusal("policy.paused")

    members = [answering(refusing), hang, *(granting(i) for i in range(2, 5))]
    async with committee(*members) as asked:
        await asyncio.wait_for(asked.keys(keys_request()), 4)
        while len(asked._pace._took) < 5:  # until the lot fell on both
            await asyncio.wait_for(asked.keys(keys_request()), 4)
        took = [asked._pace._took[url] for url in asked.endpoints]
    assert took[0] > 0.1 * pace.REFUSED_S, "a refusal was no answer, however fast it came"


SPARED: dict[str, Callable[[int], Handler]] = {
    "refuse": lambda i: answering(lambda r, b: refusal("policy.paused")),
    "hang": lambda i: hang,
    "lie": lambda i: answering(lambda r, b: {"lease": 7}),
    "answer otherwise than the rest": lambda i: granting(i, lease(agent_epoch=9)),
}


@pytest.mark.parametrize("fault", SPARED)
@pytest.mark.parametrize("bad", list(itertools.combinations(range(5), 2))[::3])
async def test_the_others_are_asked_when_two_members(fault: str, bad: tuple[int, int]) -> None:
    members = [SPARED[fault](i) if i in bad else granting(i) for i in range(5)]
    async with committee(*members) as asked:
        granted = await asyncio.wait_for(asked.keys(keys_request()), 4)
    assert all({p.index - 1 for p in parts}.isdisjoint(bad) for parts in granted.partials.values())


async def test_everybody_is_asked_at_once_for_what_costs_little() -> None:
    asked: list[int] = []
    async with committee(*(counting(hang, asked, i) for i in range(5)), timeout_s=0.3) as members:
        with pytest.raises(CloisterError):
            await members.heartbeat(bytes(32))
    assert sorted(asked) == [0, 1, 2, 3, 4]
