"""Promise: no bit of evidence changes unnoticed, but where docs/audit/malleability.md says so and explains it.

`make test` flips one seeded bit per byte (large kinds: of every second to fourth byte) of one piece of evidence per
kind, and samples of what comes with it. `make long` flips every bit of all real evidence, and every bit of the parts.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import pytest

from cloister.core.attestation import kinds
from cloister.core.attestation.model import Claims
from cloister.core.errors import CloisterError
from cloister.devnet.tee.x509build import DAY
from support.malleability import allowed, table
from support.samples import Sample, fullest, one_of, pretend, real

Flip = tuple[int, int]
LARGE = {
    "tdx": 3,
    "sgx": 3,
    "dstack": 4,
    "nitro": 3,
    "azure-snp": 2,
    "azure-tdx": 3,
    "nvidia-gpu": 4,
    "nvidia-switch": 4,
}


def parts() -> list[tuple[str, str]]:
    """(kind, part) of every part that the document names; an endorsement chain counts only with an activation."""
    return sorted(place for place in table() if place[1] not in ("", "ek_chain"))


def _some(size: int, seed: str, every: int) -> Iterable[Flip]:
    dice = random.Random(seed)
    return [(place, dice.randrange(8)) for place in range(dice.randrange(every), size, every)]


def _all(size: int) -> Iterable[Flip]:
    return ((place, bit) for place in range(size) for bit in range(8))


def _passing(sample: Sample, part: str, flips: Iterable[Flip]) -> Iterator[tuple[Flip, bytes, Claims]]:
    """The flips of a part with which evidence still verifies."""
    for place, bit in flips:
        bad = bytearray(sample.part(part))
        bad[place] ^= 1 << bit
        try:
            yield (place, bit), bytes(bad), kinds.verify(sample.with_part(part, bytes(bad)), sample.roots, sample.now)
        except CloisterError:
            continue


def _check(sample: Sample, part: str, flips: Iterable[Flip]) -> None:
    honest, rule = sample.claims(), allowed(sample.evidence.kind, part)
    for (place, bit), shown, claims in _passing(sample, part, flips):
        where = f"{sample.name}, {part or 'blob'}: byte {place}, bit {bit}"
        assert rule.covers(sample.part(part), shown, place), where
        assert claims == honest, where


def test_the_document_has_a_row_for_every_part_of_every_kind() -> None:
    assert {kind for kind, part in table() if not part} == set(kinds.KINDS)
    shown = {(one.evidence.kind, name) for one in (*real(), *pretend()) for name in one.evidence.aux}
    assert shown | {("tpm", "ek_chain")} == {place for place in table() if place[1]}


@pytest.mark.parametrize("kind", sorted(kinds.KINDS))
def test_no_bit_of_the_evidence_changes_unnoticed(kind: str) -> None:
    sample = one_of(kind)
    _check(sample, "", _some(len(sample.evidence.blob), sample.name, LARGE.get(kind, 1)))


@pytest.mark.parametrize(("kind", "part"), parts())
def test_no_bit_of_what_comes_with_it_changes_a_claim(kind: str, part: str) -> None:
    sample = fullest(kind)
    size = len(sample.part(part))
    _check(sample, part, _some(size, f"{kind} {part}", 1 + size // (20 if kind.startswith("nvidia") else 120)))


@pytest.mark.parametrize("kind", sorted(kinds.KINDS))
def test_what_the_document_allows_does_pass(kind: str) -> None:
    """Else the document would excuse what the verifier refuses: no row is wider than the truth at its edges."""
    sample = one_of(kind)
    places = sorted(allowed(kind).places)
    edges = [place for place in places if not {place - 1, place + 1} <= set(places)]
    passing = {place for (place, _), _, _ in _passing(sample, "", [(place, 3) for place in edges])}
    assert passing == set(edges)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_no_bit_of_any_evidence_changes_unnoticed() -> None:
    pretended = [one_of(kind) for kind in ("tpm", "azure-tdx", "nvidia-switch")]
    for sample in (*real(), *pretended):
        _check(sample, "", _all(len(sample.evidence.blob)))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kind", "part"), parts())
def test_no_bit_of_any_part_changes_a_claim(kind: str, part: str) -> None:
    for sample in {one.name: one for one in (one_of(kind), fullest(kind))}.values():
        if part in sample.evidence.aux:
            size = len(sample.part(part))
            _check(sample, part, _some(size, part, 2) if part.endswith(("_rim", "ocsp")) else _all(size))


@pytest.mark.parametrize("kind", sorted(kinds.KINDS))
def test_evidence_cut_short_or_longer_is_refused(kind: str) -> None:
    sample = one_of(kind)
    blob = sample.evidence.blob
    pieces = [blob[:size] for size in range(0, len(blob), 1 + len(blob) // 40)]
    pieces += [blob[:-1], blob + b"\1", b"\0" + blob, blob * 2]
    for one in pieces:
        if kind in ("tdx", "dstack", "azure-snp", "azure-tdx") and one and not any(blob[len(one) :]):
            continue  # only zero padding was cut off
        with pytest.raises(CloisterError):
            kinds.verify(sample.with_part("", one), sample.roots, sample.now)


@pytest.mark.parametrize(("kind", "part"), parts())
def test_parts_cut_short_or_exchanged_are_refused_or_say_the_same(kind: str, part: str) -> None:
    sample = fullest(kind)
    honest, whole = sample.claims(), sample.part(part)
    others = [data for name, data in sample.evidence.aux.items() if name != part]
    for shown in (b"", b"\0", whole[: len(whole) // 2], whole[:-1], whole[1:], whole + whole, *others):
        try:
            claims = kinds.verify(sample.with_part(part, shown), sample.roots, sample.now)
        except CloisterError:
            continue
        assert allowed(kind, part).covers(whole, shown, -1), f"{part}: {len(shown)} of {len(whole)} bytes"
        assert claims == honest


def _start(sample: Sample) -> int:
    """The first second at which evidence verifies, by bisection."""
    low, high = sample.now - 40 * 365 * DAY, sample.now
    while high - low > 1:
        middle = (low + high) // 2
        try:
            kinds.verify(sample.evidence, sample.roots, middle)
            high = middle
        except CloisterError:
            low = middle
    return high


def test_the_edges_of_every_validity_are_exact_to_the_second() -> None:
    expired = {"attestation.expired", "attestation.tdx_quote", "attestation.sgx_quote"}
    for sample in (*real(), *pretend()):
        end, start = sample.claims().fresh_until, _start(sample)
        assert kinds.verify(sample.evidence, sample.roots, end).fresh_until == end, sample.name
        assert kinds.verify(sample.evidence, sample.roots, start).fresh_until == end, sample.name
        for outside in (start - 1, end + 1):
            with pytest.raises(CloisterError) as caught:
                kinds.verify(sample.evidence, sample.roots, outside)
            assert caught.value.code in expired, sample.name
