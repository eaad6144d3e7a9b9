"""Every edge of validity of every certificate, list and table of every kind, one second before and behind.

One element at a time is valid for a few seconds around NOW and all others for days: so it alone decides.
"""

from __future__ import annotations

import pytest

from cloister.core.attestation import kinds
from cloister.core.attestation.model import Evidence
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError
from support import windows
from support.hardware import NOW

SPAN = 7
NARROW = (NOW - SPAN, NOW + SPAN)
EXPIRED = {"attestation.expired", "attestation.tdx_quote", "attestation.sgx_quote"}
PLACES = [(kind, element) for kind, elements in windows.ELEMENTS.items() for element in elements]


def _refused(evidence: Evidence, roots: Roots, now: int) -> str:
    with pytest.raises(AttestationError) as caught:
        kinds.verify(evidence, roots, now)
    return caught.value.code


def test_every_kind_has_its_elements() -> None:
    assert set(windows.ELEMENTS) == set(windows.MAKERS) == set(kinds.KINDS)


@pytest.mark.parametrize("kind", windows.ELEMENTS)
def test_with_wide_windows_evidence_is_good_for_days(kind: str) -> None:
    evidence, roots = windows.evidence(kind, {})
    for now in (NOW - 86400, NOW, NOW + 86400):
        claims = kinds.verify(evidence, roots, now)
        assert claims.kind == kind
        assert windows.WIDE[1] - 1 <= claims.fresh_until <= windows.WIDE[1]


@pytest.mark.parametrize(("kind", "element"), PLACES)
def test_the_element_decides_to_the_second(kind: str, element: str) -> None:
    evidence, roots = windows.evidence(kind, {element: NARROW})
    last = kinds.verify(evidence, roots, NOW).fresh_until
    # X.509 counts the second of notAfter in; a list's nextUpdate, and whatever dcap-qvl counted, is too late.
    assert last in ((NARROW[1] - 1,) if element in windows.LISTS else (NARROW[1] - 1, NARROW[1]))
    for now in (NARROW[0], NARROW[0] + 1, last - 1, last):
        assert kinds.verify(evidence, roots, now).fresh_until == last
    for now in (NARROW[0] - 1, last + 1, NARROW[1] + 1, NARROW[0] - 86400, NARROW[1] + 86400):
        assert _refused(evidence, roots, now) in EXPIRED, now


@pytest.mark.parametrize(("kind", "element"), PLACES)
def test_an_element_that_was_never_valid_with_the_others_is_refused_at_any_time(kind: str, element: str) -> None:
    apart = (NOW + 30 * 86400, NOW + 31 * 86400)
    evidence, roots = windows.evidence(kind, {element: apart})
    for now in (NOW, apart[0], apart[1] - 1):
        assert _refused(evidence, roots, now) in EXPIRED


@pytest.mark.parametrize("kind", windows.ELEMENTS)
def test_every_root_of_evidence_must_be_pinned_for_its_vendor(kind: str) -> None:
    """Wrong root: nobody's, another vendor's, the same vendor's root of another key or another certificate."""
    evidence, roots = windows.evidence(kind, {})
    shifted = windows.evidence(kind, {windows.ELEMENTS[kind][0]: (NOW - 5, NOW + 5)})[1]
    prints = frozenset().union(*roots.fingerprints.values())
    strangers = [vendor for vendor in ("amd", "aws", "intel", "nvidia", "tpm") if vendor not in roots.fingerprints]
    others = [Roots.of({}), Roots.production(), shifted, Roots.of(dict.fromkeys(strangers, prints))]
    for other in others:
        assert _refused(evidence, other, NOW) == "attestation.root"


@pytest.mark.parametrize("kind", ["nvidia-gpu", "nvidia-switch"])
def test_device_and_manifest_roots_do_not_stand_for_each_other(kind: str) -> None:
    evidence, roots = windows.evidence(kind, {})
    prints = roots.fingerprints
    swapped = Roots.of({"nvidia": prints["nvidia-rim"], "nvidia-rim": prints["nvidia"]})
    for other in (swapped, Roots.of({"nvidia": prints["nvidia"]}), Roots.of({"nvidia-rim": prints["nvidia-rim"]})):
        assert _refused(evidence, other, NOW) == "attestation.root"


@pytest.mark.parametrize("kind", windows.ELEMENTS)
def test_memory_of_good_chains_forgets_no_date(kind: str) -> None:
    """Links are remembered, dates are not: what was good a second ago is refused when it is over, and again later."""
    evidence, roots = windows.evidence(kind, {windows.ELEMENTS[kind][-1]: NARROW})
    for _ in range(2):
        last = kinds.verify(evidence, roots, NOW).fresh_until
        assert _refused(evidence, roots, last + 1) in EXPIRED
        assert kinds.verify(evidence, roots, last).fresh_until == last
