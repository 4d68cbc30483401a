"""Weights in panels give what a linear layer gives, row by row, in the type that they were stored in."""

import gc

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from cospec.runner import Feed
from cospec.runner.hf import HfRunner, LoadOptions, load, packing, panels, unpacked
from cospec.runner.hf.cut import with_head_of
from cospec.runner.hf.packing import prepack, shared_copy, widen_head
from cospec.runner.hf.panels import PanelEmbedding, PanelLinear, can_panel, stored_in
from cospec.runner.hf.weights import storages
from cospec.study.memory import process_peak, reset_peaks

from .compiling import needs_compiled_passes

pytestmark = needs_compiled_passes

TYPES = [torch.float32, torch.bfloat16, torch.float16]
# Outputs and inputs: fewer than a panel, panels that are not full, a chunk of columns and a column more.
SHAPES = [(1, 1), (7, 3), (64, 512), (65, 513), (200, 1100)]
# One row, each number that is taken at once, and more.
NUM_ROWS = [1, 2, 3, 4, 5, 6, 7, 11, 12, 40]


def drawn(*shape, stored=torch.float32):
    return torch.randn(shape).to(stored).float()


def layer(shape, stored, *, has_bias=True):
    weight = drawn(*shape, stored=stored)
    return weight, drawn(shape[0]) if has_bias else None


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(5)


@pytest.mark.parametrize("stored", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_outputs_are_the_products_and_a_row_s_bits_are_its_own(shape, stored):
    for has_bias in (True, False):
        weight, bias = layer(shape, stored, has_bias=has_bias)
        made = PanelLinear(weight, bias)
        for num_rows in NUM_ROWS:
            x = drawn(num_rows, shape[1])
            found, exact = made(x), x.double() @ weight.double().t()
            exact += 0 if bias is None else bias
            # What sums of so many numbers in float32 may be off.
            assert ((found - exact).abs() <= 1e-6 * (x.abs() @ weight.abs().t() + 1)).all()
            for at in (0, num_rows // 2, num_rows - 1):
                assert torch.equal(made(x[at : at + 1]), found[at : at + 1])


@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_a_layer_in_bfloat16_is_that_of_rows_in_bfloat16_summed_in_float32(shape):
    weight, bias = (each.bfloat16() for each in layer(shape, torch.bfloat16))
    made = PanelLinear(weight, bias, is_wide=True)
    is_paired = made.stored == panels.tiles().PAIRED
    assert is_paired == (panels.tiles().CAN_PAIR and shape[1] % 2 == 0)
    for num_rows in NUM_ROWS:
        x = torch.randn(num_rows, shape[1])
        rows = x.bfloat16()
        found, exact = made(rows), rows.double() @ weight.double().t() + bias
        assert ((found - exact).abs() <= 1e-6 * (rows.double().abs() @ weight.double().abs().t() + 1)).all()
        # Others are rounded where that is what the CPU multiplies.
        assert torch.equal(made(x), found) or not is_paired
        for at in (0, num_rows // 2, num_rows - 1):
            assert torch.equal(made(rows[at : at + 1]), found[at : at + 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_a_row_s_bits_do_not_depend_on_the_number_of_threads(dtype):
    made = PanelLinear(*(each.to(dtype) for each in layer((1000, 700), torch.bfloat16)))
    x, before = drawn(9, 700), torch.get_num_threads()
    found = []
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            found.append(made(x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, found[0]) for one in found)


@pytest.mark.parametrize("stored", TYPES)
def test_weights_are_held_in_the_narrowest_type_that_changes_none(stored):
    weight = drawn(80, 32, stored=stored)
    made = PanelLinear(weight, None)
    assert stored_in(weight) == stored
    assert made.tensors()[0].dtype == stored
    assert torch.equal(made.weight, weight)
    assert made.weight.is_contiguous()
    assert made.bias is None


def test_one_weight_that_a_narrower_type_does_not_hold_keeps_all_as_they_are():
    weight = drawn(80, 32, stored=torch.bfloat16)
    weight[-1, -1] += 2.0**-20
    assert stored_in(weight) == torch.float32
    # More than float16 has, and less.
    assert stored_in(torch.tensor([[2.0**-100, 2.0**100]])) == torch.bfloat16
    assert stored_in(torch.tensor([[1 + 2.0**-10]])) == torch.float16
    assert stored_in(torch.tensor([[torch.nan]])) == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_a_layer_of_two_bytes_gives_its_own_type_or_float32_as_it_is_asked(dtype):
    linear = nn.Linear(300, 90, dtype=dtype)
    x = torch.randn(2, 3, 300, dtype=dtype)
    exact = nn.functional.linear(x.double(), linear.weight.double(), linear.bias.double())
    wide, own = (PanelLinear(linear.weight, linear.bias, is_wide=is_wide)(x) for is_wide in (True, False))
    assert wide.dtype == torch.float32
    assert torch.allclose(wide.double(), exact, atol=1e-5)
    assert torch.equal(own, wide.to(dtype))
    assert torch.equal(PanelLinear(linear.weight, linear.bias).bias, linear.bias)


@torch.inference_mode()
def test_x_may_be_of_any_layout_and_length_but_not_of_another_width():
    weight, bias = layer((70, 48), torch.bfloat16)
    made = PanelLinear(weight, bias)
    x = drawn(48, 6).t()
    assert torch.equal(made(x), made(x.contiguous()))
    assert made(drawn(0, 48)).shape == (0, 70)
    assert made(drawn(48)).shape == (70,)
    assert made(drawn(2, 3, 48)).shape == (2, 3, 70)
    for columns in (47, 96):
        with pytest.raises(ValueError, match=f"x has {columns} columns, and the layer reads 48"):
            made(drawn(1, columns))


@torch.inference_mode()
def test_what_is_no_number_stays_in_its_row():
    made = PanelLinear(*layer((70, 48), torch.bfloat16))
    x = drawn(4, 48)
    expected = made(x)
    x[1, 7], x[2, 0] = torch.nan, torch.inf
    found = made(x)
    assert found[1].isnan().all()
    assert not found[2].isfinite().any()
    assert torch.equal(found[[0, 3]], expected[[0, 3]])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_model_stored_in_two_bytes_is_held_in_two_bytes_whatever_it_computes_in(tmp_path, dtype):
    config = LlamaConfig(
        vocab_size=1024, hidden_size=256, intermediate_size=512, num_hidden_layers=2, tie_word_embeddings=False
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    # With others a CPU that multiplies in the type may be faster.
    runner = load(str(tmp_path), LoadOptions(dtype=dtype, device="cpu", numerics="invariant"))
    layers = [module for module in runner.model.modules() if isinstance(module, PanelLinear)]
    assert {each.tensors()[0].dtype for each in layers} <= {torch.bfloat16, torch.float16}
    plain = unpacked(runner.model)
    num_packed = sum(each.weight.numel() for each in layers)
    others = sum(each.numel() for each in plain.parameters()) - num_packed
    held = sum(storages(runner).values())
    assert held < 2.2 * num_packed + 4.2 * others


@pytest.mark.parametrize("stored", TYPES)
@pytest.mark.parametrize("num_outputs", [5, 16, 70, 200])
def test_weights_stand_in_panels_with_zeros_behind_the_last_output(stored, num_outputs):
    weight = drawn(num_outputs, 33, stored=stored)
    (held, _) = PanelLinear(weight, None).tensors()
    num_panels, _, panel = held.shape
    rows = held.transpose(1, 2).reshape(num_panels * panel, 33)
    assert (num_panels * panel) % 64 == 0
    assert torch.equal(rows[:num_outputs].float(), weight)
    assert not rows[num_outputs:].any()


def test_a_weight_is_laid_out_without_a_copy_beside_it():
    """A head's would be the most that loading ever holds."""
    gc.collect()
    for stored, share in ((torch.float32, 1), (torch.bfloat16, 0.5)):
        weight = torch.ones(2**14, 2**10) + torch.rand(2**14, 1)
        weight = weight.to(stored).float()
        reset_peaks()
        before = process_peak()
        made = PanelLinear(weight, None)
        assert made.tensors()[0].dtype == stored
        assert process_peak() - before < (share + 0.3) * weight.nbytes


def tied(dtype=torch.float32, **settings):
    """A model whose head is its embedding, larger than what is left as it is."""
    config = LlamaConfig(
        vocab_size=1100, hidden_size=256, intermediate_size=64, num_hidden_layers=1, tie_word_embeddings=True,
        num_attention_heads=4, **settings,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(dtype).eval()


@pytest.mark.parametrize("dtype", TYPES)
def test_an_embedding_that_is_the_head_is_held_once_and_gives_the_same_rows(dtype):
    model = tied(dtype)
    weight = model.lm_head.weight.detach().clone()
    if dtype == torch.float32:
        prepack(model)
    else:
        widen_head(model, PanelLinear)
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, PanelEmbedding)
    assert embedding.head is model.lm_head
    assert (model.dtype, model.device) == (dtype, weight.device)
    every = torch.arange(1100)
    for ids in (every, every.flip(0)[:1], every[3:5].expand(2, 3, 2)):
        found = embedding(ids)
        assert found.dtype == dtype
        assert torch.equal(found, weight[ids])
    assert torch.equal(embedding.weight, weight)
    held = sum(storages(HfRunner(model)).values())
    # Panels, a bias of zeros, and the layer's own weights.
    assert held < 1.1 * weight.nbytes + sum(each.nbytes for each in model.parameters())
    # Another model's modules, of the same tensors.
    copied = shared_copy(model)
    assert copied.get_input_embeddings().head is copied.lm_head
    assert copied.lm_head.tensors()[0].data_ptr() == model.lm_head.tensors()[0].data_ptr()


def test_a_model_whose_head_is_its_embedding_is_as_it_was_once_it_is_unpacked():
    model = tied()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    assert prepack(model) > 0
    made = unpacked(model)
    assert type(made.get_input_embeddings()) is nn.Embedding
    assert made.lm_head.weight.data_ptr() == made.get_input_embeddings().weight.data_ptr()
    assert made.state_dict().keys() == before.keys()
    assert all(torch.equal(each, before[name]) for name, each in made.state_dict().items())
    assert isinstance(model.get_input_embeddings(), PanelEmbedding)


@torch.inference_mode()
def test_a_head_that_is_cut_leaves_the_embedding_whole():
    model = tied()
    expected = model(input_ids=torch.tensor([[1050, 7, 3]])).logits
    prepack(model)
    ids = [3, 64, 1099]
    part = with_head_of(model, ids)
    found = part(input_ids=torch.tensor([[1050, 7, 3]])).logits
    assert torch.allclose(found, expected[..., ids], atol=1e-5)
    assert part.get_input_embeddings() is model.get_input_embeddings()


class Scaled(nn.Embedding):
    def forward(self, ids):
        return 3 * super().forward(ids)


@pytest.mark.parametrize("why", ["another weight", "another class", "rows that are limited", "another layout"])
def test_other_embeddings_are_left_as_they_are(why, monkeypatch):
    model = tied()
    weight = model.lm_head.weight
    if why == "another weight":
        model.lm_head.weight = nn.Parameter(weight.detach().clone())
    elif why == "another class":
        model.model.embed_tokens = Scaled(*weight.shape)
        model.model.embed_tokens.weight = weight
    elif why == "rows that are limited":
        model.model.embed_tokens.max_norm = 1.0
    else:
        monkeypatch.setattr(packing, "can_panel", lambda dtype: False)
    embedding = model.get_input_embeddings()
    assert prepack(model) > 0
    assert model.get_input_embeddings() is embedding


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_tied_model_that_is_loaded_holds_its_weights_once(tmp_path, dtype):
    model = tied(torch.bfloat16)
    model.save_pretrained(tmp_path)
    runner = load(str(tmp_path), LoadOptions(dtype=dtype, device="cpu", numerics="invariant"))
    assert isinstance(runner.model.get_input_embeddings(), PanelEmbedding)
    held = sum(storages(runner).values())
    # Two bytes a weight, and a few biases and rotations.
    assert held < 1.1 * 2 * sum(each.numel() for each in model.parameters())
    tokens = [1099, 5, 64, 0]
    (rows,) = runner.feed([Feed(runner.open(), tokens, 4)])
    with torch.inference_mode():
        exact = model.float()(input_ids=torch.tensor([tokens])).logits[0]
    assert torch.allclose(rows, exact, atol=1e-4 if dtype == "float32" else 0.05)


def test_where_nothing_can_be_compiled_the_other_layouts_remain(monkeypatch, tmp_path):
    def missing():
        raise ImportError("numba")

    monkeypatch.setattr(panels, "tiles", missing)
    can_panel.cache_clear()
    try:
        assert not any(map(can_panel, TYPES))
        LlamaForCausalLM(LlamaConfig(vocab_size=512, hidden_size=64, num_hidden_layers=1)).save_pretrained(tmp_path)
        runner = load(str(tmp_path), LoadOptions(dtype="float32", device="cpu"))
        assert not any(isinstance(module, PanelLinear) for module in runner.model.modules())
    finally:
        can_panel.cache_clear()
