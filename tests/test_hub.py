"""Models of the hub: fetched by revision, kept, found again without a network; and what is said where that fails."""

import re
import socket
import sys
import time
from pathlib import Path

import pytest
import torch

from cospec import Ensemble, InvalidPrompt, Member, ModelNotFound, SamplingParams, UnsupportedModel
from cospec.runner import Feed, LoadOptions
from cospec.runner.hf import load

from .hub import MAIN, Hub, serving, use
from .models import saved, tiny

CPU = LoadOptions(device="cpu")
NAME = "owner/model"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one model in two revisions, asked from an empty folder."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    hub = Hub()
    hub.models[NAME] = {
        MAIN: saved(tmp_path / "main", num_entries=120),
        "v1": saved(tmp_path / "v1", num_entries=120, seed=1),
    }
    with serving(hub) as address:
        use(monkeypatch, address, tmp_path / "cache")
        yield hub


def go_offline(monkeypatch, tmp_path):
    use(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache", offline=True)


def first_row(runner):
    return runner.feed([Feed(runner.open(), [1, 2, 3], 1)])[0]


def test_a_model_is_fetched_and_found_again_without_a_network(hub, monkeypatch, tmp_path):
    row = first_row(load(NAME, CPU))
    asked = len(hub.requests)
    assert asked
    go_offline(monkeypatch, tmp_path)
    assert torch.equal(first_row(load(NAME, CPU)), row)
    # Without the switch too, where nothing answers.
    use(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    assert torch.equal(first_row(load(NAME, CPU)), row)
    assert len(hub.requests) == asked


def test_a_revision_is_another_model(hub):
    other = LoadOptions(device="cpu", revision="v1")
    assert not torch.equal(first_row(load(NAME, CPU)), first_row(load(NAME, other)))
    ensemble = Ensemble([NAME, Member(model=NAME, options=other), NAME], device="cpu")
    first, second, third = ensemble.runners
    assert first is third
    assert first is not second
    # For all members.
    assert {id(runner) for runner in Ensemble([NAME, NAME], device="cpu", revision="v1").runners} != {id(first)}


def test_a_revision_that_the_hub_does_not_have_is_told(hub):
    with pytest.raises(ModelNotFound, match=r"'owner/model' in revision 'v9' cannot be .*no revision 'v9'; give"):
        load(NAME, LoadOptions(device="cpu", revision="v9"))


def test_a_name_that_the_hub_does_not_have_is_told_after_one_request(hub, tmp_path):
    saved(tmp_path / "cwd" / "models" / "llama")
    with pytest.raises(ModelNotFound, match=r"no model on the hub has this name.*; did you mean 'models/llama'\?"):
        load("modles/llama", CPU)
    assert len(hub.requests) == 1


@pytest.mark.parametrize("name", ["./models/lama", "models/lama", "../cwd/models/lama", "models/lama/"])
def test_a_mistyped_path_is_answered_with_what_is_there(hub, tmp_path, name):
    (tmp_path / "cwd" / "models" / "llama").mkdir(parents=True)
    with pytest.raises(ModelNotFound, match=rf"no model folder at '{name}'; did you mean '.*models/llama'\?; give a"):
        load(name, CPU)
    assert not hub.requests


@pytest.mark.parametrize(
    "name",
    [
        ".", "..", "models/none/", "a/b/c", "/a/b", "~/m", "~nobody/m", "~none/m", "models\\llama", "C:\\models\\a",
        "llama", "x/model.gguf", "x/model.safetensors", "hf:./a", "", " ", "models/\0", "a/" + "b" * 5000,
    ],
)  # fmt: skip
def test_what_looks_like_a_path_is_never_asked_of_the_hub(hub, tmp_path, name):
    (tmp_path / "cwd" / "models").mkdir()
    with pytest.raises((ModelNotFound, UnsupportedModel), match=re.escape(repr(name.removeprefix("hf:")))):
        Ensemble([name], device="cpu")
    assert not hub.requests


def test_a_folder_without_a_model_is_answered_with_those_beside_it(hub, tmp_path):
    saved(tmp_path / "cwd" / "models" / "one")
    with pytest.raises(ModelNotFound, match=r"no model folder at 'models/zzz'; models holds models/one; give a folder"):
        load("models/zzz", CPU)


def test_a_model_that_was_fetched_before_is_no_path(hub, tmp_path):
    load(NAME, CPU)
    (tmp_path / "cwd" / "owner").mkdir()
    assert load(NAME, CPU).vocab_size == 120


def test_a_folder_has_no_revisions(hub, tmp_path):
    with pytest.raises(ModelNotFound, match=r"revision 'v1' was given for .*main', which is a folder; leave it out"):
        load(str(tmp_path / "main"), LoadOptions(device="cpu", revision="v1"))


def test_offline_nothing_is_asked(hub, monkeypatch, tmp_path):
    go_offline(monkeypatch, tmp_path)
    monkeypatch.setattr(socket, "socket", None)
    with pytest.raises(ModelNotFound, match=r"'owner/model' cannot be fetched, .*HF_HUB_OFFLINE is set; unset it, or"):
        load(NAME, CPU)


def test_a_hub_that_cannot_be_reached_is_told_at_once(monkeypatch, tmp_path):
    # A port that nothing listens at.
    use(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    started = time.monotonic()
    with pytest.raises(
        ModelNotFound, match=r"http://127\.0\.0\.1:9 cannot be reached \(ConnectError.*check the"
    ) as told:
        load(NAME, CPU)
    assert "\n" not in str(told.value)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_a_hub_that_refuses_is_told_and_what_was_fetched_is_found(hub, status):
    hub.status = status
    started = time.monotonic()
    with pytest.raises(ModelNotFound, match="'owner/model' cannot be fetched"):
        load(NAME, CPU)
    assert time.monotonic() - started < 5
    hub.status = 200
    load(NAME, CPU)
    hub.status = status
    assert load(NAME, CPU).vocab_size == 120


def test_a_cache_that_cannot_be_written_is_told(hub, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ModelNotFound, match=r"file.* cannot be written \(.*\); make room, or set HF_HUB_CACHE"):
        load(NAME, CPU)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of files are POSIX's")
def test_a_cache_without_room_for_the_weights_is_told(hub):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        # No file may be larger: the small ones fit, and the weights do not.
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
        with pytest.raises(ModelNotFound, match=r"has not all weights of it: .*cannot be written \(File too large\)"):
            load(NAME, CPU)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert load(NAME, CPU).vocab_size == 120


def test_pickles_are_refused_before_they_are_fetched(hub, tmp_path):
    folder = hub.models[NAME][MAIN]
    (folder / "model.safetensors").unlink()
    torch.save(tiny("llama").state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ModelNotFound, match=r"only as pickle \(pytorch_model\.bin\).*allow_pickle \(--allow-pickle\)"):
        load(NAME, CPU)
    assert not any("pytorch_model.bin" in request for request in hub.requests)
    load(NAME, LoadOptions(device="cpu", allow_pickle=True))


def test_what_cannot_be_run_is_refused_before_its_weights_are_fetched(hub):
    (hub.models[NAME][MAIN] / "config.json").write_text('{"model_type": "never-heard-of"}')
    with pytest.raises(UnsupportedModel, match="'owner/model' is of the model type 'never-heard-of'"):
        load(NAME, CPU)
    assert not any("safetensors" in request for request in hub.requests)


def test_a_cached_model_without_its_tokenizer_says_so_where_a_text_is_given(hub, monkeypatch, tmp_path):
    for file in hub.models[NAME][MAIN].glob("tokenizer*"):
        file.unlink()
    load(NAME, CPU)
    go_offline(monkeypatch, tmp_path)
    ensemble = Ensemble([NAME], device="cpu")
    with pytest.raises(InvalidPrompt, match=r"owner/model came without a tokenizer .*--token-ids"):
        ensemble.generate("a text")
    assert ensemble.generate([[1, 2]], SamplingParams(max_tokens=2))[0].token_ids


def test_a_cache_without_the_weights_is_told(hub, monkeypatch, tmp_path):
    load(NAME, CPU)
    for link in Path(tmp_path / "cache").glob("models--*/snapshots/*/model.safetensors"):
        link.unlink()
    go_offline(monkeypatch, tmp_path)
    with pytest.raises(ModelNotFound, match=r"has not all weights of it: HF_HUB_OFFLINE is set"):
        load(NAME, CPU)
