"""What a liar tries, kind by kind: tables keyed by sentences, each with the code of the check that must stop it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from functools import lru_cache
from itertools import permutations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from cloister.core.attestation import kinds
from cloister.core.attestation.examine import examine
from cloister.core.attestation.model import Evidence, Verdict
from cloister.core.attestation.policy import devnet
from cloister.core.attestation.roots import Roots
from cloister.core.errors import AttestationError
from cloister.devnet.tee import amd, intel
from cloister.devnet.tee.x509build import DAY
from support import windows
from support.azure_kit import SNP, TDX, azure_evidence, hcl_report, rsa_machine, runtime_data, td_report
from support.hardware import MEASUREMENT, NOW, chip, collateral, evidence, factory, instance, platform, roots
from support.intel_kit import ATTRIBUTES, dstack_evidence, runtime_event, sgx_body, sgx_evidence
from support.nvidia_kit import MODE, Device, nvidia_roots
from support.tpm_kit import AK_USAGE, REPORT, keys, machine, tpm_evidence, tpm_roots, vendor

CPU = ("tdx", "sgx", "dstack", "snp", "nitro", "azure-snp", "azure-tdx", "tpm")
BOOT = [("app-id", b"a" * 20), ("compose-hash", b"c" * 32), ("boot-mr-done", b"")]


@lru_cache(maxsize=1)
def all_roots() -> Roots:
    """Every pretend vendor of the kits, pinned together: nothing is refused for its root."""
    prints: dict[str, frozenset[bytes]] = {}
    for one in (roots(), tpm_roots(), nvidia_roots()):
        prints |= one.fingerprints
    return Roots.of(prints)


@lru_cache(maxsize=16)
def good(kind: str) -> Evidence:
    """Good evidence of the kind."""
    if kind in ("tdx", "snp", "nitro"):
        return evidence(kind, REPORT)
    if kind == "sgx":
        return sgx_evidence(sgx_body(REPORT))
    if kind == "dstack":
        return dstack_evidence([runtime_event(name, payload) for name, payload in BOOT])
    if kind.startswith("azure"):
        return azure_evidence(kind)
    if kind == "tpm":
        return tpm_evidence()
    return Device("GH100" if kind == "nvidia-gpu" else "LS10").evidence()


def _code(shown: Evidence, now: int = NOW) -> str:
    with pytest.raises(AttestationError) as caught:
        kinds.verify(shown, all_roots(), now)
    return caught.value.code


def _aux(shown: Evidence, **parts: bytes) -> Evidence:
    return dataclasses.replace(shown, aux={**shown.aux, **parts})


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_honest_evidence_passes(kind: str) -> None:
    assert kinds.verify(good(kind), all_roots(), NOW).kind == kind


# -- another machine's leaf ---------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _other_platform() -> intel.Platform:
    return factory().intel.platform("two", NOW)


@lru_cache(maxsize=1)
def _other_chip() -> amd.Chip:
    return factory().amd.chip("two", NOW)


def _mixed_quote(shown: bytes) -> bytes:
    """The chain of another machine in the place of its own: lengths stay right."""
    own, other = platform().chain, _other_platform().chain
    assert shown.count(own) == 1
    whole = shown.replace(own, other)
    grown = len(other) - len(own)
    for size in (len(own), len(own) + 384 + 64 + 2 + 32 + 6):  # certification data of type 5, then of type 6
        at = whole.find(size.to_bytes(4, "little"))
        if at > 0:
            whole = whole[:at] + (size + grown).to_bytes(4, "little") + whole[at + 4 :]
    body = 48 + (384 if whole[4:8] == bytes(4) else 584)
    total = int.from_bytes(whole[body : body + 4], "little") + grown
    return whole[:body] + total.to_bytes(4, "little") + whole[body + 4 :]


def _swapped_document() -> Evidence:
    """The certificate of another enclave's key, under the same authorities."""
    import cbor2

    one, other = good("nitro").blob, evidence("nitro", REPORT).blob
    protected, headers, payload, signature = cbor2.loads(one)
    document, another = cbor2.loads(payload), cbor2.loads(cbor2.loads(other)[2])
    assert document["certificate"] != another["certificate"]
    document["certificate"] = another["certificate"]
    return Evidence("nitro", cbor2.dumps([protected, headers, cbor2.dumps(document), signature]))


def _tpm_leaf() -> bytes:
    return vendor().leaf(ec.generate_private_key(ec.SECP256R1()).public_key(), AK_USAGE).encode()


def _gpu_chain(name: str, chip_name: str = "GH100") -> bytes:
    return b"".join(Device(chip_name, name).chain())


SWAPPED: dict[str, tuple[Callable[[], Evidence], str]] = {
    "the PCK of another machine in a TDX quote": (
        lambda: dataclasses.replace(good("tdx"), blob=_mixed_quote(good("tdx").blob)),
        "attestation.tdx_quote",
    ),
    "the PCK of another machine in an SGX quote": (
        lambda: dataclasses.replace(good("sgx"), blob=_mixed_quote(good("sgx").blob)),
        "attestation.sgx_quote",
    ),
    "the PCK of another machine in a dstack guest's quote": (
        lambda: dataclasses.replace(good("dstack"), blob=_mixed_quote(good("dstack").blob)),
        "attestation.tdx_quote",
    ),
    "the PCK of another machine in an Azure VM's quote": (
        lambda: _aux(good("azure-tdx"), td_quote=_mixed_quote(good("azure-tdx").aux["td_quote"])),
        "attestation.tdx_quote",
    ),
    "the VCEK of another chip": (
        lambda: _aux(good("snp"), vek=_other_chip().certificates["vek"]),
        "attestation.signature",
    ),
    "the VCEK of another chip beside an Azure VM's report": (
        lambda: _aux(good("azure-snp"), vek=_other_chip().certificates["vek"]),
        "attestation.signature",
    ),
    "the report of another chip": (
        lambda: dataclasses.replace(good("snp"), blob=_other_chip().report(MEASUREMENT, REPORT)),
        "attestation.signature",
    ),
    "the certificate of another enclave": (_swapped_document, "attestation.signature"),
    "the certificate of another attestation key": (
        lambda: _aux(good("tpm"), ak_chain=_tpm_leaf()),
        "attestation.signature",
    ),
    "the chain of another GPU": (
        lambda: _aux(good("nvidia-gpu"), chain=_gpu_chain("two")),
        "attestation.signature",
    ),
    "the chain of another switch": (
        lambda: _aux(good("nvidia-switch"), chain=_gpu_chain("two", "LS10")),
        "attestation.signature",
    ),
    "the chain of a switch beside a GPU's report": (
        lambda: _aux(good("nvidia-gpu"), chain=_gpu_chain("one", "LS10")),
        "attestation.chip",
    ),
    "the chain of a GPU beside a switch's report": (
        lambda: _aux(good("nvidia-switch"), chain=_gpu_chain("one")),
        "attestation.chip",
    ),
    "an authority as the leaf of a chip": (
        lambda: _aux(good("snp"), vek=chip().certificates["intermediate"]),
        "attestation.certificate",
    ),
    "the leaf of a chip as its authority": (
        lambda: _aux(good("snp"), intermediate=chip().certificates["vek"]),
        "attestation.certificate",
    ),
    "the root twice in a chip's chain": (
        lambda: _aux(good("snp"), intermediate=chip().certificates["ark"]),
        "attestation.certificate",
    ),
}


@pytest.mark.parametrize("sentence", SWAPPED)
def test_the_leaf_of_another_machine_is_refused(sentence: str) -> None:
    make, code = SWAPPED[sentence]
    assert _code(make()) == code


# -- the root of another product ----------------------------------------------------------------------------------


def _product(ark: str, ask: str, key_says: str) -> Evidence:
    """A chip's chain whose names say these products, all signed by the pinned vendor's keys."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    from cloister.devnet.tee.x509build import Issuer, certificate, der

    made, vendor_keys = factory().amd, {"start": NOW - DAY, "end": NOW + DAY, "digest": hashes.SHA384()}
    top = certificate(ark, made.root.key.public_key(), made.root.key, root=True, **vendor_keys)  # type: ignore[arg-type]
    root = Issuer(top, made.root.key)
    middle = Issuer(certificate(ask, made.signing.key.public_key(), root, authority=0, **vendor_keys), made.signing.key)  # type: ignore[arg-type]
    old = x509.load_der_x509_certificate(chip().certificates["vek"])
    raw = {one.oid.dotted_string: one.value for one in old.extensions}
    values = [(oid, one.value) for oid, one in raw.items() if isinstance(one, x509.UnrecognizedExtension)]
    values = [(oid, der(0x16, key_says.encode()) if oid == f"{amd.OID}.2" else value) for oid, value in values]
    leaf = certificate("SEV-VCEK", chip().key.public_key(), middle, extensions=values, **vendor_keys)  # type: ignore[arg-type]
    parts = {"vek": Issuer(leaf, chip().key).der, "intermediate": middle.der, "ark": root.der}
    return Evidence("snp", chip().report(MEASUREMENT, REPORT), parts)


PRODUCTS: dict[str, tuple[tuple[str, str, str], str]] = {
    "all of one product": (("ARK-Genoa", "SEV-Genoa", "Genoa"), ""),
    "a sister product of the same generation": (("ARK-Genoa", "SEV-Genoa", "Bergamo-A1"), ""),
    "the root of another product": (("ARK-Milan", "SEV-Genoa", "Genoa"), "attestation.chip"),
    "the authority of another product": (("ARK-Genoa", "SEV-Milan", "Genoa"), "attestation.chip"),
    "the key of another product": (("ARK-Genoa", "SEV-Genoa", "Milan-B0"), "attestation.chip"),
    "root and authority of another product": (("ARK-Milan", "SEV-Milan", "Genoa"), "attestation.chip"),
    "a product that nobody knows": (("ARK-Venice", "SEV-Venice", "Venice"), "attestation.chip"),
    "the authority of VLEKs for a VCEK": (("ARK-Genoa", "SEV-VLEK-Genoa", "Genoa"), "attestation.chip"),
    "a product that only begins like one": (("ARK-Genoa", "SEV-Genoa", "Genoax"), "attestation.chip"),
    "a root whose name only ends like one": (("Genoa", "SEV-Genoa", "Genoa"), ""),
    "no product": (("ARK-", "SEV-", "Genoa"), "attestation.chip"),
}


@pytest.mark.parametrize("sentence", PRODUCTS)
def test_root_authority_and_key_are_of_one_product(sentence: str) -> None:
    names, code = PRODUCTS[sentence]
    shown = _product(*names)
    pinned = Roots.of({"amd": [hashlib.sha256(shown.aux["ark"]).digest()]})
    if not code:
        assert kinds.verify(shown, pinned, NOW).generation == "Genoa"
        return
    with pytest.raises(AttestationError) as caught:
        kinds.verify(shown, pinned, NOW)
    assert caught.value.code == code
    # And unpinned, it is refused for its root before anything else is read of it.
    assert _code(shown) == "attestation.root"


# -- debug --------------------------------------------------------------------------------------------------------


def _azure_debug(kind: str) -> Evidence:
    text = runtime_data(rsa_machine().ak)
    committed = hashlib.sha256(text).digest().ljust(64, b"\0")
    if kind == "azure-snp":
        report = chip().report(MEASUREMENT, committed, policy=amd.DEBUG_POLICY)
        return dataclasses.replace(good(kind), blob=hcl_report(report, SNP, text))
    quote = platform().quote(MEASUREMENT, committed, attributes=intel.DEBUG_ATTRIBUTES)
    shown = dataclasses.replace(good(kind), blob=hcl_report(td_report(quote), TDX, text))
    return _aux(shown, td_quote=quote)


def _tdx_debug(bit: int) -> Evidence:
    attributes = bytes([1 << bit]) + intel.TD_ATTRIBUTES[1:]
    return Evidence("tdx", platform().quote(MEASUREMENT, REPORT, attributes), {"collateral": collateral()})


DEBUG: dict[str, Callable[[], Evidence]] = {
    **{f"bit {bit} of a TD's debug group": lambda bit=bit: _tdx_debug(bit) for bit in range(8)},  # type: ignore[misc]
    "an enclave with its debug bit": lambda: sgx_evidence(
        sgx_body(attributes=bytes([ATTRIBUTES[0] | 2]) + ATTRIBUTES[1:])
    ),
    "a guest whose policy allows debugging": lambda: Evidence(
        "snp", chip().report(MEASUREMENT, REPORT, policy=amd.DEBUG_POLICY), dict(chip().certificates)
    ),
    "an enclave with PCR0 of zeros": lambda: Evidence(
        "nitro", instance().document({0: bytes(48), 4: b"\4" * 48}, NOW, user_data=REPORT)
    ),
    "an Azure VM on SNP": lambda: _azure_debug("azure-snp"),
    "an Azure VM on TDX": lambda: _azure_debug("azure-tdx"),
    "a GPU with DevTools": lambda: _aux(good("nvidia-gpu"), mode=MODE.replace(b'"off"', b'"on"')),
}


@pytest.mark.parametrize("sentence", DEBUG)
def test_debug_is_refused_by_name_and_by_nothing_else_first(sentence: str) -> None:
    verdict = examine(DEBUG[sentence](), policy=devnet(all_roots()), now=NOW)
    failing = [check.code for check in verdict.checks if not check.ok and check.code != "attestation.generation"]
    assert failing[0] == "attestation.debug"
    assert not verdict.accepted


# -- nonces and report data, stale evidence -----------------------------------------------------------------------


def _judged(kind: str, **asked: bytes) -> Verdict:
    return examine(good(kind), policy=devnet(all_roots()), now=NOW, **asked)  # type: ignore[arg-type]


def _failing(verdict: Verdict) -> list[str]:
    return [check.code for check in verdict.checks if not check.ok and check.code != "attestation.generation"]


@pytest.mark.parametrize("kind", CPU)
def test_report_data_and_nonce_of_somebody_else_are_refused(kind: str) -> None:
    held = kinds.verify(good(kind), all_roots(), NOW).report_data
    assert held == REPORT
    assert _failing(_judged(kind, report_data=held)) == []
    for place in (0, 31, 32, 63):
        bad = bytearray(held)
        bad[place] ^= 1
        assert _failing(_judged(kind, report_data=bytes(bad))) == ["attestation.report_data"]
    assert _failing(_judged(kind, nonce=held[:32])) == []
    for nonce in (held[:15], held[1:33], bytes(32), held[:31] + b"\xff", b"\0"):
        assert _failing(_judged(kind, nonce=nonce)) == ["attestation.nonce"], nonce.hex()


@pytest.mark.parametrize("kind", ["nvidia-gpu", "nvidia-switch"])
def test_a_device_that_signed_another_nonce_is_refused(kind: str) -> None:
    held = kinds.verify(good(kind), all_roots(), NOW).report_data
    assert _failing(_judged(kind, nonce=held)) == []
    assert _failing(_judged(kind, nonce=held[:-1] + b"\0")) == ["attestation.nonce"]


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_stale_evidence_is_refused_with_its_reason(kind: str) -> None:
    policy = devnet(all_roots())
    end = kinds.verify(good(kind), all_roots(), NOW).fresh_until
    for now in (end + 1, end + DAY, end + 40 * 365 * DAY):
        verdict = examine(good(kind), policy=policy, now=now)
        assert not verdict.accepted
        assert verdict.claims is None
        assert verdict.checks[-1].code in ("attestation.expired", "attestation.tdx_quote", "attestation.sgx_quote")
        assert verdict.checks[-1].remedy


def test_a_document_is_stale_long_before_its_certificate_ends() -> None:
    policy = devnet(all_roots())
    shown = good("nitro")
    end = kinds.verify(shown, all_roots(), NOW).fresh_until
    last = NOW + policy.max_evidence_age_s
    assert last < end
    assert _failing(examine(shown, policy=policy, now=last)) == []
    assert _failing(examine(shown, policy=policy, now=last + 1)) == ["attestation.stale"]
    assert _failing(examine(shown, policy=policy, now=NOW - 60)) == []


# -- the wrong label, missing parts, dead signatures --------------------------------------------------------------


@pytest.mark.parametrize(("kind", "label"), list(permutations(kinds.KINDS, 2)))
def test_evidence_under_the_name_of_another_kind_is_refused(kind: str, label: str) -> None:
    bare = dataclasses.replace(good(kind), kind=label)
    dressed = Evidence(label, good(kind).blob, good(label).aux)
    for shown in (bare, dressed):
        if (kind, label) == ("dstack", "tdx") and shown is dressed:
            continue  # a dstack guest is a TDX guest: its quote is a TDX quote
        assert _code(shown).startswith("attestation.")


OPTIONAL = {"event_log", "crl", "ak", "report_data", "driver_rim", "vbios_rim", "mode"}


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_every_part_is_needed_and_no_other_is_taken(kind: str) -> None:
    shown, own = windows.evidence(kind, {})
    for name in shown.aux:
        less = dataclasses.replace(shown, aux={n: part for n, part in shown.aux.items() if n != name})
        if name in OPTIONAL and kind != "dstack":
            assert kinds.verify(less, own, NOW).kind == kind
            continue
        with pytest.raises(AttestationError) as caught:
            kinds.verify(less, own, NOW)
        assert caught.value.code == "attestation.malformed"
    for extra in ("", "quote2", "vek ", "VEK", "ek_chain"):
        with pytest.raises(AttestationError) as caught:
            kinds.verify(_aux(shown, **{extra: b"\1"}), own, NOW)
        assert caught.value.code == "attestation.malformed"


def _zeroed(kind: str, fill: int) -> Evidence:
    """The signature over the evidence replaced by bytes of one value."""
    shown = good(kind)
    places = {"tdx": (636, 700), "dstack": (636, 700), "sgx": (436, 500), "snp": (672, 816), "azure-snp": (704, 848)}
    if kind in ("tpm", "azure-tdx"):
        return _aux(shown, signature=bytes([fill]) * len(shown.aux["signature"]))
    start, end = places.get(kind, (len(shown.blob) - 96, len(shown.blob)))
    return dataclasses.replace(shown, blob=shown.blob[:start] + bytes([fill]) * (end - start) + shown.blob[end:])


@pytest.mark.parametrize("fill", [0x00, 0x01, 0xFF])
@pytest.mark.parametrize("kind", kinds.KINDS)
def test_signatures_of_zero_one_and_all_ones_sign_nothing(kind: str, fill: int) -> None:
    assert _code(_zeroed(kind, fill)) in ("attestation.signature", "attestation.tdx_quote", "attestation.sgx_quote")


def _attested(shown: Evidence) -> list[bytes]:
    claims = kinds.verify(shown, all_roots(), NOW)
    return [claims.report_data, claims.platform_id, kinds.launch_measurement(claims)]


@pytest.mark.parametrize("kind", CPU)
def test_two_verifications_agree_and_share_nothing_that_can_be_changed(kind: str) -> None:
    first, second = (kinds.verify(good(kind), all_roots(), NOW) for _ in range(2))
    assert first == second
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.debug = True  # type: ignore[misc]
    assert _attested(good(kind)) == _attested(good(kind))


def test_keys_of_the_kits_are_kept_apart() -> None:
    """Else the tables above would swap a thing for itself."""
    assert platform().chain != _other_platform().chain
    assert chip().chip_id != _other_chip().chip_id
    assert Device("GH100", "one").chain()[0] != Device("GH100", "two").chain()[0]
    assert machine().ak is keys("p256")
