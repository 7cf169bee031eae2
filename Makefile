# Every target sets up what it needs; all that must be there is Python 3.11 or newer and make.

SHELL := /bin/sh
.DEFAULT_GOAL := help
BIN := .venv/bin
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
# Which tests, and how they are reported: make test ARGS="-x tests/flow"
PYTEST = $(BIN)/python -m pytest
export PYTHON

.PHONY: help
help:  ## show this
	@echo "make TARGET, where TARGET is one of:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: runtime  ## start Upshot with its sample automations, make models candidates, and watch what happens
	@$(BIN)/upshot demo $(ARGS)

.PHONY: test
test: setup  ## run all tests: units, then stores and interfaces, then real servers and workers that are killed
ifdef ARGS
	@$(PYTEST) $(ARGS)
else
	@status=0; \
	$(PYTEST) tests/unit -n $(CORES) || status=1; \
	$(PYTEST) --ignore tests/unit -m "not live" -n $(CORES) --dist loadfile || status=1; \
	$(PYTEST) -m live -n 3 --dist worksteal || status=1; \
	exit $$status
endif

.PHONY: test-kind
test-kind: setup  ## hold the Kubernetes backend to its contract on a real cluster, that of KUBECONFIG
	@TEST_CLUSTER_IMAGE=$(or $(IMAGE),docker.io/library/busybox:1.37) $(PYTEST) tests/contract/backends -k cluster -n 2 $(ARGS)

.PHONY: test-podman
test-podman: setup  ## hold the Docker backend to its contract on Podman, as root
	@TEST_ON_PODMAN=1 $(PYTEST) tests/contract/backends -k podman -n 2 $(ARGS)

.PHONY: check
check: setup  ## what must hold before a commit: style, format, types, layers, sample automations
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/upshot validate automations

.PHONY: fix
fix: setup  ## mend what the tools can mend by themselves
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

.PHONY: cov
cov: setup  ## run all tests under coverage (branches, child processes) and write htmlcov/
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest $(ARGS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage html --quiet
	@$(BIN)/coverage report

.PHONY: bench
bench: setup  ## measure latency, deliveries a second, matching and memory, everything real (ARGS=--quick: a short run)
	@$(BIN)/python -m bench $(ARGS)

.PHONY: setup
setup:  ## make .venv with all tools for working on Upshot
	@scripts/venv dev

.PHONY: runtime
runtime:  # .venv with what Upshot needs to run, and no more
	@scripts/venv upshot

.PHONY: lock
lock: setup  ## take the newest allowed versions of all dependencies into requirements/*.lock
	@$(BIN)/uv pip compile --quiet --upgrade --universal --no-emit-index-url --no-header --group dev pyproject.toml -o requirements/dev.lock
	@$(BIN)/uv pip compile --quiet --upgrade --universal --no-emit-index-url --no-header -c requirements/dev.lock pyproject.toml -o requirements/upshot.lock

.PHONY: clean
clean:  ## remove what make made, .venv included; your data in .upshot/ stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* htmlcov dist build
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
