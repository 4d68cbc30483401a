"""Distilling a drafter: what is learned is r, what is written decodes exactly, and no run mixes with another."""

import itertools
import json
import multiprocessing
import os
import pkgutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

from cospec import Contrastive, Ensemble, Member, Mixture, SamplingParams
from cospec.cli import app
from cospec.distil import loss, run, training
from cospec.distil.acceptance import log_target, overlap
from cospec.distil.head import DECAY, STEPS, HeadPupil
from cospec.distil.hidden import hidden_states, members_of
from cospec.distil.phases import Phases
from cospec.distil.pupil import LayersPupil
from cospec.distil.recipe import TextRecipe, TrainingRecipe
from cospec.distil.task import Distillation
from cospec.distil.texts import Answer, WrittenText
from cospec.distil.training import Training
from cospec.distil.vocabulary import frequent_tokens
from cospec.errors import InvalidDistillation, UnsupportedModel
from cospec.runner.hf.cut import first_layers
from cospec.runner.hf.head import DraftHead, HeadShape
from cospec.runner.hf.trainable import FirstLayers
from cospec.toy import TableRunner

from .cli_models import write_models
from .heads import read_by_head
from .models import VOCAB, tiny

PROMPTS = ["one", "two", "the members", "the target", "two models decode", "exactly"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_models(tmp_path_factory.mktemp("models"))
    (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in PROMPTS))
    (folder / "mine.yaml").write_text("members: [a, b]\ndtype: float32\n")
    return folder


def command(folder, out, *options):
    small = ["--layers", "1", "--rank", "2", "--samples", "2", "--max-tokens", "8", "--steps", "6", "--batch", "4"]
    files = ["--ensemble", str(folder / "mine.yaml"), "--prompts", str(folder / "prompts.jsonl"), "--out", str(out)]
    return ["distil", *files, *small, "--json", *options]


def call(arguments):
    return CliRunner().invoke(app, arguments)


def refused(arguments):
    result = call(arguments)
    assert result.exit_code == 2, result.output
    return " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """Two layers of a bundled model, trained for its mixture with another: the folder, and what was printed."""
    folder = tmp_path_factory.mktemp("distilled")
    prompts = [f"Question: what is {n} + {n + 3}?\nAnswer:" for n in range(12)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    arguments = ["distil", "--ensemble", "demo:we", "--prompts", str(folder / "prompts.jsonl"), "--layers", "2"]
    sizes = [
        "--samples",
        "2",
        "--max-tokens",
        "40",
        "--steps",
        "30",
        "--batch",
        "8",
        "--lr",
        "0.005",
        "--rank",
        "8",
        "--vocabulary",
        "512",
    ]
    result = call([*arguments, *sizes, "--out", str(folder / "out"), "--json"])
    assert result.exit_code == 0, result.output
    return folder / "out", json.loads(result.stdout)


def test_a_drafter_is_accepted_more_often_than_the_layers_it_was_made_of(distilled):
    out, printed = distilled
    assert printed["acceptance_after"] > printed["acceptance_before"] + 0.05
    assert printed["num_held_out_prompts"] == 1
    own = json.loads((out / "cospec.json").read_text())
    assert own["layers"] == 2
    assert own["acceptance"] == round(printed["acceptance_after"], 4)
    assert len(own["vocabulary"]) == printed["vocabulary"] == 512
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"]) == ("demo:math", 8)
    assert (out / "adapter_model.safetensors").stat().st_size == printed["num_bytes"] < 300_000
    card = (out / "README.md").read_text()
    assert f"| this drafter | {printed['acceptance_after']:.3f} |" in card
    assert not (out / "work" / "checkpoint.pt").exists()


def test_the_drafter_decodes_exactly_and_is_accepted_as_was_measured(distilled):
    out, printed = distilled
    ensemble = Ensemble.load("demo:we", schedule="fixed", gamma=1, proposer=str(out), verification="token")
    # The layers are those of the member.
    member, drafter = ensemble.runners[0], ensemble.runners[2]
    layer = drafter.served_by.model.model.layers[0].input_layernorm.weight
    assert layer.data_ptr() == member.model.model.layers[0].input_layernorm.weight.data_ptr()
    params = SamplingParams(temperature=0, max_tokens=40)
    plain = ensemble.with_plan(schedule="plain", gamma=None, proposer=None)
    prompts = [f"Question: what is {n} + 5?\nAnswer:" for n in range(20, 32)]
    texts = [[each.token_ids for each in way.generate(prompts, params)] for way in (ensemble, plain)]
    assert texts[0] == texts[1]
    drafts = [each.proposers["out"] for each in ensemble.generate(prompts, SamplingParams(max_tokens=40, seed=1, n=2))]
    proposed = sum(each.proposed for each in drafts)
    assert proposed > 200
    rate = sum(each.accepted for each in drafts) / proposed
    assert abs(rate - printed["acceptance_after"]) < 0.15


def test_a_whole_drafter_is_a_model_and_decodes_exactly(folder, tmp_path):
    out = tmp_path / "out"
    result = call(command(folder, out, "--whole", "--lr", "0.01"))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["acceptance_after"] > json.loads(result.stdout)["acceptance_before"]
    ensemble = Ensemble.load(folder / "mine.yaml", schedule="fixed", proposer=str(out))
    assert ensemble.drafter_names == ("out",)
    plain = ensemble.with_plan(schedule="plain", proposer=None)
    for params in (SamplingParams(temperature=0, max_tokens=24, ignore_eos=True),):
        drafted = ensemble.generate(PROMPTS, params)
        assert [each.token_ids for each in drafted] == [each.token_ids for each in plain.generate(PROMPTS, params)]
        assert any(each.proposers["out"].accepted for each in drafted)


@pytest.mark.parametrize("combination", [Mixture([0.3, 0.7]), Contrastive(0.5, plausibility=0.1)], ids=str)
def test_what_is_learned_is_what_decoding_reports_as_r(folder, combination):
    """Members with prompts of their own included; a drafter that the ensemble has already has no part in r."""
    members = [Member(model=folder / "a", prompt="says: {prompt}"), Member(model=folder / "b")]
    ensemble = Ensemble(members, combination, dtype="float32", proposer="lookup")
    params = SamplingParams(max_tokens=12, seed=3, logprobs=4, ignore_eos=True)
    (result,) = ensemble.generate("the members", params)
    lane_prompts = ensemble.request("the members", params).lane_prompts
    log_r = log_target(ensemble, lane_prompts, result.token_ids)
    expected = torch.tensor([[logprob for _, logprob in entry.top] for entry in result.logprobs])
    ids = torch.tensor([[token for token, _ in entry.top] for entry in result.logprobs])
    torch.testing.assert_close(log_r.gather(1, ids), expected, atol=1e-4, rtol=1e-4)


def distributions(num, size, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, size, generator=generator).mul(2)


def test_distances_over_all_entries_are_the_definitions():
    logits, r = distributions(5, 7, 0), distributions(5, 7, 1).softmax(-1)
    columns = torch.arange(7).expand(5, 7)
    cross_entropy, varied = loss.distances(logits, columns, r)
    q = logits.softmax(-1)
    torch.testing.assert_close(varied, (q - r).abs().sum(-1) / 2)
    torch.testing.assert_close(cross_entropy, -(r * q.log()).sum(-1), atol=1e-4, rtol=1e-4)


def test_what_is_not_kept_is_one_event_and_what_cannot_be_proposed_is_lost():
    """Tokens 0 .. 3 are kept, of which the drafter knows not 1; its columns are tokens 0, 2, 3, 4."""
    logits, r = distributions(6, 4, 0), distributions(6, 6, 1).softmax(-1)
    columns = torch.tensor([0, -1, 1, 2]).expand(6, 4)
    _, varied = loss.distances(logits, columns, r[:, :4])
    q = logits.softmax(-1)
    known = (q[:, :3] - r[:, [0, 2, 3]]).abs().sum(-1)
    other = (q[:, 3] - r[:, 4:].sum(-1)).abs()
    torch.testing.assert_close(varied, (known + r[:, 1] + other) / 2)


def test_the_loss_of_a_large_vocabulary_in_parts_has_the_same_gradient(monkeypatch):
    weight, hidden = distributions(50, 8, 0), distributions(9, 8, 1)
    columns, probs = torch.arange(50).expand(9, 50), distributions(9, 50, 2).softmax(-1)
    gradients = []
    for most in (1 << 23, 100):
        monkeypatch.setattr(loss, "MOST_LOGITS", most)
        free = hidden.clone().requires_grad_(True)
        losses = loss.backward(free * 1.0, lambda part: part @ weight.T, columns, probs, 0.5, 50)
        gradients.append((free.grad, losses))
    # Losses are sums in float32, of parts in another order.
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)
    free = hidden.clone().requires_grad_(True)
    cross_entropy, varied = loss.distances(free @ weight.T, columns, probs)
    (cross_entropy + loss.TOTAL_VARIATION_AT_END * 0.5 * varied).mean().backward()
    torch.testing.assert_close(gradients[1][0], free.grad)


def test_acceptance_is_one_minus_the_total_variation_over_the_whole_vocabulary():
    known = (1, 2, 5)
    r, q = distributions(4, 6, 0).softmax(-1), distributions(4, 3, 1).softmax(-1)
    whole = torch.zeros(4, 6)
    whole[:, list(known)] = q
    torch.testing.assert_close(overlap(q, r, known), 1 - (whole - r).abs().sum(-1) / 2)
    torch.testing.assert_close(overlap(whole, r, None), 1 - (whole - r).abs().sum(-1) / 2)


def written(tokens, kept, probs, prompt=(1,)):
    return WrittenText(prompt=prompt, tokens=tokens, kept=torch.tensor(kept), probs=torch.tensor(probs))


def test_the_most_frequent_tokens_are_those_expected_under_r_with_the_ends():
    texts = [written((5, 6), [[5, 3], [5, 6]], [[0.6, 0.3], [0.5, 0.4]])]
    assert frequent_tokens(texts, 3, 10, end_ids=(9,)) == [5, 6, 9]
    # Of those that were never seen the lowest.
    assert frequent_tokens(texts, 6, 10, end_ids=(9,)) == [0, 1, 3, 5, 6, 9]
    assert frequent_tokens(texts, 10, 10, end_ids=(9,)) == [*range(10)]
    for count in (1, 11):
        with pytest.raises(InvalidDistillation, match=r"give a number from 2 to 10"):
            frequent_tokens(texts, count, 10, end_ids=(9,))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "qwen3", "opt", "gpt_neox"])
def test_the_first_layers_of_any_architecture_learn(kind, tmp_path):
    model = first_layers(tiny(kind), 1)
    ids = torch.arange(2, 12)[None]
    expected = model(ids).logits[0].detach()
    layers = FirstLayers(model, VOCAB, torch.float32)
    layers.train_adapter(4, 0, "base")
    torch.testing.assert_close(layers.logits(layers.hidden(ids)[0]), expected, atol=1e-4, rtol=1e-4)
    tokens = (3, 4, 5)
    texts = [written(tokens, [[token] for token in tokens], [[0.9]] * 3, prompt=(2, 7))]
    recipe = TrainingRecipe(layers=1, rank=4, steps=60, lr=0.02)
    learning = Training(pupil=LayersPupil(layers), texts=texts, recipe=recipe, checkpoint=tmp_path / "checkpoint.pt")
    accepted = []
    assert learning.run(lambda: False, lambda: accepted.append(learning.progress.acceptance))
    assert accepted[-1] > accepted[0] + 0.1
    layers.save(tmp_path)
    assert (tmp_path / "adapter_model.safetensors").exists()


def test_a_model_whose_logits_are_not_its_heads_is_refused():
    model = tiny("llama")
    own = model.forward
    model.forward = lambda *given, **named: (
        (found := own(*given, **named)).__setattr__("logits", -found.logits) or found
    )
    with pytest.raises(UnsupportedModel, match="in a way of its own"):
        FirstLayers(model, VOCAB, torch.float32)


def test_a_loss_that_is_no_number_ends_the_training_and_leaves_the_weights(tmp_path):
    model = tiny("llama")
    layers = FirstLayers(model, VOCAB, torch.float32)
    layers.train_adapter(2, 0, "base")
    before = {name: each.clone() for name, each in layers.state().items()}
    texts = [written((3,), [[3]], [[float("nan")]])]
    recipe = TrainingRecipe(layers=2, steps=2)
    with pytest.raises(InvalidDistillation, match=r"loss of step 1 is nan.*lower --lr"):
        Training(pupil=LayersPupil(layers), texts=texts, recipe=recipe, checkpoint=tmp_path / "c.pt").run(
            lambda: False, list
        )
    torch.testing.assert_close(layers.state(), before)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def run_until_killed(arguments, path, number):
    """The command, which SIGKILL ends as the function of this path begins for the given time."""
    # As all tests: how many threads there are decides how sums are rounded.
    torch.set_num_threads(1)
    calls, (where, _, name) = itertools.count(1), path.rpartition(".")
    own = getattr(pkgutil.resolve_name(where), name)

    def killed(*given, **named):
        if next(calls) == number:
            kill()
        return own(*given, **named)

    patched = pytest.MonkeyPatch()
    patched.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    patched.setattr(path, killed)
    call(arguments)
    os._exit(0)


def killed_run(arguments, path, number):
    """The command in a process of its own, which dies there; whether it did."""
    # Out of a process in which torch has started no threads: a fork of this one has none of them.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=run_until_killed, args=(arguments, path, number))
    process.start()
    process.join(120)
    return process.exitcode == -signal.SIGKILL


@pytest.mark.long
def test_a_run_that_is_killed_in_every_phase_ends_as_one_that_was_not(folder, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert call(command(folder, whole)).exit_code == 0
    points = [
        ("cospec.resume.RowFile.append", 3),
        ("cospec.distil.acceptance.log_target", 2),
        ("cospec.distil.training.Training._step", 4),
        ("cospec.distil.training.Training.save", 2),
        ("cospec.distil.acceptance.log_target", 1),
        ("cospec.distil.run.write_card", 1),
    ]
    for path, number in points:
        assert killed_run(command(folder, cut), path, number), path
    assert not (cut / "README.md").exists()
    result = call(command(folder, cut))
    assert result.exit_code == 0, result.output
    kept = [
        [[sample["token_ids"] for sample in json.loads(line)["samples"]] for line in sorted(lines)]
        for lines in ((out / "work" / "texts.jsonl").read_text().splitlines() for out in (whole, cut))
    ]
    assert kept[0] == kept[1]
    assert (whole / "adapter_model.safetensors").read_bytes() == (cut / "adapter_model.safetensors").read_bytes()
    again = call(command(folder, cut))
    assert "holds the finished drafter" in again.stderr
    assert json.loads(again.stdout) == json.loads(result.stdout)


def test_ctrl_c_keeps_the_steps_and_the_same_command_goes_on(folder, tmp_path, monkeypatch):
    out = tmp_path / "out"
    own = Training._step
    with monkeypatch.context() as patched:

        def interrupted(self, step, texts):
            if step == 2:
                os.kill(os.getpid(), signal.SIGINT)
            own(self, step, texts)

        patched.setattr(Training, "_step", interrupted)
        stopped = call(command(folder, out))
    assert stopped.exit_code == 130
    assert f"what was done is in {out}, and the same command goes on from there" in stopped.stderr
    assert torch.load(out / "work" / "checkpoint.pt")["progress"]["step"] == 3
    steps = []
    monkeypatch.setattr(Training, "_step", lambda self, step, texts: steps.append(step) or own(self, step, texts))
    assert call(command(folder, out)).exit_code == 0
    assert steps == [3, 4, 5]


def test_a_folder_of_another_run_is_refused_with_both_values(folder, tmp_path):
    out = tmp_path / "out"
    assert call(command(folder, out)).exit_code == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert "rank 2 was kept, 3 is asked" in refused(command(folder, out, "--rank", "3"))
    assert "temperature 1.0 was kept, 0.5 is asked" in refused(command(folder, out, "--temperature", "0.5"))
    assert "prompts has changed" in refused(command(folder, out, "--prompts", str(more(folder, tmp_path))))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    assert "'notes.txt' and no run of cospec distil" in refused(command(folder, other))
    # Texts may be taken along to a training of other settings.
    (tmp_path / "next" / "work").mkdir(parents=True)
    (tmp_path / "next" / "work" / "texts.jsonl").write_bytes((out / "work" / "texts.jsonl").read_bytes())
    assert call(command(folder, tmp_path / "next", "--rank", "3")).exit_code == 0
    taken = (tmp_path / "next" / "work" / "texts.jsonl").read_bytes()
    assert taken == (out / "work" / "texts.jsonl").read_bytes()


def more(folder, tmp_path):
    path = tmp_path / "more.jsonl"
    path.write_text((folder / "prompts.jsonl").read_text() + '"three"\n')
    return path


def test_what_makes_no_sense_is_refused_before_anything_is_written(folder, tmp_path):
    out = tmp_path / "out"
    assert "--layers 2 is beyond" in refused(command(folder, out, "--layers", "2"))
    assert "which has 1 layers" in refused(command(folder, out, "--layers", "2"))
    assert "unknown member of --base 'c'" in refused(command(folder, out, "--base", "c"))
    assert "rank must be a whole number of at least 1" in refused(command(folder, out, "--rank", "0"))
    assert "lr is a number above 0 and below 1" in refused(command(folder, out, "--lr", "nan"))
    one = tmp_path / "one.jsonl"
    one.write_text('"one"\n"one"\n')
    assert "at least two different prompts" in refused(command(folder, out, "--prompts", str(one)))
    one.write_text("")
    assert "holds no prompts" in refused(command(folder, out, "--prompts", str(one)))
    assert not out.exists()
    assert "--vocabulary 400 is not possible" in refused(command(folder, out, "--vocabulary", "400"))


def test_a_member_without_layers_is_refused(folder, tmp_path):
    toy = TableRunner(4)
    ensemble = Ensemble([Member(model=toy, name="toy")])
    task = Distillation(
        prompts=[[1], [2]],
        places=["a", "b"],
        text_recipe=TextRecipe(),
        training_recipe=TrainingRecipe(layers=1),
        base=None,
        identity={},
        out=tmp_path / "out",
        command="",
    )
    with pytest.raises(UnsupportedModel, match="'toy' is no model that transformers reads"):
        run.DistilRun(distillation=task, ensemble=ensemble, phases=Phases(bar=None, should_stop=lambda: False)).finish()


def test_equal_prompts_are_held_out_together(tmp_path):
    prompts = [f"prompt {number % 20}" for number in range(40)]
    task = Distillation(
        prompts=prompts, places=prompts, text_recipe=TextRecipe(), training_recipe=TrainingRecipe(layers=1), base=None,
        identity={}, out=tmp_path, command="",
    )  # fmt: skip
    held_out = task.held_out()
    assert len(held_out) == 4
    assert {number % 20 for number in held_out} == {number % 20 for number in held_out if number < 20}
    assert not {prompts[number] for number in held_out} & {prompts[n] for n in range(40) if n not in held_out}


def head_command(folder, out, *options):
    files = ["--ensemble", str(folder / "mine.yaml"), "--prompts", str(folder / "prompts.jsonl"), "--out", str(out)]
    small = ["--width", "32", "--samples", "2", "--max-tokens", "12", "--steps", "40", "--batch", "4", "--lr", "0.01"]
    return ["distil", "--head", *files, *small, "--json", *options]


def test_a_head_learns_and_decodes_exactly_and_is_accepted_as_was_measured(folder, tmp_path):
    out = tmp_path / "out"
    result = call(head_command(folder, out))
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["acceptance_after"] > printed["acceptance_before"] + 0.02
    own = json.loads((out / "cospec.json").read_text())
    assert own["head"] == {"members": 2, "hidden": 16, "width": 32}
    assert own["base"] == str(folder / "a")
    assert own["acceptance"] == round(printed["acceptance_after"], 4)
    # Of a small vocabulary all.
    assert own["vocabulary"] == [*range(printed["vocabulary"])]
    weights = load_file(out / "head.safetensors")
    assert "head.weight" not in weights
    assert {each.dtype for each in weights.values()} == {torch.float16}
    assert sum(each.numel() for each in weights.values()) == printed["num_parameters"]
    card = (out / "README.md").read_text()
    assert f"| this drafter | {printed['acceptance_after']:.3f} |" in card
    assert "a head of width 32" in card
    ensemble = Ensemble.load(folder / "mine.yaml", schedule="fixed", gamma=1, verification="token", proposer=str(out))
    plain = ensemble.with_plan(schedule="plain", gamma=None, proposer=None)
    params = SamplingParams(temperature=0, max_tokens=24, ignore_eos=True)
    drafted = ensemble.generate(PROMPTS, params)
    assert [each.token_ids for each in drafted] == [each.token_ids for each in plain.generate(PROMPTS, params)]
    sampled = ensemble.generate(PROMPTS, SamplingParams(max_tokens=24, seed=1, n=8))
    drafts = [each.proposers["out"] for each in sampled]
    proposed = sum(each.proposed for each in drafts)
    assert proposed > 200
    assert abs(sum(each.accepted for each in drafts) / proposed - printed["acceptance_after"]) < 0.15


def test_one_of_the_texts_is_greedy_where_that_is_asked_for(folder, tmp_path):
    out = tmp_path / "out"
    assert call(command(folder, out, "--greedy")).exit_code == 0
    rows = [json.loads(line) for line in (out / "work" / "texts.jsonl").read_text().splitlines()]
    ensemble = Ensemble.load(folder / "mine.yaml", schedule="plain")
    greedy = ensemble.generate(PROMPTS, SamplingParams(temperature=0, max_tokens=8))
    assert [row["samples"][0]["token_ids"] for row in sorted(rows, key=lambda row: row["number"])] == [
        result.token_ids for result in greedy
    ]
    assert all(len(row["samples"]) == 2 for row in rows)
    assert any(row["samples"][0]["token_ids"] != row["samples"][1]["token_ids"] for row in rows)


def test_options_of_layers_and_of_heads_are_refused_beside_each_other(folder, tmp_path):
    out = tmp_path / "out"
    assert "--rank and --whole would train a member's layers" in refused(
        head_command(folder, out, "--rank", "4", "--whole")
    )
    assert "leave --head out, or --layers" in refused(head_command(folder, out, "--layers", "4"))
    assert "--width is a drafting head's" in refused(command(folder, out, "--width", "4"))
    assert "width must be a whole number of at least 1" in refused(head_command(folder, out, "--width", "0"))
    assert "unknown member of --base 'c'" in refused(head_command(folder, out, "--base", "c"))
    assert not out.exists()


def test_states_that_were_cut_off_within_a_text_are_read_on_from_there(folder, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert call(head_command(folder, whole)).exit_code == 0
    (cut / "work").mkdir(parents=True)
    states = (whole / "work" / "hidden.bf16").read_bytes()
    for kept in (len(states) // 3 + 5, len(states)):
        (cut / "work" / "texts.jsonl").write_bytes((whole / "work" / "texts.jsonl").read_bytes())
        (cut / "work" / "hidden.bf16").write_bytes(states[:kept])
        assert call(head_command(folder, cut)).exit_code == 0
        assert (cut / "work" / "hidden.bf16").read_bytes() == states
        assert (cut / "head.safetensors").read_bytes() == (whole / "head.safetensors").read_bytes()
        for path in (cut / "README.md", cut / "cospec.json", cut / "head.safetensors", cut / "work" / "run.json"):
            path.unlink()


def test_a_head_that_was_interrupted_ends_as_one_that_was_not(folder, tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert call(head_command(folder, whole)).exit_code == 0
    own = Training._step
    with monkeypatch.context() as patched:

        def interrupted(self, step, texts):
            if step == 5:
                os.kill(os.getpid(), signal.SIGINT)
            own(self, step, texts)

        patched.setattr(Training, "_step", interrupted)
        assert call(head_command(folder, cut)).exit_code == 130
    assert call(head_command(folder, cut)).exit_code == 0
    assert (cut / "head.safetensors").read_bytes() == (whole / "head.safetensors").read_bytes()


def test_a_head_learns_r_of_the_token_behind_each_and_of_those_behind_that():
    """The loss is that of the head run by hand, position by position."""
    generator = torch.Generator().manual_seed(0)
    texts, rows = [], torch.randn(9, 4, generator=generator)
    for tokens in ((3, 1, 4, 1, 5), (2, 7)):
        n = len(tokens)
        probs = torch.rand(n, 2, generator=generator) / 2
        kept = torch.stack([torch.randperm(9, generator=generator)[:2] for _ in range(n)])
        hidden = torch.randn(n, 2, 4, generator=generator)
        texts.append(WrittenText(prompt=(1,), tokens=tokens, kept=kept, probs=probs, hidden=hidden))
    ids = [1, 2, 3, 5, 7, 8]
    torch.manual_seed(1)
    shape = HeadShape(members=2, hidden=4, width=6, vocabulary=len(ids))
    pupil = HeadPupil(DraftHead(shape), lambda tokens: rows[tokens], ids, 9)
    expected, weights = 0.0, 0.0
    for text in texts:
        for at in range(len(text.tokens) - 1):
            state = pupil.head.begin(text.hidden[at : at + 1])
            for step in range(min(STEPS, len(text.tokens) - 1 - at)):
                state = pupil.head.advance(state, rows[text.tokens[at + step]][None])
                proposed = at + step + 1
                columns = torch.tensor([[ids.index(token) if token in ids else -1 for token in text.kept[proposed]]])
                found = loss.distances(pupil.head.logits(state), columns, text.probs[proposed][None])
                expected += DECAY**step * (found[0] + 0.5 * loss.TOTAL_VARIATION_AT_END * found[1])
                weights += DECAY**step
        firsts = [
            pupil.head.advance(pupil.head.begin(text.hidden[i : i + 1]), rows[text.tokens[i]][None])
            for i in range(len(text.tokens) - 1)
        ]
        torch.testing.assert_close(pupil.proposals(text), pupil.head.logits(torch.cat(firsts)).softmax(-1))
    expected = expected / weights
    gradients = torch.autograd.grad(expected.sum(), [*pupil.trained.values()])
    found, _ = pupil.learn(texts, 0.5)
    assert found == pytest.approx(expected.item(), rel=1e-5)
    for parameter, gradient in zip(pupil.trained.values(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_a_head_learns_from_what_each_members_output_embedding_reads_before_each_token(folder):
    members = [Member(model=folder / "a", prompt="says: {prompt}"), Member(model=folder / "b")]
    ensemble = Ensemble(members, dtype="float32", proposer="lookup")
    params = SamplingParams(max_tokens=12, seed=3, ignore_eos=True)
    (result,) = ensemble.generate("the members", params)
    lane_prompts = ensemble.request("the members", params).lane_prompts
    text = written(tuple(result.token_ids), [[0]] * 12, [[1.0]] * 12)
    found = hidden_states(members_of(ensemble), Answer(text=text, lane_prompts=lane_prompts, is_held_out=False))
    assert found.shape == (12, 2, 16)
    for number, (name, prompt) in enumerate(zip("ab", lane_prompts, strict=False)):
        model = AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32)
        expected = read_by_head(model, [*prompt, *result.token_ids[:-1]])[len(prompt) - 1 :]
        torch.testing.assert_close(found[:, number].float(), expected, atol=0.02, rtol=0.02)


def test_members_without_hidden_states_of_one_size_are_refused_before_texts_are_written(folder, tmp_path):
    wide = folder / "wide"
    config = LlamaConfig.from_pretrained(folder / "a", hidden_size=32)
    LlamaForCausalLM(config).save_pretrained(wide)
    AutoTokenizer.from_pretrained(folder / "a").save_pretrained(wide)
    (tmp_path / "wide.yaml").write_text(f"members: [{folder / 'a'}, {wide}]\ndtype: float32\n")
    out = tmp_path / "out"
    arguments = head_command(folder, out)
    arguments[arguments.index("--ensemble") + 1] = str(tmp_path / "wide.yaml")
    assert "the members' are of 16 (a), 32 (wide)" in refused(arguments)
    assert not out.exists()
    with pytest.raises(UnsupportedModel, match="'toy' hands out none; give models that transformers runs"):
        members_of(Ensemble([Member(model=TableRunner(4), name="toy")]))
