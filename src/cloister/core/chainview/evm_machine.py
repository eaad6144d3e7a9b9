"""The machine behind ``evm``: frames, memory, gas, calls between contracts. Its instructions are in ``evm_ops``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NoReturn

from cloister.core.chainview.evm_precompiles import PRECOMPILES, is_reserved, precompile
from cloister.core.errors import ChainViewError, define

MAX_GAS: Final = 400_000
MAX_CODE: Final = 64 << 10
MAX_DEPTH: Final = 32
WORD: Final = (1 << 256) - 1
ACCESS_COLD, ACCESS_WARM, SLOT_COLD = 2600, 100, 2100
_DELEGATION: Final = b"\xef\x01\x00"

UNPROVEN = define(
    "chainview.evm",
    ChainViewError,
    check="a contract's view reads proven state only, within what this machine can run",
    remedy="write the view without block hashes, randomness, unusual precompiles or very deep calls",
    status=403,
)


class NeedState(Exception):  # noqa: N818 - a request, not an error: the code wants state that is not proven yet
    """``slot`` None: the account with its code; else one word of its storage."""

    def __init__(self, address: bytes, slot: int | None = None) -> None:
        super().__init__("state to prove")
        self.address, self.slot = address, slot


@dataclass(frozen=True, slots=True)
class Block:
    """What a signed checkpoint says of its block. timestamp: Unix seconds."""

    number: int
    timestamp: int
    chain_id: int


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """A proven account. ``code_hash`` is None if the account does not exist; ``code`` hashes to it."""

    balance: int = 0
    code_hash: bytes | None = None
    code: bytes = b""


@dataclass(slots=True)
class ProvenWorld:
    """State that was proven at one block. Reads of anything else raise NeedState."""

    accounts: dict[bytes, AccountFacts] = field(default_factory=dict)
    words: dict[tuple[bytes, int], int] = field(default_factory=dict)

    def account(self, address: bytes) -> AccountFacts:
        """One account (20-byte address)."""
        if address not in self.accounts:
            raise NeedState(address)
        return self.accounts[address]

    def word(self, address: bytes, slot: int) -> int:
        """One word of an account's storage."""
        if (address, slot) not in self.words:
            raise NeedState(address, slot)
        return self.words[address, slot]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended. ``ok`` false: it reverted or failed; ``output`` is what it returned, or its reason."""

    ok: bool
    output: bytes
    gas_left: int


class Halt(Exception):  # noqa: N818 - control flow of the machine, never seen outside
    """An exceptional halt: the frame fails and its gas is gone."""


class Done(Exception):  # noqa: N818 - control flow of the machine, never seen outside
    """STOP, RETURN or REVERT."""

    def __init__(self, ok: bool, output: bytes) -> None:
        super().__init__("done")
        self.ok, self.output = ok, output


class Machine:
    """One run: the world, the block, and which accounts and words were touched (they are cheaper the second time)."""

    def __init__(self, instructions: Instructions, world: ProvenWorld, block: Block, origin: bytes) -> None:
        self.instructions, self.world, self.block, self.origin = instructions, world, block, origin
        self.warm: set[bytes | tuple[bytes, int]] = {origin, bytes(20), *PRECOMPILES}

    def touch(self, key: bytes | tuple[bytes, int], cold: int) -> int:
        """Gas of reading an account or a word; notes it."""
        if key in self.warm:
            return ACCESS_WARM
        self.warm.add(key)
        return cold

    def call(self, frame: Frame) -> Outcome:
        """Run a frame to its end. A failed one leaves nothing touched behind."""
        before = set(self.warm)
        try:
            step(self, frame)
        except Done as done:
            if not done.ok:
                self.warm = before
            return Outcome(done.ok, done.output, frame.gas)
        except Halt:
            self.warm = before
            return Outcome(False, b"", 0)

    def enter(self, address: bytes, caller: bytes, code_at: bytes, data: bytes, gas: int, depth: int) -> Outcome:
        """Call the code of ``code_at`` as ``address``. Precompiles first; an account without code succeeds at once."""
        if is_reserved(code_at):
            return _precompiled(code_at, data, gas)
        facts = self.world.account(code_at)
        if facts.code.startswith(_DELEGATION):
            raise UNPROVEN(expected="plain code", found="an account that delegates to other code")
        if depth > MAX_DEPTH:
            raise UNPROVEN(expected=f"calls at most {MAX_DEPTH} deep", found="deeper ones")
        if not facts.code:
            return Outcome(True, b"", gas)
        return self.call(Frame(address, caller, facts.code, data, gas, depth))


@dataclass(slots=True)
class Frame:
    """One call in progress. ``stack`` holds numbers below 2**256."""

    address: bytes
    caller: bytes
    code: bytes
    data: bytes
    gas: int
    depth: int
    pc: int = 0
    stack: list[int] = field(default_factory=list)
    memory: bytearray = field(default_factory=bytearray)
    returned: bytes = b""
    jumps: frozenset[int] = frozenset()

    def spend(self, gas: int) -> None:
        """Pay, or halt."""
        self.gas -= gas
        if self.gas < 0:
            raise Halt

    def grow(self, offset: int, size: int) -> None:
        """Pay for memory up to offset + size before any of it is made."""
        if size == 0:
            return
        words, have = -(-(offset + size) // 32), len(self.memory) // 32
        if words > have:
            self.spend(3 * (words - have) + words * words // 512 - have * have // 512)
            self.memory.extend(bytes(32 * (words - have)))

    def read(self, offset: int, size: int) -> bytes:
        """Memory, grown as needed."""
        self.grow(offset, size)
        return bytes(self.memory[offset : offset + size]) if size else b""

    def write(self, offset: int, data: bytes) -> None:
        """Write to memory, grown as needed."""
        self.grow(offset, len(data))
        if data:
            self.memory[offset : offset + len(data)] = data


Op = Callable[[Machine, Frame], None]


@dataclass(frozen=True, slots=True)
class Instruction:
    """``needs`` stack items, costs ``gas`` before it runs."""

    run: Op
    needs: int
    gas: int


Instructions = Sequence[Instruction | None]  # by opcode; None: no instruction


@lru_cache(maxsize=64)
def jump_targets(code: bytes) -> frozenset[int]:
    """Places of JUMPDEST that are no data of a PUSH."""
    found, at = [], 0
    while at < len(code):
        op = code[at]
        if op == 0x5B:
            found.append(at)
        at += op - 0x5E if 0x60 <= op <= 0x7F else 1
    return frozenset(found)


def step(machine: Machine, frame: Frame) -> NoReturn:
    """Run a frame's instructions until it ends (``Done``, ``Halt``)."""
    frame.jumps = jump_targets(frame.code)
    instructions, code, stack, size = machine.instructions, frame.code, frame.stack, len(frame.code)
    while frame.pc < size:
        found = instructions[code[frame.pc]]
        if found is None or len(stack) < found.needs:
            raise Halt
        frame.gas -= found.gas
        if frame.gas < 0:
            raise Halt
        found.run(machine, frame)
        if len(stack) > 1024:
            raise Halt
        frame.pc += 1
    raise Done(True, b"")


def _precompiled(address: bytes, data: bytes, gas: int) -> Outcome:
    found = precompile(address)
    if found is None:
        raise UNPROVEN(expected="a precompile that this machine has", found=f"0x{address.lstrip(bytes(1)).hex()}")
    cost = found.cost(data)
    if cost > gas:
        return Outcome(False, b"", 0)
    return Outcome(True, found.run(data), gas - cost)
