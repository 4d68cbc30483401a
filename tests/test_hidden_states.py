"""Members hand out the hidden states that their output embedding reads, whichever forward pass computes them."""

import random

import pytest
import torch

from cospec.runner import Feed, LoadOptions
from cospec.runner.hf import HfRunner, load
from cospec.runner.hf.compiled.forward import CompiledForward
from cospec.runner.hf.forward import ModelForward
from cospec.runner.hf.fused import FusedForward
from cospec.runner.hf.graphs import Shapes
from cospec.runner.pool import one_pool
from cospec.runner.protocol import KeptStates, hands_out_states

from .adapters import adapted
from .compiling import MISSING
from .heads import read_by_head
from .models import VOCAB, saved, tiny

NEAR = 2e-4


class Told:
    """Slots of runners, their texts, and the model that says what hidden states should be."""

    def __init__(self, *pairs):
        self.rng = random.Random(3)
        self.slots = [(runner, runner.open(), model, []) for runner, model in pairs]
        self.kept = [runner.keep_states(slot) for runner, slot, _, _ in self.slots]

    def turn(self, rows_of=None):
        """Roll some back, feed some, in one pass, and compare what is kept."""
        feeds = []
        for runner, slot, _, text in self.slots:
            if text and self.rng.random() < 0.4:
                kept = max(0, len(text) - self.rng.randrange(4))
                runner.trim(slot, kept)
                del text[kept:]
            tokens = [self.rng.randrange(2, VOCAB) for _ in range(self.rng.choice((1, 1, 2, 3, 5, 9)))]
            rows = self.rng.randrange(len(tokens) + 1)
            loose = self.rng.randrange(len(tokens))
            settled = self.rng.choice((None, len(text) + len(tokens) - loose))
            feeds.append(Feed(slot, tokens, rows, settled))
            text.extend(tokens)
        given = getattr(self.slots[0][0], "served_by", self.slots[0][0]).feed(feeds)
        for (_, _, model, text), feed, rows in zip(self.slots, feeds, given, strict=True):
            with torch.inference_mode():
                wanted = model(input_ids=torch.tensor([text]), use_cache=False).logits[0, len(text) - feed.rows :]
            torch.testing.assert_close(rows, wanted, rtol=NEAR, atol=NEAR)
        for (_, slot, model, text), kept, feed in zip(self.slots, self.kept, feeds, strict=True):
            self.check(kept, model, text)
            assert kept.stretches[-1][0] + kept.stretches[-1][1].shape[0] == len(text) == slot.length
            last = {start + i for start, states in kept.stretches for i in range(len(states))}
            assert {*range(max(0, len(text) - min(len(feed.tokens), KeptStates.MOST)), len(text))} <= last

    @staticmethod
    def check(kept: KeptStates, model, text):
        wanted = read_by_head(model, text)
        for start, states in kept.stretches:
            torch.testing.assert_close(states, wanted[start : start + len(states)], rtol=NEAR, atol=NEAR)


def play(*pairs, turns=12):
    told = Told(*pairs)
    for _ in range(turns):
        told.turn()


@pytest.mark.parametrize("kind", ["llama", "gemma2", "lfm2", "qwen3_next", "gpt2"])
def test_a_model_s_own_pass_hands_them_out(kind):
    model = tiny(kind)
    runner = HfRunner(model)
    assert isinstance(runner.forward, ModelForward)
    assert hands_out_states(runner)
    assert runner.state_size == 32
    play(*[(runner, model)] * 3)


def test_a_fused_pass_hands_them_out():
    model = tiny("qwen3")
    play(*[(HfRunner(model, forward=FusedForward(model)), model)] * 1)
    runner = HfRunner(model, forward=FusedForward(model))
    play(*[(runner, model)] * 3)


@pytest.mark.skipif(MISSING, reason="numba is not installed")
def test_a_compiled_pass_hands_them_out(tmp_path):
    runner = load(str(saved(tmp_path)), LoadOptions(dtype="float32"))
    assert isinstance(runner.forward, CompiledForward)
    play(*[(runner, tiny("llama"))] * 3)


def test_passes_of_fixed_shapes_hand_them_out_before_and_behind_what_was_captured():
    model = tiny("llama")
    runner = HfRunner(model, shapes=Shapes.FIXED)
    slot = runner.open()
    for token in range(6):
        runner.feed([Feed(slot, [token], 1)])
    play(*[(runner, model)] * 3)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_invariant_passes_hand_them_out(kind, tmp_path):
    runner = load(str(saved(tmp_path, kind)), LoadOptions(dtype="float32", numerics="invariant"))
    play(*[(runner, tiny(kind))] * 3)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
@pytest.mark.parametrize("numerics", ["default", "invariant"])
def test_a_base_and_its_adapters_hand_out_their_own_from_one_pass(kind, numerics, tmp_path):
    base = saved(tmp_path / "base", kind)
    merged = [adapted(tmp_path / name, base, seed=seed) for seed, name in enumerate("ab", 1)]
    options = LoadOptions(dtype="float32", numerics=numerics)
    with one_pool():
        whole, *adapters = (load(str(tmp_path / name), options) for name in ("base", "a", "b"))
    play((whole, tiny(kind)), (adapters[0], merged[0]), (adapters[1], merged[1]))


def test_without_a_reader_no_pass_is_asked_for_them(monkeypatch):
    model = tiny("llama")
    asked = []

    class Noting(ModelForward):
        def __call__(self, *args):
            asked.append(args[4])
            return super().__call__(*args)

    runner = HfRunner(model, forward=Noting(model))
    first, second = runner.open(), runner.open()
    runner.feed([Feed(first, [3, 4, 5], 1), Feed(second, [6], 1)])
    assert asked == [None]
    runner.keep_states(second)
    runner.feed([Feed(first, [7], 1), Feed(second, [8], 1)])
    assert asked[1].counts == [1, 1]
    assert first.kept is None


def test_a_long_text_leaves_the_states_of_its_end_alone():
    model = tiny("llama")
    runner = HfRunner(model)
    slot = runner.open()
    kept = runner.keep_states(slot)
    text = [(7 * i) % VOCAB for i in range(90)]
    runner.feed([Feed(slot, text[:60], 0, settled=90)])
    runner.feed([Feed(slot, text[60:], 1, settled=90)])
    for token in range(40):
        most = KeptStates.MOST
        assert most <= sum(len(states) for _, states in kept.stretches) <= 3 * most
        assert sum(states.untyped_storage().nbytes() for _, states in kept.stretches) <= 3 * most * 32 * 4
        text.append(token)
        runner.feed([Feed(slot, [token], 1, settled=len(text))])
    Told.check(kept, model, text)
