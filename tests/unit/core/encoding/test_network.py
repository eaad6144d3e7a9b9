"""The network file: its ids follow from its contents, or it is refused."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

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
    roots={"intel": ("aa" * 32,), "amd": ("bb" * 32,)},
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
    "another root": {"roots": {"intel": ("cc" * 32,)}},
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
