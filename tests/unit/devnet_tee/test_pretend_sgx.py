"""Pretend enclaves: Gramine's files by mount and by pipes, the real producer over them, every TCB state and defect."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloister.core.attestation import sgx
from cloister.core.attestation.appraise import appraise
from cloister.core.attestation.model import Evidence, Verdict, measurement_id
from cloister.core.errors import EvidenceError
from cloister.devnet.tee import sgx as subject
from cloister.devnet.tee.client import is_mounted
from cloister.devnet.tee.fuse import Mount
from cloister.devnet.tee.gramine import GramineOperations, GramineTree, PipeFolder
from cloister.devnet.tee.hardware import Hardware
from cloister.devnet.tee.machines import Machine, NitroHardware
from cloister.devnet.tee.sgx import SgxHardware
from cloister.evidence.collateral import FileCollateral
from cloister.evidence.detect import MachineConfig, open_tee
from cloister.evidence.gramine import Gramine, probe
from support.hardware import MEASUREMENT, NETWORK, NOW, binding, factory, instance, policy, roots
from support.simulated import MRENCLAVE, enclave

DATA = bytes(range(64))


def _tree(hardware: SgxHardware | None = None) -> GramineTree:
    kinds: dict[str, tuple[str, Hardware]] = {
        "e": ("sgx", hardware or enclave()),
        "f": ("sgx", SgxHardware(factory().intel, "other", bytes(32), b"\1" * 32, NOW)),
        "n": ("nitro", NitroHardware(instance(), MEASUREMENT, lambda: NOW)),
    }
    return GramineTree({n: Machine(n, k, "worker", MRENCLAVE, bytes(32), h) for n, (k, h) in kinds.items()})


def _errno(work: Callable[[], object]) -> int | None:
    with pytest.raises(OSError) as caught:
        work()
    assert caught.value.errno is not None
    return caught.value.errno


@pytest.fixture(params=["mount", "pipes"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[SgxHardware], Path]]:
    """Gramine's folder for one enclave, once as a mount and once with pipes."""
    ends: list[Callable[[], None]] = []

    def start(hardware: SgxHardware) -> Path:
        served: Mount | PipeFolder
        if request.param == "mount":
            served = Mount(tmp_path / "attestation", GramineOperations(_tree(hardware)), "attestation")
        else:
            served = PipeFolder(tmp_path / "attestation" / "e", "e", _tree(hardware))
        try:
            served.start()
        except OSError as error:
            pytest.skip(f"FUSE is not usable here: {error.strerror}; the pipes are tested instead")
        ends.append(served.stop)
        return tmp_path / "attestation" / "e"

    yield start
    for end in ends:
        end()
    assert not is_mounted(tmp_path / "attestation")


def _producer(root: Path, hardware: SgxHardware) -> Gramine:
    (root.parents[1] / "collateral.json").write_bytes(hardware.collateral(NOW))
    return Gramine(root, FileCollateral(root.parents[1] / "collateral.json"))


def _judged(root: Path, hardware: SgxHardware) -> Verdict:
    shown = asyncio.run(_producer(root, hardware).quote(binding().report_data()))
    return _verdict(shown)


def _verdict(shown: Evidence) -> Verdict:
    return appraise(
        shown,
        binding(),
        policy=policy(),
        now=NOW,
        network=NETWORK,
        role="worker",
        measurements=frozenset({measurement_id("worker", MRENCLAVE)}),
        checkpoints=None,
        nonce=None,
    )


# --- the real producer ---


def test_a_quote_of_the_real_producer_is_accepted(place: Callable[[SgxHardware], Path]) -> None:
    root = place(enclave())
    assert probe(root) == "dcap"
    verdict = _judged(root, enclave())
    assert verdict.accepted
    assert verdict.claims is not None
    assert verdict.claims.measurements == {"mrenclave": MRENCLAVE, "mrsigner": subject.MRSIGNER}
    assert (verdict.claims.vendor_class, verdict.claims.generation) == ("intel", "00806F050000")


def test_it_is_found_as_any_enclave_is(place: Callable[[SgxHardware], Path]) -> None:
    root = place(enclave())
    tee = open_tee(MachineConfig.from_json({"gramine_root": str(root)}))
    assert tee.kind == "sgx"
    key = asyncio.run(tee.sealing_key(b"context"))
    assert len(key) == 32
    assert key == asyncio.run(tee.sealing_key(b"context")) != asyncio.run(tee.sealing_key(b"other"))


async def test_requests_one_after_the_other_and_at_once(place: Callable[[SgxHardware], Path]) -> None:
    root = await asyncio.to_thread(place, enclave())
    tee = _producer(root, enclave())
    wanted = [bytes([n]) * 64 for n in range(12)]
    shown = [await tee.quote(one) for one in wanted[:4]] + list(await asyncio.gather(*map(tee.quote, wanted[4:])))
    assert [sgx.verify(one, roots(), NOW).report_data for one in shown] == wanted


def test_what_was_written_last_counts(place: Callable[[SgxHardware], Path]) -> None:
    root = place(enclave())
    for data in (bytes(64), DATA[::-1], DATA):
        _write(root, data)
    assert _over(root) == DATA


def _write(root: Path, data: bytes) -> None:
    with (root / "user_report_data").open("wb", buffering=0) as file:
        file.write(data)


def _over(root: Path) -> bytes:
    quote = (root / "quote").read_bytes()
    return sgx.verify(Evidence("sgx", quote, {"collateral": enclave().collateral(NOW)}), roots(), NOW).report_data


# --- states and defects ---


@pytest.mark.parametrize("tcb", subject.TCB_STATES)
def test_tcb_states_reach_the_verdict(tcb: str) -> None:
    machine = enclave(tcb)
    shown = Evidence("sgx", machine.quote(binding().report_data()), {"collateral": machine.collateral(NOW)})
    failed = [check.code for check in _verdict(shown).checks if not check.ok]
    refused = {"Revoked": ["attestation.sgx_quote"], "UpToDate": [], "SWHardeningNeeded": []}
    assert failed == refused.get(tcb, ["attestation.tcb_status"])
    if tcb not in ("UpToDate", "Revoked"):
        claims = sgx.verify(shown, roots(), NOW)
        assert (claims.tcb_status, claims.advisories) == (tcb, ("INTEL-SA-00000",))


@pytest.mark.parametrize("defect", subject.DEFECTS)
def test_an_enclave_with_the_defect_is_refused_by_its_code(defect: str, place: Callable[[SgxHardware], Path]) -> None:
    machine = enclave(defect=defect)
    failed = [check.code for check in _judged(place(machine), machine).checks if not check.ok]
    assert failed == [subject.DEFECTS[defect]]


def test_an_sgx_quote_does_not_pass_for_tdx_nor_the_other_way() -> None:
    quote, collateral = enclave().quote(binding().report_data()), enclave().collateral(NOW)
    assert _verdict(Evidence("tdx", quote, {"collateral": collateral})).checks[-1].code == "attestation.malformed"
    tdx = factory().intel.platform("one", NOW).quote(MEASUREMENT, binding().report_data())
    shown = Evidence("sgx", tdx, {"collateral": collateral})
    assert _verdict(shown).checks[-1].code == "attestation.malformed"


@pytest.mark.parametrize("size", [0, 63, 65])
def test_a_report_has_64_bytes(size: int) -> None:
    with pytest.raises(TypeError):
        enclave().quote(bytes(size))


def test_keys_belong_to_enclave_machine_and_label() -> None:
    other = SgxHardware(factory().intel, "e2", bytes(32), bytes(32), NOW)
    stranger = SgxHardware(factory().intel, "e3", MRENCLAVE, b"\1" * 32, NOW)
    keys = [machine.seal_key("_sgx_mrenclave") for machine in (enclave(), other, stranger)]
    assert len(set(keys)) == 3
    assert {len(key) for key in keys} == {16}
    assert enclave().seal_key("_sgx_mrsigner") == other.seal_key("_sgx_mrsigner") not in keys


# --- the pseudo-files ---


def test_the_tree_has_gramines_files_for_enclaves_only() -> None:
    tree = _tree()
    assert tree.machines() == ["e", "f"]
    assert tree.files("e")[:3] == ["attestation_type", "user_report_data", "quote"]
    assert tree.read("e", "attestation_type") == b"dcap"
    assert tree.read("e", "user_report_data") == bytes(64)
    for machine in ("n", "absent"):
        assert _errno(lambda machine=machine: tree.read(machine, "quote")) == errno.ENOENT  # type: ignore[misc]
    assert _errno(lambda: tree.read("e", "absent")) == errno.ENOENT
    assert _errno(lambda: tree.read("e", "keys/absent")) == errno.ENOENT


def test_only_report_data_is_written_and_64_bytes_of_it() -> None:
    tree = _tree()
    for data in (b"", bytes(63), bytes(65)):
        assert _errno(lambda data=data: tree.write("e", "user_report_data", data)) == errno.EINVAL  # type: ignore[misc]
    assert _errno(lambda: tree.write("e", "quote", DATA)) == errno.EACCES
    assert _errno(lambda: tree.write("e", "absent", DATA)) == errno.ENOENT
    tree.write("e", "user_report_data", DATA)
    assert tree.read("e", "user_report_data") == DATA
    assert tree.read("f", "user_report_data") == bytes(64)


def test_the_callbacks_keep_the_manners_without_a_mount() -> None:
    operations = GramineOperations(_tree())
    assert operations.readdir("/", 0) == [".", "..", "e", "f"]
    assert operations.readdir("/e", 0)[2:] == ["attestation_type", "keys", "quote", "user_report_data"]
    assert operations.readdir("/e/keys", 0)[2:] == ["_sgx_mrenclave", "_sgx_mrsigner"]
    assert _errno(lambda: operations.readdir("/e/quote", 0)) == errno.ENOTDIR
    assert _errno(lambda: operations.readdir("/n", 0)) == errno.ENOENT
    for path in ("/absent", "/n", "/e/absent", "/e/keys/absent", "/absent/quote"):
        assert _errno(lambda path=path: operations.getattr(path)) == errno.ENOENT  # type: ignore[misc]
    for path in ("/", "/e", "/e/keys"):
        assert stat.S_ISDIR(operations.getattr(path)["st_mode"])
    assert stat.S_IMODE(operations.getattr("/e/quote")["st_mode"]) == 0o400
    handle = operations.open("/e/user_report_data", os.O_WRONLY)
    assert operations.truncate("/e/user_report_data", 0) == 0
    assert operations.write("/e/user_report_data", DATA, 0, handle) == 64
    assert _errno(lambda: operations.write("/e/user_report_data", DATA, 64, handle)) == errno.EINVAL
    reader = operations.open("/e/quote", os.O_RDONLY)
    whole = operations.read("/e/quote", 16384, 0, reader)
    operations.write("/e/user_report_data", bytes(64), 0, handle)
    assert operations.read("/e/quote", 100, 50, reader) == whole[50:150]
    assert operations.release("/e/quote", reader) == 0
    assert operations.read("/e/quote", 16384, 0, reader) != whole


# --- pipes ---


@pytest.fixture
def pipes(tmp_path: Path) -> Iterator[Path]:
    """A folder with pipes."""
    served = PipeFolder(tmp_path / "e", "e", _tree())
    served.start()
    yield tmp_path / "e"
    served.stop()
    assert sorted(path.name for path in (tmp_path / "e").iterdir()) == ["attestation_type", "keys"]
    assert not served._thread.is_alive()


def test_pipes_and_keys_are_private(pipes: Path) -> None:
    for path in (pipes / "quote", pipes / "user_report_data", pipes / "keys" / "_sgx_mrenclave"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_ISFIFO((pipes / "quote").stat().st_mode)


@pytest.mark.parametrize("size", [1, 63, 65])
def test_another_size_counts_as_nothing_written(size: int, pipes: Path) -> None:
    _write(pipes, DATA)
    assert _over(pipes) == DATA
    _write(pipes, b"x" * size)
    assert _over(pipes) == DATA


def test_a_reader_that_is_slow_gets_one_whole_quote(pipes: Path) -> None:
    with (pipes / "quote").open("rb", buffering=0) as slow:
        head = slow.read(10)
        time.sleep(0.1)  # many turns of the server
        assert _over(pipes) == bytes(64)
        rest = b""
        while piece := slow.read(4096):
            rest += piece
    assert head is not None
    assert sgx.verify(Evidence("sgx", head + rest, {"collateral": enclave().collateral(NOW)}), roots(), NOW)


def test_a_reader_that_leaves_disturbs_nobody(pipes: Path) -> None:
    for _ in range(5):
        (pipes / "quote").open("rb", buffering=0).close()
    assert _over(pipes) == bytes(64)


def test_a_folder_is_served_again_after_a_crash(tmp_path: Path) -> None:
    for _ in range(2):
        served = PipeFolder(tmp_path / "e", "e", _tree())
        served.start()
        assert _over(tmp_path / "e") == bytes(64)
        served._stopping.set()
        served._thread.join(5)  # its pipes stay, as after a SIGKILL
    assert threading.active_count() < 50


def test_a_folder_without_pipes_is_a_named_refusal(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError) as caught:
        asyncio.run(Gramine(tmp_path).quote(DATA))
    assert caught.value.code == "evidence.quote"
