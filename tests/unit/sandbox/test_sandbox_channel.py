"""The worker's end of the socket, with the harness played by the test: every rule of spec/sandbox.md 3 broken once."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloister.core.errors import CloisterError, SandboxError
from cloister.sandbox.calls import Call
from cloister.sandbox.channel import MAX_HOST_CALLS, Channel
from cloister.sandbox.errors import CLOSED
from cloister.sandbox.frames import CHUNK, HEADER, WINDOW, Kind, dump, pack
from cloister.sandbox.ports import AgentRequest, Limits
from support.sandbox_kit import MemoryHost, request_of, spec_of


class Wire(asyncio.Transport):
    """Collects what the worker writes."""

    def __init__(self) -> None:
        super().__init__()
        self.data, self.aborted = bytearray(), False
        self.unread = 0

    def get_write_buffer_size(self) -> int:
        return self.unread

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data += data

    def abort(self) -> None:
        self.aborted = True

    def frames(self) -> list[tuple[int, int, bytes]]:
        out, at = [], 0
        while at < len(self.data):
            length, number, kind = HEADER.unpack_from(self.data, at)
            out.append((kind, number, bytes(self.data[at + 9 : at + 9 + length])))
            at += 9 + length
        return out


class Bench:
    """A channel, its wire, what killed it."""

    def __init__(self, host: MemoryHost | None = None, **limits: Any) -> None:
        self.host, self.wire = host or MemoryHost(), Wire()
        self.deaths: list[CloisterError] = []
        spec = replace(spec_of("x", env={"A": "secret-a"}, secrets={"B": "secret-b"}), limits=Limits(**limits))
        self.channel = Channel(spec, self.host, self.deaths.append)
        self.channel.connection_made(self.wire)

    def ready(self) -> Bench:
        self.feed(Kind.READY, 0)
        return self

    def feed(self, kind: int, number: int, payload: bytes | dict[str, Any] = b"") -> None:
        data = dump(payload) if isinstance(payload, dict) else payload
        self.channel.data_received(HEADER.pack(len(data), number, kind) + data)

    def begin(self, request: AgentRequest | None = None) -> Call:
        return self.channel.begin(request or request_of())

    async def sent(self) -> list[tuple[int, int, bytes]]:
        await asyncio.sleep(0)
        return self.wire.frames()

    @property
    def death(self) -> str | None:
        assert len(self.deaths) <= 1, "on_fatal is called once"
        return self.deaths[0].code if self.deaths else None


HEAD = {"status": 200, "headers": [["content-type", "text/plain"]]}


async def collect(call: Call) -> bytes:
    return b"".join([piece async for piece in call.body(lambda _: None)])


async def test_a_response_in_pieces_arrives_in_order() -> None:
    bench = Bench().ready()
    call = bench.begin()
    bench.feed(Kind.HEAD, call.number, HEAD)
    bench.feed(Kind.CHUNK, call.number, b"one ")
    bench.feed(Kind.CHUNK, call.number, b"two")
    bench.feed(Kind.END, call.number)
    head = await call.head
    assert (head.status, head.headers) == (200, (("content-type", "text/plain"),))
    assert await collect(call) == b"one two"
    assert bench.death is None


async def test_a_whole_response_is_one_frame() -> None:
    bench = Bench().ready()
    call = bench.begin()
    head = dump(HEAD)
    bench.feed(Kind.RESPONSE, call.number, len(head).to_bytes(4, "little") + head + b"hello")
    assert (await call.head).status == 200
    assert await collect(call) == b"hello"


def whole(head: bytes, body: bytes) -> bytes:
    return len(head).to_bytes(4, "little") + head + body


@pytest.mark.parametrize("body", [b"", b"hello", bytes(CHUNK)])
async def test_a_head_that_was_read_before_gives_the_same_response(body: bytes) -> None:
    bench = Bench().ready()
    for _ in range(3):
        call = bench.begin()
        bench.feed(Kind.RESPONSE, call.number, whole(dump(HEAD), body))
        head = await call.head
        assert (head.status, head.headers) == (200, (("content-type", "text/plain"),))
        assert await collect(call) == body
        assert bench.channel.under_way == 0
    assert bench.death is None


async def test_a_whole_body_is_given_at_once_and_only_if_nobody_read_of_it() -> None:
    bench = Bench().ready()
    first = bench.begin()
    assert first.whole() is None
    bench.feed(Kind.RESPONSE, first.number, whole(dump(HEAD), b"hello"))
    found = first.whole()
    assert found is not None
    assert [piece async for piece in found] == [b"hello"]
    await found.aclose()
    assert first.whole() is None
    second = bench.begin()
    bench.feed(Kind.HEAD, second.number, HEAD)
    bench.feed(Kind.CHUNK, second.number, b"he")
    assert second.whole() is None
    failed = bench.begin()
    bench.feed(Kind.HEAD, failed.number, HEAD)
    bench.feed(Kind.CHUNK, failed.number, b"he")
    bench.feed(Kind.ERROR, failed.number, {"kind": "Error"})
    assert failed.whole() is None


RESPONSE = (Kind.RESPONSE, whole(dump(HEAD), b"x"))
REMEMBERED: dict[str, list[tuple[Kind, bytes]]] = {
    "the same response twice": [RESPONSE, RESPONSE],
    "after a head": [(Kind.HEAD, dump(HEAD)), RESPONSE],
    "before a chunk": [RESPONSE, (Kind.CHUNK, b"x")],
    "before an end": [RESPONSE, (Kind.END, b"")],
    "a head beyond its frame": [(Kind.RESPONSE, (1 << 16).to_bytes(4, "little") + dump(HEAD))],
}


@pytest.mark.parametrize("what", REMEMBERED)
async def test_a_known_head_makes_no_wrong_frame_right(what: str) -> None:
    bench = Bench().ready()
    known = bench.begin()
    bench.feed(Kind.RESPONSE, known.number, whole(dump(HEAD), b"x"))
    number = bench.begin().number
    for kind, payload in REMEMBERED[what]:
        bench.feed(kind, number, payload)
    assert bench.death == "sandbox.protocol"


async def test_a_known_head_with_a_body_beyond_the_limit_fails_that_request_alone() -> None:
    bench = Bench(response_bytes=4).ready()
    for body in (b"four", b"fives"):
        call = bench.begin()
        bench.feed(Kind.RESPONSE, call.number, whole(dump(HEAD), body))
    with pytest.raises(SandboxError) as refused:
        await collect(call)
    assert refused.value.code == "sandbox.response_too_large"
    assert bench.death is None


async def test_a_whole_response_after_cancel_is_dropped() -> None:
    bench = Bench().ready()
    known, gone = bench.begin(), bench.begin()
    bench.feed(Kind.RESPONSE, known.number, whole(dump(HEAD), b"x"))
    bench.channel.abandon(gone, 60.0)
    bench.feed(Kind.PONG, gone.number)
    bench.feed(Kind.RESPONSE, gone.number, whole(dump(HEAD), b"x"))
    assert not gone.head.done()
    assert bench.death is None
    assert bench.channel.under_way == 0


async def test_few_heads_are_remembered_and_no_long_ones() -> None:
    bench = Bench().ready()
    for number in range(100):
        call = bench.begin()
        bench.feed(Kind.RESPONSE, call.number, whole(dump({"status": 200, "headers": [["n", str(number)]]}), b"x"))
        assert (await call.head).headers == (("n", str(number)),)
    assert len(bench.channel._heads) <= 32
    call = bench.begin()
    bench.feed(Kind.RESPONSE, call.number, whole(dump({"status": 200, "headers": [["n", "x" * 2000]]}), b"x"))
    assert max(map(len, bench.channel._heads)) <= 1024


async def test_the_first_frame_carries_settings_and_secrets() -> None:
    bench = Bench()
    bench.channel.introduce(bridge=True)
    ((kind, number, payload),) = await bench.sent()
    fields = json.loads(payload)
    assert (kind, number, fields["bridge"], fields["window"]) == (Kind.INIT, 0, True, WINDOW)
    assert (fields["env"], fields["secrets"]) == ({"A": "secret-a"}, {"B": "secret-b"})


async def test_requests_are_written_with_head_and_body() -> None:
    bench = Bench().ready()
    bench.begin(request_of("/x?y=1", method="POST", body=b"\x00\xff", caller={"address": "0x01"}))
    ((kind, number, payload),) = await bench.sent()
    size = int.from_bytes(payload[:4], "little")
    head = json.loads(payload[4 : 4 + size])
    assert (kind, number, payload[4 + size :]) == (Kind.REQUEST, 1, b"\x00\xff")
    assert (head["method"], head["path"], head["caller"]) == ("POST", "/x?y=1", {"address": "0x01"})


async def test_of_requests_few_plain_headers_are_remembered_and_never_what_may_be_secret() -> None:
    bench = Bench().ready()
    for number in range(100):
        plain = (("accept", f"text/{number}"), ("content-type", "text/plain"))
        for headers in (
            plain,
            (*plain, ("authorization", f"Bearer {number}")),
            (("x-key", f"secret {number}"),),
            plain,
        ):
            call = bench.begin(request_of("/", headers=headers))
            payload = (await bench.sent())[-1][2]
            size = int.from_bytes(payload[:4], "little")
            assert json.loads(payload[4 : 4 + size])["headers"] == [list(pair) for pair in headers]
            bench.feed(Kind.RESPONSE, call.number, whole(dump({"status": 200, "headers": []}), b"x"))
            await call.head
    known = bench.channel._written
    assert 0 < len(known) <= 32
    assert {name for headers in known for name, _ in headers} == {"accept", "content-type"}


Frames = list[tuple[int, int, bytes | dict[str, Any]]]
GET = {"call": 1, "name": "state.get", "args": {"key": "k"}}
LINE = {"level": "info", "text": "x" * 8000}

# What the harness sends after READY, while request 1 is open.
VIOLATIONS: dict[str, Frames] = {
    "a second READY": [(Kind.READY, 0, b"")],
    "FAILED after READY": [(Kind.FAILED, 0, {"kind": "Error"})],
    "a head for a request that never was": [(Kind.HEAD, 99, HEAD)],
    "a head for request zero": [(Kind.HEAD, 0, HEAD)],
    "a chunk before the head": [(Kind.CHUNK, 1, b"x")],
    "an end before the head": [(Kind.END, 1, b"")],
    "a second head": [(Kind.HEAD, 1, HEAD), (Kind.HEAD, 1, HEAD)],
    "a frame after the end": [(Kind.HEAD, 1, HEAD), (Kind.END, 1, b""), (Kind.CHUNK, 1, b"x")],
    "a second end": [(Kind.HEAD, 1, HEAD), (Kind.END, 1, b""), (Kind.END, 1, b"")],
    "an error after the end": [(Kind.HEAD, 1, HEAD), (Kind.END, 1, b""), (Kind.ERROR, 1, {"kind": "Error"})],
    "a head that is no object": [(Kind.HEAD, 1, b"[]")],
    "a head that is no JSON": [(Kind.HEAD, 1, b"\xff")],
    "a response whose head is longer than its frame": [(Kind.RESPONSE, 1, b"\xff\xff\xff\xff")],
    "an empty whole response": [(Kind.RESPONSE, 1, b"")],
    "PONG alone": [(Kind.PONG, 1, b"")],
    "an error without fields": [(Kind.ERROR, 1, b"1")],
    "a log line of an unknown level": [(Kind.LOG, 0, {"level": "fatal", "text": "x"})],
    "a log line whose level is a list": [(Kind.LOG, 0, {"level": [], "text": "x"})],
    "a log line without text": [(Kind.LOG, 0, {"level": "info", "text": 7})],
    "a host call without a name": [(Kind.HOST_CALL, 1, {"call": 1, "args": {}})],
    "a host call whose arguments are a list": [(Kind.HOST_CALL, 1, {**GET, "args": []})],
    "a host call of a request that is not open": [(Kind.HOST_CALL, 55, GET)],
    "too many host calls at once": [(Kind.HOST_CALL, 1, GET)] * (MAX_HOST_CALLS + 1),
    "an unknown frame type": [(77, 1, b"")],
    "a frame that only the worker sends": [(Kind.INIT, 0, {})],
    "a log flood": [(Kind.LOG, 0, LINE)] * (2 * 64 * 65536 // 8000 + 9),
}


@pytest.mark.parametrize("sentence", VIOLATIONS)
async def test_a_violation_ends_the_agent_and_fails_its_requests_by_name(sentence: str) -> None:
    bench = Bench().ready()
    call, other = bench.begin(), bench.begin()
    for frame in VIOLATIONS[sentence]:
        bench.feed(*frame)
    assert call.number == 1
    assert bench.death == "sandbox.protocol"
    assert bench.wire.aborted
    with pytest.raises(SandboxError) as caught:
        await other.head
    assert caught.value.code == "sandbox.protocol"
    with pytest.raises(SandboxError):
        bench.begin()


BAD_HEADS: dict[str, dict[str, Any]] = {
    "no status": {"headers": []},
    "a status of text": {"status": "200", "headers": []},
    "a boolean status": {"status": True, "headers": []},
    "an informational status": {"status": 101, "headers": []},
    "a status beyond 599": {"status": 700, "headers": []},
    "no headers": {"status": 200},
    "headers as an object": {"status": 200, "headers": {"a": "b"}},
    "a header of one part": {"status": 200, "headers": [["a"]]},
    "a header name with a space": {"status": 200, "headers": [["a b", "c"]]},
    "an empty header name": {"status": 200, "headers": [["", "c"]]},
    "a header value with a line break": {"status": 200, "headers": [["a", "b\r\nset-cookie: x"]]},
    "a header value outside of latin-1": {"status": 200, "headers": [["a", "☃"]]},
    "too many headers": {"status": 200, "headers": [["a", "b"]] * 129},
    "headers too large together": {"status": 200, "headers": [["a", "b" * 9000]] * 4},
}


@pytest.mark.parametrize("sentence", BAD_HEADS)
async def test_a_malformed_head_fails_its_request_only(sentence: str) -> None:
    bench = Bench().ready()
    call, other = bench.begin(), bench.begin()
    bench.feed(Kind.HEAD, call.number, BAD_HEADS[sentence])
    with pytest.raises(SandboxError) as caught:
        await call.head
    assert caught.value.code == "sandbox.bad_response"
    assert bench.death is None
    bench.feed(Kind.HEAD, other.number, HEAD)
    assert (await other.head).status == 200
    assert (Kind.CANCEL, call.number, b"") in await bench.sent()


async def test_headers_of_a_connection_are_dropped() -> None:
    bench = Bench().ready()
    call = bench.begin()
    headers = [["Transfer-Encoding", "chunked"], ["Connection", "close"], ["Content-Length", "9"], ["X-A", "1"]]
    bench.feed(Kind.HEAD, call.number, {"status": 204, "headers": headers})
    assert (await call.head).headers == (("x-a", "1"),)


async def test_a_body_over_the_limit_fails_its_request_only() -> None:
    bench = Bench(response_bytes=10).ready()
    call = bench.begin()
    bench.feed(Kind.HEAD, call.number, HEAD)
    bench.feed(Kind.CHUNK, call.number, b"12345678")
    bench.feed(Kind.CHUNK, call.number, b"90123")
    with pytest.raises(SandboxError) as caught:
        await collect(call)
    assert caught.value.code == "sandbox.response_too_large"
    assert bench.death is None


async def test_bytes_beyond_the_credit_window_end_the_agent() -> None:
    bench = Bench().ready()
    call = bench.begin()
    bench.feed(Kind.HEAD, call.number, HEAD)
    for _ in range(WINDOW // CHUNK):
        bench.feed(Kind.CHUNK, call.number, bytes(CHUNK))
    assert bench.death is None
    bench.feed(Kind.CHUNK, call.number, b"x")
    assert bench.death == "sandbox.protocol"


async def test_reading_grants_credit_and_the_body_may_go_on() -> None:
    bench = Bench().ready()
    call = bench.begin()
    bench.feed(Kind.HEAD, call.number, HEAD)
    body = call.body(lambda _: None)
    for _ in range(12):
        bench.feed(Kind.CHUNK, call.number, bytes(CHUNK))
        assert len(await anext(body)) == CHUNK
    granted = sum(int.from_bytes(p, "little") for kind, _, p in await bench.sent() if kind == Kind.CREDIT)
    assert granted == 12 * CHUNK
    assert bench.death is None


async def test_an_error_names_standard_kinds_and_never_quotes_the_agent() -> None:
    for kind, found in (
        ("TypeError", "TypeError"),
        ("sk-secret-key", "an error of its own"),
        (7, "an error of its own"),
    ):
        bench = Bench().ready()
        call = bench.begin()
        bench.feed(Kind.ERROR, call.number, {"kind": kind, "message": "sk-secret-key"})
        with pytest.raises(SandboxError) as caught:
            await call.head
        assert (caught.value.code, caught.value.found) == ("sandbox.agent_threw", found)
        assert "sk-secret" not in str(caught.value.to_wire())


async def test_a_bundle_that_does_not_load_is_named() -> None:
    bench = Bench()
    bench.feed(Kind.FAILED, 0, {"kind": "SyntaxError"})
    with pytest.raises(SandboxError) as caught:
        await bench.channel.ready
    assert (caught.value.code, bench.death) == ("sandbox.bundle", "sandbox.bundle")


async def test_an_expired_request_fails_and_a_silent_agent_dies() -> None:
    bench = Bench().ready()
    call, other = bench.begin(), bench.begin()
    bench.channel.expire(call, 0.02)
    with pytest.raises(SandboxError) as caught:
        await call.head
    assert caught.value.code == "sandbox.deadline"
    await asyncio.sleep(0.1)
    assert bench.death == "sandbox.deadline"
    with pytest.raises(SandboxError):
        await other.head


async def test_an_expired_request_of_a_living_agent_hurts_nobody_else() -> None:
    bench = Bench().ready()
    call, other = bench.begin(), bench.begin()
    bench.channel.expire(call, 0.02)
    assert (Kind.CANCEL, call.number, b"") in await bench.sent()
    bench.feed(Kind.PONG, call.number)
    bench.feed(Kind.HEAD, call.number, HEAD)  # late frames of a cancelled request are dropped
    bench.feed(Kind.CHUNK, call.number, b"late")
    bench.feed(Kind.END, call.number)
    bench.feed(Kind.HEAD, other.number, HEAD)
    bench.feed(Kind.END, other.number)
    await asyncio.sleep(0.05)
    assert await collect(other) == b""
    assert bench.death is None


async def test_cancelled_requests_that_never_end_are_bounded() -> None:
    bench = Bench(concurrency=16).ready()
    for _ in range(9):
        call = bench.begin()
        bench.channel.expire(call, 5.0)
        bench.feed(Kind.PONG, call.number)
    assert bench.death == "sandbox.deadline"


async def test_a_caller_that_goes_away_cancels_its_request() -> None:
    bench = Bench().ready()
    call = bench.begin()
    bench.feed(Kind.HEAD, call.number, HEAD)
    bench.feed(Kind.CHUNK, call.number, b"x")
    body = call.body(lambda c: bench.channel.abandon(c, 1.0))
    assert await anext(body) == b"x"
    await body.aclose()
    assert (Kind.CANCEL, call.number, b"") in await bench.sent()
    bench.channel.die(closed())


def closed() -> CloisterError:
    return CLOSED(expected="an open sandbox", found="the end of the test")


async def test_concurrency_is_bounded() -> None:
    bench = Bench(concurrency=2).ready()
    bench.begin()
    bench.begin()
    with pytest.raises(SandboxError) as caught:
        bench.begin()
    assert caught.value.code == "sandbox.busy"


BAD_REQUESTS: dict[str, tuple[str, AgentRequest]] = {
    "a body over the limit": ("sandbox.request_too_large", request_of(method="POST", body=bytes(101))),
    "a method that fetch refuses": ("sandbox.bad_request", request_of(method="CONNECT")),
    "a GET with a body": ("sandbox.bad_request", request_of(body=b"x")),
    "a path without a slash": ("sandbox.bad_request", request_of("x")),
    "a path with a line break": ("sandbox.bad_request", request_of("/\n")),
    "a path of 20 KiB": ("sandbox.bad_request", request_of("/" + "a" * 20000)),
    "a header with a line break": ("sandbox.bad_request", request_of(headers=(("a", "b\nc"),))),
}


@pytest.mark.parametrize("sentence", BAD_REQUESTS)
async def test_a_request_that_cannot_be_expressed_is_refused_before_the_agent_sees_it(sentence: str) -> None:
    code, request = BAD_REQUESTS[sentence]
    bench = Bench(request_bytes=100).ready()
    with pytest.raises(SandboxError) as caught:
        bench.begin(request)
    assert caught.value.code == code
    assert await bench.sent() == []


async def test_host_calls_are_answered_with_values_and_named_refusals() -> None:
    bench = Bench().ready()
    call = bench.begin()
    for index, name, args in (
        (1, "state.put", {"key": "k", "value": "eA=="}),
        (2, "state.get", {"key": "k"}),
        (3, "x", {}),
    ):
        bench.feed(Kind.HOST_CALL, call.number, {"call": index, "name": name, "args": args})
        await asyncio.sleep(0.01)
    bench.feed(Kind.HOST_CALL, call.number, {"call": 4, "name": "keys.address", "args": {}})
    await asyncio.sleep(0.01)
    results = [json.loads(payload) for kind, _, payload in await bench.sent() if kind == Kind.HOST_RESULT]
    assert results[0] == {"call": 1, "value": None}
    assert results[1] == {"call": 2, "value": "eA=="}
    assert results[2]["error"]["code"] == "test.host_refused"
    assert results[3]["error"]["code"] == "sandbox.host_call"
    assert "mistake" not in json.dumps(results[3])


async def test_host_calls_of_a_cancelled_request_are_refused() -> None:
    bench = Bench().ready()
    call = bench.begin()
    bench.channel.expire(call, 5.0)
    bench.feed(Kind.PONG, call.number)
    bench.feed(Kind.HOST_CALL, call.number, {"call": 1, "name": "state.put", "args": {"key": "k", "value": ""}})
    results = [json.loads(payload) for kind, _, payload in await bench.sent() if kind == Kind.HOST_RESULT]
    assert results[0]["error"]["code"] == "sandbox.deadline"
    assert bench.host.calls == []


async def test_logs_are_attributed_and_dropped_beyond_the_budget() -> None:
    bench = Bench(log_bytes=300).ready()
    call = bench.begin(request_of(request_id="0x77"))
    bench.feed(Kind.LOG, call.number, {"level": "info", "text": "mine"})
    bench.feed(Kind.LOG, 0, {"level": "warn", "text": "the process's"})
    for _ in range(6):
        bench.feed(Kind.LOG, 0, {"level": "info", "text": "x" * 100})
    assert bench.host.lines[0] == ("0x77", "info", "mine")
    assert bench.host.lines[1] == (None, "warn", "the process's")
    assert sum("over its budget" in text for _, _, text in bench.host.lines) == 1
    assert len(bench.host.lines) <= 4
    assert bench.death is None


async def test_death_is_final_and_told_once() -> None:
    bench = Bench().ready()
    call = bench.begin()
    bench.channel.die(closed())
    bench.channel.die(closed())
    bench.feed(Kind.HEAD, call.number, HEAD)
    with pytest.raises(SandboxError) as caught:
        await call.head
    assert (caught.value.code, bench.death) == ("sandbox.closed", "sandbox.closed")


VALID = b"".join(
    [
        pack(Kind.READY, 0),
        pack(Kind.HEAD, 1, dump(HEAD)),
        pack(Kind.CHUNK, 1, b"hello"),
        pack(Kind.LOG, 1, dump({"level": "info", "text": "x"})),
        pack(Kind.HOST_CALL, 1, dump({"call": 1, "name": "state.get", "args": {"key": "k"}})),
        pack(Kind.END, 1),
    ]
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, len(VALID) - 1), st.integers(1, 255))
def test_any_flipped_byte_gives_an_answer_or_a_named_end(at: int, flip: int) -> None:
    damaged = bytearray(VALID)
    damaged[at] ^= flip

    async def run() -> None:
        bench = Bench()
        call = bench.begin()
        bench.channel.data_received(bytes(damaged))
        await asyncio.sleep(0)
        assert bench.death in (None, "sandbox.protocol", "sandbox.bundle")
        if call.head.done() and call.head.exception() is None:
            assert 200 <= call.head.result().status <= 599
        bench.channel.die(closed())

    asyncio.run(run())


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(list(Kind)), st.integers(0, 3), st.binary(max_size=40)), max_size=12))
def test_garbage_frames_never_raise_into_the_event_loop(frames: list[tuple[Kind, int, bytes]]) -> None:
    async def run() -> None:
        bench = Bench()
        bench.begin()
        for kind, number, payload in frames:
            bench.feed(kind, number, payload)
        await asyncio.sleep(0)
        assert bench.death in (None, "sandbox.protocol", "sandbox.bundle")
        bench.channel.die(closed())

    asyncio.run(run())


# --- what a harness may cost the worker ---


async def test_a_body_in_crumbs_ends_the_agent_and_a_stream_of_words_does_not() -> None:
    bench = Bench(response_bytes=16 << 20).ready()
    call = bench.begin()
    bench.feed(Kind.HEAD, call.number, HEAD)
    for _ in range(20_000):
        bench.feed(Kind.CHUNK, call.number, b"word")
    assert bench.death is None
    assert len(call._chunks) < 100, "small pieces are kept as few large ones"
    for _ in range(60_000):
        bench.feed(Kind.CHUNK, call.number, b"x")
    assert bench.death == "sandbox.protocol"


async def test_small_pieces_arrive_as_they_were() -> None:
    bench = Bench().ready()
    call = bench.begin()
    bench.feed(Kind.HEAD, call.number, HEAD)
    pieces = [bytes([i % 251]) * (i % 7 + 1) for i in range(3000)] + [b"z" * 5000, b"end"]
    for piece in pieces:
        bench.feed(Kind.CHUNK, call.number, piece)
    bench.feed(Kind.END, call.number)
    assert await collect(call) == b"".join(pieces)


async def test_an_empty_piece_ends_the_agent_but_an_empty_answer_is_one() -> None:
    bench = Bench().ready()
    call = bench.begin()
    head = dump(HEAD)
    bench.feed(Kind.RESPONSE, call.number, len(head).to_bytes(4, "little") + head)
    assert await collect(call) == b""
    other = bench.begin()
    bench.feed(Kind.HEAD, other.number, HEAD)
    bench.feed(Kind.CHUNK, other.number, b"")
    assert bench.death == "sandbox.protocol"


async def test_a_body_that_goes_on_after_cancel_ends_the_agent() -> None:
    bench = Bench().ready()
    call = bench.begin()
    bench.feed(Kind.HEAD, call.number, HEAD)
    bench.channel.abandon(call, 60.0)
    for _ in range(4):
        bench.feed(Kind.CHUNK, call.number, bytes(CHUNK))
    assert bench.death is None, "that much was under way"
    for _ in range(8):
        bench.feed(Kind.CHUNK, call.number, bytes(CHUNK))
    assert bench.death == "sandbox.protocol"


async def test_words_that_were_under_way_at_cancel_are_no_attack_but_endless_ones_are() -> None:
    bench = Bench().ready()
    call = bench.begin()
    bench.feed(Kind.HEAD, call.number, HEAD)
    bench.channel.abandon(call, 60.0)
    for _ in range(60_000):
        bench.feed(Kind.CHUNK, call.number, b"w")
    assert bench.death is None
    for _ in range(6000):
        bench.feed(Kind.CHUNK, call.number, b"w")
    assert bench.death == "sandbox.protocol"


async def test_a_host_call_of_a_million_lists_is_not_parsed() -> None:
    bench = Bench().ready()
    call = bench.begin()
    payload = b'{"call":1,"name":"state.get","args":{"a":[' + b"[]," * 1_000_000 + b"1]}}"
    bench.feed(Kind.HOST_CALL, call.number, payload)
    assert bench.death == "sandbox.protocol"
    assert bench.host.calls == []


async def test_host_calls_under_way_share_sixteen_mebibytes() -> None:
    bench = Bench().ready()
    call = bench.begin()
    for index in range(6):
        args = {"key": "k", "value": "v" * 3_500_000}
        bench.feed(Kind.HOST_CALL, call.number, {"call": index, "name": "state.put", "args": args})
    await asyncio.sleep(0.01)
    answers = [json.loads(payload) for kind, _, payload in await bench.sent() if kind == Kind.HOST_RESULT]
    refused = [answer["error"]["code"] for answer in answers if "error" in answer]
    assert refused == ["sandbox.host_call"] * 2
    bench.feed(Kind.HOST_CALL, call.number, {"call": 9, "name": "state.put", "args": {"key": "k", "value": "v"}})
    await asyncio.sleep(0.01)
    assert b'{"call":9,"value":null}' in bytes(bench.wire.data), "what is done makes room"
    assert bench.death is None


async def test_answers_that_nobody_reads_end_the_agent() -> None:
    bench = Bench().ready()
    call = bench.begin()
    bench.wire.unread = 33 << 20
    bench.feed(Kind.HOST_CALL, call.number, {"call": 1, "name": "state.get", "args": {"key": "k"}})
    await asyncio.sleep(0.01)
    assert bench.death == "sandbox.protocol"


async def test_host_calls_wait_while_the_harness_does_not_read() -> None:
    bench = Bench().ready()
    call = bench.begin()
    bench.channel.pause_writing()
    bench.feed(Kind.HOST_CALL, call.number, {"call": 1, "name": "state.get", "args": {"key": "k"}})
    await asyncio.sleep(0.01)
    assert bench.host.calls == []
    bench.channel.resume_writing()
    await asyncio.sleep(0.01)
    assert bench.host.calls == [("0x0a", "state.get")]


async def test_requests_are_refused_while_the_last_ones_lie_unread() -> None:
    bench = Bench().ready()
    bench.wire.unread = 30 << 20
    bench.begin()
    with pytest.raises(SandboxError) as caught:
        bench.begin(request_of(method="POST", body=bytes(3 << 20)))
    assert caught.value.code == "sandbox.busy"
    assert bench.death is None
