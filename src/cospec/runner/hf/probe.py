"""A test of a forward pass: fed in ragged batches and rolled back, does it give the logits of an unbatched pass?"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..protocol import Feed
from .forward import Forward
from .runner import HfRunner


@torch.inference_mode()
def distance(model: PreTrainedModel, forward: Forward | None = None) -> float:
    """Mean distance of ragged, rolled-back logits from those of an unbatched pass without a cache, divided by the
    standard deviation of the latter; of two sequences the larger.

    forward: the pass to test, the model's own by default.
    """
    runner = HfRunner(model, forward=forward)
    size = min(runner.vocab_size, 1000)
    sequences = [[(7 * i + 3) % size for i in range(11)], [(5 * i + 1) % size for i in range(6)]]
    slots = [runner.open() for _ in sequences]
    first = runner.feed([Feed(slot, tokens[:4], 1) for slot, tokens in zip(slots, sequences, strict=True)])
    runner.feed([Feed(slots[0], [1, 1, 1], 1), Feed(slots[1], [2], 1)])
    for slot in slots:
        runner.trim(slot, 3)
    rows = runner.feed(
        [Feed(slot, tokens[3:-1], len(tokens) - 4) for slot, tokens in zip(slots, sequences, strict=True)]
    )
    last = [runner.feed([Feed(slot, tokens[-1:], 1)])[0] for slot, tokens in zip(slots, sequences, strict=True)]
    return max(_distance(model, *each) for each in zip(sequences, first, rows, last, strict=True))


def _distance(model: PreTrainedModel, tokens: list[int], first: Tensor, rows: Tensor, last: Tensor) -> float:
    """first: the row after the fourth token. rows, last: those after the last tokens."""
    measured = torch.cat([first, rows, last])
    logits = model(input_ids=torch.tensor([tokens], device=model.device), use_cache=False).logits[0]
    plain = torch.cat([logits[3:4], logits[1 - measured.shape[0] :]])[:, : measured.shape[1]].float()
    return float((plain - measured).abs().mean() / (plain.std() + 1e-9))
