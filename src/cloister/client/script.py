"""Bundles of the older form: one plain script, made by webpack or esbuild for a browser-like target.

Such a script has no exports. The original network ran it once per request: the request stood in
``globalThis.scriptArgs``, the answer in ``globalThis.scriptOutput``. Others leave a function ``main``: global, local
to the script, or in ``module.exports``. Here the script becomes the body of a function of one ES module, unchanged, as
a text. It runs once per request, as it did there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

SUFFIXES: Final = (".js", ".cjs")
# Deno's own parser decides: what a function body may hold is a script, what exports or imports is a module.
CHECK: Final = (
    "try { new Function(await Deno.readTextFile(Deno.args[0])); console.log('script'); }"
    " catch (error) { if (!(error instanceof SyntaxError)) throw error; }"
)
_MODULE: Final = """\
const script = new Function("module", "exports", SCRIPT + "\\n;return typeof main === 'undefined' ? undefined : main");
const callable = (value) => [value?.default, value].find((found) => typeof found === "function");
export default function main(requestJson) {
  const module = { exports: {} };
  globalThis.scriptArgs = [requestJson];
  globalThis.scriptOutput = undefined;
  const named = script.call(globalThis, module, module.exports);
  if (globalThis.scriptOutput !== undefined) return globalThis.scriptOutput;
  const found = callable(module.exports) ?? callable(named);
  if (!found) throw new TypeError("the script sets no scriptOutput and has no function main");
  return found(requestJson);
}
"""


def may_be_script(source: Path) -> bool:
    """Whether a source file is worth asking: TypeScript never is a finished script."""
    return source.suffix in SUFFIXES


def module_of(script: str) -> str:
    """The ES module that runs ``script`` once per request and answers with what it leaves."""
    return _MODULE.replace("SCRIPT", json.dumps(script), 1)
