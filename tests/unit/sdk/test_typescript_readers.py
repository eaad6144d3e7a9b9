"""Two readers of the same bytes, Python's and TypeScript's: what one takes the other takes, and understands alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.core.chainview import rlp
from cloister.core.encoding import jcs
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.network import Network
from cloister.core.errors import CloisterError
from cloister.core.receipts.receipt import Receipt
from support.typescript import SDK, Driver

VECTORS = SDK.parents[1] / "spec" / "vectors"
RECEIPT: bytes = json.loads((VECTORS / "sealed-http.json").read_text())["calls"][0]["answer"]["receipt"].encode()
NETWORK: bytes = json.loads((VECTORS / "chainview.json").read_text())["network"].encode()
READERS: dict[str, Callable[[bytes], bytes]] = {
    "jcs": lambda data: jcs.encode(jcs.decode(data)),
    "rlp": lambda data: rlp.encode(rlp.decode(data)),
    "receipt": lambda data: Receipt.decode(data).id,
    "network": lambda data: Network.parse(data).id,
}
FEW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TEXT = st.text(st.characters(exclude_categories=()), max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**54), 2**54) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
ITEMS: st.SearchStrategy[Any] = st.recursive(st.binary(max_size=70), lambda i: st.lists(i, max_size=4), max_leaves=8)


def both(typescript: Driver, kind: str, data: bytes) -> None:
    """Both readers give the same bytes, or the same code."""
    result = typescript.do("decode", kind=kind, data=to_hex(data))
    found = result["ok"] if "ok" in result else result["error"]["code"]
    try:
        expected = to_hex(READERS[kind](data))
    except CloisterError as error:
        expected = error.code
    assert found == expected, data


def spoiled(data: bytes, at: int, byte: int, how: int) -> bytes:
    """One byte changed, left out or put in."""
    where = at % (len(data) + 1)
    return (data[:where] + bytes([byte]) + data[where + 1 :], data[:where] + data[where + 1 :],
            data[:where] + bytes([byte]) + data[where:])[how]  # fmt: skip


SPOILS = st.tuples(st.integers(0, 1 << 16), st.integers(0, 255), st.integers(0, 2))


@given(VALUES, st.booleans(), st.booleans())
@FEW
def test_json_of_any_value(typescript: Driver, value: Any, sort: bool, ascii_only: bool) -> None:
    text = json.dumps(value, sort_keys=sort, separators=(",", ":"), ensure_ascii=ascii_only)
    both(typescript, "jcs", text.encode("utf-8", "surrogatepass"))


@given(ITEMS, SPOILS)
@FEW
def test_rlp_of_any_item(typescript: Driver, item: Any, spoil: tuple[int, int, int]) -> None:
    data = rlp.encode(item)
    both(typescript, "rlp", data)
    both(typescript, "rlp", spoiled(data, *spoil))


@pytest.mark.parametrize("kind", READERS)
@given(data=st.binary(max_size=40))
@settings(FEW, max_examples=60)
def test_any_bytes(typescript: Driver, kind: str, data: bytes) -> None:
    both(typescript, kind, data)


@pytest.mark.parametrize(("kind", "good"), [("receipt", RECEIPT), ("network", NETWORK), ("jcs", RECEIPT)])
@given(spoil=SPOILS)
@FEW
def test_one_byte_off(typescript: Driver, kind: str, good: bytes, spoil: tuple[int, int, int]) -> None:
    both(typescript, kind, spoiled(good, *spoil))


FIELDS = st.sampled_from([*json.loads(RECEIPT), "extra", "__proto__"])
OTHERS = st.sampled_from([None, True, 0, -1, 1.0, 2**53, "", "0x", "0x00", [], {}, {"kind": "none"}, "0x" + "00" * 32])


@given(FIELDS, OTHERS)
@FEW
def test_a_receipt_with_another_field(typescript: Driver, name: str, value: Any) -> None:
    data = json.dumps({**json.loads(RECEIPT), name: value}, sort_keys=True, separators=(",", ":"))
    both(typescript, "receipt", data.encode())
