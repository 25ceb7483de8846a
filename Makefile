# The project's commands. `make` alone prints them. Needs Python 3.10 to 3.13 and make; no GPU, no key.
# Variables: PYTHON (which Python makes .venv), MODEL (another model for `make demo`), JOBS (test processes).

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := app.py saber train tests

.DEFAULT_GOAL := help
.PHONY: help env demo test lint format smoke bench bench-train bench-gpu proof mini browser graphics clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- environment -----------------------------------------------------------------------------------------------------
# torch goes first and alone with torchvision, so that both come from the same place and agree (with a CPU index in
# pip's configuration: both CPU builds); what follows finds them installed. A stamp file makes each step run once.

$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v < (3, 14) or sys.exit(\
	"Python 3.10 to 3.13 is needed and $(PYTHON) is %d.%d; name another: make PYTHON=python3.12 ..." % v)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt torch torchvision
	@touch $@

$(VENV)/.page: $(VENV)/.torch pyproject.toml
	$(PIP) install -c constraints.txt -e '.[page]'
	@touch $@

$(VENV)/.everything: $(VENV)/.page
	$(PIP) install -c constraints.txt -e '.[page,studio,train,quantization,api,deepspeed,dev]'
	@touch $@

env: $(VENV)/.everything ## make .venv with everything that training and the tests need

# --- commands --------------------------------------------------------------------------------------------------------

demo: $(VENV)/.page ## the page on http://127.0.0.1:7860 with SABER-Mini (or MODEL=<Hub id or folder>)
	GRADIO_ANALYTICS_ENABLED=False $(if $(MODEL),,HF_HUB_OFFLINE=1) $(BIN)/python app.py $(if $(MODEL),--model $(MODEL))

# One thread a process: on a machine with few cores, threads that wait by spinning are many times slower.
test: env graphics browser ## every test but the long proofs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

lint: env ## style: ruff check and ruff format --check
	$(BIN)/ruff check $(wildcard $(SOURCES))
	$(BIN)/ruff format --check $(wildcard $(SOURCES))

format: env ## let ruff rewrite what it can
	$(BIN)/ruff check --fix $(wildcard $(SOURCES))
	$(BIN)/ruff format $(wildcard $(SOURCES))

smoke: env graphics ## clips -> base -> SED -> streamed answers on a 2 M model, about 5 minutes
	$(BIN)/python train/smoke.py

bench: env graphics browser ## speed: a table, then one JSON line
	$(BIN)/python train/bench.py

bench-train: env graphics ## speed of stage 1 beside TRL's trainer, under 6 minutes: a table, then one JSON line
	OMP_NUM_THREADS=1 $(BIN)/python train/bench_train.py

bench-gpu: env graphics ## speed and memory of the 7B recipe on one GPU, random weights: a table, then one JSON line
	$(BIN)/python train/bench_gpu.py

proof: env graphics browser ## the tests that take minutes
	$(BIN)/python -m pytest -q -m proof

mini: env graphics ## train SABER-Mini again from nothing, about 5 hours on 2 cores; killed, it goes on
	$(BIN)/python train/mini_base.py --stage decode
	$(BIN)/python train/mini_base.py --stage see & see=$$!; trap "kill $$see 2>/dev/null" EXIT; \
	$(BIN)/python train/mini_base.py --stage hear && wait $$see
	$(BIN)/python train/mini_base.py --stage join
	$(BIN)/accelerate launch train/sft.py
	$(BIN)/accelerate launch train/sft.py --config train/recipes/mini-sed-2.yaml
	rm -rf saber/weights/saber-mini && cp -r runs/mini/sed-2/checkpoint saber/weights/saber-mini

clean: ## remove what tools leave behind; .venv, data and runs stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .gradio
	find $(wildcard $(SOURCES)) -name __pycache__ -type d -prune -exec rm -rf {} +

# --- what pip cannot bring -------------------------------------------------------------------------------------------

AS_ROOT := $(shell if [ "$$(id -u)" != 0 ]; then echo 'sudo -n'; fi)
APT_INSTALL := $(AS_ROOT) env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends
CAN_APT := command -v apt-get >/dev/null && { [ "$$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }

# Runs each candidate: Ubuntu's `chromium` can be a stub that is on PATH and starts nothing.
HAVE_BROWSER := { for name in chromium chromium-browser google-chrome google-chrome-stable; do \
	  "$$name" --version >/dev/null 2>&1 && found=1; done; [ -n "$$found" ]; } || $(BIN)/python -c 'import os; \
	from playwright.sync_api import sync_playwright; browsers = sync_playwright().start(); \
	found = os.path.exists(browsers.chromium.executable_path); browsers.stop(); raise SystemExit(not found)'

browser: $(VENV)/.everything ## Chromium for the browser tests: found, else from apt, else Playwright's own
	@$(HAVE_BROWSER) && exit 0; \
	if $(CAN_APT); then $(AS_ROOT) apt-get update -qq; $(APT_INSTALL) chromium; $(HAVE_BROWSER) && exit 0; \
	  $(BIN)/python -m playwright install --with-deps chromium; \
	else $(BIN)/python -m playwright install chromium; fi; \
	$(HAVE_BROWSER) || echo "No Chromium was found and none could be installed: the browser tests will fail."

# skia-python's wheel is linked to libEGL, libGL and libexpat, which a bare system lacks. It draws on the CPU.
graphics: $(VENV)/.everything ## the system libraries that the studio's drawing needs
	@$(BIN)/python -c 'import skia' 2>/dev/null && exit 0; \
	if $(CAN_APT); then $(AS_ROOT) apt-get update -qq; $(APT_INSTALL) libegl1 libgl1 libexpat1; fi; \
	$(BIN)/python -c 'import skia' || echo "skia-python cannot be imported; the studio needs libEGL, libGL, libexpat."
