"""The producer for TPM 2.0 machines, against swtpm: quote, key, certificate, boot log, activation, sealing.

Each test that says so accepts with the verifier of production under the devnet's root.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.attestation import credential, tpm
from cloister.core.attestation.credential import finish
from cloister.core.attestation.model import Evidence
from cloister.core.attestation.tpm_structures import parse_public
from cloister.core.errors import AttestationError, EvidenceError
from cloister.devnet.tee.tpm import Event, TpmHardware, boot_log, launch_measurement
from cloister.evidence import tpm_bench
from cloister.evidence.collateral import FileCollateral
from cloister.evidence.collect import collect
from cloister.evidence.detect import MachineConfig, open_tee, survey
from cloister.evidence.tpm2 import PCRS, Tpm2, TpmSealing
from cloister.evidence.tpm_bench import device_tcti, selection, socket_tcti
from cloister.evidence.tpm_tools import TpmTools, trimmed
from support.hardware import NOW, factory, roots
from support.simulated import EVENTS, producer, quoted, tpm_machine
from support.tpm_kit import rng

REPORT = bytes(range(64))
LATER = Event(11, 0x0D, b"measured by the running system")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TpmHardware]:
    """One machine for the tests that change nothing on it."""
    with tpm_machine(tmp_path_factory.mktemp("tpm")) as booted:
        yield booted


def _code(work: Callable[[], object]) -> str:
    with pytest.raises(EvidenceError) as caught:
        work()
    return caught.value.code


# --- quotes ---


def test_a_quote_of_a_certified_key_verifies(machine: TpmHardware) -> None:
    shown = quoted(machine, REPORT)
    claims = tpm.verify(shown, roots(), NOW)
    assert claims.report_data == REPORT
    assert tpm.launch_measurement(claims) == launch_measurement(EVENTS)
    assert claims.details["events"] == len(EVENTS)
    assert claims.details["key_trust"] == "ak_chain"
    assert set(shown.aux) == {"signature", "pcrs", "ak", "ak_chain", "report_data", "event_log"}


def test_the_evidence_travels_as_json(machine: TpmHardware) -> None:
    shown = quoted(machine, REPORT)
    again = Evidence.from_json(json.loads(json.dumps(shown.to_json())))
    assert tpm.verify(again, roots(), NOW).report_data == REPORT


async def test_requests_at_the_same_time_do_not_mix(machine: TpmHardware) -> None:
    tee = producer(machine)
    wanted = [bytes([n]) * 64 for n in range(4)]
    shown = await asyncio.gather(*(tee.quote(one) for one in wanted))
    assert [tpm.verify(one, roots(), NOW).report_data for one in shown] == wanted


@pytest.mark.parametrize("size", [0, 32, 63, 65])
async def test_report_data_has_64_bytes(size: int, machine: TpmHardware) -> None:
    with pytest.raises(TypeError):
        await producer(machine).quote(bytes(size))


def test_other_pcrs_are_another_measurement(machine: TpmHardware) -> None:
    few = tpm.verify(quoted(machine, REPORT, pcrs=(0, 4, 7)), roots(), NOW)
    assert set(few.measurements) == {"pcr0", "pcr4", "pcr7"}
    assert tpm.launch_measurement(few) != launch_measurement(EVENTS)


def test_without_a_certificate_of_its_key_the_verifier_asks_for_an_activation(
    machine: TpmHardware, tmp_path: Path
) -> None:
    """EK certificate from the TPM, authorities from the file; challenge, answer, and then the quote counts."""
    file = tmp_path / "authorities.json"
    file.write_text(json.dumps({"authorities": factory().tpm.authorities()}))
    tee = Tpm2(machine.emulator.tools, FileCollateral(file))
    shown = asyncio.run(tee.quote(REPORT))
    with pytest.raises(AttestationError) as caught:
        tpm.verify(shown, roots(), NOW)
    assert caught.value.code == "attestation.tpm_activation"
    asked = credential.challenge(shown.aux["ek_chain"], shown.aux["ak"], roots(), NOW, rng)
    answer = asyncio.run(tee.activate(asked.credential, asked.encrypted_seed))
    claims = tpm.verify(shown, roots(), NOW, {finish(asked, answer)})
    assert (claims.report_data, claims.details["key_trust"]) == (REPORT, "ek_chain")


def test_a_challenge_for_another_tpm_or_another_key_stays_unanswered(machine: TpmHardware, tmp_path: Path) -> None:
    tee = producer(machine)
    public = machine.emulator.tools.create_attestation_key()
    with tpm_machine(tmp_path / "other", defect="not_certified") as other:
        shown = quoted(other, REPORT)
    asked = credential.challenge(shown.aux["ek_chain"], public, roots(), NOW, rng)
    assert _code(lambda: asyncio.run(tee.activate(asked.credential, asked.encrypted_seed))) == "evidence.quote"
    der = machine.emulator.tools.endorsement_certificate()[1]
    key: Any = x509.load_der_x509_certificate(der).public_key()
    stranger = credential.make_credential(key, parse_public(shown.aux["ak"]).name, bytes(32), rng)
    assert _code(lambda: asyncio.run(tee.activate(*stranger))) == "evidence.quote"
    own = credential.make_credential(key, parse_public(public).name, b"s" * 32, rng)
    assert asyncio.run(tee.activate(*own)) == b"s" * 32


@pytest.mark.parametrize("challenge", [(b"", b""), (bytes(60), bytes(60)), (bytes(1025), b""), (b"", bytes(1025))])
def test_garbage_for_a_challenge_is_refused(challenge: tuple[bytes, bytes], machine: TpmHardware) -> None:
    assert _code(lambda: asyncio.run(producer(machine).activate(*challenge))) == "evidence.quote"


# --- the boot log ---


def test_a_log_that_no_longer_explains_the_values_is_left_out(tmp_path: Path) -> None:
    with tpm_machine(tmp_path) as machine:
        machine.emulator.extend((LATER,))
        shown = quoted(machine, REPORT)
        assert "event_log" not in shown.aux
        claims = tpm.verify(shown, roots(), NOW)
        assert tpm.launch_measurement(claims) == launch_measurement((*EVENTS, LATER))


async def test_a_bundle_has_the_log_and_a_node_does_not_send_it_along(machine: TpmHardware) -> None:
    """``cloister evidence collect`` is for checks from afar; gatekeepers compare values, and a log may be 1 MiB."""
    place = {"tpm_socket": machine.emulator.socket, "tpm_log": machine.log, "collateral": machine.collateral}
    config = _machine(**{name: str(path) for name, path in place.items()})
    bundle = await collect(config, REPORT, offline=True)
    assert tpm.verify(bundle.evidence, roots(), NOW).details["events"] == len(EVENTS)
    assert "event_log" not in (await open_tee(config).quote(REPORT)).aux
    alone = await collect(replace(config, tpm_log=None), REPORT, offline=True)
    assert "event_log" not in alone.evidence.aux


@pytest.mark.parametrize("content", [None, b"", b"no log", boot_log(EVENTS[1:]), boot_log(EVENTS)[:-1]])
def test_no_log_or_another_one_is_left_out(content: bytes | None, machine: TpmHardware, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "log").write_bytes(content)
    assert "event_log" not in quoted(machine, REPORT, log=tmp_path / "log").aux


# --- chains ---

NO_CHAIN: dict[str, str] = {
    "nothing": "",
    "no object": "[]",
    "no name of a chain": "{}",
    "both at once": '{"ak_chain": "-----BEGIN CERTIFICATE-----", "authorities": "-----BEGIN CERTIFICATE-----"}',
    "no text": '{"ak_chain": 7}',
    "no PEM": '{"ak_chain": "MII"}',
    "letters that PEM has not": '{"ak_chain": "-----BEGIN CERTIFICATE-----\\u00e9"}',
    "deep": "[" * 100000,
}


@pytest.mark.parametrize("sentence", NO_CHAIN)
def test_a_collateral_file_with(sentence: str, machine: TpmHardware, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(NO_CHAIN[sentence])
    tee = Tpm2(machine.emulator.tools, FileCollateral(tmp_path / "c.json"))
    assert _code(lambda: asyncio.run(tee.quote(REPORT))) == "evidence.collateral"


async def test_no_chain_at_all_is_refused_here_not_at_the_verifier(machine: TpmHardware) -> None:
    class Nothing:
        async def aux(self, kind: str, blob: bytes) -> dict[str, bytes]:
            return {}

    for source in (None, Nothing()):
        with pytest.raises(EvidenceError) as caught:
            await Tpm2(machine.emulator.tools, source).quote(REPORT)
        assert caught.value.code == "evidence.collateral"


# --- sealing ---


def test_sealing_keys_follow_the_boot_chain(tmp_path: Path) -> None:
    """The same after a power cycle, another by context and after other code; another TPM has another."""
    with tpm_machine(tmp_path / "one") as machine:
        key = asyncio.run(producer(machine).sealing_key(b"context"))
        assert len(key) == 32
        assert asyncio.run(producer(machine).sealing_key(b"other")) != key
        machine.emulator.extend((LATER,))
        assert asyncio.run(producer(machine).sealing_key(b"context")) != key
        machine.boot(EVENTS, NOW)
        assert asyncio.run(producer(machine).sealing_key(b"context")) == key
    with tpm_machine(tmp_path / "two") as machine:
        assert asyncio.run(producer(machine).sealing_key(b"context")) != key


async def test_a_sealing_context_is_bounded(machine: TpmHardware) -> None:
    with pytest.raises(TypeError):
        await TpmSealing(machine.emulator.tools).key(bytes(1025))
    assert len(await TpmSealing(machine.emulator.tools).key(bytes(1024))) == 32


# --- the key ---


def test_the_key_is_made_once(machine: TpmHardware) -> None:
    tools = machine.emulator.tools
    public = tools.create_attestation_key()
    assert public == tools.create_attestation_key() == tools.attestation_key()
    tpm.need_attestation_key(parse_public(public))


def test_a_fresh_tpm_has_no_key_and_without_an_endorsement_gets_none(tmp_path: Path) -> None:
    with tpm_machine(tmp_path / "m") as machine:
        machine.close()
        for file in (tmp_path / "m" / "tpm").iterdir():
            file.unlink()
        machine.emulator.start()
        assert machine.emulator.tools.attestation_key() is None
        assert _code(machine.emulator.tools.create_attestation_key) == "evidence.quote"


def test_nothing_stays_loaded_and_nothing_stays_on_disk(machine: TpmHardware) -> None:
    asyncio.run(producer(machine).sealing_key(b"x"))
    with machine.emulator.tools.bench() as bench:
        for what in ("handles-transient", "handles-loaded-session"):
            assert bench.run("tpm2_getcap", what).strip() == b""
        folder = bench._folder
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert not folder.exists()


def test_no_secret_in_arguments_or_environment(machine: TpmHardware, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = subprocess.run

    def spy(arguments: list[str], **options: Any) -> Any:
        seen.extend([*arguments, *options["env"].values()])
        return real(arguments, **options)

    monkeypatch.setattr(tpm_bench.subprocess, "run", spy)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    secret = b"the verifier's secret, 32 bytes."
    der = machine.emulator.tools.endorsement_certificate()[1]
    key: Any = x509.load_der_x509_certificate(der).public_key()
    name = parse_public(machine.emulator.tools.create_attestation_key()).name
    answer = asyncio.run(producer(machine).activate(*credential.make_credential(key, name, secret, rng)))
    sealing = asyncio.run(producer(machine).sealing_key(b"x"))
    told = " ".join(seen)
    assert answer == secret
    for needle in (secret.decode(), secret.hex(), sealing.hex(), "sk-secret"):
        assert needle not in told


# --- finding it ---


def _machine(**places: str | None) -> MachineConfig:
    return MachineConfig.from_json(places)


def test_a_tpm_is_found_at_its_socket(machine: TpmHardware) -> None:
    found = survey(_machine(tpm_socket=str(machine.emulator.socket), tpm_log=str(machine.log)))
    assert (found[-1].place, found[-1].reason) == ("tpm socket", "TPM 2.0 of IBM answers")
    tee = open_tee(_machine(tpm_socket=str(machine.emulator.socket), collateral=str(machine.collateral)))
    assert (tee.kind, isinstance(tee, Tpm2)) == ("tpm", True)


def test_where_there_is_none_the_reason_says_so(tmp_path: Path) -> None:
    places = {f.place: f.reason for f in survey(MachineConfig.everywhere())}
    assert list(places)[-1] == "tpm device"
    if not Path("/dev/tpmrm0").exists():
        assert places["tpm device"] == "no /dev/tpmrm0"
    (tmp_path / "null").write_bytes(b"")
    reason = survey(_machine(tpm_device=str(tmp_path / "null")))[-1].reason
    assert reason.startswith("expected tpm2_getcap to work, found ")
    with pytest.raises(EvidenceError) as caught:
        open_tee(_machine(tpm_device=str(tmp_path / "absent")))
    assert f"tpm device: no {tmp_path / 'absent'}" in caught.value.found


def test_missing_programs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tpm").write_bytes(b"")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert tpm_bench.missing_program() == "tpm2_quote"
    reason = survey(_machine(tpm_device=str(tmp_path / "tpm")))[-1].reason
    assert reason == "expected tpm2_quote, found nothing of that name on PATH"
    assert _code(TpmTools().manufacturer) == "evidence.tpm_tools"


# --- programs that misbehave ---

MISBEHAVING: dict[str, tuple[str, str]] = {
    "fails with a word": ("echo 'WARN: x' >&2; echo 'ERROR: no such hash' >&2; exit 1", "no such hash"),
    "fails without a word": ("exit 3", "an error without a word"),
    "is killed": ("kill -9 $$", "an error without a word"),
    "writes nothing": ("exit 0", "No such file or directory"),
    "writes an empty file": ("for f in quote signature pcrs; do : > $f; done", "0"),
    "writes far too much": ("head -c 9000 /dev/zero > quote", "8193"),
}


@pytest.mark.parametrize("sentence", MISBEHAVING)
def test_a_program_that(sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script, found = MISBEHAVING[sentence]
    program = tmp_path / "tpm2_quote"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(EvidenceError) as caught:
        TpmTools(device_tcti(tmp_path / "x")).quote(bytes(32), (0,))
    assert (caught.value.code, caught.value.found) == ("evidence.quote", found)


def test_a_program_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tpm2_getcap").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "tpm2_getcap").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(tpm_bench, "TIMEOUT_S", 0.2)
    with pytest.raises(EvidenceError) as caught:
        TpmTools().manufacturer()
    assert caught.value.found == "still running"


@pytest.mark.parametrize(
    ("said", "maker"), [("raw: 0x494E5443", "INTC"), ("raw: 0x414D4400", "AMD"), ("raw: 0x01020304", "????")]
)
def test_the_maker_is_four_letters(said: str, maker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tpm2_getcap").write_text(f"#!/bin/sh\nprintf 'TPM2_PT_MANUFACTURER:\\n  {said}\\n'\n")
    (tmp_path / "tpm2_getcap").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert TpmTools().manufacturer() == maker


# --- small parts ---


def test_how_tools_reach_a_tpm() -> None:
    assert TpmTools().tcti == "device:/dev/tpmrm0"
    assert socket_tcti(Path("/run/t.sock")) == "swtpm:path=/run/t.sock"


@pytest.mark.parametrize("pcrs", [(), (1, 0), (0, 0), (24,), (-1, 3)])
def test_pcrs_are_in_order_and_exist(pcrs: tuple[int, ...]) -> None:
    with pytest.raises(TypeError):
        selection(pcrs)


def test_the_default_pcrs_are_static_and_not_the_systems_own() -> None:
    assert selection(PCRS) == "sha256:0,1,2,3,4,5,6,7,8,9,11,12,13,14"
    assert max(PCRS) < tpm.STATIC_PCRS


def test_a_certificate_is_cut_out_of_its_padding() -> None:
    der = factory().tpm.issuer.der
    for behind in (b"", b"\0" * 40, b"\xff" * 500):
        assert trimmed(der + behind) == der
    assert trimmed(b"\x30\x03\1\2\3\xff") == b"\x30\x03\1\2\3"


@given(st.binary(max_size=64))
def test_garbage_for_a_certificate_is_refused_or_cut(stored: bytes) -> None:
    with contextlib.suppress(EvidenceError):
        cut = trimmed(stored)
        assert stored.startswith(cut)
        assert cut[0] == 0x30


def test_a_flipped_bit_anywhere_is_refused(machine: TpmHardware) -> None:
    """One bit per byte of the quote, its PCR values, and what it commits to."""
    shown = quoted(machine, REPORT)
    for part in ("blob", "pcrs", "report_data"):
        data = shown.blob if part == "blob" else shown.aux[part]
        for place in range(len(data)):
            bad = data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]
            aux = shown.aux if part == "blob" else {**shown.aux, part: bad}
            with pytest.raises(AttestationError):
                tpm.verify(Evidence("tpm", bad if part == "blob" else shown.blob, aux), roots(), NOW)
    assert hashlib.sha256(shown.aux["report_data"]).digest() in shown.blob
