"""`python -m training [--gsm8k FILE] [--only NAME ...]`: train, evaluate and write the bundled models.

The small ones first, from scratch; then the real model's adapter, and the drafters of the ensembles that it stands in.
"""

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from .adapter import ADAPTER, make_adapter
from .cards import write_card
from .corpora import Corpus, gsm8k, standard_library
from .distil import distil, sample_sequences
from .drafters import DRAFTERS, make_drafter
from .recipes import RECIPES, Distillation, Recipe
from .tokenizer import train_tokenizer
from .train import Result, build_model, keep_layers, perplexity, train

ROOT = Path(__file__).resolve().parents[1]
MODELS, ADAPTERS = (ROOT / "src" / "cospec" / "demo" / kind for kind in ("models", "adapters"))
WORK = ROOT / "training" / "work"
NAMES = [*(recipe.name for recipe in RECIPES), ADAPTER, *DRAFTERS]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training", description=__doc__)
    parser.add_argument("--gsm8k", type=Path, default=ROOT.parent / "shared" / "data" / "gsm8k_train.jsonl")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=NAMES)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="CPU threads to train with")
    arguments = parser.parse_args()
    if not arguments.gsm8k.exists():
        parser.error(f"no GSM8K training rows at {arguments.gsm8k}; name the file with --gsm8k")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    WORK.mkdir(exist_ok=True)
    wanted = arguments.only or NAMES
    if recipes := [recipe for recipe in RECIPES if recipe.name in wanted]:
        _train_small(recipes, arguments.gsm8k, arguments.device)
    if ADAPTER in wanted:
        make_adapter(arguments.gsm8k, ADAPTERS / ADAPTER, WORK, _Progress(ADAPTER))
    for name in DRAFTERS:
        if name in wanted:
            make_drafter(name, arguments.gsm8k, ROOT, WORK)


def _train_small(recipes: list[Recipe], rows: Path, device: str) -> None:
    corpora = {"math": gsm8k(rows), "code": standard_library()}
    tokenizer = _tokenizer(corpora)
    streams = {name: _stream(corpus, tokenizer, WORK / f"{name}.npy") for name, corpus in corpora.items()}
    for recipe in recipes:
        _train_one(recipe, corpora, tokenizer, streams, device)


def _train_one(
    recipe: Recipe,
    corpora: dict[str, Corpus],
    tokenizer: PreTrainedTokenizerFast,
    streams: dict[str, np.ndarray],
    device: str,
) -> None:
    model = build_model(recipe)
    if recipe.parent is not None:
        model = LlamaForCausalLM.from_pretrained(MODELS / recipe.parent, dtype=torch.float32)
        if recipe.parent_layers is not None:
            keep_layers(model, recipe.parent_layers)
    model.to(device)
    steps, seconds = 0, 0.0
    if recipe.tokens:
        steps, seconds = train(recipe, model, streams, WORK / f"{recipe.name}.pt", _Progress(recipe.name))
    tokens = recipe.tokens
    for number, stage in enumerate(recipe.distillations, start=1):
        more = distil_once(f"{recipe.name}.distil{number}", stage, model, streams)
        steps, seconds = steps + more[0], seconds + more[1]
        tokens += stage.tokens * stage.readings
    write_model(recipe, model, corpora, tokenizer, steps=steps, tokens=tokens, seconds=seconds)


def write_model(
    recipe: Recipe,
    model: LlamaForCausalLM,
    corpora: dict[str, Corpus],
    tokenizer: PreTrainedTokenizerFast,
    *,
    steps: int,
    tokens: int,
    seconds: float,
) -> None:
    """Write weights, tokenizer and model card, which states the training's steps and the held-out perplexities."""
    folder = MODELS / recipe.name
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _compact(folder / "tokenizer.json")
    # Perplexity is that of the weights as stored, in bfloat16, computed in float32.
    stored = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    held_out = {
        name: perplexity(stored, [[*tokenizer.encode(text), 0] for text in corpora[name].held_out]) for name in corpora
    }
    result = Result(
        steps=steps,
        tokens=tokens,
        seconds=round(seconds, 1),
        parameters=model.num_parameters(),
        perplexity={name: round(value, 2) for name, value in held_out.items()},
    )
    write_card(folder, recipe, result)
    print(json.dumps({"name": recipe.name, **asdict(result)}), flush=True)


def _compact(path: Path) -> None:
    """Rewrite a JSON file without white space, which is more than half of a tokenizer's; every model has its own."""
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def distil_once(
    name: str, distillation: Distillation, model: LlamaForCausalLM, streams: dict[str, np.ndarray]
) -> tuple[int, float]:
    """Sample the teachers' sequences and train on them; (steps, seconds of both)."""
    teachers = {
        teacher: LlamaForCausalLM.from_pretrained(MODELS / teacher, dtype=torch.float32).eval().to(model.device)
        for teacher in distillation.teachers
    }
    begun = time.monotonic()
    progress = _Progress(f"{name}, sampling", "seconds a batch")
    sequences = sample_sequences(distillation, teachers, streams, WORK / f"{name}.texts", progress)
    sampling = time.monotonic() - begun
    steps, seconds = distil(distillation, model, sequences, WORK / f"{name}.pt", _Progress(name))
    return steps, sampling + seconds


class _Progress:
    """Prints a line every fifty steps: the mean of a value over them, and the minutes left."""

    def __init__(self, name: str, value_name: str = "loss") -> None:
        self.name, self.value_name = name, value_name
        self.values: list[float] = []
        self.since = time.monotonic()

    def __call__(self, step: int, steps: int, value: float) -> None:
        self.values.append(value)
        if len(self.values) < 50 and step < steps:
            return
        seconds = (time.monotonic() - self.since) / len(self.values)
        mean = sum(self.values) / len(self.values)
        left = seconds * (steps - step) / 60
        print(f"{self.name}: step {step}/{steps}, {self.value_name} {mean:.3f}, {left:.0f} minutes left", flush=True)
        self.values, self.since = [], time.monotonic()


def _tokenizer(corpora: dict[str, Corpus]) -> PreTrainedTokenizerFast:
    saved = WORK / "tokenizer"
    if saved.exists():
        return PreTrainedTokenizerFast.from_pretrained(saved)
    tokenizer = train_tokenizer(text for corpus in corpora.values() for text in corpus.train)
    tokenizer.save_pretrained(saved)
    return tokenizer


def _stream(corpus: Corpus, tokenizer: PreTrainedTokenizerFast, saved: Path) -> np.ndarray:
    """The ids of all training documents end to end, each closed by the end token (id 0), in an order drawn once."""
    if not saved.exists():
        order = np.random.default_rng(0).permutation(len(corpus.train))
        ids = [i for row in order for i in (*tokenizer.encode(corpus.train[row]), 0)]
        np.save(saved, np.array(ids, dtype=np.uint16))
    return np.load(saved)


if __name__ == "__main__":
    main()
