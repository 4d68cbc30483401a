"""lm-eval's model `cospec`: its command line by name, and its scores and answers against the Python API."""

import importlib.metadata
import json
import os
import subprocess
import sys

import pytest
import torch

from cospec import Ensemble, InvalidPrompt, InvalidSampling, Member, Mixture, SamplingParams, UnknownName
from cospec.prompts import Chat

lm_eval = pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.registry import get_model  # noqa: E402

from cospec.lm_eval import CospecLM  # noqa: E402

from .models import tiny  # noqa: E402
from .text.tokenizers import byte_level, finished  # noqa: E402

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
TASK = """
task: {kind}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: gold
target_delimiter: ""
{more}
"""
CHOICES = "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]"
ANSWERS = (
    "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    "generation_kwargs: {until: [' the'], max_gen_toks: 9, do_sample: false}"
)
DOCS = [
    {"question": "the cat sat on", "choices": [" the mat", " a dog", " it"], "gold": 0},
    {"question": "Hello world, this is", "choices": [" a text", " small"], "gold": 1},
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two random models of one vocabulary, whose tokenizer has a BOS, an end and a chat template."""
    made = finished(byte_level(), bos=True, chat_template=TEMPLATE)
    paths = []
    for seed in range(2):
        path = tmp_path_factory.mktemp("lm_eval") / f"m{seed}"
        sizes = {"vocab_size": len(made), "bos_token_id": 1, "eos_token_id": 2}
        tiny("llama", seed=seed, **sizes).save_pretrained(path)
        made.save_pretrained(path)
        paths.append(str(path))
    return paths


@pytest.fixture(scope="module")
def ensemble(folders):
    return Ensemble(folders, Mixture([0.6, 0.4]), schedule="alternate", max_sequences=4)


@pytest.fixture(scope="module")
def lm(ensemble):
    return CospecLM(ensemble)


def asked(kind, *arguments):
    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


def scores(lm, *pairs):
    return lm.loglikelihood([asked("loglikelihood", *pair) for pair in pairs], disable_tqdm=True)


def score(ensemble, before, ids):
    """log r of `ids` behind `before`, token by token, and whether r would have said them."""
    total, is_greedy = 0.0, True
    for index, token in enumerate(ids):
        (result,) = ensemble.generate([*before, *ids[:index]], SamplingParams(temperature=0, max_tokens=1, logprobs=0))
        forced = SamplingParams(max_tokens=1, logprobs=0, logit_bias={token: 1e9}, temperature=0)
        (told,) = ensemble.generate([*before, *ids[:index]], forced)
        assert told.token_ids == [token]
        total += told.logprobs[0].logprob
        is_greedy &= result.token_ids == [token]
    return total, is_greedy


def test_a_continuation_is_scored_as_r_would_draw_it_token_by_token(lm, ensemble):
    encode = ensemble.tokenizer.encode
    pairs = [("the cat", " sat on"), ("the cat ", "sat"), ("a", "é"), ("", "the dog")]
    for (context, continuation), found in zip(pairs, scores(lm, *pairs), strict=True):
        before = encode(context.rstrip())
        ids = encode(context + continuation)[len(before) :]
        expected = score(ensemble, before, ids)
        assert found == (pytest.approx(expected[0], abs=1e-4), expected[1])
    before = encode("the cat")
    (said,) = ensemble.generate(before, SamplingParams(temperature=0, max_tokens=3, ignore_eos=True))
    (found,) = lm._loglikelihood_tokens([(None, before, said.token_ids)], disable_tqdm=True)
    assert found == (pytest.approx(score(ensemble, before, said.token_ids)[0], abs=1e-4), True)


def test_a_text_is_scored_once_behind_its_begin_whatever_the_windows(ensemble):
    text = "the cat sat on the mat and the dog sat on the log"
    ids = ensemble.tokenizer.encode(text)
    for most in (None, 6):
        lm = CospecLM(ensemble, max_length=most)
        (found,) = lm.loglikelihood_rolling([asked("loglikelihood_rolling", text)], disable_tqdm=True)
        # Each token behind as many of those before it as a window holds; the first windows begin with BOS.
        room = (most or lm.max_length) - 1
        first = ids[: room + 1]
        expected = score(ensemble, first[:1], first[1:])[0]
        for start in range(room + 1, len(ids), room):
            stop = min(start + room, len(ids))
            window = ids[stop - room - 1 : stop]
            expected += score(ensemble, window[: start - stop], window[start - stop :])[0]
        assert found == pytest.approx(expected, abs=1e-3)


def test_members_of_different_prompts_are_scored_by_their_own(folders):
    members = [Member(model=folders[0]), Member(model=folders[0], prompt="{prompt}, badly", name="bad")]
    guided = Ensemble(members, "guided", schedule="plain")
    lm = CospecLM(guided)
    encode = guided.tokenizer.encode
    ids = encode("the cat sat")[len(encode("the cat")) :]
    ((found, _),) = scores(lm, ("the cat", " sat"))
    # Each token of the answer, behind those before it, by what each member is given.
    given = guided.rendered("the cat")
    alone = Ensemble([folders[0]], schedule="plain")
    total = 0.0
    for index, token in enumerate(ids):
        params = SamplingParams(max_tokens=1, logprobs=1000, temperature=0)
        rows = []
        for lane in given:
            (told,) = alone.generate([*lane, *ids[:index]], params)
            rows.append(torch.tensor([logprob for _, logprob in sorted(told.logprobs[0].top)])[None])
        total += float(guided.combination.log_probs(torch.stack(rows))[0, token])
    assert found == pytest.approx(total, abs=1e-3)


def test_answers_are_the_librarys_own(lm, ensemble):
    contexts = ["the cat", "Hello world", "def main", "a"]
    kwargs = {"until": ["on", "\n\n", ""], "max_gen_toks": 12, "do_sample": False}
    found = lm.generate_until([asked("generate_until", text, kwargs) for text in contexts], disable_tqdm=True)
    params = SamplingParams(temperature=0, max_tokens=12, stop=["on", "\n\n"])
    assert found == [result.text for result in ensemble.generate(contexts, params)]


def test_sampled_answers_differ_and_come_again_with_the_seed(ensemble):
    requests = [asked("generate_until", "the", {"do_sample": True, "max_gen_toks": 8, "top_p": 0.9})] * 3
    found = [CospecLM(ensemble, seed=seed).generate_until(requests, disable_tqdm=True) for seed in (5, 5, 6)]
    assert found[0] == found[1] != found[2]
    assert len(set(found[0])) > 1
    params = [SamplingParams(max_tokens=8, top_p=0.9, seed=5 + index) for index in range(3)]
    assert found[0] == [result.text for result in ensemble.generate(["the"] * 3, params)]


def test_what_a_task_asks_for_is_done_or_refused(lm):
    for kwargs, error, message in (
        ({"no_repeat_ngram_size": 3}, UnknownName, "no_repeat_ngram_size"),
        ({"num_beams": 4}, InvalidSampling, "num_beams"),
        ({"top_p": 3}, InvalidSampling, "top_p"),
        ({"max_tokens": 4, "stop": ["a"]}, UnknownName, "stop"),
    ):
        with pytest.raises(error, match=message):
            lm.generate_until([asked("generate_until", "the", kwargs)], disable_tqdm=True)


def test_a_chat_is_rendered_by_each_members_template(folders):
    turns = [{"role": "user", "content": "the cat"}, {"role": "assistant", "content": "sat"}]
    asking = [*turns, {"role": "user", "content": "on"}]
    members = [Member(model=folders[0]), Member(model=folders[1], system="Answer badly.")]
    for ensemble in (Ensemble(folders, schedule="plain"), Ensemble(members, schedule="plain")):
        lm = CospecLM(ensemble)
        context = lm.apply_chat_template(asking)
        assert context.endswith("[user] on[assistant] ")
        assert lm.chat_template(True) == TEMPLATE
        assert lm.tok_encode(context).count(1) == 1
        kwargs = {"max_gen_toks": 8, "until": []}
        (found,) = lm.generate_until([asked("generate_until", context, kwargs)], disable_tqdm=True)
        params = SamplingParams(temperature=0, max_tokens=8)
        (own,) = ensemble.generate(Chat(messages=tuple(asking)), params)
        assert found == own.text
    assert lm.apply_chat_template(turns, add_generation_prompt=False).endswith("[assistant] sat")
    assert "/" not in lm.tokenizer_name


def test_one_member_with_a_system_message_of_its_own_is_given_it_once(folders):
    ensemble = Ensemble([Member(model=folders[0], system="Be brief.", name="brief")], schedule="plain")
    asking = [{"role": "user", "content": "the cat"}]
    lm = CospecLM(ensemble)
    context = lm.apply_chat_template(asking)
    assert context.count("Be brief.") == 1
    assert lm.tok_encode(context) == [*ensemble.rendered(asking)[0]]
    request = asked("generate_until", context, {"until": ["\n"], "max_gen_toks": 6})
    (answer,) = lm.generate_until([request], disable_tqdm=True)
    (own,) = ensemble.generate(asking, SamplingParams(temperature=0, max_tokens=6, stop=["\n"]))
    assert answer == own.text


def test_a_chat_of_members_without_a_template_is_refused():
    lm = CospecLM("demo:we", schedule="plain")
    with pytest.raises(InvalidPrompt, match="no chat template"):
        lm.apply_chat_template([{"role": "user", "content": "a"}])


def test_the_batch_size_is_how_many_are_decoded_at_a_time():
    assert CospecLM("demo:we", schedule="plain", batch_size=3).ensemble.max_sequences == 3
    assert CospecLM("demo:we", schedule="plain", batch_size="auto").ensemble.max_sequences == 32
    assert CospecLM("demo:we", schedule="plain", batch_size="auto", max_batch_size=8).ensemble.max_sequences == 8
    with pytest.raises(InvalidSampling, match="batch_size"):
        CospecLM("demo:we", batch_size="many")
    with pytest.raises(UnknownName, match="shedule"):
        CospecLM("demo:we", shedule="plain")


@pytest.mark.long
def test_lm_evals_command_line_finds_it_by_name(folders, ensemble, tmp_path):
    """Both kinds of tasks in one run: lm-eval takes many seconds to be imported."""
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in DOCS))
    kinds = {"multiple_choice": CHOICES, "generate_until": ANSWERS}
    for kind, more in kinds.items():
        task = TASK.format(file=tmp_path / "docs.jsonl", kind=kind, more=more)
        (tmp_path / f"{kind}.yaml").write_text(task)
    mine = {"members": folders, "combine": {"type": "mixture", "weights": [0.6, 0.4]}, "schedule": "alternate"}
    (tmp_path / "mine.yaml").write_text(json.dumps(mine))
    command = [
        *("--model", "cospec", "--model_args", f"ensemble={tmp_path / 'mine.yaml'}", "--tasks", ",".join(kinds)),
        *("--include_path", str(tmp_path), "--output_path", str(tmp_path / "out"), "--log_samples"),
    ]
    home = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    installed = {entry.value for entry in importlib.metadata.entry_points(group="torch.backends", name="cospec")}
    # As `lm_eval` itself where the package is installed with its entry points, and else by the module of the same.
    module = "lm_eval" if "cospec.lm_eval_name:register" in installed else "cospec.lm_eval"
    ran = subprocess.run(
        [sys.executable, "-m", module, *command], env=os.environ | home, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr[-3000:]

    def samples(kind):
        (written,) = (tmp_path / "out").rglob(f"samples_{kind}_*.jsonl")
        return [json.loads(line) for line in written.read_text().splitlines()]

    for sample in samples("generate_until"):
        params = SamplingParams(temperature=0, max_tokens=9, stop=[" the"])
        (own,) = ensemble.generate(sample["doc"]["question"], params)
        assert sample["resps"] == [[own.text]]
    for sample in samples("multiple_choice"):
        pairs = [(sample["doc"]["question"], choice) for choice in sample["doc"]["choices"]]
        expected = scores(CospecLM(ensemble), *pairs)
        for (found,), (logprob, is_greedy) in zip(sample["resps"], expected, strict=True):
            assert float(found[0]) == pytest.approx(logprob, abs=1e-4)
            assert (str(found[1]) == "True") == is_greedy


def test_its_name_is_in_lm_evals_registry():
    assert get_model("cospec") is CospecLM
    assert get_model("hf").__name__ == "HFLM"
