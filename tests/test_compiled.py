"""A decoder's pass in one call gives the model's logits, and a row whose bits are its own."""

import importlib
import os
import platform
import random
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from cospec.runner import Feed
from cospec.runner.hf import HfRunner, LoadOptions, fused, load
from cospec.runner.hf.compiled import forward as compiled
from cospec.runner.hf.compiled.forward import CompiledForward, can_compile
from cospec.runner.hf.fused import FusedForward, can_fuse
from cospec.runner.hf.graphs import Shapes
from cospec.runner.hf.joined import join
from cospec.runner.hf.packing import prepack
from cospec.runner.hf.panels import PanelLinear
from cospec.runner.hf.support import distance, tolerance
from cospec.runner.pool import one_pool

from .adapters import adapted as made_adapter
from .compiling import needs_compiled_passes
from .models import VOCAB, saved, tiny
from .test_hf_runner import FUSED, Book, play_and_go_on, words
from .test_invariant import alone, play, text

pytestmark = needs_compiled_passes
CPU = LoadOptions(device="cpu", dtype="float32")


def join_in_panels(model):
    join([(layer, names) for layer in model.model.layers for names in fused.PRODUCTS.values()], PanelLinear)


def panelled(kind="llama", dtype=torch.float32, **settings):
    """A model whose layers' products are panels, with biases and norms that change something, and its pass."""
    model = tiny(kind, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
            # Parameters alone: rotations are computed in float32, whatever a model is stored in.
            parameter.data = parameter.to(dtype)
    join_in_panels(model)
    return model, CompiledForward(model, FusedForward(model))


@pytest.mark.parametrize("kind", FUSED)
def test_the_compiled_forward_gives_the_logits_of_the_model_s_own(kind, monkeypatch):
    monkeypatch.setattr(compiled, "MOST_TOKENS", 256)
    rng = random.Random(kind)
    model, forward = panelled(kind, **FUSED[kind])
    assert can_fuse(model)
    assert can_compile(model)
    book = Book(HfRunner(model, forward=forward))
    play_and_go_on(book, rng)
    # Beyond the positions whose rotations were computed at first, and beyond the tokens of one pass.
    book.feed((book.open(), words(rng, 200), 2), (book.open(), words(rng, 5), 5))
    slot = book.open()
    book.feed((slot, words(rng, compiled.MOST_TOKENS + 44), 2))
    book.feed((slot, words(rng, 3), 1))


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_of_each_type_give_the_same(stored):
    plain = tiny("llama", hidden_size=80, intermediate_size=112)
    plain.load_state_dict({name: value.to(stored).float() for name, value in plain.state_dict().items()})
    join_in_panels(plain)
    products = [module for module in plain.modules() if isinstance(module, PanelLinear)]
    assert {module.tensors()[0].dtype for module in products} == {stored}
    play_and_go_on(Book(HfRunner(plain, forward=CompiledForward(plain, FusedForward(plain)))), random.Random(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_s_bits_are_a_function_of_the_tokens_before_it_alone(dtype):
    """In passes of any number of tokens, in any order of slots, beside any others, in any number of threads."""
    rng = random.Random(7)
    for kind in ("qwen3", "qwen2 sliding"):
        model, forward = panelled(kind, dtype, **FUSED[kind])
        texts = [words(rng, count) for count in (40, 23, 9, 1)]
        alone = [rows_of(model, forward, [text], lambda left: left)[0] for text in texts]
        assert all(row.dtype == torch.float32 for row in alone)
        before = torch.get_num_threads()
        try:
            for threads, most in ((1, 1), (2, 3), (3, 7), (2, 50)):
                torch.set_num_threads(threads)
                found = rows_of(model, forward, texts, lambda left, most=most: min(left, rng.randint(1, most)), rng)
                assert all(torch.equal(one, other) for one, other in zip(found, alone, strict=True))
        finally:
            torch.set_num_threads(before)


# Heads, heads of keys and values, and dimensions of each: of less than a register or a panel, of several, not full.
HEADS = [(4, 4, 4), (4, 2, 8), (6, 2, 20), (3, 1, 64), (8, 1, 16), (14, 2, 32), (2, 1, 80), (1, 1, 128)]


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("kind", ["llama", "qwen2 sliding"])
@torch.inference_mode()
def test_attention_of_any_heads_in_blocks_is_that_of_single_tokens_to_the_bit(kind, heads):
    """Over more positions than are taken at once, and over a window that begins between them."""
    rng = random.Random(3)
    num_heads, num_kv_heads, head_dim = heads
    settings = {"num_attention_heads": num_heads, "num_key_value_heads": num_kv_heads, "head_dim": head_dim}
    if kind == "qwen2 sliding":
        settings["sliding_window"] = 150
    model, forward = panelled(kind, hidden_size=num_heads * head_dim, max_position_embeddings=512, **settings)
    texts = [words(rng, count) for count in (290, 131)]
    expected = [model(input_ids=torch.tensor([text])).logits[0] for text in texts]
    alone = [rows_of(model, forward, [text], lambda left: 1)[0] for text in texts]
    found = rows_of(model, forward, texts, lambda left: min(left, rng.randint(1, 40)), rng)
    for one, other, reference in zip(found, alone, expected, strict=True):
        assert torch.equal(one, other)
        assert torch.allclose(one.log_softmax(-1), reference.log_softmax(-1), atol=1e-4)


def rows_of(model, forward, texts, count, rng=None):
    """The rows of each text, so many tokens at a time: count(tokens that are left)."""
    runner = HfRunner(model, forward=forward)
    slots, rows = [runner.open() for _ in texts], [[] for _ in texts]
    while left := [i for i, text in enumerate(texts) if slots[i].length < len(text)]:
        fed = rng.sample(left, rng.randint(1, len(left))) if rng else left
        feeds = []
        for i in fed:
            rest = texts[i][slots[i].length :]
            taken = rest[: count(len(rest))]
            feeds.append(Feed(slots[i], taken, len(taken)))
        for i, own in zip(fed, runner.feed(feeds), strict=True):
            rows[i].append(own)
    return [torch.cat(own) for own in rows]


def test_the_compiled_pass_has_a_layer_s_products_by_their_names():
    steps = importlib.import_module("cospec.runner.hf.compiled.steps")
    assert {*steps.PRODUCTS} == {*fused.PRODUCTS}
    places = {"qkv": steps.QKV, "out": steps.OUT, "gate_and_up": steps.GATES, "down": steps.DOWN}
    assert [places[name] for name in steps.PRODUCTS] == [*range(len(places))]


def test_passes_in_half_precision_are_nearer_to_the_model_in_float32_than_transformers_own():
    """Where the CPU multiplies in bfloat16, rows are rounded to it before a product, and to nothing else."""
    model, forward = panelled("llama", torch.bfloat16)
    exact = tiny("llama")
    exact.load_state_dict({name: value.float() for name, value in plain_state(model).items()})
    text = words(random.Random(1), 30)
    (found,) = rows_of(model, forward, [text], lambda left: 4)
    with torch.inference_mode():
        of_exact = exact(input_ids=torch.tensor([text])).logits[0]
        of_half = model(input_ids=torch.tensor([text])).logits[0].float()
    share = 0.8 if importlib.import_module("cospec.runner.hf.compiled.tiles").CAN_PAIR else 0.01
    assert (found - of_exact).abs().max() < share * (of_half - of_exact).abs().max()


def plain_state(model):
    """The weights of a model in panels, by their usual names."""
    state = model.state_dict()
    for name, module in model.named_modules():
        if name.endswith("_proj"):
            state[f"{name}.weight"] = module.weight
            if module.bias is not None:
                state[f"{name}.bias"] = module.bias
    return state


def test_what_it_does_not_compute_is_left_to_the_fused_forward(tmp_path, monkeypatch):
    base = str(saved(tmp_path / "base"))
    runner = load(base, CPU)
    forward = runner.forward
    assert isinstance(forward, CompiledForward)
    left = []
    call = FusedForward.__call__

    def noted(self, input_ids, batch, *others):
        left.append(type(batch).__name__)
        return call(self, input_ids, batch, *others)

    monkeypatch.setattr(FusedForward, "__call__", noted)
    monkeypatch.setattr(compiled, "MOST_TOKENS", 8)
    slot = runner.open()
    for count in (8, 9, 1):
        runner.feed([Feed(slot, [1] * count, 1)])
    assert left == ["RaggedBatch"]
    fixed = HfRunner(runner.model, shapes=Shapes.FIXED, forward=forward)
    slot = fixed.open()
    for _ in range(2):
        # The first one is as it comes: the cache is not yet allocated.
        fixed.feed([Feed(slot, [1, 2, 3], 1)])
    assert left == ["RaggedBatch", "FixedBatch"]


def test_adapters_and_their_base_share_a_cache(tmp_path):
    """Rows without an adapter are compiled where no other has one, and the base's own in any case."""
    base = saved(tmp_path / "base")
    made_adapter(tmp_path / "adapter", base)
    adapted = load(str(tmp_path / "adapter"), CPU)
    runner = adapted.served_by
    assert isinstance(runner.forward, CompiledForward)
    off = distance(runner.model, runner.forward, (1, adapted.adapter))
    assert off < tolerance(runner.model)
    slots = [runner.open(1), runner.open(0)]
    rng = random.Random(4)
    texts = [words(rng, 12), words(rng, 9)]
    for feeds in ([0], [1], [0, 1], [1], [0]):
        runner.feed([Feed(slots[i], texts[i][slots[i].length : slots[i].length + 3], 1) for i in feeds])
    (row,) = runner.feed([Feed(slots[1], [5], 1)])
    with torch.inference_mode():
        expected = runner.model(input_ids=torch.tensor([[*texts[1], 5]])).logits[0, -1]
    assert torch.allclose(row[0], expected, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "gelu"},
        {"rms_norm_eps": 1e-3},
    ],
)
def test_other_activations_are_not_compiled_and_other_epsilons_are(change):
    model, _ = panelled("llama")
    changed, forward = panelled("llama", **change)
    assert can_compile(model)
    assert can_compile(changed) == (change.get("hidden_act") is None)
    if can_compile(changed):
        assert distance(changed, forward) < 1e-5


def test_epsilons_that_differ_layers_of_mixed_types_and_plain_ones_are_not_compiled():
    for break_it in (
        lambda model: setattr(model.model.norm, "variance_epsilon", 0.5),
        lambda model: setattr(model.model.layers[0].mlp, "down_proj", torch.nn.Linear(1, 1)),
        lambda model: setattr(
            model.model.layers[0].mlp,
            "down_proj",
            PanelLinear(torch.ones(*model.model.layers[0].mlp.down_proj.weight.shape), None),
        ),
    ):
        model, _ = panelled("llama")
        break_it(model)
        assert not can_compile(model)


def test_a_pass_that_gives_other_logits_is_not_taken(tmp_path, monkeypatch):
    folder = str(saved(tmp_path))
    assert isinstance(load(folder, CPU).forward, CompiledForward)
    decoded = CompiledForward._decoded
    monkeypatch.setattr(CompiledForward, "_decoded", lambda *args: decoded(*args).roll(1, -1))
    assert isinstance(load(folder, CPU).forward, FusedForward)

    def failing(*_):
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(CompiledForward, "__init__", failing)
    assert isinstance(load(folder, CPU).forward, FusedForward)


OLDER_CPU = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+f16c,+fma,+sse4.2"}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="an instruction set of another kind of CPU")
def test_passes_are_compiled_for_a_cpu_without_the_newest_operations(tmp_path):
    """What such a CPU has no operation for ends the process, even where it is never run."""
    program = (
        "from cospec.runner.hf import LoadOptions, load\n"
        f"runner = load({str(saved(tmp_path))!r}, LoadOptions(device='cpu', dtype='bfloat16', numerics='invariant'))\n"
        "print(type(runner.forward).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **OLDER_CPU}, check=False
    )
    assert (done.returncode, done.stdout) == (0, "CompiledForward\n"), done.stderr


def test_a_part_of_a_model_is_compiled_too(tmp_path):
    folder = str(saved(tmp_path, num_hidden_layers=3))
    for options in (replace(CPU, layers=2), replace(CPU, vocabulary=9)):
        part = load(folder, options)
        assert isinstance(part.forward, CompiledForward)
        assert distance(part.model, part.forward) < 1e-4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_invariant_numerics_hold_with_adapters_too(tmp_path, dtype, monkeypatch):
    """Ragged batches, chunks, rollbacks, beside other adapters and none."""
    options = replace(CPU, dtype=dtype, numerics="invariant")
    base = saved(tmp_path / "base", "qwen3")
    for seed in range(2):
        made_adapter(tmp_path / str(seed), base, seed=seed, r=4 + seed)
    with one_pool():
        runners = [load(str(folder), options) for folder in (base, tmp_path / "0", tmp_path / "1")]
    assert isinstance(runners[0].forward, CompiledForward)
    assert {1, 8, 64} <= {*runners[0].blocks.tokens}
    monkeypatch.setattr(FusedForward, "__call__", None)
    expected = [[alone(runner, text(number)) for number in range(2)] for runner in runners]
    for seed in range(8):
        assert all(play(runners, expected, random.Random(seed)))


def test_keys_are_kept_in_float32_whichever_pass_is_the_first(monkeypatch):
    """A cache that `fused` allocated in two bytes would be written beyond its end."""
    model, forward = panelled("llama", torch.bfloat16)
    monkeypatch.setattr(compiled, "MOST_TOKENS", 8)
    runner = HfRunner(model, forward=forward)
    slot, tokens = runner.open(), words(random.Random(2), 12)
    runner.feed([Feed(slot, tokens, 1)])
    (row,) = runner.feed([Feed(slot, [3], 1)])
    assert runner.cache_bytes == 2 * 4 * 2 * 2 * 8 * 64
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([[*tokens, 3]])).logits[0, -1].float()
    assert torch.allclose(row[0], expected, atol=0.1)


def test_a_text_may_be_as_long_as_the_context_and_slots_may_grow(tmp_path):
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=700,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    join_in_panels(model)
    prepack(model, fewest_weights=1)
    book = Book(HfRunner(model, forward=CompiledForward(model, FusedForward(model))))
    rng, slot = random.Random(0), book.open()
    for count in (250, 250, 199, 1):
        book.feed((slot, words(rng, count), 1))
    others = [book.open() for _ in range(9)]
    book.feed(*((other, words(rng, 3), 3) for other in others))
    book.trim(slot, 699)
    book.feed((slot, words(rng, 1), 1))
