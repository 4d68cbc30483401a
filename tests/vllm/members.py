"""Tiny random members that vLLM's CPU build can run, ensembles of them, and engines over what is exported."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml

from cospec import Ensemble, SamplingParams
from cospec.core.combine import as_combination
from cospec.files import read_settings
from cospec.vllm.export import Export

from ..models import saved

NUM_ENTRIES = 120
# vLLM's CPU attention has heads of at least 32.
_SIZES = {
    "small": {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1},
    "wide": {"hidden_size": 160, "num_attention_heads": 5, "num_key_value_heads": 1, "vocab_size": 160},
    "deep": {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 3},
    "drafter": {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 144},
}
_KINDS = {"small": "llama", "wide": "qwen2", "deep": "llama", "drafter": "llama"}
WINDOW = 8


def write(folder: Path) -> Path:
    """`small`, `wide`, `deep` and `drafter`, and `sliding` throughout by the window."""
    for seed, (name, sizes) in enumerate(_SIZES.items()):
        saved(folder / name, _KINDS[name], num_entries=NUM_ENTRIES, seed=seed, head_dim=32, **sizes)
    sizes = _SIZES["small"] | {"head_dim": 32, "sliding_window": WINDOW}
    saved(folder / "sliding", "mistral", num_entries=NUM_ENTRIES, seed=7, **sizes)
    return folder


def ensemble_file(folder: Path, members: Sequence[object], **settings: Any) -> Path:
    """mine.yaml in float32."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"members": [*map(str, members)], "dtype": "float32", **settings}))
    return path


def export(path: Path, out: Path) -> list[str]:
    """What `cospec export` does; the command of `vllm serve`."""
    settings = read_settings(path, {})
    combination = as_combination(settings.get("combine"), len(settings["members"]))
    return Export(settings=settings, combination=combination, name="mine").write(out).command


@contextmanager
def engine(out: Path, **options: Any) -> Iterator[Any]:
    """vLLM over an exported folder, in this process."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    llm = LLM(
        str(out),
        dtype="float32",
        enforce_eager=True,
        max_model_len=256,
        max_num_seqs=8,
        block_size=32,
        disable_log_stats=False,
        **options,
    )
    try:
        yield llm
    finally:
        del llm
        gc.collect()
        cleanup_dist_env_and_memory()


def prompts(count: int = 3, length: int = 40) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(2, NUM_ENTRIES, (count, length), generator=generator).tolist()


def assert_same(llm: Any, ensemble: Ensemble, given: Sequence[list[int]], num_tokens: int = 24, **own: float) -> None:
    """Greedy text token by token, and log r of its tokens and of the prompt's. own: what cospec has by request."""
    from vllm import SamplingParams as TheirParams

    greedy = {"max_tokens": num_tokens, "temperature": 0, "logprobs": 0, "prompt_logprobs": 0}
    results = ensemble.generate([*given], SamplingParams(**greedy, **own))
    answers = llm.generate([{"prompt_token_ids": prompt} for prompt in given], TheirParams(**greedy), use_tqdm=False)
    for result, answer, prompt in zip(results, answers, given, strict=True):
        (output,) = answer.outputs
        assert list(output.token_ids) == result.token_ids
        theirs = [entry[token].logprob for entry, token in zip(output.logprobs, output.token_ids, strict=True)]
        assert theirs == approximately(entry.logprob for entry in result.logprobs)
        theirs = [entry[token].logprob for entry, token in zip(answer.prompt_logprobs[1:], prompt[1:], strict=True)]
        assert theirs == approximately(entry.logprob for entry in result.prompt_logprobs[1:])


def approximately(values: Any) -> Any:
    import pytest

    return pytest.approx([*values], abs=1e-3)


def largest(log_p: torch.Tensor) -> torch.Tensor:
    """A combination of a user's own."""
    return log_p.amax(0)


def speculation_of(command: Sequence[str]) -> dict[str, Any]:
    """The setting of --speculative-config."""
    import json

    return json.loads(command[command.index("--speculative-config") + 1])


def count(llm: Any, name: str) -> float:
    """A counter of the engine's."""
    return sum(metric.value for metric in llm.get_metrics() if metric.name == name)
