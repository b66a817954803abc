# Two commands matter: `make figures` (run the notebooks) and `make test`.
# Both install into .venv first; a second call installs only if a requirement changed.
PYTHON    ?= python3
PROFILE   ?= quick
DATASET   ?= synthetic
DATA_ROOT ?=
DEVICE    ?= auto
SEED      ?= 0
LAB       ?= lab

BIN := .venv/bin

.PHONY: figures test lab student solutions slides book bench lint clean help

figures: .venv/installed
	$(BIN)/hmode reproduce --profile $(PROFILE) --dataset $(DATASET) \
	  $(if $(DATA_ROOT),--data-root "$(DATA_ROOT)") --device $(DEVICE) --seed $(SEED)

test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadscope

# On copies in lab/, so that running and saving changes no file of the project; `rm -r lab` for new
# ones. `make lab LAB=student` opens those for students. Uploads up to 250 MB.
lab: .venv/installed
	@test $(LAB) != lab || { mkdir -p lab && cp -Rn notebooks/. lab/ || true; }
	HMODE_FIGURES="$(CURDIR)/$(LAB)/figures" $(BIN)/jupyter lab $(LAB) \
	  --ServerApp.tornado_settings="{'websocket_max_message_size': 262144000}"

student solutions slides: .venv/installed
	$(BIN)/python -m hmode.course $@

# jupyter-book 1 has requirements of its own, so it gets an environment of its own.
book: .venv/installed .venv-book/installed
	$(BIN)/python -m hmode.course book --builder .venv-book/bin/jupyter-book

.venv-book/installed: pyproject.toml
	$(PYTHON) -m venv .venv-book
	.venv-book/bin/python -m pip install --quiet 'jupyter-book==1.0.4' 'sphinx-mathjax-offline==0.0.2'
	@touch $@

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

# Neither runs/, which took long, nor student/ and lab/, which somebody may have written into.
clean:
	rm -rf .venv .venv-book figures/smoke solutions slides book

help:
	@echo 'make figures | test | lab | student | solutions | slides | book | bench | lint | clean'
	@echo 'variables: PROFILE=$(PROFILE) DATASET=$(DATASET) DATA_ROOT=$(DATA_ROOT) DEVICE=$(DEVICE) SEED=$(SEED)'
