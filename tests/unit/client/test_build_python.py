"""Building Python agents: the same bytes from any folder, packages by their hashes only, nothing run meanwhile."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from cloister.client import python as building
from cloister.client.build import ARCHIVE_NAME, Built, build
from cloister.client.python import LOCK
from cloister.core.errors import CloisterError
from cloister.core.policy.archive import unpack
from cloister.core.policy.manifest import normalize

AGENT = "import small\n\nasync def fetch(request, ctx):\n    return small.name\n"


def wheel(folder: Path, files: Mapping[str, str], name: str = "small", tag: str = "py3-none-any") -> tuple[Path, str]:
    """A wheel of these files, as a publisher uploads it; its path and its hash."""
    meta = f"{name}-1.0.dist-info"
    content = {**files, f"{meta}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"}
    content[f"{meta}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n"

    def row(path: str, text: str) -> str:
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        return f"{path},sha256={digest},{len(text.encode())}"

    record = "\n".join([*(row(path, text) for path, text in content.items()), f"{meta}/RECORD,,", ""])
    path = folder / f"{name}-1.0-{tag}.whl"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as target:
        for file, text in {**content, f"{meta}/RECORD": record}.items():
            target.writestr(file, text)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels in place of an index. Nothing of the network is asked."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("UV_NO_INDEX", "1")
    monkeypatch.setenv("UV_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv-cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def project(folder: Path, lock: str | None = None, **files: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in {"agent.py": AGENT, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if lock is not None:
        (folder / LOCK).write_text(lock)
    return folder


async def made(folder: Path) -> Built:
    return await build(folder, folder.parent / "out", deno=Path("/nowhere/deno"))


async def refused(folder: Path) -> CloisterError:
    with pytest.raises(CloisterError) as caught:
        await made(folder)
    return caught.value


async def test_sources_data_and_packages_are_in_it_and_nothing_else(index: Path, tmp_path: Path) -> None:
    _, digest = wheel(index, {"small/__init__.py": "name = 'small'\n", "small/x.pyi": "name: str\n"})
    rest = {"lib/util.py": "x = 1\n", "data/a.csv": "1,2\n", "README.md": "x", "agent_test.py": "x", "test_a.py": "x"}
    more = {".env": "SECRET=1", "tests/test_b.py": "x", ".venv/lib.py": "x", "cloister.json": "{}", "notes.txt": "x"}
    folder = project(tmp_path / "agent", f"small==1.0 --hash=sha256:{digest}\n", **rest, **more)
    built = await made(folder)
    names = [name for name, _ in unpack(built.bundle)]
    assert names == [
        "packages/small-1.0.dist-info/METADATA",
        "packages/small-1.0.dist-info/WHEEL",
        "packages/small/__init__.py",
        "source/agent.py",
        "source/data/a.csv",
        "source/lib/util.py",
    ]
    assert built.manifest.runtime == "python"
    assert (tmp_path / "out" / ARCHIVE_NAME).read_bytes() == built.bundle
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["runtime"] == "python"


async def test_the_same_folder_gives_the_same_hash_anywhere(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice, in another folder, at other times, under another umask and home, with another cache."""
    _, digest = wheel(index, {"small/__init__.py": "name = 'small'\n"})
    lock = f"small==1.0 --hash=sha256:{digest}\n"
    one = await made(project(tmp_path / "a" / "agent", lock))
    again = await made(tmp_path / "a" / "agent")
    before = os.umask(0o077)
    try:
        other = project(tmp_path / "some" / "where" / "agent", lock)
        os.utime(other / "agent.py", (1_000_000_000, 1_000_000_000))
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "other-cache"))
        elsewhere = await made(other)
    finally:
        os.umask(before)
    assert one.bundle == again.bundle == elsewhere.bundle
    assert one.code_hash == elsewhere.code_hash


async def test_pip_gives_what_uv_gives(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pip")
    _, digest = wheel(index, {"small/__init__.py": "name = 'small'\n"})
    folder = project(tmp_path / "agent", f"small==1.0 --hash=sha256:{digest}\n")
    by_uv = await made(folder)
    monkeypatch.setattr(building.os, "access", lambda path, mode: False)
    monkeypatch.setattr(building.shutil, "which", lambda name: None)
    assert (await made(folder)).bundle == by_uv.bundle


async def test_a_package_with_another_hash_is_refused(index: Path, tmp_path: Path) -> None:
    wheel(index, {"small/__init__.py": "name = 'small'\n"})
    error = await refused(project(tmp_path / "agent", f"small==1.0 --hash=sha256:{'0' * 64}\n"))
    assert (error.code, "small" in error.found) == ("build.packages", True)


async def test_a_package_without_a_hash_is_refused(index: Path, tmp_path: Path) -> None:
    wheel(index, {"small/__init__.py": "name = 'small'\n"})
    assert (await refused(project(tmp_path / "agent", "small==1.0\n"))).code == "build.packages"


async def test_a_package_for_another_machine_is_refused(index: Path, tmp_path: Path) -> None:
    _, digest = wheel(index, {"small/__init__.py": ""}, tag="cp311-cp311-macosx_11_0_arm64")
    error = await refused(project(tmp_path / "agent", f"small==1.0 --hash=sha256:{digest}\n"))
    assert error.code == "build.packages"


async def test_no_code_of_a_package_runs_while_it_is_built(index: Path, tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    evil = f"open({str(proof)!r}, 'w').write('x')\nname = ''\n"
    _, digest = wheel(index, {"small/__init__.py": evil, "small.pth": f"import os; {evil.splitlines()[0]}\n"})
    await made(project(tmp_path / "agent", f"small==1.0 --hash=sha256:{digest}\n"))
    assert not proof.exists()


async def test_wanted_packages_without_a_lock_are_refused_with_the_command(tmp_path: Path) -> None:
    error = await refused(project(tmp_path / "agent", **{"requirements.txt": "small\n"}))
    assert error.code == "build.no_lock"
    assert "uv pip compile" in error.remedy


async def test_an_agent_without_packages_needs_no_installer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_run", None)
    assert [name for name, _ in unpack((await made(project(tmp_path / "agent"))).bundle)] == ["source/agent.py"]


async def test_what_the_developer_leaves_out_stays_out(index: Path, tmp_path: Path) -> None:
    _, digest = wheel(index, {"small/__init__.py": "", "small/big.so": "x", "small/big2.so": "x"})
    ignore = {"bundle.ignore": "# too big\npackages/small/*.so\n\nsource/data/*\n", "data/a.csv": "1"}
    built = await made(project(tmp_path / "agent", f"small==1.0 --hash=sha256:{digest}\n", **ignore))
    names = {name for name, _ in unpack(built.bundle)}
    assert "packages/small/__init__.py" in names
    assert not names & {"packages/small/big.so", "packages/small/big2.so", "source/data/a.csv", "source/bundle.ignore"}


async def test_links_are_refused(tmp_path: Path) -> None:
    folder = project(tmp_path / "agent")
    (folder / "key.py").symlink_to("/etc/passwd")
    assert (await refused(folder)).code == "build.file"


@pytest.mark.parametrize(("name", "limit"), [("MAX_FILES", 1), ("MAX_UNPACKED", 10)])
async def test_more_than_an_archive_holds_is_refused_while_it_is_read(
    name: str, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, name, limit)
    assert (await refused(project(tmp_path / "agent", **{"b.py": "x" * 20}))).code == "build.file"


@pytest.mark.parametrize(
    ("file", "manifest", "code"),
    [
        ("agent.py", {"runtime": "deno"}, "build.manifest"),
        ("agent.py", {"entry": "main"}, "manifest.runtime"),
        ("agent.py", {"runtime": "ruby"}, "build.manifest"),
        ("agent.js", {"runtime": "python"}, "build.manifest"),
    ],
)
async def test_manifest_and_source_must_agree(
    file: str, manifest: dict[str, str], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "agent"
    folder.mkdir()
    (folder / file).write_text("export default 1;" if file.endswith("js") else AGENT)
    (folder / "cloister.json").write_text(json.dumps(manifest))
    monkeypatch.setattr("cloister.client.build.may_be_script", lambda source: False)
    assert (await refused(folder)).code == code


def test_a_manifest_without_a_runtime_keeps_its_hash() -> None:
    plain = normalize({})
    assert plain.runtime == "deno"
    assert b"runtime" not in bytes(plain)
    assert bytes(normalize({"runtime": "deno"})) == bytes(plain)
    assert b'"runtime":"python"' in bytes(normalize({"runtime": "python"}))
    assert type(plain).parse(bytes(normalize({"runtime": "python"}))).runtime == "python"
