"""The system call filter, run by a small BPF machine written here from linux/filter.h, independent of its builder."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.sandbox import seccomp

X86_64, I386 = 0xC000003E, 0x40000003
KILL, ALLOW, EPERM, ENOSYS = 0x80000000, 0x7FFF0000, 0x00050001, 0x00050026
CODE = [struct.unpack_from("=HBBI", seccomp.program(), at) for at in range(0, len(seccomp.program()), 8)]


def run(number: int, *arguments: int, arch: int = X86_64) -> int:
    """What the kernel answers for one call. struct seccomp_data: nr u32, arch u32, ip u64, six u64 arguments."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, arch, 0, *padded)
    accumulator = at = 0
    while True:
        code, if_true, if_false, value = CODE[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x54:
            accumulator &= value
        elif code == 0x06:
            return int(value)
        else:
            test = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[code]
            at += if_true if test else if_false


@pytest.mark.parametrize("name", seccomp.DENIED)
def test_a_denied_call_is_refused_whatever_its_arguments(name: str) -> None:
    assert run(seccomp.DENIED[name]) == EPERM
    assert run(seccomp.DENIED[name], *[2**64 - 1] * 6) == EPERM


@pytest.mark.parametrize("number", [0, 1, 3, 7, 8, 10, 11, 13, 14, 59, 60, 202, 230, 231, 257, 281, 302, 318])
def test_ordinary_calls_are_allowed(number: int) -> None:
    assert run(number) == ALLOW


CASES: dict[str, tuple[int, tuple[int, ...], int]] = {
    "a thread": (56, (0x3D0F00,), ALLOW),
    "a process": (56, (17,), EPERM),
    "a vfork in disguise": (56, (0x4111,), EPERM),
    "a thread in a new user namespace": (56, (0x10000 | 0x10000000,), EPERM),
    "a new network namespace": (56, (0x40000000,), EPERM),
    "a new mount namespace": (56, (0x20000,), EPERM),
    "clone3, whose flags are hidden": (435, (), ENOSYS),
    "a unix socket": (41, (1, 1, 0), ALLOW),
    "an IPv4 socket": (41, (2, 1, 0), ALLOW),
    "an IPv6 socket": (41, (10, 2, 0), ALLOW),
    "a netlink socket": (41, (16, 3, 0), EPERM),
    "a packet socket": (41, (17, 3, 0), EPERM),
    "a vsock to the host": (41, (40, 1, 0), EPERM),
    "a kernel crypto socket": (41, (38, 5, 0), EPERM),
    "an unspecified family": (41, (0, 1, 0), EPERM),
    "a pair of unix sockets": (53, (1, 1, 0), ALLOW),
    "a pair of another family": (53, (16, 1, 0), EPERM),
    "private memory": (9, (0, 4096, 3, 0x22), ALLOW),
    "a mapped file": (9, (0, 4096, 1, 0x02), ALLOW),
    "a shared file": (9, (0, 4096, 1, 0x01), ALLOW),
    "shared anonymous memory, which no limit counts": (9, (0, 4096, 3, 0x21), EPERM),
    "validated shared anonymous memory": (9, (0, 4096, 3, 0x23), EPERM),
    "an ordinary ioctl": (16, (1, 0x5401), ALLOW),
    "typing into a terminal": (16, (0, 0x5412), EPERM),
    "the Linux console": (16, (0, 0x541C), EPERM),
    "the newest call that was looked at": (462, (), ALLOW),
    "a call newer than the list": (463, (), ENOSYS),
}


@pytest.mark.parametrize("sentence", CASES)
def test_calls_with_arguments_are_judged_by_them(sentence: str) -> None:
    number, arguments, expected = CASES[sentence]
    assert run(number, *arguments) == expected


@given(st.integers(0, 2**32 - 1))
def test_another_architecture_is_killed(number: int) -> None:
    assert run(number, arch=I386) == KILL


@given(st.integers(0x40000000, 2**32 - 1))
def test_the_x32_numbers_are_killed(number: int) -> None:
    assert run(number) == KILL


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 2**64 - 1), min_size=6, max_size=6))
def test_every_call_gets_exactly_one_of_four_answers(number: int, arguments: list[int]) -> None:
    assert run(number, *arguments) in (KILL, ALLOW, EPERM, ENOSYS)


@given(st.integers(0, 2**32 - 1))
def test_only_the_family_of_a_socket_decides(family: int) -> None:
    assert (run(41, family, 1, 0) == ALLOW) == (family in (1, 2, 10))


def test_the_program_is_small_enough_for_the_kernel() -> None:
    assert len(CODE) <= 4096
    assert all(at + 1 + max(op[1], op[2]) < len(CODE) for at, op in enumerate(CODE) if op[0] not in (0x20, 0x54, 0x06))
