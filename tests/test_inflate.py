"""An inflated model's logits are the small model's."""

import importlib.util
from pathlib import Path

import pytest
import torch

from cospec import demo
from cospec.runner import Feed
from cospec.runner.hf import LoadOptions, load

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "inflate.py"


@pytest.fixture(scope="module")
def script():
    import sys

    spec = importlib.util.spec_from_file_location("inflate", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["inflate"] = module
    spec.loader.exec_module(module)
    return module


def rows(runner, tokens):
    """Fed in two chunks beside another sequence, so that the cache takes part."""
    slot, other = runner.open(), runner.open()
    runner.feed([Feed(slot, tokens[:7], 1), Feed(other, tokens[:3], 1)])
    answer, _ = runner.feed([Feed(slot, tokens[7:], len(tokens) - 7), Feed(other, tokens[3:4], 1)])
    return answer


@pytest.mark.parametrize("name", ["demo:math", "demo:drafter"])
@torch.inference_mode()
def test_logits_are_the_small_models(script, tmp_path, name):
    count = script.inflate(name, tmp_path, script.Shape(512, 6, 1024))
    small = load(demo.model_path(name), LoadOptions(dtype="float32"))
    large = load(str(tmp_path), LoadOptions(dtype="float32"))
    assert count > 3 * small.model.num_parameters()
    tokens = small.tokenizer.encode("Question: Tom has 3 boxes with 12 pencils each. How many are there?")
    assert torch.allclose(rows(large, tokens), rows(small, tokens), atol=1e-3)


def test_a_shape_that_is_smaller_is_refused(script, tmp_path):
    with pytest.raises(ValueError, match="at least"):
        script.inflate("demo:math", tmp_path, script.Shape(128, 2, 352))
