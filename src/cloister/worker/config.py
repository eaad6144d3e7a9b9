"""Settings of one worker process (docs/operate/worker.md). Their hash is in the worker's report data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloister.core.errors import ConfigError, define

BAD_MAP = define(
    "worker.map_host",
    ConfigError,
    check="map_host maps a host name to ip:port, on a devnet only",
    remedy='write {"api.example.com": "127.0.0.1:8443"}, and only with a network file of mode devnet',
)


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """data: the node's folder. network: network.json. rpc: chain endpoint. gatekeepers: base URLs. gateway: its unix
    socket. fabric: the ciphertext store's folder. operator: 0x address that answers for this worker. endpoint: what
    the Workers contract says about where it is. machine: ``evidence.MachineConfig`` fields. map_host, extra_ca: a
    devnet's stand-ins for outside hosts. fresh_s: how long t answers to a nonce keep the worker serving."""

    data: Path
    network: Path
    rpc: str
    gatekeepers: list[str]
    gateway: Path
    fabric: Path
    operator: str
    endpoint: str
    machine: dict[str, Any]
    map_host: dict[str, str] = field(default_factory=dict)
    extra_ca: Path | None = None
    fresh_s: int = 15
    log_level: str = "info"


def mapped_hosts(config: WorkerConfig, mode: str) -> Mapping[str, tuple[str, int]]:
    """host -> (ip, port). Raises ConfigError outside a devnet: production agents reach the hosts they name."""
    if (config.map_host or config.extra_ca) and mode != "devnet":
        raise BAD_MAP(expected="none on a production network", found=f"{len(config.map_host)} entries")
    hosts = {}
    for host, target in config.map_host.items():
        ip, _, port = target.rpartition(":")
        if not ip or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
            raise BAD_MAP(expected="ip:port", found=target[:80])
        hosts[host] = (ip, int(port))
    return hosts
