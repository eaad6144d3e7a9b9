"""What an agent's owner asks and commands: logs, figures, jobs, keys, commands (spec/owner.md). Needs its wallet.

A contract that owns asks by ``Client(caller=ContractWallet(…), wallet=…)``: the contract signs, the wallet reads.

::

    mine = Owner(client, agent_id)
    await mine.publish()                 # from now on lines are sealed to this wallet
    for event in await mine.logs(): ...  # lines in order, and gaps
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from cloister.client.agentlogs import Event, LogReader, log_key
from cloister.client.call import Request, Who
from cloister.client.reply import Reply
from cloister.client.resolve import Resolution
from cloister.core.encoding.hexes import from_hex, need_fields, to_hex
from cloister.core.encoding.owner_statements import LogKey
from cloister.core.envelope.apikey import SECRET_SIZE, ApiKey
from cloister.core.errors import PolicyError, define
from cloister.core.keys.ownerlog import BAD_PAGE
from cloister.core.policy.cron import LOOK_BACK_DAYS, Cron
from cloister.core.receipts.batch import BatchPath
from cloister.core.receipts.receipt import Receipt
from cloister.core.receipts.verify import verify_signed

if TYPE_CHECKING:
    from cloister.client.client import Client

PREFIX: Final = "/.well-known/cloister/owner/"
SUMS: Final = (
    *("calls", "contracts", "scheduled", "errors", "logged"),
    *("cpu_us", "egress_bytes", "ingress_bytes", "request_bytes", "response_bytes"),
)
MAX_ROUNDS: Final = 64
_UNIT_MS: Final = 0.016

BAD_ANSWER = define(
    "client.owner_answer",
    PolicyError,
    check="a worker answers its agent's owner with status 200, in the form of spec/owner.md",
    remedy="update the client or the worker",
    status=502,
)


@dataclass(frozen=True, slots=True)
class OwnReceipt:
    """A receipt as its agent's owner gets it: whom the caller was, it does not say. ``batch``: its place in what was
    signed, None if it was signed alone."""

    receipt: Receipt
    signature: bytes
    batch: BatchPath | None

    @classmethod
    def from_json(cls, value: object) -> OwnReceipt:
        """One of the list that a worker gives. Raises EncodingError, ReceiptError."""
        said = need_fields("receipt", value, {"receipt", "signature", "batch"})
        batch = None if said["batch"] is None else BatchPath.from_json(said["batch"])
        signature = from_hex(said["signature"], 65, name="signature")
        return cls(Receipt.decode(str(said["receipt"]).encode()), signature, batch)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: the receipt with its id and what proves it."""
        batch = None if self.batch is None else self.batch.to_json()
        signed = {"id": to_hex(self.receipt.id), "signature": to_hex(self.signature), "batch": batch}
        return {**signed, "receipt": self.receipt.to_json()}


class Owner:
    """One agent, as its owner. Every method raises worker.not_owner for another wallet, and what calls raise.

    The client's caller is the owner; its wallet has the key that reads the log: the same one, but for a contract."""

    def __init__(self, client: Client, agent: bytes) -> None:
        wallet = client.need_wallet()
        self._client, self._agent = client, agent
        self._who: Who = client.caller or wallet
        self._key = log_key(wallet, client.network.id, agent)
        self._reader = LogReader(client.network.id, agent, self._key)
        self._admitted: set[bytes] = set()

    @property
    def log_key(self) -> bytes:
        """The public key that this wallet's logs are sealed to. 32 bytes."""
        return self._key.public_key().public_bytes_raw()

    async def publish(self) -> LogKey:
        """Say which key reads the log from now on. Raises worker.log_key for one that was replaced already."""
        serial = int(self._client.clock())
        said = LogKey(self._agent, self._who.address, self.log_key, serial)
        signature = to_hex(self._who.sign(said.digest(self._client.network.id)))
        await self._ask("log-key", {"statement": said.to_json(), "signature": signature})
        return said

    async def published(self) -> bool:
        """Whether workers seal this agent's lines to this wallet."""
        return bool((await self._ask("logs", {"have": {}}))["key"] == to_hex(self.log_key))

    async def logs(self) -> list[Event]:
        """Lines and gaps since the last time, every worker's, by their hosts' clocks.

        1. every worker that holds the agent is asked; 2. pages of all boots, each read once; 3. their workers were
        admitted; 4. what a worker says of its own boot is held against what was read; 5. so are boots that are over.
        Raises SealError (seal.log_page, client.log_forked), client.owner_answer."""
        events: list[Event] = []
        live: set[bytes] = set()
        for worker, boot in await self._seats():  # 1
            answer = await self._pages(worker, events)  # 2
            head = from_hex(answer["head"], 32, name="head")
            events += self._reader.close(boot, worker, int(answer["next"]), head)  # 4
            live.add(boot)
        await self._require_admitted(self._reader.workers())  # 3
        events += self._reader.unfinished(live)  # 5
        return sorted(events, key=lambda event: event.ms)

    async def metrics(self) -> dict[str, Any]:
        """Sums over the workers that hold the agent, since each of them started; p50 and p99 in ms, None for none."""
        found = [await self._ask("metrics", {}, worker) for worker, _ in await self._seats()]
        sums: dict[str, Any] = {name: sum(int(one[name]) for one in found) for name in SUMS}
        durations = [sum(column) for column in zip(*(one["durations"] for one in found), strict=True)]
        quantiles = {"p50_ms": quantile(durations, 0.5), "p99_ms": quantile(durations, 0.99)}
        return {"agent": to_hex(self._agent), "workers": len(found), **sums, **quantiles}

    async def receipts(self, since: Mapping[bytes, int] | None = None) -> list[OwnReceipt]:
        """The agent's receipts of the boots that serve it now, each log from number ``since[boot]`` on, in order.

        1. every worker that holds the agent is asked, page by page; 2. what it shows is of this agent, worker and boot,
        in rising order; 3. the worker signed it; 4. the worker was admitted. A worker can leave some out: the log that
        the committee witnesses says how many there are of all agents. Raises client.owner_answer, ReceiptError."""
        found: list[OwnReceipt] = []
        for worker, boot in await self._seats():
            at, last = (since or {}).get(boot, 0), -1
            for _ in range(MAX_ROUNDS):
                answer = await self._ask("receipts", {"boot": to_hex(boot), "first": at}, worker)  # 1
                for one in map(OwnReceipt.from_json, answer["receipts"]):
                    receipt = one.receipt
                    if (receipt.agent, receipt.worker, receipt.boot) != (self._agent, worker, boot):  # 2
                        raise BAD_ANSWER(expected="receipts of this agent, worker and boot", found="another's")
                    if receipt.seq <= last:
                        raise BAD_ANSWER(expected=f"a receipt after {last}", found=str(receipt.seq))
                    verify_signed(receipt, one.signature, one.batch)  # 3
                    found.append(one)
                    last = receipt.seq
                at, size = int(answer["next"]), int(answer["size"])
                if at >= size:
                    break
        await self._require_admitted({one.receipt.worker for one in found})  # 4
        return found

    async def jobs(self) -> dict[str, Any]:
        """{tasks: [{task, cron, path, due, done, tries, again, next}], dead: [{task, due, code, path, tries, at}],
        again}. Times are Unix seconds."""
        said = await self._ask("jobs", {})
        now = int(said["now"])
        for task in said["tasks"]:
            task["next"] = task["again"] if task.get("tries") else next_time(Cron.parse(task["cron"]), now)
        return said

    async def retry(self, task: int, due: int) -> None:
        """Run a given-up job once more, at the workers' next look. Raises worker.no_dead_job."""
        await self._ask("retry", {"task": task, "due": due})

    async def command(
        self, body: bytes, *, content_type: str = "application/json", request_id: bytes | None = None
    ) -> Reply:
        """Run the agent's ``command``. Repeated under the same ``request_id`` (16 bytes) it runs once, and the first
        answer comes again."""
        return await self._call("command", body, None, content_type, request_id)

    async def api_keys(self) -> list[dict[str, Any]]:
        """[{id, name, expiry, per_minute, block, revoked}] of every API key; secrets are not readable."""
        found = (await self._ask("keys", {})).get("keys")
        if not isinstance(found, list):
            raise BAD_ANSWER(expected="a list of keys", found=type(found).__name__)
        return found

    async def new_api_key(self, name: str, *, life_s: float, per_minute: int) -> ApiKey:
        """A key that holds for ``life_s`` seconds. Keep its ``text``: nobody else has it, the agent neither."""
        key = ApiKey(self._client.rng(SECRET_SIZE))
        expiry = int(self._client.clock() + life_s)
        fields = {"name": name, "mac_key": to_hex(key.mac), "expiry": expiry, "per_minute": per_minute}
        said = await self._ask("keys/new", fields)
        if said.get("id") != to_hex(key.address):
            raise BAD_ANSWER(expected=f"key {to_hex(key.address)}", found=str(said.get("id"))[:64])
        return key

    async def revoke_api_key(self, key: str) -> dict[str, Any]:
        """Revoke a key by id (0x…): its sessions end. Raises worker.api_key_unknown."""
        return await self._ask("keys/revoke", {"id": key})

    # --- inside ---

    async def _seats(self) -> list[tuple[bytes, bytes]]:
        found = (await self._client.resolver.resolve(self._agent, again=True)).sittings
        return [(one.worker.worker, one.seat.certificate.boot) for one in found]

    async def _pages(self, worker: bytes, events: list[Event]) -> dict[str, Any]:
        for _ in range(MAX_ROUNDS):
            answer = await self._ask("logs", {"have": self._reader.have()}, worker)
            for page in answer["pages"]:
                try:
                    data = base64.b64decode(page, validate=True)
                except (binascii.Error, ValueError, TypeError):
                    raise BAD_PAGE(expected="base64", found="another text") from None
                events += self._reader.take(data)
            if not answer["more"]:
                return answer
        raise BAD_ANSWER(expected=f"a log of at most {MAX_ROUNDS} answers", found="more")

    async def _require_admitted(self, workers: set[bytes]) -> None:
        view = await self._client.resolver.view()
        for worker in workers - self._admitted:
            if await view.state.worker(worker) is None:
                raise BAD_PAGE(expected="pages of admitted workers", found=to_hex(worker))
            self._admitted.add(worker)

    async def _ask(self, what: str, body: dict[str, Any], worker: bytes | None = None) -> dict[str, Any]:

        reply = await self._call(what, json.dumps(body).encode(), worker, "application/json", None)
        value = reply.json() if reply.status == 200 else None
        if not isinstance(value, dict):
            raise BAD_ANSWER(expected="status 200 and an object", found=f"status {reply.status}")
        return value

    async def _call(
        self, what: str, body: bytes, worker: bytes | None, content_type: str, request_id: bytes | None
    ) -> Reply:
        name = request_id or self._client.rng(16)
        request = Request.build(
            "POST",
            PREFIX + what,
            headers={"content-type": content_type},
            body=body,
            json_body=None,
            idempotency_key=name.hex(),
            request_id=name,
            deadline_ms=int((self._client.clock() + 30.0) * 1000),
        )
        return await self._client.calls.call(self._agent, request, _of(worker), self._who)


def _of(worker: bytes | None) -> Callable[[Resolution], Awaitable[Resolution]]:
    async def check(resolution: Resolution) -> Resolution:
        resolution = replace(resolution, canaries=())  # the version in force answers its owner
        if worker is None:
            return resolution
        kept = resolution.narrowed(lambda one: one.worker.worker == worker)
        if not kept:
            raise BAD_ANSWER(expected=f"worker {to_hex(worker)} on the agent", found="it left")
        return replace(resolution, sittings=kept)

    return check


def quantile(buckets: list[int], share: float) -> float | None:
    """The upper bound in ms of the bucket that the share falls into; None without calls."""
    total, reached = sum(buckets), 0
    for at, count in enumerate(buckets):
        reached += count
        if total and reached >= math.ceil(share * total):
            return round(_UNIT_MS * (2 ** ((at + 1) / 4) - 1), 3)
    return None


def next_time(cron: Cron, now_s: int) -> int | None:
    """The first due time after ``now_s``, Unix seconds; None if none comes within a year."""
    now = datetime.fromtimestamp(now_s, UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
    for ahead in range(LOOK_BACK_DAYS):
        day = now + timedelta(days=ahead)
        end = now if ahead == 0 else day.replace(hour=0, minute=0)
        times = [day.replace(hour=hour, minute=minute) for hour in cron.hours for minute in cron.minutes]
        first = min((int(one.timestamp()) for one in times if one >= end), default=None)
        if first is not None and cron.last(first) == first:
            return first
    return None
