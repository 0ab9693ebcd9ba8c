# The two commands of a fresh machine are `make up` and `make test`.
INVENTORY ?= lab
VENV := .venv
PY := $(VENV)/bin/python

.PHONY: up down test lint unit chaos bench venv lock system help

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

up: venv  ## boot the lab, deploy the fleet, show its health (INVENTORY=single for one host)
	@scripts/up $(INVENTORY)

down:  ## remove the lab and all that it left behind
	@./fleet lab down $(INVENTORY)

test: venv  ## everything, from nothing: lint, types, unit, lab, deploy, verify, faults
	@scripts/test

lint: venv  ## ruff, mypy --strict, shellcheck, php -l
	@scripts/lint

unit: venv  ## the fast tests: no host
	@scripts/unit

chaos: venv  ## every fault, three times or more, on a booted and deployed lab, for the figures (hours)
	@FLEET_CHAOS_REPEATS=3 $(PY) -m pytest -q tests/chaos

bench: venv  ## a no-change run beside stock pyinfra operations, on a booted and deployed lab
	@$(PY) -m pytest -q -s tests/bench

venv: $(VENV)/.made  ## the virtual environment, from requirements.txt
$(VENV)/.made: requirements.txt
	@scripts/venv

lock:  ## renew requirements.txt from requirements.in, the tests' judges' too
	@$(VENV)/bin/pip install -q pip-tools==7.6.2
	@$(VENV)/bin/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
	  --strip-extras --allow-unsafe -o requirements.txt requirements.in
	@$(VENV)/bin/pip-compile -q --generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
	  --strip-extras --allow-unsafe -o tests/judges/requirements.txt tests/judges/requirements.in
