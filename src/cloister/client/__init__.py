"""The Python SDK. Async first; ``cloister.client.sync`` is the same client for programs without an event loop.

Names here load on first use, so that a service that needs one module does not load them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloister.client.agent import Agent as Agent
    from cloister.client.agent import Stream as Stream
    from cloister.client.callers import ApiKey as ApiKey
    from cloister.client.callers import ContractWallet as ContractWallet
    from cloister.client.client import Client as Client
    from cloister.client.demand import Demand as Demand
    from cloister.client.home import Home as Home
    from cloister.client.reply import Proof as Proof
    from cloister.client.reply import Reply as Reply
    from cloister.client.wallet import Wallet as Wallet

__all__ = ["Agent", "ApiKey", "Client", "ContractWallet", "Demand", "Home", "Proof", "Reply", "Stream", "Wallet"]

_LAZY = {
    "Agent": "agent",
    "ApiKey": "callers",
    "Client": "client",
    "ContractWallet": "callers",
    "Demand": "demand",
    "Home": "home",
    "Proof": "reply",
    "Reply": "reply",
    "Stream": "agent",
    "Wallet": "wallet",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f"cloister.client.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'cloister.client' has no attribute {name!r}")
