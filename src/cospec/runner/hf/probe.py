"""Does a model give the logits of a plain forward call, fed in ragged batches and rolled back?"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ..protocol import Feed
from .forward import Forward, ModelForward
from .runner import HfRunner


@torch.inference_mode()
def distance(model: PreTrainedModel, forward: type[Forward] = ModelForward) -> float:
    """Mean distance of rolled-back, ragged logits from a plain forward's, over the logits' spread; the worst text's."""
    runner = HfRunner(model, forward=forward)
    size = min(runner.vocab_size, 1000)
    texts = [[(7 * i + 3) % size for i in range(11)], [(5 * i + 1) % size for i in range(6)]]
    slots = [runner.open() for _ in texts]
    first = runner.feed([Feed(slot, text[:4], 1) for slot, text in zip(slots, texts, strict=True)])
    runner.feed([Feed(slots[0], [1, 1, 1], 1), Feed(slots[1], [2], 1)])
    for slot in slots:
        runner.trim(slot, 3)
    rows = runner.feed([Feed(slot, text[3:-1], len(text) - 4) for slot, text in zip(slots, texts, strict=True)])
    last = [runner.feed([Feed(slot, text[-1:], 1)])[0] for slot, text in zip(slots, texts, strict=True)]
    return max(_distance(model, *each) for each in zip(texts, first, rows, last, strict=True))


def _distance(model: PreTrainedModel, text: list[int], first: Tensor, rows: Tensor, last: Tensor) -> float:
    """Of the row behind the first four tokens of `text`, and of `rows` and then `last`, which stand at its end."""
    given = torch.cat([first, rows, last])
    logits = model(input_ids=torch.tensor([text], device=model.device), use_cache=False).logits[0]
    plain = torch.cat([logits[3:4], logits[1 - given.shape[0] :]])[:, : given.shape[1]].float()
    return float((plain - given).abs().mean() / (plain.std() + 1e-9))
