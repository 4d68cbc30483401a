"""Threads on a machine that others use too: those of a forward pass wait for one another, and so for the others."""

import torch

from ..ensemble import Ensemble
from ..runner.threads import paying_threads
from .options import LocalOptions
from .output import print_note


def built_on_free_cores(models: LocalOptions) -> Ensemble:
    """The ensemble, its models loaded and decoded with as many threads as pay, where no number was asked for. Raises as
    `LocalOptions.build` does."""
    if models.threads is None:
        leave_busy_cores()
    return models.build()


def leave_busy_cores() -> None:
    """Have torch use as many threads as pay now, and say so where that is fewer."""
    most = torch.get_num_threads()
    threads = paying_threads(most)
    if threads < most:
        torch.set_num_threads(threads)
        print_note(f"{threads} of {most} CPU threads: others use the cores; --threads sets their number")
