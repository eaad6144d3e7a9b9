"""The node's key at rest: only this machine and build open it."""

from __future__ import annotations

import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloister.core.encoding.signatures import recover
from cloister.core.errors import CloisterError, ConfigError
from cloister.node.identity import NodeKeys
from support.state_kit import counter_rng

SEALING, OTHER = bytes([1]) * 32, bytes([2]) * 32
DIGEST = bytes([9]) * 32


def load(folder: Path, sealing: bytes = SEALING, role: str = "worker", seed: bytes = b"") -> NodeKeys:
    return NodeKeys.load_or_create(folder, role, sealing, counter_rng(seed))


def refused(folder: Path, code: str, sealing: bytes = SEALING, role: str = "worker") -> None:
    before = {p: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    with pytest.raises(ConfigError) as caught:
        load(folder, sealing, role, b"again")
    assert caught.value.code == code
    assert {p: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before


def test_the_key_stays_the_same_over_restarts_and_signs(tmp_path: Path) -> None:
    first, second = load(tmp_path / "n"), load(tmp_path / "n", seed=b"other")
    assert first.address == second.address
    assert recover(DIGEST, second.sign(DIGEST)) == first.address
    assert len(first.public_key) == 33


def test_a_folder_copied_to_another_node_or_build_is_refused_by_name(tmp_path: Path) -> None:
    load(tmp_path / "n")
    shutil.copytree(tmp_path / "n", tmp_path / "copy")
    refused(tmp_path / "copy", "node.foreign_folder", OTHER)


def test_a_folder_of_another_role_is_refused(tmp_path: Path) -> None:
    load(tmp_path / "n")
    refused(tmp_path / "n", "node.damaged_folder", role="gatekeeper")


def test_a_key_file_with_any_byte_changed_or_cut_is_refused_and_never_replaced(tmp_path: Path) -> None:
    load(tmp_path)
    path = tmp_path / "node.key"
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        for spoilt in (whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :], whole[:at]):
            path.write_bytes(spoilt)
            with pytest.raises(ConfigError) as caught:
                load(tmp_path)
            assert caught.value.code in ("node.foreign_folder", "node.damaged_folder")
            assert path.read_bytes() == spoilt


def test_the_file_is_its_owners_only_and_shows_no_key(tmp_path: Path) -> None:
    keys = load(tmp_path / "n")
    path = tmp_path / "n" / "node.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert keys._private.secret not in path.read_bytes()
    assert keys._private.secret.hex() not in repr(keys)
    assert [p.name for p in path.parent.iterdir()] == ["node.key"]


def test_a_key_that_others_may_read_or_a_link_is_refused(tmp_path: Path) -> None:
    load(tmp_path / "n")
    (tmp_path / "n" / "node.key").chmod(0o640)
    refused(tmp_path / "n", "node.damaged_folder")
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "node.key").symlink_to(tmp_path / "n" / "node.key")
    refused(tmp_path / "m", "node.damaged_folder")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "file" / "n")
    assert caught.value.code == "node.damaged_folder"


def test_processes_that_start_at_once_agree_on_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda n: load(tmp_path / "n", seed=b"%d" % n), range(16)))
    assert len({k.address for k in keys}) == 1
    assert os.listdir(tmp_path / "n") == ["node.key"]  # noqa: PTH208


def test_other_files_are_sealed_for_this_node_role_and_name(tmp_path: Path) -> None:
    keys = load(tmp_path / "n")
    blob = keys.seal("heads", b"plain", counter_rng())
    assert keys.open("heads", blob) == b"plain"
    assert b"plain" not in blob
    for other, name, code in [
        (keys, "other", "node.damaged_folder"),
        (load(tmp_path / "g", role="gatekeeper"), "heads", "node.damaged_folder"),
        (load(tmp_path / "o", OTHER), "heads", "node.foreign_folder"),
    ]:
        with pytest.raises(ConfigError) as caught:
            other.open(name, blob)
        assert caught.value.code == code


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_sealing_key_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    with pytest.raises(CloisterError):
        load(tmp_path, bytes(size))
    assert not list(tmp_path.iterdir())
