"""Static analysis of the contracts: slither over forge's build, compared with the answers in docs/audit/slither.md.

    python contracts/audit.py            run slither; exit 1 for a finding that the page does not answer
    python contracts/audit.py --list     also print every finding

Slither is AGPL: a tool in an environment of its own under .build/, imported by nothing of ours.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections import Counter
from pathlib import Path
from typing import Any

import build

VERSION = "0.11.6"
HOME = build.BUILD / "slither"
PAGE = build.ROOT / "docs" / "audit" / "slither.md"
_ROW = re.compile(r"^\| ([a-z0-9-]+) \| (\w+) \| (\d+) \|", re.MULTILINE)


def tool() -> Path:
    """Slither's command, installed if it is not there."""
    command = HOME / "env" / "bin" / "slither"
    if not command.exists():
        venv.create(HOME / "env", with_pip=True)
        pip = [str(HOME / "env" / "bin" / "pip"), "install", "-q", f"slither-analyzer=={VERSION}"]
        subprocess.run(pip, check=True)
    return command


def compiled() -> Path:
    """A folder with a copy of the sources and forge's build information of them."""
    work = HOME / "work"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(build.HERE / "src", work / "src")
    shutil.copytree(build.package(build.OPENZEPPELIN, "5.7.0"), work / "library")
    settings = (build.HERE / "foundry.toml").read_text(encoding="utf-8")
    remap = f'remappings = ["{build.OPENZEPPELIN}/=library/"]\n'
    (work / "foundry.toml").write_text(settings.replace("[fuzz]", remap + "\n[fuzz]", 1), encoding="utf-8")
    command = [str(build.forge_binary()), "build", "--offline", "--build-info", "--root", str(work)]
    subprocess.run(command, check=True, env=environment(work), cwd=work, stdout=subprocess.DEVNULL)
    return work


def environment(work: Path) -> dict[str, str]:
    """Forge's environment, its outputs in the work folder, forge on PATH for slither."""
    path = f"{build.forge_binary().parent}{os.pathsep}{os.environ['PATH']}"
    outputs = {"FOUNDRY_OUT": str(work / "out"), "FOUNDRY_CACHE_PATH": str(work / "cache"), "PATH": path}
    return build.forge_environment() | outputs | {"FOUNDRY_REMAPPINGS": f"{build.OPENZEPPELIN}/=library/"}


def findings(work: Path) -> list[dict[str, Any]]:
    """What slither finds in our own sources."""
    report = work / "report.json"
    command = [str(tool()), ".", "--ignore-compile", "--filter-paths", "library", "--json", str(report)]
    done = subprocess.run(command, check=False, env=environment(work), cwd=work, capture_output=True, text=True)
    if not report.exists():
        raise SystemExit(done.stderr)
    answer = json.loads(report.read_text(encoding="utf-8"))
    if not answer["success"]:
        raise SystemExit(answer["error"])
    return list(answer["results"].get("detectors", []))


def answered() -> Counter[tuple[str, str]]:
    """(check, impact) -> how many findings the page answers."""
    rows = _ROW.findall(PAGE.read_text(encoding="utf-8"))
    return Counter({(check, impact): int(count) for check, impact, count in rows})


def main(arguments: list[str]) -> int:
    """The command line."""
    build.fetch()
    found = findings(compiled())
    if arguments == ["--list"]:
        for item in sorted(found, key=lambda f: (f["impact"], f["check"])):
            print(item["impact"], item["check"], item["description"].splitlines()[0])
    counts = Counter((item["check"], item["impact"]) for item in found)
    known = answered()
    for check, impact in sorted(counts.keys() | known.keys()):
        if counts[check, impact] != known[check, impact]:
            print(f"{check} ({impact}): {counts[check, impact]} found, {known[check, impact]} answered in {PAGE.name}")
    if counts == known:
        print(f"{sum(counts.values())} findings, each answered in {PAGE.name}")
    return 0 if counts == known else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
