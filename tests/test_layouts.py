"""The layout of a decoder's products is measured, and kept for later processes of the machine."""

import json

import pytest
import torch
from torch import nn

from cospec.machine import CACHE, OFF
from cospec.runner.hf import LoadOptions, layouts, load, packing, prepacked
from cospec.runner.hf.compiled.forward import CompiledForward
from cospec.runner.hf.fused import FusedForward
from cospec.runner.hf.invariant import Sizes
from cospec.runner.hf.layouts import PROMPT, SIZES, Layout, fastest
from cospec.runner.hf.panels import PanelLinear
from cospec.runner.hf.prepacked import JoinedPart, PrepackedLinear, TransposedLinear

from .models import saved, tiny

needs_packing = pytest.mark.skipif(
    not prepacked.can_prepack(torch.float32), reason="this build of torch packs no weights"
)


@pytest.fixture(autouse=True)
def nothing_is_remembered():
    layouts._known.clear()
    yield
    layouts._known.clear()


@pytest.fixture
def measured(monkeypatch):
    """Seconds by layout and number of tokens, which stand for what is measured; which were asked for."""
    times, asked = {}, []

    def told(model, kind):
        asked.append(kind)
        return times[kind]

    monkeypatch.setattr(layouts, "_times", told)
    # Panels, which are taken unmeasured where the CPU does not multiply in the type.
    monkeypatch.setattr(packing, "can_panel", lambda dtype: False)
    return times, asked


def seconds(*values, prompt=9.0):
    return {**dict(zip(SIZES, values, strict=True)), PROMPT: prompt}


@needs_packing
def test_passes_are_filled_up_to_numbers_of_tokens_that_no_larger_one_beats(measured):
    times, _ = measured
    times[PrepackedLinear] = seconds(1.3, 1.4, 1.1, 1.0, 1.01, 1.02, 1.3, 1.25)
    times[TransposedLinear] = seconds(1.1, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0)
    layout = fastest(tiny("llama"))
    assert layout.kind is PrepackedLinear
    # Three gain a tenth from being four, seven nothing from being eight.
    assert layout.sizes == Sizes((4, 5, 6, 7, 8))
    flat = torch.ones(2, 3)
    assert torch.equal(layout.sizes.filled(flat), torch.cat((flat, torch.zeros(2, 3))))
    assert layout.sizes.filled(torch.ones(9, 3)).shape == (9, 3)


@needs_packing
def test_what_is_faster_for_one_token_and_for_drafts_together_is_taken(measured):
    times, _ = measured
    times[PrepackedLinear] = seconds(*[2.0] * 8)
    times[TransposedLinear] = seconds(1.0, 1.5, 2.0, 2.2, 2.5, 2.6, 2.7, 2.8)
    layout = fastest(tiny("llama"))
    assert layout.kind is TransposedLinear
    assert layout.sizes == Sizes(SIZES)


@needs_packing
@pytest.mark.parametrize(("prompt", "kind"), [(9.0, PrepackedLinear), (2.0, TransposedLinear)])
def test_prompts_count_where_others_are_nearly_as_fast(measured, prompt, kind):
    times, _ = measured
    times[PrepackedLinear] = seconds(*[1.0] * 8)
    times[TransposedLinear] = seconds(*[1.1] * 8, prompt=prompt)
    assert fastest(tiny("llama")).kind is kind


@needs_packing
def test_a_measurement_is_kept_and_read_by_the_next_process(measured, tmp_path, monkeypatch):
    times, asked = measured
    monkeypatch.setenv(CACHE, str(tmp_path))
    times[PrepackedLinear] = seconds(2, 2, 2, 1, 1, 1, 1, 1)
    times[TransposedLinear] = seconds(*[9.0] * 8)
    first = fastest(tiny("llama"))
    assert len(asked) == 2
    layouts._known.clear()
    assert fastest(tiny("llama")) == first
    assert len(asked) == 2
    # Another model, and a file that is none.
    fastest(tiny("llama", num_hidden_layers=3))
    assert len(asked) == 4
    (file,) = [path for path in (tmp_path / "layouts").iterdir() if '"layers": 2' in path.read_text()]
    for damaged in ("{", "[]", json.dumps({**json.loads(file.read_text()), "kind": "none"})):
        file.write_text(damaged)
        layouts._known.clear()
        assert fastest(tiny("llama")) == first
    assert len(asked) == 10


@needs_packing
def test_a_kind_whose_passes_fail_is_left_out(measured, monkeypatch):
    times, _ = measured
    times[TransposedLinear] = seconds(*[9.0] * 8)
    assert fastest(tiny("llama")).kind is TransposedLinear
    layouts._known.clear()
    monkeypatch.setattr(layouts, "_times", None)
    monkeypatch.setenv(CACHE, OFF)
    assert fastest(tiny("llama")) == Layout(PrepackedLinear)


@needs_packing
def test_passes_are_measured_as_they_will_run(monkeypatch):
    """Of a model's first layers, which keep their own products; compiled where they are panels."""
    model, passes = tiny("llama", num_hidden_layers=5), []
    of_layer = sum(rows * columns for rows, columns in layouts._shapes(model)) * 4
    monkeypatch.setattr(layouts, "MOST_BYTES", 3 * of_layer + 1)
    own = layouts._pass

    def noted(part):
        passes.append((len(part.model.layers), part.lm_head.out_features, own(part)))
        return passes[-1][2]

    monkeypatch.setattr(layouts, "_pass", noted)
    for kind in packing.kinds(torch.float32):
        assert set(layouts._times(model, kind)) == {*SIZES, PROMPT}
        num_layers, num_columns, forward = passes[-1]
        assert (num_layers, num_columns) == (3, 8)
        assert isinstance(forward, CompiledForward if kind is PanelLinear else FusedForward)
    assert {type(linear) for linear in model.model.layers[0].mlp.children() if hasattr(linear, "weight")} == {nn.Linear}


@needs_packing
def test_a_folder_that_cannot_be_written_is_no_hindrance(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE, str(tmp_path / "file"))
    assert set(fastest(tiny("llama")).sizes.tokens) <= set(SIZES)


@needs_packing
def test_a_decoder_is_loaded_in_the_measured_layout_unless_its_numerics_are_invariant(measured, tmp_path, monkeypatch):
    times, _ = measured
    monkeypatch.setattr(layouts, "FEWEST_WEIGHTS", 1)
    times[PrepackedLinear] = seconds(*[9.0] * 8)
    times[TransposedLinear] = seconds(2, 2, 2, 1, 1, 1, 1, 1)
    folder = str(saved(tmp_path))
    for numerics, kind in (("default", TransposedLinear), ("invariant", PrepackedLinear)):
        runner = load(folder, LoadOptions(device="cpu", dtype="float32", numerics=numerics))
        assert isinstance(runner.forward, FusedForward)
        mlp = runner.model.model.layers[0].mlp
        assert isinstance(mlp.up_proj, JoinedPart)
        assert type(mlp.up_proj.whole) is type(mlp.down_proj) is kind
