"""Waking agents by the clock, as their manifests say (spec/sandbox.md 10).

Every seat of an agent looks, the agent's own sealed state decides: what a run wrote and the mark that it ran commit
together, so one seat's run counts. A run that fails is tried again, later each time, by whatever seat comes first; one
that keeps failing is set aside where the owner sees it. Names begin with NUL, which agent code cannot use.

::

    \\0schedule/<n>              JCS {cron, due, done, tries, again}; Unix seconds, ``done``: what is over
    \\0schedule-dead/<n>/<due>   JCS {code, path, tries, at}
    \\0schedule-again            JCS [task, due]: a given-up job that its owner wants run once more
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from cloister.core.encoding import jcs
from cloister.core.encoding.hexes import to_hex
from cloister.core.errors import CloisterError, SandboxError, define
from cloister.core.policy.cron import Cron
from cloister.core.policy.manifest import Manifest, Task
from cloister.fabric.ports import CONFLICT
from cloister.sandbox.errors import CLOSED
from cloister.sandbox.ports import AgentProcess, AgentRequest, Chunks
from cloister.worker.figures import FigureBook
from cloister.worker.host import Origin
from cloister.worker.placed import Placed
from cloister.worker.scope import RequestScope
from cloister.worker.state import ALREADY_DONE, AgentState

PREFIX, DEAD, AGAIN = "\0schedule/", "\0schedule-dead/", "\0schedule-again"
MAX_TRIES: Final = 5
MAX_DEAD: Final = 100
FIRST_WAIT_S: Final = 30
MAX_BODY: Final = 1 << 20
_calls = itertools.count(1)

FAILED = define(
    "worker.scheduled_failed",
    SandboxError,
    check="an agent answers a scheduled request with a status below 400, in time",
    remedy="read the agent's log; it is tried again, later each time, and then set aside",
    status=502,
)


NO_JOB = define(
    "worker.no_dead_job",
    SandboxError,
    check="a job that is to be run again was given up, and the agent's schedule still has its task",
    remedy="see `cloister agent jobs AGENT` for what was given up",
    status=404,
)


@dataclass(frozen=True, slots=True)
class Mark:
    """How far one task of the schedule came. ``again``: not before then, after a failure."""

    cron: str
    done: int
    due: int = 0
    tries: int = 0
    again: int = 0

    def __bytes__(self) -> bytes:
        return jcs.encode(asdict(self))


class Schedule:
    """The clock of one worker's agents. ``manifest(placed)``: as its lease says; ``now_s``: the host's clock, which
    decides when, never what."""

    def __init__(
        self,
        process: Callable[[Placed], Awaitable[AgentProcess]],
        manifest: Callable[[Placed], Awaitable[Manifest]],
        now_s: Callable[[], int],
        figures: FigureBook,
    ) -> None:
        self._process, self._manifest, self._now_s, self._figures = process, manifest, now_s, figures
        self.problems: dict[bytes, CloisterError] = {}

    async def turn(self, agents: dict[bytes, Placed]) -> None:
        """Run whatever is due. A failing agent does not stop the others."""
        problems: dict[bytes, CloisterError] = {}
        for agent, placed in agents.items():
            try:
                tasks = (await self._manifest(placed)).schedule
                if tasks:
                    await self._once_more(placed, tasks)
                for number, task in enumerate(tasks):
                    await self._look(placed, number, task)
            except CloisterError as error:
                problems[agent] = error
        self.problems = problems

    async def jobs(self, placed: Placed) -> dict[str, Any]:
        """For the owner: tasks with how far each came, jobs that were given up, and the one that runs once more."""
        tasks = []
        for number, task in enumerate((await self._manifest(placed)).schedule):
            data = await placed.state.peek(f"{PREFIX}{number}")
            mark = {} if data is None else jcs.decode(data)
            tasks.append({**task.to_json(), **mark, "cron": task.cron, "task": number})
        again = jcs.decode(await placed.state.peek(AGAIN) or b"null")
        return {"now": self._now_s(), "tasks": tasks, "dead": await dead_letters(placed.state), "again": again}

    async def again(self, placed: Placed, number: object, due: object) -> tuple[str, bytes]:
        """Name and value of the wish to run a given-up job once more. Raises worker.no_dead_job."""
        tasks = (await self._manifest(placed)).schedule
        found = [one for one in await dead_letters(placed.state) if (one["task"], one["due"]) == (number, due)]
        if not found or found[0]["task"] >= len(tasks):
            raise NO_JOB(expected="task and due of a job that was given up", found="others")
        return AGAIN, jcs.encode([found[0]["task"], found[0]["due"]])

    async def _once_more(self, placed: Placed, tasks: tuple[Task, ...]) -> None:
        """A job that its owner wants again: one try. Done: its letter goes with what the run wrote; else it stays."""
        wish = jcs.decode(await placed.state.peek(AGAIN) or b"null")
        if wish is None:
            return
        number, due = wish
        gone: dict[str, bytes | None] = {AGAIN: None}
        letter = f"{DEAD}{number}/{due}"
        if number >= len(tasks) or await placed.state.peek(letter) is None:
            await _write(placed.state, f"no job {number} {due} {await _height(placed.state)}", gone)
            return
        try:
            await self._run(placed, number, tasks[number], due, {**gone, letter: None})
        except CloisterError as error:
            if error.code not in (ALREADY_DONE.code, CONFLICT.code):
                placed.host.log(None, "error", f"scheduled {tasks[number].path} failed again: {error.code}")
                await _write(placed.state, f"again {number} {due} {await _height(placed.state)}", gone)
                raise

    async def _look(self, placed: Placed, number: int, task: Task) -> None:
        """1. the newest time that is due; 2. a task that is new, or changed, begins with the next one; 3. done, or not
        to be tried yet; 4. run: the mark commits with what the run wrote; 5. a failure is noted."""
        now = self._now_s()
        due = Cron.parse(task.cron).last(now)  # 1
        if due is None:
            return
        name = f"{PREFIX}{number}"
        data = await placed.state.peek(name)
        mark = None if data is None else Mark(**jcs.decode(data))
        if mark is None or mark.cron != task.cron:  # 2
            await _write(placed.state, f"begin {number} {task.cron} {due}", {name: bytes(Mark(task.cron, due))})
            return
        if mark.done < mark.due < due and mark.tries:
            due = mark.due  # one that failed comes first
        if mark.done >= due or now < mark.again:  # 3
            return
        try:
            await self._run(placed, number, task, due, {name: bytes(Mark(task.cron, due))})  # 4
        except CloisterError as error:
            if error.code in (ALREADY_DONE.code, CONFLICT.code):
                return  # another seat was faster, or will be
            await self._failed(placed, number, task, replace(mark, due=due), error)  # 5
            raise

    async def _run(self, placed: Placed, number: int, task: Task, due: int, marks: Mapping[str, bytes | None]) -> None:
        process = await self._process(placed)
        run = _request_id(f"run {number} {task.cron} {due}")
        scope = RequestScope(placed.state, await placed.state.begin(run), run)
        call, deadline = f"{run}-s{next(_calls)}", (self._now_s() + task.within_s) * 1000
        placed.host.open(call, scope, Origin(deadline_ms=deadline))
        try:
            with self._figures.counting(placed.record.agent, "scheduled", process) as count:
                head, chunks = await process.fetch(_asked(call, number, task, due, deadline))
                count.response = await _drained(head.status, chunks)
                if placed.closed:
                    raise CLOSED(expected="an agent of this worker", found="one that was dropped while it ran")
                for name, value in marks.items():
                    await (scope.delete(name) if value is None else scope.put(name, value))
                await scope.commit_head()
        finally:
            placed.host.close(call)
            scope.close()

    async def _failed(self, placed: Placed, number: int, task: Task, mark: Mark, error: CloisterError) -> None:
        """Wait twice as long each time; at the end, set it aside and go on with the next."""
        now, tries = self._now_s(), mark.tries + 1
        placed.host.log(None, "error", f"scheduled {task.path} failed, try {tries} of {MAX_TRIES}: {error.code}")
        name, attempt = f"{PREFIX}{number}", f"failed {number} {task.cron} {mark.due} {tries}"
        if tries < MAX_TRIES:
            later = replace(mark, tries=tries, again=now + FIRST_WAIT_S * 2 ** (tries - 1))
            await _write(placed.state, attempt, {name: bytes(later)})
            return
        facts = {"code": error.code, "path": task.path, "tries": tries, "at": now}
        dead = {f"{DEAD}{number}/{mark.due}": jcs.encode(facts)}
        await _write(placed.state, attempt, {name: bytes(Mark(task.cron, mark.due)), **dead})


async def dead_letters(state: AgentState) -> list[dict[str, Any]]:
    """Scheduled requests that were given up, oldest first: {task, due, code, path, tries, at}."""
    transaction = await state.begin(_request_id("read"))
    found = []
    for name in await transaction.list(DEAD, limit=MAX_DEAD):
        number, due = name.removeprefix(DEAD).split("/")
        facts = jcs.decode(await transaction.get(name) or b"{}")
        found.append({"task": int(number), "due": int(due), **(facts if isinstance(facts, dict) else {})})
    return sorted(found, key=lambda letter: letter["due"])


async def _height(state: AgentState) -> int:
    return (await state.snapshot()).record.height


async def _write(state: AgentState, what: str, values: Mapping[str, bytes | None]) -> None:
    """One commit under a name that counts once, whichever seat makes it."""
    name = _request_id(what)
    try:
        transaction = await state.begin(name)
        for key, value in values.items():
            await (transaction.delete(key) if value is None else transaction.put(key, value))
        await transaction.commit(name)
    except CloisterError as error:
        if error.code not in (ALREADY_DONE.code, CONFLICT.code):
            raise


def _request_id(what: str) -> str:
    return hashlib.sha256(f"schedule {what}".encode()).hexdigest()[:32]


def _asked(call: str, number: int, task: Task, due: int, deadline_ms: int) -> AgentRequest:
    """The same key for every try of the same time, so that what the agent does outside can be done once."""
    key = to_hex(hashlib.sha256(f"{number} {task.cron} {due}".encode()).digest()[:16])
    headers = (("cloister-scheduled", str(due)), ("idempotency-key", key))
    return AgentRequest(call, "POST", task.path, headers, b"", {"kind": "schedule"}, deadline_ms)


async def _drained(status: int, chunks: Chunks) -> int:
    """Read to the end; how many bytes there were. Raises worker.scheduled_failed."""
    size = 0
    try:
        async for chunk in chunks:
            size += len(chunk)
            if size > MAX_BODY:
                raise FAILED(expected=f"at most {MAX_BODY} bytes", found="more")
    finally:
        await chunks.aclose()
    if status >= 400:
        raise FAILED(expected="a status below 400", found=f"status {status}")
    return size
