"""Rows of the hf runner are those of an unbatched forward pass, whatever was fed, trimmed, closed or reopened."""

import json
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import Linear

from cospec.errors import CospecError, InvalidEnsemble, InvalidPrompt, ModelNotFound, UnsupportedModel
from cospec.runner import Feed, Slot
from cospec.runner.hf import HfRunner, LoadOptions, check_supported, fused, layouts, load
from cospec.runner.hf.compiled.forward import CompiledForward
from cospec.runner.hf.forward import ModelForward
from cospec.runner.hf.fused import FusedForward, can_fuse
from cospec.runner.hf.invariant import Sizes
from cospec.runner.hf.joined import join, separate
from cospec.runner.hf.layouts import Layout
from cospec.runner.hf.load import load_whole
from cospec.runner.hf.packing import packing
from cospec.runner.hf.panels import PanelLinear
from cospec.runner.hf.prepacked import JoinedPart, PrepackedLinear, TransposedLinear, can_prepack
from cospec.runner.hf.runner import _groups

from .compiling import MISSING
from .models import VOCAB, saved, tiny

SUPPORTED = [
    "llama", "qwen2", "qwen2 sliding", "qwen3", "mistral", "gemma2", "gemma3", "phi3", "phi3 sliding", "mixtral",
    "olmo2", "smollm3", "gpt_oss", "gpt2", "gpt_neox", "opt", "falcon",
]  # fmt: skip
# What is different about each that the fused forward must follow, beside the kind's own.
FUSED: dict[str, dict[str, object]] = {
    "llama": {
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        },
        "attention_bias": True,
    },
    "qwen2": {}, "qwen2 sliding": {}, "qwen3": {}, "mistral": {},
}  # fmt: skip
REFUSED = {
    "bloom": "ALiBi", "mpt": "ALiBi", "falcon alibi": "ALiBi", "gpt_neo": "local attention",
    "mamba": "recurrent state",
}  # fmt: skip
CPU = LoadOptions(device="cpu")


class Book:
    """A runner and what each of its slots should hold; every row is compared with a plain forward of that text."""

    tolerance = 1e-5
    dtype = torch.float32

    def __init__(self, runner: HfRunner) -> None:
        self.runner = runner
        self.texts: dict[Slot, list[int]] = {}

    def open(self) -> Slot:
        slot = self.runner.open()
        self.texts[slot] = []
        return slot

    def close(self, slot: Slot) -> None:
        del self.texts[slot]
        self.runner.close(slot)

    def trim(self, slot: Slot, length: int) -> None:
        del self.texts[slot][length:]
        self.runner.trim(slot, length)

    def feed(self, *feeds: tuple[Slot, list[int], int]) -> list[Tensor]:
        rows = self.runner.feed([Feed(*feed) for feed in feeds])
        for (slot, tokens, count), given in zip(feeds, rows, strict=True):
            self.texts[slot] += tokens
            assert slot.length == len(self.texts[slot])
            wanted = plain(self.runner, self.texts[slot])[len(self.texts[slot]) - count :]
            assert given.shape == wanted.shape == (count, self.runner.vocab_size)
            assert given.dtype == self.dtype
            torch.testing.assert_close(given, wanted, atol=self.tolerance, rtol=0)
        return rows


@torch.inference_mode()
def plain(runner: HfRunner, text: list[int]) -> Tensor:
    """[tokens, vocab] of an unbatched forward pass without a cache."""
    return runner.model(input_ids=torch.tensor([text]), use_cache=False).logits[0, :, : runner.vocab_size]


def words(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(VOCAB) for _ in range(count)]


def a_feed(rng: random.Random, slot: Slot, most: int) -> tuple[Slot, list[int], int]:
    tokens = words(rng, rng.randint(1, most))
    return slot, tokens, rng.randint(0, len(tokens))


def play(book: Book, rng: random.Random, num_slots: int, num_turns: int) -> list[Slot]:
    """Ragged batches, trims, slots closed and reopened; the slots that are open then."""
    slots = [book.open() for _ in range(num_slots)]
    book.feed(*(a_feed(rng, slot, 30) for slot in slots))
    for turn in range(num_turns):
        for slot in rng.sample(slots, 2):
            book.trim(slot, rng.randint(0, slot.length))
        if turn % 3 == 2:
            # Another slot stands in its place, shorter than what it held.
            book.close(slots.pop(rng.randrange(len(slots))))
            slots.append(book.open())
        # In any order, and not all of them, so that the slots are not neighbours.
        book.feed(*(a_feed(rng, slot, 7) for slot in rng.sample(slots, rng.randint(1, len(slots)))))
    return slots


def play_and_go_on(book: Book, rng: random.Random) -> None:
    """A play of four slots, and then a token at a time."""
    slots = play(book, rng, num_slots=4, num_turns=8)
    for _ in range(3):
        book.feed(*((slot, words(rng, 1), 1) for slot in slots))
        book.feed((slots[2], words(rng, 1), 1))


@pytest.mark.parametrize("kind", SUPPORTED)
def test_ragged_batches_and_rollback_give_the_logits_of_an_unbatched_forward(kind: str) -> None:
    rng = random.Random(kind)
    book = Book(HfRunner(tiny(kind)))
    play_and_go_on(book, rng)


@pytest.mark.parametrize("kind", FUSED)
def test_the_fused_forward_gives_the_logits_of_the_model_s_own(kind: str) -> None:
    rng = random.Random(kind)
    model = tiny(kind, **FUSED[kind])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                # Biases, and norms of heads, that would otherwise change nothing.
                parameter.add_(0.3 * torch.randn_like(parameter))
    assert can_fuse(model)
    book = Book(HfRunner(model, forward=FusedForward(model)))
    play_and_go_on(book, rng)
    # Beyond the positions whose rotations were computed at first.
    book.feed((book.open(), words(rng, 300), 2))


@pytest.mark.parametrize(
    "kind",
    [None, PrepackedLinear, TransposedLinear, PanelLinear],
    ids=["separate", "packed", "transposed", "panels"],
)
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_layers_that_read_the_same_are_joined_in_a_fused_forward(
    name: str, kind: type[PrepackedLinear] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passes of fewer tokens are filled up then."""
    if kind is PrepackedLinear and not can_prepack(torch.float32):
        pytest.skip("this build of torch packs no weights")
    if kind is PanelLinear and MISSING:
        pytest.skip(MISSING)
    model = tiny(name)
    first = model.model.layers[0].self_attn.q_proj.weight.clone()
    sizes = None
    if kind is not None:
        monkeypatch.setattr(layouts, "fastest", lambda *_: Layout(kind, Sizes((3, 8))))
        monkeypatch.setattr(layouts, "packing", lambda _: PrepackedLinear)
        monkeypatch.setattr(layouts, "FEWEST_WEIGHTS", 1)
        sizes = layouts.join_products(model).sizes
    q_proj = model.model.layers[0].self_attn.q_proj
    assert isinstance(q_proj, Linear if kind is None else JoinedPart)
    assert torch.equal(q_proj.weight, first)
    fed: list[int] = []
    model.model.layers[0].mlp.act_fn.register_forward_hook(lambda _module, _args, out: fed.append(out.shape[0]))
    runner = HfRunner(model, forward=FusedForward(model, sizes))
    slots = [runner.open() for _ in range(2)]
    for count in (1, 4, 9):
        runner.feed([Feed(slot, [1] * count, count) for slot in slots])
    assert fed == ([2, 8, 18] if kind is None else [3, 8, 18])
    rng = random.Random(name)
    play_and_go_on(Book(runner), rng)


def test_joined_layers_become_layers_of_their_own_where_the_fused_forward_is_not_used() -> None:
    model = tiny("qwen2")
    before = {name: module.weight.clone() for name, module in model.named_modules() if type(module) is Linear}
    ids = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        expected = model(ids).logits
        groups = [(layer, names) for layer in model.model.layers for names in fused.PRODUCTS.values()]
        join(groups, TransposedLinear)
        assert torch.allclose(model(ids).logits, expected, atol=1e-5)
        separate(model)
        assert torch.allclose(model(ids).logits, expected, atol=1e-5)
    assert not any(isinstance(module, JoinedPart) for module in model.modules())
    assert all(torch.equal(model.get_submodule(name).weight, weight) for name, weight in before.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_fused_norm_is_the_one_in_double_precision_and_leaves_hidden_states_as_they_were(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    x, weight = (torch.randn(shape, generator=generator).to(dtype) for shape in ((5, 48), (48,)))
    before = x.clone()
    found = fused.RmsNorm(weight, 1e-2)(x)
    exact = torch.nn.functional.rms_norm(x.double(), (48,), weight.double(), 1e-2)
    assert found.dtype == dtype
    assert torch.equal(x, before)
    tolerance = 0.02 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(found.double(), exact, atol=tolerance, rtol=tolerance)


def test_padding_is_not_multiplied_with_a_fused_forward_s_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[int] = []
    call = fused.FusedLayer.__call__

    def spy(self: fused.FusedLayer, hidden: torch.Tensor, *rest: object) -> torch.Tensor:
        fed.append(hidden.shape[0])
        return call(self, hidden, *rest)

    monkeypatch.setattr(fused.FusedLayer, "__call__", spy)
    model = tiny("llama")
    book = Book(HfRunner(model, forward=FusedForward(model)))
    book.feed((book.open(), [1, 2, 3, 4, 5], 2), (book.open(), [6], 1), (book.open(), [7, 8, 9], 3))
    assert set(fed) == {9}


def test_a_mask_is_repeated_once_for_all_layers_that_compute_all_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, ...]] = []
    seen: list[tuple[int, ...]] = []
    repeat, attend = fused.repeated, fused.attend

    def repeating(mask: Tensor | None, share: int) -> Tensor | None:
        made.append((share, *mask.shape) if mask is not None else ())
        return repeat(mask, share)

    def attending(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        seen.append(tuple(mask.shape) if mask is not None else ())
        return attend(queries, keys, values, mask, scale)

    monkeypatch.setattr(fused, "repeated", repeating)
    monkeypatch.setattr(fused, "attend", attending)
    model = tiny("llama", num_hidden_layers=3)
    share = model.config.num_attention_heads // model.config.num_key_value_heads
    assert share > 1
    book = Book(HfRunner(model, forward=FusedForward(model)))
    slots = [book.open(), book.open()]
    book.feed((slots[0], [1, 2, 3], 0), (slots[1], [4], 0))
    made.clear(), seen.clear()
    book.feed((slots[0], [5, 6, 7], 1), (slots[1], [8, 9, 1], 1))
    assert made == [(share, 2, 1, 3, 6)]
    # The last layer attends from the tokens alone whose logits are wanted.
    assert seen == [(2, 1, 3 * share, 6)] * 2 + [(2, 1, 1, 6)]


@pytest.mark.parametrize(
    ("feeds", "num_wanted"),
    [
        ([(5, 1), (3, 0), (1, 1)], 2),
        ([(6, 2), (6, 2)], 4),
        ([(6, 1), (6, 1)], 2),
        ([(7, 3)], 3),
        ([(7, 1)], 1),
        ([(4, 0)], 1),
        ([(2, 2), (3, 3)], 5),
    ],
)
def test_the_last_layer_does_the_least_for_tokens_that_no_row_is_wanted_of(
    feeds: list[tuple[int, int]], num_wanted: int
) -> None:
    model = tiny("llama")
    seen: list[int] = []
    for layer in model.model.layers:
        layer.mlp.act_fn.register_forward_hook(lambda _module, _args, out: seen.append(out.shape[0]))
    book, rng = Book(HfRunner(model, forward=FusedForward(model))), random.Random(5)
    slots = [book.open() for _ in feeds]
    num_layers = len(model.model.layers)
    # All at the first positions, where texts of one length need no mask; then behind others.
    for _ in range(2):
        seen.clear()
        book.feed(*((slot, words(rng, count), wanted) for slot, (count, wanted) in zip(slots, feeds, strict=True)))
        # The comparison itself comes after it.
        assert seen[:num_layers] == [*[sum(count for count, _ in feeds)] * (num_layers - 1), num_wanted]


def test_a_plain_decoder_is_loaded_fused_unless_that_changes_its_logits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(saved(tmp_path / "llama"))
    assert isinstance(load(folder, CPU)._forward, FusedForward | CompiledForward)
    assert isinstance(load(str(saved(tmp_path / "gpt2", "gpt2")), CPU)._forward, ModelForward)
    # Some layers large enough to be packed, and some not.
    large = str(saved(tmp_path / "large", hidden_size=512, intermediate_size=768, num_hidden_layers=1))
    for dtype in ("float32", "bfloat16"):
        runner = load(large, replace(CPU, dtype=dtype))
        modules = [*runner.model.modules()]
        # Which layout is the fastest is measured; all of them are kinds of this one.
        assert any(isinstance(each, PrepackedLinear) for each in modules) == (packing(runner.dtype) is not None)
        # A small head of fewer bits may be replaced, by one that gives float32.
        assert any(type(each) is Linear for each in modules) or dtype == "bfloat16"
        assert isinstance(runner._forward, FusedForward | CompiledForward)
    turned = fused.Rotations._compute

    def turned_the_other_way(self: fused.Rotations, length: int) -> None:
        turned(self, length)
        self._sin = -self._sin

    monkeypatch.setattr(fused.Rotations, "_compute", turned_the_other_way)
    assert isinstance(load(folder, CPU)._forward, ModelForward)


def test_the_fused_forward_that_was_tested_is_the_one_that_is_used(folder: Path, monkeypatch) -> None:
    built: list[FusedForward] = []
    original = FusedForward.__init__

    def counting(self: FusedForward, *args: object) -> None:
        built.append(self)
        original(self, *args)

    monkeypatch.setattr(FusedForward, "__init__", counting)
    monkeypatch.setattr(sys.modules[load_whole.__module__], "can_compile", lambda model: False)
    runner = load(str(folder), CPU)
    assert built == [runner._forward]


def test_what_hangs_on_a_model_s_modules_is_not_passed_over() -> None:
    model = tiny("llama")
    assert can_fuse(model)
    model.model.layers[1].register_forward_hook(lambda _module, _args, out: out)
    assert not can_fuse(model)
    assert not can_fuse(tiny("gemma2"))
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    assert not can_fuse(tiny("llama", rope_parameters=rope))


@pytest.mark.parametrize("kind", ["llama", "gemma3", "gpt_oss", "gpt2"])
def test_texts_that_stand_at_equal_positions_need_no_mask(kind: str) -> None:
    rng = random.Random(0)
    book = Book(HfRunner(tiny(kind)))
    slots = [book.open() for _ in range(3)]
    book.feed(*((slot, words(rng, 3), 3) for slot in slots))
    for count in (1, 1, 1, 4, 1):
        book.feed(*((slot, words(rng, count), count) for slot in slots))
    book.feed((slots[0], words(rng, 1), 1), (slots[2], words(rng, 1), 1))


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_the_cache_grows_over_positions_and_slots_and_keeps_what_it_holds(kind: str) -> None:
    rng = random.Random(1)
    book = Book(HfRunner(tiny(kind)))
    first = book.open()
    book.feed((first, words(rng, 250), 2))
    book.feed((first, words(rng, 10), 10))
    more = [book.open() for _ in range(6)]
    book.feed((first, words(rng, 1), 1), *((slot, words(rng, rng.randint(1, 9)), 1) for slot in more))
    book.feed((more[4], words(rng, 300), 1), (first, words(rng, 3), 2))
    book.trim(first, 200)
    book.feed(*((slot, words(rng, 2), 2) for slot in (more[4], first, more[1])))


def test_a_reused_slot_sees_nothing_of_its_former_text() -> None:
    rng = random.Random(2)
    book = Book(HfRunner(tiny("llama")))
    slots = [book.open() for _ in range(2)]
    book.feed(*((slot, words(rng, 20), 1) for slot in slots))
    book.close(slots[0])
    reopened = book.open()
    assert reopened.index == slots[0].index
    assert reopened.length == 0
    book.feed((reopened, words(rng, 2), 2), (slots[1], words(rng, 1), 1))


@contextmanager
def overflowing(runner: HfRunner, token: int) -> Iterator[None]:
    """While it lasts, the token's embedding is infinite."""
    weight = runner.model.get_input_embeddings().weight
    kept = weight[token].clone()
    with torch.no_grad():
        weight[token] = torch.inf
        yield
        weight[token] = kept


@pytest.mark.parametrize("how", ["fed", "trimmed", "raised"])
def test_a_text_that_overflows_leaves_its_slot_clean_for_the_next(how, monkeypatch) -> None:
    rng = random.Random(3)
    runner = HfRunner(tiny("llama"))
    slots = [runner.open(), runner.open()]
    # The cache is laid out for many, of which a few positions are written.
    runner.feed([Feed(slot, [3, 4], 1) for slot in slots])
    with overflowing(runner, 5):
        if how == "raised":
            # The last thing that a pass does: all layers have written by then.
            monkeypatch.setattr(runner, "_as_rows", lambda *_args, **_options: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                runner.feed([Feed(slots[0], [4, 5], 1)])
            monkeypatch.undo()
            runner.feed([Feed(slots[1], [6, 7], 1)])
        else:
            rows = runner.feed([Feed(slots[0], [4, 5], 1), Feed(slots[1], [6, 7], 1)])
            assert rows[0].isnan().all()
            assert rows[1].isfinite().all()
    if how == "trimmed":
        runner.trim(slots[0], 3)
    runner.close(slots[0])
    book = Book(runner)
    book.texts[slots[1]] = [3, 4, 6, 7]
    book.feed((book.open(), [7], 1), (slots[1], words(rng, 2), 2))


def test_prompts_of_very_different_lengths_are_not_padded_to_the_longest() -> None:
    book = Book(HfRunner(tiny("llama")))
    rng = random.Random(4)
    widths: list[tuple[int, ...]] = []
    handle = book.runner.model.register_forward_pre_hook(
        lambda _module, _args, kwargs: widths.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    book.runner.feed([Feed(book.open(), words(rng, count), 1) for count in (100, 1, 60, 5, 300)])
    handle.remove()
    assert widths == [(2, 5), (2, 100), (1, 300)]


def test_only_the_rows_wanted_go_through_the_head() -> None:
    runner = HfRunner(tiny("llama"))
    seen: list[int] = []
    runner.model.lm_head.register_forward_hook(lambda _module, _args, out: seen.append(out.shape[1]))
    rows = runner.feed([Feed(runner.open(), [1, 2, 3, 4, 5], 2), Feed(runner.open(), [1, 2, 3], 0)])
    assert seen == [2]
    assert [tuple(row.shape) for row in rows] == [(2, VOCAB), (0, VOCAB)]


def test_a_feed_that_raises_leaves_lengths_as_they_were() -> None:
    book = Book(HfRunner(tiny("llama")))
    slots = [book.open() for _ in range(2)]
    book.feed((slots[0], [1, 2, 3], 1), (slots[1], [4], 1))
    with pytest.raises(IndexError):
        # The short feed goes through the model before the long one fails.
        book.runner.feed([Feed(slots[0], [5], 1), Feed(slots[1], [6] * 40 + [VOCAB], 1)])
    assert [slot.length for slot in slots] == [3, 1]
    book.feed((slots[0], [7, 8], 2), (slots[1], [9], 1))


def test_a_text_longer_than_the_context_is_refused() -> None:
    runner = HfRunner(tiny("gpt2", n_positions=8))
    assert runner.context == 8
    slot = runner.open()
    with pytest.raises(InvalidPrompt, match="9 tokens do not fit into a context of 8"):
        runner.feed([Feed(slot, [1] * 9, 1)])
    assert slot.length == 0


def test_frequencies_that_change_with_the_length_bound_the_context() -> None:
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
        "original_max_position_embeddings": 64,
    }  # fmt: skip
    runner = HfRunner(tiny("phi3", rope_parameters=rope, original_max_position_embeddings=64))
    assert runner.context == 64


def test_trim_and_close_touch_no_tensor() -> None:
    book = Book(HfRunner(tiny("llama")))
    slot = book.open()
    book.feed((slot, [1, 2, 3], 1))
    layer = book.runner._cache.slot_layers[0]
    keys, before = layer.keys, layer.keys.clone()
    book.runner.trim(slot, 1)
    book.runner.close(slot)
    assert layer.keys is keys
    assert torch.equal(keys, before)


@pytest.mark.parametrize("kind", SUPPORTED)
def test_the_probe_lets_exact_models_pass(kind: str) -> None:
    check_supported(kind, tiny(kind))


def test_the_probe_refuses_a_model_whose_logits_depend_on_the_batch() -> None:
    model = tiny("llama")
    # A model that takes its positions from its place in the batch, as some do.
    rotary = model.model.rotary_emb
    original = rotary.forward
    rotary.forward = lambda x, position_ids: original(x, torch.arange(x.shape[1])[None].expand_as(position_ids))
    with pytest.raises(UnsupportedModel, match=r"'odd' \(llama\) gives other logits in ragged batches"):
        check_supported("odd", model)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_rolled_back_exactly_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "there", kind)
    with pytest.raises(UnsupportedModel, match=REFUSED[kind]) as refusal:
        load(str(folder), CPU)
    model_type = json.loads((folder / "config.json").read_text())["model_type"]
    assert repr(str(folder)) in str(refusal.value)
    assert f"({model_type})" in str(refusal.value)
    assert "choose a model" in str(refusal.value)


def test_a_recurrent_model_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    folder = saved(tmp_path, "mamba")
    (folder / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UnsupportedModel, match="recurrent state"):
        load(str(folder), CPU)


def test_a_recurrent_model_made_by_hand_is_refused_too() -> None:
    with pytest.raises(UnsupportedModel, match=r"'mine' \(mamba\) keeps a recurrent state"):
        check_supported("mine", tiny("mamba"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of 128 columns with a tokenizer of 100 entries."""
    return saved(tmp_path_factory.mktemp("llama"), num_entries=100)


def copied(folder: Path, to: Path) -> Path:
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_a_folder_is_loaded_and_fed(folder: Path) -> None:
    runner = load(str(folder), CPU)
    assert runner.model.config.model_type == "llama"
    assert not runner.model.training
    book = Book(runner)
    book.feed((book.open(), [1, 2, 3], 2), (book.open(), [4], 1))


def test_columns_beyond_the_tokenizer_are_cut(folder: Path) -> None:
    runner = load(str(folder), CPU)
    assert runner.vocab_size == 100
    assert runner.feed([Feed(runner.open(), [1, 2], 2)])[0].shape == (2, 100)


def test_the_tokenizer_goes_to_ids_and_back(folder: Path) -> None:
    tokenizer = load(str(folder), CPU).tokenizer
    assert tokenizer is not None
    assert tokenizer.encode("w5 w7") == [5, 7]
    assert tokenizer.decode([5, 7, 1]) == "w5w7"
    assert list(tokenizer.entries())[:4] == ["<s>", "</s>", "w2", "w3"]
    assert len(tokenizer.entries()) == 100


def test_a_folder_without_a_tokenizer_takes_token_ids(tmp_path: Path) -> None:
    runner = load(str(saved(tmp_path)), CPU)
    assert runner.tokenizer is None
    assert runner.vocab_size == VOCAB


@pytest.mark.parametrize(("configured", "end_ids"), [(7, (7, 1)), ([3, 9], (3, 9, 1))])
def test_end_tokens_are_those_of_the_generation_config_and_of_the_tokenizer(
    configured: object, end_ids: tuple[int, ...], folder: Path, tmp_path: Path
) -> None:
    copied(folder, tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": configured}))
    assert load(str(tmp_path), CPU).end_ids == end_ids


def test_end_tokens_come_from_the_tokenizer_where_no_config_names_them(folder: Path, tmp_path: Path) -> None:
    copied(folder, tmp_path)
    (tmp_path / "generation_config.json").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "eos_token_id": None}))
    assert load(str(tmp_path), CPU).end_ids == (1,)


@pytest.mark.parametrize("dtype", ["bfloat16", "bf16", torch.bfloat16])
def test_half_precision_gives_rows_in_float32(dtype: str | torch.dtype, folder: Path) -> None:
    runner = load(str(folder), LoadOptions(device="cpu", dtype=dtype))
    assert runner.dtype == runner.model.dtype == torch.bfloat16
    rows = runner.feed([Feed(runner.open(), [1, 2, 3], 2), Feed(runner.open(), [4], 1)])
    assert all(row.dtype == torch.float32 and row.isfinite().all() for row in rows)


@pytest.mark.parametrize("is_native", [False, True])
def test_a_type_that_the_cpu_does_not_multiply_in_is_told(is_native, folder: Path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(sys.modules[load_whole.__module__], "is_native", lambda dtype: is_native)
    monkeypatch.setattr(sys.modules[packing.__module__], "kinds", lambda dtype: (PrepackedLinear,) if is_native else ())
    load(str(folder), LoadOptions(device="cpu", dtype="bfloat16"))
    assert ["in bfloat16" in record.getMessage() for record in caplog.records] == ([] if is_native else [True])


def test_double_precision_is_not_narrowed(folder: Path) -> None:
    runner = load(str(folder), LoadOptions(device="cpu", dtype="float64"))
    assert runner.feed([Feed(runner.open(), [1, 2], 1)])[0].dtype == torch.float64


@pytest.mark.parametrize("dtype", ["float17", "int8", torch.int8])
def test_an_unknown_dtype_is_refused(dtype: str | torch.dtype) -> None:
    with pytest.raises(InvalidEnsemble, match="is not known; use auto, float32"):
        LoadOptions(dtype=dtype)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(InvalidEnsemble, match="device 'gpu' is not known; use cpu"):
        LoadOptions(device="gpu")
    with pytest.raises(InvalidEnsemble, match="device 'cuda:99' is not there: this machine has"):
        LoadOptions(device="cuda:99")


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no model folder at .*nowhere.*; give a folder with config\.json"):
        load(str(tmp_path / "nowhere"), CPU)
    with pytest.raises(ModelNotFound, match=r"no model folder at 'nowhere'; .*or a hub id \(owner/name\)"):
        load("nowhere", CPU)
    with pytest.raises(ModelNotFound, match=r"has no config\.json"):
        load(str(tmp_path), CPU)


def test_pickled_weights_are_refused_unless_allowed(folder: Path, tmp_path: Path) -> None:
    copied(folder, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(tiny("llama").state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelNotFound, match=r"only as pickle \(pytorch_model\.bin\).*set allow_pickle"):
        load(str(tmp_path), CPU)
    book = Book(load(str(tmp_path), LoadOptions(device="cpu", allow_pickle=True)))
    book.feed((book.open(), [1, 2], 2))


def test_broken_weights_are_told(folder: Path, tmp_path: Path) -> None:
    copied(folder, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(UnsupportedModel, match="cannot be loaded: SafetensorError"):
        load(str(tmp_path), CPU)


def test_weights_that_lack_a_layer_are_refused_and_not_made_up(folder: Path, tmp_path: Path) -> None:
    copied(folder, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(UnsupportedModel, match=r"lacks 9 of its weights, the first being 'model\.layers\.2\."):
        load(str(tmp_path), CPU)


def test_what_is_no_causal_language_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(UnsupportedModel, match=r"\(vit\) is no causal language model"):
        load(str(tmp_path), CPU)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "never-heard-of"}))
    with pytest.raises(UnsupportedModel, match="never-heard-of"):
        load(str(tmp_path), CPU)


def test_quantisation_arguments_are_passed_on(folder: Path) -> None:
    with pytest.raises(CospecError, match="never-heard-of"):
        load(str(folder), LoadOptions(device="cpu", quantization={"quant_method": "never-heard-of"}))


def test_code_shipped_with_weights_does_not_run_unless_allowed(folder: Path, tmp_path: Path) -> None:
    copied(folder, tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "its-own", "auto_map": {"AutoConfig": "own.OwnConfig"}})
    )
    (tmp_path / "own.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(UnsupportedModel, match="trust_remote_code"):
        load(str(tmp_path), CPU)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([1] * 32, [[1] * 32]),
        # One more pass costs more than the padding of a few short sequences.
        ([1, 2, 5, 9], [[1, 2, 5, 9]]),
        ([2] * 20 + [16] * 12, [[2] * 20, [16] * 12]),
        ([300, 1, 2], [[1, 2], [300]]),
        ([40, 41, 42], [[40, 41, 42]]),
    ],
)
def test_feeds_are_padded_where_that_is_cheaper_than_a_pass(lengths, expected):
    batch = [Feed(None, [0] * length, 1) for length in lengths]
    assert [sorted(lengths[i] for i in group) for group in _groups(batch, 48)] == expected


@pytest.mark.parametrize(("configured", "original"), [(32, 32), (128, 32), (32, None)])
def test_yarn_reaches_factor_times_the_original_length(configured: int, original: int | None, tmp_path: Path) -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}
    if original is not None:
        rope["original_max_position_embeddings"] = original
    folder = saved(tmp_path, max_position_embeddings=configured, rope_parameters=rope)
    assert load(str(folder), CPU).context == 128
