"""A ceremony in words: every phase says what it means, and who is waited for in it."""

from __future__ import annotations

import pytest

from cloister.core.threshold.facts import Confirmation, Facts, Fault, bits_of
from cloister.core.threshold.phases import Phase
from cloister.core.threshold.words import MEANS, missing

DIGEST = bytes(32)
WORD = Confirmation(bytes(96), bytes(32), bits_of((1, 2, 3)))
COMMITTED = {1: DIGEST, 3: DIGEST}
ACCUSED = Facts(
    committed={1: DIGEST, 2: DIGEST, 3: DIGEST},
    complaints={(1, 2): Fault.NOT_SHOWN, (2, 1): Fault.BAD_SHARE, (2, 3): Fault.BAD_SHARE},
    published=frozenset({2}),
    opened={(2, 1): bytes(32)},
    content=frozenset({1}),
)
CASES: dict[str, tuple[Facts, Phase, list[str]]] = {
    "dealers that committed nothing are waited for": (
        Facts(committed=COMMITTED),
        Phase.COMMIT,
        ["the digest of dealer 2"],
    ),
    "all committed": (Facts(committed={**COMMITTED, 2: DIGEST}), Phase.COMMIT, []),
    "receivers that have not said a word": (
        ACCUSED,
        Phase.SHOW,
        ["the word of receiver 2", "the word of receiver 3"],
    ),
    "accused dealers that did not publish": (ACCUSED, Phase.PUBLISH, ["the dealing of dealer 1"]),
    "nobody who is late while nothing late was published": (ACCUSED, Phase.OBJECT, []),
    "shares that are not open": (
        ACCUSED,
        Phase.ANSWER,
        ["the share of receiver 3 from dealer 2", "2 shares were called bad"],
    ),
    "nothing to answer": (Facts(committed=COMMITTED), Phase.ANSWER, []),
    "receivers that did not confirm": (
        Facts(confirmed={2: WORD}),
        Phase.CONFIRM,
        ["the confirmation of receiver 1", "the confirmation of receiver 3"],
    ),
    "nobody when it is done": (Facts(), Phase.DONE, []),
    "nobody when it failed": (ACCUSED, Phase.FAILED, []),
}


@pytest.mark.parametrize("sentence", CASES)
def test_waited_for(sentence: str) -> None:
    facts, phase, said = CASES[sentence]
    assert missing(3, 3, facts, phase) == said


def test_who_sees_a_dealing_late_is_waited_for() -> None:
    late = Facts(
        committed={1: DIGEST}, complaints={(1, 2): Fault.NOT_SHOWN, (1, 3): Fault.NOT_SHOWN}, published=frozenset({1})
    )
    assert missing(3, 3, late, Phase.OBJECT) == ["the word of receiver 2", "the word of receiver 3"]
    settled = Facts(
        committed=late.committed, complaints=late.complaints, published=late.published, settled=frozenset({2})
    )
    assert missing(3, 3, settled, Phase.OBJECT) == ["the word of receiver 3"]


def test_in_a_resharing_dealers_and_receivers_are_counted_apart() -> None:
    assert missing(5, 2, Facts(), Phase.COMMIT) == [f"the digest of dealer {i}" for i in range(1, 6)]
    assert missing(5, 2, Facts(), Phase.CONFIRM) == [f"the confirmation of receiver {j}" for j in (1, 2)]


def test_every_phase_has_its_meaning() -> None:
    assert set(MEANS) == set(Phase)
    assert len(set(MEANS.values())) == len(MEANS)
