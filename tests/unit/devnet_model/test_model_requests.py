"""Bodies that the model server parses: garbage gets OpenAI's refusal, never another exception."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.devnet.model.encoder import MODEL
from cloister.devnet.model.server import RefusedError, parse

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3)
)


@given(st.binary(max_size=120))
def test_garbage_is_refused_in_openais_words(body: bytes) -> None:
    with pytest.raises(RefusedError):
        parse(body)


@given(st.dictionaries(st.sampled_from(["input", "encoding_format", "dimensions", "user"]), JSON))
def test_any_fields_give_texts_or_a_refusal(fields: dict[str, Any]) -> None:
    try:
        wanted = parse(json.dumps({"model": MODEL, **fields}).encode())
    except RefusedError as refusal:
        assert refusal.response().status == 400  # noqa: PT017
        return
    assert wanted.texts
    assert all(isinstance(text, str) and text for text in wanted.texts)


def test_one_text_and_many_are_the_same_form() -> None:
    assert parse(json.dumps({"model": MODEL, "input": "a"}).encode()).texts == ["a"]
    assert parse(json.dumps({"model": MODEL, "input": ["a", "b"]}).encode()).texts == ["a", "b"]
    assert parse(json.dumps({"model": MODEL, "input": "a", "encoding_format": "base64"}).encode()).as_base64


def test_nesting_without_end_is_refused() -> None:
    with pytest.raises(RefusedError):
        parse(b"[" * 100_000)
