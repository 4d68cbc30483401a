"""What does not fit is refused before anything is read."""

import sys

import pytest

from cospec import CospecError, DoesNotFit, Ensemble, demo
from cospec.runner import LoadOptions, memory

MATH, GENERAL = demo.model_path("demo:math"), demo.model_path("demo:general")


@pytest.fixture
def free(monkeypatch):
    def set_free(num_bytes):
        monkeypatch.setattr(memory, "free_bytes", lambda device: num_bytes)

    return set_free


def size(dtype):
    return memory._size(memory.Path(MATH), LoadOptions(dtype=dtype, device="cpu"))


def test_a_model_needs_its_parameters_in_the_type_asked_for():
    assert size("float32") == 2 * size("bfloat16")
    assert 3.9e6 < size("float32") / 4 < 4.1e6


def test_an_ensemble_that_does_not_fit_says_what_it_needs_and_what_there_is(free):
    free(2**20)
    with pytest.raises(DoesNotFit, match=r"need 0\.0 GiB on cpu .*math 0\.0, general 0\.0.* 0\.0 GiB are free"):
        Ensemble([MATH, GENERAL], device="cpu")


def test_a_model_is_counted_once(free):
    free(int(1.5 * size("float32")))
    Ensemble([MATH, MATH], device="cpu", dtype="float32")
    with pytest.raises(DoesNotFit):
        Ensemble([MATH, GENERAL], device="cpu", dtype="float32")


def test_a_file_larger_than_the_memory_is_measured_by_its_header(tmp_path):
    file = tmp_path / "model.safetensors"
    count, tensor = 2**38, b'{"weight": {"dtype": "BF16", "shape": [%d], "data_offsets": [0, %d]}}'
    header = tensor % (count, 2 * count)
    with file.open("wb") as opened:
        opened.write(len(header).to_bytes(8, "little") + header)
        opened.truncate(8 + len(header) + 2 * count)
    assert memory._tensors(file) == [count]


def test_what_is_free_is_asked_of_the_machine():
    assert memory.free_bytes("cpu") > 2**20


@pytest.mark.parametrize("content", [b"", b"12345678", b"\x10" + bytes(7) + b"no json at all!!"])
def test_a_broken_file_is_left_to_whoever_loads_it(tmp_path, content):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    assert list(memory._tensors(file)) == []


def test_a_broken_configuration_is_left_to_whoever_loads_it(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CospecError, match="cannot be "):
        Ensemble([tmp_path], device="cpu")


@pytest.mark.parametrize(
    ("limit", "expected"), [("1000", 1000 - 700 + 200 + 100), ("500", 100), ("100", 0), ("max", sys.maxsize)]
)
def test_a_container_s_limit_counts_as_the_end_of_memory(tmp_path, limit, expected):
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 400\ninactive_file 200\nactive_file 100\n")
    assert memory._free_in_container(tmp_path) == expected
    assert memory._free_in_container(tmp_path / "none") == sys.maxsize


@pytest.mark.parametrize("content", ["[]", "3", '{"dtype": ["a"]}', "[" * 100_000])
def test_a_configuration_of_another_kind_is_left_to_whoever_loads_it(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "model.safetensors").mkdir()
    memory.check_memory([(str(tmp_path), LoadOptions(device="cpu"))])
