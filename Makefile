PYTHON ?= python3
JOBS ?= 1
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := $(wildcard packages/*)
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
# A test gains nothing from threads, and the worker beside it has the other cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadscope

.PHONY: help demo test coverage check format docs bench gpu gpu-wheels notebooks compare goldens deviations licences release site clean

help: ## the targets of this file
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST)

# The packages, editable, as a user has them.
$(VENV)/.packages: $(addsuffix /pyproject.toml,$(PACKAGES))
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=...")'
	@echo 'installing the packages into $(VENV) (PyTorch is large: the first time takes minutes)'
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade 'pip>=25.1'
	@$(PIP) install $(addprefix --editable ,$(PACKAGES))
	@touch $@

# ... and what the suite and the checks need: the group `dev` of pyproject.toml.
$(VENV)/.dev: $(VENV)/.packages pyproject.toml
	@$(PIP) install --group dev
	@touch $@

# ... and what the site needs: the group `docs`.
$(VENV)/.site: $(VENV)/.packages pyproject.toml
	@$(PIP) install --group docs
	@touch $@

demo: $(VENV)/.packages ## distil a small student on embedded data, over several seeds, and print the table
	@$(BIN)/python scripts/demo.py

test: $(VENV)/.dev ## the test suite
	$(PYTEST)

coverage: $(VENV)/.dev ## the test suite, and the lines and branches that it does not run
	$(PYTEST) --cov --cov-report=term --cov-report=xml

check: $(VENV)/.dev ## formatting, lint, types, generated docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python scripts/make_docs.py --check

format: $(VENV)/.dev ## auto-format and fix lint
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.dev ## write what comes from the code: tables of docs/, and the schemas beside the configs
	$(BIN)/python scripts/make_docs.py

bench: $(VENV)/.dev ## one table of ratios beside those of tests/bench/baseline.json, minutes; fails where one is 5 % worse: BENCH=--update writes it
	OMP_NUM_THREADS=1 $(BIN)/python tests/bench/bench.py $(BENCH)

gpu: $(VENV)/.dev ## whether all is right and fast on the GPU of this machine: a table, in at most 8 minutes
	$(BIN)/python scripts/gpu_check.py

gpu-wheels: $(VENV)/.packages ## what a GPU machine without a network needs for scripts/gpu_check.py: INTO=DIR [VERSION=3.12]
	$(BIN)/python scripts/gpu_check.py --collect $(INTO) --python $(or $(VERSION),3.12)

compare: $(VENV)/.packages ## methods on CIFAR-10, three seeds each, and their tables: DATA=DIR with all images, SUBSET=DIR with some, JOBS=N processes; hours, it resumes
	$(BIN)/kd-vision compare configs/vision/compare_cifar10_subset_methods.yaml --out runs/compare_subset --jobs $(JOBS) --set data.root=$(SUBSET)
	$(BIN)/kd-vision compare configs/vision/compare_cifar10_methods.yaml --out runs/compare --jobs $(JOBS) --set data.root=$(DATA)

goldens: $(VENV)/.dev ## values of the authors' code again, all or one: REPO=DIR [NAME=kd]; DIR/OWNER/NAME are git clones
	$(BIN)/python tests/golden/make.py $(REPO) $(NAME)

deviations: $(VENV)/.dev ## how far the losses are from their authors' code: the columns of docs/losses.md [NAME=kd]
	$(BIN)/python tests/golden/deviations.py $(NAME)

licences: $(VENV)/.dev ## write docs/licences.md, from the licences of what is installed
	$(BIN)/python scripts/make_licences.py

release: $(VENV)/.dev ## build the packages and try each alone in an environment of its own; uploads nothing [ARGS=--whole]
	$(BIN)/python scripts/release.py $(ARGS)

site: $(VENV)/.site ## build the documentation's site into site/; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

notebooks: $(VENV)/.dev ## run the notebooks from top to bottom on small data
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m slow tests/e2e/test_notebooks.py

clean: ## remove the environment and the caches, not the runs
	rm -rf $(VENV) dist site .coverage* coverage.xml .hypothesis .mypy_cache .pytest_cache .ruff_cache
