"""The operator's consents, and what leases that members show each other prove (spec/gatekeepers.md S7, S10)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey

from cloister.core.chainview.ceremonies import TermRecord
from cloister.core.encoding.handover import MasterRotation
from cloister.core.encoding.signatures import address_of, sign_digest
from cloister.core.encoding.statements import Lease
from cloister.gatekeeper.audit import AuditLog
from cloister.gatekeeper.consents import Consents
from cloister.gatekeeper.leases import ShownLeases, pairs_of
from cloister.wire.statements import CONSENTS_FILE, consents_to_json

NETWORK, WORKER, AGENT = b"\x0e" * 32, b"\xee" * 20, b"\xaa" * 32
KEYS = [PrivateKey(bytes([i]) * 32) for i in range(1, 6)]
MEMBERS = tuple(address_of(key) for key in KEYS)
TERMS = {1: TermRecord(1, 1, 8, 0, 1, 3, bytes(32), frozenset(), MEMBERS)}
LEASE = Lease(1, AGENT, b"\1" * 32, b"\2" * 32, b"\3" * 32, 1, 1, 4, 0, WORKER, b"\4" * 32, 9, 600)
WANTED = MasterRotation(1, 1)


def write(folder: Path, value: Any) -> None:
    text = value if isinstance(value, str) else json.dumps(value)
    (folder / CONSENTS_FILE).write_text(text)


def test_a_consent_is_read_when_it_is_written_and_gone_when_it_is_taken_back(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "audit.log")
    consents = Consents(tmp_path, audit)
    assert consents.current() == frozenset()
    write(tmp_path, consents_to_json([WANTED]))
    assert consents.current() == consents.current() == {WANTED}
    write(tmp_path, [])
    assert consents.current() == frozenset()
    audit.close()
    lines = [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]
    assert [(line["what"], line["kind"]) for line in lines] == [("consent", "MasterRotation")], "noted once"


@pytest.mark.parametrize("text", ["", "{}", "no JSON", '[{"kind": "Lease"}]', "[" * 70_000, '["x"]', "\x00"])
def test_a_file_that_cannot_be_read_consents_to_nothing_and_stops_nothing(tmp_path: Path, text: str) -> None:
    audit = AuditLog(tmp_path / "audit.log")
    write(tmp_path, text)
    assert Consents(tmp_path, audit).current() == frozenset()
    audit.close()


def test_a_folder_in_its_place_consents_to_nothing(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "audit.log")
    (tmp_path / CONSENTS_FILE).mkdir()
    assert Consents(tmp_path, audit).current() == frozenset()
    audit.close()


def shown(seat: int, lease: Lease = LEASE, *, key: int | None = None, network: bytes = NETWORK) -> ShownLeases:
    """What a seat (from 0) shows, signed by itself or by another."""
    signer = KEYS[seat if key is None else key]
    return ShownLeases(NETWORK, MEMBERS[seat], ((lease, sign_digest(signer, lease.digest(network))),))


PAIR = frozenset({(AGENT, 4)})
NONE: frozenset[tuple[bytes, int]] = frozenset()
SHOWN = {
    "three members of five": ([shown(0), shown(2), shown(4)], TERMS, PAIR),
    "two members": ([shown(0), shown(2)], TERMS, NONE),
    "one member three times": ([shown(0), shown(0), shown(0)], TERMS, NONE),
    "three whose leases are of three periods": (
        [shown(i, replace(LEASE, period=i, expiry=600 + i)) for i in range(3)],
        TERMS,
        PAIR,
    ),
    "three whose leases are of two epochs": (
        [shown(0), shown(1), shown(2, replace(LEASE, agent_epoch=5))],
        TERMS,
        NONE,
    ),
    "three, one of another worker": ([shown(0), shown(1), shown(2, replace(LEASE, worker=b"\xdd" * 20))], TERMS, NONE),
    "three, one of another term": (
        [shown(0), shown(1), shown(2, replace(LEASE, term=2))],
        {**TERMS, 2: replace(TERMS[1], term=2)},
        NONE,
    ),
    "three of a term that counts no more": ([shown(i, replace(LEASE, term=9)) for i in range(3)], TERMS, NONE),
    "three, one signed by another member": ([shown(0), shown(1), shown(2, key=0)], TERMS, NONE),
    "three, one for another network": ([shown(0), shown(1), shown(2, network=b"\x0f" * 32)], TERMS, NONE),
    "three, one of whom did not sit in that term": (
        [shown(0), shown(1), shown(2)],
        {1: replace(TERMS[1], members=(*MEMBERS[:2], b"\x99" * 20, *MEMBERS[3:]))},
        NONE,
    ),
    "three, one of whom was revoked": (
        [shown(0), shown(1), shown(2)],
        {1: replace(TERMS[1], revoked=frozenset({3}))},
        NONE,
    ),
}


@pytest.mark.parametrize("sentence", SHOWN)
def test_a_lease_is_proven_by_t_members_of_its_term(sentence: str) -> None:
    said, terms, expected = SHOWN[sentence]
    assert pairs_of(said, WORKER, terms) == expected


def test_each_bit_of_a_signature_counts() -> None:
    lease, signature = shown(2).leases[0]
    for place in range(len(signature)):
        bad = bytes(b ^ (i == place) for i, b in enumerate(signature))
        said = [shown(0), shown(1), ShownLeases(NETWORK, MEMBERS[2], ((lease, bad),))]
        assert pairs_of(said, WORKER, TERMS) == NONE
