# Every target makes the environment it needs; nothing but Python 3.11+, make and a package index is assumed.
.DEFAULT_GOAL := help
.PHONY: help demo servers test test-one test-compose contract faults lint format bench bench-full clean
.PRECIOUS: .venv/%/base  # else make takes it for a mere step on the way to dev and deletes it

# Each version at hand is tested.
FOUND := $(shell scripts/pythons)
VERSIONS := $(foreach pair,$(FOUND),$(firstword $(subst =, ,$(pair))))
# The one that runs everything but the tests of the other versions.
VERSION ?= $(firstword $(VERSIONS))
ENV := .venv/$(VERSION)
BIN := $(ENV)/bin
PYTEST_ARGS ?= -n 3 --dist worksteal

ifeq ($(VERSIONS),)
$(error No Python 3.11 or newer (with venv and ssl) was found on the path)
endif

help: ## Show this help
	@echo "agentstore, with Python $(VERSIONS):"
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do \
		printf '  make %-13s %s\n' "$$target" "$$text"; done

.venv/%/base: pyproject.toml constraints.txt
	$(patsubst $*=%,%,$(filter $*=%,$(FOUND))) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/%/dev: .venv/%/base
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(ENV)/base ## Talk to an agent, end, resume in another process; on SQLite, offline
	@$(BIN)/agentstore demo

servers: ## Install the servers that the tests start, where they are missing (Debian, Ubuntu; as root)
	@scripts/servers

test: servers ## Run all tests; on further Pythons at hand without those that ask the server more than Python
	@$(MAKE) --no-print-directory test-one VERSION=$(VERSION)
	@for version in $(filter-out $(VERSION),$(VERSIONS)); do \
		$(MAKE) --no-print-directory test-one VERSION=$$version ONLY='not once' || exit 1; done

test-one: servers $(ENV)/dev ## Run all tests on one Python (VERSION=3.12)
	@echo "== Python $(VERSION)"
	@$(BIN)/python -m pytest $(PYTEST_ARGS) $(if $(ONLY),-m '$(ONLY)')

# The password in compose.yaml is of characters that mean something in a URL.
COMPOSE_LOGIN := agentstore:p%40ss%2Fw%3Ard@127.0.0.1
COMPOSE_TESTS := $(foreach name,postgresql mysql redis mongodb clickhouse,tests/contract/test_$(name).py)

test-compose: export AGENTSTORE_TEST_POSTGRESQL_URL := postgresql://$(COMPOSE_LOGIN):25432/postgres
test-compose: export AGENTSTORE_TEST_MYSQL_URL := mysql://$(COMPOSE_LOGIN:agentstore:%=root:%):23306/mysql
test-compose: export AGENTSTORE_TEST_REDIS_URL := redis://$(COMPOSE_LOGIN:agentstore:%=:%):26379/0
test-compose: export AGENTSTORE_TEST_MONGODB_URL := mongodb://$(COMPOSE_LOGIN):27018/admin?authSource=admin
test-compose: export AGENTSTORE_TEST_CLICKHOUSE_URL := clickhouse://$(COMPOSE_LOGIN):29000/default
test-compose: $(ENV)/dev ## Run the contract on the servers of compose.yaml (needs Docker), which stay up
	docker compose up --wait
	$(BIN)/python -m pytest $(PYTEST_ARGS) $(COMPOSE_TESTS) -k 'not Cluster and not Sentinel'

contract: servers $(ENV)/dev ## Run the contract on all backends and write docs/contract.md
	$(BIN)/python -m pytest $(PYTEST_ARGS) tests/contract --contract-table docs/contract.md

faults: servers $(ENV)/dev ## Break things on purpose at length, as root (half an hour; FAULTS_ARGS="--only sqlite --rounds 20")
	$(BIN)/python tests/faults $(FAULTS_ARGS)

lint: $(ENV)/dev ## Check style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(ENV)/dev ## Put the code into the house's form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

BENCH_ARGS ?= --workload append --workload sequential --workload resume --workload state --seconds 0.2

bench: $(ENV)/dev ## Compare the stores at hand with their bare drivers (three minutes; BENCH_ARGS="--workload long")
	$(BIN)/python tests/servers --durable --found run postgresql mysql redis mongodb clickhouse -- \
		scripts/bench $(BIN)/agentstore $(BENCH_ARGS)

bench-full: $(ENV)/dev ## Measure everything, peers too, and write docs/performance.md (hours; FULL_ARGS="--part peers --backend redis")
	$(BIN)/python tests/servers --durable --found run postgresql mysql redis mongodb clickhouse -- \
		$(BIN)/python benchmarks/full.py $(FULL_ARGS)

clean: ## Remove environments and caches
	rm -rf .venv benchmarks/.cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
