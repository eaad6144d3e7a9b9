"""One fuzz target under atheris: ``python tests/fuzz/drive.py {targets|protocol_targets} NAME [libFuzzer options]``."""

from __future__ import annotations

import importlib
import sys

import atheris

# Only what reads outside bytes is traced: tracing every library takes minutes before the first input.
PARSERS = [
    "cloister.chain",
    "cloister.core",
    "cloister.evidence",
    "cloister.gateway",
    "cloister.sandbox",
    "cloister.wire",
]


def main() -> None:
    """Fuzz until the options say stop."""
    table, name, *options = sys.argv[1:]
    with atheris.instrument_imports(include=PARSERS):
        targets = importlib.import_module(f"fuzz.{table}")
    targets.seeds()  # made once, before the clock of the first input runs
    atheris.Setup([sys.argv[0], *options], lambda data: targets.run(name, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
