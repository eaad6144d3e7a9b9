"""The embedded development chain: the anvil binary, fetched through Deno, pinned by hash, started and stopped by pid.

Blocks come on a clock, never per transaction: automatic mining loses transactions of concurrent senders. The flags and
their reasons are in docs/decisions/chain-toolchain.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cloister.core.errors import ChainError, define

PACKAGE, VERSION = "@foundry-rs/anvil-linux-amd64", "1.7.1"
SHA256 = "10c1c727d6c1de973aeb160e59875b9a9a23464d6e74149ee8abb30b3500311b"
HARDFORK = "osaka"

NO_ANVIL = define(
    "chain.no_anvil",
    ChainError,
    check="the pinned development chain program is at hand",
    remedy="run `make setup` with access to the package registry; only Linux on x86-64 is packaged",
)
ANVIL_DIED = define(
    "chain.anvil_died",
    ChainError,
    check="the development chain starts and answers",
    remedy="read its log; a state file of another version or a full disk are the usual causes",
)


def ensure_anvil(cache_dir: Path) -> Path:
    """The anvil binary inside ``cache_dir`` (a DENO_DIR), fetched if missing. Raises ChainError unless it is pinned."""
    found = _cached(cache_dir)
    if found is None:
        _fetch(cache_dir)
        found = _cached(cache_dir)
    if found is None:
        raise NO_ANVIL(expected=f"{PACKAGE} {VERSION}", found="not in the cache after fetching")
    with found.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != SHA256:
        raise NO_ANVIL(expected=f"sha256 {SHA256}", found=actual)
    return found


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(binary: Path, port: int, chain_id: int, state: Path, *, block_time: float = 1) -> list[str]:
    """The argument list that starts the chain."""
    return [
        str(binary), "--hardfork", HARDFORK, "--slots-in-an-epoch", "1", "--prune-history", "64",
        "--block-time", f"{block_time:g}", "--host", "127.0.0.1", "--port", str(port), "--chain-id", str(chain_id),
        "--state", str(state), "--state-interval", "10", "--gas-limit", "60000000", "--accounts", "1", "--quiet",
    ]  # fmt: skip


@dataclass(slots=True)
class Anvil:
    """One development chain on this machine. Use as a context manager, or ``start`` and ``stop``.

    ``state`` keeps the chain across restarts. ``chain_id`` 0 chooses a fresh random one, so that nothing signed for one
    development chain counts on another.
    """

    binary: Path
    state: Path
    chain_id: int = 0
    port: int = 0
    block_time: float = 1
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """The RPC endpoint."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Process id. Raises RuntimeError before start."""
        if self._process is None:
            raise RuntimeError("anvil is not running")
        return self._process.pid

    def start(self, *, timeout: float = 20.0) -> Self:
        """Start and wait until it answers with our chain id. Raises ChainError."""
        self.chain_id = self.chain_id or 1_000_000_000 + secrets.randbelow(1_000_000_000)
        self.port = self.port or free_port()
        self.state.parent.mkdir(parents=True, exist_ok=True)
        line = command(self.binary, self.port, self.chain_id, self.state, block_time=self.block_time)
        log = self.state.with_suffix(".log").open("ab")
        with log:
            self._process = subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_quiet(self.state),
                preexec_fn=_die_with_parent,
            )
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ANVIL_DIED(expected="a running chain", found=f"exit status {self._process.returncode}")
            if self._answers():
                return self
            time.sleep(0.02)
        self.stop()
        raise ANVIL_DIED(expected=f"an answer within {timeout:g} s", found="none")

    def stop(self) -> None:
        """Ask it to write its state and end; kill it after ten seconds. Does nothing if it is not running."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def rpc(self, method: str, *params: Any) -> Any:
        """A blocking call to the chain's own control methods (``anvil_setBalance``, ``evm_…``)."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(self.url, body, {"content-type": "application/json"})  # noqa: S310 - 127.0.0.1
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - 127.0.0.1
            return json.load(answer).get("result")

    def fund(self, address: bytes, wei: int = 1000 * 10**18) -> None:
        """Give an address a balance: development chains only."""
        self.rpc("anvil_setBalance", "0x" + address.hex(), hex(wei))

    def _answers(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return bool(self.rpc("eth_chainId") == hex(self.chain_id))
        return False

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _cached(cache_dir: Path) -> Path | None:
    found = sorted(cache_dir.glob(f"npm/*/{PACKAGE}/{VERSION}/bin/anvil"))
    return found[0] if found else None


def _fetch(cache_dir: Path) -> None:
    beside = Path(sys.executable).parent / "deno"
    deno = str(beside) if beside.exists() else shutil.which("deno")
    if deno is None:
        raise NO_ANVIL(expected="deno, to fetch the package", found="no such program")
    env = {**os.environ, "DENO_DIR": str(cache_dir), "DENO_NO_UPDATE_CHECK": "1"}
    line = [deno, "cache", "--quiet", "--no-lock", f"npm:{PACKAGE}@{VERSION}"]
    done = subprocess.run(line, check=False, capture_output=True, env=env, timeout=300)
    if done.returncode:
        raise NO_ANVIL(expected="the package to be fetched", found=done.stderr.decode(errors="replace")[-200:])


def _die_with_parent() -> None:
    """In the child before exec: the kernel ends it when its parent dies, however that happens (prctl PDEATHSIG)."""
    ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGTERM)


def _quiet(state: Path) -> dict[str, str]:
    """Environment of the chain: its scratch files go beside its state."""
    return {**os.environ, "HOME": str(state.parent), "NO_COLOR": "1"}
