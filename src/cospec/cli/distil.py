"""`cospec distil`: train a drafter on what the ensemble itself decodes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..distil.recipe import ADAPTER_LR, WHOLE_LR, TextRecipe, TrainingRecipe
from ..interrupts import importing
from .chat_options import ChatOptions
from .options import LocalOptions
from .spread import option, spread

EXAMPLE = "cospec distil --ensemble mine.yaml --prompts prompts.jsonl --layers 4 --out drafter"

_REQUIRED: Any = ...


@dataclass(frozen=True, kw_only=True)
class DistilOptions:
    """Which layers are trained on which texts, how, and where the drafter is written."""

    prompts: Path = option(
        _REQUIRED,
        metavar="FILE.jsonl",
        help='Prompts that the ensemble answers: a line each, a JSON string or an object with "prompt" or "messages". '
        "One in ten is held out, to measure the drafter on.",
    )
    out: Path = option(
        _REQUIRED,
        metavar="DIR",
        help="The drafter's folder, which --proposer takes. What a later run goes on from is in DIR/work.",
    )
    base: str | None = option(
        None,
        metavar="NAME",
        help="The member whose first layers are trained; of an adapter, its base's.",
        show_default="the first member",
    )
    layers: int = option(4, metavar="N", help="The drafter's layers: the first N of the member's.")
    whole: bool = option(
        False, "--whole", help="Train the layers themselves, and write a small model: without it, an adapter on them."
    )
    vocabulary: int | None = option(
        None,
        metavar="N",
        help="The drafter proposes among the N tokens that the ensemble writes most often, ends included: its head is "
        "cut to them.",
        show_default="all",
    )
    rank: int = option(TrainingRecipe.rank, metavar="N", help="The adapter's rank.")
    samples: int = option(TextRecipe.samples, metavar="N", help="Texts that the ensemble writes for each prompt.")
    max_tokens: int = option(TextRecipe.max_tokens, metavar="N", help="The most tokens of such a text.")
    temperature: float = option(
        TextRecipe.temperature, metavar="X", help="That texts are sampled at. What is learned is r itself."
    )
    epochs: int = option(TrainingRecipe.epochs, metavar="N", help="How often each text is read.")
    steps: int | None = option(None, metavar="N", help="Training steps, in place of --epochs.", show_default=False)
    batch: int = option(TrainingRecipe.batch, metavar="N", help="Texts a step.")
    lr: float | None = option(
        None,
        metavar="X",
        help="The highest learning rate, from which a cosine falls to 0.",
        show_default=f"{ADAPTER_LR:g}, with --whole {WHOLE_LR:g}",
    )
    seed: int = option(TextRecipe.seed, metavar="N", help="Of texts, held-out prompts and training.")
    as_json: bool = option(False, "--json", help="Print one JSON object instead of the table.")


@spread
def distil(*, options: DistilOptions, chats: ChatOptions, models: LocalOptions) -> None:
    """Train a drafter on what the ensemble itself decodes.

    The ensemble answers the prompts; the first layers of a member, with its final norm and head, learn its distribution
    r at each token, by an adapter on them (PEFT's LoRA) or whole; and what of their proposals would be accepted is
    measured on held-out prompts, before and after. Any drafter is exact: a better one makes decoding faster.

    Ctrl-C keeps what was done in the folder, and the same command goes on from there.
    """
    with importing():
        from .distil_run import run_distil
    run_distil(options, chats, models)
