"""An agent's log as its owner reads it: opened here, in order, and what is missing is said (spec/owner.md 4).

Whoever keeps the pages is not trusted: each is signed by its worker and names the one before. ``LogReader`` takes pages
in any order of arrival within a boot's numbers and gives lines and gaps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cloister.client.wallet import Wallet
from cloister.core.encoding.contexts import Context, frame
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import SealError, define
from cloister.core.keys.hpke import private_key
from cloister.core.keys.ownerlog import LAST, Page, open_page, parse_page

MAX_NAMES: Final = 4096

FORKED = define(
    "client.log_forked",
    SealError,
    check="the pages of one worker's log are one chain, and end where the worker says",
    remedy="a worker wrote two logs, or whoever keeps them mixed them: trust none of its lines, and report the worker",
    status=502,
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line. ``ms``: its host's clock; ``number``: its place among the lines of this boot of the worker."""

    ms: int
    level: str
    text: str
    worker: bytes
    boot: bytes
    number: int

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        place = {"worker": to_hex(self.worker), "boot": to_hex(self.boot), "line": self.number}
        return {"ms": self.ms, "level": self.level, "text": self.text, **place}


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that is not there. ``what``: a sentence; ``lost``: somebody took it away, or it never was kept."""

    ms: int
    what: str
    worker: bytes
    boot: bytes
    lost: bool = True

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "ms": self.ms,
            "gap": self.what,
            "lost": self.lost,
            "worker": to_hex(self.worker),
            "boot": to_hex(self.boot),
        }


Event = Line | Gap


@dataclass(slots=True)
class _Boot:
    """What is known of one boot. ``names``: of pages by number; ``next``: the page that comes; ``line``: the line."""

    worker: bytes
    next: int = 0
    line: int = 0
    ms: int = 0
    ended: bool = False
    told: int = 0
    names: dict[int, bytes] = field(default_factory=dict)


def log_key(wallet: Wallet, network: bytes, agent: bytes) -> X25519PrivateKey:
    """The X25519 key that opens an agent's log: of the owner's wallet, for one network and agent (spec/owner.md 1)."""
    info = frame(Context.OWNER_LOG_KEY, network, agent)
    return private_key(HKDF(SHA256(), 32, salt=None, info=info).derive(wallet.key.secret))


class LogReader:
    """Reads one agent's log with the owner's key."""

    def __init__(self, network: bytes, agent: bytes, key: X25519PrivateKey) -> None:
        self._network, self._agent, self._key = network, agent, key
        self._public = key.public_key().public_bytes_raw()
        self._boots: dict[bytes, _Boot] = {}

    def have(self) -> dict[str, int]:
        """What a worker need not send again."""
        return {to_hex(name): boot.next for name, boot in self._boots.items()}

    def workers(self) -> set[bytes]:
        """Who signed what was read: 20 bytes each."""
        return {boot.worker for boot in self._boots.values()}

    def take(self, data: bytes) -> list[Event]:
        """The lines of a page, and what is missing before it; nothing for a page that was read.

        1. signed by the worker that it names; 2. one worker per boot; 3. one page per number; 4. it follows the last;
        5. lines that the worker did not keep; 6. opened, if it is sealed to this key.
        Raises SealError (seal.log_page, client.log_forked)."""
        page, name = parse_page(data, self._network, self._agent)  # 1
        boot = self._boots.get(page.boot)
        fresh = boot is None
        if boot is None:
            boot = self._boots[page.boot] = _Boot(page.worker)
        if boot.worker != page.worker:  # 2
            raise FORKED(expected=f"worker {to_hex(boot.worker)}", found=to_hex(page.worker))
        if page.number < boot.next:  # 3
            if boot.names.get(page.number, name) != name:
                raise FORKED(expected=f"one page {page.number} of a boot", found="two")
            return []
        events = self._before(boot, page, fresh)  # 4, 5
        boot.names = {**dict(list(boot.names.items())[1 - MAX_NAMES :]), page.number: name}
        boot.next, boot.line = page.number + 1, page.first + page.lines
        boot.ended, boot.told = bool(page.flags & LAST), 0
        return events + self._opened(boot, page)  # 6

    def close(self, boot: bytes, worker: bytes, count: int, head: bytes) -> list[Event]:
        """Hold a boot against its worker's own word, which came under the seal. Raises SealError (client.log_forked).

        ``count`` pages and ``head``, the name of the last, were stored before it answered."""
        seen = self._boots.get(boot) or _Boot(worker)
        if seen.worker != worker or (count and seen.names.get(count - 1, head) != head):
            raise FORKED(expected="the log that its worker wrote", found="another")
        if count <= max(seen.next, seen.told):
            return []
        seen.told = count
        self._boots.setdefault(boot, seen)
        return [Gap(seen.ms, f"the last {count - seen.next} pages are missing from the store", worker, boot)]

    def unfinished(self, live: set[bytes]) -> list[Event]:
        """Boots that are over, as far as anybody knows, without their last word: more may have been said."""
        found: list[Event] = []
        for name, boot in self._boots.items():
            if name not in live and not boot.ended and not boot.told:
                boot.told = 1
                what = "no last word of this worker: later lines may be missing"
                found.append(Gap(boot.ms, what, boot.worker, name))
        return found

    def _before(self, boot: _Boot, page: Page, fresh: bool) -> list[Event]:
        def gap(what: str, lost: bool) -> Gap:
            return Gap(page.host_ms, what, page.worker, page.boot, lost)

        if page.number == boot.next:
            before = boot.names.get(page.number - 1, page.previous) if page.number else bytes(32)
            if page.previous != before or page.first < boot.line:
                raise FORKED(expected="a page that follows the one before", found="another")
            unkept = page.first - boot.line
            return [gap(f"{unkept} lines were not kept by the worker", False)] if unkept else []
        if fresh:
            return [gap(f"{page.number} older pages are kept no more", False)]
        if page.first < boot.line:
            raise FORKED(expected=f"lines from {boot.line} on", found=str(page.first))
        return [gap(f"{page.number - boot.next} pages are missing from the store", True)]

    def _opened(self, boot: _Boot, page: Page) -> list[Event]:
        if page.key != self._public:
            boot.ms = max(boot.ms, page.host_ms)
            what = f"{page.lines} lines are sealed to another key"
            return [Gap(boot.ms, what, page.worker, page.boot, False)] if page.lines else []
        events: list[Event] = []
        for at, (ms, level, text) in enumerate(open_page(page, self._key, self._network, self._agent)):
            boot.ms = max(boot.ms, ms)
            events.append(Line(boot.ms, level, text, page.worker, page.boot, page.first + at))
        return events
