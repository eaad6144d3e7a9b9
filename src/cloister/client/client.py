"""The client: one pinned network, one gateway, perhaps a wallet.

::

    async with Client("http://127.0.0.1:8080", fingerprint="…") as client:
        agent = await client.agent("0x…")
        reply = await agent.post("/notes", json={"text": "hello"})
        print(reply.json(), reply.proof)
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cloister.chain.rpc import Rpc
from cloister.chain.tx import Receipt as Transaction
from cloister.chain.tx import Sender
from cloister.client import network as pins
from cloister.client.agent import Agent
from cloister.client.call import Caller, Who
from cloister.client.demand import Demand
from cloister.client.gateway import Gateway
from cloister.client.home import Home
from cloister.client.oblivious import ObliviousCaller
from cloister.client.receipts import Ledger
from cloister.client.resolve import Resolution, Resolver
from cloister.client.terms import walk_of
from cloister.client.wallet import Wallet, shown
from cloister.core.chainview.records import AgentRecord, UpgradeMode, agent_id
from cloister.core.encoding.hexes import BAD_FIELD, from_hex, to_hex
from cloister.core.encoding.network import Network
from cloister.core.envelope.apikey import ApiKey
from cloister.core.errors import CloisterError, ConfigError, define

NO_WALLET = define(
    "client.no_wallet",
    ConfigError,
    check="the client has a wallet for what must be signed",
    remedy="give Client(wallet=Wallet.load(…)), or --wallet NAME on the command line",
)


class Client:
    """Use with ``async with``. Methods raise CloisterError and nothing else for what the world does.

    Args: ``gateway``: its address. ``fingerprint``: SHA-256 of network.json in hex, which pins everything else.
    ``network_file``: a local network.json instead. ``trust_on_first_use``: pin what the gateway serves now, if this
    home has no pin yet. ``wallet``: signs transactions and opens calls as a known caller. ``caller``: opens calls
    instead, such as a ``ContractWallet``; ``api_key``: does, as text. ``home``: folder for pins and receipts.
    ``oblivious``: address of a relay; calls are oblivious then (spec/ohttp.md), and everything goes through the relay:
    the gateway is asked for nothing, and does not learn who calls. ``keep_receipts``: write verified receipts.
    ``clock`` and ``rng``: Unix seconds, random bytes.
    """

    def __init__(
        self,
        gateway: str,
        *,
        fingerprint: str | None = None,
        network_file: str | Path | None = None,
        trust_on_first_use: bool = False,
        wallet: Wallet | None = None,
        caller: Who | None = None,
        api_key: str | None = None,
        home: Home | str | Path | None = None,
        oblivious: str | None = None,
        keep_receipts: bool = True,
        timeout_s: float = 30.0,
        clock: Callable[[], float] = time.time,
        rng: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.gateway = Gateway(gateway if oblivious is None else oblivious, timeout_s=timeout_s)
        self._engine = Caller if oblivious is None else ObliviousCaller
        self.rpc = Rpc(self.gateway.rpc_url, timeout=timeout_s)
        self.wallet = wallet
        self.caller = _caller(wallet, caller, api_key)
        self.home = home if isinstance(home, Home) else Home.at(home)
        self.clock, self.rng = clock, rng
        self.ledger = Ledger(self.home, clock=clock, on=keep_receipts)
        self._pin = (fingerprint, Path(network_file) if network_file else None, trust_on_first_use)
        self._resolver: Resolver | None = None
        self._calls: Caller | None = None
        self._sender: Sender | None = None
        self._attested: set[bytes] = set()
        self._connecting = asyncio.Lock()

    def __repr__(self) -> str:
        return f"Client({self.gateway.url})"

    async def __aenter__(self) -> Self:
        try:
            await self.connect()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        """Pin the network. Raises EncodingError (encoding.fingerprint, …), ConfigError (client.not_pinned) or
        TransportError (client.unreachable)."""
        async with self._connecting:
            if self._resolver is not None:
                return
            fingerprint, file, first = self._pin
            network = await pins.load(
                self.gateway, self.home, network_file=file, fingerprint=fingerprint, first_use=first
            )
            walk = walk_of(network, self.gateway.handovers, self.clock, self.home)
            self._resolver = Resolver(network, self.gateway, self.rpc, clock=self.clock, rng=self.rng, walk=walk)
            self._calls = self._engine(self.gateway, self._resolver, self.ledger, rng=self.rng, clock=self.clock)

    async def close(self) -> None:
        """Close all connections."""
        await self.gateway.close()
        await self.rpc.close()

    # --- agents ---

    async def agent(self, agent: str | int | bytes, *, demand: Demand | None = None, anonymous: bool = False) -> Agent:
        """An agent by id (0x… or 32 bytes) or token id. Its record is read by proof and held against the demand.

        ``anonymous``: do not sign calls, although the client has a wallet.
        Raises PolicyError: policy.agent_unknown, client.demand_upgrade, client.demand_code.
        """
        found = await self.agent_id(agent)
        record = await self.resolver.record(found)
        wanted = demand or Demand()
        wanted.check_record(record, self.caller_address)
        return Agent(self, found, record, wanted, anonymous=anonymous)

    @property
    def caller_address(self) -> bytes | None:
        """The 20-byte address that calls are made as; None for nobody and for an API key."""
        return None if self.caller is None or self.caller.kind == "apikey" else self.caller.address

    async def agent_id(self, agent: str | int | bytes) -> bytes:
        """The 32-byte id of an agent named by id or token id. Raises EncodingError for anything else."""
        if isinstance(agent, bytes):
            return from_hex(to_hex(agent), 32, name="agent id")
        if isinstance(agent, int):
            return self.id_of_token(agent)
        text = agent.strip().lower()
        if text.isascii() and text.isdigit() and len(text) < 40:
            return self.id_of_token(int(text))
        return from_hex(text, 32, name="agent id")

    def id_of_token(self, token_id: int) -> bytes:
        """Agent id of a token id on this network: 32 bytes."""
        if token_id < 1:
            raise BAD_FIELD(expected="a token id from 1", found=str(token_id))
        return agent_id(self.network.genesis.chain_id, self.address("Agents"), token_id)

    async def agents(self, *, owner: bytes | None = None) -> AsyncIterator[dict[str, Any]]:
        """Every agent by proof, oldest first; only those of ``owner`` (20 bytes) if given."""
        view = await self.resolver.view()
        for token_id in range(1, await view.state.agent_count() + 1):
            record = await view.state.agent(self.id_of_token(token_id))
            if record is not None and owner in (None, record.owner):
                yield record_facts(record)

    async def describe(self, agent: bytes) -> dict[str, Any]:
        """An agent's proven record and the workers that hold it now (verified seats), JSON-ready."""
        facts = record_facts(await self.resolver.record(agent)) | await self._limits(agent)
        try:
            found = (await self.resolver.resolve(agent, again=True)).sittings
        except CloisterError as error:
            return {**facts, "seats": [], "why_no_seat": f"{error.code}: {error.found}"}
        seats = [{"worker": to_hex(s.worker.worker), "vendor": s.vendor, "boot": to_hex(s.worker.boot)} for s in found]
        return {**facts, "seats": seats}

    async def _limits(self, agent: bytes) -> dict[str, Any]:
        """What limits an agent beside its code, by proof: who decides, who is asked to pay, until when it must rest."""
        record, view = await self.resolver.record(agent), await self.resolver.view()
        rules = await view.state.agent_rules(agent)
        named = {"guardian": record.guardian, "access_hook": rules.access_hook, "fee_payer": rules.fee_payer}
        shown_as: dict[str, Any] = {n: shown(a) if any(a) else None for n, a in named.items()}
        return shown_as | {"emergency_until": rules.emergency_until, "rules_version": rules.version}

    async def with_evidence(self, resolution: Resolution) -> Resolution:
        """The resolution with those seats whose workers showed good evidence over our nonce, once per boot.

        Raises the first failing check where no worker did."""
        from cloister.client.verify import verify_worker

        kept, refused = [], []
        for sitting in resolution.sittings:
            if sitting.worker.boot not in self._attested:
                report = await verify_worker(self, sitting.worker.worker)
                try:
                    report.require()
                except CloisterError as error:
                    refused.append(error)
                    continue
                self._attested.add(sitting.worker.boot)
            kept.append(sitting)
        if not kept:
            raise refused[0]
        return replace(resolution, sittings=tuple(kept))

    # --- transactions ---

    def need_wallet(self) -> Wallet:
        """The wallet. Raises ConfigError (client.no_wallet)."""
        if self.wallet is None:
            raise NO_WALLET(expected="a wallet", found="none")
        return self.wallet

    async def send(self, contract: str, data: bytes, *, value: int = 0) -> Transaction:
        """Send a transaction to a contract of this network, with ``value`` wei, and wait for it. Raises ChainError."""
        if self._sender is None:
            self._sender = Sender(self.rpc, self.need_wallet().key, self.network.genesis.chain_id)
        return await self._sender.send(self.address(contract), data, value)

    def address(self, contract: str) -> bytes:
        """20-byte address of a contract by name."""
        return self.network.genesis.address(contract)

    # --- parts ---

    @property
    def network(self) -> Network:
        """The pinned network."""
        return self.resolver.network

    @property
    def resolver(self) -> Resolver:
        """Verified reading of chain state. RuntimeError before ``connect``."""
        if self._resolver is None:
            raise RuntimeError("connect first: `async with Client(…) as client`")
        return self._resolver

    @property
    def calls(self) -> Caller:
        """The engine of sealed calls."""
        if self._calls is None:
            raise RuntimeError("connect first: `async with Client(…) as client`")
        return self._calls


def _caller(wallet: Wallet | None, caller: Who | None, api_key: str | None) -> Who | None:
    """Whom calls are made as. Raises EnvelopeError for a text that is no API key, TypeError for two callers."""
    if api_key is None:
        return caller or wallet
    if caller is not None:
        raise TypeError("give caller or api_key, not both")
    return ApiKey.parse(api_key)


def record_facts(record: AgentRecord) -> dict[str, Any]:
    """An agent's record for people and JSON."""
    rules = {UpgradeMode.INSTANT: "instant", UpgradeMode.FROZEN: "frozen"}
    return {
        "agent": to_hex(record.agent),
        "token_id": record.token_id,
        "owner": shown(record.owner),
        "paused": record.paused,
        "epoch": record.epoch,
        "upgrade": rules.get(record.upgrade_mode, f"delay {record.upgrade_delay} blocks"),
        "code_hash": to_hex(record.code_hash),
        "manifest_hash": to_hex(record.manifest_hash),
        "canary": None if record.canary is None else to_hex(record.canary.code_hash),
        "canary_share": None if record.canary is None else record.canary.share,
        "cluster": to_hex(record.cluster),
        "account": shown(record.account),
        "secrets_version": record.secrets_version,
    }
