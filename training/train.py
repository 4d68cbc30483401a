"""One model's training: Muon for the matrices, AdamW for the rest, and a checkpoint to resume from."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from .muon import Muon
from .recipes import CONTEXT, Recipe
from .tokenizer import VOCAB_SIZE

BATCH = 4
WARM_UP = 0.02
COOL_DOWN = 0.5
MUON_LR, ADAMW_LR = 0.02, 0.003
# A model that continues from a trained parent needs a lower learning rate than one of random weights.
CONTINUED_LR_FACTOR = 0.4
SECONDS_BETWEEN_CHECKPOINTS = 120.0

# Called after each step with its number, the number of steps, and the value to report.
Report = Callable[[int, int, float], None]


@dataclass(frozen=True, kw_only=True)
class Result:
    """A training's outcome. perplexity: per held-out token, by corpus."""

    steps: int
    tokens: int
    seconds: float
    parameters: int
    perplexity: dict[str, float]


def keep_layers(model: LlamaForCausalLM, kept: Sequence[int]) -> None:
    """Drop all layers but these."""
    layers = [model.model.layers[number] for number in kept]
    for place, layer in enumerate(layers):
        layer.self_attn.layer_idx = place
    model.model.layers = nn.ModuleList(layers)
    model.config.num_hidden_layers = len(layers)


def build_model(recipe: Recipe) -> LlamaForCausalLM:
    """A model of the recipe's shape, of random weights."""
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=CONTEXT,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


def train(
    recipe: Recipe,
    model: LlamaForCausalLM,
    streams: dict[str, np.ndarray],
    checkpoint: Path,
    report: Report,
) -> tuple[int, float]:
    """Train `model` in place and return (steps, seconds). Resumes from `checkpoint` where there is one.

    streams: token ids of each corpus, one long array. report(step, steps, loss) is called after each step.
    """
    device = next(model.parameters()).device
    forward = torch.compile(model)

    def loss(step: int, progress: float) -> tuple[Tensor, float]:
        batch = _batch(recipe, streams, step).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=_has_fast_bfloat16(device)):
            logits = forward(input_ids=batch[:, :-1], use_cache=False).logits
        value = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
        return value, value.item()

    factor = 1.0 if recipe.parent is None else CONTINUED_LR_FACTOR
    return fit(model, factor, recipe.tokens // (BATCH * CONTEXT), _rate, loss, checkpoint, report)


def fit(
    model: LlamaForCausalLM,
    factor: float,
    steps: int,
    rate: Callable[[float], float],
    loss: Callable[[int, float], tuple[Tensor, float]],
    checkpoint: Path,
    report: Report,
) -> tuple[int, float]:
    """Minimise a loss in so many steps, from `checkpoint` on where there is one; (steps, seconds).

    factor: of the peak learning rates. rate(progress): the share of the peak. loss(step, progress): the value to
    minimise, and the number to report. progress: from 0 to 1.
    """
    optimizers = _optimizers(model, factor)
    start, seconds = _resume(checkpoint, model, optimizers)
    saved = begun = time.monotonic()
    for step in range(start, steps):
        progress = step / steps
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * rate(progress)
        value, reported = loss(step, progress)
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        report(step + 1, steps, reported)
        if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
            saved = time.monotonic()
            _save(checkpoint, step + 1, seconds + saved - begun, model, optimizers)
    return steps, seconds + time.monotonic() - begun


def _batch(recipe: Recipe, streams: dict[str, np.ndarray], step: int) -> Tensor:
    """[BATCH, CONTEXT + 1] token ids, drawn by the step's number alone, so that a resumed run sees the same."""
    rng = np.random.default_rng([step, sum(recipe.name.encode())])
    names = rng.choice(list(recipe.mix), size=BATCH, p=list(recipe.mix.values()))
    windows = []
    for name in names:
        start = rng.integers(0, len(streams[name]) - CONTEXT - 1)
        windows.append(streams[name][start : start + CONTEXT + 1])
    return torch.from_numpy(np.stack(windows).astype(np.int64))


def _rate(progress: float) -> float:
    """Share of the peak learning rate: a short warm-up, a plateau, a linear fall to zero."""
    return min(1.0, progress / WARM_UP, (1.0 - progress) / COOL_DOWN) if progress > 0 else 0.01


def _optimizers(model: LlamaForCausalLM, factor: float) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=MUON_LR * factor, momentum=0.95, weight_decay=0.1),
        torch.optim.AdamW(rest, lr=ADAMW_LR * factor, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def _has_fast_bfloat16(device: torch.device) -> bool:
    return device.type == "cuda" or torch.cpu._is_amx_tile_supported()


def _save(
    path: Path, step: int, seconds: float, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer]
) -> None:
    state = {
        "step": step,
        "seconds": seconds,
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    # Written beside and moved, so that an interruption never leaves half a checkpoint.
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def _resume(path: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer]) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"], state["seconds"]


@torch.inference_mode()
def perplexity(model: LlamaForCausalLM, documents: list[list[int]]) -> float:
    """exp of the mean negative log-likelihood a token, each document alone, in windows of the context."""
    device = next(model.parameters()).device
    total, count = 0.0, 0
    for document in documents:
        for start in range(0, len(document) - 1, CONTEXT):
            ids = torch.tensor([document[start : start + CONTEXT + 1]], device=device)
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
            total += torch.nn.functional.cross_entropy(logits[0], ids[0, 1:], reduction="sum").item()
            count += ids.shape[1] - 1
    return math.exp(total / count)
