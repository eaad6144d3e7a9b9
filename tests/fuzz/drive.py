"""One fuzz target under atheris: ``python tests/fuzz/drive.py NAME [libFuzzer options]``."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["cloister.core", "cloister.evidence"]):
    from fuzz.targets import run, seeds


def main() -> None:
    """Fuzz until the options say stop."""
    name, *options = sys.argv[1:]
    seeds()  # made once, before the clock of the first input runs
    atheris.Setup([sys.argv[0], *options], lambda data: run(name, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
