"""The client's folder: private, atomic, and no name leaves it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.client.home import BAD_NAME, TOO_BIG, UNREADABLE, Home, need_name, read_file, write_private
from cloister.core.errors import CloisterError


def test_files_and_folders_are_private(tmp_path: Path) -> None:
    home = Home.at(tmp_path / "h")
    assert not (tmp_path / "h").exists()
    path = home.write("receipts", "one.json", b"1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert home.read("receipts", "one.json") == b"1"
    assert home.read("receipts", "two.json") is None


def test_a_write_replaces_and_leaves_no_draft(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for data in (b"old", b"new"):
        home.write("a", "b", data)
    assert home.read("a", "b") == b"new"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]


def test_the_folder_comes_from_the_argument_then_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOISTER_HOME", str(tmp_path / "env"))
    assert Home.at().path == tmp_path / "env"
    assert Home.at(tmp_path / "own").path == tmp_path / "own"
    monkeypatch.delenv("CLOISTER_HOME")
    assert Home.at().path == Path.home() / ".cloister"


@pytest.mark.parametrize("name", ["", "..", ".", "a/b", "/etc", "a\0b", "-x", ".hidden", "x" * 97, "ä"])
def test_names_that_could_leave_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(CloisterError) as caught:
        Home(tmp_path).file("wallets", name)
    assert caught.value.code == BAD_NAME.code


@given(st.text(max_size=100))
def test_a_name_is_one_path_element_or_refused(name: str) -> None:
    try:
        good = need_name(name)
    except CloisterError:
        return
    assert Path("/x") / good == Path(f"/x/{good}")
    assert (Path("/x") / good).parent == Path("/x")


def test_names_lists_without_suffix_and_without_drafts(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for name in ("b.json", "a.json", "c.txt"):
        home.write("f", name, b"")
    (tmp_path / "f" / ".a.json.1234").write_bytes(b"")
    assert home.names("f", ".json") == ["a", "b"]
    assert home.names("none") == []


def test_big_and_missing_files_have_names(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(b"x" * 11)
    with pytest.raises(CloisterError) as caught:
        read_file(big, 10)
    assert caught.value.code == TOO_BIG.code
    with pytest.raises(CloisterError) as caught:
        read_file(tmp_path / "none")
    assert caught.value.code == UNREADABLE.code


def test_a_folder_that_is_a_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CloisterError) as caught:
        write_private(tmp_path / "file" / "x", b"")
    assert caught.value.code == UNREADABLE.code


def test_devnet_json_is_read_or_refused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert home.devnet() is None
    (tmp_path / "devnet.json").write_text(json.dumps({"gateway": "http://x"}))
    assert home.devnet() == {"gateway": "http://x"}
    for broken in ("[]", "{", "\x00"):
        (tmp_path / "devnet.json").write_text(broken)
        with pytest.raises(CloisterError) as caught:
            home.devnet()
        assert caught.value.code == UNREADABLE.code
