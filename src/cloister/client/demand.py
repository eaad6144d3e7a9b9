"""What a caller may demand of an agent and its workers. Checked here, against proven state, before anything is sealed.

By default an agent whose owner may swap its code at once is refused: such an owner can read what is sent tomorrow.
It is accepted if the caller pins the code, is the owner, or says that it is acceptable (``upgrade_not_instant=False``).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cloister.core.chainview.records import AgentRecord, UpgradeMode
from cloister.core.encoding.hexes import need_bytes, to_hex
from cloister.core.envelope.certificate import XWING_SUITE
from cloister.core.errors import PolicyError, define

if TYPE_CHECKING:
    from cloister.client.resolve import Resolution, Sitting

INSTANT = define(
    "client.demand_upgrade",
    PolicyError,
    check="the agent's owner cannot swap its code at once",
    remedy="pin the code with code_hash, or accept it: upgrade_not_instant=False, `cloister call --allow-instant`",
    status=403,
)
OTHER_CODE = define(
    "client.demand_code",
    PolicyError,
    check="the agent runs the code that the caller pinned",
    remedy="look at what changed before you pin the new hash",
    status=403,
)
TOO_SOON = define(
    "client.demand_delay",
    PolicyError,
    check="a change of the agent's code waits at least as many blocks as the caller asks for",
    remedy="ask its owner for a longer delay, which cannot be shortened again, or pin the code with code_hash",
    status=403,
)
NO_CANARY = define(
    "client.no_canary_seat",
    PolicyError,
    check="a worker runs the canary that the caller pinned",
    remedy="wait for the block from which it may run, and for the lease after it, or call the version in force",
    status=503,
)
NO_SUCH_WORKER = define(
    "client.demand_worker",
    PolicyError,
    check="a worker that the caller accepts holds the agent",
    remedy="see `cloister agent show` for the workers that hold it, and ask for less or wait",
    status=403,
)


CLASSIC_ONLY = define(
    "client.demand_post_quantum",
    PolicyError,
    check="a worker that holds the agent has an X-Wing key",
    remedy="wait until workers are updated, or accept X25519 alone: post_quantum=False",
    status=403,
)


@dataclass(frozen=True, slots=True)
class Demand:
    """Empty fields demand nothing. ``code_hash``, ``manifest_hash``: 32 bytes. ``vendor``: vendor class such as
    "intel". ``worker``: 20-byte address. ``upgrade_not_instant``: refuse the upgrade rule `instant`.
    ``min_upgrade_blocks``: refuse code that can change on a shorter notice, the owner's own calls too; `frozen` always
    passes. ``evidence``: ask each worker for fresh evidence over this client's nonce, and appraise it here, before the
    first request to a boot. ``post_quantum``: seal by X-Wing or not at all (spec/sealed-http.md 14). Without it too,
    sessions use X-Wing with every worker that has a key for it.
    """

    code_hash: bytes | None = None
    manifest_hash: bytes | None = None
    vendor: str | None = None
    worker: bytes | None = None
    upgrade_not_instant: bool = True
    min_upgrade_blocks: int = 0
    evidence: bool = False
    post_quantum: bool = False

    def __post_init__(self) -> None:
        for name, size in (("code_hash", 32), ("manifest_hash", 32), ("worker", 20)):
            if getattr(self, name) is not None:
                need_bytes(name, getattr(self, name), size)

    def check_record(self, record: AgentRecord, caller: bytes | None) -> None:
        """Raise PolicyError unless the agent itself meets the demand. ``caller``: 20-byte address or None."""
        for name in () if self.means_canary(record) else ("code_hash", "manifest_hash"):
            wanted, found = getattr(self, name), getattr(record, name)
            if wanted is not None and wanted != found:
                raise OTHER_CODE(expected=f"{name} {to_hex(wanted)}", found=to_hex(found))
        notice = record.upgrade_delay if record.upgrade_mode is UpgradeMode.DELAYED else 0
        if record.upgrade_mode is not UpgradeMode.FROZEN and notice < self.min_upgrade_blocks:
            raise TOO_SOON(expected=f"at least {self.min_upgrade_blocks} blocks, or `frozen`", found=f"{notice} blocks")
        instant = record.upgrade_mode is UpgradeMode.INSTANT
        if instant and self.upgrade_not_instant and self.code_hash is None and caller != record.owner:
            raise INSTANT(expected="the upgrade rule `delay` or `frozen`", found="`instant`")

    @property
    def pins(self) -> bool:
        """Whether it names one version of the agent."""
        return self.code_hash is not None or self.manifest_hash is not None

    def means_canary(self, record: AgentRecord) -> bool:
        """Whether the version that it pins is the agent's canary, announced or running."""
        beside = record.canary
        if beside is None or self._fits(record.code_hash, record.manifest_hash):
            return False
        return self._fits(beside.code_hash, beside.manifest_hash)

    def _fits(self, code: bytes, manifest: bytes) -> bool:
        return self.code_hash in (None, code) and self.manifest_hash in (None, manifest)

    def accepts(self, sitting: Sitting) -> bool:
        """Whether a seat's worker meets the demand."""
        if self.post_quantum and not _hybrid(sitting):
            return False
        if self.vendor is not None and sitting.vendor != self.vendor:
            return False
        return self.worker is None or sitting.worker.worker == self.worker

    def apply(self, resolution: Resolution, caller: bytes | None) -> Resolution:
        """The resolution with the seats that meet the demand. Raises PolicyError where none does."""
        self.check_record(resolution.record, caller)
        if self.pins:
            resolution = self._pinned(resolution)
        kept = resolution.narrowed(self.accepts)
        if not kept:
            found = ", ".join(f"{s.vendor} {to_hex(s.worker.worker)}" for s in resolution.sittings)
            if self.post_quantum and not resolution.narrowed(_hybrid):
                raise CLASSIC_ONLY(expected=f"a certificate of suite {XWING_SUITE}", found="suite 1 everywhere")
            wanted = " ".join(filter(None, (self.vendor, to_hex(self.worker) if self.worker else None)))
            raise NO_SUCH_WORKER(expected=wanted, found=found)
        return replace(resolution, sittings=kept, canaries=tuple(s for s in resolution.canaries if self.accepts(s)))

    def _pinned(self, resolution: Resolution) -> Resolution:
        """The seats of the version that is pinned, and no other. Raises client.no_canary_seat."""
        if not self.means_canary(resolution.record):
            return replace(resolution, canaries=())
        found = resolution.beside()
        if not found:
            ready = resolution.record.canary.ready_at if resolution.record.canary else 0
            said = f"none at block {resolution.checkpoint.number}; it may run from block {ready}"
            raise NO_CANARY(expected="a seat of the canary", found=said)
        return replace(resolution, sittings=found, canaries=())


def _hybrid(sitting: Sitting) -> bool:
    return sitting.seat.certificate.suite == XWING_SUITE
