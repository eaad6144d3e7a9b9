"""``python -m cloister.cli``: the command line where the ``cloister`` script is not on PATH."""

from __future__ import annotations

from cloister.cli import main

if __name__ == "__main__":
    main()
