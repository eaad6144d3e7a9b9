"""Lines of a gatekeeper's audit log (spec/gatekeeper-api.md 9): each names the hash of the one before.

A line: JCS {"n", "prev", "what", ...}; hash = digest(AUDIT_LOG, line). Editing, reordering or leaving out a line shows.
Cutting off the end does not, unless somebody noted a later hash.
"""

from __future__ import annotations

from typing import Any, Final

from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context, digest
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError, ConfigError, define

MAX_LINE: Final = 4096

BROKEN_LOG = define(
    "gatekeeper.audit",
    ConfigError,
    check="every line of the audit log names the hash of the line before it",
    remedy="keep the file for an auditor; somebody changed it",
    status=500,
)


def read_line(line: bytes, count: int, head: bytes) -> tuple[dict[str, Any], bytes]:
    """The next line of a log (without newline) and its hash (32 bytes). ``count``: lines before it; ``head``: hash of
    the last one, zeros before the first. Raises ConfigError (gatekeeper.audit)."""
    try:
        body = jcs.decode(line, max_size=MAX_LINE)
    except CloisterError:
        body = None
    if not isinstance(body, dict) or body.get("n") != count or body.get("prev") != to_hex(head):
        raise BROKEN_LOG(expected=f"line {count} after {to_hex(head)[:18]}…", found="another line")
    return body, digest(Context.AUDIT_LOG, line)


def verify_line(line: bytes, count: int, head: bytes) -> tuple[int, bytes]:
    """Check the next line of a log; returns the new (count, head). Raises ConfigError (gatekeeper.audit)."""
    return count + 1, read_line(line, count, head)[1]
