# Each target sets itself up: a virtual environment in .venv, the package with all it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test package test-oldest test-newest clean

$(VENV)/.installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet torch torchvision
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed  ## the whole method on the built-in cameras
	$(BIN)/embae demo --out demo

test: $(VENV)/.installed  ## lint, types and tests
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

package: $(VENV)/.installed  ## the sdist, the wheel built from it, and a look at what they hold
	rm -rf dist
	$(BIN)/python -m build --quiet --outdir dist .
	$(BIN)/python .ci/check_package.py dist

# What shows that the package works with a set of versions, in a few minutes.
SMOKE := tests/methods/test_resume.py tests/methods/test_checkpoint.py tests/data/test_samplers.py \
	tests/data/test_feature_bank.py tests/evaluation/test_ranking.py tests/losses \
	tests/distributed/test_collectives.py tests/commands/test_train.py tests/end_to_end

test-oldest:  ## the lower bounds of setup.py, as far as they install on Python 3.11
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet -c .ci/oldest.txt . pytest hypothesis \
		"pytorch-metric-learning>=2"
	.venv-oldest/bin/python -m pytest $(SMOKE)

test-newest:  ## the newest releases that the package index has, with any Python from 3.10 on
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager . pytest \
		hypothesis pytorch-metric-learning
	.venv-newest/bin/python -m pytest $(SMOKE)

clean:
	rm -rf $(VENV) .venv-oldest .venv-newest demo build dist *.egg-info
