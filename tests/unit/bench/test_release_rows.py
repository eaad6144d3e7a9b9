"""The bench of a release of keys: real answers of real members, opened."""

from __future__ import annotations

from pathlib import Path

from bench import baseline, release

from cloister.core.threshold.partial import TransportKey


async def test_a_release_is_measured(tmp_path: Path) -> None:
    rows = await release.rows(tmp_path / "not there yet", rounds=1)
    assert [row.unit for row in rows] == ["ms", "ms"]
    assert all(row.value > 0 and row.target is None for row in rows)


async def test_each_request_has_a_key_of_its_own(tmp_path: Path) -> None:
    town = release.Town(tmp_path)
    (one, key), (two, other) = town.request(), town.request()
    assert isinstance(key, TransportKey)
    assert key.public != other.public
    assert one.shown.binding.keys["transport"] == key.public != two.shown.binding.keys["transport"]


def test_it_is_a_part_of_the_keys_that_needs_no_network() -> None:
    assert "keys" in baseline.LOCAL
