"""Strict JSON settings: unknown and repeated fields are refused; the hash of all of it goes into the report data."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context, digest
from cloister.core.errors import ConfigError, define

T = TypeVar("T")

MAX_CONFIG = 1 << 20
_TEXT = (str, Path, "str", "Path", "str | None", "Path | None")

UNREADABLE = define(
    "config.unreadable",
    ConfigError,
    check="the configuration is a regular file of at most 1 MiB that this process may read",
    remedy="check the path, its owner and its mode",
)
BAD_CONFIG = define(
    "config.bad",
    ConfigError,
    check="the configuration is one JSON object with known fields of the right types, none twice",
    remedy="correct the field that is named; docs/operate lists them all",
)
OPEN_FILE = define(
    "config.open_file",
    ConfigError,
    check="a file with secrets is readable by its owner only",
    remedy="run chmod 600 on it",
)


def load_config(
    path: Path, kind: type[T], *, private: bool = False, over: Mapping[str, str] | None = None, prefix: str = ""
) -> T:
    """Read and check a configuration. ``kind``: a dataclass or msgspec.Struct; paths may be ``Path`` fields.

    ``private``: the file may hold secrets, so its mode must be 0600 or stricter. ``over``: the environment's variables;
    ``PREFIX_FIELD`` takes the place of the field: text for text and paths, else JSON. Raises ConfigError."""
    return parse_config(_read(path, private), kind, named(over or {}, prefix))


def named(environment: Mapping[str, str], prefix: str) -> dict[str, str]:
    """field -> value of the variables that begin with ``prefix`` and an underscore, in lower case."""
    start = prefix + "_"
    return {n[len(start) :].lower(): v for n, v in environment.items() if prefix and n.startswith(start)}


def parse_config(data: bytes, kind: type[T], over: Mapping[str, str] | None = None) -> T:
    """The same from bytes. Raises ConfigError naming the field, never its value."""
    if len(data) > MAX_CONFIG or sum(map(len, (over or {}).values())) > MAX_CONFIG:
        raise BAD_CONFIG(expected=f"at most {MAX_CONFIG} bytes", found=f"{len(data)} bytes and the environment")
    try:
        raw = json.loads(data.decode(), object_pairs_hook=_once, parse_constant=_refuse)
        if over and isinstance(raw, dict):
            raw |= {name: _spoken(kind, name, text) for name, text in over.items()}
        config = msgspec.convert(raw, kind, strict=True, dec_hook=_decode)
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        found = str(error) if isinstance(error, msgspec.ValidationError) else type(error).__name__
        raise BAD_CONFIG(expected=f"the fields of {kind.__name__}", found=found) from None
    _same_fields(raw, plain_config(config), "$")
    return config


def plain_config(config: object) -> Any:
    """The configuration as JSON-ready values, defaults filled in. Raises TypeError for a type that settings lack."""
    if config is None or isinstance(config, (bool, int, float, str)):
        return config
    if isinstance(config, Path):
        return str(config)
    if isinstance(config, Mapping):
        return {name: plain_config(value) for name, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [plain_config(value) for value in config]
    return {name: plain_config(getattr(config, name)) for name in _names(config)}


def config_hash(config: object) -> bytes:
    """digest(CONFIG, JCS of the whole configuration with defaults): 32 bytes for the report data.

    Raises EncodingError if a field is no fraction-free JSON value: settings are integers, text, lists, objects."""
    return digest(Context.CONFIG, jcs.encode(plain_config(config)))


def _read(path: Path, private: bool) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode) or info.st_size > MAX_CONFIG:
                raise UNREADABLE(expected="a regular file of at most 1 MiB", found="something else")
            if private and info.st_mode & 0o077:
                raise OPEN_FILE(expected="mode 0600", found=f"{info.st_mode & 0o777:04o}")
            return file.read(MAX_CONFIG + 1)
    except OSError as error:
        raise UNREADABLE(expected=f"to read {path.name}", found=error.strerror or "an error") from None


def _spoken(kind: type, name: str, text: str) -> Any:
    """A variable's value: as it is for text and paths, else JSON. An unknown name is refused like an unknown field."""
    given = next((f.type for f in _fields(kind) if f.name == name), None)
    return text if given in _TEXT else json.loads(text, object_pairs_hook=_once, parse_constant=_refuse)


def _fields(kind: Any) -> Sequence[Any]:
    return msgspec.structs.fields(kind) if issubclass(kind, msgspec.Struct) else dataclasses.fields(kind)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise BAD_CONFIG(expected="every field once", found="a repeated field")
    return fields


def _refuse(text: str) -> Any:
    raise BAD_CONFIG(expected="JSON numbers", found=text)


def _decode(kind: type, value: Any) -> Any:
    if kind is not Path:
        raise NotImplementedError(f"settings of type {kind.__name__}")
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("expected a path")
    return Path(value)


def _names(config: object) -> list[str]:
    if isinstance(config, msgspec.Struct):
        return [field.name for field in msgspec.structs.fields(config)]
    if dataclasses.is_dataclass(config):
        return [field.name for field in dataclasses.fields(config)]
    raise TypeError(f"settings of type {type(config).__name__}")


def _same_fields(raw: Any, known: Any, where: str) -> None:
    if isinstance(raw, Mapping) and isinstance(known, Mapping):
        unknown = sorted(set(raw) - set(known))
        if unknown:
            raise BAD_CONFIG(expected="known fields only", found=f"{where}.{unknown[0]}")
        for name in raw:
            _same_fields(raw[name], known[name], f"{where}.{name}")
    elif isinstance(raw, list) and isinstance(known, list) and len(raw) == len(known):
        for number, (one, other) in enumerate(zip(raw, known, strict=True)):
            _same_fields(one, other, f"{where}[{number}]")
