"""Every ceremony of this member, driven from the chain: found, reshare, rotate (spec/gatekeepers.md G1-G14).

::

    read      the ceremony and its facts, by proof, at each final block
    verify    before we deal: the evidence of every receiver
    advance   ``core.threshold.protocol.Member`` says what is due
    store     what it wants kept, sealed and durable, before anything shows outside
    act       transactions, dealings over HTTP, erasures; all of it may be repeated

A crash between any two of these changes nothing: the next start reads the same chain and the same disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cloister.core.chainview.ceremonies import CeremonyView, Ending
from cloister.core.chainview.header import Header
from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context, digest
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError, ThresholdError, define
from cloister.core.threshold import actions as do
from cloister.core.threshold.dealing import Ceremony, Dealing
from cloister.core.threshold.facts import Facts
from cloister.core.threshold.kept import Kept
from cloister.core.threshold.phases import Kind, Phase, agreed_value, phase_at
from cloister.core.threshold.protocol import Member, Setting
from cloister.core.threshold.shares import PublicShares
from cloister.core.threshold.transcript import Transcript
from cloister.gatekeeper.deeds import Deeds
from cloister.gatekeeper.membership import Membership
from cloister.gatekeeper.office import Shares
from cloister.gatekeeper.ports import Snapshot
from cloister.gatekeeper.store import Store
from cloister.gatekeeper.transcripts import Transcripts
from cloister.node import logs
from cloister.node.identity import NodeKeys

KEPT, OVER = "ceremony/", "ceremony-over/"
KEEP_OVER = 64
PATIENCE = 2
# How long a member that refused a receiver leaves the end of a ceremony to t members' word (G15).
REFUSAL_BLOCKS = 16

OTHER_GENESIS = define(
    "gatekeeper.other_genesis",
    ThresholdError,
    check="a ceremony was opened for the genesis file, or the network, that this gatekeeper holds",
    remedy="compare the genesis files of founder and gatekeepers",
)
NO_DEALING = define(
    "gatekeeper.no_dealing",
    ThresholdError,
    check="this member holds that dealing of that ceremony",
    remedy="ask for a ceremony that stands in the Gatekeepers contract, and a dealer that committed in it",
    status=404,
)
_log = logs.get("ceremony")


@dataclass
class Run:
    """One ceremony as this member lives it.

    ``facts``: as last read, at block ``number``. ``stored``: what is on disk, in the clear."""

    view: CeremonyView
    ceremony: Ceremony
    member: Member
    facts: Facts
    stored: bytes
    number: int = 0
    seen: Phase | None = None
    trouble: CloisterError | None = None

    @property
    def verified(self) -> bool:
        """Whether we need not verify receivers (again): we deal nothing any more, or have dealt."""
        dealer = self.member.setting.dealer
        return not dealer or dealer in self.facts.committed or self.member.kept().dealt is not None


class Ceremonies:
    """The ceremonies that this member has a seat in. ``genesis``: 32-byte genesis id."""

    def __init__(
        self,
        store: Store,
        keys: NodeKeys,
        genesis: bytes,
        membership: Membership,
        shares: Shares,
        transcripts: Transcripts,
        deeds: Deeds,
        rng: Callable[[int], bytes],
    ) -> None:
        self._store, self._keys, self._genesis, self._rng = store, keys, genesis, rng
        self._membership, self._shares, self._transcripts, self._deeds = membership, shares, transcripts, deeds
        self._runs: dict[int, Run] = {}
        self.view: CeremonyView | None = None

    @property
    def newest(self) -> Run | None:
        """The run of the ceremony opened last, if we have a seat in it."""
        return None if self.view is None else self._runs.get(self.view.number)

    @property
    def busy(self) -> bool:
        """Whether a ceremony runs in which we have a seat: our transport key is in use."""
        return self.view is not None and self.view.ending is Ending.OPEN and self._seat(self.view)

    @property
    def active(self) -> bool:
        """Whether there may be something to do at every block."""
        return bool(self._runs) or (self.view is not None and self.view.ending is Ending.OPEN)

    def makes(self, epoch: int, term: int) -> bool:
        """Whether a ceremony is about to give us the share of an epoch and term: it is confirmed, and on its way."""
        mine = [run for run in self._runs.values() if (run.view.master_epoch, run.view.term) == (epoch, term)]
        able = [run for run in mine if run.member.kept().share is not None and run.trouble is None]
        return bool(able) and (epoch, term) not in self._shares.held()

    def refused(self, number: int) -> frozenset[tuple[bytes, bytes]]:
        """(ceremony id, receiver) that we refuse to deal to after block ``number``, and say so (S13).

        Only of the open ceremony, while we dealt nothing in it and it may still fail, once half of COMMIT is over."""
        run = self.newest
        if run is None or run.view.ending is not Ending.OPEN or run.verified:
            return frozenset()
        enough = run.seen is not Phase.COMMIT and len(run.facts.committed) >= run.view.quorum  # it goes on without us
        if enough or number < (run.view.opened_at + run.view.deadlines.commit_by) // 2:
            return frozenset()
        return frozenset((run.view.id, member) for member in self._membership.refused_in(run.view.id))

    async def step(self, at: Snapshot, head: Header) -> None:
        """Do what is due after a final block, in every ceremony that is not over for us.

        Raises CloisterError: what went wrong in the newest ceremony; the same step is tried again later.
        """
        self.view = view = await at.open_ceremony()
        numbers = {int(name.removeprefix(KEPT)) for name in self._store.names(KEPT)}
        if view is not None and self._seat(view) and self._store.get(_over(view.number)) is None:
            numbers.add(view.number)
        trouble: CloisterError | None = None
        for number in sorted(numbers):
            try:
                one = view if view is not None and view.number == number else await at.ceremony_at(number)
                await self._drive(one, at, head)
            except CloisterError as error:
                trouble = error
                if number in self._runs:
                    self._runs[number].trouble = error
        if trouble is not None:
            raise trouble

    def shown_key(self) -> bytes:
        """The transport key that our evidence names: that of the ceremony that runs, else the next one's."""
        view = self.view
        if view is not None and view.ending is Ending.OPEN and view.receiver_index(self._keys.address):
            return view.keys[view.receiver_index(self._keys.address) - 1]
        return self._membership.next_key()

    def dealing(self, ceremony: bytes, dealer: int | None) -> tuple[Dealing, bytes]:
        """A dealing that we hold (None: our own) and our signature over it, for whoever asks.

        Raises ThresholdError; threshold.too_early before SHOW.
        """
        found = self._held(ceremony, dealer)
        return found, self._keys.sign(dealing_digest(ceremony, found))

    def _held(self, ceremony: bytes, dealer: int | None) -> Dealing:
        for run in self._runs.values():
            if run.view.id == ceremony:
                return run.member.my_dealing() if dealer is None else run.member.dealing(dealer)
        record = self._transcripts.of_ceremony(ceremony)
        if record is not None:
            mine = dealer if dealer is not None else self._dealer_in(record)
            if mine in record.dealings:
                return record.dealings[mine]
        raise NO_DEALING(expected=f"a dealing of ceremony {to_hex(ceremony)[:18]}…", found="none to show")

    def _dealer_in(self, record: Transcript) -> int:
        ceremony = record.ceremony
        old = getattr(ceremony, "old_members", None)
        dealers = old if old is not None else tuple(m.address for m in ceremony.members)
        return dealers.index(self._keys.address) + 1 if self._keys.address in dealers else 0

    # --- one ceremony ---

    def _seat(self, view: CeremonyView) -> bool:
        return bool(view.dealer_index(self._keys.address) or view.receiver_index(self._keys.address))

    async def _drive(self, view: CeremonyView, at: Snapshot, head: Header) -> None:
        run = self._runs.get(view.number)
        facts = await at.facts(view)
        if run is None:
            run = self._runs[view.number] = await self._begin(view, facts, at)
        run.view, run.facts, run.number = view, facts, head.number
        phase = phase_at(run.ceremony, view.deadlines, facts, head.number)
        self._say(run, phase)
        if phase is Phase.COMMIT and not run.verified:
            await self._membership.verify_all(at, head, view)
        await self._advance(run, at, head)
        if phase in (Phase.DONE, Phase.FAILED) and view.ending is Ending.OPEN:
            await self._close(run, head)
        if self._is_over(run, head.number):
            self._forget(run)

    async def _advance(self, run: Run, at: Snapshot, head: Header) -> None:
        """Ask the member, store, act; once more if dealings came in: they may be all that it waited for."""
        for _ in range(2):
            actions = run.member.advance(run.facts, head.number)
            self._keep(run, actions)
            for action in actions:
                self._at_home(run, action)
            if not any(isinstance(action, do.Fail) for action in actions):
                run.trouble = None
            wanted = [action for action in actions if isinstance(action, do.FetchDealing)]
            came = await self._deeds.fetch(run.view, run.member, wanted, at) if wanted else 0
            if not came:
                break
            self._keep(run, [])
        await self._deeds.send(run.view, run.member, actions, head)

    async def _close(self, run: Run, head: Header) -> None:
        """The contract records an end when somebody asks it to. One member after the other, by seat."""
        setting, ended = run.member.setting, run.member.kept().ended or head.number
        if self.refused(head.number):
            ended += REFUSAL_BLOCKS
        if head.number >= ended + PATIENCE * ((setting.receiver or setting.dealer) - 1):
            await self._deeds.once(("close", (run.view.id,)), head)

    async def _begin(self, view: CeremonyView, facts: Facts, at: Snapshot) -> Run:
        """Our side of a ceremony, from disk or new. Raises CloisterError."""
        base = self._genesis if view.kind is Kind.FOUND else (await at.committee()).network_id
        if view.base != base:
            raise OTHER_GENESIS(expected=to_hex(base), found=to_hex(view.base))
        old = await self._old(view, at) if view.kind is Kind.RESHARE else None
        ceremony = view.ceremony(old)
        me, receiver = self._keys.address, view.receiver_index(self._keys.address)
        share = self._shares.get(view.master_epoch, view.dealer_term) if old is not None else None
        dealer = view.dealer_index(me)
        if old is not None and (share is None or share.index != dealer):
            share, dealer = None, dealer if not receiver else 0  # without our old share we only receive
        erase_delay = (await at.rules()).erase_delay
        setting = Setting(view.kind, ceremony, view.deadlines, dealer, receiver, erase_delay)
        kept, blob = self._load(view, ceremony, receiver)
        return Run(view, ceremony, Member(setting, kept, self._rng, old_share=share), facts, blob)

    async def _old(self, view: CeremonyView, at: Snapshot) -> PublicShares:
        """The public shares of the term that deals: ours, or from the public record that its transcript hash names."""
        mine = self._shares.get(view.master_epoch, view.dealer_term)
        if mine is not None:
            return mine.public
        record = await self._transcripts.find(view.old_transcript, view.dealer_term, view.dealers, at)
        return record.public_shares(view.old_transcript, view.old_mpk)

    def _load(self, view: CeremonyView, ceremony: Ceremony, receiver: int) -> tuple[Kept, bytes]:
        name = KEPT + str(view.number)
        blob = self._store.get(name)
        if blob is not None:
            data = self._keys.open(name, blob)
            return Kept.from_bytes(data), data
        private = self._membership.private_half(view.keys[receiver - 1]) if receiver else None
        return Kept.fresh(ceremony, private), b""

    def _keep(self, run: Run, actions: list[do.Action]) -> None:
        """Seal and store what the member wants kept; without a trace of older copies if it dropped a secret."""
        data = run.member.kept().to_bytes()
        erasing = any(isinstance(action, do.ErasePolynomial | do.EraseTransport) for action in actions)
        if data == run.stored and not erasing:
            return
        name = KEPT + str(run.view.number)
        blob = self._keys.seal(name, data, self._rng)
        (self._store.replace if erasing or _drops(run.stored, data) else self._store.put)(name, blob)
        run.stored = data

    def _at_home(self, run: Run, action: do.Action) -> None:
        """Actions that concern nobody but us."""
        view = run.view
        if isinstance(action, do.TakeOffice):
            self._take(run, action)
        elif isinstance(action, do.EraseTransport):
            self._membership.erase(view.keys[view.receiver_index(self._keys.address) - 1])
        elif isinstance(action, do.EraseOld):
            self._erase_old(run, action.term)
        elif isinstance(action, do.Fail) and (run.trouble is None or run.trouble.code != action.reason.code):
            _log.warning("without a share", ceremony=view.number, code=action.reason.code, found=action.reason.found)
            run.trouble = action.reason

    def _erase_old(self, run: Run, term: int) -> None:
        """Only once the chain recorded the new term: until then the old shares are the only ones that count (R4)."""
        view = run.view
        late = view.ending is Ending.DONE and run.number >= view.ended_at + run.member.setting.erase_delay
        if late and (view.master_epoch, term) in self._shares.held():
            self._shares.erase(view.master_epoch, term)
            _log.info("old share erased", term=term)

    def _take(self, run: Run, action: do.TakeOffice) -> None:
        if (run.view.master_epoch, action.share.public.term) in self._shares.held():
            return
        agreed = agreed_value(run.ceremony, run.facts)
        assert agreed is not None  # noqa: S101 - the member takes office over an agreed value only
        held = {index: run.member.dealing(index) for index in agreed.dealers()}
        self._transcripts.keep(Transcript(run.ceremony, held))
        self._shares.put(run.view.master_epoch, action.share)

    def _is_over(self, run: Run, number: int) -> bool:
        """Whether nothing is left to do: transport key erased, old share erased, end recorded."""
        kept, setting = run.member.kept(), run.member.setting
        if kept.ended is None or run.view.ending is Ending.OPEN or kept.private is not None:
            return False
        if run.member.phase is Phase.FAILED or setting.kind is not Kind.RESHARE or not setting.dealer:
            return True
        return number >= max(kept.ended, run.view.ended_at) + setting.erase_delay

    def _forget(self, run: Run) -> None:
        number = run.view.number
        receiver = run.view.receiver_index(self._keys.address)
        if receiver:
            self._membership.used(run.view.keys[receiver - 1])
        self._store.put(_over(number), b"")
        self._store.erase(KEPT + str(number))
        old = [name for name in self._store.names(OVER) if int(name.removeprefix(OVER)) < number - KEEP_OVER]
        self._store.erase(*old)
        del self._runs[number]
        _log.info("ceremony over", ceremony=number)

    def _say(self, run: Run, phase: Phase) -> None:
        if phase is run.seen:
            return
        run.seen = phase
        view = run.view
        _log.info("ceremony", ceremony=view.number, kind=view.kind.value, phase=phase.value, term=view.term)
        if phase in (Phase.DONE, Phase.FAILED):
            receiver = view.receiver_index(self._keys.address)
            if receiver:
                self._membership.used(view.keys[receiver - 1])


def dealing_digest(ceremony: bytes, dealing: Dealing) -> bytes:
    """What a member signs when it shows a dealing: digest(DKG_DEALING, "shown", ceremony, JCS dealing)."""
    return digest(Context.DKG_DEALING, b"shown", ceremony, jcs.encode(dealing.to_json()))


def _over(number: int) -> str:
    return f"{OVER}{number}"


def _drops(before: bytes, after: bytes) -> bool:
    """Whether a secret that was kept is kept no longer."""
    if not before:
        return False
    old, new = Kept.from_bytes(before), Kept.from_bytes(after)
    return any(getattr(old, name) is not None and getattr(new, name) is None for name in ("private", "dealt", "share"))
