"""Random drafting heads, in folders, and what transformers says of the hidden states that they read."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from cospec.runner.hf.head import DraftHead, HeadShape

WIDTH = 12


def head_in(
    folder: Path, base: str, *, members: int = 2, hidden: int = 32, tokens: Sequence[int], seed: int = 0
) -> DraftHead:
    """Put a random drafting head into the folder; the head, in float32."""
    torch.manual_seed(seed)
    head = DraftHead(HeadShape(members=members, hidden=hidden, width=WIDTH, vocabulary=len(tokens)))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_((torch.randn_like(parameter) * (2 * parameter.shape[-1] ** -0.5)).half())
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half() for name, tensor in head.state_dict().items()}, folder / "head.safetensors")
    described = {"members": members, "hidden": hidden, "width": WIDTH}
    describe(folder, head=described, base=base, vocabulary=[*tokens], acceptance=0.5)
    return head.eval()


def describe(folder: Path, **settings: object) -> None:
    """Write cospec.json, or change what it says."""
    path = folder / "cospec.json"
    own = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({name: value for name, value in {**own, **settings}.items() if value is not None}))


@torch.inference_mode()
def read_by_head(model: PreTrainedModel, tokens: Sequence[int]) -> Tensor:
    """[tokens, hidden]: what the output embedding reads in an ordinary pass."""
    read: list[Tensor] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    model(input_ids=torch.tensor([[*tokens]]), use_cache=False)
    hook.remove()
    return read[0][0]


@torch.inference_mode()
def proposed(head: DraftHead, embedding: Tensor, hidden: Tensor, tokens: Sequence[int]) -> Tensor:
    """The head's logits behind these tokens, where the members' hidden states [members, hidden] are those before."""
    state = head.begin(hidden[None])
    for token in tokens:
        state = head.advance(state, embedding[token][None])
    return head.logits(state)[0]
