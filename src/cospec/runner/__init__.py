"""The seam to models: feed tokens to a slot, get rows of logits back."""

from . import toy
from .options import LoadOptions
from .protocol import Feed, Runner, Slot, Tokenizer

__all__ = ["Feed", "LoadOptions", "Runner", "Slot", "Tokenizer", "toy"]
