"""The model card beside each bundled model's weights."""

from pathlib import Path

from .recipes import CONTEXT, Distillation, Recipe
from .train import Result

CORPORA = {
    "math": "GSM8K's training questions and answers (openai/grade-school-math, MIT licence), less its last 500 rows",
    "code": "the source of CPython 3.11's standard library (PSF licence), less one file in twenty",
}
TITLES = {"math": "GSM8K, last 500 rows", "code": "standard library, held-out files"}


def write_card(folder: Path, recipe: Recipe, result: Result) -> None:
    read = "\n".join(f"- {share:.0%} {CORPORA[name]}" for name, share in recipe.mix.items())
    data = [f"Training data, by share of tokens:\n\n{read}"] if read else []
    learned = "\n\n".join([*data, *map(_distilled, recipe.distillations)])
    scores = "\n".join(f"| {TITLES[name]} | {value} |" for name, value in result.perplexity.items())
    origin = f"continues from {_parent(recipe)}" if recipe.parent else "from random weights"
    heads = f"{recipe.heads} heads ({recipe.kv_heads} for keys and values)"
    shape = f"{recipe.layers} layers, width {recipe.hidden}, {heads}, context {CONTEXT}"
    card = f"""\
---
license: mit
library_name: transformers
pipeline_tag: text-generation
---
# {recipe.name}

A Llama-architecture model of {result.parameters / 1e6:.2f} million parameters, trained from scratch for cospec's
demonstrations and tests. Its text is not good: it is here so that decoding several models at once can
be run, measured and proved offline. Do not use it for anything else.

| | |
| --- | --- |
| shape | {shape} |
| tokenizer | byte-level BPE, 4,096 entries, shared by all bundled models |
| training | {result.steps:,} steps, {result.tokens:,} tokens, {origin} |
| stored as | bfloat16 |

{learned}

| held-out text | perplexity per token |
| --- | --- |
{scores}

Made by `python -m training --only {recipe.name}`.
"""
    (folder / "README.md").write_text(card, encoding="utf-8")


def _parent(recipe: Recipe) -> str:
    if recipe.parent_layers is None:
        return f"`{recipe.parent}`"
    return f"layers {', '.join(map(str, recipe.parent_layers))} of `{recipe.parent}`"


def _distilled(distillation: Distillation) -> str:
    whose = (
        f"`{distillation.target}`'s distribution as target" if distillation.target else "their distributions as targets"
    )
    return (
        f"Then {distillation.tokens:,} tokens of texts that other bundled models wrote, read {distillation.readings} "
        f"times with {whose}: {'; '.join(map(str, distillation.mixes))}."
    )
