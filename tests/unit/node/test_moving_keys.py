"""Node keys that move from one sealing key to another: what opens under which."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.errors import CloisterError
from cloister.node.identity import NodeKeys

OLD, NEW = hashlib.sha256(b"old").digest(), hashlib.sha256(b"new").digest()


def stream(name: str) -> Callable[[int], bytes]:
    """Random bytes that differ by name and call."""
    count = iter(range(1 << 30))
    return lambda size: hashlib.shake_256(f"{name} {next(count)}".encode()).digest(size)


def test_a_fresh_key_is_another_one_each_time_and_comes_back_from_its_sealed_form() -> None:
    rng = stream("a")
    one, two = NodeKeys.fresh("gatekeeper", OLD, rng), NodeKeys.fresh("gatekeeper", OLD, rng)
    assert one.address != two.address
    back = NodeKeys.unsealed("gatekeeper", NEW, one.seal_self(NEW, rng))
    assert back.address == one.address
    assert back.sign(b"\1" * 32) == one.sign(b"\1" * 32)


@pytest.mark.parametrize(
    ("role", "key", "cut", "code"),
    [
        ("gatekeeper", OLD, 0, "node.foreign_folder"),
        ("worker", NEW, 0, "node.damaged_folder"),
        ("gatekeeper", NEW, 1, "node.damaged_folder"),
        ("gatekeeper", NEW, 1000, "node.damaged_folder"),
    ],
)
def test_a_sealed_key_opens_in_its_role_and_under_its_key_alone(role: str, key: bytes, cut: int, code: str) -> None:
    rng = stream("b")
    blob = NodeKeys.fresh("gatekeeper", OLD, rng).seal_self(NEW, rng)
    with pytest.raises(CloisterError) as refused:
        NodeKeys.unsealed(role, key, blob[: max(0, len(blob) - cut)])
    assert refused.value.code == code


@given(st.binary(max_size=200), st.integers(0, 2000))
def test_a_file_moves_to_another_key_and_no_bit_of_it_may_change(plaintext: bytes, where: int) -> None:
    rng = stream("c")
    keys = NodeKeys.fresh("gatekeeper", OLD, rng)
    moved = keys.reseal("share/1/1", keys.seal("share/1/1", plaintext, rng), NEW, rng)
    with pytest.raises(CloisterError):
        keys.open("share/1/1", moved)
    keys.adopt(NEW)
    assert keys.open("share/1/1", moved) == plaintext
    with pytest.raises(CloisterError):
        keys.open("share/1/2", moved)
    at = where % len(moved)
    with pytest.raises(CloisterError):
        keys.open("share/1/1", moved[:at] + bytes([moved[at] ^ 1]) + moved[at + 1 :])
    with pytest.raises(CloisterError):
        keys.reseal("share/1/1", moved[:at] + bytes([moved[at] ^ 1]) + moved[at + 1 :], OLD, rng)


def test_no_key_shows_itself() -> None:
    keys = NodeKeys.fresh("gatekeeper", OLD, stream("d"))
    assert keys.chain_key().secret.hex() not in repr(keys)
    for wrong in (b"", b"\1" * 31, "x" * 32):
        with pytest.raises((CloisterError, TypeError)):
            keys.adopt(wrong)  # type: ignore[arg-type]
