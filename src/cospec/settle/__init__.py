"""Settling: decide positions of sequences' sheets, from the first, as long as their cells are filled; and drafting."""

from .decide import refine, settle
from .policy import Policy, is_coupled
from .propose import propose
from .score import TokenLogprob, score

__all__ = ["Policy", "TokenLogprob", "is_coupled", "propose", "refine", "score", "settle"]
