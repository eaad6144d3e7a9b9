"""What the launcher uses: the control socket, the roots, and tidying up after a process that died."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

from cloister.core.attestation.roots import Roots
from cloister.core.errors import ConfigError, define, from_wire

MAX_LINE: Final = 65536
CONTROL: Final = "control.sock"
ROOTS: Final = "roots.json"
MOUNT: Final = "tsm"
ATTESTATION: Final = "attestation"
SOCKETS: Final = "run"

CONTROL_FAILED = define(
    "devnet.tee",
    ConfigError,
    check="the devnet's pretend hardware answers",
    remedy="start it with `python -m cloister.devnet.tee --work DIR`; its log says why it stopped",
    status=503,
)
NO_SWTPM = define(
    "devnet.swtpm",
    ConfigError,
    check="swtpm and tpm2-tools are installed, for pretend TPM machines",
    remedy="on Debian: apt-get install -y swtpm tpm2-tools",
    status=503,
)


class TeeControl:
    """Commands to the process that serves a work folder."""

    def __init__(self, work: Path) -> None:
        self._path = work / CONTROL

    async def ready(self, timeout: float = 60.0) -> dict[str, Any]:
        """Wait until it answers (making the first keys takes seconds). Raises ConfigError after ``timeout`` seconds."""
        end = asyncio.get_running_loop().time() + timeout
        while True:
            try:
                return await self.command("ping")
            except ConfigError:
                if asyncio.get_running_loop().time() > end:
                    raise
                await asyncio.sleep(0.05)

    async def create_machine(
        self, name: str, kind: str, role: str, package: Path | None = None, **flaws: str
    ) -> dict[str, Any]:
        """Launch a machine. Returns {name, kind, role, measurement, machine: MachineConfig JSON, ...paths}.

        ``flaws``: "tcb" (sgx: one of sgx.TCB_STATES) and "defect" (sgx, tpm: one of their DEFECTS)."""
        more = flaws if package is None else {**flaws, "package": str(package)}
        return await self.command("create_machine", name=name, kind=kind, role=role, **more)

    async def measure(self, kind: str, role: str) -> str:
        """The launch measurement (0x-hex) that a machine of this kind would have, without launching one."""
        answer = await self.command("measure", kind=kind, role=role)
        return str(answer["measurement"])

    async def command(self, command: str, **fields: Any) -> dict[str, Any]:
        """One command. Raises the refusal that the service names, or ConfigError (devnet.tee)."""
        writer = None
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._path), limit=MAX_LINE)
            writer.write(json.dumps({"command": command, **fields}).encode() + b"\n")
            await writer.drain()
            answer = json.loads(await reader.readline())
        except (OSError, ValueError) as error:
            raise CONTROL_FAILED(expected="an answer", found=str(error)[:120] or type(error).__name__) from None
        finally:
            if writer is not None:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
        if not isinstance(answer, dict) or "error" in answer:
            raise from_wire(answer.get("error") if isinstance(answer, dict) else None, status=503)
        return dict(answer.get("result", {}))


def devnet_roots(work: Path) -> dict[str, list[str]]:
    """Vendor -> fingerprints (0x-hex) of this devnet's roots, for ``Roots.from_json`` and network.json.

    The service writes them before it listens. Raises ConfigError (devnet.tee) if it never ran in this folder.
    """
    try:
        loaded = json.loads((work / ROOTS).read_bytes())
    except (OSError, ValueError) as error:
        raise CONTROL_FAILED(expected=f"{ROOTS} in the work folder", found=type(error).__name__) from None
    return Roots.from_json(loaded).to_json()


def cleanup(work: Path) -> None:
    """Remove what a killed service leaves: its mounts and its sockets. Keys and roots stay. Safe to repeat.

    Call it only when the service of this folder no longer runs.
    """
    for mountpoint in (MOUNT, ATTESTATION):
        unmount(work / mountpoint)
    for path in [work / CONTROL, *(work / SOCKETS).glob("*.sock*")]:
        path.unlink(missing_ok=True)


def is_mounted(mountpoint: Path) -> bool:
    """Whether something is mounted there, by the mount table: a dead mount cannot be asked."""
    wanted = str(mountpoint.absolute())
    with Path("/proc/self/mountinfo").open() as table:
        return any(_unescape(line.split(" ")[4]) == wanted for line in table)


def unmount(mountpoint: Path) -> None:
    """Detach a mount, alive or dead. Raises ConfigError (devnet.tee) if it stays."""
    for command in (("fusermount3", "-u", "-z"), ("fusermount", "-u", "-z"), ("umount", "-l")):
        if not is_mounted(mountpoint):
            return
        program = shutil.which(command[0])
        if program is not None:
            subprocess.run([program, *command[1:], str(mountpoint)], capture_output=True, check=False, timeout=20)
    if is_mounted(mountpoint):
        raise CONTROL_FAILED(expected=f"{mountpoint} unmounted", found="still mounted")


def _unescape(field: str) -> str:
    return field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
