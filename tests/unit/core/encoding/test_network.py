"""The network file: its ids follow from its contents, or it is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.encoding import jcs
from cloister.core.encoding.network import ContractRef, Genesis, Network, network_id
from cloister.core.encoding.signatures import SignerSet
from cloister.core.errors import EncodingError

GENESIS = Genesis(
    mode="devnet",
    chain_id=31337,
    genesis_hash=b"\1" * 32,
    contracts={"Agents": ContractRef(b"\2" * 20, b"\3" * 32), "Workers": ContractRef(b"\4" * 20, b"\5" * 32)},
    policy={"mode": "devnet", "period_blocks": 30},
    roots={"intel": ("0x" + "aa" * 32,), "amd": ("0x" + "bb" * 32,)},
    header_verifier="rpc-quorum",
)
NETWORK = Network(
    genesis=GENESIS,
    founding=SignerSet(1, 3, tuple(bytes([i]) * 20 for i in range(1, 6))),
    transcript=b"\6" * 32,
    mpk=b"\7" * 96,
    share_keys=tuple(bytes([i]) * 96 for i in range(5)),
    master_epoch=1,
)


def test_files_travel() -> None:
    assert Genesis.parse(jcs.encode(GENESIS.to_json())).genesis_id() == GENESIS.genesis_id()
    again = Network.parse(NETWORK.encode(), fingerprint=NETWORK.fingerprint())
    assert again.encode() == NETWORK.encode()
    assert again.id == NETWORK.id == network_id(GENESIS.genesis_id(), b"\6" * 32)


CHANGES: dict[str, dict[str, Any]] = {
    "another chain": {"chain_id": 1},
    "another genesis block": {"genesis_hash": b"\x09" * 32},
    "another contract address": {"contracts": {**GENESIS.contracts, "Agents": ContractRef(b"\x09" * 20, b"\3" * 32)}},
    "other code at the address": {"contracts": {**GENESIS.contracts, "Agents": ContractRef(b"\2" * 20, b"\x09" * 32)}},
    "another policy": {"policy": {"mode": "devnet", "period_blocks": 31}},
    "another root": {"roots": {"intel": ("0x" + "cc" * 32,)}},
    "another mode": {"mode": "production"},
    "another header verifier": {"header_verifier": "light-client"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_network_id_commits_to(change: str) -> None:
    other = dataclasses.replace(GENESIS, **CHANGES[change])
    assert other.genesis_id() != GENESIS.genesis_id()
    assert dataclasses.replace(NETWORK, genesis=other).id != NETWORK.id


def test_another_transcript_is_another_network() -> None:
    assert dataclasses.replace(NETWORK, transcript=b"\x09" * 32).id != NETWORK.id


FOUNDING: dict[str, Any] = json.loads(NETWORK.encode())["founding"]


def edited(**changes: Any) -> bytes:
    value = json.loads(NETWORK.encode())
    value.update(changes)
    return jcs.encode({k: v for k, v in value.items() if v is not ...})


BAD: dict[str, bytes] = {
    "an id of another network": edited(network_id="0x" + "09" * 32),
    "a policy changed under the old id": edited(policy={"mode": "devnet"}),
    "a missing field": edited(mpk=...),
    "a share key too few": edited(share_keys=["0x" + "07" * 96]),
    "an unknown field": edited(extra=1),
    "a short key": edited(mpk="0x07"),
    "a future version": edited(version=2),
    "a wrong mode": edited(mode="staging"),
    "no committee": edited(founding={"term": 1, "threshold": 3, "members": []}),
    "not an object": b"[]",
    "white space": NETWORK.encode() + b"\n",
    "a version that only compares equal": edited(version=True),
    "a mode that is no text": edited(mode=["devnet"]),
    "a header verifier that is no text": edited(header_verifier=5),
    "a header verifier with spaces": edited(header_verifier="rpc quorum"),
    "roots that are a number": edited(roots={"intel": 5}),
    "roots that are a text": edited(roots={"intel": "0x" + "aa" * 32}),
    "a root that is no hex": edited(roots={"intel": ["aa" * 32]}),
    "a root in capitals": edited(roots={"intel": ["0x" + "AA" * 32]}),
    "a vendor that is no word": edited(roots={"Intel Inc.": ["0x" + "aa" * 32]}),
    "roots out of order": edited(roots={"intel": ["0x" + "bb" * 32, "0x" + "aa" * 32]}),
    "contracts as a list": edited(contracts=[]),
    "a contract without a code hash": edited(contracts={"Agents": {"address": "0x" + "02" * 20}}),
    "a contract with a field more": edited(
        contracts={"Agents": {"address": "0x" + "02" * 20, "code_hash": "0x" + "03" * 32, "x": 1}}
    ),
    "a policy that is a text": edited(policy="strict"),
    "a chain id as text": edited(chain_id="31337"),
    "a negative chain id": edited(chain_id=-1),
    "members as an object": edited(founding={"term": 1, "threshold": 1, "members": {"0x" + "66" * 20: 1}}),
    "a member twice": edited(founding={"term": 1, "threshold": 1, "members": ["0x" + "66" * 20] * 5}),
    "a threshold above the members": edited(founding=FOUNDING | {"threshold": 6}),
    "a threshold of none": edited(founding=FOUNDING | {"threshold": 0}),
    "a committee with a field more": edited(founding=FOUNDING | {"x": 1}),
    "65 members": edited(
        founding=FOUNDING | {"members": ["0x" + f"{i:040x}" for i in range(65)]}, share_keys=["0x" + "07" * 96] * 65
    ),
    "share keys as a text": edited(share_keys="0x" + "07" * 96),
    "a share key of another size": edited(share_keys=["0x" + "07" * 95] * 5),
    "a network id as a number": edited(network_id=5),
    "a file over a megabyte": edited(policy={"x": "y" * (1 << 20)}),
}


@pytest.mark.parametrize("case", BAD)
def test_refused(case: str) -> None:
    with pytest.raises(EncodingError):
        Network.parse(BAD[case])


def test_the_pin_is_checked_before_anything_else() -> None:
    with pytest.raises(EncodingError) as caught:
        Network.parse(b"not even json", fingerprint=NETWORK.fingerprint())
    assert caught.value.code == "encoding.fingerprint"
    swapped = edited(founding={"term": 1, "threshold": 1, "members": ["0x" + "66" * 20]})
    with pytest.raises(EncodingError) as caught:
        Network.parse(swapped, fingerprint=NETWORK.fingerprint())
    assert caught.value.code == "encoding.fingerprint"


def test_a_missing_contract_is_named() -> None:
    with pytest.raises(EncodingError, match="Shield"):
        GENESIS.address("Shield")


def test_a_genesis_file_in_another_spelling_is_refused() -> None:
    value = GENESIS.to_json()
    assert Genesis.parse(jcs.encode(value)) == GENESIS
    prints = ["0x" + "bb" * 32, "0x" + "aa" * 32]
    for other in ({**value, "roots": {"intel": prints}}, {**value, "version": True}, {**value, "extra": 1}):
        with pytest.raises(EncodingError):
            Genesis.parse(jcs.encode(other))


@pytest.mark.parametrize("spelling", ["{}", "0x{}", "{upper}"])
def test_a_fingerprint_may_be_typed_with_0x_or_in_capitals(spelling: str) -> None:
    given = NETWORK.fingerprint()
    text = spelling.format(given, upper=given.upper())
    assert Network.parse(NETWORK.encode(), fingerprint=text).id == NETWORK.id
    with pytest.raises(EncodingError, match=r"encoding\.fingerprint"):
        Network.parse(NETWORK.encode(), fingerprint=text[:-1])


def test_the_network_id_read_anew() -> None:
    """spec/encoding.md 3 and 7, without our functions."""

    def hashed(*parts: bytes) -> bytes:
        text = b"cloister/v1/network-id\0" + b"".join(len(p).to_bytes(4, "big") + p for p in parts)
        return hashlib.sha256(text).digest()

    body = json.loads(NETWORK.encode())
    policy = json.dumps(body["policy"], sort_keys=True, separators=(",", ":")).encode()
    policy_hash = hashlib.sha256(b"cloister/v1/policy\0" + len(policy).to_bytes(4, "big") + policy).hexdigest()
    kept = ("mode", "chain_id", "genesis_hash", "contracts", "roots", "header_verifier")
    genesis = {name: body[name] for name in kept} | {"policy_hash": "0x" + policy_hash}
    genesis_id = hashed(b"genesis", json.dumps(genesis, sort_keys=True, separators=(",", ":")).encode())
    assert genesis_id == GENESIS.genesis_id()
    assert hashed(b"network", genesis_id, NETWORK.transcript) == NETWORK.id


@settings(max_examples=80, deadline=None)
@given(st.integers(0, len(NETWORK.encode()) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_is_a_claim_beside_the_id(at: int, flip: int) -> None:
    data = bytearray(NETWORK.encode())
    data[at] ^= flip
    try:
        parsed = Network.parse(bytes(data))
    except EncodingError:
        return
    assert parsed.encode() == bytes(data)
    assert parsed.id == NETWORK.id  # committee, mpk, share keys, epoch: what only the fingerprint pins
    assert parsed.genesis == NETWORK.genesis
    assert parsed.fingerprint() != NETWORK.fingerprint()
