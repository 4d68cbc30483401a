"""How far a drafter is from r: cross-entropy, and the total variation that acceptance depends on."""

from collections.abc import Callable

from torch import Tensor

# Entries of logits that are held at a time: those of a few positions, so that a large vocabulary takes no more memory.
MOST_LOGITS = 1 << 23
# Weight of the total variation in the loss, growing linearly from 0: acceptance is 1 minus it, but far from the target
# only cross-entropy has a gradient.
TOTAL_VARIATION_AT_END = 3.0
# Least probability of "any other token" under the drafter, so that its logarithm stays finite.
LEAST_OTHER = 1e-6


def distances(logits: Tensor, columns: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy and total variation, [n] each, over the kept tokens and "any other".

    logits: [n, columns], the drafter's. columns: [n, kept], where the kept tokens stand in them, -1 for those that the
    drafter cannot propose. probs: [n, kept], their probabilities under r.
    """
    is_known = columns >= 0
    log_q = logits.gather(-1, columns.clamp(min=0)) - logits.logsumexp(-1, keepdim=True)
    q, p = log_q.exp() * is_known, probs * is_known
    other_p, other_q = (1 - probs.sum(-1)).clamp(min=0), (1 - q.sum(-1)).clamp(min=LEAST_OTHER)
    cross_entropy = -((p * log_q).sum(-1) + other_p * other_q.log())
    unreachable = (probs - p).sum(-1)
    total_variation = ((p - q).abs().sum(-1) + (other_p - other_q).abs() + unreachable) / 2
    return cross_entropy, total_variation


def backward(
    hidden: Tensor,
    head: Callable[[Tensor], Tensor],
    columns: Tensor,
    probs: Tensor,
    progress: float,
    width: int,
    weights: Tensor | None = None,
) -> tuple[float, float]:
    """Add the gradients of the mean loss; the loss, and the mean total variation.

    hidden: [n, size], of positions whose targets are columns and probs, as in `distances`. head: hidden -> logits, of
    this width. progress: of the training, from 0 to 1. weights: [n], of the positions in both means; None for equal
    ones.
    """
    free = hidden.detach().requires_grad_(True)
    weights = hidden.new_ones(len(free)) if weights is None else weights
    shares = weights / weights.sum()
    loss, varied = 0.0, 0.0
    size = max(1, MOST_LOGITS // width)
    for start in range(0, len(free), size):
        chunk = slice(start, start + size)
        cross_entropy, total_variation = distances(head(free[chunk]), columns[chunk], probs[chunk])
        part = ((cross_entropy + TOTAL_VARIATION_AT_END * progress * total_variation) * shares[chunk]).sum()
        part.backward()  # type: ignore[no-untyped-call]
        loss += part.item()
        varied += (total_variation.detach() * shares[chunk]).sum().item()
    hidden.backward(free.grad)  # type: ignore[no-untyped-call]
    return loss, varied
