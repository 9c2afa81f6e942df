# NOVAWF on one machine. `make run` starts everything, `make test` runs the quick tests; both set up .venv by themselves.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
# The first Python that really runs and is new enough.
PYTHON ?= $(shell for name in python3 python3.13 python3.12 python3.11; do \
  $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && command -v $$name && break; done)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest
PYTEST_FLAGS ?=
# One more than the two cores of a small machine: a third of a test's time is waiting.
WORKERS ?= 3
ARGS ?=

# Where the soak tests are: a stack whose processes are killed, one that strangers meet, a server alone, and pages in a browser.
SOAK_OF_KILLS := tests/processes/test_soak.py
SOAK_OF_STRANGERS := tests/stack
SOAK_OF_A_SERVER := tests/workflow/test_schema.py tests/reporting/test_live.py
SOAK_OF_A_BROWSER := tests/browser

# Hundreds of processes are started by the tests: each would compile the product anew.
unexport PYTHONDONTWRITEBYTECODE

# Throw-away production settings for `manage.py check --deploy`.
RANDOM_SECRET := $$($(BIN)/python -c "import secrets; print(secrets.token_urlsafe(64))")
PRODUCTION := NOVAWF_PRODUCTION=1 NOVAWF_ALLOWED_HOSTS=nova.example.com NOVAWF_SECRET_KEY=$(RANDOM_SECRET) \
  NOVAWF_OPERATOR_KEY=$(RANDOM_SECRET) NOVAWF_SECRETS_KEY=$(RANDOM_SECRET) NOVAWF_SEAL_KEY=$(RANDOM_SECRET) \
  DRAGONFLY_URL=rediss://:$(RANDOM_SECRET)@streams.example.com:6379/0

.PHONY: run test soak test-postgres lint types check bench screenshots clean
.DEFAULT_GOAL := run

run: $(VENV)/.installed
	@exec $(BIN)/python manage.py up

test: $(VENV)/.installed-dev
	$(PYTEST) -n $(WORKERS) --dist loadgroup -m "not soak" $(PYTEST_FLAGS)

# Side by side, since each waits most of the time; within each the tests stand in order.
SOAK := $(PYTEST) -m soak -p no:xdist -p no:randomly $(PYTEST_FLAGS)
soak: $(VENV)/.installed-dev
	@.ci/together "$(SOAK) $(SOAK_OF_KILLS)" "$(SOAK) $(SOAK_OF_STRANGERS)" "$(SOAK) $(SOAK_OF_A_SERVER)" \
	  "$(SOAK) $(SOAK_OF_A_BROWSER)"

# What does not ask a database, and who may do what at which door, need not be asked of the second database too.
ON_ANY_DATABASE := $(addprefix --ignore=tests/, browser stack test_deploy.py test_docs.py test_examples.py \
  test_sqlite_backend.py processes/test_doctor.py processes/test_evidence.py processes/test_lifeline.py \
  safety/test_stream_contract.py safety/test_stream_tls.py safety/test_validation.py workflow/execution/test_command.py \
  workflow/execution/test_http.py workflow/execution/test_model.py workflow/test_door_parity.py \
  workflow/test_error_answers.py workflow/test_hook_commands.py workflow/test_privileges.py workflow/test_roles.py \
  workflow/test_schema.py)
test-postgres: $(VENV)/.installed-dev
	.ci/with-postgres $(PYTEST) -n $(WORKERS) --dist loadgroup -m "not soak" --ignore-glob="tests/*/core" $(ON_ANY_DATABASE) $(PYTEST_FLAGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(VENV)/.installed-dev
	$(BIN)/mypy .

check: lint types
	$(PRODUCTION) $(BIN)/python -W error manage.py check --deploy --fail-level WARNING
	$(BIN)/python manage.py makemigrations --check --dry-run

bench: $(VENV)/.installed-dev
	$(BIN)/python -m bench $(ARGS)

# Pictures of all pages, of a demonstration fleet, into docs/screenshots/; needs Chromium.
screenshots: $(VENV)/.installed-dev
	$(BIN)/python -m tests.browser.screenshots

# The virtual environment and caches; never var/, where the data are.
clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis htmlcov .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or later is needed; install it, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "On Debian: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.installed: requirements.txt | $(BIN)/python
	@echo "Installing what NOVAWF needs into $(VENV) …"
	@$(PIP) -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements.txt requirements-dev.txt | $(BIN)/python
	@echo "Installing what the tests need into $(VENV) …"
	@$(PIP) -r requirements-dev.txt
	@touch $@ $(VENV)/.installed
