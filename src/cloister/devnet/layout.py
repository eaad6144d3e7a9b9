"""Where a devnet keeps its things, and which ports it uses. Ports are chosen once and kept across restarts."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GATEKEEPERS = (("gk-1", "tdx"), ("gk-2", "tdx"), ("gk-3", "snp"), ("gk-4", "snp"), ("gk-5", "nitro"))
WORKERS = (("worker-1", "tdx"), ("worker-2", "snp"), ("worker-3", "nitro"), ("worker-4", "tpm"))
THRESHOLD = 3


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths under one home folder."""

    home: Path

    @property
    def logs(self) -> Path:
        """One log file per process."""
        return self.home / "logs"

    @property
    def chain_state(self) -> Path:
        """The chain's state file."""
        return self.home / "chain" / "state.json"

    @property
    def second_state(self) -> Path:
        """The second chain's state file."""
        return self.home / "chain-2" / "state.json"

    @property
    def second_record(self) -> Path:
        """The record of the second chain, which the Directory names."""
        return self.home / "chain-2.json"

    @property
    def genesis(self) -> Path:
        """The genesis file."""
        return self.home / "genesis.json"

    @property
    def network(self) -> Path:
        """The network file, whose fingerprint clients pin."""
        return self.home / "network.json"

    @property
    def devnet(self) -> Path:
        """What the CLI reads to find this network: beside the folder, in the client's home."""
        return self.home.parent / "devnet.json"

    @property
    def fabric(self) -> Path:
        """The shared ciphertext store (a folder)."""
        return self.home / "fabric"

    @property
    def tee(self) -> Path:
        """The pretend hardware's folder."""
        return self.home / "tee"

    @property
    def model(self) -> Path:
        """The model server's folder."""
        return self.home / "model"

    @property
    def gateway_socket(self) -> Path:
        """Where workers meet the gateway."""
        return self.home / "gateway.sock"

    def node(self, name: str) -> Path:
        """One node's data folder."""
        return self.home / name

    def prepare(self) -> None:
        """Make the folders, private to this user."""
        for folder in (self.home, self.logs, self.chain_state.parent, self.tee, self.model):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def ports(self) -> Mapping[str, int]:
        """Loopback ports by process name, chosen free at first and kept: endpoints stand on chain."""
        file = self.home / "ports.json"
        if file.exists():
            kept = {str(k): int(v) for k, v in json.loads(file.read_text()).items()}
            if "chain-2" in kept:
                return kept
            (kept["chain-2"],) = free_ports(1)
            write_private(file, json.dumps(kept).encode())
            return kept
        names = ["chain", "chain-2", "gateway", "model", *(name for name, _ in GATEKEEPERS)]
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        write_private(file, json.dumps(ports).encode())
        return ports

    def secret_key(self, name: str) -> bytes:
        """A 32-byte devnet key kept in a private file (deployer, owner): worthless outside this machine."""
        file = self.home / f"{name}.key"
        if not file.exists():
            write_private(file, secrets.token_bytes(32))
        return file.read_bytes()


def free_ports(count: int) -> list[int]:
    """Distinct free loopback ports, all held open while choosing."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def write_private(path: Path, data: bytes) -> None:
    """Write atomically with mode 0600."""
    temp = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    temp.replace(path)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A private JSON file, for people to read."""
    write_private(path, json.dumps(value, indent=2).encode() + b"\n")
