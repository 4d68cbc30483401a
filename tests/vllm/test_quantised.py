"""Members that are stored quantised: r is made of what vLLM computes of each of them alone."""

import pytest
import torch

from cospec import Mixture

from ..models import saved
from .members import NUM_ENTRIES, engine, ensemble_file, export, prompts
from .quantised import KINDS, quantise

WEIGHTS = [0.7, 0.3]


def rows_of(folder, given):
    """Log-probabilities of all entries at each position of the texts but the first, of one model within vLLM."""
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=-1)
    with engine(folder, max_logprobs=-1) as llm:
        answers = llm.generate([{"prompt_token_ids": text} for text in given], params, use_tqdm=False)
    return [
        torch.tensor([[row[token].logprob for token in range(NUM_ENTRIES)] for row in answer.prompt_logprobs[1:]])
        for answer in answers
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_with_8_bits_a_weight_beside_one_in_float32(tiny_models, tmp_path, kind):
    from vllm import SamplingParams

    sizes = {"hidden_size": 128, "num_attention_heads": 4, "head_dim": 32, "intermediate_size": 128}
    quantised = quantise(saved(tmp_path / kind, num_entries=NUM_ENTRIES, seed=9, **sizes, vocab_size=NUM_ENTRIES), kind)
    path = ensemble_file(tmp_path, [quantised, tiny_models / "small"], combine={"type": "mixture", "weights": WEIGHTS})
    export(path, tmp_path / "out")
    given, params = prompts(), SamplingParams(max_tokens=16, temperature=0, logprobs=0, ignore_eos=True)
    with engine(tmp_path / "out") as llm:
        answers = llm.generate([{"prompt_token_ids": text} for text in given], params, use_tqdm=False)
    outputs = [answer.outputs[0] for answer in answers]
    texts = [[*text, *output.token_ids] for text, output in zip(given, outputs, strict=True)]
    each = [rows_of(folder, texts) for folder in (quantised, tiny_models / "small")]
    for text, output, one, other in zip(given, outputs, *each, strict=True):
        log_r = Mixture(WEIGHTS).log_probs(torch.stack([one, other]))[len(text) - 1 :]
        assert log_r.argmax(-1).tolist() == list(output.token_ids)
        theirs = [entry[token].logprob for entry, token in zip(output.logprobs, output.token_ids, strict=True)]
        assert theirs == pytest.approx(log_r.amax(-1).tolist(), abs=1e-3)
