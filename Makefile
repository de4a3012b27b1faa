.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help install train test lint format

help: ## show this list
	@grep -E '^[a-z]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 12

install: $(INSTALLED) ## create .venv and install the package with the tested versions

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(INSTALLED)

train: $(INSTALLED) ## install where needed, then train a Gaussian policy on Pendulum
	$(BIN)/python -m pg_experiments.train policy=gaussian env=pendulum

test: lint ## install where needed, then lint, check types and run every test
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

lint: $(INSTALLED) ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## apply formatting and safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
