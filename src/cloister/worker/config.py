"""Settings of one worker process (docs/operate/worker.md). Their hash is in the worker's report data.

The host writes them, so none may weaken what the worker promises: each has bounds, and a production network refuses
what only a devnet may have.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cloister.chain.connected import ChainSetting
from cloister.core.encoding.hexes import from_hex
from cloister.core.errors import CloisterError, ConfigError, define
from cloister.node.trace import require_collector
from cloister.worker.processes import Budget

MAX_FRESH_S: Final = 60
MAX_ROOT_S = 7 * 24 * 3600
MAX_ENDPOINTS: Final = 64
MAX_ENDPOINT: Final = 256
_LEVELS: Final = ("debug", "info", "warning", "error")
_MEMORY: Final = frozenset({"tmpfs", "ramfs"})
# Of ``agents``: the least and the most.
_BUDGET: Final = {
    "idle_s": (5, 7 * 24 * 3600),
    "processes": (1, 16384),
    "memory_mb": (64, 1 << 24),
    "spares": (0, 1024),
    "blanks": (0, 64),
    "owner_agents": (1, 1 << 20),
    "owner_processes": (1, 16384),
    "owner_memory_mb": (64, 1 << 24),
}

BAD_SETTING = define(
    "worker.setting",
    ConfigError,
    check="every setting is within the bounds of docs/operate/worker.md",
    remedy="correct the setting that is named",
)
BAD_MAP = define(
    "worker.map_host",
    ConfigError,
    check="map_host maps a host name to ip:port, on a devnet only",
    remedy='write {"api.example.com": "127.0.0.1:8443"}, and only with a network file of mode devnet',
)
WORK_ON_DISK = define(
    "worker.work_folder",
    ConfigError,
    check="the sandbox's work folder lies in memory, where the host cannot change compiled code",
    remedy="set `work` to a folder on a tmpfs, for example /run/cloister",
)


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """data: the node's folder. network: network.json. rpc: chain endpoint. gatekeepers: base URLs. gateway: its unix
    socket. fabric: the ciphertext store's folder. operator: 0x address that answers for this worker. endpoint: what
    the Workers contract says about where it is. machine: ``evidence.MachineConfig`` fields. map_host, extra_ca: a
    devnet's stand-ins for outside hosts. work: where sandboxes keep compiled code, by default below ``data``.
    calls: the gateway's address for clients, over which agents call other agents; none: they cannot.
    fresh_s: how long f + 1 answers to a nonce keep the worker serving. sync_receipts: an answer ends only after its
    receipt is on the disk, not only written. root_s: at most so often the log's root goes on chain. chains: those that
    the network is connected to beside its own. agents: what differs from ``processes.Budget``. trace,
    trace_share: a collector of spans of requests, which leave the TEE; none by default."""

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
    work: Path | None = None
    calls: str | None = None
    fresh_s: int = 15
    sync_receipts: bool = False
    root_s: int = 600
    chains: list[ChainSetting] = field(default_factory=list)
    agents: dict[str, int] = field(default_factory=dict)
    log_level: str = "info"
    trace: str = ""
    trace_share: int = 0


def check_config(config: WorkerConfig, mode: str) -> None:
    """Raise ConfigError unless the settings are within their bounds and fit the network's mode.

    1. bounds; 2. a devnet's stand-ins on a devnet only; 3. outside a devnet the work folder lies in memory."""
    if not 1 <= config.fresh_s <= MAX_FRESH_S:  # 1
        raise BAD_SETTING(expected=f"fresh_s from 1 to {MAX_FRESH_S}", found=str(config.fresh_s))
    if not 1 <= config.root_s <= MAX_ROOT_S:
        raise BAD_SETTING(expected=f"root_s from 1 to {MAX_ROOT_S}", found=str(config.root_s))
    if not 1 <= len(config.gatekeepers) <= MAX_ENDPOINTS or len(set(config.gatekeepers)) != len(config.gatekeepers):
        raise BAD_SETTING(expected=f"1 to {MAX_ENDPOINTS} distinct gatekeepers", found=f"{len(config.gatekeepers)}")
    if not 1 <= len(config.endpoint.encode()) <= MAX_ENDPOINT:
        raise BAD_SETTING(expected=f"an endpoint of 1 to {MAX_ENDPOINT} bytes", found="another size")
    if config.log_level not in _LEVELS:
        raise BAD_SETTING(expected=f"log_level in {', '.join(_LEVELS)}", found=config.log_level[:20])
    require_collector(config.trace, config.trace_share)
    operator_of(config)
    budget_of(config)
    mapped_hosts(config, mode)  # 2
    if mode != "devnet" and not in_memory(work_folder(config)):  # 3
        raise WORK_ON_DISK(expected="a folder on a tmpfs", found="one on a disk")


def operator_of(config: WorkerConfig) -> bytes:
    """The operator's 20 bytes. Raises ConfigError."""
    try:
        return from_hex(config.operator, 20, name="operator")
    except CloisterError as error:
        raise BAD_SETTING(expected=error.expected, found=error.found) from None


def budget_of(config: WorkerConfig) -> Budget:
    """What agents' processes may use. Raises ConfigError."""
    for name, value in config.agents.items():
        if name not in _BUDGET:
            raise BAD_SETTING(expected=f"agents with only {', '.join(_BUDGET)}", found=str(name)[:40])
        least, most = _BUDGET[name]
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise BAD_SETTING(expected=f"agents.{name} from {least} to {most}", found=str(value)[:20])
    return Budget(**config.agents)


def mapped_hosts(config: WorkerConfig, mode: str) -> Mapping[str, tuple[str, int]]:
    """host -> (ip, port). Raises ConfigError outside a devnet: production agents reach the hosts they name."""
    if (config.map_host or config.extra_ca) and mode != "devnet":
        raise BAD_MAP(expected="none on a production network", found=f"{len(config.map_host)} entries")
    hosts = {}
    for host, target in config.map_host.items():
        ip, _, port = target.rpartition(":")
        if not ip or not port.isascii() or not port.isdigit() or not 0 < int(port[:6]) < 65536:
            raise BAD_MAP(expected="ip:port", found=target[:80])
        hosts[host] = (ip, int(port))
    return hosts


def work_folder(config: WorkerConfig) -> Path:
    """Where sandboxes work. It is emptied at every start."""
    return config.work or config.data / "sandbox"


def in_memory(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether a folder (or where it will be) lies on a memory file system. False when that cannot be told."""
    try:
        lines = mounts.read_text().splitlines()
        wanted = folder.resolve()
    except OSError:
        return False
    kinds = {}
    for line in lines:
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if len(fields) > 4 and right:
            kinds[fields[4]] = right.split(" ")[0]  # a later mount covers an earlier one
    under = [point for point in kinds if wanted.is_relative_to(point)]
    return bool(under) and kinds[max(under, key=len)] in _MEMORY
