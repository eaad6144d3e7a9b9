"""Ceremonies on a real chain: members that read everything by proof, and the contract that they act on."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from coincurve import PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cloister.chain.committees import CeremonyState
from cloister.chain.contracts import call, encode
from cloister.chain.deploy import FREE_SEATS, deploy_all, verify_deployed
from cloister.chain.rpc import Rpc
from cloister.chain.tx import Sender, Submitted
from cloister.core.chainview.ceremonies import CeremonyView
from cloister.core.chainview.seats import RulesRecord
from cloister.core.encoding.contexts import Context, frame
from cloister.core.encoding.signatures import sign_digest
from cloister.core.encoding.statements import Statement
from cloister.core.errors import CloisterError
from cloister.core.policy.candidates import ADMISSION_BLOCKS, admission_of
from cloister.core.policy.release import vendor_class_id
from cloister.core.threshold import actions as do
from cloister.core.threshold.dealing import Ceremony, Dealing
from cloister.core.threshold.dkg import deal_kept
from cloister.core.threshold.facts import Complaint, Confirmation, Facts, Fault
from cloister.core.threshold.kept import Kept
from cloister.core.threshold.phases import Kind, Phase, phase_at
from cloister.core.threshold.protocol import Member, Setting
from cloister.core.threshold.shares import KeyShare, PublicShares
from support.anvil import POLICY_HASH, TestChain, test_key
from support.sharing import stream

WINDOW = 30  # blocks come by the clock, too: a slow machine must not miss a deadline
RULES = replace(FREE_SEATS, ceremony_blocks=WINDOW, term_blocks=1, refresh_blocks=1, rotation_blocks=1, erase_delay=8)
VENDORS = ("intel", "intel", "amd", "amd", "aws", "aws", "nvidia")
_GAS = 2_000_000


def frame_of(ceremony: Ceremony, dealing: Dealing) -> bytes:
    """What a dealer publishes: the bytes behind its digest (sharing.md 2)."""
    parts = (b"".join(dealing.commitments), dealing.proof, b"".join(dealing.shares))
    return frame(Context.DKG_DEALING, ceremony.binding, dealing.dealer.to_bytes(2, "big"), *parts)


@dataclass
class Manner:
    """How a gatekeeper behaves in the next ceremony."""

    absent: bool = False
    bad_share_for: int = 0
    accuses: Mapping[int, Fault] = field(default_factory=dict)


@dataclass
class Gatekeeper:
    """One machine: its account, its X25519 key for the next ceremony, its shares by (master epoch, term)."""

    name: str
    sender: Sender
    key: PrivateKey
    vendor: bytes
    transport: bytes = b""
    shares: dict[tuple[int, int], KeyShare] = field(default_factory=dict)
    manner: Manner = field(default_factory=Manner)
    member: Member | None = None
    share: KeyShare | None = None
    failed: str = ""
    asked: list[do.Action] = field(default_factory=list)

    @property
    def address(self) -> bytes:
        return self.sender.address


class Town:
    """Contracts of its own on the session's chain, and everybody who may sit."""

    def __init__(self, chain: TestChain, rpc: Rpc, contracts: dict[str, bytes], codes: dict[str, bytes]) -> None:
        self.chain, self.rpc, self.contracts, self.codes = chain, rpc, contracts, codes
        self.founder = Sender(rpc, chain.deployer, chain.chain_id)
        keys = [*chain.members, *(chain.keys[:2])]
        self.all = [
            Gatekeeper(f"gk{i}", Sender(rpc, key, chain.chain_id), key, vendor_class_id(VENDORS[i]))
            for i, key in enumerate(keys)
        ]
        self.genesis = hashlib.sha256(contracts["Gatekeepers"]).digest()
        self.reverted: list[str] = []
        self.counted = 0

    @classmethod
    async def build(cls, chain: TestChain, rpc: Rpc, rules: RulesRecord = RULES) -> Town:
        """New contracts with nobody in office."""
        sender = Sender(rpc, chain.deployer, chain.chain_id)
        contracts = await deploy_all(sender, POLICY_HASH, [], rules=rules)
        return cls(chain, rpc, contracts, await verify_deployed(rpc, contracts))

    # --- transactions ---

    def mine(self, blocks: int = 1) -> None:
        """Blocks now, without waiting for the clock."""
        self.chain.anvil.rpc("anvil_mine", hex(blocks))

    async def together(self, calls: Iterable[tuple[Sender, str, tuple[object, ...]]]) -> None:
        """Transactions in one block if they fit. Those that the contract refuses are noted in ``reverted``."""
        sent = [s for s in [await self._submit(*one) for one in calls] if s is not None]
        self.mine()
        done = await asyncio.gather(*(sender.wait(one) for sender, one in sent), return_exceptions=True)
        self.reverted += [str(one) for one in done if isinstance(one, CloisterError)]

    async def _submit(self, sender: Sender, function: str, args: tuple[object, ...]) -> tuple[Sender, Submitted] | None:
        data = encode("Gatekeepers", function, *args)
        gas = 6_000_000 if function in ("nominate", "refresh", "rotate", "carry", "openFounding") else _GAS
        return sender, await sender.submit(self.contracts["Gatekeepers"], data, gas=gas)

    async def send(self, sender: Sender, function: str, *args: object) -> None:
        """One transaction that must succeed."""
        sent = await self._submit(sender, function, args)
        assert sent is not None
        self.mine()
        await sender.wait(sent[1])

    async def view(self, function: str, *args: object) -> Any:
        """The contract's own answer."""
        return await call(self.rpc, self.contracts["Gatekeepers"], "Gatekeepers", function, *args)

    async def state(self) -> CeremonyState:
        """Proven state at the newest block."""
        at = await self.chain.checkpoint(self.rpc)
        return CeremonyState(self.rpc, self.contracts, at, code_hashes=self.codes)

    async def signed(self, statement: Statement, by: Sequence[Gatekeeper]) -> list[bytes]:
        """Signatures of these members under the network's id."""
        network = await self.view("networkId")
        return [sign_digest(one.key, statement.digest(network)) for one in by]

    # --- who takes part ---

    async def stand(self, who: Sequence[Gatekeeper]) -> None:
        """Describe themselves, each with a key for the next ceremony."""
        calls: list[tuple[Sender, str, tuple[object, ...]]] = []
        for one in who:
            operator = hashlib.sha256(one.name.encode()).digest()[:20]
            endpoint = f"http://127.0.0.1/{one.name}"
            calls.append((one.sender, "setCandidate", (operator, one.vendor, self._key(one), b"\x08" * 32, endpoint)))
        await self.together(calls)

    async def admit(self, one: Gatekeeper, by: Sequence[Gatekeeper]) -> None:
        """t members say that they verified a candidate (E9)."""
        state = await self.state()
        (record,) = await state.candidates((one.address,))
        assert record is not None
        expiry = state.checkpoint.number + ADMISSION_BLOCKS
        said = admission_of(record, int(await self.view("term")), expiry)
        await self.send(self.founder, "admit", said, await self.signed(said, by))
        assert await self.view("admittedUntil", one.address) == expiry

    async def new_keys(self, who: Sequence[Gatekeeper]) -> None:
        """Register a key for the next ceremony."""
        await self.together([(one.sender, "setKey", (self._key(one), b"\x09" * 32)) for one in who])

    async def rest(self) -> None:
        """One window goes by after a ceremony, as the contract asks (G1)."""
        self.mine(WINDOW + 1)

    def _key(self, one: Gatekeeper) -> bytes:
        self.counted += 1
        seed = self.contracts["Gatekeepers"] + one.name.encode() + self.counted.to_bytes(4, "big")
        one.transport = hashlib.sha256(seed).digest()
        return X25519PrivateKey.from_private_bytes(one.transport).public_key().public_bytes_raw()

    def seated(self, addresses: Sequence[bytes]) -> list[Gatekeeper]:
        """The machines of these addresses, in order."""
        by = {one.address: one for one in self.all}
        return [by[address] for address in addresses]

    # --- running ---

    async def run(
        self, *, stop: Callable[[Phase], bool] = lambda _: False, rounds: int = 90
    ) -> tuple[CeremonyView, Facts, Phase]:
        """Everybody in the open ceremony acts until it ends, or ``stop`` says so. Facts are compared at every block."""
        view = await (await self.state()).open_ceremony()
        assert view is not None
        actors = self._seat(view)
        for _ in range(rounds):
            state = await self.state()
            facts, number = await state.facts(view), state.checkpoint.number
            phase = phase_at(self.ceremony, view.deadlines, facts, number)
            assert int(await self._phase(view, number)) == list(Phase).index(phase) + 1
            calls = [c for one in actors for c in self._step(view, one, facts, number)]
            if phase in (Phase.DONE, Phase.FAILED) or stop(phase):
                await same_facts(self, view, facts)
                return view, facts, phase
            await self.together(calls)
            if not calls:
                self.mine(WINDOW // 3)  # nobody has anything to say before a deadline
        raise AssertionError("the ceremony does not end")

    async def _phase(self, view: CeremonyView, number: int) -> int:
        to = self.contracts["Gatekeepers"]
        return int(await call(self.rpc, to, "Gatekeepers", "phaseAt", view.id, number, block=number))

    def _seat(self, view: CeremonyView) -> list[Gatekeeper]:
        old: PublicShares | None = None
        if view.kind is Kind.RESHARE:
            held = [one.shares.get((view.master_epoch, view.dealer_term)) for one in self.all]
            old = next(share.public for share in held if share is not None)
        self.ceremony = view.ceremony(old)
        actors = []
        for one in self.all:
            dealer, receiver = view.dealer_index(one.address), view.receiver_index(one.address)
            share = one.shares.get((view.master_epoch, view.dealer_term))
            one.member, one.share, one.failed, one.asked = None, None, "", []
            dealer = dealer if view.kind is not Kind.RESHARE or share is not None else 0
            if not (dealer or receiver) or one.manner.absent:
                continue
            setting = Setting(view.kind, self.ceremony, view.deadlines, dealer, receiver, RULES.erase_delay)
            kept = Kept.fresh(self.ceremony, one.transport if receiver else None)
            rng = stream(f"{view.id.hex()}/{one.name}")
            if one.manner.bad_share_for:
                kept = kept.with_(dealt=_bent(self.ceremony, dealer, one.manner.bad_share_for, rng))
            one.member = Member(setting, kept, rng, old_share=share if view.kind is Kind.RESHARE else None)
            actors.append(one)
        return actors

    def _step(
        self, view: CeremonyView, one: Gatekeeper, facts: Facts, number: int
    ) -> list[tuple[Sender, str, tuple[object, ...]]]:
        assert one.member is not None
        calls: list[tuple[Sender, str, tuple[object, ...]]] = []
        due = one.member.advance(facts, number)
        if one.member.phase is Phase.SHOW:
            lies = [Complaint(dealer, one.member.setting.receiver, f) for dealer, f in one.manner.accuses.items()]
            said = [(c.dealer, c.receiver) for c in lies if (c.dealer, c.receiver) not in facts.complaints]
            due = [*(do.Complain(c) for c in lies if (c.dealer, c.receiver) in said), *due]
            due = [a for a in due if not (said and isinstance(a, do.Content))]
        for action in due:
            one.asked.append(action)
            if isinstance(action, do.FetchDealing):
                self._fetch(view, one.member, action.dealer)
            elif isinstance(action, do.TakeOffice):
                one.share = one.shares[(view.master_epoch, view.term)] = action.share
            elif isinstance(action, do.Fail):
                one.failed = action.reason.code
            elif (sent := self._call(view, action)) is not None:
                calls.append((one.sender, *sent))
        return calls

    def _fetch(self, view: CeremonyView, member: Member, dealer: int) -> None:
        peer = next((one for one in self.all if one.member and one.member.setting.dealer == dealer), None)
        if peer is None or peer.member is None:
            return
        try:
            member.on_dealing(peer.member.my_dealing())
        except CloisterError:
            return

    def _call(self, view: CeremonyView, action: do.Action) -> tuple[str, tuple[object, ...]] | None:
        match action:
            case do.CommitDealing(digest):
                return "commitDealing", (view.id, digest)
            case do.Complain(complaint):
                return "complain", (view.id, complaint.dealer, int(complaint.fault))
            case do.Content(round):
                return "content", (view.id, round)
            case do.Publish(dealing):
                return "publish", (view.id, frame_of(self.ceremony, dealing))
            case do.OpenShare(opened):
                return "openShare", (view.id, opened.receiver, opened.value)
            case do.Confirm(value):
                return "confirm", (view.id, value.mpk, value.transcript, value.qualified)
        return None


def _bent(ceremony: Ceremony, dealer: int, receiver: int, rng: Callable[[int], bytes]) -> Any:
    """A dealing whose sealed share for one receiver does not open."""
    dealt = deal_kept(ceremony, dealer, rng)
    shares = list(dealt.dealing.shares)
    shares[receiver - 1] = bytes(80)
    return replace(dealt, dealing=replace(dealt.dealing, shares=tuple(shares)))


async def same_facts(town: Town, view: CeremonyView, facts: Facts) -> None:
    """What was proven is what the contract's own views say. The newest block must be that of the facts."""
    said = await town.view("ceremonyOf", view.id)
    assert (said["receivers"], said["keys"]) == (list(view.receivers), list(view.keys))
    assert (said["end"] == 3) == facts.cancelled
    for name, seats in (("content", facts.content), ("settled", facts.settled), ("published", facts.published)):
        assert said[name] == sum(1 << seat - 1 for seat in seats), name
    for index, dealer in enumerate(view.dealers, 1):
        assert await town.view("dealing", view.id, dealer) == facts.committed.get(index, bytes(32))
        accused = await town.view("accusation", view.id, index)
        by = {r: f for (d, r), f in facts.complaints.items() if d == index}
        assert accused["by"] == sum(1 << r - 1 for r in by)
        assert accused["bad"] == sum(1 << r - 1 for r, f in by.items() if f is Fault.BAD_SHARE)
        assert accused["opened"] == sum(1 << r - 1 for d, r in facts.opened if d == index)
        for receiver in range(1, len(view.receivers) + 1):
            value = await town.view("opening", view.id, index, receiver)
            assert value == facts.opened.get((index, receiver), bytes(32))
    for index, receiver_address in enumerate(view.receivers, 1):
        value = await town.view("confirmation", view.id, receiver_address)
        shown = Confirmation(b"".join(value["mpk"]), value["transcript"], value["qualified"])
        assert facts.confirmed.get(index, Confirmation(bytes(96), bytes(32), 0)) == shown


def extra_key(name: str) -> PrivateKey:
    """A key of nobody who sits."""
    return test_key(name)
