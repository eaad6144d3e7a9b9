"""configfs-tsm: the protocol against a faithful tree, and against trees that misbehave one step at a time."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cloister.core.attestation import kinds
from cloister.core.errors import EvidenceError
from cloister.devnet.tee.machines import Machine, SnpHardware, TdxHardware
from cloister.devnet.tee.tsm import TsmTree
from cloister.evidence.collateral import FileCollateral
from cloister.evidence.configfs_tsm import ConfigfsTsm, TsmFolder, probe, read_report
from support.hardware import MEASUREMENT, NOW, chip, collateral, platform, roots

DATA = bytes(range(64))


class Reports:
    """A machine's part of a TsmTree, with every call noted and any one of them bent."""

    def __init__(self, kind: str = "tdx", bend: Callable[[str, str, bytes], bytes] | None = None) -> None:
        hardware = TdxHardware(platform(), MEASUREMENT) if kind == "tdx" else SnpHardware(chip(), MEASUREMENT)
        self.tree = TsmTree({"m": Machine("m", kind, "worker", MEASUREMENT, b"s" * 32, hardware)})
        self.names: list[str] = []
        self._bend = bend or (lambda attribute, name, data: data)

    def mkdir(self, name: str) -> None:
        self.names.append(name)
        self.tree.mkdir("m", name)
        self._bend("mkdir", name, b"")

    def rmdir(self, name: str) -> None:
        self.tree.rmdir("m", name)

    def read(self, name: str, attribute: str) -> bytes:
        return self._bend(attribute, name, self.tree.read("m", name, attribute))

    def write(self, name: str, attribute: str, data: bytes) -> None:
        self.tree.write("m", name, attribute, data)
        self._bend("write", name, data)


@pytest.mark.parametrize(("kind", "provider"), [("tdx", "tdx_guest"), ("snp", "sev_guest")])
def test_a_report_is_made_read_and_removed(kind: str, provider: str) -> None:
    reports = Reports(kind)
    report = read_report(reports, DATA)
    assert report.provider == provider
    assert bool(report.auxblob) is (kind == "snp")
    assert DATA in report.outblob
    assert reports.tree.reports("m") == []
    assert probe(reports) == kind


def test_names_are_never_used_twice() -> None:
    reports = Reports()
    for _ in range(20):
        read_report(reports, DATA)
    assert len(set(reports.names)) == 20
    assert all(len(name) > 32 for name in reports.names)


@pytest.mark.parametrize("kind", ["tdx", "snp"])
async def test_evidence_passes_the_verifier(kind: str, tmp_path: Path) -> None:
    source = tmp_path / "collateral.json"
    source.write_bytes(collateral())
    tee = ConfigfsTsm(kind, Reports(kind), FileCollateral(source))
    evidence = await tee.quote(DATA)
    assert tee.kind == evidence.kind == kind
    assert kinds.verify(evidence, roots(), NOW).report_data == DATA


def _raise(number: int) -> Callable[[], bytes]:
    def fail() -> bytes:
        raise OSError(number, os.strerror(number))

    return fail


BENT: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "the folder cannot be made": ("mkdir", _raise(errno.EACCES), "mkdir to work"),
    "the host is too slow": ("outblob", _raise(errno.EBUSY), "outblob to work"),
    "somebody wrote in between": ("outblob", _raise(errno.EWOULDBLOCK), "outblob to work"),
    "the quote is too large": ("outblob", _raise(errno.EFBIG), "outblob to work"),
    "the write is refused": ("write", _raise(errno.EINVAL), "inblob to work"),
    "no certificates attribute": ("auxblob", _raise(errno.ENOENT), "auxblob to work"),
    "an empty quote": ("outblob", lambda: b"", "a report of our one write"),
    "a generation that is no number": ("generation", lambda: b"many\n", "a generation number"),
    "a generation that is no text": ("generation", lambda: b"\xff", "a generation number"),
    "a generation that stands still": ("generation", lambda: b"7\n", "a report of our one write"),
    "a provider that is no text": ("provider", lambda: b"\xff", "provider to work"),
}


@pytest.mark.parametrize("sentence", BENT)
def test_each_step_that_fails_is_named_and_leaves_nothing(sentence: str) -> None:
    attribute, act, expected = BENT[sentence]
    reports = Reports("snp", lambda at, name, data: act() if at == attribute else data)
    with pytest.raises(EvidenceError) as caught:
        read_report(reports, DATA)
    assert caught.value.expected == expected
    assert caught.value.code == "evidence.quote"
    if attribute != "mkdir":
        assert reports.tree.reports("m") == []


def test_a_second_writer_is_noticed() -> None:
    """Another process writes its own report data into our report: the generation tells."""
    reports = Reports()

    def meddle(attribute: str, name: str, data: bytes) -> bytes:
        if attribute == "write":
            reports.tree.write("m", name, "inblob", bytes(64))
        return data

    reports._bend = meddle
    with pytest.raises(EvidenceError) as caught:
        read_report(reports, DATA)
    assert caught.value.found == "generation 0 to 2"


async def test_a_machine_of_another_kind_than_configured_is_refused() -> None:
    with pytest.raises(EvidenceError) as caught:
        await ConfigfsTsm("snp", Reports("tdx")).quote(DATA)
    assert caught.value.found == "tdx_guest"


def test_an_unknown_provider_is_no_tee() -> None:
    with pytest.raises(EvidenceError):
        probe(Reports("tdx", lambda at, name, data: b"arm_cca_guest\n" if at == "provider" else data))


async def test_tdx_without_collateral_and_sealing_says_what_to_do() -> None:
    tee = ConfigfsTsm("tdx", Reports("tdx"))
    with pytest.raises(EvidenceError) as caught:
        await tee.quote(DATA)
    assert caught.value.code == "evidence.collateral"
    with pytest.raises(EvidenceError) as caught:
        await tee.sealing_key(b"context")
    assert caught.value.code == "evidence.no_sealing"
    assert "disk key" in caught.value.remedy


@pytest.mark.parametrize("data", [b"", bytes(63), bytes(65), "x" * 64])
async def test_report_data_of_another_size_is_our_mistake(data: bytes) -> None:
    with pytest.raises(TypeError):
        await ConfigfsTsm("tdx", Reports()).quote(data)


def test_other_kinds_are_our_mistake() -> None:
    with pytest.raises(TypeError):
        ConfigfsTsm("nitro", Reports())


def test_the_folder_reads_to_the_end_and_caps(tmp_path: Path) -> None:
    folder = TsmFolder(tmp_path)
    folder.mkdir("r")
    (tmp_path / "r" / "outblob").write_bytes(b"x" * 32768)
    assert len(folder.read("r", "outblob")) == 32768
    (tmp_path / "r" / "outblob").write_bytes(b"x" * 32769)
    with pytest.raises(EvidenceError):
        folder.read("r", "outblob")
    (tmp_path / "r" / "inblob").write_bytes(b"")
    folder.write("r", "inblob", DATA)
    assert (tmp_path / "r" / "inblob").read_bytes() == DATA


def test_a_plain_folder_is_no_configfs(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError) as caught:
        read_report(TsmFolder(tmp_path), DATA)
    assert caught.value.code == "evidence.quote"
    with pytest.raises(EvidenceError):
        read_report(TsmFolder(tmp_path / "absent"), DATA)
