"""Master public keys that a worker checks derived keys with, by epoch (spec/gatekeepers.md M2; spec/epochs.md 13).

Key, transcript and term of an epoch are proven at the newest checkpoint. The members' share keys, which serve to name a
member that answers wrong, are what t members say alike: a derived key is believed for its fit to the proven MPK alone.
"""

from __future__ import annotations

from typing import Final

from cloister.core.chainview.epochs import EpochRecord, EpochState
from cloister.core.encoding.network import Network
from cloister.core.errors import ChainViewError, define
from cloister.core.threshold.shares import PublicShares
from cloister.wire.terms import LiveCommittee
from cloister.worker.chainwatch import ChainWatch

_KEPT: Final = 4

NO_EPOCH = define(
    "worker.master_epoch",
    ChainViewError,
    check="a key's master epoch is confirmed on chain and not destroyed",
    remedy="none needed: the worker asks again at the next checkpoint; what a destroyed epoch sealed opens no more",
    status=503,
)


class MasterKeys:
    """Public shares by master epoch, each of the term that holds them now."""

    def __init__(self, network: Network, watch: ChainWatch, committee: LiveCommittee) -> None:
        self._watch, self._committee = watch, committee
        term = network.founding.term
        self._known = {network.master_epoch: PublicShares(network.mpk, network.share_keys, network.transcript, term)}

    async def of(self, epoch: int) -> PublicShares:
        """The public shares of an epoch. Raises worker.master_epoch, ChainViewError, ChainError, gatekeeper.too_few.

        1. the epoch stands, by proof; 2. no hand-over named another key of it; 3. those of its ceremony: as known, or
        as t members say alike."""
        record = await self._watch.state().epoch_record(epoch)
        if record.state in (EpochState.NONE, EpochState.DESTROYED):  # 1
            raise NO_EPOCH(expected=f"master epoch {epoch} in use", found=record.state.name.lower())
        self._committee.terms.require_key(epoch, record.mpk)  # 2
        known = self._known.get(epoch)
        if known is None or not _of(known, record):  # 3
            size = len(self._committee.now.signers.members)
            known = await self._committee.now.share_keys(
                epoch, lambda found: _of(found, record) and len(found.share_keys) == size
            )
            self._known[epoch] = known
            for old in sorted(self._known)[:-_KEPT]:
                del self._known[old]
        return known


def _of(shares: PublicShares, record: EpochRecord) -> bool:
    return (shares.mpk, shares.transcript, shares.term) == (record.mpk, record.transcript, record.term)
