"""Every parser of the protocol against damaged good inputs: a refusal by name, or exactly what would be written."""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.core.errors import CloisterError
from fuzz.protocol_targets import TARGETS, run, seeds
from support.fuzz_counts import keep

HERE = Path(__file__).parent
SECONDS = int(os.environ.get("FUZZ_SECONDS", "20"))
EDGES = (
    b"\0",
    b"\xff",
    b"\x80",
    b"\x7f",
    b"\xff" * 4,
    b"\xff" * 8,
    b'"',
    b"[" * 60,
    b"{",
    b"0x",
    b"-",
    b"1e999",
    b"NaN",
)
# Built of what the format itself is made of: numbers at their limits, other types, other spellings.
WORDS = (b"null", b"true", b"-1", b"9007199254740992", b"1.0", b'""', b"[]", b"{}", b'"0x"', b'"0xZZ"', b"\\ud800")


def damaged(seed: bytes, dice: random.Random, count: int) -> Iterator[bytes]:
    """Inputs that differ from a good one by flips, cuts, repetitions, edges, and other words between its commas."""
    for _ in range(count):
        data = bytearray(seed)
        for _ in range(dice.randrange(1, 4)):
            place = dice.randrange(len(data)) if data else 0
            how = dice.randrange(6)
            if how == 0 and data:
                data[place] ^= 1 << dice.randrange(8)
            elif how == 1:
                del data[place : place + dice.randrange(1, 40)]
            elif how == 2:
                data[place:place] = dice.choice(EDGES)
            elif how == 3:
                data[place:place] = data[place : place + dice.randrange(1, 200)]
            elif how == 4:
                piece = dice.choice(EDGES)
                data[place : place + len(piece)] = piece
            else:
                parts = bytes(data).split(b":")
                at = dice.randrange(len(parts))
                tail = parts[at][parts[at].find(b",") :] if b"," in parts[at] else b""
                parts[at] = dice.choice(WORDS) + tail
                data = bytearray(b":".join(parts))
        yield bytes(data)


def seeds_of(name: str) -> list[bytes]:
    own = seeds().get(name)
    return [b"", b"\0" * 64, *(own or [one for many in seeds().values() for one in many][:10])]


def test_every_seed_has_a_target_and_most_seeds_are_accepted() -> None:
    """A corpus of inputs that are all refused at the first byte would test nothing."""
    assert set(seeds()) <= set(TARGETS)
    accepted = 0
    for name, good in seeds().items():
        try:
            TARGETS[name](good[0])
        except CloisterError:
            continue
        except AssertionError:
            assert name in ("request", "answer_stream"), name
        accepted += 1
    assert accepted >= len(seeds()) - 7


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs_are_refused_or_are_in_the_one_form(name: str) -> None:
    dice = random.Random(f"protocol {name}")
    given = seeds_of(name)
    for seed in given:
        for data in damaged(seed, dice, 240 // len(given)):
            run(name, data)


@pytest.mark.parametrize("name", TARGETS)
def test_garbage_is_refused_or_is_in_the_one_form(name: str) -> None:
    dice = random.Random(f"garbage {name}")
    for size in (0, 1, 2, 5, 31, 32, 33, 64, 65, 100, 164, 300):
        for _ in range(4):
            run(name, dice.randbytes(size))
            run(name, bytes(dice.choice(b'{}[]",:0x1ae.-\\n ') for _ in range(size)))


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", TARGETS)
def test_many_damaged_inputs(name: str) -> None:
    dice = random.Random(f"long protocol {name}")
    for seed in seeds_of(name):
        for data in damaged(seed, dice, 8000):
            run(name, data)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", TARGETS)
def test_protocol_under_atheris(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.fail("atheris is missing: make fuzz-setup")
    for place, seed in enumerate(seeds_of(name)):
        (tmp_path / str(place)).write_bytes(seed)
    options = [f"-max_total_time={SECONDS}", "-max_len=65536", "-timeout=10", "-rss_limit_mb=2048", str(tmp_path)]
    options += [f"-artifact_prefix={tmp_path}/"]
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parents[1]}/src:{HERE.parent}"}
    command = [sys.executable, str(HERE / "drive.py"), "protocol_targets", name, *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert keep(f"protocol {name}", done.stderr) > 0
