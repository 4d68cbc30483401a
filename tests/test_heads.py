"""A drafting head proposes by the members' hidden states and the tokens behind them, and never changes a text's law."""

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from cospec import (
    CospecError,
    DoesNotFit,
    Ensemble,
    InvalidEnsemble,
    LoadOptions,
    Member,
    Mixture,
    SamplingParams,
    demo,
    toy,
)
from cospec.cli.models import BundledModel
from cospec.identity import identity
from cospec.runner import Feed
from cospec.runner.hf import load, storages
from cospec.runner.hf.heads import MOST_STEPS, HeadRunner
from cospec.runner.padded import padded
from cospec.runner.pool import one_pool
from cospec.runner.protocol import Source, reads_states
from cospec.testing import check_runner
from cospec.vllm.export import Export

from .adapters import adapted
from .heads import describe, head_in, proposed, read_by_head
from .hub import MAIN, Hub, serving, use
from .laws.chi_square import is_from
from .models import saved
from .properties import examples, longer

SIZE = 24
KNOWN = (19, 2, 3, 5, 7, 8, 11, 13, 17, 23)
OPTIONS = LoadOptions(dtype="float32")
NEAR = 1e-3


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A base with an adapter, a head for both, and another model of the same hidden size."""
    return World(tmp_path_factory.mktemp("heads"))


class World:
    def __init__(self, folder):
        self.base, self.adapter, self.other = (folder / name for name in ("base", "adapter", "other"))
        saved(self.base, vocab_size=SIZE)
        saved(self.other, vocab_size=SIZE, seed=5)
        self.models = {"adapter": adapted(self.adapter, self.base)}
        for name, path in {"base": self.base, "other": self.other}.items():
            self.models[name] = AutoModelForCausalLM.from_pretrained(path)
        self.folder = folder / "head"
        self.head = head_in(self.folder, "../base", tokens=KNOWN)
        self.embedding = self.models["base"].get_input_embeddings().weight.detach()

    def paths(self, *names):
        return [str(getattr(self, name)) for name in names]

    def ensemble(self, *names, combine=None, **settings):
        members = [Member(model=path, name=name) for path, name in zip(self.paths(*names), names, strict=True)]
        settings = {"proposer": str(self.folder), "dtype": "float32", "keep_measurements": False} | settings
        return Ensemble(members, combine or Mixture([0.4, 0.6]), **settings)

    def row(self, names, texts, at, tokens):
        """The head's row behind `tokens`, of which the first `at` + 1 are each member's own text's last."""
        hidden = torch.stack(
            [read_by_head(self.models[name], text)[-1] for name, text in zip(names, texts, strict=True)]
        )
        row = torch.full((SIZE,), -math.inf)
        row[list(KNOWN)] = proposed(self.head, self.embedding, hidden, tokens[at + 1 :])
        return row


@pytest.fixture(scope="module")
def loaded(world):
    with one_pool():
        return [load(path, OPTIONS) for path in [*world.paths("base", "adapter", "other"), str(world.folder)]]


class Play:
    """The slots of a sequence, moved as an engine moves them: each holds a prompt of its own, then a part of the same
    tokens. The rows of the head are those of the last states that all members have and that it may read."""

    names = ("adapter", "other")

    def __init__(self, world, loaded, seed):
        self.world, self.rng = world, random.Random(seed)
        self.members, self.head = (loaded[1], loaded[2]), loaded[3]
        self.prompts = [[self.rng.randrange(SIZE) for _ in range(self.rng.randrange(2, 7))] for _ in range(2)]
        self.prompt = [self.rng.randrange(SIZE) for _ in range(self.rng.randrange(1, 7))]
        self.tokens: list[int] = []
        self.slots = [member.open() for member in self.members]
        self.sources = [
            Source(member, slot, len(prompt) - len(self.prompt))
            for member, slot, prompt in zip(self.members, self.slots, self.prompts, strict=True)
        ]
        self.slot = self.attached()
        # Tokens from the members' states to each row that was checked; None for a row without such.
        self.steps: set[int | None] = set()

    def attached(self):
        slot = self.head.open()
        self.head.attach(slot, self.sources)
        return slot

    def go_on(self):
        members = [lambda: self.feed_member(0), lambda: self.feed_member(1)]
        moves = [self.draft, *members, self.feed_head, self.roll_back, self.copy]
        for move in self.rng.choices(moves, (6, 3, 3, 6, 2, 1), k=60):
            move()
        self.close()

    def close(self):
        for member, slot in zip(self.members, self.slots, strict=True):
            member.close(slot)
        self.head.close(self.slot)

    def texts(self):
        return [[*prompt, *self.tokens] for prompt in self.prompts]

    def draft(self):
        self.tokens.append(self.rng.randrange(SIZE))

    def feed_member(self, i):
        member, slot, text = self.members[i], self.slots[i], self.texts()[i]
        unseen = text[slot.length :]
        if not unseen:
            return
        size = self.rng.choice((len(unseen), self.rng.randrange(1, len(unseen) + 1)))
        settled = self.rng.choice((None, slot.length + self.rng.randrange(size + 1)))
        getattr(member, "served_by", member).feed([Feed(slot, unseen[:size], self.rng.randrange(size + 1), settled)])

    def feed_head(self):
        text = [*self.prompt, *self.tokens]
        unseen = text[self.slot.length :]
        if not unseen:
            return
        size = self.rng.choice((len(unseen), self.rng.randrange(1, len(unseen) + 1)))
        rows = self.rng.randrange(size + 1)
        (given,) = self.head.feed([Feed(self.slot, unseen[:size], rows)])
        assert given.shape == (rows, SIZE)
        for row, length in zip(given, range(self.slot.length - rows + 1, self.slot.length + 1), strict=True):
            torch.testing.assert_close(row, self.expected(length), rtol=NEAR, atol=NEAR)
        if rows:
            fresh = self.attached()
            (again,) = self.head.feed([Feed(fresh, text[: self.slot.length], rows)])
            torch.testing.assert_close(given, again, rtol=NEAR, atol=NEAR)

    def expected(self, length):
        """The row behind so many of the head's tokens, by transformers' hidden states."""
        at = self.last_common(length)
        self.steps.add(None if at is None else length - 1 - at)
        if at is None:
            return torch.full((SIZE,), -math.inf)
        texts = [text[: at + source.lead + 1] for text, source in zip(self.texts(), self.sources, strict=True)]
        return self.world.row(self.names, texts, at, [*self.prompt, *self.tokens][:length])

    def last_common(self, length):
        """The last token before the last one behind which all members keep a state."""
        kept = [slot.kept.stretches for slot in self.slots]
        common = {
            at
            for at in range(max(0, length - 1 - MOST_STEPS), length - 1)
            if all(
                any(start <= at + source.lead < start + len(states) for start, states in own)
                for own, source in zip(kept, self.sources, strict=True)
            )
        }
        return max(common, default=None)

    def roll_back(self):
        length = self.rng.randrange(max(0, len(self.tokens) - 4), len(self.tokens) + 1)
        del self.tokens[length:]
        lanes = [*zip(self.members, self.slots, self.prompts, strict=True), (self.head, self.slot, self.prompt)]
        for runner, slot, prompt in lanes:
            if slot.length > len(prompt) + length:
                runner.trim(slot, len(prompt) + length)

    def copy(self):
        """The head's slot goes on as a copy of it."""
        length, other = self.rng.randrange(self.slot.length + 1), self.attached()
        self.head.copy(self.slot, other, length)
        assert other.length == length
        self.slot = other


@pytest.mark.parametrize("seed", range(examples(30)))
def test_rows_follow_from_the_last_states_that_all_members_have(seed, world, loaded):
    # Whatever was fed, taken back or copied before.
    Play(world, loaded, seed).go_on()


def test_the_play_meets_rows_with_states_near_and_far(world, loaded):
    steps = set()
    for seed in range(12):
        play = Play(world, loaded, seed)
        play.go_on()
        steps |= play.steps
    assert {None, 1, 2, 3, 4} <= steps


def test_a_draft_that_is_taken_back_before_members_were_fed_it_is_forgotten(world, loaded):
    play = Play(world, loaded, seed=2)
    text = [5, 6, 7]
    play.tokens = text[:2]
    for i, (member, slot) in enumerate(zip(play.members, play.slots, strict=True)):
        getattr(member, "served_by", member).feed([Feed(slot, play.texts()[i], 1)])
    for last in (3, 9):
        play.tokens = [*text, last]
        unseen = [*play.prompt, *play.tokens][play.slot.length :]
        (rows,) = play.head.feed([Feed(play.slot, unseen, 1)])
        torch.testing.assert_close(rows[0], play.expected(play.slot.length), rtol=NEAR, atol=NEAR)
        play.head.trim(play.slot, play.slot.length - 1)
    assert play.steps == {2}
    play.close()


def test_a_head_keeps_the_protocol_of_runners(loaded):
    assert check_runner(loaded[3]) > 0


def test_a_batch_of_several_sequences_has_the_rows_of_each(world, loaded):
    plays = [Play(world, loaded, seed) for seed in range(3)]
    for play in plays:
        for _ in range(6):
            play.draft()
        for i in (0, 1):
            member, slot = play.members[i], play.slots[i]
            getattr(member, "served_by", member).feed([Feed(slot, play.texts()[i][:-2], 1)])
    feeds = [Feed(play.slot, [*play.prompt, *play.tokens], 1 + i) for i, play in enumerate(plays)]
    for play, rows in zip(plays, plays[0].head.feed(feeds), strict=True):
        for row, length in zip(rows, range(play.slot.length - len(rows) + 1, play.slot.length + 1), strict=True):
            torch.testing.assert_close(row, play.expected(length), rtol=NEAR, atol=NEAR)
        play.close()


def test_a_feed_that_raises_leaves_slots_as_they_were(world, loaded, monkeypatch):
    head = loaded[3]
    slots = [head.open(), head.open()]
    head.feed([Feed(slot, [3, 4], 1) for slot in slots])
    (before,) = head.feed([Feed(slots[0], [5], 1)])
    head.trim(slots[0], 2)
    with monkeypatch.context() as patched:
        patched.setattr(head, "_rows", lambda wanted: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            head.feed([Feed(slots[0], [6, 7], 1), Feed(slots[1], [8], 1)])
    assert [slot.length for slot in slots] == [2, 2]
    assert torch.equal(head.feed([Feed(slots[0], [5], 1)])[0], before)


# In an engine.

PROMPTS = [[3, 1, 4, 1, 5], [2, 7], [9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4, 3]]


class Watched(HeadRunner):
    """Notes what it is fed, and where the members stand then."""

    @classmethod
    def of(cls, head):
        head.__class__ = cls
        head.seen, head.own = [], {}
        return head

    def attach(self, slot, sources):
        super().attach(slot, sources)
        self.own[slot] = [*sources]

    def feed(self, batch):
        rows = super().feed(batch)
        for feed, own in zip(batch, rows, strict=True):
            lengths = [source.slot.length for source in self.own[feed.slot]]
            self.seen += [(self.own[feed.slot], lengths, [*feed.slot.tokens], row) for row in own[-1:]]
        return rows


@pytest.fixture
def watched(world):
    made = []

    def make(*names, **settings):
        ensemble = world.ensemble(*names, **settings)
        made.append(Watched.of(ensemble.runners[-1]))
        return ensemble

    yield make
    for head in made:
        head.__class__ = HeadRunner


def check_rows(world, names, head, prompts):
    """Each row that the head gave follows from the members' states behind the last token that they were fed; prompts:
    of each member, by the head's own."""
    places = set()
    for sources, lengths, tokens, row in head.seen:
        own = next(given for given in prompts if tokens[: len(given[-1])] == list(given[-1]))
        position = len(tokens) - len(own[-1])
        if position == 0:
            assert row.isneginf().all(), "nothing is known before members were fed"
            continue
        (settled,) = {length - len(prompt) for length, prompt in zip(lengths, own, strict=False)}
        assert [source.lead for source in sources] == [len(prompt) - len(own[-1]) for prompt in own[:-1]]
        output = tokens[len(own[-1]) :]
        texts = [[*prompt, *output[:settled]] for prompt in own[:-1]]
        at = len(own[-1]) + settled - 1
        torch.testing.assert_close(row, world.row(names, texts, at, tokens), rtol=NEAR, atol=NEAR)
        places.add(len(tokens) - 1 - at)
    return places


@pytest.mark.parametrize("gamma", [1, 3, 5])
@pytest.mark.parametrize("names", [("base", "adapter"), ("adapter", "base"), ("adapter", "other")])
def test_drafts_begin_with_what_members_made_of_the_last_token_they_were_fed(gamma, names, world, watched):
    ensemble = watched(*names, schedule="fixed", gamma=gamma)
    results = ensemble.generate(PROMPTS, SamplingParams(max_tokens=20, temperature=0, ignore_eos=True))
    assert all(result.error is None and len(result.token_ids) == 20 for result in results)
    assert sum(result.drafters["head"].calls for result in results) > 20
    places = check_rows(world, names, ensemble.runners[-1], [[prompt] * 3 for prompt in PROMPTS])
    assert places == {*range(1, gamma + 1)}


def test_members_with_prompts_of_their_own_stand_at_other_positions(world, watched):
    own = [5, 6, 7, 8, 9, 10, 11]
    members = [Member(model=str(world.base), name="base"), Member(model=str(world.adapter), name="adapter", prompt=own)]
    ensemble = Ensemble(
        members, proposer=str(world.folder), schedule="fixed", gamma=2, dtype="float32", keep_measurements=False
    )
    head = Watched.of(ensemble.runners[-1])
    ensemble.generate([PROMPTS[0]], SamplingParams(max_tokens=16, temperature=0, ignore_eos=True))
    assert {source.lead for sources, *_ in head.seen for source in sources} == {0, 2}
    assert check_rows(world, ("base", "adapter"), head, [[PROMPTS[0], own, PROMPTS[0]]]) == {1, 2}


@pytest.mark.parametrize("names", [("base", "adapter"), ("adapter", "other")])
def test_members_that_are_fed_in_turn_have_states_in_common(names, world):
    ensemble = world.ensemble(*names, schedule="mixture", gamma=2)
    (result,) = ensemble.generate([PROMPTS[0]], SamplingParams(max_tokens=40, seed=1, ignore_eos=True))
    assert result.proposers["head"].proposed > 20


def test_samples_that_share_a_prompt_read_their_own_members(world, watched):
    ensemble = watched("base", "adapter", schedule="fixed", gamma=2)
    long = PROMPTS[2]
    results = ensemble.generate([long], SamplingParams(max_tokens=12, n=3, seed=4, ignore_eos=True))
    assert len({tuple(result.token_ids) for result in results}) == 3
    assert check_rows(world, ("base", "adapter"), ensemble.runners[-1], [[long] * 3]) == {1, 2}


PLANS = [
    *(f"fixed {gamma}" for gamma in (1, 2, 3, 4, 5, "auto")),
    "cascade", "auto",
]  # fmt: skip


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("names", [("base", "adapter"), ("adapter", "other")])
def test_texts_are_those_of_plain_under_every_plan(plan, names, world):
    schedule, *gamma = plan.split()
    gammas = {"gamma": gamma[0] if gamma == ["auto"] else int(gamma[0])} if gamma else {}
    ensemble = world.ensemble(*names, verification="coupled", schedule=schedule, **gammas)
    plain = ensemble.with_plan(schedule="plain", gamma=None, proposer=None)
    for params in (
        SamplingParams(max_tokens=24, temperature=0, ignore_eos=True),
        SamplingParams(max_tokens=24, seed=3, n=2, ignore_eos=True),
    ):
        expected = [result.token_ids for result in plain.generate(PROMPTS, params)]
        assert [result.token_ids for result in ensemble.generate(PROMPTS, params)] == expected


def test_invariant_texts_are_those_of_plain_without_a_head(world):
    params = SamplingParams(max_tokens=24, seed=3, n=2, ignore_eos=True)
    settings = {"numerics": "invariant", "verification": "coupled"}
    ensemble = world.ensemble("base", "adapter", schedule="fixed", gamma=3, **settings)
    assert ensemble.is_invariant
    alone = world.ensemble("base", "adapter", schedule="plain", proposer=None, **settings)
    expected = [result.token_ids for result in alone.generate(PROMPTS, params)]
    assert [result.token_ids for result in ensemble.generate(PROMPTS, params)] == expected


@pytest.mark.larger
@pytest.mark.parametrize("verification", ["token", "block"])
def test_sampled_texts_follow_r(verification, world):
    ensemble = world.ensemble("base", "adapter", schedule="fixed", gamma=2, verification=verification)
    prompt, num_texts = PROMPTS[0], longer(600, 6_000)

    def r(tokens):
        with torch.inference_mode():
            ids = torch.tensor([[*prompt, *tokens]])
            p, q = (world.models[name](input_ids=ids).logits[0, -1].softmax(-1) for name in ("base", "adapter"))
        return (0.4 * p + 0.6 * q).tolist()

    first = r([])
    law = {(a, b, c): 0.0 for a in range(SIZE) for b in range(SIZE) for c in range(SIZE)}
    for a in range(SIZE):
        second = r([a])
        for b in range(SIZE):
            for c, third in enumerate(r([a, b])):
                law[a, b, c] = first[a] * second[b] * third
    params = SamplingParams(max_tokens=3, n=num_texts, ignore_eos=True)
    results = ensemble.generate([prompt], params)
    assert sum(sum(result.proposers["head"].accepted_at) for result in results if "head" in result.proposers) > 30
    assert is_from(law, [tuple(result.token_ids) for result in results])


# What is refused.


def refused(world, message, *names, **settings):
    with pytest.raises(CospecError, match=message):
        world.ensemble(*(names or ("base", "adapter")), **settings)


def test_a_head_is_refused_where_it_cannot_read_the_members(world, tmp_path, no_weights):
    refused(world, "reads the hidden states of 2 members, and this ensemble has 1", "base", combine=Mixture([1.0]))
    refused(
        world, "of 2 members, and this ensemble has 3", "base", "adapter", "other", combine=Mixture([0.2, 0.3, 0.5])
    )
    wide = saved(tmp_path / "wide", vocab_size=SIZE, hidden_size=48)
    with pytest.raises(InvalidEnsemble, match="hidden states of 32 numbers, and those of 'wide' have 48"):
        Ensemble([str(world.base), str(wide)], proposer=str(world.folder))


def test_a_head_is_no_member(world, no_weights):
    with pytest.raises(InvalidEnsemble, match="'head' is a drafting head, which reads members and is none"):
        Ensemble([str(world.base), str(world.folder)])


def test_a_head_is_refused_beside_a_runner_without_hidden_states(world, loaded):
    rows = toy.TableRunner(SIZE)
    for head in (str(world.folder), loaded[3]):
        with pytest.raises(InvalidEnsemble, match="'toy' is run by a TableRunner, which hands out none"):
            Ensemble([loaded[0], Member(model=rows, name="toy")], proposer=head)
    with pytest.raises(InvalidEnsemble, match="reads the hidden states of 2 members, and this ensemble has 1"):
        Ensemble([loaded[0]], proposer=loaded[3])


def test_a_head_is_refused_beside_a_member_that_llama_cpp_runs(world, no_weights, monkeypatch):
    monkeypatch.setattr(
        "cospec.members.with_backends",
        lambda members, drafters: (
            [replace(member, options=replace(member.options, backend="llama.cpp")) for member in members],
            [*drafters],
        ),
    )
    refused(world, "'base' is run by llama.cpp, which hands out none; .* set backend to transformers")


@pytest.fixture
def no_weights(monkeypatch):
    """Whatever reads weights fails."""
    monkeypatch.setattr("cospec.members.load_runner", lambda *_: pytest.fail("weights are read"))


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"head": 3}, "head of its cospec.json is 3; it must have members, hidden, width"),
        ({"head": {"members": 2, "hidden": 32}}, "must have members, hidden, width, each a whole number of at least 1"),
        ({"head": {"members": True, "hidden": 32, "width": 12}}, "each a whole number of at least 1"),
        ({"head": {"members": 2, "hidden": 32, "width": 0}}, "each a whole number of at least 1"),
        ({"vocabulary": None}, "has a head, and no vocabulary that this proposes among"),
        ({"vocabulary": [3, 3]}, "must be a list of token ids, each once"),
        ({"base": None}, "names no base, whose embedding it reads"),
        ({"base": 7}, "names no base, whose embedding it reads"),
        ({"acceptance": 2}, "acceptance of its cospec.json is 2"),
    ],
)
def test_a_broken_description_of_a_head_is_refused(own, message, world, tmp_path, no_weights):
    head_in(tmp_path / "head", str(world.base), tokens=KNOWN)
    describe(tmp_path / "head", **own)
    refused(world, message, proposer=str(tmp_path / "head"))


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"base": "../nowhere/at/all"}, "is a drafting head for '../nowhere/at/all', which is not to be had"),
        ({"base": "lookup"}, "is a drafting head for 'lookup', which is no model of transformers"),
        ({"vocabulary": [*KNOWN[:-1], SIZE]}, f"more than {SIZE} tokens, and its base has 32 and {SIZE}"),
        (
            {"vocabulary": [*KNOWN[:-1]]},
            "'head.weight' is .10, 32. in head.safetensors, and by its cospec.json should be .9, 32.",
        ),
        ({"head": {"members": 2, "hidden": 32, "width": 13}}, "'token.weight' is .24, 32. .* should be .26, 32."),
    ],
)
def test_a_head_that_does_not_fit_its_base_or_its_weights_is_refused(own, message, world, tmp_path):
    head_in(tmp_path / "head", str(world.base), tokens=KNOWN)
    describe(tmp_path / "head", **own)
    refused(world, message, proposer=str(tmp_path / "head"))


def test_a_head_without_weights_or_with_broken_ones_is_refused(world, tmp_path):
    head_in(tmp_path / "head", str(world.base), tokens=KNOWN)
    weights = tmp_path / "head" / "head.safetensors"
    weights.write_bytes(weights.read_bytes()[:300])
    refused(world, "truncated or no safetensors file", proposer=str(tmp_path / "head"))
    weights.unlink()
    refused(world, "is a drafting head, and has no head.safetensors", proposer=str(tmp_path / "head"))


@pytest.mark.parametrize("option", ["layers", "vocabulary"])
def test_options_of_models_are_refused_of_a_head(option, world, no_weights):
    proposer = Member(model=str(world.folder), options=LoadOptions(**{option: 2}))
    refused(world, f"is a drafting head, and {option} is a model's", proposer=proposer)


# Loading.


def test_a_head_stands_on_the_embedding_of_the_base_that_is_loaded_anyway(world, loaded):
    whole, adapter, _, head = loaded
    assert head._embed is whole.model.get_input_embeddings()
    assert adapter.served_by is whole
    assert (head.vocab_size, head.tokenizer, head.acceptance) == (SIZE, None, 0.5)
    assert head.vocabulary == KNOWN


def test_a_head_without_output_rows_of_its_own_takes_those_of_its_base(world, tmp_path):
    """In two bytes each."""
    head = head_in(tmp_path / "head", str(world.base), tokens=KNOWN)
    path = tmp_path / "head" / "head.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if name != "head.weight"}, path)
    runner = load(str(tmp_path / "head"), OPTIONS)
    weight = world.models["base"].lm_head.weight.detach()[list(KNOWN)].bfloat16()
    head.head.weight.data.copy_(weight)
    slot = runner.open()
    (row,) = runner.feed([Feed(slot, [3, 4], 1)])
    expected = proposed(head, world.embedding, torch.zeros(2, 32), [4])
    torch.testing.assert_close(row[0, list(KNOWN)], expected, rtol=NEAR, atol=NEAR)


def test_another_base_may_be_named(world):
    runner = load(str(world.folder), replace(OPTIONS, base=str(world.other)))
    assert torch.equal(
        runner._embed(torch.tensor([3])), world.models["other"].get_input_embeddings()(torch.tensor([3]))
    )


def test_a_head_s_files_and_its_base_s_are_part_of_what_results_depend_on(world, tmp_path):
    def drafter(folder):
        members = world.paths("base", "adapter")
        return identity({"members": members, "combine": Mixture([0.4, 0.6]), "proposer": str(folder)})["drafters"][0]

    before = drafter(world.folder)
    assert before["base"]
    assert before["files"]
    head_in(tmp_path / "head", str(world.base), tokens=KNOWN)
    assert drafter(tmp_path / "head")["base"] == before["base"]
    files = drafter(tmp_path / "head")["files"]
    head_in(tmp_path / "head", str(world.base), tokens=KNOWN, seed=1)
    assert drafter(tmp_path / "head")["files"] != files


def test_auto_begins_with_the_acceptance_that_a_head_s_folder_says(world):
    ensemble = world.ensemble("base", "adapter")
    planner = ensemble.planner_for(SamplingParams())
    assert planner.beliefs.acceptance(2, None) == 0.5


def test_the_weights_of_a_head_count_where_memory_is_short(world, monkeypatch):
    monkeypatch.setattr("cospec.runner.memory.free_bytes", lambda device: 1)
    with pytest.raises(DoesNotFit, match=r"\(.*base 0.0.*head 0.0"):
        world.ensemble("base", "adapter")


def test_weights_that_a_head_shares_with_its_base_count_once(loaded):
    whole, _, _, head = loaded
    own = sum(size for key, size in storages(head).items() if key not in storages(whole))
    num_weights = sum(tensor.numel() for tensor in head.modules[0].state_dict().values())
    assert 2 * num_weights <= own + 4 * num_weights
    assert own < sum(storages(head).values())


def test_a_head_of_the_hub_is_fetched(world, tmp_path, monkeypatch):
    head_in(tmp_path / "head", str(world.base), tokens=KNOWN)
    hub = Hub()
    hub.models["someone/head"] = {MAIN: tmp_path / "head"}
    with serving(hub) as address:
        use(monkeypatch, address, tmp_path / "cache")
        assert isinstance(load("someone/head", OPTIONS), HeadRunner)
        assert any("head.safetensors" in request for request in hub.requests)


def test_vllm_is_given_no_head(world, tmp_path):
    settings = {"members": world.paths("base", "adapter"), "proposer": str(world.folder)}
    exported = Export(settings=settings, combination=Mixture([0.4, 0.6]), name="we")
    with pytest.raises(InvalidEnsemble, match="'head' is a drafting head, which reads the hidden states of every"):
        exported.write(tmp_path / "out")


def test_a_bundled_head_is_listed(world, tmp_path, monkeypatch):
    head_in(tmp_path / "adapters" / "drafty", "demo:smollm2", tokens=KNOWN)
    monkeypatch.setattr("cospec.demo._FOLDER", tmp_path)
    (model,) = [BundledModel.read(name) for name in demo.adapters()]
    assert model.name == "demo:drafty"
    assert model.description == "drafts by the hidden states of 2 members on demo:smollm2"
    assert model.parameters == sum(
        tensor.numel() for tensor in load_file(Path(model.path) / "head.safetensors").values()
    )


def test_a_head_whose_base_knows_fewer_entries_than_the_members_reads_them_all_the_same(world, loaded):
    play = Play(world, loaded, seed=1)
    play.tokens = [4, 6]
    wide = padded(play.head, SIZE + 3)
    assert reads_states(wide)
    for i, (member, slot) in enumerate(zip(play.members, play.slots, strict=True)):
        getattr(member, "served_by", member).feed([Feed(slot, play.texts()[i][:-1], 1)])
    slot = wide.open()
    wide.attach(slot, play.sources)
    (rows,) = wide.feed([Feed(slot, [*play.prompt, *play.tokens], 1)])
    assert rows[0, SIZE:].isneginf().all()
    torch.testing.assert_close(rows[0, :SIZE], play.expected(slot.length), rtol=NEAR, atol=NEAR)
    play.close()
