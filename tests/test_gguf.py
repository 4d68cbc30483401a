"""GGUF files as members: what transformers makes of them, found by any spelling, and what is said of those it cannot
read."""

import json
import logging
import os
from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.integrations.ggml import _gguf_parse_value
from typer.testing import CliRunner

from cospec import (
    CospecError,
    DoesNotFit,
    Ensemble,
    InvalidEnsemble,
    Member,
    ModelNotFound,
    SamplingParams,
    UnsupportedModel,
)
from cospec.cli import app
from cospec.errors import MissingExtra
from cospec.members import load_runners
from cospec.runner import Feed, LoadOptions, memory
from cospec.runner.fingerprint import fingerprint
from cospec.runner.gguf import read_gguf_header
from cospec.runner.hf import gguf, load, unpacked
from cospec.runner.hf.compiled.forward import CompiledForward
from cospec.runner.hf.fused import FusedForward

from .gguf import tiny_for, write_gguf
from .hub import MAIN, Hub, serving, use
from .models import saved
from .text.tokenizers import byte_fallback, byte_level, finished

CPU = LoadOptions(device="cpu", dtype="float32")
IDS = [7, 20, 300, 4, 51]


@pytest.fixture(scope="module")
def words():
    return finished(byte_level(), eos_token="<|im_end|>")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.Q8_0.gguf")


def theirs(file: Path):
    """What transformers makes of the file itself."""
    return AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    ).eval()


def rows(runner, ids=IDS):
    return runner.feed([Feed(runner.open(), ids, len(ids))])[0]


@pytest.mark.parametrize("quantization", ["F32", "F16", "BF16", "Q8_0", "Q4_0"])
def test_rows_are_those_of_the_weights_unpacked_and_saved(tmp_path, words, quantization):
    file = write_gguf(tmp_path / "tiny.gguf", tiny_for(words), words, quantization=quantization)
    theirs(file).save_pretrained(tmp_path / "unpacked")
    ours, plain = load(str(file), CPU), load(str(tmp_path / "unpacked"), CPU)
    assert isinstance(ours._forward, FusedForward | CompiledForward)
    assert torch.equal(rows(ours), rows(plain))


def parsed(reader):
    """The fields, as transformers takes them."""
    return {
        name: [_gguf_parse_value(field.parts[place], field.types) for place in field.data]
        for name, field in reader.fields.items()
    }


def test_arrays_of_a_header_are_read_at_once_and_are_the_same_values(tmp_path):
    arrays = {"floats": [0.5, -2.0], "flags": [True, False, True], "words": ["", "é", "a b"], "numbers": [-7, 9, 0]}
    file = write_gguf(tmp_path / "a.gguf", **{f"own__{name}": values for name, values in arrays.items()})
    at_once, one_by_one = gguf._at_once(GGUFReader)(file), GGUFReader(file)
    assert parsed(at_once) == parsed(one_by_one)
    assert {name: parsed(at_once)[f"own.{name}"] for name in arrays} == arrays
    for own, other in zip(at_once.tensors, one_by_one.tensors, strict=True):
        assert (own.name, own.tensor_type, own.data_offset) == (other.name, other.tensor_type, other.data_offset)
        assert (own.data == other.data).all()


def test_loading_makes_no_array_of_each_entry_of_a_vocabulary(file, words, monkeypatch):
    """They took seconds, and more memory than a small model."""
    taken = []
    one = GGUFReader._get
    monkeypatch.setattr(GGUFReader, "_get", lambda *args, **options: taken.append(1) or one(*args, **options))
    load(str(file), CPU)
    assert 0 < len(taken) < len(words)


@pytest.mark.parametrize("kind", [byte_level, byte_fallback])
def test_numbers_that_were_written_whole_are_the_models(tmp_path, kind):
    words = finished(kind(), bos=True)
    model = tiny_for(words, tie_word_embeddings=kind is byte_level)
    runner = load(str(write_gguf(tmp_path / "a.gguf", model, words, quantization="F32")), CPU)
    wanted = model(torch.tensor([IDS])).logits[0]
    assert torch.allclose(rows(runner), wanted, atol=1e-4)
    assert runner.tokenizer.encode("the cat") == words.encode("the cat")
    assert runner.context == model.config.max_position_embeddings


@pytest.mark.parametrize("plan", ["plain", "fixed", "alternate", "cascade", "lookup", "auto"])
def test_greedy_text_is_that_of_transformers_under_every_schedule(tmp_path, file, words, plan):
    """Two members that are one model, and a drafter that is another file."""
    drafter = write_gguf(tmp_path / "drafter.gguf", tiny_for(words, seed=1, num_hidden_layers=1), words)
    proposer = {"lookup": "lookup", "fixed": str(drafter), "cascade": str(drafter), "auto": str(drafter)}.get(plan)
    schedule = "fixed" if plan == "lookup" else plan
    ensemble = Ensemble(
        [str(file), Member(model=file, name="twin")], schedule=schedule, proposer=proposer, device="cpu"
    )
    prompt = ensemble.tokenizer.encode("the cat sat on")
    model = theirs(file)
    answer = model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)[0, len(prompt) :].tolist()
    (result,) = ensemble.generate("the cat sat on", SamplingParams(temperature=0, max_tokens=24))
    assert list(result.token_ids) == answer[: len(result.token_ids)]
    assert result.finish_reason == "stop" or len(result.token_ids) == 24


def test_the_tokenizer_and_its_template_are_those_that_transformers_reads(file):
    runner = load(str(file), CPU)
    other = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    messages = [{"role": "system", "content": "é"}, {"role": "user", "content": "the cat sat"}]
    text = other.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert runner.tokenizer.chat(messages) == other.encode(text, add_special_tokens=False)
    assert text.endswith("<|im_start|>assistant\n")
    assert runner.tokenizer.encode("a café of the cat") == other.encode("a café of the cat")


def test_ends_are_all_that_the_metadata_names(tmp_path, words):
    ends = {"tokenizer__ggml__eot_token_id": 3, "tokenizer__ggml__eom_token_id": 2}
    assert load(str(write_gguf(tmp_path / "a.gguf", tokenizer=words, **ends)), CPU).end_ids == (4, 3, 2)


def test_nothing_beside_the_file_is_read(tmp_path, capfd):
    file = write_gguf(tmp_path / "a.gguf")
    alone = load(str(file), CPU)
    for name in (
        "tokenizer.json",
        "config.json",
        "adapter_config.json",
        "tokenizer_config.json",
        "generation_config.json",
    ):
        (tmp_path / name).write_text('{"chat_template": "no", "eos_token_id": 9, "model_type": "bert"}')
    (tmp_path / "chat_template.jinja").write_text("no")
    capfd.readouterr()
    beside = load(str(file), CPU)
    assert torch.equal(rows(beside), rows(alone))
    assert beside.tokenizer.info() == alone.tokenizer.info()
    assert beside.end_ids == alone.end_ids
    # Nor is anything drawn on standard error.
    assert capfd.readouterr() == ("", "")


def test_a_file_is_loaded_once_by_whatever_name(tmp_path, file, monkeypatch):
    monkeypatch.chdir(file.parent)
    (tmp_path / "link.gguf").symlink_to(file)
    members = [
        Member(model=file.name),
        Member(model=file),
        Member(model=f"./{file.name}"),
        Member(model=tmp_path / "link.gguf"),
        Member(model=file.parent),
        Member(model=file.parent, options=LoadOptions(gguf_file=file.name)),
    ]
    assert len({id(runner) for runner in load_runners(members)}) == 1
    assert [member.default_name for member in members[:2]] == ["tiny.Q8_0"] * 2
    assert members[-1].default_name == "tiny.Q8_0"


def test_a_file_without_its_suffix_is_known_by_its_first_letters(tmp_path, file):
    other = tmp_path / "sha256-0123"
    other.write_bytes(file.read_bytes())
    assert torch.equal(rows(load(str(other), CPU)), rows(load(str(file), CPU)))


@pytest.mark.parametrize(
    ("quantization", "dtype"), [("F16", torch.float16), ("BF16", torch.bfloat16), ("Q4_0", torch.float32)]
)
def test_what_is_stored_as_numbers_has_a_type(tmp_path, words, quantization, dtype):
    file = write_gguf(tmp_path / "a.gguf", tokenizer=words, quantization=quantization)
    assert read_gguf_header(file).dtype == dtype
    assert load(str(file), LoadOptions(device="cpu", dtype="bfloat16")).dtype == torch.bfloat16
    if dtype != torch.bfloat16:
        assert load(str(file), LoadOptions(device="cpu")).dtype == torch.float32


def test_the_ensemble_file_names_files_beside_it(tmp_path):
    write_gguf(tmp_path / "expert.gguf")
    (tmp_path / "several").mkdir()
    for name in ("a", "b"):
        write_gguf(tmp_path / "several" / f"{name}.gguf")
    path = tmp_path / "mine.yaml"
    path.write_text(
        "members: [expert.gguf, {model: several, gguf_file: b.gguf}]\nproposer: {model: ./several, gguf_file: a.gguf}\n"
    )
    ensemble = Ensemble.load(path, schedule="plain", proposer=None)
    assert ensemble.member_names == ("expert", "b")
    path.write_text("members: [expert.gguf]\ngguf_file: expert.gguf\n")
    with pytest.raises(CospecError, match=r"unknown key of .* 'gguf_file'"):
        Ensemble.load(path)
    with pytest.raises(CospecError, match="gguf_file"):
        Ensemble([tmp_path / "expert.gguf"], gguf_file="expert.gguf")


def test_the_command_line_takes_files(tmp_path, file):
    drafter = write_gguf(tmp_path / "drafter.gguf")
    plan = ["--proposer", str(drafter), "--schedule", "fixed", "--max-tokens", "5", "--seed", "1", "--json"]
    done = CliRunner().invoke(app, ["generate", "the cat", "--member", str(file), *plan])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[0])["token_ids"]


def test_memory_is_that_of_the_unpacked_weights(file, monkeypatch):
    tiny = unpacked(load(str(file), CPU).model)
    count = sum(parameter.numel() for parameter in tiny.parameters())
    needed = memory._size(file, CPU)
    # While the last one, the head, is unpacked it takes two copies in float32.
    assert needed == 4 * (count + tiny.lm_head.weight.numel())
    assert memory._size(file, LoadOptions(device="cpu", dtype="bfloat16")) < needed
    monkeypatch.setattr(memory, "free_bytes", lambda device: needed - 1)
    with pytest.raises(DoesNotFit, match=r"these models need .* \(tiny\.Q8_0\.gguf 0\.0\)"):
        Ensemble([str(file)], device="cpu", dtype="float32")


def test_unpacking_one_large_tensor_may_need_more_than_all(tmp_path, words):
    """The embedding of a model of few layers: two copies in float32 before it is in its type."""
    model = tiny_for(words, num_hidden_layers=1, vocab_size=4000)
    file = write_gguf(tmp_path / "a.gguf", model, words)
    embedding = 4000 * 64
    assert memory._size(file, LoadOptions(device="cpu", dtype="bfloat16")) >= (2 * 4 + 2) * embedding


def test_the_fingerprint_is_the_files(tmp_path, words):
    file = write_gguf(tmp_path / "a.gguf", tiny_for(words, num_hidden_layers=30), words, quantization="F32")
    assert file.stat().st_size > 1 << 20
    before = fingerprint(str(file))
    # What lies beside it does not count, and a folder means the file in it.
    (tmp_path / "tokenizer.json").write_text("{}")
    assert fingerprint(str(tmp_path)) == before
    assert fingerprint(str(tmp_path), LoadOptions(gguf_file="a.gguf")) == before
    header = read_gguf_header(file)
    for tensor in header.tensors:
        raw = bytearray(file.read_bytes())
        size = 4 * tensor.num_weights
        middle = header.data_start + tensor.offset + size // 2
        raw[middle] ^= 1
        (tmp_path / "b" / "a.gguf").parent.mkdir(exist_ok=True)
        (tmp_path / "b" / "a.gguf").write_bytes(raw)
        assert fingerprint(str(tmp_path / "b" / "a.gguf")) != before, tensor.name


def broken(tmp_path: Path, raw: bytes) -> str:
    (tmp_path / "broken.gguf").write_bytes(raw)
    return str(tmp_path / "broken.gguf")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (lambda whole: b"", "does not begin with the letters GGUF"),
        (lambda whole: b"PK" + whole[2:], "does not begin with the letters GGUF"),
        (lambda whole: whole[:10], "ends before its header does: it is truncated"),
        (lambda whole: whole[:3000], "ends before its header does: it is truncated"),
        (lambda whole: whole[:-2000], r"is a truncated GGUF file: it has \d+ bytes, and '.*' ends at \d+"),
        (lambda whole: whole[:4] + b"\1" + whole[5:], "is of version 1 of the format"),
        (lambda whole: whole[:4] + whole[7:3:-1] + whole[8:], "is of version 50331648 of the format"),
        (lambda whole: whole[:8] + b"\xff" * 16 + whole[24:], "truncated|unknown type"),
        (lambda whole: whole.replace(b"general.name\x08", b"general.name\x63"), "has a value of the unknown type 99"),
    ],
)
def test_a_broken_file_is_named_with_what_is_wrong(tmp_path, file, raw, message):
    path = broken(tmp_path, raw(file.read_bytes()))
    with pytest.raises(UnsupportedModel, match=message) as told:
        Ensemble([path], device="cpu")
    assert path in str(told.value)


@pytest.mark.parametrize("cut", range(0, 4000, 97))
def test_no_cut_of_a_header_is_read_as_a_file(tmp_path, file, cut):
    with pytest.raises(UnsupportedModel, match=r"broken\.gguf"):
        read_gguf_header(Path(broken(tmp_path, file.read_bytes()[:cut])))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"split__count": 2}, "is one of 2 parts of a split GGUF file.*llama-gguf-split --merge"),
        ({"general__type": "mmproj"}, r"projector of a vision model \(mmproj\), and no language model"),
        ({"general__architecture": "clip"}, r"projector of a vision model \(mmproj\)"),
        ({"general__type": "adapter"}, "is an adapter, and no language model"),
        (
            {"general__architecture": "plamo"},
            "of the architecture 'plamo', whose configuration transformers .* not read",
        ),
        ({"general__architecture": "mamba"}, "mamba"),
        ({"tokenizer__ggml__model": "rwkv"}, r"the tokenizer of the GGUF file .* \(rwkv\) is not read"),
        (
            {"llama__attention__head_count": 3},
            "of the architecture 'llama', whose configuration transformers .* not read",
        ),
        ({"llama__feed_forward_length": 64}, "the weights of the GGUF file .* are not read by transformers"),
    ],
)
def test_what_is_no_model_that_can_be_read_is_told(tmp_path, values, message):
    file = write_gguf(tmp_path / "other.gguf", **values)
    with pytest.raises(UnsupportedModel, match=message) as told:
        Ensemble([file], device="cpu")
    assert str(file) in str(told.value)


def test_weights_that_are_missing_or_have_no_place_are_told(tmp_path, words):
    file = write_gguf(tmp_path / "a.gguf", leave_out="layers.1.mlp.up_proj")
    with pytest.raises(
        UnsupportedModel, match=r"lacks 1 of its weights, the first being 'model\.layers\.1\.mlp\.up_proj"
    ):
        load(str(file), CPU)
    # Biases of attention, which transformers' reader of this architecture passes over in silence.
    file = write_gguf(tmp_path / "b.gguf", tiny_for(words, attention_bias=True), words)
    with pytest.raises(
        UnsupportedModel, match=r"GGUF file with \d+ weights, of which transformers .* reads \d+ at most"
    ):
        load(str(file), CPU)


def test_scaled_positions_that_are_not_read_are_told(tmp_path, caplog):
    file = write_gguf(tmp_path / "a.gguf", llama__rope__scaling__type="yarn")
    with caplog.at_level(logging.WARNING, "cospec"):
        load(str(file), CPU)
    assert "does not read its scaling of rotary positions (llama.rope.scaling.type)" in caplog.text


def test_a_folder_of_several_files_says_to_name_one(tmp_path):
    for name in ("b.gguf", "a.gguf"):
        write_gguf(tmp_path / name)
    with pytest.raises(ModelNotFound, match=r"holds 2 GGUF files \(a\.gguf, b\.gguf\); name one: '.*a\.gguf'"):
        load(str(tmp_path), CPU)
    with pytest.raises(ModelNotFound, match=r"has no file 'c\.gguf' \(gguf_file\); it holds a\.gguf, b\.gguf"):
        load(str(tmp_path), LoadOptions(device="cpu", gguf_file="c.gguf"))
    with pytest.raises(ModelNotFound, match=r"no GGUF file at '.*d\.gguf'; did you mean '.*\.gguf'\?"):
        load(str(tmp_path / "d.gguf"), CPU)


def test_a_folder_with_a_configuration_is_that_model(tmp_path, file):
    saved(tmp_path, num_entries=120)
    (tmp_path / "a.gguf").write_bytes(file.read_bytes())
    assert load(str(tmp_path), CPU).vocab_size == 120
    assert load(str(tmp_path), LoadOptions(device="cpu", gguf_file="a.gguf")).vocab_size > 300
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"name the GGUF file that is meant \(gguf_file: a\.gguf\)"):
        load(str(tmp_path), CPU)


@pytest.mark.parametrize("value", ["", 5, ["a"]])
def test_a_name_that_is_none_is_refused(value):
    with pytest.raises(InvalidEnsemble, match="gguf_file must name a file"):
        LoadOptions(gguf_file=value)


def test_it_is_not_quantised_anew(file):
    with pytest.raises(UnsupportedModel, match="is a GGUF file, whose weights are unpacked"):
        load(str(file), LoadOptions(device="cpu", quantization="8bit"))


def test_without_the_packages_the_extra_is_named(file, monkeypatch):
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"gguf and accelerate read it: pip install 'cospec\[gguf\]'"):
        load(str(file), CPU)


def test_filling_at_the_end_of_a_vocabulary_is_none_of_it(tmp_path, words):
    padded = finished(byte_level(), eos_token="<|im_end|>")
    padded.add_tokens([f"[PAD{len(words) + i}]" for i in range(3)])
    file = write_gguf(tmp_path / "a.gguf", tiny_for(padded), padded)
    runner = load(str(file), CPU)
    assert runner.vocab_size == len(words)
    # Members with it and without it are of one vocabulary.
    other = write_gguf(tmp_path / "b.gguf", tiny_for(words), words)
    assert Ensemble([file, other], device="cpu", schedule="plain").vocab_size == len(words)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    folder = tmp_path / "repository"
    folder.mkdir()
    for name in ("a", "b"):
        write_gguf(folder / f"{name}.gguf")
    (folder / "README.md").write_text("-")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    hub = Hub()
    hub.models["owner/model-GGUF"] = {MAIN: folder}
    with serving(hub) as address:
        use(monkeypatch, address, tmp_path / "cache")
        yield hub


def test_of_a_hubs_model_the_file_alone_is_fetched(hub, monkeypatch, tmp_path):
    options = LoadOptions(device="cpu", gguf_file="b.gguf")
    name = "owner/model-GGUF"
    assert fingerprint(name, options) == "not downloaded" or fingerprint(name, options)
    fetched = rows(load(name, options))
    there = [
        os.path.basename(path) for path in (tmp_path / "cache").rglob("*") if path.parent.parent.name == "snapshots"
    ]
    assert there == ["b.gguf"]
    assert fingerprint(name, options) not in (None, fingerprint(name))
    use(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache", offline=True)
    assert torch.equal(rows(load(name, options)), fetched)
    with pytest.raises(ModelNotFound, match="does not have it"):
        load(name, LoadOptions(device="cpu", gguf_file="a.gguf"))


def test_a_hubs_model_with_several_files_says_to_name_one(hub, tmp_path):
    with pytest.raises(ModelNotFound, match=r"holds 2 GGUF files; name one as gguf_file: a\.gguf, b\.gguf"):
        load("owner/model-GGUF", CPU)
    with pytest.raises(ModelNotFound, match=r"has no file 'c\.gguf' \(gguf_file\); its GGUF files: a\.gguf, b\.gguf"):
        load("owner/model-GGUF", LoadOptions(device="cpu", gguf_file="c.gguf"))
    (tmp_path / "repository" / "b.gguf").unlink()
    assert load("owner/model-GGUF", CPU).vocab_size > 300
