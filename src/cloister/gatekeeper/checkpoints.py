"""The checkpoints that this member signs: descendants only, one per height, remembered before they leave.

::

    following   each new finalised block is signed once
    halted      a finalised block conflicted with one that was signed: nothing is signed or released any more
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from cloister.core.chainview.checkpoints import may_sign
from cloister.core.chainview.header import Header
from cloister.core.encoding import jcs
from cloister.core.encoding.signatures import Signed
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import ChainViewError, CloisterError, define
from cloister.gatekeeper.office import Office
from cloister.gatekeeper.store import KEEP_CHECKPOINTS, Book
from cloister.wire.believed import Believed
from cloister.wire.messages import SignedBy

MAX_LAG = 16
_FORKS = ("chain.conflict", "chainview.header", "chainview.not_descendant", "chainview.second_at_height")

NO_CHECKPOINT = define(
    "chainview.no_checkpoint",
    ChainViewError,
    check="this member signed a checkpoint of that height and still keeps it",
    remedy="ask for the newest checkpoint; only the last 128 are kept",
    status=404,
)
HALTED = define(
    "gatekeeper.halted",
    ChainViewError,
    check="finalised blocks descend from the checkpoint that this member signed last",
    remedy="a finalised block was replaced, or an endpoint lies: find out which; then `cloister gatekeeper resume`",
    status=503,
)
STALE = define(
    "gatekeeper.stale_checkpoint",
    ChainViewError,
    check=f"a request's checkpoint is at most {MAX_LAG} blocks behind this member's finalised head",
    remedy="fetch the newest checkpoint and ask again",
    status=409,
)
FOREIGN = define(
    "gatekeeper.foreign_checkpoint",
    ChainViewError,
    check="a request's checkpoint is of this chain and agrees with the one this member signed at that height",
    remedy="ask the committee for a checkpoint; if it repeats, two committees exist: stop",
    status=409,
)


NOT_BELIEVED = define(
    "gatekeeper.not_believed",
    ChainViewError,
    check="the believed block is final at this member's endpoints, and no lower than the last one that it signed",
    remedy="wait until the chain is past that height, mend the endpoints, and name the block again",
    status=409,
)


class Line(Protocol):
    """A chain as far as its checkpoints go (``ports.Chain``, ``chain.finality.Follower``)."""

    async def advance(self) -> tuple[Header, ...]:
        """New final headers, oldest first."""

    async def header(self, number: int) -> Header:
        """The final header at a height."""


class Checkpoints:
    """One member's book of signed checkpoints in one term.

    ``after``: the last one that this member signed in the term before; blocks of this term descend from it."""

    def __init__(
        self,
        store: Book,
        office: Office,
        chain_id: int,
        *,
        after: Checkpoint | None = None,
        saw: Callable[[Signed], None] | None = None,
    ) -> None:
        """``saw``: takes a checkpoint with its members' signatures that is another than ours of that height."""
        self._store, self._office, self._chain_id, self._saw = store, office, chain_id, saw
        kept, believed = store.checkpoints(), _believed(store)
        floor = -1 if believed is None else believed.number
        self._book = {c.number: SignedBy(c, s) for c, s in kept if c.term == office.term and c.number > floor}
        self._signed = max((c.number for c, _ in kept), default=-1)
        newer = believed is not None and (after is None or believed.number >= after.number)
        self._newest, self._after = max(self._book, default=-1), believed if newer else after
        self.halted = store.get("halted") is not None

    @property
    def after(self) -> Checkpoint | None:
        """Where this book goes on while it is empty: the end of the term before, or the block that is believed."""
        return self._after

    @property
    def head(self) -> Checkpoint | None:
        """The newest checkpoint that this member signed."""
        found = self._book.get(self._newest)
        return None if found is None else _statement(found)

    async def follow(self, chain: Line) -> Checkpoint | None:
        """Sign every new finalised block. Returns the newest one signed now, or None.

        1. not halted; 2. headers that lead from the last one to a vouched one; 3. may be signed; 4. remembered in one
        write, then kept for whoever asks. A fork halts this member for good (gatekeeper.halted).
        """
        headers = await self.headers(chain)  # 1, 2
        return self.sign(headers) if headers else None

    async def headers(self, chain: Line) -> tuple[Header, ...]:
        """New finalised headers, to be signed. Raises CloisterError; a fork halts this member for good."""
        self.require_running()
        last = self.head or self._after
        try:
            return await chain.advance()
        except CloisterError as error:
            if last is None or error.code not in _FORKS:
                raise
            found = await chain.header(last.number)
            if found.hash != last.block_hash:
                raise self._halt(f"another final block {last.number}: 0x{found.hash.hex()[:16]}…") from None
            raise

    def sign(self, headers: Sequence[Header]) -> Checkpoint:
        """Sign verified headers, oldest first, the first a child of the last signed block. Raises ChainViewError."""
        newest, last = self.require_line(headers), self.head or self._after
        if last is None or newest.number > last.number:
            self._keep([self._statement(h) for h in headers])  # 4
        return newest

    def require_line(self, headers: Sequence[Header]) -> Checkpoint:
        """Halt unless the headers descend from the last signed block; what would be signed. Raises ChainViewError."""
        self.require_running()
        last, newest = self.head or self._after, self._statement(headers[-1])
        try:
            may_sign(last, newest, headers if last is not None else headers[-1:])  # 3
        except ChainViewError as error:
            raise self._halt(f"{error.code}: {error.found}") from None
        return newest

    def newest(self) -> SignedBy:
        """The newest signed checkpoint. Raises ChainViewError."""
        return self.at(self._newest)

    def at(self, number: int) -> SignedBy:
        """The signed checkpoint of a height. Raises ChainViewError chainview.no_checkpoint, gatekeeper.halted."""
        self.require_running()
        if number not in self._book:
            raise NO_CHECKPOINT(expected=f"a checkpoint of height {number}", found=f"the newest is {self._newest}")
        return self._book[number]

    def since(self, number: int) -> tuple[SignedBy, ...]:
        """What this member signed from a height on, oldest first; nothing after a conflict."""
        return () if self.halted else tuple(self._book[n] for n in sorted(self._book) if n >= number)

    def recent(self) -> frozenset[bytes]:
        """Block hashes that a binding may name as recently seen."""
        return frozenset(_statement(s).block_hash for s in self._book.values())

    def accept(self, signed: Signed) -> Checkpoint:
        """A checkpoint that a requester shows. Raises EncodingError, ChainViewError.

        1. this member runs; 2. of this chain; 3. t members signed it; 4. not too far behind; 5. where this member
        signed the same height, it is the same block.
        """
        self.require_running()  # 1
        shown = signed.statement
        if not isinstance(shown, Checkpoint) or shown.chain_id != self._chain_id:  # 2
            raise FOREIGN(expected=f"a checkpoint of chain {self._chain_id}", found="another chain")
        signed.verify(self._office.signers, self._office.network)  # 3
        if shown.number < self._newest - MAX_LAG:  # 4
            raise STALE(expected=f"height {self._newest - MAX_LAG} or later", found=str(shown.number))
        mine = self._book.get(shown.number)
        if mine is not None and mine.statement != shown:  # 5
            if self._saw is not None:
                self._saw(signed)
            raise FOREIGN(expected="the block that this member signed", found="another block of that height")
        return shown

    def require_still_there(self, last: Checkpoint, found: Header) -> None:
        """Halt unless the block that was signed last, before this process started, is still final."""
        if found.hash != last.block_hash:
            raise self._halt(f"another final block {last.number}: 0x{found.hash.hex()[:16]}…")

    def believe(self, word: Believed, found: Header) -> None:
        """Go on after a conflict, from the block that the operator believes (K4). Raises ChainViewError.

        1. no lower than what was signed last, on any branch: no height is signed twice; 2. our endpoints have that
        block; 3. remembered. What was signed up to it is shown to nobody any more."""
        if word.number < self._signed:  # 1
            raise NOT_BELIEVED(expected=f"block {self._signed} or later", found=f"block {word.number}")
        if (found.number, found.hash) != (word.number, word.block_hash):  # 2
            raise NOT_BELIEVED(expected=f"0x{word.block_hash.hex()[:16]}…", found=f"0x{found.hash.hex()[:16]}…")
        after = self._statement(found)
        self._store.put("believed", jcs.encode(after.to_json()))  # 3
        self._store.erase("halted")
        self._book, self._newest, self._after, self.halted = {}, -1, after, False

    def require_running(self) -> None:
        """Raise ChainViewError (gatekeeper.halted) after a conflict."""
        if self.halted:
            raise HALTED(expected="descendants of the last checkpoint", found="a conflict, seen before")

    def _keep(self, statements: list[Checkpoint]) -> None:
        signed = [SignedBy(c, self._office.sign(c)) for c in statements]
        self._store.add_checkpoints([(c, s.signature) for c, s in zip(statements, signed, strict=True)])
        self._book |= {c.number: s for c, s in zip(statements, signed, strict=True)}
        self._newest = statements[-1].number
        for old in [n for n in self._book if n <= self._newest - KEEP_CHECKPOINTS]:
            del self._book[old]

    def _statement(self, h: Header) -> Checkpoint:
        return Checkpoint(self._office.term, self._chain_id, h.number, h.hash, h.state_root, h.timestamp)

    def _halt(self, why: str) -> CloisterError:
        self._store.put("halted", why.encode())
        self.halted = True
        return HALTED(expected="descendants of the last checkpoint", found=why)


def _believed(store: Book) -> Checkpoint | None:
    data = store.get("believed")
    return None if data is None else Checkpoint.from_json(jcs.decode(data))


def _statement(signed: SignedBy) -> Checkpoint:
    if not isinstance(signed.statement, Checkpoint):
        raise TypeError("the book holds checkpoints only")
    return signed.statement
