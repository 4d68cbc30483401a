"""`model.generate(..., custom_generate=cospec.custom_generate(ensemble))`: transformers' own text for one member, the
ensemble's for several, in transformers' form."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LogitsProcessorList, TopPLogitsWarper
from transformers.generation import MaxTimeCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

import cospec
from cospec import Ensemble, InvalidSampling, Mixture, SamplingParams

from .models import saved

PROMPTS = [[5, 9, 40, 9, 5, 77], [12, 3], [60, 61, 62, 63]]
END, PAD = 1, 0


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return [str(saved(tmp_path_factory.mktemp("generate") / str(seed), "llama", seed=seed)) for seed in range(2)]


@pytest.fixture(scope="module")
def model(folders):
    return AutoModelForCausalLM.from_pretrained(folders[0])


@pytest.fixture(scope="module")
def alone(folders):
    return cospec.custom_generate(Ensemble([folders[0]], schedule="plain"))


@pytest.fixture(scope="module")
def both(folders):
    return Ensemble(folders, Mixture([0.6, 0.4]), schedule="alternate")


def batch():
    """The prompts, padded on the left, and their mask."""
    width = max(map(len, PROMPTS))
    ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in PROMPTS])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in PROMPTS])
    return {"input_ids": ids, "attention_mask": mask, "pad_token_id": PAD}


GREEDY = [
    {"max_new_tokens": 12},
    {"max_length": 14},
    {"max_new_tokens": 12, "repetition_penalty": 1.3},
    {"max_new_tokens": 12, "eos_token_id": [40, 77]},
    {"max_new_tokens": 12, "eos_token_id": 50},
    {"max_new_tokens": 12, "eos_token_id": [*range(2, 60)], "min_new_tokens": 4},
    {"max_new_tokens": 12, "eos_token_id": [*range(2, 60)], "min_length": 9},
    {"max_new_tokens": 12, "suppress_tokens": [45, 50, 84]},
    {
        "max_new_tokens": 9,
        "suppress_tokens": [45],
        "repetition_penalty": 1.2,
        "min_new_tokens": 3,
        "eos_token_id": [50],
    },
    {"max_new_tokens": 3, "num_return_sequences": 1, "return_dict_in_generate": True},
]


@pytest.mark.parametrize("config", GREEDY, ids=lambda config: " ".join(config))
def test_one_member_writes_what_the_model_itself_does(config, model, alone):
    theirs = model.generate(**batch(), do_sample=False, **config)
    ours = model.generate(**batch(), do_sample=False, **config, custom_generate=alone)
    assert type(ours) is type(theirs)
    if config.get("return_dict_in_generate"):
        theirs, ours = theirs.sequences, ours.sequences
    assert ours.tolist() == theirs.tolist()
    assert ours.dtype == theirs.dtype


def test_a_generation_config_is_followed_as_arguments_are(model, alone):
    config = {"max_new_tokens": 5, "repetition_penalty": 1.2}
    made = changed_config(model, **config)
    expected = model.generate(**batch(), **config, custom_generate=alone)
    assert model.generate(**batch(), generation_config=made, custom_generate=alone).tolist() == expected.tolist()


def changed_config(model, **changes):
    config = type(model.generation_config).from_dict(model.generation_config.to_dict())
    config.update(**changes)
    return config


def test_several_members_write_what_the_ensemble_does(model, both):
    config = {"do_sample": True, "temperature": 0.8, "top_k": 30, "top_p": 0.95, "min_p": 0.01, "max_new_tokens": 8}
    decode = cospec.custom_generate(both, params=SamplingParams(seed=7, presence_penalty=0.5))
    found = model.generate(**batch(), **config, repetition_penalty=1.1, custom_generate=decode)
    params = [
        SamplingParams(
            temperature=0.8, top_k=30, top_p=0.95, min_p=0.01, max_tokens=8, repetition_penalty=1.1,
            presence_penalty=0.5, seed=7 + row,
        )
        for row in range(len(PROMPTS))
    ]  # fmt: skip
    results = both.generate(PROMPTS, params)
    width = max(map(len, PROMPTS))
    for row, result in zip(found.tolist(), results, strict=True):
        answer = row[width:]
        assert answer[: len(result.token_ids)] == result.token_ids
        assert set(answer[len(result.token_ids) :]) <= {PAD}


def test_samples_of_one_prompt_differ_and_follow_torchs_seed(model, both):
    decode = cospec.custom_generate(both)
    config = {"do_sample": True, "top_k": 0, "max_new_tokens": 8, "num_return_sequences": 3, "custom_generate": decode}
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found.append(model.generate(torch.tensor([PROMPTS[0]]), **config).tolist())
    assert found[0] == found[1] != found[2]
    assert len(set(map(tuple, found[0]))) == 3


def test_ends_of_all_members_end_a_text_unless_others_are_asked_for(folders, model, tmp_path):
    other = str(saved(tmp_path / "other", "llama", eos_token_id=50))
    both = Ensemble([folders[0], other], schedule="plain")
    decode = cospec.custom_generate(both, params=SamplingParams(logit_bias={50: 1e6}))
    prompt = torch.tensor([PROMPTS[0]])
    assert model.generate(prompt, max_new_tokens=4, custom_generate=decode)[0, 6:].tolist() == [50]
    found = model.generate(prompt, max_new_tokens=4, eos_token_id=2, custom_generate=decode)
    assert found[0, 6:].tolist() == [50] * 4


class Kept(BaseStreamer):
    def __init__(self):
        self.given, self.is_over = [], False

    def put(self, value):
        self.given.append(value.flatten().tolist())

    def end(self):
        self.is_over = True


def test_a_streamer_is_given_the_prompt_and_each_token(model, both):
    streamer = Kept()
    decode = cospec.custom_generate(both, streamer=streamer)
    found = model.generate(torch.tensor([PROMPTS[0]]), max_new_tokens=6, custom_generate=decode)
    assert streamer.given == [PROMPTS[0], *([token] for token in found[0, 6:].tolist())]
    assert streamer.is_over
    with pytest.raises(InvalidSampling, match="one sequence"):
        model.generate(**batch(), max_new_tokens=6, custom_generate=decode)


class Mine:
    """A logits processor of a user's own."""

    def __call__(self, input_ids, scores):
        return scores


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_beams": 2}, "num_beams"),
        ({"no_repeat_ngram_size": 2}, "no_repeat_ngram_size"),
        ({"bad_words_ids": [[5]]}, "bad_words_ids"),
        ({"sequence_bias": [[[5], 2.0]]}, "sequence_bias"),
        ({"guidance_scale": 1.5}, "guidance_scale"),
        ({"do_sample": True, "typical_p": 0.5}, "typical_p"),
        ({"do_sample": True, "epsilon_cutoff": 0.01}, "epsilon_cutoff"),
        ({"forced_eos_token_id": 1}, "forced_eos_token_id"),
        ({"max_time": 3.0}, "max_time"),
        ({"output_scores": True, "return_dict_in_generate": True}, "output_scores"),
        ({"output_logits": True, "return_dict_in_generate": True}, "output_logits"),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens"),
        ({"logits_processor": LogitsProcessorList([Mine()])}, "Mine"),
        ({"stopping_criteria": StoppingCriteriaList([MaxTimeCriteria(3.0)])}, "MaxTimeCriteria"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_followed_is_refused_by_name(config, message, model, alone):
    with pytest.raises(InvalidSampling, match=message):
        model.generate(torch.tensor([PROMPTS[0]]), max_new_tokens=4, **config, custom_generate=alone)


def test_a_processor_that_would_come_in_another_order_is_refused(model, both):
    class TemperatureLogitsWarper(Mine):
        temperature = 0.5

    processors = LogitsProcessorList([TopPLogitsWarper(0.5), TemperatureLogitsWarper()])
    decode = cospec.custom_generate(both)
    with pytest.raises(InvalidSampling, match="stands behind"):
        decode(model, torch.tensor([PROMPTS[0]]), processors, [], model.generation_config)
