"""The ABI coder against eth-abi: same bytes, the same values back, and nothing else accepted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from eth_abi.abi import decode as oracle_decode
from eth_abi.abi import encode as oracle_encode
from hypothesis import assume, given
from hypothesis import strategies as st

from cloister.chain import abi
from cloister.chain.contracts import artifact, names
from cloister.core.errors import ChainError, CloisterError

Item = dict[str, Any]
WORD = 32


def item(kind: str, components: Sequence[Item] = ()) -> Item:
    return {"type": kind, "name": "", **({"components": list(components)} if components else {})}


def tuple_of(parts: Sequence[Item]) -> Item:
    return item("tuple", [{**part, "name": f"f{i}"} for i, part in enumerate(parts)])


SIMPLE = st.one_of(
    st.sampled_from(["address", "bool", "bytes", "string"]),
    st.integers(1, 32).map("bytes{}".format),
    st.builds("{}{}".format, st.sampled_from(["uint", "int"]), st.integers(1, 32).map(lambda n: 8 * n)),
).map(item)
ITEMS = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.builds(lambda i, n: {**i, "type": f"{i['type']}[{n}]"}, inner, st.sampled_from(["", "1", "2", "3"])),
        st.lists(inner, min_size=1, max_size=3).map(tuple_of),
    ),
    max_leaves=5,
)


def numbers(kind: str) -> st.SearchStrategy[int]:
    signed, bits = kind[0] == "i", int(kind.removeprefix("u").removeprefix("int"))
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return st.integers(low, high) | st.sampled_from([low, high])


def values(of: Item) -> st.SearchStrategy[Any]:
    """Values of a type in this house's form."""
    kind = str(of["type"])
    if kind.endswith("]"):
        head, _, count = kind[:-1].rpartition("[")
        element = values({**of, "type": head})
        return st.lists(element, min_size=int(count or 0), max_size=int(count or 3))
    if kind == "tuple":
        return st.fixed_dictionaries({c["name"]: values(c) for c in of["components"]})
    if kind.startswith(("uint", "int")):
        return numbers(kind)
    if kind.startswith("bytes") and kind != "bytes":
        size = int(kind[5:])
        return st.binary(min_size=size, max_size=size)
    plain: dict[str, st.SearchStrategy[Any]] = {
        "address": st.binary(min_size=20, max_size=20),
        "bool": st.booleans(),
        "bytes": st.binary(max_size=70),
        "string": st.text(max_size=40),
    }
    return plain[kind]


def foreign(of: Item, value: Any) -> Any:
    """The same value in eth-abi's form: tuples by place."""
    kind = str(of["type"])
    if kind.endswith("]"):
        inner = {**of, "type": kind[: kind.rindex("[")]}
        return [foreign(inner, v) for v in value]
    if kind == "tuple":
        return tuple(foreign(c, value[c["name"]]) for c in of["components"])
    return value


@st.composite
def rows(draw: st.DrawFn) -> tuple[list[Item], list[Any]]:
    items = draw(st.lists(ITEMS, max_size=4))
    return items, [draw(values(i)) for i in items]


def types(items: Sequence[Item]) -> list[abi.Type]:
    return [abi.parse(i) for i in items]


def encoded(items: Sequence[Item], row: Sequence[Any]) -> bytes:
    return abi.encode(types(items), row)


def texts(items: Sequence[Item]) -> list[str]:
    return [t.text for t in types(items)]


@given(rows())
def test_bytes_are_those_of_eth_abi(row: tuple[list[Item], list[Any]]) -> None:
    items, own = row
    assert encoded(items, own) == oracle_encode(texts(items), [foreign(i, v) for i, v in zip(items, own, strict=True)])


@given(rows())
def test_what_is_encoded_decodes_to_itself(row: tuple[list[Item], list[Any]]) -> None:
    items, own = row
    assert abi.decode(types(items), encoded(items, own)) == own


@given(st.lists(ITEMS, max_size=3), st.binary(max_size=400))
def test_garbage_decodes_only_if_it_is_canonical(items: list[Item], data: bytes) -> None:
    try:
        found = abi.decode(types(items), data)
    except CloisterError:
        return
    assert encoded(items, found) == data


@given(rows(), st.data())
def test_a_flipped_byte_never_yields_the_same_values(row: tuple[list[Item], list[Any]], data: st.DataObject) -> None:
    items, own = row
    made = bytearray(encoded(items, own))
    assume(made)
    made[data.draw(st.integers(0, len(made) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = abi.decode(types(items), bytes(made))
    except CloisterError:
        return
    assert found != own
    assert encoded(items, found) == made


@given(rows(), st.data())
def test_words_that_point_elsewhere_are_refused_or_canonical(
    row: tuple[list[Item], list[Any]], data: st.DataObject
) -> None:
    """Hostile structure: any word replaced by a number that may be an offset or a length."""
    items, own = row
    made = encoded(items, own)
    assume(made)
    at = WORD * data.draw(st.integers(0, len(made) // WORD - 1))
    word = data.draw(st.integers(0, len(made) + 64) | st.sampled_from([2**64, 2**255, 2**256 - 32]))
    changed = made[:at] + word.to_bytes(WORD, "big") + made[at + WORD :]
    try:
        found = abi.decode(types(items), changed)
    except CloisterError:
        return
    assert encoded(items, found) == changed


@given(rows(), st.data())
def test_what_we_accept_eth_abi_reads_alike(row: tuple[list[Item], list[Any]], data: st.DataObject) -> None:
    items, own = row
    made = bytearray(encoded(items, own))
    assume(made)
    made[data.draw(st.integers(0, len(made) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = abi.decode(types(items), bytes(made))
    except CloisterError:
        return
    theirs = oracle_decode(texts(items), bytes(made))
    again = oracle_encode(texts(items), [foreign(i, v) for i, v in zip(items, found, strict=True)])
    assert oracle_encode(texts(items), theirs) == again


@given(rows(), st.binary(min_size=1, max_size=40))
def test_cut_or_followed_data_is_refused(row: tuple[list[Item], list[Any]], more: bytes) -> None:
    items, own = row
    made = encoded(items, own)
    for other in (made + more, made[: -len(more)]):
        if other != made:
            with pytest.raises(ChainError):
                abi.decode(types(items), other)


def words(*parts: int | str) -> bytes:
    """Words from numbers; texts are hex, filled with zeros on the right."""
    return b"".join(
        p.to_bytes(WORD, "big") if isinstance(p, int) else bytes.fromhex(p).ljust(WORD, b"\0") for p in parts
    )


PAIR = tuple_of([item("uint256"), item("string")])


@pytest.mark.parametrize(
    ("why", "items", "data"),
    [
        ("nothing where a word should be", [item("uint256")], b""),
        ("half a word", [item("uint256")], bytes(16)),
        ("a word too many", [item("uint256")], bytes(64)),
        ("a uint8 of 256", [item("uint8")], words(256)),
        ("an int8 of 128", [item("int8")], words(128)),
        ("an int8 of -129", [item("int8")], words(2**256 - 129)),
        ("an int8 whose sign is not carried on", [item("int8")], words(0xFF)),
        ("a bool of two", [item("bool")], words(2)),
        ("an address of 21 bytes", [item("address")], words(1 << 160)),
        ("a bytes4 with a fifth byte", [item("bytes4")], words("0102030405")),
        ("bytes with dirt in the padding", [item("bytes")], words(32, 1, "0102")),
        ("bytes without their padding", [item("bytes")], words(32, 1) + b"\1"),
        ("bytes with a word of padding too much", [item("bytes")], words(32, 1, "01", 0)),
        ("a length over all memory", [item("bytes")], words(32, 2**256 - 1)),
        ("a text that is not UTF-8", [item("string")], words(32, 1, "ff")),
        ("a text of half a character", [item("string")], words(32, 1, "c3")),
        ("an offset into itself", [item("bytes")], words(0)),
        ("an offset behind a gap", [item("bytes")], words(64, 0, 0)),
        ("an offset beyond the end", [item("bytes")], words(2**255)),
        ("two values in one place", [item("bytes"), item("bytes")], words(64, 64, 1, "01")),
        ("values in another order", [item("bytes"), item("bytes")], words(96, 64, 0, 0)),
        ("a list of more than can follow", [item("uint8[]")], words(32, 2, 1)),
        ("a list of 2^200 elements", [item("uint8[]")], words(32, 2**200, 1)),
        ("a list of 2^200 lists", [item("uint8[][]")], words(32, 2**200, 1)),
        ("a list that points at itself", [item("uint8[][]")], words(32, 1, 0)),
        ("a tuple cut in its head", [PAIR], words(32, 1)),
        ("a tuple whose tail is missing", [PAIR], words(32, 1, 64)),
    ],
)
def test_refused_spellings(why: str, items: list[Item], data: bytes) -> None:
    with pytest.raises(ChainError) as caught:
        abi.decode(types(items), data)
    assert caught.value.code == "chain.bad_answer", why


def test_the_size_cap_holds_before_any_work() -> None:
    most = types([item("uint8[]")])
    full = abi.encode(most, [[0] * (abi.MAX_DATA // WORD - 2)])
    assert len(full) == abi.MAX_DATA
    assert len(abi.decode(most, full)[0]) == abi.MAX_DATA // WORD - 2
    with pytest.raises(ChainError):
        abi.decode(most, full + bytes(WORD))


@pytest.mark.parametrize(
    "kind",
    [
        "uint", "int", "uint0", "uint7", "uint264", "uint08", "int512", "bytes0", "bytes33", "bytes01", "fixed128x18",
        "function", "uint8[0]", "uint8[-1]", "uint8[99999]", "uint8[", "[]", "", "(uint8)", "tuple()", "uint8 ",
        "uint٣2",
    ],
)  # fmt: skip
def test_types_that_there_are_not(kind: str) -> None:
    with pytest.raises(TypeError):
        abi.parse(item(kind))


def test_a_tuple_of_nothing_is_no_type() -> None:
    with pytest.raises(TypeError):
        abi.parse({"type": "tuple", "components": []})


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("uint8", 256), ("uint8", -1), ("uint8", True), ("uint8", "1"), ("int8", 128), ("int8", -129), ("bool", 1),
        ("address", b"\1" * 19), ("address", "0x" + "11" * 20), ("bytes4", b"\1" * 3), ("bytes4", b"\1" * 5),
        ("bytes", "text"), ("string", b"bytes"), ("uint8[]", b"\1\2"), ("uint8[]", 1), ("uint8[2]", [1]),
        ("uint8[2]", [1, 2, 3]), ("uint8[]", [256]),
    ],
)  # fmt: skip
def test_values_that_a_type_does_not_have(kind: str, value: Any) -> None:
    with pytest.raises(TypeError):
        abi.encode([abi.parse(item(kind))], [value])


def test_tuples_from_dicts_sequences_and_dataclasses() -> None:
    @dataclasses.dataclass
    class Pair:
        other_name: int
        text: str

    kind = [abi.parse(PAIR)]
    forms: list[Any] = [{"f1": "x", "f0": 7}, (7, "x"), [7, "x"], Pair(7, "x")]
    assert len({abi.encode(kind, [form]) for form in forms}) == 1
    refused: list[Callable[[], bytes]] = [
        lambda: abi.encode(kind, [(7,)]),
        lambda: abi.encode(kind, [7]),
        lambda: abi.encode(kind, []),
        lambda: abi.encode(kind, [Pair]),
    ]
    for mistake in refused:
        with pytest.raises(TypeError):
            mistake()


@pytest.mark.parametrize("name", names())
def test_every_type_of_our_contracts_is_known(name: str) -> None:
    for entry in artifact(name).abi:
        for part in [*entry.get("inputs", ()), *entry.get("outputs", ())]:
            kind = abi.parse(part)
            assert kind.head % WORD == 0
            assert kind.dynamic or kind.head >= WORD


def test_which_indexed_fields_are_hashes() -> None:
    hashed = [item("bytes"), item("string"), item("uint8[]"), item("uint8[2]"), tuple_of([item("uint8")])]
    assert not any(t.is_value for t in types(hashed))
    assert all(abi.parse(item(k)).is_value for k in ("uint8", "int256", "address", "bool", "bytes32"))
