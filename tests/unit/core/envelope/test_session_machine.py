"""Whatever happens in whatever order, no record is ever opened twice, and good ones are opened.

A hostile host replays anything at any time, moves the clock both ways, and makes the worker drop sessions; a hostile
caller opens many contexts. The model is a set of records that ran.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from cloister.core.envelope.client import ClientSession, seal_once
from cloister.core.envelope.server import Limits, SealedRefusalError
from cloister.core.errors import CloisterError
from support.sealed import AGENT, NOW, World, head, make_seat, open_fixed

KNOWN = {
    "envelope.replay",
    "envelope.session_expired",
    "envelope.overloaded",
    "envelope.deadline",
    "envelope.psk_unknown",
    "envelope.certificate_unknown",
    "envelope.not_authentic",
    "envelope.malformed",
}
SECONDS = st.integers(0, 900)


class Sessions(RuleBasedStateMachine):
    """Few sessions, few PSKs and a small memory, so that every limit is met."""

    sessions = Bundle("sessions")
    records = Bundle("records")

    @initialize()
    def begin(self) -> None:
        self.world = World(limits=Limits(sessions=3, psks=2, retired=12))
        self.now = NOW
        self.ran: set[bytes] = set()
        self.ended = False

    def fresh_deadline(self, seconds: int) -> int:
        return max(self.now, self.world.server._now) + 1 + seconds * 1000

    @rule(target=sessions)
    def open_session(self) -> ClientSession:
        return self.world.session()

    @rule(target=records, session=sessions, seconds=SECONDS, ibe=st.booleans())
    def seal(self, session: ClientSession, seconds: int, ibe: bool) -> bytes:
        return session.seal(head(deadline_ms=self.fresh_deadline(seconds)), b"x", with_ibe=ibe).data

    @rule(target=records, seconds=SECONDS)
    def seal_one_shot(self, seconds: int) -> bytes:
        head_ = head(deadline_ms=self.fresh_deadline(seconds))
        return seal_once(self.world.certificate, self.world.psk, head_, b"x", os.urandom).data

    @rule(record=records)
    def deliver(self, record: bytes) -> None:
        self.attempt(record)

    @rule(record=records, times=st.integers(2, 4))
    def replay(self, record: bytes, times: int) -> None:
        for _ in range(times):
            self.attempt(record)

    @rule(target=records, record=records, at=st.integers(0, 400), flip=st.integers(1, 255))
    def tamper(self, record: bytes, at: int, flip: int) -> bytes:
        at %= len(record)
        broken = record[:at] + bytes([record[at] ^ flip]) + record[at + 1 :]
        assert self.refused(broken)
        return record

    @rule(record=consumes(records))
    def lose(self, record: bytes) -> None:
        """A record that never arrives, or arrives no more."""

    @rule(seconds=st.integers(-2000, 700))
    def move_the_clock(self, seconds: int) -> None:
        self.now += seconds * 1000

    @rule(height=st.integers(150, 203))
    def a_checkpoint(self, height: int) -> None:
        ended = self.world.server.advance(height)
        self.ended = self.ended or bool(ended)
        if ended:
            assert height >= self.world.certificate.expiry

    @rule()
    def another_agent_comes_and_goes(self) -> None:
        other = make_seat(self.world.certificate.hpke_key, agent=os.urandom(32)).certificate
        self.world.server.add(other, self.world.key)
        self.world.server.erase_agent(other.agent)

    def attempt(self, record: bytes) -> None:
        try:
            opened = self.world.server.open_request(AGENT, record, self.now, open_fixed)
        except CloisterError as error:
            self.refused_with(error)
            return
        assert record not in self.ran, "a record ran twice"
        assert not self.ended, "a record ran after its certificate had ended"
        assert opened.head.deadline_ms > self.world.server._now
        self.ran.add(record)

    def refused_with(self, error: CloisterError) -> None:
        assert error.code in KNOWN, error
        assert isinstance(error, SealedRefusalError) == (error.code == "envelope.deadline")

    def refused(self, record: bytes) -> bool:
        def guess(certificate: object, ciphertext: bytes) -> bytes:
            return b"\x77" * 32

        try:
            self.world.server.open_request(AGENT, record, self.now, guess)
        except CloisterError:
            return True
        return False

    @invariant()
    def memory_stays_within_its_limits(self) -> None:
        if not hasattr(self, "world"):
            return
        server = self.world.server
        assert len(server._sessions) <= 3
        assert len(server._retired) <= 12
        assert all(len(held.psks) <= 2 for held in server._held.values())


Sessions.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestSessions = Sessions.TestCase


def run_all(world: World, records: list[bytes], now: Callable[[], int]) -> int:
    """How many of the records ran."""
    ran = 0
    for record in records:
        try:
            world.open(record, now())
        except CloisterError:
            continue
        ran += 1
    return ran


def test_a_flood_of_new_sessions_does_not_make_old_requests_run_again() -> None:
    world = World(limits=Limits(sessions=4))
    mine = [world.seal().data for _ in range(10)]
    assert run_all(world, mine, lambda: NOW) == 10
    for _ in range(20):
        world.open(world.session().seal(head(), b"").data)
    assert run_all(world, mine, lambda: NOW) == 0


def test_a_full_memory_empties_when_deadlines_have_passed() -> None:
    world = World(limits=Limits(retired=6, sessions=1))

    def once(now: int) -> bytes:
        return seal_once(world.certificate, world.psk, head(deadline_ms=now + 1000), b"", os.urandom).data

    served = run_all(world, [once(NOW) for _ in range(20)], lambda: NOW)
    assert served == 5
    later = NOW + 60_000
    assert run_all(world, [once(later) for _ in range(20)], lambda: later) == 5


def test_sessions_of_two_agents_do_not_mix() -> None:
    world = World()
    other = make_seat(world.certificate.hpke_key, agent=b"\x23" * 32).certificate
    world.server.add(other, world.key)
    from support.sealed import fixed_psk

    theirs = ClientSession(other, fixed_psk(other), os.urandom)
    record = theirs.seal(head(), b"for the other").data
    codes: list[Any] = []
    try:
        world.open(record)
    except CloisterError as error:
        codes.append(error.code)
    assert codes == ["envelope.certificate_unknown"]
    assert world.server.open_request(other.agent, record, NOW, open_fixed).body == b"for the other"
