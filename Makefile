# `make` prints this help. Everything runs in .venv, which is made when it is needed.
PYTHON ?= python3
SHOP ?=
TESTERS ?= 2

PIP := .venv/bin/pip install --quiet --disable-pip-version-check --constraint deploy/constraints.txt
PINS := pyproject.toml deploy/constraints.txt
# A marker tells which extras are installed, at which pins; the tests' extras hold the demo's.
DEMO := $(if $(wildcard .venv/.test),.venv/.test,.venv/.demo)

# What `make evaluate` reads and where it goes on from if it was killed.
FOLDERS = $(or $(FRESHET_DATA),../shared/data)
RETAIL = $(or $(SHOP),$(FOLDERS)/online-retail)
FASHION = $(or $(SHOP),$(FOLDERS)/fashion-5k)
EVALUATED := .freshet/evaluate
TAUGHT := .freshet/encoders/taught
EVALUATE = .venv/bin/freshet evaluate $(EVALUATED)/clicks.jsonl --catalog $(EVALUATED)/catalog.jsonl --jobs 2

.DEFAULT_GOAL := help
.PHONY: help demo test check bench evaluate evaluate-encoders clean

help:  ## Print this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  Options: SHOP=FOLDER (catalog.jsonl, clicks.jsonl or a known data set), PYTHON=python3.12'

# Ctrl-C ends the demo, with 0; make itself would die of it. So where the demo stands in a terminal's foreground, the
# shell's job control (set -m) puts it into a process group of its own, which alone gets the signal.
demo: $(DEMO)  ## Start everything on this machine, play a shop for a minute, stop everything
	@case "$$(ps -o stat= -p $$$$ 2>/dev/null)" in *+*) set -m;; esac; \
	    .venv/bin/freshet demo $(if $(SHOP),--shop "$(SHOP)"); exit $$?

test: .venv/.test  ## Run every test
	@echo 'Compiling what learns and what ranks: most of a minute, the first time'
	@.venv/bin/python -m streams.compiling
	@.venv/bin/python -m pytest -n $(TESTERS) --dist loadfile -m 'not alone' --durations=15
	@.venv/bin/python -m pytest -m alone

check: .venv/.test  ## Lint, format, types, and the schemas of the deployment files
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	@.venv/bin/hadolint deploy/Dockerfile && echo "ok -- deploy/Dockerfile"

bench: .venv/.test  ## Measure, and print Markdown rows
	@.venv/bin/python -m tests.bench

evaluate: .venv/.test  ## Evaluate Freshet beside its baselines on two years of real purchases (the better part of an hour)
	@mkdir -p $(EVALUATED)
	@test -e $(EVALUATED)/clicks.jsonl || .venv/bin/freshet import online-retail "$(RETAIL)" $(EVALUATED)
	@$(EVALUATE) --list both --checkpoints $(EVALUATED)/all --plots $(EVALUATED)
	@$(EVALUATE) --models freshet,item-knn --every 5 --protocol delayed --delays 0,1m,1h,24h \
	    --checkpoints $(EVALUATED)/delayed --plots $(EVALUATED)
	@$(EVALUATE) --models freshet,item-knn,transitions --every 5 --shuffle-ties --checkpoints $(EVALUATED)/shuffled

evaluate-encoders: .venv/.test  ## Evaluate the encoders on 5,000 real products with photos, and on groceries (minutes, mostly encoding)
	@.venv/bin/freshet train align "$(FASHION)" $(TAUGHT)/aligned
	@.venv/bin/freshet encoders evaluate "$(FASHION)" --version $(TAUGHT)/aligned
	@.venv/bin/freshet train fuse "$(FASHION)" $(TAUGHT)/unlabelled --version $(TAUGHT)/aligned --category-weight 0 --align-weight .1 --pull .01
	@.venv/bin/freshet train fuse "$(FASHION)" $(TAUGHT)/fused --version $(TAUGHT)/aligned
	@.venv/bin/freshet encoders evaluate "$(FASHION)" --sequences
	@.venv/bin/freshet train cross-modal "$(FASHION)" $(TAUGHT)/crossed --version $(TAUGHT)/aligned
	@.venv/bin/freshet train transfer "$(FOLDERS)/grocery" $(TAUGHT)/carried --version $(TAUGHT)/aligned
	@.venv/bin/freshet encoders evaluate "$(FOLDERS)/grocery" --version $(TAUGHT)/aligned

clean:  ## Remove .venv and caches; .freshet, where data lives, stays
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	find encoders store streams tests -name __pycache__ -prune -exec rm -rf {} +

.venv/.demo: $(PINS) | .venv/bin/pip
	@echo 'Installing into .venv: 3.4 GB to fetch (torch, above all), which takes minutes.'
	@$(PIP) --editable '.[embedded]'
	@.venv/bin/python -m streams.compiling
	@touch $@

.venv/.test: $(PINS) | .venv/bin/pip
	@echo 'Installing into .venv, the tools of the tests included: 3.4 GB to fetch (torch, above all), which takes minutes.'
	@$(PIP) --editable '.[embedded,postgresql,opentelemetry,evaluate,onnx,dev]'
	@.venv/bin/python -m streams.compiling
	@touch $@

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo 'Freshet needs Python 3.11 or newer, and $(PYTHON) is not: name one, as in make PYTHON=python3.12'; \
	    exit 1; }
	@$(PYTHON) -m venv .venv
