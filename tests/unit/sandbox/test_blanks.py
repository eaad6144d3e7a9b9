"""Processes that wait without an agent's code: which wait, who gets one, what is left of them (spec/sandbox.md 1.8)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cloister.core.errors import SandboxError
from cloister.core.policy.egress import parse_rules
from cloister.sandbox.blanks import (
    COOL_S,
    FRESH_BYTES,
    LONGEST_S,
    MAX_BLANK_BUNDLE,
    PLAIN,
    SHED_S,
    Blank,
    Blanks,
    Shape,
)
from cloister.sandbox.deno import DenoSandbox
from cloister.sandbox.errors import START
from cloister.sandbox.ports import AgentSpec, Limits
from support.sandbox_kit import MemoryHost, ask, children, open_files, spec_of

RULES = parse_rules(["api.example"])
OTHER, THIRD = Shape(64, 192, RULES), Shape(64, 256)
SMALL = 'export default (request, ctx) => new Response("hello " + ctx.agent.slice(0, 6));'


# --- which wait: without processes ---


class FakeBlank(Blank):
    """A blank that is no process."""

    ended = False
    dead = False

    @property
    def alive(self) -> bool:
        return not self.dead and not self.ended

    @property
    def resident(self) -> int:
        return 7

    async def end(self) -> None:
        self.ended = True


class Stage:
    """Blanks over a clock that stands still. ``gate``: starts wait for it; ``fails``: they fail."""

    def __init__(self, most: int) -> None:
        self.now = 100.0
        self.made: list[FakeBlank] = []
        self.fails = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.blanks = Blanks(self.launch, most, lambda: self.now)

    async def launch(self, shape: Shape) -> Blank:
        await self.gate.wait()
        if self.fails:
            raise START(expected="a start", found="none")
        self.made.append(FakeBlank(shape, Path("nowhere")))
        return self.made[-1]

    async def tend(self, *, room: bool = True, times: int = 1) -> list[Shape]:
        for _ in range(times):
            self.blanks.tend(room=room)
            await self.blanks.settled()
        await asyncio.sleep(0)
        return self.waiting()

    def waiting(self) -> list[Shape]:
        return [blank.shape for blank in self.made if blank.alive and blank in self.blanks._ready]


WAITING: dict[str, tuple[int, list[Shape], list[Shape]]] = {
    "none, where none may": (0, [], []),
    "plain ones, when nobody has asked yet": (2, [], [PLAIN, PLAIN]),
    "plain ones, when plain agents asked": (2, [PLAIN, PLAIN], [PLAIN, PLAIN]),
    "one for each shape that was asked for": (3, [OTHER, THIRD], [OTHER, PLAIN, THIRD]),
    "those of the newest shapes, where not all have a place": (2, [OTHER, THIRD], [OTHER, THIRD]),
    "the newest alone, where one place is": (1, [OTHER, THIRD], [THIRD]),
    "a shape that came again, and the one after it": (2, [OTHER, THIRD, OTHER], [OTHER, THIRD]),
}


@pytest.mark.parametrize("case", WAITING)
async def test_what_waits_is(case: str) -> None:
    most, asked, want = WAITING[case]
    stage = Stage(most)
    for shape in asked:
        stage.blanks.want(shape)
    waiting = await stage.tend(times=8)
    key = [PLAIN, OTHER, THIRD].index
    assert sorted(waiting, key=key) == sorted(want, key=key)
    assert stage.blanks.held() == (len(want), 7 * len(want))


async def test_a_shape_without_a_blank_takes_the_place_of_a_twin() -> None:
    stage = Stage(2)
    assert await stage.tend(times=3) == [PLAIN, PLAIN]
    stage.blanks.want(OTHER)
    assert await stage.tend() == [PLAIN, OTHER]
    assert [blank.ended for blank in stage.made] == [False, True, False]


async def test_a_blank_is_given_once_and_to_its_own_shape_only() -> None:
    stage = Stage(1)
    await stage.tend()
    assert stage.blanks.take(OTHER) is None
    assert stage.blanks.take(PLAIN) is stage.made[0]
    assert stage.blanks.take(PLAIN) is None
    assert not stage.made[0].ended, "it is the agent's now"
    await stage.blanks.close()
    assert not stage.made[0].ended


async def test_a_dead_one_is_not_given_and_makes_the_next_wait() -> None:
    stage = Stage(1)
    await stage.tend()
    stage.made[0].dead = True
    assert stage.blanks.take(PLAIN) is None
    assert await stage.tend() == []
    assert stage.made[0].ended, "what it had is removed"
    stage.now += COOL_S
    assert await stage.tend() == [PLAIN]


async def test_starts_that_fail_come_further_and_further_apart() -> None:
    stage = Stage(1)
    stage.fails = True
    pauses = []
    for _ in range(9):
        await stage.tend()
        began = stage.now
        while stage.now < stage.blanks._again:
            stage.now += 0.5
        pauses.append(stage.now - began)
    assert pauses[:4] == [COOL_S, 2 * COOL_S, 4 * COOL_S, 8 * COOL_S]
    assert pauses[-1] == LONGEST_S
    stage.fails = False
    assert await stage.tend() == [PLAIN]
    assert stage.blanks._failures == 0


async def test_without_room_none_is_started() -> None:
    stage = Stage(2)
    assert await stage.tend(room=False) == []
    assert await stage.tend() == [PLAIN]


async def test_one_gives_way_and_no_other_comes_for_a_while() -> None:
    stage = Stage(2)
    await stage.tend(times=2)
    assert stage.blanks.shed()
    assert await stage.tend() == [PLAIN]
    assert stage.blanks.shed()
    assert not stage.blanks.shed(), "there is none left"
    stage.now += SHED_S - 1
    assert await stage.tend() == []
    stage.now += 1
    assert await stage.tend() == [PLAIN]


async def test_one_that_is_being_started_counts_and_gives_way_too() -> None:
    stage = Stage(1)
    stage.gate.clear()
    stage.blanks.tend(room=True)
    await asyncio.sleep(0)
    assert stage.blanks.held() == (1, FRESH_BYTES)
    stage.blanks.tend(room=True)
    assert stage.blanks.shed()
    assert stage.blanks.held() == (0, 0)
    stage.gate.set()
    await asyncio.sleep(0)
    assert stage.made == []
    await stage.blanks.close()


async def test_closing_ends_all_and_begins_none() -> None:
    stage = Stage(2)
    await stage.tend()
    stage.gate.clear()
    stage.blanks.tend(room=True)
    await stage.blanks.close()
    assert [blank.ended for blank in stage.made] == [True]
    stage.gate.set()
    assert await stage.tend() == []


def test_an_agent_that_reaches_no_host_trusts_nobody_and_is_plain() -> None:
    assert Shape.of(spec_of(SMALL, extra_ca=b"a root"), ()) == PLAIN
    assert Shape.of(spec_of(SMALL, extra_ca=b"a root"), RULES).extra_ca == b"a root"
    limits = Limits(heap_mb=32, memory_mb=64, wall_s=1.0)
    assert Shape.of(spec_of(SMALL, limits=limits), ()).limits == Limits(heap_mb=32, memory_mb=64)


async def test_a_blank_that_does_not_stand_is_claimed_by_nobody() -> None:
    with pytest.raises(RuntimeError):
        Blank(PLAIN, Path("nowhere")).release()
    await Blank(PLAIN, Path("nowhere")).end()


# --- real ones ---


@pytest_asyncio.fixture(params=[None, False], ids=["as root", "without root"])
async def sandbox(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[DenoSandbox]:
    async with DenoSandbox(tmp_path, rooted=request.param, blanks=1) as sandbox:
        yield sandbox


async def stand(sandbox: DenoSandbox, settings: AgentSpec | None = None) -> Blank:
    """One that waits for this agent, by default a plain one."""
    if settings is not None:
        sandbox.blanks.want(Shape.of(settings, parse_rules(settings.egress)))
    sandbox.blanks.tend(room=True)
    await sandbox.blanks.settled()
    (blank,) = sandbox.blanks._ready
    return blank


@contextlib.contextmanager
def nothing_new() -> Iterator[None]:
    before = children(), open_files()
    yield
    assert (children(), open_files()) == before


LOOK = """
const names = [...Deno.readDirSync("/agent")].map((entry) => entry.name);
const refused = (work) => { try { work(); return "allowed"; } catch (error) { return error.name; } };
export default (request, ctx) => Response.json({
  names,
  write: refused(() => Deno.writeTextFileSync("/agent/more.js", "1")),
  remove: refused(() => Deno.removeSync("/agent/agent.js")),
  outside: refused(() => Deno.readDirSync("/")),
  secret: ctx.secrets.KEY, env: Deno.env.get("MODE"), agent: ctx.agent.slice(0, 6),
});
"""


async def test_a_small_agent_gets_the_one_that_waits_and_is_all_that_it_knows(sandbox: DenoSandbox) -> None:
    settings = spec_of(LOOK, secrets={"KEY": "s3cret"}, env={"MODE": "x"})
    blank = await stand(sandbox)
    assert blank.watched is not None
    waited = blank.watched
    folder = blank.folder
    process = await sandbox.start(settings, MemoryHost())
    assert process._parts.watched is waited, "no other process was started"
    assert sandbox.blanks.held() == (0, 0)
    answer = json.loads((await ask(process)).body)
    assert (answer["names"], answer["outside"]) == (["agent.js"], "NotCapable")
    assert answer["write"] == answer["remove"] == "NotCapable"
    assert (answer["secret"], answer["env"], answer["agent"]) == ("s3cret", "x", "0x0707")
    assert process.usage()["cpu_us"] > 0
    await process.close()
    assert not folder.exists(), "it served this agent and nobody else"


OTHERS: dict[str, dict[str, Any]] = {
    "another heap": {"limits": Limits(heap_mb=32)},
    "more memory": {"limits": Limits(memory_mb=256)},
    "hosts that it may reach": {"egress": ["api.example"]},
}


@pytest.mark.parametrize("case", OTHERS)
async def test_an_agent_gets_no_blank_if_it_has(case: str, tmp_path: Path) -> None:
    """Those of the process are those that it was started with: the agent's own start from nothing."""
    async with DenoSandbox(tmp_path, blanks=1) as sandbox:
        blank = await stand(sandbox)
        process = await sandbox.start(spec_of(SMALL, **OTHERS[case]), MemoryHost())
        assert blank.alive
        assert process._parts.watched is not blank.watched
        await process.close()
        fits = await stand(sandbox, spec_of(SMALL, **OTHERS[case]))
        process = await sandbox.start(spec_of(SMALL, **OTHERS[case]), MemoryHost())
        assert process._parts.watched is not None
        assert not fits.alive
        assert (await ask(process)).text == "hello 0x0707"


async def test_a_large_bundle_starts_from_nothing_with_its_compiled_code(tmp_path: Path) -> None:
    async with DenoSandbox(tmp_path, blanks=1) as sandbox:
        blank = await stand(sandbox)
        for size, waits in ((MAX_BLANK_BUNDLE + 1, True), (MAX_BLANK_BUNDLE, False)):
            code = SMALL + "//".ljust(size - len(SMALL), "x")
            process = await sandbox.start(spec_of(code), MemoryHost())
            assert (await ask(process)).text == "hello 0x0707"
            assert blank.alive is waits
            await process.close()


async def test_code_that_does_not_load_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    async with DenoSandbox(tmp_path, blanks=1) as sandbox:
        await (await stand(sandbox)).end()
        with nothing_new():
            sandbox.blanks.tend(room=True)
            sandbox.blanks._again = 0.0
            await stand(sandbox)
            host = MemoryHost()
            with pytest.raises(SandboxError) as caught:
                await sandbox.start(spec_of('throw new TypeError("not today"); export default 1;'), host)
            assert (caught.value.code, caught.value.found) == ("sandbox.bundle", "TypeError")
            assert host.logged("not today")
        assert list((tmp_path / "deno" / "agents").iterdir()) == []


async def test_a_blank_that_was_killed_hurts_no_agent(tmp_path: Path) -> None:
    async with DenoSandbox(tmp_path, blanks=1) as sandbox:
        blank = await stand(sandbox)
        assert blank.watched is not None
        blank.watched.kill()
        await blank.watched.exited
        process = await sandbox.start(spec_of(SMALL), MemoryHost())
        assert (await ask(process)).text == "hello 0x0707"


async def test_a_process_that_cannot_be_made_stands_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with DenoSandbox(tmp_path, blanks=1) as sandbox:
        await stand(sandbox)
        assert sandbox.blanks.shed()
        await asyncio.gather(*sandbox.blanks._ending)
        monkeypatch.setattr(Limits, "__init__", lambda self, **kw: (_ for _ in ()).throw(OSError("no")))
        with nothing_new():
            sandbox.blanks._again = 0.0
            sandbox.blanks.tend(room=True)
            await sandbox.blanks.settled()
        assert sandbox.blanks.held() == (0, 0)


async def test_closing_the_sandbox_leaves_nothing_of_those_that_wait(tmp_path: Path) -> None:
    with nothing_new():
        async with DenoSandbox(tmp_path, blanks=2) as sandbox:
            await stand(sandbox)
            sandbox.blanks.tend(room=True)
            await asyncio.sleep(0.01)  # in the middle of a start
    assert not (tmp_path / "deno").exists()
