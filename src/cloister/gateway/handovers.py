"""Hand-overs from term to term, passed on to callers: they count by the signatures in them, not by who serves them."""

from __future__ import annotations

import contextlib

from cloister.core.errors import CloisterError
from cloister.wire.messages import dump_json
from cloister.wire.terms import LiveCommittee


class Handovers:
    """``GET /v1/handovers``: those that lead from the gateway's network file to the term in office, as far as it knows.

    It follows them itself, so nothing that too few signed fills its answer: whoever reads it verifies all again."""

    def __init__(self, committee: LiveCommittee) -> None:
        self._committee = committee
        self._count, self._text = -1, b""

    async def answer(self) -> bytes:
        """{handovers, signing} as JSON text, in order of term. What was known is served while nobody answers."""
        with contextlib.suppress(CloisterError):
            await self._committee.look()
        told = self._committee.terms.told
        if len(told) != self._count:
            self._count = len(told)
            self._text = dump_json({"handovers": [one.to_json() for one in told], "signing": []})
        return self._text
