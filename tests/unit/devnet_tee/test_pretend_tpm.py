"""Pretend TPM machines: what they measure, who vouches for them, how they start and end, and every chosen defect."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.attestation import eventlog, tpm
from cloister.core.attestation.appraise import appraise
from cloister.core.attestation.credential import EK_PURPOSE
from cloister.core.attestation.model import Verdict, measurement_id
from cloister.core.attestation.tpm import AK_PURPOSE, purposes_of
from cloister.core.errors import ConfigError
from cloister.devnet.tee import tpm as subject
from cloister.devnet.tee.machines import Factory, launched
from cloister.devnet.tee.measure import measure
from cloister.devnet.tee.tpm import Emulator, TpmHardware, boot_events, boot_log, launch_measurement
from cloister.evidence.tpm2 import PCRS
from support.hardware import MEASUREMENT, NETWORK, NOW, binding, factory, policy, roots
from support.simulated import EVENTS, need_swtpm, producer, quoted, tpm_machine

DATA = bytes(range(64))


def _judged(machine: TpmHardware) -> Verdict:
    """A gatekeeper's verdict over what the real producer shows."""
    return appraise(
        quoted(machine, binding().report_data()),
        binding(),
        policy=policy(),
        now=NOW,
        network=NETWORK,
        role="worker",
        measurements=frozenset({measurement_id("worker", launch_measurement(EVENTS))}),
        checkpoints=None,
        nonce=None,
    )


# --- what is measured ---


def test_the_predicted_measurement_is_that_of_the_quote(tmp_path: Path) -> None:
    with tpm_machine(tmp_path) as machine:
        claims = tpm.verify(quoted(machine, DATA), roots(), NOW)
    assert tpm.launch_measurement(claims) == launch_measurement(EVENTS)
    assert {int(name[3:]) for name in claims.measurements} == set(PCRS)
    assert all(any(claims.measurements[f"pcr{index}"]) for index in (*range(8), subject.CODE_PCR))


def test_package_and_role_are_in_the_code_register_alone() -> None:
    base, _ = eventlog.replay_pcrs(boot_log(EVENTS))
    others = (boot_events(MEASUREMENT, "gatekeeper"), boot_events(bytes(48), "worker"))
    for events in others:
        assert launch_measurement(events) != launch_measurement(EVENTS)
        changed, _ = eventlog.replay_pcrs(boot_log(events))
        assert {place for place in base if base[place] != changed[place]} == {(0x0B, 11), (0x0C, 11)}


@given(st.binary(min_size=48, max_size=48), st.sampled_from(["worker", "gatekeeper", "faces"]))
def test_the_log_replays_to_what_the_measurement_is_over(package: bytes, role: str) -> None:
    events = boot_events(package, role)
    replayed, count = eventlog.replay_pcrs(boot_log(events))
    values = {index: replayed.get((0x0B, index), bytes(32)) for index in PCRS}
    joined = b"".join(b"\x00\x0b" + bytes([index]) + value for index, value in values.items())
    assert launch_measurement(events) == hashlib.sha384(joined).digest()
    assert count == len(events)


def test_the_caller_chooses_no_measurement(tmp_path: Path) -> None:
    """Launched from files through the factory: the measurement is that of the files and the role."""
    need_swtpm()
    package = tmp_path / "p"
    package.mkdir()
    (package / "__init__.py").write_text("")
    made = Factory(Path(factory()._store._folder).parent, clock=lambda: NOW)
    try:
        machine = made.create("t", "tpm", "worker", package, run=tmp_path)
        assert isinstance(machine.hardware, TpmHardware)
        claims = tpm.verify(quoted(machine.hardware, DATA), roots(), NOW)
        assert machine.measurement == tpm.launch_measurement(claims)
        assert machine.measurement == launched("tpm", "worker", measure(package, "worker"))
        (package / "more.py").write_text("")
        again = made.create("t", "tpm", "worker", package, run=tmp_path)
        assert isinstance(again.hardware, TpmHardware)
        assert again.measurement != machine.measurement
        assert machine.hardware.emulator.pid == 0
        claims = tpm.verify(quoted(again.hardware, DATA), roots(), NOW)
        assert again.measurement == tpm.launch_measurement(claims)
    finally:
        made.close()
    assert again.hardware.emulator.pid == 0


# --- who vouches for it ---


def test_certificates_come_from_the_devnets_maker(tmp_path: Path) -> None:
    with tpm_machine(tmp_path) as machine:
        endorsement = x509.load_der_x509_certificate(machine.emulator.tools.endorsement_certificate()[1])
        leaf = x509.load_pem_x509_certificates(quoted(machine, DATA).aux["ak_chain"])[0]
    assert (purposes_of(endorsement), purposes_of(leaf)) == ([EK_PURPOSE], [AK_PURPOSE])
    assert endorsement.issuer == leaf.issuer == factory().tpm.issuer.certificate.subject
    assert "simulated hardware" in leaf.subject.rfc4514_string()


def test_the_maker_certifies_only_what_this_tpm_activates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloister.core.errors import AttestationError

    with tpm_machine(tmp_path, defect="not_certified") as machine:
        tools = machine.emulator.tools
        monkeypatch.setattr(type(tools), "activate", lambda self, credential, seed: bytes(32))
        with pytest.raises(AttestationError) as caught:
            factory().tpm.certify(tools, NOW)
    assert caught.value.code == "attestation.tpm_credential"


def test_keys_and_certificates_stay_over_power_cycles(tmp_path: Path) -> None:
    with tpm_machine(tmp_path) as machine:
        first, endorsement = quoted(machine, DATA), machine.emulator.tools.endorsement_certificate()
    with tpm_machine(tmp_path) as machine:
        second = quoted(machine, DATA)
        assert machine.emulator.tools.endorsement_certificate() == endorsement
    assert (first.aux["ak"], first.aux["ak_chain"]) == (second.aux["ak"], second.aux["ak_chain"])
    claims = [tpm.verify(shown, roots(), NOW) for shown in (first, second)]
    assert claims[0].platform_id == claims[1].platform_id
    assert claims[0].details["resets"] < claims[1].details["resets"]


def test_two_machines_are_two_platforms(tmp_path: Path) -> None:
    with tpm_machine(tmp_path / "1") as one, tpm_machine(tmp_path / "2") as two:
        assert one.emulator.pid != two.emulator.pid
        ids = {tpm.verify(quoted(machine, DATA), roots(), NOW).platform_id for machine in (one, two)}
    assert len(ids) == 2


# --- defects ---


def test_without_a_defect_the_devnet_accepts_it(tmp_path: Path) -> None:
    with tpm_machine(tmp_path) as machine:
        assert _judged(machine).accepted


@pytest.mark.parametrize("defect", subject.DEFECTS)
def test_a_machine_with_the_defect_is_refused_by_its_code(defect: str, tmp_path: Path) -> None:
    with tpm_machine(tmp_path, defect=defect) as machine:
        verdict = _judged(machine)
    assert [check.code for check in verdict.checks if not check.ok] == [subject.DEFECTS[defect]]


# --- the process ---


def test_files_and_sockets_are_private(tmp_path: Path) -> None:
    with tpm_machine(tmp_path) as machine:
        asyncio.run(producer(machine).quote(DATA))
        sockets = (machine.emulator.socket, Path(f"{machine.emulator.socket}.ctrl"))
        for path in (*sockets, machine.log, machine.collateral, *(tmp_path / "tpm").glob("tpm2-*")):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        assert stat.S_IMODE((tmp_path / "tpm").stat().st_mode) == 0o700
    assert not any(path.exists() for path in sockets)


def test_stopping_twice_and_stopping_what_never_ran_is_harmless(tmp_path: Path) -> None:
    never = Emulator(tmp_path / "s", tmp_path / "t.sock")
    never.stop()
    assert never.pid == 0
    with tpm_machine(tmp_path / "m") as machine:
        pid = machine.emulator.pid
        machine.close()
        machine.close()
        assert not Path(f"/proc/{pid}").exists()


def test_the_tpm_dies_with_whoever_started_it(tmp_path: Path) -> None:
    """SIGKILL, so that nobody tidies up: the kernel ends swtpm."""
    need_swtpm()
    code = (
        "import sys, time; from pathlib import Path; from cloister.devnet.tee.tpm import Emulator\n"
        "e = Emulator(Path(sys.argv[1]) / 's', Path(sys.argv[1]) / 't.sock'); e.start(); print(e.pid, flush=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert _lives(pid)
        parent.kill()
        parent.wait(20)
    for _ in range(500):
        if not _lives(pid):
            break
        time.sleep(0.01)
    assert not _lives(pid)


def _lives(pid: int) -> bool:
    """Whether it runs: a zombie that its new parent has not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_tpm_that_was_killed_starts_again(tmp_path: Path) -> None:
    with tpm_machine(tmp_path) as machine:
        os.kill(machine.emulator.pid, signal.SIGKILL)
        machine.boot(EVENTS, NOW)
        assert _judged(machine).accepted


def test_without_swtpm_the_refusal_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        Emulator(tmp_path / "s", tmp_path / "t.sock").start()
    assert caught.value.code == "devnet.swtpm"
    assert "apt-get install -y swtpm tpm2-tools" in caught.value.remedy


@pytest.mark.parametrize(
    ("script", "found"), [("echo cannot do it > LOG; exit 1", "cannot do it"), ("exit 1", "silence")]
)
def test_an_swtpm_that_ends_at_once_is_quoted(
    script: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_swtpm()
    program = tmp_path / "bin" / "swtpm"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n" + script.replace("LOG", str(tmp_path / "s" / "log")) + "\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    emulator = Emulator(tmp_path / "s", tmp_path / "t.sock")
    with pytest.raises(ConfigError) as caught:
        emulator.start()
    assert (caught.value.code, caught.value.found) == ("devnet.swtpm", found)
    assert emulator.pid == 0
