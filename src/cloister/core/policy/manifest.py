"""The manifest: what an agent asks for and promises, as canonical JSON whose hash is on chain (spec/sandbox.md 5).

An agent's code is identified by two hashes: SHA-256 of the bundle's bytes and SHA-256 of the manifest's JCS bytes.
``normalize`` turns what a developer wrote (defaults left out) into the one full form; ``parse`` accepts that form only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cloister.core.encoding import jcs
from cloister.core.errors import ConfigError, define
from cloister.core.policy.cron import Cron
from cloister.core.policy.egress import parse_rules

MAX_BUNDLE: Final = 16 << 20
MAX_MANIFEST: Final = 64 << 10
MAX_NAMES: Final = 64
MAX_MODELS: Final = 64
MAX_TOOLS: Final = 64
MAX_TASKS: Final = 16
MAX_SETTING: Final = 4 << 10
MAX_PROCESSES: Final = 8
MAX_DELAY: Final = 1 << 32
_MIB: Final = 1 << 20
ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_KEY_SWITCHES: Final = ("messages", "raw", "calls", "ed25519")
_SIGNED_DOMAIN = re.compile(r"[1-9][0-9]{0,15}:0x[0-9a-f]{40}")
_TASK_PATH = re.compile(r"/[!-~]{0,255}")
_CALLED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}")
# The sandbox puts these into the environment itself.
RESERVED: Final = frozenset(
    {"DENO_DIR", "DENO_CERT", "DENO_NO_UPDATE_CHECK", "HTTPS_PROXY", "HTTP_PROXY", "PATH", "HOME"}
    | {"https_proxy", "http_proxy", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"}
)
RUNTIMES: Final = ("deno", "python")

# name: (default, least, most). Units: MiB, seconds, bytes, requests at once. See sandbox.ports.Limits.
LIMITS: Final[Mapping[str, tuple[int, int, int]]] = {
    "concurrency": (64, 1, 1024),
    "cpu_ms": (10_000, 100, 3_600_000),
    "egress_bytes": (64 * _MIB, 0, 16 << 30),
    "heap_mb": (64, 16, 4096),
    "log_bytes": (64 << 10, 0, _MIB),
    "memory_mb": (192, 32, 16384),
    "request_bytes": (8 * _MIB, 0, 64 * _MIB),
    "response_bytes": (16 * _MIB, 0, 256 * _MIB),
    "start_s": (10, 1, 120),
    "wall_s": (30, 1, 900),
}
_FIELDS: Final = frozenset(
    {"v", "runtime", "keys", "schedule", "entry", "limits", "egress", "env", "settings", "secrets", "models", "tools"}
    | {"upgrade", "processes"}
)

BAD_FIELDS = define(
    "manifest.field",
    ConfigError,
    check="a manifest has the fields of spec/sandbox.md 5, each of its type, and no others",
    remedy="correct the field; `cloister agent new` writes an example",
)
BAD_ENTRY = define(
    "manifest.entry",
    ConfigError,
    check='entry is "fetch" or "main"',
    remedy="use fetch for fetch(request, ctx), main for main(requestJson)",
)
BAD_RUNTIME = define(
    "manifest.runtime",
    ConfigError,
    check='runtime is "deno" or "python"; a Python agent has the entry "fetch"',
    remedy='leave runtime out for JavaScript and TypeScript, write "python" for Python',
)
BAD_PROCESSES = define(
    "manifest.processes",
    ConfigError,
    check="processes is how many of the agent's processes may serve at once on one worker, 1 to 8",
    remedy="leave it out for one; with more, requests share no memory: what must last belongs into ctx.state",
)
BAD_KEYS = define(
    "manifest.keys",
    ConfigError,
    check='keys is {"messages": bool, "typed_data": ["CHAIN:0xCONTRACT", ...], "raw": bool}',
    remedy="name chain and contract of each domain that the agent signs for; leave keys out if it signs nothing",
)
BAD_SCHEDULE = define(
    "manifest.schedule",
    ConfigError,
    check='schedule is a list of {"cron": "M H D M W", "path": "/...", "within_s": N}',
    remedy='for example [{"cron": "*/15 * * * *", "path": "/publish"}]; times are UTC',
)
BAD_LIMIT = define(
    "manifest.limit",
    ConfigError,
    check="every limit is a whole number within what a worker offers",
    remedy="choose a number within the bounds",
)
BAD_NAME = define(
    "manifest.name",
    ConfigError,
    check="names of settings and secrets are letters, digits and _, at most 64 of each, listed once, not reserved",
    remedy="rename it, for example API_KEY",
)
BAD_UPGRADE = define(
    "manifest.upgrade",
    ConfigError,
    check='the upgrade rule is {"rule": "frozen"}, {"rule": "instant"} or {"rule": "delay", "blocks": N}',
    remedy="choose one of the three",
)
BAD_BUNDLE = define(
    "manifest.bundle",
    ConfigError,
    check=f"a bundle is not empty and has at most {MAX_BUNDLE >> 20} MiB",
    remedy="import less; `deno bundle --minify` drops what is not used",
)


@dataclass(frozen=True, slots=True)
class KeyRules:
    """What the agent's own key may sign. ``messages``: EIP-191 texts. ``typed_data``: EIP-712 domains, each
    "chain id:0x-hex of the verifying contract". ``raw``: as the key's own address instead of the agent's account.
    ``calls``: calls by the account, within its limits on chain. ``ed25519``: bytes, by a key that no chain limits."""

    messages: bool
    typed_data: tuple[str, ...]
    raw: bool
    calls: bool = False
    ed25519: bool = False

    def to_json(self) -> dict[str, Any]:
        """The full form; ``calls`` and ``ed25519`` stand in it where set: they came later."""
        later = {"calls": self.calls, "ed25519": self.ed25519}
        first = {"messages": self.messages, "typed_data": list(self.typed_data), "raw": self.raw}
        return first | {name: value for name, value in later.items() if value}


@dataclass(frozen=True, slots=True)
class Task:
    """One line of the schedule: when (cron, UTC), which path is asked by POST, and in how many seconds it answers."""

    cron: str
    path: str
    within_s: int

    def to_json(self) -> dict[str, Any]:
        """The full form."""
        return {"cron": self.cron, "path": self.path, "within_s": self.within_s}


@dataclass(frozen=True, slots=True)
class Manifest:
    """A valid manifest. ``settings``: public environment variables. ``secrets``: names that the owner sets sealed.
    ``env``: those secrets that the code reads as environment variables. ``models``: what it asks models for, () says
    nothing. ``tools``: what it may call, None says nothing; an agent is the tool ``agent:0x…``. ``upgrade_delay``:
    blocks; 0 instant, None frozen."""

    entry: str
    limits: Mapping[str, int]
    egress: tuple[str, ...]
    env: tuple[str, ...]
    settings: Mapping[str, str]
    secrets: tuple[str, ...]
    models: tuple[str, ...]
    upgrade_delay: int | None
    runtime: str = "deno"
    keys: KeyRules | None = None
    schedule: tuple[Task, ...] = ()
    processes: int = 1
    tools: tuple[str, ...] | None = None

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """The manifest in canonical bytes: ``parse`` below. Raises EncodingError, ConfigError (manifest.*)."""
        return parse(data)

    def environment(self, secrets: Mapping[str, str]) -> dict[str, str]:
        """The environment inside the isolate: settings, and those opened secrets that ``env`` names."""
        return {**self.settings, **{name: secrets[name] for name in self.env if name in secrets}}

    def handles(self, secrets: Mapping[str, str]) -> dict[str, str]:
        """Of the opened secrets, those that the manifest declares: code gets no other."""
        return {name: secrets[name] for name in self.secrets if name in secrets}

    def to_json(self) -> dict[str, Any]:
        """The full form, JSON-ready. ``runtime``, ``keys``, ``schedule``, ``tools`` stand in it where set: they came
        later."""
        return {
            "v": 1,
            **({} if self.runtime == "deno" else {"runtime": self.runtime}),
            **({} if self.keys is None else {"keys": self.keys.to_json()}),
            **({"schedule": [task.to_json() for task in self.schedule]} if self.schedule else {}),
            **({} if self.tools is None else {"tools": list(self.tools)}),
            **({} if self.processes == 1 else {"processes": self.processes}),
            "entry": self.entry,
            "limits": dict(self.limits),
            "egress": list(self.egress),
            "env": list(self.env),
            "settings": dict(self.settings),
            "secrets": list(self.secrets),
            "models": list(self.models),
            "upgrade": _upgrade_json(self.upgrade_delay),
        }

    def __bytes__(self) -> bytes:
        return jcs.encode(self.to_json())


def code_hash(bundle: bytes) -> bytes:
    """SHA-256 of a bundle. Raises ConfigError (manifest.bundle) for an empty or oversized one."""
    if not 0 < len(bundle) <= MAX_BUNDLE:
        raise BAD_BUNDLE(expected=f"1 to {MAX_BUNDLE} bytes", found=f"{len(bundle)} bytes")
    return hashlib.sha256(bundle).digest()


def manifest_hash(data: bytes) -> bytes:
    """SHA-256 of a manifest's bytes. Raises as ``parse`` does: only a valid manifest has a hash."""
    parse(data)
    return hashlib.sha256(data).digest()


def parse(data: bytes) -> Manifest:
    """The manifest in canonical bytes. Raises EncodingError (not canonical) or ConfigError (manifest.*)."""
    value = jcs.decode(data, max_size=MAX_MANIFEST)
    manifest = normalize(value)
    if bytes(manifest) != data:
        raise BAD_FIELDS(
            expected="the full form: every field, lists sorted", found="defaults left out or another order"
        )
    return manifest


def normalize(source: object) -> Manifest:
    """What a developer wrote, with defaults filled in. Raises ConfigError (manifest.*), SandboxError (egress)."""
    if not isinstance(source, dict) or not set(source) <= _FIELDS:
        found = sorted(map(str, set(source) - _FIELDS))[:4] if isinstance(source, dict) else type(source).__name__
        raise BAD_FIELDS(expected=f"only {', '.join(sorted(_FIELDS))}", found=str(found))
    if source.get("v", 1) != 1 or isinstance(source.get("v"), bool):
        raise BAD_FIELDS(expected="v = 1", found="another version")
    entry = source.get("entry", "fetch")
    if entry not in ("fetch", "main"):
        raise BAD_ENTRY(expected='"fetch" or "main"', found=type(entry).__name__)
    runtime = source.get("runtime", "deno")
    if runtime not in RUNTIMES or (runtime == "python" and entry != "fetch"):
        raise BAD_RUNTIME(expected='"deno", or "python" with the entry "fetch"', found="another runtime or entry")
    egress = _texts("egress", source.get("egress", []))
    parse_rules(egress)
    settings, secrets, env = _names(source)
    manifest = Manifest(
        entry=entry,
        limits=_limits(source.get("limits", {})),
        egress=egress,
        env=env,
        settings=settings,
        secrets=secrets,
        models=_called("models", source.get("models", []), MAX_MODELS),
        upgrade_delay=_upgrade(source.get("upgrade", {"rule": "instant"})),
        runtime=runtime,
        keys=_keys(source.get("keys")),
        schedule=_schedule(source.get("schedule", [])),
        processes=_processes(source.get("processes", 1)),
        tools=_called("tools", source["tools"], MAX_TOOLS) if "tools" in source else None,
    )
    if len(bytes(manifest)) > MAX_MANIFEST:
        raise BAD_FIELDS(expected=f"at most {MAX_MANIFEST} bytes", found="more")
    return manifest


def _texts(name: str, value: object) -> tuple[str, ...]:
    """A list of distinct texts, sorted."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise BAD_FIELDS(expected=f"{name} as a list of texts", found=type(value).__name__)
    if len(set(value)) != len(value):
        raise BAD_FIELDS(expected=f"{name} without repetitions", found="one twice")
    return tuple(sorted(value))


def _names(source: Mapping[str, Any]) -> tuple[dict[str, str], tuple[str, ...], tuple[str, ...]]:
    settings = source.get("settings", {})
    if not isinstance(settings, dict) or not all(isinstance(v, str) for v in settings.values()):
        raise BAD_FIELDS(expected="settings as an object of texts", found=type(settings).__name__)
    if any(len(value) > MAX_SETTING or "\0" in value for value in settings.values()):
        raise BAD_FIELDS(expected=f"settings of at most {MAX_SETTING} characters, without NUL", found="another value")
    secrets, env = _texts("secrets", source.get("secrets", [])), _texts("env", source.get("env", []))
    for name in (*settings, *secrets):
        if not isinstance(name, str) or not ENV_NAME.fullmatch(name) or name in RESERVED:
            raise BAD_NAME(expected="a free name", found=str(name)[:64])
    if len(settings) > MAX_NAMES or len(secrets) > MAX_NAMES:
        raise BAD_NAME(expected=f"at most {MAX_NAMES} settings and secrets", found="more")
    if unknown := set(env) - set(secrets):
        raise BAD_NAME(expected="env to name secrets", found=min(unknown)[:64])
    if twice := set(settings) & set(secrets):
        raise BAD_NAME(expected="a name as setting or as secret", found=f"{min(twice)[:64]} as both")
    return dict(settings), secrets, env


def _keys(value: object) -> KeyRules | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not set(value) <= {"typed_data", *_KEY_SWITCHES}:
        raise BAD_KEYS(expected=f"typed_data, {', '.join(_KEY_SWITCHES)} only", found="other fields")
    switches = {name: value.get(name, False) for name in _KEY_SWITCHES}
    domains = _texts("typed_data", value.get("typed_data", []))
    if not all(isinstance(one, bool) for one in switches.values()) or len(domains) > MAX_NAMES:
        raise BAD_KEYS(expected=f"true or false, and at most {MAX_NAMES} domains", found="others")
    if switches["raw"] and switches["calls"]:
        raise BAD_KEYS(expected="calls by the account, or raw signatures of the key", found="both")
    if not all(_SIGNED_DOMAIN.fullmatch(domain) for domain in domains):
        raise BAD_KEYS(expected="domains as chain id:0x-hex in lower case", found="others")
    return KeyRules(typed_data=domains, **switches)


def _processes(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_PROCESSES:
        raise BAD_PROCESSES(expected=f"1 to {MAX_PROCESSES}", found="another")
    return value


def _schedule(value: object) -> tuple[Task, ...]:
    if not isinstance(value, list) or len(value) > MAX_TASKS:
        raise BAD_SCHEDULE(expected=f"a list of at most {MAX_TASKS}", found=type(value).__name__)
    return tuple(_task(one) for one in value)


def _task(value: object) -> Task:
    if not isinstance(value, dict) or not {"cron", "path"} <= set(value) <= {"cron", "path", "within_s"}:
        raise BAD_SCHEDULE(expected="cron, path and within_s", found="other fields")
    cron, path, within_s = value["cron"], value["path"], value.get("within_s", 60)
    if not isinstance(cron, str) or not isinstance(path, str) or not _TASK_PATH.fullmatch(path):
        raise BAD_SCHEDULE(expected="cron as a text, and a path that begins with /", found="others")
    if not isinstance(within_s, int) or isinstance(within_s, bool) or not 1 <= within_s <= 540:
        raise BAD_SCHEDULE(expected="within_s from 1 to 540", found="another")
    Cron.parse(cron)
    return Task(cron, path, within_s)


def _limits(value: object) -> dict[str, int]:
    if not isinstance(value, dict) or not set(value) <= set(LIMITS):
        raise BAD_FIELDS(expected=f"limits with only {', '.join(LIMITS)}", found="other fields")
    limits = {}
    for name, (default, least, most) in LIMITS.items():
        number = value.get(name, default)
        if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
            found = str(number)[:40] if isinstance(number, (int, float)) else type(number).__name__
            raise BAD_LIMIT(expected=f"{name} from {least} to {most}", found=found)
        limits[name] = number
    return limits


def _called(field: str, value: object, most: int) -> tuple[str, ...]:
    """Names of models or of tools, sorted."""
    names = _texts(field, value)
    if len(names) > most or not all(_CALLED.fullmatch(name) for name in names):
        raise BAD_FIELDS(expected=f"{field} as at most {most} names", found="others")
    return names


def _upgrade(value: object) -> int | None:
    """Blocks of delay; 0 for instant, None for frozen."""
    if value == {"rule": "frozen"}:
        return None
    if value == {"rule": "instant"}:
        return 0
    if isinstance(value, dict) and set(value) == {"rule", "blocks"} and value["rule"] == "delay":
        blocks = value["blocks"]
        if isinstance(blocks, int) and not isinstance(blocks, bool) and 0 < blocks <= MAX_DELAY:
            return blocks
    raise BAD_UPGRADE(expected=f"one of the three, blocks from 1 to {MAX_DELAY}", found="another rule")


def _upgrade_json(delay: int | None) -> dict[str, Any]:
    if delay is None:
        return {"rule": "frozen"}
    return {"rule": "delay", "blocks": delay} if delay else {"rule": "instant"}
