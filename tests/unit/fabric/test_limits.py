"""The embedded fabric's checks of what comes in, one by one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.errors import CloisterError, FabricError
from cloister.fabric.embedded.limits import MAX_TX, check_name, check_prefix, check_range, check_tx
from cloister.fabric.ports import MAX_VALUE, Expect, Job, Put, Rev, Tx

ALLOWED = set("abcdefghijklmnopqrstuvwxyz0123456789.")


@given(st.text(max_size=140))
def test_a_name_is_accepted_exactly_when_it_has_the_form(text: str) -> None:
    good = 1 <= len(text) <= 128 and set(text) <= ALLOWED and text[0] != "."
    try:
        assert check_name("a key", text) == text
    except FabricError:
        assert not good
    else:
        assert good


@pytest.mark.parametrize("value", [None, 7, b"bytes", ["a"], "a\n"])
def test_what_is_no_text_is_no_name_and_no_prefix(value: object) -> None:
    with pytest.raises(FabricError) as caught:
        check_name("a key", value)
    assert caught.value.code == "fabric.bad_name"
    with pytest.raises(FabricError) as caught:
        check_prefix(value)
    assert caught.value.code == "fabric.bad_name"


def test_a_prefix_may_be_empty_or_start_with_a_dot() -> None:
    assert [check_prefix(p) for p in ("", ".", "b.")] == ["", ".", "b."]


@pytest.mark.parametrize("value", [-1, 11, float("nan"), float("inf"), -float("inf"), True, "5", None])
def test_a_number_out_of_range_or_of_another_type_is_refused(value: Any) -> None:
    with pytest.raises(FabricError) as caught:
        check_range("n", value, 0, 10)
    assert caught.value.code == "fabric.bad_limit"


def test_the_ends_of_a_range_are_in_it() -> None:
    assert [check_range("n", v, 0, 10) for v in (0, 10, 2.5)] == [0, 10, 2.5]


def put(value: bytes | None) -> Put:
    return Put(value, Expect.ANY)


TRANSACTIONS: dict[str, tuple[Tx, str]] = {
    "an id with a slash": (Tx("a/b", {}), "fabric.bad_name"),
    "an id that is too long": (Tx("a" * 129, {}), "fabric.bad_name"),
    "a key with a star": (Tx("t", {"*": put(b"")}), "fabric.bad_name"),
    "a queue in capitals": (Tx("t", {}, (Job("Q", b""),)), "fabric.bad_name"),
    "513 puts": (Tx("t", {f"k{n}": put(None) for n in range(513)}), "fabric.bad_limit"),
    "65 jobs": (Tx("t", {}, tuple(Job("q", b"") for _ in range(65))), "fabric.bad_limit"),
    "a job in the far future": (Tx("t", {}, (Job("q", b"", 2**41),)), "fabric.bad_limit"),
    "a fence below one": (Tx("t", {}, fence=-1), "fabric.bad_limit"),
    "a value over its cap": (Tx("t", {"k": put(bytes(MAX_VALUE + 1))}), "fabric.too_large"),
    "a job over its cap": (Tx("t", {}, (Job("q", bytes(MAX_VALUE + 1)),)), "fabric.too_large"),
    "too much in all": (Tx("t", {f"k{n}": put(bytes(MAX_VALUE)) for n in range(33)}), "fabric.too_large"),
}


@pytest.mark.parametrize("case", TRANSACTIONS)
def test_a_transaction_is_refused_with(case: str) -> None:
    tx, code = TRANSACTIONS[case]
    with pytest.raises(CloisterError) as caught:
        check_tx(tx)
    assert caught.value.code == code


def test_a_transaction_at_its_caps_is_accepted_and_weighed() -> None:
    full = Tx("t-1", {f"k{n}": put(bytes(MAX_VALUE)) for n in range(32)})
    assert check_tx(full) == MAX_TX
    assert check_tx(Tx("t", {f"k{n}": put(None) for n in range(512)}, tuple(Job("q", b"1") for _ in range(64)))) == 64


BAD_PUTS: list[tuple[Any, Any]] = [
    ("text", Expect.ANY),
    (bytearray(1), Rev("1")),
    (b"", None),
    (b"", "absent"),
]


@pytest.mark.parametrize(("value", "expect"), BAD_PUTS)
def test_a_put_of_another_type_is_our_mistake(value: Any, expect: Any) -> None:
    with pytest.raises(TypeError):
        check_tx(Tx("t", {"k": Put(value, expect)}))
