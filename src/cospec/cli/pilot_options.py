"""The options of `cospec pilot`."""

from dataclasses import dataclass
from pathlib import Path

from ..core.params import SamplingParams
from ..study.scoring import SCORERS
from .spread import option


@dataclass(frozen=True, kw_only=True)
class PilotOptions:
    """What is measured, on which prompts, against which criteria, and where the results go."""

    prompts: Path | None = option(
        None,
        metavar="FILE.jsonl|.txt|.csv",
        help="Prompts, or messages in .jsonl, with category, reference, score, text and id where they have them.",
        show_default="the bundled prompts",
    )
    criteria: Path | None = option(
        None, metavar="FILE.yaml", help="What must hold; --write-criteria writes one.", show_default="its template"
    )
    prices: Path | None = option(
        None,
        metavar="FILE.yaml",
        help="Of machines and electricity; --write-prices writes one.",
        show_default="no prices",
    )
    texts: Path | None = option(
        None,
        metavar="FILE.jsonl|.txt|.csv",
        help="Texts to measure perplexity on, beside the prompts' references.",
        show_default=False,
    )
    language: str = option("en", metavar="en|ja", help="Of the report.")
    out: Path = option(
        Path("pilot"), metavar="DIR", help="Where all goes. The same command goes on where it was stopped."
    )
    num_prompts: int = option(24, help="Prompts that are timed; all are scored.", min=2)
    max_tokens: int = option(32, help="Tokens of a timed sequence; end tokens are passed over.", min=2)
    tokens: int | None = option(None, "--tokens", hidden=True, min=2)
    temperature: float = option(SamplingParams.temperature, help="Of timed sequences.")
    repeats: int = option(2, help="Runs of each method on each prompt; their median counts.", min=1)
    concurrency: str = option("1,8", metavar="1,8,...", help="Concurrent sequences, each number a run of its own.")
    score: str = option(
        "exact", metavar="|".join((*SCORERS, "module:function")), help="How answers are held against references."
    )
    score_temperature: float = option(0.0, help="Of scored answers.")
    score_tokens: int = option(64, help="The most tokens of a scored answer.", min=1)
    stop: list[str] | None = option(None, metavar="TEXT", help="End a scored answer before this.", show_default=False)
    write_criteria: Path | None = option(
        None, metavar="FILE.yaml", help="Write commented criteria here and exit.", show_default=False
    )
    write_prices: Path | None = option(
        None, metavar="FILE.yaml", help="Write commented prices here and exit.", show_default=False
    )
    as_json: bool = option(False, "--json", help="Print the last line, a JSON object, and no tables.")
