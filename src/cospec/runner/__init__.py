"""The seam to models: feed tokens to a slot, get rows of logits back."""

from . import toy
from .protocol import Feed, Runner, Slot, Tokenizer

__all__ = ["Feed", "Runner", "Slot", "Tokenizer", "toy"]
