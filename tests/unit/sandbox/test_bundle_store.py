"""Bundles on disk: written once, warmed once, and a cache that grew beyond reason is thrown away."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cloister.sandbox import cache
from cloister.sandbox.cache import BundleStore

HASH = bytes(32)


class Warmer:
    """Counts warm-ups and leaves ``files`` in the cache."""

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files, self.fail = files or {"v8": b"x"}, False
        self.seen: list[bytes] = []

    async def __call__(self, script: Path, folder: Path) -> None:
        self.seen.append(script.read_bytes())
        await asyncio.sleep(0)
        if self.fail:
            raise OSError("no room")
        for name, data in self.files.items():
            (folder / name).write_bytes(data)


async def test_a_bundle_is_written_and_warmed_once_for_all_who_ask(tmp_path: Path) -> None:
    warmer = Warmer()
    store = BundleStore(tmp_path, warmer)
    folders = await asyncio.gather(*(store.ready(HASH, b"code") for _ in range(5)))
    assert len(set(folders)) == 1
    assert warmer.seen == [b"code"]
    script = folders[0] / "agent.js"
    assert (script.read_bytes(), script.stat().st_mode & 0o777) == (b"code", 0o444)
    assert (folders[0] / "cache" / "v8").read_bytes() == b"x"


async def test_two_bundles_share_nothing(tmp_path: Path) -> None:
    store = BundleStore(tmp_path, Warmer())
    one, other = await store.ready(HASH, b"one"), await store.ready(b"\x01" * 32, b"other")
    assert one != other
    assert (other / "agent.js").read_bytes() == b"other"


@pytest.mark.parametrize("limit", ["MAX_CACHE_BYTES", "MAX_CACHE_FILES"])
async def test_a_cache_beyond_its_limits_is_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(cache, limit, 2)
    store = BundleStore(tmp_path, Warmer({"a": b"xx", "b": b"xx", "c": b"xx"}))
    folder = await store.ready(HASH, b"code")
    assert list((folder / "cache").iterdir()) == []


async def test_links_are_not_followed_when_a_cache_is_measured(tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(bytes(1000))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "dangling").symlink_to("/nowhere/at/all")
    (tmp_path / "cache" / "out").symlink_to(big)
    assert not cache._oversized(tmp_path / "cache")


async def test_a_failed_warm_up_is_tried_again(tmp_path: Path) -> None:
    warmer = Warmer()
    warmer.fail = True
    store = BundleStore(tmp_path, warmer)
    with pytest.raises(OSError, match="no room"):
        await store.ready(HASH, b"code")
    warmer.fail = False
    assert (await store.ready(HASH, b"code") / "agent.js").read_bytes() == b"code"
    assert len(warmer.seen) == 2


async def test_one_caller_that_goes_away_does_not_stop_the_others(tmp_path: Path) -> None:
    store = BundleStore(tmp_path, Warmer())
    leaving = asyncio.ensure_future(store.ready(HASH, b"code"))
    staying = asyncio.ensure_future(store.ready(HASH, b"code"))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying / "agent.js").exists()
    await store.close()


def hashes(folder: Path) -> set[bytes]:
    return {bytes.fromhex(path.name) for path in folder.iterdir()}


async def test_the_bundles_that_were_longest_unused_go_and_come_back_when_they_are_asked_for(tmp_path: Path) -> None:
    warmer = Warmer()
    store = BundleStore(tmp_path, warmer, most=3)
    names = [bytes([n]) * 32 for n in range(5)]
    for name in names[:3]:
        await store.ready(name, name)
    await store.ready(names[0], names[0])  # used again
    await store.ready(names[3], names[3])
    await store.ready(names[4], names[4])
    assert hashes(tmp_path) == {names[0], names[3], names[4]}
    assert (await store.ready(names[1], names[1]) / "agent.js").read_bytes() == names[1]
    assert warmer.seen.count(names[1]) == 2
    assert len(hashes(tmp_path)) == 3


async def test_bundles_of_processes_that_run_are_kept_however_many_they_are(tmp_path: Path) -> None:
    store = BundleStore(tmp_path, Warmer(), most=1)
    names = [bytes([n]) * 32 for n in range(4)]
    for name in names[:3]:
        store.hold(name)
        store.hold(name)
        await store.ready(name, name)
    assert hashes(tmp_path) == set(names[:3])
    for name in names[:3]:
        store.release(name)
    await store.ready(names[3], names[3])
    assert hashes(tmp_path) >= set(names[:3]), "each is still held once"
    for name in names[:3]:
        store.release(name)
    await store.ready(names[3], names[3])
    assert hashes(tmp_path) == {names[3]}
    assert not store._held


async def test_a_bundle_that_is_being_made_is_not_dropped(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def slow(script: Path, folder: Path) -> None:
        await gate.wait()

    store = BundleStore(tmp_path, slow, most=1)
    making = [asyncio.ensure_future(store.ready(bytes([n]) * 32, b"x")) for n in range(3)]
    await asyncio.sleep(0.01)
    gate.set()
    assert all((folder / "agent.js").exists() for folder in await asyncio.gather(*making))
