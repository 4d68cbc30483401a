"""Settling: decide positions of sequences' sheets, from the first, as long as their cells are filled; and drafting."""

from .decide import refine, settle
from .policy import Policy
from .propose import propose
from .score import TokenLogprob, score

__all__ = ["Policy", "TokenLogprob", "propose", "refine", "score", "settle"]
