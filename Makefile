# Vigil. Every target does all the set-up it needs; a second run of any is quick.
# `make demo ARGS="--beds 24"` hands arguments to `vigil demo`; likewise `make up`, `make test`, `make bench`.

VENV := .venv
PYTHON := $(VENV)/bin/python
ARGS ?=
SOURCES := vocabulary interop stores models validation governance twin clinic assets orchestration hospital tests $(wildcard benchmarks)
# Written into the environment itself: an environment that was removed is made again.
INSTALLED := $(VENV)/.installed

.PHONY: help install demo up down test lint bench lock clean
.DELETE_ON_ERROR:

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED) ## make .venv and put everything into it that the lock names

# A Python of a supported version that can make environments (Debian keeps that in python3-venv), newest first.
$(INSTALLED): requirements.lock pyproject.toml
	@set -e; \
	for name in python3.13 python3.12 python3.11 python3 python; do \
	    if command -v $$name >/dev/null 2>&1 && $$name -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1; \
	    then found=$$name; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "Vigil needs Python 3.11, 3.12 or 3.13 with venv. On Debian: apt-get install python3 python3-venv" >&2; exit 2; \
	fi; \
	if [ ! -x $(PYTHON) ] || ! $(PYTHON) -c 'import sys, pip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then \
	    rm -rf $(VENV); $$found -m venv $(VENV); \
	fi
	@# uv installs in a third of pip's time; it is itself taken from the lock, by its hashes, and nothing else is.
	@sed -n '/^uv==/,/^    # via/p' requirements.lock > $(VENV)/uv.lock
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(VENV)/uv.lock
	@# Compiled at once: without, evidently alone takes 20 s to import, every time.
	@# The system's certificates, as pip: a hospital's proxy has its own.
	@echo "installing into $(VENV): about a minute the first time"
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(VENV)/bin/uv pip install --quiet --system-certs --require-hashes --compile-bytecode -r requirements.lock || { \
	    echo "uv could not install; going on with pip, which takes a few minutes" >&2; \
	    $(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock && \
	    { $(PYTHON) -m compileall -q -j 0 $(VENV)/lib >/dev/null || true; }; \
	}
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: install ## play a ward over real sockets; ARGS=--exit stops afterwards
	@$(VENV)/bin/vigil demo $(ARGS)

up: install ## start everything and keep it running
	@$(VENV)/bin/vigil up $(ARGS)

down: install ## stop what runs
	@$(VENV)/bin/vigil down $(ARGS)

test: lint ## lint, types, floors, and every test; ARGS go to pytest instead
	@if [ -n "$(ARGS)" ]; then set -x; $(PYTHON) -m pytest $(ARGS); else set -ex; \
	    $(PYTHON) -m pytest -n 2 -m "not faults"; \
	    if [ -d tests/faults ]; then $(PYTHON) -m pytest -m faults tests/faults; fi; \
	fi

lint: install ## style, types, and the floors between rooms
	$(VENV)/bin/ruff check $(SOURCES)
	$(VENV)/bin/ruff format --check $(SOURCES)
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

bench: install ## every benchmark beside its peer
	@set -e; for file in $(filter-out benchmarks/__init__.py,$(wildcard benchmarks/*.py)); do \
	    name=$$(basename $$file .py); echo "== $$name"; $(PYTHON) -m benchmarks.$$name $(ARGS); \
	done

lock: install ## resolve the dependencies anew into requirements.lock
	$(VENV)/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --output-file requirements.lock $(ARGS)

clean: ## remove the environment and caches (not the data directory)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
