"""Settings of one gateway process (docs/operate/gateway.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """host, port: where callers connect; port 0 picks one. network: network.json. rpc: chain endpoint. gatekeepers:
    base URLs. workers: the unix socket where workers connect. fabric: the ciphertext store's folder.

    reuse_port: several gateways share the port; each needs a ``workers`` socket of its own. max_call: bytes of one
    sealed request. max_calls: calls in progress. answer_s: how long a worker may stay silent. blob_hour: bytes of
    uploads taken per hour. drain_s: how long answers may go on after SIGTERM."""

    host: str
    port: int
    network: Path
    rpc: str
    gatekeepers: list[str]
    workers: Path
    fabric: Path
    reuse_port: bool = False
    max_call: int = 9 << 20
    max_calls: int = 4096
    max_blob: int = 64 << 20
    blob_hour: int = 4 << 30
    connections: int = 4096
    answer_s: int = 300
    drain_s: int = 8
    log_level: str = "info"
