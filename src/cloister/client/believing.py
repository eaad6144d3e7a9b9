"""An operator's word for a halted gatekeeper: compared with what other members signed, then written to its folder."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from cloister.client.committee import Reading, Sitting
from cloister.core.encoding.signatures import verify_signer
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import CloisterError, ConfigError, PolicyError, define
from cloister.wire.ask import ask, new_session
from cloister.wire.believed import Believed, believed_file
from cloister.wire.messages import SignedBy

BAD_FOLDER = define(
    "client.believed_folder",
    ConfigError,
    check="the halted member's folder is there, and can be written",
    remedy="name the gatekeeper's data folder, as the user that runs it",
)
CONTRADICTED = define(
    "client.contradicted",
    PolicyError,
    check="no t members signed another block of the height that is to be believed",
    remedy="compare the block's hash at several endpoints: the one that was named is not what the committee signed",
    status=409,
)


@dataclass(frozen=True, slots=True)
class Others:
    """Seats (from 1) whose members signed the believed block, and those that signed another one of its height."""

    same: tuple[int, ...]
    other: tuple[int, ...]


async def others_of(reading: Reading, network: bytes, word: Believed, chain: int | None = None) -> Others:
    """What members in office signed at that height; who keeps it no more is in neither. ``network``: 32-byte id.

    ``chain``: id of a connected chain; None: the network's own."""
    path = f"/v1/checkpoint/{word.number}" if chain is None else f"/v1/chains/{chain}/checkpoint/{word.number}"
    session = new_session()
    try:
        asked = [one for one in reading.sittings if one.endpoint is not None and not one.revoked]
        answers = await asyncio.gather(*(_signed(session, one, network, path) for one in asked))
    finally:
        await session.close()
    said = [(one.seat, c) for one, c in zip(asked, answers, strict=True) if c is not None and c.number == word.number]
    found = [(seat, c) for seat, c in said if chain in (None, c.chain_id)]
    same = tuple(seat for seat, c in found if c.block_hash == word.block_hash)
    return Others(same, tuple(seat for seat, _ in found if seat not in same))


def require_believable(others: Others, threshold: int) -> None:
    """Raise PolicyError (client.contradicted) if t members signed another block of that height."""
    if len(others.other) >= threshold:
        raise CONTRADICTED(expected="the block that members signed", found=f"another one, by seats {others.other}")


def write(folder: Path, word: Believed, chain: int | None = None) -> None:
    """Put the word into the member's folder, whole. ``chain`` as above. Raises ConfigError (client.believed_folder)."""
    file_name = believed_file(chain)
    try:
        handle, name = tempfile.mkstemp(dir=folder, prefix=f".{file_name}-")
        try:
            with os.fdopen(handle, "w") as file:
                json.dump(word.to_json(), file)
            os.replace(name, folder / file_name)  # noqa: PTH105 - the name is a text here
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)  # noqa: PTH108
            raise
    except OSError as error:
        raise BAD_FOLDER(expected=f"to write {file_name}", found=error.strerror or "an error") from None


async def _signed(session: aiohttp.ClientSession, sitting: Sitting, network: bytes, path: str) -> Checkpoint | None:
    try:
        answer = await ask(session, "GET", f"{str(sitting.endpoint).rstrip('/')}{path}")
        signed = SignedBy.from_json(Checkpoint, answer)
        verify_signer(signed.statement.digest(network), signed.signature, sitting.address)
    except CloisterError:
        return None
    said = signed.statement
    return said if isinstance(said, Checkpoint) else None
