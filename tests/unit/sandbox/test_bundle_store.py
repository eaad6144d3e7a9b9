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
