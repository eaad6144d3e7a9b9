"""Writes src/chainview/layouts.ts: storage layouts and call shapes that the TypeScript client reads contracts with.

    python sdk/typescript/gen_layouts.py           write the file
    python sdk/typescript/gen_layouts.py --check   exit 1 if the file differs

Source: the contract artifacts of src/cloister/chain/artifacts.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from cloister.chain.contracts import artifact, signature_of
from cloister.core.chainview.layout import Layout
from cloister.core.encoding.hexes import to_hex
from cloister.core.encoding.keccak import keccak256

FILE = Path(__file__).parent / "src" / "chainview" / "layouts.ts"
TABLES = {
    "Agents": ("_agents", "_canaries"),
    "Workers": ("_workers",),
    "Clusters": ("_clusters",),
    "Gatekeepers": ("_committee", "_candidates", "_epochs", "_terms"),
    "Receipts": ("_roots", "_sizes"),
}
GETTERS = {"Agents": "agent", "Workers": "worker"}
HEAD = """// deno-fmt-ignore-file
/** Made by gen_layouts.py from the contract artifacts: do not edit. */

import type { Table } from "./layout.ts";

"""


def table(contract: str, label: str) -> str:
    """One struct variable or mapping to structs or lists of them, as a TypeScript literal; else its slot alone."""
    plain = artifact(contract).layout
    layout = Layout(plain)
    place = layout.variable(label)
    types = plain["types"]
    kind = str(types[place.type].get("value", place.type))
    kind = str(types[kind].get("base", kind))
    if "members" not in types[kind]:
        return f"    {label}: {{ slot: {place.slot}, words: 1, fields: {{}} }},"
    fields = ", ".join(f"{name}: [{p.slot}, {p.offset}, {p.size}]" for name, p in layout.fields(kind).items())
    return f"    {label}: {{ slot: {place.slot}, words: {layout.words(kind)}, fields: {{ {fields} }} }},"


def getter(contract: str, name: str) -> str:
    """Selector of a getter that answers one struct, and where its members stand."""
    entry: dict[str, Any] = next(e for e in artifact(contract).abi if e["type"] == "function" and e["name"] == name)
    members = entry["outputs"][0]["components"]
    dynamic = any(m["type"] in ("string", "bytes") for m in members)
    places = ", ".join(f"{m['name']}: {i}" for i, m in enumerate(members))
    selector = to_hex(keccak256(signature_of(entry).encode())[:4])
    shape = f'selector: "{selector}", dynamic: {str(dynamic).lower()}, words: {len(members)}, members: {{ {places} }}'
    return f"  {contract}: {{ {shape} }},"


def build() -> str:
    """The whole file."""
    lines = ["/** Struct variables, by contract and label. */", "export const LAYOUTS = {"]
    for contract, labels in TABLES.items():
        lines += [f"  {contract}: {{", *(table(contract, label) for label in labels), "  },"]
    lines += ["} as const satisfies Record<string, Record<string, Table>>;", ""]
    lines += ["/** Getters whose newest, unproven answer may forbid. */", "export const GETTERS = {"]
    lines += [getter(contract, name) for contract, name in GETTERS.items()]
    unknown = next(e for e in artifact("Agents").abi if e["type"] == "error" and e["name"] == "UnknownAgent")
    lines += ["} as const;", "", "/** Selector of the error that Agents throws for an agent that it does not have. */"]
    lines += [f'export const UNKNOWN_AGENT = "{to_hex(keccak256(signature_of(unknown).encode())[:4])}";', ""]
    return HEAD + "\n".join(lines)


def main() -> int:
    """Write or check."""
    if sys.argv[1:] == ["--check"]:
        return int(FILE.read_text(encoding="utf-8") != build())
    FILE.write_text(build(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
