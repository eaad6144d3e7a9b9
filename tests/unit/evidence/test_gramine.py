"""SGX under Gramine: the pseudo-files, one after the other, and the enclave's own sealing key."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cloister.core.attestation import sgx
from cloister.core.errors import EvidenceError
from cloister.evidence import gramine
from cloister.evidence.detect import MachineConfig, open_tee, survey
from cloister.evidence.gramine import EnclaveSealing, Gramine, probe
from support.hardware import NOW, roots
from support.intel_kit import sgx_body, sgx_collateral, sgx_quote

REPORT = bytes(range(64))


class Collateral:
    """The simulated vendor's collateral."""

    async def aux(self, kind: str, blob: bytes) -> dict[str, bytes]:
        """SGX only."""
        assert kind == "sgx"
        return {"collateral": sgx_collateral()}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like /dev/attestation: what `quote` holds depends on what was written before, as Gramine makes it."""
    folder = tmp_path / "attestation"
    (folder / "keys").mkdir(parents=True)
    (folder / "attestation_type").write_text("dcap\n")
    (folder / "user_report_data").write_bytes(b"")
    (folder / "keys/_sgx_mrenclave").write_bytes(bytes(range(16)))
    write = gramine._write

    def written(path: Path, data: bytes) -> None:
        write(path, data)
        (folder / "quote").write_bytes(sgx_quote(sgx_body(path.read_bytes())))

    monkeypatch.setattr(gramine, "_write", written)
    return folder


async def test_a_quote_over_our_report_data_verifies(root: Path) -> None:
    tee = Gramine(root, Collateral())
    assert tee.kind == "sgx"
    shown = await tee.quote(REPORT)
    assert sgx.verify(shown, roots(), NOW).report_data == REPORT


async def test_two_requests_do_not_mix(root: Path) -> None:
    tee = Gramine(root, Collateral())
    wanted = [bytes([n]) * 64 for n in range(4)]
    shown = await asyncio.gather(*(tee.quote(one) for one in wanted))
    assert [sgx.verify(one, roots(), NOW).report_data for one in shown] == wanted


async def test_report_data_has_64_bytes(root: Path) -> None:
    with pytest.raises(TypeError):
        await Gramine(root, Collateral()).quote(b"short")


async def test_keys_differ_by_context_and_by_enclave(root: Path) -> None:
    sealing = EnclaveSealing(root)
    one, other = await sealing.key(b"one"), await sealing.key(b"other")
    assert len(one) == 32
    assert one != other
    assert await Gramine(root).sealing_key(b"one") == one
    (root / "keys/_sgx_mrenclave").write_bytes(bytes(range(1, 17)))
    assert await sealing.key(b"one") != one
    with pytest.raises(TypeError):
        await sealing.key(bytes(1025))


@pytest.mark.parametrize("content", [b"", bytes(16), bytes(15), b"k" * 32])
async def test_a_key_that_is_none_is_refused_and_not_shown(root: Path, content: bytes) -> None:
    (root / "keys/_sgx_mrenclave").write_bytes(content)
    with pytest.raises(EvidenceError) as caught:
        await EnclaveSealing(root).key(b"x")
    assert caught.value.code == "evidence.no_sealing"
    assert "k" * 8 not in str(caught.value)


def test_another_type_of_attestation_is_refused(root: Path) -> None:
    assert probe(root) == "dcap"
    for text in ("epid", "none", "", "dcap2"):
        (root / "attestation_type").write_text(text)
        with pytest.raises(EvidenceError) as caught:
            probe(root)
        assert caught.value.code == "evidence.quote"


async def test_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError) as caught:
        await Gramine(tmp_path).quote(REPORT)
    assert "user_report_data" in caught.value.expected
    with pytest.raises(EvidenceError):
        await Gramine(tmp_path).sealing_key(b"x")


async def test_a_file_that_does_not_end_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "user_report_data").write_bytes(b"")
    (tmp_path / "quote").write_bytes(bytes(gramine.MAX_FILE + 1))
    with pytest.raises(EvidenceError) as caught:
        await Gramine(tmp_path).quote(REPORT)
    assert caught.value.expected == f"quote of at most {gramine.MAX_FILE} bytes"
    (tmp_path / "quote").write_bytes(b"")
    with pytest.raises(EvidenceError):
        await Gramine(tmp_path).quote(REPORT)


async def test_detection_takes_an_enclave(root: Path) -> None:
    machine = MachineConfig(tsm_root=None, nsm_device=None, gramine_root=root)
    assert [f.reason for f in survey(machine) if f.tee] == ["Gramine with dcap answers"]
    shown = await open_tee(machine, Collateral()).quote(REPORT)
    assert sgx.verify(shown, roots(), NOW).kind == "sgx"


def test_detection_says_why_not(tmp_path: Path) -> None:
    machine = MachineConfig(tsm_root=None, nsm_device=None, gramine_root=tmp_path)
    assert "attestation_type" in survey(machine)[-1].reason
    gone = MachineConfig(tsm_root=None, nsm_device=None, gramine_root=tmp_path / "gone")
    assert survey(gone)[-1].reason == f"no {tmp_path / 'gone'}"
