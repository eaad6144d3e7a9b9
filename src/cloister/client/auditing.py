"""Reading a gatekeeper's audit log from a copy: does its chain hold, whom did the member answer what, and which owners
have credentials to replace when a worker was removed for cause (spec/epochs.md 10)?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cloister.core.encoding.audit import BROKEN_LOG, MAX_LINE, read_line
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.errors import CloisterError, ConfigError, define

if TYPE_CHECKING:
    from cloister.client.client import Client
    from cloister.core.chainview.records import AgentRecord

MAX_NAMES: Final = 1 << 16
_OTHERS = "others"

NO_LOG = define(
    "client.audit_file",
    ConfigError,
    check="the audit log is a file that can be read",
    remedy="name a copy of the member's audit.log",
)
CUT = define(
    "client.audit_cut",
    ConfigError,
    check="the audit log holds the hash that was noted earlier",
    remedy="its end was cut off, or it was written anew, or it is another member's: keep both, and ask the operator",
)


@dataclass(slots=True)
class Audit:
    """``lines``: good ones; ``head``: hash of the last (32 bytes). ``noted``: whether the wanted hash came by.

    ``answers``: how often, by what, worker, agent, outcome. ``bad``: why the first bad line is none; it is line number
    ``lines + 1``. ``torn``: the last line has no end, as a crash leaves it. ``leased``: the newest agent epoch that the
    member released keys of, by worker and agent (texts)."""

    lines: int = 0
    head: bytes = bytes(32)
    answers: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    bad: CloisterError | None = None
    torn: bool = False
    noted: bool = False
    leased: dict[tuple[str, str], int] = field(default_factory=dict)

    def rows(self) -> list[dict[str, Any]]:
        """Answers as rows, by worker and agent."""
        found = sorted(self.answers.items(), key=lambda one: (one[0][1], one[0][2], one[0][0], one[0][3]))
        return [
            {"what": what, "worker": worker, "agent": agent, "outcome": outcome, "times": times}
            for (what, worker, agent, outcome), times in found
        ]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "ok": self.bad is None,
            "lines": self.lines,
            "head": to_hex(self.head),
            "torn": self.torn,
            "first_bad_line": None if self.bad is None else self.lines + 1,
            "answers": self.rows(),
        }

    def require(self, noted: bytes | None = None) -> None:
        """Raise ConfigError: gatekeeper.audit for a bad line, client.audit_cut if ``noted`` (32 bytes) is not in it."""
        if self.bad is not None:
            raise BROKEN_LOG(expected=self.bad.expected, found=f"{self.bad.found}: line {self.lines + 1} of the file")
        if noted is not None and not self.noted:
            raise CUT(expected=to_hex(noted), found=f"{self.lines} lines without it")


def read_audit(path: Path, noted: bytes | None = None) -> Audit:
    """Read a log up to its first bad line. ``noted``: a hash to look for. Raises ConfigError (client.audit_file)."""
    audit = Audit()
    try:
        with path.open("rb") as file:
            while audit.bad is None and (line := file.readline(MAX_LINE + 2)):
                _take(audit, line, noted)
    except OSError as error:
        raise NO_LOG(expected=f"to read {path.name}", found=error.strerror or "an error") from None
    return audit


async def exposed(client: Client, audit: Audit, worker: bytes) -> list[dict[str, Any]]:
    """What a worker (20-byte address) could read by keys of this member, by owner: JSON-ready. Raises CloisterError.

    ``credentials``: none (no secrets are set), replace (it could read those that stand on chain now) or replaced (set
    under a later agent epoch than its leases). Owners and secrets are proven; the leases are the log's word."""
    found = [(agent, epoch) for (who, agent), epoch in audit.leased.items() if who == to_hex(worker)]
    rows = [_exposure(await client.resolver.record(from_hex(agent, 32, name="agent")), epoch) for agent, epoch in found]
    return sorted(rows, key=lambda row: (row["owner"], row["token_id"]))


def _exposure(record: AgentRecord, epoch: int) -> dict[str, Any]:
    said = "none"
    if record.secrets_at is not None:
        said = "replace" if record.secrets_epoch <= epoch else "replaced"
    who = {"owner": to_hex(record.owner), "token_id": record.token_id, "agent": to_hex(record.agent)}
    return {**who, "leased_epoch": epoch, "epoch": record.epoch, "credentials": said}


def _take(audit: Audit, line: bytes, noted: bytes | None) -> None:
    whole = line.endswith(b"\n")
    if not whole and len(line) <= MAX_LINE:
        audit.torn = True
        return
    try:
        body, audit.head = read_line(line[:-1], audit.lines, audit.head)
    except CloisterError as error:
        audit.bad = error
        return
    audit.lines += 1
    audit.noted = audit.noted or audit.head == noted
    outcome = _name(body, "outcome") or "answered"
    key = (_name(body, "what"), _name(body, "worker"), _name(body, "agent"), outcome)
    if key not in audit.answers and len(audit.answers) >= MAX_NAMES:
        key = (key[0], _OTHERS, _OTHERS, outcome)
    audit.answers[key] += 1
    pair, epoch = (_name(body, "worker"), _name(body, "agent")), _name(body, "epoch")
    fits = pair in audit.leased or len(audit.leased) < MAX_NAMES
    if (key[0], outcome) == ("keys", "granted") and epoch.isdecimal() and len(epoch) <= 20 and fits:
        audit.leased[pair] = max(int(epoch), audit.leased.get(pair, 0))


def _name(body: dict[str, Any], field_name: str) -> str:
    """A short text of a line; addresses alike with 0x."""
    value = body.get(field_name)
    text = value[:80] if isinstance(value, str) else ""
    bare = field_name in ("worker", "agent") and text and not text.startswith("0x")
    return f"0x{text}" if bare else text
