"""What a folder remembers of an agent's versions, and which one a rollback takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.client.versions import MAX_VERSIONS, VERSIONS_FILE, Version, earlier, read_versions, remember
from cloister.core.errors import CloisterError

A, B = b"\xaa" * 32, b"\xbb" * 32


def version(number: int, *, agent: bytes = A, ready: int | None = None) -> Version:
    return Version(agent, bytes([number]) * 32, bytes([number + 100]) * 32, number, ready)


def present(one: Version) -> tuple[bytes, bytes]:
    return one.code_hash, one.manifest_hash


def test_versions_come_back_in_order(tmp_path: Path) -> None:
    assert read_versions(tmp_path) == []
    made = [version(1), version(2, ready=12), version(3, agent=B)]
    for one in made:
        remember(tmp_path, one)
    assert read_versions(tmp_path) == made
    assert [path.name for path in tmp_path.iterdir()] == [VERSIONS_FILE]


def test_the_oldest_are_forgotten(tmp_path: Path) -> None:
    rows = [version(i % 100).to_json() for i in range(MAX_VERSIONS)]
    (tmp_path / VERSIONS_FILE).write_text(json.dumps({"versions": rows}))
    remember(tmp_path, version(7))
    kept = read_versions(tmp_path)
    assert (len(kept), kept[0], kept[-1]) == (MAX_VERSIONS, version(1), version(7))


BROKEN = {
    "no JSON": "{",
    "a list": "[]",
    "no versions": "{}",
    "versions that are no list": '{"versions": 1}',
    "a version that is a text": '{"versions": ["x"]}',
    "a hash of another length": json.dumps({"versions": [{**version(1).to_json(), "code_hash": "0x00"}]}),
    "a block that is a text": json.dumps({"versions": [{**version(1).to_json(), "block": "1"}]}),
    "nothing of a version": '{"versions": [{}]}',
    "deep nesting": "[" * 5000,
}


@pytest.mark.parametrize("sentence", BROKEN)
def test_a_broken_file_is_refused_and_kept(sentence: str, tmp_path: Path) -> None:
    (tmp_path / VERSIONS_FILE).write_text(BROKEN[sentence])
    for attempt in (lambda: read_versions(tmp_path), lambda: remember(tmp_path, version(1))):
        with pytest.raises(CloisterError) as caught:
            attempt()
        assert caught.value.code == "client.versions_file"
    assert (tmp_path / VERSIONS_FILE).read_text() == BROKEN[sentence]


@given(st.binary(max_size=200))
def test_garbage_is_refused_by_name(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / VERSIONS_FILE).write_bytes(data)
        with pytest.raises(CloisterError) as caught:
            read_versions(Path(folder))
        assert caught.value.code == "client.versions_file"


CHOICES: dict[str, tuple[list[Version], Version, bytes | None, Version | None]] = {
    "the one before": ([version(1), version(2)], version(2), None, version(1)),
    "the newest of those before": ([version(1), version(2), version(3)], version(3), None, version(2)),
    "none that was only announced": ([version(1), version(2, ready=9)], version(1), None, None),
    "the one that is named": ([version(1), version(2), version(3)], version(3), bytes([1]) * 32, version(1)),
    "none of another agent": ([version(1, agent=B), version(2)], version(2), None, None),
    "none where there is one": ([version(1)], version(1), None, None),
    "none without a file": ([], version(1), None, None),
    "none of that name": ([version(1), version(2)], version(2), bytes([9]) * 32, None),
}


@pytest.mark.parametrize("sentence", CHOICES)
def test_a_rollback_takes(sentence: str) -> None:
    known, now, to, expected = CHOICES[sentence]
    if expected is not None:
        assert earlier(known, A, present(now), to) == expected
        return
    with pytest.raises(CloisterError) as caught:
        earlier(known, A, present(now), to)
    assert caught.value.code == "client.no_version"
