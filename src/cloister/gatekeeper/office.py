"""This member's office: the committee it sits in, its seat, and its share."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    remedy="wait for the founding ceremony, or ask a member: `cloister network status`",
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

    def sign(self, statement: Statement) -> bytes:
        """This member's signature over a statement, under the network id."""
        return self.keys.sign(statement.digest(self.network))

    def sign_digest(self, digest: bytes) -> bytes:
        """This member's signature over 32 bytes that are already a hash with a context."""
        return self.keys.sign(digest)

    def facts(self) -> CommitteeFacts:
        """What a release depends on."""
        return CommitteeFacts(self.network, self.term, self.seed, self.master_epoch)
