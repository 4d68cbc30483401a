"""A folder as a reader of the documents has it, with models that are small."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from cospec import demo

from ..chat_models import TEMPLATE
from ..cli_models import write_model
from .blocks import ROOT, blocks_of

# Of the bundled models' vocabulary, so that both may stand in one ensemble.
CHAT_MODEL = "chat-model"
MODELS = ("model-a", "model-b", "expert", "amateur", "small")
PROMPTS = ["Question: what is 2 + 3?\nAnswer:", "Question: what is 7 - 3?\nAnswer:"]


def as_here(text: str) -> str:
    """A file of the documents on this machine."""
    return text if torch.cuda.is_available() else text.replace("cuda:0", "cpu")


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path("demo:math"))
    for seed, name in enumerate(MODELS):
        write_model(folder / name, tokenizer, seed)
    tokenizer.chat_template = TEMPLATE
    write_model(folder / CHAT_MODEL, tokenizer, len(MODELS))
    return folder


@pytest.fixture
def reader_folder(models, tmp_path):
    """All that the documents' commands read: what they call by name, and the files that they show."""
    shutil.copytree(models, tmp_path, dirs_exist_ok=True)
    (tmp_path / "prompt.txt").write_text(PROMPTS[0], encoding="utf-8")
    lines = [{"prompt": prompt, "reference": " 5", "score": "numeric"} for prompt in PROMPTS]
    write_lines(tmp_path / "prompts.jsonl", lines)
    write_lines(tmp_path / "in.jsonl", [{"id": str(i), "prompt": prompt} for i, prompt in enumerate(PROMPTS)])
    (tmp_path / "before").mkdir()
    shutil.copy(ROOT / "tests" / "pilot" / "data" / "example.json", tmp_path / "before" / "results.json")
    for block in blocks_of("README.md"):
        name, _, _ = block.text.partition("\n")
        if block.language == "yaml":
            (tmp_path / name.removeprefix("# ")).write_text(as_here(block.text), encoding="utf-8")
    return tmp_path


def write_lines(path: Path, values: list[dict]) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
