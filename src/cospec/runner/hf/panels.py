"""Weights in panels of outputs, in the narrowest type that holds them exactly, for a CPU's products of few tokens.

A product of few rows waits for memory. Weights that a model was stored with in bfloat16 are the same in float32, and
take twice the time to read: here they stay as narrow as they were, and each is widened as it is used, whatever type the
model computes in; but of a layer in bfloat16, on a CPU that multiplies pairs of those, rows are rounded to it instead.
All sums are in float32.
"""

import importlib
import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from .prepacked import PrepackedLinear

logger = logging.getLogger(__name__)

# Types of two bytes that a weight in float32 may be held in without loss.
_NARROW = (torch.bfloat16, torch.float16)
_TYPES = (torch.float32, *_NARROW)
# Weights that are compared at once with what they are in a narrower type.
_PART = 2**16
# How far sums of magnitude 1 may be apart, in float32.
TOLERANCE = 1e-5


class PanelLinear(PrepackedLinear):
    """A linear layer whose output's bits are a function of its row of x alone, however many there are.

    weight: [out, in]. bias: [out]. is_wide: whether outputs are in float32; otherwise they are of x's type.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, *, is_wide: bool = False) -> None:
        super().__init__(weight, bias)
        self._dtype, self._is_wide = weight.dtype, is_wide
        self.has_bias = bias is not None
        made = tiles()
        # The type of the weights, or that they are paired, as `compiled.tiles` numbers it.
        is_paired = self._dtype == torch.bfloat16 and made.CAN_PAIR and self.in_features % 2 == 0
        self.stored: int = made.PAIRED if is_paired else made.STORED.index(self._weight.dtype)
        self._bias = torch.zeros(self._weight.shape[0] * self._weight.shape[2])
        if bias is not None:
            self._bias[: self.out_features] = bias.detach()

    @staticmethod
    def _laid_out(weight: Tensor) -> Tensor:
        """[panels, in, PANEL], with zeros behind the last output."""
        made = tiles()
        num_outputs, num_inputs = weight.shape
        num_panels = -(-num_outputs // (made.PANEL * made.PANELS_AT_ONCE)) * made.PANELS_AT_ONCE
        panels = weight.new_zeros((num_panels, num_inputs, made.PANEL), dtype=stored_in(weight))
        # Row by row of each panel, and without a copy beside it: a head's would be the most that loading ever holds.
        num_full, num_left = divmod(num_outputs, made.PANEL)
        rows = panels.transpose(1, 2)
        rows[:num_full].copy_(weight[: num_outputs - num_left].view(num_full, made.PANEL, num_inputs))
        if num_left:
            rows[num_full, :num_left].copy_(weight[num_outputs - num_left :])
        return panels

    @property
    def width(self) -> int:
        """Outputs, with those that fill the last panels up."""
        assert self._bias is not None
        return self._bias.shape[0]

    @property
    def weight(self) -> Tensor:
        rows = self._weight.transpose(1, 2).reshape(-1, self.in_features)
        return rows[: self.out_features].to(self._dtype)

    @property
    def bias(self) -> Tensor | None:
        assert self._bias is not None
        return self._bias[: self.out_features].to(self._dtype) if self.has_bias else None

    def rows(self, outputs: Tensor) -> Tensor:
        panel = self._weight.shape[2]
        return self._weight.transpose(1, 2)[outputs // panel, outputs % panel].to(self._dtype)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in]. Raises ValueError for another number of inputs."""
        assert self._bias is not None
        if x.shape[-1] != self.in_features:
            raise ValueError(f"x has {x.shape[-1]} columns, and the layer reads {self.in_features}")
        dtype = torch.bfloat16 if self.stored == tiles().PAIRED else torch.float32
        rows = x.reshape(-1, self.in_features).to(dtype).contiguous()
        num_rows, width = rows.shape[0], self.width
        out = rows.new_empty((num_rows, width), dtype=torch.float32)
        addresses = [each.data_ptr() for each in (self._weight, self._bias, rows, out)]
        tiles().linear(self.stored, addresses, num_rows, self.in_features, width)
        if width > self.out_features:
            out = out[:, : self.out_features].contiguous()
        if not self._is_wide and x.dtype != torch.float32:
            out = out.to(x.dtype)
        return out if x.dim() == 2 else out.view(*x.shape[:-1], self.out_features)


class PanelEmbedding(nn.Module):
    """An embedding whose rows are the weights of a head that is tied to it, and which are held there alone."""

    def __init__(self, head: PanelLinear, dtype: torch.dtype) -> None:
        super().__init__()
        self.head = head
        # transformers takes a model's type and device from its first parameter, which an embedding's weight is.
        self._like = nn.Parameter(torch.empty(0, head.in_features, dtype=dtype), requires_grad=False)

    @property
    def weight(self) -> Tensor:
        """A copy, row-major, [tokens, dim]."""
        return self.head.weight

    def forward(self, ids: Tensor) -> Tensor:
        """ids: [...], below the number of tokens. [..., dim]."""
        return self.head.rows(ids)


def stored_in(weight: Tensor) -> torch.dtype:
    """The narrowest type in which the weight is the same."""
    if weight.dtype in _NARROW:
        return weight.dtype
    # A part at a time: most weights that are not the same are found by their first ones, and others are not copied.
    parts = torch.split(weight.flatten(), _PART)
    for narrow in _NARROW:
        if all(torch.equal(part.to(narrow).to(part.dtype), part) for part in parts):
            return narrow
    return weight.dtype


@cache
def tiles() -> Any:
    """`compiled.tiles`, compiled when it is first asked for. Raises what its import does."""
    return importlib.import_module(f"{__package__}.compiled.tiles")


@cache
def can_panel(dtype: torch.dtype) -> bool:
    """Whether this machine has what such products need, and they give what a linear layer does."""
    if dtype not in _TYPES:
        return False
    linear = nn.Linear(16, 80, dtype=dtype)
    x = torch.linspace(-1, 1, 7 * 16).view(7, 16).to(dtype)
    expected = x.double() @ linear.weight.double().t() + linear.bias.double()
    with torch.inference_mode():
        try:
            found = PanelLinear(linear.weight, linear.bias, is_wide=True)(x)
        except Exception:  # numba is missing or does not know this numpy, or this machine: the other products remain
            logger.debug("weights cannot be kept in panels", exc_info=True)
            return False
    return torch.allclose(found.double(), expected, atol=TOLERANCE)
