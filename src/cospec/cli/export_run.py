"""What `cospec export` does; apart from its options, so that its help comes at once."""

import shlex
from pathlib import Path

from ..core.combine import as_combination
from ..core.params import SamplingParams
from ..errors import UnknownName
from ..vllm.export import Export
from .export import ENGINES, ExportOptions
from .options import EnsembleOptions
from .output import print_json, print_note


def run_export(out: Path, options: ExportOptions, models: EnsembleOptions) -> None:
    """Write the folder and print the command. Raises a CospecError for what the engine cannot hold."""
    if options.engine not in ENGINES:
        raise UnknownName("engine", options.engine, ENGINES)
    settings = models.settings()
    combination = as_combination(settings.get("combine"), len(settings["members"]))
    combination.check(len(settings["members"]))
    params = SamplingParams(member_temperature=options.member_temperature, member_top_p=options.member_top_p)
    name = options.name or models.name
    exported = Export(settings=settings, combination=combination, name=name, params=params).write(out)
    for note in exported.notes:
        print_note(note)
    if options.as_json:
        print_json({"out": str(exported.out), "command": exported.command, "notes": exported.notes})
    else:
        print(shlex.join(exported.command))
