"""TPM evidence: whose key, which quote, which values, which nonce; and what a TPM is never good for."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key

from cloister.core.attestation import kinds, tpm
from cloister.core.attestation.appraise import appraise, require
from cloister.core.attestation.certificates import load_pem_chain
from cloister.core.attestation.model import Claims, Evidence, measurement_id
from cloister.core.attestation.policy import Policy, devnet
from cloister.core.attestation.roots import Roots
from cloister.core.attestation.tpm_structures import parse_public, parse_quote
from cloister.core.errors import AttestationError, CloisterError, PolicyError
from cloister.devnet.tee.x509build import DAY
from support.hardware import NETWORK, NOW, binding, roots
from support.tpm_kit import (
    AK_USAGE,
    CHOSEN,
    EK_USAGE,
    REPORT,
    SHA256,
    SHA384,
    SoftTpm,
    boot_log,
    keys,
    machine,
    public_area,
    tpm_evidence,
    tpm_roots,
    vendor,
)
from support.vectors import vectors

KNOWN = json.loads((Path(__file__).parent / "data" / "tpm_known_answers.json").read_text())


def _verify(evidence: Evidence, now: int = NOW) -> Claims:
    return kinds.verify(evidence, tpm_roots(), now)


def _refused(step: Callable[[], object]) -> str:
    with pytest.raises(AttestationError) as caught:
        step()
    return caught.value.code


def test_the_claims_of_an_honest_quote() -> None:
    claims = _verify(tpm_evidence())
    assert (claims.kind, claims.vendor_class, claims.generation) == ("tpm", "tpm", "TPM 2.0")
    assert (claims.tcb_status, claims.debug, claims.report_data) == ("Unrated", False, REPORT)
    assert claims.fresh_until == NOW + DAY
    assert claims.measurements["pcr4"] == machine().pcrs[4]
    assert set(claims.measurements) == {f"pcr{i}" for i in CHOSEN}
    assert claims.details["confidential"] is False
    assert (claims.details["resets"], claims.details["restarts"], claims.details["clock_safe"]) == (7, 2, True)


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa"])
def test_every_kind_of_attestation_key(kind: str) -> None:
    tpm_of_kind = SoftTpm(keys(kind))
    message = tpm_of_kind.message(REPORT[:9], CHOSEN)
    if kind == "p384":  # such a key hashes with SHA-384 throughout
        digest = b"\0\x30" + hashlib.sha384(tpm_of_kind.values(CHOSEN)).digest()
        message = tpm_of_kind.message(REPORT[:9], CHOSEN, digest=digest)
    evidence = tpm_evidence(tpm_of_kind, signature=tpm_of_kind.sign(message), report_data=None)
    assert _verify(dataclasses.replace(evidence, blob=message)).report_data == REPORT[:9]


def test_a_pss_key_is_known_by_its_public_area_and_a_real_tpm_quotes_with_it() -> None:
    part = {name: bytes.fromhex(text) for name, text in KNOWN["pss_quote"].items()}
    public = parse_public(part["ak"])
    quote, pcrs = tpm.check_quote(part["message"], part["signature"], part["pcrs"], public.key, public)
    assert quote.extra == b"\1\2"
    assert pcrs[SHA256, 4] == hashlib.sha256(bytes(32) + hashlib.sha256(b"a").digest()).digest()
    without = lambda: tpm.check_quote(part["message"], part["signature"], part["pcrs"], public.key)  # noqa: E731
    assert _refused(without) == "attestation.signature"
    soft = SoftTpm(keys("rsa"))
    area = parse_public(public_area(soft.ak, scheme=0x0016))
    message = soft.message(b"", CHOSEN)
    assert tpm.check_quote(message, soft.sign(message, pss=True), soft.values(CHOSEN), area.key, area)


def _swtpm() -> tuple[bytes, bytes, bytes, ec.EllipticCurvePublicKey | rsa.RSAPublicKey]:
    folder = vectors() / "tpm/swtpm"
    raw = (folder / "q.pcrs").read_bytes()[4 + 16 * 8 + 4 :]  # tpm2-tools: a selection, then lists of 8 digests
    values = b""
    for part in (raw[:532], raw[532:]):
        count = int.from_bytes(part[:4], "little")
        values += b"".join(part[4 + 66 * i + 2 :][:32] for i in range(count))
    key = load_pem_public_key((folder / "ak.pem").read_bytes())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return (folder / "q.msg").read_bytes(), (folder / "q.sig").read_bytes(), values, key


def test_the_quote_of_the_vectors() -> None:
    message, signature, values, key = _swtpm()
    quote, pcrs = tpm.check_quote(message, signature, values, key)
    assert quote.extra == hashlib.sha256(b"nonce-from-verifier").digest()
    measured = hashlib.sha256(b"compose-hash:demo").digest()
    assert pcrs[SHA256, 15] == hashlib.sha256(bytes(32) + measured).digest()
    event = hashlib.sha256(bytes.fromhex((vectors() / "tpm/swtpm/pcr23-event.hex").read_text().strip())).digest()
    assert pcrs[SHA256, 23] == hashlib.sha256(bytes(32) + event).digest()
    assert not any(any(pcrs[SHA256, i]) for i in range(8))


def test_every_flipped_bit_of_the_quote_of_the_vectors_is_refused() -> None:
    message, signature, values, key = _swtpm()
    parts = (message, signature, values)
    for which, part in enumerate(parts):
        for place in range(len(part)):
            bad = bytearray(part)
            bad[place] ^= 1 << place % 8
            changed = [*parts[:which], bytes(bad), *parts[which + 1 :]]
            with pytest.raises(AttestationError):
                tpm.check_quote(changed[0], changed[1], changed[2], key)


@pytest.mark.long
def test_every_bit_of_the_quote_of_the_vectors_counts() -> None:
    message, signature, values, key = _swtpm()
    parts = (message, signature, values)
    for which, part in enumerate(parts):
        for place in range(8 * len(part)):
            bad = bytearray(part)
            bad[place // 8] ^= 1 << place % 8
            changed = [*parts[:which], bytes(bad), *parts[which + 1 :]]
            with pytest.raises(AttestationError):
                tpm.check_quote(changed[0], changed[1], changed[2], key)


def _chain(kind: str, usage: str | None, **when: int) -> bytes:
    return vendor().leaf(keys(kind).public_key(), usage, **when).encode()


REFUSED: dict[str, tuple[Callable[[], Evidence], str]] = {
    "no chain": (lambda: tpm_evidence(ak_chain=None), "attestation.malformed"),
    "two chains": (lambda: tpm_evidence(ek_chain=_chain("rsa-ek", EK_USAGE)), "attestation.malformed"),
    "no signature": (lambda: tpm_evidence(signature=None), "attestation.malformed"),
    "an unknown part": (lambda: tpm_evidence(extra=b""), "attestation.malformed"),
    "a signature of 513 bytes": (lambda: tpm_evidence(signature=bytes(513)), "attestation.malformed"),
    "PCR values of 4097 bytes": (lambda: tpm_evidence(pcrs=bytes(4097)), "attestation.malformed"),
    "PCR values too few": (lambda: tpm_evidence(pcrs=bytes(32)), "attestation.malformed"),
    "other PCR values": (lambda: tpm_evidence(pcrs=bytes(320)), "attestation.pcr_digest"),
    "another signature": (lambda: tpm_evidence(signature=machine().sign(b"x")), "attestation.signature"),
    "an empty signature": (lambda: tpm_evidence(signature=b""), "attestation.signature"),
    "the key of another TPM": (lambda: tpm_evidence(ak_chain=_chain("p256-ek", AK_USAGE)), "attestation.signature"),
    "an endorsement certificate in its place": (
        lambda: tpm_evidence(ak_chain=_chain("p256", EK_USAGE)),
        "attestation.certificate",
    ),
    "a certificate of tomorrow": (
        lambda: tpm_evidence(ak_chain=_chain("p256", AK_USAGE, start=NOW + 1)),
        "attestation.expired",
    ),
    "a certificate of yesterday": (
        lambda: tpm_evidence(ak_chain=_chain("p256", AK_USAGE, end=NOW - 1)),
        "attestation.expired",
    ),
    "a chain without its root": (
        lambda: tpm_evidence(ak_chain=_chain("p256", AK_USAGE).rsplit(b"-----BEGIN", 1)[0]),
        "attestation.root",
    ),
    "a chain without its middle": (
        lambda: tpm_evidence(
            ak_chain=b"-----BEGIN".join(_chain("p256", AK_USAGE).split(b"-----BEGIN")[i] for i in (0, 1, 3))
        ),
        "attestation.certificate",
    ),
    "the public area of another key": (
        lambda: tpm_evidence(ak=public_area(keys("p256-ek"))),
        "attestation.chip",
    ),
}


def _swap_report(evidence: Evidence, report: bytes) -> Evidence:
    return dataclasses.replace(evidence, aux={**evidence.aux, "report_data": report})


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_is_refused(sentence: str) -> None:
    make, code = REFUSED[sentence]
    assert _refused(lambda: _verify(make())) == code


@pytest.mark.parametrize("report", [bytes(64), REPORT[:63], b""])
def test_report_data_that_the_tpm_did_not_see(report: bytes) -> None:
    assert _refused(lambda: _verify(_swap_report(tpm_evidence(), report))) == "attestation.tpm_nonce"


def test_an_unpinned_root_is_refused() -> None:
    for other in (Roots.of({}), roots(), Roots.production(), Roots.of({"amd": tpm_roots().fingerprints["tpm"]})):
        assert _refused(lambda other=other: tpm.verify(tpm_evidence(), other, NOW)) == "attestation.root"  # type: ignore[misc]


def test_production_pins_no_tpm_at_all() -> None:
    assert "tpm" not in Roots.production().fingerprints
    assert _refused(tpm_roots().require_production) == "attestation.simulated_root"


def test_validity_ends_to_the_second() -> None:
    evidence = tpm_evidence()
    assert _verify(evidence, NOW + DAY).fresh_until == NOW + DAY
    assert _refused(lambda: _verify(evidence, NOW + DAY + 1)) == "attestation.expired"
    assert _verify(evidence, NOW - DAY)
    assert _refused(lambda: _verify(evidence, NOW - DAY - 1)) == "attestation.expired"


def test_an_endorsed_key_counts_only_for_the_verifier_that_activated_it() -> None:
    soft = machine()
    ak, chain = public_area(soft.ak), _chain("rsa-ek", EK_USAGE)
    evidence = tpm_evidence(soft, ak_chain=None, ek_chain=chain, ak=ak)
    assert _refused(lambda: _verify(evidence)) == "attestation.tpm_activation"
    leaf = load_pem_chain(chain, "chain")[0].public_bytes(Encoding.DER)
    mine = tpm.Activation(hashlib.sha256(leaf).digest(), parse_public(ak).name)
    claims = tpm.verify(evidence, tpm_roots(), NOW, {mine})
    assert claims.details["key_trust"] == "ek_chain"
    for other in (dataclasses.replace(mine, ek=bytes(32)), dataclasses.replace(mine, ak_name=bytes(34))):
        other_verifier = lambda other=other: tpm.verify(evidence, tpm_roots(), NOW, {other})  # noqa: E731
        assert _refused(other_verifier) == "attestation.tpm_activation"
    assert _refused(lambda: _verify(tpm_evidence(ak_chain=None, ek_chain=chain))) == "attestation.malformed"


@pytest.mark.parametrize("bit", [1, 4, 5, 16, 18])
def test_a_key_that_could_sign_forgeries_or_leave_its_tpm_is_refused(bit: int) -> None:
    area = public_area(keys("p256"), attributes=0x00050072 & ~(1 << bit))
    evidence = tpm_evidence(ak_chain=None, ek_chain=_chain("rsa-ek", EK_USAGE), ak=area)
    assert _refused(lambda: _verify(evidence)) == "attestation.tpm_key"
    both = public_area(keys("p256"), attributes=0x00070072)  # it may decrypt as well
    assert _refused(lambda: tpm.need_attestation_key(parse_public(both))) == "attestation.tpm_key"


def test_the_launch_measurement_covers_which_registers_and_what_they_hold() -> None:
    base = tpm.launch_measurement(_verify(tpm_evidence()))
    assert len(base) == 48
    assert tpm.launch_measurement(_verify(tpm_evidence(chosen=(0, 4)))) != base
    other = machine()
    other.extend(0, bytes(32))
    assert tpm.launch_measurement(_verify(tpm_evidence(other))) != base
    resettable = machine()
    resettable.extend(23, bytes(32))
    assert tpm.launch_measurement(_verify(tpm_evidence(resettable))) == base


def test_a_quote_of_registers_that_anyone_resets_measures_nothing() -> None:
    claims = _verify(tpm_evidence(chosen=(16, 23)))
    assert _refused(lambda: tpm.launch_measurement(claims)) == "attestation.malformed"


def _policy(**changes: object) -> Policy:
    both = Roots.of({**roots().fingerprints, **tpm_roots().fingerprints})
    return dataclasses.replace(devnet(both), **changes)  # type: ignore[arg-type]


def _appraise(role: str, policy: Policy | None = None) -> list[str]:
    bound = binding(role=role)
    evidence = tpm_evidence(report=bound.report_data())
    listed = frozenset({measurement_id(role, tpm.launch_measurement(_verify(evidence)))})
    verdict = appraise(
        evidence,
        bound,
        policy=policy or _policy(),
        now=NOW,
        network=NETWORK,
        role=role,
        measurements=listed,
        checkpoints=None,
        nonce=bound.nonce,
    )
    if verdict.accepted:
        assert require(verdict).kind == "tpm"
    return [check.code for check in verdict.checks if not check.ok]


def test_a_devnet_takes_a_tpm_as_a_worker_and_never_into_a_committee() -> None:
    assert _appraise("worker") == []
    assert _appraise("gatekeeper") == ["attestation.role"]
    assert _appraise("faces") == ["attestation.role"]


def test_no_policy_can_let_a_tpm_into_a_committee() -> None:
    for roles in (["gatekeeper"], ["worker", "gatekeeper"], "worker", [1]):
        with pytest.raises(PolicyError):
            _policy(kinds={"tpm": {"tcb": ["Unrated"], "roles": roles}})
    assert _appraise("worker", _policy(kinds={"tpm": {"tcb": ["Unrated"], "roles": []}})) == ["attestation.role"]


def test_a_log_that_explains_the_registers() -> None:
    soft = machine()
    log = boot_log((4, 13, b"kernel"), (15, 13, b"image"), (0, 3, b"a note, measured nowhere"))
    claims = _verify(tpm_evidence(soft, event_log=log))
    assert claims.details["events"] == 3
    assert _verify(tpm_evidence(soft)).details["events"] == 0


LOGS: dict[str, bytes] = {
    "another kernel": boot_log((4, 13, b"kernel 2"), (15, 13, b"image")),
    "an event dropped": boot_log((4, 13, b"kernel"), (15, 13, b"image"), (4, 13, b"initrd")),
    "an event twice": boot_log((4, 13, b"kernel"), (4, 13, b"kernel")),
    "registers that are not quoted": boot_log((9, 13, b"kernel")),
    "a bank that is not quoted": boot_log((4, 13, b"kernel"), banks=(SHA384,)),
    "no event": boot_log(),
}


@pytest.mark.parametrize("sentence", LOGS)
def test_logs_that_explain_nothing(sentence: str) -> None:
    assert _refused(lambda: _verify(tpm_evidence(event_log=LOGS[sentence]))) == "attestation.event_log"


def test_a_real_boot_replays_to_its_registers() -> None:
    folder = vectors() / "tpm/software-vm"
    pcrs = {int(i): bytes.fromhex(v) for i, v in json.loads((folder / "pcrs_sha256.json").read_text()).items()}
    log = (folder / "binary_bios_measurements").read_bytes()
    quoted = {(SHA256, i): pcrs[i] for i in (0, 1, 2, 4, 5, 7, 8, 9)}
    assert tpm.check_log(log, quoted) == 24
    for index in (0, 4, 9):
        wrong = {**quoted, (SHA256, index): bytes(32)}
        assert _refused(lambda wrong=wrong: tpm.check_log(log, wrong)) == "attestation.event_log"  # type: ignore[misc]


def test_an_activated_quote_names_its_signer() -> None:
    assert parse_quote(tpm_evidence().blob).signer.hex() == _verify(tpm_evidence()).details["qualified_signer"]


def test_flipped_bits_of_evidence_change_no_claim() -> None:
    evidence = tpm_evidence()
    honest = _verify(evidence)
    for place in range(len(evidence.blob)):
        bad = bytearray(evidence.blob)
        bad[place] ^= 1 << place % 8
        with pytest.raises(CloisterError):
            _verify(dataclasses.replace(evidence, blob=bytes(bad)))
    for name in ("signature", "pcrs", "report_data", "ak_chain"):
        part = evidence.aux[name]
        for place in range(0, len(part), 1 + len(part) // 120):
            bad = bytearray(part)
            bad[place] ^= 1 << place % 8
            try:
                claims = _verify(dataclasses.replace(evidence, aux={**evidence.aux, name: bytes(bad)}))
            except CloisterError:
                continue
            assert name == "ak_chain"  # PEM: line ends, and text between the blocks
            assert claims == honest
