"""What the start of a model takes: seconds up to its first row, and memory, of cospec and of transformers.

    python benchmarks/start.py demo:smollm2 --dtypes float32 bfloat16

Each is loaded in a process of its own, with its tokenizer, and fed three tokens. Memory is that of the process, imports
included: its peak, and what is resident once the row is there.
"""

import argparse
import gc
import importlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cospec import demo

LOADERS = ("transformers", "cospec")
TOKENS = (1, 2, 3)
MIB = 2**20


def by_transformers(path: str, dtype: str) -> Callable[[], object]:
    """A forward pass of the model, which is loaded; called, it gives a row."""
    transformers, torch = importlib.import_module("transformers"), importlib.import_module("torch")
    file = Path(path)
    where = {"pretrained_model_name_or_path": path}
    if file.is_file():
        where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    tokenizer: object = None
    if file.is_file() or (file / "tokenizer_config.json").exists():
        tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=getattr(torch, dtype))

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def row() -> object:
        return model(input_ids=torch.tensor([TOKENS])).logits[0, -1], tokenizer

    return row


def by_cospec(path: str, dtype: str) -> Callable[[], object]:
    """The same by cospec's runner."""
    runner = importlib.import_module("cospec.runner")
    made = importlib.import_module("cospec.runner.hf").load(path, runner.LoadOptions(device="cpu", dtype=dtype))
    return lambda: made.feed([runner.Feed(made.open(), TOKENS, 1)])


def measured(loader: str, path: str, dtype: str) -> dict[str, float]:
    """Seconds of loading and of the first row, and MiB of this process."""
    started = time.perf_counter()
    row = {"transformers": by_transformers, "cospec": by_cospec}[loader](path, dtype)
    loaded = time.perf_counter()
    row()
    fed = time.perf_counter()
    gc.collect()
    return {
        "load_s": round(loaded - started, 2),
        "row_s": round(fed - loaded, 2),
        "peak_mib": _kib("status", "VmHWM:") / 1024,
        "resident_mib": _kib("smaps_rollup", "Rss:") / 1024,
    }


def in_own_process(loader: str, path: str, dtype: str) -> dict[str, float]:
    """`measured`, of a fresh process."""
    command = [sys.executable, __file__, path, "--dtypes", dtype, "--loaders", loader, "--here"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compared(path: str, dtypes: Sequence[str], loaders: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each type and loader, printed as it is measured."""
    rows: list[dict[str, Any]] = []
    for dtype in dtypes:
        for loader in loaders:
            row = {"dtype": dtype, "loader": loader, **in_own_process(loader, path, dtype)}
            rows.append(row)
            print(
                f"{dtype:8} {loader:12} load {row['load_s']:6.1f} s, row {row['row_s']:5.2f} s, "
                f"peak {row['peak_mib']:6.0f} MiB, resident {row['resident_mib']:6.0f} MiB",
                flush=True,
            )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a bundled model such as demo:smollm2, a folder or a GGUF file")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--loaders", nargs="+", default=LOADERS, choices=LOADERS)
    parser.add_argument("--here", action="store_true", help="measure the one loader in this process")
    options = parser.parse_args(arguments)
    path = demo.path_of(options.model)
    if options.here:
        print(json.dumps(measured(options.loaders[0], path, options.dtypes[0])))
        return
    rows = compared(path, options.dtypes, options.loaders)
    print(json.dumps({"model": options.model, "rows": rows}))


def _kib(file: str, key: str) -> int:
    """A number of this process, by Linux."""
    lines = Path("/proc/self", file).read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


if __name__ == "__main__":
    main()
