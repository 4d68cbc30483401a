"""Distillation: a small model learns mixtures of its teachers, or one of them, on texts that mixtures wrote.

That is what a drafter needs: its drafts stand in such texts, and are accepted with probability 1 - TV(own, target).
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from cospec.runner.hf import cache_argument

from .recipes import Distillation
from .train import COOL_DOWN, WARM_UP, Report, fit

TEXTS, LENGTH = 128, 256
PROMPT_LENGTHS = (16, 160)
# The likeliest tokens of a row; the others are one event, "any other".
NUM_KEPT = 128
BATCH = 8
# It continues from a trained model, which needs a gentler start than noise.
LR_FACTOR = 0.5
# Cross-entropy has a gradient where the two are far apart; total variation, weighed in later, is what counts.
TOTAL_VARIATION_AT_END = 3.0


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Texts and, after each of their tokens, the row to be learned: its likeliest tokens.

    ids: [n, LENGTH]. kept: [n, LENGTH, NUM_KEPT], token ids. probs: the same shape, their probabilities.
    """

    ids: Tensor
    kept: Tensor
    probs: Tensor


def distil(
    distillation: Distillation, model: LlamaForCausalLM, texts: Texts, checkpoint: Path, report: Report
) -> tuple[int, float]:
    """Train `model` in place on `texts` and return (steps, seconds). Resumes from `checkpoint` where there is one."""
    device = next(model.parameters()).device
    order = _order(len(texts.ids), distillation.readings)

    def loss(step: int, progress: float) -> tuple[Tensor, float]:
        rows = order[step * BATCH : (step + 1) * BATCH]
        logits = model(input_ids=texts.ids[rows].to(device, torch.long), use_cache=False).logits
        kept, probs = texts.kept[rows].to(device, torch.long), texts.probs[rows].to(device, torch.float32)
        cross_entropy, total_variation = _distances(logits, kept, probs)
        return cross_entropy + TOTAL_VARIATION_AT_END * progress * total_variation, total_variation.item()

    return fit(model, LR_FACTOR, len(order) // BATCH, _rate, loss, checkpoint, report)


def _rate(progress: float) -> float:
    """Share of the peak learning rate: it is above zero at the first step."""
    return min(1.0, (progress + 1e-3) / WARM_UP, (1 - progress) / COOL_DOWN)


def _order(num_texts: int, readings: int) -> Tensor:
    """Every text once a reading, shuffled anew each time."""
    generator = torch.Generator().manual_seed(0)
    return torch.cat([torch.randperm(num_texts, generator=generator) for _ in range(readings)])


def _distances(logits: Tensor, kept: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy and total variation to the teachers, over the kept tokens and "any other"."""
    log_q = logits.gather(-1, kept) - logits.logsumexp(-1, keepdim=True)
    q = log_q.exp()
    other_p, other_q = (1 - probs.sum(-1)).clamp(min=0), (1 - q.sum(-1)).clamp(min=1e-6)
    cross_entropy = -((probs * log_q).sum(-1) + other_p * other_q.log()).mean()
    total_variation = ((probs - q).abs().sum(-1) + (other_p - other_q).abs()).mean() / 2
    return cross_entropy, total_variation


def sample_texts(
    distillation: Distillation,
    teachers: dict[str, LlamaForCausalLM],
    streams: dict[str, np.ndarray],
    saved: Path,
    report: Report,
) -> Texts:
    """What each mix writes, drawn from its teachers' even mixture. Kept in `saved`, batch by batch.

    teachers: by name, the target among them. Every text goes on from a piece of a corpus, a document's beginning half
    of the time.
    """
    saved.mkdir(exist_ok=True)
    num_batches = distillation.tokens // (TEXTS * LENGTH)
    batches = []
    for batch in range(num_batches):
        path = saved / f"{batch}.pt"
        if not path.exists():
            begun = time.monotonic()
            rng = np.random.default_rng([batch, 7])
            torch.manual_seed(batch)
            mix = distillation.mixes[rng.choice(len(distillation.mixes), p=[mix.share for mix in distillation.mixes])]
            texts = _continue(teachers, mix.teachers, distillation.target, _prompts(streams[mix.corpus], rng))
            torch.save(vars(texts), path)
            report(batch + 1, num_batches, time.monotonic() - begun)
        batches.append(torch.load(path, weights_only=True))
    return Texts(**{key: torch.cat([batch[key] for batch in batches]) for key in ("ids", "kept", "probs")})


def _prompts(stream: np.ndarray, rng: np.random.Generator) -> Tensor:
    """[TEXTS, any length] token ids."""
    length = int(rng.integers(*PROMPT_LENGTHS))
    last = len(stream) - length
    anywhere = rng.integers(0, last, size=TEXTS)
    beginnings = np.flatnonzero(stream[:last] == 0) + 1
    starts = np.where(rng.random(TEXTS) < 0.5, rng.choice(beginnings, size=TEXTS), anywhere)
    return torch.from_numpy(np.stack([stream[start : start + length] for start in starts]).astype(np.int64))


@torch.inference_mode()
def _continue(
    teachers: dict[str, LlamaForCausalLM], writers: tuple[str, ...], target: str | None, prompts: Tensor
) -> Texts:
    """Sample on to LENGTH tokens, beyond end tokens too: another document follows, as in what the teachers read.

    target: whose rows are kept; None for the writers' mixture.
    """
    readers = {name: teachers[name] for name in dict.fromkeys((*writers, *([target] if target else [])))}
    caches = {name: cache_argument(reader) for name, reader in readers.items()}
    device = next(readers[writers[0]].parameters()).device
    ids, fed = [], prompts.to(device)
    kept, probs = [], []
    while True:
        ids.append(fed)
        rows = {
            name: reader(input_ids=fed, use_cache=True, **caches[name]).logits.softmax(-1)
            for name, reader in readers.items()
        }
        mixed = torch.stack([rows[name] for name in writers]).mean(0)
        top = (rows[target] if target else mixed).topk(NUM_KEPT)
        kept.append(top.indices.to(torch.int16))
        probs.append(top.values.to(torch.float16))
        if sum(piece.shape[1] for piece in ids) == LENGTH:
            break
        fed = torch.multinomial(mixed[:, -1], 1)
    return Texts(
        ids=torch.cat(ids, 1).to(torch.int16).cpu(), kept=torch.cat(kept, 1).cpu(), probs=torch.cat(probs, 1).cpu()
    )
