"""Whatever a document says about files, verbs, commands, snippets, settings and numbers is true."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import pkgutil
import re
import typing
from pathlib import Path
from typing import Any

import pytest
from bench.baseline import PARTS

import cloister
from cloister.client import Agent, Client, Reply, Stream
from cloister.client.build import build
from cloister.client.call import MAX_BODY
from cloister.client.verify import Report
from cloister.core.attestation.model import Check
from cloister.core.errors import REGISTRY, CloisterError
from cloister.core.policy import manifest as manifests
from cloister.core.policy.egress import MAX_PATTERNS
from cloister.core.state.plan import DEFAULT_LIMITS
from cloister.core.state.sealing import MAX_NAME, MAX_PLAIN
from cloister.devnet.network import Devnet
from cloister.devnet.tools import deno
from cloister.evidence.detect import MachineConfig
from cloister.gatekeeper import desks, service
from cloister.gatekeeper.config import GatekeeperConfig
from cloister.worker.agentlog import BURST, PER_S
from cloister.worker.config import WorkerConfig
from cloister.worker.host import _STATE_CALLS, MAX_LIST
from support.documents import COMMANDS, DOCUMENTS, ROOT, blocks, cells, command_lines, page, parse_command, words_of

_LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")
_CLASSES: dict[str, type] = {
    "client": Client,
    "agent": Agent,
    "hidden": Agent,
    "reply": Reply,
    "stream": Stream,
    "report": Report,
    "step": Check,
    "error": CloisterError,
    "devnet": Devnet,
}
_FOLDERS = ("src/", "tests/", "docs/", "spec/", "tools/", "contracts/", "agents/", "locks/", "bench/")

by_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))


# --- links, files, verbs ---


@by_document
def test_links_lead_somewhere(document: Path) -> None:
    for target in _LINK.findall(document.read_text()):
        assert (document.parent / target).exists(), target


@by_document
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", page("Makefile"), re.MULTILINE)) | {f"bench-{p}" for p in PARTS}
    text = document.read_text()
    quoted = re.findall(r"`make ([a-z][a-z-]*)", text)
    for block in blocks(text, "sh"):
        quoted += re.findall(r"^make ([a-z][a-z-]*)", block, re.MULTILINE)
    assert set(quoted) <= targets, document.name


@by_document
def test_files_that_are_named_exist(document: Path) -> None:
    """Paths in backticks that begin with a folder of the repository; what a command writes there is excepted."""
    written = {"docs/build/long-result.json"}
    for name in re.findall(r"`([\w./*-]+)`", document.read_text()):
        if name.startswith(_FOLDERS) and name not in written:
            assert list(ROOT.glob(name)), name


def test_architecture_names_real_files() -> None:
    names = re.findall(r"`([a-z_]+/[a-z_/.*]+\.(?:py|js|sol))`", page("ARCHITECTURE.md"))
    assert len(names) > 25
    for name in names:
        base = ROOT if name.startswith(("contracts/", "tests/")) else ROOT / "src" / "cloister"
        assert list(base.glob(name)), name


def test_the_index_names_every_page() -> None:
    text = page("docs/README.md")
    pages = {p.relative_to(ROOT / "docs") for p in (ROOT / "docs").rglob("*.md")} - {Path("README.md")}
    linked = {(Path(target)) for target in _LINK.findall(text)}
    assert {p for p in pages if p not in linked} == {
        Path("decisions/chain-toolchain.md"),
        Path("decisions/receipts.md"),
    }


# --- commands and codes ---


@by_document
def test_command_lines_parse(document: Path) -> None:
    for line in command_lines(document.read_text()):
        parse_command(words_of(line))


@by_document
def test_commands_in_the_text_exist(document: Path) -> None:
    for quoted in re.findall(r"`cloister ([a-z][^`]*)`", document.read_text()):
        words = [w for w in quoted.split() if not w.startswith("-")]
        names = [w for w in words if re.fullmatch(r"[a-z]+", w)]
        found: Any = COMMANDS
        for name in names:
            if not hasattr(found, "commands"):
                break
            assert name in found.commands, f"cloister {quoted}"
            found = found.commands[name]


def test_codes_in_the_documents_exist() -> None:
    """Words like ``area.name`` whose area is one of ours; host calls, attributes and file names are no codes."""
    for module in pkgutil.walk_packages(cloister.__path__, "cloister."):
        if not module.name.endswith("__main__") and ".templates" not in module.name:
            importlib.import_module(module.name)
    areas = {code.split(".")[0] for code in REGISTRY}
    suffixes = {"py", "js", "ts", "md", "json", "db", "key", "log"}
    others = {
        *_STATE_CALLS,
        *(f"chain.{name}" for name in ("at", "word", "call", "get", "put")),
        "keys.address",
        "keys.account",
        "keys.sign_message",
        "keys.sign_typed_data",
        *("gateway.call", "worker.request", "agent.fetch"),  # spans
        "reply.status",
        "sandbox.ports",
    }
    for document in DOCUMENTS:
        for code in re.findall(r"`([a-z]+\.[a-z_]+)`", document.read_text()):
            area, name = code.split(".")
            if area in areas and name not in suffixes and code not in others:
                assert code in REGISTRY, f"{document.name}: {code}"


# --- Python ---


@by_document
def test_python_blocks_compile_and_their_names_resolve(document: Path) -> None:
    for block in blocks(document.read_text(), "python"):
        tree = ast.parse(block)
        compile(block, document.name, "exec")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    if not hasattr(module, alias.name):  # a module inside it, that nobody imported yet
                        importlib.import_module(f"{node.module}.{alias.name}")
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in _CLASSES:
                kind = _CLASSES[node.value.id]
                known = hasattr(kind, node.attr) or f"self.{node.attr}" in inspect.getsource(kind)
                assert known, f"{kind.__name__}.{node.attr}"


@by_document
def test_arguments_that_python_blocks_give_are_taken(document: Path) -> None:
    """Calls of the client's and the devnet's own classes, by the name of what they are called on."""
    for block in blocks(document.read_text(), "python"):
        for node in ast.walk(ast.parse(block)):
            target = _called(node)
            if target is not None and isinstance(node, ast.Call):
                known = inspect.signature(target).parameters
                loose = any(p.kind is p.VAR_KEYWORD for p in known.values())
                for keyword in node.keywords:
                    assert loose or keyword.arg in known, f"{ast.unparse(node)}: no {keyword.arg}"


def _called(node: ast.AST) -> Any:
    if not isinstance(node, ast.Call):
        return None
    if isinstance(node.func, ast.Name) and node.func.id == "Client":
        return Client
    if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
        kind = _CLASSES.get(node.func.value.id)
        found = getattr(kind, node.func.attr, None) if kind is not None else None
        return found if inspect.isfunction(found) else None
    return None


# --- operate ---


def settings_of(kind: type) -> dict[str, str]:
    """Field names of a settings class with their defaults as the pages write them."""
    found = {}
    for one in dataclasses.fields(kind):
        missing = one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING
        made = one.default_factory() if one.default_factory is not dataclasses.MISSING else one.default
        found[one.name] = "" if missing else "none" if made == [] else str(made).lower()
    return found


def test_the_gatekeepers_page_names_every_setting_and_its_default() -> None:
    rows = cells(page("docs/operate/gatekeeper.md"), "setting")
    assert {name: row[-1] for name, row in rows.items()} == settings_of(GatekeeperConfig)


def test_the_workers_page_names_every_setting() -> None:
    rows = cells(page("docs/operate/worker.md"), "setting")
    assert list(rows) == [f.name for f in dataclasses.fields(WorkerConfig)]
    assert {"fresh_s": rows["fresh_s"][-1], "log_level": rows["log_level"][-1]} == {
        "fresh_s": "15",
        "log_level": "info",
    }


def test_the_gatekeepers_page_names_every_field_of_machine() -> None:
    rows = cells(page("docs/operate/gatekeeper.md"), "field")
    named = [name.strip() for cell in rows for name in cell.split(",")]
    assert named == [f.name for f in dataclasses.fields(MachineConfig)]
    assert str(MachineConfig().tsm_root) in rows["tsm_root"][0]
    assert str(MachineConfig().nsm_device) in rows["nsm_device"][0]
    assert str(MachineConfig.everywhere().gramine_root) in rows["gramine_root"][0]
    assert str(MachineConfig.everywhere().dstack_socket) in rows["dstack_socket"][0]


def test_the_gatekeepers_page_has_its_rates() -> None:
    text = " ".join(page("docs/operate/gatekeeper.md").split())
    for rate, burst in (
        (desks.KEYS_PER_S, desks.KEYS_BURST),
        (service.SMALL_PER_S, service.SMALL_BURST),
        (service.EVIDENCE_PER_S, service.EVIDENCE_BURST),
    ):
        assert re.search(rf"\b{rate:g} [^.;]*\({burst} at once\)", text), (rate, burst)


def test_quorums_on_the_gatekeepers_page_are_the_committees() -> None:
    from cloister.core.encoding.signatures import SignerSet
    from cloister.wire.committee import Committee

    committee = Committee([], SignerSet(1, 3, tuple(bytes([i]) * 20 for i in range(1, 6))), bytes(32))
    rows = cells(page("docs/operate/gatekeeper.md"), "what")
    assert rows["a founding, resharing or rotation"][0].split(",")[0] == str(committee.signers.threshold)
    assert rows["checkpoints, admissions, keys"][0] == str(committee.signers.threshold)
    assert rows["heartbeats to workers"][0] == str(committee.beat_quorum)
    assert rows["endorsing new state heads"][0] == str(committee.endorse_quorum)
    assert rows["a worker that loads an agent's state"][0] == str(committee.load_quorum)
    assert rows["a restarted member that wants to endorse again"][0] == f"{committee.load_quorum} others"


# --- agents ---

AGENTS = "docs/use/agents.md"


def test_the_agents_page_has_the_manifests_fields_and_defaults() -> None:
    rows = cells(page(AGENTS), "field")
    assert set(rows) == set(manifests._FIELDS)
    shown = manifests.normalize({}).to_json()
    for name in ("egress", "env", "settings", "secrets", "models"):
        assert (rows[name][-1], not shown[name]) == ("none", True), name
    assert rows["v"][-1] == str(shown["v"])
    assert rows["entry"][-1] == f"`{shown['entry']}`"
    assert rows["upgrade"][-1] == shown["upgrade"]["rule"]
    assert f"at most {manifests.MAX_NAMES} of at most {manifests.MAX_SETTING} characters" in rows["settings"][0]
    assert f"at most {manifests.MAX_NAMES}" in rows["secrets"][0]
    assert f"at most {manifests.MAX_MODELS}" in rows["models"][0]
    assert f"at most {MAX_PATTERNS}" in rows["egress"][0]


def test_the_agents_page_has_every_limit_with_its_numbers() -> None:
    rows = cells(page(AGENTS), "limit")
    assert {name: tuple(map(int, row[1:])) for name, row in rows.items()} == dict(manifests.LIMITS)
    text = page(AGENTS)
    for number in (manifests.MAX_BUNDLE, manifests.MAX_MANIFEST, MAX_BODY):
        assert f" {number}" in text, number
    assert (BURST >> 10, PER_S >> 10) == (64, 8)
    assert "64 KiB at once and 8 KiB a second" in text


def test_the_agents_page_has_the_caps_of_state() -> None:
    rows = {name: row[0] for name, row in cells(page(AGENTS), "cap").items()}
    assert rows == {
        "key": f"{MAX_NAME} bytes of UTF-8",
        "value": f"{MAX_PLAIN} bytes",
        "keys of one agent": str(DEFAULT_LIMITS.keys),
        "bytes of one agent": str(DEFAULT_LIMITS.size),
        "writes of one request": str(DEFAULT_LIMITS.writes),
        "bytes written by one request": str(DEFAULT_LIMITS.commit_size),
        "reads of one request": str(DEFAULT_LIMITS.reads),
        "names in one `list`".replace("`", ""): str(MAX_LIST),
    }


def test_the_agents_page_names_what_the_harness_gives() -> None:
    harness = page("src/cloister/sandbox/deno/harness.js")
    made = re.search(r"const contextOf = .*?\n  return (\{.*?\n  \});?\n\};", harness, re.DOTALL)
    assert made is not None
    given = set(re.findall(r"^    (?:get )?(\w+)[:,(]", made[1], re.MULTILINE))
    assert {name.removeprefix("ctx.") for name in cells(page(AGENTS), "name")} == given
    state = re.search(r"const stateOf = .*?\n\}\);", harness, re.DOTALL)
    assert state is not None
    methods = re.findall(r"^  async (\w+)\(", state[0], re.MULTILINE)
    described = re.search(r"interface State \{.*?\}\n", page(AGENTS), re.DOTALL)
    assert described is not None
    assert re.findall(r"^  (\w+)\(", described[0], re.MULTILINE) == methods
    assert set(_STATE_CALLS) <= {f"state.{m}" for m in methods}


@pytest.mark.parametrize(("where", "manifest_too"), [("README.md", False), (AGENTS, True)])
async def test_the_example_builds(
    where: str, manifest_too: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DENO_DIR", str(ROOT / ".build" / "deno"))
    text = page(where)
    source = blocks(text, "ts")[0]
    folder = tmp_path / "visits"
    folder.mkdir()
    (folder / "agent.ts").write_text(source)
    if manifest_too:
        (folder / "cloister.json").write_text(blocks(text, "json")[0])
    built = await build(folder, tmp_path / "out", deno=deno())
    assert b"visits" in built.bundle
    assert built.manifest.entry == "fetch"
    if manifest_too:
        said = json.loads(blocks(text, "json")[0])
        assert (list(built.manifest.secrets), built.manifest.upgrade_delay) == (
            said["secrets"],
            said["upgrade"]["blocks"],
        )


def test_the_first_screen_says_what_the_demo_and_the_classes_are() -> None:
    text = page("README.md")
    assert "Client.from_home" not in text
    assert typing.get_type_hints(Client.agent)["return"] is Agent
    assert {"receipt", "json"} <= set(dir(Reply)) | {f.name for f in dataclasses.fields(Reply)}
