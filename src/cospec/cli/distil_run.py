"""What `cospec distil` does; apart from its options, so that its help comes at once."""

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from ..distil.outcome import Outcome
from ..distil.phases import Phases, Stopped
from ..distil.recipe import HeadRecipe, Recipe, TextRecipe, TrainingRecipe
from ..distil.run import DistilRun
from ..distil.task import Distillation
from ..ensemble import Ensemble
from ..errors import InvalidDistillation
from .chat_options import ChatOptions
from .chats import note_plain_form
from .distil import LAYERS, DistilOptions
from .options import LocalOptions
from .output import Interrupt, interrupted, on_interrupt, print_figures, print_note, progress
from .prompts import read_prompts
from .tables import FittedTable, TableColumn, print_tables

_KEPT = "what was done is in {out}, and the same command goes on from there"


def run_distil(options: DistilOptions, chats: ChatOptions, models: LocalOptions) -> None:
    """Do what is left of the distillation, and print what came of it."""
    task = _task(options, models, chats)
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


def _task(options: DistilOptions, models: LocalOptions, chats: ChatOptions) -> Distillation:
    """Raises a CospecError for prompts that cannot be read and numbers that make no sense."""
    entries = read_prompts(None, options.prompts, chats=chats)
    texts = TextRecipe(
        samples=options.samples,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        has_greedy=options.greedy,
        seed=options.seed,
    )
    return Distillation(
        prompts=[entry.prompt for entry in entries],
        places=[entry.where for entry in entries],
        text_recipe=texts,
        training_recipe=_recipe(options),
        base=options.base,
        identity=models.identity(),
        out=options.out,
        command=shlex.join(["cospec", *sys.argv[1:]]),
    )


def _recipe(options: DistilOptions) -> Recipe:
    """Raises InvalidDistillation for options of another kind of drafter."""
    common: dict[str, Any] = {
        "vocabulary": options.vocabulary,
        "steps": options.steps,
        "batch": options.batch,
        "lr": options.lr,
        "seed": options.seed,
    }
    if options.epochs is not None:
        common["epochs"] = options.epochs
    of_layers = {"layers": options.layers, "rank": options.rank}
    if not options.head:
        if options.width is not None:
            raise InvalidDistillation("--width is a drafting head's; give --head as well, or leave --width out")
        given = {name: value for name, value in of_layers.items() if value is not None}
        return TrainingRecipe(**{"layers": LAYERS, **given}, is_whole=options.whole, **common)
    others = [f"--{name}" for name, value in {**of_layers, "whole": options.whole or None}.items() if value is not None]
    if others:
        raise InvalidDistillation(
            f"--head trains a head on the members' hidden states, and {' and '.join(others)} would train a member's "
            f"layers; leave --head out, or {' and '.join(others)}"
        )
    return HeadRecipe(**common) if options.width is None else HeadRecipe(width=options.width, **common)


def _finish(task: Distillation, ensemble: Ensemble) -> Outcome:
    """Do what is left. Raises typer.Exit after Ctrl-C."""
    with Interrupt() as interrupt:
        phases = Phases(bar=_bar, should_stop=interrupt.is_noted)
        run = DistilRun(distillation=task, ensemble=ensemble, phases=phases)
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
    if isinstance(recipe, HeadRecipe):
        kind, untrained = f"head of width {recipe.width}", "the head, untrained"
    else:
        assert isinstance(recipe, TrainingRecipe), "layers or a head"
        trained = "whole" if recipe.is_whole else f"adapter of rank {recipe.rank}"
        kind, untrained = f"{recipe.layers} layers, {trained}", "first layers, untrained"
    return FittedTable(
        title=f"{task.out}: {kind}, {outcome.vocabulary:,} tokens",
        columns=[TableColumn(name="on held-out prompts", priority=0), TableColumn(name="acceptance", is_number=True)],
        rows=[
            [untrained, f"{outcome.acceptance_before:.3f}"],
            ["drafter", f"{outcome.acceptance_after:.3f}"],
        ],
        caption=f"Acceptance: mean of 1 - TV(drafter, r) over {outcome.num_held_out_tokens:,} tokens of answers to "
        f"{outcome.num_held_out_prompts:,} prompts that were not trained on.\n"
        f"Trained on {outcome.num_tokens:,} tokens in {outcome.steps:,} steps and {outcome.seconds:,.0f} s; weights "
        f"take {outcome.num_bytes / 1e6:.2f} MB.",
    )
