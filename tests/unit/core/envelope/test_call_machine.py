"""Clients and a worker over a network that loses, repeats, reorders, swaps and cuts, with restarts and clock jumps.

The model is what was asked and what ran. Whatever the host does:
no record runs twice, over all boots; what a client accepts is what the worker said to this very record; a wallet's
request never runs as nobody or as another wallet; a record of an earlier boot never runs.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.envelope.client import ClientSession, SealedRequest, seal_once
from cloister.core.envelope.opener import Body, Failed, Final, Head
from cloister.core.envelope.server import Limits, OpenRequest, SealedRefusalError
from cloister.core.errors import CloisterError
from support.sealed import AGENT, NOW, World, head, key, open_fixed

WALLETS = (None, key(55), key(56))
NEWEST = st.integers(0, 2) | st.integers(0, 10**6)
SECONDS = st.sampled_from((-1, 1, 20, 300, 650))
FRESH_START = {"envelope.session_expired", "envelope.wrong_boot", "envelope.certificate_unknown", "envelope.caller"}


@dataclass
class Asked:
    """One record as the client sent it, and everything that came of it."""

    number: int
    boot: int
    wallet: int
    sealed: SealedRequest
    session: int | None
    ran: int = 0
    answers: list[tuple[bytes, bytes | None]] = field(default_factory=list)  # (stream, body or None for a refusal)
    read: bool = False


class Calls(RuleBasedStateMachine):
    """Three clients: nobody, and two wallets. One worker, which restarts."""

    @initialize()
    def begin(self) -> None:
        self.now = NOW
        self.boots = 0
        self.asked: list[Asked] = []
        self.start_worker()

    def start_worker(self) -> None:
        self.boots += 1
        self.world = World(limits=Limits(sessions=2, psks=2, retired=20), boot=self.boots.to_bytes(32, "big"))
        self.sessions: list[ClientSession | None] = [None, None, None]

    def clock(self) -> int:
        return max(self.now, self.world.server._now)

    def session_of(self, who: int) -> ClientSession:
        session = self.sessions[who]
        if session is None:
            session = self.sessions[who] = self.world.session()
            wallet = WALLETS[who]
            if wallet is not None:
                expiry = self.clock() // 1000 + 300
                session.authenticate(address_of(wallet), expiry, lambda digest: sign_digest(wallet, digest))
        return session

    # The clients

    @rule(who=st.sampled_from((0, 1, 2)), seconds=SECONDS, copies=st.integers(1, 3))
    def ask(self, who: int, seconds: int, copies: int) -> None:
        for _ in range(copies):
            number = len(self.asked)
            request = head(path=f"/{who}/{number}", deadline_ms=self.clock() + seconds * 1000 + 1)
            sealed = self.session_of(who).seal(request, b"%d" % number)
            self.asked.append(Asked(number, self.boots, who, sealed, who))

    @rule(seconds=SECONDS)
    def ask_once(self, seconds: int) -> None:
        number = len(self.asked)
        request = head(path=f"/0/{number}", deadline_ms=self.clock() + seconds * 1000 + 1)
        sealed = seal_once(self.world.certificate, self.world.psk, request, b"%d" % number, os.urandom)
        self.asked.append(Asked(number, self.boots, 0, sealed, None))

    @precondition(lambda self: self.asked)
    @rule(which=NEWEST, repeats=st.integers(1, 2))
    def deliver(self, which: int, repeats: int) -> None:
        """The newest records are the likeliest, but any may come, as often as the host likes."""
        asked = self.asked[-1 - which % len(self.asked)]
        for _ in range(repeats):
            self.to_worker(asked)

    @rule(who=st.sampled_from((0, 1, 2)), each=st.lists(SECONDS, min_size=1, max_size=4))
    def ask_and_read(self, who: int, each: list[int]) -> None:
        """What mostly happens: one record there, one answer back, some times."""
        for seconds in each:
            self.ask(who, seconds, 1)
            self.to_worker(self.asked[-1])
            if self.asked[-1].answers:
                self.read(self.asked[-1], 0, 50)

    def to_worker(self, asked: Asked) -> None:
        try:
            opened = self.world.server.open_request(AGENT, asked.sealed.data, self.now, open_fixed)
        except SealedRefusalError as refusal:
            assert asked.boot == self.boots
            asked.answers.append((refusal.sealed, None))
        except CloisterError as error:
            self.after_hint(asked, error.code)
        else:
            self.run_it(asked, opened)

    def run_it(self, asked: Asked, opened: OpenRequest) -> None:
        assert asked.boot == self.boots, "a record of an earlier boot ran"
        assert opened.body == b"%d" % asked.number
        assert opened.head.path == f"/{asked.wallet}/{asked.number}"
        assert opened.commitment() == asked.sealed.commitment
        wallet = WALLETS[asked.wallet]
        if wallet is None:
            assert opened.caller is None
        else:
            assert opened.caller is not None, "a wallet's request ran as nobody"
            assert opened.caller.address == address_of(wallet)
        asked.ran += 1
        body = b"said to %d, %d" % (asked.number, asked.ran)
        r = opened.responder
        parts = r.head(200, (("n", str(asked.number)),), 7) + r.chunk(body[:4]) + r.chunk(body[4:])
        asked.answers.append((parts + r.final(b'{"n":%d}' % asked.number, b"\1" * 65), body))

    def after_hint(self, asked: Asked, code: str) -> None:
        """What a client does on an unauthenticated refusal of its newest session: it may be a lie of the host."""
        assert asked.boot == self.boots or code == "envelope.wrong_boot"
        who = asked.session
        if who is None or asked.boot != self.boots:
            return
        session = self.sessions[who]
        if code in FRESH_START:
            self.sessions[who] = None
        elif code == "envelope.psk_unknown" and session is not None:
            session.forget()

    # The answers

    @precondition(lambda self: any(a.answers for a in self.asked))
    @rule(which=NEWEST, step=st.integers(1, 60))
    def read_answer(self, which: int, step: int) -> None:
        with_answers = [a for a in self.asked if a.answers and not a.read]
        if not with_answers:
            return
        asked = with_answers[-1 - which % len(with_answers)]
        self.read(asked, which % len(asked.answers), step)

    def read(self, asked: Asked, which: int, step: int) -> None:
        stream, body = asked.answers[which]
        asked.read = True
        events: list[Any] = []
        for at in range(0, len(stream), step):
            events += asked.sealed.opener.feed(stream[at : at + step])
        asked.sealed.opener.close()
        if body is None:
            assert [type(e) for e in events] == [Failed]
            self.after_sealed_refusal(asked, events[0])
            return
        assert events[0] == Head(200, (("n", str(asked.number)),), 7)
        assert b"".join(e.data for e in events if isinstance(e, Body)) == body
        assert events[-1] == Final(b'{"n":%d}' % asked.number, b"\1" * 65)

    def after_sealed_refusal(self, asked: Asked, failed: Failed) -> None:
        assert failed.error.code in ("envelope.deadline", "envelope.caller")
        if failed.error.code == "envelope.caller" and asked.session is not None and asked.boot == self.boots:
            self.sessions[asked.session] = None

    @precondition(lambda self: sum(bool(a.answers) for a in self.asked) > 1)
    @rule(first=NEWEST, second=NEWEST)
    def swap_answers(self, first: int, second: int) -> None:
        answered = [a for a in self.asked if a.answers]
        one, other = answered[first % len(answered)], answered[second % len(answered)]
        if one is other or one.read:
            return
        one.read = True
        with pytest.raises(CloisterError, match=r"envelope\.not_authentic"):
            one.sealed.opener.feed(other.answers[0][0])

    @precondition(lambda self: any(a.answers for a in self.asked))
    @rule(which=NEWEST, cut=st.integers(0, 10**6), lost=st.integers(0, 40))
    def cut_an_answer(self, which: int, cut: int, lost: int) -> None:
        answered = [a for a in self.asked if a.answers and not a.read]
        if not answered:
            return
        asked = answered[-1 - which % len(answered)]
        asked.read = True
        stream = asked.answers[-1][0]
        at = cut % len(stream)
        with pytest.raises(CloisterError):
            asked.sealed.opener.feed(stream[:at] + stream[at + lost + 1 :])
            asked.sealed.opener.close()

    # The host

    @rule(seconds=st.sampled_from((-3000, -1, 1, 30, 310, 700)))
    def move_the_clock(self, seconds: int) -> None:
        self.now += seconds * 1000

    @rule(really=st.integers(0, 5))
    def restart_the_worker(self, really: int) -> None:
        if really == 0:
            self.start_worker()

    @rule()
    def strangers_crowd_the_sessions_out(self) -> None:
        for _ in range(2):
            request = head(deadline_ms=self.clock() + 1000)
            record = self.world.session().seal(request, b"").data
            with contextlib.suppress(CloisterError):
                self.world.server.open_request(AGENT, record, self.now, open_fixed)

    @invariant()
    def nothing_ran_twice(self) -> None:
        assert all(a.ran <= 1 for a in getattr(self, "asked", ()))

    def teardown(self) -> None:
        """Every record again, from the first on: nothing runs a second time."""
        for asked in list(getattr(self, "asked", ())):
            self.to_worker(asked)
        self.nothing_ran_twice()


Calls.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestCalls = Calls.TestCase


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_calls_at_length() -> None:
    run_state_machine_as_test(Calls, settings=settings(max_examples=600, stateful_step_count=80, deadline=None))
