"""Public records of finished ceremonies: kept for everybody, and taken from anybody, by their hash on chain."""

from __future__ import annotations

from collections.abc import Sequence

import aiohttp

from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError, ThresholdError, define
from cloister.core.threshold.transcript import Transcript, ceremony_to_json
from cloister.gatekeeper.ports import Snapshot
from cloister.gatekeeper.store import Store
from cloister.wire.transcripts import ask_transcript

RECORD, BY_CEREMONY = "transcript/", "transcript-of/"

NO_TRANSCRIPT = define(
    "gatekeeper.no_transcript",
    ThresholdError,
    check="somebody serves the public record of the ceremony with this transcript hash",
    remedy="members of that committee hold it; one of them is enough, whoever it is",
    status=404,
)


class Transcripts:
    """Records by transcript hash (32 bytes)."""

    def __init__(self, store: Store, session: aiohttp.ClientSession) -> None:
        self._store, self._session = store, session

    def keep(self, record: Transcript) -> None:
        """Store a record durably. Does nothing if it is there."""
        name = RECORD + to_hex(record.hash())
        if self._store.get(name) is None:
            self._store.put_all({name: record.to_bytes(), BY_CEREMONY + to_hex(record.ceremony.id): name.encode()})

    def get(self, transcript: bytes) -> Transcript | None:
        """A stored record."""
        blob = self._store.get(RECORD + to_hex(transcript))
        return None if blob is None else Transcript.from_bytes(blob)

    def of_ceremony(self, ceremony: bytes) -> Transcript | None:
        """A stored record by the ceremony's id."""
        name = self._store.get(BY_CEREMONY + to_hex(ceremony))
        blob = None if name is None else self._store.get(name.decode())
        return None if blob is None else Transcript.from_bytes(blob)

    def head(self, transcript: bytes) -> dict[str, object]:
        """What GET /v1/transcript/{hash} answers: the ceremony, and whose dealings belong to it."""
        record = self.get(transcript)
        if record is None:
            raise NO_TRANSCRIPT(expected=f"the record of {to_hex(transcript)[:18]}…", found="none here")
        return {"ceremony": ceremony_to_json(record.ceremony), "dealers": sorted(record.dealings)}

    async def find(self, transcript: bytes, term: int, members: Sequence[bytes], at: Snapshot) -> Transcript:
        """The record with this hash: ours, or the first right one that a member serves. Raises CloisterError."""
        mine = self.get(transcript)
        if mine is not None:
            return mine
        refused: list[str] = []
        for candidate in await at.candidates(tuple(members)):
            if candidate is None:
                continue
            try:
                record = await ask_transcript(self._session, candidate.endpoint, transcript, term)
            except CloisterError as error:
                refused.append(error.code)
                continue
            self.keep(record)
            return record
        raise NO_TRANSCRIPT(
            expected=f"the record of {to_hex(transcript)[:18]}…", found=f"refusals {sorted(set(refused))}"
        )
