"""`cospec distil`: train a drafter on what the ensemble itself decodes."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..distil.outcome import Outcome
from ..distil.recipe import ADAPTER_LR, WHOLE_LR, TextRecipe, TrainingRecipe
from ..distil.run import DistilRun, Stopped
from ..distil.task import Distillation
from ..ensemble import Ensemble
from .chats import ChatOptions, note_plain_form
from .options import LocalOptions
from .output import Interrupt, interrupted, on_interrupt, print_figures, print_note, progress
from .prompts import read_prompts
from .spread import option, spread
from .tables import FittedTable, TableColumn, print_tables

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

    def task(self, models: LocalOptions, chats: ChatOptions) -> Distillation:
        """Raises a CospecError for prompts that cannot be read and numbers that make no sense."""
        entries = read_prompts(None, self.prompts, chats=chats)
        texts = TextRecipe(
            samples=self.samples, max_tokens=self.max_tokens, temperature=self.temperature, seed=self.seed
        )
        training = TrainingRecipe(
            layers=self.layers,
            vocabulary=self.vocabulary,
            is_whole=self.whole,
            rank=self.rank,
            epochs=self.epochs,
            steps=self.steps,
            batch=self.batch,
            lr=self.lr,
            seed=self.seed,
        )
        return Distillation(
            prompts=[entry.prompt for entry in entries],
            places=[entry.where for entry in entries],
            text_recipe=texts,
            training_recipe=training,
            base=self.base,
            identity=models.identity(),
            out=self.out,
            command=shlex.join(["cospec", *sys.argv[1:]]),
        )


@spread
def distil(*, options: DistilOptions, chats: ChatOptions, models: LocalOptions) -> None:
    """Train a drafter on what the ensemble itself decodes.

    The ensemble answers the prompts; the first layers of a member, with its final norm and head, learn its distribution
    r at each token, by an adapter on them (PEFT's LoRA) or whole; and what of their proposals would be accepted is
    measured on held-out prompts, before and after. Any drafter is exact: a better one makes decoding faster.

    Ctrl-C keeps what was done in the folder, and the same command goes on from there.
    """
    task = options.task(models, chats)
    outcome = task.record().outcome
    if outcome is None:
        with on_interrupt(lambda: _KEPT.format(out=task.out)):
            ensemble = models.build()
        note_plain_form(ensemble, task.prompts)
        outcome = _finish(task, ensemble)
    else:
        print_note(f"{task.out} holds the finished drafter; nothing is left to do")
    if not options.as_json:
        print_tables(_table(task, outcome))
        print_note(f"use it with: --proposer {task.out}")
    print_figures({"out": str(task.out), **asdict(outcome)}, as_json=options.as_json)


_KEPT = "what was done is in {out}, and the same command goes on from there"


def _finish(task: Distillation, ensemble: Ensemble) -> Outcome:
    """Do what is left. Raises typer.Exit after Ctrl-C."""
    with Interrupt() as interrupt:
        run = DistilRun(distillation=task, ensemble=ensemble, bar=_bar, should_stop=interrupt.is_noted)
        try:
            return run.finish()
        except Stopped:
            raise interrupted(_KEPT.format(out=task.out)) from None


@contextmanager
def _bar(phase: str, total: int) -> Iterator[Callable[[], None]]:
    with progress(total) as advance:
        advance(0, phase)
        yield lambda: advance(1, phase)


def _table(task: Distillation, outcome: Outcome) -> FittedTable:
    recipe = task.training_recipe
    kind = "whole" if recipe.is_whole else f"adapter of rank {recipe.rank}"
    return FittedTable(
        title=f"{task.out}: {recipe.layers} layers, {kind}, {outcome.vocabulary:,} tokens",
        columns=[TableColumn(name="on held-out prompts", priority=0), TableColumn(name="acceptance", is_number=True)],
        rows=[
            ["first layers, untrained", f"{outcome.acceptance_before:.3f}"],
            ["drafter", f"{outcome.acceptance_after:.3f}"],
        ],
        caption=f"Acceptance: mean of 1 - TV(drafter, r) over {outcome.num_held_out_tokens:,} tokens of answers to "
        f"{outcome.num_held_out_prompts:,} prompts that were not trained on.\n"
        f"Trained on {outcome.num_tokens:,} tokens in {outcome.steps:,} steps and {outcome.seconds:,.0f} s; weights "
        f"take {outcome.num_bytes / 1e6:.2f} MB.",
    )
