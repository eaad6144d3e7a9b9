"""Settings of one gatekeeper process (docs/operate/gatekeeper.md). Their hash is in its report data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloister.chain.connected import ChainSetting, load_chains
from cloister.core.attestation.policy import Policy
from cloister.core.encoding.network import MAX_FILE, Genesis
from cloister.core.errors import ConfigError, define

BAD_LISTEN = define(
    "gatekeeper.listen",
    ConfigError,
    check="listen is ip:port; port 0 chooses a free one",
    remedy='write "127.0.0.1:0" or "0.0.0.0:8701"',
)
BAD_GENESIS = define(
    "gatekeeper.genesis",
    ConfigError,
    check="the genesis file is readable, and this build can judge its chain's headers",
    remedy="take the genesis file from the founder; rpc must name as many endpoints as rpc_quorum asks for",
)
BAD_AT_REST = define(
    "gatekeeper.at_rest",
    ConfigError,
    check='at_rest is "local" or "members"',
    remedy="members is for machines without a sealing key of their own: see docs/operate/gatekeeper.md",
)


@dataclass(frozen=True, slots=True)
class GatekeeperConfig:
    """data: the member's folder. listen: ip:port. rpc: chain endpoints, the first serves proofs. genesis: its file.

    operator: 0x address that answers for this gatekeeper. endpoint: URL that peers and workers use. machine:
    ``evidence.MachineConfig`` fields. rpc_quorum: endpoints that must agree on headers (0: all of them). poll_ms: how
    often finality is asked for. chains: those that the network is connected to beside its own. at_rest: who holds the
    key of the folder: "local", this machine's hardware; "members", the other members (spec/gatekeepers.md D1)."""

    data: Path
    listen: str
    rpc: list[str]
    genesis: Path
    operator: str
    endpoint: str
    machine: dict[str, Any]
    rpc_quorum: int = 0
    poll_ms: int = 200
    chains: list[ChainSetting] = field(default_factory=list)
    at_rest: str = "local"
    log_level: str = "info"

    def address(self) -> tuple[str, int]:
        """The address to listen on. Raises ConfigError."""
        host, _, port = self.listen.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise BAD_LISTEN(expected="ip:port", found=self.listen[:80])
        return host, int(port)

    def quorum(self) -> int:
        """How many endpoints must agree. Raises ConfigError."""
        wanted = self.rpc_quorum or len(self.rpc)
        if not 1 <= wanted <= len(self.rpc):
            raise BAD_GENESIS(expected=f"at least {max(wanted, 1)} endpoints in rpc", found=str(len(self.rpc)))
        return wanted

    def load_genesis(self) -> tuple[Genesis, Policy]:
        """The genesis and its policy. Raises ConfigError, EncodingError, PolicyError."""
        try:
            with self.genesis.open("rb") as file:
                data = file.read(MAX_FILE + 1)
        except OSError as error:
            raise BAD_GENESIS(expected=f"to read {self.genesis.name}", found=error.strerror or "an error") from None
        genesis = Genesis.parse(data)
        policy = Policy.from_json(dict(genesis.policy))
        if genesis.header_verifier != "rpc-quorum" or policy.hash() != genesis.policy_hash():
            raise BAD_GENESIS(expected="header_verifier rpc-quorum", found=genesis.header_verifier[:40])
        if policy.mode != genesis.mode:
            raise BAD_GENESIS(expected=f"a policy of mode {genesis.mode}", found=policy.mode)
        return genesis, policy

    def by_members(self) -> bool:
        """Whether the other members hold the key of the folder. Raises ConfigError."""
        if self.at_rest not in ("local", "members"):
            raise BAD_AT_REST(expected="at_rest local or members", found=self.at_rest[:20])
        return self.at_rest == "members"


def check(config: GatekeeperConfig) -> None:
    """Raise ConfigError, EncodingError or PolicyError unless a gatekeeper could start with these settings."""
    config.address()
    config.quorum()
    config.by_members()
    genesis, _ = config.load_genesis()
    load_chains(config.chains, genesis.chain_id)
