"""`cospec tune`: find the fastest plan on the user's own prompts and machine, and write it down."""

from dataclasses import dataclass, replace
from pathlib import Path

from .. import demo
from ..core.params import SamplingParams
from ..errors import InvalidEnsemble
from ..files import has_relative_models
from ..members import as_settings
from ..prompts import as_json
from ..resume import digest, plain
from ..schedule.auto import Auto
from ..storage import check_place
from ..study.environment import machine
from ..study.tune import MOST_TEXTS, TuneProgress, Tuning, other_lines, write_plan
from ..study.tune import tune as run_tune
from .chats import ChatOptions, GivenPrompt, check_chats
from .options import DEFAULT_ENSEMBLE, LocalOptions
from .output import on_interrupt, print_json, print_note, progress
from .prompts import bundled_or_read
from .spread import option, spread
from .tables import FittedTable, TableColumn, print_tables

EXAMPLE = "cospec tune --ensemble mine.yaml --proposer demo:drafter --prompts prompts.jsonl"


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """What `auto` measures on, and where the plan is written."""

    prompts: Path | None = option(
        None,
        metavar="FILE.jsonl",
        help='Prompts to learn on: a line each, a JSON string or an object with "prompt" or "messages".',
        show_default="the bundled prompts",
    )
    max_tokens: int = option(128, help="Tokens a text.")
    temperature: float = option(SamplingParams.temperature, help="That texts will be sampled at.")
    out: Path | None = option(
        None,
        metavar="FILE.yaml",
        help="Write the ensemble with its plan here.",
        show_default="the ensemble's own file; a bundled one is left alone",
    )
    as_json: bool = option(False, "--json", help="Print one JSON object instead of the table.")

    def texts(self, chats: ChatOptions) -> list[GivenPrompt]:
        """The prompts. Raises InvalidPrompt for a file that cannot be read or holds none."""
        return bundled_or_read(demo.prompts(), self.prompts, chats)


@spread
def tune(*, options: TuneOptions, chats: ChatOptions, models: LocalOptions) -> None:
    """Find the fastest plan on your own prompts and machine.

    It goes into the ensemble's file. `auto` learns what calls cost and what is accepted until its choice stands; that
    is timed beside plain and printed next to what was predicted. Under every plan texts follow the same distribution.

    Ctrl-C keeps what was measured beside the file, and the same command goes on from there.
    """
    source, out = _files(options, models)
    params = SamplingParams(max_tokens=options.max_tokens, temperature=options.temperature)
    prompts = options.texts(chats)
    if out is not None:
        check_place(out)
    # Every plan is weighed, so that the one in the file stands in no way of a proposer.
    models = replace(models, schedule=models.schedule or Auto.name)
    kept = None if out is None else out.with_name(f"{out.name}.tuning.json")
    measured = {"prompts": [digest(as_json(prompt)) for prompt in prompts], "max_tokens": params.max_tokens}
    ours = {**models.identity(), **machine(models.threads)}
    settings = plain({**measured, "temperature": params.temperature, **ours})
    so_far = TuneProgress(settings=settings) if kept is None else TuneProgress.load(kept, settings)
    if so_far.choices:
        print_note(f"{kept} has the measurements of {len(so_far.choices)} texts; going on from there")

    def save(now: TuneProgress) -> None:
        if kept is not None:
            now.save(kept)

    def sentence() -> str:
        if kept is None or not so_far.choices:
            return "nothing is kept, and the same command begins anew"
        return f"{kept} has what was measured on {len(so_far.choices)} texts, and the same command goes on from there"

    with on_interrupt(sentence), progress(MOST_TEXTS) as advance:
        ensemble = models.build()
        check_chats(ensemble, prompts)
        tuning = run_tune(ensemble, prompts, params, lambda _: advance(), so_far, save, where=str(kept))
    if options.as_json:
        print_json(tuning.to_dict())
    else:
        print_tables(_table(tuning))
    baseline, *chosen = tuning.comparisons
    if chosen and chosen[0].measured < baseline.measured:
        print_note(
            f"as measured, '{tuning.plan}' was slower than plain here: the prompts were few, or the machine was busy; "
            "tune on more of them before you rely on it"
        )
    if out is not None and source is not None:
        sources = dict(zip(ensemble.names, ensemble.sources, strict=True))
        drafters = {name: as_settings(sources[name], ensemble.load_options) for name in ensemble.drafter_names}
        write_plan(tuning, source, out, drafters)
        print_note(f"wrote the plan '{tuning.plan}' to {out}")
    if kept is not None:
        kept.unlink(missing_ok=True)


def _files(options: TuneOptions, models: LocalOptions) -> tuple[Path | None, Path | None]:
    """The ensemble's file, and where the plan goes. Raises InvalidEnsemble where there is none to write into, and for
    options that tuning itself finds."""
    found = {"--schedule": models.schedule not in (None, Auto.name), "--gamma": models.gamma, "--first": models.first}
    if fixed := [flag for flag, value in found.items() if value]:
        raise InvalidEnsemble(
            f"{', '.join(fixed)} is what tuning finds; leave it out, or time one plan with cospec bench"
        )
    if models.members:
        if options.out is not None:
            raise InvalidEnsemble("--out writes an ensemble's file with its plan; give --ensemble FILE, not --member")
        return None, None
    changes = {
        "--member-prompt": models.member_prompts,
        "--combine": models.combine,
        "--weight": models.weights,
        "--mu": models.mu is not None,
        "--plausibility": models.plausibility is not None,
        "--scale": models.scale is not None,
        "--dtype": models.dtype,
        "--device": models.device,
        "--quantization": models.quantization,
        "--revision": models.revision,
    }
    given = [flag for flag, value in changes.items() if value]
    if given:
        raise InvalidEnsemble(
            f"{', '.join(given)} would change what the file's ensemble samples from, or on what it runs, and only a "
            "plan is written into it; change the file first"
        )
    name = models.ensemble or DEFAULT_ENSEMBLE
    if demo.is_demo(name):
        return demo.ensemble_path(name), options.out
    source, out = Path(name), options.out or Path(name)
    if source.is_file() and out.resolve().parent != source.resolve().parent and has_relative_models(source):
        raise InvalidEnsemble(f"{source} names models relative to its folder; write --out {out.name} beside it")
    if source.is_file():
        # Before the work whose result is written.
        other_lines(source)
    return source, out


def _table(tuning: Tuning) -> FittedTable:
    return FittedTable(
        title=f"fastest of what was weighed: {tuning.plan} (after {tuning.num_texts} texts)",
        columns=[
            TableColumn(name="plan", priority=0),
            TableColumn(name="predicted tokens/s", is_number=True),
            TableColumn(name="measured tokens/s", is_number=True),
            TableColumn(name="predicted / measured", priority=2, is_number=True),
        ],
        rows=[
            [
                str(row.plan),
                f"{row.predicted:.1f}",
                f"{row.measured:.1f}",
                f"{row.predicted / row.measured:.2f}",
            ]
            for row in tuning.comparisons
        ],
    )
