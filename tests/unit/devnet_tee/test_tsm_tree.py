"""The report tree's kernel manners, and the same manners through a real FUSE mount."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloister.core.attestation import kinds
from cloister.core.attestation.model import Evidence
from cloister.devnet.tee.client import cleanup, is_mounted, unmount
from cloister.devnet.tee.fuse import Mount, TsmOperations
from cloister.devnet.tee.machines import Hardware, Machine, NitroHardware, SnpHardware, TdxHardware
from cloister.devnet.tee.tsm import MAX_REPORTS, TsmTree
from cloister.evidence.configfs_tsm import TsmFolder, probe, read_report
from support.hardware import MEASUREMENT, NOW, chip, collateral, instance, platform, roots

DATA = bytes(range(64))


def _tree() -> TsmTree:
    hardware: dict[str, tuple[str, Hardware]] = {
        "t": ("tdx", TdxHardware(platform(), MEASUREMENT)),
        "s": ("snp", SnpHardware(chip(), MEASUREMENT)),
        "n": ("nitro", NitroHardware(instance(), MEASUREMENT, lambda: NOW)),
    }
    return TsmTree(
        {name: Machine(name, kind, "worker", MEASUREMENT, bytes(32), hw) for name, (kind, hw) in hardware.items()}
    )


def _errno(call: Callable[[], object]) -> int:
    with pytest.raises(OSError) as caught:
        call()
    assert caught.value.errno is not None
    return caught.value.errno


def _inside(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_only_machines_with_configfs_are_in_the_tree() -> None:
    tree = _tree()
    assert tree.machines() == ["t", "s"]
    assert _errno(lambda: tree.mkdir("n", "r")) == errno.ENOENT
    assert _errno(lambda: tree.reports("absent")) == errno.ENOENT


def test_a_report_from_its_birth_to_its_end() -> None:
    tree = _tree()
    tree.mkdir("t", "r")
    assert tree.attributes("t", "r") == ["generation", "inblob", "outblob", "provider"]
    assert tree.read("t", "r", "generation") == b"0\n"
    assert tree.read("t", "r", "provider") == b"tdx_guest\n"
    assert _errno(lambda: tree.read("t", "r", "outblob")) == errno.EINVAL
    tree.write("t", "r", "inblob", DATA)
    assert tree.read("t", "r", "generation") == b"1\n"
    first = tree.read("t", "r", "outblob")
    assert tree.read("t", "r", "outblob") is first
    tree.write("t", "r", "inblob", bytes(64))
    assert tree.read("t", "r", "outblob") != first
    assert tree.read("t", "r", "generation") == b"2\n"
    tree.rmdir("t", "r")
    assert _errno(lambda: tree.read("t", "r", "generation")) == errno.ENOENT


def test_snp_has_certificates_of_the_same_report() -> None:
    tree = _tree()
    tree.mkdir("s", "r")
    assert "auxblob" in tree.attributes("s", "r")
    assert _errno(lambda: tree.read("s", "r", "auxblob")) == errno.EINVAL
    tree.write("s", "r", "inblob", DATA)
    assert tree.read("s", "r", "auxblob") == chip().table()


def test_refusals_have_the_kernels_numbers() -> None:
    tree = _tree()
    tree.mkdir("t", "r")
    assert _errno(lambda: tree.mkdir("t", "r")) == errno.EEXIST
    for name in ("", ".", "..", "a/b", "x" * 129):
        assert _errno(lambda n=name: tree.mkdir("t", n)) == errno.EINVAL  # type: ignore[misc]
    assert _errno(lambda: tree.rmdir("t", "absent")) == errno.ENOENT
    assert _errno(lambda: tree.read("t", "r", "inblob")) == errno.EACCES
    assert _errno(lambda: tree.read("t", "r", "auxblob")) == errno.ENOENT
    assert _errno(lambda: tree.write("t", "r", "generation", DATA)) == errno.EACCES
    assert _errno(lambda: tree.write("t", "r", "nothing", DATA)) == errno.ENOENT
    for size in (0, 63, 65):
        assert _errno(lambda n=size: tree.write("t", "r", "inblob", bytes(n))) == errno.EINVAL  # type: ignore[misc]
    assert tree.read("t", "r", "generation") == b"0\n"


def test_reports_are_bounded() -> None:
    tree = _tree()
    for number in range(MAX_REPORTS):
        tree.mkdir("t", str(number))
    assert _errno(lambda: tree.mkdir("t", "more")) == errno.ENOSPC
    tree.mkdir("s", "another machine has its own")


def test_the_callbacks_keep_the_manners_without_a_mount() -> None:
    operations = TsmOperations(_tree())
    assert operations.readdir("/", 0) == [".", "..", "t", "s"]
    operations.mkdir("/t/r", 0o700)
    assert operations.readdir("/t", 0)[2:] == ["r"]
    assert _errno(lambda: operations.mkdir("/top", 0o700)) == errno.EPERM
    assert _errno(lambda: operations.mkdir("/t/r/deeper", 0o700)) == errno.EPERM
    assert _errno(lambda: operations.getattr("/absent")) == errno.ENOENT
    assert _errno(lambda: operations.getattr("/t/r/absent")) == errno.ENOENT
    assert _errno(lambda: operations.getattr("/t/r/inblob/x")) == errno.ENOTDIR
    handle = operations.open("/t/r/inblob", os.O_WRONLY)
    assert operations.truncate("/t/r/inblob", 0) == 0
    assert operations.write("/t/r/inblob", DATA, 0, handle) == 64
    assert _errno(lambda: operations.write("/t/r/inblob", DATA, 64, handle)) == errno.EINVAL
    reader = operations.open("/t/r/generation", os.O_RDONLY)
    assert operations.read("/t/r/generation", 1, 0, reader) == b"1"
    operations.write("/t/r/inblob", DATA, 0, handle)
    assert operations.read("/t/r/generation", 9, 0, reader) == b"1\n"
    assert operations.release("/t/r/generation", reader) == 0
    assert operations.read("/t/r/generation", 9, 0, reader) == b"2\n"
    assert operations.rmdir("/t/r") == 0


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A mounted tree; unmounted whatever happens."""
    mount = Mount(tmp_path / "tsm", TsmOperations(_tree()))
    try:
        mount.start()
    except OSError as error:
        pytest.skip(f"FUSE is not usable here: {error.strerror}; the socket variant is tested instead")
    try:
        yield tmp_path / "tsm"
    finally:
        mount.stop()
        assert not is_mounted(tmp_path / "tsm")


def test_the_real_client_reads_quotes_from_the_mount(mounted: Path) -> None:
    assert _inside(mounted) == ["s", "t"]
    for kind, name in (("tdx", "t"), ("snp", "s")):
        folder = TsmFolder(mounted / name)
        assert probe(folder) == kind
        report = read_report(folder, DATA)
        aux = {"collateral": collateral()} if kind == "tdx" else dict(chip().certificates)
        assert kinds.verify(Evidence(kind, report.outblob, aux), roots(), NOW).report_data == DATA
        assert _inside(mounted / name) == []


def test_the_mount_has_the_kernels_manners(mounted: Path) -> None:
    report = mounted / "t" / "r"
    report.mkdir()
    assert _inside(report) == ["generation", "inblob", "outblob", "provider"]
    assert (report / "outblob").stat().st_size == 0
    assert _errno(lambda: (report / "outblob").read_bytes()) == errno.EINVAL
    assert _errno(lambda: report.mkdir()) == errno.EEXIST
    assert _errno(lambda: (mounted / "new-machine").mkdir()) == errno.EPERM
    assert _errno(lambda: (report / "new-attribute").write_bytes(b"x")) in (
        errno.ENOENT,
        errno.ENOSYS,
        errno.EROFS,
        errno.EPERM,
    )
    (report / "inblob").write_bytes(DATA)
    assert (report / "generation").read_text() == "1\n"
    assert len((report / "outblob").read_bytes()) > 4000
    report.rmdir()
    assert not report.exists()


def test_cleanup_removes_a_mount_and_sockets_and_may_be_repeated(tmp_path: Path) -> None:
    mount = Mount(tmp_path / "tsm", TsmOperations(_tree()))
    try:
        mount.start()
    except OSError as error:
        pytest.skip(f"FUSE is not usable here: {error.strerror}")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.sock").write_bytes(b"")
    (tmp_path / "control.sock").write_bytes(b"")
    (tmp_path / "roots.json").write_bytes(b"{}")
    for _ in range(2):
        cleanup(tmp_path)
        assert not is_mounted(tmp_path / "tsm")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["roots.json", "run", "tsm"]
    mount.stop()
    unmount(tmp_path / "never")
