"""What is no model that can be run is refused by one error: the model, the fault, the remedy; and no request."""

import json
import math
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from cospec import Ensemble
from cospec.errors import CospecError, InvalidPrompt, MissingExtra, ModelNotFound, UnsupportedModel
from cospec.runner import LoadOptions
from cospec.runner.hf import load
from cospec.runner.hf.quantised import check_quantisation
from cospec.runner.memory import is_want_of_memory

from .models import saved, tiny, tokenizer
from .properties import examples

CPU = LoadOptions(device="cpu")
FILES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
SHARDED = ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
# Values of every kind that JSON has, some of them hostile.
VALUES = [None, True, 0, -1, 3, 1.5, 2**70, "", "text", [], [1, "a"], {}, {"a": {}}, {"weight_map": {"a": "../b"}}]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A model that loads, in one file of weights."""
    return saved(tmp_path_factory.mktemp("whole"), num_entries=120)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Path:
    """One that loads from two files of weights."""
    folder = tmp_path_factory.mktemp("sharded")
    tiny("llama").save_pretrained(folder, max_shard_size="50KB")
    tokenizer(120).save_pretrained(folder)
    assert (folder / SHARDED[0]).exists()
    return folder


@pytest.fixture
def requests(monkeypatch):
    """Every attempt to reach anything by a socket; none succeeds."""
    made = []

    def refuse(*args, **kwargs):
        made.append(args)
        raise OSError("a network was asked for")

    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return made


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "damaged"))


def refused_or_loaded(folder: Path, requests: list, options: LoadOptions = CPU) -> str | None:
    """The refusal, which names the folder; None where it loads. Anything else that is raised fails the test."""
    try:
        ensemble = Ensemble([folder], device="cpu", allow_pickle=options.allow_pickle or None)
        refusal = None
        assert [result.error for result in ensemble.generate([[2, 3]])] == [None]
    except CospecError as error:
        refusal = str(error)
    assert not requests
    if refusal is not None:
        assert str(folder) in refusal
        assert "loader of the runner scheme" not in refusal
    return refusal


def a_directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def a_loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda file: file.write_bytes(b""),
    "cut in half": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "ten bytes short": lambda file: file.write_bytes(file.read_bytes()[:-10]),
    "random": lambda file: file.write_bytes(torch.randint(0, 256, (500,), dtype=torch.uint8).numpy().tobytes()),
    "zeros": lambda file: file.write_bytes(bytes(1000)),
    "UTF-16": lambda file: file.write_bytes('{"model_type": "llama"}'.encode("utf-16")),
    "deep": lambda file: file.write_text("[" * 100_000),
    "NaN": lambda file: file.write_text("NaN"),
    "a huge header": lambda file: file.write_bytes(b"\xff" * 8 + b"{}"),
    "a directory": a_directory,
    "a loop": a_loop,
    **{f"{value!r}": lambda file, value=value: file.write_text(json.dumps(value)) for value in VALUES},
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*FILES, *SHARDED])
def test_a_damaged_folder_is_refused_by_name_or_loads(whole, sharded, requests, tmp_path, name, damage):
    folder = Path(shutil.copytree(sharded if name in SHARDED else whole, tmp_path / "damaged"))
    DAMAGES[damage](folder / name)
    refusal = refused_or_loaded(folder, requests)
    is_needed = name == "config.json" or "safetensors" in name
    assert refusal is not None or not is_needed


def mapping(file: Path) -> dict:
    value = json.loads(file.read_text())
    assert isinstance(value, dict)
    return value


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=True) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_of_any_setting_is_refused_by_name_or_loads(whole, requests, tmp_path, data):
    name = data.draw(st.sampled_from(["config.json", "generation_config.json", "tokenizer_config.json"]))
    folder = tmp_path / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    given = mapping(folder / name)
    key = data.draw(st.sampled_from([*given, "quantization_config", "auto_map", "rope_scaling", "layer_types"]))
    (folder / name).write_text(json.dumps({**given, key: data.draw(JSON_VALUES)}))
    refused_or_loaded(folder, requests)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("weight", ["model.layers.1.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"])
def test_weights_that_are_nan_are_called_so(folder, requests, weight, value):
    tensors = load_file(folder / "model.safetensors")
    tensors[weight].fill_(value)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    refusal = refused_or_loaded(folder, requests)
    assert refusal is not None
    assert "(llama) gives logits that are NaN or infinite from '" in refusal
    assert weight.removesuffix(".weight") in refusal
    assert "all attention" not in refusal


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "config.json is empty; copy or download it again"),
        (b"{", r"config\.json: not JSON .*; copy or download"),
        (b'{"model_type": "\xff"}', r"config\.json:1 is not UTF-8: byte 16 is 0xff; copy"),
        (b"[1]", r"config\.json holds \[1\], not an object; copy"),
        (b"{}", r"config\.json names no model_type; give a folder"),
        (
            b'{"model_type": "novel"}',
            r"is of the model type 'novel' .*config\.json\), which transformers 5.* not know",
        ),
    ],
)
def test_a_broken_configuration_is_told(folder, content, message):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(UnsupportedModel, match=message):
        load(str(folder), CPU)


def test_a_broken_gguf_file_is_called_one(tmp_path, requests):
    (tmp_path / "model.Q4.gguf").write_bytes(b"GGUF")
    for path in (tmp_path, tmp_path / "model.Q4.gguf"):
        with pytest.raises(UnsupportedModel, match=r"the GGUF file '.*model\.Q4\.gguf' \(4 bytes\) ends before"):
            load(str(path), CPU)
    assert not requests


def test_a_file_is_no_folder(folder):
    with pytest.raises(ModelNotFound, match=r"model\.safetensors' is a file; give a folder .*, such as '.*damaged'"):
        load(str(folder / "model.safetensors"), CPU)


def test_missing_shards_are_counted_and_named(sharded, tmp_path):
    folder = Path(shutil.copytree(sharded, tmp_path / "damaged"))
    (folder / SHARDED[1]).unlink()
    with pytest.raises(ModelNotFound, match=r"lacks 1 of \d+ files .*, the first being '.*/model-00001-of-.*; copy"):
        load(str(folder), CPU)


def test_a_truncated_file_of_weights_is_named(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UnsupportedModel, match=rf"{file} \(\d+ bytes\) is truncated or no safetensors file: copy"):
        load(str(folder), CPU)


def test_a_folder_without_a_tokenizer_names_itself_where_a_text_is_given(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    ensemble = Ensemble([folder], device="cpu")
    with pytest.raises(
        InvalidPrompt, match=r"damaged came without a tokenizer \(tokenizer\.json.*add its files.*--token"
    ):
        ensemble.generate("text")
    assert ensemble.generate([[2]])


def test_half_a_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UnsupportedModel, match=r"has tokenizer_config\.json and no vocabulary \(tokenizer\.json, "):
        load(str(folder), CPU)


def test_weights_that_are_pickles_name_the_flag_that_allows_them(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    (folder / "training_args.bin").write_bytes(b"not weights")
    with pytest.raises(ModelNotFound, match=r"\(pytorch_model\.bin\), .*set allow_pickle \(--allow-pickle\)"):
        load(str(folder), CPU)
    assert load(str(folder), LoadOptions(device="cpu", allow_pickle=True)).vocab_size == 120


@pytest.mark.parametrize("kind", ["its-own", "vit"])
def test_code_of_a_model_s_own_names_the_flag_that_allows_it(folder, kind):
    (folder / "config.json").write_text(
        json.dumps({"model_type": kind, "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Model"}})
    )
    (folder / "own.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(UnsupportedModel, match=r"needs code of its own \(own\.py\).*trust_remote_code \(--trust-rem"):
        load(str(folder), CPU)


@pytest.mark.parametrize(
    ("method", "packages"),
    [
        ("gptq", "optimum gptqmodel"), ("awq", "gptqmodel accelerate"), ("bitsandbytes", "bitsandbytes accelerate"),
        ("compressed-tensors", "compressed-tensors accelerate"),
    ],
)  # fmt: skip
def test_quantised_weights_name_the_packages_that_read_them(folder, method, packages):
    config = mapping(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": method}}))
    absent = " ".join(each for each in packages.split() if find_spec(each.replace("-", "_")) is None)
    if not absent:
        pytest.skip(f"{packages} are installed")
    with pytest.raises(MissingExtra, match=f"damaged' is quantised by {method}, .*: pip install {absent}$"):
        load(str(folder), CPU)


@pytest.mark.parametrize("quantization", ["4bit", "8bit", {"load_in_4bit": True}, {"quant_method": "quanto"}])
def test_quantisation_that_is_asked_for_names_the_package_that_is_absent(folder, quantization):
    package = "optimum" if isinstance(quantization, dict) and "quant_method" in quantization else "bitsandbytes"
    if find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(MissingExtra, match=f"damaged'.*{package}"):
        load(str(folder), LoadOptions(device="cpu", quantization=quantization))


@pytest.mark.parametrize("settings", [{}, {"quant_method": "novel"}, {"quant_method": 3}, [1], "4bits"])
def test_unknown_quantisation_is_refused_with_the_known_methods(settings):
    with pytest.raises(UnsupportedModel, match=r"'m'.*(novel|None|3|must be keys and values)"):
        check_quantisation("m", settings)


@pytest.mark.parametrize("size", [5, 127, 2**50])
def test_weights_of_other_shapes_than_the_configuration_s_are_told(folder, size):
    config = mapping(folder / "config.json")
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": size}))
    with pytest.raises(UnsupportedModel, match=rf"damaged'.*weight' is \[128, 32\], and should be \[{size}, 32\]"):
        load(str(folder), CPU)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory: you tried ..."),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_want_of_memory_is_known_by_what_it_raises(error):
    assert is_want_of_memory(error)


LIMITED = """
import resource, sys
from pathlib import Path
from cospec.runner import LoadOptions
from cospec.runner.hf import load
mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (mapped + 2**28, -1))
load(sys.argv[1], LoadOptions(device="cpu", dtype="float32"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_want_of_memory_while_loading_is_called_so(tmp_path):
    # In bfloat16 on the disk, 400 MB in the memory.
    tiny("llama", vocab_size=3 * 2**19).to(torch.bfloat16).save_pretrained(tmp_path / "big")
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "big")]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stderr.strip().splitlines()[-1]
    assert re.match(
        r"cospec\.errors\.DoesNotFit: model '.*big' does not fit into the memory .*; choose a smaller", told
    )


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_weights_quantised_by_bitsandbytes_decode(bits):
    """In a venv that has it; its products round, so that rows are held against others as in half precision."""
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("accelerate")
    # Its widths are multiples of the block of 64 in which bitsandbytes quantises.
    ensemble = Ensemble(["demo:math"], device="cpu", quantization=bits)
    assert ensemble.generate([[2, 3]])[0].error is None
