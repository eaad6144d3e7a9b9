"""Oblivious calls at this worker: its keys for them, made when somebody asks, and what comes (spec/ohttp.md).

A key lives as long as the lease that it belongs to, in the same object; so what ends a lease ends it.
"""

from __future__ import annotations

import json

from cloister.core.encoding.identity import Purpose
from cloister.core.envelope.oblivious import issue
from cloister.core.envelope.oblivious_door import ObliviousDoor
from cloister.core.envelope.server import OpenRequest
from cloister.worker.leases import NodeIdentity, Rng
from cloister.worker.placed import Placed


class ObliviousCalls:
    """One worker boot's."""

    def __init__(self, node: NodeIdentity, rng: Rng) -> None:
        self._node, self._rng = node, rng
        self._door = ObliviousDoor(rng)

    def keys(self, placed: Placed) -> bytes:
        """{keys: [ObliviousKey]} as JSON text: of the newest lease of each version of the agent."""
        made = []
        for one in placed.versions():
            keys = one.keys
            if not keys.oblivious:
                certificate = keys.seat.certificate
                call = keys.key(Purpose.CALL, certificate.period)
                keys.oblivious.extend(issue(certificate, call, keys.mpk, self._node.sign, self._rng))
            made += [shown.to_json() for shown, _ in keys.oblivious]
        return json.dumps({"keys": made}).encode()

    def open(self, placed: Placed, data: bytes, now_ms: int, *, chunked: bool = False) -> OpenRequest:
        """Open one request for an agent, by the keys of its leases that count now. ``now_ms``: Unix time; ``chunked``:
        its answer goes out in chunks, as it is made.

        Raises EnvelopeError by name."""
        held = (keys for one in placed.versions() for keys in (one.keys, one.older) if keys is not None)
        known = [(keys.seat.certificate, key) for keys in held for _, key in keys.oblivious]
        return self._door.open_request(data, now_ms, known, chunked=chunked)
