"""The TypeScript client against the gateway and workers of the Python client's tests: the same lies, the same codes.

The tables of lies are those of tests/unit/client: what one client refuses, the other refuses under the same code.
What TypeScript seals Python opens here, and the other way round.
"""

from __future__ import annotations

import hashlib
import json
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloister.client.receipts import Kept
from cloister.core.chainview.records import UpgradeMode
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.errors import CloisterError, TransportError
from cloister.core.receipts.verify import Admission, verify_receipt
from support.client_lies import REFUSED, SPOILED
from support.fake_gateway import FakeGateway, FakeWorker, serving
from support.fake_world import CODE, OWNER, World, fresh, test_key
from support.typescript import SDK, deno

MODES = ("request", "fetch")
LIBRARY = """
import { connect, sealedFetch } from "@cloister/sdk";

const [url, fingerprint, now] = Deno.args as [string, string, string];
const client = await connect(url, { fingerprint, clock: () => Number(now) });
const agent = await client.agent(1, { vendor: "intel" });
const send: typeof fetch = sealedFetch(agent);
const shown = async (answer: Response) => {
  const { method, path, body } = await answer.json();
  console.log(method, path, body);
};
const headers = new Headers({ authorization: "Bearer unused", "content-type": "application/json" });
await shown(await send("https://agent.invalid/v1/chat?x=1", { method: "POST", headers, body: "{}" }));
await shown(await send(new Request("https://agent.invalid/v1/other", { method: "PUT", body: "body" })));
const name = (error: Error) => console.log(error.name);
await send("/v1/never", { signal: AbortSignal.abort() }).catch(name);
const answer = await agent.fetch("/v1/late");
await answer.body!.cancel();
await answer.verified.catch(name);
"""


def code(result: dict[str, Any]) -> str:
    assert "error" in result, result
    return str(result["error"]["code"])


def ran(net: Any) -> list[Any]:
    return [*net.one.ran, *net.two.ran]


def hint(name: str, status: int) -> CloisterError:
    return TransportError(code=name, check="c", expected="e", found="f", remedy="r", status=status)


@pytest.mark.parametrize("how", MODES)
def test_a_good_call_is_answered_with_receipt_and_proof(how: str, net: Any) -> None:
    init = {"method": "POST", "headers": {"x-note": "é"}}
    assert "ok" in net.connect()
    answer = net.call("/ask?q=1", json={"text": "héllo"}, init=init, how=how)["ok"]
    said = json.loads(answer["text"])
    assert (said["method"], said["path"], json.loads(said["body"])) == ("POST", "/ask?q=1", {"text": "héllo"})
    headers = dict(ran(net)[0].head.headers)
    assert (headers["x-note"], headers["content-type"]) == ("é", "application/json")
    assert answer["status"] == 200
    assert answer["attempts"] == 1
    assert answer["proof"]["agent"] == to_hex(net.agent)
    assert answer["proof"]["vendor"] in ("intel", "amd")


def test_the_kept_receipt_verifies_in_python(net: Any) -> None:
    kept = Kept.from_json(net.once()["ok"]["kept"])
    kept.seat.verify(net.world.network.founding, net.world.network.id, kept.receipt.checkpoint)
    admission = Admission.of_lease(kept.seat.lease.statement)
    verify_receipt(kept.raw, kept.signature, kept.seat.certificate, admission, None)
    assert kept.receipt.request == ran(net)[0].commitment()


def test_a_batched_receipt_verifies_in_both_clients(net: Any) -> None:
    for worker in (net.one, net.two):
        worker.neighbours = 6
    kept = Kept.from_json(net.once()["ok"]["kept"])
    assert kept.batch is not None
    assert (kept.batch.size, len(kept.batch.path)) == (7, 3)
    admission = Admission.of_lease(kept.seat.lease.statement)
    verify_receipt(kept.raw, kept.signature, kept.seat.certificate, admission, None, kept.batch)


def test_a_batch_path_that_leads_elsewhere_is_refused(net: Any) -> None:
    for worker in (net.one, net.two):
        worker.neighbours = 6
        worker.rebatch = lambda path: replace(path, path=(bytes(32), *path.path[1:]))
    assert code(net.once()) == "receipt.signature"


def test_a_session_is_used_again_and_its_psk_is_sent_once(net: Any) -> None:
    net.connect()
    for _ in range(3):
        assert net.call()["ok"]["attempts"] == 1
    assert [record[5] for record in net.gateway.calls] == [1, 0, 0]
    assert [int.from_bytes(record[134:142], "big") for record in net.gateway.calls] == [0, 1, 2]
    assert net.gateway.fetched.count("seats") == 1


def test_the_gateway_sees_no_word_of_it(net: Any) -> None:
    net.connect()
    net.call("/secret-path", json={"text": "secret-word"}, init={"headers": {"x-secret": "secret-header"}})
    seen = b"".join(net.gateway.calls)
    assert ran(net)
    assert b"secret" not in seen


@pytest.mark.parametrize("what", REFUSED)
def test_resolving_refuses_as_python_does(what: str, net: Any) -> None:
    change, expected = REFUSED[what]
    change(net)
    assert code(net.once()) == expected
    assert net.gateway.calls == []


@pytest.mark.parametrize("how", MODES)
@pytest.mark.parametrize("what", SPOILED)
def test_a_spoiled_answer_is_refused_as_python_does(what: str, how: str, net: Any) -> None:
    spoil, expected = SPOILED[what]
    net.one.spoil = net.two.spoil = spoil
    assert code(net.once(how=how)) == expected
    if how == "request":
        assert len(net.gateway.calls) == 4
        assert code(net.once(json={})) == "client.outcome_unknown"
        assert len(net.gateway.calls) == 5


def test_another_network_is_refused_before_anything_is_read(net: Any) -> None:
    assert code(net.connect(fingerprint="00" * 32)) == "encoding.fingerprint"
    assert code(net.connect(fingerprint="00")) == "client.fingerprint"
    assert code(net.connect(fingerprint="")) == "client.not_pinned"
    net.gateway.network = net.gateway.network.replace(b"devnet", b"devnex", 1)
    assert code(net.connect()) == "encoding.fingerprint"
    assert net.gateway.fetched == []


def test_a_replayed_answer_is_refused(net: Any) -> None:
    first: list[bytes] = []

    async def on_call(agent: bytes, boot: bytes, record: bytes) -> bytes:
        first.append(net.gateway.deliver(agent, boot, record))
        return first[0]

    net.gateway.on_call = on_call
    net.connect()
    assert net.call()["ok"]["status"] == 200
    assert code(net.call()) == "envelope.not_authentic"


def test_a_request_handed_to_the_other_worker_opens_nothing(net: Any) -> None:
    async def on_call(agent: bytes, boot: bytes, record: bytes) -> bytes:
        other = net.two if boot == net.one.boot else net.one
        return other.answer(agent, record)  # type: ignore[no-any-return]

    net.gateway.on_call = on_call
    assert code(net.once()) == "envelope.wrong_boot"
    assert ran(net) == []


def test_every_field_of_a_request_counts(net: Any) -> None:
    """Flipped, cut and lengthened records: the worker never runs the agent, and the client never believes it did."""
    net.connect()
    assert "ok" in net.call()
    before = len(ran(net))
    places = {"magic": 0, "kind": 4, "flags": 5, "boot": 6, "certificate": 38, "enc": 70, "psk": 102, "seq": 141}
    for at in [*places.values(), 143, 200, -1]:

        async def flip(agent: bytes, boot: bytes, record: bytes, at: int = at) -> bytes:
            changed = bytearray(record)
            changed[at] ^= 4
            return net.gateway.deliver(agent, boot, bytes(changed))  # type: ignore[no-any-return]

        net.gateway.on_call = flip
        assert code(net.call(json={})) == "client.outcome_unknown", at
    for cut in (slice(None, -1), slice(1, None), slice(0, 142), slice(0, 0)):

        async def shorten(agent: bytes, boot: bytes, record: bytes, cut: slice = cut) -> bytes:
            return net.gateway.deliver(agent, boot, record[cut])  # type: ignore[no-any-return]

        net.gateway.on_call = shorten
        assert code(net.call(json={})) == "client.outcome_unknown", cut
    assert len(ran(net)) == before


@pytest.mark.parametrize("how", MODES)
def test_receipts_that_do_not_fit_are_refused(how: str, net: Any) -> None:
    net.one.receipt_key = net.two.receipt_key = test_key("somebody")
    assert code(net.once(how=how)) == "receipt.signature"
    assert len(net.gateway.calls) == 1


def test_an_answer_at_an_old_checkpoint_is_refused(net: Any) -> None:
    net.one.height = net.two.height = net.world.number - 301
    assert code(net.once()) == "client.stale_answer"
    assert code(net.once(json={})) == "client.stale_answer"
    net.two.height = None
    assert net.once()["ok"]["proof"]["vendor"] == "amd"


@pytest.mark.parametrize(("init", "repeated"), [
    ({"method": "GET"}, True),
    ({"method": "HEAD"}, True),
    ({"method": "POST"}, False),
    ({"method": "PUT"}, False),
    ({"method": "DELETE"}, False),
    ({"method": "POST", "idempotencyKey": "order 7"}, True),
    ({"method": "POST", "headers": {"idempotency-key": "order 7"}}, True),
])  # fmt: skip
@pytest.mark.parametrize("how", MODES)
def test_only_what_may_run_twice_is_repeated(init: dict[str, Any], repeated: bool, how: str, net: Any) -> None:
    seen: list[bytes] = []

    async def on_call(agent: bytes, boot: bytes, record: bytes) -> bytes:
        seen.append(record)
        if len(seen) == 1:
            raise hint("gateway.worker_gone", 502)
        return net.gateway.deliver(agent, boot, record)  # type: ignore[no-any-return]

    net.gateway.on_call = on_call
    found = net.once(init=init, how=how)
    if not repeated:
        assert code(found) == "client.outcome_unknown"
        assert len(seen) == 1
        return
    assert found["ok"]["attempts"] == 2
    assert seen[0][6:38] != seen[1][6:38], "the other worker"
    assert len({r.head.request_id for r in ran(net)}) == 1


def test_a_worker_that_forgot_the_psk_gets_it_again(net: Any) -> None:
    net.connect()
    net.call()
    for worker in (net.one, net.two):
        worker.server._sessions.clear()
        for held in worker.server._held.values():
            held.psks.clear()
    assert net.call()["ok"]["attempts"] == 2
    assert [record[5] for record in net.gateway.calls] == [1, 0, 1]


def test_a_restarted_worker_is_found_again(net: Any) -> None:
    net.connect()
    net.call()
    for worker in (net.one, net.two):
        worker.restart()
    net.gateway.offer(net.agent)
    assert net.call()["ok"]["status"] == 200


@pytest.mark.parametrize(("size", "how"), [(0, "fetch"), (1, "request"), (600_000, "request"), (600_000, "fetch")])
def test_bodies_of_many_chunks_arrive_whole(size: int, how: str, net: Any) -> None:
    for worker in (net.one, net.two):
        worker.handler = lambda r: (
            201,
            (("content-type", "text/plain"),),
            [b"x" * (size // 2), b"y" * (size - size // 2)],
        )
    answer = net.once(how=how)["ok"]
    assert answer["status"] == 201
    assert answer["text"] == "x" * (size // 2) + "y" * (size - size // 2)


@pytest.mark.parametrize("status", [204, 304, 404, 500])
def test_every_status_that_an_agent_chooses_is_an_answer(status: int, net: Any) -> None:
    for worker in (net.one, net.two):
        worker.handler = lambda r: (status, (("x-a", "1"), ("x-a", "2")), [])
    answer = net.once(how="fetch")["ok"]
    assert answer["status"] == status
    assert dict(answer["headers"])["x-a"] == "1, 2"


def test_a_stream_that_breaks_after_its_head_is_not_started_again(net: Any) -> None:
    for worker in (net.one, net.two):
        worker.handler = lambda r: (200, (), [b"x" * 5000])
        worker.spoil = lambda d: d[:-1]
    assert code(net.once(how="fetch")) == "envelope.truncated"
    assert len(net.gateway.calls) == 1


def test_a_workers_own_refusal_keeps_its_code(net: Any) -> None:
    def refuse(request: Any) -> Any:
        raise hint("worker.some_refusal", 403)

    net.one.handler = net.two.handler = refuse
    assert code(net.once()) == "worker.some_refusal"
    assert len(net.gateway.calls) == 1


def test_a_wallet_is_the_caller_and_may_stay_hidden(net: Any) -> None:
    key = OWNER
    assert "ok" in net.connect(key=to_hex(key.secret))
    for _ in range(2):
        caller = json.loads(net.call()["ok"]["text"])["caller"]
        assert from_hex(caller, 20) == net.world.agents[net.agent].owner
    assert "ok" in net.connect(key=to_hex(key.secret), demand={"anonymous": True})
    assert json.loads(net.call()["ok"]["text"])["caller"] is None


def test_demands_are_checked_before_anything_is_sealed(net: Any) -> None:
    for vendor in ("intel", "amd"):
        net.connect({"vendor": vendor})
        assert net.call()["ok"]["proof"]["vendor"] == vendor
    net.connect({"worker": to_hex(net.two.address)})
    assert net.call()["ok"]["proof"]["worker"] == to_hex(net.two.address)
    sent = len(net.gateway.calls)
    net.connect({"vendor": "aws"})
    assert code(net.call()) == "client.demand_worker"
    assert code(net.connect({"codeHash": to_hex(fresh())})) == "client.demand_code"
    net.world.set_agent(upgrade_mode=UpgradeMode.INSTANT, upgrade_delay=0)
    net.world.mine()
    assert code(net.connect()) == "client.demand_upgrade"
    assert "ok" in net.connect({"allowInstant": True})
    assert "ok" in net.connect({"codeHash": to_hex(hashlib.sha256(CODE).digest())})
    assert "ok" in net.connect(key=to_hex(OWNER.secret))
    assert len(net.gateway.calls) == sent


def test_a_gateway_that_is_not_there_is_named(net: Any, typescript: Any) -> None:
    net.connect()
    where = net.gateway.url
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{probe.getsockname()[1]}"  # bound and not listening
        assert typescript.refused("connect", url=closed, fingerprint="00" * 32) == "client.unreachable"
    assert typescript.refused("connect", url="ftp://x", fingerprint="00" * 32) == "client.gateway_url"
    assert typescript.refused("connect", url=where + "/nothing-here", fingerprint="00" * 32) == "client.bad_answer"


@pytest.mark.parametrize(("path", "sent"), [
    ("/a/b?c=d#e", "/a/b?c=d"),
    ("//elsewhere.example/x", "//elsewhere.example/x"),
    ("https://elsewhere.example/x?y", "/x?y"),
    ("/a/../b c/é", "/b%20c/%C3%A9"),
    ("x", "/x"),
])  # fmt: skip
def test_only_path_and_query_of_an_address_count(path: str, sent: str, net: Any) -> None:
    assert json.loads(net.once(path)["ok"]["text"])["path"] == sent


def test_a_body_over_the_cap_never_leaves(net: Any) -> None:
    net.connect()
    assert code(net.call(init={"method": "POST", "body": "x" * ((8 << 20) + 1)})) == "envelope.too_large"
    assert code(net.call(init={"method": "POST", "headers": {"x": "y" * 20_000}})) == "envelope.head"
    assert net.gateway.calls == []


def test_the_pages_first_snippet_runs_as_it_stands(tmp_path: Path) -> None:
    page = (SDK.parents[1] / "docs" / "use" / "typescript.md").read_text(encoding="utf-8")
    snippet = page.split("```ts\n")[1].split("```")[0]
    assert snippet.count("http://127.0.0.1:8080") == 1
    assert snippet.count("…") == 1
    world = World(now=int(time.time()))
    agent = world.set_agent()
    worker = FakeWorker(world)
    gateway = FakeGateway(world, [worker])
    world.mine()
    gateway.offer(agent)

    async def on_call(agent: bytes, boot: bytes, record: bytes) -> bytes:
        world.now = time.time()  # the page's program has the machine's clock
        return gateway.deliver(agent, boot, record)

    gateway.on_call = on_call
    with serving(gateway) as url:
        program = tmp_path / "page.ts"
        own = {"http://127.0.0.1:8080": url, "…": world.network.fingerprint()}
        for shown, real in own.items():
            snippet = snippet.replace(shown, real)
        program.write_text(snippet)
        done = deno("run", "--check", "--allow-net=127.0.0.1", str(program))
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert first.startswith("200 ")
    assert "remember this" in first
    assert last == "intel 0"
    assert [request.head.path for request in worker.ran] == ["/notes"]


def test_a_fetch_for_any_library(tmp_path: Path, net: Any) -> None:
    """``sealedFetch`` as such libraries use it: a whole address, a Request, Headers, an aborted signal."""
    program = tmp_path / "library.ts"
    program.write_text(LIBRARY)
    arguments = (net.gateway.url, net.world.network.fingerprint(), str(int(net.world.now)))
    done = deno("run", "--check", "--allow-net=127.0.0.1", str(program), *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["POST /v1/chat?x=1 {}", "PUT /v1/other body", "AbortError", "AbortError"]
    assert [request.head.path for request in ran(net)] == ["/v1/chat?x=1", "/v1/other", "/v1/late"]
