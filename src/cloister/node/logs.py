"""Log lines: one JSON object each, to stderr. Fields named like secrets are blanked, everything is capped.

Texts of foreign exceptions are left out (they may quote what they parsed): only their type and where they arose.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import structlog

from cloister.core.errors import CloisterError

MAX_TEXT = 1024
MAX_LINE = 8192
MAX_ITEMS = 32
_MAX_DEPTH = 4
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
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


def configure(service: str, *, level: str = "info", stream: TextIO | None = None) -> None:
    """Set up logging of this process once, at start; other libraries' warnings go the same way."""
    low = _LEVELS[level]
    out = sys.stderr if stream is None else stream
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="host_time"),
            _with_service(service),
            _describe_error,
            clean,
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(low),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Bridge(max(low, logging.WARNING))]


def get(name: str) -> Any:
    """A logger: ``get("worker.leases").info("lease taken", agent="ab12")``."""
    return structlog.get_logger(logger_name=name)


def clean(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Blank secrets and cap sizes, at every depth."""
    return {str(k)[:64]: BLANK if is_secret(str(k)) else _clip(v, 0) for k, v in list(event.items())[:MAX_ITEMS]}


def is_secret(name: str) -> bool:
    """Whether a field of this name is blanked: one of its words names a secret, none says that it is public."""
    words = set(name.lower().replace("-", "_").split("_"))
    return bool(words & _SECRET_WORDS) and not words & _PUBLIC_WORDS


def _with_service(service: str) -> Any:
    def add(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = service
        if "logger_name" in event:
            event["logger"] = event.pop("logger_name")
        return event

    return add


def _describe_error(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        event["error"] = error.code if isinstance(error, CloisterError) else type(error).__name__
        frames = traceback.extract_tb(error.__traceback__)[-8:]
        event["at"] = [f"{frame.name}:{frame.lineno}" for frame in frames]
    return event


def _clip(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if isinstance(value, CloisterError):
        return value.code
    if isinstance(value, BaseException):
        return type(value).__name__
    if depth < _MAX_DEPTH and isinstance(value, Mapping):
        items = list(value.items())[:MAX_ITEMS]
        return {str(k)[:64]: BLANK if is_secret(str(k)) else _clip(v, depth + 1) for k, v in items}
    if depth < _MAX_DEPTH and isinstance(value, (list, tuple, set, frozenset)):
        return [_clip(item, depth + 1) for item in list(value)[:MAX_ITEMS]]
    text = str(value)
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"


def _render(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
    line = json.dumps(event, default=str)
    if len(line) > MAX_LINE:
        kept = {k: event[k] for k in ("event", "level", "service", "host_time", "logger") if k in event}
        line = json.dumps({**kept, "cut": len(line)}, default=str)
    return line


class _Bridge(logging.Handler):
    """Warnings of libraries: the logger's name and the unformatted message, never its arguments."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        level = "error" if record.levelno >= logging.ERROR else "warning"
        error = record.exc_info[1] if record.exc_info else None
        getattr(get(record.name), level)(str(record.msg), exc_info=error)
