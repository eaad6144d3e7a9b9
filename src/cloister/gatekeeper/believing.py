"""A halted member goes on: its operator names the block that it believes (spec/gatekeepers.md K4).

The word is a file in the member's folder, read when a halted member starts, noted in the audit log, and removed when it
was taken. It takes back no signature: no height that the member signed before is signed again.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Protocol

from cloister.core.chainview.header import Header
from cloister.core.errors import CloisterError, ConfigError, define
from cloister.gatekeeper.audit import AuditLog
from cloister.gatekeeper.checkpoints import NOT_BELIEVED, Checkpoints
from cloister.node import logs
from cloister.wire.believed import MAX_BELIEVED_FILE, Believed, believed_file
from cloister.wire.messages import parse_json

BAD_FILE = define(
    "gatekeeper.believed_file",
    ConfigError,
    check="the operator's word on the believed block can be read",
    remedy="let `cloister gatekeeper resume FOLDER --block N --hash HASH` write it, as the gatekeeper's user",
)
_log = logs.get("believing")


class Headers(Protocol):
    """Final headers by height (``ports.Chain``, ``chain.finality.HeaderVerifier``)."""

    async def header(self, number: int) -> Header:
        """The final header at a height. Raises ChainError."""


class Believing:
    """Reads the operator's word in ``folder``, about a connected chain (its id) or the network's own (None)."""

    def __init__(self, folder: Path, audit: AuditLog, chain: int | None = None) -> None:
        self._folder, self._path, self._audit, self._chain = folder, folder / believed_file(chain), audit, chain

    def of_chain(self, chain: int) -> Believing:
        """The same folder's word about a connected chain."""
        return Believing(self._folder, self._audit, chain)

    async def resume(self, book: Checkpoints, chain: Headers, final: int) -> None:
        """Take the operator's word for a halted book, if there is one that fits; else it stays halted, and says why.

        ``final``: the newest final height at our endpoints."""
        try:
            word = self._read()
            if word is None:
                return
            if word.number > final:
                raise NOT_BELIEVED(expected=f"a final block, {final} or earlier", found=f"block {word.number}")
            book.believe(word, await chain.header(word.number))
        except CloisterError as error:
            _log.warning("still halted", code=error.code, expected=error.expected, found=error.found)
            return
        where = {} if self._chain is None else {"chain": str(self._chain)}
        self._audit.append("believed", **word.to_json(), **where)
        _log.warning("resumed by the operator's word", block=word.number, **where)
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _read(self) -> Believed | None:
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_BELIEVED_FILE + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise BAD_FILE(expected=f"to read {self._path.name}", found=error.strerror or "an error") from None
        return Believed.from_json(parse_json(data, max_size=MAX_BELIEVED_FILE))
