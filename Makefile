# Everything that people and CI run. Needs make and Python >= 3.11; the rest is installed into .venv and .tools.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PACKAGES := whispermodel inference operator
BIN := .venv/bin
STAMP := .venv/.installed
UV_FOLDER := .tools/uv

# Evaluated only when something has to be installed.
UV = $(shell command -v uv || echo $(UV_FOLDER)/bin/uv)
PYTHON = $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$python && break; done)
NEED_PYTHON = { echo >&2 "Python 3.11, 3.12 or 3.13 is needed and none was found: install one, or name it: make setup PYTHON=/path/to/python3"; exit 1; }

.PHONY: help
help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: setup weights ## Transcribe, unload, show the receipt, transcribe again: the whole idea in half a minute
	@$(BIN)/python -m tools.demo

.PHONY: test
test: setup weights ## Run all tests (make test ARGS="-k unload" runs some)
	@$(BIN)/python -m pytest $(ARGS)

.PHONY: check
check: setup ## Check format, lint, types and imports
	@$(BIN)/ruff format --check --quiet || { echo >&2 "'make fmt' puts these files right"; exit 1; }
	@$(BIN)/ruff check --quiet
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports --no-logo

.PHONY: fmt
fmt: setup ## Put format and imports right
	@$(BIN)/ruff check --quiet --fix-only
	@$(BIN)/ruff format --quiet

.PHONY: docs
docs: setup ## Write docs/settings.md from the settings
	@$(BIN)/python -m tools.settings_page

.PHONY: run
run: setup ## Run the server on port 8002, with the settings of the environment and of .env
	@exec $(BIN)/python -m whisper_inference serve

.PHONY: weights
weights: setup ## Make var/models: tiny.en for both engines, without a network
	@$(BIN)/python -m tools.weights

.PHONY: bench
bench: setup weights ## Measure what docs/benchmarks.md promises (make bench ARGS=...)
	@$(BIN)/python -m benchmarks --docs $(ARGS)

.PHONY: pins
pins: | $(UV_FOLDER) ## Resolve all dependencies anew and pin them in requirements.txt
	@$(UV) lock --quiet
	@$(UV) export -q --all-packages --all-extras --all-groups --no-emit-workspace --no-header --no-annotate \
		--format requirements.txt -o requirements.txt
	@! grep -nE '^[[:space:]]*(-i|--index-url|--extra-index-url|-f|--find-links)|://' requirements.txt \
		|| { echo >&2 "requirements.txt names a host: pins must serve from any index"; exit 1; }

.PHONY: clean
clean: ## Remove everything that was installed or made
	rm -rf .venv .tools var dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find $(PACKAGES) tests tools benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

.PHONY: setup
setup: $(STAMP)
	@:

# uv pip sync removes what is no longer pinned. Bytecode is compiled here, for imports of torch take twice as long without.
$(STAMP): requirements.txt $(PACKAGES:%=%/pyproject.toml)
	@[ -n "$(PYTHON)" ] || $(NEED_PYTHON)
	@$(MAKE) --silent $(UV_FOLDER)
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv --without-pip .venv
	@echo "installing into .venv (some 5 GB, most of it torch)"
	@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps $(PACKAGES:%=-e ./%)
	@touch $@

# Nothing but an empty folder where uv is on the PATH.
$(UV_FOLDER):
	@[ -n "$(PYTHON)" ] || $(NEED_PYTHON)
	@mkdir -p $(dir $@)
	@if command -v uv >/dev/null; then mkdir $@; else \
		$(PYTHON) -m venv $@ || { rm -rf $@; echo >&2 "Python's venv module is needed (Debian, Ubuntu: apt install python3-venv)"; exit 1; }; \
		$@/bin/pip install --quiet --disable-pip-version-check --require-hashes -r tools/uv.txt || { rm -rf $@; exit 1; }; fi
