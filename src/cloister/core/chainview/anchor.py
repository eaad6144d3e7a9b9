"""What the Anchor says, by proof: an agent's queue, open requests, who may answer (spec/anchor.md 8-10, 21)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any, Final

from cloister.core.chainview.layout import Layout, add, address_key, data_slot, mapping_slot
from cloister.core.chainview.words import BAD_RECORD, Slots, Struct
from cloister.core.encoding.hexes import from_hex, need_bytes, need_fields, need_uint, to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import ChainViewError, define

RING: Final = 16
MAX_PAYLOAD: Final = 16_384
MAX_COPIES: Final = 8
MAX_VALUE: Final = 1_024
SEALED_PAYLOAD, SEALED_REPLY = 1, 2

WITHHELD = define(
    "chainview.requests_withheld",
    ChainViewError,
    check="the requests that an endpoint tells of are those that the proven queue holds, all of them, in order",
    remedy="the endpoint withholds, adds or changes requests, or has pruned their logs: use another one",
    status=503,
)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, as its commitment names it. Hashes and the agent are 32 bytes, the requester 20. deadline: Unix s."""

    agent: bytes
    index: int
    requester: bytes
    fee: int
    code_hash: bytes
    gas_limit: int
    deadline: int
    copies: int
    flags: int
    payload_hash: bytes

    def commitment(self) -> bytes:
        """keccak256 of its ten words. 32 bytes."""
        words = [v if isinstance(v, bytes) else v.to_bytes(32, "big") for v in astuple(self)]
        return keccak256(*(word.rjust(32, b"\0") for word in words))

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; the fee as decimal text."""
        plain = {n: getattr(self, n) for n in self.__slots__}
        return {n: to_hex(v) if isinstance(v, bytes) else v for n, v in (plain | {"fee": str(self.fee)}).items()}

    @classmethod
    def from_json(cls, value: object) -> Asked:
        """Parse ``to_json``. Raises EncodingError."""
        data = need_fields("request", value, set(cls.__slots__))
        sizes = {"agent": 32, "requester": 20, "code_hash": 32, "payload_hash": 32}
        bits = {"index": 64, "gas_limit": 64, "deadline": 64, "copies": 8, "flags": 8}
        fee = data["fee"] if isinstance(data["fee"], str) and data["fee"].isdigit() else None
        made: dict[str, Any] = {n: from_hex(data[n], size, name=n) for n, size in sizes.items()}
        made |= {n: need_uint(n, data[n], size) for n, size in bits.items()}
        return cls(**made, fee=need_uint("fee", int(fee) if fee and len(fee) < 40 else None, 128))


@dataclass(frozen=True, slots=True)
class Queue:
    """How many requests an agent had, and the head of their hash chain (24 bytes)."""

    count: int = 0
    head: bytes = bytes(24)

    def after(self, commitment: bytes) -> Queue:
        """The queue with one request more."""
        return Queue(self.count + 1, keccak256(self.head, commitment)[:24])


@dataclass(frozen=True, slots=True)
class AnchorSeat:
    """A worker's lease at an Anchor. expiry: Unix seconds; vendor class and code hash are 32 bytes, the payee 20."""

    payee: bytes
    expiry: int
    vendor_class: bytes
    code_hash: bytes


def require_line(before: Queue, requests: Iterable[Asked], proven: Queue) -> None:
    """Raise ChainViewError unless the requests lead from one state of a queue to another, proven one.

    Each has the next index, and the hash chain over all ends at the proven head."""
    at = before
    for request in requests:
        if request.index != at.count + 1:
            raise WITHHELD(expected=f"request {at.count + 1}", found=f"request {request.index}")
        at = at.after(request.commitment())
    if at != proven:
        raise WITHHELD(expected=f"{proven.count} requests with the proven head", found=f"{at.count} or another head")


def read_queues(slots: Slots, layout: Layout, agents: Sequence[bytes]) -> tuple[Queue, ...]:
    """Agents' queues; count 0 for one that nobody asked."""
    table = layout.variable("_queues")
    bases = [mapping_slot(table.slot, need_bytes("agent", agent, 32)) for agent in agents]
    at = Struct(layout, layout.value_type(table), slots, bases)
    found = []
    for at.index in range(len(agents)):
        found.append(Queue(at.number("count"), at.number("head").to_bytes(24, "big")))
    return tuple(found)


def read_queue(slots: Slots, layout: Layout, agent: bytes) -> Queue:
    """One agent's queue."""
    return read_queues(slots, layout, [agent])[0]


def read_open(slots: Slots, layout: Layout, requests: Sequence[Asked]) -> tuple[bool, ...]:
    """For each request whether it is open: its commitment stands in its ring place or under its index."""
    ring, extra = layout.variable("_ring").slot, layout.variable("_extra").slot
    places = []
    for r in requests:
        places.append(mapping_slot(mapping_slot(ring, r.agent), (r.index % RING).to_bytes(32, "big")))
        places.append(mapping_slot(mapping_slot(extra, r.agent), r.index.to_bytes(32, "big")))
    words = slots.get(places)
    wanted = [int.from_bytes(r.commitment(), "big") for r in requests]
    return tuple(c in (words[2 * i], words[2 * i + 1]) for i, c in enumerate(wanted))


def remote_caller(chain_id: int, requester: bytes) -> bytes:
    """Who a requester of a connected chain is to an access hook: the last 20 bytes of keccak256(abi.encode(chain id,
    address)), never the address itself, which may be somebody else's here."""
    return keccak256(chain_id.to_bytes(32, "big"), need_bytes("requester", requester, 20).rjust(32, b"\0"))[-20:]


def read_entry(slots: Slots, layout: Layout, agent: bytes, key: bytes) -> tuple[int, bytes]:
    """(version, value) of an agent's store; version 0 before the first write. Raises ChainViewError (chainview.record)
    for bytes that the contract cannot have written."""
    table = layout.variable("_store")
    inner = mapping_slot(mapping_slot(table.slot, need_bytes("agent", agent, 32)), need_bytes("key", key, 32))
    version, head = slots.get([inner, add(inner, 1)])
    size = head >> 1 if head & 1 else (head & 0xFF) >> 1
    if version >> 64 or size > MAX_VALUE or (size < 32) == bool(head & 1):
        raise BAD_RECORD(expected=f"a version and at most {MAX_VALUE} bytes", found="another form")
    if not head & 1:
        return version, head.to_bytes(32, "big")[:size]
    data = data_slot(add(inner, 1))
    words = slots.get([add(data, i) for i in range(-(-size // 32))])
    return version, b"".join(word.to_bytes(32, "big") for word in words)[:size]


def read_anchor_term(slots: Slots, layout: Layout) -> tuple[int, int]:
    """(term, expiry in Unix seconds) of the signer set; term 0 before the first."""
    place = layout.variable("_set")
    at = Struct(layout, place.type, slots, [place.slot])
    return at.number("term"), at.number("expiry")


def read_seat(slots: Slots, layout: Layout, term: int, agent: bytes, epoch: int, worker: bytes) -> AnchorSeat | None:
    """A worker's lease under a term and an agent epoch; None if there is none."""
    words = [term.to_bytes(32, "big"), need_bytes("agent", agent, 32), epoch.to_bytes(32, "big"), address_key(worker)]
    table = layout.variable("_leases")
    at = Struct(layout, layout.value_type(table), slots, [mapping_slot(table.slot, keccak256(*words))])
    if at.number("expiry") == 0:
        return None
    return AnchorSeat(at.address("payee"), at.number("expiry"), at.word("vendorClass"), at.word("codeHash"))
