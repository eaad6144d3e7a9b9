"""GET /v1/status: what this member is about, in words. Nothing in it is secret, and nothing rests on it."""

from __future__ import annotations

from typing import Any

from cloister.core.chainview.ceremonies import Ending
from cloister.core.chainview.header import Header
from cloister.core.encoding.hexes import to_hex
from cloister.core.threshold.facts import Fault
from cloister.core.threshold.phases import Phase, late_viewers, waiting_openings
from cloister.gatekeeper.ceremonies import Ceremonies, Run
from cloister.gatekeeper.office import Shares
from cloister.wire.messages import Info

WORDS = {
    Phase.COMMIT: "dealers put digests of their dealings on chain",
    Phase.SHOW: "dealings go to the receivers, who check them",
    Phase.PUBLISH: "accused dealers publish their dealings",
    Phase.OBJECT: "receivers look at dealings that they see only now",
    Phase.ANSWER: "accused dealers open the shares that were called bad",
    Phase.CONFIRM: "receivers store their shares and confirm",
    Phase.DONE: "enough receivers confirmed the same",
    Phase.FAILED: "nothing changed: no share, no key, no seat",
}


def status_of(info: Info, ceremonies: Ceremonies, shares: Shares, head: Header | None) -> dict[str, Any]:
    """JSON-ready. ``ceremony`` is null before the first one, and where we have no seat in the newest."""
    run = ceremonies.newest
    return {
        "member": to_hex(info.member),
        "term": info.term,
        "index": info.index,
        "doing": _doing(info, run),
        "block": 0 if head is None else head.number,
        "shares": [{"master_epoch": epoch, "term": term} for epoch, term in shares.held()],
        "ceremony": None if run is None else _ceremony(run),
    }


def _doing(info: Info, run: Run | None) -> str:
    office = f"in office in term {info.term}, seat {info.index}" if info.index else "not in office"
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
        "means": WORDS[phase],
        "until_block": None if phase in (Phase.DONE, Phase.FAILED) else view.deadlines.of(phase),
        "missing": _missing(run, phase),
        "trouble": trouble,
    }


def _missing(run: Run, phase: Phase) -> list[str]:
    """Who is waited for, in words."""
    facts, dealers, receivers = run.facts, range(1, run.ceremony.dealers + 1), range(1, len(run.ceremony.members) + 1)
    accused = {dealer for dealer, _ in facts.complaints}
    bad = sum(fault is Fault.BAD_SHARE for fault in facts.complaints.values())
    waiting: dict[Phase, list[str]] = {
        Phase.COMMIT: [f"the digest of dealer {i}" for i in dealers if i not in facts.committed],
        Phase.SHOW: [f"the word of receiver {j}" for j in receivers if j not in facts.content],
        Phase.PUBLISH: [f"the dealing of dealer {i}" for i in sorted(accused - facts.published)],
        Phase.OBJECT: [f"the word of receiver {j}" for j in sorted(late_viewers(facts))],
        Phase.ANSWER: [f"the share of receiver {j} from dealer {i}" for i, j in sorted(waiting_openings(facts))],
        Phase.CONFIRM: [f"the confirmation of receiver {j}" for j in receivers if j not in facts.confirmed],
    }
    return waiting.get(phase, []) + ([f"{bad} shares were called bad"] if bad and phase is Phase.ANSWER else [])
