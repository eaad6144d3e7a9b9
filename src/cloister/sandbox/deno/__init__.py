"""Agents as Deno processes in bubblewrap."""

from __future__ import annotations

from cloister.sandbox.deno.sandbox import DenoSandbox as DenoSandbox

__all__ = ["DenoSandbox"]
