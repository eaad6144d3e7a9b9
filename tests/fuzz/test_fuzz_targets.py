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

from fuzz.targets import TARGETS, run, seeds

HERE = Path(__file__).parent
SECONDS = 10
CPU_LIMIT_S = 0.05


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


def test_every_target_takes_its_good_inputs() -> None:
    assert set(seeds()) <= set(TARGETS)
    assert len(TARGETS) >= 25
    for name in TARGETS:
        for seed in _seeds(name):
            run(name, seed)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs_are_refused_or_read_and_nothing_else(name: str) -> None:
    dice = random.Random(name)
    for seed in _seeds(name):
        for data in _damaged(seed, dice, 12):
            run(name, data)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", TARGETS)
def test_no_input_takes_long_or_much_memory(name: str) -> None:
    dice = random.Random(f"long {name}")
    for seed in _seeds(name):
        run(name, seed)
        slow = [
            data
            for data in _damaged(seed, dice, 300)
            if _cpu(name, data) > CPU_LIMIT_S and min(_cpu(name, data) for _ in range(3)) > CPU_LIMIT_S
        ]
        assert slow == []
    tracemalloc.start()
    for data in _damaged(_seeds(name)[-1], dice, 50):
        run(name, data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20


def _cpu(name: str, data: bytes) -> float:
    start = time.process_time()
    run(name, data)
    return time.process_time() - start


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", TARGETS)
def test_under_atheris(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is missing: make fuzz-setup")
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
    command = [sys.executable, str(HERE / "drive.py"), name, *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
