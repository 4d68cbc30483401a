"""Commands and blocks that no test runs as they stand, and why. Options of `cospec` commands are read all the same."""

# A command, or with … at its end what it begins with.
COMMANDS = {
    "make …": "installs, or runs what runs this; continuous integration starts from `make test`",
    ".venv/bin/…": "the parts of `make test`, which runs this",
    "docker …": "needs a daemon; tests/test_container.py checks what the image is made of, and runs",
    "COSPEC_ENSEMBLE=mine.yaml MODELS=./models PORT=8001 docker compose up cpu": "the same",
    "pip install …": "the tests run on what it has installed",
    "serve …": "tests/cluster/test_serve_ray.py runs a cluster with this file",
    "ray …": "tests/cluster starts a cluster of its own",
    "cospec serve --ray --replicas 2": "tests/cluster/test_serve_ray.py",
    "cospec batch ... --ray --workers 2": "tests/cluster/test_batch_ray.py; arguments left out",
    "cospec batch in.jsonl out.jsonl --ray --workers 4": "tests/cluster/test_batch_ray.py",
    "cospec batch IN.jsonl OUT.jsonl": "names that stand for others",
    "cospec pilot": "up to three minutes; tests/pilot/test_study.py runs a shorter one, and the next but one does here",
    "cospec verify --schedule heuristic": "tests/test_extending.py runs it with the package installed",
    "cospec distil --…": "minutes; tests/test_distil.py runs shorter ones",
    'cospec generate "A prompt" --ensemble mine.yaml --proposer drafter': "the drafter that the same commands make",
    'cospec generate "A prompt" --ensemble mine.yaml --proposer head': "the head that the same commands make",
    "cospec tune --ensemble mine.yaml --proposer drafter --prompts prompts.jsonl": "the same",
    "mkdir -p drafter-8/work …": "its texts",
    "python -m benchmarks.gsm8k --gsm8k FILE…": "minutes to hours, and the same data set",
    "cospec bench --ensemble NAME …": "a name that stands for others",
    "cospec bench --num-prompts …": "hours, on the models and machine that its table names",
    "cospec bench --member demo:smollm2 …": "minutes, each method on a real model of 135 M parameters",
    "python -m training --gsm8k FILE…": "hours, and a data set that is not in the repository",
    "python -m benchmarks.llamacpp …": "minutes, with llama-cpp-python; tests/llamacpp run what it measures",
    'CMAKE_ARGS="-DGGML_CUDA=on" pip install …': "builds llama.cpp for a GPU",
    "python benchmarks/…": "minutes to hours; tests/test_inflate.py and tests/test_gpu_script.py import them",
    "python -m vllm.entrypoints.openai.api_server --model": "vLLM's environment; tests/vllm runs it",
    "lm_eval …": "tests/test_lm_eval.py runs it on tasks that need no network",
    "python -m cospec.lm_eval": "the same",
    "cospec export --ensemble mine.yaml --proposer ./small exported --for vllm": "tests/test_export.py",
    "cospec verify --vllm …": "tests/vllm/test_server.py runs it against servers",
    "python examples/client.py": "tests/test_examples.py runs it against a server",
}

# (document, language) -> the test that runs its blocks.
ELSEWHERE = {
    ("docs/bridges.md", "python"): "tests/test_custom_generate.py",
    ("docs/extending.md", "python"): "tests/test_extending.py",
    ("docs/extending.md", "toml"): "tests/test_extending.py",
    ("docs/extending.md", "yaml"): "tests/test_extending.py",
}

# A command's exit statuses other than 0 alone.
# Nobody asks the watched server for anything, which is 4; Ctrl-C may come while `watch` still reads the pilot.
STATUSES = {"cospec pilot --ensemble …": (0, 3, 4), "cospec watch http…": (4, 130)}

# Commands whose block `make test-long` runs, and why.
LONG = {
    "cospec pilot --ensemble …": "a whole pilot, then a server of what it chose, watched",
    "cospec verify --ensemble mine.yaml": "every check of exactness, and a distillation beside it",
    "cospec generate --chat --ensemble demo:chat-we …": "a real model of 135 M parameters",
}

# Commands that go on until Ctrl-C.
ENDLESS = {"cospec watch http…": 5}

# Options of other programs that the documents name.
FOREIGN_OPTIONS = {
    *("--head",),  # ray
    *("--rm", "--init", "--time", "--build-arg", "--profile"),  # docker
    *("--check",),  # ruff
    *("--no-deps", "--extra-index-url"),  # pip
    *("--served-model-name", "--max-model-len", "--middleware", "--speculative-config", "--enable-lora"),  # vllm
    *("--tensor-parallel-size", "--data-parallel-size", "--data-parallel-backend"),
    *("--model", "--model_args", "--tasks", "--batch_size", "--apply_chat_template"),  # lm-eval
}


def entry_for(command: str, table: dict[str, object]) -> str | None:
    """The key of the table that a command falls under."""
    return next((key for key in table if key == command or (key[-1] == "…" and command.startswith(key[:-1]))), None)
