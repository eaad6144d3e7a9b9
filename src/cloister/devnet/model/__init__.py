"""A model server for devnets: OpenAI's embeddings API over a small real model, on this machine only."""

from __future__ import annotations

import os

# Before numpy is loaded: its threads spin while they wait, and a devnet shares few cores among many processes.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
