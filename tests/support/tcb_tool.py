"""``tools/tcb.py`` as a module: the tool that counts is the tool that the tests ask."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

_PATH = Path(__file__).parents[2] / "tools" / "tcb.py"


@cache
def tool() -> ModuleType:
    """The module, loaded once."""
    spec = importlib.util.spec_from_file_location("tcb_tool_under_test", _PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@cache
def image(service: str) -> Any:
    """``measure`` of one service: it starts interpreters, so once per run."""
    return tool().measure(service)
