"""A receipt below a root that the Receipts contract holds: found, proven, kept in one file (spec/receipts.md 17, 18).

Every word that this rests on is proven at a checkpoint that the committee signed. The search needs no event of the
chain and no index that anybody names: roots of a worker stand in the order of their blocks, and a receipt names one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from cloister.chain.abi import BAD_ANSWER
from cloister.chain.proven import ProvenState
from cloister.chain.rpc import Rpc
from cloister.client.receipts import Kept
from cloister.core.chainview.logged import RootRecord, read_logged_size, read_root_count, read_roots
from cloister.core.chainview.terms import SignedHandover, Terms
from cloister.core.encoding.hexes import from_hex, need_fields, need_uint, to_hex
from cloister.core.encoding.network import Network
from cloister.core.encoding.signatures import MAX_MEMBERS, Signed
from cloister.core.encoding.statements import Checkpoint
from cloister.core.errors import EncodingError, ReceiptError, define
from cloister.core.receipts.log import LogProof
from cloister.core.receipts.merkle import MAX_PATH, hashes_from, verify_consistency
from cloister.core.receipts.receipt import Receipt

if TYPE_CHECKING:
    from cloister.client.client import Client
    from cloister.client.resolve import View

CONTRACT: Final = "Receipts"
PROBES: Final = 16
WALK: Final = 32
MAX_WALKED: Final = 1024
MAX_ANSWERS: Final = 4
MAX_HANDOVERS: Final = 4096
MAX_BUNDLE: Final = 8 << 20

NOT_ANCHORED = define(
    "receipt.not_anchored",
    ReceiptError,
    check="the Receipts contract holds a root of this worker's log that covers the receipt",
    remedy="try again in ten minutes: workers put roots on chain every `root_s` seconds (600 where nothing is set), as "
    "long as they hold gas; of a boot that ended no more roots come",
    status=404,
)
NO_CONTRACT = define(
    "client.no_receipts_contract",
    ReceiptError,
    check="the network's genesis names a Receipts contract",
    remedy="leave --on-chain out: this network keeps no roots of receipts on chain",
    status=404,
)
BAD_BUNDLE = define(
    "client.receipt_bundle",
    EncodingError,
    check="a file of `cloister receipts --export` is whole, of version 1 and of the pinned network",
    remedy="export the receipt again, or name the network that it is of",
)


@dataclass(frozen=True, slots=True)
class Anchor:
    """Why the chain holds a receipt's log: root number ``index`` of its worker, proven under ``checkpoint``.

    ``path``: consistency between that root and the head of the receipt's ``LogProof``, whichever is the longer log.
    ``answers``: what an endpoint said to eth_getProof; nothing of it is believed unproven."""

    index: int
    checkpoint: Signed
    path: tuple[bytes, ...]
    answers: tuple[Mapping[str, Any], ...]

    async def root(self, network: Network, terms: Terms, worker: bytes) -> RootRecord:
        """The root that the contract holds, by the proofs here alone. Raises CloisterError.

        1. t members of a term that may speak of the block signed the checkpoint; 2. the account proof leads to the
        pinned contract, the storage proofs to the words of this root of this worker."""
        said = self.checkpoint.statement
        if not isinstance(said, Checkpoint):
            raise BAD_BUNDLE(expected="a signed checkpoint", found=said.NAME)
        self.checkpoint.verify(terms.signers_of(said, said.number), network.id)  # 1
        return await _proven(_Replay(self.answers), network, said, worker, self.index)  # 2

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        signatures = [to_hex(one) for one in self.checkpoint.signatures]
        return {
            "index": self.index,
            "checkpoint": {"statement": self.checkpoint.statement.to_json(), "signatures": signatures},
            "path": to_hex(b"".join(self.path)),
            "answers": [dict(one) for one in self.answers],
        }

    @classmethod
    def from_json(cls, value: object) -> Anchor:
        """Parse ``to_json`` output. Raises EncodingError, ReceiptError."""
        data = need_fields("anchor", value, {"index", "checkpoint", "path", "answers"})
        signed = need_fields("signed checkpoint", data["checkpoint"], {"statement", "signatures"})
        signatures, answers = signed["signatures"], data["answers"]
        if not isinstance(signatures, list) or len(signatures) > MAX_MEMBERS:
            raise BAD_BUNDLE(expected=f"at most {MAX_MEMBERS} signatures", found=type(signatures).__name__)
        if not isinstance(answers, list) or len(answers) > MAX_ANSWERS or not all(isinstance(a, dict) for a in answers):
            raise BAD_BUNDLE(expected=f"at most {MAX_ANSWERS} proofs", found="another form")
        parsed = tuple(from_hex(one, 65, name="checkpoint signature") for one in signatures)
        said = Signed(Checkpoint.from_json(signed["statement"]), parsed)
        path = hashes_from(data["path"], MAX_PATH)
        return cls(need_uint("index", data["index"], 32), said, path, tuple(answers))


def require_one_log(proof: LogProof, root: RootRecord, path: Sequence[bytes]) -> None:
    """Raise ReceiptError (receipt.not_anchored, receipt.not_consistent) unless root and head are of one log.

    1. one boot, and the root covers the receipt; 2. the longer log begins with the shorter. As the head has the receipt
    at its number, so does the root then."""
    head = proof.statement
    if root.boot != head.boot or root.size <= proof.index:  # 1
        raise NOT_ANCHORED(expected=f"a root over receipt {proof.index} of this boot", found="a root of another log")
    old, new = sorted(((root.size, root.root), (head.size, head.root)), key=lambda one: one[0])
    verify_consistency(*old, *new, path)  # 2


async def find_root(view: View, receipt: Receipt) -> int:
    """The number of the first recorded root of the receipt's worker that covers it. Raises NOT_ANCHORED, ChainError.

    1. proven: so many receipts of this boot are below roots; 2. proven: the first root of a block not before that of
    the receipt, by rounds of ``PROBES`` places; 3. from there on, the first of this boot that is long enough."""
    state, worker = view.state, receipt.worker
    size = await state.read(CONTRACT, lambda s, at: read_logged_size(s, at, worker, receipt.boot))  # 1
    if size <= receipt.seq:
        found = f"{size} at block {view.checkpoint.number}; this one is number {receipt.seq}"
        raise NOT_ANCHORED(expected=f"a root over {receipt.seq + 1} receipts of its boot", found=found)
    count = await state.read(CONTRACT, lambda s, at: read_root_count(s, at, worker))
    start = await _first_since(view, worker, count, receipt.checkpoint)  # 2
    for low in range(start, min(count, start + MAX_WALKED), WALK):  # 3
        indexes = list(range(low, min(count, low + WALK)))
        roots = await _roots(view, worker, indexes)
        for index, one in zip(indexes, roots, strict=True):
            if one.boot == receipt.boot and one.size > receipt.seq:
                return index
    raise NOT_ANCHORED(expected=f"a root soon after block {receipt.checkpoint}", found="none of this boot there")


async def anchor(client: Client, view: View, kept: Kept) -> Anchor:
    """The proofs that put a witnessed receipt below a root on chain. Raises NOT_ANCHORED, NO_CONTRACT, ChainError, and
    what the gateway says if no worker shows the path from one log to the other."""
    if kept.proof is None:
        raise RuntimeError("a receipt is witnessed before it is anchored")
    if CONTRACT not in client.network.genesis.contracts:
        raise NO_CONTRACT(expected="a Receipts contract", found="none")
    index = await find_root(view, kept.receipt)
    recorder = _Recorder(client.rpc)
    root = await _proven(recorder, client.network, view.checkpoint, kept.receipt.worker, index)
    old, new = sorted((root.size, kept.proof.statement.size))
    path: tuple[bytes, ...] = ()
    if old != new:
        path = hashes_from((await client.gateway.receipt_consistency(kept.receipt.id, old, new))["path"], MAX_PATH)
    return Anchor(index, view.signed, path, tuple(recorder.answers))


@dataclass(frozen=True, slots=True)
class Bundle:
    """A receipt with all that a later check needs but the network's fingerprint. ``network``: bytes of network.json;
    ``handovers``: those that lead from it to the terms that signed."""

    network: bytes
    handovers: tuple[SignedHandover, ...]
    kept: Kept
    anchor: Anchor

    def encode(self) -> bytes:
        """The file."""
        value = {
            "cloister": "receipt bundle",
            "version": 1,
            "network": self.network.decode(),
            "handovers": [one.to_json() for one in self.handovers],
            "receipt": self.kept.to_json(),
            "anchor": self.anchor.to_json(),
        }
        return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> Bundle:
        """Parse ``encode`` output; nothing of it is verified. Raises EncodingError, ReceiptError."""
        value = _object(data)
        data_of = need_fields("receipt bundle", value, _FIELDS)
        handovers = data_of["handovers"]
        if data_of["cloister"] != "receipt bundle" or data_of["version"] != 1:
            raise BAD_BUNDLE(expected="a receipt bundle of version 1", found="another file")
        if not isinstance(handovers, list) or len(handovers) > MAX_HANDOVERS:
            raise BAD_BUNDLE(expected=f"at most {MAX_HANDOVERS} hand-overs", found="another form")
        kept = Kept.from_json(data_of["receipt"])
        if kept.proof is None or not isinstance(data_of["network"], str):
            raise BAD_BUNDLE(expected="a network file, and a receipt with its proof", found="none")
        told = tuple(SignedHandover.from_json(one) for one in handovers)
        return cls(data_of["network"].encode(), told, kept, Anchor.from_json(data_of["anchor"]))


def is_bundle(data: bytes) -> bool:
    """Whether a file means to be a bundle, and not a kept receipt alone."""
    return len(data) <= MAX_BUNDLE and b'"receipt bundle"' in data[:200]


_FIELDS: Final = {"cloister", "version", "network", "handovers", "receipt", "anchor"}


def _object(data: bytes) -> Any:
    try:
        return json.loads(data) if len(data) <= MAX_BUNDLE else None
    except (ValueError, RecursionError):
        return None


async def _first_since(view: View, worker: bytes, count: int, block: int) -> int:
    """The first root that is on chain since ``block`` or later; ``count`` if there is none."""
    low, high = 0, count  # all below low are older, all from high on are not
    while low < high:
        places = sorted({low + (high - low) * i // PROBES for i in range(PROBES)})
        for place, one in zip(places, await _roots(view, worker, places), strict=True):
            if one.at_block >= block:
                high = place
                break
            low = place + 1
    return low


async def _roots(view: View, worker: bytes, indexes: list[int]) -> list[RootRecord]:
    return await view.state.read(CONTRACT, lambda s, at: read_roots(s, at, worker, indexes))


async def _proven(rpc: Rpc, network: Network, said: Checkpoint, worker: bytes, index: int) -> RootRecord:
    """One root by fresh proofs of this contract alone. Raises ChainError, ChainViewError, NO_CONTRACT."""
    reference = network.genesis.contracts.get(CONTRACT)
    if reference is None:
        raise NO_CONTRACT(expected="a Receipts contract", found="none")
    state = ProvenState(rpc, {CONTRACT: reference.address}, said, code_hashes={CONTRACT: reference.code_hash})
    return (await state.read(CONTRACT, lambda s, at: read_roots(s, at, worker, [index])))[0]


class _Recorder(Rpc):
    """Asks another endpoint, and keeps what proves something."""

    def __init__(self, rpc: Rpc) -> None:
        super().__init__(rpc.url)
        self._rpc = rpc
        self.answers: list[Mapping[str, Any]] = []

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """The other's answers."""
        answers = await self._rpc.batch(calls)
        self.answers += [_kept(one) for one in answers]
        return answers


class _Replay(Rpc):
    """An endpoint that gives kept answers, in their order, whatever is asked."""

    def __init__(self, answers: Sequence[Mapping[str, Any]]) -> None:
        super().__init__("")
        self._answers = list(answers)

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        """The next ones. Raises ChainError when there are no more."""
        if len(calls) > len(self._answers):
            raise BAD_ANSWER(expected="a kept proof", found="none left")
        given, self._answers = self._answers[: len(calls)], self._answers[len(calls) :]
        return list(given)


def _kept(answer: Any) -> dict[str, Any]:
    """What verification reads of an answer to eth_getProof."""
    entries = answer.get("storageProof") if isinstance(answer, dict) else None
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise BAD_ANSWER(expected="a proof", found=type(answer).__name__)
    words = [{"value": one.get("value"), "proof": one.get("proof")} for one in entries]
    return {"accountProof": answer.get("accountProof"), "storageProof": words}
