"""Which head of a forked store an owner may accept, and whose word says who holds it (spec/state.md 13)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
from coincurve import PrivateKey

from cloister.client import heads
from cloister.client.committee import Reading, Sitting
from cloister.client.heads import Holding, candidates, forked, holdings_of
from cloister.core.chainview.ceremonies import TermRecord
from cloister.core.encoding.hexes import from_hex
from cloister.core.encoding.identity import Epochs
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.errors import CloisterError
from cloister.core.state.rows import Head
from cloister.wire.heads import EndorsedHead, HeadAnswer, HeadMove, fresh_digest

NETWORK, AGENT = b"\x0e" * 32, b"\xaa" * 32
KEYS = [PrivateKey(bytes([i]) * 32) for i in range(1, 6)]
AT = Epochs(1, 1, 1, b"\xc2" * 32)
ONE = Head(AT, 7, b"\x06" * 32, b"\x0a" * 32)
OTHER = replace(ONE, head=b"\x0b" * 32)
THIRD = replace(ONE, head=b"\x0c" * 32)
HIGHER = Head(AT, 8, OTHER.head, b"\x0d" * 32)
MOVED = Head(Epochs(2, 1, 1, AT.of), 8, ONE.head, b"\x0e" * 32)


def held(*by_seat: Head | None) -> list[Holding]:
    return [Holding(seat, head, b"s" if head else b"") for seat, head in enumerate(by_seat, 1)]


FORKS: dict[str, tuple[list[Holding], list[Head]]] = {
    "three and two": (held(ONE, ONE, ONE, OTHER, OTHER), [ONE]),
    "three, and two that are ahead on the other branch": (held(ONE, ONE, ONE, HIGHER, HIGHER), []),
    "three that are ahead, and two behind": (held(HIGHER, HIGHER, HIGHER, ONE, ONE), [HIGHER]),
    "three, and one under later epochs": (held(ONE, ONE, ONE, OTHER, MOVED), []),
    "two, two and one": (held(ONE, ONE, OTHER, OTHER, THIRD), []),
    "two and two, one away": (held(ONE, ONE, OTHER, OTHER), []),
    "three, the others know none": (held(ONE, ONE, ONE, None, None), [ONE]),
    "four: nothing is in doubt": (held(ONE, ONE, ONE, ONE, OTHER), []),
    "all of them": (held(ONE, ONE, ONE, ONE, ONE), []),
    "nobody knows any": (held(None, None, None), []),
}


@pytest.mark.parametrize("sentence", FORKS)
def test_what_an_owner_may_accept(sentence: str) -> None:
    holdings, wanted = FORKS[sentence]
    found = candidates(holdings, 3, 4)
    assert [one.head for one in found if one.acceptable] == wanted
    assert {seat for one in found for seat in one.signatures} == {h.seat for h in holdings if h.head is not None}
    assert [one.head.height for one in found] == sorted((one.head.height for one in found), reverse=True)


# --- who says so ---


def answer(seat: int, nonce: bytes, head: Head | None, **lies: Any) -> dict[str, Any]:
    """What a member (seat from 0) answers. ``lies``: by (a key), of (an agent), over (a nonce), head_by (a key)."""
    key, agent = lies.get("by", KEYS[seat]), lies.get("of", AGENT)
    shown = None
    if head is not None:
        move = HeadMove.of(agent, head)
        digest = move.statement(lies.get("term", 1)).digest(lies.get("network", NETWORK))
        shown = EndorsedHead(move, sign_digest(lies.get("head_by", key), digest))
    fresh = fresh_digest(NETWORK, 1, lies.get("over", nonce), AGENT, shown)
    return HeadAnswer(shown, sign_digest(key, fresh)).to_json()


@dataclass
class Members:
    """Five members in office; ``says``: what those that lie answer instead."""

    says: dict[int, Callable[[bytes], Any]]

    async def ask(self, session: object, method: str, url: str) -> Any:
        seat, query = int(url[7]), url.split("nonce=")[1]
        nonce = from_hex(query, 32)
        if seat in self.says:
            return self.says[seat](nonce)
        return answer(seat, nonce, ONE)


def reading() -> Reading:
    sittings = tuple(Sitting(i + 1, address_of(key), "snp", f"http://{i}", False) for i, key in enumerate(KEYS))
    term = TermRecord(1, 1, 8, 0, 1, 3, bytes(32), frozenset(), tuple(address_of(key) for key in KEYS))
    return cast(Reading, type("Read", (), {"sittings": sittings, "term": term})())


LIES: dict[str, Callable[[bytes], Any]] = {
    "another member's signature": lambda nonce: answer(4, nonce, OTHER, by=KEYS[0]),
    "a head that another one signed": lambda nonce: answer(4, nonce, OTHER, head_by=KEYS[0]),
    "a head of another agent": lambda nonce: answer(4, nonce, OTHER, of=b"\xbb" * 32),
    "an old answer": lambda nonce: answer(4, nonce, OTHER, over=bytes(32)),
    "a head signed in another term": lambda nonce: answer(4, nonce, OTHER, term=2),
    "a head signed in another network": lambda nonce: answer(4, nonce, OTHER, network=bytes(32)),
    "garbage": lambda nonce: {"head": [], "fresh": "0x"},
}


@pytest.mark.parametrize("sentence", LIES)
async def test_a_lie_about_a_head_is_no_holding(monkeypatch: pytest.MonkeyPatch, sentence: str) -> None:
    monkeypatch.setattr(heads, "ask", Members({4: LIES[sentence]}).ask)
    found = await holdings_of(reading(), NETWORK, AGENT, lambda size: b"\x07" * size)
    assert [one.seat for one in found] == [1, 2, 3, 4]
    assert forked(reading(), found)[0].endorsed


async def test_fewer_than_t_answers_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = dict.fromkeys(range(3), LIES["garbage"])
    monkeypatch.setattr(heads, "ask", Members(silent).ask)
    with pytest.raises(CloisterError) as caught:
        await holdings_of(reading(), NETWORK, AGENT, lambda size: b"\x07" * size)
    assert caught.value.code == "client.heads_unknown"


async def test_signatures_are_kept_by_seat_as_the_contract_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    says = {seat: (lambda nonce, seat=seat: answer(seat, nonce, OTHER)) for seat in (3, 4)}
    monkeypatch.setattr(heads, "ask", Members(cast(Any, says)).ask)
    found = forked(reading(), await holdings_of(reading(), NETWORK, AGENT, lambda size: b"\x07" * size))
    assert [(sorted(one.signatures), one.acceptable) for one in found] == [([1, 2, 3], True), ([4, 5], False)]
    statement = HeadMove.of(AGENT, ONE).statement(1)
    for seat, signature in found[0].signatures.items():
        assert signature == sign_digest(KEYS[seat - 1], statement.digest(NETWORK))
