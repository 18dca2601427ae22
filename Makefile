# Every target sets up what it needs: a virtual environment with the pinned packages, and this package in it.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PEERS := $(patsubst tests/peers/%.txt,.peers/%/.ready,$(wildcard tests/peers/*.txt))
JOBS ?= $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)

.PHONY: help figures test test-all test-architectures test-browser test-peers gpu lab app bench docs refresh lint zoo

figures: $(READY)  ## run every notebook headless; figures and tables go to figures/runs/
	$(BIN)/repsim run --jobs $(JOBS)

# Annotations are checked in test-all: with the checks, tests take twice as long.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

test: $(READY) lint  ## run the quick tests, then every notebook against its stored outputs; five minutes
	REPSIM_ANNOTATIONS=off $(PYTEST) tests
	REPSIM_HOME=$$(mktemp -d) TQDM_DISABLE=1 $(PYTEST) -p no:cacheprovider --dist loadfile \
		--nbval-lax --nbval-current-env notebooks

test-all: $(READY) $(PEERS)  ## run the quick tests with annotations checked, then all others; fifteen minutes
	$(PYTEST) tests
	REPSIM_ANNOTATIONS=off $(PYTEST) -m "(slow or browser or peers) and not gpu" tests

test-architectures: $(READY)  ## check the package on the field's architectures; takes half an hour
	$(BIN)/python tests/architectures --jobs $(JOBS)

test-browser: $(READY)  ## open the explorer in a real browser
	@command -v chromium >/dev/null || { echo "There is no Chromium here. This installs it: apt-get install chromium"; exit 1; }
	$(BIN)/python -m pytest -m browser tests/browser

test-peers: $(PEERS)  ## compare measures and checkpoints with packages of others, each in an environment of its own
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m peers tests

gpu: $(READY)  ## check the package on a GPU, and time it there
	$(BIN)/python -m pytest -m gpu tests/gpu
	$(BIN)/python tests/benchmarks/bench_gpu.py

lab: $(READY)  ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab notebooks

app: $(READY)  ## serve the explorer as a web page
	$(BIN)/voila notebooks/07_explorer.ipynb

bench: $(READY)  ## measure speed against peers and physical bounds, for the page on speed
	$(BIN)/python tests/benchmarks
	$(BIN)/python docs/generate.py

docs: $(READY)  ## build the pages, the notebooks and the API as a web site: build/docs/docs/index.html
	$(BIN)/python docs/generate.py
	$(BIN)/python -m sphinx -c docs -b html -W --keep-going -q . build/docs

refresh: $(READY)  ## execute the notebooks again and change what is committed: outputs, pictures, all tables
	$(BIN)/repsim run --refresh --jobs $(JOBS)
	$(BIN)/python docs/generate.py

lint: $(READY)  ## check style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

zoo: $(READY)  ## train whatever is missing of the committed networks
	$(BIN)/repsim zoo digits shapes two_features two_features_outline two_features_texture

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## /\1|/p' Makefile | column -t -s '|'

$(READY): requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $(READY)

# What a peer needs and the main environment has comes from there: PYTHONPATH puts the peer's folder first.
.peers/%/.ready: tests/peers/%.txt | $(READY)
	rm -rf .peers/$*
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target .peers/$* -r $<
	touch $@
