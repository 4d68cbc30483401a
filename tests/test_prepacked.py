"""Prepacked weights give what a linear layer gives."""

import copy
import gc
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from cospec.runner import Feed
from cospec.runner.hf import HfRunner, LoadOptions, load, packing, panels, prepacked
from cospec.runner.hf.packing import prepack
from cospec.runner.hf.panels import PanelLinear
from cospec.runner.hf.prepacked import PrepackedLinear
from cospec.runner.hf.resident import COMPILER, MappedFiles, trim_code

from .compiling import MISSING
from .models import tiny

pytestmark = pytest.mark.skipif(not prepacked.can_prepack(torch.float32), reason="this build of torch packs no weights")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.Sequential(nn.Linear(96, 48, bias=False)))


@pytest.fixture
def everything_is_large(monkeypatch):
    monkeypatch.setattr(packing, "FEWEST_WEIGHTS", 1)


@pytest.fixture(params=[PrepackedLinear, PanelLinear])
def kind(request, monkeypatch):
    """Each of the two kinds of packed layers, whatever this machine takes by itself."""
    if request.param is PanelLinear:
        if MISSING:
            pytest.skip(MISSING)
        assert panels.can_panel(torch.float32)
    monkeypatch.setattr(packing, "can_panel", lambda dtype: request.param is PanelLinear and panels.can_panel(dtype))
    return request.param


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64,), (1, 64), (1, 1, 64), (3, 7, 64)])
@torch.inference_mode()
def test_a_prepacked_model_gives_the_same(model, everything_is_large, kind, dtype, shape):
    if packing.packing(dtype) is not kind:
        pytest.skip(f"this CPU does not multiply in {dtype}")
    model.to(dtype)
    x = torch.randn(shape).to(dtype)
    expected = copy.deepcopy(model)(x)
    assert prepack(model) == 2
    assert torch.allclose(model(x), expected, atol=prepacked.TOLERANCE[dtype])


def test_small_layers_are_left_alone(model):
    assert prepack(model) == 0


def test_other_types_are_left_alone(model, everything_is_large):
    assert prepack(model.to(torch.float64)) == 0
    assert not any(isinstance(module, PrepackedLinear) for module in model.modules())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system does not tell what is mapped")
def test_the_file_that_weights_were_read_from_is_let_go(tmp_path):
    """Its embedding stays as it was read, which alone would hold the whole file in memory."""
    config = LlamaConfig(vocab_size=2048, hidden_size=256, intermediate_size=64, num_hidden_layers=1)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    runner = load(str(tmp_path), LoadOptions(dtype="float32", device="cpu"))
    assert any(isinstance(layer, PrepackedLinear) for layer in runner.model.modules())
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def mapped(tmp_path):
    """A tensor in a mapped file, of which no page was changed, and its values."""
    values = torch.arange(2**16, dtype=torch.float32)
    (tmp_path / "weights").write_bytes(values.numpy().tobytes())
    return torch.from_file(str(tmp_path / "weights"), size=2**16, dtype=torch.float32), values


def resident(tensor):
    """Bytes of the file's pages that the process holds."""
    start, found = tensor.data_ptr(), None
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            low, _, high = first.partition("-")
            found = int(low, 16) <= start < int(high, 16)
        elif first == "Rss:" and found:
            return int(rest[0]) * 1024
    raise AssertionError("the tensor is mapped")


needs_smaps = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="this system does not tell what is held")


@needs_smaps
def test_pages_of_a_file_are_given_back_and_read_again(tmp_path):
    tensor, values = mapped(tmp_path)
    assert torch.equal(tensor, values)
    assert resident(tensor) == tensor.nbytes
    MappedFiles().release(tensor)
    assert resident(tensor) == 0
    assert torch.equal(tensor, values)


@needs_smaps
def test_what_is_no_unchanged_file_is_left_alone(tmp_path):
    tensor, values = mapped(tmp_path)
    tensor[0] = 7.0
    own, files = values.clone(), MappedFiles()
    for each in (tensor, own, tensor[:0]):
        assert not files.has(each)
        files.release(each)
    assert tensor[0] == 7.0
    assert torch.equal(tensor[1:], values[1:])
    assert torch.equal(own, values)


@needs_smaps
def test_pages_beside_one_that_was_changed_are_given_back(tmp_path):
    tensor, values = mapped(tmp_path)
    tensor[0] = 7.0
    files, beside = MappedFiles(), tensor[2**12 :]
    assert torch.equal(beside, values[2**12 :])
    held = resident(tensor)
    assert not files.has(tensor[2**8 : 2**9])
    assert files.has(beside)
    files.release(beside)
    assert resident(tensor) == held - beside.nbytes
    assert tensor[0] == 7.0
    assert torch.equal(beside, values[2**12 :])


@needs_smaps
def test_the_compiler_s_code_is_given_back_and_runs_again():
    numba = pytest.importorskip("numba")

    def held():
        """Bytes of the library's code that the process holds."""
        total, is_code = 0, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            first, *rest = line.split()
            if not first.endswith(":"):
                is_code = rest[0] == "r-xp" and Path(rest[-1]).name.startswith(COMPILER)
            elif first == "Rss:" and is_code:
                total += int(rest[0]) * 1024
        return total

    def twice(x):
        return 2 * x

    assert numba.njit(twice)(4) == 8
    before = held()
    assert before > 2**20
    trim_code()
    assert held() < before / 4
    assert numba.njit(twice)(4.5) == 9.0


def test_a_cache_is_freed_with_its_runner(tmp_path):
    """Without the collector of cycles, which runs seldom."""
    runner = HfRunner(tiny("llama"))
    runner.feed([Feed(runner.open(), [1, 2, 3], 1)])
    keys = weakref.ref(runner._cache.slot_layers[0].keys)
    gc.collect()
    gc.disable()
    try:
        assert keys() is not None
        del runner
        assert keys() is None
    finally:
        gc.enable()


def test_an_original_is_freed_before_the_next_is_packed(model, everything_is_large, kind, monkeypatch):
    originals = [weakref.ref(module.weight) for module in model.modules() if isinstance(module, nn.Linear)]
    alive = []
    make = prepacked.PrepackedLinear.__init__

    def counted(self, weight, bias):
        make(self, weight, bias)
        alive.append(sum(each() is not None for each in originals))

    monkeypatch.setattr(prepacked.PrepackedLinear, "__init__", counted)
    assert prepack(model) == 2
    assert alive == [2, 1]
    assert not any(each() is not None for each in originals)
