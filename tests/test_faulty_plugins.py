"""Faults of a runner, schedule or combination are reported as errors of their own sequence; its neighbours go on."""

import sys
from dataclasses import replace
from unittest import mock

import pytest
import torch

from cospec import (
    Ensemble,
    InvalidCombination,
    InvalidSchedule,
    Member,
    Mixture,
    SamplingParams,
    Schedule,
    toy,
)
from cospec.core import settle
from cospec.core.sheet import Sheet
from cospec.schedule import Plan, plans
from cospec.schedule.fixed import Fixed

from .toys import Letters, Wrapped, letters, table

PARAMS = SamplingParams(max_tokens=12, seed=3, ignore_eos=True)


class Faulty(Wrapped):
    """Does wrong by the sequences whose prompt begins with a 2."""

    def __init__(self, runner, fault):
        super().__init__(runner, lambda: None)
        self._fault, self._bad = fault, set()

    def feed(self, batch):
        for feed in batch:
            if feed.slot.length == 0 and feed.tokens[0] == 2:
                self._bad.add(feed.slot)
        rows = self.runner.feed(batch)
        return [
            self._fault(feed, own) if feed.slot in self._bad and feed.slot.length > 3 else own
            for feed, own in zip(batch, rows, strict=True)
        ]


def one_row_short(feed, rows):
    return rows[:-1]


def too_narrow(feed, rows):
    return rows[:, :-1]


def no_tensor(feed, rows):
    return rows.tolist()


def one_token_twice(feed, rows):
    feed.slot.tokens.append(1)
    return rows


@pytest.mark.parametrize("fault", [one_row_short, too_narrow, no_tensor, one_token_twice])
@pytest.mark.parametrize("schedule", ["plain", "fixed", "alternate", "mixture"])
def test_rows_are_counted(schedule, fault):
    def written(member):
        ensemble = Ensemble([table(1), member], Mixture([0.5, 0.5]), schedule=schedule)
        return ensemble.generate([[1], [2], [0, 1]], PARAMS)

    expected, found = written(table(2)), written(Faulty(table(2), fault))
    assert [found[i].token_ids for i in (0, 2)] == [expected[i].token_ids for i in (0, 2)]
    assert found[1].finish_reason == "error"
    assert found[1].error.startswith("member-2 ")
    assert any(word in found[1].error for word in ("rows of shape", "counts"))


def test_a_runner_that_answers_fewer_feeds_than_it_was_given():
    class Short(Wrapped):
        def feed(self, batch):
            return self.runner.feed(batch)[:1]

    found = Ensemble([table(1), Short(table(2), lambda: None)], schedule="plain").generate([[1], [2]], PARAMS)
    assert {result.error for result in found} == {"member-2 answered 2 feeds with 1 tensors of rows"}


class Untrimmed(Wrapped):
    """Forgets nothing."""

    def trim(self, slot, length):
        pass


@pytest.mark.parametrize("verification", ["coupled", "block"])
def test_a_runner_that_does_not_trim_gives_no_wrong_text(verification):
    params = [replace(PARAMS, seed=seed, max_tokens=30) for seed in range(10)]

    def written(drafter):
        ensemble = Ensemble([table(1)], schedule="fixed", gamma=3, proposer=drafter, verification=verification)
        return ensemble.generate([[1]] * 10, params)

    for right, found in zip(written(table(5)), written(Untrimmed(table(5), lambda: None)), strict=True):
        assert found.finish_reason == "error" or found.token_ids == right.token_ids
        assert found.error is None or "trimmed to" in found.error
    assert any(found.error for found in written(Untrimmed(table(5), lambda: None)))


class Silly(Fixed):
    """`fixed` by the second member, with one answer of its own."""

    name = "silly"


def with_answer(question, answer):
    """The class with that answer; an exception is raised."""

    def method(self, *_):
        if isinstance(answer, Exception):
            raise answer
        return answer

    return type("Silly", (Silly,), {question: method})(lane=1, gamma=2)


BOOM = ValueError("boom")


@pytest.mark.parametrize(
    ("question", "answer", "told"),
    [
        ("turn", [], "made no progress"),
        ("turn", [7], "answered turn with the lanes [7]"),
        ("turn", [0, 0, 1], "answered turn with the lanes [0, 0, 1]"),
        ("shadows", [0], "answered shadows with the lanes [0]"),
        ("turn", None, "TypeError"),
        ("cells", (0, 0), "gave the cells"),
        ("cells", (), "gave the cells"),
        ("cells", (5,), "gave the cells"),
        ("proposer", 0, "has no row"),
        ("proposer", 9, "has no row"),
        ("proposer", -1, "has no row"),
        ("reach", -5, "made no progress"),
        ("refiner", 0, "as refiner"),
        *((name, BOOM, "raised ValueError: boom") for name in ("turn", "proposer", "cells", "reach", "refiner")),
        *((name, BOOM, "raised ValueError: boom") for name in ("syncs_idle_members", "shadows")),
        *((name, BOOM, "raised ValueError: boom") for name in ("on_begin", "on_forward", "on_settled", "on_round")),
    ],
)
def test_a_schedule_that_does_wrong_ends_its_own_sequence(question, answer, told):
    ensemble = Ensemble([table(1), table(2)], Mixture([0.4, 0.6]), schedule="alternate")
    (expected,) = ensemble.generate([[1]], PARAMS)
    engine, results = ensemble.engine(), {}
    good = engine.add(ensemble.request([1], PARAMS))
    bad = engine.add(replace(ensemble.request([1], PARAMS), schedule=with_answer(question, answer)))
    for _ in range(100):
        results |= {event.id: event.result for event in engine.step() if event.result is not None}
    assert engine.num_live == 0
    assert results[good].token_ids == expected.token_ids
    assert results[bad].finish_reason == "error"
    assert told in results[bad].error
    assert "silly" in results[bad].error
    assert len(results[bad].error) < 300


def test_a_schedule_that_raises_at_the_end_harms_nobody():
    ensemble = Ensemble([table(1), table(2)], schedule=with_answer("on_end", BOOM))
    assert [len(result.token_ids) for result in ensemble.generate([[1], [2]], PARAMS)] == [12, 12]


def test_what_is_told_of_a_sequence_that_fails_is_what_its_events_told():
    """A schedule that raises as tokens are settled, in the round that ends the sequence."""
    ensemble = Ensemble([table(1), table(2)], schedule=with_answer("on_settled", BOOM))
    events = list(ensemble.stream([[1]], replace(PARAMS, max_tokens=1)))
    told = [token.token for event in events for token in event.tokens]
    assert events[-1].result.token_ids == told
    assert events[-1].result.finish_reason == "error"


def test_a_draw_that_raises_loses_no_token():
    """The noise of a free draw may find no memory: nothing is decided then, and all is decided one by one."""
    ensemble = Ensemble([table(1)], schedule="fixed", gamma=3, proposer=table(1), verification="coupled")
    params = [replace(PARAMS, seed=seed) for seed in range(3)]
    expected = [result.token_ids for result in ensemble.generate([[1]] * 3, params)]
    draw, calls = settle.noisy_argmax, []

    def failing(items):
        calls.append(len(items))
        if len(items) > 1 and len(calls) % 3 == 0:
            raise MemoryError("no room")
        return draw(items)

    with mock.patch("cospec.core.settle.noisy_argmax", failing):
        events = list(ensemble.stream([[1]] * 3, params))
    told = {i: [] for i in range(3)}
    for event in events:
        told[event.prompt_index] += [token.token for token in event.tokens]
    assert [told[i] for i in range(3)] == expected
    assert len(calls) > 10


def test_a_proposal_that_raises_drafts_nothing_twice():
    ensemble = Ensemble([table(1)], schedule="fixed", gamma=3, proposer=table(2))
    params = [replace(PARAMS, seed=seed, temperature=seed % 2) for seed in range(4)]
    expected = [result.token_ids for result in ensemble.generate([[1]] * 4, params)]
    draft = sys.modules["cospec.core.propose"]._draft_coupled
    raised = []

    def failing(proposals, *rows):
        if len(proposals) > 1:
            raised.append(1)
            raise MemoryError("no room")
        return draft(proposals, *rows)

    with mock.patch.object(sys.modules["cospec.core.propose"], "_draft_coupled", failing):
        found = ensemble.generate([[1]] * 4, params)
    assert raised
    assert [result.token_ids for result in found] == expected


class Fragile(Letters):
    """Cannot decode its last entry."""

    def decode(self, ids):
        if 11 in ids:
            raise IndexError("piece id is out of range")
        return super().decode(ids)


def test_a_tokenizer_that_raises_ends_its_own_sequence():
    def fn(prefix):
        row = torch.full((12,), -8.0)
        row[11 if prefix[0] == 2 and len(prefix) == 4 else 1] = 8.0
        return row

    runner = toy.FunctionRunner(12, fn, tokenizer=Fragile())
    good, bad, also = Ensemble([runner]).generate(["a", "b", "a"], SamplingParams(max_tokens=8, temperature=0))
    assert good.text == also.text == "a" * 8
    assert bad.error == "the tokenizer raised IndexError: piece id is out of range"
    assert bad.text == "aaa"
    assert len(bad.token_ids) == 3


def test_a_runner_that_raises_after_it_changed_a_slot_is_not_fed_twice():
    class Late(Wrapped):
        def feed(self, batch):
            rows = self.runner.feed(batch)
            if len(batch) > 1:
                raise RuntimeError("late")
            return rows

    found = Ensemble([table(1), Late(table(2), lambda: None)], schedule="plain").generate([[1], [2]], PARAMS)
    assert all("counts 1 tokens in a slot that holds 0" in result.error for result in found)


def test_a_prompt_is_scored_beside_a_long_one():
    ensemble = Ensemble([table(1), table(2)], schedule="plain")
    scoring = SamplingParams(max_tokens=0, prompt_logprobs=0)
    prompts = [[1] * 600, [1, 2] * 30, [2] * 300]
    found = ensemble.generate(prompts, [SamplingParams(max_tokens=4), scoring, scoring])
    assert [result.error for result in found] == [None] * 3
    assert [len(result.prompt_logprobs) for result in found[1:]] == [60, 300]


def test_what_was_held_back_is_released_by_an_abort():
    ensemble = Ensemble([letters([2, 2, 2, 1, 1])], schedule="plain")
    engine = ensemble.engine()
    id = engine.add(ensemble.request("a", SamplingParams(temperature=0, stop=["bbbb"])))
    for _ in range(3):
        engine.step()
    assert engine.abort(id).result.text == "bbb"


def test_a_slot_that_cannot_be_opened_leaves_none_open():
    opened = []

    class Counting(Wrapped):
        def open(self):
            opened.append(1)
            return self.runner.open()

        def close(self, slot):
            opened.pop()

    class Full(Wrapped):
        def open(self):
            raise MemoryError("no slot left")

    ensemble = Ensemble([Counting(table(1), lambda: None), Full(table(2), lambda: None)], schedule="plain")
    with pytest.raises(Exception, match="member-2 raised MemoryError: no slot left"):
        ensemble.generate([[1]], PARAMS)
    assert not opened


class Watched:
    """A schedule whose questions are held to change nothing: neither its own state nor the sheet's."""

    QUESTIONS = ("turn", "proposer", "cells", "reach", "refiner", "syncs_idle_members", "shadows", "may_be_left")

    def __init__(self, schedule):
        self.schedule, self.asked = schedule, set()

    def __getattr__(self, name):
        value = getattr(self.schedule, name)
        if name not in self.QUESTIONS:
            return value

        def question(sheet: Sheet, *rest):
            before = self._state(sheet)
            answer = value(sheet, *rest)
            assert self._state(sheet) == before, f"{name} changed something"
            assert value(sheet, *rest) == answer, f"{name} has two answers"
            self.asked.add(name)
            return answer

        return question

    def _state(self, sheet):
        # The running sums of the weights are cached.
        own = {key: value for key, value in vars(self.schedule).items() if key != "_reached"}
        beliefs = vars(own["beliefs"]) if "beliefs" in own else {}
        told = repr(own), repr(beliefs), repr(vars(beliefs["costs"])) if beliefs else ""
        running = [vars(each) | {"window": vars(each.window)} for each in own.get("_running", {}).values()]
        lanes = [(lane.length, lane.first, repr(lane.counts)) for lane in sheet.lanes]
        return told, repr(running), sheet.num_changes, lanes, list(sheet.output), len(sheet.drafts)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_questions_change_nothing(temperature):
    members = [Member(model=table(seed), name=name) for seed, name in ((1, "a"), (2, "b"))]
    ensemble = Ensemble(members, Mixture([0.7, 0.3]), proposer=[table(3), "lookup"])
    params = SamplingParams(max_tokens=16, temperature=temperature, ignore_eos=True)
    setting = ensemble.setting(params)
    # The last plan of each schedule.
    weighed = {plan.schedule: plan for plan in plans(setting, "block")}
    for plan in [*weighed.values(), Plan(schedule="auto")]:
        planned = ensemble.with_plan(plan)
        engine = planned.engine()
        watched = Watched(planned.request([1], params).schedule)
        for seed in range(2):
            engine.add(replace(planned.request([1, seed], params), schedule=watched))
        while engine.num_live:
            for event in engine.step():
                assert event.result is None or event.result.error is None
        assert {"turn", "proposer"} <= watched.asked


def test_a_question_that_changes_something_would_be_noticed():
    class Learning(Fixed):
        def turn(self, sheet):
            object.__setattr__(self, "gamma", self.gamma + 1)
            return super().turn(sheet)

    ensemble = Ensemble([table(1), table(2)], schedule="plain")
    engine = ensemble.engine()
    engine.add(replace(ensemble.request([1], PARAMS), schedule=Watched(Learning(lane=1, gamma=2))))
    (event,) = engine.step()
    assert "turn changed something" in str(event.sheet.error)


@pytest.mark.parametrize("schedule", ["plain", "fixed", "alternate", "mixture", "auto"])
@pytest.mark.parametrize("num_prompt", [1, 2, 9])
def test_no_tokens_are_a_plain_case(schedule, num_prompt):
    ensemble = Ensemble([table(1), table(2)], Mixture([0.4, 0.6]), schedule=schedule)
    prompts = [[1, 2, 0, 1, 1, 2, 0, 0, 1][:num_prompt], [2] * num_prompt]
    scored = ensemble.generate(prompts, SamplingParams(max_tokens=0, prompt_logprobs=1))
    longer = ensemble.generate(prompts, SamplingParams(max_tokens=1, prompt_logprobs=1))
    for result, other in zip(scored, longer, strict=True):
        assert (result.token_ids, result.text, result.finish_reason) == ([], "", "length")
        assert result.prompt_logprobs == other.prompt_logprobs
        assert len(result.prompt_logprobs) == num_prompt
        assert result.verified.drafted == 0
    (bare,) = ensemble.generate([[1]], SamplingParams(max_tokens=0))
    assert (bare.token_ids, bare.prompt_logprobs, bare.finish_reason) == ([], None, "length")


def test_scoring_needs_no_room_behind_the_prompt():
    member = Wrapped(table(1), lambda: None)
    member.context = 4
    ensemble = Ensemble([member], schedule="plain")
    (result,) = ensemble.generate([[1, 2, 0, 1]], SamplingParams(max_tokens=0, prompt_logprobs=0))
    assert len(result.prompt_logprobs) == 4
    with pytest.raises(Exception, match="its context holds 4"):
        ensemble.generate([[1, 2, 0, 1]], SamplingParams(max_tokens=1))


def test_a_sequence_that_is_cut_leaves_lanes_that_are_cut():
    """A stop string ends the text within a block; then rows for log-probabilities are fed to the member that lags."""
    spelled = (1, 5, 4, 3, 6, 1, 2, 3, 1, 2)
    members = [letters(spelled), letters(spelled)]
    ensemble = Ensemble(members, Mixture([0.9, 0.1]), schedule="mixture", gamma=8, proposer=letters(spelled))
    for seed in range(20):
        (result,) = ensemble.generate("a", SamplingParams(max_tokens=20, seed=seed, stop=["b c"], logprobs=1))
        assert result.error is None
        assert (result.text, result.finish_reason) == ("aa", "stop")
        assert len(result.logprobs) == len(result.token_ids) == 4


def test_the_first_error_of_a_sequence_stays():
    (event,) = list(Ensemble([table(1)]).stream([[1]], SamplingParams(max_tokens=0)))
    first, second = ValueError("first"), ValueError("second")
    event.sheet.finish("error", first)
    event.sheet.finish("error", second)
    event.sheet.finish("stop")
    assert (event.sheet.error, event.sheet.finish_reason) == (first, "error")


def test_objects_are_schedules_and_proposers():
    class Own(Schedule):
        """`fixed` of two by the first drafter, by hand."""

        name = "own"

        def turn(self, sheet):
            drafter = sheet.num_members
            if len(sheet.drafts) < 2 and sheet.num_draftable > 1 and not sheet.has_declined(drafter):
                return [drafter]
            return [i for i in sheet.members if not sheet.lanes[i].has(sheet.frontier)]

        def proposer(self, sheet):
            lane = sheet.num_members
            may = len(sheet.drafts) < 2 and sheet.num_draftable > 1 and sheet.lanes[lane].has(sheet.frontier)
            return lane if may else None

    drafter = Member(model=table(5), name="quick", prompt=[2, 2])
    members = [table(1), table(2)]
    (plain,) = Ensemble(members, schedule="plain", verification="coupled").generate([[1]], PARAMS)
    for schedule in (Own, Own()):
        ensemble = Ensemble(members, schedule=schedule, proposer=drafter, verification="coupled")
        (found,) = ensemble.generate([[1]], PARAMS)
        assert found.token_ids == plain.token_ids
        assert found.schedule == "own"
        assert found.proposers["quick"].proposed > 0
        assert found.drafters["quick"].tokens_fed > 2


def test_a_members_own_error_has_its_name():
    wrong = toy.FunctionRunner(4, lambda prefix: torch.zeros(5))
    (result,) = Ensemble([table(1), wrong]).generate([[1]], PARAMS)
    assert result.error.startswith("member-2 raised MemberFailed: the function gave logits of shape [5]")


@pytest.mark.parametrize("given", [3, None, int, Mixture([1.0])])
def test_what_is_no_schedule_is_refused(given):
    with pytest.raises(InvalidSchedule, match=r"give a name, a cospec\.Schedule, or a class of them"):
        Ensemble([table(1), table(2)], schedule=given)


def test_settings_beside_a_schedule_object_are_refused():
    with pytest.raises(InvalidSchedule, match="gamma 3 was given beside the schedule object 'silly'"):
        Ensemble([table(1), table(2)], schedule=Silly(lane=1, gamma=2), gamma=3)


def test_a_class_is_no_combination():
    with pytest.raises(InvalidCombination, match="combine is"):
        Ensemble([table(1), table(2)], combine=Mixture)


class Odd(Mixture):
    def log_probs(self, logits):
        return super().log_probs(logits)[None]


class Undefined(Mixture):
    def log_probs(self, logits):
        return super().log_probs(logits) * torch.nan


@pytest.mark.parametrize(("kind", "told"), [(Odd, "mixture gave [1, "), (Undefined, "combined by mixture")])
def test_a_faulty_combination_is_named(kind, told):
    (result,) = Ensemble([table(1), table(2)], combine=kind([0.5, 0.5]), schedule="plain").generate([[1]], PARAMS)
    assert told in result.error
