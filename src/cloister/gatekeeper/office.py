"""This member's office: the committee it sits in, its seat, and its shares, one for each master epoch that lives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cloister.core.chainview.founding import SeatsRecord
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.signatures import SignerSet
from cloister.core.encoding.statements import Statement
from cloister.core.errors import PolicyError, define
from cloister.core.policy.release import CommitteeFacts
from cloister.core.threshold.shares import KeyShare
from cloister.gatekeeper.store import Store
from cloister.node.identity import NodeKeys

SHARE, NETWORK, BURIED = "share/", "network", "buried/"

NOT_IN_OFFICE = define(
    "gatekeeper.not_in_office",
    PolicyError,
    check="this gatekeeper sits in the confirmed committee",
    remedy="wait for the founding ceremony, or ask a member: `cloister status`",
    status=503,
)
OUT_OF_OFFICE = define(
    "gatekeeper.out_of_office",
    PolicyError,
    check="this gatekeeper holds the share of its seat in the committee in office",
    remedy="its folder is of another network or an older committee; it gets a share in the next resharing",
    status=503,
)
NO_SHARE = define(
    "gatekeeper.no_share",
    PolicyError,
    check="this gatekeeper holds a share of the master epoch that is asked for",
    remedy="the epoch is over, or this member was away when its key was made; ask the other members",
    status=409,
)


@dataclass(frozen=True, slots=True)
class Office:
    """A seat in the confirmed committee. ``network`` is the 32-byte network id, ``seed`` the term's placement seed.

    ``share``: of the newest master epoch. ``others``: shares of other epochs that live, by epoch (spec M3).
    """

    network: bytes
    term: int
    master_epoch: int
    signers: SignerSet
    seed: bytes
    share: KeyShare = field(repr=False)
    keys: NodeKeys
    others: Mapping[int, KeyShare] = field(default_factory=dict, repr=False)

    @property
    def address(self) -> bytes:
        """This member's 20-byte address."""
        return self.keys.address

    @property
    def index(self) -> int:
        """This member's seat, 1..n."""
        return self.signers.members.index(self.address) + 1

    def share_for(self, epoch: int) -> KeyShare:
        """The share of a master epoch. Raises PolicyError (gatekeeper.no_share)."""
        if epoch == self.master_epoch:
            return self.share
        if epoch not in self.others:
            raise NO_SHARE(expected=f"a share of master epoch {epoch}", found="none")
        return self.others[epoch]

    def sign(self, statement: Statement) -> bytes:
        """This member's signature over a statement, under the network id."""
        return self.keys.sign(statement.digest(self.network))

    def sign_digest(self, digest: bytes) -> bytes:
        """This member's signature over 32 bytes that are already a hash with a context."""
        return self.keys.sign(digest)

    def facts(self) -> CommitteeFacts:
        """What a release depends on."""
        return CommitteeFacts(self.network, self.term, self.seed, self.master_epoch)


class Shares:
    """This member's secret shares on disk, sealed: one blob for each master epoch and term (R3)."""

    def __init__(self, store: Store, keys: NodeKeys, rng: Callable[[int], bytes]) -> None:
        """Opens every share, so that a folder of another machine or member is named at once. Raises ConfigError."""
        self._store, self._keys, self._rng = store, keys, rng
        for name in store.names(SHARE):
            self._open(name)

    def put(self, epoch: int, share: KeyShare) -> None:
        """Seal a share durably. Does nothing if it is there, or if its master epoch was destroyed."""
        name = _name(epoch, share.public.term)
        if self._store.get(name) is None and self._store.get(BURIED + str(epoch)) is None:
            self._store.put(name, self._keys.seal(name, share.to_bytes(), self._rng))

    def get(self, epoch: int, term: int) -> KeyShare | None:
        """The share of an epoch that a ceremony of this term made, or None."""
        name = _name(epoch, term)
        return None if self._store.get(name) is None else self._open(name)

    def erase(self, epoch: int, term: int) -> None:
        """Erase a share and every sealed copy of it (R4)."""
        if self._store.get(_name(epoch, term)) is not None:
            self._store.erase(_name(epoch, term))

    def bury(self, epoch: int, term: int) -> None:
        """Erase a share of a destroyed master epoch. From then on none of that epoch is taken, whatever is shown."""
        self._store.put(BURIED + str(epoch), b"")
        self.erase(epoch, term)

    def held(self) -> list[tuple[int, int]]:
        """(master epoch, term) of the shares on disk."""
        pairs = (name.removeprefix(SHARE).split("/") for name in self._store.names(SHARE))
        return sorted((int(epoch), int(term)) for epoch, term in pairs)

    def office(self, seats: SeatsRecord, terms: Mapping[int, int]) -> Office | None:
        """Our office in the committee on chain; None if it is not in office or we have no seat.

        ``terms``: for each master epoch that lives, the term whose shares hold it. Raises PolicyError
        (gatekeeper.out_of_office) if we have the seat but not its share, or the chain is of another network.
        """
        if not seats.term or self._keys.address not in seats.members:
            return None
        index = seats.members.index(self._keys.address) + 1
        found = {epoch: share for epoch, term in terms.items() if (share := self.get(epoch, term)) is not None}
        share = found.pop(seats.master_epoch, None)
        if share is None or share.index != index or share.public.mpk != seats.mpk:
            held = f"shares of (epoch, term) {self.held()}"
            raise OUT_OF_OFFICE(expected=f"the share of seat {index} in term {seats.term}", found=held)
        self._require_network(seats.network_id)
        signers = SignerSet(seats.term, seats.threshold, seats.members)
        return Office(
            seats.network_id, seats.term, seats.master_epoch, signers, seats.term_seed, share, self._keys, found
        )

    def _require_network(self, network: bytes) -> None:
        """One folder, one network."""
        known = self._store.get(NETWORK)
        if known is None:
            self._store.put(NETWORK, network)
        elif known != network:
            raise OUT_OF_OFFICE(expected=f"network {to_hex(known)}", found=to_hex(network))

    def _open(self, name: str) -> KeyShare:
        return KeyShare.from_bytes(self._keys.open(name, self._store.get(name) or b""))


def _name(epoch: int, term: int) -> str:
    return f"{SHARE}{epoch}/{term}"
