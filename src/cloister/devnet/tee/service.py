"""The process: a control socket, and for each machine the interfaces that its kind of hardware has.

Control (DIR/control.sock, 0600): one JSON object per line, {"command": ..., fields} -> {"result": ...} or
{"error": ...}. Commands: ping, roots, list, measure {kind, role}, create_machine {name, kind, role, package?, tcb?,
defect?}. Machine sockets carry frames (len32be || bytes); a TPM's socket is swtpm's own.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import cloister
from cloister.core.attestation.model import ROLES
from cloister.core.encoding.hexes import from_hex, to_hex
from cloister.core.errors import CloisterError, ConfigError, define
from cloister.devnet.tee.client import ATTESTATION, CONTROL, MAX_LINE, MOUNT, ROOTS, SOCKETS, cleanup
from cloister.devnet.tee.fuse import Mount, Operations, TsmOperations
from cloister.devnet.tee.gramine import GramineOperations, GramineTree, PipeFolder
from cloister.devnet.tee.machines import BAD_MACHINE, KINDS, Factory, Machine, SnpHardware, launched
from cloister.devnet.tee.measure import measure
from cloister.devnet.tee.store import write_private
from cloister.devnet.tee.tpm import TpmHardware
from cloister.devnet.tee.tsm import TsmTree

MAX_FRAME: Final = 65536
MAX_CONTEXT: Final = 1024
MAX_SOCKET_PATH: Final = 107
REISSUE_S: Final = 6 * 3600

BAD_COMMAND = define(
    "devnet.command",
    ConfigError,
    check="a command is a known one with exactly its fields",
    remedy="use cloister.devnet.tee.TeeControl",
)
NO_ANSWER = define(
    "devnet.hardware",
    ConfigError,
    check="pretend hardware answers a request of its protocol",
    remedy="ask as real hardware is asked: mkdir, write 64 bytes, read",
)
LONG_PATH = define(
    "devnet.path",
    ConfigError,
    check=f"socket paths fit into {MAX_SOCKET_PATH} bytes",
    remedy="choose a work folder with a shorter path",
)

Answer = Callable[[bytes], bytes]
_NEEDED, _OPTIONAL = {"name", "kind", "role"}, {"package", "tcb", "defect"}


class Service:
    """Pretend hardware in one work folder. ``tsm``: "auto" (mount if possible), "fuse" or "socket"."""

    def __init__(self, work: Path, tsm: str = "auto", factory: Factory | None = None) -> None:
        self._work = work.absolute()
        self._tsm = tsm
        self._factory = factory
        self._mount: Mount | None = None
        self._enclaves: Mount | None = None
        self._pipes: dict[str, PipeFolder] = {}
        self._servers: list[asyncio.Server] = []
        self._served: set[str] = set()
        self._collateral: dict[str, Path] = {}
        self._refresh: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    async def start(self) -> None:
        """Make keys on the first run, mount, write roots.json, listen. Raises ConfigError, OSError."""
        self._work.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._work.chmod(0o700)
        await asyncio.to_thread(cleanup, self._work)
        if self._factory is None:
            self._factory = await asyncio.to_thread(Factory, self._work)
        (self._work / SOCKETS).mkdir(mode=0o700, exist_ok=True)
        write_private(self._work / ROOTS, json.dumps(self._factory.roots()).encode())
        self._tree, self._gramine = TsmTree(self._factory.machines), GramineTree(self._factory.machines)
        if self._tsm != "socket":
            self._mount = await self._try_mount(MOUNT, TsmOperations(self._tree))
        self._refresh = asyncio.create_task(self._reissue())
        await self._listen(self._work / CONTROL, self._control)

    async def stop(self) -> None:
        """Stop listening, unmount, power TPMs off, remove sockets."""
        if self._refresh is not None:
            self._refresh.cancel()
        for server in self._servers:
            server.close()
        for mount in (self._mount, self._enclaves):
            if mount is not None:
                await asyncio.to_thread(mount.stop)
        for pipes in self._pipes.values():
            await asyncio.to_thread(pipes.stop)
        if self._factory is not None:
            await asyncio.to_thread(self._factory.close)
        await asyncio.to_thread(cleanup, self._work)

    async def handle(self, request: object) -> dict[str, Any]:
        """One control command. Raises CloisterError."""
        fields = dict(request) if isinstance(request, dict) else {}
        command = fields.pop("command", None)
        if command == "create_machine" and _NEEDED <= set(fields) <= _NEEDED | _OPTIONAL:
            return await self._create(**_texts(fields))
        if command == "measure" and set(fields) == {"kind", "role"}:
            return await asyncio.to_thread(self._measure, **_texts(fields))
        plain = {"ping": self._ping, "roots": self._factory_of().roots, "list": self._list}
        if fields or not isinstance(command, str) or command not in plain:
            raise BAD_COMMAND(expected="ping, roots, list, measure or create_machine", found=str(request)[:80])
        return dict(plain[command]())

    async def _create(
        self, name: str, kind: str, role: str, package: str | None = None, tcb: str = "", defect: str = ""
    ) -> dict[str, Any]:
        folder, run = Path(package) if package else _own_package(), self._work / SOCKETS
        if kind == "tpm":
            _need_short(run / f"{name}-tpm.sock.ctrl")
        async with self._lock:
            create = partial(self._factory_of().create, run=run, tcb=tcb, defect=defect)
            machine = await asyncio.to_thread(create, name, kind, role, folder)
            config = await self._interfaces(machine)
        paths = {key: value for key, value in config.items() if value is not None}
        certificates = machine.hardware.chip.certificates if isinstance(machine.hardware, SnpHardware) else {}
        return {
            "name": name,
            "kind": kind,
            "role": role,
            "measurement": to_hex(machine.measurement),
            "machine": config,
            **paths,
            **{key: to_hex(value) for key, value in certificates.items()},
        }

    def _measure(self, kind: str, role: str) -> dict[str, Any]:
        if kind not in KINDS or role not in ROLES:
            raise BAD_MACHINE(expected=f"one of {', '.join(KINDS)}, a role", found=f"{kind[:16]!r}, {role[:16]!r}")
        return {"measurement": to_hex(launched(kind, role, measure(_own_package(), role)))}

    async def _interfaces(self, machine: Machine) -> dict[str, str | None]:
        """The fields of ``cloister.evidence.detect.MachineConfig``, as JSON."""
        own = {"tdx": self._tsm_paths, "snp": self._tsm_paths, "nitro": self._nsm_paths, "sgx": self._gramine_paths}
        paths = await own.get(machine.kind, self._tpm_paths)(machine)
        if machine.kind != "sgx":  # an enclave has a key of its own
            sealing = self._work / SOCKETS / f"{machine.name}-seal.sock"
            if machine.name not in self._served:
                await self._listen(sealing, self._frames(lambda data: self._seal(machine.name, data)))
            paths["sealing_socket"] = sealing
        self._served.add(machine.name)
        names = ("tsm_root", "tsm_socket", "nsm_device", "nsm_socket", "gramine_root", "tpm_socket", "tpm_log")
        config = dict.fromkeys((*names, "sealing_socket", "collateral")) | paths
        return {name: None if path is None else str(path) for name, path in config.items()}

    async def _tsm_paths(self, machine: Machine) -> dict[str, Path]:
        found = {"collateral": self._write_collateral(machine)}
        if self._mount is not None:
            return found | {"tsm_root": self._work / MOUNT / machine.name}
        socket = self._work / SOCKETS / f"{machine.name}-tsm.sock"
        if machine.name not in self._served:
            await self._listen(socket, self._frames(lambda data: self._tsm_call(machine.name, data)))
        return found | {"tsm_socket": socket}

    async def _nsm_paths(self, machine: Machine) -> dict[str, Path]:
        socket = self._work / SOCKETS / f"{machine.name}-nsm.sock"
        if machine.name not in self._served:
            await self._listen(socket, self._frames(lambda data: self._now(machine.name).hardware.nsm(data)))
        return {"nsm_socket": socket}

    async def _gramine_paths(self, machine: Machine) -> dict[str, Path]:
        found = {"collateral": self._write_collateral(machine)}
        if self._tsm != "socket" and self._enclaves is None and not self._pipes:
            self._enclaves = await self._try_mount(ATTESTATION, GramineOperations(self._gramine))
        root = self._work / ATTESTATION / machine.name
        if self._enclaves is None and machine.name not in self._pipes:
            self._pipes[machine.name] = PipeFolder(root, machine.name, self._gramine)
            await asyncio.to_thread(self._pipes[machine.name].start)
        elif self._enclaves is None:
            await asyncio.to_thread(self._pipes[machine.name].refresh)
        return found | {"gramine_root": root}

    async def _tpm_paths(self, machine: Machine) -> dict[str, Path]:
        hardware = machine.hardware
        if not isinstance(hardware, TpmHardware):
            raise RuntimeError(f"a machine of kind {machine.kind} without its hardware")
        return {"tpm_socket": hardware.emulator.socket, "tpm_log": hardware.log, "collateral": hardware.collateral}

    def _write_collateral(self, machine: Machine) -> Path:
        path = self._work / SOCKETS / f"{machine.name}-collateral.json"
        if isinstance(machine.hardware, SnpHardware):
            certificates = {name: to_hex(der) for name, der in machine.hardware.chip.certificates.items()}
            write_private(path, json.dumps(certificates).encode())
            return path
        write_private(path, self._factory_of().collateral(machine.name))
        self._collateral[machine.name] = path
        return path

    async def _reissue(self) -> None:
        while True:
            await asyncio.sleep(REISSUE_S)
            for name, path in list(self._collateral.items()):
                write_private(path, self._factory_of().collateral(name))

    async def _try_mount(self, name: str, operations: Operations) -> Mount | None:
        mount = Mount(self._work / name, operations, name)
        try:
            await asyncio.to_thread(mount.start)
        except OSError:
            if self._tsm == "fuse":
                raise
            return None  # machines get a socket or pipes instead; `ping` says which it is
        return mount

    async def _listen(
        self, path: Path, handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ) -> None:
        _need_short(path)
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            self._servers.append(await asyncio.start_unix_server(handler, str(path), limit=MAX_LINE))
        finally:
            os.umask(before)

    async def _control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await self._answer(line)).encode() + b"\n")
                await writer.drain()
        except (OSError, ValueError):
            return  # a line over the limit, or the peer went away
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            return {"result": await self.handle(json.loads(line))}
        except CloisterError as error:
            return {"error": error.to_wire()}
        except (ValueError, RecursionError):
            return {"error": BAD_COMMAND(expected="JSON", found="something else").to_wire()}

    def _frames(self, answer: Answer) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                (size,) = struct.unpack(">I", await reader.readexactly(4))
                if size <= MAX_FRAME:
                    reply = await asyncio.to_thread(answer, await reader.readexactly(size))
                    writer.write(struct.pack(">I", len(reply)) + reply)
                    await writer.drain()
            except (OSError, asyncio.IncompleteReadError):
                return  # the peer went away
            finally:
                writer.close()

        return serve

    def _seal(self, name: str, data: bytes) -> bytes:
        return _reply(lambda: {"key": to_hex(self._now(name).sealing_key(_sealing_context(data)))})

    def _tsm_call(self, name: str, data: bytes) -> bytes:
        return _reply(lambda: _tsm(self._tree, name, data))

    def _now(self, name: str) -> Machine:
        return self._factory_of().machines[name]

    def _ping(self) -> dict[str, Any]:
        return {"tsm": "socket" if self._mount is None else "fuse", "pid": os.getpid()}

    def _list(self) -> dict[str, Any]:
        machines = self._factory_of().machines.values()
        return {m.name: {"kind": m.kind, "role": m.role, "measurement": to_hex(m.measurement)} for m in machines}

    def _factory_of(self) -> Factory:
        if self._factory is None:
            raise RuntimeError("the service was not started")
        return self._factory


def _own_package() -> Path:
    return Path(cloister.__file__).parent


def _need_short(path: Path) -> None:
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise LONG_PATH(expected=f"at most {MAX_SOCKET_PATH} bytes", found=f"{len(os.fsencode(path))}: {path}")


def _texts(fields: Any) -> dict[str, str]:
    if not isinstance(fields, dict) or not all(
        isinstance(value, str) and len(value) < 4096 for value in fields.values()
    ):
        raise BAD_COMMAND(expected="an object of texts", found="another type")
    return fields


def _reply(work: Callable[[], dict[str, Any]]) -> bytes:
    try:
        return json.dumps(work()).encode()
    except CloisterError as error:
        return json.dumps({"error": error.to_wire()}).encode()
    except OSError as error:
        refusal = NO_ANSWER(expected="the operation to work", found=error.strerror or "an error")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        refusal = NO_ANSWER(expected="a request of the protocol", found=type(error).__name__)
    return json.dumps({"error": refusal.to_wire()}).encode()


def _sealing_context(data: bytes) -> bytes:
    request = _texts(json.loads(data))
    if request.keys() != {"op", "context"} or request["op"] != "sealing_key":
        raise ValueError("not a sealing request")
    return from_hex(request["context"], name="context", max_size=MAX_CONTEXT)


def _tsm(tree: TsmTree, machine: str, data: bytes) -> dict[str, Any]:
    request = _texts(json.loads(data))
    operation, name = request["op"], request["name"]
    if operation == "mkdir":
        tree.mkdir(machine, name)
    elif operation == "rmdir":
        tree.rmdir(machine, name)
    elif operation == "read":
        return {"data": to_hex(tree.read(machine, name, request["attribute"]))}
    elif operation == "write":
        tree.write(machine, name, request["attribute"], from_hex(request["data"], name="data", max_size=4096))
    else:
        raise ValueError("not an operation")
    return {}
