#!/usr/bin/env bash
# Everything that a fresh Debian 12 needs before the first command: virtual environment from the lock, Deno (PyPI),
# anvil and the TypeScript client's packages (npm, fetched by Deno), bubblewrap; swtpm and tpm2-tools for the devnet's
# TPM node, which it can do without.
# Safe to run again; does nothing when nothing is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

say()  { printf '  %s\n' "$*"; }
fail() { printf 'error: %s\nhint: %s\n' "$1" "$2" >&2; exit 1; }
apt()  {
  [ "$(id -u)" = 0 ] || fail "$1 is missing" "as root: apt-get install -y $1"
  say "installing $1"
  apt-get install -y -qq "$1" >/dev/null 2>&1 || { apt-get update -qq >/dev/null 2>&1; apt-get install -y -qq "$1" >/dev/null; }
}

# Debian's interpreter first: it was optimised with a profile, which one built by hand often was not (1.6x slower).
python=
for found in /usr/bin/python3.11 "$(command -v python3.11 || true)"; do
  [ -x "$found" ] || continue
  [ -n "$python" ] || python=$found
  if "$found" -c 'import ensurepip' 2>/dev/null; then python=$found; break; fi
done
[ -n "$python" ] || fail "python3.11 is missing" "on Debian 12: apt-get install -y python3 python3-venv"
stamp=.venv/.cloister-setup
want=$(cat locks/*.lock pyproject.toml tools/setup.sh sdk/typescript/deno.lock | sha256sum | cut -d' ' -f1)
command -v bwrap >/dev/null || apt bubblewrap
if ! command -v swtpm >/dev/null || ! command -v tpm2_quote >/dev/null; then
  { [ "$(id -u)" = 0 ] && apt swtpm && apt tpm2-tools; } \
    || say "no swtpm or tpm2-tools: the devnet runs without its TPM node (as root: apt-get install -y swtpm tpm2-tools)"
fi
if [ "$(cat $stamp 2>/dev/null)" != "$want" ]; then
  if [ ! -x .venv/bin/python ]; then
    "$python" -c 'import ensurepip' 2>/dev/null || apt python3-venv
    say "creating .venv"
    "$python" -m venv .venv
  fi
  say "installing the locked packages"
  .venv/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r locks/bootstrap.lock 2>/dev/null \
    || .venv/bin/python -m pip install --require-hashes -r locks/bootstrap.lock
  .venv/bin/uv pip install -q --python .venv/bin/python --require-hashes -r locks/requirements.lock
  .venv/bin/uv pip install -q --python .venv/bin/python --no-deps --require-hashes -r locks/model.lock
  .venv/bin/uv pip install -q --python .venv/bin/python --no-deps --no-build-isolation -e .
fi
if [ "$(cat $stamp 2>/dev/null)" != "$want" ] || [ ! -d .build/anvil ]; then
  say "fetching anvil through Deno"
  .venv/bin/python -m cloister.devnet.tools >/dev/null
fi
if [ "$(cat $stamp 2>/dev/null)" != "$want" ] || [ ! -d .build/deno/npm ]; then
  say "fetching the TypeScript client's packages through Deno"
  DENO_DIR="$PWD/.build/deno" DENO_NO_UPDATE_CHECK=1 .venv/bin/deno cache --quiet --frozen \
    --config sdk/typescript/deno.json sdk/typescript/src/mod.ts
fi
echo "$want" > "$stamp"
