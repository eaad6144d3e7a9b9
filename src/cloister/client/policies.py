"""An agent's rules on chain, for its owner: read, compare, change, and say in words what a change would do.

Lists are documents in the blob store; the chain holds their hashes. Everything read here is proven, or checked against
a proven hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from cloister.chain.contracts import encode
from cloister.chain.proven_calls import ProvenCalls
from cloister.chain.tx import Receipt
from cloister.client.wallet import shown
from cloister.core.chainview.records import AgentRecord, AgentRules, UpgradeMode
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.errors import CloisterError
from cloister.core.policy import access
from cloister.core.policy.egress import parse_rules

if TYPE_CHECKING:
    from cloister.client.client import Client

LISTS: Final = ("egress", "tools", "models")
_NOBODY: Final = bytes(20)


@dataclass(frozen=True, slots=True)
class Rules:
    """An agent's rules. A list that is None is not set: the manifest alone binds. Addresses: 20 bytes, or zeros."""

    agent: bytes
    version: int
    hook: bytes
    payer: bytes
    guardian: bytes
    emergency_until: int
    upgrade: str
    lists: tuple[tuple[str, ...] | None, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        named = {name: None if found is None else list(found) for name, found in zip(LISTS, self.lists, strict=True)}
        return {
            "agent": to_hex(self.agent),
            "version": self.version,
            "access_hook": _shown(self.hook),
            "fee_payer": _shown(self.payer),
            "guardian": _shown(self.guardian),
            "emergency_until": self.emergency_until or None,
            "upgrade": self.upgrade,
            **named,
        }


@dataclass(frozen=True, slots=True)
class Change:
    """What is to change; None: leave it. A list of () allows nothing, ``unlisted`` names lists that are taken away."""

    egress: tuple[str, ...] | None = None
    tools: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    unlisted: tuple[str, ...] = ()
    hook: bytes | None = None
    payer: bytes | None = None
    guardian: bytes | None = None

    def applied(self, rules: Rules) -> Rules:
        """The rules after the change. Raises SandboxError for an egress pattern that is none."""
        if self.egress is not None:
            parse_rules(self.egress)
        wanted = (self.egress, self.tools, self.models)
        lists = tuple(
            None if name in self.unlisted else (tuple(sorted(set(new))) if new is not None else old)
            for name, new, old in zip(LISTS, wanted, rules.lists, strict=True)
        )
        return replace(
            rules,
            lists=lists,
            hook=rules.hook if self.hook is None else self.hook,
            payer=rules.payer if self.payer is None else self.payer,
            guardian=rules.guardian if self.guardian is None else self.guardian,
        )


async def read_rules(client: Client, agent: bytes) -> Rules:
    """The agent's rules by proof, with the lists that they name. Raises ChainViewError, TransportError, PolicyError."""
    record = await client.resolver.record(agent)
    found = await (await client.resolver.view()).state.agent_rules(agent)
    lists = [await _list(client, name) for name in (found.egress_hash, found.tools_hash, found.models_hash)]
    return _rules(record, found, tuple(lists))


async def set_rules(client: Client, agent: bytes, change: Change) -> list[Receipt]:
    """Upload lists and send what differs, one transaction per kind of rule. Nothing differs: nothing is sent."""
    before = await read_rules(client, agent)
    after = change.applied(before)
    token = (await client.resolver.record(agent)).token_id
    sent = []
    if after.lists != before.lists:
        hashes = [await _stored(client, names) for names in after.lists]
        sent.append(await client.send("Agents", encode("Agents", "setLists", token, *hashes)))
    for name, old, new in (
        ("setAccessHook", before.hook, after.hook),
        ("setFeePayer", before.payer, after.payer),
        ("setGuardian", before.guardian, after.guardian),
    ):
        if old != new:
            sent.append(await client.send("Agents", encode("Agents", name, token, new)))
    return sent


def differences(before: Rules, after: Rules) -> list[dict[str, str]]:
    """What a change does, in words: ``rule``, ``effect``, ``binds`` (when workers obey)."""
    rows = []
    for name, old, new in zip(LISTS, before.lists, after.lists, strict=True):
        rows += _list_rows(name, old, new)
    for name, one, other in (("access hook", before.hook, after.hook), ("guardian", before.guardian, after.guardian)):
        if one != other:
            rows.append(_switch_row(name, one, other))
    if before.payer != after.payer:
        said = "nobody is asked to pay for calls" if after.payer == _NOBODY else f"{shown(after.payer)} is asked to pay"
        rows.append({"rule": "fee payer", "effect": said, "binds": "when final"})
    return rows


async def dry_run(
    client: Client,
    rules: Rules,
    *,
    caller: bytes | None,
    method: str,
    path: str,
    host: str = "",
    tool: str = "",
    model: str = "",
) -> list[dict[str, Any]]:
    """What the rules would say to one call, one host, one tool and one model: rows of ``question`` and ``answer``.

    A hook is run here over proven state, as workers do."""
    rows: list[dict[str, Any]] = []
    who = "an anonymous caller" if caller is None else shown(caller)
    no_hook = rules.hook == _NOBODY
    answer = "yes: no access hook" if no_hook else await _hook(client, rules, caller, method, path)
    rows.append({"question": f"may {who} call {method} {path}?", "answer": answer})
    if host:
        name, _, port = host.partition(":")
        left = access.narrowing(rules.lists[0], None, None)
        allowed = left.allows_host(name.lower(), int(port or 443))
        rows.append(
            {"question": f"may its code reach {host}?", "answer": "if its manifest says so" if allowed else "no"}
        )
    for kind, name, names in (("tool", tool, rules.lists[1]), ("model", model, rules.lists[2])):
        if name:
            no = names is not None and name not in names
            answer = "no: while its manifest names it, it does not run" if no else "if its manifest names it"
            rows.append({"question": f"may its code use the {kind} {name}?", "answer": answer})
    return rows


async def transfer(client: Client, agent: bytes, to: bytes) -> Receipt:
    """Give the agent away: new keys, secrets, guardian, hook and payer end. ``to``: 20 bytes."""
    token = (await client.resolver.record(agent)).token_id
    owner = client.need_wallet().address
    return await client.send("Agents", encode("Agents", "transferFrom", owner, to, token))


async def freeze(client: Client, agent: bytes) -> Receipt:
    """No more code changes, for ever."""
    token = (await client.resolver.record(agent)).token_id
    return await client.send("Agents", encode("Agents", "freeze", token))


def parse_address(text: str) -> bytes:
    """20 bytes, or zeros for "none". Raises EncodingError."""
    return _NOBODY if text == "none" else from_hex(text.lower(), 20, name="address")


def upgrade_text(record: AgentRecord) -> str:
    """The upgrade rule in words."""
    if record.upgrade_mode is UpgradeMode.FROZEN:
        return "frozen: its code never changes"
    if record.upgrade_mode is UpgradeMode.INSTANT:
        return "instant: its owner may change the code at once"
    return f"delay: a change waits {record.upgrade_delay} blocks"


# --- inside ---


def _rules(record: AgentRecord, found: AgentRules, lists: tuple[tuple[str, ...] | None, ...]) -> Rules:
    return Rules(
        agent=record.agent,
        version=found.version,
        hook=found.access_hook,
        payer=found.fee_payer,
        guardian=record.guardian,
        emergency_until=found.emergency_until,
        upgrade=upgrade_text(record),
        lists=lists,
    )


async def _list(client: Client, name: bytes) -> tuple[str, ...] | None:
    if not any(name):
        return None
    data = await client.gateway.get_blob(name)
    return access.parse_list(data)


async def _stored(client: Client, names: Sequence[str] | None) -> bytes:
    if names is None:
        return bytes(32)
    data = access.encode_list(names)
    await client.gateway.put_blob(data)
    return access.list_hash(data)


async def _hook(client: Client, rules: Rules, caller: bytes | None, method: str, path: str) -> str:
    kind = "anonymous" if caller is None else "wallet"
    asked = access.question(
        rules.agent, caller or access.ANYBODY, access.selector_of(method, path), access.context_of(kind, method, path)
    )
    view = await client.resolver.view()
    try:
        access.require_allowed(await ProvenCalls(client.rpc, view.checkpoint).view(rules.hook, asked))
    except CloisterError as error:
        return f"no: {error.found} ({error.code})"
    return f"yes, says the hook {shown(rules.hook)} at block {view.checkpoint.number}"


def _list_rows(name: str, old: tuple[str, ...] | None, new: tuple[str, ...] | None) -> list[dict[str, str]]:
    """What changes for a list, and when workers obey: what narrows binds from any block seen."""
    if old == new:
        return []
    soon, later = "at once", "when final"
    if new is None:
        return [{"rule": name, "effect": "no list: all that the manifest allows", "binds": later}]
    rows = []
    if old is None:
        said = ", ".join(new) or "nothing"
        rows.append({"rule": name, "effect": f"of what the manifest allows, only {said}", "binds": soon})
        return rows
    if gone := sorted(set(old) - set(new)):
        rows.append({"rule": name, "effect": f"no longer {', '.join(gone)}", "binds": soon})
    if more := sorted(set(new) - set(old)):
        rows.append({"rule": name, "effect": f"also {', '.join(more)}, if the manifest has it", "binds": later})
    return rows


def _switch_row(name: str, old: bytes, new: bytes) -> dict[str, str]:
    if new == _NOBODY:
        effect = "anybody may call" if name == "access hook" else "nobody else may pause or veto"
        return {"rule": name, "effect": effect, "binds": "when final"}
    what = "decides who may call" if name == "access hook" else "may pause the agent and veto code"
    binds = "at once" if name == "access hook" else "when final"
    return {"rule": name, "effect": f"{shown(new)} {what}", "binds": binds}


def _shown(address: bytes) -> str | None:
    return None if address == _NOBODY else shown(address)
