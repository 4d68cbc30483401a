"""Rows of llama.cpp's runner are the file's, whatever was fed, rolled back, copied, closed or moved beside them."""

import gc
import logging
import random

import pytest
import torch
from torch import Tensor

from cospec import Ensemble, LoadOptions, SamplingParams
from cospec.errors import CospecError, DoesNotFit, InvalidPrompt, MemberFailed, UnsupportedModel
from cospec.runner import Feed
from cospec.runner.hf import load as load_by_transformers
from cospec.runner.llamacpp import LlamaCppRunner, context, support
from cospec.runner.protocol import can_copy
from cospec.runner.schemes import load_runner
from cospec.testing import check_runner

# Keys and values are float16.
CLOSE = 5e-3
CPU = LoadOptions(device="cpu")


def load(file, **options) -> LlamaCppRunner:
    runner = load_runner(str(file), LoadOptions(device="cpu", **options))
    assert isinstance(runner, LlamaCppRunner)
    return runner


@pytest.fixture
def runner(exact) -> LlamaCppRunner:
    return load(exact)


@pytest.fixture(scope="module")
def reference(exact):
    return load_by_transformers(str(exact), CPU)


def rows_of(runner, tokens) -> Tensor:
    """All rows of a text by itself, as log-probabilities."""
    slot = runner.open()
    (rows,) = runner.feed([Feed(slot, tokens, len(tokens))])
    runner.close(slot)
    return rows.log_softmax(-1)


def off(one: Tensor, other: Tensor) -> float:
    return float((one.log_softmax(-1) - other.log_softmax(-1)).abs().max())


def text(seed: int, length: int) -> list[int]:
    return random.Random(seed).choices(range(4, 300), k=length)


def test_it_keeps_the_protocol(runner, quantised):
    assert check_runner(runner, tolerance=CLOSE) > 0
    assert can_copy(runner)
    # Products of quantised weights round what they are given.
    assert check_runner(load(quantised), tolerance=0.3) > 0


def test_rows_are_those_of_the_weights_unpacked_by_transformers(runner, reference):
    tokens = text(0, 60)
    assert off(rows_of(runner, tokens), rows_of(reference, tokens)) < CLOSE
    assert runner.vocab_size == reference.vocab_size
    assert runner.end_ids == reference.end_ids
    assert runner.context == reference.context


def test_whatever_is_fed_trimmed_copied_and_closed_rows_are_those_of_the_text(runner, reference):
    dice = random.Random(3)
    held = {}
    compared = 0
    for _ in range(120):
        move = dice.choice(("feed", "feed", "feed", "trim", "copy", "open", "close"))
        slots = [*held]
        if move == "open" or not slots:
            held[runner.open()] = []
        elif move == "close" and len(slots) > 1:
            slot = dice.choice(slots)
            runner.close(slot)
            del held[slot]
        elif move == "trim":
            slot = dice.choice(slots)
            length = dice.randint(0, slot.length)
            runner.trim(slot, length)
            del held[slot][length:]
        elif move == "copy":
            source = dice.choice(slots)
            slot, length = runner.open(), dice.randint(0, source.length)
            runner.copy(source, slot, length)
            held[slot] = held[source][:length]
        else:
            chosen = dice.sample(slots, dice.randint(1, len(slots)))
            feeds = []
            for slot in chosen:
                tokens = dice.choices(range(4, 300), k=dice.randint(1, 9))
                feeds.append(Feed(slot, tokens, dice.randint(0, len(tokens))))
                held[slot] += tokens
            for feed, rows in zip(feeds, runner.feed(feeds), strict=True):
                assert rows.shape == (feed.rows, runner.vocab_size)
                assert feed.slot.length == len(held[feed.slot])
                if feed.rows:
                    expected = rows_of(reference, held[feed.slot])[-feed.rows :]
                    assert off(rows, expected) < CLOSE
                    compared += feed.rows
    assert compared > 50


def test_a_long_prompt_goes_through_in_parts_and_so_do_many_rows(runner, reference, monkeypatch):
    monkeypatch.setattr(context, "NUM_TOKENS", 16)
    monkeypatch.setattr(context, "NUM_ROWS", 7)
    slots = [runner.open() for _ in range(3)]
    texts = [text(seed, length) for seed, length in ((1, 70), (2, 1), (3, 33))]
    wanted = (70, 1, 20)
    fed = runner.feed([Feed(*each) for each in zip(slots, texts, wanted, strict=True)])
    for rows, tokens, count in zip(fed, texts, wanted, strict=True):
        assert rows.shape[0] == count
        assert off(rows, rows_of(reference, tokens)[-count:]) < CLOSE
    assert [slot.length for slot in slots] == [70, 1, 33]


def test_a_full_store_grows_and_every_text_stays(runner, reference):
    store = runner.store.of_size(256)
    small = LlamaCppRunner(store, runner.tokenizer, runner.end_ids)
    before = small.cache_bytes
    texts = [text(seed, 60) for seed in range(9)]
    slots = [small.open() for _ in texts]
    for slot, tokens in zip(slots, texts, strict=True):
        small.feed([Feed(slot, tokens[:-1], 0)])
    assert store.num_cells > 256
    assert small.cache_bytes == before * store.num_cells // 256
    last = small.feed([Feed(slot, tokens[-1:], 1) for slot, tokens in zip(slots, texts, strict=True)])
    for rows, tokens in zip(last, texts, strict=True):
        assert off(rows, rows_of(reference, tokens)[-1:]) < CLOSE


def test_a_copy_takes_no_cells_and_a_closed_slot_gives_its_own_back(runner):
    small = LlamaCppRunner(runner.store.of_size(256), runner.tokenizer, runner.end_ids)
    first = small.open()
    small.feed([Feed(first, text(1, 200), 0)])
    copies = [small.open() for _ in range(20)]
    for slot in copies:
        small.copy(first, slot, 200)
    small.feed([Feed(slot, [5], 0) for slot in copies])
    assert small.store.num_cells == 256
    for slot in (first, *copies):
        small.close(slot)
    for _ in range(4):
        slot = small.open()
        small.feed([Feed(slot, text(2, 250), 0)])
        small.close(slot)
    assert small.store.num_cells == 256


def test_a_store_that_does_not_fit_is_refused_and_the_texts_go_on(runner, reference, monkeypatch):
    small = LlamaCppRunner(runner.store.of_size(256), runner.tokenizer, runner.end_ids)
    slot, tokens = small.open(), text(1, 250)
    small.feed([Feed(slot, tokens, 0)])
    monkeypatch.setattr(context, "free_bytes", lambda device: 1000)
    with pytest.raises(DoesNotFit, match=r"need \d+ MiB on cpu for their keys and values, and 0 MiB are free"):
        small.feed([Feed(slot, text(2, 20), 1)])
    assert slot.length == 250
    (rows,) = small.feed([Feed(slot, [5], 1)])
    assert off(rows, rows_of(reference, [*tokens, 5])[-1:]) < CLOSE


def test_a_pass_that_fails_leaves_every_slot_as_it_was(runner, reference, monkeypatch):
    monkeypatch.setattr(context, "NUM_TOKENS", 16)
    slots = [runner.open(), runner.open()]
    texts = [text(1, 20), text(2, 30)]
    runner.feed([Feed(slot, tokens, 0) for slot, tokens in zip(slots, texts, strict=True)])
    # The first part of the batch is computed before the second fails.
    with pytest.raises(MemberFailed, match=r"could not compute a forward pass \(status -1\).*invalid token"):
        runner.feed([Feed(slots[0], text(3, 31), 0), Feed(slots[1], [5, 10**6], 1)])
    assert [slot.length for slot in slots] == [20, 30]
    again = runner.feed([Feed(slot, [7], 1) for slot in slots])
    for rows, tokens in zip(again, texts, strict=True):
        assert off(rows, rows_of(reference, [*tokens, 7])[-1:]) < CLOSE


def test_a_text_beyond_the_context_is_told(runner):
    slot = runner.open()
    with pytest.raises(InvalidPrompt, match=f"do not fit into a context of {runner.context}"):
        runner.feed([Feed(slot, [5] * (runner.context + 1), 1)])
    assert slot.length == 0


def test_more_sequences_than_llama_cpp_keeps_are_told(runner):
    slots = [runner.open() for _ in range(context.NUM_SEQUENCES)]
    with pytest.raises(DoesNotFit, match="256 sequences of a model at most"):
        runner.open()
    runner.close(slots[100])
    assert runner.open().sequence == 100


def test_members_of_one_file_share_its_weights_and_of_one_ensemble_a_runner(exact, other):
    ensemble = Ensemble([str(exact), str(exact), str(other)], device="cpu", schedule="plain")
    first, second, third = ensemble.runners
    assert first is second
    assert first.store.weights is not third.store.weights
    assert sum(first.storages.values()) > 0


def test_as_many_threads_compute_as_torch_has(runner, monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    llama = runner.store._llama
    usual = llama.llama_set_n_threads
    monkeypatch.setattr(llama, "llama_set_n_threads", lambda *given: (asked.append(given[1:]), usual(*given)))
    rows_of(runner, [5, 6])
    rows_of(runner, [5, 6])
    assert asked == [(2, 2)]


def test_a_runner_that_nobody_holds_gives_its_memory_back(exact):
    runner = load(exact)
    finalizer = runner.store._free
    del runner
    gc.collect()
    assert not finalizer.alive


def test_a_broken_file_is_told_in_llama_cpps_words(tmp_path, exact):
    (tmp_path / "cut.gguf").write_bytes(exact.read_bytes()[:-3000])
    with pytest.raises(UnsupportedModel, match=r"llama.cpp cannot load .*cut\.gguf.*: .*(bounds|corrupt|incomplete)"):
        load(tmp_path / "cut.gguf")


def test_the_probe_finds_a_model_whose_rows_depend_on_what_is_beside_them(exact, monkeypatch):
    """A rollback that forgets nothing."""
    monkeypatch.setattr(support, "TOLERANCE", 1e-3)
    load(exact)
    monkeypatch.setattr(context.Context, "cut", lambda self, sequence, length: None)
    with pytest.raises(CospecError, match=r"exact\.gguf.*llama.*(other logits in ragged batches|cannot be decoded)"):
        load(exact)


def test_sampled_text_of_a_seed_is_one_whatever_the_batch(exact):
    """Float32 weights: products round alike in any batch, up to ties."""
    ensemble = Ensemble([str(exact)], device="cpu", schedule="plain")
    params = SamplingParams(max_tokens=12, seed=5)
    alone = ensemble.generate("Once upon a time", params)[0].token_ids
    beside = ensemble.generate(["Once upon a time", "Hello", "One two three four"], params)[0].token_ids
    assert alone == beside


def test_its_log_is_ours(exact, caplog):
    with caplog.at_level(logging.DEBUG, "cospec"):
        load(exact)
    assert any("llama" in record.message for record in caplog.records)
