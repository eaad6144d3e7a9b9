"""The parts of the call engine alone: what is tried again, where, how often, and when it is over."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.client import call as engine
from cloister.client.call import (
    CALLER_LIFE_S,
    ELSEWHERE,
    MAX_ATTEMPTS,
    RESOLVE_AGAIN,
    Lost,
    Request,
    Sessions,
    _fresh_enough,
    _refused,
    _Tries,
)
from cloister.client.wallet import Wallet
from cloister.core.errors import CloisterError, from_wire
from support.fake_gateway import FakeWorker
from support.fake_world import MPK, World, test_key


def error(code: str, status: int = 421) -> CloisterError:
    return from_wire({"code": code, "check": "c", "expected": "e", "found": "f", "remedy": "r"}, status=status)


def request(method: str = "GET", key: str | None = None, deadline_ms: int = 10_000) -> Request:
    return Request(method, "/", (), b"", bytes(16), deadline_ms, key)


@dataclass(frozen=True)
class Seat:
    """As much of a sitting as choosing looks at."""

    boot: bytes

    @property
    def seat(self) -> Any:
        return SimpleNamespace(certificate=SimpleNamespace(boot=self.boot))


def resolution(*boots: bytes) -> Any:
    return SimpleNamespace(sittings=tuple(Seat(b) for b in boots))


ONE, TWO, THREE = (bytes([i]) * 32 for i in (1, 2, 3))


def lose(tries: _Tries, seat: Any, code: str = "gateway.no_worker", now: float = 0.0) -> None:
    tries.lost(seat, Lost(error(code)), now)


# --- which seat ---


def test_the_seat_that_failed_least_is_chosen_in_the_resolutions_order() -> None:
    tries = _Tries(request(), whole=True)
    found = resolution(ONE, TWO, THREE)
    chosen = []
    for _ in range(3):
        seat = tries.choose(found)
        chosen.append(seat.boot)  # type: ignore[attr-defined]
        lose(tries, seat)
    assert chosen == [ONE, TWO, THREE]
    assert tries.choose(found).boot == ONE  # type: ignore[attr-defined]
    assert tries.count == 4


def test_a_forgotten_psk_does_not_count_against_a_seat() -> None:
    tries = _Tries(request(), whole=True)
    found = resolution(ONE, TWO)
    lose(tries, tries.choose(found), "envelope.psk_unknown")
    assert (tries.with_ibe, tries.resolve_again) == (True, False)
    assert tries.choose(found).boot == ONE  # type: ignore[attr-defined]
    lose(tries, found.sittings[0])
    assert (tries.with_ibe, tries.resolve_again) == (False, True)
    assert tries.choose(found).boot == TWO  # type: ignore[attr-defined]


@pytest.mark.parametrize("code", sorted(RESOLVE_AGAIN))
def test_hints_that_a_seat_is_outdated_lead_to_fresh_seats(code: str) -> None:
    tries = _Tries(request(), whole=True)
    lose(tries, tries.choose(resolution(ONE)), code)
    assert tries.resolve_again


# --- how often ---


@given(st.integers(1, 10), st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE"]), st.none() | st.just("k"))
def test_attempts_end(losses: int, method: str, key: str | None) -> None:
    """A safe request is given up at the fourth loss with its hint, another at the first with "outcome unknown"."""
    asked = request(method, key)
    tries, codes = _Tries(asked, whole=True), []
    for _ in range(losses):
        seat = tries.choose(resolution(ONE))
        try:
            lose(tries, seat)
        except CloisterError as refusal:
            codes.append(refusal.code)
            break
    if not asked.repeatable:
        assert codes == ["client.outcome_unknown"]
        assert tries.count == 1
    elif losses >= MAX_ATTEMPTS:
        assert codes == ["gateway.no_worker"]
        assert tries.count == MAX_ATTEMPTS
    else:
        assert codes == []


def test_an_unknown_outcome_names_what_was_seen() -> None:
    tries = _Tries(request("POST"), whole=True)
    with pytest.raises(CloisterError) as caught:
        lose(tries, tries.choose(resolution(ONE)), "envelope.truncated")
    assert caught.value.code == "client.outcome_unknown"
    assert caught.value.found == "envelope.truncated: c; found f"
    assert "idempotency key" in caught.value.remedy


@pytest.mark.parametrize(("now", "over"), [(9.999, False), (10.0, True), (11.0, True)])
def test_a_deadline_ends_the_attempts_of_a_safe_request(now: float, over: bool) -> None:
    tries = _Tries(request(deadline_ms=10_000), whole=True)
    seat = tries.choose(resolution(ONE))
    if not over:
        lose(tries, seat, now=now)
        return
    with pytest.raises(CloisterError) as caught:
        lose(tries, seat, now=now)
    assert (caught.value.code, caught.value.found) == ("client.deadline", "1 attempts, last gateway.no_worker")


# --- authentic refusals ---


@pytest.mark.parametrize("status", [400, 403, 421, 429, 500, 503, 504])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_worker_that_says_elsewhere_is_left_by_safe_requests_only(status: int, method: str) -> None:
    asked = request(method)
    expected: Any = Lost if status in ELSEWHERE and asked.repeatable else CloisterError
    tries = _Tries(asked, whole=True)
    tries.choose(resolution(ONE))
    with pytest.raises(expected) as caught:
        _refused(engine.Failed(error("elsewhere.busy", status)), asked, tries)
    said = caught.value.hint if isinstance(caught.value, Lost) else caught.value
    assert (said.code, said.status) == ("elsewhere.busy", status)


def test_the_last_attempt_keeps_the_workers_own_word() -> None:
    asked, tries = request(), _Tries(request(), whole=True)
    for _ in range(MAX_ATTEMPTS):
        tries.choose(resolution(ONE))
    with pytest.raises(CloisterError, match=r"sandbox\.busy"):
        _refused(engine.Failed(error("sandbox.busy", 503)), asked, tries)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(("height", "good"), [(2000, True), (1000, True), (701, True), (700, False), (0, False)])
def test_an_answer_may_lag_by_one_period(height: int, good: bool, method: str) -> None:
    """The checkpoint is block 1001, a period 300 blocks."""
    at = SimpleNamespace(checkpoint=SimpleNamespace(number=1001), parameters=SimpleNamespace(period_blocks=300))
    head, found = engine.Head(200, (), height), None
    try:
        _fresh_enough(head, at, request(method))  # type: ignore[arg-type]
    except (CloisterError, Lost) as refusal:
        found = refusal
    assert (found is None) == good
    if found is not None:
        assert isinstance(found, Lost) == (method == "GET")
        refusal = found.hint if isinstance(found, Lost) else found
        assert (refusal.code, refusal.expected) == ("client.stale_answer", "an answer at block 701 or later")


# --- sessions ---


@dataclass
class Sat:
    """A sitting with a real seat."""

    seat: Any


@pytest.fixture(scope="module")
def seats() -> list[Sat]:
    world = World()
    agent = world.set_agent()
    workers = [FakeWorker(world, name) for name in ("one", "two", "three")]
    world.mine()
    return [Sat(w.seat(agent)) for w in workers]


def counting(sizes: list[int]) -> Any:
    def rng(size: int) -> bytes:
        sizes.append(size)
        return len(sizes).to_bytes(4, "big").rjust(size, b"\x07")

    return rng


def test_one_session_per_seat_and_caller_one_psk_per_seat(seats: list[Any]) -> None:
    sessions = Sessions(lambda epoch: MPK, counting([]))
    alice, bob = Wallet(test_key("alice")), Wallet(test_key("bob"))
    made = {
        (i, name): sessions.session(seat, who, 1000)
        for i, seat in enumerate(seats[:2])
        for name, who in (("nobody", None), ("alice", alice), ("bob", bob))
    }
    assert len({id(s) for s in made.values()}) == 6
    assert sessions.session(seats[0], alice, 1000) is made[0, "alice"]
    assert sessions.session(seats[0], Wallet(test_key("alice")), 1000) is made[0, "alice"], "by address"
    assert len(sessions._psks) == 2
    psks = {(i, name): s._psk.ciphertext for (i, name), s in made.items()}
    assert len(set(psks.values())) == 2


def test_a_dropped_session_is_made_anew_with_the_same_psk(seats: list[Any]) -> None:
    sessions = Sessions(lambda epoch: MPK, counting([]))
    alice = Wallet(test_key("alice"))
    first, named = sessions.session(seats[0], None, 0), sessions.session(seats[0], alice, 0)
    sessions.drop(seats[0], None)
    sessions.drop(seats[1], None)
    second = sessions.session(seats[0], None, 0)
    assert second is not first
    assert second._psk is first._psk
    assert sessions.session(seats[0], alice, 0) is named
    sessions.drop(seats[0], alice)
    assert sessions.session(seats[0], alice, 0) is not named


@pytest.mark.parametrize(("later", "kept"), [(0, True), (CALLER_LIFE_S - 31, True), (CALLER_LIFE_S - 30, False)])
def test_a_callers_word_is_renewed_half_a_minute_before_it_ends(later: int, kept: bool, seats: list[Any]) -> None:
    sessions = Sessions(lambda epoch: MPK, counting([]))
    alice = Wallet(test_key("alice"))
    named, nobody = sessions.session(seats[0], alice, 500), sessions.session(seats[0], None, 500)
    assert (sessions.session(seats[0], alice, 500 + later) is named) == kept
    assert sessions.session(seats[0], None, 10**9) is nobody


def test_the_least_recently_used_session_goes_first(seats: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_SESSIONS", 2)
    sessions = Sessions(lambda epoch: MPK, counting([]))
    one, two = sessions.session(seats[0], None, 0), sessions.session(seats[1], None, 0)
    assert sessions.session(seats[0], None, 0) is one
    sessions.session(seats[2], None, 0)
    assert sessions.session(seats[0], None, 0) is one
    assert sessions.session(seats[1], None, 0) is not two
    assert len(sessions._sessions) == len(sessions._psks) == 2


def test_a_forgotten_callers_end_is_forgotten_too(seats: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_SESSIONS", 1)
    sessions = Sessions(lambda epoch: MPK, counting([]))
    for name in ("alice", "bob", "carol"):
        sessions.session(seats[0], Wallet(test_key(name)), 0)
    assert len(sessions._sessions) == len(sessions._ends) == 1


# --- requests ---


def test_methods_and_header_names_are_put_into_one_form() -> None:
    made = Request.build(
        "post",
        "/x",
        headers={"X-One": "A", "Content-Type": "text/plain"},
        body="ä",
        json_body=None,
        idempotency_key=None,
        request_id=b"\x01" * 16,
        deadline_ms=7,
    )
    assert (made.method, made.path, made.body) == ("POST", "/x", "ä".encode())
    assert made.headers == (("x-one", "A"), ("content-type", "text/plain"))
    head = made.head()
    assert (head.request_id, head.deadline_ms, head.idempotency_key) == ("0x" + "01" * 16, 7, None)
    assert replace(made, idempotency_key="k").head().idempotency_key == "k"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, b"0"), (False, b"false"), ("", b'""'), ([], b"[]"), ({}, b"{}"), ({"a": "ä"}, b'{"a":"\xc3\xa4"}')],
)
def test_json_values_that_count_as_false_are_still_sent(value: Any, text: bytes) -> None:
    made = Request.build(
        "POST", "/", headers=None, body=None, json_body=value, idempotency_key=None, request_id=bytes(16), deadline_ms=0
    )
    assert (made.body, made.headers) == (text, (("content-type", "application/json"),))


def test_a_content_type_that_was_given_stays() -> None:
    made = Request.build(
        "POST",
        "/",
        headers=[("CONTENT-TYPE", "application/ld+json")],
        body=None,
        json_body={},
        idempotency_key=None,
        request_id=bytes(16),
        deadline_ms=0,
    )
    assert made.headers == (("content-type", "application/ld+json"),)
