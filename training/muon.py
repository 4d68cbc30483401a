"""Muon (Jordan et al. 2024) in the weights' own precision.

torch.optim.Muon orthogonalises in bfloat16, which a CPU without matrix units for it emulates forty times slower.
"""

from collections import defaultdict

import torch
from torch import Tensor

# Coefficients of the quintic iteration of Jordan et al.: it drives all singular values towards one, fast rather than
# exactly.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5


def orthogonalise(matrices: Tensor) -> Tensor:
    """[n, rows, columns] -> the nearest semi-orthogonal matrices, roughly."""
    a, b, c = COEFFICIENTS
    x = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NUM_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if matrices.shape[1] > matrices.shape[2] else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; matrices of one shape go through the iteration together."""

    def __init__(self, parameters: list[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                directions = [self._momentum(parameter, group["momentum"]) for parameter in parameters]
                for parameter, update in zip(parameters, orthogonalise(torch.stack(directions)), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(update, alpha=group["lr"] * scale)

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - momentum)
        return parameter.grad.lerp(state["momentum"], momentum)
