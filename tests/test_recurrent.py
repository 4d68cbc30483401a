"""Models with recurrent states: rows are those of an unbatched forward pass, whatever was accepted and rejected."""

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel
from transformers.models.qwen3_5 import modeling_qwen3_5

from cospec import Ensemble, SamplingParams
from cospec.errors import DoesNotFit, UnsupportedModel
from cospec.runner import Feed, memory
from cospec.runner.hf import HfRunner, LoadOptions, check_supported, load
from cospec.runner.hf.cut import first_layers
from cospec.runner.hf.rollback import CAPACITY, StatePlan
from cospec.runner.hf.states import History, RecurrentState
from cospec.runner.hf.support import distance
from cospec.runner.hf.updates import DeltaRule
from cospec.schedule.drafting import MOST_DRAFTED
from cospec.study.effort import Effort
from cospec.study.exactness import self_test
from cospec.testing import check_runner

from . import test_hf_runner
from .adapters import adapted
from .laws.recurrent import watched_losses
from .laws.test_recurrent import not_restored, restored_in_place
from .models import VOCAB, saved, tiny
from .properties import examples, is_fuzzing
from .test_hf_runner import plain, play, play_and_go_on, words

KINDS = [
    "qwen3_5", "qwen3_next", "olmo_hybrid", "lfm2", "lfm2_moe", "lfm3", "granitemoehybrid mamba", "falcon_h1",
    "nemotron_h", "mamba2", "bamba",
]  # fmt: skip
# One of each kind of state: with a convolution, a gated delta net, Mamba-2 beside attention, and Mamba-2 alone.
VARIED = ["lfm2", "qwen3_5", "falcon_h1", "mamba2"]
# The others keep states of these kinds too: in float64, over histories and under every schedule by `make test-long`.
OTHERS_LONG = [kind if kind in VARIED else pytest.param(kind, marks=pytest.mark.long) for kind in KINDS]


# Experts of two tokens or more, beside recurrent layers.
EXPERTS = ["qwen3_next", "lfm2_moe", "granitemoehybrid experts", "nemotron_h experts"]
# Their outputs are normalised by head, which enlarges what the products before were rounded by: in float32 an unbatched
# forward of transformers itself is up to 2e-4 off what float64 gives, of logits of up to 5, and would be up to 6e-5 off
# if the delta rule itself were computed in float64.
DELTA_NETS = {"qwen3_5", "qwen3_next", "olmo_hybrid"}


class Book(test_hf_runner.Book):
    """Of rows in float32. The faults below are off by more than ten times as much."""

    def __init__(self, kind: str, model: PreTrainedModel | None = None) -> None:
        super().__init__(HfRunner(model or tiny(kind)))
        self.tolerance = 1e-4 if kind in DELTA_NETS else 3e-5


class WideBook(test_hf_runner.Book):
    """Of rows in float64, whose rounding is far below what any fault of theirs would be."""

    tolerance = 1e-10
    dtype = torch.float64


@torch.inference_mode()
def logits(model: PreTrainedModel, text: list[int]) -> torch.Tensor:
    return model(input_ids=torch.tensor([text]), use_cache=False).logits[0]


@contextmanager
def in_float64() -> Iterator[None]:
    """What transformers computes in float32, whatever a model's type is, it computes in float64."""
    narrow = torch.float32
    with ExitStack() as patches:
        for name in ("float32", "float"):
            patches.enter_context(mock.patch.object(torch, name, torch.float64))
        patches.enter_context(mock.patch.object(torch.Tensor, "float", torch.Tensor.double))
        patches.callback(torch.set_default_dtype, narrow)
        torch.set_default_dtype(torch.float64)
        yield


@pytest.mark.parametrize("kind", [*KINDS, *EXPERTS[2:]])
def test_ragged_batches_and_rollback_give_the_logits_of_an_unbatched_forward(kind: str) -> None:
    play_and_go_on(Book(kind), random.Random(kind))


@pytest.mark.parametrize("kind", OTHERS_LONG)
def test_in_float64_they_give_all_its_digits(kind: str) -> None:
    model = tiny(kind).double()
    # Grouped products of experts know no float64.
    model.config._experts_implementation = "eager"
    with in_float64():
        play_and_go_on(WideBook(HfRunner(model)), random.Random(kind))


@pytest.mark.parametrize("kind", [*KINDS, *EXPERTS[2:]])
def test_the_probe_lets_them_pass(kind: str) -> None:
    check_supported(kind, tiny(kind))


ROUND = st.tuples(st.integers(1, 6), st.integers(0, 6))
HISTORIES = st.sampled_from([1, 3, 8]).flatmap(
    lambda num_slots: st.lists(st.lists(ROUND, min_size=num_slots, max_size=num_slots), min_size=2, max_size=6)
)


@cache
def in_both(kind: str) -> tuple[HfRunner, PreTrainedModel]:
    """A runner in float32, and its model in float64."""
    wide = tiny(kind).double()
    wide.config._experts_implementation = "eager"
    return HfRunner(tiny(kind)), wide


def played(
    runner: HfRunner, histories: list[list[tuple[int, int]]], rng: random.Random
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Of each sequence and round, its text and the rows of the tokens drafted. histories: by round and sequence, how
    many tokens are drafted and how many of them, at most, rejected."""
    texts = {runner.open(): words(rng, rng.randint(1, 50)) for _ in histories[0]}
    runner.feed([Feed(slot, text, 1) for slot, text in texts.items()])
    for rounds in histories:
        drafts = [words(rng, drafted) for drafted, _ in rounds]
        rows = runner.feed([Feed(slot, draft, len(draft)) for slot, draft in zip(texts, drafts, strict=True)])
        for (slot, text), draft, own, (_, rejected) in zip(texts.items(), drafts, rows, rounds, strict=True):
            text += draft
            yield [*text], own
            del text[len(text) - min(len(draft), rejected) :]
            runner.trim(slot, len(text))
    for slot in texts:
        runner.close(slot)


def fed_alone(runner: HfRunner, text: list[int], count: int) -> torch.Tensor:
    """The last rows of a text that is fed whole, and alone."""
    slot = runner.open()
    (rows,) = runner.feed([Feed(slot, text, count)])
    runner.close(slot)
    return rows


@pytest.mark.parametrize("kind", OTHERS_LONG)
@settings(max_examples=examples(2), deadline=None)
@given(histories=HISTORIES, rng=st.randoms(use_true_random=False))
def test_any_history_of_drafts_and_rejections_gives_the_rows_of_the_text_to_five_digits(
    kind: str, histories: list[list[tuple[int, int]]], rng: random.Random
) -> None:
    """Of the largest logit; and of those in float64 too, but where transformers' own are farther from them."""
    runner, wide = in_both(kind)
    ours, theirs = [0.0], [0.0]
    for text, rows in played(runner, histories, rng):
        count = len(rows)
        with in_float64():
            exact = logits(wide, text)[-count:]
        allowed = 1e-5 * float(exact.abs().max())
        torch.testing.assert_close(rows, fed_alone(runner, text, count), atol=allowed, rtol=0)
        for errors, found in ((ours, rows), (theirs, logits(runner.model, text)[-count:])):
            errors.append(float((found - exact).abs().max()) / allowed)
    assert max(ours) <= max(1, 2 * max(theirs))


@pytest.mark.parametrize("width", [24, 64, 100])
def test_a_block_of_delta_nets_is_cut_into_chunks_that_round_less(width: int) -> None:
    torch.manual_seed(0)
    chunk, step = modeling_qwen3_5.torch_chunk_gated_delta_rule, modeling_qwen3_5.torch_recurrent_gated_delta_rule
    query, key, value = torch.randn(3, 1, width, 2, 8)
    inputs = [key, value, -8 * torch.rand(1, width, 2), torch.rand(1, width, 2)]
    state, options = torch.randn(1, 2, 8, 8), {"use_qk_l2norm_in_kernel": True}
    with in_float64():
        wide = [each.double() for each in inputs]
        exact, _ = DeltaRule(step, step, query.double(), wide, **options).run(wide, query.double(), state.double())
    output, _ = DeltaRule(chunk, step, query, inputs, **options).run(inputs, query, state)
    key, value, decay, rate = inputs
    usual, _ = chunk(query, key, value, g=decay, beta=rate, initial_state=state, **options)
    assert (output - exact).abs().max() < 0.6 * (usual - exact).abs().max()


@pytest.mark.parametrize("kind", VARIED)
def test_drafts_that_are_fed_one_by_one_are_taken_back_at_once(kind: str) -> None:
    book, rng = Book(kind), random.Random(0)
    slots = [book.open(), book.open()]
    book.feed((slots[0], words(rng, 70), 2), (slots[1], words(rng, 3), 1))
    for drafted in (4, 16):
        for _ in range(drafted):
            book.feed(*((slot, words(rng, 1), 1) for slot in slots))
        book.trim(slots[0], slots[0].length - drafted)
        book.trim(slots[1], slots[1].length - drafted // 2)


def test_only_a_rollback_behind_the_snapshot_feeds_the_text_again() -> None:
    book, rng = Book("qwen3_5"), random.Random(0)
    slot = book.open()
    book.feed((slot, words(rng, 90), 1))
    ledger = book.runner._cache.ledger
    with mock.patch.object(ledger, "plan", wraps=ledger.plan) as plan:
        for kept, start in ((90 - CAPACITY, 90 - CAPACITY), (90 - CAPACITY - 1, 0), (80, 80)):
            book.trim(slot, kept)
            book.feed((slot, words(rng, 90 - kept), 1))
            batch = plan.call_args.args[0]
            assert (batch.starts, batch.counts) == ([start], [90 - start])


@pytest.mark.parametrize("kind", VARIED)
def test_what_is_settled_is_not_kept(kind: str) -> None:
    runner, rng = HfRunner(tiny(kind)), random.Random(0)
    slot, held = runner.open(), runner._cache.ledger._held
    text = words(rng, 100)
    runner.feed([Feed(slot, text[:90], 1, settled=95)])
    assert held[slot.index][:2] == (89, 90)
    # Drafts behind what is settled, one by one, are all that a rollback may take back.
    for draft in words(rng, 9):
        runner.feed([Feed(slot, [draft], 1, settled=90)])
    assert held[slot.index][:2] == (90, 99)
    runner.trim(slot, 90)
    (rows,) = runner.feed([Feed(slot, text[90:], 10, settled=91)])
    assert held[slot.index][:2] == (90, 100)
    torch.testing.assert_close(rows, plain(runner, text)[90:], atol=1e-4, rtol=0)


def test_a_pass_that_raises_half_way_has_changed_nothing() -> None:
    book, rng = Book("qwen3_5"), random.Random(0)
    slots = [book.open(), book.open()]
    book.feed(*((slot, words(rng, 5), 1) for slot in slots))
    # Recurrent layers have moved on by then.
    with mock.patch.object(book.runner.model.lm_head, "forward", side_effect=RuntimeError), pytest.raises(RuntimeError):
        book.runner.feed([Feed(slot, [1, 2], 1) for slot in slots])
    assert [slot.length for slot in slots] == [5, 5]
    book.feed(*((slot, words(rng, 2), 2) for slot in slots))


def rows_beside(
    runner: HfRunner, histories: list[list[tuple[int, int]]], neighbours: random.Random, *, is_rejected: bool
) -> list[torch.Tensor]:
    """Rows of the first sequence, which is the longest: attention rounds by how many keys a pass reads. neighbours:
    draws the tokens of the others, which are rejected or not."""
    own = random.Random(0)
    slots = [runner.open() for _ in histories[0]]

    def feed(counts: list[int]) -> torch.Tensor:
        tokens = [words(neighbours if i else own, count) for i, count in enumerate(counts)]
        return runner.feed([Feed(slot, own, len(own)) for slot, own in zip(slots, tokens, strict=True)])[0]

    rows = [feed([80, *(own.randint(1, 30) for _ in slots[1:])])]
    for rounds in histories:
        rows.append(feed([drafted for drafted, _ in rounds]))
        for i, (slot, (drafted, rejected)) in enumerate(zip(slots, rounds, strict=True)):
            if i == 0 or is_rejected:
                runner.trim(slot, slot.length - min(drafted, rejected))
    for slot in slots:
        runner.close(slot)
    return rows


@pytest.mark.parametrize("kind", ["qwen3_5", "mamba2"])
def test_how_much_of_a_neighbour_stood_changes_no_bit(kind: str) -> None:
    runner, _ = in_both(kind)
    one, two = (
        rows_beside(runner, [[(6, 5), (6, rejected)]] * 4, random.Random(1), is_rejected=True) for rejected in (5, 1)
    )
    assert all(torch.equal(*pair) for pair in zip(one, two, strict=True))


@pytest.mark.parametrize("kind", [*KINDS, *EXPERTS[2:]])
@settings(max_examples=examples(4), deadline=None)
@given(histories=HISTORIES, seed=st.integers(0, 99))
def test_a_neighbours_tokens_and_rejections_change_no_bit(
    kind: str, histories: list[list[tuple[int, int]]], seed: int
) -> None:
    """Of passes whose longest text is as long."""
    runner, _ = in_both(kind)
    expected = rows_beside(runner, histories, random.Random(100), is_rejected=False)
    for own, found in zip(expected, rows_beside(runner, histories, random.Random(seed), is_rejected=True), strict=True):
        assert torch.equal(own, found)


@pytest.mark.parametrize("kind", KINDS)
def test_nan_stays_in_its_slot(kind: str) -> None:
    book, rng = Book(kind), random.Random(0)
    spoiled, other = book.runner.open(), book.open()
    embedding = book.runner.model.get_input_embeddings()
    whole = embedding.forward

    def with_nan(ids: torch.Tensor) -> torch.Tensor:
        return whole(ids).masked_fill((ids == 7)[..., None], float("nan"))

    with mock.patch.object(embedding, "forward", with_nan):
        rows = book.runner.feed([Feed(spoiled, [3, 7, 5], 1), Feed(other, [4] * 9, 1)])
        assert rows[0].isnan().all()
        book.texts[other] = [4] * 9
        rows = book.runner.feed([Feed(spoiled, [3], 1)])
        assert rows[0].isnan().all()
    book.feed((other, words(rng, 3), 3))
    book.runner.close(spoiled)
    again = book.open()
    assert again.index == spoiled.index
    book.feed((again, words(rng, 2), 1), (other, words(rng, 4), 4))


def test_the_cache_counts_states_and_snapshots() -> None:
    runner = HfRunner(tiny("mamba2"))
    runner.feed([Feed(runner.open(), [1, 2], 1)])
    state, channels = 4 * 16 * 8, 64 + 2 * 2 * 8
    # x, dt and B of each token behind the snapshot, and what the convolution was given there and before.
    kept = (64 + 4 + 2 * 8) + channels
    assert runner.cache_bytes == 2 * 4 * (2 * state + CAPACITY * kept + 3 * channels)


def test_what_its_states_take_for_each_sequence_must_fit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    members = [HfRunner(tiny("mamba2")), HfRunner(tiny("llama"))]
    size = members[0].slot_bytes
    assert size == members[0].cache_bytes > 0
    assert members[1].slot_bytes == 0
    for free, max_sequences, is_said in ((size, 1, False), (3 * size, 3, False), (3 * size + 1, 4, True)):
        monkeypatch.setattr(memory, "free_bytes", lambda device, free=free: free)
        Ensemble(members, max_sequences=max_sequences)
        assert ("of which 3 fit into what is free; set max_sequences to no more" in caplog.text) is is_said
    monkeypatch.setattr(memory, "free_bytes", lambda device: size - 1)
    with pytest.raises(DoesNotFit, match=r"need 0 MiB on cpu for the recurrent states of each sequence \(member 0\)"):
        Ensemble(members)


@pytest.mark.parametrize("kind", VARIED)
def test_it_keeps_the_protocol(kind: str) -> None:
    assert check_runner(HfRunner(tiny(kind))) > 0


@pytest.mark.parametrize(("kind", "count"), [("qwen3_5", 1), ("nemotron_h", 2), ("mamba2", 1), ("lfm2", 1)])
def test_the_first_layers_are_decoded(kind: str, count: int) -> None:
    play(Book(kind, first_layers(tiny(kind), count)), random.Random(0), num_slots=3, num_turns=3)


@pytest.mark.parametrize(
    ("kind", "modules"),
    [
        ("lfm2", "all-linear"),
        ("qwen3_5", "all-linear"),
        ("falcon_h1", ["in_proj", "q_proj", "down_proj"]),
        ("mamba2", ["in_proj"]),
    ],
)
def test_adapters_stand_on_them(kind: str, modules: str | list[str], tmp_path: Path) -> None:
    base_folder = saved(tmp_path / "base", kind)
    merged = adapted(tmp_path / "adapter", base_folder, target_modules=modules)
    runner, rng = load(str(tmp_path / "adapter"), LoadOptions(device="cpu")), random.Random(0)
    base = runner.served_by
    texts = {runner.open(): (merged, words(rng, 9)), base.open(): (base.model, words(rng, 4))}
    base.feed([Feed(slot, text, 1) for slot, (_, text) in texts.items()])
    for num_rejected in (2, 1, 0):
        for slot, (_, text) in texts.items():
            text += words(rng, 3 + slot.index)
        rows = base.feed([Feed(slot, text[slot.length :], 3) for slot, (_, text) in texts.items()])
        for (slot, (model, text)), own in zip(texts.items(), rows, strict=True):
            torch.testing.assert_close(own, logits(model, text)[-3:], atol=2e-4, rtol=0)
            base.trim(slot, slot.length - num_rejected)
            del text[slot.length :]


PLANS = {
    "fixed": {"schedule": "fixed", "gamma": 3},
    "alternate": {"schedule": "alternate", "gamma": 2},
    "cascade": {"schedule": "cascade", "gamma": (2, 3)},
    "auto": {"schedule": "auto"},
}


@pytest.fixture(scope="module")
def mixed() -> list[HfRunner]:
    """Two hybrids and an attention model, and a drafter: the first one's first layer."""
    members = [HfRunner(tiny("qwen3_5", seed=1)), HfRunner(tiny("llama", seed=2)), HfRunner(tiny("falcon_h1", seed=3))]
    return [*members, HfRunner(first_layers(members[0].model, 1))]


def texts(
    runners: list[HfRunner], plan: dict[str, object], batch: int, verification: str, max_tokens: int = 20
) -> list[tuple[int, ...]]:
    """Texts by all runners but the last, which drafts: at temperature 1 where coupled, else greedy."""
    plan = plan if plan["schedule"] in ("plain", "alternate") else {**plan, "proposer": runners[-1]}
    ensemble = Ensemble(runners[:-1], verification=verification, keep_measurements=False, **plan)
    temperature = 1.0 if verification == "coupled" else 0.0
    params = SamplingParams(temperature=temperature, seed=5, max_tokens=max_tokens, ignore_eos=True)
    prompts = [[2 + i, 3, 4 + i] * (1 + i) for i in range(batch)]
    return [tuple(result.token_ids) for result in ensemble.generate(prompts, params)]


def test_auto_drafts_no_more_than_can_be_taken_back(mixed: list[HfRunner]) -> None:
    with watched_losses() as is_lost:
        texts(mixed, {"schedule": "fixed", "gamma": MOST_DRAFTED}, 3, "token")
    assert is_lost
    assert not any(is_lost)


@pytest.mark.parametrize("verification", ["token", "coupled"])
def test_every_schedule_writes_the_text_of_plain(verification: str, mixed: list[HfRunner]) -> None:
    expected = texts(mixed, {"schedule": "plain"}, 8, verification)
    assert len(set(expected)) == 8
    for plan, batch in zip(PLANS.values(), (1, 3, 8, 3), strict=True):
        assert texts(mixed, plan, batch, verification) == expected[:batch]


@pytest.mark.larger
@pytest.mark.parametrize("kind", OTHERS_LONG)
def test_every_schedule_writes_the_text_of_plain_with_each_kind(kind: str) -> None:
    runners = [HfRunner(tiny(kind, seed=seed)) for seed in range(3)]
    batches, max_tokens = ((1, 3, 8), 100) if is_fuzzing() else ((3,), 10)
    for batch, (index, verification) in itertools.product(batches, enumerate(("token", "coupled"))):
        expected = texts(runners, {"schedule": "plain"}, batch, verification, max_tokens)
        # Each plan is verified in one way with this kind, and in the other with the next.
        first = (index + [*KINDS].index(kind)) % 2
        for plan in [*PLANS.values()] if is_fuzzing() else [*PLANS.values()][first::2]:
            assert texts(runners, plan, batch, verification, max_tokens) == expected


@pytest.mark.parametrize(
    ("plan", "num_rounds"),
    [
        (PLANS["fixed"], 2),
        (PLANS["alternate"], 3),
        (PLANS["cascade"], 4),
        (PLANS["auto"], 1),
        ({"schedule": "mixture"}, 2),
        ({"schedule": "mixture", "gamma": 3}, 3),
    ],
)
def test_a_sequence_that_is_aborted_leaves_its_neighbours_and_the_next_in_its_slots_alone(
    plan: dict[str, object], num_rounds: int, mixed: list[HfRunner]
) -> None:
    has_drafter = plan["schedule"] != "alternate" and plan != {"schedule": "mixture"}
    ensemble = Ensemble(mixed[:-1], proposer=mixed[-1] if has_drafter else None, keep_measurements=False, **plan)
    params = SamplingParams(seed=5, max_tokens=12, ignore_eos=True)
    prompts = [[2, 3, 4], [5, 6] * 9, [7, 3]]
    alone = [ensemble.generate([prompt], params)[0].token_ids for prompt in prompts]
    engine = ensemble.engine()
    stays, leaves = (engine.add(ensemble.request(prompt, params)) for prompt in prompts[:2])
    for _ in range(num_rounds):
        engine.step()
    slots = [lane.slot.index for lane in engine.abort(leaves).sheet.lanes]
    joins = engine.add(ensemble.request(prompts[2], params))
    assert [lane.slot.index for lane in engine._live[joins].sheet.lanes] == slots
    written = {}
    while engine.num_live:
        written |= {event.id: event.sheet.output for event in engine.step() if event.result is not None}
    assert written == {stays: alone[0], joins: alone[2]}


def test_a_mixed_ensemble_passes_the_self_test(mixed: list[HfRunner]) -> None:
    hybrid, attention, _, drafter = mixed
    ensemble = Ensemble([hybrid, attention], schedule="fixed", gamma=3, proposer=drafter, keep_measurements=False)
    effort = Effort(max_tokens=8, num_samples=8, num_sampled_prompts=1)
    checks = list(self_test(ensemble, [[2, 3, 4]], effort))
    assert {check.name for check in checks} == {"coupled text", "greedy text", "sampled text"}
    assert [check for check in checks if not check.is_passed] == []


def test_text_and_image_folders_are_decoded(tmp_path: Path) -> None:
    text = {
        "model_type": "qwen3_5_text", "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 4,
        "linear_key_head_dim": 8, "linear_value_head_dim": 8, "eos_token_id": 1, "pad_token_id": 0,
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 32}
    config = AutoConfig.for_model("qwen3_5", text_config=text, vision_config=vision)
    torch.manual_seed(0)
    whole = AutoModelForImageTextToText.from_config(config).eval()
    whole.save_pretrained(tmp_path)
    answer = whole.generate(torch.tensor([[3, 4, 5]]), max_new_tokens=20, do_sample=False)[0, 3:].tolist()
    (result,) = Ensemble([str(tmp_path)], schedule="fixed", proposer="lookup", device="cpu").generate(
        [3, 4, 5], SamplingParams(temperature=0, max_tokens=20)
    )
    assert list(result.token_ids) == answer


def test_fixed_shapes_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedModel, match=r"\(qwen3_5_text\) keeps a recurrent state.*set graphs to auto or false"
    ):
        load(str(saved(tmp_path, "qwen3_5")), LoadOptions(device="cpu", graphs="shapes"))


def test_invariant_numerics_are_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"recurrent state.*numerics: invariant"):
        load(str(saved(tmp_path, "qwen3_5")), LoadOptions(device="cpu", numerics="invariant"))


# Faults. Each is put in, and the logits must be others.


def padding_that_decays() -> AbstractContextManager[object]:
    run = RecurrentState.run

    def faulty(self: RecurrentState, plan: StatePlan, update: object) -> torch.Tensor:
        # The convolution before has computed it.
        plan.__dict__.pop("padding", None)
        with mock.patch.object(StatePlan, "padding", None):
            return run(self, plan, update)

    return mock.patch.object(RecurrentState, "run", faulty)


def window_one_off() -> AbstractContextManager[object]:
    before = History.before

    def faulty(self: History, plan: StatePlan) -> torch.Tensor:
        return before(self, plan).roll(1, dims=1)

    return mock.patch.object(History, "before", faulty)


def windows_at_the_batchs_end() -> AbstractContextManager[object]:
    return mock.patch("cospec.runner.hf.states._moved_to_tokens", lambda values, lead, num_padding: values)


FAULTS = [not_restored, restored_in_place, padding_that_decays, window_one_off, windows_at_the_batchs_end]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ["qwen3_5", "mamba2"])
def test_the_probe_notices(kind: str, fault: Callable[[], AbstractContextManager[object]]) -> None:
    model = tiny(kind)
    assert distance(model) < 1e-5
    with fault(), pytest.raises(UnsupportedModel, match="gives other logits in ragged batches with rollback"):
        check_supported(kind, model)
