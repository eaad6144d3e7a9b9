"""May a member have the key of its own disk? (spec/gatekeepers.md D1-D5)

Pure. A member whose hardware has no sealing key seals its folder under a key that the others hold: the derived key of
(network, master epoch, term, member). Whoever opens a copy of an old folder asks for an old term, and is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import total_ordering

from cloister.core.attestation.model import Claims
from cloister.core.encoding.contexts import Context, frame
from cloister.core.encoding.hexes import need_bytes, need_uint, to_hex
from cloister.core.errors import PolicyError, define

NO_SEAT = define(
    "policy.disk_seat",
    PolicyError,
    check="who asks for a disk key sits in the committee, unrevoked, or receives in the ceremony that runs",
    remedy="a seat that is over has no disk: start with an empty folder and stand as a candidate",
    status=403,
)
OLD_DISK = define(
    "policy.disk_round",
    PolicyError,
    check="a disk key is of the newest term that the member took part in, or of the one that comes",
    remedy="this folder is an old copy: start the newest one, or stand anew; never put an old folder back",
    status=403,
)
OTHER_MACHINE = define(
    "policy.disk_machine",
    PolicyError,
    check="the member starts on the machine that members verified it on, and its evidence names the machine",
    remedy="start it where it ran before; on another machine stand as a new candidate, and let the old seat resign",
    status=403,
)


@total_ordering
@dataclass(frozen=True, slots=True)
class Round:
    """Under which key a folder is sealed: the term first, then the master epoch."""

    term: int
    epoch: int

    def __post_init__(self) -> None:
        need_uint("term", self.term, 64)
        need_uint("epoch", self.epoch, 64)

    def __lt__(self, other: Round) -> bool:
        return (self.term, self.epoch) < (other.term, other.epoch)


NEVER = Round(0, 0)


def disk_identity(network: bytes, one: Round, member: bytes) -> bytes:
    """The identity whose derived key opens a member's folder of one round: no identity of an agent begins like it."""
    numbers = (one.epoch.to_bytes(8, "big"), one.term.to_bytes(8, "big"))
    return frame(Context.DISK_KEY, need_bytes("network", network, 32), *numbers, need_bytes("member", member, 20))


def machine_of(claims: Claims) -> bytes:
    """What the evidence says of the one machine it comes from; empty where it names none.

    Nitro: the instance, without the enclave, which is another at every start. SEV-SNP: the chip. TDX: the platform."""
    name = claims.platform_id
    if claims.kind == "nitro":
        name = name.partition(b"-enc")[0]
    return name if any(name) else b""


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """What the decision rests on, at the answering member's newest block.

    asked: the round. term: in office. seats: members in office that are not revoked, and who receives in the ceremony
    that runs. confirmed: the newest term in office that the asker confirmed, 0 for none. answered: the newest round
    that was ever answered to it. known, shown: its machine as verified before, and in this evidence.
    """

    member: bytes
    asked: Round
    term: int
    seats: frozenset[bytes]
    confirmed: int
    answered: Round
    known: bytes | None
    shown: bytes


def may_open(facts: DiskFacts) -> None:
    """Raise PolicyError unless the partial may be given.

    1. a seat; 2. not before the newest term that the asker confirmed, nor before a round that was answered (D3); 3. not
    beyond the term that comes; 4. the same machine (D4).
    """
    if facts.member not in facts.seats:  # 1
        raise NO_SEAT(expected="a member in office", found=to_hex(facts.member))
    if facts.asked.term < facts.confirmed or facts.asked < facts.answered:  # 2
        least = max(facts.confirmed, facts.answered.term)
        raise OLD_DISK(expected=f"a disk of term {least} or later", found=f"one of term {facts.asked.term}")
    if facts.asked.term > facts.term + 1:  # 3
        raise OLD_DISK(expected=f"a disk of term {facts.term + 1} at most", found=f"one of term {facts.asked.term}")
    if not facts.shown or facts.known is None or facts.shown != facts.known:  # 4
        found = "no machine in its evidence" if not facts.shown else "another machine, or one never verified"
        raise OTHER_MACHINE(expected="the machine that was verified", found=found)
