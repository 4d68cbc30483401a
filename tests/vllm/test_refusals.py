"""vLLM's own configuration is refused where it would not give r, before an engine starts."""

import json
import shutil

import pytest

from cospec.errors import InvalidEnsemble, ModelNotFound, UnsupportedModel
from cospec.vllm.export import _mark

from .members import ensemble_file, export


@pytest.fixture(scope="module")
def out(tiny_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("refused")
    export(ensemble_file(folder, [tiny_models / "small", tiny_models / "wide"]), folder / "out")
    return folder / "out"


def configured(out, **options):
    """What `vllm serve` makes of its arguments before it starts anything."""
    from vllm.engine.arg_utils import EngineArgs

    return EngineArgs(model=str(out), dtype="float32", max_model_len=256, **options).create_engine_config()


def test_as_it_is_exported_it_is_accepted(out):
    assert configured(out).model_config.architecture == "CospecEnsembleForCausalLM"


def test_a_pipeline_is_refused(out):
    with pytest.raises(UnsupportedModel, match=r"pipeline_parallel_size is 2.*--tensor-parallel-size"):
        configured(out, pipeline_parallel_size=2)


def test_a_drafter_that_reads_hidden_states_is_refused(out, tiny_models, tmp_path):
    config = json.loads((tiny_models / "small" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForCausalLM"]}))
    eagle = {"method": "eagle", "model": str(tmp_path), "num_speculative_tokens": 2}
    with pytest.raises(UnsupportedModel, match="the drafter 'eagle' reads the hidden states of one model"):
        configured(out, speculative_config=eagle)


def test_adapters_that_requests_choose_are_refused(out):
    with pytest.raises(UnsupportedModel, match="it is merged then"):
        configured(out, enable_lora=True)


def test_a_member_that_was_moved_is_named(tiny_models, tmp_path):
    shutil.copytree(tiny_models / "small", tmp_path / "moved")
    export(ensemble_file(tmp_path, [tiny_models / "deep", tmp_path / "moved"]), tmp_path / "out")
    (tmp_path / "moved").rename(tmp_path / "elsewhere")
    with pytest.raises(ModelNotFound, match=r"the member 'moved' was at .* export the ensemble again"):
        configured(tmp_path / "out")


def test_an_export_that_was_not_finished_is_named(out, tmp_path):
    shutil.copytree(out, tmp_path / "out")
    _mark(tmp_path / "out")
    with pytest.raises(InvalidEnsemble, match="export the ensemble again"):
        configured(tmp_path / "out")
