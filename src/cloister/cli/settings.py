"""Global options of the command line, and how they become a client.

Order of every setting: the option, else what a running devnet wrote into ``HOME/devnet.json``, else nothing is
assumed and the error names the option.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from cloister.client.home import Home
from cloister.core.errors import ConfigError, define

if TYPE_CHECKING:
    from cloister.client.call import Who
    from cloister.client.client import Client
    from cloister.client.wallet import Wallet
    from cloister.core.encoding.network import Network

NO_GATEWAY = define(
    "cli.no_gateway",
    ConfigError,
    check="a gateway is named or a network runs on this machine",
    remedy="give --gateway URL, or start a network with `cloister up`",
)
NO_WALLET = define(
    "cli.no_wallet",
    ConfigError,
    check="a wallet signs the transaction",
    remedy="make one with `cloister wallet new NAME` and give --wallet NAME",
)

NO_NETWORK_FILE = define(
    "cli.no_network_file",
    ConfigError,
    check="an offline check has the network file",
    remedy="give --network FILE (it is what GET /v1/network serves), or --fingerprint where the file that is checked "
    "brings it along, or leave --offline out",
)


@dataclass(frozen=True, slots=True)
class Settings:
    """Global options as given."""

    home: Home
    gateway: str | None = None
    network_file: Path | None = None
    fingerprint: str | None = None
    first_use: bool = False

    @property
    def devnet(self) -> dict[str, Any]:
        """devnet.json of a network on this machine, or an empty object."""
        return self.home.devnet() or {}

    def gateway_url(self) -> str:
        """The gateway's address. Raises ConfigError (cli.no_gateway)."""
        url = self.gateway or self.devnet.get("gateway")
        if not isinstance(url, str) or not url:
            raise NO_GATEWAY(expected="--gateway or a running devnet", found="neither")
        return url

    def pinned(self) -> tuple[Path | None, str | None]:
        """(network file, fingerprint). The devnet's own pins hold only for the devnet's own gateway."""
        if self.network_file or self.fingerprint or self.gateway not in (None, self.devnet.get("gateway")):
            return self.network_file, self.fingerprint
        file, fingerprint = self.devnet.get("network_file"), self.devnet.get("fingerprint")
        return (Path(file) if isinstance(file, str) else None), (fingerprint if isinstance(fingerprint, str) else None)

    def network_offline(self, offered: bytes | None = None) -> Network:
        """The pinned network from a file, without asking a gateway. ``offered``: network.json as somebody sent it
        along; it counts where it has the fingerprint that is given. Raises ConfigError (cli.no_network_file)."""
        from cloister.client.home import read_file
        from cloister.client.network import pin
        from cloister.core.encoding.network import MAX_FILE

        file, fingerprint = self.pinned()
        if file is None and offered is not None and fingerprint is not None:
            return pin(offered, fingerprint=fingerprint, home=self.home, where="the file")
        if file is None:
            raise NO_NETWORK_FILE(expected="--network FILE", found="none")
        raw = read_file(file, MAX_FILE)
        own = fingerprint or hashlib.sha256(raw).hexdigest()
        return pin(raw, fingerprint=own, home=self.home, where=str(file))

    @asynccontextmanager
    async def client(
        self,
        wallet: Wallet | None = None,
        *,
        api_key: str | None = None,
        oblivious: str | None = None,
        caller: Who | None = None,
    ) -> AsyncIterator[Client]:
        """A connected client, whose calls are the wallet's, the API key's or those of ``caller``; ``oblivious``: over
        this relay alone.

        Raises what ``Client`` raises."""
        from cloister.client.client import Client

        file, fingerprint = self.pinned()
        async with Client(
            oblivious or self.gateway_url(),
            oblivious=oblivious,
            fingerprint=fingerprint,
            network_file=file,
            home=self.home,
            wallet=wallet,
            api_key=api_key,
            caller=caller,
            trust_on_first_use=self.first_use,
        ) as client:
            yield client

    def wallet(self, name: str | None, passphrase_fd: int | None) -> Wallet:
        """The named wallet, or the devnet owner's where none is named. Raises ConfigError (cli.no_wallet)."""
        from cloister.cli.asking import passphrase
        from cloister.client.wallet import Wallet

        if name is not None:
            file = Wallet.file(name, home=self.home)
            return Wallet.open(file, passphrase(name, fd=passphrase_fd))
        own = self.devnet.get("owner_keystore")
        if not isinstance(own, str):
            raise NO_WALLET(expected="--wallet NAME or a devnet's owner", found="neither")
        secret = self.devnet.get("owner_passphrase_file")
        words = passphrase("owner", fd=passphrase_fd, file=Path(secret) if isinstance(secret, str) else None)
        return Wallet.open(Path(own), words)


def settings_of(context: typer.Context) -> Settings:
    """The global options of this run."""
    found = context.find_root().obj
    return found if isinstance(found, Settings) else Settings(Home.at(os.environ.get("CLOISTER_HOME")))
