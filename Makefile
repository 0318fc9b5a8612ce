# geoloc: every target makes .venv by itself when it is missing or when its requirements changed.
#   make demo        the whole way on a procedural city: imagery -> tables -> training -> index -> served fixes
#   make test        the fast tests        make test-slow   the ones that take minutes
#   make check       style, types, docs    make serve       keep serving the demo's index
#   make model       train and measure the model that ships with geoloc again, in build/model: hours, it resumes
#   make docs        the pages of docs/ and the API as a site, in build/site
#   make mutants     which changes of the numerical code no test notices: MODULE=geoloc/geometry/polar.py
#   make lock        pin requirements again  make clean     remove what was built here (not the demo)
# Arguments for the command line: make demo ARGS="--seed 3".

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=
# Compiled modules are kept, whatever the environment says: each of the many processes of Ray would compile torch anew.
unexport PYTHONDONTWRITEBYTECODE
# What `make mutants` changes: one module, one room or several, and the tests that must notice.
MODULE ?= geoloc/geometry geoloc/losses geoloc/evaluation/ranking geoloc/localization/calibration.py geoloc/index/search
mirror = $(or $(wildcard $(patsubst geoloc/%,tests/%,$(dir $(1)))test_$(notdir $(1))),$(patsubst geoloc/%,tests/%,$(if $(filter %.py,$(1)),$(dir $(1)),$(1))))
TESTS ?= $(foreach module,$(MODULE),$(call mirror,$(module)))
quoted = $(foreach word,$(1),'$(word)',)
# The first Python here that the bounds in pyproject.toml allow; PYTHON=/path/to/python overrides.
PYTHON ?= $(shell for name in python3 python3.12 python3.11; do \
	if $$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; \
	then echo $$name; break; fi; done)

.PHONY: help demo model test test-slow check check-locks docs mutants format serve lock clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -9

$(READY): requirements.lock pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "geoloc needs Python 3.11 or 3.12 and found neither: install one, or" \
		"say where it is with make PYTHON=/path/to/python3.12." >&2; exit 2; }
	@echo "Making $(VENV) with $(PYTHON): about 7 GB of packages, a minute or two on a good line."
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) -m venv failed:" \
		"install its venv module (on Debian and Ubuntu: apt-get install python3-venv)." >&2; exit 2; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv || { echo "pip could not install uv:" \
		"is the package registry reachable from here?" >&2; exit 2; }
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY)
	@$(BIN)/geoloc demo $(ARGS)

model: $(READY)
	@$(BIN)/geoloc demo model $(ARGS)

serve: $(READY)
	@$(BIN)/geoloc serve --index demo/index $(ARGS)

# Three processes: two with a Ray each, which waits much, and one for the other tests, which the two join at their end.
test: $(READY)
	$(BIN)/pytest -n 3 $(ARGS)

test-slow: $(READY)
	$(BIN)/pytest -m slow $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory check-locks docs

check-locks:
	@! grep -nE '://|^ *-(-index|-find|-extra|i |f )' requirements.lock deploy/requirements-*.lock || { echo "a lock names an" \
		"address or an index option: make lock writes it without." >&2; exit 1; }

docs: $(READY)
	$(BIN)/mkdocs build --strict --quiet --clean
	@! grep -rlE '<(script|link|img)[^>]+(src|href)="?(https?:)?//' build/site --include='*.html' || { echo "a built page" \
		"loads something from another site." >&2; exit 1; }

# A copy of the checkout is changed, never the checkout. Survivors are shown as diffs. An interrupted run goes on.
mutants: $(READY)
	@mkdir -p build/mutation
	@git ls-files -z --cached --others --exclude-standard | tar -c --null -T - | tar -x -C build/mutation
	@printf '%s\n' '' '[tool.mutmut]' 'source_paths = ["geoloc"]' 'process_isolation = "forkserver"' 'timeout_multiplier = 8.0' \
		"only_mutate = [$(call quoted,$(addsuffix *,$(MODULE)))]" \
		"pytest_add_cli_args_test_selection = [$(call quoted,$(TESTS))]" >> build/mutation/pyproject.toml
	cd build/mutation && OMP_NUM_THREADS=1 $(CURDIR)/$(BIN)/mutmut run $(ARGS)
	@cd build/mutation && for name in $$($(CURDIR)/$(BIN)/mutmut results | sed -n 's/^ *\(.*\): survived$$/\1/p'); \
		do $(CURDIR)/$(BIN)/mutmut show $$name; done

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(READY)
	$(BIN)/uv pip compile --quiet --extra dev --generate-hashes --no-header --no-annotate \
		--universal $(ARGS) pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --extra build --extra aws --generate-hashes --no-header --no-annotate --universal \
		--constraint requirements.lock --override deploy/cpu_overrides.txt pyproject.toml -o deploy/requirements-cpu.lock
	$(BIN)/uv pip compile --quiet --extra build --extra aws --extra gpu --generate-hashes --no-header --no-annotate --universal \
		--constraint requirements.lock --override deploy/gpu_overrides.txt pyproject.toml -o deploy/requirements-gpu.lock

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
