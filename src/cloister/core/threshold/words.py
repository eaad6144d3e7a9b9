"""A ceremony in words, for people: what a phase means, and who is waited for (spec/gatekeepers.md, phases)."""

from __future__ import annotations

from typing import Final

from cloister.core.threshold.facts import Facts, Fault
from cloister.core.threshold.phases import Phase, late_viewers, waiting_openings

MEANS: Final = {
    Phase.COMMIT: "dealers put digests of their dealings on chain",
    Phase.SHOW: "dealings go to the receivers, who check them",
    Phase.PUBLISH: "accused dealers publish their dealings",
    Phase.OBJECT: "receivers look at dealings that they see only now",
    Phase.ANSWER: "accused dealers open the shares that were called bad",
    Phase.CONFIRM: "receivers store their shares and confirm",
    Phase.DONE: "enough receivers confirmed the same",
    Phase.FAILED: "nothing changed: no share, no key, no seat",
}


def missing(dealers: int, receivers: int, facts: Facts, phase: Phase) -> list[str]:
    """Who is waited for, one line each. ``dealers`` and ``receivers``: how many there are; they count from 1."""
    all_dealers, all_receivers = range(1, dealers + 1), range(1, receivers + 1)
    accused = {dealer for dealer, _ in facts.complaints}
    bad = sum(fault is Fault.BAD_SHARE for fault in facts.complaints.values())
    waiting: dict[Phase, list[str]] = {
        Phase.COMMIT: [f"the digest of dealer {i}" for i in all_dealers if i not in facts.committed],
        Phase.SHOW: [f"the word of receiver {j}" for j in all_receivers if j not in facts.content],
        Phase.PUBLISH: [f"the dealing of dealer {i}" for i in sorted(accused - facts.published)],
        Phase.OBJECT: [f"the word of receiver {j}" for j in sorted(late_viewers(facts))],
        Phase.ANSWER: [f"the share of receiver {j} from dealer {i}" for i, j in sorted(waiting_openings(facts))],
        Phase.CONFIRM: [f"the confirmation of receiver {j}" for j in all_receivers if j not in facts.confirmed],
    }
    return waiting.get(phase, []) + ([f"{bad} shares were called bad"] if bad and phase is Phase.ANSWER else [])
