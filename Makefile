# Every target installs what it needs. You need Python 3.11 or newer and make.

SHELL := /bin/sh
.DEFAULT_GOAL := help
BIN := .venv/bin
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
PYTEST = $(BIN)/python -m pytest
# The unit tests alone must cover so many percent of src/upshot; contract, web, CLI and live tests cover the rest.
UNIT_COVERAGE = 55
# Files that differ from the main branch, for `make quick`; committed or not.
BASE := $(shell git merge-base HEAD origin/main 2>/dev/null || git rev-parse HEAD 2>/dev/null)
CHANGED = $(shell { git diff --name-only --diff-filter=d $(BASE); git ls-files --others --exclude-standard; } 2>/dev/null | grep '\.py$$' | sort -u)
export PYTHON
export NO_MKDOCS_2_WARNING = 1

.PHONY: help
help:  ## show this list
	@echo "make TARGET, where TARGET is one of:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: runtime  ## start Upshot with sample automations, promote three models and print what happens
	@$(BIN)/upshot demo $(ARGS)

.PHONY: quick
quick: setup  ## run the unit tests and check the files you changed, in less than a minute
	@$(if $(CHANGED),$(BIN)/ruff check $(CHANGED))
	@$(if $(CHANGED),$(BIN)/ruff format --check $(CHANGED))
	@$(if $(CHANGED),$(BIN)/typos $(CHANGED))
	@$(BIN)/mypy
	@$(PYTEST) tests/unit -n $(CORES) -q $(ARGS)

.PHONY: test
test: setup  ## run all tests: unit tests, then stores and interfaces, then real processes (ARGS="tests/flow -x": some)
ifdef ARGS
	@$(PYTEST) $(ARGS)
else
	@status=0; \
	$(PYTEST) tests/unit -n $(CORES) --cov=upshot --cov-report= || status=1; \
	$(BIN)/coverage report --skip-covered --format=total --fail-under=$(UNIT_COVERAGE) >/dev/null || \
		{ echo "the unit tests cover less than $(UNIT_COVERAGE) % of src/upshot: add tests, or see 'make cov'"; status=1; }; \
	$(PYTEST) --ignore tests/unit -m "not live" -n $(CORES) --dist loadfile || status=1; \
	$(PYTEST) -m live -n 3 --dist worksteal || status=1; \
	exit $$status
endif

.PHONY: test-kind
test-kind: setup  ## run the Kubernetes backend's contract tests on the real cluster of KUBECONFIG
	@TEST_CLUSTER_IMAGE=$(or $(IMAGE),docker.io/library/busybox:1.37) $(PYTEST) tests/contract/backends -k cluster -n 2 $(ARGS)

.PHONY: test-podman
test-podman: setup  ## run the Docker backend's contract tests on Podman, as root
	@TEST_ON_PODMAN=1 $(PYTEST) tests/contract/backends -k podman -n 2 $(ARGS)

.PHONY: check
check: setup  ## check style, format, spelling, types, layers, sample automations and docs
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/typos
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/upshot validate automations
	@$(BIN)/mkdocs build --quiet

.PHONY: fix
fix: setup  ## correct what the tools can correct: style, format, spelling
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format
	@$(BIN)/typos --write-changes

.PHONY: cov
cov: setup  ## run all tests with coverage (branches, child processes) and write htmlcov/
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage html --quiet
	@$(BIN)/coverage report

.PHONY: docs
docs: setup  ## build the documentation site into site/; broken links are errors
	@$(BIN)/mkdocs build --quiet

.PHONY: screenshot
screenshot: setup  ## make the screenshot in README again, from the output of real commands
	@$(BIN)/python scripts/screenshot.py

.PHONY: docs-serve
docs-serve: setup  ## show the documentation on http://127.0.0.1:8000 and rebuild it as you write
	@$(BIN)/mkdocs serve

.PHONY: changelog
changelog: setup  ## check that the changes since origin/main come with a changelog fragment
	@$(BIN)/towncrier check --compare-with origin/main

.PHONY: bench
bench: setup  ## measure latency, throughput, matching, memory, artifacts and the SDK on real parts (ARGS=--quick: a short run)
	@$(BIN)/python -m bench $(ARGS)

.PHONY: setup
setup:  ## create .venv with all tools for working on Upshot
	@scripts/venv dev

.PHONY: runtime
runtime:  # create .venv with what Upshot needs to run, and no more
	@scripts/venv upshot

.PHONY: lock
lock: setup  ## update requirements/*.lock to the newest allowed versions
	@$(BIN)/uv pip compile --quiet --upgrade --universal --no-emit-index-url --no-header --group dev --extra server pyproject.toml -o requirements/dev.lock
	@$(BIN)/uv pip compile --quiet --upgrade --universal --no-emit-index-url --no-header -c requirements/dev.lock --extra server pyproject.toml -o requirements/upshot.lock

.PHONY: clean
clean:  ## remove everything that make created, .venv included; your data in .upshot/ stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* htmlcov site dist build
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
