"""What runners hold of weights, by storage, so that what several share is counted once."""

from collections.abc import Iterator

from torch import Tensor, nn

from ..protocol import Runner
from .adapted import AdaptedRunner
from .heads import HeadRunner
from .prepacked import PrepackedLinear
from .runner import HfRunner


def storages(runner: Runner) -> dict[int, int] | None:
    """Bytes of each storage that the runner's weights stand in; None for a runner that is no model of transformers."""
    if isinstance(runner, AdaptedRunner):
        own = [factor for factors in runner.adapter.factors.values() for factor in factors]
        return _sizes([*_tensors(runner.served_by.model), *own])
    if isinstance(runner, HeadRunner):
        return _sizes([tensor for module in runner.modules for tensor in _tensors(module)])
    return _sizes([*_tensors(runner.model)]) if isinstance(runner, HfRunner) else None


def _tensors(whole: nn.Module) -> Iterator[Tensor]:
    yield from (*whole.parameters(), *whole.buffers())
    for module in whole.modules():
        if isinstance(module, PrepackedLinear):
            yield from module.tensors()


def _sizes(tensors: list[Tensor]) -> dict[int, int]:
    """A prepacked tensor, whose storage is opaque, counts as one of its own."""
    return {
        id(tensor) if tensor.is_mkldnn else tensor.untyped_storage().data_ptr(): (
            tensor.numel() * tensor.element_size() if tensor.is_mkldnn else tensor.untyped_storage().nbytes()
        )
        for tensor in tensors
    }
