"""Contracts of a network on a real chain: deployed step by step, behind a timelock, resumed after any crash.

Each step looks at the chain first and does what is missing. What a file remembers is only which nonce a contract was
sent with; whether it stands there, its code says. ::

    create     a contract at the address of (deployer, nonce); its code is this build's
    reseals    Gatekeepers knows Reseals
    publish    the Directory has version 1 of every name
    offer      the Directory is offered to the Timelock
    hand over  one order of the Timelock: it accepts the Directory, its proposers are the plan's, its delay is the
               plan's, and the deployer has no right left

A newer contract is published by an order of the Timelock's proposers, which anybody carries out after its delay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from cloister.chain.contracts import WRONG_CODE, artifact, call, encode, encode_constructor
from cloister.chain.deploy import directory_key, verify_deployed
from cloister.chain.rpc import REVERTED, Rpc, quantity
from cloister.chain.tx import NOT_INCLUDED, Sender, create_address
from cloister.core.chainview.seats import RulesRecord
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.encoding.keccak import keccak256
from cloister.core.errors import ChainError, ConfigError, define

CREATED: Final = (
    "Timelock", "Token", "Directory", "Policies", "Seats", "Gatekeepers", "Clusters", "Agents", "Workers",
    "Reputation", "Validation", "Anchor", "Reseals", "Receipts", "Stakes",
)  # fmt: skip
# Contracts whose constructors take addresses only, and which hold nothing that others cannot build anew.
REPLACEABLE: Final = ("Anchor", "Receipts", "Reputation", "Reseals", "Validation", "Workers")
# Chain ids on which a development node's well-known keys may own something.
LOCAL_CHAINS: Final = (1337, 31337)
# Accounts of the phrase "test test … junk", which anvil and hardhat start with.
DEV_ACCOUNTS: Final = tuple(
    bytes.fromhex(text)
    for text in (
        "f39fd6e51aad88f6f4ce6ab8827279cfffb92266",
        "70997970c51812dc3a010c7d01b50e0d17dc79c8",
        "3c44cdddb6a900fa2b585dd299e03d12fa4293bc",
        "90f79bf6eb2c4f870365e785982e1f101e93b906",
        "15d34aaf54267db7d7c367839aaf71a00a2c6a65",
        "9965507d1a55bcc2695c58ba16fb37d819b0a4dc",
        "976ea74026e726554db657fa54763abd0c3a0aa9",
        "14dc79964da2c08b23698b3d3cc7ca32193d9955",
        "23618e81e3f5cdf7f54c3d65f7fbc0abf5b21e8f",
        "a0ee7a142d267c1f36714e4a8f75612f20a79720",
    )
)
_NOBODY: Final = bytes(20)
_ZERO: Final = bytes(32)

DEV_KEY = define(
    "chain.dev_key",
    ConfigError,
    check="no well-known key of development chains owns a network on another chain",
    remedy="use a wallet of your own: everybody has the keys that anvil and hardhat start with",
)
OTHER_CHAIN = define(
    "chain.other_chain",
    ConfigError,
    check="endpoint, plan and record of a deployment name one chain, one deployer and one plan",
    remedy="use the endpoint and the wallet that the deployment began with, or another record for another deployment",
)
WRONG_WIRING = define(
    "chain.wrong_wiring",
    ChainError,
    check="the contracts of a deployment know one another, and the Timelock owns them",
    remedy="deploy anew; a contract that was made with other arguments cannot be repaired",
)
NOT_REPLACEABLE = define(
    "chain.not_replaceable",
    ConfigError,
    check=f"the contract may be replaced by a newer one: {', '.join(REPLACEABLE)}",
    remedy="other contracts hold what a network is; a change of them is another network",
)
NOTHING_NEW = define(
    "chain.nothing_new",
    ConfigError,
    check="the published contract is not this build's already",
    remedy="nothing to do; or upgrade Cloister first",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a deployment is made with. Hashes: 32 bytes; addresses: 20. ``timelock_delay``: seconds. ``policy_delay``:
    blocks. ``treasury`` takes the token supply; zeros: the Timelock does."""

    chain_id: int
    policy_hash: bytes
    measurements: tuple[bytes, ...]
    policy_delay: int
    seats: int
    rules: RulesRecord
    timelock_delay: int
    proposers: tuple[bytes, ...]
    treasury: bytes = _NOBODY


@dataclass(slots=True)
class Record:
    """What is remembered between runs. ``nonces``: contract -> nonce that it was sent with; ``save`` makes it durable
    before anything is sent."""

    save: Callable[[Record], None]
    nonces: dict[str, int] = field(default_factory=dict)


def require_own_keys(chain_id: int, addresses: tuple[bytes, ...]) -> None:
    """Raise chain.dev_key for a well-known development key on a chain that is not a local one."""
    if chain_id in LOCAL_CHAINS:
        return
    for address in addresses:
        if address in DEV_ACCOUNTS:
            raise DEV_KEY(expected=f"an own key on chain {chain_id}", found=to_hex(address))


async def require_chain(rpc: Rpc, chain_id: int) -> None:
    """Raise chain.other_chain unless the endpoint serves that chain."""
    found = quantity(await rpc.call("eth_chainId"), "chain id")
    if found != chain_id:
        raise OTHER_CHAIN(expected=f"chain {chain_id}", found=f"chain {found}")


# --- deploying ---


async def deploy(sender: Sender, plan: Plan, record: Record, say: Callable[[str], None]) -> dict[str, bytes]:
    """Do what is missing of a deployment; returns name -> address. Run again after any failure.

    1. own keys, the plan's chain, nothing on its way; 2. the contracts; 3. Reseals; 4. the Directory; 5. the Timelock
    owns all; 6. check.
    Raises ConfigError, ChainError."""
    require_own_keys(plan.chain_id, (sender.address, *plan.proposers, plan.treasury))  # 1
    await require_chain(sender.rpc, plan.chain_id)
    await _idle(sender)
    at: dict[str, bytes] = {}
    for name in CREATED:  # 2
        at[name] = await _created(sender, name, lambda n=name: _arguments(n, at, sender.address, plan), record, say)  # type: ignore[misc]
    await _wire_reseals(sender, at, say)  # 3
    at["AgentAccounts"] = await call(sender.rpc, at["Agents"], "Agents", "accounts")
    at["Election"] = await call(sender.rpc, at["Seats"], "Seats", "election")
    await _publish_first(sender, at, say)  # 4
    await _hand_over(sender, at, plan, say)  # 5
    await verify_wiring(sender.rpc, at, plan)  # 6
    return at


async def verify_wiring(rpc: Rpc, at: dict[str, bytes], plan: Plan | None = None) -> dict[str, bytes]:
    """Code and wiring of a deployment as an endpoint shows them; with ``plan`` also that the Directory has them as its
    first version, and the plan's parameters. Returns name -> code hash. Raises chain.wrong_code, chain.wrong_wiring.

    1. code; 2. who knows whom; 3. the Timelock owns; 4. the Directory; 5. parameters."""
    hashes = await verify_deployed(rpc, at)  # 1
    asked: list[tuple[str, str, tuple[Any, ...], Any]] = [(n, f, (), v) for n, f, v in _wiring(at)]  # 2, 3
    if plan is not None:  # 4, 5
        asked += [
            *(("Directory", "get", (directory_key(n), 1), a) for n, a in at.items() if n != "Directory"),
            ("Policies", "policyDelay", (), plan.policy_delay),
            ("Timelock", "getMinDelay", (), plan.timelock_delay),
            *(("Timelock", "hasRole", (_role("PROPOSER_ROLE"), p), True) for p in plan.proposers),
        ]
    found = await asyncio.gather(*(call(rpc, at[n], n, f, *args) for n, f, args, _ in asked))
    for (name, getter, _, wanted), value in zip(asked, found, strict=True):
        if value != wanted:
            raise WRONG_WIRING(expected=f"{name}.{getter}: {_shown(wanted)}", found=_shown(value))
    return hashes


async def current(rpc: Rpc, directory: bytes) -> dict[str, tuple[int, bytes]]:
    """Name -> (version, address) of all that the Directory has. Unproven. Raises ChainError."""
    names = [n for n in (*CREATED, "AgentAccounts", "Election") if n != "Directory"]
    found = await asyncio.gather(*(call(rpc, directory, "Directory", "latest", directory_key(n)) for n in names))
    return {"Directory": (1, directory), **dict(zip(names, found, strict=True))}


# --- upgrading ---


@dataclass(frozen=True, slots=True)
class Upgrade:
    """How far the replacement of a contract came. ``order``: (target, call data) for the Timelock's proposers, while
    nobody scheduled it. ``ready_at``: Unix seconds, 0 unless it waits."""

    name: str
    version: int
    address: bytes
    state: str
    ready_at: int = 0
    order: tuple[bytes, bytes] | None = None


async def upgrade(sender: Sender, name: str, directory: bytes, record: Record, say: Callable[[str], None]) -> Upgrade:
    """Do the next steps of replacing a contract by this build's: deployed, scheduled, waiting, published.

    1. it may be replaced and differs; 2. the new one stands; 3. it is published: done; 4. it is scheduled: by us if we
    may propose, else the order is returned; 5. carried out when its time has come."""
    rpc = sender.rpc
    if name not in REPLACEABLE:
        raise NOT_REPLACEABLE(expected=" or ".join(REPLACEABLE), found=name[:40])
    known = await current(rpc, directory)
    at = {n: address for n, (_, address) in known.items()}
    version, old = known[name]
    made = f"{name}/{version + 1}"
    if made not in record.nonces and await is_built(rpc, name, old):  # 1
        if f"{name}/{version}" in record.nonces:
            return Upgrade(name, version, old, "published")  # 3
        raise NOTHING_NEW(expected="another code", found=f"{name} version {version} has this build's")
    require_own_keys(sender.chain_id, (sender.address,))
    await _idle(sender)
    new = await _created(sender, name, lambda: _replacement(name, at), record, say, label=made)  # 2
    order = (directory, 0, encode("Directory", "publish", directory_key(name), version + 1, new), _ZERO, _ZERO)
    return await _through(sender, at["Timelock"], order, Upgrade(name, version + 1, new, "deployed"), say)  # 4, 5


async def _through(
    sender: Sender, timelock: bytes, order: tuple[Any, ...], made: Upgrade, say: Callable[[str], None]
) -> Upgrade:
    """Bring an order through the Timelock as far as it goes now."""
    rpc = sender.rpc

    async def ask(fn: str, *args: Any) -> Any:
        return await call(rpc, timelock, "Timelock", fn, *args)

    operation = await ask("hashOperation", *order)
    if not await ask("isOperation", operation):
        delay = await ask("getMinDelay")
        data = encode("Timelock", "schedule", *order, delay)
        if not await ask("hasRole", _role("PROPOSER_ROLE"), sender.address):
            return Upgrade(made.name, made.version, made.address, "to be scheduled", order=(timelock, data))
        say(f"scheduling {made.name} version {made.version}")
        await sender.send(timelock, data)
    if await ask("isOperationDone", operation):
        return Upgrade(made.name, made.version, made.address, "published")
    if not await ask("isOperationReady", operation):
        return Upgrade(made.name, made.version, made.address, "waiting", await ask("getTimestamp", operation))
    say(f"publishing {made.name} version {made.version}")
    await sender.send(timelock, encode("Timelock", "execute", *order))
    return Upgrade(made.name, made.version, made.address, "published")


# --- inside: steps ---


async def _created(
    sender: Sender,
    name: str,
    arguments: Callable[[], tuple[Any, ...]],
    record: Record,
    say: Callable[[str], None],
    label: str = "",
) -> bytes:
    """The address of a contract, made now or before. 1. it stands; 2. it is sent, its nonce remembered first."""
    label = label or name
    nonce = record.nonces.get(label)
    if nonce is not None:
        address = create_address(sender.address, nonce)
        if await is_built(sender.rpc, name, address):  # 1
            return address
    nonce = await _count(sender, "pending")  # 2
    record.nonces[label] = nonce
    record.save(record)
    say(f"deploying {label}")
    sent = await sender.submit(None, encode_constructor(name, *arguments()))
    if sent.nonce != nonce:
        raise OTHER_CHAIN(expected="nobody else to send with the deployer's key", found=f"nonce {sent.nonce}")
    await sender.wait(sent)
    address = create_address(sender.address, nonce)
    await verify_deployed(sender.rpc, {name: address})
    return address


async def _idle(sender: Sender) -> None:
    """Wait for what an earlier run sent. Raises chain.not_included after a minute."""
    for _ in range(600):
        mined, pending = await asyncio.gather(_count(sender, "latest"), _count(sender, "pending"))
        if mined >= pending:
            return
        await asyncio.sleep(0.1)
    raise NOT_INCLUDED(expected="inclusion of what was sent before", found=f"{pending - mined} pending")


async def _wire_reseals(sender: Sender, at: dict[str, bytes], say: Callable[[str], None]) -> None:
    if await call(sender.rpc, at["Gatekeepers"], "Gatekeepers", "reseals") == _NOBODY:
        say("wiring Reseals")
        await sender.send(at["Gatekeepers"], encode("Gatekeepers", "setReseals", at["Reseals"]))


async def _publish_first(sender: Sender, at: dict[str, bytes], say: Callable[[str], None]) -> None:
    """Version 1 of every name; and the Directory is offered to the Timelock."""
    directory = at["Directory"]
    names = [name for name in at if name != "Directory"]
    there = await asyncio.gather(*(_published(sender.rpc, directory, name) for name in names))
    missing = [name for name, known in zip(names, there, strict=True) if not known]
    if missing:
        say(f"publishing {', '.join(missing)}")
    calls = [encode("Directory", "publish", directory_key(name), 1, at[name]) for name in missing]
    await asyncio.gather(*(sender.send(directory, data) for data in calls))
    owner, offered = await asyncio.gather(
        call(sender.rpc, directory, "Directory", "owner"), call(sender.rpc, directory, "Directory", "pendingOwner")
    )
    if owner == sender.address and offered != at["Timelock"]:
        say("offering the Directory to the Timelock")
        await sender.send(directory, encode("Directory", "transferOwnership", at["Timelock"]))


async def _hand_over(sender: Sender, at: dict[str, bytes], plan: Plan, say: Callable[[str], None]) -> None:
    """One order: accept the Directory, let the plan's proposers in, the deployer out, and set the delay."""
    lock = at["Timelock"]
    order = _last_order(at, plan, sender.address)
    operation = await call(sender.rpc, lock, "Timelock", "hashOperationBatch", *order)
    if await call(sender.rpc, lock, "Timelock", "isOperationDone", operation):
        return
    if not await call(sender.rpc, lock, "Timelock", "isOperation", operation):
        say("ordering the hand-over")
        await sender.send(lock, encode("Timelock", "scheduleBatch", *order, 0))
    say("handing over to the Timelock")
    await sender.send(lock, encode("Timelock", "executeBatch", *order))


def _last_order(at: dict[str, bytes], plan: Plan, deployer: bytes) -> tuple[Any, ...]:
    """(targets, values, calls, predecessor, salt) of the order that ends the deployer's rights."""
    calls = [(at["Directory"], encode("Directory", "acceptOwnership"))]
    roles = [_role("PROPOSER_ROLE"), _role("CANCELLER_ROLE")]
    lock = at["Timelock"]
    calls += [(lock, encode("Timelock", "grantRole", role, who)) for who in plan.proposers for role in roles]
    if deployer not in plan.proposers:
        calls += [(lock, encode("Timelock", "revokeRole", role, deployer)) for role in roles]
    calls.append((lock, encode("Timelock", "updateDelay", plan.timelock_delay)))
    return [to for to, _ in calls], [0] * len(calls), [data for _, data in calls], _ZERO, _ZERO


# --- inside: tables ---


def _arguments(name: str, at: dict[str, bytes], deployer: bytes, plan: Plan) -> tuple[Any, ...]:
    """Constructor arguments. The Timelock begins without a delay and with the deployer as its only proposer."""
    if name in REPLACEABLE:
        return _replacement(name, at)
    owner = at.get("Timelock", _NOBODY)
    known: dict[str, Callable[[], tuple[Any, ...]]] = {
        "Timelock": lambda: (0, [deployer], [_NOBODY], _NOBODY),
        "Token": lambda: (owner if plan.treasury == _NOBODY else plan.treasury,),
        "Directory": lambda: (deployer,),
        "Policies": lambda: (owner, plan.policy_delay, plan.policy_hash, list(plan.measurements)),
        "Seats": lambda: (deployer, at["Token"]),
        "Gatekeepers": lambda: (owner, at["Seats"], plan.rules),
        "Clusters": lambda: (owner, plan.seats),
        "Agents": lambda: (at["Gatekeepers"], at["Clusters"]),
        "Stakes": lambda: (owner, at.get("Token", _NOBODY), at.get("Workers", _NOBODY)),
    }
    return known[name]()


def _replacement(name: str, at: dict[str, bytes]) -> tuple[Any, ...]:
    known = {
        "Workers": ("Timelock", "Gatekeepers", "Policies"),
        "Reputation": ("Agents",),
        "Validation": ("Agents", "Gatekeepers"),
        "Anchor": ("Agents", "Gatekeepers", ""),
        "Reseals": ("Agents", "Gatekeepers"),
        "Receipts": ("Gatekeepers", "Workers"),
    }
    return tuple(at.get(other, _NOBODY) for other in known[name])


def _wiring(at: dict[str, bytes]) -> list[tuple[str, str, Any]]:
    """(contract, getter, what it must say)."""
    lock = at["Timelock"]
    owned = [(name, "owner", lock) for name in ("Directory", "Policies", "Gatekeepers", "Workers", "Stakes")]
    return [
        *owned,
        ("Clusters", "dao", lock),
        ("Gatekeepers", "seats", at["Seats"]),
        ("Gatekeepers", "token", at["Token"]),
        ("Gatekeepers", "reseals", at["Reseals"]),
        ("Gatekeepers", "election", at["Election"]),
        ("Agents", "gatekeepers", at["Gatekeepers"]),
        ("Agents", "clusters", at["Clusters"]),
        ("Agents", "accounts", at["AgentAccounts"]),
        ("Workers", "gatekeepers", at["Gatekeepers"]),
        ("Workers", "policies", at["Policies"]),
        ("Reputation", "agents", at["Agents"]),
        ("Validation", "agents", at["Agents"]),
        ("Validation", "gatekeepers", at["Gatekeepers"]),
        ("Anchor", "agents", at["Agents"]),
        ("Anchor", "committee", at["Gatekeepers"]),
        ("Stakes", "token", at["Token"]),
        ("Stakes", "workers", at["Workers"]),
    ]


async def is_built(rpc: Rpc, name: str, address: bytes) -> bool:
    """Whether this build's code stands at an address."""
    try:
        artifact(name).verify_code(await _code(rpc, address))
    except ChainError as error:
        if error.code != WRONG_CODE.code:
            raise
        return False
    return True


async def code_hash(rpc: Rpc, address: bytes) -> bytes:
    """keccak256 of the code at an address. Unproven."""
    return keccak256(await _code(rpc, address))


async def _code(rpc: Rpc, address: bytes) -> bytes:
    return from_hex(await rpc.call("eth_getCode", to_hex(address), "latest"), name="code")


async def _published(rpc: Rpc, directory: bytes, name: str) -> bool:
    try:
        await call(rpc, directory, "Directory", "latest", directory_key(name))
    except ChainError as error:
        if error.code != REVERTED.code or "UnknownVersion" not in error.found:
            raise
        return False
    return True


async def _count(sender: Sender, tag: str) -> int:
    answer = await sender.rpc.call("eth_getTransactionCount", to_hex(sender.address), tag)
    return quantity(answer, "nonce", 64)


def _role(name: str) -> bytes:
    return keccak256(name.encode("ascii"))


def _shown(value: Any) -> str:
    return to_hex(value) if isinstance(value, bytes) else str(value)
