"""The TypeScript client's own tests under Deno, its types and format, and what it must share with Python."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

import cloister
from cloister.core.attestation.roots import VENDOR_ROOTS, VENDORS
from cloister.core.encoding.contexts import Context
from cloister.core.errors import REGISTRY
from support.typescript import SDK, deno

FILES = sorted(path.name for path in (SDK / "tests").glob("*.test.ts"))
VECTORS = SDK.parents[1] / "spec" / "vectors"


@pytest.mark.parametrize("name", FILES)
def test_file(name: str, tmp_path: Path) -> None:
    may = (f"--allow-read={SDK.parents[1]},{tmp_path}", f"--allow-write={tmp_path}")
    done = deno("test", "--no-check", *may, f"tests/{name}", "--", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_test_file_is_run() -> None:
    assert {
        "chainview.test.ts",
        "encoding.test.ts",
        "envelope.test.ts",
        "receipts.test.ts",
        "sharing.test.ts",
        "terms.test.ts",
        "xwing.test.ts",
    } <= set(FILES)


def test_types_are_strict() -> None:
    sources = [str(path.relative_to(SDK)) for path in [*SDK.glob("src/**/*.ts"), *SDK.glob("tests/*.ts")]]
    done = deno("check", *sources)
    assert done.returncode == 0, done.stdout + done.stderr


def test_format_and_lint() -> None:
    for command in (("fmt", "--check"), ("lint",)):
        done = deno(*command, "src", "tests")
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_layouts_are_those_of_the_artifacts() -> None:
    made = runpy.run_path(str(SDK / "gen_layouts.py"))["build"]()
    found = (SDK / "src" / "chainview" / "layouts.ts").read_text(encoding="utf-8")
    assert made == found, "run: python sdk/typescript/gen_layouts.py"


def test_the_chain_vectors_are_what_their_generator_writes() -> None:
    made = runpy.run_path(str(VECTORS / "gen_chainview.py"))["build"]()
    found = json.loads((VECTORS / "chainview.json").read_text(encoding="utf-8"))
    assert made == found, "run: python spec/vectors/gen_chainview.py"


def test_codes_classes_and_texts_are_those_of_python() -> None:
    done = deno("run", "--no-check", "tests/facts.ts")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    for path in sorted((Path(cloister.__file__).parent / "client").glob("*.py")):
        __import__(f"cloister.client.{path.stem}")
    assert len(facts["codes"]) > 50
    for code, (family, check, remedy, status) in facts["codes"].items():
        known = REGISTRY[code]
        assert (family, check, status) == (known.family.__name__, known.check, known.status), code
        assert remedy, code
    assert facts["vendors"] == list(VENDORS)
    assert facts["roots"] == {vendor: list(names.values()) for vendor, names in VENDOR_ROOTS.items()}
    assert facts["contexts"].items() <= {c.name: c.value for c in Context}.items()


def test_versions_are_exact_and_the_lock_names_no_place() -> None:
    package = json.loads((SDK / "package.json").read_text(encoding="utf-8"))
    assert all(version[0].isdigit() for version in package["dependencies"].values())
    lock = (SDK / "deno.lock").read_text(encoding="utf-8")
    assert "://" not in lock
    assert json.loads(lock)["version"] == "5"


def test_files_are_short() -> None:
    for path in SDK.glob("src/**/*.ts"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 450, path.name
