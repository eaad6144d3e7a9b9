"""Every parser against damaged input: briefly always, under atheris in `make long`."""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.core.attestation import kinds
from fuzz.targets import PLACES, TARGETS, bombs, run, seeds
from support.fuzz_counts import keep

HERE = Path(__file__).parent
SECONDS = int(os.environ.get("FUZZ_SECONDS", "10"))
CPU_LIMIT_S = 0.05
MEMORY_LIMIT = 32 << 20


def _damaged(seed: bytes, dice: random.Random, count: int) -> Iterator[bytes]:
    """Inputs that differ from a good one by flips, cuts, repetitions and numbers at the edge."""
    edges = (b"\0", b"\xff", b"\x7f", b"\xff\xff\xff\xff", b"\0\0\0\x80", b'"', b"[" * 50, b"\x30\x84")
    for _ in range(count):
        data = bytearray(seed)
        for _ in range(dice.randrange(1, 5)):
            place = dice.randrange(len(data)) if data else 0
            how = dice.randrange(5)
            if how == 0 and data:
                data[place] ^= 1 << dice.randrange(8)
            elif how == 1:
                del data[place : place + dice.randrange(1, 40)]
            elif how == 2:
                data[place:place] = dice.choice(edges)
            elif how == 3:
                data[place:place] = data[place : place + dice.randrange(1, 200)]
            else:
                piece = dice.choice(edges)
                data[place : place + len(piece)] = piece
        yield bytes(data)


def _seeds(name: str) -> list[bytes]:
    own = seeds().get(name)
    return [b"", b"\0" * 64, *(own or [one for many in seeds().values() for one in many][:12])]


def test_there_is_a_target_for_every_part_of_every_kind_and_its_seed_is_good() -> None:
    assert {kind for kind, part in PLACES.values() if not part} == set(kinds.KINDS)
    assert len(TARGETS) >= 60
    for name in PLACES:
        (good,) = seeds()[name]
        TARGETS[name](good)  # raises if the seed is refused: fuzzing would never get far


def test_every_target_takes_its_good_inputs() -> None:
    assert set(seeds()) <= set(TARGETS)
    for name in TARGETS:
        for seed in _seeds(name):
            run(name, seed)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs_are_refused_or_read_quickly_and_nothing_else(name: str) -> None:
    dice = random.Random(name)
    for seed in _seeds(name):
        assert not any(_slow(name, data) for data in _damaged(seed, dice, 8))


@pytest.mark.parametrize("name", TARGETS)
def test_bombs_cost_little_time(name: str) -> None:
    assert [bomb for bomb, data in bombs().items() if _slow(name, data)] == []


@pytest.mark.parametrize("name", TARGETS)
def test_bombs_cost_little_memory(name: str) -> None:
    tracemalloc.start()
    try:
        for data in bombs().values():
            run(name, data)
        assert tracemalloc.get_traced_memory()[1] < MEMORY_LIMIT
    finally:
        tracemalloc.stop()


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", TARGETS)
def test_no_input_takes_long_or_much_memory(name: str) -> None:
    dice = random.Random(f"long {name}")
    for seed in _seeds(name):
        assert not any(_slow(name, data) for data in _damaged(seed, dice, 300))
    tracemalloc.start()
    try:
        for data in _damaged(_seeds(name)[-1], dice, 50):
            run(name, data)
        assert tracemalloc.get_traced_memory()[1] < MEMORY_LIMIT
    finally:
        tracemalloc.stop()


def _slow(name: str, data: bytes) -> bool:
    """More than 50 ms of CPU, in the best of six: a busy machine or a first import makes one run slow, not all."""
    return all(_cpu(name, data) > CPU_LIMIT_S for _ in range(6))


def _cpu(name: str, data: bytes) -> float:
    start = time.process_time()
    run(name, data)
    return time.process_time() - start


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", TARGETS)
def test_under_atheris(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.fail("atheris is missing: make fuzz-setup")
    for place, seed in enumerate(_seeds(name)):
        (tmp_path / str(place)).write_bytes(seed)
    options = [f"-max_total_time={SECONDS}", "-max_len=65536", "-timeout=10", "-rss_limit_mb=2048", str(tmp_path)]
    options += [f"-artifact_prefix={tmp_path}/"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            (str(HERE.parents[1] / "src"), str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")]))
        ),
    }
    command = [sys.executable, str(HERE / "drive.py"), "targets", name, *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert keep(f"attestation {name}", done.stderr) > 0
