"""Weights in panels of outputs, in the narrowest type that holds them exactly, for a CPU's products of few tokens.

A product of few rows waits for memory. Weights that a model was stored with in bfloat16 are the same in float32, and
take twice the time to read: here they stay as narrow as they were, and each is widened as it is used, whatever type the
model computes in. All sums are in float32.
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
        # The type of the weights, as `compiled.tiles` numbers it.
        self.stored = int(tiles().STORED.index(self._weight.dtype))
        self._bias = torch.zeros(self._weight.shape[0] * self._weight.shape[2])
        if bias is not None:
            self._bias[: self.out_features] = bias.detach()

    @staticmethod
    def _laid_out(weight: Tensor) -> Tensor:
        """[panels, in, PANEL], with zeros behind the last output."""
        made = tiles()
        num_outputs, num_inputs = weight.shape
        at_once = made.PANEL * made.PANELS_AT_ONCE
        rows = weight.new_zeros((-num_outputs % at_once, num_inputs), dtype=stored_in(weight))
        rows = torch.cat((weight.to(rows.dtype), rows))
        return rows.view(-1, made.PANEL, num_inputs).transpose(1, 2).contiguous()

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

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in]. Raises ValueError for another number of inputs."""
        assert self._bias is not None
        if x.shape[-1] != self.in_features:
            raise ValueError(f"x has {x.shape[-1]} columns, and the layer reads {self.in_features}")
        rows = x.reshape(-1, self.in_features).to(torch.float32).contiguous()
        num_rows, width = rows.shape[0], self.width
        out = rows.new_empty((num_rows, width))
        addresses = [each.data_ptr() for each in (self._weight, self._bias, rows, out)]
        tiles().linear(self.stored, addresses, num_rows, self.in_features, width)
        if width > self.out_features:
            out = out[:, : self.out_features].contiguous()
        if not self._is_wide and x.dtype != torch.float32:
            out = out.to(x.dtype)
        return out if x.dim() == 2 else out.view(*x.shape[:-1], self.out_features)


def stored_in(weight: Tensor) -> torch.dtype:
    """The narrowest type in which the weight is the same."""
    if weight.dtype in _NARROW:
        return weight.dtype
    # Most weights that are not the same are found by their first ones.
    first = weight.flatten()[:1024]
    for narrow in _NARROW:
        if all(torch.equal(part.to(narrow).to(part.dtype), part) for part in (first, weight)):
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
