"""The system calls that an agent's process does without, as a classic BPF program for ``bwrap --seccomp`` (x86-64).

It is the last wall: it matters when hostile code has left JavaScript and Deno's permissions behind. Source of the
layout: seccomp(2), linux/filter.h, linux/seccomp.h, linux/audit.h. execve stays allowed, because bubblewrap installs
the filter before it starts the program; the mount namespace holds nothing else to start.
"""

from __future__ import annotations

import struct
from typing import Final

_AUDIT_ARCH_X86_64: Final = 0xC000003E
_X32_BIT: Final = 0x40000000
_LD_ABS, _JEQ, _JGE, _JSET, _AND, _RET = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_KILL, _ALLOW = 0x80000000, 0x7FFF0000
_EPERM, _ENOSYS = 0x00050001, 0x00050026
_NR, _ARCH, _ARG0, _ARG3 = 0, 4, 16, 40

# Newer than the newest call that this list was written against: refused until somebody has looked at it.
_LAST_KNOWN: Final = 462

DENIED: Final[dict[str, int]] = {
    # other processes, and starting any
    "ptrace": 101,
    "process_vm_readv": 310,
    "process_vm_writev": 311,
    "kcmp": 312,
    "pidfd_open": 434,
    "pidfd_getfd": 438,
    "process_madvise": 440,
    "process_mrelease": 448,
    "fork": 57,
    "vfork": 58,
    # namespaces and mounts
    "unshare": 272,
    "setns": 308,
    "mount": 165,
    "umount2": 166,
    "pivot_root": 155,
    "chroot": 161,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "mount_setattr": 442,
    "statmount": 457,
    "listmount": 458,
    "name_to_handle_at": 303,
    "open_by_handle_at": 304,
    "mknod": 133,
    "mknodat": 259,
    "quotactl": 179,
    "quotactl_fd": 443,
    "fanotify_init": 300,
    "fanotify_mark": 301,
    # keys, tracing, programs in the kernel
    "add_key": 248,
    "request_key": 249,
    "keyctl": 250,
    "bpf": 321,
    "perf_event_open": 298,
    "userfaultfd": 323,
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "lookup_dcookie": 212,
    "syslog": 103,
    # the machine
    "init_module": 175,
    "finit_module": 313,
    "delete_module": 176,
    "create_module": 174,
    "kexec_load": 246,
    "kexec_file_load": 320,
    "reboot": 169,
    "swapon": 167,
    "swapoff": 168,
    "acct": 163,
    "settimeofday": 164,
    "clock_settime": 227,
    "clock_adjtime": 305,
    "adjtimex": 159,
    "sethostname": 170,
    "setdomainname": 171,
    "iopl": 172,
    "ioperm": 173,
    "modify_ldt": 154,
    "uselib": 134,
    "personality": 135,
    "vhangup": 153,
    "sysfs": 139,
    "ustat": 136,
    "_sysctl": 156,
    "nfsservctl": 180,
    # memory that RLIMIT_DATA does not count, and moving it
    "memfd_create": 319,
    "memfd_secret": 447,
    "shmget": 29,
    "shmat": 30,
    "shmctl": 31,
    "msgget": 68,
    "semget": 64,
    "mq_open": 240,
    "remap_file_pages": 216,
    "vmsplice": 278,
    "mbind": 237,
    "set_mempolicy": 238,
    "migrate_pages": 256,
    "move_pages": 279,
    "set_mempolicy_home_node": 450,
}
_CLONE, _CLONE3, _SOCKET, _SOCKETPAIR, _MMAP, _IOCTL = 56, 435, 41, 53, 9, 16
_CLONE_THREAD: Final = 0x00010000
_NEW_NAMESPACES: Final = 0x7E020000
_SHARED_ANONYMOUS: Final = 0x21
_ARG1: Final = 24
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10


def program() -> bytes:
    """The filter: an array of struct sock_filter, 8 bytes each."""
    code = [_op(_LD_ABS, _ARCH), _jump(_JEQ, _AUDIT_ARCH_X86_64, 1, 0), _op(_RET, _KILL), _op(_LD_ABS, _NR)]
    code += [_jump(_JGE, _X32_BIT, 0, 1), _op(_RET, _KILL), _jump(_JGE, _LAST_KNOWN + 1, 0, 1), _op(_RET, _ENOSYS)]
    for number in sorted(DENIED.values()):
        code += [_jump(_JEQ, number, 0, 1), _op(_RET, _EPERM)]
    # clone3 hides its flags in memory: the C library falls back to clone, whose flags are checked here.
    code += [_jump(_JEQ, _CLONE3, 0, 1), _op(_RET, _ENOSYS)]
    code += _rule(_CLONE, [_op(_LD_ABS, _ARG0), _jump(_JSET, _NEW_NAMESPACES, 2, 0), _jump(_JSET, _CLONE_THREAD, 0, 1)])
    for number in (_SOCKET, _SOCKETPAIR):
        code += _rule(number, [_op(_LD_ABS, _ARG0), *_any_of(_AF_UNIX, _AF_INET, _AF_INET6)])
    shared = [_op(_LD_ABS, _ARG3), _op(_AND, _SHARED_ANONYMOUS), _jump(_JEQ, _SHARED_ANONYMOUS, 1, 0)]
    code += _rule(_MMAP, shared)
    code += _rule(_IOCTL, [_op(_LD_ABS, _ARG1), _jump(_JEQ, _TIOCSTI, 2, 0), _jump(_JEQ, _TIOCLINUX, 1, 0)])
    code.append(_op(_RET, _ALLOW))
    return b"".join(code)


def _rule(number: int, tests: list[bytes]) -> list[bytes]:
    """``tests`` fall through to ALLOW and jump one past it to EPERM. The accumulator is lost, so the rule returns."""
    body = [*tests, _op(_RET, _ALLOW), _op(_RET, _EPERM)]
    return [_jump(_JEQ, number, 0, len(body)), *body]


def _any_of(*values: int) -> list[bytes]:
    """Fall through to ALLOW when the accumulator is one of ``values``, else jump past it."""
    tests = [_jump(_JEQ, value, len(values) - 1 - i, 0) for i, value in enumerate(values[:-1])]
    return [*tests, _jump(_JEQ, values[-1], 0, 1)]


def _op(code: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, 0, 0, value)


def _jump(code: int, value: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
