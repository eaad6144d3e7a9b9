"""The instructions of the machine of ``evm`` (execution-specs, Cancun). One table, one small function each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from cloister.core.chainview.evm_machine import (
    ACCESS_COLD,
    ACCESS_WARM,
    SLOT_COLD,
    UNPROVEN,
    WORD,
    Done,
    Frame,
    Halt,
    Instruction,
    Machine,
    Op,
    Outcome,
)
from cloister.core.encoding.keccak import keccak256

_SIGN: Final = 1 << 255
_ADDRESS: Final = (1 << 160) - 1


def _signed(value: int) -> int:
    return value - (1 << 256) if value & _SIGN else value


def _bytes20(value: int) -> bytes:
    return (value & _ADDRESS).to_bytes(20, "big")


def _slice(data: bytes, offset: int, size: int) -> bytes:
    """``size`` bytes of data from ``offset``, zeros behind its end."""
    return data[offset : offset + size].ljust(size, b"\0")


# --- numbers ---


def _sdiv(a: int, b: int) -> int:
    a, b = _signed(a), _signed(b)
    if b == 0:
        return 0
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def _smod(a: int, b: int) -> int:
    a, b = _signed(a), _signed(b)
    return 0 if b == 0 else abs(a) % abs(b) * (-1 if a < 0 else 1)


def _sign_extend(k: int, value: int) -> int:
    if k >= 31:
        return value
    bit = 8 * k + 7
    low = value & ((1 << (bit + 1)) - 1)
    return low | (WORD ^ ((1 << (bit + 1)) - 1)) if value >> bit & 1 else low


def _byte(i: int, value: int) -> int:
    return value >> 8 * (31 - i) & 0xFF if i < 32 else 0


def _sar(shift: int, value: int) -> int:
    return _signed(value) >> min(shift, 256)


def _two(function: Callable[[int, int], int]) -> Op:
    def run(machine: Machine, frame: Frame) -> None:
        stack = frame.stack
        a = stack.pop()
        stack[-1] = function(a, stack[-1]) & WORD

    return run


def _one(function: Callable[[int], int]) -> Op:
    def run(machine: Machine, frame: Frame) -> None:
        frame.stack[-1] = function(frame.stack[-1]) & WORD

    return run


def _three(function: Callable[[int, int, int], int]) -> Op:
    def run(machine: Machine, frame: Frame) -> None:
        a, b, n = frame.stack.pop(), frame.stack.pop(), frame.stack.pop()
        frame.stack.append(function(a, b, n) if n else 0)

    return run


def _exp(machine: Machine, frame: Frame) -> None:
    base, exponent = frame.stack.pop(), frame.stack.pop()
    frame.spend(50 * (-(-exponent.bit_length() // 8)))
    frame.stack.append(pow(base, exponent, 1 << 256))


def _keccak(machine: Machine, frame: Frame) -> None:
    offset, size = frame.stack.pop(), frame.stack.pop()
    frame.spend(6 * -(-size // 32))
    frame.stack.append(int.from_bytes(keccak256(frame.read(offset, size)), "big"))


# --- where the code runs ---


def _push_value(function: Callable[[Machine, Frame], int]) -> Op:
    def run(machine: Machine, frame: Frame) -> None:
        frame.stack.append(function(machine, frame))

    return run


def _account(frame: Frame, machine: Machine) -> bytes:
    address = _bytes20(frame.stack.pop())
    frame.spend(machine.touch(address, ACCESS_COLD))
    return address


def _balance(machine: Machine, frame: Frame) -> None:
    frame.stack.append(machine.world.account(_account(frame, machine)).balance)


def _code_size(machine: Machine, frame: Frame) -> None:
    frame.stack.append(len(machine.world.account(_account(frame, machine)).code))


def _code_hash(machine: Machine, frame: Frame) -> None:
    """0 for an account that does not exist (or is empty, EIP-161: consensus holds none)."""
    found = machine.world.account(_account(frame, machine)).code_hash
    frame.stack.append(int.from_bytes(found, "big") if found is not None else 0)


def _load_data(machine: Machine, frame: Frame) -> None:
    offset = frame.stack.pop()
    frame.stack.append(int.from_bytes(_slice(frame.data, offset, 32), "big"))


def _copy(source: Callable[[Frame], bytes], *, strict: bool = False) -> Op:
    """Bytes into memory. ``strict``: reading behind the end halts (return data)."""

    def run(machine: Machine, frame: Frame) -> None:
        to, offset, size = frame.stack.pop(), frame.stack.pop(), frame.stack.pop()
        data = source(frame)
        if strict and offset + size > len(data):
            raise Halt
        frame.spend(3 * -(-size // 32))
        frame.grow(to, size)
        frame.write(to, _slice(data, offset, size))

    return run


def _copy_code(machine: Machine, frame: Frame) -> None:
    code = machine.world.account(_account(frame, machine)).code
    _copy(lambda _: code)(machine, frame)


def _copy_memory(machine: Machine, frame: Frame) -> None:
    to, source, size = frame.stack.pop(), frame.stack.pop(), frame.stack.pop()
    frame.spend(3 * -(-size // 32))
    frame.grow(max(to, source), size)
    frame.write(to, frame.read(source, size))


def _unproven(what: str) -> Op:
    def run(machine: Machine, frame: Frame) -> None:
        raise UNPROVEN(expected="a view over proven state", found=what)

    return run


# --- memory, storage, flow ---


def _pop(machine: Machine, frame: Frame) -> None:
    frame.stack.pop()


def _load(machine: Machine, frame: Frame) -> None:
    frame.stack.append(int.from_bytes(frame.read(frame.stack.pop(), 32), "big"))


def _store(machine: Machine, frame: Frame) -> None:
    offset, value = frame.stack.pop(), frame.stack.pop()
    frame.write(offset, value.to_bytes(32, "big"))


def _store_byte(machine: Machine, frame: Frame) -> None:
    offset, value = frame.stack.pop(), frame.stack.pop()
    frame.write(offset, bytes([value & 0xFF]))


def _load_slot(machine: Machine, frame: Frame) -> None:
    slot = frame.stack.pop()
    frame.spend(machine.touch((frame.address, slot), SLOT_COLD))
    frame.stack.append(machine.world.word(frame.address, slot))


def _load_transient(machine: Machine, frame: Frame) -> None:
    frame.stack[-1] = 0  # nothing can be stored in a view, so nothing is there


def _to(frame: Frame, target: int) -> None:
    if target not in frame.jumps:
        raise Halt
    frame.pc = target - 1


def _jump(machine: Machine, frame: Frame) -> None:
    _to(frame, frame.stack.pop())


def _jump_if(machine: Machine, frame: Frame) -> None:
    target, condition = frame.stack.pop(), frame.stack.pop()
    if condition:
        _to(frame, target)


def _push(size: int) -> Op:
    def run(machine: Machine, frame: Frame) -> None:
        start = frame.pc + 1
        frame.stack.append(int.from_bytes(_slice(frame.code, start, size), "big"))
        frame.pc += size

    return run


def _dup(n: int) -> Op:
    def run(machine: Machine, frame: Frame) -> None:
        frame.stack.append(frame.stack[-n])

    return run


def _swap(n: int) -> Op:
    def run(machine: Machine, frame: Frame) -> None:
        stack = frame.stack
        stack[-1], stack[-1 - n] = stack[-1 - n], stack[-1]

    return run


def _end(ok: bool) -> Op:
    def run(machine: Machine, frame: Frame) -> None:
        offset, size = frame.stack.pop(), frame.stack.pop()
        raise Done(ok, frame.read(offset, size))

    return run


def _stop(machine: Machine, frame: Frame) -> None:
    raise Done(True, b"")


# --- calls ---


def _call(has_value: bool, *, delegate: bool = False) -> Op:
    """CALL without value, STATICCALL, DELEGATECALL. A value changes balances: no view does that."""

    def run(machine: Machine, frame: Frame) -> None:
        wanted, target = frame.stack.pop(), _bytes20(frame.stack.pop())
        if has_value and frame.stack.pop():
            raise Halt
        data_at, data_size, out_at, out_size = (frame.stack.pop() for _ in range(4))
        data = frame.read(data_at, data_size)
        frame.grow(out_at, out_size)
        frame.spend(machine.touch(target, ACCESS_COLD))
        gas = min(wanted, frame.gas - frame.gas // 64)
        frame.gas -= gas
        address, caller = (frame.address, frame.caller) if delegate else (target, frame.address)
        _returned(frame, machine.enter(address, caller, target, data, gas, frame.depth + 1), out_at, out_size)

    return run


def _returned(frame: Frame, outcome: Outcome, out_at: int, out_size: int) -> None:
    frame.gas += outcome.gas_left
    frame.returned = outcome.output
    copied = outcome.output[:out_size]
    if copied:
        frame.memory[out_at : out_at + len(copied)] = copied
    frame.stack.append(int(outcome.ok))


def _address(value: bytes) -> int:
    return int.from_bytes(value, "big")


_BINARY: Final = {
    0x01: (3, lambda a, b: a + b),
    0x02: (5, lambda a, b: a * b),
    0x03: (3, lambda a, b: a - b),
    0x04: (5, lambda a, b: a // b if b else 0),
    0x05: (5, _sdiv),
    0x06: (5, lambda a, b: a % b if b else 0),
    0x07: (5, _smod),
    0x0B: (5, _sign_extend),
    0x10: (3, lambda a, b: int(a < b)),
    0x11: (3, lambda a, b: int(a > b)),
    0x12: (3, lambda a, b: int(_signed(a) < _signed(b))),
    0x13: (3, lambda a, b: int(_signed(a) > _signed(b))),
    0x14: (3, lambda a, b: int(a == b)),
    0x16: (3, lambda a, b: a & b),
    0x17: (3, lambda a, b: a | b),
    0x18: (3, lambda a, b: a ^ b),
    0x1A: (3, _byte),
    0x1B: (3, lambda a, b: b << a if a < 256 else 0),
    0x1C: (3, lambda a, b: b >> a if a < 256 else 0),
    0x1D: (3, _sar),
}
_VALUES: Final[dict[int, tuple[int, Callable[[Machine, Frame], int]]]] = {
    0x30: (2, lambda m, f: _address(f.address)),
    0x32: (2, lambda m, f: _address(m.origin)),
    0x33: (2, lambda m, f: _address(f.caller)),
    0x34: (2, lambda m, f: 0),
    0x36: (2, lambda m, f: len(f.data)),
    0x38: (2, lambda m, f: len(f.code)),
    0x3A: (2, lambda m, f: 0),
    0x3D: (2, lambda m, f: len(f.returned)),
    0x42: (2, lambda m, f: m.block.timestamp),
    0x43: (2, lambda m, f: m.block.number),
    0x46: (2, lambda m, f: m.block.chain_id),
    0x47: (5, lambda m, f: m.world.account(f.address).balance),
    0x58: (2, lambda m, f: f.pc),
    0x59: (2, lambda m, f: len(f.memory)),
    0x5A: (2, lambda m, f: f.gas),
    0x5F: (2, lambda m, f: 0),
}
_UNPROVEN: Final = {
    0x40: "a block hash",
    0x41: "the block's beneficiary",
    0x44: "the block's randomness",
    0x45: "the block's gas limit",
    0x48: "the base fee",
    0x49: "a blob hash",
    0x4A: "the blob base fee",
    0xF2: "CALLCODE",
}
_OTHERS: Final = {
    0x00: Instruction(_stop, 0, 0),
    0x08: Instruction(_three(lambda a, b, n: (a + b) % n), 3, 8),
    0x09: Instruction(_three(lambda a, b, n: a * b % n), 3, 8),
    0x0A: Instruction(_exp, 2, 10),
    0x15: Instruction(_one(lambda a: int(a == 0)), 1, 3),
    0x19: Instruction(_one(lambda a: a ^ WORD), 1, 3),
    0x20: Instruction(_keccak, 2, 30),
    0x31: Instruction(_balance, 1, 0),
    0x35: Instruction(_load_data, 1, 3),
    0x37: Instruction(_copy(lambda f: f.data), 3, 3),
    0x39: Instruction(_copy(lambda f: f.code), 3, 3),
    0x3B: Instruction(_code_size, 1, 0),
    0x3C: Instruction(_copy_code, 4, 0),
    0x3E: Instruction(_copy(lambda f: f.returned, strict=True), 3, 3),
    0x3F: Instruction(_code_hash, 1, 0),
    0x50: Instruction(_pop, 1, 2),
    0x51: Instruction(_load, 1, 3),
    0x52: Instruction(_store, 2, 3),
    0x53: Instruction(_store_byte, 2, 3),
    0x54: Instruction(_load_slot, 1, 0),
    0x56: Instruction(_jump, 1, 8),
    0x57: Instruction(_jump_if, 2, 10),
    0x5B: Instruction(lambda m, f: None, 0, 1),
    0x5C: Instruction(_load_transient, 1, ACCESS_WARM),
    0x5E: Instruction(_copy_memory, 3, 3),
    0xF1: Instruction(_call(True), 7, 0),
    0xF3: Instruction(_end(True), 2, 0),
    0xF4: Instruction(_call(False, delegate=True), 6, 0),
    0xFA: Instruction(_call(False), 6, 0),
    0xFD: Instruction(_end(False), 2, 0),
}


def _table() -> tuple[Instruction | None, ...]:
    """By opcode. What is not in it halts, and so does all that would change state (as in STATICCALL)."""
    made: dict[int, Instruction] = dict(_OTHERS)
    made |= {op: Instruction(_two(function), 2, gas) for op, (gas, function) in _BINARY.items()}
    made |= {op: Instruction(_push_value(function), 0, gas) for op, (gas, function) in _VALUES.items()}
    made |= {op: Instruction(_unproven(what), 0, 0) for op, what in _UNPROVEN.items()}
    made |= {0x5F + n: Instruction(_push(n), 0, 3) for n in range(1, 33)}
    made |= {0x7F + n: Instruction(_dup(n), n, 3) for n in range(1, 17)}
    made |= {0x8F + n: Instruction(_swap(n), n + 1, 3) for n in range(1, 17)}
    return tuple(made.get(op) for op in range(256))


INSTRUCTIONS: Final = _table()
