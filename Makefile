# Everything that people and CI run. Needs make and Python >= 3.11; the rest is installed into .venv and .tools.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PACKAGES := whispermodel inference operator
BIN := .venv/bin
STAMP := .venv/.installed
UV_FOLDER := .tools/uv
GO_TOOLS := etcd kubernetes

# Evaluated only when something has to be installed.
UV = $(shell command -v uv || echo $(UV_FOLDER)/bin/uv)
PYTHON = $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$python && break; done)
NEED_PYTHON = { echo >&2 "Python 3.11, 3.12 or 3.13 is needed and none was found: install one, or name it: make setup PYTHON=/path/to/python3"; exit 1; }

.PHONY: help
help: ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: setup weights ## Transcribe, unload, show the receipt, transcribe again: the whole idea in half a minute
	@$(BIN)/python -m tools.demo

.PHONY: test
test: setup weights test-tools ## Run all tests (make test ARGS="-k unload" runs some)
	@$(BIN)/python -m pytest $(ARGS)

# Without Go there is no API server to test the operator with, and those tests are left out; CI may not leave any out.
.PHONY: test-tools
test-tools:
	@if [ -n "$(KUBEBUILDER_ASSETS)" ] || [ "$${CI:-}" = true ] || command -v go >/dev/null; then $(MAKE) --silent tools; fi

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

.PHONY: bench-operator
bench-operator: setup ## The same for the operator, with 1,000 WhisperModels at a real API server (after make tools)
	@$(BIN)/python -m benchmarks.operator_bench --docs $(ARGS)

.PHONY: tools
tools: $(if $(KUBEBUILDER_ASSETS),,$(GO_TOOLS:%=.tools/%.built)) ## Build the API server that tests run, unless KUBEBUILDER_ASSETS names a folder with one (needs Go)
	@:

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

# What each folder of tools/go builds stands in its go.mod, under `tool`. etcd's package is called server.
OUTPUT_etcd := etcd
LDFLAGS_kubernetes = -X k8s.io/component-base/version.gitVersion=$$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
NEED_GO = { echo >&2 "Go 1.25 or newer is needed to build the API server for tests: install it, or set KUBEBUILDER_ASSETS to a folder that holds it"; exit 1; }

.tools/%.built: tools/go/%/go.mod tools/go/%/go.sum
	@mkdir -p .tools/bin
	@cd tools/go/$* && [[ "$$(go env GOVERSION 2>/dev/null)" =~ ^go1\.([0-9]+) ]] && ((BASH_REMATCH[1] >= 25)) || $(NEED_GO)
	@echo "building what tools/go/$*/go.mod names into .tools/bin (some minutes, once)"
	@cd tools/go/$* && CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w $(LDFLAGS_$*)" \
		-o "$(CURDIR)/.tools/bin/$(OUTPUT_$*)" tool
	@touch $@
