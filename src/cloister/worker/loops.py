"""How the worker's loops turn: a refusal is logged once and waits, ever longer; anything else ends the process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from cloister.core.errors import CloisterError
from cloister.node import logs

SLOWEST_S: Final = 8.0
_log = logs.get("loops")


async def keep_turning(
    name: str, turn: Callable[[], Awaitable[None]], wait: Callable[[float], Awaitable[None]], *, every_s: float
) -> None:
    """Run ``turn`` for ever. ``wait(seconds)`` may return early. After a refusal: twice the time, up to 8 s.

    Raises what ``turn`` raises beyond CloisterError: that is our mistake, and nobody should serve on it."""
    said, pause = "", every_s
    while True:
        try:
            await turn()
            said, pause = "", every_s
        except CloisterError as error:
            if error.code != said:
                _log.warning(f"{name} waits", **plain(error))
            said, pause = error.code, min(max(2 * pause, every_s), max(SLOWEST_S, every_s))
        await wait(pause)


class Troubles:
    """Logs each agent's refusal when it is a new one, and its end."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._said: dict[bytes, str] = {}

    def tell(self, now: Mapping[bytes, CloisterError], name: Callable[[bytes], str]) -> None:
        """Log what changed since the last time."""
        for agent, error in now.items():
            if self._said.get(agent) != error.code:
                _log.warning(self._what, agent=name(agent), **plain(error))
        for agent in set(self._said) - set(now):
            _log.info(f"{self._what}: over", agent=name(agent))
        self._said = {agent: error.code for agent, error in now.items()}


def plain(error: CloisterError) -> dict[str, str]:
    """A refusal as log fields."""
    return {"code": error.code, "expected": error.expected, "found": error.found}
