"""`cospec verify`: test on the user's own members and machine that the text is the target's."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import typer
from rich.text import Text

from .. import demo
from ..ensemble import Ensemble
from ..errors import InvalidSampling
from ..study.exactness import SAMPLED_LENGTH, Check, Effort, num_checks, self_test
from .chats import ChatOptions, GivenPrompt, check_chats
from .options import LocalOptions
from .output import print_json, progress
from .prompts import bundled_or_read
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
        help='Prompts to compare on: a line each, a JSON string or an object with "prompt" or "messages".',
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

    def texts(self, chats: ChatOptions) -> list[GivenPrompt]:
        """The prompts. Raises InvalidPrompt for a file that cannot be read or holds none."""
        bundled = [*demo.prompts()[: _NUM_DEMO_PROMPTS - 2], *demo.prompts()[-2:]]
        return bundled_or_read(bundled, self.prompts, chats)


@spread
def verify(*, options: VerifyOptions, chats: ChatOptions, models: LocalOptions) -> None:
    """Prove on your own models that the output follows the target distribution.

    Each schedule is compared with plain decoding: coupled text token by token, greedy text token by token (the gap
    between the two best tokens at a first difference tells a tie of rounding from a fault), and samples with plain's
    and with the target's probabilities, under every verification, the ensemble's own first. The ensemble's own plan is
    among them; of auto also the plan that it chooses. Exit code 1 if a check fails.
    """
    effort, prompts = options.effort(), options.texts(chats)
    ensemble = models.build()
    check_chats(ensemble, prompts)
    with progress(num_checks(ensemble)) as advance:
        checks = []
        for check in self_test(ensemble, prompts, effort):
            checks.append(check)
            advance()
    is_exact = all(check.is_passed for check in checks)
    if options.as_json:
        listed = [{**asdict(check), "outcome": check.outcome} for check in checks]
        print_json({"exact": is_exact, "plan": str(ensemble.plan), "tested": _tested(checks), "checks": listed})
    else:
        print_tables(_table(ensemble, effort, checks))
    if not is_exact:
        raise typer.Exit(1)


_RESULTS = {
    "passed": Text("passed", "green"),
    "ties": Text("equal but for ties of rounding", "yellow"),
    "failed": Text("FAILED", "red"),
}


def _tested(checks: list[Check]) -> dict[str, dict[str, list[str]]]:
    """Kind of check -> verification -> the plans that were tested under it."""
    tested: dict[str, dict[str, list[str]]] = {}
    for check in checks:
        tested.setdefault(check.name, {}).setdefault(check.verification, []).append(check.schedule)
    return tested


def _table(ensemble: Ensemble, effort: Effort, checks: list[Check]) -> FittedTable:
    return FittedTable(
        title=f"{' + '.join(ensemble.member_names)}, {ensemble.combination.name}, {ensemble.plan}: against plain",
        columns=[
            TableColumn(name="check", priority=0),
            TableColumn(name="schedule", priority=0, wraps=True),
            TableColumn(name="verification", priority=0),
            TableColumn(name="result", priority=0, wraps=True),
            TableColumn(name="what was found", wraps=True),
        ],
        rows=[
            [check.name, check.schedule, check.verification, _RESULTS[check.outcome], _detail(check)]
            for check in checks
        ],
        caption=_caption(ensemble, effort, checks),
    )


def _detail(check: Check) -> str:
    """What was found; of texts that differ how many are ties, and a line for each fault."""
    ties = [each for each in check.differences if each.is_tie]
    faults = [each for each in check.differences if not each.is_tie]
    lines = [check.detail]
    if ties:
        lines.append(f"{len(ties)} first differ in a tie, largest gap {max(each.gap for each in ties):.2g}")
    lines += [
        f"prompt {each.prompt_index}, position {each.position}: gap of the two best {each.gap:.2g}, a fault"
        for each in faults
    ]
    return "\n".join(lines)


def _caption(ensemble: Ensemble, effort: Effort, checks: list[Check]) -> str:
    """What all lines of a kind have in common, and how many came out how."""
    thresholds = [check.threshold for check in checks if check.threshold is not None]
    of_samples = (
        f"Sampled texts: {effort.num_samples} of up to {SAMPLED_LENGTH} tokens of each prompt "
        f"({effort.num_sampled_prompts} at most); a check fails under p {min(thresholds):.1g}.\n"
        if thresholds
        else ""
    )
    kinds = dict.fromkeys(check.verification for check in checks if check.threshold is not None)
    own = f"Sampled under {', '.join(kinds)}; the ensemble's own verification is {ensemble.plan.verification}."
    outcomes = Counter(check.outcome for check in checks)
    counted = ", ".join(f"{num} {_RESULTS[outcome]}" for outcome, num in sorted(outcomes.items()))
    return f"{of_samples}{own if kinds else ''}\n{counted}."
