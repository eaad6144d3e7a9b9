"""Whole committees in memory: a contract that keeps the rules of spec/gatekeepers.md, members, liars and crashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from cloister.core.errors import CloisterError
from cloister.core.threshold import actions as do
from cloister.core.threshold.dealing import Ceremony, Dealing, Dealt, make_dealing
from cloister.core.threshold.dkg import deal_kept
from cloister.core.threshold.facts import Complaint, Confirmation, Facts, Fault
from cloister.core.threshold.groups import ORDER
from cloister.core.threshold.kept import Kept
from cloister.core.threshold.phases import Deadlines, Kind, Phase, agreed_value, late_viewers, phase_at
from cloister.core.threshold.protocol import Member, Setting
from cloister.core.threshold.reshare import Resharing, deal_again
from cloister.core.threshold.shares import KeyShare
from support.sharing import ceremony_of, stream

WINDOW = 6


class RevertedError(Exception):
    """The contract refuses a transaction."""


class Contract:
    """What the chain keeps of one ceremony, and who may say what when. A transaction is final at once."""

    def __init__(self, ceremony: Ceremony, deadlines: Deadlines, number: int) -> None:
        self.ceremony, self.deadlines, self.number = ceremony, deadlines, number
        self.facts = Facts()
        self.call_data: dict[int, Dealing] = {}

    @property
    def phase(self) -> Phase:
        return phase_at(self.ceremony, self.deadlines, self.facts, self.number)

    def send(self, seat: tuple[int, int], action: do.Action) -> None:
        """A transaction of a member (dealer index, receiver index), in the block after the one that it saw."""
        dealer, receiver = seat
        {
            do.CommitDealing: lambda a: self._commit(dealer, a.digest),
            do.Complain: lambda a: self._complain(receiver, a.complaint),
            do.Content: lambda a: self._content(receiver, a.round),
            do.Publish: lambda a: self._publish(dealer, a.dealing),
            do.OpenShare: lambda a: self._open(dealer, a.opened.receiver, a.opened.value),
            do.Confirm: lambda a: self._confirm(receiver, a.value),
        }[type(action)](action)

    def _need(self, phase: Phase, ok: bool = True) -> None:
        # The last block of a phase is its deadline: a transaction lands in the block after the one that was seen.
        if self.phase is not phase or not ok:
            raise RevertedError

    def _commit(self, dealer: int, digest: bytes) -> None:
        self._need(Phase.COMMIT, dealer not in self.facts.committed)
        self.facts = replace(self.facts, committed={**self.facts.committed, dealer: digest})

    def _complain(self, receiver: int, complaint: Complaint) -> None:
        pair = (complaint.dealer, receiver)
        said = self.facts.complaints.get(pair)
        if complaint.fault is Fault.BAD_SHARE and self.phase is Phase.OBJECT:
            ok = said is Fault.NOT_SHOWN and receiver in late_viewers(self.facts)
            self._need(Phase.OBJECT, ok and complaint.dealer in self.facts.published)
        else:
            ok = complaint.dealer in self.facts.committed and receiver not in self.facts.content
            self._need(Phase.SHOW, ok and (said is None or said < complaint.fault))
        self.facts = replace(self.facts, complaints={**self.facts.complaints, pair: complaint.fault})

    def _content(self, receiver: int, number: int) -> None:
        if number == 1:
            self._need(Phase.SHOW)
            self.facts = replace(self.facts, content=self.facts.content | {receiver})
        else:
            self._need(Phase.OBJECT, receiver in late_viewers(self.facts))
            self.facts = replace(self.facts, settled=self.facts.settled | {receiver})

    def _publish(self, dealer: int, dealing: Dealing) -> None:
        ok = dealing.digest(self.ceremony) == self.facts.committed.get(dealer) and bool(self.facts.of_dealer(dealer))
        self._need(Phase.PUBLISH, ok)
        self.call_data[dealer] = dealing
        self.facts = replace(self.facts, published=self.facts.published | {dealer})

    def _open(self, dealer: int, receiver: int, value: bytes) -> None:
        pair = (dealer, receiver)
        bad = self.facts.complaints.get(pair) is Fault.BAD_SHARE
        self._need(Phase.ANSWER, bad and dealer in self.facts.published and pair not in self.facts.opened)
        self.facts = replace(self.facts, opened={**self.facts.opened, pair: value})

    def _confirm(self, receiver: int, value: Confirmation) -> None:
        self._need(Phase.CONFIRM, receiver not in self.facts.confirmed)
        self.facts = replace(self.facts, confirmed={**self.facts.confirmed, receiver: value})


@dataclass
class Manner:
    """How a member behaves. The default is honest."""

    commits: bool = True
    absent: bool = False
    hides_from: frozenset[int] = frozenset()
    bad_shares: frozenset[int] = frozenset()
    bad_proof: bool = False
    other_secret: bool = False
    publishes: bool = True
    opens: str = "right"
    accuses: Mapping[int, Fault] = field(default_factory=dict)
    confirms: str = "right"

    @property
    def honest(self) -> bool:
        return self == Manner()


ABSENT = Manner(absent=True)


class Actor:
    """A seat that acts: a real ``Member``, and what its manner makes of it."""

    def __init__(self, world: World, dealer: int, receiver: int, manner: Manner, old: KeyShare | None) -> None:
        self.world, self.dealer, self.receiver, self.manner, self.old = world, dealer, receiver, manner, old
        self.setting = Setting(world.kind, world.ceremony, world.deadlines, dealer, receiver, erase_delay=12)
        kept = Kept.fresh(world.ceremony, world.privates[receiver - 1] if receiver else None)
        if dealer and not manner.honest and not manner.absent:
            kept = kept.with_(dealt=self._crooked())
        self.disk = kept.to_bytes()
        self.member = self._rebuilt()
        self.share: KeyShare | None = None
        self.failed: CloisterError | None = None
        self.erased: list[do.Action] = []
        self.said: list[do.Action] = []

    def _rebuilt(self) -> Member:
        world = self.world
        seed = f"{world.kind.value}/{world.name}/{self.dealer}/{self.receiver}/{world.number}"
        return Member(self.setting, Kept.from_bytes(self.disk), stream(seed), old_share=self.old)

    def _crooked(self) -> Dealt:
        """A dealing with what this manner breaks in it."""
        ceremony, rng, manner = self.world.ceremony, stream(f"crooked/{self.dealer}/{self.world.name}"), self.manner
        if isinstance(ceremony, Resharing):
            share = self.old
            assert share is not None
            if manner.other_secret:
                dealt = make_dealing(ceremony, self.dealer, rng, strict=False)
            else:
                dealt = deal_again(ceremony, share, rng)
        else:
            dealt = deal_kept(ceremony, self.dealer, rng)
        shares = tuple(rng(80) if i in manner.bad_shares else s for i, s in enumerate(dealt.dealing.shares, 1))
        proof = rng(48) if manner.bad_proof else dealt.dealing.proof
        return Dealt(replace(dealt.dealing, shares=shares, proof=proof), dealt.polynomial)

    def crash(self) -> None:
        """Lose everything but the disk."""
        self.member = self._rebuilt()

    def step(self, crash: str = "") -> None:
        """One look at the chain. crash: "before" storing, "after" storing, or after the first action ("between")."""
        if self.manner.absent:
            return None
        due = self.member.advance(self.world.contract.facts, self.world.number)
        self._seen(due)
        if crash == "before":
            return self.crash()
        self.disk = self.member.kept().to_bytes()
        if crash == "after":
            return self.crash()
        for i, action in enumerate([*due, *self._lies()]):
            if crash == "between" and i:
                return self.crash()
            self._act(action)
        self.disk = self.member.kept().to_bytes()
        return None

    def _seen(self, due: Iterable[do.Action]) -> None:
        for action in due:
            if isinstance(action, do.TakeOffice):
                self.share = action.share
            elif isinstance(action, do.Fail):
                self.failed = action.reason
            elif isinstance(action, do.EraseOld | do.EraseTransport | do.ErasePolynomial):
                self.erased.append(action)
        self.said += due

    def _lies(self) -> list[do.Action]:
        if self.manner.honest or not self.receiver:
            return []
        return [do.Complain(Complaint(d, self.receiver, fault)) for d, fault in sorted(self.manner.accuses.items())]

    def _act(self, action: do.Action) -> None:
        if isinstance(action, do.FetchDealing):
            return self._fetch(action)
        sendable = do.CommitDealing | do.Complain | do.Content | do.Publish | do.OpenShare | do.Confirm
        if not isinstance(action, sendable):
            return None
        changed = self._bent(action)
        if changed is not None:
            try:
                self.world.contract.send((self.dealer, self.receiver), changed)
            except RevertedError:
                self.world.reverted.append(changed)
        return None

    def _bent(self, action: do.Action) -> do.Action | None:
        manner = self.manner
        if isinstance(action, do.CommitDealing) and not manner.commits:
            return None
        if isinstance(action, do.Publish) and not manner.publishes:
            return None
        if isinstance(action, do.OpenShare) and manner.opens != "right":
            return None if manner.opens == "no" else do.OpenShare(replace(action.opened, value=b"\0" * 31 + b"\1"))
        if isinstance(action, do.Confirm) and manner.confirms != "right":
            value = replace(action.value, transcript=hashlib.sha256(b"lie").digest())
            return None if manner.confirms == "no" else do.Confirm(value)
        return action

    def _fetch(self, action: do.FetchDealing) -> None:
        found = self.world.contract.call_data.get(action.dealer) if action.published else None
        if found is None:
            dealer = self.world.dealers[action.dealer]
            if dealer.manner.absent or self.receiver in dealer.manner.hides_from:
                return
            try:
                found = dealer.member.my_dealing()
            except CloisterError:
                return
        self.member.on_dealing(found)


class World:
    """A committee, its contract, and time."""

    def __init__(
        self,
        n: int,
        t: int,
        *,
        kind: Kind = Kind.FOUND,
        old: World | None = None,
        manners: Mapping[int, Manner] | None = None,
        old_manners: Mapping[int, Manner] | None = None,
        name: str = "w",
        window: int = WINDOW,
    ) -> None:
        self.kind, self.name, self.number, self.reverted = kind, name, 100, list[do.Action]()
        base, self.privates = ceremony_of(n, t, f"{kind.value}/{name}")
        self.ceremony: Ceremony = base if old is None else _resharing(base, old)
        self.deadlines = Deadlines.after(self.number, window)
        self.contract = Contract(self.ceremony, self.deadlines, self.number)
        manners, old_manners = manners or {}, old_manners or {}
        if old is None:
            everybody = [Actor(self, i, i, manners.get(i, Manner()), None) for i in range(1, n + 1)]
            self.dealers = self.receivers = {a.dealer: a for a in everybody}
        else:
            self.receivers = {i: Actor(self, 0, i, manners.get(i, Manner()), None) for i in range(1, n + 1)}
            self.dealers = {i: Actor(self, i, 0, old_manners.get(i, Manner()), s) for i, s in old.shares().items()}
            for i in set(range(1, self.ceremony.dealers + 1)) - set(self.dealers):
                self.dealers[i] = Actor(self, i, 0, ABSENT, None)
        self.polynomials: dict[int, tuple[bytes, ...]] = {}

    def actors(self) -> list[Actor]:
        return [*self.dealers.values(), *(a for a in self.receivers.values() if a not in self.dealers.values())]

    def honest(self) -> list[Actor]:
        return [actor for actor in self.receivers.values() if actor.manner.honest]

    def round(
        self, order: Callable[[list[Actor]], list[Actor]] = list, crashes: Mapping[int, str] | None = None
    ) -> None:
        """Everybody looks at the chain once, in some order; then a block goes by."""
        for place, actor in enumerate(order(self.actors())):
            actor.step((crashes or {}).get(place, ""))
            kept = actor.member.kept()
            if kept.dealt is not None:
                self.polynomials.setdefault(actor.dealer, kept.dealt.polynomial)
        self.number += 1
        self.contract.number = self.number

    def run(self, rounds: int = 200) -> World:
        """Until the end and everything is erased."""
        for _ in range(rounds):
            if self.phase in (Phase.DONE, Phase.FAILED):
                break
            self.round()
        for _ in range(14):
            self.round()
        return self

    @property
    def phase(self) -> Phase:
        return self.contract.phase

    def agreed(self) -> Confirmation:
        value = agreed_value(self.ceremony, self.contract.facts)
        assert value is not None
        return value

    def shares(self) -> dict[int, KeyShare]:
        return {i: actor.share for i, actor in self.receivers.items() if actor.share is not None}


def _resharing(base: Ceremony, old: World) -> Resharing:
    share = next(iter(old.shares().values()))
    return Resharing(
        base.id,
        base.threshold,
        base.members,
        share.public.term + 1,
        old=share.public,
        old_threshold=old.ceremony.threshold,
        old_members=tuple(m.address for m in old.ceremony.members),
    )


# Plain integers, written out: what the shares must be.


def lagrange(indexes: list[int], at: int = 0) -> list[int]:
    weights = []
    for i in indexes:
        weight = 1
        for j in indexes:
            if i != j:
                weight = weight * (at - j) * pow(i - j, -1, ORDER) % ORDER
        weights.append(weight)
    return weights


def expected_share(world: World, qualified: tuple[int, ...], receiver: int) -> int:
    """The sum over Q of the dealers' polynomials at the receiver, weighted in a resharing."""
    weights = lagrange(list(qualified)) if world.kind is Kind.RESHARE else [1] * len(qualified)
    total = 0
    for dealer, weight in zip(qualified, weights, strict=True):
        f = [int.from_bytes(a, "big") for a in world.polynomials[dealer]]
        total += weight * sum(a * pow(receiver, k, ORDER) for k, a in enumerate(f))
    return total % ORDER
