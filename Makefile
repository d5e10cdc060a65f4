# Everything a developer types. `make help` lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Tests and the demo talk to nobody: no usage statistics, no token file in the home directory, no model downloads.
export RAY_AUTH_MODE ?= disabled
export RAY_USAGE_STATS_ENABLED ?= 0
export YOLO_OFFLINE ?= true

.PHONY: help setup check test test-slow demo bench peers lock clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## Make .venv/ with pinned dependencies (PYTHON=python3.12 chooses the interpreter)

# A stamp, so that nothing is installed again until what decides the installation has changed.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is missing or older than 3.11; install one or name it: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
		|| { echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[dev,export,mlflow,wandb]'
	@# Ultralytics requires opencv-python, whose windows need libGL and libglib. Servers often lack both and
	@# raypose opens no window, so there the headless build of the same version takes over the cv2 package.
	$(BIN)/python -c 'import cv2' 2>/dev/null || $(BIN)/pip install --disable-pip-version-check --no-deps \
		"opencv-python-headless==$$($(BIN)/python -c 'from importlib.metadata import version; print(version("opencv-python"))')"
	$(BIN)/python -c 'import cv2'
	@touch $@

check: $(INSTALLED)  ## Lint, format, types, layers and unit tests: two to three minutes on two cores
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest tests/unit -n auto

test: check  ## Everything `check` does, then all other tests, two at a time: under 20 minutes on two cores
	$(BIN)/pytest tests --ignore=tests/unit -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(INSTALLED)  ## The tests that take minutes each: clusters of several nodes, rendered manifests, long ones of the service
	$(BIN)/pytest tests -m slow

demo: $(INSTALLED)  ## Draw a data set, train and validate on two local Ray workers, predict
	rm -rf runs/demo demo-data
	$(BIN)/raypose data synth demo-data/train --samples 1536 --seed 1
	$(BIN)/raypose data synth demo-data/val --samples 256 --seed 2
	$(BIN)/raypose data build demo-data/train demo-data/shards/train
	$(BIN)/raypose data build demo-data/val demo-data/shards/val
	$(BIN)/raypose train configs/demo.yaml
	$(BIN)/raypose predict demo-data/val/images --model runs/demo --out runs/demo/predictions
	@printf '\nreport      %s\npictures    %s\ncheckpoint  %s\n' \
		runs/demo/report/index.html runs/demo/predictions/pictures runs/demo/weights/best.pt

bench: $(INSTALLED)  ## Accuracy against Ultralytics: hours on a CPU, resumable (see benchmarks/README.md)
	$(BIN)/python benchmarks/accuracy_vs_ultralytics.py --work runs/bench

# Their pins of numpy and others must not move ours: an environment of its own that falls back on .venv/.
peers: $(INSTALLED)  ## Make .peers/ with what benchmarks/loader.py and serve.py compare with
	$(PYTHON) -m venv .peers
	.peers/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		| { read -r peers; $(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir({!r})".format(sysconfig.get_path("purelib")))' > $$peers/venv.pth; }
	.peers/bin/pip install --disable-pip-version-check -r benchmarks/loader_peers.txt -r benchmarks/serve_peers.txt

lock: $(INSTALLED)  ## Write constraints.txt from what .venv/ holds now
	{ sed '/^[^#]/,$$d' constraints.txt; $(BIN)/pip freeze --exclude-editable | grep -v '^opencv-python-headless=='; } \
		> constraints.txt.new
	mv constraints.txt.new constraints.txt

clean:  ## Remove what check, test and demo leave behind (.venv/ and other runs stay)
	rm -rf runs/demo demo-data build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
