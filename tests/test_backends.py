"""What runs a GGUF file: one rule for all models of an ensemble, and what is said where llama.cpp is not installed."""

from importlib.machinery import ModuleSpec

import pytest
import torch

from cospec import Ensemble, LoadOptions, Member, demo
from cospec.errors import InvalidEnsemble, MissingExtra, ModelNotFound, UnsupportedModel
from cospec.identity import identity
from cospec.members import with_backends
from cospec.runner import backends, memory
from cospec.runner.gguf import parts_of_split
from cospec.runner.hf import HfRunner
from cospec.runner.llamacpp import library

from .gguf import tiny_for, write_gguf
from .models import saved
from .text.tokenizers import byte_level, finished

needs_smollm2 = pytest.mark.skipif(not demo.has_smollm2(), reason=demo.HOW_TO_GET_SMOLLM2)


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """As with llama-cpp-python, built for a CPU, as far as the rule looks."""
    (tmp_path / "site" / "lib").mkdir(parents=True)
    spec = ModuleSpec("llama_cpp", None, origin=str(tmp_path / "site" / "__init__.py"))
    monkeypatch.setattr(backends, "find_spec", lambda name: spec)
    return tmp_path / "site" / "lib"


@pytest.fixture
def missing(monkeypatch):
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    monkeypatch.setattr(library, "import_module", absent)
    library.library.cache_clear()
    yield
    library.library.cache_clear()


def absent(name):
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.fixture
def file(tmp_path):
    return str(write_gguf(tmp_path / "a.gguf"))


def chosen(*members):
    given = [member if isinstance(member, Member) else Member(model=member) for member in members]
    return [member.options.backend for member in with_backends(given)[0]]


def options(**given):
    return LoadOptions(device="cpu", **given)


def test_a_file_is_llama_cpps_where_it_is_installed_and_transformers_where_it_is_not(file, installed, monkeypatch):
    assert chosen(file) == ["llama.cpp"]
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    assert chosen(file) == ["transformers"]


@pytest.mark.parametrize(
    "asked",
    [
        {"dtype": "float32"}, {"quantization": "8bit"}, {"graphs": "shapes"}, {"numerics": "invariant"},
        {"layers": 1}, {"vocabulary": 40}, {"backend": "transformers"},
    ],
)  # fmt: skip
def test_what_transformers_alone_does_stays_with_it(file, installed, asked):
    assert chosen(Member(model=file, options=options(**asked))) == ["transformers"]


def test_of_an_ensemble_a_file_is_run_by_one_back_end(file, installed, tmp_path):
    other = str(write_gguf(tmp_path / "b.gguf"))
    part = Member(model=file, options=options(layers=1))
    assert chosen(file, part, other) == ["transformers", "transformers", "llama.cpp"]
    # Unless it is said otherwise.
    given = Member(model=file, options=options(backend="llama.cpp"))
    assert chosen(given, part) == ["llama.cpp", "transformers"]


@needs_smollm2
def test_a_base_of_adapters_stays_where_they_are(installed):
    assert chosen("demo:smollm2") == ["llama.cpp"]
    assert chosen("demo:smollm2", "demo:smollm2-gsm8k") == ["transformers", "transformers"]


def test_models_of_other_kinds_are_left_as_they_are(tmp_path, installed):
    saved(tmp_path / "folder")
    members, drafters = with_backends([Member(model=str(tmp_path / "folder"))], [Member(model="lookup")])
    assert [member.options.backend for member in (*members, *drafters)] == ["auto", "auto"]


def test_on_cuda_a_build_for_the_cpu_is_not_chosen(file, installed, monkeypatch):
    monkeypatch.setattr(backends, "is_on_cuda", lambda options: True)
    assert chosen(file) == ["transformers"]
    (installed / "libggml-cuda.so").write_bytes(b"")
    assert chosen(file) == ["llama.cpp"]


def test_without_the_package_everything_is_as_before_and_asked_for_by_name_it_is_named(file, missing):
    assert isinstance(Ensemble([file], device="cpu", schedule="plain").runners[0], HfRunner)
    with pytest.raises(MissingExtra, match=r"pip install 'cospec\[llamacpp\]'"):
        Ensemble([file], device="cpu", backend="llama.cpp")
    with pytest.raises(MissingExtra, match=r"pip install 'cospec\[llamacpp\]'"):
        Ensemble([file], device="cpu", gpu_layers=3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"backend": "vllm"}, "backend 'vllm' is not known; use auto, llama.cpp, transformers"),
        ({"gpu_layers": -1}, "gpu_layers must be a whole number of at least 0, got -1"),
        ({"gpu_layers": True}, "gpu_layers must be a whole number"),
        ({"gpu_layers": 3, "backend": "transformers"}, "gpu_layers is llama.cpp's, and backend is transformers"),
        ({"tokenizer": " "}, "tokenizer must be a folder"),
    ],
)
def test_values_that_cannot_be_had_are_refused(given, message):
    with pytest.raises(InvalidEnsemble, match=message):
        LoadOptions(**given)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"numerics": "invariant"}, "numerics: invariant"),
        ({"dtype": "float32"}, "another dtype"),
        ({"quantization": "4bit"}, "another quantization"),
        ({"graphs": "shapes"}, r"passes of fixed shapes \(graphs\)"),
    ],
)
def test_what_llama_cpp_does_not_do_is_refused_by_name_before_anything_is_read(file, given, what):
    with pytest.raises(UnsupportedModel, match=f"asks for {what}.*, which llama.cpp does not do"):
        Ensemble([file], device="cpu", backend="llama.cpp", **given)


def test_a_model_of_another_kind_is_refused(tmp_path):
    saved(tmp_path / "folder")
    with pytest.raises(UnsupportedModel, match=r"folder' is no GGUF file, and llama.cpp reads no other"):
        Ensemble([str(tmp_path / "folder")], device="cpu", backend="llama.cpp")
    with pytest.raises(UnsupportedModel, match=r"run by transformers, and gpu_layers is 3"):
        Ensemble([str(tmp_path / "folder")], device="cpu", gpu_layers=3)


def test_results_are_held_against_the_back_end(file, installed, monkeypatch):
    by_llama = identity({"members": [file], "device": "cpu"})
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    by_transformers = identity({"members": [file], "device": "cpu"})
    assert by_llama != by_transformers
    assert "backend" not in str(by_transformers)


def test_llama_cpp_needs_the_memory_of_the_file_and_not_of_what_is_unpacked(tmp_path):
    words = finished(byte_level(), eos_token="<|im_end|>")
    file = write_gguf(tmp_path / "a.gguf", tiny_for(words), words, quantization="Q8_0")
    size = file.stat().st_size
    assert memory._size(file, options(backend="llama.cpp")) == size
    assert memory._size(file, options(backend="transformers")) > 2 * size


def test_all_parts_of_a_split_model_count(tmp_path):
    names = ["a[1]-00001-of-00002.gguf", "a[1]-00002-of-00002.gguf"]
    for name in (*names, "a[1]-00001-of-00003.gguf", "b-00001-of-00002.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    assert [each.name for each in parts_of_split(tmp_path / names[1])] == names
    assert parts_of_split(tmp_path / "c.gguf") == [tmp_path / "c.gguf"]


def test_a_tokenizer_of_a_folder_takes_the_files_place(tmp_path):
    torch.manual_seed(1)
    words = finished(byte_level(), eos_token="<|im_end|>")
    file = str(write_gguf(tmp_path / "a.gguf", tiny_for(words), words, tokenizer__ggml__model="rwkv"))
    words.save_pretrained(tmp_path / "words")
    with pytest.raises(UnsupportedModel, match="tokenizer of the GGUF file"):
        Ensemble([file], device="cpu", backend="transformers", schedule="plain")
    folder = str(tmp_path / "words")
    member = Member(model=file, options=options(tokenizer=folder, backend="transformers"))
    ensemble = Ensemble([member], schedule="plain")
    assert ensemble.tokenizer.encode("Once") == words.encode("Once")
    with pytest.raises(ModelNotFound, match=r"no folder at .*nowhere' \(tokenizer, of"):
        Ensemble([Member(model=file, options=options(tokenizer=str(tmp_path / "nowhere")))], schedule="plain")
    saved(tmp_path / "folder")
    with pytest.raises(UnsupportedModel, match="has the tokenizer of its own folder"):
        Ensemble([Member(model=str(tmp_path / "folder"), options=options(tokenizer=folder))], schedule="plain")
    words.add_tokens(["<more>"])
    words.save_pretrained(tmp_path / "more")
    more = options(tokenizer=str(tmp_path / "more"), backend="transformers")
    with pytest.raises(UnsupportedModel, match=r"has \d+ tokens, and the GGUF file .* has \d+: it is another model's"):
        Ensemble([Member(model=file, options=more)], schedule="plain")
