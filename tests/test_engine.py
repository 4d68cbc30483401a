"""The engine: rounds, batches, members that fail, sequences that come and go."""

import math
from collections import Counter

import pytest
import torch

from cospec import Contrastive, Ensemble, InvalidPrompt, InvalidSampling, Mixture, SamplingParams, toy
from cospec.core import prefill
from cospec.core.draws import Draws, Purpose
from cospec.core.policy import Policy

from .toys import END, Letters, letters, table

SCHEDULES = [
    ("plain", None, "token"),
    ("fixed", 3, "token"),
    ("fixed", 3, "block"),
    ("fixed", 2, "coupled"),
    ("alternate", 1, "token"),
    ("alternate", (2, 3), "block"),
    ("alternate", (1, 2), "coupled"),
    ("mixture", None, "token"),
]


def pair(schedule: str = "alternate", gamma: object = None, verification: str = "token", **options: object) -> Ensemble:
    return Ensemble(
        [table(1), table(2)], Mixture([0.4, 0.6]), schedule=schedule, gamma=gamma, verification=verification, **options
    )


@pytest.mark.parametrize(("schedule", "gamma", "verification"), SCHEDULES)
def test_a_text_does_not_depend_on_who_shares_the_batch(schedule, gamma, verification):
    ensemble = pair(schedule, gamma, verification)
    prompts = [[i % 3] * (1 + i) for i in range(8)]
    params = [SamplingParams(max_tokens=5 + 7 * i, seed=i, ignore_eos=True) for i in range(8)]
    together = ensemble.generate(prompts, params)
    alone = [ensemble.generate([prompt], own)[0] for prompt, own in zip(prompts, params, strict=True)]
    assert [result.token_ids for result in together] == [result.token_ids for result in alone]
    assert [result.proposers for result in together] == [result.proposers for result in alone]


@pytest.mark.parametrize("max_sequences", [1, 2, 5])
def test_sequences_join_as_others_leave(max_sequences):
    prompts = [[i % 3] for i in range(9)]
    params = [SamplingParams(max_tokens=1 + 3 * (i % 4), seed=i, ignore_eos=True) for i in range(9)]
    expected = pair().generate(prompts, params)
    given = pair(max_sequences=max_sequences).generate(prompts, params)
    assert [result.token_ids for result in given] == [result.token_ids for result in expected]
    assert [len(result.token_ids) for result in given] == [own.max_tokens for own in params]


def test_an_aborted_sequence_leaves_the_others_alone():
    ensemble = pair()
    params = SamplingParams(max_tokens=20, seed=4, ignore_eos=True)
    (expected,) = ensemble.generate([[1]], params)
    engine = ensemble.engine()
    kept = engine.add(ensemble.request([1], params))
    gone = engine.add(ensemble.request([2], params))
    for _ in range(3):
        engine.step()
    aborted = engine.abort(gone)
    assert aborted.sheet.finish_reason == "abort"
    while engine.num_live:
        (event,) = engine.step()
    assert event.id == kept
    assert event.sheet.output == expected.token_ids


def test_closing_a_stream_gives_all_slots_back():
    opened = []

    class Counting(toy.TableRunner):
        def open(self):
            opened.append(1)
            return super().open()

        def close(self, slot):
            opened.pop()
            super().close(slot)

    ensemble = Ensemble([Counting(4, seed=1), Counting(4, seed=2)], schedule="alternate")
    stream = ensemble.stream([[1]] * 5, SamplingParams(max_tokens=50))
    next(stream)
    assert opened
    stream.close()
    assert not opened


def _broken_after(length: int, how: object) -> toy.FunctionRunner:
    def fn(prefix: tuple[int, ...]) -> torch.Tensor:
        if prefix[0] == 2 and len(prefix) > length:
            if isinstance(how, Exception):
                raise how
            return torch.full((4,), how)
        return torch.zeros(4)

    return toy.FunctionRunner(4, fn)


@pytest.mark.parametrize("how", [math.nan, math.inf, -math.inf, RuntimeError("out of memory")])
@pytest.mark.parametrize(
    ("schedule", "temperature"),
    [("plain", 1), ("plain", 0), ("fixed", 1), ("fixed", 0), ("alternate", 1), ("mixture", 1)],
)
def test_a_member_that_fails_ends_its_sequence_and_the_neighbours_go_on(how, schedule, temperature):
    ensemble = Ensemble([table(1, end_ids=()), _broken_after(4, how)], schedule=schedule)
    params = SamplingParams(max_tokens=12, seed=3, temperature=temperature)
    (alone,) = ensemble.generate([[1]], params)
    good, bad, also_good = ensemble.generate([[1], [2], [1]], params)
    assert good.token_ids == also_good.token_ids == alone.token_ids
    assert good.finish_reason == "length"
    assert bad.finish_reason == "error"
    # It alone, not the members together.
    assert bad.error.startswith("member-2 ")
    assert len(bad.token_ids) < 12


@pytest.mark.parametrize("schedule", ["plain", "fixed"])
def test_a_combination_that_raises_ends_the_text_that_it_raised_over(schedule):
    class Bursting(Mixture):
        def log_probs(self, logits):
            if (logits[1, :, 3] > 49).any():
                raise RuntimeError("out of memory")
            return super().log_probs(logits)

    def sure_of_3(prefix):
        return torch.tensor([0.0, 0.0, 0.0, 50.0 if prefix[0] == 2 and len(prefix) > 4 else 0.0])

    members = [table(1, end_ids=()), toy.FunctionRunner(4, sure_of_3)]
    ensemble = Ensemble(members, Bursting([0.5, 0.5]), schedule=schedule)
    good, bad = ensemble.generate([[1], [2]], SamplingParams(max_tokens=12, seed=3))
    assert (good.finish_reason, len(good.token_ids)) == ("length", 12)
    assert bad.finish_reason == "error"
    assert "the combination raised RuntimeError: out of memory" in bad.error


def test_a_token_that_nothing_allows_is_an_error_and_no_token():
    params = SamplingParams(max_tokens=3, temperature=0, logit_bias=dict.fromkeys(range(4), -math.inf))
    (result,) = pair("plain").generate([[1]], params)
    assert result.finish_reason == "error"
    assert "every token forbidden" in result.error


@pytest.mark.parametrize("verification", ["token", "block", "coupled"])
@pytest.mark.parametrize("vocab_size", [4, 2**13])
@pytest.mark.parametrize("params", [{}, {"temperature": 0}, {"top_p": 0.9}, {"logit_bias": {1: 1.0}}])
def test_a_row_that_is_no_distribution_counts_once_its_position_is_reached(params, vocab_size, verification):
    """The drafter's second token is none that r allows, and behind it the member knows nothing."""

    def fn(prefix):
        row = torch.full((vocab_size,), -math.inf)
        if 2 not in prefix:
            row[[0, 1]] = torch.tensor([0.0, 0.1 * len(prefix)])
        return row

    def drafts(prefix):
        return torch.full((vocab_size,), -50.0).index_fill(0, torch.tensor([1 if len(prefix) == 1 else 2]), 50.0)

    member, drafter = (toy.FunctionRunner(vocab_size, each) for each in (fn, drafts))
    ensemble = Ensemble(
        [member], proposer=drafter, schedule="fixed", gamma=4, verification=verification, keep_measurements=False
    )
    (result,) = ensemble.generate([[1]], SamplingParams(max_tokens=8, seed=1, **params))
    assert result.error is None
    assert len(result.token_ids) == 8
    (reached,) = ensemble.generate([[1, 2]], SamplingParams(max_tokens=8, seed=1, **params))
    assert "no distribution" in reached.error


def test_a_lookup_without_a_match_proposes_nothing():
    counting = toy.FunctionRunner(16, lambda prefix: [float(token == prefix[-1] + 1) for token in range(16)])
    ensemble = Ensemble([counting], schedule="fixed", gamma=4, proposer="lookup")
    (result,) = ensemble.generate([[1]], SamplingParams(max_tokens=12, temperature=0))
    assert len(result.token_ids) == 12
    assert result.proposers == {}


def test_shared_weights_are_fed_in_one_call():
    calls = []

    class Counting(toy.TableRunner):
        def feed(self, batch):
            calls.append(len(batch))
            return super().feed(batch)

    runner = Counting(4, seed=1)
    ensemble = Ensemble([runner, runner], Mixture([0.5, 0.5]), schedule="plain")
    (result,) = ensemble.generate([[1]], SamplingParams(max_tokens=6))
    assert calls == [2] * 6
    assert {name: member.calls for name, member in result.members.items()} == {"member": 6, "member-2": 6}


def test_a_prompt_that_fills_the_context_is_refused_and_a_shorter_one_ends_at_its_border():
    ensemble = Ensemble([letters([1] * 50, context=6)], schedule="plain")
    with pytest.raises(InvalidPrompt, match="has 6 tokens; its context holds 6"):
        ensemble.generate("aaaaaa")
    (result,) = ensemble.generate("aaa", SamplingParams(max_tokens=50))
    assert (result.finish_reason, len(result.token_ids)) == ("length", 3)


def test_a_drafter_whose_context_is_full_leaves_the_text_to_the_members():
    def ensemble(context):
        drafter = letters([1] * 50, context=context)
        return Ensemble([letters([1] * 50)], schedule="fixed", gamma=3, proposer=drafter, verification="coupled")

    params = SamplingParams(max_tokens=20, seed=1)
    (short,), (long,) = ensemble(9).generate("aaa", params), ensemble(None).generate("aaa", params)
    assert short.token_ids == long.token_ids
    assert (short.finish_reason, len(short.token_ids)) == ("length", 20)
    assert 0 < short.proposers["member-2"].proposed < long.proposers["member-2"].proposed
    (result,) = ensemble(2).generate("aaa", params)
    assert (result.token_ids, result.proposers) == (long.token_ids, {})


@pytest.mark.parametrize("schedule", ["plain", "fixed", "alternate", "mixture"])
@pytest.mark.parametrize("max_tokens", [1, 2, 3])
def test_a_budget_of_one_token_is_kept(schedule, max_tokens):
    results = pair(schedule).generate([[1]], SamplingParams(max_tokens=max_tokens, n=20, ignore_eos=True))
    assert {len(result.token_ids) for result in results} == {max_tokens}


@pytest.mark.parametrize("schedule", ["plain", "fixed", "alternate"])
def test_an_end_token_first_gives_an_empty_text(schedule):
    ensemble = Ensemble([letters([]), letters([])], schedule=schedule)
    (result,) = ensemble.generate("a", SamplingParams(temperature=0))
    assert (result.text, result.token_ids, result.finish_reason) == ("", [0], "stop")


def test_ids_outside_the_vocabulary_are_refused_before_anything_runs():
    ensemble = pair()
    with pytest.raises(InvalidPrompt, match="token id 9 is outside the vocabulary of 4"):
        ensemble.generate([[1], [9]])
    with pytest.raises(InvalidSampling, match="logit_bias names token id 7"):
        ensemble.generate([1], SamplingParams(logit_bias={7: 1.0}))
    with pytest.raises(InvalidSampling, match="stop_token_ids names token id 8"):
        ensemble.generate([1], SamplingParams(stop_token_ids=[8]))
    with pytest.raises(InvalidSampling, match="stop strings need a tokenizer"):
        ensemble.generate([1], SamplingParams(stop=["x"]))


# a, ab, " ", c, STOP, an e with an accent in two halves, x
SPELLED = (1, 5, 4, 3, 6, 8, 9, 10)


@pytest.mark.parametrize("schedule", ["plain", "fixed", "alternate"])
@pytest.mark.parametrize(
    ("stop", "text"),
    [("b", "aa"), ("ab c", "a"), ("STOP", "aab c"), ("P\u00e9", "aab cSTO"), ("\u00e9x", "aab cSTOP"), ("aab", "")],
)
def test_a_stop_string_ends_the_text_wherever_token_borders_lie(schedule, stop, text):
    gamma = None if schedule == "plain" else 4
    ensemble = Ensemble([letters(SPELLED), letters(SPELLED)], schedule=schedule, gamma=gamma)
    (result,) = ensemble.generate("a", SamplingParams(temperature=0, stop=[stop], max_tokens=30))
    assert (result.text, result.finish_reason) == (text, "stop")
    decode = Letters().decode
    assert stop in decode(result.token_ids)
    assert stop not in decode(result.token_ids[:-1])


def test_streamed_pieces_make_the_text_and_never_show_what_a_stop_string_takes_back():
    spelled = [1, 6, 8, 9, 2, 2, 3, 10]
    ensemble = Ensemble([letters(spelled), letters(spelled)], schedule="fixed", gamma=4)
    events = list(ensemble.stream("a", SamplingParams(temperature=0, stop=["bbcx"])))
    pieces = "".join(token.text for event in events for token in event.tokens)
    assert events[-1].result is not None
    assert pieces == events[-1].result.text == "aSTOP\u00e9"


@pytest.mark.parametrize(("schedule", "gamma", "verification"), SCHEDULES)
def test_logprobs_are_those_of_r_whatever_the_schedule(schedule, gamma, verification):
    ensemble = pair(schedule, gamma, verification)
    params = SamplingParams(max_tokens=150, seed=5, logprobs=2, prompt_logprobs=1, ignore_eos=True)
    (result,) = ensemble.generate([[1, 2, 0]], params)
    text = (1, 2, 0, *result.token_ids)
    rows = [torch.stack([runner._fn(text[:i]) for runner in ensemble.runners])[:, None] for i in range(1, len(text))]
    log_r = torch.cat([ensemble.combination.log_probs(row) for row in rows])
    assert result.prompt_logprobs[0] is None
    reported = [*result.prompt_logprobs[1:], *result.logprobs]
    assert [entry.token for entry in reported] == list(text[1:])
    for entry, row in zip(reported, log_r, strict=True):
        assert entry.logprob == pytest.approx(row[entry.token].item(), abs=1e-9)
        assert [token for token, _ in entry.top] == row.topk(len(entry.top)).indices.tolist()
    assert {len(entry.top) for entry in result.logprobs} == {2}


def test_alternate_never_makes_more_member_calls_than_plain():
    plain, alternate = (
        Ensemble([table(1), table(9)], Contrastive(0.5), schedule=name) for name in ("plain", "alternate")
    )
    for seed in range(50):
        params = SamplingParams(max_tokens=12, seed=seed, ignore_eos=True)
        (one,), (other,) = plain.generate([[1]], params), alternate.generate([[1]], params)
        assert sum(m.calls for m in other.members.values()) <= sum(m.calls for m in one.members.values())


def test_a_drawn_member_is_fed_up_to_the_last_position_that_it_was_drawn_for():
    reached = {"a": [], "b": []}

    class Watched(toy.TableRunner):
        def feed(self, batch):
            rows = super().feed(batch)
            reached[self.name].extend(feed.slot.length - 1 for feed in batch)
            return rows

    # Of one model, so that no draft is rejected and no draw made anew.
    members = [Watched(4, order=2, seed=1, end_ids=()) for _ in range(2)]
    for runner, name in zip(members, reached, strict=True):
        runner.name = name
    ensemble = Ensemble(members, Mixture([0.5, 0.5]), proposer=table(1), schedule="mixture", gamma=4)
    (result,) = ensemble.generate([[0]], SamplingParams(max_tokens=60, seed=7))
    draws = Draws(result.seed, result.index)
    drawn = ["a" if draws.uniform(position, Purpose.MEMBER) < 0.5 else "b" for position in range(61)]
    for name, positions in reached.items():
        assert {drawn[position] for position in positions} == {name}
    (proposer,) = result.proposers.values()
    assert proposer.accepted == proposer.proposed > 20


class Counted(toy.TableRunner):
    """Notes what each call feeds: tokens and rows of each text."""

    def __init__(self, seed):
        super().__init__(4, order=2, seed=seed, end_ids=())
        self.fed = []

    def feed(self, batch):
        self.fed.append([(len(feed.tokens), feed.rows) for feed in batch])
        return super().feed(batch)


def test_members_that_were_not_drawn_keep_up_where_they_are_called_anyway():
    members = [Counted(1), Counted(2)]
    ensemble = Ensemble(members, Mixture([0.5, 0.5]), schedule="mixture")
    params = [SamplingParams(max_tokens=30, seed=seed) for seed in range(12)]
    together = ensemble.generate([[1]] * 12, params)
    # A row a token, and every token to every member as it comes, from when it was called first.
    fed = [each for member in members for call in member.fed for each in call]
    assert sum(rows for _, rows in fed) == 12 * 30
    assert sum(count > 1 for count, _ in fed) <= 12 * 2
    for member in members:
        member.fed.clear()
    (alone,) = ensemble.generate([[1]], params[0])
    assert alone.token_ids == together[0].token_ids
    # Of one text, only who is drawn is called, and catches up.
    assert all(rows == 1 for member in members for call in member.fed for _, rows in call)
    assert max(count for member in members for call in member.fed for count, _ in call) > 2


class Short(toy.TableRunner):
    """Has room for four tokens, and does not say so. refused: slots that were to be fed more, each in a call alone."""

    def __init__(self):
        super().__init__(4, order=2, seed=2, end_ids=())
        self.refused = []

    def feed(self, batch):
        if any(feed.slot.length + len(feed.tokens) > 4 for feed in batch):
            self.refused += [feed.slot for feed in batch if len(batch) == 1]
            raise RuntimeError("no room")
        return super().feed(batch)


def test_a_member_that_cannot_keep_up_fails_no_text_before_its_turn():
    params = [SamplingParams(max_tokens=12, seed=seed, ignore_eos=True) for seed in range(40)]
    ensemble = Ensemble([table(1), short := Short()], Mixture([0.9, 0.1]), schedule="mixture")
    together = ensemble.generate([[2]] * 40, params)
    # Once before their turn, and once in it.
    assert max(Counter(short.refused).values()) == 2
    alone = [ensemble.generate([[2]], own)[0] for own in params]
    assert [(one.token_ids, one.finish_reason) for one in together] == [
        (one.token_ids, one.finish_reason) for one in alone
    ]
    assert {one.finish_reason for one in together} == {"length", "error"}


def test_members_are_not_fed_what_nobody_will_ask_them_for():
    members = [Counted(1), Counted(2)]
    ensemble = Ensemble(members, Mixture([0.9, 0.1]), schedule="mixture")
    params = [SamplingParams(max_tokens=4, seed=seed) for seed in range(16)]
    results = ensemble.generate([[1] * 100] * 16, params)
    draws = [Draws(one.seed, one.index) for one in results]
    num_readers = sum(any(own.uniform(i, Purpose.MEMBER) >= 0.9 for i in range(4)) for own in draws)
    assert 0 < num_readers < 10
    assert sum(count >= 100 for call in members[1].fed for count, _ in call) == num_readers
    # The last token but one is the last that anybody is fed, and the last position is settled by who was drawn for it.
    assert all(stats.tokens_fed <= 103 for one in results for stats in one.members.values())
    last = [[own.uniform(3, Purpose.MEMBER) < 0.9, own.uniform(3, Purpose.MEMBER) >= 0.9] for own in draws]
    for drawn, one in zip(last, results, strict=True):
        fed = [stats.tokens_fed for stats in one.members.values()]
        assert [count == 103 for count in fed] == drawn


def test_a_member_that_keeps_up_has_the_rows_that_log_probabilities_need():
    ensemble = Ensemble([table(1), table(9)], Mixture([0.5, 0.5]), schedule="mixture")
    prompts = [[1, 2, 0] * (1 + i) for i in range(4)]
    params = [
        SamplingParams(max_tokens=20, seed=seed, logprobs=1, prompt_logprobs=1, ignore_eos=True) for seed in range(4)
    ]
    for prompt, own, result in zip(prompts, params, ensemble.generate(prompts, params), strict=True):
        (alone,) = ensemble.generate([prompt], own)
        assert result.prompt_logprobs == alone.prompt_logprobs
        assert result.logprobs == alone.logprobs


def test_the_end_token_is_told_apart_from_a_length():
    results = pair().generate([[1]], SamplingParams(max_tokens=6, n=60, seed=0))
    for result in results:
        assert (result.finish_reason == "stop") == (result.token_ids[-1] == END)
        assert END not in result.token_ids[:-1]


@pytest.fixture
def few(monkeypatch):
    """Prompts are read by five tokens a round and model, where there is more than one text."""
    monkeypatch.setattr(prefill, "FEWEST", 5)
    monkeypatch.setattr(prefill, "MOST", 5)


@pytest.mark.parametrize(
    ("plan", "drafters"),
    [
        *((plan, {}) for plan in SCHEDULES),
        *((plan, {"proposer": table(3)}) for plan in SCHEDULES if plan[0] in ("fixed", "mixture")),
        (("cascade", (2, 3), "block"), {"proposer": table(3)}),
    ],
)
def test_prompts_read_in_pieces_change_no_text(plan, drafters, few):
    ensemble = pair(*plan, **drafters)
    prompts = [[i % 3] * (1 + 4 * i) for i in range(6)]
    params = [SamplingParams(max_tokens=5 + 3 * i, seed=i, ignore_eos=True) for i in range(6)]
    together = ensemble.generate(prompts, params)
    alone = [ensemble.generate([prompt], own)[0] for prompt, own in zip(prompts, params, strict=True)]
    assert [result.token_ids for result in together] == [result.token_ids for result in alone]
    assert [result.proposers for result in together] == [result.proposers for result in alone]
    assert sum(stats.calls for stats in together[-1].members.values()) > sum(
        stats.calls for stats in alone[-1].members.values()
    )


def test_a_prompt_in_pieces_is_scored_as_a_whole_one(few):
    ensemble, prompts = pair("plain"), [[1, 2, 0] * 7, [2, 1] * 9]
    params = SamplingParams(max_tokens=3, seed=1, prompt_logprobs=1, logprobs=1, ignore_eos=True)
    together = ensemble.generate(prompts, params)
    for prompt, result in zip(prompts, together, strict=True):
        (alone,) = ensemble.generate([prompt], params)
        assert result.prompt_logprobs == alone.prompt_logprobs
        assert result.logprobs == alone.logprobs


def test_while_a_prompt_is_read_the_others_go_on(few):
    ensemble = pair("plain")
    engine = ensemble.engine()
    params = SamplingParams(max_tokens=20, seed=4, ignore_eos=True)
    first = engine.add(ensemble.request([1], params))
    engine.step()
    engine.add(ensemble.request([2] * 23, params))
    # Four rounds read twenty of the tokens, and say nothing of that text; the fifth settles its first.
    moved = [[event.id for event in engine.step()] for _ in range(5)]
    assert moved == [[first]] * 4 + [[first, first + 1]]


@pytest.mark.parametrize(("schedule", "gamma", "verification"), SCHEDULES)
def test_a_round_reads_back_as_often_for_many_texts_as_for_few(schedule, gamma, verification, monkeypatch):
    """What comes to the host of a device that computes is waited for: a round has so many such points, not a text."""
    read, tolist = [], torch.Tensor.tolist
    # As on a device: what lies on the host is read where it lies.
    for module in ("settle", "draws", "rows"):
        monkeypatch.setattr(f"cospec.core.{module}.are_floats_here", lambda rows: False)
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: read.append(1) or tolist(tensor))
    for name in ("item", "__float__", "__int__", "__bool__", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, lambda tensor, *_: pytest.fail("read by itself"))
    most = {}
    for num_texts in (2, 24):
        ensemble = pair(schedule, gamma, verification)
        engine = ensemble.engine()
        for index in range(num_texts):
            engine.add(ensemble.request([1], SamplingParams(max_tokens=30, ignore_eos=True, seed=index)))
        while engine.num_live:
            read.clear()
            engine.step()
            most[num_texts] = max(most.get(num_texts, 0), len(read))
    # Finite rows, what drafts and targets give them, what is left of their probability, replaced, drawn, and proposed.
    assert max(most.values()) <= 8


@pytest.mark.parametrize(
    ("schedule", "gamma"), [("plain", None), ("fixed", 3), ("alternate", 1), ("mixture", 3), ("cascade", (2, 3))]
)
def test_rounds_say_how_many_positions_they_decided(schedule, gamma, monkeypatch):
    """Each draft once, by r or the member that took it over, and the token behind drafts."""
    rounds = []
    monkeypatch.setattr(Policy, "on_round", lambda policy, done: rounds.append(done))
    proposer = None if schedule == "alternate" else table(3)
    ensemble = Ensemble([table(1), table(2)], Mixture([0.4, 0.6]), proposer=proposer)
    drafted = ensemble.with_plan(schedule=schedule, gamma=gamma, verification="token")
    (result,) = drafted.generate([[0]], SamplingParams(max_tokens=80, seed=3, ignore_eos=True))
    num_drafts = sum(proposer.drafted for proposer in result.proposers.values())
    num_settling = sum(done.num_settled > 0 for done in rounds)
    assert sum(done.num_decided for done in rounds) == num_drafts + num_settling
    assert all(done.num_moved == 1 for done in rounds)
    assert (num_drafts > 40) == (schedule != "plain")
    if schedule == "fixed":
        assert {done.num_decided for done in rounds if not done.num_settled} == {0}
