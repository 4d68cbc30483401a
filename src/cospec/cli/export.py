"""`cospec export`: write an ensemble for another engine to serve."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..interrupts import importing
from .options import EnsembleOptions
from .spread import option, spread

EXAMPLE = "cospec export --ensemble demo:we --proposer lookup exported --for vllm"

ENGINES = ("vllm",)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """For which engine, and what holds for all requests there."""

    engine: str = option(ENGINES[0], "--for", metavar="ENGINE", help="Which engine is to serve it: vllm.")
    name: str | None = option(
        None, metavar="NAME", help="What clients call the model.", show_default="the ensemble's name"
    )
    member_temperature: float = option(
        1.0,
        metavar="X",
        help="Of each member's row, before they are combined. cospec's own server has it a request; here it is every "
        "request's.",
    )
    member_top_p: float = option(1.0, metavar="X", help="The same for top-p.")
    as_json: bool = option(False, "--json", help="Print one JSON object instead of the command.")


@spread
def export(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write; empty, new, or exported before.")],
    *,
    options: ExportOptions,
    models: EnsembleOptions,
) -> None:
    """Write an ensemble for another engine to serve: as one model of vLLM.

    The folder names the members where they are, and holds what had to be written: adapters merged, first layers, GGUF
    files unpacked. The command that serves it is printed, with the ensemble's proposer as vLLM's drafter, if it is a
    model of its own or lookup; it runs where vLLM and cospec[vllm] are installed. What vLLM cannot hold is refused by
    name, before weights are read.
    """
    with importing():
        from .export_run import run_export
    run_export(out, options, models)
