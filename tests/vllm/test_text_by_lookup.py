"""The bundled models with vLLM's own lookup.

The last file by name: the lookup imports numba, and no further engine starts in a process that has it (vLLM 0.32 looks
through all modules for kernels, and stumbles over llvmlite's).
"""

import pytest

from cospec import Ensemble, demo

from . import members
from .members import assert_same, engine, ensemble_file, export


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    """The bundled models, with vLLM's own lookup."""
    folder = tmp_path_factory.mktemp("bundled")
    path = ensemble_file(folder, ["demo:math", "demo:general"], proposer="lookup", gamma=3)
    speculation = members.speculation_of(export(path, folder / "out"))
    assert speculation["method"] == "ngram"
    with engine(folder / "out", speculative_config=speculation) as llm:
        yield llm, Ensemble.load(path, schedule="plain", proposer=[], gamma=None)


def test_the_bundled_models_and_a_lookup_decode_the_same(bundled):
    llm, ensemble = bundled
    given = [list(ensemble.rendered(prompt)[0]) for prompt in [*demo.prompts()[:3], *demo.prompts()[-3:]]]
    assert_same(llm, ensemble, given, num_tokens=48)
    assert members.count(llm, "vllm:spec_decode_num_accepted_tokens") > 0


def test_what_multiplies_logits_finds_them_as_high_as_with_cospec(bundled):
    from vllm import SamplingParams as TheirParams

    from cospec import SamplingParams

    llm, ensemble = bundled
    given = [list(ensemble.rendered(prompt)[0]) for prompt in demo.prompts()[:3]]
    wanted = {"max_tokens": 24, "temperature": 0, "repetition_penalty": 1.3}
    results = ensemble.generate(given, SamplingParams(**wanted))
    answers = llm.generate([{"prompt_token_ids": own} for own in given], TheirParams(**wanted), use_tqdm=False)
    assert [list(answer.outputs[0].token_ids) for answer in answers] == [result.token_ids for result in results]
