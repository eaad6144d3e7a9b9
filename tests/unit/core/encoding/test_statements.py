"""Statements and signatures: EIP-712 as others compute it, t distinct members, nothing malleable."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from coincurve import PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.encoding import statements as s
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.signatures import (
    Signed,
    SignerSet,
    address_of,
    recover,
    sign_digest,
    verify_committee,
    verify_signer,
)
from cloister.core.errors import CloisterError, EncodingError

NETWORK = bytes(range(32))
KEYS = [PrivateKey(bytes([i + 1]) * 32) for i in range(5)]
COMMITTEE = SignerSet(3, 3, tuple(address_of(k) for k in KEYS))
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def checkpoint(**changes: Any) -> s.Checkpoint:
    base = s.Checkpoint(
        term=3, chain_id=31337, number=7, block_hash=b"\1" * 32, state_root=b"\2" * 32, timestamp=1_700_000_000
    )
    return dataclasses.replace(base, **changes)


def signed_by(*keys: PrivateKey, statement: s.Statement | None = None, network: bytes = NETWORK) -> list[bytes]:
    digest = (statement or checkpoint()).digest(network)
    return [sign_digest(k, digest) for k in keys]


def test_the_type_string_is_what_a_contract_would_write() -> None:
    assert s.Checkpoint.type_string() == (
        "Checkpoint(uint64 term,uint256 chainId,uint64 number,bytes32 blockHash,bytes32 stateRoot,uint64 timestamp)"
    )
    assert s.SetSigner.type_string() == "SetSigner(uint64 term,bytes32 agent,uint64 agentEpoch,address signer)"


def test_the_digest_follows_eip_712_step_by_step() -> None:
    statement = s.SetSigner(term=1, agent=b"\5" * 32, agent_epoch=2, signer=b"\6" * 20)
    words = [(1).to_bytes(32, "big"), b"\5" * 32, (2).to_bytes(32, "big"), b"\0" * 12 + b"\6" * 20]
    struct = keccak256(keccak256(s.SetSigner.type_string().encode()) + b"".join(words))
    domain = keccak256(
        keccak256(b"EIP712Domain(string name,string version,bytes32 salt)"),
        keccak256(b"Cloister"),
        keccak256(b"1"),
        NETWORK,
    )
    assert statement.digest(NETWORK) == keccak256(b"\x19\x01" + domain + struct)


ALL = [c for c in vars(s).values() if isinstance(c, type) and issubclass(c, s.Statement) and c is not s.Statement]


def build(kind: type[s.Statement], seed: int) -> s.Statement:
    values: dict[str, Any] = {}
    for i, (name, solidity) in enumerate(kind.TYPES.items()):
        width = {s.B32: 32, s.ADDRESS: 20}.get(solidity)
        values[name] = bytes([(seed + i) % 256]) * width if width else seed + i
    return kind(**values)


@pytest.mark.parametrize("kind", ALL, ids=lambda k: k.NAME)
def test_every_statement_travels_and_every_field_is_signed(kind: type[s.Statement]) -> None:
    one = build(kind, 1)
    assert kind.from_json(one.to_json()) == one
    for name, solidity in kind.TYPES.items():
        other = {s.B32: b"\xee" * 32, s.ADDRESS: b"\xee" * 20}.get(solidity, 999_999)
        assert dataclasses.replace(one, **{name: other}).digest(NETWORK) != one.digest(NETWORK), name
    assert one.digest(b"\0" * 32) != one.digest(NETWORK)
    with pytest.raises(CloisterError):
        kind.from_json({**one.to_json(), "extra": 1})


@pytest.mark.parametrize("kind", ALL, ids=lambda k: k.NAME)
def test_types_name_the_fields_in_their_order(kind: type[s.Statement]) -> None:
    """Digests, JSON and checks go by TYPES."""
    assert list(kind.TYPES) == [f.name for f in dataclasses.fields(kind)]


def test_type_names_are_distinct() -> None:
    assert len({k.type_string() for k in ALL}) == len(ALL)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("term", -1),
        ("term", 1 << 64),
        ("block_hash", b"short"),
        ("chain_id", True),
        ("number", 1.5),
        ("chain_id", 2**256),
    ],
)
def test_fields_of_the_wrong_size_are_refused(field: str, value: object) -> None:
    with pytest.raises(EncodingError):
        checkpoint(**{field: value})


def test_the_signer_recovers() -> None:
    digest = checkpoint().digest(NETWORK)
    verify_signer(digest, sign_digest(KEYS[0], digest), address_of(KEYS[0]))
    with pytest.raises(EncodingError) as caught:
        verify_signer(digest, sign_digest(KEYS[0], digest), address_of(KEYS[1]))
    assert caught.value.code == "encoding.signature"


def test_a_malleated_signature_is_refused() -> None:
    digest = checkpoint().digest(NETWORK)
    good = sign_digest(KEYS[0], digest)
    high = ORDER - int.from_bytes(good[32:64], "big")
    with pytest.raises(EncodingError, match="low s"):
        recover(digest, good[:32] + high.to_bytes(32, "big") + bytes([55 - good[64]]))


@given(st.binary(max_size=70))
def test_garbage_signatures_are_refused_or_recover_to_strangers(data: bytes) -> None:
    try:
        who = recover(b"\7" * 32, data)
    except EncodingError:
        return
    assert who not in COMMITTEE.members


COMMITTEE_CASES: dict[str, tuple[list[bytes], s.Statement, str | None]] = {
    "three distinct members": (signed_by(*KEYS[:3]), checkpoint(), None),
    "all five members": (signed_by(*KEYS), checkpoint(), None),
    "two members": (signed_by(*KEYS[:2]), checkpoint(), "encoding.too_few_signers"),
    "one member three times": (signed_by(*[KEYS[0]] * 3), checkpoint(), "encoding.too_few_signers"),
    "two members and a stranger": (
        signed_by(*KEYS[:2], PrivateKey(b"\x77" * 32)),
        checkpoint(),
        "encoding.signature",
    ),
    "three members on another statement": (
        signed_by(*KEYS[:3], statement=checkpoint(number=8)),
        checkpoint(),
        "encoding.signature",
    ),
    "three members on another network": (
        signed_by(*KEYS[:3], network=b"\x09" * 32),
        checkpoint(),
        "encoding.signature",
    ),
    "another term": (
        signed_by(*KEYS[:3], statement=checkpoint(term=4)),
        checkpoint(term=4),
        "encoding.wrong_term",
    ),
    "more signatures than members": (signed_by(*KEYS, KEYS[0]), checkpoint(), "encoding.too_few_signers"),
    "nothing": ([], checkpoint(), "encoding.too_few_signers"),
}


@pytest.mark.parametrize("case", COMMITTEE_CASES)
def test_committee(case: str) -> None:
    signatures, statement, code = COMMITTEE_CASES[case]
    if code is None:
        verify_committee(statement, signatures, COMMITTEE, NETWORK)
        Signed(statement, tuple(signatures)).verify(COMMITTEE, NETWORK)
        return
    with pytest.raises(EncodingError) as caught:
        verify_committee(statement, signatures, COMMITTEE, NETWORK)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("threshold", "members"),
    [(0, (b"\1" * 20,)), (2, (b"\1" * 20,)), (1, (b"\1" * 20, b"\1" * 20)), (1, ()), (1, (b"\1" * 19,))],
)
def test_impossible_committees_are_refused(threshold: int, members: tuple[bytes, ...]) -> None:
    with pytest.raises(EncodingError):
        SignerSet(1, threshold, members)


LARGE = 1 << 53
NUMBERS = {
    "an integer that JSON would round": LARGE,
    "a small integer": 5,
    "a zero in front": "05",
    "a sign": "+5",
    "nothing": "",
    "other digits": "\u0665",
    "a fraction": "5.0",
    "one digit too many": "1" + "0" * 78,
    "one too large": str(1 << 256),
}


@pytest.mark.parametrize("why", NUMBERS)
def test_a_uint256_has_one_spelling(why: str) -> None:
    told = checkpoint().to_json() | {"chain_id": NUMBERS[why]}
    with pytest.raises(EncodingError) as caught:
        s.Checkpoint.from_json(told)
    assert caught.value.code == "encoding.size"


@given(st.integers(0, (1 << 256) - 1))
def test_every_uint256_comes_back_from_its_text(number: int) -> None:
    told = checkpoint(chain_id=number).to_json()
    assert told["chain_id"] == str(number)
    assert s.Checkpoint.from_json(told).chain_id == number
