"""Passes padded to few shapes give the rows of an unbatched forward pass, and so do recorded ones, replayed."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from cospec import Ensemble, SamplingParams, demo
from cospec.errors import InvalidEnsemble, UnsupportedModel
from cospec.runner import Feed
from cospec.runner.hf import HfRunner, LoadOptions, load
from cospec.runner.hf import graphs as module
from cospec.runner.hf.batch import RaggedBatch
from cospec.runner.hf.graphs import NUM_UNCAPTURED, FixedShapes, Passed, Shape, Shapes, shape_of

from .heads import read_by_head
from .models import saved, tiny
from .test_hf_runner import SUPPORTED, Book, play, words

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
CPU = torch.device("cpu")


@dataclass
class Replayed:
    """Stands for a graph: what it was recorded with is done again, and the result left where it was left first."""

    work: Callable[[], Passed]
    keys: Tensor
    recorder: "CpuRecorder"
    results: Sequence[Tensor | None]

    def __call__(self) -> Passed:
        assert self.recorder.cache.slot_layers[0].keys is self.keys, "a graph knows the cache by its address"
        for other in self.recorder.results:
            other.fill_(torch.nan)
        logits, states = (
            None if new is None else kept.copy_(new) for kept, new in zip(self.results, self.work(), strict=True)
        )
        return logits, states


class CpuRecorder:
    """Stands for the recorder of CUDA graphs. Its graphs share memory: each replay spoils all other results."""

    def __init__(self, cache: module.SlotCache) -> None:
        self.cache = cache
        self.results: list[Tensor] = []

    def record(self, work: Callable[[], Passed]) -> Replayed:
        results = [None if made is None else made.clone() for made in work()]
        self.results += [made for made in results if made is not None]
        return Replayed(work, self.cache.slot_layers[0].keys, self, results)


@pytest.fixture
def recorded_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    original = FixedShapes.reset

    def reset(self: FixedShapes) -> None:
        monkeypatch.setattr(module, "GraphRecorder", lambda device: CpuRecorder(self._cache))
        original(self)

    monkeypatch.setattr(FixedShapes, "reset", reset)


def fixed(kind: str = "llama", shapes: Shapes = Shapes.FIXED) -> Book:
    return Book(HfRunner(tiny(kind), shapes=shapes))


def shapes_used(book: Book) -> set[Shape]:
    assert book.runner.fixed is not None
    return set(book.runner.fixed._passes)


def window(slots: list[int], starts: list[int], counts: list[int]) -> RaggedBatch:
    return RaggedBatch(slots=slots, starts=starts, counts=counts, device=CPU)


def play_and_repeat(book: Book, rng: random.Random, num_turns: int) -> None:
    """Passes of many shapes, then of two, until those are captured."""
    slots = play(book, rng, num_slots=5, num_turns=num_turns)
    for _ in range(2 * NUM_UNCAPTURED):
        book.feed(*((slot, words(rng, 1), 1) for slot in slots))
        book.feed((slots[2], words(rng, 1), 1))


def test_a_window_goes_into_the_smallest_shape_that_holds_it() -> None:
    assert shape_of(window([1], [0], [1])) == Shape(1, 1, 128, is_leading=True)
    assert shape_of(window([1, 2, 3], [127, 4, 5], [1, 3, 2])) == Shape(4, 4, 128, is_leading=True)
    assert shape_of(window([2, 3], [120, 0], [9, 9])) == Shape(2, 16, 256, is_leading=False)
    assert shape_of(window([1, 3], [0, 0], [2, 1])) == Shape(2, 2, 128, is_leading=False)


@pytest.mark.parametrize("kind", SUPPORTED)
def test_padded_passes_give_the_logits_of_an_unbatched_forward(kind: str) -> None:
    book = fixed(kind)
    play_and_repeat(book, random.Random(kind), 8)
    used = shapes_used(book)
    assert {shape.rows for shape in used} >= {1, 8}
    assert len({shape.width for shape in used}) >= 2
    assert {shape.is_leading for shape in used} == {True, False}


@pytest.mark.parametrize("kind", ["llama", "gemma3", "mistral"])
def test_the_cache_grows_midway_and_keeps_what_it_holds(kind: str) -> None:
    rng = random.Random(1)
    book = fixed(kind)
    first = book.open()
    book.feed((first, words(rng, 120), 1))
    for count in (5, 4, 16, 1, 16, 16, 3):
        book.feed((first, words(rng, count), count))
    book.feed((first, words(rng, 70), 1))
    more = [book.open() for _ in range(6)]
    # Past 256 positions and to seven slots, both in padded passes.
    book.feed((first, words(rng, 9), 2), *((slot, words(rng, rng.randint(1, 9)), 1) for slot in more))
    book.feed((more[4], words(rng, 2), 1), (first, words(rng, 3), 2))
    assert {shape.length for shape in shapes_used(book)} == {256, 512} or {512}
    assert book.runner._cache.slot_layers[0].keys.shape[::2] == (9, 512)


def test_padding_never_touches_another_slot() -> None:
    rng = random.Random(2)
    book = fixed()
    slots = [book.open() for _ in range(3)]
    book.feed(*((slot, words(rng, 5), 1) for slot in slots))
    kept = book.runner._cache.slot_layers[0].keys[slots[1].index].clone()
    book.feed((slots[0], words(rng, 3), 1), (slots[2], words(rng, 6), 1))
    # Room for more positions may have been added.
    found = book.runner._cache.slot_layers[0].keys[slots[1].index]
    assert torch.equal(found[:, : kept.shape[1]], kept)
    assert not found[:, kept.shape[1] :].any()


def test_rows_are_in_memory_of_their_own() -> None:
    runner = fixed().runner
    slot = runner.open()
    runner.feed([Feed(slot, [1, 2], 1)])
    (rows,) = runner.feed([Feed(slot, [3], 1)])
    before = rows.clone()
    runner.feed([Feed(slot, [4], 1)])
    assert torch.equal(rows, before)


@pytest.mark.usefixtures("recorded_on_cpu")
@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt2"])
def test_recorded_passes_read_inputs_and_leave_rows_where_they_should(kind: str) -> None:
    book = fixed(kind, Shapes.CAPTURED)
    play_and_repeat(book, random.Random(3), 30)
    assert book.runner.fixed is not None
    assert book.runner.fixed.num_captured >= 2


@pytest.mark.usefixtures("recorded_on_cpu")
def test_a_pass_is_recorded_once_it_recurs_and_dropped_when_the_cache_grows() -> None:
    rng = random.Random(4)
    book = fixed(shapes=Shapes.CAPTURED)
    fixed_shapes = book.runner.fixed
    assert fixed_shapes is not None
    slot = book.open()
    captured = []
    # The first pass of all allocates the cache.
    for _ in range(NUM_UNCAPTURED + 3):
        book.feed((slot, words(rng, 1), 1))
        captured.append(fixed_shapes.num_captured)
    assert captured == [0] * (NUM_UNCAPTURED + 1) + [1, 1]
    book.feed((book.open(), words(rng, 300), 1))
    book.feed((slot, words(rng, 1), 1))
    assert fixed_shapes.num_captured == 0


@pytest.mark.usefixtures("recorded_on_cpu")
def test_recorded_passes_hand_out_hidden_states_from_when_they_are_asked_for() -> None:
    model = tiny("llama")
    runner = HfRunner(model, shapes=Shapes.CAPTURED)
    text = [(5 * i + 3) % 100 for i in range(2 * NUM_UNCAPTURED + 8)]
    slot = runner.open()
    for token in text[: NUM_UNCAPTURED + 3]:
        runner.feed([Feed(slot, [token], 1)])
    assert runner.fixed is not None
    assert runner.fixed.num_captured == 1
    kept = runner.keep_states(slot)
    for token in text[NUM_UNCAPTURED + 3 :]:
        runner.feed([Feed(slot, [token], 1)])
    assert runner.fixed.num_captured == 1
    wanted = read_by_head(model, text)
    assert [start for start, _ in kept.stretches] == [*range(NUM_UNCAPTURED + 3, len(text))]
    for start, states in kept.stretches:
        torch.testing.assert_close(states[0], wanted[start], rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module", params=["demo:we", "demo:guided"])
def loaded(request: pytest.FixtureRequest) -> list[Ensemble]:
    """A bundled ensemble whose passes are as given, and one whose passes are padded."""
    return [Ensemble.load(request.param, graphs=graphs, device="cpu") for graphs in (False, "shapes")]


@pytest.mark.parametrize("verification", ["token", "coupled"])
@pytest.mark.parametrize("schedule", ["plain", "fixed", "alternate"])
def test_outputs_are_those_of_passes_as_given(loaded: list[Ensemble], verification: str, schedule: str) -> None:
    temperature = 0.0 if verification == "token" else 1.0
    params = SamplingParams(max_tokens=20, temperature=temperature, seed=5)
    given, padded = (ensemble.with_plan(schedule=schedule, verification=verification) for ensemble in loaded)
    prompts = demo.prompts()[:5]
    wanted = [result.token_ids for result in given.generate(prompts, params)]
    assert [result.token_ids for result in padded.generate(prompts, params)] == wanted
    assert padded.generate(prompts[0], params)[0].token_ids == given.generate(prompts[0], params)[0].token_ids


@pytest.mark.parametrize("graphs", ["always", 1, None])
def test_unknown_graphs_are_refused(graphs: object) -> None:
    with pytest.raises(InvalidEnsemble, match=r"graphs .* is not known; use auto, shapes, true or false"):
        LoadOptions(graphs=graphs)  # type: ignore[arg-type]


def test_graphs_are_refused_without_cuda() -> None:
    with pytest.raises(InvalidEnsemble, match="only be captured on a CUDA device; use auto, shapes or false"):
        LoadOptions(graphs=True, device="cpu")


def test_options_choose_the_shapes(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = str(saved(tmp_path_factory.mktemp("llama")))
    assert load(folder, LoadOptions(device="cpu")).fixed is None
    assert load(folder, LoadOptions(device="cpu", graphs=False)).fixed is None
    assert load(folder, LoadOptions(device="cpu", graphs="shapes")).fixed is not None


@needs_cuda
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma3", "gpt2"])
def test_captured_passes_give_the_rows_of_passes_as_given(kind: str) -> None:
    rng = random.Random(6)
    model = tiny(kind).to("cuda")
    runners = [HfRunner(model, shapes=shapes) for shapes in (Shapes.AS_GIVEN, Shapes.CAPTURED)]
    slots = [[runner.open() for _ in range(5)] for runner in runners]
    for turn in range(60):
        # Past the cache's first 256 positions, so that graphs are dropped and captured anew.
        most = 40 if turn == 30 else 3
        chosen = sorted(rng.sample(range(5), rng.choice((1, 5))))
        fed = [(index, words(rng, 250 if turn == 30 else rng.randint(1, most))) for index in chosen]
        rows = [
            runner.feed([Feed(own[index], tokens, len(tokens)) for index, tokens in fed])
            for runner, own in zip(runners, slots, strict=True)
        ]
        torch.testing.assert_close(rows[1], rows[0], atol=1e-4, rtol=0)
        trimmed = rng.randrange(5)
        for runner, own in zip(runners, slots, strict=True):
            runner.trim(own[trimmed], own[trimmed].length // 2)
    assert runners[1].fixed is not None
    assert runners[1].fixed.num_captured >= 2


@needs_cuda
def test_a_model_that_waits_for_the_device_runs_as_given_unless_graphs_are_demanded(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(saved(tmp_path_factory.mktemp("llama")))
    assert load(folder, LoadOptions(device="cuda")).fixed is not None
    original = module.FixedBatch.read

    def waiting(self: module.FixedBatch, stored: Tensor) -> Tensor:
        stored.sum().item()
        return original(self, stored)

    monkeypatch.setattr(module.FixedBatch, "read", waiting)
    assert load(folder, LoadOptions(device="cuda")).fixed is None
    with pytest.raises(UnsupportedModel, match="cannot be captured as a CUDA graph"):
        load(folder, LoadOptions(device="cuda", graphs=True))
    assert torch.rand(1, device="cuda").isfinite()
