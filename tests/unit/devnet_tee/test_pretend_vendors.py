"""The pretend vendors: keys that stay, certificates in the vendors' shapes, measurements, and machines."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from dcap_qvl import parse_quote
from hypothesis import given
from hypothesis import strategies as st

import cloister
from cloister.core.attestation import kinds
from cloister.core.attestation.model import Evidence
from cloister.core.attestation.policy import shipped
from cloister.core.attestation.roots import Roots
from cloister.core.errors import ConfigError
from cloister.devnet.tee import aws, intel
from cloister.devnet.tee.machines import KINDS, Factory, launched
from cloister.devnet.tee.measure import measure
from cloister.devnet.tee.store import Store, write_private
from cloister.devnet.tee.x509build import certificate, der, der_integer, der_oid, der_sequence
from support.hardware import MEASUREMENT, NOW, chip, factory, instance, platform, roots

DATA = bytes(range(64))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A small package to launch."""
    folder = tmp_path / "package"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "inner" / "a.py").write_text("a = 1")
    (folder / "harness.js").write_text("1")
    return folder


def test_a_measurement_is_48_bytes_and_the_same_each_time(package: Path) -> None:
    assert measure(package, "worker") == measure(package, "worker")
    assert len(measure(package, "worker")) == 48
    assert measure(package, "worker") != measure(package, "gatekeeper")


def test_a_measurement_does_not_depend_on_where_the_package_lies(package: Path, tmp_path: Path) -> None:
    before = measure(package, "worker")
    moved = package.rename(tmp_path / "elsewhere")
    assert measure(moved, "worker") == before


def test_byte_code_does_not_count(package: Path) -> None:
    before = measure(package, "worker")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"x")
    (package / "inner" / "old.pyc").write_bytes(b"x")
    assert measure(package, "worker") == before


@pytest.mark.parametrize("change", ["content", "name", "new file", "gone", "not Python"])
def test_every_other_change_counts(package: Path, change: str) -> None:
    before, file = measure(package, "worker"), package / "inner" / "a.py"
    if change == "content":
        file.write_text("a = 2")
    elif change == "name":
        file.rename(package / "inner" / "b.py")
    elif change == "new file":
        (package / "c.py").write_text("")
    elif change == "gone":
        file.unlink()
    else:
        (package / "harness.js").write_text("2")
    assert measure(package, "worker") != before


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ConfigError) as caught:
            measure(path, "worker")
        assert caught.value.code == "devnet.package"


def test_the_installed_package_can_be_measured() -> None:
    assert len(measure(Path(cloister.__file__).parent, "worker")) == 48


def test_keys_and_secrets_stay_and_are_private(tmp_path: Path) -> None:
    store = Store(tmp_path / "keys")
    secret = store.secret("s", 32)
    key = store.ec_key("k", ec.SECP256R1())
    again = Store(tmp_path / "keys")
    assert again.secret("s", 32) == secret
    assert again.ec_key("k", ec.SECP256R1()).private_numbers() == key.private_numbers()
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    for path in (tmp_path / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(p.name for p in (tmp_path / "keys").iterdir()) == ["k.key", "s.secret"]


def test_a_key_of_another_kind_is_our_mistake(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.ec_key("k", ec.SECP256R1())
    with pytest.raises(RuntimeError):
        store.ec_key("k", ec.SECP384R1())
    with pytest.raises(RuntimeError):
        store.rsa_key("k")
    store.secret("s", 16)
    with pytest.raises(RuntimeError):
        store.secret("s", 32)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no"):
        write_private(tmp_path / "x", b"data")
    assert list(tmp_path.iterdir()) == []


def test_certificates_are_made_once(tmp_path: Path) -> None:
    store, key = Store(tmp_path), ec.generate_private_key(ec.SECP256R1())
    made: list[x509.Certificate] = []

    def make() -> x509.Certificate:
        made.append(certificate("a", key.public_key(), key, start=NOW, end=NOW + 9, root=True, digest=hashes.SHA256()))
        return made[-1]

    assert store.certificate("a", make) == store.certificate("a", make)
    assert len(made) == 1


def test_object_identifiers() -> None:
    assert der_oid("2.5.29.15").hex() == "0603551d0f"
    assert der_oid("1.2.840.113549").hex() == "06062a864886f70d"
    for text in ("1.2.840.113741.1.13.1.2.17", "1.3.6.1.4.1.3704.1.3.8"):
        encoded = der_oid(text)
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(text), b"")
        assert extension.oid.dotted_string == text
        assert encoded[0] == 0x06
        assert encoded[1] == len(encoded) - 2


@given(st.integers(min_value=0, max_value=1 << 64))
def test_integers_are_minimal_and_positive(value: int) -> None:
    encoded = der_integer(value)
    assert int.from_bytes(encoded[2:], "big", signed=True) == value
    assert len(encoded) == 3 or encoded[2] or encoded[3] & 0x80


@given(st.integers(min_value=0, max_value=70000))
def test_lengths_are_minimal(size: int) -> None:
    encoded = der(0x04, bytes(size))
    head = len(encoded) - size
    assert head == 2 + (0 if size < 128 else (size.bit_length() + 7) // 8)
    assert der_sequence()[0] == 0x30


def test_the_pck_extension_says_what_the_quote_says() -> None:
    quote = parse_quote(platform().quote(MEASUREMENT, DATA))
    extension = quote.pck_extension()
    assert extension is not None
    assert (extension.fmspc, extension.pce_svn, extension.cpu_svn) == (intel.FMSPC, intel.PCE_SVN, intel.CPU_SVN)
    assert (quote.fmspc(), quote.header.version, quote.is_tdx()) == (intel.FMSPC.hex().upper(), 4, True)
    assert quote.report.mr_td == MEASUREMENT


def test_simulated_hardware_meets_the_strict_policy_but_for_its_root() -> None:
    strict = shipped("strict").kinds
    for evidence in (
        Evidence("tdx", platform().quote(MEASUREMENT, DATA), {"collateral": factory().collateral()}),
        Evidence("snp", chip().report(MEASUREMENT, DATA), dict(chip().certificates)),
        Evidence("nitro", instance().document({0: MEASUREMENT}, NOW, user_data=DATA)),
    ):
        claims = kinds.verify(evidence, roots(), NOW)
        assert claims.tcb_status in strict[evidence.kind]["tcb"]
        kinds.PLATFORM_RULES[evidence.kind](claims, strict[evidence.kind])


def test_simulated_certificates_say_so() -> None:
    for root in (factory().intel.root, factory().amd.root, factory().aws.root):
        assert "simulated" in root.certificate.subject.rfc4514_string()


@pytest.mark.parametrize("size", [0, 47, 49])
def test_measurements_and_report_data_have_one_size(size: int) -> None:
    with pytest.raises(TypeError):
        platform().quote(bytes(size), DATA)
    with pytest.raises(TypeError):
        chip().report(bytes(size), DATA)
    with pytest.raises(TypeError):
        chip().report(MEASUREMENT, bytes(size))


@given(st.binary(max_size=200))
def test_the_module_answers_garbage_with_an_error(data: bytes) -> None:
    import cbor2

    answer = cbor2.loads(instance().answer(data, {}, NOW))
    assert answer.keys() <= {"Error", "DescribeNSM"}


def test_the_module_refuses_what_hardware_refuses() -> None:
    import cbor2

    for request in (
        {"Attestation": {"user_data": bytes(513)}},
        {"Attestation": {"x": b""}},
        {"Attestation": {"nonce": "t"}},
        "Nothing",
    ):
        assert "Error" in cbor2.loads(instance().answer(cbor2.dumps(request), {}, NOW))
    assert "Error" in cbor2.loads(instance().answer(bytes(aws.MAX_REQUEST + 1), {}, NOW))


def test_a_restart_keeps_roots_and_issues_new_dates(package: Path, tmp_path: Path) -> None:
    source = factory()
    later = Factory(Path(source._store._folder).parent, clock=lambda: NOW + 40 * 86400)
    assert later.roots() == source.roots()
    machine = later.create("restart", "tdx", "worker", package)
    outblob, _ = machine.hardware.report(DATA)
    fresh = Evidence("tdx", outblob, {"collateral": later.collateral()})
    assert kinds.verify(fresh, Roots.from_json(source.roots()), NOW + 40 * 86400).report_data == DATA


def test_machines_have_names_kinds_roles(package: Path) -> None:
    made = factory().create("m-1", "nitro", "worker", package)
    assert made.measurement == measure(package, "worker")
    again = factory().create("m-1", "nitro", "gatekeeper", package)
    assert again.secret == made.secret
    assert again.measurement != made.measurement
    bad = [("", "tdx", "worker"), ("../x", "tdx", "worker"), ("A", "tdx", "worker"), ("a" * 33, "tdx", "worker")]
    bad += [("m-2", "sev", "worker"), ("m-2", "tdx", "owner"), ("m-1", "tdx", "worker")]
    for name, kind, role in bad:
        with pytest.raises(ConfigError) as caught:
            factory().create(name, kind, role, package)
        assert caught.value.code == "devnet.machine"
    flaws: list[tuple[str, dict[str, str]]] = [("tdx", {"defect": "debug"}), ("snp", {"tcb": "OutOfDate"})]
    flaws += [("tpm", {"tcb": "UpToDate"}), ("sgx", {"tcb": "Fine"}), ("sgx", {"defect": "expired_key"})]
    flaws += [("tpm", {"defect": "debug"})]
    for kind, wrong in flaws:
        with pytest.raises(ConfigError) as caught:
            factory().create("m-3", kind, "worker", package, **wrong)  # type: ignore[arg-type]
        assert caught.value.code == "devnet.machine"


def test_each_kind_reports_a_measurement_of_its_own_size(package: Path) -> None:
    code = measure(package, "worker")
    sizes = {kind: len(launched(kind, "worker", code)) for kind in KINDS}
    assert sizes == {"tdx": 48, "snp": 48, "nitro": 48, "sgx": 32, "tpm": 48}
    made = factory().create("m-4", "sgx", "worker", package)
    assert made.measurement == launched("sgx", "worker", code)
    assert {launched(kind, "worker", code) for kind in ("tdx", "snp", "nitro")} == {code}


def test_sealing_keys_differ_by_machine_measurement_and_context(package: Path) -> None:
    one, other = (factory().create(name, "snp", "worker", package) for name in ("seal-1", "seal-2"))
    upgraded_keys = set()
    keys = {one.sealing_key(b"a"), one.sealing_key(b"b"), other.sealing_key(b"a")}
    assert one.sealing_key(b"a") == factory().create("seal-1", "snp", "worker", package).sealing_key(b"a")
    (package / "c.py").write_text("")
    upgraded_keys.add(factory().create("seal-1", "snp", "worker", package).sealing_key(b"a"))
    assert len(keys | upgraded_keys) == 4
    assert one.secret.hex() not in repr(one)


def test_the_wrong_interface_is_no_device(package: Path) -> None:
    nitro = factory().create("no-tsm", "nitro", "worker", package)
    with pytest.raises(OSError, match="No such device"):
        nitro.hardware.report(DATA)
    for kind in ("tdx", "snp"):
        with pytest.raises(OSError, match="No such device"):
            factory().create(f"no-nsm-{kind}", kind, "worker", package).hardware.nsm(b"")


def test_roots_are_fingerprints_of_the_stored_certificates() -> None:
    expected = "0x" + hashlib.sha256(factory().aws.root.der).hexdigest()
    assert factory().roots()["aws"] == [expected]
    assert set(factory().roots()) == {"intel", "amd", "aws", "tpm"}
