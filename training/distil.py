"""Distillation: a small model learns its teachers' mixture, or one teacher, on sequences sampled from mixtures.

That trains a drafter on what it will draft for: its drafts continue such sequences, and are accepted with probability
1 - TV(drafter, target).
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

# Sequences sampled at a time, and tokens of each.
NUM_SEQUENCES, LENGTH = 128, 256
PROMPT_LENGTHS = (16, 160)
# The most probable tokens of a row, stored one by one; the others are one event, "any other".
NUM_KEPT = 128
BATCH = 8
# The student is trained already, and needs a lower learning rate than random weights.
LR_FACTOR = 0.5
# Weight of the total variation in the loss, growing linearly from 0: it is what acceptance depends on, but far from the
# target only cross-entropy has a gradient.
TOTAL_VARIATION_AT_END = 3.0


@dataclass(frozen=True, kw_only=True)
class TeacherSequences:
    """Sampled sequences and, after each of their tokens, the target distribution's most probable tokens.

    ids: [n, LENGTH]. kept: [n, LENGTH, NUM_KEPT], token ids. probs: the same shape, their probabilities.
    """

    ids: Tensor
    kept: Tensor
    probs: Tensor


def distil(
    distillation: Distillation, model: LlamaForCausalLM, sequences: TeacherSequences, checkpoint: Path, report: Report
) -> tuple[int, float]:
    """Train `model` in place on `sequences`; (steps, seconds). Resumes from `checkpoint` where there is one."""
    device = next(model.parameters()).device
    order = _order(len(sequences.ids), distillation.readings)

    def loss(step: int, progress: float) -> tuple[Tensor, float]:
        rows = order[step * BATCH : (step + 1) * BATCH]
        logits = model(input_ids=sequences.ids[rows].to(device, torch.long), use_cache=False).logits
        kept, probs = sequences.kept[rows].to(device, torch.long), sequences.probs[rows].to(device, torch.float32)
        cross_entropy, total_variation = _distances(logits, kept, probs)
        return cross_entropy + TOTAL_VARIATION_AT_END * progress * total_variation, total_variation.item()

    return fit(model, LR_FACTOR, len(order) // BATCH, _rate, loss, checkpoint, report)


def _rate(progress: float) -> float:
    """Share of the peak learning rate: a short warm-up that begins above zero, a plateau, a linear fall to zero."""
    return min(1.0, (progress + 1e-3) / WARM_UP, (1 - progress) / COOL_DOWN)


def _order(num_sequences: int, readings: int) -> Tensor:
    """Every sequence once a reading, shuffled anew each time, [num_sequences * readings]."""
    generator = torch.Generator().manual_seed(0)
    return torch.cat([torch.randperm(num_sequences, generator=generator) for _ in range(readings)])


def _distances(logits: Tensor, kept: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy and total variation to the teachers, over the kept tokens and "any other".

    logits: [batch, LENGTH, vocab]. kept, probs: [batch, LENGTH, NUM_KEPT].
    """
    log_q = logits.gather(-1, kept) - logits.logsumexp(-1, keepdim=True)
    q = log_q.exp()
    other_p, other_q = (1 - probs.sum(-1)).clamp(min=0), (1 - q.sum(-1)).clamp(min=1e-6)
    cross_entropy = -((probs * log_q).sum(-1) + other_p * other_q.log()).mean()
    total_variation = ((probs - q).abs().sum(-1) + (other_p - other_q).abs()).mean() / 2
    return cross_entropy, total_variation


def sample_sequences(
    distillation: Distillation,
    teachers: dict[str, LlamaForCausalLM],
    streams: dict[str, np.ndarray],
    saved: Path,
    report: Report,
) -> TeacherSequences:
    """Sequences of each mix, sampled from its teachers' even mixture. Stored in `saved`, batch by batch.

    teachers: by name, the target among them. Every sequence continues an excerpt of a corpus, which half of the time is
    a document's beginning.
    """
    saved.mkdir(exist_ok=True)
    num_batches = distillation.tokens // (NUM_SEQUENCES * LENGTH)
    batches = []
    for batch in range(num_batches):
        path = saved / f"{batch}.pt"
        if not path.exists():
            begun = time.monotonic()
            rng = np.random.default_rng([batch, 7])
            torch.manual_seed(batch)
            mix = distillation.mixes[rng.choice(len(distillation.mixes), p=[mix.share for mix in distillation.mixes])]
            sequences = _continue(teachers, mix.teachers, distillation.target, _prompts(streams[mix.corpus], rng))
            torch.save(vars(sequences), path)
            report(batch + 1, num_batches, time.monotonic() - begun)
        batches.append(torch.load(path, weights_only=True))
    return TeacherSequences(**{key: torch.cat([batch[key] for batch in batches]) for key in ("ids", "kept", "probs")})


def _prompts(stream: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Excerpts of a corpus, all of one length that is drawn from PROMPT_LENGTHS: [NUM_SEQUENCES, length] token ids."""
    length = int(rng.integers(*PROMPT_LENGTHS))
    last = len(stream) - length
    anywhere = rng.integers(0, last, size=NUM_SEQUENCES)
    beginnings = np.flatnonzero(stream[:last] == 0) + 1
    starts = np.where(rng.random(NUM_SEQUENCES) < 0.5, rng.choice(beginnings, size=NUM_SEQUENCES), anywhere)
    return torch.from_numpy(np.stack([stream[start : start + length] for start in starts]).astype(np.int64))


@torch.inference_mode()
def _continue(
    teachers: dict[str, LlamaForCausalLM], writers: tuple[str, ...], target: str | None, prompts: Tensor
) -> TeacherSequences:
    """Sample on to LENGTH tokens, past end tokens too: another document follows, as in the teachers' training data.

    writers: the teachers that are mixed. target: the teacher whose rows are stored; None for the writers' mixture.
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
        if sum(chunk.shape[1] for chunk in ids) == LENGTH:
            break
        fed = torch.multinomial(mixed[:, -1], 1)
    return TeacherSequences(
        ids=torch.cat(ids, 1).to(torch.int16).cpu(), kept=torch.cat(kept, 1).cpu(), probs=torch.cat(probs, 1).cpu()
    )
