"""Which workers are connected, and which seats they offer. Nothing here is verified: whoever reads it does that."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import TransportError, define
from cloister.node import logs
from cloister.wire.announce import BAD_ANNOUNCEMENT, Announcement
from cloister.wire.frames import Connection

NO_WORKER = define(
    "gateway.no_worker",
    TransportError,
    check="the worker that the request names is connected to this gateway",
    remedy="fetch the agent's seats again and seal to a worker that runs now",
    status=503,
)

_log = logs.get("gateway.workers")


@dataclass(frozen=True, slots=True)
class Linked:
    """A connected worker. ``seats``: agent -> its seats as JSON text."""

    connection: Connection
    worker: bytes
    boot: bytes
    seats: dict[bytes, tuple[bytes, ...]]


class Workers:
    """The table of connected workers. One connection is one worker boot; its newest announcement counts."""

    def __init__(self) -> None:
        self._by_boot: dict[bytes, Linked] = {}
        self._by_connection: dict[Connection, bytes] = {}
        self._coming: dict[Connection, Announcement] = {}

    def announced(self, connection: Connection, data: bytes) -> None:
        """Take an announcement. Raises CloisterError for a malformed one: the connection then offers what it did."""
        said = self._whole(connection, Announcement.decode(data))
        if said is None:
            return
        seats: dict[bytes, tuple[bytes, ...]] = {}
        for seat in said.seats:
            text = json.dumps(seat.to_json(), separators=(",", ":")).encode()
            seats[seat.certificate.agent] = (*seats.get(seat.certificate.agent, ()), text)
        before = self._by_connection.get(connection)
        if before is not None and before != said.boot:
            self._forget(connection)
        if before != said.boot:
            _log.info("worker connected", worker=to_hex(said.worker), boot=to_hex(said.boot)[:18])
        self._by_connection[connection] = said.boot
        self._by_boot[said.boot] = Linked(connection, said.worker, said.boot, seats)

    def _whole(self, connection: Connection, said: Announcement) -> Announcement | None:
        """All pages of an announcement, once the last one came. What was offered before stands until then.

        Raises wire.announcement for a page that does not follow the one before: the pages so far are forgotten."""
        coming = self._coming.pop(connection, None) if said.page else None
        if said.page and (coming is None or (coming.boot, coming.worker) != (said.boot, said.worker)):
            raise BAD_ANNOUNCEMENT(expected="a first page", found=f"page {said.page}")
        if coming is not None and (coming.page + 1, coming.pages) != (said.page, said.pages):
            raise BAD_ANNOUNCEMENT(expected=f"page {coming.page + 1} of {coming.pages}", found=f"page {said.page}")
        whole = said if coming is None else replace(said, seats=(*coming.seats, *said.seats))
        if said.page + 1 == said.pages:
            return whole
        self._coming[connection] = whole
        return None

    def lost(self, connection: Connection) -> None:
        """The connection is gone."""
        self._coming.pop(connection, None)
        boot = self._forget(connection)
        if boot is not None:
            _log.info("worker gone", boot=to_hex(boot)[:18])

    def by_boot(self, boot: bytes) -> Linked:
        """The worker of this boot. Raises TransportError (gateway.no_worker)."""
        linked = self._by_boot.get(boot)
        if linked is None or linked.connection.closed:
            raise NO_WORKER(expected="a connected worker", found=f"boot {to_hex(boot)[:18]}")
        return linked

    def by_address(self, worker: bytes) -> Linked:
        """A connected boot of this worker. Raises TransportError (gateway.no_worker)."""
        for linked in self._by_boot.values():
            if linked.worker == worker and not linked.connection.closed:
                return linked
        raise NO_WORKER(expected="a connected worker", found=to_hex(worker))

    def all(self) -> list[Linked]:
        """Every connected worker."""
        return list(self._by_boot.values())

    def seats(self, agent: bytes) -> bytes:
        """{seats: […]} of an agent as JSON text."""
        found = [text for linked in self._by_boot.values() for text in linked.seats.get(agent, ())]
        return b'{"seats":[' + b",".join(found) + b"]}"

    def counts(self) -> dict[str, Any]:
        """Workers, agents and seats offered now."""
        agents = {agent for linked in self._by_boot.values() for agent in linked.seats}
        seats = sum(len(texts) for linked in self._by_boot.values() for texts in linked.seats.values())
        return {"workers": len(self._by_boot), "agents": len(agents), "seats": seats}

    def _forget(self, connection: Connection) -> bytes | None:
        boot = self._by_connection.pop(connection, None)
        linked = self._by_boot.get(boot) if boot is not None else None
        if linked is not None and linked.connection is connection:  # another connection may have taken this boot over
            del self._by_boot[linked.boot]
        return boot
