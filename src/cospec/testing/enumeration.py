"""The exact law of what a real engine writes: every random outcome is a branch with its probability.

A uniform is known by the key that the engine asks it with (position, purpose, epoch), as in `Draws`, and what is
known of it is an interval. A comparison splits the interval, a categorical draw cuts it at the running sums, and
the same key asked again answers by what it said before. So a draw that is used twice shows as a wrong law.

States of the engine that agree in all that may matter from there on are merged, which keeps the tree small.
"""

import copy
import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar
from unittest import mock

import torch
from torch import Tensor

from ..core.counts import DraftCounts
from ..core.draws import Purpose
from ..core.engine import Engine
from ..core.sheet import Sheet
from ..runner.toy import FunctionSlot

Law = dict[tuple[int, ...], float]
"""The tokens of a text -> its probability."""

Outcome = TypeVar("Outcome")
Key = tuple[int, int, int]
Intervals = dict[Key, tuple[float, float]]

# What only rounding can bring about: thinner branches are not followed.
SLIVER = 1e-13
# Draws that a position has once, in whatever epoch it is asked.
OF_POSITION = (Purpose.SETTLE,)


@dataclass
class Path:
    """One way through the random outcomes. script: the branches to take, as far as they are laid down."""

    script: list[int]
    intervals: Intervals
    probability: float = 1.0
    widths: list[int] = field(default_factory=list)

    def cell(self, key: Key, cuts: list[float]) -> int:
        """In which of the cells between the cuts the uniform lies; from then on it lies there."""
        low, high = self.intervals.get(key, (0.0, 1.0))
        edges = [low, *(min(max(cut, low), high) for cut in cuts), high]
        cells = [
            (index, a, b) for index, (a, b) in enumerate(itertools.pairwise(edges)) if b - a > SLIVER * (high - low)
        ]
        index, a, b = cells[self._branch(len(cells))]
        self.probability *= (b - a) / (high - low)
        self.intervals[key] = (a, b)
        return index

    def _branch(self, width: int) -> int:
        if width == 1:
            return 0
        if len(self.widths) == len(self.script):
            self.script.append(0)
        self.widths.append(width)
        return self.script[len(self.widths) - 1]

    def successor(self) -> list[int] | None:
        """The script of the next way through, depth first."""
        script = self.script[: len(self.widths)]
        while script and script[-1] + 1 == self.widths[len(script) - 1]:
            script.pop()
        return [*script[:-1], script[-1] + 1] if script else None


@dataclass(frozen=True)
class Uniform:
    """A number in (0, 1) that is asked about but never told. `scale` times it is what is compared."""

    path: Path
    key: Key
    scale: float = 1.0

    def __mul__(self, factor: float) -> "Uniform":
        return Uniform(self.path, self.key, self.scale * factor)

    def __lt__(self, limit: float) -> bool:
        return self.path.cell(self.key, [limit / self.scale]) == 0

    def __ge__(self, limit: float) -> bool:
        return not self < limit

    def token(self, probs: Tensor) -> int:
        running = probs.double().cumsum(0)
        return self.path.cell(self.key, (running / running[-1]).tolist()[:-1])


def draw(probs: Tensor, uniforms: Sequence[Uniform]) -> list[int]:
    """Stands in for `draws.draw`."""
    return [uniform.token(row) for row, uniform in zip(probs, uniforms, strict=True)]


@contextmanager
def branching() -> Iterator[None]:
    """Wherever cospec draws a token by a uniform, it draws by a Uniform."""
    stand_ins = {
        "core.propose.draw": draw,
        "core.noise.gumbel": gumbel,
        "core.noise.noisy_best": noisy_best,
        "core.verify.draw": draw,
    }
    with ExitStack() as stack:
        for name, stand_in in stand_ins.items():
            stack.enter_context(mock.patch(f"cospec.{name}", stand_in))
        yield


def outcomes(
    fn: Callable[[Path], Outcome], intervals: Intervals | None = None
) -> Iterator[tuple[float, Outcome, Intervals]]:
    """Every way through `fn`: its probability, what `fn` returned, and what is then known of the uniforms."""
    script: list[int] | None = []
    while script is not None:
        path = Path(script, dict(intervals or {}))
        result = fn(path)
        yield path.probability, result, path.intervals
        script = path.successor()


@dataclass(frozen=True)
class EnumeratedDraws:
    """Stands in for `Draws`. Draws of settled positions and of past epochs are gone: asking for one fails."""

    path: Path
    position: int
    epoch: int

    def uniform(self, position: int, purpose: Purpose, epoch: int = 0) -> Uniform:
        assert position >= self.position, "a draw of a settled position"
        assert purpose in OF_POSITION or epoch >= self.epoch, "a draw of an epoch that is past"
        return Uniform(self.path, (position, purpose, epoch))

    def noise_keys(self, start: int, num_positions: int) -> list[Uniform]:
        return [self.uniform(position, Purpose.SETTLE) for position in range(start, start + num_positions)]


def gumbel(keys: Sequence[Uniform], like: Tensor, ids: Tensor | None = None) -> Tensor:
    """Stands in for `gumbel.gumbel`: noise that makes a token the argmax with its probability. It comes from one
    uniform a position, so that two who ask for the noise of one position with rows of their own are coupled by it, as
    they are by Gumbel's."""
    noise = torch.full_like(like, -torch.inf)
    for row, uniform in enumerate(keys):
        noise[row, uniform.token(like[row].exp())] = 0.0
    return noise


def noisy_best(key: Uniform, log_p: Tensor) -> int:
    """Stands in for `gumbel.noisy_best`."""
    return key.token(log_p.exp())


@dataclass
class State:
    """The engine between two rounds, how probable it is to come by here, and what is known of draws still to come."""

    engine: Engine
    intervals: Intervals
    probability: float


def engine_law(engine: Engine) -> Law:
    """The law of the text of the one sequence that the engine holds."""
    law: Law = {}
    start = State(engine, {}, 1.0)
    states = {_signature(start): start}
    # In the order of their progress, so that all that leads to a state has been added up when it is taken.
    queue = [(_progress(start), 0, _signature(start))]
    numbers = itertools.count(1)
    with branching():
        while queue:
            progress, _, signature = heapq.heappop(queue)
            for following, text in _rounds(states.pop(signature)):
                if text is not None:
                    law[text] = law.get(text, 0.0) + following.probability
                    continue
                assert _progress(following) > progress, "a round that moved nothing"
                name = _signature(following)
                if name in states:
                    states[name].probability += following.probability
                else:
                    states[name] = following
                    heapq.heappush(queue, (_progress(following), next(numbers), name))
    return law


def _rounds(state: State) -> Iterator[tuple[State, tuple[int, ...] | None]]:
    """What one round may lead to: the state after it, and the text if that is finished."""

    def step(path: Path) -> tuple[Engine, tuple[int, ...] | None]:
        engine = _twin(state.engine)
        sheet = _sheet(engine)
        sheet.draws = EnumeratedDraws(path, sheet.position, sheet.epoch)  # type: ignore[assignment]
        (event,) = engine.step()
        assert event.sheet.error is None, event.sheet.error
        return engine, tuple(event.sheet.output) if event.result is not None else None

    for probability, (engine, text), intervals in outcomes(step, state.intervals):
        if text is None:
            intervals = _to_come(_sheet(engine), intervals)
        yield State(engine, intervals, state.probability * probability), text


def _to_come(sheet: Sheet, intervals: Intervals) -> Intervals:
    return {
        (position, purpose, epoch): interval
        for (position, purpose, epoch), interval in intervals.items()
        if position >= sheet.position and (purpose in OF_POSITION or epoch >= sheet.epoch)
    }


def _signature(state: State) -> tuple[object, ...]:
    """All that the rest of the text may depend on. Rows are functions of the text and of what a lane was fed."""
    sheet = _sheet(state.engine)
    known = sorted(
        (position, purpose, epoch - (0 if purpose in OF_POSITION else sheet.epoch), interval)
        for (position, purpose, epoch), interval in state.intervals.items()
    )
    drafts = tuple(
        (
            draft.token,
            draft.proposer,
            *(None if each is None else tuple(each.tolist()) for each in (draft.probs, draft.ids)),
        )
        for draft in sheet.drafts
    )
    lanes = tuple((lane.length, lane.first) for lane in sheet.lanes)
    declined = tuple(lane for lane in sheet.declined if sheet.has_declined(lane))
    return tuple(sheet.output), drafts, lanes, declined, tuple(known)


def _progress(state: State) -> tuple[int, int, int]:
    """What each round adds to: positions settled, what members know, what drafters know and propose. A later one may
    fall when an earlier one grows."""
    sheet = _sheet(state.engine)
    lengths = [lane.length for lane in sheet.lanes]
    num_members = sheet.num_members
    drafted = len(sheet.drafts) + len(sheet.declined) + sum(lengths[num_members:])
    return sheet.position, sum(lengths[:num_members]), drafted


def _sheet(engine: Engine) -> Sheet:
    ((live, *others),) = [list(engine._live.values())]
    assert not others
    return live.sheet


def _twin(engine: Engine) -> Engine:
    """The same engine with a sequence of its own: whatever one does, the other does not see."""
    twin = copy.copy(engine)
    ((id, live),) = engine._live.items()
    live = copy.copy(live)
    live.sheet = copy.copy(live.sheet)
    live.sheet.output = list(live.sheet.output)
    live.sheet.drafts = list(live.sheet.drafts)
    live.sheet.proposers = {lane: _copied(counts) for lane, counts in live.sheet.proposers.items()}
    live.sheet.verified = _copied(live.sheet.verified)
    live.sheet.declined = dict(live.sheet.declined)
    live.sheet.lanes = [copy.copy(lane) for lane in live.sheet.lanes]
    for lane in live.sheet.lanes:
        assert isinstance(lane.slot, FunctionSlot), "laws are enumerated with toy runners"
        lane.slot = lane.slot.copy()
    twin._live = {id: live}
    return twin


def _copied(counts: DraftCounts) -> DraftCounts:
    return replace(counts, proposed_at=list(counts.proposed_at), accepted_at=list(counts.accepted_at))
