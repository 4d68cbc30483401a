"""What decoding cost, as parts of a line on a terminal."""

from ..core.counts import Counts


def speed(counts: Counts, seconds: float) -> str:
    """Tokens over seconds, those of the clock."""
    return f"{counts.tokens} tokens in {seconds:.2f} s: {counts.tokens / max(seconds, 1e-9):.1f} tokens/s"


def acceptance(counts: Counts) -> str:
    """Each proposer's acceptance rate; empty where nothing was proposed."""
    rates = [
        f"{name} {drafts.accepted}/{drafts.proposed} = {drafts.acceptance:.2f}"
        for name, drafts in counts.proposers.items()
        if drafts.acceptance is not None
    ]
    return f"accepted/proposed: {', '.join(rates)}" if rates else ""


def calls_a_token(counts: Counts) -> str:
    """Forward passes of each model for a token of output."""
    rates = [f"{name} {lane.calls / max(counts.tokens, 1):.2f}" for name, lane in counts.lanes.items()]
    return f"calls a token: {', '.join(rates)}"
