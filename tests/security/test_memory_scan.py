"""The search for secrets in memory finds what is there, in every form, and nothing that is not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cloister.core.threshold.groups import ORDER
from support.memory_scan import PIECE, forms, search

SECRET = int.from_bytes(b"a planted secret of exactly 32 b", "big") % ORDER
OTHER = int.from_bytes(b"another secret, planted nowhere.", "big") % ORDER


@contextmanager
def holding(code: str) -> Iterator[int]:
    """A process that ran ``code`` and waits. The secret comes over its standard input, never as an argument."""
    program = (
        f"import sys\nline = sys.stdin.readline()\n{code}\ndel line\nprint('ready', flush=True)\nsys.stdin.readline()"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        # xor with a constant: the text of the secret itself is never in the child's buffers
        child.stdin.write(f"{SECRET ^ (1 << 250) - 1}\n")
        child.stdin.flush()
        assert child.stdout.readline() == "ready\n"
        yield child.pid
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


NUMBER = "n = int(line) ^ (1 << 250) - 1\n"
KEPT = {
    "Python's digits of 30 bits": NUMBER,
    "big-endian": NUMBER + "kept = n.to_bytes(32, 'big'); del n",
    "little-endian": NUMBER + "kept = bytearray(n.to_bytes(32, 'little')); del n",
    "decimal text": NUMBER + "kept = str(n); del n",
    "hex text": NUMBER + "kept = n.to_bytes(32, 'big').hex(); del n",
}


@pytest.mark.parametrize("form", KEPT)
def test_a_secret_that_a_process_keeps_is_found(form: str) -> None:
    with holding(KEPT[form]) as pid:
        found = search(pid, {"kept": SECRET, "not kept": OTHER})
    assert form in found["kept"]
    assert found["not kept"] == set()


def test_a_scalar_of_the_library_is_found_in_its_limbs() -> None:
    """The groups' own scalars: the form that matters most, since a key would lie in memory like this."""
    code = (
        NUMBER + "from py_arkworks_bls12381 import Scalar\nkept = Scalar.from_le_bytes(n.to_bytes(32, 'little')); del n"
    )
    with holding(code) as pid:
        found = search(pid, {"kept": SECRET, "not kept": OTHER})
    assert "limbs in Montgomery form" in found["kept"]
    assert found["not kept"] == set()


def test_a_secret_on_the_border_of_two_pieces_is_found() -> None:
    size, line = 2 * PIECE, "for at in range(0, len(kept) - 64, 4080): kept[at:at + 32] = n.to_bytes(32, 'big')"
    code = NUMBER + f"kept = bytearray({size})\n{line}\ndel n"
    with holding(code) as pid:
        assert "big-endian" in search(pid, {"kept": SECRET})["kept"]


def test_a_process_goes_on_after_the_search() -> None:
    with holding(NUMBER) as pid:
        assert search(pid, {"kept": SECRET}) == search(pid, {"kept": SECRET})


def test_forms_differ_and_are_long_enough_to_be_no_accident() -> None:
    found = forms(SECRET)
    assert len(set(found.values())) == len(found)
    assert min(len(data) for data in found.values()) >= 24
