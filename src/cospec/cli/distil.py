"""`cospec distil`: train a drafter on what the ensemble itself decodes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..distil.recipe import ADAPTER_LR, HEAD_LR, HEAD_TOKENS, WHOLE_LR, HeadRecipe, TextRecipe, TrainingRecipe
from ..interrupts import importing
from .chat_options import ChatOptions
from .options import LocalOptions
from .spread import option, spread

EXAMPLE = "cospec distil --ensemble mine.yaml --prompts prompts.jsonl --layers 4 --out drafter"

_REQUIRED: Any = ...
LAYERS = 4


@dataclass(frozen=True, kw_only=True)
class DistilOptions:
    """What is trained on which texts, how, and where the drafter is written."""

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
        help="The member whose first layers are trained, or whose embedding a head reads; of an adapter, its base's.",
        show_default="the first member",
    )
    head: bool = option(
        False,
        "--head",
        help="Train a drafting head, which reads the members' last hidden states, in place of layers: a draft costs "
        "next to nothing, where a drafter of layers costs a share of a forward pass.",
    )
    width: int | None = option(
        None, metavar="N", help="Of a head: of the layer between its states.", show_default=f"{HeadRecipe.width}"
    )
    layers: int | None = option(
        None, metavar="N", help="The drafter's layers: the first N of the member's.", show_default=f"{LAYERS}"
    )
    whole: bool = option(
        False, "--whole", help="Train the layers themselves, and write a small model: without it, an adapter on them."
    )
    vocabulary: int | None = option(
        None,
        metavar="N",
        help="The drafter proposes among the N tokens that the ensemble writes most often, ends included: its head is "
        "cut to them.",
        show_default=f"all, with --head {HEAD_TOKENS}",
    )
    rank: int | None = option(None, metavar="N", help="The adapter's rank.", show_default=f"{TrainingRecipe.rank}")
    samples: int = option(TextRecipe.samples, metavar="N", help="Texts that the ensemble writes for each prompt.")
    max_tokens: int = option(TextRecipe.max_tokens, metavar="N", help="The most tokens of such a text.")
    temperature: float = option(
        TextRecipe.temperature, metavar="X", help="That texts are sampled at. What is learned is r itself."
    )
    greedy: bool = option(
        False,
        "--greedy",
        help="One of the texts of each prompt is greedy, at temperature 0, as answers often are asked.",
    )
    epochs: int | None = option(
        None,
        metavar="N",
        help="How often each text is read.",
        show_default=f"{TrainingRecipe.epochs}, with --head {HeadRecipe.epochs}",
    )
    steps: int | None = option(None, metavar="N", help="Training steps, in place of --epochs.", show_default=False)
    batch: int = option(TrainingRecipe.batch, metavar="N", help="Texts a step.")
    lr: float | None = option(
        None,
        metavar="X",
        help="The highest learning rate, from which a cosine falls to 0.",
        show_default=f"{ADAPTER_LR:g}, with --whole {WHOLE_LR:g}, with --head {HEAD_LR:g}",
    )
    seed: int = option(TextRecipe.seed, metavar="N", help="Of texts, held-out prompts and training.")
    as_json: bool = option(False, "--json", help="Print one JSON object instead of the table.")


@spread
def distil(*, options: DistilOptions, chats: ChatOptions, models: LocalOptions) -> None:
    """Train a drafter on what the ensemble itself decodes.

    The ensemble answers the prompts; the first layers of a member, with its final norm and head, learn its distribution
    r at each token, by an adapter on them (PEFT's LoRA) or whole, or a small head on the members' hidden states does;
    and what of their proposals would be accepted is measured on held-out prompts, before and after. Any drafter is
    exact: a better one makes decoding faster.

    Ctrl-C keeps what was done in the folder, and the same command goes on from there.
    """
    with importing():
        from .distil_run import run_distil
    run_distil(options, chats, models)
