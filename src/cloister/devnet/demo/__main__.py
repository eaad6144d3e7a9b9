"""``python -m cloister.devnet.demo``: the nine steps, in a folder that is removed afterwards."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from cloister.client.client import Client
from cloister.core.errors import CloisterError
from cloister.devnet.demo.screen import Screen
from cloister.devnet.demo.steps import QUESTIONS, Demo, owner_wallet
from cloister.devnet.network import Devnet, Options


async def show(home: Path, screen: Screen) -> None:
    """All nine steps."""
    own_model = bool(os.environ.get("OPENAI_API_KEY"))
    devnet = Devnet(Options(home, with_model=not own_model), screen.say)
    try:
        with screen.step(1, "a chain, gatekeepers, workers, a gateway (steps 1 to 4)"):
            await devnet.start()
            assert devnet.network is not None  # noqa: S101 - started
            screen.fact("network id", "0x" + devnet.network.id.hex())
            screen.fact("fingerprint", devnet.network.fingerprint())
            screen.fact("master key", f"{devnet.network.mpk.hex()[:32]}… (public; nobody holds the secret)")
        async with Client(
            devnet.gateway_url,
            fingerprint=devnet.network.fingerprint(),
            wallet=owner_wallet(devnet),
            home=home / "client",
        ) as client:
            await walk(devnet, client, screen)
    finally:
        await devnet.stop()


async def walk(devnet: Devnet, client: Client, screen: Screen) -> None:
    """Steps 5 to 9."""
    demo = Demo(devnet, client, screen)
    try:
        with screen.step(5, "deploy agents/notes"):
            await demo.deploy()
        with screen.step(6, "a secret key, real documents, two questions"):
            await demo.set_key()
            notes = await demo.feed()
            for question in QUESTIONS:
                await demo.ask(question)
        with screen.step(7, "verify everything, then attack it five times"):
            reports = await demo.verify()
            codes = await demo.attack()
        with screen.step(8, "kill the worker that served, then a whole vendor"):
            killed, _ = await demo.kill_worker()
            await demo.kill_vendor(killed)
        with screen.step(9, "pause by a transaction, and resume"):
            await demo.pause()
        checks = sum(len(r.steps) for r in reports)
        screen.summary({"documents": notes, "checks": checks, "attacks refused": len(codes)})
    finally:
        await demo.close()


def main() -> int:
    """Run it; 0 if every step held."""
    screen = Screen()
    home = Path(tempfile.mkdtemp(prefix="cloister-demo-"))
    try:
        asyncio.run(_until_signal(home, screen))
    except CloisterError as error:
        print(f"\nerror: {error}\nhint: {error.remedy}", file=sys.stderr)
        _tails(home)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return 0


async def _until_signal(home: Path, screen: Screen) -> None:
    task = asyncio.ensure_future(show(home, screen))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    await task


def _tails(home: Path) -> None:
    """The last lines of every log: what one wants to see after a failure."""
    for log in sorted((home / "devnet" / "logs").glob("*.log")):
        lines = log.read_text(errors="replace").splitlines()[-5:]
        print(f"--- {log.name}\n" + "\n".join(line[:400] for line in lines), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
