# `make demo` and `make test` set up all that they need. Everything else is for people who work on the project.
SHELL := /bin/bash
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: setup demo test up down lint types check lock bench clean

setup: $(STAMP)

# uv installs in seconds; a machine without it gets it into the new environment first.
$(STAMP): requirements.txt requirements-dev.txt pyproject.toml setup.py
	@test -x $(PY) || python3.11 -m venv $(VENV) 2>/dev/null || python3 -m venv $(VENV)
	@$(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed"; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip --upgrade >/dev/null
	@test -x $(VENV)/bin/uv || $(PY) -m pip install -q --disable-pip-version-check uv
	@echo "installing into $(VENV) ..."
	@$(VENV)/bin/uv pip install -q --python $(PY) --require-hashes -r requirements.txt -r requirements-dev.txt
	@$(VENV)/bin/uv pip install -q --python $(PY) --no-deps -e .
	@touch $@

demo: setup
	@$(PY) -m dbops_lab.demo

test: setup
	$(PY) -m pytest -n 2 --dist loadfile $(ARGS)

up: setup
	@$(VENV)/bin/dbops lab up --airflow

down: setup
	@$(VENV)/bin/dbops lab down

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: setup
	$(VENV)/bin/mypy

check: lint types test

lock:
	uv pip compile -q --generate-hashes --python-version 3.11 requirements.in -o requirements.txt
	uv pip compile -q --generate-hashes --python-version 3.11 requirements-dev.in -o requirements-dev.txt

# The benches against the lab's stand-ins; bench/README.md says how to name a real server and asbackup.
bench: setup
	$(PY) bench/kernel.py
	$(PY) bench/aerospike_backup.py --standin
	$(PY) bench/aerospike_restore.py --standin
	$(PY) bench/sync_validation.py
	$(PY) bench/retention.py
	$(PY) bench/postgres_reports.py
	$(PY) bench/dag_parse.py

clean:
	rm -rf $(VENV) .lab .pytest_cache .mypy_cache .ruff_cache
