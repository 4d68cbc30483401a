"""Invariant numerics: a row is a function of the tokens before it alone, to the last bit, and a seed has one text."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cospec import Ensemble, Member, SamplingParams, UnsupportedModel
from cospec.core.combine import Mixture
from cospec.errors import InvalidEnsemble
from cospec.identity import identity
from cospec.runner import Feed, LoadOptions, toy
from cospec.runner.hf import HfRunner, load, packing, proof
from cospec.runner.hf.adapted import AdaptedRunner
from cospec.runner.hf.forward import ModelForward
from cospec.runner.hf.fused import FusedForward
from cospec.runner.hf.invariant import Blocks, chunk_end, chunks
from cospec.runner.pool import one_pool
from cospec.schedule import Plan
from cospec.server.app import create_app
from cospec.server.settings import InvalidSettings, ServerSettings
from cospec.study.exactness import Effort, coupled_checks, greedy_checks

from .adapters import adapted
from .models import VOCAB, saved, tiny
from .properties import examples, is_fuzzing, longer

INVARIANT = LoadOptions(device="cpu", numerics="invariant")
BF16 = LoadOptions(device="cpu", numerics="invariant", dtype="bfloat16")
# Lean ones, one of them with a sliding window, and ones of transformers' own forward pass.
KINDS = ("llama", "mistral", "gemma2", "gpt2")
MODELS = [
    ("llama", "float32"),
    ("mistral", "bfloat16"),
    ("gemma2", "bfloat16"),
    ("gemma2", "float32"),
    ("gpt2", "bfloat16"),
]
LENGTH = 150
PROMPTS = [[5, 9, 3], [7] * 40, [2, 4, 6, 8, 10, 12, 14], [11], [3] * 90, [8, 8], [1, 2, 3, 4], [90, 80, 70, 60, 50]]


@pytest.fixture(scope="module", autouse=True)
def nothing_is_compiled():
    """Rows of compiled passes are functions of the tokens before them by themselves: see test_compiled.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "can_panel", lambda dtype: False)
        yield


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    return {kind: saved(tmp_path_factory.mktemp("models") / str(i), kind) for i, kind in enumerate(KINDS)}


@pytest.fixture(scope="module")
def runners(folders, tmp_path_factory) -> dict[str, list]:
    """Runners that are fed together: a model's own; and a base with two adapters."""
    made = {f"{kind} {dtype}": [load(str(folders[kind]), replace(INVARIANT, dtype=dtype))] for kind, dtype in MODELS}
    for kind in ("llama", "gemma2"):
        parts = [tmp_path_factory.mktemp("adapters") for _ in range(2)]
        for seed, folder in enumerate(parts):
            adapted(folder, folders[kind], seed=seed, r=4 + seed)
        with one_pool():
            made[f"adapters of {kind}"] = [load(str(path), BF16) for path in (folders[kind], *parts)]
    return made


class Steady(toy.TableRunner):
    numerics = "invariant"


def text(number: int) -> list[int]:
    return [(number * 31 + i * (7 + number)) % VOCAB for i in range(LENGTH)]


def alone(runner, tokens: list[int]) -> torch.Tensor:
    """The rows of a text that is fed token by token, with nothing beside it."""
    slot = runner.open()
    rows = torch.cat([runner.feed([Feed(slot, [token], 1)])[0] for token in tokens])
    runner.close(slot)
    return rows


@pytest.fixture(scope="module")
def expected(runners) -> dict[str, list[list[torch.Tensor]]]:
    return {name: [[alone(runner, text(i)) for i in range(2)] for runner in own] for name, own in runners.items()}


NAMES = [*(f"{kind} {dtype}" for kind, dtype in MODELS), "adapters of llama", "adapters of gemma2"]


def play(runners: list, expected: list[list[torch.Tensor]], rng: random.Random) -> list[bool]:
    """Ragged batches, chunks, rollbacks, closed slots; of the rows of each feed whether they have the bits of a text
    alone."""
    server = runners[0]
    live = {}
    found = []
    for _ in range(7):
        for place in range(rng.randint(1, 5)):
            if place not in live:
                who = rng.randrange(len(runners))
                live[place] = (runners[who].open(), who, rng.randrange(2))
        feeds, meant = [], []
        for place in rng.sample([*live], rng.randint(1, len(live))):
            slot, who, number = live[place]
            server.trim(slot, rng.randint(max(0, slot.length - 5), slot.length))
            count = min(rng.choice([1, 1, 1, 2, 3, 5, 17, 70, 140]), LENGTH - slot.length)
            if count:
                rows = rng.randint(0, count)
                feeds.append(Feed(slot, text(number)[slot.length : slot.length + count], rows))
                meant.append(expected[who][number][slot.length + count - rows : slot.length + count])
        if feeds:
            found += [torch.equal(rows, same) for rows, same in zip(server.feed(feeds), meant, strict=True)]
        for place in [place for place in live if rng.random() < 0.2]:
            server.close(live.pop(place)[0])
    for slot, *_ in live.values():
        server.close(slot)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_rows_have_the_bits_of_a_text_that_is_fed_alone_token_by_token(runners, expected, name):
    @given(st.integers(0, 2**32))
    @settings(max_examples=examples(6), deadline=None)
    def holds(seed: int) -> None:
        assert all(play(runners[name], expected[name], random.Random(seed)))

    holds()


def test_both_kinds_of_forward_passes_were_tested(runners):
    assert isinstance(runners["mistral bfloat16"][0].forward, FusedForward)
    assert isinstance(runners["gemma2 bfloat16"][0].forward, ModelForward)
    assert isinstance(runners["adapters of gemma2"][1], AdaptedRunner)
    assert all(runner.numerics == "invariant" for own in runners.values() for runner in own)


def test_without_it_rows_depend_on_what_is_beside_them(folders):
    """Else the test above shows nothing."""
    (runner,) = [load(str(folders["llama"]), LoadOptions(device="cpu"))]
    rows = [[alone(runner, text(i)) for i in range(2)]]
    assert runner.numerics == "default"
    assert not all(play([runner], rows, random.Random(1)) + play([runner], rows, random.Random(2)))


def test_prompts_in_blocks_of_another_size_are_found_out(runners, expected, monkeypatch):
    """A fault: chunks of prompts go through the model as they come."""
    filled = Blocks.filled
    monkeypatch.setattr(Blocks, "filled", lambda self, flat: flat if flat.shape[0] < 4 else filled(self, flat))
    name = "llama float32"
    assert not all(all(play(runners[name], expected[name], random.Random(seed))) for seed in range(4))


def test_attention_over_a_padded_batch_is_found_out(runners, expected, monkeypatch):
    """A fault: keys and values of all chunks are one product, whose rows are those that the batch happens to have."""

    def attend(self, queries, keys, values, mask, scale, change=None):
        return torch.nn.functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, scale=scale, enable_gqa=True
        )

    monkeypatch.setattr(Blocks, "attend", attend)
    name = "llama float32"
    assert not all(all(play(runners[name], expected[name], random.Random(seed))) for seed in range(4))


def test_a_model_whose_place_in_a_pass_matters_is_refused_by_name():
    class Placed(FusedForward):
        def __call__(self, input_ids, batch, num_logits, cache, handed=None):
            logits = super().__call__(input_ids, batch, num_logits, cache, handed)
            return logits + 1e-4 * torch.arange(logits.shape[0])[:, None]

    model = tiny("llama")
    runner = HfRunner(model, forward=Placed(model))
    with pytest.raises(
        UnsupportedModel, match=r"'mine' \(llama\) cannot be run with numerics: invariant: passes of 16"
    ):
        proof.prove("mine", runner)


def test_sizes_that_give_other_bits_are_left_out():
    class Widths(FusedForward):
        """Passes of 24 tokens round otherwise."""

        def __call__(self, input_ids, batch, num_logits, cache, handed=None):
            logits = super().__call__(input_ids, batch, num_logits, cache, handed)
            return logits + 1e-4 if batch.blocks is not None and batch.blocks.tokens == (24,) else logits

    model = tiny("llama")
    found = proof.proven(model, Widths(model)).blocks
    assert found is not None
    assert 24 not in found.tokens
    assert {16, 32, 64} <= {*found.tokens}


def test_experts_and_devices_that_were_not_tested_are_refused_by_name(tmp_path):
    folder = saved(tmp_path, "mixtral")
    with pytest.raises(UnsupportedModel, match=r"mixtral.* sends tokens to experts.*leave numerics at default"):
        load(str(folder), INVARIANT)
    with pytest.raises(UnsupportedModel, match=r"'mine' is to run on cuda:1, .* tested on CPUs alone"):
        proof.check_device("mine", "cuda:1")


def test_attention_that_is_not_known_is_refused_by_name(tmp_path):
    folder = saved(tmp_path, "falcon")
    with pytest.raises(UnsupportedModel, match=r"\(falcon\) cannot be run with numerics: invariant"):
        load(str(folder), INVARIANT)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 128, 129, 256, 257, 512, 1000])
def test_chunks_are_the_same_however_long_a_text_is(length):
    end = chunk_end(length)
    spans = chunks(end)
    assert spans[-1].stop == end >= length
    assert [span.start for span in spans] == [0, *(span.stop for span in spans[:-1])]
    assert spans == chunks(4096)[: len(spans)]


def test_options_that_are_not_known_or_exclude_each_other_are_refused():
    with pytest.raises(InvalidEnsemble, match="numerics 'exact' is not known; use default, invariant"):
        LoadOptions(numerics="exact")
    with pytest.raises(InvalidEnsemble, match="keeps to shapes of its own, and graphs is 'shapes'"):
        LoadOptions(numerics="invariant", graphs="shapes")


def test_a_runner_that_does_not_say_that_its_rows_are_invariant_is_refused():
    made = Ensemble([Steady(8), Steady(8, seed=1)], numerics="invariant")
    assert made.is_invariant
    with pytest.raises(UnsupportedModel, match=r"the member 'b' cannot be run .* a TableRunner, does not say"):
        Ensemble([Steady(8), Member(model=toy.TableRunner(8), name="b")], numerics="invariant")
    # Members alone count: the text of coupled verification does not depend on drafters.
    assert Ensemble([Steady(8)], proposer=toy.TableRunner(8), numerics="invariant").is_invariant


def test_a_drafter_without_invariant_numerics_drafts_with_default_ones(tmp_path, folders, caplog):
    """Experts never have them. The text is that of the members alone."""
    experts = str(saved(tmp_path, "mixtral", num_entries=128))
    member = saved(tmp_path / "member", "llama", num_entries=128)
    made = Ensemble([str(member)], proposer=experts, numerics="invariant", dtype="float32", verification="coupled")
    assert made.is_invariant
    assert made.runners[1].numerics == "default"
    assert "sends tokens to experts" in caplog.text
    assert "coupled text does not change" in caplog.text
    params = SamplingParams(max_tokens=12, seed=3, ignore_eos=True)
    texts = [
        [result.token_ids for result in made.with_plan(schedule=name, gamma=None).generate([[1, 2], [3]], params)]
        for name in ("plain", "fixed")
    ]
    assert texts[0] == texts[1]
    with pytest.raises(UnsupportedModel, match="sends tokens to experts"):
        Ensemble([experts], proposer=experts, numerics="invariant", dtype="float32")


def test_results_of_other_numerics_are_other_results(folders):
    given = {"members": [Member(model=folders["llama"])], "device": "cpu"}
    usual = identity({**given, "numerics": "default"})
    # Results from before there was a choice are gone on with.
    assert usual == identity(given)
    assert "numerics" not in str(usual)
    assert identity({**given, "numerics": "invariant"}) != usual


def texts(made: Ensemble, order: list[int], params: SamplingParams) -> list[list[int]]:
    results = {
        i: result.token_ids for i, result in zip(order, made.generate([PROMPTS[i] for i in order], params), strict=True)
    }
    return [results[i] for i in range(len(PROMPTS))]


@pytest.fixture(scope="module")
def pair(folders, tmp_path_factory) -> Ensemble:
    """Two lean models and one that is not, of which the first has a drafter of its first layer."""
    other = saved(tmp_path_factory.mktemp("other"), "llama", seed=3)
    members = [Member(model=folders["llama"]), Member(model=other), Member(model=folders["gemma2"])]
    first = Member(model=folders["llama"], name="first", options=LoadOptions(layers=1))
    return Ensemble(members, Mixture([0.5, 0.3, 0.2]), proposer=first, verification="coupled", schedule="plain",
                    numerics="invariant", dtype="bfloat16", device="cpu")  # fmt: skip


@pytest.mark.larger
@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_a_seed_has_one_text_under_every_schedule_in_every_batch_and_order(pair, temperature):
    params = SamplingParams(max_tokens=longer(12, 24), seed=5, temperature=temperature, ignore_eos=True)
    alone = [pair.generate([prompt], params)[0].token_ids for prompt in PROMPTS]
    batches = [(3, [*range(len(PROMPTS))]), (8, [6, 1, 7, 0, 3, 5, 2, 4])]
    for index, schedule in enumerate(("plain", "fixed", "alternate", "cascade", "auto")):
        proposer = None if schedule in ("plain", "alternate") else "first"
        made = pair.with_plan(Plan(schedule=schedule, proposer=proposer, verification="coupled"))
        # Each schedule has one of the batches at this temperature, and the other at the next.
        for size, order in batches if is_fuzzing() else [batches[(index + (temperature == 0)) % 2]]:
            made.max_sequences = size
            assert texts(made, order, params) == alone, (schedule, size)


def test_chunks_of_prompts_change_no_text(pair, monkeypatch):
    params = SamplingParams(max_tokens=8, seed=5, ignore_eos=True)
    whole = texts(pair, [*range(len(PROMPTS))], params)
    monkeypatch.setattr("cospec.core.prefill.FEWEST", 7)
    monkeypatch.setattr("cospec.core.prefill.MOST", 7)
    assert texts(pair, [*range(len(PROMPTS))], params) == whole


def test_verify_takes_no_difference_for_a_tie(pair):
    checks = [*coupled_checks(pair, PROMPTS[:3], Effort(max_tokens=8))]
    assert {check.outcome for check in checks} == {"equal"}
    assert all(check.num_equal == check.num_texts == 3 for check in checks)
    assert not [check for check in checks if check.differences]


def test_with_invariant_numerics_verify_finds_a_fault_where_there_would_be_a_tie():
    class Unsteady(Steady):
        """Says so, and differs in the last bits from call to call."""

        num_calls = 0

        def feed(self, batch):
            self.num_calls += 1
            return [rows * 0 + 1e-12 * torch.sin(torch.arange(4) + self.num_calls) for rows in super().feed(batch)]

    checks = [*greedy_checks(Ensemble([Unsteady(4), Unsteady(4)]), [[1], [2], [3]], Effort(max_tokens=8))]
    assert "different" in {check.outcome for check in checks}
    assert all(difference.gap < 1e-9 and not difference.is_tie for check in checks for difference in check.differences)


def test_a_reproducible_server_refuses_ensembles_that_are_not():
    made = Ensemble([Steady(8)], numerics="invariant")
    settings = ServerSettings(model="mine", reproducible=True)
    with pytest.raises(InvalidSettings, match=r"the ensemble 'mine' has invariant numerics and block verification"):
        create_app(made, settings)
    create_app(made.with_plan(verification="coupled"), settings)
