"""The self-test passes on sound members and fails on a broken verifier."""

from dataclasses import replace

import pytest
import torch

from cospec import Contrastive, Ensemble, Mixture, toy
from cospec.core.verify import Verdict
from cospec.study.effort import Effort
from cospec.study.exactness import coupled_checks, greedy_checks, num_checks, self_test, two_sample_p_values

from .toys import table

EFFORT = Effort(max_tokens=12, num_samples=150, num_sampled_prompts=1)


PROMPTS = [[1], [2, 0]]


def checks(ensemble, effort=EFFORT):
    return list(self_test(ensemble, PROMPTS, effort))


EQUAL = Mixture([0.5, 0.5])


@pytest.mark.parametrize(
    ("combine", "schedule"),
    [
        (EQUAL, "auto"),
        (EQUAL, "alternate"),
        (EQUAL, "mixture"),
        (Contrastive(0.3), "auto"),
        (Contrastive(0.3), "fixed"),
    ],
)
def test_sound_members_pass_every_check(combine, schedule):
    ensemble = Ensemble([table(1), table(2)], combine, schedule=schedule)
    results = checks(ensemble, replace(EFFORT, num_samples=40))
    assert len(results) == num_checks(ensemble)
    assert [check.name for check in results if not check.is_passed] == []


def test_every_drafter_is_tried_alone_in_a_mixture_and_in_two_stages():
    ensemble = Ensemble([table(1), table(2)], proposer=[table(3), "lookup"], schedule="fixed", gamma=2)
    results = checks(ensemble, replace(EFFORT, num_samples=16))
    assert len(results) == num_checks(ensemble)
    assert [check for check in results if not check.is_passed] == []
    sampled = {check.schedule for check in results if check.name == "sampled text"}
    of_drafters = {
        f"{schedule} by {name}" for schedule in ("fixed", "mixture", "cascade") for name in ensemble.drafter_names
    }
    assert {"fixed", "fixed by member", "alternate", "mixture"} | of_drafters <= sampled


def test_a_verifier_that_accepts_everything_is_caught(monkeypatch):
    def all_stand(runs, **draws):
        return [Verdict(length, None) for length in runs.lengths]

    monkeypatch.setattr("cospec.core.settle.verify_token", all_stand)
    monkeypatch.setattr("cospec.core.settle.verify_coupled", lambda drafted, settled: Verdict(len(drafted), None))
    failed = {(check.name, check.schedule) for check in checks(Ensemble([table(1), table(2, sharpness=3.0)]))
              if not check.is_passed}  # fmt: skip
    assert ("sampled text", "alternate") in failed
    assert ("greedy text", "fixed") in failed


def test_a_fault_in_coupled_text_is_told_from_a_tie(monkeypatch):
    drafting = Ensemble([table(1), table(2, sharpness=3.0)], schedule="alternate")
    monkeypatch.setattr("cospec.core.settle.verify_coupled", lambda drafted, settled: Verdict(len(drafted), None))
    found = list(coupled_checks(drafting, PROMPTS, EFFORT))
    assert not any(check.is_passed for check in found)
    gaps = [difference.gap for check in found for difference in check.differences]
    assert max(gaps) > 0.01


def test_a_tie_of_rounding_is_no_fault():
    class Unsteady(toy.FunctionRunner):
        """A member whose rows differ in the last bits from call to call, as those of a real one do."""

        num_calls = 0

        def feed(self, batch):
            self.num_calls += 1
            return [rows + 1e-12 * torch.sin(torch.arange(4) + self.num_calls) for rows in super().feed(batch)]

    members = [Unsteady(4, lambda prefix: [1.0, 1.0, 0.0, -1.0]) for _ in range(2)]
    greedy = list(greedy_checks(Ensemble(members), PROMPTS, EFFORT))
    assert any(check.differences for check in greedy)
    assert all(check.is_passed for check in greedy)
    assert all(difference.is_tie for check in greedy for difference in check.differences)


def test_two_samples_of_one_law_pass_and_of_two_laws_fail():
    generator = torch.Generator().manual_seed(0)

    def sample(probs, count=400):
        return [tuple(row) for row in torch.multinomial(torch.tensor(probs), 2 * count, True, generator=generator)
                .view(count, 2).tolist()]  # fmt: skip

    lowest = [min(two_sample_p_values(sample([0.5, 0.3, 0.2]), sample([0.5, 0.3, 0.2]))) for _ in range(100)]
    assert sum(p < 0.01 for p in lowest) <= 10
    assert min(two_sample_p_values(sample([0.5, 0.3, 0.2]), sample([0.3, 0.3, 0.4]))) < 1e-3
