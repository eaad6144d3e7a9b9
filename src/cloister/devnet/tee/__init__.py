"""Pretend hardware for a devnet: machines whose evidence passes the real verifiers under another root.

A process of its own (``python -m cloister.devnet.tee --work DIR``): nodes reach it only through the interfaces that
real machines have. It proves that formats, signatures and policy work; it protects nothing from whoever runs it.
"""

from __future__ import annotations

from cloister.devnet.tee.client import TeeControl, cleanup, devnet_roots

__all__ = ["TeeControl", "cleanup", "devnet_roots"]
