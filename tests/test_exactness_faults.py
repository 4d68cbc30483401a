"""The self-test finds broken verifications, under whichever schedule they run, and tests the plan that will run."""

import importlib.metadata
import io
import itertools
import json
import re
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from cospec import Ensemble, Mixture, SamplingParams, Schedule, toy
from cospec.cli import app
from cospec.cli.verify_run import _table
from cospec.core import verify
from cospec.core.verify import Verdict
from cospec.schedule import Plan, plans, registry, schedule_class
from cospec.study import exactness, fit
from cospec.study.effort import Effort
from cospec.study.exactness import Check, Difference, num_checks, sampled_checks, self_test

from .cli_models import write_models
from .toys import table

# As many samples as `cospec verify` and a pilot draw of a prompt.
EFFORT = Effort()
PROMPTS = [[1], [2, 0]]


def run_lengths(runs, stands):
    """How many drafts of each run come before the first that does not stand."""
    return [
        sum(1 for _ in itertools.takewhile(bool, (stands(run, i) for i in range(length))))
        for run, length in enumerate(runs.lengths)
    ]


def token_with_p_and_q_swapped(runs, accept, replace):
    p, q = runs.at_tokens()
    starts = [start for start, _ in runs.spans]
    accepted = run_lengths(runs, lambda run, i: accept(run, i) * p[starts[run] + i] < q[starts[run] + i])
    return verify._replaced(runs, accepted, lambda at: (runs.target[at] - runs.draft[at]).clamp(min=0), replace)


def block_up_to_the_first_failure(runs, accept, replace):
    """Takes the h_i in turn, as if each decided about its own token, instead of the largest that stands."""
    seen = {}

    def noted(run, i):
        seen[run, i] = accept(run, i)
        return seen[run, i]

    sound = verify.verify_block(runs, accept=noted, replace=replace)
    p, q = runs.at_tokens()
    reach = [verify._reach(p[start : start + length], q[start : start + length]) for start, length in runs.spans]
    a = torch.tensor([a for own in reach for a in own[:-1]], dtype=runs.target.dtype)
    residuals = (a[:, None] * runs.target - runs.draft).clamp(min=0)
    masses = residuals.sum(-1).tolist()
    starts = [start for start, _ in runs.spans]

    def stands(run, i):
        length = runs.lengths[run]
        mass = masses[starts[run] + i + 1] if i + 1 < length else 0.0
        h = reach[run][length] if i + 1 == length else verify._share(mass, 1 - reach[run][i + 1])
        return seen[run, i] < h

    accepted = run_lengths(runs, stands)
    assert all(own <= verdict.accepted for own, verdict in zip(accepted, sound, strict=True))
    return verify._replaced(runs, accepted, lambda at: residuals[at], replace)


def block_that_draws_from_the_target(runs, accept, replace):
    """What replaces a rejected draft comes from p instead of the residual."""
    accepted = [verdict.accepted for verdict in verify.verify_block(runs, accept=accept, replace=replace)]
    return verify._replaced(runs, accepted, lambda at: runs.target[at], replace)


def all_stand(runs, **draws):
    return [Verdict(length, None) for length in runs.lengths]


# What has drafts of one token alone has no first failure before a later token that stands.
LONG_DRAFTS = ("fixed", "cascade", "mixture by drafter")
FAULTS = {
    "token": {token_with_p_and_q_swapped: ("fixed", "cascade", "alternate", "mixture by drafter"), all_stand: ("",)},
    "block": {
        token_with_p_and_q_swapped: ("fixed", "cascade", "alternate", "mixture by drafter"),
        block_up_to_the_first_failure: LONG_DRAFTS,
        block_that_draws_from_the_target: LONG_DRAFTS,
        all_stand: ("",),
    },
}


def ensemble(**changes):
    members = [table(seed, vocab_size=8, end_ids=()) for seed in (1, 2)]
    drafter = table(3, vocab_size=8, end_ids=())
    return Ensemble(members, Mixture([0.5, 0.5]), **{"proposer": drafter, "schedule": "fixed", "gamma": 4} | changes)


@pytest.mark.parametrize(
    ("kind", "fault"),
    [(kind, fault) for kind, faults in FAULTS.items() for fault in faults],
    ids=lambda given: given if isinstance(given, str) else given.__name__,
)
def test_a_broken_verification_is_found_under_every_schedule_that_shows_it(monkeypatch, kind, fault):
    monkeypatch.setattr(f"cospec.core.settle.verify_{kind}", fault)
    # The other is sound, and takes as long.
    monkeypatch.setattr(exactness, "sampled_verifications", lambda ensemble: [kind])
    found = list(sampled_checks(ensemble(), PROMPTS, EFFORT))
    failed = {check.schedule for check in found if not check.is_passed}
    shown_by = FAULTS[kind][fault]
    drafting = {check.schedule for check in found} - {"mixture"}
    missed = {name for name in drafting if name.startswith(shown_by)} - failed
    assert missed == set()


def test_sound_samples_pass():
    found = sampled_checks(ensemble(), PROMPTS, Effort(num_samples=40))
    assert [check for check in found if not check.is_passed] == []


def test_the_default_verification_and_every_schedule_that_auto_may_choose_are_tested():
    auto = ensemble(schedule="auto", gamma=None)
    found = list(sampled_checks(auto, PROMPTS[:1], Effort(num_samples=10)))
    assert found[0].schedule == "auto"
    assert found[0].verification == auto.plan.verification == Plan().verification
    weighed = {plan.name for plan in plans(auto.setting(SamplingParams()), "block")} - {"plain"}
    for kind in ("block", "token"):
        tested = {check.schedule.split(" ")[0] for check in found if check.verification == kind}
        assert weighed <= tested
    # What requests without a seed come to, and what those with one run.
    planner = auto.planner_for(SamplingParams())
    assert [check.schedule for check in found[1:3]] == [
        f"auto, its choice ({planner.chosen})",
        f"auto with a seed ({auto.schedule_for(SamplingParams(seed=0)).name})",
    ]
    assert {check.verification for check in found[:3]} == {"block"}


@pytest.mark.parametrize("verification", ["block", "token", "coupled"])
@pytest.mark.parametrize("schedule", ["auto", "plain", "fixed", "alternate", "mixture", "cascade"])
def test_the_plan_that_runs_comes_first_and_lines_are_counted(schedule, verification):
    if schedule == "mixture" and verification == "coupled":
        pytest.skip("cannot be had")
    more = {"proposer": None} if schedule == "alternate" else {}
    own = ensemble(schedule=schedule, gamma=None, verification=verification, **more)
    cases = exactness._sampled_cases(own)
    equal = num_checks(own) - len(cases)
    assert 0 < equal <= 2 * len(exactness.tested_plans(own))
    kinds = list(dict.fromkeys(case.plan.verification for case in cases))
    assert kinds == (["token", "block"] if verification == "token" else ["block", "token"])
    if schedule != "plain":
        assert replace(cases[0].plan, verification=verification) == own.plan


def test_every_line_that_is_counted_is_run():
    own = ensemble(schedule="auto", gamma=None)
    assert len(list(self_test(own, PROMPTS[:1], Effort(max_tokens=4, num_samples=20)))) == num_checks(own)


class Added(Schedule):
    """A schedule of another package that `auto` may choose, and that names no plan for verification."""

    name = "added"

    @classmethod
    def verified(cls, setting):
        return []


class Raising(Added):
    name = "raising"

    @classmethod
    def verified(cls, setting):
        raise ZeroDivisionError("a plug-in's own fault")


@pytest.mark.parametrize("kind", [Added, Raising])
def test_schedules_are_known_by_the_registry_alone(monkeypatch, kind):
    entry = importlib.metadata.EntryPoint(kind.name, f"{__name__}:{kind.__name__}", "cospec.schedules")
    monkeypatch.setitem(registry.SCHEDULES._registered, kind.name, entry)
    assert schedule_class(kind.name) is kind
    # What is weighed is tested, whatever is said of verification.
    assert kind.name in exactness.tested_plans(ensemble(schedule="auto", gamma=None))


def test_samples_of_the_target_fit_it_and_those_of_a_member_do_not():
    made = ensemble()

    def lowest(of):
        texts = [
            [tuple(result.token_ids) for result in of.generate([prompt], SamplingParams(max_tokens=8, n=100, seed=1))]
            for prompt in PROMPTS
        ]
        return min(fit.p_values(fit.Fit(made, PROMPTS, 8).excesses(texts)))

    assert lowest(made.with_plan(schedule="plain", gamma=None, proposer=None)) > 1e-3
    assert lowest(made.alone(made.member_names[0])) < 1e-9


def test_the_fit_raises_few_false_alarms():
    made = ensemble(schedule="plain", gamma=None)
    found = []
    for seed in range(30):
        params = SamplingParams(max_tokens=6, n=40, seed=seed)
        texts = [tuple(result.token_ids) for result in made.generate([[1]], params)]
        found += fit.p_values(fit.Fit(made, [[1]], 6).excesses([texts]))
    assert sum(p < 0.05 for p in found) / len(found) < 0.08
    assert min(found) > 1e-5


def test_texts_none_of_which_is_equal_are_not_said_to_have_passed():
    tie = Difference(0, 3, 2e-5, is_tie=True)
    fault = Difference(1, 3, 0.5, is_tie=False)
    equal = Check("greedy text", "fixed", "block", is_passed=True, detail="")
    assert equal.outcome == "equal"
    assert Check("greedy text", "fixed", "block", is_passed=True, detail="", differences=(tie,)).outcome == "ties"
    both = Check("greedy text", "fixed", "block", is_passed=False, detail="", differences=(tie, fault))
    assert both.outcome == "different"
    assert both.largest_tie == 2e-5
    broken = Check("greedy text", "fixed", "block", is_passed=False, detail="no memory", error="no memory")
    assert broken.outcome == "failed"


def test_the_table_says_once_what_holds_for_all_lines():
    effort = Effort(max_tokens=4, num_samples=20)
    found = list(self_test(ensemble(), PROMPTS, effort))
    num_equal = sum(check.name != "sampled text" for check in found)
    for columns in (80, 120):
        console = Console(width=columns, record=True, file=io.StringIO())
        console.print(_table(ensemble(), effort, found))
        lines = console.export_text().splitlines()
        text = " ".join(" ".join(lines).split())
        assert max(map(len, lines)) <= columns
        assert text.count("fails under") == 1
        assert text.count("20 of up to 8 tokens") == 1
        assert "Sampled under block, token; the ensemble's own verification is block." in text
        assert f"{num_equal} equal, {len(found) - num_equal} passed." in text


def shown(*arguments, columns=80):
    sizes = ("--samples", "20", "--max-tokens", "4")
    return CliRunner().invoke(app, ["verify", *sizes, *arguments], env={"COLUMNS": str(columns)})


def test_json_says_what_was_tested(tmp_path):
    folder = write_models(tmp_path)
    members = [option for name in "ab" for option in ("--member", str(folder / name))]
    found = json.loads(shown(*members, "--json").stdout)
    assert found["exact"] is True
    assert found["plan"] == "auto"
    tested = found["tested"]
    assert set(tested) == {"coupled text", "greedy text", "sampled text"}
    assert set(tested["sampled text"]) == {"block", "token"}
    assert tested["sampled text"]["block"][0] == "auto"
    assert {check["outcome"] for check in found["checks"]} <= {"equal", "passed", "ties"}
    assert found["numerics"] == "default"


def test_ctrl_c_shows_the_checks_that_were_made(monkeypatch):
    def interrupted_after_two(*arguments):
        yield from itertools.islice(self_test(*arguments), 2)
        raise KeyboardInterrupt

    monkeypatch.setattr("cospec.cli.verify_run.self_test", interrupted_after_two)
    done = shown("--ensemble", "demo:we", columns=200)
    assert done.exit_code == 130
    assert done.stdout.count("coupled text") == 2
    assert re.search(r"interrupted; 2 of \d+ checks were made, and none is kept", " ".join(done.stderr.split()))


@pytest.mark.parametrize("chat", [[], ["--chat"]])
def test_six_bundled_prompts_are_compared_chats_too(chat, monkeypatch):
    compared = []
    monkeypatch.setattr("cospec.cli.verify_run.self_test", lambda made, prompts, effort: compared.extend(prompts) or [])
    monkeypatch.setattr("cospec.cli.verify_run.check_chats", lambda made, prompts: None)
    shown("--ensemble", "demo:we", *chat, "--json")
    assert len({str(prompt) for prompt in compared}) == len(compared) == 6


def test_ties_are_counted_with_their_largest_gap(monkeypatch):
    class Unsteady(toy.FunctionRunner):
        """Rows differ in the last bits from call to call, as those of a real model do."""

        num_calls = 0

        def feed(self, batch):
            self.num_calls += 1
            return [rows + 1e-12 * torch.sin(torch.arange(4) + self.num_calls) for rows in super().feed(batch)]

    unsteady = Ensemble([Unsteady(4, lambda prefix: [1.0, 1.0, 0.0, -1.0]) for _ in range(2)])
    monkeypatch.setattr("cospec.cli.options.EnsembleOptions.build", lambda self: unsteady)
    monkeypatch.setattr("cospec.cli.verify_run._texts", lambda options, chats: PROMPTS)
    output = " ".join(shown(columns=200).stdout.split())
    assert "equal but for ties of rounding" in output
    assert "first differ in a tie, largest gap" in output
