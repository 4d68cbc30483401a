"""Inflate a bundled model to a larger shape: its logits stay the small model's, its cost becomes the large one's.

    python benchmarks/inflate.py demo:math OUT --shape 400m

The residual stream and the embedding are padded with zeros, norm weights are rescaled by sqrt(h / H) and their epsilon
by h / H (a mean over H entries of which h are not zero), the outputs of extra heads and neurons are multiplied by zero,
and extra layers add nothing. Weights that are multiplied by zeros alone are random, so that arithmetic takes its usual
time.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from cospec import demo

HEAD_DIM = 64


@dataclass(frozen=True)
class Shape:
    """A model's width, layers and MLP neurons. Heads follow from the width, two query heads to a key-value head."""

    hidden: int
    layers: int
    intermediate: int


SHAPES = {
    "57m": Shape(512, 18, 1408),
    "100m": Shape(1024, 8, 2816),
    "400m": Shape(1024, 34, 2816),
    "1.3b": Shape(2048, 28, 5632),
    "qwen2.5-1.5b": Shape(1536, 28, 8960),
    "qwen2.5-3b": Shape(2048, 36, 11008),
    "llama-3-8b": Shape(4096, 32, 14336),
}


def inflate(
    source: str | Path, out: Path, shape: Shape, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> int:
    """Write the inflated model and its tokenizer to `out`; its number of parameters.

    device: where the random weights are drawn; a CPU takes minutes for billions of them.
    Raises ValueError where the shape is smaller in some dimension, or its width does not divide into heads.
    """
    path = demo.model_path(str(source)) if demo.is_demo(str(source)) else str(source)
    small = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32)
    _check(small.config, shape)
    torch.manual_seed(0)
    with torch.device(device):
        large = LlamaForCausalLM(_widened(small.config, shape))
    _copy(small, large, shape)
    large.to(dtype).save_pretrained(out)
    AutoTokenizer.from_pretrained(path).save_pretrained(out)
    return large.num_parameters()


def _check(config: LlamaConfig, shape: Shape) -> None:
    small = Shape(config.hidden_size, config.num_hidden_layers, config.intermediate_size)
    is_larger = shape.hidden >= small.hidden and shape.layers >= small.layers
    if not is_larger or shape.intermediate < small.intermediate or shape.hidden % (2 * HEAD_DIM):
        raise ValueError(f"{shape} must be at least {small}, its width a multiple of {2 * HEAD_DIM}")


def _widened(config: LlamaConfig, shape: Shape) -> LlamaConfig:
    values = config.to_dict()
    values.update(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // HEAD_DIM,
        # The ratio of query to key-value heads stays, so that each of the small model's heads reads its own keys.
        num_key_value_heads=shape.hidden // HEAD_DIM * config.num_key_value_heads // config.num_attention_heads,
        head_dim=HEAD_DIM,
        rms_norm_eps=config.rms_norm_eps * config.hidden_size / shape.hidden,
    )
    return LlamaConfig(**values)


@torch.no_grad()
def _copy(small: LlamaForCausalLM, large: LlamaForCausalLM, shape: Shape) -> None:
    scale = math.sqrt(small.config.hidden_size / shape.hidden)
    _put(large.model.embed_tokens.weight.zero_(), small.model.embed_tokens.weight)
    _put(large.model.norm.weight, small.model.norm.weight * scale)
    for layer in large.model.layers:
        # All that a layer adds to the residual stream goes through these two.
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    for source, layer in zip(small.model.layers, large.model.layers, strict=False):
        for name, weight in source.named_parameters():
            _put(layer.get_parameter(name), weight * scale if "layernorm" in name else weight)


def _put(target: Tensor, source: Tensor) -> None:
    """Copy `source` into the first entries of `target` in every dimension."""
    target[tuple(slice(0, size) for size in source.shape)] = source


def main() -> None:
    parser = argparse.ArgumentParser(description="Inflate a bundled model: its logits stay, its cost grows.")
    parser.add_argument("source", help="a bundled model such as demo:math, or a folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="400m")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    count = inflate(arguments.source, arguments.out, SHAPES[arguments.shape], getattr(torch, arguments.dtype))
    print(f"{arguments.out}: {count / 1e6:.0f} M parameters")


if __name__ == "__main__":
    main()
