"""An ensemble whose answers tell which process gave them, and which can be killed from outside."""

import os

from cospec import Ensemble, Member

POISON = (7, 7, 7, 7)


class Killable:
    """A runner whose thread ends, as no exception of a model's does, once it is fed the poison."""

    def __init__(self, runner):
        self._runner = runner

    def __getattr__(self, name):
        return getattr(self._runner, name)

    def feed(self, batch):
        if any(tuple(feed.tokens[:4]) == POISON for feed in batch):
            raise SystemExit("poisoned")
        return self._runner.feed(batch)


def load():
    members = [Member(model="demo:math", name=f"process {os.getpid()}"), Member(model="demo:general")]
    # In bfloat16, which "auto" chooses on some CPUs, the text of a seed may depend on its batch.
    ensemble = Ensemble(members, proposer="demo:drafter", dtype="float32")
    ensemble.runners = [Killable(ensemble.runners[0]), *ensemble.runners[1:]]
    return ensemble
