# Every verb of this house, thin. `make demo` and `make test` need nothing before them.
SHELL := /bin/bash
PY := .venv/bin/python
.DEFAULT_GOAL := help
# Three test processes, also for two cores (many tests wait for blocks): a file stays in one, all scenarios (they share a network) in one, and these come first.
SIDE_BY_SIDE := -n 3 --dist loadscope --no-loadscope-reorder

.PHONY: help setup demo up test check long attack fuzz-setup browser-setup contracts tcb bench-baseline bench-attestation bench-agents docs fmt clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: ## install everything into .venv and .build
	@tools/setup.sh

demo: setup ## a whole network on this machine: deploy, call, prove, attack, kill, pause
	@$(PY) -m cloister.devnet.demo

up: setup ## the same network in the foreground, with a live table; Ctrl-C ends it
	@.venv/bin/cloister up

test: setup ## unit, property and scenario tests on real parts
	@$(PY) -m pytest -q -m "not long" $(SIDE_BY_SIDE) tests || { echo "once more, only what failed (a busy machine misses deadlines):"; \
	  $(PY) -m pytest -q -m "not long" --last-failed tests; }

check: setup ## types, lint, formats
	@.venv/bin/ruff check src tests bench
	@.venv/bin/ruff format --check -q src tests bench
	@.venv/bin/mypy

attack: setup ## hostile agents against each wall of the sandbox: attack, wall that stopped it, time, memory
	@$(PY) tools/attack.py

fuzz-setup: setup ## atheris, for the fuzz targets of tests/fuzz
	@.venv/bin/uv pip install -q --python $(PY) --no-deps --require-hashes -r locks/fuzz.lock

browser-setup: setup ## chromium and the openai npm package, for long tests of the TypeScript client
	@command -v chromium >/dev/null || { apt-get update -qq; apt-get install -y -qq chromium; } >/dev/null
	@DENO_DIR=$(CURDIR)/.build/deno .venv/bin/deno cache --quiet --frozen --config sdk/typescript/tests/openai/deno.json \
	  sdk/typescript/tests/openai/chat.ts

long: setup fuzz-setup browser-setup ## exhaustive runs: every bit, every crash point, soak
	@$(PY) tools/long.py $(SUITES)

contracts: setup ## recompile with pinned solc and compare with the shipped artifacts; forge tests
	@$(PY) contracts/build.py --check
	@$(PY) spec/vectors/gen_statements.py --check
	@$(PY) spec/vectors/gen_ceremonies.py --check
	@$(PY) contracts/build.py --test

tcb: setup ## lines and packages inside a TEE image
	@$(PY) tools/tcb.py

bench-baseline: setup ## the speed table of DESIGN section 15; bench-calls, -journeys, -gatekeepers, -keys, … are its parts
	@$(PY) -m bench.baseline

bench-attestation: setup ## verifications of every kind of evidence, beside bare dcap-qvl
	@$(PY) -m bench.baseline attestation

bench-agents: setup ## many agents: starts and memory of four bundles, spares, thousands that sleep
	@$(PY) -m bench.baseline agents

bench-%: setup
	@$(PY) -m bench.baseline $*

fmt: ## format
	@.venv/bin/ruff format -q src tests bench; .venv/bin/ruff check --fix -q src tests bench

clean: ## remove what setup and tests made
	@rm -rf .venv .build .mypy_cache .ruff_cache .pytest_cache .hypothesis
