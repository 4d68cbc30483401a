"""The closing line: speed, calls a member, acceptance a proposer."""

from collections import Counter
from collections.abc import Sequence

from ..core.events import Result


def statistics(results: Sequence[Result], seconds: float) -> str:
    """One line on these texts, which took so long together."""
    tokens = sum(result.completion_tokens for result in results)
    speed = f"{tokens} tokens in {seconds:.2f} s: {tokens / max(seconds, 1e-9):.1f} tokens/s"
    return "; ".join([speed, _calls(results), *_acceptance(results), *_plan(results)])


def _plan(results: Sequence[Result]) -> list[str]:
    """What `auto` held to be the fastest at the end, where it planned."""
    plans = [result.plan for result in results if result.plan]
    return [f"auto's plan: {plans[-1]}"] if plans else []


def _calls(results: Sequence[Result]) -> str:
    calls: Counter[str] = Counter()
    for result in results:
        calls.update({name: stats.calls for name, stats in (result.members | result.drafters).items()})
    # A call that feeds several texts at once is counted for each.
    title = "calls" if len(results) == 1 else f"calls, summed over {len(results)} texts"
    return f"{title}: " + ", ".join(f"{name} {count}" for name, count in calls.items())


def _acceptance(results: Sequence[Result]) -> list[str]:
    """None where nothing was proposed, else one part."""
    proposed: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    for result in results:
        for name, stats in result.proposers.items():
            proposed[name] += stats.proposed
            accepted[name] += stats.accepted
    rates = [
        f"{name} {accepted[name]}/{count} = {accepted[name] / count:.2f}" for name, count in proposed.items() if count
    ]
    return [f"accepted/proposed: {', '.join(rates)}"] if rates else []
