"""What `cospec tune` does; apart from its options, so that its help comes at once."""

from dataclasses import replace
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
from ..study.tune import MOST_TEXTS, TuneProgress, Tuning, other_lines, tune, write_plan
from .chat_options import ChatOptions
from .chats import check_chats
from .options import DEFAULT_ENSEMBLE, LocalOptions
from .output import on_interrupt, print_json, print_note, progress
from .prompts import bundled_or_read
from .tables import FittedTable, TableColumn, print_tables
from .tune import TuneOptions


def run_tune(options: TuneOptions, chats: ChatOptions, models: LocalOptions) -> None:
    """Measure until the choice stands, and write it."""
    source, out = _files(options, models)
    params = SamplingParams(max_tokens=options.max_tokens, temperature=options.temperature)
    prompts = bundled_or_read(demo.prompts(), options.prompts, chats)
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
        tuning = tune(ensemble, prompts, params, lambda _: advance(), so_far, save, where=str(kept))
    if options.as_json:
        print_json(tuning.to_dict())
    else:
        print_tables(_table(tuning))
    if tuning.steadiness.advice:
        print_note(tuning.steadiness.advice)
    if tuning.slower is not None:
        print_note(
            f"as measured, '{tuning.slower}' was slower than plain here, so that the plan is 'plain': the prompts were "
            "few, or the machine was busy; tune on more of them, or while it is quiet"
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
        "--numerics": models.numerics,
        # It asks for numerics too.
        "--reproducible": models.reproducible,
        "--device": models.device,
        "--quantization": models.quantization,
        "--backend": models.backend,
        "--gpu-layers": models.gpu_layers is not None,
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
