"""Print the trusted computing base of each service's image: our code that it can load, and the packages beside it.

Budgets are in lines of code of ours: neither blank nor only comment nor docstring. They are larger than the 12,000 of
DESIGN section 4; docs/decisions/README.md says which and why. An image loads the modules that its service imports,
directly or not, at start or inside a function, and the harnesses that run agents. It is made for one kind of machine,
so it holds that machine's producer of evidence and no other (``evidence/detect.py`` imports them one by one). The image
nearest to its budget is shown. Requests to a TPM may cost 500 lines more. What a worker does beyond answering sealed
calls is shown by service. Raw numbers of the folders stand beside it. Exit status 1 when over.
"""

from __future__ import annotations

import ast
import importlib.metadata
import io
import json
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

SRC = Path(__file__).parents[1] / "src" / "cloister"
SHARED = ("core", "chain", "wire", "node", "evidence", "fabric")
FOLDERS = {
    "worker": (*SHARED, "sandbox", "worker"),
    "gatekeeper": (*SHARED, "gatekeeper"),
    "gateway": (*SHARED, "gateway"),
}
TEE = ("worker", "gatekeeper")  # the budget is theirs; the gateway is trusted with nothing
_PYTHON = SRC / "sandbox" / "python"
SCRIPTS = {"worker": (SRC / "sandbox" / "deno" / "harness.js", _PYTHON / "harness.py", _PYTHON / "cloister_agent.py")}
MAX_PACKAGES = 25
GATEKEEPER_LINES = 15_550
WORKER_LINES = 14_420  # sealed calls, state, leases, sandbox
TPM_LINES = 500
# What else a worker does: its budget in lines, and the modules that serve nothing else.
SERVICES = {
    "new keys at every epoch": (600, "worker.reseal worker.carried worker.moves core.state.reseal"),
    "the log of receipts": (
        1_230,
        """core.receipts.merkle core.receipts.log core.receipts.batch core.receipts.kept core.encoding.log_statements
        worker.receipts worker.witness wire.logs fabric.embedded.receipts""",
    ),
    "contracts: rules, hooks, requests": (
        2_300,
        """core.chainview.evm core.chainview.evm_ops core.chainview.evm_machine core.chainview.evm_precompiles
        core.chainview.anchor core.policy.access core.encoding.contract_statements core.keys.anchored
        chain.anchor chain.proven_calls chain.events wire.anchor
        worker.access worker.listed worker.anchor worker.anchor_courier worker.anchor_outbox worker.anchor_run
        worker.anchor_service""",
    ),
    "following the committee from term to term, and its master keys": (
        560,
        "core.chainview.terms core.chainview.epochs core.encoding.handover wire.terms worker.masters chain.places",
    ),
    "agents that sign, and call agents": (
        2_910,
        """client core.envelope.client core.envelope.opener core.receipts.verify core.encoding.typed_data
        core.keys.account
        core.chainview.checkpoints core.chainview.founding core.policy.committee core.attestation.policy
        core.attestation.roots worker.outbound worker.callers worker.offers worker.signing""",
    ),
    "connected chains": (
        1_020,
        """worker.acts worker.chains worker.anchors worker.carrier worker.remote worker.chain_calls chain.connected
        chain.kinds chain.logs chain.people wire.remote worker.account_service
        core.encoding.chain_record core.chainview.directory""",
    ),
    "spans of requests, where the operator asks for them": (220, "node.trace worker.spans core.envelope.trace"),
    "what owners see and command": (
        600,
        "core.keys.ownerlog core.encoding.owner_statements worker.logbook worker.owner worker.figures",
    ),
    "a second version beside the first, and secrets one by one": (120, "worker.wanted core.keys.secretset"),
    "agents in Python": (900, "sandbox.python sandbox.runtimes core.policy.archive harness.py cloister_agent.py"),
    "agents that wake up by a schedule": (300, "worker.schedule core.policy.cron"),
    "calls through a relay": (
        830,
        """core.envelope.bhttp core.envelope.ohttp core.envelope.ohttp_chunks core.envelope.oblivious
        core.envelope.oblivious_door core.keys.idsig worker.oblivious""",
    ),
    "many agents: processes on demand, in reserve, and each owner's share": (390, "worker.processes"),
    "processes that wait without an agent's code": (170, "sandbox.blanks"),
    "one timer for the deadlines of all requests": (60, "sandbox.deadlines"),
    "calls without a task": (170, "worker.quick"),
    "placement, by stake": (170, "core.policy.placement core.policy.caps core.chainview.stakes"),
    "whom to ask for keys first": (40, "wire.pace"),
}
# What else a gatekeeper does, in the same form.
GATEKEEPER_SERVICES = {
    "who may sit, and folders that the other members hold the key of": (
        550,
        "core.policy.candidates gatekeeper.candidates core.policy.rest gatekeeper.rest",
    ),
    "what the others see, and caps by stake": (
        180,
        "gatekeeper.lookout core.policy.caps core.chainview.stakes",
    ),
    "placement, by stake": (70, "core.policy.placement"),
    "what the others granted": (70, "gatekeeper.placements"),
    "whom to ask for keys first": (40, "wire.pace"),
    "who signs two things that exclude each other, and a halted member that goes on": (
        330,
        """core.policy.conflicts gatekeeper.watch wire.conflicts gatekeeper.believing wire.believed""",
    ),
    "statements of t members": (
        890,
        """core.policy.committee_statements core.policy.committee_due core.chainview.reseals gatekeeper.consents
        gatekeeper.gather gatekeeper.knowing gatekeeper.leases wire.statements""",
    ),
}
# What an image for this kind of machine holds of ``evidence``; the rest of the table stays out.
MACHINES = {
    "tdx, snp": {"configfs_tsm"},
    "tdx, snp on older kernels": {"ioctls"},
    "nitro": {"nitro"},
    "sgx": {"gramine"},
    "dstack": {"dstack"},
    "tpm": {"tpm2", "tpm_bench", "tpm_tools"},
    "azure": {"azure", "tpm_bench"},
}
_NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}
_JS_COMMENT = re.compile(r"^[ \t]*(//[^\n]*|/\*.*?\*/[ \t]*)$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Image:
    """One service's image for one machine (a key of MACHINES, or ""). ``lines``: code lines by folder. ``raw``: all
    lines of its folders. ``modules``: ours."""

    lines: dict[str, int]
    raw: int
    modules: frozenset[str]
    packages: tuple[str, ...]
    machine: str = ""

    @property
    def total(self) -> int:
        """Code lines of ours."""
        return sum(self.lines.values())

    @property
    def budget(self) -> int:
        """Lines that this image may have."""
        tpm = TPM_LINES if "tpm_bench" in MACHINES.get(self.machine, ()) else 0
        base = WORKER_LINES if "worker" in self.lines else GATEKEEPER_LINES
        return base + tpm + sum(lines for lines, _ in self._table().values())

    @property
    def over(self) -> bool:
        """Whether a budget is exceeded: of packages, of all lines, or of one of a worker's services."""
        return (
            self.total > self.budget
            or len(self.packages) > MAX_PACKAGES
            or any(used > allowed for _, used, allowed in self.services())
        )

    def services(self) -> list[tuple[str, int, int]]:
        """What a worker does beyond sealed calls, a gatekeeper beyond keys and ceremonies: name, lines, budget."""
        return [(name, self._of(tuple(parts.split())), allowed) for name, (allowed, parts) in self._table().items()]

    def _table(self) -> dict[str, tuple[int, str]]:
        if "worker" in self.lines:
            return SERVICES
        return GATEKEEPER_SERVICES if "gatekeeper" in self.lines else {}

    def _of(self, parts: tuple[str, ...]) -> int:
        names = tuple(f"cloister.{part}" for part in parts)
        mine = {m for m in self.modules if m in names or m.startswith(tuple(f"{n}." for n in names))}
        scripts = sum(self.lines.get(part, 0) for part in parts if part.endswith(".py"))
        return scripts + sum(code_lines(path.read_text()) for m in mine if (path := file_of(m)) is not None)


# --- lines ---


@cache
def code_lines(source: str) -> int:
    """Lines of Python that are code: no blank ones, comments, docstrings. Images share files: each is read once."""
    held: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE and token.string:
            held.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                held.difference_update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return len(held)


def script_lines(source: str) -> int:
    """Lines of JavaScript that are neither blank nor only comment."""
    return sum(1 for line in _JS_COMMENT.sub("", source).splitlines() if line.strip())


def raw_lines(folders: Iterable[str]) -> int:
    """All lines of our Python and JavaScript in these folders."""
    files = [p for f in folders for p in (SRC / f).rglob("*") if p.suffix in {".py", ".js"}]
    return sum(p.read_text().count("\n") for p in files)


# --- modules ---


def file_of(module: str) -> Path | None:
    """The file of one of our modules; None if there is no such module (a name inside one)."""
    path = SRC.parent.joinpath(*module.split("."))
    return next((p for p in (path / "__init__.py", path.with_suffix(".py")) if p.is_file()), None)


@cache
def imports_of(path: Path) -> frozenset[str]:
    """Names that a file imports, wherever the statement stands, but for types only."""
    return frozenset(_names(ast.parse(path.read_text())))


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
        for other in node.orelse:
            yield from _names(other)
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _names(child)


def reachable(start: str, without: frozenset[str] = frozenset()) -> frozenset[str]:
    """Our modules that ``start`` imports, directly or not, with the packages that hold them; none of ``without``."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        module = waiting.pop()
        path = file_of(module) if module.split(".")[0] == "cloister" else None
        if module in found or module in without or path is None:
            continue
        found.add(module)
        waiting += [module.rpartition(".")[0], *imports_of(path)]
    return frozenset(found)


# --- packages ---


@cache
def loaded(statement: str) -> frozenset[str]:
    """Modules in a fresh interpreter after ``statement``."""
    code = f"import sys, json\n{statement}\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return frozenset(json.loads(done.stdout))


def packages_of(service: str, modules: Iterable[str]) -> tuple[str, ...]:
    """Distributions that the service loads at start, and those that its modules load on first use.

    What an interpreter of this environment loads by itself (hooks in site-packages) is no part of an image.
    """
    owners = importlib.metadata.packages_distributions()
    named = {name.split(".")[0] for m in modules if (path := file_of(m)) for name in imports_of(path)}
    later = sorted(named & set(owners) - {"cloister"})
    found = loaded(f"import {', '.join([f'cloister.{service}.__main__', *later])}") - loaded("pass")
    names = {owner for top in {n.split(".")[0] for n in found} for owner in owners.get(top, ())}
    return tuple(sorted({name.lower().replace("_", "-") for name in names} - {"cloister"}))


@cache
def measure(service: str, machine: str | None = None) -> Image:
    """The image of one service for one machine; else the one nearest to its budget, with the packages of all."""
    if machine is None and service in TEE:
        images = [measure(service, each) for each in MACHINES]
        packages = tuple(sorted({name for image in images for name in image.packages}))
        return replace(max(images, key=lambda image: image.total - image.budget), packages=packages)
    modules = reachable(f"cloister.{service}.__main__", _others(machine) if machine else frozenset())
    lines: dict[str, int] = {}
    for module in modules:
        path = file_of(module)
        if path is not None:
            folder = module.split(".")[1] if "." in module else "cloister"
            lines[folder] = lines.get(folder, 0) + code_lines(path.read_text())
    for script in SCRIPTS.get(service, ()):
        lines[script.name] = (script_lines if script.suffix == ".js" else code_lines)(script.read_text())
    return Image(lines, raw_lines(FOLDERS[service]), modules, packages_of(service, modules), machine or "")


def _others(machine: str) -> frozenset[str]:
    """The producers that an image for this machine leaves out."""
    return frozenset(f"cloister.evidence.{name}" for names in MACHINES.values() for name in names - MACHINES[machine])


def main() -> int:
    """Print every image; 1 when a TEE's is over budget."""
    over = False
    for service in FOLDERS:
        image = measure(service)
        over |= service in TEE and image.over
        budget = f"budget {image.budget:,} and {MAX_PACKAGES}" if service in TEE else "outside any TEE: no budget"
        largest = f", for {image.machine}" if image.machine else ""
        print(f"{service}: {image.total:,} lines of code of ours, {len(image.packages)} packages ({budget}{largest})")
        print("  " + ", ".join(f"{name} {count:,}" for name, count in sorted(image.lines.items())))
        for name, used, allowed in image.services():
            print(f"  of which {name}: {used:,} of {allowed:,}")
        print(f"  {len(image.modules)} modules; all lines of its folders, comments and documents too: {image.raw:,}")
        print("  " + ", ".join(image.packages))
        if service in TEE:
            print("  by machine: " + "; ".join(f"{m}: {measure(service, m).total:,}" for m in MACHINES))
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
