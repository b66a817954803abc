# Two commands matter: `make figures` (run the notebooks) and `make test`.
# Both install into .venv first; a second call installs only if a requirement changed.
PYTHON    ?= python3
PROFILE   ?= quick
DATASET   ?= synthetic
DATA_ROOT ?=
DEVICE    ?= auto
SEED      ?= 0

BIN := .venv/bin

.PHONY: figures test lab bench lint clean help

figures: .venv/installed
	$(BIN)/hmode reproduce --profile $(PROFILE) --dataset $(DATASET) \
	  $(if $(DATA_ROOT),--data-root "$(DATA_ROOT)") --device $(DEVICE) --seed $(SEED)

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadscope

lab: .venv/installed
	$(BIN)/jupyter lab notebooks

# About half an hour: fills the tables of docs/benchmarks.md.
bench: .venv/installed
	$(BIN)/python -m benchmarks

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; \
	  sys.exit(sys.version_info < (3, 11) and f"hmode needs Python 3.11 or newer, $(PYTHON) is {v}; try make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[notebooks,sweep,test]'
	@touch $@

clean:
	rm -rf .venv runs figures/smoke

help:
	@echo 'make figures | test | lab | bench | lint | clean'
	@echo 'variables: PROFILE=$(PROFILE) DATASET=$(DATASET) DATA_ROOT=$(DATA_ROOT) DEVICE=$(DEVICE) SEED=$(SEED)'
