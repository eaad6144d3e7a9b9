"""Ceremonies from storage words: a small model of the compiler's storage writes them, the readers read them back."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.chain.contracts import artifact
from cloister.core.chainview import ceremonies as c
from cloister.core.chainview import founding as f
from cloister.core.chainview.layout import Layout, Place, add, address_key, data_slot, mapping_slot
from cloister.core.chainview.seats import RulesRecord, read_rules
from cloister.core.errors import CloisterError
from cloister.core.threshold.facts import Confirmation, Facts, Fault
from cloister.core.threshold.phases import Deadlines, Kind
from cloister.core.threshold.shares import PublicShares

LAYOUT = Layout(artifact("Gatekeepers").layout)
CODES = {kind: code for code, kind in c.KINDS.items()}


def word(name: str, size: int = 32) -> bytes:
    return hashlib.shake_256(name.encode()).digest(size)


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


class Memory:
    """Storage as a dict; ``get`` is what readers see, ``asked`` every slot that they wanted."""

    def __init__(self) -> None:
        self.words: dict[int, int] = {}
        self.rounds = 0

    def get(self, slots: Sequence[int]) -> list[int]:
        return [self.words.get(slot, 0) for slot in slots]

    def put(self, base: int, place: Place, value: int | bytes, offset: int = 0) -> None:
        number = int.from_bytes(value, "big") if isinstance(value, bytes) else value
        slot, shift = add(base, place.slot + offset), 8 * place.offset
        size = min(place.size, 32)
        mask = ((1 << (8 * size)) - 1) << shift
        self.words[slot] = self.words.get(slot, 0) & ~mask | number << shift

    def fill(self, label: str, key_: bytes, values: dict[str, int | bytes]) -> int:
        """A mapping's struct."""
        table = LAYOUT.variable(label)
        base, fields = mapping_slot(table.slot, key_), LAYOUT.fields(LAYOUT.value_type(table))
        for name, value in values.items():
            self.put(base, fields[name], value)
        return base

    def array(self, head: int, items: Sequence[bytes]) -> None:
        self.words[head] = len(items)
        for i, item in enumerate(items):
            self.words[add(data_slot(head), i)] = int.from_bytes(item, "big")

    def inner(self, label: str, number: int, at: int, value: bytes | int) -> None:
        outer = mapping_slot(LAYOUT.variable(label).slot, key(number))
        self.words[mapping_slot(outer, key(at))] = int.from_bytes(value, "big") if isinstance(value, bytes) else value

    def three(self, base: int, place: Place, value: bytes) -> None:
        for i in range(3):
            self.words[add(base, place.slot + i)] = int.from_bytes(value[32 * i : 32 * i + 32], "big")


def view(number: int = 1, kind: Kind = Kind.FOUND, n: int = 4) -> c.CeremonyView:
    receivers = tuple(word(f"receiver {number} {i}", 20) for i in range(n))
    reshare = kind is Kind.RESHARE
    return c.CeremonyView(
        number=number,
        id=word(f"id {number}"),
        kind=kind,
        base=word("base"),
        term=2 if reshare else 1,
        master_epoch=1,
        threshold=3,
        quorum=2 if reshare else 3,
        dealers=tuple(word(f"receiver 9 {i}", 20) for i in range(5)) if reshare else receivers,
        receivers=receivers,
        keys=tuple(word(f"key {number} {i}") for i in range(n)),
        dealer_term=1 if reshare else 0,
        old_mpk=word("mpk", 96) if reshare else bytes(96),
        old_transcript=word("transcript") if reshare else bytes(32),
        opened_at=77,
        deadlines=Deadlines.after(77, 10),
        ending=c.Ending.OPEN,
        ended_at=0,
    )


def bits(seats: Any) -> int:
    return sum(1 << seat - 1 for seat in seats)


def store(memory: Memory, shown: c.CeremonyView, facts: Facts = Facts()) -> int:  # noqa: B008 - frozen
    """What the contract writes of a ceremony."""
    fields = LAYOUT.fields(LAYOUT.value_type(LAYOUT.variable("_ceremonies")))
    base = memory.fill(
        "_ceremonies",
        key(shown.number),
        {
            "term": shown.term, "masterEpoch": shown.master_epoch, "openedAt": shown.opened_at, "window": 10,
            "endedAt": shown.ended_at, "threshold": shown.threshold, "quorum": shown.quorum, "kind": CODES[shown.kind],
            "end": int(shown.ending), "dealerTerm": shown.dealer_term, "id": shown.id, "base": shown.base,
            "oldTranscript": shown.old_transcript, "committed": bits(facts.committed),
            "content": bits(facts.content), "settled": bits(facts.settled), "published": bits(facts.published),
            "accused": bits({d for d, _ in facts.complaints}), "confirmed": bits(facts.confirmed),
        },
    )  # fmt: skip
    memory.array(add(base, fields["receivers"].slot), shown.receivers)
    memory.array(add(base, fields["keys"].slot), shown.keys)
    memory.words[LAYOUT.variable("ceremonyCount").slot] = (
        memory.words.get(LAYOUT.variable("ceremonyCount").slot, 0)
        | shown.number << 8 * LAYOUT.variable("ceremonyCount").offset
    )
    store_facts(memory, shown, facts)
    return base


def store_facts(memory: Memory, shown: c.CeremonyView, facts: Facts) -> None:
    n = shown.number
    for dealer, digest in facts.committed.items():
        memory.inner("_digests", n, dealer, digest)
    for dealer in {d for d, _ in facts.complaints}:
        by = facts.of_dealer(dealer)
        bad = bits(r for r, fault in by.items() if fault is Fault.BAD_SHARE)
        opened = bits(r for d, r in facts.opened if d == dealer)
        memory.inner("_accusations", n, dealer, bits(by) | bad << 64 | opened << 128)
    for (dealer, receiver), value in facts.opened.items():
        memory.inner("_openings", n, dealer << 8 | receiver, value)
    for receiver, said in facts.confirmed.items():
        name = hashlib.sha256(said.mpk + said.transcript + bytes([said.qualified])).digest()
        memory.inner("_said", n, receiver, name)
        outer = LAYOUT.variable("_values")
        kind = LAYOUT.value_type(Place(0, 0, 32, LAYOUT.value_type(outer)))
        base, fields = mapping_slot(mapping_slot(outer.slot, key(n)), name), LAYOUT.fields(kind)
        memory.three(base, fields["mpk"], said.mpk)
        memory.put(base, fields["transcript"], said.transcript)
        memory.put(base, fields["qualified"], said.qualified)


def store_term(memory: Memory, term: int, ceremony: int, revoked: int = 0) -> None:
    memory.fill(
        "_terms",
        key(term),
        {
            "ceremony": ceremony, "height": 500, "timestamp": 600, "masterEpoch": 1, "mpkHash": word("hash"),
            "threshold": 3, "revoked": revoked,
        },
    )  # fmt: skip


def store_epoch(memory: Memory, epoch: int, state: int) -> None:
    fields = LAYOUT.fields(LAYOUT.value_type(LAYOUT.variable("_epochs")))
    values: dict[str, int | bytes] = {
        "state": state, "ceremony": 1, "term": 1, "confirmedAt": 5, "resumedAt": 6, "destroyedAt": 7,
        "transcript": word("transcript"),
    }  # fmt: skip
    memory.three(memory.fill("_epochs", key(epoch), values), fields["mpk"], word("mpk", 96))


# --- ceremonies ---


def test_before_the_first_ceremony_there_is_none() -> None:
    assert c.read_open_ceremony(Memory(), LAYOUT) is None
    assert c.read_ceremony_count(Memory(), LAYOUT) == 0


@pytest.mark.parametrize("kind", [Kind.FOUND, Kind.ROTATE])
def test_a_ceremony_whose_receivers_deal(kind: Kind) -> None:
    memory, shown = Memory(), view(3, kind)
    store(memory, shown)
    assert c.read_open_ceremony(memory, LAYOUT) == shown
    assert shown.dealer_index(shown.receivers[1]) == shown.receiver_index(shown.receivers[1]) == 2
    assert shown.receiver_index(word("stranger", 20)) == 0
    made = shown.ceremony()
    assert (made.id, made.threshold, made.dealers, made.quorum) == (shown.id, 3, 4, 3)


def reshare_memory() -> tuple[Memory, c.CeremonyView]:
    memory, shown = Memory(), view(11, Kind.RESHARE)
    store(memory, dataclasses.replace(view(9, n=5), number=9))
    memory.words[LAYOUT.variable("ceremonyCount").slot] = 0
    store(memory, shown)
    store_term(memory, 1, 9)
    store_epoch(memory, 1, c.EpochState.RELEASED)
    return memory, shown


def test_in_a_resharing_the_committee_of_the_old_term_deals_its_own_key() -> None:
    memory, shown = reshare_memory()
    assert c.read_open_ceremony(memory, LAYOUT) == shown
    old = PublicShares(word("mpk", 96), tuple(word(f"share {i}", 96) for i in range(5)), word("transcript"))
    made = shown.ceremony(old)
    assert (made.dealers, made.quorum, made.threshold, made.term) == (5, 2, 3, 2)


@pytest.mark.parametrize("change", [{"mpk": word("x", 96)}, {"transcript": word("x")}, {"term": 2}])
def test_old_shares_of_another_key_ceremony_or_term_are_refused(change: dict[str, Any]) -> None:
    _, shown = reshare_memory()
    old = PublicShares(word("mpk", 96), tuple(word(f"share {i}", 96) for i in range(5)), word("transcript"))
    with pytest.raises(CloisterError) as caught:
        shown.ceremony(dataclasses.replace(old, **change))
    assert caught.value.code == "chainview.record"


def test_old_shares_belong_to_a_resharing_and_to_nothing_else() -> None:
    _, shown = reshare_memory()
    with pytest.raises(TypeError):
        shown.ceremony()
    with pytest.raises(TypeError):
        view().ceremony(PublicShares(word("mpk", 96), (word("a", 96),), word("t")))


BROKEN: dict[str, dict[str, int]] = {
    "a kind that there is not": {"kind": 4},
    "no kind at all": {"kind": 0},
    "an end that there is not": {"end": 4},
}


@pytest.mark.parametrize("sentence", sorted(BROKEN))
def test_a_record_that_no_contract_writes(sentence: str) -> None:
    memory = Memory()
    base = store(memory, view())
    fields = LAYOUT.fields(LAYOUT.value_type(LAYOUT.variable("_ceremonies")))
    for name, value in BROKEN[sentence].items():
        memory.put(base, fields[name], value)
    with pytest.raises(CloisterError) as caught:
        c.read_ceremony_at(memory, LAYOUT, 1)
    assert caught.value.code == "chainview.record"


@pytest.mark.parametrize(("name", "count"), [("receivers", 0), ("receivers", 65), ("keys", 3), ("keys", 2**255)])
def test_seats_are_counted_before_they_are_read(name: str, count: int) -> None:
    memory = Memory()
    base = store(memory, view())
    fields = LAYOUT.fields(LAYOUT.value_type(LAYOUT.variable("_ceremonies")))
    memory.words[add(base, fields[name].slot)] = count
    with pytest.raises(CloisterError) as caught:
        c.read_ceremony_at(memory, LAYOUT, 1)
    assert caught.value.code == "chainview.record"


# --- facts ---

RECEIVERS = st.integers(1, 4)
PAIRS = st.tuples(RECEIVERS, RECEIVERS)
VALUES = [Confirmation(word(f"m{i}", 96), word(f"t{i}"), 7 + i) for i in range(3)]


@st.composite
def facts(draw: st.DrawFn) -> Facts:
    committed = {dealer: word(f"digest {dealer}") for dealer in draw(st.sets(RECEIVERS, min_size=1))}
    pairs = {pair for pair in draw(st.sets(PAIRS)) if pair[0] in committed}
    complaints = {pair: draw(st.sampled_from(Fault)) for pair in sorted(pairs)}
    published = {d for d, _ in pairs if draw(st.booleans())}
    bad = [p for p, fault in complaints.items() if fault is Fault.BAD_SHARE and p[0] in published]
    return Facts(
        committed=committed,
        complaints=complaints,
        published=frozenset(published),
        opened={pair: word(f"open {pair}") for pair in bad if draw(st.booleans())},
        content=frozenset(draw(st.sets(RECEIVERS))),
        settled=frozenset(draw(st.sets(RECEIVERS))),
        confirmed={r: draw(st.sampled_from(VALUES)) for r in draw(st.sets(RECEIVERS))},
    )


@settings(max_examples=60, deadline=None)
@given(facts(), st.booleans())
def test_facts_read_back_as_they_were_written(said: Facts, cancelled: bool) -> None:
    memory, shown = Memory(), view()
    if cancelled:
        shown = dataclasses.replace(shown, ending=c.Ending.CANCELLED, ended_at=90)
        said = dataclasses.replace(said, cancelled=True)
    store(memory, shown, said)
    assert c.read_facts(memory, LAYOUT, shown) == said
    said.check(shown.ceremony())


def test_facts_of_one_ceremony_are_not_those_of_another() -> None:
    memory, first, second = Memory(), view(1), view(2)
    store(memory, first, Facts(committed={1: word("digest")}))
    memory.words[LAYOUT.variable("ceremonyCount").slot] = 0
    store(memory, second)
    assert c.read_facts(memory, LAYOUT, first).committed == {1: word("digest")}
    assert c.read_facts(memory, LAYOUT, second) == Facts()


def test_garbage_in_any_word_is_refused_by_name_or_read_and_never_crashes() -> None:
    rng = random.Random(7)
    for round_ in range(120):
        memory, shown = reshare_memory()
        said = Facts(
            committed={1: word("a"), 2: word("b")}, complaints={(1, 2): Fault.BAD_SHARE}, confirmed={1: VALUES[0]}
        )
        store_facts(memory, shown, said)
        for slot in rng.sample(sorted(memory.words), 1 + round_ % 4):
            memory.words[slot] ^= 1 << rng.randrange(256)
        try:
            found = c.read_open_ceremony(memory, LAYOUT)
            if found is not None:
                c.read_facts(memory, LAYOUT, found)
        except CloisterError as error:
            assert error.code.startswith(("chainview.", "threshold.", "encoding."))  # noqa: PT017


# --- terms, hand-overs, epochs, rules ---


def test_a_term_has_the_receivers_of_the_ceremony_that_made_it() -> None:
    memory, shown = Memory(), view(9, n=5)
    store(memory, shown)
    store_term(memory, 4, 9, revoked=0b10001)
    found = c.read_term(memory, LAYOUT, 4)
    assert (found.members, found.revoked, found.ceremony) == (shown.receivers, {1, 5}, 9)
    assert (found.height, found.timestamp, found.threshold, found.mpk_hash) == (500, 600, 3, word("hash"))
    with pytest.raises(CloisterError) as caught:
        c.read_term(memory, LAYOUT, 5)
    assert caught.value.code == "chainview.record"


def handover_head(term: int) -> int:
    return mapping_slot(LAYOUT.variable("_handovers").slot, key(term))


@pytest.mark.parametrize("count", [1, 3, 64])
def test_signatures_of_a_hand_over_read_back(count: int) -> None:
    memory, data = Memory(), word("signatures", 65 * count)
    head = handover_head(2)
    memory.words[head] = 2 * len(data) + 1
    for i in range(0, len(data), 32):
        memory.words[add(data_slot(head), i // 32)] = int.from_bytes(data[i : i + 32].ljust(32, b"\0"), "big")
    found = c.read_handover(memory, LAYOUT, 2)
    assert b"".join(found) == data
    assert {len(one) for one in found} == {65}
    assert c.read_handover(memory, LAYOUT, 3) == ()


@pytest.mark.parametrize("head", [2 * 64 + 1, 2 * 65 * 65 + 1, 2**256 - 1, 2, 3])
def test_a_hand_over_of_no_whole_signatures_is_refused(head: int) -> None:
    memory = Memory()
    memory.words[handover_head(2)] = head
    with pytest.raises(CloisterError) as caught:
        c.read_handover(memory, LAYOUT, 2)
    assert caught.value.code == "chainview.record"


@pytest.mark.parametrize("state", list(c.EpochState))
def test_epochs_read_back_in_every_state(state: c.EpochState) -> None:
    memory = Memory()
    store_epoch(memory, 3, state)
    found = c.read_epoch(memory, LAYOUT, 3)
    assert (found.state, found.mpk, found.transcript) == (state, word("mpk", 96), word("transcript"))
    assert (found.confirmed_at, found.resumed_at, found.destroyed_at) == (5, 6, 7)


def test_a_state_that_there_is_not_is_refused() -> None:
    memory = Memory()
    store_epoch(memory, 3, 5)
    with pytest.raises(CloisterError) as caught:
        c.read_epoch(memory, LAYOUT, 3)
    assert caught.value.code == "chainview.record"


def test_rules_read_back() -> None:
    memory, rules = Memory(), RulesRecord(1, 2, 3, 4, 5, 6, 2**100, 2**90)
    place = LAYOUT.variable("_rules")
    fields = LAYOUT.fields(place.type)
    names = ("ceremonyBlocks", "termBlocks", "refreshBlocks", "rotationBlocks", "eraseDelay", "unbondingBlocks",
             "minStake", "absenceSlash")  # fmt: skip
    for name, value in zip(names, dataclasses.astuple(rules), strict=True):
        memory.put(place.slot, fields[name], value)
    assert read_rules(memory, LAYOUT) == rules


# --- the id ---


def test_an_id_commits_to_each_of_its_parts() -> None:
    parts: dict[str, Any] = {
        "base": word("base"), "contract": word("contract", 20), "kind": Kind.FOUND, "term": 1, "master_epoch": 1,
        "number": 1,
    }  # fmt: skip
    changes: list[dict[str, Any]] = [
        {}, {"base": word("other")}, {"contract": word("other", 20)}, {"kind": Kind.RESHARE}, {"kind": Kind.ROTATE},
        {"term": 2}, {"master_epoch": 2}, {"number": 2},
    ]  # fmt: skip
    assert len({c.ceremony_id(**(parts | change)) for change in changes}) == len(changes)


@pytest.mark.parametrize(
    "change", [{"base": b"short"}, {"contract": b"short"}, {"term": -1}, {"number": 2**64}, {"master_epoch": 2**64}]
)
def test_an_id_is_made_of_whole_values(change: dict[str, Any]) -> None:
    parts: dict[str, Any] = {"base": word("b"), "contract": word("c", 20), "term": 1, "master_epoch": 1, "number": 1}
    with pytest.raises(CloisterError):
        c.ceremony_id(kind=Kind.FOUND, **(parts | change))


# --- the committee that is still to be ---


def test_before_there_is_a_committee_its_seats_are_the_receivers() -> None:
    memory, shown = Memory(), view()
    assert f.read_seats(memory, LAYOUT).members == ()
    store(memory, shown)
    seats = f.read_seats(memory, LAYOUT)
    assert (seats.term, seats.threshold, seats.members) == (0, 3, shown.receivers)


def test_candidates_and_their_words_are_those_of_the_members() -> None:
    memory, member = Memory(), word("member", 20)
    place = LAYOUT.variable("_candidates")
    base = mapping_slot(place.slot, address_key(member))
    fields = LAYOUT.fields(LAYOUT.value_type(place))
    for name in ("operator", "vendorClass", "dkgKey", "evidenceHash"):
        memory.put(base, fields[name], word(name, 20 if name == "operator" else 32))
    memory.words[add(base, fields["endpoint"].slot)] = int.from_bytes(b"x".ljust(31, b"\0") + b"\2", "big")
    (found,) = f.read_candidates(memory, LAYOUT, [member])
    assert found is not None
    assert (found.dkg_key, found.endpoint, found.operator) == (word("dkgKey"), "x", word("operator", 20))
