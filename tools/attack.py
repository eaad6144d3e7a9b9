"""``make attack``: every attack on the sandbox behind each wall, and what stopped it. Same list as the tests.

``make attack ONLY=redirect,ffi`` runs some. Exit status 1 if one went further than the list says.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from support.attack_lab import Lab, matches, open_lab  # noqa: E402
from support.attacks import ATTACKS, Attack, Walls  # noqa: E402
from support.python_attacks import PYTHON_ATTACKS  # noqa: E402


async def _one(lab: Lab, attack: Attack, walls: Walls) -> bool:
    """Run one attack and print its line; whether the wall held."""
    stop = attack.stop(walls)
    if stop is None:
        print(f"  {walls.value:<13} -", flush=True)
        return True
    try:
        result = await lab.attack(attack, walls)
        held = matches(lab, result.outcome, stop.outcome)
        found = "" if held else f"  <- expected {stop.outcome}, found {result.outcome[:300]}"
        line = (
            f"{stop.wall:<42} {result.outcome[:44]:<44} {result.seconds * 1000:7.0f} ms {result.peak_mb:4d} MB{found}"
        )
    except AssertionError as error:
        held, line = False, f"AFTERMATH: {str(error)[:300]}"
    print(f"  {walls.value:<13} {'held' if held else 'BROKE'} {line}", flush=True)
    return held


async def main() -> int:
    """Run the chosen attacks; 0 if every wall held."""
    only = set(filter(None, os.environ.get("ONLY", "").split(",")))
    broke, row = [], ""
    with tempfile.TemporaryDirectory(prefix="attack-") as folder:
        async with open_lab(Path(folder)) as lab:
            for attack in (*ATTACKS, *PYTHON_ATTACKS):
                if only and attack.name not in only:
                    continue
                heading = f"python: {attack.row}" if attack.python else attack.row
                if heading != row:
                    row = heading
                    print(f"\n{row.upper()}")
                print(f" {attack.name}: {attack.says}")
                tried = [Walls.BOTH] if attack.python else list(Walls)  # Python has one wall
                broke += [f"{attack.name} ({walls.value})" for walls in tried if not await _one(lab, attack, walls)]
    spent = lab.cpu_us / 1e6 + time.process_time()
    print(f"\n{'every wall held' if not broke else 'BROKE: ' + ', '.join(broke)}; {spent:.0f} s of CPU time")
    return 1 if broke else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
