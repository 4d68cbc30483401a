"""What `cospec verify` does; apart from its options, so that its help comes at once."""

from collections import Counter
from dataclasses import asdict

import typer
from rich.text import Text

from .. import demo
from ..ensemble import Ensemble
from ..study.effort import Effort
from ..study.exactness import SAMPLED_LENGTH, Check, num_checks, self_test
from ..study.remote import NUM_CHECKS, SERVED, VllmServer, against_vllm
from .chat_options import ChatOptions
from .chats import GivenPrompt, check_chats
from .options import LocalOptions
from .output import on_interrupt, print_json, progress
from .prompts import bundled_or_read
from .tables import FittedTable, TableColumn, print_tables
from .verify import NUM_DEMO_PROMPTS, VerifyOptions


def run_verify(options: VerifyOptions, chats: ChatOptions, models: LocalOptions) -> None:
    """Print every check. Raises typer.Exit with status 1 if one fails."""
    effort, prompts = options.effort(), _texts(options, chats)
    server = None if options.vllm is None else VllmServer(options.vllm, options.served, options.api_key)
    ensemble = models.build()
    check_chats(ensemble, prompts)
    checks: list[Check] = []
    total = num_checks(ensemble) if server is None else NUM_CHECKS
    found = self_test(ensemble, prompts, effort) if server is None else against_vllm(server, ensemble, prompts, effort)

    def so_far() -> str:
        if checks and not options.as_json:
            print_tables(_table(ensemble, effort, checks))
        return f"{len(checks)} of {total} checks were made, and none is kept"

    with on_interrupt(so_far), progress(total) as advance:
        for check in found:
            checks.append(check)
            advance()
    is_exact = all(check.is_passed for check in checks)
    if options.as_json:
        listed = [{**asdict(check), "outcome": check.outcome, "largest_tie": check.largest_tie} for check in checks]
        numerics = "invariant" if ensemble.is_invariant else "default"
        whole = {"exact": is_exact, "plan": str(ensemble.plan), "numerics": numerics}
        print_json({**whole, "tested": _tested(checks), "checks": listed})
    else:
        print_tables(_table(ensemble, effort, checks))
    if not is_exact:
        raise typer.Exit(1)


def _texts(options: VerifyOptions, chats: ChatOptions) -> list[GivenPrompt]:
    """The prompts. Raises InvalidPrompt for a file that cannot be read or holds none."""
    prompts = bundled_or_read(demo.prompts(), options.prompts, chats)
    # Of the bundled ones the first and the last, which are of other kinds.
    return prompts if options.prompts else [*prompts[: NUM_DEMO_PROMPTS - 2], *prompts[-2:]]


_RESULTS = {
    "equal": Text("equal", "green"),
    "ties": Text("equal but for ties of rounding", "yellow"),
    "different": Text("NOT EQUAL", "red"),
    "passed": Text("passed", "green"),
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
        title=f"{' + '.join(ensemble.member_names)}, {ensemble.combination.name}, "
        f"{SERVED if _are_served(checks) else ensemble.plan}: against plain",
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


def _are_served(checks: list[Check]) -> bool:
    """Whether a server was compared, and not schedules."""
    return any(check.schedule == SERVED for check in checks)


def _detail(check: Check) -> str:
    """What was found; of texts that differ how many are ties, and a line for each fault."""
    ties = [each for each in check.differences if each.is_tie]
    faults = [each for each in check.differences if not each.is_tie]
    lines = [check.detail]
    if ties:
        lines.append(f"{len(ties)} first differ in a tie, largest gap {check.largest_tie:.2g}")
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
    if _are_served(checks):
        own = "The server was asked by token ids."
    outcomes = Counter(check.outcome for check in checks)
    counted = ", ".join(f"{num} {_RESULTS[outcome]}" for outcome, num in sorted(outcomes.items()))
    return f"{of_samples}{own if kinds else ''}\n{counted}.{_sum_of_ties(checks)}"


def _sum_of_ties(checks: list[Check]) -> str:
    """How many of all compared texts differ, each in a tie, by how much, and how none would; empty where none does."""
    ties = [each for check in checks for each in check.differences if each.is_tie]
    if not ties:
        return ""
    num_texts = sum(check.num_texts or 0 for check in checks)
    return (
        f"\n{len(ties)} of {num_texts} texts first differ in a tie of rounding, largest gap "
        f"{max(each.gap for each in ties):.2g}; with --numerics invariant none may."
    )
