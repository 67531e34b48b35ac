# Everything a newcomer needs: `make demo` and `make test` set themselves up.
PYTHON ?= python3
VENV := .venv
WORKERS ?= 2
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
# Sources of packages are compiled once, not by each process; some images forbid Python to keep that.
export UV_COMPILE_BYTECODE := 1
unexport PYTHONDONTWRITEBYTECODE
BIN := $(VENV)/bin
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python
install_with = $(UV) $(1) || $(BIN)/python -m pip install --quiet $(1)
EXTRA ?=
comma := ,
EXTRAS := data,dev,paper,search,serve,tensorboard$(if $(EXTRA),$(comma)$(EXTRA))
CORE := $(VENV)/.core
STAMP := $(VENV)/.installed$(if $(EXTRA),-$(EXTRA))

.PHONY: help install demo suite-small paper-small paper verify docs test test-slow check device lint format clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(STAMP)  ## Create .venv and install metajax; EXTRA=cuda13 (or cuda12, peers, llm, ...) adds an extra

$(CORE): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv || true  # pip does it where there is no uv, only slower
	$(call install_with,--constraint constraints.txt --editable .)
	@touch $@

$(STAMP): $(CORE)
	$(call install_with,--constraint constraints.txt --editable '.[$(EXTRAS)]')
	@touch $@

demo: $(CORE)  ## Run the main job on a small synthetic world: a table, a plot, a list for a new person
	$(BIN)/python -m experiments maml --dataset synthetic --seeds 1 --num-steps 400 --out out/demo --fresh
	$(BIN)/python -m metajax train synthetic --out out/demo-model --num-steps 0
	$(BIN)/python -m metajax recommend out/demo-model --ratings "The Silent Planet=5, The Last Harbor=2" --top 5

suite-small: $(STAMP)  ## Run a small suite on a synthetic world; several shells may share the work
	$(BIN)/python -m experiments suite small

paper-small: $(STAMP)  ## Build the small edition of the paper from what suite-small has left
	$(BIN)/python -m paper.build --edition small --results out/suite-small

paper: $(STAMP)  ## Build the paper from the stored records: PDF, tables, figures, checklist
	$(BIN)/python -m paper.build --edition full

verify: $(STAMP)  ## Re-hash the records and recompute every table and number of the built paper
	$(BIN)/python -m paper.build --edition full --verify

docs: $(STAMP)  ## Build the documentation site in site/
	$(call install_with,--constraint constraints.txt --editable '.[docs]')
	$(BIN)/python docs/gallery.py
	$(BIN)/python docs/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

test: $(STAMP)  ## Run the fast tests in WORKERS=2 processes (compiled programs are cached in .cache/)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

test-slow: $(STAMP)  ## Run the long tests as well
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m ''

check: $(STAMP)  ## Lint, and run the tests that the changes since main touch: an answer within a minute
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/python tests/touched.py

device:  ## Run every check on a graphics card, in ten minutes; results in out/device
	experiments/speed/device.sh

lint: $(STAMP)  ## Check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: $(STAMP)  ## Format the code and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove the environment, caches and outputs
	rm -rf $(VENV) .cache out
