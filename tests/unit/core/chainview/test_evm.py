"""The machine that runs views: against revm on random programs, and what it refuses on purpose."""

from __future__ import annotations

import hashlib

import pyrevm
import pytest
from coincurve import PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.chainview.evm import MAX_GAS, AccountFacts, Block, NeedState, Outcome, ProvenWorld, view
from cloister.core.chainview.evm_machine import MAX_DEPTH, Machine
from cloister.core.chainview.evm_ops import INSTRUCTIONS
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.signatures import address_of
from cloister.core.errors import CloisterError

A, B, C = (bytes([n]) * 20 for n in (0x1A, 0x1B, 0x1C))
CALLER = b"\xca" * 20
BLOCK = Block(1234, 1_800_000_000, 31_337)
WORDS = {(A, 0): 5, (A, 1): 2**255, (B, 0): 7, (B, 2**256 - 1): 9}


def push(value: int, size: int | None = None) -> bytes:
    """PUSHn of a number."""
    size = size or max(1, -(-value.bit_length() // 8))
    return bytes([0x5F + size]) + value.to_bytes(size, "big")


def returning(code: bytes) -> bytes:
    """The code, then: return the word on top of the stack."""
    return code + push(0) + b"\x52" + push(32) + push(0) + b"\xf3"


def world(codes: dict[bytes, bytes], words: dict[tuple[bytes, int], int] | None = None) -> ProvenWorld:
    """Every account and word of a test is proven; others are not."""
    made = ProvenWorld(words=dict(WORDS if words is None else words))
    for address in (A, B, C, CALLER, bytes(20)):
        code = codes.get(address, b"")
        made.accounts[address] = AccountFacts(3 if code else 0, keccak256(code) if code else None, code)
    return made


def run(code: bytes, data: bytes = b"", *, gas: int = MAX_GAS, codes: dict[bytes, bytes] | None = None) -> Outcome:
    """Run code at A."""
    return view(world({A: code} | (codes or {})), BLOCK, A, data, caller=CALLER, gas=gas)


def number(code: bytes, data: bytes = b"", **more: dict[bytes, bytes]) -> int:
    """The word that ``code`` leaves on the stack."""
    done = run(returning(code), data, **more)  # type: ignore[arg-type]
    assert done.ok
    return int.from_bytes(done.output, "big")


def statically(target: bytes) -> bytes:
    """Hand on all call data by STATICCALL; return the flag and what came back."""
    copy = bytes.fromhex("36600060003760006000366000") + b"\x73" + target + bytes.fromhex("5afa")
    return (
        copy + bytes.fromhex("600052") + bytes.fromhex("3d600060203e") + bytes.fromhex("3d602001") + push(0) + b"\xf3"
    )


def named(refusal: CloisterError) -> None:
    """The one refusal that the machine has."""
    assert refusal.code == "chainview.evm"


def by_revm(codes: dict[bytes, bytes], data: bytes, gas: int) -> tuple[bool, bytes, int]:
    """The same call in revm: ok, output, gas used beyond what a transaction costs by itself."""
    evm = pyrevm.EVM(spec_id="CANCUN")
    for address, code in codes.items():
        facts = pyrevm.AccountInfo(nonce=1, code=code)
        evm.insert_account_info("0x" + address.hex(), facts)
    for (address, slot), word in WORDS.items():
        if address in codes:
            evm.insert_account_storage("0x" + address.hex(), slot, word)
    evm.set_block_env(pyrevm.BlockEnv(number=BLOCK.number, timestamp=BLOCK.timestamp, basefee=0))
    upfront = 21_000 + sum(16 if byte else 4 for byte in data)
    try:
        out = evm.message_call(
            caller="0x" + CALLER.hex(), to="0x" + A.hex(), calldata=data, gas=gas + upfront, is_static=True
        )
        assert evm.result is not None
        return True, bytes(out), evm.result.gas_used - upfront
    except RuntimeError:
        return False, b"", 0


# Opcodes that mean the same here and in revm; what this machine refuses on purpose is tested below.
_PLAIN = [op for op in range(256) if op not in {0x40, 0x41, 0x44, 0x45, 0x46, 0x48, 0x49, 0x4A, 0xF2, 0x47, 0x31, 0x3F}]
_SMALL = st.sampled_from([0, 1, 2, 31, 32, 33, 64, 255, 256, 2**64, 2**255, 2**256 - 1])
_NUMBERS = st.one_of(_SMALL, st.integers(0, 2**256 - 1)).map(push)
_OPS = st.sampled_from(_PLAIN).map(lambda op: bytes([op]))
_FEW = st.sampled_from([*range(1, 0x20), 0x35, 0x37, 0x39, 0x3E, 0x51, 0x52, 0x53, 0x54, 0x5E]).map(
    lambda op: bytes([op])
)
_CALLS = st.sampled_from(
    [
        push(32) + push(0) + push(64) + push(0) + push(target, 20) + push(gas) + bytes([op])
        for target in (int.from_bytes(B, "big"), int.from_bytes(C, "big"), 1, 2, 3, 4)
        for gas in (100, 30_000, 2**30)
        for op in (0xF4, 0xFA)
    ]
)
PROGRAMS = st.lists(st.one_of(_NUMBERS, _NUMBERS, _FEW, _OPS, _CALLS), max_size=40).map(b"".join)


@settings(max_examples=200, deadline=None)
@given(PROGRAMS, PROGRAMS, st.binary(max_size=70), st.sampled_from([3_000, 40_000, MAX_GAS]))
def test_random_programs_end_as_in_revm(code: bytes, other: bytes, data: bytes, gas: int) -> None:
    codes = {A: statically(B), B: returning(code), C: returning(other)}
    every = world(codes)
    try:
        machine = Machine(INSTRUCTIONS, _Zero(every.accounts, every.words), BLOCK, CALLER)
        machine.warm |= {A, B, *WORDS}  # giving revm words of an account reads them
        ours = machine.enter(A, CALLER, A, data, gas, 0)
    except CloisterError as refusal:
        named(refusal)  # an unbuilt precompile or depth: never an answer
        return
    ok, output, used = by_revm(codes, data, gas)
    assert (ours.ok, ours.output if ours.ok else b"") == (ok, output)
    if ok:
        assert gas - ours.gas_left == used


class _Zero(ProvenWorld):
    """What revm has by default: unset words are 0, unknown accounts are empty."""

    def account(self, address: bytes) -> AccountFacts:
        return self.accounts.get(address, AccountFacts())

    def word(self, address: bytes, slot: int) -> int:
        return self.words.get((address, slot), 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**256 - 1), st.integers(0, 2**256 - 1), st.integers(0, 2**256 - 1))
def test_arithmetic_of_whole_words(a: int, b: int, n: int) -> None:
    top = 1 << 256
    assert number(push(b) + push(a) + b"\x01") == (a + b) % top
    assert number(push(b) + push(a) + b"\x0a") == pow(a, b, top)
    assert number(push(n) + push(b) + push(a) + b"\x08") == ((a + b) % n if n else 0)
    assert number(push(n) + push(b) + push(a) + b"\x09") == (a * b % n if n else 0)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=40))
def test_garbage_as_code_ends_in_an_outcome_or_a_named_refusal(code: bytes, data: bytes) -> None:
    try:
        run(code, data)
    except CloisterError as refusal:
        named(refusal)
    except NeedState:
        return


# --- what it asks for ---


def test_an_unproven_word_is_asked_for_and_then_read() -> None:
    code = returning(push(77) + b"\x54")
    have = world({A: code})
    with pytest.raises(NeedState) as need:
        view(have, BLOCK, A, b"")
    assert (need.value.address, need.value.slot) == (A, 77)
    have.words[A, 77] = 6
    assert view(have, BLOCK, A, b"").output == (6).to_bytes(32, "big")


@pytest.mark.parametrize(
    ("why", "code"),
    [
        ("its balance", push(0xDD, 20) + b"\x31"),
        ("its code's size", push(0xDD, 20) + b"\x3b"),
        ("its code's hash", push(0xDD0000, 20) + b"\x3f"),
        ("its code, to call it", push(0) * 4 + push(0xDD00, 20) + push(9999, 3) + b"\xfa"),
    ],
)
def test_an_unproven_account_is_asked_for(why: str, code: bytes) -> None:
    with pytest.raises(NeedState) as need:
        run(code)
    assert need.value.slot is None, why


# --- what it knows of the block ---


@pytest.mark.parametrize(
    ("what", "op", "value"),
    [
        ("block number", 0x43, BLOCK.number),
        ("time", 0x42, BLOCK.timestamp),
        ("chain id", 0x46, BLOCK.chain_id),
        ("no value is ever sent", 0x34, 0),
        ("gas price", 0x3A, 0),
        ("own balance", 0x47, 3),
        ("caller", 0x33, int.from_bytes(CALLER, "big")),
        ("origin", 0x32, int.from_bytes(CALLER, "big")),
        ("address", 0x30, int.from_bytes(A, "big")),
    ],
)
def test_facts_of_the_call(what: str, op: int, value: int) -> None:
    assert number(bytes([op])) == value, what


# --- refusals that no code can catch ---

CAUGHT = push(0) * 4 + push(int.from_bytes(B, "big"), 20) + push(100_000) + b"\xfa"  # its flag: 0 when B failed


@pytest.mark.parametrize(
    ("why", "inner"),
    [
        ("a block hash", push(1) + b"\x40"),
        ("the beneficiary", b"\x41"),
        ("randomness", b"\x44"),
        ("the gas limit", b"\x45"),
        ("the base fee", b"\x48"),
        ("a blob hash", push(0) + b"\x49"),
        ("the blob base fee", b"\x4a"),
        ("CALLCODE", push(0) * 7 + b"\xf2"),
        ("a pairing precompile", push(0) * 4 + push(8, 20) + push(1) + b"\xfa"),
        ("a BLS precompile", push(0) * 4 + push(0x0B, 20) + push(1) + b"\xfa"),
        ("P-256, which only some forks have", push(0) * 4 + push(0x100, 20) + push(1) + b"\xfa"),
        ("itself, for ever", push(0) * 4 + push(int.from_bytes(B, "big"), 20) + b"\x5a\xfa"),
    ],
)
def test_code_cannot_catch_what_no_proof_answers(why: str, inner: bytes) -> None:
    with pytest.raises(CloisterError) as caught:
        view(world({A: returning(CAUGHT), B: inner}), BLOCK, A, b"", gas=MAX_GAS * 50)
    assert caught.value.code == "chainview.evm", why


def test_an_account_that_delegates_is_refused() -> None:
    with pytest.raises(CloisterError) as caught:
        run(b"\xef\x01\x00" + B)
    assert "delegates" in caught.value.found


@pytest.mark.parametrize(
    ("why", "inner"),
    [
        ("SSTORE", push(1) + push(1) + b"\x55"),
        ("LOG0", push(0) * 2 + b"\xa0"),
        ("CREATE", push(0) * 3 + b"\xf0"),
        ("CREATE2", push(0) * 4 + b"\xf5"),
        ("SELFDESTRUCT", push(0) + b"\xff"),
        ("TSTORE", push(0) * 2 + b"\x5d"),
        ("a call with value", push(0) * 4 + push(1) + push(int.from_bytes(C, "big"), 20) + push(9) + b"\xf1"),
        ("a jump into a push", push(4) + b"\x56" + b"\x60\x5b"),
        ("an unknown instruction", b"\x0c"),
        ("an empty stack", b"\x01"),
        ("too deep a stack", push(0) * 1025),
        ("return data that is not there", push(1) + push(0) + push(0) + b"\x3e"),
        ("memory beyond the gas", push(2**255) + b"\x51"),
    ],
)
def test_what_fails_takes_its_gas_and_its_caller_goes_on(why: str, inner: bytes) -> None:
    assert number(CAUGHT, codes={B: inner}) == 0, why
    alone = run(inner)
    assert (alone.ok, alone.gas_left) == (False, 0), why


def test_a_loop_ends_with_its_gas() -> None:
    assert run(b"\x5b" + push(0) + b"\x56") == Outcome(False, b"", 0)


def test_a_revert_keeps_its_reason_and_the_gas() -> None:
    done = run(push(7) + push(0) + b"\x52" + push(32) + push(0) + b"\xfd")
    assert (done.ok, done.output) == (False, (7).to_bytes(32, "big"))
    assert done.gas_left > MAX_GAS - 100


def test_calls_deeper_than_the_machine_goes_end_the_run() -> None:
    deep = push(0) * 4 + b"\x30" + b"\x5a\xfa"
    with pytest.raises(CloisterError) as caught:
        run(deep, gas=10**9)
    assert str(MAX_DEPTH) in caught.value.expected


# --- precompiles ---


def through(address: int, data: bytes) -> bytes:
    """What a precompile answers, called by code that hands on its call data and returns what came back."""
    return run(statically(address.to_bytes(20, "big")), data).output


def test_ecrecover_finds_the_signer_and_nobody_for_spoilt_bytes() -> None:
    key, digest = PrivateKey(b"\x07" * 32), hashlib.sha256(b"said").digest()
    raw = key.sign_recoverable(digest, hasher=None)
    good = digest + (raw[64] + 27).to_bytes(32, "big") + raw[:64]
    assert through(1, good)[32:] == address_of(key).rjust(32, b"\0")
    assert through(1, digest + (29).to_bytes(32, "big") + raw[:64])[32:] == b""
    assert through(1, digest + bytes(96))[32:] == b""
    assert through(1, b"")[32:] == b""


@given(st.binary(max_size=100))
@settings(max_examples=30, deadline=None)
def test_hashes_and_identity(data: bytes) -> None:
    assert through(2, data)[32:] == hashlib.sha256(data).digest()
    assert through(4, data)[32:] == data
    assert len(through(3, data)) == 64


@given(st.integers(0, 2**80), st.integers(0, 2**40), st.integers(0, 2**80))
@settings(max_examples=30, deadline=None)
def test_modexp(base: int, exponent: int, modulus: int) -> None:
    head = b"".join(n.to_bytes(32, "big") for n in (32, 8, 16))
    data = head + base.to_bytes(32, "big") + exponent.to_bytes(8, "big") + modulus.to_bytes(16, "big")
    expected = pow(base, exponent, modulus) if modulus else 0
    assert through(5, data)[32:] == expected.to_bytes(16, "big")


def test_a_modexp_of_endless_numbers_costs_more_than_there_is() -> None:
    data = b"".join(n.to_bytes(32, "big") for n in (2**200, 1, 2**200))
    assert through(5, data) == bytes(32)
