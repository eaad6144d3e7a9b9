"""What this member's operator wants signed: ``consents.json`` in its folder (spec/gatekeepers.md S10).

A consent names one statement, field by field, so it ends by itself with the term. Each is noted in the audit log when
it is first seen. A file that cannot be read consents to nothing, and stops nothing.
"""

from __future__ import annotations

from pathlib import Path

from cloister.core.encoding.statements import Statement
from cloister.core.errors import CloisterError, ConfigError, define
from cloister.gatekeeper.audit import AuditLog
from cloister.node import logs
from cloister.wire.messages import parse_json
from cloister.wire.statements import CONSENTS_FILE, MAX_CONSENTS_FILE, consents_from_json, statement_to_json

BAD_FILE = define(
    "gatekeeper.consents",
    ConfigError,
    check="the file of consents can be read",
    remedy="let `cloister gatekeeper propose-rotation --consent FOLDER` write it, as the gatekeeper's user",
)
_log = logs.get("consents")


class Consents:
    """The operator's consents, read again whenever they are asked for."""

    def __init__(self, folder: Path, audit: AuditLog) -> None:
        self._path, self._audit = folder / CONSENTS_FILE, audit
        self._noted: set[Statement] = set()
        self._said = ""

    def current(self) -> frozenset[Statement]:
        """All consents of the file; none if there is no file, or a bad one."""
        try:
            found = self._read()
            self._said = ""
        except CloisterError as error:
            if error.code != self._said:
                _log.warning("consents ignored", code=error.code, found=error.found)
            self._said = error.code
            return frozenset()
        for statement in sorted(found - self._noted, key=lambda one: one.struct_hash()):
            self._audit.append("consent", **statement_to_json(statement))
            self._noted.add(statement)
        return found

    def _read(self) -> frozenset[Statement]:
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_CONSENTS_FILE + 1)
        except FileNotFoundError:
            return frozenset()
        except OSError as error:
            raise BAD_FILE(expected=f"to read {self._path.name}", found=error.strerror or "an error") from None
        return consents_from_json(parse_json(data, max_size=MAX_CONSENTS_FILE))
