"""`auto` over `plain` for models with a recurrent state, beside models of attention alone, of one size.

    python benchmarks/recurrent.py --threads 2

Two random models of each kind are written to a folder and loaded as a user's are: hybrids of Qwen3.5's pattern, three
gated delta nets to one layer of attention, and Qwen3's. What layers behind the first quarter add is scaled down, so
that the first quarter is a good drafter; the two models differ in these layers alone. Measured are a mixture of both,
whose members may draft for each other, and one model whose first layers draft. Texts are decoded by `plain` and `auto`
in turns, one at a time at temperature 1, after one that is not counted; a ratio is the median over texts. Of both kinds
the last lines say how the hybrid's gain compares with that of attention. The seconds of passes, by tokens, say what
bounds it. transformers' assisted generation is asked for too, with the same drafter; what it refuses is printed.

On a CPU that does not multiply in bfloat16, some six minutes on two cores, at some 400 M parameters:

    python benchmarks/recurrent.py --threads 2 --dtype float32 --texts 3 --tokens 32
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from cospec import Ensemble, LoadOptions, Member, SamplingParams
from cospec.runner import Feed, Runner
from cospec.runner.hf.cut import first_layers

KINDS = {"hybrid": "qwen3_5_text", "attention": "qwen3"}
# Of what late layers add, the share that is kept; and by how much the head makes rows less even.
LATE, SHARPER = 0.06, 3.0
PASSES = (1, 2, 4, 8, 16)
PROMPT_TOKENS = 24


@dataclass(frozen=True, kw_only=True)
class Size:
    """A model's shape. layers: a multiple of 4."""

    hidden: int
    layers: int
    intermediate: int
    vocab: int

    @property
    def first(self) -> int:
        """The layers that draft."""
        return self.layers // 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, action="append", help="all by default")
    parser.add_argument("--hidden", type=int, default=1024, help="a multiple of 256 (1024)")
    parser.add_argument("--layers", type=int, default=24, help="a multiple of 4 (24)")
    parser.add_argument("--intermediate", type=int, default=3584)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--tokens", type=int, default=48, help="tokens a text (48)")
    parser.add_argument("--texts", type=int, default=5, help="texts, beside one that is not counted (5)")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    arguments = parser.parse_args()
    transformers_logging.disable_progress_bar()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    size = Size(
        hidden=arguments.hidden, layers=arguments.layers, intermediate=arguments.intermediate, vocab=arguments.vocab
    )
    params = SamplingParams(temperature=1, max_tokens=arguments.tokens, ignore_eos=True, seed=0)
    rows = [
        measured(kind, size, getattr(torch, arguments.dtype), params, arguments.texts)
        for kind in arguments.kind or KINDS
    ]
    ratios = hybrid_over_attention({row["kind"]: row for row in rows})
    if arguments.json:
        settings = {"tokens": arguments.tokens, "threads": torch.get_num_threads(), "dtype": arguments.dtype}
        print(json.dumps({**settings, "kinds": rows, "hybrid_over_attention": ratios}))
        return
    for row in rows:
        show(row)
    for name, ratio in ratios.items():
        print(f"gain of the hybrid / gain of attention, {name}: {ratio:.2f}")


def hybrid_over_attention(rows: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Of each comparison the hybrid's gain over attention's; none unless both kinds were measured."""
    if len(rows) < len(KINDS):
        return {}
    hybrid, attention = (rows[kind]["gains"] for kind in ("hybrid", "attention"))
    return {name: each["auto_over_plain"] / attention[name]["auto_over_plain"] for name, each in hybrid.items()}


def measured(kind: str, size: Size, dtype: torch.dtype, params: SamplingParams, num_texts: int) -> dict[str, Any]:
    """Speeds and ratios of one kind of models."""
    prompts = [[(7 * i + 3 * text + 1) % size.vocab for i in range(PROMPT_TOKENS)] for text in range(1 + num_texts)]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("one", "other")]
        counts = [write(path, KINDS[kind], size, dtype, seed) for seed, path in enumerate(paths)]
        members = [Member(model=str(path), name=path.name) for path in paths]
        drafter = Member(model=str(paths[0]), name="first layers", options=LoadOptions(layers=size.first))
        both = Ensemble(members, proposer=drafter, schedule="auto", keep_measurements=False)
        one, other, first = (both.loaded(name) for name in both.names)
        ensembles = {
            "mixture of two": Ensemble([one, other], schedule="auto", keep_measurements=False),
            "one with a drafter": Ensemble([one], proposer=first, schedule="auto", keep_measurements=False),
        }
        found = {name: compared(ensemble, prompts, params) for name, ensemble in ensembles.items()}
        passes = {name: pass_seconds(each.model) for name, each in (("member", one), ("drafter", first))}
        assisted = by_transformers(paths[0], size, dtype, prompts, params.max_tokens)
    return {"kind": kind, "parameters": counts[0], "gains": found, "pass_seconds": passes, "assisted": assisted}


def write(folder: Path, model_type: str, size: Size, dtype: torch.dtype, seed: int) -> int:
    """Put a random model into the folder, whose late layers are those of this seed; its number of parameters."""
    model = AutoModelForCausalLM.from_config(_config(model_type, size), dtype=dtype)
    early, late = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1 + seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                is_late = "layers." in name and int(name.split("layers.")[1].split(".")[0]) >= size.first
                weight.normal_(generator=late if is_late else early).mul_(_scale(name, weight, is_late=is_late))
    model.save_pretrained(folder)
    return int(model.num_parameters())


def _config(model_type: str, size: Size) -> Any:
    core = {
        "vocab_size": size.vocab, "hidden_size": size.hidden, "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers, "num_attention_heads": size.hidden // 64,
        "num_key_value_heads": size.hidden // 256, "head_dim": 64, "max_position_embeddings": 4096,
        "eos_token_id": None, "bos_token_id": None, "pad_token_id": None, "tie_word_embeddings": False,
    }  # fmt: skip
    nets = {
        "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * (size.layers // 4),
        "linear_num_key_heads": size.hidden // 128, "linear_num_value_heads": size.hidden // 128,
        "linear_key_head_dim": 128, "linear_value_head_dim": 128,
    }  # fmt: skip
    return AutoConfig.for_model(model_type, **core, **(nets if model_type == KINDS["hybrid"] else {}))


def _scale(name: str, weight: torch.Tensor, *, is_late: bool) -> float:
    adds = any(part in name for part in ("o_proj", "out_proj", "down_proj"))
    factor = LATE if is_late and adds else SHARPER if "lm_head" in name else 1.0
    return float(factor * weight.shape[-1] ** -0.5)


def compared(ensemble: Ensemble, prompts: Sequence[list[int]], params: SamplingParams) -> dict[str, Any]:
    """Tokens a second of both schedules, by text, and the median ratio."""
    plans = {"plain": ensemble.with_plan(schedule="plain", proposer=None), "auto": ensemble}
    seconds: dict[str, list[float]] = {name: [] for name in plans}
    acceptance = []
    for prompt in prompts:
        for name, running in plans.items():
            started = time.perf_counter()
            (result,) = running.generate([prompt], params)
            seconds[name].append(time.perf_counter() - started)
        acceptance.append(result.verified.acceptance or 0.0)
    ratios = [plain / auto for plain, auto in zip(seconds["plain"], seconds["auto"], strict=True)][1:]
    return {
        "auto_over_plain": statistics.median(ratios),
        "ratios": ratios,
        "plain_tokens_per_second": params.max_tokens / statistics.median(seconds["plain"][1:]),
        "acceptance": statistics.mean(acceptance[1:]),
        "plan": result.plan,
    }


def pass_seconds(runner: Runner, repeats: int = 7) -> dict[int, float]:
    """Median seconds of a pass of so many tokens, behind a rejection of half of those before; each is rolled back."""
    slot = runner.open()
    runner.feed([Feed(slot, range(1, 1 + PROMPT_TOKENS), 1)])
    seconds: dict[int, list[float]] = {size: [] for size in PASSES}
    for _ in range(1 + repeats):
        for size, own in seconds.items():
            length = slot.length
            own.append(_timed(runner.feed, [Feed(slot, range(size), size, settled=length)]))
            runner.trim(slot, length + size // 2)
    runner.close(slot)
    return {size: statistics.median(own[1:]) for size, own in seconds.items()}


def by_transformers(
    folder: Path, size: Size, dtype: torch.dtype, prompts: Sequence[list[int]], num_tokens: int
) -> dict[str, Any]:
    """Assisted over ordinary generation of transformers, or why there is none."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    drafter = first_layers(model, size.first)
    ratios = []
    try:
        for prompt in prompts[:3]:
            ordinary = _timed(_generate, model, prompt, num_tokens)
            ratios.append(ordinary / _timed(_generate, model, prompt, num_tokens, assistant_model=drafter))
    except ValueError as error:
        return {"refused": str(error)}
    return {"assisted_over_ordinary": statistics.median(ratios[1:]), "ratios": ratios[1:]}


def _generate(model: PreTrainedModel, prompt: list[int], num_tokens: int, **extra: Any) -> None:
    ids = torch.tensor([prompt])
    model.generate(  # type: ignore[operator]
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=num_tokens, do_sample=True, top_k=0, **extra
    )


def _timed(call: Callable[..., object], *given: object, **named: object) -> float:
    started = time.perf_counter()
    call(*given, **named)
    return time.perf_counter() - started


def show(row: dict[str, Any]) -> None:
    """Lines of one kind."""
    print(f"\n{row['kind']}, {row['parameters'] / 1e6:.0f} M parameters")
    for name, found in row["gains"].items():
        ratios = " ".join(f"{ratio:.2f}" for ratio in found["ratios"])
        print(
            f"  {name:20} auto / plain {found['auto_over_plain']:.2f} ({ratios}), plain "
            f"{found['plain_tokens_per_second']:.1f} tokens/s, accepted {found['acceptance']:.2f}, ran {found['plan']}"
        )
    for name, seconds in row["pass_seconds"].items():
        each = ", ".join(f"{size}: {1000 * taken:.1f}" for size, taken in seconds.items())
        print(f"  milliseconds of a pass of the {name}, by tokens: {each}")
    print(f"  transformers' assisted generation: {row['assisted']}")


if __name__ == "__main__":
    main()
