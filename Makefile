PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint types layers bench models clean

demo: .venv/installed ## install, then real text from two bundled models by CoS
	@printf 'Question: Tom has 3 boxes with 12 pencils each. He gives away 7. How many are left?\nAnswer:' | \
		$(BIN)/cospec generate - --ensemble demo:we --schedule alternate --max-tokens 100 --seed 1

test: .venv/installed lint types layers ## install, then everything that is checked
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

layers: .venv/installed
	$(BIN)/lint-imports

bench: .venv/installed ## the measured tables (long)
	$(BIN)/cospec bench --proposer demo:drafter --proposer lookup --concurrency 1,2,4,8,16,32 --out benchmarks/latest

models: .venv/installed ## train the bundled models again (hours)
	$(BIN)/python -m training

clean:
	rm -rf .venv

# torch comes first and alone, pinned, so that nothing else can choose a build of it. The programs that the server is
# tested with come last: all in one resolution takes pip very long.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[clients]"
	touch $@
