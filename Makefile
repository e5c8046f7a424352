# make leaderboard   set everything up and run the main job on the embedded suite
# make test          set everything up and pass the tests
# make imagenet      set everything up and attack real ImageNet networks, deployed ones among them, on a hundred images
# make check         what CI runs: lint, types, tests
# make leaderboards  run the embedded suites again and refresh their committed boards

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: leaderboard imagenet test check lint leaderboards clean

leaderboard: $(STAMP)
	@$(BIN)/harness run --suite digits-qnn --out runs/leaderboards

imagenet: $(STAMP)
	@$(BIN)/harness run --suite imagenet-edge --out runs/leaderboards

test: $(STAMP)
	@$(BIN)/ruff check zoo harness tests setup.py
	@$(BIN)/mypy
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 8

check: test

lint: $(STAMP)
	@$(BIN)/ruff check zoo harness tests setup.py
	@$(BIN)/mypy

leaderboards: $(STAMP)
	@$(BIN)/harness run --suite digits-qnn
	@$(BIN)/harness samples --suite digits-qnn

$(STAMP): pyproject.toml constraints.txt setup.py
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python " + sys.version.split()[0] + " is too old: 3.11 or newer is needed. Install one and say, for example: make PYTHON=python3.12 $(MAKECMDGOALS)")'
	@$(PYTHON) -c 'import shutil, sys; free = shutil.disk_usage(".").free; sys.exit(0 if free > 4 * 10**9 else "Only %.1f GB are free here, and the packages need about 4 GB: free some space, or clone to another disk." % (free / 10**9))'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python cannot make a virtual environment: install its venv module (Debian: apt-get install python3-venv)." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing packages into $(VENV) (a few minutes the first time) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist runs .pytest_cache .mypy_cache .ruff_cache
