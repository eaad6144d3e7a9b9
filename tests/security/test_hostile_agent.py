"""Hostile agents: every attack of support/attacks.py behind both walls and behind each alone ends as the list says.

After each: the worker's key signs and was shown to nobody, the neighbour agent serves, and no process, namespace, file
or task is left (support/attack_lab.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from cloister.core.errors import SandboxError
from cloister.sandbox.deno import DenoSandbox
from cloister.sandbox.ports import AgentSpec, Limits
from cloister.sandbox.process import SandboxProcess
from support.attack_lab import CODE, Lab, matches, open_lab
from support.attacks import ATTACKS, CASES, LONG, ROWS, Attack, Walls
from support.documents import ROOT
from support.sandbox_kit import MemoryHost, ask, children, descendants, request_of, spec_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

_PARAMETERS = [
    pytest.param(
        attack,
        walls,
        id=f"{attack.name}-{walls.value}",
        marks=[pytest.mark.long] if (attack.name, walls) in LONG else [],
    )
    for attack, walls in CASES
]

# What a process that waited decides before its agent is known: files, environment, hosts, memory.
BLANK = {"workerFile", "writeSelf", "environAll", "forbiddenHost", "arrayBuffer"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def lab(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lab]:
    async with open_lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture
def sandbox(lab: Lab) -> DenoSandbox:
    return lab.inside


@pytest.mark.parametrize(("attack", "walls"), _PARAMETERS)
async def test_an_attack_ends_as_the_list_says(lab: Lab, attack: Attack, walls: Walls) -> None:
    stop = attack.stop(walls)
    assert stop is not None
    result = await lab.attack(attack, walls)
    assert matches(lab, result.outcome, stop.outcome), result


@pytest.mark.parametrize("attack", [a for a in ATTACKS if a.name in BLANK], ids=lambda attack: attack.name)
async def test_the_same_holds_in_a_process_that_waited_for_it(
    lab: Lab, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of the list; all of it: test_hostile_blank.py, with the long tests."""
    monkeypatch.setattr(lab, "blank", True)
    stop = attack.stop(Walls.BOTH)
    assert stop is not None
    result = await lab.attack(attack, Walls.BOTH)
    assert matches(lab, result.outcome, stop.outcome), result


# --- the list itself ---


async def test_every_attack_has_code_and_all_code_is_an_attack() -> None:
    table = CODE.split("const attacks = {")[1].split("\n};")[0]
    coded = set(re.findall(r"^  (?:async )?(\w+)(?:: |\()", table, re.MULTILINE)) - {"hello", "listen", "polluted"}
    assert coded == {attack.name for attack in ATTACKS}
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS)


async def test_the_page_for_auditors_is_the_list() -> None:
    """docs/audit/sandbox.md has one row per attack: what, and the wall that stops it behind each."""
    page = (ROOT / "docs/audit/sandbox.md").read_text()
    rows = [tuple(re.split(r" \| ", line.strip("| "))) for line in page.splitlines() if line.startswith("| `")]
    want = [(f"`{a.name}`", a.says, *(s.wall if (s := a.stop(w)) else "—" for w in Walls)) for a in ATTACKS]
    assert sorted(rows) == sorted(want)
    assert [line[4:] for line in page.splitlines() if line.startswith("### ")] == list(ROWS)


# --- what no single attack shows ---


def spec() -> AgentSpec:
    return spec_of(CODE, limits=Limits(memory_mb=128, response_bytes=8 << 20), env={"SECRET": "k-0123456789"})


async def code_of(process: SandboxProcess, attack: str, seconds: float = 10.0) -> str:
    with pytest.raises(SandboxError) as caught:
        await ask(process, f"/{attack}", seconds=seconds)
    return caught.value.code


async def test_what_dies_takes_its_requests_with_it_and_nobody_else(sandbox: DenoSandbox) -> None:
    hostile, neighbour = [await sandbox.start(spec(), MemoryHost()) for _ in range(2)]
    waiting = asyncio.ensure_future(ask(hostile, "/workers"))
    await asyncio.sleep(0.01)
    assert await code_of(hostile, "exit") in ("sandbox.crashed", "sandbox.memory")
    with pytest.raises(SandboxError) as caught:
        await waiting
    assert caught.value.code in ("sandbox.crashed", "sandbox.memory")
    assert (await ask(neighbour, "/hello")).text == "hello"
    again = await sandbox.start(spec(), MemoryHost())
    assert (await ask(again, "/hello")).text == "hello"
    for process in (hostile, neighbour, again):
        await process.close()


async def test_a_stuck_event_loop_is_killed_after_its_grace(sandbox: DenoSandbox) -> None:
    before = children()
    process = await sandbox.start(spec(), MemoryHost())
    family = descendants(children() - before)
    assert await code_of(process, "loop", 0.3) == "sandbox.deadline"
    for _ in range(300):
        if not family & running():
            break
        await asyncio.sleep(0.02)
    assert not process.alive
    assert not family & running()
    await process.close()


def running() -> set[int]:
    return {int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()}


async def test_system_calls_that_nobody_has_looked_at_do_not_exist(lab: Lab) -> None:
    attack = next(a for a in ATTACKS if a.name == "syscalls")
    process, _ = await lab.start(attack, Walls.OS, MemoryHost())
    errors = json.loads((await ask(process, "/syscalls?calls=[[435],[463],[500]]")).text)
    assert errors == [38]  # ENOSYS
    await process.close()


async def test_a_polluted_realm_stays_with_its_own_process(sandbox: DenoSandbox) -> None:
    """Requests of one agent share a realm; other agents, and the next process of the same agent, do not."""
    hostile, neighbour = [await sandbox.start(spec(), MemoryHost()) for _ in range(2)]
    assert (await ask(hostile, "/pollute")).text == "polluted"
    with contextlib.suppress(SandboxError):  # its own harness may have broken on it
        assert (await ask(hostile, "/polluted", seconds=1)).text == "seen999"
    assert (await ask(neighbour, "/polluted")).text == "clean"
    await hostile.close()
    fresh = await sandbox.start(spec(), MemoryHost())
    assert (await ask(fresh, "/polluted")).text == "clean"
    for process in (neighbour, fresh):
        await process.close()


async def test_an_agent_that_hangs_while_it_loads_does_not_start(
    sandbox: DenoSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloister.sandbox.deno.sandbox.WARM_S", 0.5)
    before = children()
    settings = spec_of("for (;;); export default () => 1;", limits=Limits(start_s=0.5))
    with pytest.raises(SandboxError) as caught:
        await sandbox.start(settings, MemoryHost())
    assert caught.value.code == "sandbox.start"
    assert children() == before


async def test_what_an_agent_used_is_measured_outside_of_it(sandbox: DenoSandbox) -> None:
    process = await sandbox.start(spec(), MemoryHost())
    before = process.usage()
    assert (before["requests"], before["busy_us"], before["peak_requests"]) == (0, 0, 0)
    waiting = [asyncio.ensure_future(ask(process, "/lateThrow")) for _ in range(3)]
    await asyncio.gather(*waiting)
    with pytest.raises(SandboxError):
        await ask(process, "/slices", seconds=0.6)
    used = process.usage()
    assert (used["requests"], used["peak_requests"]) == (4, 3)
    assert used["cpu_us"] - before["cpu_us"] > 50_000
    assert used["busy_us"] > 500_000
    assert used["peak_bytes"] >= used["rss_bytes"] > 10 << 20
    await process.close()


async def test_one_request_too_many_at_once_is_refused_by_name(sandbox: DenoSandbox) -> None:
    limits = Limits(concurrency=2)
    process = await sandbox.start(spec_of(CODE, limits=limits), MemoryHost())
    waiting = [asyncio.ensure_future(ask(process, "/lateThrow")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(SandboxError) as caught:
        await process.fetch(request_of("/hello"))
    assert caught.value.code == "sandbox.busy"
    assert [answer.text for answer in await asyncio.gather(*waiting)] == ["still here"] * 2
    assert (await ask(process, "/hello")).text == "hello"
    await process.close()


async def test_requests_in_quick_succession_do_not_put_the_meter_off(sandbox: DenoSandbox) -> None:
    process = await sandbox.start(spec(), MemoryHost())
    await ask(process, "/hello")
    loop, first = asyncio.get_running_loop(), process._ticker
    assert first is not None
    for _ in range(20):
        await ask(process, "/hello")
        assert process._ticker is first or loop.time() >= first.when()
    await process.close()
