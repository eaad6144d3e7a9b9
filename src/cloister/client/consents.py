"""Statements of t members, from an operator's side: consent on one's own machine, and what the others signed.

A consent is a file in the member's folder; the member signs what its rule then allows (spec/gatekeepers.md S10).
Members send what t of them signed by themselves. Whoever wants to see who signed asks them here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cloister.client.committee import Reading, Sitting
from cloister.core.encoding.handover import MasterRotation, SeatRevocation
from cloister.core.encoding.statements import Statement, WorkerRemoval
from cloister.core.errors import CloisterError, ConfigError, PolicyError, define
from cloister.core.policy.committee_statements import Proposal
from cloister.wire.ask import ask, new_session
from cloister.wire.messages import parse_json
from cloister.wire.statements import (
    CONSENTS_FILE,
    MAX_CONSENTS_FILE,
    consents_from_json,
    consents_to_json,
    rows_from_json,
)

BAD_FOLDER = define(
    "client.consent",
    ConfigError,
    check="the member's folder is there, and its file of consents can be read and written",
    remedy="name the gatekeeper's data folder, as the user that runs it; a broken consents.json may be removed",
)
NO_SEAT = define(
    "client.no_such_seat",
    PolicyError,
    check="the seat is one of the committee in office, and was not revoked",
    remedy="`cloister gatekeeper status` shows the seats",
)


def rotation_of(reading: Reading) -> MasterRotation:
    """The statement that asks for a new master key now."""
    return MasterRotation(reading.term.term, reading.newest.epoch)


def revocation_of(reading: Reading, seat: int) -> SeatRevocation:
    """The statement that removes a seat (from 1) of the committee in office. Raises PolicyError."""
    for one in reading.sittings:
        if one.seat == seat and not one.revoked:
            return SeatRevocation(reading.term.term, one.address)
    raise NO_SEAT(expected=f"a seat from 1 to {len(reading.sittings)}", found=str(seat))


def removal_of(reading: Reading, worker: bytes) -> WorkerRemoval:
    """The statement that removes a worker (20-byte address) for cause, for good."""
    return WorkerRemoval(reading.term.term, worker)


def consent(folder: Path, statement: Statement) -> int:
    """Add a statement to the consents in a member's folder; those of other terms go. Returns how many stand there.

    The file is replaced whole, so a member never reads half of it. Raises ConfigError (client.consent)."""
    path, term = folder / CONSENTS_FILE, getattr(statement, "term", None)
    kept = [one for one in _read(path) if getattr(one, "term", None) == term and one != statement]
    wanted = [*sorted(kept, key=lambda one: one.struct_hash()), statement]
    try:
        handle, name = tempfile.mkstemp(dir=folder, prefix=f".{CONSENTS_FILE}-")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(consents_to_json(wanted), file)
            os.replace(name, path)  # noqa: PTH105 - the name is a text here
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)  # noqa: PTH108
            raise
    except OSError as error:
        raise BAD_FOLDER(expected=f"to write {CONSENTS_FILE}", found=error.strerror or "an error") from None
    return len(wanted)


async def signed_by(sittings: Sequence[Sitting], statement: Statement, network: bytes) -> dict[int, bytes]:
    """Signatures (65 bytes) of a statement that members show now, by seat. ``network``: 32-byte id.

    Each counts by its member's signature; seats that are revoked, silent or that show something else are left out."""
    session = new_session()
    try:
        asked = [one for one in sittings if one.endpoint is not None and not one.revoked]
        found = await asyncio.gather(*(_one(session, one, statement, network) for one in asked))
    finally:
        await session.close()
    return {one.seat: signature for one, signature in zip(asked, found, strict=True) if signature is not None}


async def _one(session: Any, sitting: Sitting, statement: Statement, network: bytes) -> bytes | None:
    try:
        rows = rows_from_json(await ask(session, "GET", f"{str(sitting.endpoint).rstrip('/')}/v1/statements"))
        for row in rows:
            if row.proposal == Proposal(statement):
                row.verify(network, sitting.address)
                return row.signature
    except CloisterError:
        return None
    return None


def _read(path: Path) -> frozenset[Statement]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONSENTS_FILE + 1)
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise BAD_FOLDER(expected=f"to read {path.name}", found=error.strerror or "an error") from None
    try:
        return consents_from_json(parse_json(data, max_size=MAX_CONSENTS_FILE))
    except CloisterError as error:
        raise BAD_FOLDER(expected=f"consents in {path.name}", found=error.code) from None
