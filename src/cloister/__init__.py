"""Cloister: confidential AI agents under smart-contract control.

The root is lazy on purpose: a gatekeeper that imports ``cloister.core`` must not load the client, an HTTP
library or the command line (DESIGN section 4; ``tests/unit/test_imports.py`` holds it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloister.client import Client as Client
    from cloister.core.errors import CloisterError as CloisterError

__version__ = "0.1.0"
__all__ = ["Client", "CloisterError", "__version__"]

_LAZY = {"Client": "cloister.client", "CloisterError": "cloister.core.errors"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'cloister' has no attribute {name!r}")
