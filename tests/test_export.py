"""`cospec export --for vllm`: what the folder holds and the command says, what is refused before weights are read, and
what is written whole equals what cospec decodes. tests/vllm serves such folders."""

import asyncio
import json
import shlex
from types import SimpleNamespace

import pytest
import torch
import yaml
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer
from typer.testing import CliRunner

from cospec import Contrastive, Custom, Ensemble, Guided, Mixture, SamplingParams, demo
from cospec.cli import app
from cospec.core.combine import combination_settings, make_combination
from cospec.errors import InvalidCombination, InvalidEnsemble, ModelNotFound, UnsupportedModel
from cospec.identity import identity
from cospec.vllm import ARCHITECTURE, export
from cospec.vllm.described import KEY, Description
from cospec.vllm.limits import DRAFTING, check, check_members
from cospec.vllm.middleware import REFUSED, RefuseOthers, refused

from .adapters import adapted
from .models import saved

ENTRIES = 100
# A method for which transformers needs packages that are not installed here; vLLM has its own.
QUANTISED = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two members that pad their vocabularies otherwise, a hybrid, and an adapter."""
    folder = tmp_path_factory.mktemp("models")
    saved(folder / "a", num_entries=ENTRIES, seed=1)
    saved(folder / "b", num_entries=ENTRIES, seed=2, vocab_size=112, eos_token_id=5, max_position_embeddings=64)
    saved(folder / "hybrid", "lfm2", num_entries=ENTRIES)
    adapted(folder / "adapter", folder / "a")
    saved(folder / "quantised", num_entries=ENTRIES)
    add(folder / "quantised", quantization_config=QUANTISED)
    assert exported(folder, folder / "exported").exit_code == 0
    return folder


def add(model, **settings):
    """To its configuration."""
    (model / "config.json").write_text(json.dumps(config_of(model) | settings))


def exported(folder, out, *arguments, **settings):
    """The result of the command on mine.yaml in the folder."""
    given = {"members": ["./a", "./b"], "dtype": "float32"} | settings
    (folder / "mine.yaml").write_text(yaml.safe_dump(given))
    command = ["export", "--ensemble", str(folder / "mine.yaml"), str(out), "--for", "vllm", *arguments]
    return CliRunner().invoke(app, command)


def config_of(out):
    return json.loads((out / "config.json").read_text())


def test_the_folder_names_the_class_the_members_and_the_target(folder, tmp_path):
    combine = {"type": "contrastive", "mu": 0.3, "plausibility": 0.1}
    ran = exported(folder, tmp_path / "out", "--member-temperature", "0.5", combine=combine)
    assert ran.exit_code == 0, ran.output
    config = config_of(tmp_path / "out")
    assert config["architectures"] == [ARCHITECTURE]
    assert (config["vocab_size"], config["max_position_embeddings"]) == (ENTRIES, 64)
    described = Description.from_json(config[KEY])
    assert [member.model for member in described.members] == [str((folder / name).resolve()) for name in "ab"]
    assert described.combination == Contrastive(0.3, 0.1)
    assert described.shaping.member_temperature == 0.5
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == {"eos_token_id": [1, 5]}
    command = shlex.split(ran.output)
    assert command[:3] == ["vllm", "serve", str(tmp_path / "out")]
    assert "--speculative-config" not in command
    assert command[command.index("--dtype") + 1] == "float32"


def test_a_lookup_and_a_model_become_vllms_drafters(folder, tmp_path):
    ran = exported(folder, tmp_path / "out", "--json", proposer="lookup", gamma=5)
    assert speculation(ran) == {
        "method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4, "prompt_lookup_min": 2,
    }  # fmt: skip
    # What pads its vocabulary as r has it is taken as it is; what does not is cut, as an ensemble of one.
    saved(folder / "exact", num_entries=ENTRIES, vocab_size=ENTRIES)
    assert speculation(exported(folder, tmp_path / "out", "--json", proposer="./exact"))["model"] == str(
        (folder / "exact").resolve()
    )
    cut = speculation(exported(folder, tmp_path / "out", "--json", members=["./a"], proposer="./b"))["model"]
    assert cut == str((tmp_path / "out" / "drafter").resolve())
    config = config_of(tmp_path / "out" / "drafter")
    assert config["vocab_size"] == ENTRIES
    assert Description.from_json(config[KEY]).combination == Mixture([1.0])


def speculation(ran):
    assert ran.exit_code == 0, ran.output
    command = json.loads(ran.stdout)["command"]
    return json.loads(command[command.index("--speculative-config") + 1])


def test_a_member_that_drafts_is_left_out_with_a_note(folder, tmp_path):
    ran = exported(folder, tmp_path / "out", proposer="a")
    assert "the member 'a' cannot draft within vLLM" in ran.stderr
    assert "--speculative-config" not in ran.stdout


def test_an_adapter_and_first_layers_are_written_whole(folder, tmp_path):
    given = [{"model": "./adapter", "base": "./a"}, {"model": "./a", "layers": 1, "name": "first"}]
    ran = exported(folder, tmp_path / "out", members=given)
    assert ran.exit_code == 0, ran.output
    described = Description.from_json(config_of(tmp_path / "out")[KEY])
    written = Ensemble([member.model for member in described.members], schedule="plain", dtype="float32")
    own = Ensemble.load(folder / "mine.yaml", schedule="plain")
    params = SamplingParams(max_tokens=12, temperature=0, logprobs=0)
    for one, other in zip(own.generate([[2, 3, 4]], params), written.generate([[2, 3, 4]], params), strict=True):
        assert one.token_ids == other.token_ids
        theirs = [entry.logprob for entry in other.logprobs]
        assert theirs == pytest.approx([entry.logprob for entry in one.logprobs], abs=1e-4)


def test_a_chat_template_of_any_member_is_the_ensembles(folder, tmp_path):
    saved(folder / "chat", num_entries=ENTRIES, seed=3)
    (folder / "chat" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert exported(folder, tmp_path / "out", members=["./a", "./chat"]).exit_code == 0
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages[0].content }}"
    saved(folder / "other", num_entries=ENTRIES, seed=3)
    (folder / "other" / "chat_template.jinja").write_text("other")
    ran = exported(folder, tmp_path / "out", members=["./other", "./chat"])
    assert "chat templates differ: vLLM renders chats by that of 'other'" in ran.stderr


REFUSALS = {
    "an own prompt": ({"members": ["./a", {"model": "./b", "prompt": "x {prompt}"}]}, "has a prompt of its own"),
    "an own system message": ({"members": [{"model": "./a", "system": "x"}]}, "has a system message of its own"),
    "guidance": ({"combine": "guided"}, "feeds all members the same one"),
    "invariant numerics": ({"numerics": "invariant", "verification": "coupled"}, "VLLM_BATCH_INVARIANT"),
    "a hybrid": ({"members": ["./a", "./hybrid"]}, "'hybrid' (lfm2) keeps a recurrent state"),
    "a hybrid that drafts": ({"proposer": "./hybrid"}, "'hybrid' (lfm2) keeps a recurrent state"),
    "quantising at loading": ({"quantization": "4bit"}, "stored quantised"),
    "an end that vLLM adds": ({"end_tokens": [7]}, "without the tokenizer's own end 1"),
    "an adapter beside a hybrid": (
        {"members": [{"model": "./adapter", "base": "./a"}, "./hybrid"]},
        "'hybrid' (lfm2) keeps a recurrent state",
    ),
    "an adapter on quantised weights": (
        {"members": ["./a", {"model": "./adapter", "base": "./quantised"}]},
        "whose weights are stored quantised",
    ),
    "an exported ensemble": ({"members": ["./a", "./exported"]}, "'exported' is an exported ensemble"),
    "other tokenizers": ({"members": ["./a", "demo:math"]}, "Choose members of one tokenizer family"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_vllm_cannot_hold_is_refused_before_weights_are_read(folder, tmp_path, monkeypatch, case):
    def read(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr("cospec.vllm.export.write_whole", read)
    settings, message = REFUSALS[case]
    ran = exported(folder, tmp_path / "out", **settings)
    assert ran.exit_code == 2
    assert message in ran.stderr


def test_a_folder_with_other_files_is_left_alone(folder, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    ran = exported(folder, tmp_path)
    assert ran.exit_code == 2
    assert "holds other files" in ran.stderr
    assert exported(folder, tmp_path / "out", "--for", "sglang").exit_code == 2


def test_an_export_that_was_interrupted_is_done_again(folder, tmp_path, monkeypatch):
    given = {"members": ["./a", {"model": "./b", "layers": 1}]}
    whole = export.write_whole

    def interrupted(*arguments):
        whole(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "write_whole", interrupted)
    assert exported(folder, tmp_path / "out", **given).exit_code != 0
    with pytest.raises(InvalidEnsemble, match="export the ensemble again"):
        Description.from_json(config_of(tmp_path / "out")[KEY])
    monkeypatch.undo()
    assert exported(folder, tmp_path / "out", **given).exit_code == 0
    assert len(Description.from_json(config_of(tmp_path / "out")[KEY]).members) == 2


def test_a_later_export_leaves_nothing_of_an_earlier_one_that_is_served(folder, tmp_path):
    saved(folder / "chat", num_entries=ENTRIES, seed=3)
    (folder / "chat" / "chat_template.jinja").write_text("earlier")
    assert exported(folder, tmp_path / "out", members=["./chat"]).exit_code == 0
    assert exported(folder, tmp_path / "out").exit_code == 0
    assert not (tmp_path / "out" / "chat_template.jinja").exists()
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_no_member_is_written_over(folder, tmp_path):
    saved(tmp_path / "member", num_entries=ENTRIES)
    before = (tmp_path / "member" / "config.json").read_text()
    ran = exported(folder, tmp_path / "member", members=[str(tmp_path / "member")])
    assert "holds other files" in ran.stderr
    assert exported(folder, tmp_path / "member" / "out", members=[str(tmp_path / "member")]).exit_code == 0
    saved(tmp_path / "out" / "models" / "first", num_entries=ENTRIES)
    (tmp_path / "out" / "config.json").write_text(json.dumps({KEY: "unfinished"}))
    ran = exported(folder, tmp_path / "out", members=[str(tmp_path / "out" / "models" / "first")])
    assert "which is to be written" in ran.stderr
    assert (tmp_path / "member" / "config.json").read_text() == before


def test_a_member_that_was_moved_is_named(folder, tmp_path):
    saved(tmp_path / "moved", num_entries=ENTRIES)
    assert exported(folder, tmp_path / "out", members=["./a", str(tmp_path / "moved")]).exit_code == 0
    described = Description.from_json(config_of(tmp_path / "out")[KEY])
    check_members(described)
    (tmp_path / "moved").rename(tmp_path / "elsewhere")
    with pytest.raises(ModelNotFound, match=r"the member 'moved' was at '.*moved'.*export the ensemble again"):
        check_members(described)


def test_members_that_are_stored_quantised_stay_as_they_are(folder, tmp_path):
    ran = exported(folder, tmp_path / "out", members=["./quantised", "./a"])
    assert ran.exit_code == 0, ran.output
    config = config_of(tmp_path / "out")
    assert config[KEY]["members"][0]["model"] == str((folder / "quantised").resolve())
    assert "quantization_config" not in config


def test_what_a_folder_says_is_read_once(folder, tmp_path, monkeypatch):
    saved(folder / "exact", num_entries=ENTRIES, vocab_size=ENTRIES)
    read = []
    of_folder = export.outline
    monkeypatch.setattr(export, "outline", lambda name, *args: read.append(name) or of_folder(name, *args))
    result = exported(folder, tmp_path / "out", proposer="./exact")
    assert result.exit_code == 0, result.output
    assert sorted(read) == [str(folder / name) for name in ("a", "b", "exact")]


def test_a_member_may_stand_in_the_ensemble_twice(folder, tmp_path):
    assert exported(folder, tmp_path / "out", members=["./a", "./a", "./b"]).exit_code == 0
    described = Description.from_json(config_of(tmp_path / "out")[KEY])
    assert len({member.name for member in described.members}) == 3
    assert described.members[0].model == described.members[1].model


def test_prompts_that_vllm_would_begin_otherwise_are_noted(folder, tmp_path):
    padded = AutoTokenizer.from_pretrained(saved(folder / "padded", num_entries=ENTRIES))
    padded.add_special_tokens({"pad_token": "<pad>"})
    padded.save_pretrained(folder / "padded")

    def noted(name, template):
        """What is said of an ensemble whose second tokenizer lacks the first's last entry, and puts tokens around."""
        own = AutoTokenizer.from_pretrained(saved(folder / name, num_entries=ENTRIES))
        own._tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=[("w5", 5), ("w6", 6)])
        own.save_pretrained(folder / name)
        return exported(folder, tmp_path / name, members=["./padded", f"./{name}"]).stderr

    assert "vLLM puts w5 around a prompt, and cospec nothing" in noted("front", "w5 $A")
    assert "vLLM puts w6 around a prompt, and cospec nothing" in noted("behind", "$A w6")
    assert "around a prompt" not in noted("as it is", "$A")
    assert "around a prompt" not in exported(folder, tmp_path / "alone", members=["./front"]).stderr


def test_where_plain_is_asked_nothing_drafts(folder, tmp_path):
    ran = exported(folder, tmp_path / "out", schedule="plain", proposer="lookup")
    assert ran.exit_code == 0, ran.output
    assert "--speculative-config" not in ran.stdout


def test_a_description_of_another_version_is_refused():
    with pytest.raises(Exception, match="export the ensemble again"):
        Description.from_json({"format": 0})
    with pytest.raises(Exception, match="export the ensemble again"):
        Description.from_json(None)


def double(log_p):
    return 2 * log_p[0]


def test_a_combination_of_ones_own_is_named_by_its_function():
    made = make_combination("custom", 2, fn="tests.test_export:double")
    assert made == Custom(double)
    assert combination_settings(Custom(double)) == {"type": "custom", "fn": "tests.test_export:double"}
    logits = torch.tensor([[[0.0, 1.0]], [[3.0, 1.0]]])
    assert torch.equal(made.log_probs(logits), Custom(double).log_probs(logits))
    for fn in ("double", "tests.test_export:missing", "no_such_module:double", 3):
        with pytest.raises(InvalidCombination):
            make_combination("custom", 2, fn=fn)
    with pytest.raises(InvalidCombination):
        combination_settings(Custom(lambda log_p: log_p[0]))
    assert combination_settings(Guided(2.0)) == {"type": "guided", "scale": 2.0}


def test_results_are_held_against_a_functions_name_which_is_the_same_in_every_process():
    made = make_combination("custom", 2, fn="tests.test_export:double")
    held = identity({"members": ["demo:math", "demo:code"], "combine": made})["combination"]
    assert held == {"type": "custom", "fn": "tests.test_export:double"}


def configuration(*, stages=1, method=None, verifying="standard", lora=None):
    """As much of vLLM's as is asked; tests/vllm asks vLLM's own."""
    return SimpleNamespace(
        parallel_config=SimpleNamespace(pipeline_parallel_size=stages),
        speculative_config=method and SimpleNamespace(method=method, rejection_sample_method=verifying),
        lora_config=lora,
    )


def test_ways_to_run_that_would_not_give_r_are_refused_with_what_to_use_instead():
    for method in (None, *DRAFTING):
        check(configuration(method=method))
    with pytest.raises(UnsupportedModel, match="--tensor-parallel-size"):
        check(configuration(stages=2))
    for method in ("eagle", "eagle3", "mtp", "medusa", "deepseek_mtp"):
        with pytest.raises(UnsupportedModel, match=f"{method}.*draft_model"):
            check(configuration(method=method))
    with pytest.raises(UnsupportedModel, match="leaves no sample of r; use standard or block"):
        check(configuration(method="ngram", verifying="synthetic"))
    with pytest.raises(UnsupportedModel, match="merged"):
        check(configuration(lora=object()))


def answer(body):
    """What a client is told through the middleware, and what of its request comes behind it."""
    sent, seen = [], []

    async def app(scope, receive, send):
        while True:
            message = await receive()
            seen.append(message["body"])
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200})

    async def run():
        parts = [{"type": "http.request", "body": body[i : i + 9], "more_body": i + 9 < len(body)}
                 for i in range(0, len(body), 9)]  # fmt: skip
        waiting = iter(parts)

        async def receive():
            return next(waiting)

        async def send(message):
            sent.append(message)

        await RefuseOthers(app)({"type": "http", "method": "POST"}, receive, send)

    asyncio.run(run())
    return sent, b"".join(seen)


@pytest.mark.parametrize("field", REFUSED)
def test_a_field_that_vllm_would_ignore_is_refused(field):
    within = [{"vllm_xargs": {field: 1}}, {"extra_args": {field: 1}}, {"sampling_params": {"extra_args": {field: [1]}}}]
    for given in ({field: 1}, *within):
        sent, seen = answer(json.dumps({"prompt": "x"} | given).encode())
        assert sent[0]["status"] == 400
        assert f"{field} is not supported here" in json.loads(sent[1]["body"])["error"]["message"]
        assert seen == b""


def test_all_other_requests_go_through_unchanged():
    for body in (b'{"prompt": "x", "temperature": 0, "weights": null}', b"[1, 2, 3, 4, 5]", b"{broken json"):
        sent, seen = answer(body)
        assert (sent[0]["status"], seen) == (200, body)
        assert refused(body) is None


def test_bundled_names_are_exported_too(tmp_path):
    ran = CliRunner().invoke(app, ["export", "--ensemble", "demo:we3", str(tmp_path / "out")])
    assert ran.exit_code == 0, ran.output
    described = Description.from_json(config_of(tmp_path / "out")[KEY])
    assert [member.model for member in described.members] == [
        demo.model_path(f"demo:{name}") for name in ("math", "general", "code")
    ]
