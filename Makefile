# Every target makes the environment it needs; nothing but Python 3.11+, make and a package index is assumed.
.DEFAULT_GOAL := help
.PHONY: help demo test test-one lint format bench clean
.PRECIOUS: .venv/%/base  # else make takes it for a mere step on the way to dev and deletes it

# Each version at hand is tested.
FOUND := $(shell scripts/pythons)
VERSIONS := $(foreach pair,$(FOUND),$(firstword $(subst =, ,$(pair))))
# The one that runs everything but the tests of the other versions.
VERSION ?= $(firstword $(VERSIONS))
ENV := .venv/$(VERSION)
BIN := $(ENV)/bin
PYTEST_ARGS ?= -n 2 --dist worksteal

ifeq ($(VERSIONS),)
$(error No Python 3.11 or newer (with venv and ssl) was found on the path)
endif

help: ## Show this help
	@echo "agentstore, with Python $(VERSIONS):"
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do \
		printf '  make %-10s %s\n' "$$target" "$$text"; done

.venv/%/base: pyproject.toml constraints.txt
	$(patsubst $*=%,%,$(filter $*=%,$(FOUND))) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/%/dev: .venv/%/base
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(ENV)/base ## Talk to an agent, end, resume in another process; on SQLite, offline
	@$(BIN)/agentstore demo

test: ## Run all tests on every Python at hand
	@for version in $(VERSIONS); do \
		$(MAKE) --no-print-directory test-one VERSION=$$version || exit 1; done

test-one: $(ENV)/dev ## Run all tests on one Python (VERSION=3.12)
	@echo "== Python $(VERSION)"
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(ENV)/dev ## Check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(ENV)/dev ## Put the code into the house's form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(ENV)/dev ## Compare with the bare driver (about a minute)
	$(BIN)/python benchmarks/embedded.py

clean: ## Remove environments and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
