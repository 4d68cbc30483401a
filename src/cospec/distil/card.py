"""The card beside a distilled drafter: what it was made of, and what it is worth."""

import json
from dataclasses import dataclass

from ..storage import keep
from .outcome import Outcome
from .recipe import HeadRecipe, Recipe, TrainingRecipe
from .task import Distillation

CARD = "README.md"


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """library: that reads its weights. what: how the drafter is made of its base. untrained: what it began as.
    trained: which parameters."""

    library: str
    what: str
    untrained: str
    trained: str

    @classmethod
    def of(cls, recipe: Recipe, base: str) -> "_Kind":
        if isinstance(recipe, HeadRecipe):
            return cls(
                library="cospec",
                what="A drafting head: it reads the members' last hidden states and, by the embedding of "
                f"`{base}`, the tokens behind them, and was",
                untrained="the head, untrained",
                trained=f"a head of width {recipe.width}",
            )
        assert isinstance(recipe, TrainingRecipe), "layers or a head"
        layers = f"the first {recipe.layers} layers"
        return cls(
            library="transformers" if recipe.is_whole else "peft",
            what=f"{layers.capitalize()} of `{base}`,",
            untrained=f"{layers}, untrained",
            trained="the layers themselves" if recipe.is_whole else f"a LoRA adapter of rank {recipe.rank}",
        )


def write_card(task: Distillation, base: str, outcome: Outcome) -> None:
    """base: the model that the drafter stands on."""
    texts, recipe, identity = task.text_recipe, task.training_recipe, task.identity
    kind = _Kind.of(recipe, base)
    front = {"base_model": base, "library_name": kind.library, "tags": ["cospec"]}
    card = f"""\
---
{json.dumps(front)}
---
# A drafter distilled by cospec

{kind.what} trained to propose what an ensemble decodes. Its proposals are verified:
it changes the speed of decoding and never the distribution. `--proposer {task.out}` takes this folder as it is.

| on held-out prompts | acceptance rate, mean of 1 − TV(drafter, r) |
| --- | --- |
| {kind.untrained} | {outcome.acceptance_before:.3f} |
| this drafter | {outcome.acceptance_after:.3f} |

Over {outcome.num_held_out_tokens:,} tokens of answers to prompts that were not trained on (prompts:
{outcome.num_held_out_prompts:,}), at temperature 1.

| | |
| --- | --- |
| ensemble | {", ".join(f"`{name}`" for name in identity["members"])} |
| combination | `{json.dumps(identity["combination"])}` |
| trained | {kind.trained}: {outcome.num_parameters:,} parameters, {outcome.num_bytes / 1e6:.2f} MB |
| proposes | {outcome.vocabulary:,} different tokens |
| texts | {outcome.num_texts:,} of the ensemble's own, {outcome.num_tokens:,} tokens: {texts.samples} a prompt, of at \
most {texts.max_tokens} tokens, temperature {texts.temperature:g}{", one of them 0" if texts.has_greedy else ""}, \
seed {texts.seed} |
| training | {outcome.steps:,} steps of {recipe.batch} texts, learning rate {recipe.peak_lr:g}, seed {recipe.seed}; \
{outcome.seconds:,.0f} s |

Made by `{task.command}`.
"""
    keep(task.out / CARD, card)
