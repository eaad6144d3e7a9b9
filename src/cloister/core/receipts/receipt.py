"""Receipts: what ran, where, on what; how a worker issues them (spec/receipts.md). An outsider's half is ``verify.py``.

A receipt proves that hardware attested as X signed these words. It does not prove that the answer is true.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context, digest
from cloister.core.encoding.hexes import from_hex, need_bytes, need_fields, need_uint, need_version, to_hex
from cloister.core.envelope.certificate import KeyCertificate
from cloister.core.errors import CloisterError, ReceiptError, define

MAX_RECEIPT: Final = 4096
VERSION: Final = 2
ZERO: Final = bytes(32)
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


@dataclass(frozen=True, slots=True)
class Usage:
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
        for name in _USED:
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value < _LIMIT:
                need_uint(name, value, 53)


_USED: Final = tuple(f.name for f in fields(Usage))
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
    usage: Usage = Usage()

    def __post_init__(self) -> None:
        values = self.__dict__  # one per call of an agent: what is right is not looked at twice
        for name, size in _SIZES.items():
            value = values[name]
            if type(value) is not bytes or len(value) != size:
                need_bytes(name, value, size)
        for name in _UINTS:
            value = values[name]
            if type(value) is not int or not 0 <= value < _LIMIT:
                need_uint(name, value, 53)

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
            found = self.__dict__["_id"] = digest(Context.RECEIPT, self.encoded)
        return found

    def _encode(self) -> bytes:
        state, usage = self.state, self.usage
        return (
            f'{{"agent":"0x{self.agent.hex()}","boot":"0x{self.boot.hex()}","checkpoint":{self.checkpoint},'
            f'"code_hash":"0x{self.code_hash.hex()}","epochs":{{"agent":{self.agent_epoch},'
            f'"cluster":{self.cluster_epoch},"master":{self.master_epoch}}},"host_time_ms":{self.host_time_ms},'
            f'"manifest_hash":"0x{self.manifest_hash.hex()}","network":"0x{self.network.hex()}",'
            f'"prev":"0x{self.prev.hex()}","request":"0x{self.request.hex()}",'
            f'"request_id":"0x{self.request_id.hex()}","response":"0x{self.response.hex()}","seq":{self.seq},'
            f'"state":{{"after":"0x{state.after.hex()}","before":"0x{state.before.hex()}","kind":"{state.kind}"}},'
            f'"status":{self.status},"usage":{{"cpu_us":{usage.cpu_us},"duration_us":{usage.duration_us},'
            f'"egress_bytes":{usage.egress_bytes},"ingress_bytes":{usage.ingress_bytes},'
            f'"memory_peak_bytes":{usage.memory_peak_bytes},"request_bytes":{usage.request_bytes},'
            f'"response_bytes":{usage.response_bytes}}},"v":{VERSION},'
            f'"worker":"0x{self.worker.hex()}"}}'
        ).encode()

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
        receipt = self._next(certificate, exchange, checkpoint, host_time_ms, state or NO_CHANGE, usage or Usage())
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
        receipt = self._next(certificate, exchange, checkpoint, host_time_ms, state or NO_CHANGE, usage or Usage())
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
