"""Fuzz targets of the protocol: every parser of bytes that a caller, a gateway, a peer, a chain or a disk hands over.

A target returns, or raises a CloisterError; whatever else comes out is a bug. Where bytes have one form, a target also
holds the parser to it: what was accepted must encode to the same bytes again. ``drive.py`` runs one target
under atheris.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from cloister.chain import abi
from cloister.chain.contracts import artifact, decode, describe_revert
from cloister.chain.headers import header_of
from cloister.chain.proven import ProvenState
from cloister.chain.rpc import Rpc
from cloister.core.chainview import rlp
from cloister.core.chainview.header import verify_header
from cloister.core.chainview.proofs import verify_account, verify_slot, verify_trie
from cloister.core.encoding import jcs
from cloister.core.encoding.contexts import Context
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.identity import Epochs
from cloister.core.encoding.keccak import keccak256
from cloister.core.encoding.log_statements import LogHead, WorkerLog
from cloister.core.encoding.network import Genesis, Network
from cloister.core.encoding.signatures import Signed, recover, sign_digest
from cloister.core.encoding.statements import Checkpoint, Lease, WorkerAdmission
from cloister.core.envelope import (
    bhttp,
    bhttp_client,
    model,
    oblivious,
    oblivious_answer,
    oblivious_client,
    ohttp,
    ohttp_chunks,
    ohttp_client,
)
from cloister.core.envelope.certificate import KeyCertificate, Seat
from cloister.core.envelope.opener import Opener
from cloister.core.errors import CloisterError, from_wire
from cloister.core.keys import hpke, keystore, seal
from cloister.core.receipts.batch import BatchPath
from cloister.core.receipts.kept import OwnerKey, open_as_caller, open_as_owner, seal_kept
from cloister.core.receipts.log import LogProof
from cloister.core.receipts.receipt import Exchange, Receipt, ReceiptChain
from cloister.gateway import relay
from cloister.gateway.calls import SEALED_CALLS
from cloister.gateway.oblivious import KEYS as OBLIVIOUS_KEYS
from cloister.wire import heads, messages
from cloister.wire.announce import Announcement, split_call
from cloister.wire.connection import HEADER, Connection, Type, parse_error
from cloister.wire.http import HttpConnection, HttpServer
from cloister.wire.logs import HeldLog, LogAnswer, LogRequest
from support.doors import NETWORK_FILE, checkpoint
from support.sealed import (
    AGENT,
    BOOT,
    MPK,
    NETWORK,
    NOW,
    WORKER,
    World,
    answer,
    derived,
    head,
    key,
    lease,
    make_seat,
    open_fixed,
)

Target = Callable[[bytes], object]
MAX_SIZE: Final = 65536


def random(size: int) -> bytes:
    """Bytes that are the same in every run."""
    return bytes((i * 7 + 3) % 256 for i in range(size))


# Fixed, so that what one process sealed as a seed is what another seals.
REQUEST_ID = "0x" + "5a" * 16


@functools.cache
def world() -> tuple[World, bytes, bytes]:
    """One worker, one record sealed to it, and the answer to it."""
    made = World()
    sealed = made.seal(b"question")
    return made, sealed.data, answer(World.open(made, sealed.data))


def same(encoded: bytes, data: bytes) -> None:
    """What was accepted is what would be written."""
    assert encoded == data, "accepted bytes that are not the one form"


def _json(read: Callable[[Any], Any], again: Callable[[Any], Any] | None = None) -> Target:
    """A parser of JSON values; ``again`` gives back the value that was read."""

    def target(data: bytes) -> object:
        value = messages.parse_json(data)
        found = read(value)
        if again is not None:
            assert again(found) == value, "accepted a value that it would not write"
        return found

    return target


def _record(data: bytes) -> None:
    found = model.decode_record(data, max_size=MAX_SIZE)
    sent = found.kem + found.ibe if found.xwing else found.ibe
    same(model.encode_record(found.header, sent, found.ciphertext), data)


def _request(data: bytes) -> None:
    """A whole request at a worker that has served one: nothing that differs from it may open."""
    made, good, _ = world()
    try:
        made.server.open_request(AGENT, data, NOW, open_fixed)
    except CloisterError:
        return
    raise AssertionError("a forged record opened" if data != good else "a record opened twice")


def _bhttp_request(data: bytes) -> None:
    """What was read can be written, and is read again as the same."""
    found = bhttp.decode_request(data, max_content=MAX_SIZE)
    for indeterminate in (False, True):
        text = bhttp_client.encode_request(found, indeterminate=indeterminate, size=len(data))
        assert bhttp.decode_request(text, max_content=MAX_SIZE) == found


def _bhttp_response(data: bytes) -> None:
    found = bhttp_client.decode_response(data, max_content=MAX_SIZE)
    for indeterminate in (False, True):
        text = bhttp.encode_response(found, indeterminate=indeterminate, size=len(data))
        assert bhttp_client.decode_response(text, max_content=MAX_SIZE) == found


def _ohttp_keys(data: bytes) -> None:
    for config in ohttp_client.decode_configs(data):
        assert ohttp_client.decode_config(config.encode()) == config


@functools.cache
def oblivious_world() -> tuple[Any, Any, bytes, bytes]:
    """A certificate, its oblivious key, a request to it and its answer, opened."""
    certificate = make_seat(b"\x09" * 32).certificate
    issued = oblivious.issue(certificate, derived(certificate), MPK, lambda d: sign_digest(WORKER, d), random)
    ((shown, recipient),) = issued
    sealed = oblivious_client.seal(
        ohttp_client.decode_config(shown.config), certificate, head(request_id=REQUEST_ID), b"question", random
    )
    return certificate, recipient, sealed.data, recipient.open(sealed.data, max_size=MAX_SIZE)[0]


def _ohttp_request(data: bytes) -> None:
    """Nothing that differs from what was sealed may open."""
    _, recipient, good, _ = oblivious_world()
    try:
        recipient.open(data, max_size=MAX_SIZE)
    except CloisterError:
        return
    assert data == good, "a forged request opened"


def _oblivious_call(data: bytes) -> None:
    """A message from inside the seal: whoever knows the key may write anything there."""
    certificate = oblivious_world()[0]
    found = oblivious.from_message(bhttp.decode_request(data, max_content=MAX_SIZE), certificate)
    assert oblivious.from_message(oblivious_client.to_message(certificate, found, b""), certificate) == found


def _oblivious_answer(data: bytes) -> None:
    oblivious_answer.events_of(bhttp_client.decode_response(data, max_content=MAX_SIZE))


@functools.cache
def _chunked() -> tuple[ohttp.Exchange, ohttp.Exchange, bytes]:
    """Both ends of an exchange in chunks, and its request."""
    recipient = oblivious_world()[1]
    data, exchange = ohttp_client.encapsulate(recipient.config, b"question", random, chunked=True)
    return exchange, recipient.open(data, max_size=MAX_SIZE, chunked=True)[1], data


def _ohttp_chunked_request(data: bytes) -> None:
    """No bytes that nobody sealed open, however their chunks are cut."""
    try:
        text, _ = oblivious_world()[1].open(data, max_size=MAX_SIZE, chunked=True)
    except CloisterError:
        return
    assert text == b"question", "a forged request opened"


def _ohttp_chunks(data: bytes) -> None:
    """An answer in chunks under a key that the bytes do not know: no event may come."""
    opener = oblivious_answer.StreamOpener(_chunked()[0])
    assert opener.feed(data) == []
    opener.close()
    raise AssertionError("a forged answer opened")


def _oblivious_stream(data: bytes) -> None:
    """Chunks from inside the seal, as a broken worker could send them: parted by the bytes of a name."""
    client, worker, _ = _chunked()
    sealer, opener = ohttp_chunks.ChunkSealer(worker, random), oblivious_answer.StreamOpener(client, max_body=MAX_SIZE)
    *parts, last = data.split(b"|")
    for part in parts:
        opener.feed(sealer.seal(part))
    opener.feed(sealer.seal(last, last=True))
    opener.close()


def _head(data: bytes) -> None:
    found = model.decode_request_head(data)
    assert model.decode_request_head(model.encode_json(found)) == found


def _stream(data: bytes) -> None:
    """An answer stream under a key that the bytes do not know: no event may come."""
    enc, context = _sender()
    assert len(enc) == 32
    opener = Opener(context, 0, bytes(16), max_body=1000)
    for at in range(0, len(data), 100):
        assert opener.feed(data[at : at + 100]) == []
    opener.close()
    raise AssertionError("a stream without its key came to an end")


@functools.cache
def _sender() -> tuple[bytes, hpke.Context]:
    public = hpke.private_key(random(32)).public_key().public_bytes_raw()
    return hpke.setup_sender(public, b"info", rng=random)


def _kept(data: bytes) -> None:
    """A kept receipt under keys that the bytes do not know: it opens for nobody."""
    for opens in (
        lambda: open_as_caller(data, bytes(32), bytes(32)),
        lambda: open_as_owner(data, bytes(32), 0, OwnerKey(bytes(32), BOOT)),
    ):
        try:
            opens()
        except CloisterError:
            continue
        raise AssertionError("a kept receipt opened without its keys")


def _certificate(data: bytes) -> None:
    same(KeyCertificate.decode(data).encoded, data)


def _receipt(data: bytes) -> None:
    same(Receipt.decode(data).encoded, data)


def _canonical(data: bytes) -> None:
    same(jcs.encode(jcs.decode(data)), data)


def _hex(data: bytes) -> None:
    text = data.decode("latin-1")
    assert to_hex(from_hex(text)) == text


def _network(data: bytes) -> None:
    same(Network.parse(data).encode(), data)


def _genesis(data: bytes) -> None:
    same(jcs.encode(Genesis.parse(data).to_json()), data)


def _signature(data: bytes) -> None:
    assert len(recover(bytes(32), data)) == 20


def _rlp(data: bytes) -> None:
    same(rlp.encode(rlp.decode(data)), data)


def _header(data: bytes) -> None:
    assert verify_header(data, keccak256(data)).hash == keccak256(data)


def _trie(data: bytes) -> None:
    """The bytes as nodes, cut by their own lengths, under the hash of the first."""
    nodes: list[bytes] = []
    at = 0
    while at < len(data) and len(nodes) < 70:
        size = data[at] * 4 + 1
        nodes.append(data[at + 1 : at + 1 + size])
        at += 1 + size
    root = keccak256(nodes[0]) if nodes else bytes(32)
    for read in (
        lambda: verify_trie(root, bytes(32), nodes),
        lambda: verify_account(root, bytes(20), nodes),
        lambda: verify_slot(root, 0, nodes),
    ):
        try:
            read()
        except CloisterError:
            continue


def _abi(data: bytes) -> None:
    for entry in artifact("Agents").abi:
        if entry["type"] == "function":
            types = [abi.parse(item) for item in entry["outputs"]]
            try:
                values = abi.decode(types, data)
            except CloisterError:
                continue
            same(abi.encode(types, values), data)


def _revert(data: bytes) -> None:
    assert isinstance(describe_revert(data), str)


def _call_answer(data: bytes) -> None:
    decode("Workers", "worker", data)


def _state() -> ProvenState:
    return ProvenState(Rpc("http://127.0.0.1:9"), {"Agents": b"\2" * 20}, checkpoint(5))


def _proof(value: Any) -> None:
    _state()._verify("Agents", [1], value)


def _rpc_answer(value: Any) -> None:
    rpc = Rpc("http://127.0.0.1:9")
    rpc._result({"id": 1, "method": "eth_call"}, value)


def _keystore(value: Any) -> None:
    if isinstance(value, dict) and isinstance(value.get("crypto"), dict):
        params = value["crypto"].get("kdfparams")
        if isinstance(params, dict) and isinstance(params.get("n"), int) and 2 < params["n"] <= keystore.MAX_N_R_P:
            params["n"] = 2  # the work is capped elsewhere; here it would only cost time
    keystore.decrypt_key(value, "passphrase")


def _sealed(data: bytes) -> None:
    seal.open_sealed(bytes(32), Context.KEYSTORE, b"", data)
    raise AssertionError("a blob opened under a key that did not seal it")


def _hpke(data: bytes) -> None:
    context = hpke.setup_recipient(data[:32], random(32), b"info", psk=random(32), psk_id=b"id")
    context.open_at(0, b"", data[32:])
    raise AssertionError("a ciphertext of nobody opened")


def _announcement(data: bytes) -> None:
    found = Announcement.decode(data)
    assert Announcement.decode(found.encode()) == found


def _relay(data: bytes) -> None:
    """A body that the gateway would relay is one JSON text that says the same, without what only Python calls JSON."""
    value = relay._parse(data)
    again = relay._dump(value)
    assert json.loads(again, parse_constant=pytest.fail) == value


class _Transport:
    """Takes what is written; closes when it is told."""

    def __init__(self) -> None:
        self.out, self.closing = b"", False

    def write(self, data: bytes) -> None:
        self.out += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments, **options: None


def _in_a_loop(run: Callable[[bytes, list[BaseException]], None]) -> Target:
    """``run`` inside an event loop; whatever was contained and is no refusal counts as a bug."""

    async def inside(data: bytes) -> None:
        contained: list[BaseException] = []
        run(data, contained)
        await asyncio.sleep(0)
        for error in contained:
            if not isinstance(error, CloisterError):
                raise error

    return lambda data: _loop().run_until_complete(inside(data))


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def _hear(connection: Connection, text: bytes) -> None:
    Announcement.decode(text)


def _frames(data: bytes, contained: list[BaseException]) -> None:
    end = Connection(
        accepting=True,
        handler=None,
        on_announce=_hear,
        report=lambda where, error: contained.append(error),
    )
    transport: Any = _Transport()
    end.connection_made(transport)
    for at in range(0, len(data), 50):
        end.data_received(data[at : at + 50])
    end.connection_lost(None)


def _http(data: bytes, contained: list[BaseException]) -> None:
    server = HttpServer(
        lambda exchange: exchange.reply(200, exchange.request.body),
        lambda method, target: 1000,
        report=lambda where, error: contained.append(error),
    )
    connection, transport = HttpConnection(server), _Transport()
    wire: Any = transport
    connection.connection_made(wire)
    for at in range(0, len(data), 70):
        connection.data_received(data[at : at + 70])
    connection._flush()
    connection.connection_lost(None)
    assert server.bodies == 0, "memory of a body is held by nobody"
    assert transport.out.startswith((b"", b"HTTP/1.1 "))


TARGETS: Final[dict[str, Target]] = {
    "record": _record,
    "request": _request,
    "request_head": _head,
    "answer_stream": _stream,
    "certificate": _certificate,
    "seat": _json(Seat.from_json, Seat.to_json),
    "receipt": _receipt,
    "batch_path": _json(BatchPath.from_json, BatchPath.to_json),
    "log_proof": _json(LogProof.from_json, LogProof.to_json),
    "log_request": _json(LogRequest.from_json, LogRequest.to_json),
    "log_answer": _json(LogAnswer.from_json, LogAnswer.to_json),
    "kept_receipt": _kept,
    "canonical_json": _canonical,
    "hex": _hex,
    "network_file": _network,
    "genesis_file": _genesis,
    "checkpoint": _json(Checkpoint.from_json, Checkpoint.to_json),
    "lease": _json(Lease.from_json, Lease.to_json),
    "admission": _json(WorkerAdmission.from_json, WorkerAdmission.to_json),
    "signature": _signature,
    "rlp": _rlp,
    "block_header": _header,
    "trie_proof": _trie,
    "block_json": _json(header_of),
    "contract_values": _abi,
    "revert_reason": _revert,
    "call_answer": _call_answer,
    "storage_proof": _json(_proof),
    "rpc_answer": _json(_rpc_answer),
    "wallet_file": _json(_keystore),
    "sealed_blob": _sealed,
    "hpke": _hpke,
    "announcement": _announcement,
    "call_payload": split_call,
    "frames": _in_a_loop(_frames),
    "error_frame": parse_error,
    "error_fields": _json(from_wire),
    "http": _in_a_loop(_http),
    "call_target": lambda data: SEALED_CALLS.target.fullmatch(data.decode("latin-1")),
    "oblivious_target": lambda data: OBLIVIOUS_KEYS.fullmatch(data.decode("latin-1")),
    "bhttp_request": _bhttp_request,
    "bhttp_response": _bhttp_response,
    "ohttp_keys": _ohttp_keys,
    "ohttp_request": _ohttp_request,
    "oblivious_key": _json(oblivious.ObliviousKey.from_json, oblivious.ObliviousKey.to_json),
    "oblivious_call": _oblivious_call,
    "oblivious_answer": _oblivious_answer,
    "ohttp_chunked_request": _ohttp_chunked_request,
    "ohttp_chunks": _ohttp_chunks,
    "oblivious_stream": _oblivious_stream,
    "rpc_body": _relay,
    "keys_request": _json(messages.KeysRequest.from_json, messages.KeysRequest.to_json),
    "keys_answer": _json(messages.KeysAnswer.from_json, messages.KeysAnswer.to_json),
    "member_info": _json(messages.Info.from_json, messages.Info.to_json),
    "heads_request": _json(heads.HeadsRequest.from_json, heads.HeadsRequest.to_json),
    "head_answer": _json(heads.HeadAnswer.from_json, heads.HeadAnswer.to_json),
    "table_page": _json(heads.TablePage.from_json, heads.TablePage.to_json),
}


def _framed(*frames: tuple[int, Type, bytes]) -> bytes:
    return b"".join(HEADER.pack(len(data), stream, kind) + data for stream, kind, data in frames)


def _stream_parts(final: Any) -> tuple[bytes, ...]:
    """Head, body and end of an answer in chunks."""
    head_ = bhttp.encode_response_head(200, (("cloister-checkpoint", "5"),))
    return head_, bhttp.sized(b"body"), b"\0" + bhttp.section(final, True)


def _oblivious_seeds() -> dict[str, tuple[bytes, ...]]:
    """Good inputs of the targets that read binary and oblivious HTTP."""
    asked = bhttp.BinaryRequest("POST", "https", "a.example", "/x", (("a", "b"),), b"body", (("t", "u"),))
    final = (("cloister-receipt", '{"receipt":{},"signature":"0x' + "00" * 65 + '"}'),)
    told = bhttp.BinaryResponse(200, (("cloister-checkpoint", "5"),), b"body", final, ((103, (("a", "b"),)),))
    failure = b'{"status":409,"error":{"code":"envelope.replay"}}'
    refused = bhttp.BinaryResponse(409, (("cloister-refusal", "envelope.replay"),), failure)
    return {
        "bhttp_request": (
            bhttp_client.encode_request(asked),
            bhttp_client.encode_request(asked, indeterminate=True, size=512),
        ),
        "bhttp_response": (bhttp.encode_response(told), bhttp.encode_response(told, indeterminate=True, size=512)),
        "ohttp_keys": (ohttp.encode_configs((oblivious_world()[1].config,) * 2),),
        "ohttp_request": (oblivious_world()[2],),
        "oblivious_call": (oblivious_world()[3],),
        "oblivious_answer": (bhttp.encode_response(told), bhttp.encode_response(refused)),
        "ohttp_chunked_request": (_chunked()[2],),
        "ohttp_chunks": (bytes(32) + b"\x11" + bytes(17) + b"\0" + bytes(16),),
        "oblivious_stream": (b"|".join(_stream_parts(final)), bhttp.encode_response(refused)),
    }


@functools.cache
def seeds() -> dict[str, tuple[bytes, ...]]:
    """Good inputs by target; a target without its own begins with those of all."""
    _, record, stream = world()
    seat = make_seat(b"\x09" * 32)
    chain = ReceiptChain(lease().worker, BOOT, lambda d: sign_digest(WORKER, d))
    given = Exchange(bytes(16), 200, bytes(32), bytes(32))
    receipt, _ = chain.issue(seat.certificate, given, checkpoint=1, host_time_ms=NOW)
    move = heads.HeadMove(AGENT, Epochs(1, 1, 1, bytes(32)), 2, b"\3" * 32, b"\4" * 32)
    fields = [bytes(32)] * 2 + [bytes(20)] + [bytes(32)] * 3 + [bytes(256), b"", b"\5", b"\1", b"\1", b"\6", b"x"]
    header = rlp.encode([*fields, bytes(32), bytes(8)])
    wallet = keystore.encrypt_key(b"\1" * 32, "passphrase", random, n=2)
    post = b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbodyGET /y HTTP/1.1\r\nhost: a\r\n\r\n"
    chunked = b"POST /x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx: y\r\n\r\n"
    announced = Announcement(lease().worker, BOOT, (seat,)).encode()
    log = WorkerLog(lease().worker, BOOT, 4, bytes(32))
    signed_log = Signed(LogHead(1, log.worker, BOOT, 4, bytes(32)), (bytes(65),))
    plain: dict[str, Any] = {
        "seat": seat.to_json(),
        "oblivious_key": oblivious.ObliviousKey(bytes(32), b"\1", bytes(65), bytes(96)).to_json(),
        "checkpoint": checkpoint(5).to_json(),
        "lease": lease().to_json(),
        "wallet_file": wallet,
        "storage_proof": {"accountProof": ["0xc0"], "storageProof": [{"value": "0x0", "proof": []}]},
        "rpc_answer": {"jsonrpc": "2.0", "id": 1, "error": {"code": 3, "message": "reverted", "data": "0x08c379a0"}},
        "rpc_body": [{"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": [{"to": "0x00"}, "latest"]}],
        "heads_request": heads.HeadsRequest((move,), bytes(20), BOOT, signature=bytes(65)).to_json(),
        "head_answer": heads.HeadAnswer(heads.EndorsedHead(move, bytes(65)), bytes(65)).to_json(),
        "table_page": heads.TablePage(({"agent": to_hex(AGENT), "agent_epoch": 1},), False, bytes(65)).to_json(),
        "keys_answer": {"lease": lease().to_json(), "lease_signature": "0x" + "00" * 65, "partials": [], "old": []},
        "batch_path": BatchPath(3, 5, (bytes(32), b"\1" * 32)).to_json(),
        "log_proof": LogProof(2, (bytes(32),), signed_log).to_json(),
        "log_request": LogRequest(log, bytes(65), 2, (bytes(32),)).to_json(),
        "log_answer": LogAnswer(None, HeldLog(log, bytes(65))).to_json(),
        "member_info": messages.Info(bytes(20), 1, 1, NETWORK, bytes(32), "intel", True, 5).to_json(),
        "error_fields": {"code": "envelope.replay", "check": "c", "expected": "e", "found": "f", "remedy": "r"},
    }
    others = json.loads((Path(__file__).parents[2] / "spec/vectors/callers.json").read_text())
    heads_of_callers = [others["callers"][name].encode() for name in ("head_by_key", "head_by_contract")]
    plain_seeds = {name: (json.dumps(value).encode(),) for name, value in plain.items()}
    return (
        plain_seeds
        | _oblivious_seeds()
        | {
            "record": (record, bytes.fromhex(others["xwing"]["record"][2:])),
            "request": (record,),
            "request_head": (model.encode_json(head(request_id=REQUEST_ID)), *heads_of_callers),
            "answer_stream": (stream,),
            "certificate": (seat.certificate.encoded, others["xwing"]["certificate"].encode()),
            "kept_receipt": (seal_kept(receipt, bytes(32), OwnerKey(bytes(32), BOOT)),),
            "receipt": (receipt.encoded,),
            "canonical_json": (receipt.encoded, b'{"a":[1,{"b":null}],"\xc3\xa9":"\\n"}'),
            "hex": (b"0x00ff",),
            "network_file": (NETWORK_FILE.encode(),),
            "genesis_file": (jcs.encode(NETWORK_FILE.genesis.to_json()),),
            "signature": (sign_digest(key(1), bytes(32)),),
            "rlp": (header, rlp.encode([b"a", [b"b" * 60, []]])),
            "block_header": (header,),
            "trie_proof": (b"\x40" + rlp.encode([b""] * 17), bytes(70)),
            "contract_values": (bytes(32 * 15), (1).to_bytes(32, "big")),
            "revert_reason": (
                bytes.fromhex("08c379a0") + (32).to_bytes(32, "big") + (2).to_bytes(32, "big") + b"no" * 16,
            ),
            "call_answer": (bytes(32 * 12),),
            "sealed_blob": (seal.MAGIC + bytes(100),),
            "hpke": (random(32) + bytes(48),),
            "announcement": (announced,),
            "frames": (
                _framed((0, Type.ANNOUNCE, announced), (1, Type.REQUEST, b"\1abc"), (1, Type.CANCEL, b"")),
                _framed((1, Type.CREDIT, b"\1\0\0\0"), (2, Type.HEAD, b"x"), (2, Type.CHUNK, b"y"), (2, Type.END, b"")),
            ),
            "error_frame": (b'{"code":"frames.busy","status":503}',),
            "http": (post, chunked, post[:30]),
            "oblivious_target": (b"/v1/oblivious/0x" + b"22" * 32 + b"/keys?boot=0x" + b"33" * 32,),
            "call_target": (b"/v1/call/0x" + b"22" * 32 + b"?boot=0x" + b"33" * 32,),
        }
    )


def run(name: str, data: bytes) -> None:
    """One input of one target. A refusal is fine; whatever else comes out is a bug."""
    try:
        TARGETS[name](data[:MAX_SIZE])
    except CloisterError:
        return
