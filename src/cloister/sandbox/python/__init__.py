"""Agents as CPython processes in bubblewrap."""

from __future__ import annotations

from cloister.sandbox.python.sandbox import PythonSandbox as PythonSandbox

__all__ = ["PythonSandbox"]
