"""The bundle of a Python agent: a ZIP archive in exactly one form per set of files (spec/sandbox.md 5).

One form, so that a rebuild can be compared byte by byte, and so that a reader meets nothing else: sorted names, one
date, one mode, stored or deflated, no comments, no extra fields, no ZIP64, no encryption, nothing before, between or
after. Only the deflated streams themselves may be written in several ways; the code hash fixes them. Source of
the layout: APPNOTE.TXT 6.3.10, sections 4.3 and 4.4.

Names: ``source/agent.py`` is the agent's module, ``source/...`` what lies beside it, ``packages/...`` its packages.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from cloister.core.errors import CloisterError, ConfigError, define
from cloister.core.policy.manifest import BAD_BUNDLE, MAX_BUNDLE

ENTRY: Final = "source/agent.py"
MAX_FILES: Final = 8192
MAX_UNPACKED: Final = 128 << 20
MAX_NAME: Final = 240
_NAME = re.compile(r"(?:source|packages)(?:/[A-Za-z0-9_+@=,~ .-]{1,128})+")
_LOCAL, _CENTRAL, _END = struct.Struct("<4s5H3I2H"), struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s4H2IH")
_VERSION, _FLAGS, _DATE, _MODE = 20, 0, 0x21, 0o100444 << 16
_UNIX: Final = 3 << 8 | _VERSION
_STORED, _DEFLATED = 0, 8

BAD_ARCHIVE = define(
    "manifest.archive",
    ConfigError,
    check="a Python bundle is an archive in the one form of spec/sandbox.md 5, with source/agent.py in it",
    remedy="build it with `cloister agent build`",
    status=422,
)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One file as the central directory says it. ``at``: offset of its local header."""

    name: str
    method: int
    crc: int
    packed: int
    size: int
    at: int


def pack(files: Mapping[str, bytes]) -> bytes:
    """The archive of these files. Raises ConfigError (manifest.archive, manifest.bundle)."""
    _check_names(list(files))
    if sum(map(len, files.values())) > MAX_UNPACKED:
        raise BAD_ARCHIVE(expected=f"at most {MAX_UNPACKED} bytes unpacked", found="more")
    out, directory = bytearray(), bytearray()
    for name in sorted(files):
        data, raw = files[name], name.encode()
        method, body = _smaller(data)
        sizes = zlib.crc32(data), len(body), len(data)
        directory += _CENTRAL.pack(
            b"PK\x01\x02", _UNIX, _VERSION, _FLAGS, method, 0, _DATE, *sizes, len(raw), 0, 0, 0, 0, _MODE, len(out)
        )
        directory += raw
        out += _LOCAL.pack(b"PK\x03\x04", _VERSION, _FLAGS, method, 0, _DATE, *sizes, len(raw), 0) + raw + body
    count = len(files)
    end = _END.pack(b"PK\x05\x06", 0, 0, count, count, len(directory), len(out), 0)
    archive = bytes(out + directory + end)
    if len(archive) > MAX_BUNDLE:
        raise BAD_BUNDLE(expected=f"at most {MAX_BUNDLE} bytes", found=f"{len(archive)} bytes")
    return archive


def unpack(archive: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and contents, in order. Every header is compared before a byte is unpacked.

    Raises ConfigError (manifest.archive), at the first call of ``next`` or at the file that is wrong."""
    entries = _directory(archive)
    for entry in entries:
        start = entry.at + _LOCAL.size + len(entry.name)
        body = archive[start : start + entry.packed]
        data = body if entry.method == _STORED else _inflate(body, entry.size)
        if len(data) != entry.size or zlib.crc32(data) != entry.crc:
            raise _bad("contents of the size and sum that the directory says")
        yield entry.name, data


def _smaller(data: bytes) -> tuple[int, bytes]:
    deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = deflater.compress(data) + deflater.flush()
    return (_DEFLATED, packed) if len(packed) < len(data) else (_STORED, data)


def _inflate(body: bytes, size: int) -> bytes:
    inflater = zlib.decompressobj(-15)
    try:
        data = inflater.decompress(body, size + 1)
    except zlib.error:
        raise _bad("a deflated stream") from None
    if not inflater.eof or inflater.unused_data:
        raise _bad("one deflated stream that ends where its file does")
    return data


def _directory(archive: bytes) -> list[_Entry]:
    """1. the end record, in its one form; 2. as many entries as it says, within the caps; 3. their names; 4. each local
    header says the same, and the files lie one after the other with nothing between."""
    if len(archive) > MAX_BUNDLE or len(archive) < _END.size:
        raise _bad(f"{_END.size} to {MAX_BUNDLE} bytes")
    magic, disk, first, here, count, size, at, comment = _END.unpack_from(archive, len(archive) - _END.size)  # 1
    if (magic, disk, first, here, comment) != (b"PK\x05\x06", 0, 0, count, 0) or count > MAX_FILES:
        raise _bad(f"an end record without a comment, of at most {MAX_FILES} files")
    if at + size + _END.size != len(archive):
        raise _bad("a directory that ends where the end record begins")
    entries = _entries(archive, at, size, count)  # 2
    _check_names([entry.name for entry in entries])  # 3
    if [entry.name for entry in entries] != sorted(entry.name for entry in entries):
        raise _bad("sorted names")
    offset = 0
    for entry in entries:  # 4
        raw = entry.name.encode()
        sizes = entry.crc, entry.packed, entry.size
        local = _LOCAL.pack(b"PK\x03\x04", _VERSION, _FLAGS, entry.method, 0, _DATE, *sizes, len(raw), 0) + raw
        if entry.at != offset or archive[offset : offset + len(local)] != local:
            raise _bad("local headers that say what the directory says, without gaps")
        offset += len(local) + entry.packed
    if offset != at:
        raise _bad("files up to the directory, without gaps")
    return entries


def _entries(archive: bytes, at: int, size: int, count: int) -> list[_Entry]:
    entries, end, total = [], at + size, 0
    for _ in range(count):
        if at + _CENTRAL.size > end:
            raise _bad("a whole directory")
        head = _CENTRAL.unpack_from(archive, at)
        method, crc, packed, unpacked, length, place = head[4], head[7], head[8], head[9], head[10], head[16]
        fixed = (b"PK\x01\x02", _UNIX, _VERSION, _FLAGS, method, 0, _DATE, crc, packed, unpacked, length)
        if head != (*fixed, 0, 0, 0, 0, _MODE, place) or method not in (_STORED, _DEFLATED) or length > MAX_NAME:
            raise _bad("entries of the one form")
        total += unpacked
        raw = archive[at + _CENTRAL.size : min(end, at + _CENTRAL.size + length)]
        if total > MAX_UNPACKED or not raw.isascii() or len(raw) != length:
            raise _bad(f"ASCII names, and at most {MAX_UNPACKED} bytes unpacked")
        entries.append(_Entry(raw.decode(), method, crc, packed, unpacked, place))
        at += _CENTRAL.size + length
    if at != end:
        raise _bad("a directory of its entries alone")
    return entries


def _check_names(names: list[str]) -> None:
    """Plain relative names, each once; no file is a folder of another, so they can be written in any order."""
    if len(set(names)) != len(names) or len(names) > MAX_FILES or ENTRY not in names:
        raise _bad(f"at most {MAX_FILES} names, each once, {ENTRY} among them")
    folders = set()
    for name in names:
        parts = name.split("/")
        if len(name) > MAX_NAME or not _NAME.fullmatch(name) or any(not part.strip(". ") for part in parts):
            raise _bad(f"names below source/ and packages/, of at most {MAX_NAME} letters, digits and _+@=,~ .-")
        folders |= {"/".join(parts[:depth]) for depth in range(1, len(parts))}
    if folders & set(names):
        raise _bad("names of which none is a folder of another")


def _bad(expected: str) -> CloisterError:
    return BAD_ARCHIVE(expected=expected, found="another form")
