"""The archive of a Python agent: one form per set of files, and no other form is unpacked."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import zipfile
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.core.errors import CloisterError
from cloister.core.policy import archive
from cloister.core.policy.archive import ENTRY, MAX_FILES, MAX_NAME, pack, unpack

CODE = b"async def fetch(request, ctx):\n    return 'ok'\n" * 20
FILES = {
    ENTRY: CODE,
    "packages/a/__init__.py": b"",
    "packages/a-1.0.dist-info/METADATA": b"Name: a\n",
    "source/b.py": b"1",
}


def code_of(data: bytes) -> str:
    with pytest.raises(CloisterError) as caught:
        list(unpack(data))
    return caught.value.code


def test_what_is_packed_is_unpacked_in_the_order_of_names() -> None:
    assert list(unpack(pack(FILES))) == sorted(FILES.items())


def test_the_same_files_give_the_same_bytes_in_any_order() -> None:
    assert pack(FILES) == pack(dict(reversed(FILES.items())))


def test_ordinary_tools_read_it() -> None:
    with zipfile.ZipFile(io.BytesIO(pack(FILES))) as found:
        assert found.testzip() is None
        assert {name: found.read(name) for name in found.namelist()} == FILES
        assert {info.date_time for info in found.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert {info.external_attr >> 16 for info in found.infolist()} == {0o100444}


_PART = st.text("abcXYZ019_.-+@=,~ ", min_size=1, max_size=12).filter(lambda part: bool(part.strip(". ")))
_NAMES = st.lists(_PART, min_size=1, max_size=4).map(lambda parts: "packages/" + "/".join(parts))


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(_NAMES, st.binary(max_size=300), max_size=8))
def test_any_set_of_plain_names_makes_the_round_trip(files: dict[str, bytes]) -> None:
    names = set(files)
    folders = {name[:at] for name in names for at, letter in enumerate(name) if letter == "/"}
    files = {name: data for name, data in files.items() if name not in folders} | {ENTRY: CODE}
    assert dict(unpack(pack(files))) == files


BAD_NAMES: dict[str, str] = {
    "a way up": "packages/../x",
    "a way up at the end": "packages/x/..",
    "an absolute name": "/packages/x",
    "the folder itself": "packages/./x",
    "another folder": "bin/x",
    "no folder": "agent.py",
    "an empty part": "packages//x",
    "a folder's name": "packages/x/",
    "a backslash": "packages/a\\b",
    "a NUL": "packages/a\0b",
    "a line break": "packages/a\nb",
    "a letter that is not ASCII": "packages/ü",
    "dots and spaces only": "packages/. .",
    "a file in place of the entry's folder": "source",
    "a name below a file": ENTRY + "/x",
    "a name that is too long": "packages/" + "/".join(["x" * 100] * 3),
}


@pytest.mark.parametrize("sentence", BAD_NAMES)
def test_a_name_that_could_lead_elsewhere_is_refused_by_both_sides(
    sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {ENTRY: CODE, BAD_NAMES[sentence]: b"x"}
    with pytest.raises(CloisterError) as caught:
        pack(files)
    assert caught.value.code == "manifest.archive"
    with monkeypatch.context() as patch:
        patch.setattr(archive, "_check_names", lambda names: None)
        hostile = pack(files)
    assert code_of(hostile) == "manifest.archive"


def test_an_archive_without_the_agent_is_refused() -> None:
    with pytest.raises(CloisterError):
        pack({"source/other.py": b""})
    assert code_of(zipped({"source/other.py": b""})) == "manifest.archive"


def zipped(files: dict[str, bytes], **more: int) -> bytes:
    """The same files as another tool packs them."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", **more) as target:  # type: ignore[call-overload]
        for name, data in sorted(files.items()):
            target.writestr(name, data)
    return out.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_another_tool_packed_is_another_form(method: int) -> None:
    assert code_of(zipped(FILES, compression=method)) == "manifest.archive"


def end(count: int, size: int, at: int, comment: int = 0) -> bytes:
    return struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count, count, size, at, comment)


def changed(data: bytes, at: int, put: bytes) -> bytes:
    return data[:at] + put + data[at + len(put) :]


GOOD = pack(FILES)
_COUNT, _SIZE, _AT = struct.unpack_from("<HII", GOOD, len(GOOD) - 12)
FORMS: dict[str, bytes] = {
    "nothing": b"",
    "an end record alone": end(0, 0, 0),
    "bytes before": b"x" + GOOD,
    "bytes after": GOOD + b"x",
    "a comment": GOOD[:-22] + end(_COUNT, _SIZE, _AT, 1) + b"x",
    "more files than it says": GOOD[:-22] + end(_COUNT - 1, _SIZE, _AT),
    "fewer files than it says": GOOD[:-22] + end(_COUNT + 1, _SIZE, _AT),
    "a number of files without end": GOOD[:-22] + end(0xFFFF, _SIZE, _AT),
    "a directory outside of it": GOOD[:-22] + end(_COUNT, 0xFFFFFFFF, 0xFFFFFFFF),
    "a directory that overlaps": GOOD[:-22] + end(_COUNT, _SIZE + 1, _AT - 1),
    "a gap between the files": changed(GOOD, _AT + 42, struct.pack("<I", 1)),
    "another mode": changed(GOOD, _AT + 38, struct.pack("<I", 0o120777 << 16)),
    "encryption": changed(GOOD, _AT + 8, b"\x01\x00"),
    "another date": changed(GOOD, _AT + 14, b"\x22\x00"),
    "another method": changed(GOOD, _AT + 10, b"\x0c\x00"),
    "a size of four gigabytes": changed(GOOD, _AT + 24, b"\xff\xff\xff\xff"),
    "an extra field": changed(GOOD, _AT + 30, b"\x01\x00"),
}


@pytest.mark.parametrize("sentence", FORMS)
def test_another_form_is_refused_before_anything_is_unpacked(sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_inflate", None)  # never reached
    assert code_of(FORMS[sentence]) == "manifest.archive"


def test_no_byte_of_an_archive_is_without_meaning() -> None:
    """Every byte is fixed by the form or by a sum. Only inside a deflated stream can the same be said differently."""
    source = random.Random(7)
    stream = range(GOOD.index(ENTRY.encode()) + len(ENTRY), GOOD.index(b"PK", GOOD.index(ENTRY.encode())))
    for at in set(range(len(GOOD))) - set(stream):
        assert code_of(changed(GOOD, at, bytes([GOOD[at] ^ (1 << source.randrange(8))]))) == "manifest.archive", at
    for at in stream:
        hostile = changed(GOOD, at, bytes([GOOD[at] ^ (1 << source.randrange(8))]))
        with contextlib.suppress(CloisterError):
            assert dict(unpack(hostile)) == FILES


@given(st.binary(max_size=400))
def test_garbage_is_refused_by_name(data: bytes) -> None:
    assert code_of(data) == "manifest.archive"
    assert code_of(GOOD[: len(data)] + data) == "manifest.archive"


def bomb(size: int) -> bytes:
    """An archive whose one file says that it unpacks to ``size``, and holds a thousandth of it."""
    packed = zlib.compress(bytes(2 << 20), 9, wbits=-15)
    return renamed(packed, size)


def renamed(packed: bytes, size: int) -> bytes:
    raw = ENTRY.encode()
    sizes = zlib.crc32(bytes(size & 0xFFFFFF)), len(packed), size
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 8, 0, 0x21, *sizes, len(raw), 0) + raw + packed
    head = struct.pack(
        "<4s6H3I5H2I", b"PK\x01\x02", 3 << 8 | 20, 20, 0, 8, 0, 0x21, *sizes, len(raw), 0, 0, 0, 0, 0o100444 << 16, 0
    )
    return local + head + raw + end(1, len(head) + len(raw), len(local))


def test_a_bomb_is_cut_at_the_size_that_it_says() -> None:
    assert code_of(bomb(100)) == "manifest.archive"
    assert code_of(bomb(3 << 20)) == "manifest.archive"
    assert code_of(bomb(200 << 20)) == "manifest.archive"


@pytest.mark.parametrize(("name", "limit"), [("MAX_UNPACKED", 100), ("MAX_FILES", 2), ("MAX_BUNDLE", 200)])
def test_the_caps_hold_on_both_sides(name: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, name, limit)
    with pytest.raises(CloisterError) as caught:
        pack(FILES)
    assert caught.value.code in ("manifest.archive", "manifest.bundle")
    assert code_of(GOOD) == "manifest.archive"


def test_caps_are_what_the_specification_says() -> None:
    assert (MAX_FILES, MAX_NAME, archive.MAX_UNPACKED) == (8192, 240, 128 << 20)
