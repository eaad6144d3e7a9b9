"""`make tcb`: what it counts, that it counts all of it, and that both TEE images are within their budget."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.tcb_tool import image, tool

SERVICES = ("worker", "gatekeeper", "gateway")

COUNTED = [
    ("nothing", "", 0),
    ("blank lines and comments", "\n\n# one\n    # two\n", 0),
    ("a docstring of a module", '"""One.\n\nTwo.\n"""\n', 0),
    ("a comment behind code", "a = 1  # why\n", 1),
    ("a call over three lines", "print(\n    1,\n)\n", 3),
    ("a blank line and a comment inside a call", "print(\n\n    # why\n    1,\n)\n", 3),
    ("a function with a docstring", 'def f():\n    """Says.\n\n    More."""\n    return 1\n', 2),
    ("a class and a method with docstrings", 'class A:\n    """A."""\n\n    def f(self):\n        """F."""\n', 2),
    ("a text that is no docstring", 'a = """one\n\ntwo"""\n', 3),
    ("a text after the docstring", '"""Doc."""\n"""Another."""\n', 1),
    ("an f-string over two lines", 'a = f"""{1}\n{2}"""\n', 2),
    ("a line that goes on", "a = 1 + \\\n    2\n", 2),
    ("two statements in one line", "a = 1; b = 2\n", 1),
]


@pytest.mark.parametrize(("why", "source", "lines"), COUNTED, ids=[c[0] for c in COUNTED])
def test_what_is_a_line_of_code(why: str, source: str, lines: int) -> None:
    assert tool().code_lines(source) == lines, why


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("", 0),
        ("// one\n  // two\n\n", 0),
        ("/* one\n two\n*/\nlet a = 1;\n", 1),
        ("let a = 1; // why\n/** doc */\nlet b = '// no comment';\n", 2),
        ("let a = 1; /* why */ let b = 2;\n// last", 1),
    ],
)
def test_what_is_a_line_of_a_script(source: str, lines: int) -> None:
    assert tool().script_lines(source) == lines


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    file = tmp_path / "some.py"
    file.write_text(
        "import top.level\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import only.types\n"
        "else:\n    import otherwise\n"
        "def f():\n    from inside import name\n    try:\n        import tried\n    except ImportError:\n        pass\n"
    )
    found = tool().imports_of(file)
    assert {"top.level", "inside", "inside.name", "tried", "otherwise"} <= found
    assert "only.types" not in found


@pytest.mark.parametrize("service", SERVICES)
def test_every_module_that_loads_at_start_is_counted(service: str) -> None:
    start = {n for n in tool().loaded(f"import cloister.{service}.__main__") if n.split(".")[0] == "cloister"}
    assert start <= image(service).modules


def test_nothing_hides_behind_imports_by_name() -> None:
    """Only literal import statements can be followed. ``cloister`` and ``cloister.client`` are lazy for their users."""
    hidden = [
        module
        for service in SERVICES
        for module in image(service).modules
        if re.search(r"import_module|__import__|run_module|run_path", tool().file_of(module).read_text())
    ]
    assert set(hidden) <= {"cloister", "cloister.client"}


@pytest.mark.parametrize("service", ["worker", "gatekeeper"])
def test_the_image_is_within_its_budget(service: str) -> None:
    made = image(service)
    assert made.total <= made.budget, f"{made.total} lines of code: {made.lines}"
    assert len(made.packages) <= tool().MAX_PACKAGES, made.packages
    assert not made.over


def test_the_folders_and_the_harness_are_in_the_sum() -> None:
    worker = image("worker")
    assert {"core", "chain", "wire", "node", "evidence", "fabric", "sandbox", "worker", "harness.js"} <= set(
        worker.lines
    )
    assert worker.lines["harness.js"] > 100
    assert worker.total == sum(worker.lines.values()) < worker.raw


@pytest.mark.parametrize(
    ("service", "halves"),
    [
        (
            "worker",
            {
                "cloister.core.policy.release",  # the gatekeepers decide
                "cloister.core.state.table",  # what a gatekeeper remembers
                "cloister.core.threshold.dkg",  # the committee's ceremony
                "cloister.core.attestation.appraise",  # gatekeepers and clients judge evidence
                "cloister.core.keys.keystore",  # a user's wallet; agents sign with keys of their leases
                "cloister.client.client",  # what agents call with is the sealed call alone
            },
        ),
        (
            "gatekeeper",
            {
                "cloister.core.envelope.server",  # never sees a call
                "cloister.core.envelope.client",
                "cloister.core.receipts.receipt",
                "cloister.core.keys.hpke",  # seals nothing to callers
                "cloister.core.keys.keystore",  # a user's wallet
                "cloister.fabric.embedded",  # holds no agent's state
                "cloister.wire.http",  # the gateway's door
            },
        ),
        (
            "gateway",
            {
                "cloister.core.envelope.server",  # sees ciphertext alone
                "cloister.core.envelope.stream",
                "cloister.core.keys.seal",
                "cloister.core.threshold.ibe",
                "cloister.core.policy.release",
                "cloister.chain.tx",  # owns no key
            },
        ),
    ],
)
def test_what_a_service_never_needs_is_not_loaded(service: str, halves: set[str]) -> None:
    assert image(service).modules & halves == set()
    assert all(tool().file_of(name) for name in halves), "a renamed module would pass unseen"


def test_the_table_is_printed_and_the_status_says_the_budget(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tool(), "measure", lambda service, machine=None: image(service))
    assert tool().main() == 0
    out = capsys.readouterr().out
    for service in SERVICES:
        assert re.search(rf"^{service}: [\d,]+ lines of code of ours, \d+ packages", out, re.MULTILINE)
    assert re.search(r"^  of which agents in Python: \d+ of 900$", out, re.MULTILINE)
    monkeypatch.setattr(tool(), "GATEKEEPER_LINES", 1)
    assert tool().main() == 1


@pytest.mark.parametrize("service", ["worker", "gatekeeper"])
def test_every_machines_image_is_within_its_budget(service: str) -> None:
    for machine in tool().MACHINES:
        made = tool().measure(service, machine)
        assert not made.over, f"{machine}: {made.total} of {made.budget}"
        assert made.modules & {f"cloister.evidence.{n}" for n in tool().MACHINES[machine]}, machine


def test_an_image_without_the_other_producers_opens_its_machine() -> None:
    """What ``make tcb`` leaves out of an image is not missed there: the other places say that it is not in it."""
    code = """
import sys
for name in ("configfs_tsm", "ioctls", "gramine", "dstack", "tpm2", "tpm_bench", "tpm_tools", "azure"):
    sys.modules[f"cloister.evidence.{name}"] = None
from cloister.evidence.detect import MachineConfig, survey
found = {f.place: f.reason for f in survey(MachineConfig.from_json({"nsm_device": "/dev/null", "tsm_root": "/proc"}))}
assert "holds no cloister.evidence.configfs_tsm" in found["configfs-tsm"], found
print(found["nsm device"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("expected "), "the nitro producer itself looked at the device and refused it"


def test_too_much_is_over() -> None:
    make = tool().Image
    few, many = ("p",), tuple(f"p{n}" for n in range(tool().MAX_PACKAGES + 1))
    most = tool().GATEKEEPER_LINES
    assert not make({"core": most}, 0, frozenset(), few).over
    assert make({"core": most, "wire": 1}, 0, frozenset(), few).over
    assert make({"core": 1}, 0, frozenset(), many).over


def test_a_worker_may_have_its_services_and_each_of_them_its_own_share() -> None:
    most = tool().WORKER_LINES + sum(lines for lines, _ in tool().SERVICES.values())
    assert not tool().Image({"core": most - 1, "worker": 1}, 0, frozenset(), ("p",)).over
    assert tool().Image({"core": most, "worker": 1}, 0, frozenset(), ("p",)).over
    assert tool().Image({"core": most - 1, "gatekeeper": 1}, 0, frozenset(), ("p",)).over
    assert tool().Image({"harness.py": 901, "worker": 1}, 0, frozenset(), ("p",)).over, "Python has 900"


def test_a_gatekeeper_may_have_its_services_too() -> None:
    most = tool().GATEKEEPER_LINES + sum(lines for lines, _ in tool().GATEKEEPER_SERVICES.values())
    assert not tool().Image({"core": most - 1, "gatekeeper": 1}, 0, frozenset(), ("p",)).over
    assert tool().Image({"core": most, "gatekeeper": 1}, 0, frozenset(), ("p",)).over
    loaded = image("gatekeeper").modules
    named = [part for _, parts in tool().GATEKEEPER_SERVICES.values() for part in parts.split()]
    assert len(named) == len(set(named))
    assert {f"cloister.{part}" for part in named} <= loaded


def test_what_serves_a_service_exists_and_serves_one_alone() -> None:
    """A renamed module would be counted for sealed calls unseen."""
    named = [part for _, parts in tool().SERVICES.values() for part in parts.split()]
    assert len(named) == len(set(named))
    loaded = image("worker").modules
    for part in named:
        if not part.endswith(".py"):
            assert any(m == f"cloister.{part}" or m.startswith(f"cloister.{part}.") for m in loaded), part
