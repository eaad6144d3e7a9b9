"""Promise: no bit of evidence changes unnoticed (docs/audit/malleability.md lists the places where one may).

`make test` flips one seeded bit per byte of one real vector per kind (Nitro, dstack: every third byte); `make long`
flips every bit of all.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from cloister.core.attestation import kinds
from cloister.core.attestation.model import Claims, Evidence
from cloister.core.attestation.roots import Roots
from cloister.core.errors import CloisterError
from support.vectors import at, cases, evidence_of, vectors

ROOTS = Roots.production()
SNP_UNSIGNED = range(816, 1184)  # the end of the signature's field, and what lies behind it
Flip = tuple[int, int]


def _as_read(case: dict[str, Any]) -> Evidence:
    """The evidence, with its own kind, and its log where it has one."""
    evidence = evidence_of(case)
    if case.get("tee") == "sgx":
        return dataclasses.replace(evidence, kind="sgx")
    if case["file"].endswith("quote-report.json"):
        log = json.loads((vectors() / case["file"]).read_bytes())["event_log"].encode()
        return Evidence("dstack", evidence.blob, {**evidence.aux, "event_log": log})
    return evidence


def _good() -> Iterator[tuple[str, Evidence, int]]:
    for case in cases("dcap", "snp", "nitro"):
        if case["verdict"] != "reject":
            yield case["file"], _as_read(case), at(case["verify_at"])


def _one_per_kind() -> list[tuple[str, Evidence, int]]:
    found: dict[str, tuple[str, Evidence, int]] = {}
    for name, evidence, now in _good():
        found.setdefault(evidence.kind, (name, evidence, now))
    return list(found.values())


def _some(size: int, seed: str, every: int) -> Iterable[Flip]:
    dice = random.Random(seed)
    return [(place, dice.randrange(8)) for place in range(dice.randrange(every), size, every)]


def _all(size: int) -> Iterable[Flip]:
    return ((place, bit) for place in range(size) for bit in range(8))


def _flipped(data: bytes, flip: Flip) -> bytes:
    bad = bytearray(data)
    bad[flip[0]] ^= 1 << flip[1]
    return bytes(bad)


def _passing(evidence: Evidence, now: int, flips: Iterable[Flip], part: str = "") -> Iterator[tuple[Flip, Claims]]:
    """The flips of the blob, or of a part beside it, with which evidence still verifies."""
    data = evidence.aux[part] if part else evidence.blob
    for flip in flips:
        bad = _flipped(data, flip)
        aux = {**evidence.aux, part: bad} if part else evidence.aux
        shown = Evidence(evidence.kind, evidence.blob if part else bad, aux)
        try:
            yield flip, kinds.verify(shown, ROOTS, now)
        except CloisterError:
            continue


def _check_blob(evidence: Evidence, now: int, flips: Iterable[Flip]) -> None:
    honest = kinds.verify(evidence, ROOTS, now)
    allowed: range = SNP_UNSIGNED if evidence.kind == "snp" else range(0)
    for (place, bit), claims in _passing(evidence, now, flips):
        assert place in allowed, f"byte {place}, bit {bit}"
        assert claims == honest


def test_there_is_a_vector_of_every_kind() -> None:
    assert {evidence.kind for _, evidence, _ in _one_per_kind()} == {"sgx", "tdx", "dstack", "snp", "nitro"}


@pytest.mark.parametrize("kind", ["sgx", "tdx", "dstack", "snp", "nitro"])
def test_no_bit_of_the_evidence_changes_unnoticed(kind: str) -> None:
    name, evidence, now = next(one for one in _one_per_kind() if one[1].kind == kind)
    _check_blob(evidence, now, _some(len(evidence.blob), name, 3 if kind in ("nitro", "dstack") else 1))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_no_bit_of_any_evidence_changes_unnoticed() -> None:
    for _, evidence, now in _good():
        _check_blob(evidence, now, _all(len(evidence.blob)))


def _check_log(evidence: Evidence, now: int, flips: Iterable[Flip]) -> None:
    honest = kinds.verify(evidence, ROOTS, now)
    log = evidence.aux["event_log"]
    for (place, bit), claims in _passing(evidence, now, flips, "event_log"):
        # Payloads and types of firmware events are bound to nothing, and nothing is read from them.
        assert claims == honest, f"byte {place}, bit {bit} of the log: {log[place - 20 : place + 20]!r}"


def _dstack() -> tuple[Evidence, int]:
    return next((evidence, now) for _, evidence, now in _good() if evidence.kind == "dstack")


def test_no_bit_of_a_log_changes_a_claim() -> None:
    evidence, now = _dstack()
    _check_log(evidence, now, _some(len(evidence.aux["event_log"]), "log", 11))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_no_bit_of_any_log_changes_a_claim() -> None:
    evidence, now = _dstack()
    _check_log(evidence, now, _all(len(evidence.aux["event_log"])))


def _check_certificates(evidence: Evidence, now: int, flips: Iterable[Flip], part: str) -> None:
    honest = kinds.verify(evidence, ROOTS, now)
    for (place, bit), claims in _passing(evidence, now, flips, part):
        # DER writes how many bits of a signature's last byte are unused; the library does not look.
        assert claims == honest, f"{part}: byte {place}, bit {bit}"
        assert evidence.aux[part][place] == 0, f"{part}: byte {place}, bit {bit}"


@pytest.mark.parametrize("part", ["vek", "intermediate", "ark"])
def test_no_bit_of_a_certificate_changes_a_claim(part: str) -> None:
    evidence, now = next((evidence, now) for _, evidence, now in _good() if evidence.kind == "snp")
    _check_certificates(evidence, now, _some(len(evidence.aux[part]), part, 5), part)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", ["vek", "intermediate", "ark"])
def test_no_bit_of_any_certificate_changes_a_claim(part: str) -> None:
    for _, evidence, now in _good():
        if evidence.kind == "snp":
            _check_certificates(evidence, now, _all(len(evidence.aux[part])), part)


def test_no_bit_of_collateral_changes_a_claim() -> None:
    for kind in ("tdx", "sgx"):
        _, evidence, now = next(one for one in _one_per_kind() if one[1].kind == kind)
        honest = kinds.verify(evidence, ROOTS, now)
        flips = _some(len(evidence.aux["collateral"]), kind, 23)
        for flip, claims in _passing(evidence, now, flips, "collateral"):
            assert claims == honest, flip


@pytest.mark.parametrize("kind", ["sgx", "tdx", "dstack", "snp", "nitro"])
def test_evidence_cut_short_or_longer_is_refused(kind: str) -> None:
    _, evidence, now = next(one for one in _one_per_kind() if one[1].kind == kind)
    pieces = [evidence.blob[:size] for size in range(0, len(evidence.blob), len(evidence.blob) // 40)]
    pieces += [evidence.blob[:-1], evidence.blob + b"\1", b"\0" + evidence.blob, evidence.blob * 2]
    for one in pieces:
        if kind in ("tdx", "dstack") and not any(evidence.blob[len(one) :]) and one:
            continue  # only zero padding was cut off
        with pytest.raises(CloisterError):
            kinds.verify(dataclasses.replace(evidence, blob=one), ROOTS, now)


def test_the_edges_of_every_validity_are_exact_to_the_second() -> None:
    expired = {"attestation.expired", "attestation.tdx_quote", "attestation.sgx_quote"}
    for name, evidence, now in _good():
        end = kinds.verify(evidence, ROOTS, now).fresh_until
        assert kinds.verify(evidence, ROOTS, end).fresh_until == end, name
        with pytest.raises(CloisterError) as caught:
            kinds.verify(evidence, ROOTS, end + 1)
        assert caught.value.code in expired, name
        start = _start(evidence, now)
        assert kinds.verify(evidence, ROOTS, start), name
        with pytest.raises(CloisterError) as caught:
            kinds.verify(evidence, ROOTS, start - 1)
        assert caught.value.code in expired, name


def _start(evidence: Evidence, good: int) -> int:
    """The first second at which evidence verifies, by bisection."""
    low, high = good - 40 * 365 * 86400, good
    while high - low > 1:
        middle = (low + high) // 2
        try:
            kinds.verify(evidence, ROOTS, middle)
            high = middle
        except CloisterError:
            low = middle
    return high
