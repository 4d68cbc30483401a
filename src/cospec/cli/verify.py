"""`cospec verify`: test on the user's own members and machine that the text is the target's."""

from dataclasses import asdict, dataclass
from pathlib import Path

import typer
from rich.text import Text

from .. import demo
from ..ensemble import Ensemble
from ..errors import InvalidSampling
from ..study.exactness import Check, Effort, num_checks, self_test
from .options import LocalOptions
from .output import print_json, progress
from .prompts import read_prompts
from .spread import option, spread
from .tables import FittedTable, TableColumn, print_tables

EXAMPLE = "cospec verify --ensemble demo:we --verification block --max-tokens 32"

_NUM_DEMO_PROMPTS = 6


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """How much is compared, and in which form the result is printed."""

    prompts: Path | None = option(
        None,
        metavar="FILE.jsonl",
        help='Prompts to compare on: a line each, a JSON string or an object with "prompt".',
        show_default=f"{_NUM_DEMO_PROMPTS} bundled prompts",
    )
    max_tokens: int = option(Effort.max_tokens, help="Tokens a text in the equality checks.")
    samples: int = option(Effort.num_samples, help="Samples a prompt in the sampled checks.")
    seed: int = option(Effort.seed, help="Of all draws.")
    as_json: bool = option(False, "--json", help="Print one JSON object instead of the table.")

    def effort(self) -> Effort:
        """Raises InvalidSampling for sizes that compare nothing."""
        if self.max_tokens < 1 or self.samples < 20:
            raise InvalidSampling(
                f"--max-tokens must be at least 1 and --samples at least 20, got {self.max_tokens} and {self.samples}"
            )
        return Effort(max_tokens=self.max_tokens, num_samples=self.samples, seed=self.seed)

    def texts(self) -> list[str]:
        """Raises InvalidPrompt for a file that cannot be read or holds none."""
        if self.prompts is None:
            return [*demo.prompts()[: _NUM_DEMO_PROMPTS - 2], *demo.prompts()[-2:]]
        return [entry.text for entry in read_prompts(None, self.prompts)]


@spread
def verify(*, options: VerifyOptions, models: LocalOptions) -> None:
    """Prove on your own models that the output follows the target distribution.

    Each schedule is compared with plain decoding: coupled text token by token, greedy text token by token (the gap
    between the two best tokens at a first difference tells a tie of rounding from a fault), and samples by a
    two-sample test. Exit code 1 if a check fails.
    """
    effort, prompts = options.effort(), options.texts()
    ensemble = models.build()
    with progress(num_checks(ensemble)) as advance:
        checks = []
        for check in self_test(ensemble, prompts, effort):
            checks.append(check)
            advance()
    is_exact = all(check.is_passed for check in checks)
    if options.as_json:
        print_json({"exact": is_exact, "checks": [asdict(check) for check in checks]})
    else:
        print_tables(_table(ensemble, checks))
    if not is_exact:
        raise typer.Exit(1)


def _table(ensemble: Ensemble, checks: list[Check]) -> FittedTable:
    return FittedTable(
        title=f"{' + '.join(ensemble.member_names)}, {ensemble.combination.name}: against plain",
        columns=[
            TableColumn(name="check", priority=0, wraps=True),
            TableColumn(name="schedule", priority=0, wraps=True),
            TableColumn(name="verification", priority=2),
            TableColumn(name="result", priority=0),
            TableColumn(name="what was compared", wraps=True),
        ],
        rows=[
            [
                check.name,
                check.schedule,
                check.verification,
                Text("passed", "green") if check.is_passed else Text("FAILED", "red"),
                _detail(check),
            ]
            for check in checks
        ],
    )


def _detail(check: Check) -> str:
    """What was compared, and a line for each first difference."""
    lines = [check.detail]
    for difference in check.differences:
        kind = "a tie" if difference.is_tie else "a fault"
        lines.append(
            f"prompt {difference.prompt_index}, position {difference.position}: "
            f"gap of the two best {difference.gap:.2g}, {kind}"
        )
    return "\n".join(lines)
