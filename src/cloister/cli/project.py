"""An agent's folder: made from a template, bundled by ``cloister.client.build``."""

from __future__ import annotations

import tempfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from cloister.client.home import need_name
from cloister.core.errors import ConfigError, define

if TYPE_CHECKING:
    from cloister.client.build import Built

TEMPLATES = ("minimal", "openai", "langchain", "hono", "oracle", "voter", "poster", "python")

# Names that packaging tools would leave out.
_RENAMED = {"gitignore": ".gitignore"}

NO_DENO = define(
    "cli.no_deno",
    ConfigError,
    check="the deno program is installed with this package",
    remedy="install again: pip install --force-reinstall deno",
)
FOLDER_EXISTS = define(
    "cli.folder_exists",
    ConfigError,
    check="the new agent's folder does not exist yet",
    remedy="choose another name, or remove the folder",
)
NO_TEMPLATE = define(
    "cli.template",
    ConfigError,
    check=f"the template is one of: {', '.join(TEMPLATES)}",
    remedy="choose one of them, or leave --template out",
)


def find_deno() -> Path:
    """The Deno that ships with this package. Raises ConfigError (cli.no_deno)."""
    from deno import find_deno_bin  # type: ignore[import-untyped]

    try:
        return Path(find_deno_bin())
    except OSError:
        raise NO_DENO(expected="the deno program of this Python environment", found="none") from None


async def build_project(folder: Path) -> Built:
    """Bundle the agent of a folder (or a source file). Raises ConfigError with what the bundler said."""
    from cloister.client.build import build

    with tempfile.TemporaryDirectory(prefix="cloister-agent-") as out:
        return await build(folder, Path(out), deno=find_deno())


def new_project(name: str, template: str, into: Path) -> Path:
    """Write a template into ``into/name``. Raises ConfigError (cli.template, cli.folder_exists, client.bad_name)."""
    if template not in TEMPLATES:
        raise NO_TEMPLATE(expected=", ".join(TEMPLATES), found=template[:64])
    folder = into / need_name(name)
    if folder.exists():
        raise FOLDER_EXISTS(expected=f"no {folder} yet", found="one")
    base = resources.files("cloister.cli") / "templates"
    folder.mkdir(parents=True)
    for item in (*(base / "common").iterdir(), *(base / template).iterdir()):
        if not item.is_file():
            continue
        text = item.read_text(encoding="utf-8").replace("AGENT_NAME", name)
        (folder / _RENAMED.get(item.name, item.name)).write_text(text, encoding="utf-8")
    return folder
