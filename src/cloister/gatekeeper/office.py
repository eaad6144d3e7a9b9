"""This member's office: the committee it sits in, its seat, and its share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cloister.core.encoding.hexes import from_hex, need_fields, need_uint, to_hex
from cloister.core.encoding.signatures import SignerSet
from cloister.core.encoding.statements import Statement
from cloister.core.errors import PolicyError, define
from cloister.core.policy.release import CommitteeFacts
from cloister.core.threshold.shares import KeyShare
from cloister.node.identity import NodeKeys

NOT_IN_OFFICE = define(
    "gatekeeper.not_in_office",
    PolicyError,
    check="this gatekeeper sits in the confirmed committee",
    remedy="wait for the founding ceremony, or ask a member: `cloister status`",
    status=503,
)


@dataclass(frozen=True, slots=True)
class Office:
    """A seat in the confirmed committee. ``network`` is the 32-byte network id, ``seed`` the term's placement seed."""

    network: bytes
    term: int
    master_epoch: int
    signers: SignerSet
    seed: bytes
    share: KeyShare = field(repr=False)
    keys: NodeKeys

    @property
    def address(self) -> bytes:
        """This member's 20-byte address."""
        return self.keys.address

    @property
    def index(self) -> int:
        """This member's seat, 1..n."""
        return self.signers.members.index(self.address) + 1

    def share_for(self, master_epoch: int) -> KeyShare:
        """This member's share of a master epoch. Raises gatekeeper.not_in_office for one that it holds no share of."""
        if master_epoch != self.master_epoch:
            raise NOT_IN_OFFICE(expected=f"a share of master epoch {master_epoch}", found=f"of {self.master_epoch}")
        return self.share

    def sign(self, statement: Statement) -> bytes:
        """This member's signature over a statement, under the network id."""
        return self.keys.sign(statement.digest(self.network))

    def sign_digest(self, digest: bytes) -> bytes:
        """This member's signature over 32 bytes that are already a hash with a context."""
        return self.keys.sign(digest)

    def facts(self) -> CommitteeFacts:
        """What a release depends on."""
        return CommitteeFacts(self.network, self.term, self.seed, self.master_epoch)

    def to_json(self) -> dict[str, Any]:
        """The public half, JSON-ready: what a restarted member needs besides its sealed share."""
        return {
            "network": to_hex(self.network),
            "term": self.term,
            "master_epoch": self.master_epoch,
            "threshold": self.signers.threshold,
            "members": [to_hex(m) for m in self.signers.members],
            "seed": to_hex(self.seed),
        }

    @classmethod
    def from_json(cls, value: object, share: KeyShare, keys: NodeKeys) -> Office:
        """Parse ``to_json`` output. Raises EncodingError; PolicyError if these keys hold no seat or not that share."""
        names = {"network", "term", "master_epoch", "threshold", "members", "seed"}
        data = need_fields("office", value, names)
        members = tuple(from_hex(m, 20, name="member") for m in data["members"])
        term = need_uint("term", data["term"], 64)
        signers = SignerSet(term, need_uint("threshold", data["threshold"], 16), members)
        if keys.address not in members or members.index(keys.address) + 1 != share.index:
            raise NOT_IN_OFFICE(expected=f"seat {share.index} of these keys", found="another seat")
        network, seed = from_hex(data["network"], 32, name="network"), from_hex(data["seed"], 32, name="seed")
        epoch = need_uint("master epoch", data["master_epoch"], 64)
        return cls(network, term, epoch, signers, seed, share, keys)
