"""Settings of one gateway process (docs/operate/gateway.md)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cloister.core.encoding.network import MAX_FILE, Network
from cloister.core.errors import ConfigError, define
from cloister.node.trace import require_collector

MAX_PROCESSES: Final = 64

BAD_SETTING = define(
    "gateway.setting",
    ConfigError,
    check="the gateway's files and ports are usable",
    remedy="correct the setting that is named; see docs/operate/gateway.md",
)


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """host, port: where callers connect; port 0 picks one. network: network.json. rpc: chain endpoint. gatekeepers:
    base URLs. workers: the unix socket where workers connect. fabric: the ciphertext store's folder.

    reuse_port: several gateways share the port; each needs a ``workers`` socket of its own. max_call: bytes of one
    sealed request. max_calls: calls in progress. answer_s: how long a worker may stay silent. blob_hour: bytes of
    uploads taken per hour. drain_s: how long answers may go on after SIGTERM. operate: where its operator
    asks for metrics, ip:port. receipts_days, receipts_bytes: for how long, and up to how many bytes in all, the store
    keeps bodies of receipts; 0: without end. processes: so many gateways behind the port, and ``workers`` is then a
    folder with a socket for each. parent: the process that it ends with; set by the one that starts several.
    trace, trace_share: an OTLP/HTTP collector for spans of calls, and how many of ten thousand calls without a trace of
    their own get one."""

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
    operate: str = ""
    receipts_days: int = 0
    receipts_bytes: int = 0
    processes: int = 1
    parent: int = 0
    trace: str = ""
    trace_share: int = 0

    def operator_address(self) -> tuple[str, int] | None:
        """Where to serve metrics and health; None for nowhere. Raises ConfigError."""
        if not self.operate:
            return None
        host, _, port = self.operate.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or int(port[:6]) > 65535:
            raise BAD_SETTING(expected="operate: ip:port", found=self.operate[:80])
        return host, int(port)

    def load_network(self) -> bytes:
        """The bytes of network.json. Raises ConfigError."""
        try:
            with self.network.open("rb") as file:
                return file.read(MAX_FILE + 1)
        except OSError as error:
            raise BAD_SETTING(expected="network: a readable file", found=error.strerror or "an error") from None


def check_config(config: GatewayConfig) -> None:
    """Raise ConfigError or EncodingError unless a gateway could start with these settings.

    1. numbers and names within bounds; 2. network.json is one; 3. the workers' socket has a folder."""
    if not 0 <= config.port <= 65535:  # 1
        raise BAD_SETTING(expected="port from 0 to 65535", found=str(config.port))
    if not config.gatekeepers or len(set(config.gatekeepers)) != len(config.gatekeepers):
        raise BAD_SETTING(expected="gatekeepers: one or more, each once", found=f"{len(config.gatekeepers)}")
    for name in ("max_call", "max_calls", "max_blob", "blob_hour", "connections", "answer_s", "drain_s"):
        if getattr(config, name) < 1:
            raise BAD_SETTING(expected=f"{name} of at least 1", found=str(getattr(config, name)))
    if not 1 <= config.processes <= MAX_PROCESSES:
        raise BAD_SETTING(expected=f"processes from 1 to {MAX_PROCESSES}", found=str(config.processes))
    for name in ("receipts_days", "receipts_bytes"):
        if getattr(config, name) < 0:
            raise BAD_SETTING(expected=f"{name} of at least 0", found=str(getattr(config, name)))
    config.operator_address()
    require_collector(config.trace, config.trace_share)
    Network.parse(config.load_network())  # 2
    if not config.workers.parent.is_dir():  # 3
        raise BAD_SETTING(expected="workers: a socket in a folder that exists", found=config.workers.parent.name)
