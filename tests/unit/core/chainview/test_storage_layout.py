"""Storage layout: places, packing, mappings, against values that the Solidity documentation and compiler give."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.chainview.layout import Layout, Place, add, address_key, data_slot, mapping_slot
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import CloisterError

PLAIN = {
    "storage": [
        {"label": "number", "slot": 0, "offset": 0, "type": "t_uint256"},
        {"label": "small", "slot": 1, "offset": 20, "type": "t_uint64"},
        {"label": "table", "slot": 2, "offset": 0, "type": "t_mapping"},
    ],
    "types": {
        "t_uint256": {"encoding": "inplace", "bytes": 32},
        "t_uint64": {"encoding": "inplace", "bytes": 8},
        "t_bool": {"encoding": "inplace", "bytes": 1},
        "t_mapping": {"encoding": "mapping", "bytes": 32, "key": "t_bytes32", "value": "t_struct"},
        "t_struct": {
            "encoding": "inplace",
            "bytes": 96,
            "members": [
                {"label": "a", "slot": 0, "offset": 0, "type": "t_uint64"},
                {"label": "b", "slot": 0, "offset": 8, "type": "t_bool"},
                {"label": "c", "slot": 1, "offset": 0, "type": "t_uint256"},
            ],
        },
    },
}


def test_variables_and_fields_have_places() -> None:
    layout = Layout(PLAIN)
    assert layout.variable("small") == Place(1, 20, 8, "t_uint64")
    table = layout.variable("table")
    assert layout.value_type(table) == "t_struct"
    assert layout.words("t_struct") == 3
    assert layout.fields("t_struct")["b"] == Place(0, 8, 1, "t_bool")


@given(st.integers(0, 31), st.integers(1, 32), st.integers(0, 2**256 - 1))
def test_a_place_takes_its_own_bytes(offset: int, size: int, word: int) -> None:
    size = min(size, 32 - offset)
    raw = word.to_bytes(32, "big")
    expected = raw[32 - offset - size : 32 - offset]
    assert Place(0, offset, size, "t").of(word) == int.from_bytes(expected, "big")


def test_hashed_slots_as_the_compiler_computes_them() -> None:
    key = b"\x01" * 32
    assert mapping_slot(5, key) == int.from_bytes(keccak256(key + (5).to_bytes(32, "big")), "big")
    # keccak256 of 32 zero bytes: the well-known start of the data of an array at slot 0.
    assert hex(data_slot(0)) == "0x290decd9548b62a8d60345a988386fc84ba6bc95484008f6362f93160ef3e563"
    assert address_key(b"\x02" * 20) == bytes(12) + b"\x02" * 20
    assert add(2**256 - 1, 2) == 1


@pytest.mark.parametrize("name", ["nothing", ""])
def test_unknown_names_are_a_programmers_mistake(name: str) -> None:
    with pytest.raises(RuntimeError):
        Layout(PLAIN).variable(name)
    with pytest.raises(RuntimeError):
        Layout(PLAIN).fields("t_uint256")
    with pytest.raises(RuntimeError):
        Layout(PLAIN).fields(name)


@pytest.mark.parametrize("key", [b"\1" * 31, b"\1" * 33, b""])
def test_keys_have_32_bytes(key: bytes) -> None:
    with pytest.raises(CloisterError):
        mapping_slot(0, key)
    with pytest.raises(CloisterError):
        address_key(key)
