"""GET /v1/status: what this member is about, in words. Nothing in it is secret, and nothing rests on it."""

from __future__ import annotations

from typing import Any

from cloister.core.chainview.ceremonies import Ending
from cloister.core.chainview.header import Header
from cloister.core.encoding.hexes import to_hex
from cloister.core.threshold.phases import Phase
from cloister.core.threshold.words import MEANS, missing
from cloister.gatekeeper.ceremonies import Ceremonies, Run
from cloister.gatekeeper.office import Shares
from cloister.wire.messages import Info


def status_of(
    info: Info, ceremonies: Ceremonies, shares: Shares, head: Header | None, statements: dict[str, Any]
) -> dict[str, Any]:
    """JSON-ready. ``ceremony`` is null before the first one, and where we have no seat in the newest. ``statements``:
    what this member signs, and how many agents the older master epoch still has."""
    run = ceremonies.newest
    return {
        "member": to_hex(info.member),
        "term": info.term,
        "index": info.index,
        "doing": _doing(info, run),
        "block": 0 if head is None else head.number,
        "shares": [{"master_epoch": epoch, "term": term} for epoch, term in shares.held()],
        "ceremony": None if run is None else _ceremony(run),
        "statements": statements,
    }


def _doing(info: Info, run: Run | None) -> str:
    office = f"in office in term {info.term}, seat {info.index}" if info.index else "not in office"
    if info.index and not info.ready:
        return f"halted in term {info.term}, seat {info.index}: a final block conflicts with one that it signed"
    if run is None or run.view.ending is not Ending.OPEN:
        return office
    return f"{office}; {run.view.kind.value} ceremony {run.view.number} runs"


def _ceremony(run: Run) -> dict[str, Any]:
    view, phase = run.view, run.seen or Phase.COMMIT
    trouble = None
    if run.trouble is not None:
        trouble = {"code": run.trouble.code, "found": run.trouble.found, "remedy": run.trouble.remedy}
    return {
        "number": view.number,
        "id": to_hex(view.id),
        "kind": view.kind.value,
        "term": view.term,
        "master_epoch": view.master_epoch,
        "phase": phase.value,
        "means": MEANS[phase],
        "until_block": None if phase in (Phase.DONE, Phase.FAILED) else view.deadlines.of(phase),
        "missing": missing(run.ceremony.dealers, len(run.ceremony.members), run.facts, phase),
        "trouble": trouble,
    }
