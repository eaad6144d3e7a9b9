"""The embedding model: real weights, so meaning is what is tested."""

from __future__ import annotations

import functools
import importlib.util
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.errors import ConfigError
from cloister.devnet.model import encoder as module
from cloister.devnet.model.encoder import DIMENSIONS, MAX_TOKENS, Encoder, find_model


@functools.cache
def encoder() -> Encoder:
    return Encoder(find_model())


def similarity(one: str, other: str) -> float:
    a, b = encoder().encode([one, other]).vectors
    return float(a @ b)


RELATED = {
    "How do I feed the sourdough starter?": (
        "The bread starter needs flour every Friday.",
        "File the tax return by April.",
    ),
    "A man is eating food.": ("A man is eating a piece of bread.", "A cheetah chases its prey."),
    "Where is the spare key?": ("The extra key lies under the flowerpot.", "Interest rates rose by a quarter point."),
    "The cat sleeps on the sofa.": ("A kitten naps on the couch.", "The compiler reports a type error."),
}


@pytest.mark.parametrize("question", RELATED)
def test_related_sentences_lie_closer_than_unrelated_ones(question: str) -> None:
    near, far = RELATED[question]
    assert similarity(question, near) > 0.35 > similarity(question, far)


def test_known_cosines_of_the_model_card_family() -> None:
    # Measured with the reference recipe when this encoder was chosen: related 0.61, unrelated 0.07.
    assert similarity("That is a happy person", "That is a very happy person") > 0.9
    assert similarity("That is a happy person", "Today is a sunny day") < 0.4


def test_vectors_are_finite_unit_and_of_the_models_size() -> None:
    encoded = encoder().encode(["one", "two words", "ü ☃ 漢字", "x" * 500])
    assert encoded.vectors.shape == (4, DIMENSIONS)
    assert encoded.vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(encoded.vectors, axis=1), 1, atol=1e-5)


def test_the_batch_that_a_text_is_in_changes_nothing() -> None:
    texts = ["short", "a somewhat longer sentence about bread and salt", "mid size text", "word " * 60, "last"]
    together = encoder().encode(texts).vectors
    alone = np.concatenate([encoder().encode([text]).vectors for text in texts])
    assert np.allclose(together, alone, atol=2e-5)


def test_order_is_kept_and_tokens_are_counted() -> None:
    encoded = encoder().encode(["word " * 300, "hi"])
    assert encoded.tokens == [MAX_TOKENS, 3]
    assert np.allclose(encoded.vectors[1], encoder().encode(["hi"]).vectors[0], atol=2e-5)


@settings(max_examples=8, deadline=None)
@given(st.text(min_size=1, max_size=60).filter(lambda text: text.isprintable()))
def test_any_text_has_a_unit_vector(text: str) -> None:
    vector = encoder().encode([text]).vectors[0]
    assert np.isfinite(vector).all()
    assert abs(float(np.linalg.norm(vector)) - 1) < 1e-4


def test_the_error_function_is_exact_enough() -> None:
    points = np.linspace(-6, 6, 4001, dtype=np.float32)
    exact = np.array([math.erf(float(x)) for x in points])
    assert np.abs(module._erf(points) - exact).max() < 1e-6


def test_a_missing_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        find_model()
    assert caught.value.code == "devnet.no_model"
