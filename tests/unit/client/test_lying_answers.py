"""Every field of every answer spoiled, one at a time: the client refuses by name, or believes nothing new.

The gateway and its chain relay are asked in this process, so that hundreds of lies cost seconds. What is compared is
the *resolution*: if a spoiled answer is not refused, the record, the seats and the checkpoint that came out must be
exactly those of the honest answers.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from cloister.client.resolve import Resolution
from cloister.core.errors import CloisterError
from support.direct_gateway import Direct, Spoil, Stage, make_stage

Path_ = tuple[str | int, ...]


@pytest.fixture(scope="module")
def stage() -> Stage:
    return make_stage()


def leaves(value: Any, at: Path_ = ()) -> Iterator[Path_]:
    """Every place in a JSON value, containers included, the value itself excluded."""
    items: Sequence[tuple[str | int, Any]] = ()
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for name, inner in items:
        yield (*at, name)
        yield from leaves(inner, (*at, name))


def first_of(answer: Any) -> Iterator[Path_]:
    """The places of an answer; of a list of seats only those of the first."""
    yield from (at for at in leaves(answer) if not isinstance(answer, list) or at[0] == 0)


def changed(value: Any) -> Any:
    """Something of the same type that says something else."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, str) and value.startswith("0x") and len(value) > 2:
        digit = "0" if value[-1] != "0" else "1"
        return value[:-1] + digit
    if isinstance(value, str):
        return value + "x"
    return [value]


def another_type(value: Any, turn: int) -> Any:
    """Nothing, a huge number, a deep list, an empty text: one after the other over the places."""
    return (None, 1 << 300, [[[[value]]]], "")[turn % 4]


def put(answer: Any, at: Path_, value: Any) -> Any:
    """A copy with one place replaced."""
    made = copy.deepcopy(answer)
    place = made
    for name in at[:-1]:
        place = place[name]
    place[at[-1]] = value
    return made


def look(answer: Any, at: Path_) -> Any:
    for name in at:
        answer = answer[name]
    return answer


def outcome(stage: Stage, spoil: Spoil) -> Resolution | str:
    """The resolution, or the code of the refusal. Anything else than a CloisterError fails the test."""
    try:
        return stage.resolve(spoil)
    except CloisterError as error:
        return error.code if error.expected and error.remedy else "an error without a word"


def same(one: Resolution, other: Resolution) -> bool:
    return (one.record, one.checkpoint, one.network) == (other.record, other.checkpoint, other.network) and all(
        sitting in other.sittings for sitting in one.sittings
    )


def honest_answers(stage: Stage, ends_in: str = "") -> dict[str, list[Any]]:
    """What an honest gateway says, by kind; ``ends_in``: the refusal that follows from it."""
    seen: dict[str, list[Any]] = {}

    def note(kind: str, answer: Any) -> Any:
        seen.setdefault(kind, []).append(answer)
        return answer

    found = outcome(stage, note)
    assert found == ends_in if ends_in else isinstance(found, Resolution)
    return seen


def test_the_honest_answers_resolve_to_two_seats(stage: Stage) -> None:
    seen = honest_answers(stage)
    assert set(seen) == {"checkpoint", "seats", "eth_getProof", "eth_call"}
    assert {s.vendor for s in stage.resolve().sittings} == {"intel", "amd"}


@pytest.mark.parametrize("lie", ["another value", "another type"])
@pytest.mark.parametrize("kind", ["checkpoint", "seats"])
def test_a_spoiled_place_is_refused_or_changes_nothing(kind: str, lie: str, stage: Stage) -> None:
    """Seats: one spoiled seat is left out and the other serves; a spoiled checkpoint is always refused."""
    honest, answer = stage.resolve(), honest_answers(stage)[kind][0]
    for turn, at in enumerate(first_of(answer)):
        value = look(answer, at)
        spoiled = put(answer, at, changed(value) if lie == "another value" else another_type(value, turn))
        if spoiled == answer:
            continue
        found = outcome(stage, lambda k, a, s=spoiled: s if k == kind else a)  # type: ignore[misc]
        if isinstance(found, str):
            continue
        assert kind == "seats", at
        assert same(found, honest), at
        assert len(found.sittings) == 1, at


@pytest.mark.parametrize("change", ["left out", "added"])
@pytest.mark.parametrize("kind", ["checkpoint", "seats"])
def test_a_field_left_out_or_added_is_refused(kind: str, change: str, stage: Stage) -> None:
    answer = honest_answers(stage)[kind][0]
    for at in [(), *first_of(answer)]:
        inner = look(answer, at)
        if not isinstance(inner, dict):
            continue
        versions = [{**inner, "more": 1}] if change == "added" else [_without(inner, name) for name in inner]
        for version in versions:
            spoiled = put(answer, at, version) if at else version
            found = outcome(stage, lambda k, a, s=spoiled: s if k == kind else a)  # type: ignore[misc]
            assert isinstance(found, str) or (kind == "seats" and len(found.sittings) == 1), (at, change)


def _without(value: dict[str, Any], name: str) -> dict[str, Any]:
    return {k: v for k, v in value.items() if k != name}


def proof_places(answer: Any) -> Iterator[Path_]:
    """The places of one eth_getProof answer that the client reads: one account node, all of the storage."""
    yield ("accountProof", len(answer["accountProof"]) - 1)
    for i, entry in enumerate(answer["storageProof"]):
        yield ("storageProof", i, "value")
        yield from (("storageProof", i, "proof", j) for j in range(len(entry["proof"])))


def test_no_word_of_a_proof_can_be_changed(stage: Stage) -> None:
    """Each account node, storage node and claimed value of each proof, one bit each: refused, or an unread detail."""
    honest = stage.resolve()
    for number, answer in enumerate(honest_answers(stage)["eth_getProof"]):
        for at in proof_places(answer):
            spoiled = put(answer, at, changed(look(answer, at)))
            left = [number]

            def lie(kind: str, given: Any, spoiled: Any = spoiled, left: list[int] = left) -> Any:
                if kind != "eth_getProof":
                    return given
                left[0] -= 1
                return spoiled if left[0] == -1 else given

            found = outcome(stage, lie)
            if not isinstance(found, str):
                assert same(found, honest), (number, at)
                assert len(found.sittings) == 1, "a worker's own proof: the other seat serves"


def test_proofs_of_another_contract_or_fewer_slots_are_refused(stage: Stage) -> None:
    for spoil in (
        lambda k, a: {**a, "storageProof": a["storageProof"][:-1]} if k == "eth_getProof" else a,
        lambda k, a: {**a, "storageProof": a["storageProof"] * 2} if k == "eth_getProof" else a,
        lambda k, a: {**a, "accountProof": a["accountProof"][:-1]} if k == "eth_getProof" else a,
        lambda k, a: {**a, "accountProof": a["accountProof"] * 200} if k == "eth_getProof" else a,
        lambda k, a: {**a, "storageProof": [[] for _ in a["storageProof"]]} if k == "eth_getProof" else a,
        lambda k, a: [a] if k == "eth_getProof" else a,
    ):
        assert isinstance(outcome(stage, spoil), str)


def test_the_newest_block_may_restrict_and_never_permit(stage: Stage) -> None:
    """``eth_call`` is unproven. Whatever it says, nothing becomes callable that the proofs forbid."""
    honest = stage.resolve()
    refused = 0
    for answer in set(honest_answers(stage)["eth_call"]):
        for at in range(2, len(answer), 64):
            word = answer[:at] + "0" * 63 + "1" + answer[at + 64 :]
            found = outcome(stage, lambda k, a, s=(answer, word): s[1] if k == "eth_call" and a == s[0] else a)  # type: ignore[misc]
            if isinstance(found, str):
                refused += 1
            else:
                assert same(found, honest)
    assert refused
    running = honest_answers(stage)["eth_call"][0]
    stage.world.set_agent(paused=True)
    stage.world.mine()
    try:
        calls = [a for a in honest_answers(stage, "policy.paused")["eth_call"] if a != running]
        assert calls, "the honest newest block says that it is paused"
        assert outcome(stage, lambda k, a: running if k == "eth_call" else a) == "policy.paused"
    finally:
        stage.world.set_agent(paused=False)
        stage.world.mine()
        stage.gateway.offer(stage.agent)


@pytest.mark.parametrize("garbage", [None, [], {}, "", 0, True, [1, 2], {"seats": []}], ids=repr)
@pytest.mark.parametrize("kind", ["checkpoint", "eth_getProof", "eth_call"])
def test_an_answer_of_another_form_is_refused(kind: str, garbage: Any, stage: Stage) -> None:
    assert isinstance(outcome(stage, lambda k, a: garbage if k == kind else a), str)


def test_a_resolver_asks_for_no_more_than_it_needs(stage: Stage) -> None:
    """One checkpoint, one list of seats, one unproven look per agent and worker; proofs in few rounds."""
    door = Direct(stage.gateway)
    asyncio.run(stage.resolver(door).resolve(stage.agent))
    counts = {kind: door.asked.count(kind) for kind in set(door.asked)}
    assert counts["seats"] == 1
    assert counts["checkpoint"] <= 3
    assert counts["eth_call"] == 3
    assert counts["eth_getProof"] <= 14


def test_more_seats_than_the_cap_are_not_looked_at(stage: Stage) -> None:
    """64 bad seats in front of a good one: it is not reached. The cap bounds the work, not the safety."""
    good = stage.gateway.seats[stage.agent]
    flood = [{"certificate": i} for i in range(64)]
    found = outcome(stage, lambda k, a: [*flood, *good] if k == "seats" else a)
    assert isinstance(found, str)
    assert isinstance(outcome(stage, lambda k, a: [*flood[:62], *good] if k == "seats" else a), Resolution)
