"""Receipts: what ran, where, on what; how a worker issues them (spec/receipts.md). An outsider's half is ``verify.py``.

A receipt proves that hardware attested as X signed these words. It does not prove that the answer is true.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Literal

import msgspec

from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context, frame
from cloister.core.encoding.hexes import from_hex, need_bytes, need_fields, need_uint, need_version, to_hex
from cloister.core.envelope.certificate import KeyCertificate
from cloister.core.errors import CloisterError, ReceiptError, define

MAX_RECEIPT: Final = 4096
VERSION: Final = 2
ZERO: Final = bytes(32)
_ID: Final = frame(Context.RECEIPT)
_KINDS_OF_RECEIPTS: Final = 1024
StateKind = Literal["local", "endorsed", "none"]
_KINDS: Final = ("local", "endorsed", "none")

MALFORMED = define(
    "receipt.malformed",
    ReceiptError,
    check="the receipt is canonical JSON with exactly the fields of spec/receipts.md",
    remedy="ask the worker for the receipt again; a damaged one proves nothing",
)


@dataclass(frozen=True, slots=True)
class StateChange:
    """State head before and after (32 bytes each, zero when ``kind`` is "none")."""

    before: bytes = ZERO
    after: bytes = ZERO
    kind: StateKind = "none"

    def __post_init__(self) -> None:
        for name, value in (("state head before", self.before), ("state head after", self.after)):
            if value is not ZERO:
                need_bytes(name, value, 32)
        if self.kind not in _KINDS:
            raise MALFORMED(expected=f"a state kind of {', '.join(_KINDS)}", found=repr(self.kind)[:40])


class Usage(msgspec.Struct, frozen=True):
    """What the worker measured: microseconds and bytes. ``egress_bytes``: sent, ``ingress_bytes``: received through
    the proxy. ``memory_peak_bytes``: the most that the process held in memory since its start."""

    cpu_us: int = 0
    duration_us: int = 0
    egress_bytes: int = 0
    ingress_bytes: int = 0
    memory_peak_bytes: int = 0
    request_bytes: int = 0
    response_bytes: int = 0

    def __post_init__(self) -> None:
        for value in (
            self.cpu_us,
            self.duration_us,
            self.egress_bytes,
            self.ingress_bytes,
            self.memory_peak_bytes,
            self.request_bytes,
            self.response_bytes,
        ):
            if type(value) is not int or not 0 <= value < _LIMIT:
                for name in _USED:
                    need_uint(name, getattr(self, name), 53)


_USED: Final = Usage.__struct_fields__
_LIMIT: Final = 1 << 53
_SIZES: Final = {
    "network": 32,
    "agent": 32,
    "code_hash": 32,
    "manifest_hash": 32,
    "worker": 20,
    "boot": 32,
    "prev": 32,
    "request_id": 16,
    "request": 32,
    "response": 32,
}
_NUMBERS: Final = ("seq", "status", "checkpoint", "host_time_ms")
_EPOCHS: Final = ("master", "cluster", "agent")
_UINTS: Final = (*_NUMBERS, *(f"{name}_epoch" for name in _EPOCHS))
_NAMES: Final = frozenset({"v", "epochs", "state", "usage", *_SIZES, *_NUMBERS})
NO_CHANGE: Final = StateChange()
NO_USAGE: Final = Usage()


@dataclass(frozen=True)
class Receipt:
    """One call's receipt. Ids and commitments are 32 bytes, ``worker`` 20, ``request_id`` 16.

    ``checkpoint`` is a block height; ``host_time_ms`` is the host's clock and proves nothing.
    """

    network: bytes
    agent: bytes
    code_hash: bytes
    manifest_hash: bytes
    master_epoch: int
    cluster_epoch: int
    agent_epoch: int
    worker: bytes
    boot: bytes
    seq: int
    prev: bytes
    request_id: bytes
    request: bytes
    response: bytes
    status: int
    checkpoint: int
    host_time_ms: int
    state: StateChange = NO_CHANGE
    usage: Usage = NO_USAGE

    def __post_init__(self) -> None:
        for name, size in _SIZES.items():
            need_bytes(name, getattr(self, name), size)
        for name in _UINTS:
            need_uint(name, getattr(self, name), 53)

    @property
    def encoded(self) -> bytes:
        """The canonical bytes. Written directly, keys in JCS order: a test holds it equal to ``jcs.encode``."""
        found: bytes | None = self.__dict__.get("_encoded")
        if found is None:  # not cached_property: before Python 3.12 that takes a lock
            found = self.__dict__["_encoded"] = self._encode()
        return found

    @property
    def id(self) -> bytes:
        """digest(RECEIPT, bytes): what the worker signs. 32 bytes."""
        found: bytes | None = self.__dict__.get("_id")
        if found is None:
            text = self.encoded  # digest(RECEIPT, text), written out
            found = self.__dict__["_id"] = sha256(b"%b%b%b" % (_ID, len(text).to_bytes(4, "big"), text)).digest()
        return found

    def _encode(self) -> bytes:
        state, usage, (lead, code, network, worker) = self.state, self.usage, self._fixed()
        change = _NONE if state is NO_CHANGE else _change(state)
        return (
            f'{lead}{self.checkpoint}{code}{self.host_time_ms}{network}{self.prev.hex()}","request":"0x'
            f'{self.request.hex()}","request_id":"0x{self.request_id.hex()}","response":"0x{self.response.hex()}",'
            f'"seq":{self.seq},{change},"status":{self.status},"usage":{{"cpu_us":{usage.cpu_us},'
            f'"duration_us":{usage.duration_us},"egress_bytes":{usage.egress_bytes},'
            f'"ingress_bytes":{usage.ingress_bytes},"memory_peak_bytes":{usage.memory_peak_bytes},'
            f'"request_bytes":{usage.request_bytes},"response_bytes":{usage.response_bytes}}}{worker}'
        ).encode()

    def _fixed(self) -> tuple[str, str, str, str]:
        """The parts of the text that are the same in all receipts of one certificate."""
        found: tuple[str, str, str, str] | None = self.__dict__.get("_parts")
        if found is None:
            found = self.__dict__["_parts"] = (
                f'{{"agent":"0x{self.agent.hex()}","boot":"0x{self.boot.hex()}","checkpoint":',
                f',"code_hash":"0x{self.code_hash.hex()}","epochs":{{"agent":{self.agent_epoch},'
                f'"cluster":{self.cluster_epoch},"master":{self.master_epoch}}},"host_time_ms":',
                f',"manifest_hash":"0x{self.manifest_hash.hex()}","network":"0x{self.network.hex()}","prev":"0x',
                f',"v":{VERSION},"worker":"0x{self.worker.hex()}"}}',
            )
        return found

    def following(
        self,
        seq: int,
        prev: bytes,
        exchange: Exchange,
        checkpoint: int,
        host_time_ms: int,
        state: StateChange,
        usage: Usage,
    ) -> Receipt:
        """Another receipt of the same certificate: only what differs is looked at, and put into words.

        Raises EncodingError."""
        need_bytes("prev", prev, 32)
        need_bytes("request_id", exchange.request_id, 16)
        need_bytes("request", exchange.request, 32)
        need_bytes("response", exchange.response, 32)
        for value in (seq, exchange.status, checkpoint, host_time_ms):
            if type(value) is not int or not 0 <= value < _LIMIT:
                need_uint("a number of a receipt", value, 53)
        made = object.__new__(Receipt)
        values = made.__dict__
        values.update(self.__dict__)
        values.pop("_encoded", None)
        values.pop("_id", None)
        values["_parts"] = self._fixed()
        values["seq"], values["prev"] = seq, prev
        values["request_id"], values["status"] = exchange.request_id, exchange.status
        values["request"], values["response"] = exchange.request, exchange.response
        values["checkpoint"], values["host_time_ms"] = checkpoint, host_time_ms
        values["state"], values["usage"] = state, usage
        return made

    def to_json(self) -> dict[str, Any]:
        """JSON-ready fields, bytes as hex."""
        return {
            "v": VERSION,
            **{name: to_hex(getattr(self, name)) for name in _SIZES},
            **{name: getattr(self, name) for name in _NUMBERS},
            "epochs": {name: getattr(self, f"{name}_epoch") for name in _EPOCHS},
            "state": {
                "before": to_hex(self.state.before),
                "after": to_hex(self.state.after),
                "kind": self.state.kind,
            },
            "usage": {name: getattr(self.usage, name) for name in _USED},
        }

    @classmethod
    def from_json(cls, value: object) -> Receipt:
        """Parse ``to_json`` output. Raises EncodingError or ReceiptError; unknown fields are refused."""
        data = need_fields("receipt", value, _NAMES)
        need_version("receipt", data["v"], VERSION)
        epochs = need_fields("epochs", data["epochs"], set(_EPOCHS))
        state = need_fields("state", data["state"], {"before", "after", "kind"})
        usage = need_fields("usage", data["usage"], set(_USED))
        values: dict[str, Any] = {name: from_hex(data[name], size, name=name) for name, size in _SIZES.items()}
        values |= {name: data[name] for name in _NUMBERS}
        values |= {f"{name}_epoch": epochs[name] for name in _EPOCHS}
        before, after = (from_hex(state[name], 32, name=name) for name in ("before", "after"))
        return cls(**values, state=StateChange(before, after, state["kind"]), usage=Usage(**usage))

    @classmethod
    def decode(cls, data: bytes) -> Receipt:
        """Parse canonical bytes. Raises ReceiptError (receipt.malformed)."""
        try:
            return cls.from_json(jcs.decode(data, max_size=MAX_RECEIPT))
        except ReceiptError:
            raise
        except CloisterError as error:
            raise MALFORMED(expected=error.expected, found=error.found) from None


def _change(state: StateChange) -> str:
    return f'"state":{{"after":"0x{state.after.hex()}","before":"0x{state.before.hex()}","kind":"{state.kind}"}}'


_NONE: Final = _change(NO_CHANGE)


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a caller knows of its own call: request id (16 bytes), status, and its own two commitments."""

    request_id: bytes
    status: int
    request: bytes
    response: bytes


class ReceiptChain:
    """The log of one worker boot: numbers receipts, links each to the one before it, signs them."""

    def __init__(self, worker: bytes, boot: bytes, sign: Callable[[bytes], bytes]) -> None:
        self._worker, self._boot, self._sign = worker, boot, sign
        self._seq, self._prev = 0, ZERO
        self._like: OrderedDict[bytes, Receipt] = OrderedDict()  # one receipt of each certificate

    @property
    def head(self) -> tuple[int, bytes]:
        """(number of receipts so far, id of the last or zero)."""
        return self._seq, self._prev

    def issue(
        self,
        certificate: KeyCertificate,
        exchange: Exchange,
        *,
        checkpoint: int,
        host_time_ms: int,
        state: StateChange | None = None,
        usage: Usage | None = None,
    ) -> tuple[Receipt, bytes]:
        """``add`` with its 65-byte signature, alone: a signature that fails takes no number."""
        receipt = self._next(certificate, exchange, checkpoint, host_time_ms, state or NO_CHANGE, usage or NO_USAGE)
        signature = self.sign(receipt.id)
        self._seq, self._prev = self._seq + 1, receipt.id
        return receipt, signature

    def add(
        self,
        certificate: KeyCertificate,
        exchange: Exchange,
        *,
        checkpoint: int,
        host_time_ms: int,
        state: StateChange | None = None,
        usage: Usage | None = None,
    ) -> Receipt:
        """The next receipt of this boot, to be signed with others. Raises ValueError for another boot's certificate."""
        receipt = self._next(certificate, exchange, checkpoint, host_time_ms, state or NO_CHANGE, usage or NO_USAGE)
        self._seq, self._prev = self._seq + 1, receipt.id
        return receipt

    def sign(self, digest: bytes) -> bytes:
        """The worker's 65-byte signature over 32 bytes."""
        return self._sign(digest)

    def _next(
        self,
        certificate: KeyCertificate,
        exchange: Exchange,
        checkpoint: int,
        host_time_ms: int,
        state: StateChange,
        usage: Usage,
    ) -> Receipt:
        like = self._like.get(certificate.id)
        if like is None:
            first = self._first(certificate, exchange, checkpoint, host_time_ms, state, usage)
            like = self._like[certificate.id] = first
            if len(self._like) > _KINDS_OF_RECEIPTS:
                self._like.popitem(last=False)
        return like.following(self._seq, self._prev, exchange, checkpoint, host_time_ms, state, usage)

    def _first(
        self,
        certificate: KeyCertificate,
        exchange: Exchange,
        checkpoint: int,
        host_time_ms: int,
        state: StateChange,
        usage: Usage,
    ) -> Receipt:
        if certificate.boot != self._boot or certificate.worker != self._worker:
            raise ValueError("the certificate is of another worker or boot")
        return Receipt(
            network=certificate.network,
            agent=certificate.agent,
            code_hash=certificate.code_hash,
            manifest_hash=certificate.manifest_hash,
            master_epoch=certificate.master_epoch,
            cluster_epoch=certificate.cluster_epoch,
            agent_epoch=certificate.agent_epoch,
            worker=self._worker,
            boot=self._boot,
            seq=self._seq,
            prev=self._prev,
            request_id=exchange.request_id,
            request=exchange.request,
            response=exchange.response,
            status=exchange.status,
            checkpoint=checkpoint,
            host_time_ms=host_time_ms,
            state=state,
            usage=usage,
        )
