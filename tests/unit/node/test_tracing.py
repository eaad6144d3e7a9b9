"""Spans: W3C trace contexts, OTLP/JSON as a collector reads it, sampling, a bounded queue, collectors that are down."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from cloister.core.envelope.trace import TraceContext, outer
from cloister.core.errors import CloisterError
from cloister.node import trace
from cloister.node.trace import CLIENT, INTERNAL, SERVER, Span, Tracer, payload, require_collector, tracer_of

GOOD = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
PARENT = TraceContext(bytes.fromhex(GOOD[3:35]), bytes.fromhex(GOOD[36:52]), sampled=True)


class Collector:
    """A tiny OTLP/HTTP receiver: checks the form of what it takes, keeps spans."""

    def __init__(self) -> None:
        self.spans: list[dict[str, Any]] = []
        self.posts = 0
        self.status = 200
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        self.posts += 1
        assert request.content_type == "application/json"
        for resource in (await request.json())["resourceSpans"]:
            names = {one["key"]: one["value"] for one in resource["resource"]["attributes"]}
            assert names["service.name"]["stringValue"].startswith("cloister")
            for scope in resource["scopeSpans"]:
                for span in scope["spans"]:
                    check_form(span)
                    if self.status == 200:
                        self.spans.append(span)
        return web.json_response({}, status=self.status)

    def names(self) -> list[str]:
        return [one["name"] for one in self.spans]


def check_form(span: dict[str, Any]) -> None:
    """The parts of opentelemetry-proto's JSON mapping that a collector is strict about."""
    assert len(bytes.fromhex(span["traceId"])) == 16
    assert any(bytes.fromhex(span["traceId"]))
    assert len(bytes.fromhex(span["spanId"])) == 8
    for name in ("startTimeUnixNano", "endTimeUnixNano"):
        assert isinstance(span[name], str)
    assert int(span["endTimeUnixNano"]) >= int(span["startTimeUnixNano"]) > 0
    assert span["kind"] in (INTERNAL, SERVER, CLIENT)
    assert span["status"]["code"] in (0, 1, 2)
    for one in span["attributes"]:
        ((kind, value),) = one["value"].items()
        assert (kind, type(value)) in (("intValue", str), ("stringValue", str))
    for link in span.get("links", []):
        assert (len(link["traceId"]), len(link["spanId"])) == (32, 16)


@contextlib.asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    made, app = Collector(), web.Application()
    app.router.add_post("/v1/traces", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
    try:
        yield made
    finally:
        await runner.cleanup()


def tracer(url: str, share: int = 10_000) -> Tracer:
    """One whose random bytes count up and whose clock stands."""
    count = iter(range(1, 1 << 20))
    return Tracer("cloister-test", url, share, now_ns=lambda: 5, rng=lambda size: next(count).to_bytes(size, "big"))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_FLUSH_S", 0.01)


# --- W3C Trace Context ---


def test_the_example_of_the_recommendation_is_read_and_written() -> None:
    assert TraceContext.parse(GOOD) == PARENT
    assert PARENT.header == GOOD
    assert TraceContext.parse(GOOD[:-1] + "0") == TraceContext(PARENT.trace, PARENT.span, sampled=False)
    assert TraceContext.parse("cc" + GOOD[2:] + "-what-comes-later") == PARENT  # a later version may be longer


@pytest.mark.parametrize(
    "text",
    [
        None, "", "00", GOOD + "-", GOOD + "-x", "ff" + GOOD[2:], GOOD.upper(), GOOD[:-1], GOOD + "0", " " + GOOD,
        GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32), GOOD.replace("00f067aa0ba902b7", "0" * 16),
        GOOD.replace("-", "_"), "cc" + GOOD[2:] + "x", GOOD + "\n", "cc" + GOOD[2:] + "-" + "x" * 300,
    ],
)  # fmt: skip
def test_what_is_not_well_formed_is_as_if_it_were_not_there(text: str | None) -> None:
    assert TraceContext.parse(text) is None


@given(st.text(max_size=300) | st.integers(0, 54).map(lambda at: GOOD[:at] + "~" + GOOD[at + 1 :]))
def test_no_text_raises(text: str) -> None:
    found = TraceContext.parse(text)
    assert found is None or TraceContext.parse(found.header) == found


def test_what_a_gateway_sees_says_nothing_of_the_sealed_ids_and_is_made_again_by_who_has_them() -> None:
    seen = outer(PARENT)
    assert seen == outer(PARENT)
    assert seen.trace != PARENT.trace
    assert seen.span != PARENT.span
    assert outer(TraceContext(PARENT.trace, b"\1" * 8, sampled=True)).trace != seen.trace
    assert TraceContext.parse(seen.header) == seen


# --- spans to a collector ---


async def test_a_span_arrives_as_otlp(caplog: Any) -> None:
    async with collecting() as collector:
        made = tracer(collector.url)
        span = made.begin("gateway.call", SERVER, PARENT)
        assert span is not None
        span.note(cloister_agent="0x" + "11" * 32, http_response_status_code=502, error_type="gateway.worker_gone")
        span.link = outer(PARENT)
        below = made.begin("agent.fetch", INTERNAL, span.at)
        assert below is not None
        for one in (below, span):
            made.end(one)
        await made.close()
    inner, got = collector.spans
    assert (got["traceId"], got["parentSpanId"]) == (PARENT.trace.hex(), PARENT.span.hex())
    assert (inner["traceId"], inner["parentSpanId"]) == (got["traceId"], got["spanId"])
    assert got["status"]["code"] == 2
    assert got["links"] == [{"traceId": outer(PARENT).trace.hex(), "spanId": outer(PARENT).span.hex()}]
    facts = {one["key"]: one["value"] for one in got["attributes"]}
    assert facts["http.response.status_code"] == {"intValue": "502"}
    assert facts["error.type"] == {"stringValue": "gateway.worker_gone"}
    assert (made.sent, made.dropped, collector.posts) == (2, 0, 1)


def test_only_known_facts_may_be_noted() -> None:
    span = Span("x", SERVER, PARENT, b"", 1)
    for name in ("path", "url_path", "cloister_caller", "http_request_header", "body"):
        with pytest.raises(TypeError):
            span.note(**{name: "secret"})
    span.note(error_type="x" * 500)
    assert len(str(span.attributes["error.type"])) == 80
    assert "secret" not in json.dumps(payload("cloister-test", [span]))


def test_a_parent_decides_and_without_one_chance_does() -> None:
    all_of, none_of, half = tracer("http://x"), tracer("http://x", 0), tracer("http://x", 5000)
    unsampled = TraceContext(PARENT.trace, PARENT.span, sampled=False)
    assert all_of.begin("a", SERVER, unsampled) is None
    assert none_of.begin("a", SERVER, PARENT) is not None
    assert none_of.begin("a", SERVER, None) is None
    numbers = iter([0, (1 << 31) - 1, 1 << 31, (1 << 32) - 1] * 3)
    half._rng = lambda size: next(numbers).to_bytes(4, "big") if size == 4 else b"\1" * size
    assert [half.begin("a", SERVER, None) is not None for _ in range(4)] == [True, True, False, False]


@pytest.mark.parametrize("status", [400, 429, 503, 302])
async def test_what_a_collector_refuses_is_counted_and_lost(status: int) -> None:
    async with collecting() as collector:
        collector.status = status
        made = tracer(collector.url)
        for _ in range(3):
            span = made.begin("a", SERVER, PARENT)
            assert span is not None
            made.end(span)
        await made.close()
    assert (made.sent, made.dropped, collector.posts) == (0, 3, 1)


async def test_a_collector_that_is_down_costs_spans_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tracer("http://127.0.0.1:9/v1/traces")
    monkeypatch.setattr(trace, "MAX_QUEUE", 10)
    for _ in range(25):
        span = made.begin("a", SERVER, None)
        assert span is not None
        made.end(span)
    assert made.dropped == 15  # the queue is bounded
    await made.close()
    assert (made.sent, made.dropped) == (0, 25)
    span = made.begin("a", SERVER, None)
    assert span is not None
    made.end(span)  # and it goes on
    await made.close()
    assert made.dropped == 26


async def test_a_collector_that_never_answers_is_left_after_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_POST_S", 0.1)
    gone = asyncio.Event()

    async def silent(reader: Any, writer: Any) -> None:
        await gone.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    made = tracer(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/traces")
    span = made.begin("a", SERVER, None)
    assert span is not None
    made.end(span)
    async with asyncio.timeout(5):
        while not made.dropped:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    gone.set()
    server.close()


async def test_many_spans_go_in_batches() -> None:
    async with collecting() as collector:
        made = tracer(collector.url)
        for _ in range(600):
            span = made.begin("a", SERVER, None)
            assert span is not None
            made.end(span)
        await made.close()
    assert (made.sent, collector.posts) == (600, 3)


@pytest.mark.parametrize(
    ("url", "share"),
    [("http://x", -1), ("http://x", 10_001), ("ftp://x", 1), ("http://user:word@x/", 1), ("x", 0), ("http://a b", 0)],
)
def test_settings_that_cannot_work_are_named(url: str, share: int) -> None:
    with pytest.raises(CloisterError, match=r"node\.trace") as caught:
        require_collector(url, share)
    assert "word" not in str(caught.value)
    assert tracer_of("cloister-test", "", 0) is None
