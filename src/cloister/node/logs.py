"""Log lines: one JSON object each, to stderr. Fields named like secrets are blanked, everything is capped.

Texts of foreign exceptions are left out (they may quote what they parsed): only their type and where they arose.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import PurePath
from typing import Any, TextIO

from cloister.core.errors import CloisterError

MAX_TEXT = 1024
MAX_LINE = 8192
MAX_ITEMS = 32
_MAX_DEPTH = 4
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
LEVELS = tuple(_LEVELS)
_SECRET_WORDS = frozenset(
    (
        "secret",
        "secrets",
        "key",
        "keys",
        "token",
        "tokens",
        "psk",
        "password",
        "passphrase",
        "private",
        "seed",
        "share",
        "shares",
        "mnemonic",
        "authorization",
        "cookie",
        "plaintext",
        "body",
        "value",
        "sealing",
        "credential",
        "credentials",
        "bearer",
    )
)
_PUBLIC_WORDS = frozenset(("public", "count", "id"))
BLANK = "[redacted]"


@dataclass(slots=True)
class _Output:
    """Where lines of this process go. ``stream`` None is stderr, as it is at that moment."""

    service: str = "unnamed"
    low: int = logging.INFO
    stream: TextIO | None = None


_output = _Output()


class Logger:
    """Writes lines under one name. ``exc_info``: an exception, or True for the one being handled."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def debug(self, event: str, /, **fields: Any) -> None:
        """For people who look for a fault."""
        self._write("debug", event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        """Something worth knowing happened."""
        self._write("info", event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        """Something went wrong, and the service goes on."""
        self._write("warning", event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        """Something that should not happen."""
        self._write("error", event, fields)

    def exception(self, event: str, /, **fields: Any) -> None:
        """``error`` about the exception that is being handled."""
        self._write("error", event, {"exc_info": True, **fields})

    def _write(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if _LEVELS[level] < _output.low:
            return
        error = _describe(fields.pop("exc_info", None))
        fixed = {"event": event, "level": level, "service": _output.service, "logger": self._name}
        fixed["host_time"] = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        # What a caller names cannot replace who, what and when; these stand first, so no cap cuts them off.
        line = _render(fixed, _clean({**fixed, **error, **{k: v for k, v in fields.items() if k not in fixed}}))
        stream = _output.stream or sys.stderr
        with suppress(OSError):  # a log that nobody can read stops no service
            stream.write(line + "\n")
            stream.flush()


def configure(service: str, *, level: str = "info", stream: TextIO | None = None) -> None:
    """Set up logging of this process once, at start; other libraries' warnings go the same way."""
    _output.low, _output.service, _output.stream = _LEVELS[level], service, stream
    root = logging.getLogger()
    root.handlers[:] = [_Bridge(max(_output.low, logging.WARNING))]


def get(name: str) -> Logger:
    """A logger: ``get("worker.leases").info("lease taken", agent="ab12")``."""
    return Logger(name)


def is_secret(name: str) -> bool:
    """Whether a field of this name is blanked: one of its words names a secret, none says that it is public."""
    words = set(name.lower().replace("-", "_").split("_"))
    return bool(words & _SECRET_WORDS) and not words & _PUBLIC_WORDS


def _clean(fields: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
    """Blank secrets and cap sizes, at every depth."""
    items = list(fields.items())[:MAX_ITEMS]
    return {str(k)[:64]: BLANK if is_secret(str(k)) else _clip(v, depth) for k, v in items}


def _describe(error: Any) -> dict[str, Any]:
    """An exception as its code or type and its last frames; never its text."""
    if error is True:
        error = sys.exc_info()[1]
    if not isinstance(error, BaseException):
        return {}
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    name = error.code if isinstance(error, CloisterError) else type(error).__name__
    return {"error": name, "at": [f"{frame.name}:{frame.lineno}" for frame in frames]}


def _clip(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, int):
        return value if value.bit_length() <= 256 else f"<{value.bit_length()} bits>"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if isinstance(value, CloisterError):
        return value.code
    if isinstance(value, BaseException):
        return type(value).__name__
    if depth < _MAX_DEPTH and isinstance(value, Mapping):
        return _clean(value, depth + 1)
    if depth < _MAX_DEPTH and isinstance(value, (list, tuple, set, frozenset)):
        return [_clip(item, depth + 1) for item in list(value)[:MAX_ITEMS]]
    if not isinstance(value, (str, PurePath, Enum)):
        return f"<{type(value).__name__}>"  # its text may hold anything
    text = str(value)
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"


def _render(fixed: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    line = json.dumps(fields)
    return line if len(line) <= MAX_LINE else json.dumps({**{k: fields[k] for k in fixed}, "cut": len(line)})


class _Bridge(logging.Handler):
    """Warnings of libraries: the logger's name and the unformatted message, never its arguments."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        level = "error" if record.levelno >= logging.ERROR else "warning"
        error = record.exc_info[1] if record.exc_info else None
        getattr(get(record.name), level)(str(record.msg), exc_info=error)
