"""The card beside a distilled drafter: what it was made of, and what it is worth."""

import json

from ..storage import keep
from .outcome import Outcome
from .task import Distillation

CARD = "README.md"


def write_card(task: Distillation, base: str, outcome: Outcome) -> None:
    """base: the model whose first layers were trained."""
    texts, recipe, identity = task.text_recipe, task.training_recipe, task.identity
    kind = "the layers themselves" if recipe.is_whole else f"a LoRA adapter of rank {recipe.rank}"
    front = {"base_model": base, "library_name": "transformers" if recipe.is_whole else "peft", "tags": ["cospec"]}
    card = f"""\
---
{json.dumps(front)}
---
# A drafter distilled by cospec

The first {recipe.layers} layers of `{base}`, trained to propose what an ensemble decodes. Its proposals are verified:
it changes the speed of decoding and never the distribution. `--proposer {task.out}` takes this folder as it is.

| on held-out prompts | acceptance rate, mean of 1 − TV(drafter, r) |
| --- | --- |
| the first {recipe.layers} layers, untrained | {outcome.acceptance_before:.3f} |
| this drafter | {outcome.acceptance_after:.3f} |

Over {outcome.num_held_out_tokens:,} tokens of answers to prompts that were not trained on (prompts:
{outcome.num_held_out_prompts:,}), at temperature 1.

| | |
| --- | --- |
| ensemble | {", ".join(f"`{name}`" for name in identity["members"])} |
| combination | `{json.dumps(identity["combination"])}` |
| trained | {kind}: {outcome.num_parameters:,} parameters, {outcome.num_bytes / 1e6:.2f} MB |
| proposes | {outcome.vocabulary:,} different tokens |
| texts | {outcome.num_texts:,} of the ensemble's own, {outcome.num_tokens:,} tokens: {texts.samples} a prompt, of at \
most {texts.max_tokens} tokens, temperature {texts.temperature:g}, seed {texts.seed} |
| training | {outcome.steps:,} steps of {recipe.batch} texts, learning rate {recipe.peak_lr:g}, seed {recipe.seed}; \
{outcome.seconds:,.0f} s |

Made by `{task.command}`.
"""
    keep(task.out / CARD, card)
