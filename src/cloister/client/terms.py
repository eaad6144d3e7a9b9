"""The terms that a client knows of its pinned network, remembered from one run to the next (spec/gatekeepers.md H3).

What is remembered binds: once this home has seen a term in office, no older one speaks for the network any more, and a
home that was away for longer than a term may last must pin anew. The first use counts the pin as known in office now.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Final

from cloister.client.home import Home
from cloister.core.chainview.terms import SignedHandover, Terms, follow, pinned
from cloister.core.encoding import jcs
from cloister.core.encoding.hexes import need_fields, need_uint
from cloister.core.encoding.network import Network
from cloister.core.errors import CloisterError, ConfigError, define
from cloister.wire.terms import Fetch, TermWalk

FOLDER: Final = "terms"
MAX_FILE: Final = 8 << 20
DAY_S: Final = 24 * 3600
_EVER: Final = 1 << 53

BAD_MEMORY = define(
    "client.terms",
    ConfigError,
    check="the hand-overs that this client remembers lead on from its pinned network",
    remedy="remove the file that is named, and pin the network anew from its operators",
)


def walk_of(network: Network, fetch: Fetch, clock: Callable[[], float], home: Home | None = None) -> TermWalk:
    """A walk from what this home remembers, else from the pin. Raises ConfigError (client.terms)."""
    if home is None:
        return TermWalk(pinned(network, int(clock())), fetch, clock)
    terms = remembered(network, home, int(clock()))
    return TermWalk(terms, fetch, clock, keep=_Keeper(network, home).keep)


def remembered(network: Network, home: Home, now: int) -> Terms:
    """The terms that this home knows; the pinned one alone, as known in office ``now``, if it knows none.

    Each hand-over is verified again. Raises ConfigError (client.terms)."""
    data = home.read(FOLDER, _name(network))
    if data is None:
        return pinned(network, now)
    try:
        value = need_fields("terms", jcs.decode(data, max_size=MAX_FILE), {"version", "seen", "handovers"})
        seen, items = need_uint("seen", value["seen"], 53), value["handovers"]
        told = [SignedHandover.from_json(item) for item in (items if isinstance(items, list) else [])]
        found = follow(pinned(network, seen), told, seen, _EVER)
    except CloisterError as error:
        where = home.file(FOLDER, _name(network))
        raise BAD_MEMORY(expected=f"hand-overs in {where}", found=f"{error.code}: {error.found}") from None
    if len(found.told) != len(told) or value["version"] != 1:
        raise BAD_MEMORY(expected=f"{len(told)} hand-overs in a row", found=f"{len(found.told)} that lead on")
    return found.seen(seen)


def remember(network: Network, home: Home, terms: Terms) -> None:
    """Write them down. Raises ConfigError (client.file)."""
    told = [one.to_json() for one in terms.told]
    home.write(FOLDER, _name(network), jcs.encode({"version": 1, "seen": terms.in_office.seen, "handovers": told}))


class _Keeper:
    """Writes when a term was added, and once a day. A home that cannot be written remembers nothing."""

    def __init__(self, network: Network, home: Home) -> None:
        self._network, self._home = network, home
        self._written = (-1, 0)

    def keep(self, terms: Terms) -> None:
        """Remember these terms."""
        count, seen = self._written
        if len(terms.told) == count and terms.in_office.seen < seen + DAY_S:
            return
        self._written = (len(terms.told), terms.in_office.seen)
        with contextlib.suppress(ConfigError):
            remember(self._network, self._home, terms)


def _name(network: Network) -> str:
    return f"{network.fingerprint()[:32]}.json"
