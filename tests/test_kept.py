"""benchmarks/kept.py counts passes and accepted drafts of drafts that are kept, here of texts that are known."""

import importlib
import itertools
import json
from pathlib import Path

import pytest

from cospec import Ensemble, SamplingParams, demo

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
TEXT = tuple(range(100, 200))


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("kept")


class Known:
    """Writes `TEXT` where it was fed that, and -1 behind anything else: as target, or as a drafter that errs.

    wrong: positions where its drafts are. slips: positions where its drafts are if they are a block's first.
    """

    kind = "model"

    def __init__(self, wrong=(), slips=()):
        self._wrong, self._slips = wrong, slips

    def along(self, text, first):
        return [TEXT[i] if text[:i] == TEXT[:i] else -1 for i in range(first, len(text) + 1)]

    def draft(self, text, num_settled, most):
        """Right whatever stands before, but for the positions named."""
        wrong = {*self._wrong, *({len(text)} & {*self._slips})}
        return [0 if i in wrong else TEXT[i] for i in range(len(text), len(text) + most)]


def rounds_of(script, keeping, use, *, gamma, tokens, wrong=(), slips=()):
    decoding = script.Decoding(TEXT, Known(), Known(wrong, slips))
    rounds, _ = script.simulated(script.Way(keeping, use), gamma, decoding, tokens)
    return [(each.num_drafts, each.num_accepted, each.drafter_fed) for each in rounds]


def test_dropped_drafts_are_drafted_anew(script):
    rounds = rounds_of(script, None, "", gamma=4, tokens=10, wrong={1})
    # Of the second block the drafter was fed one draft that stands, and all of the first but the last.
    assert rounds == [(4, 1, (1, 1, 1, 1)), (4, 4, (1, 1, 1, 1)), (4, 4, (2, 1, 1, 1))]


def test_kept_drafts_stand_in_for_passes_of_the_drafter(script):
    alone = rounds_of(script, "in place", "alone", gamma=4, tokens=10, wrong={1})
    # Two drafts behind the rejected one are right; the drafter then is fed what it missed.
    assert alone == [(4, 1, (1, 1, 1, 1)), (2, 2, ()), (4, 4, (4, 1, 1, 1))]
    extended = rounds_of(script, "in place", "extended", gamma=4, tokens=7, wrong={1})
    assert extended == [(4, 1, (1, 1, 1, 1)), (4, 4, (1 + 2, 1))]


def test_drafts_that_agree_with_what_was_kept_cost_one_pass(script):
    checked = rounds_of(script, "in place", "checked", gamma=4, tokens=7, wrong={1})
    assert checked == [(4, 1, (1, 1, 1, 1)), (4, 4, (1 + 2, 1))]
    # None agree: all of the drafter's passes, the first of them for more tokens.
    refreshed = rounds_of(script, "refreshed", "checked", gamma=4, tokens=7, wrong={1})
    assert refreshed == [(4, 1, (1, 1, 1, 1)), (4, 4, (1 + 3, 1, 1, 1))]


def test_the_better_branch_counts_and_both_are_fed(script):
    both = rounds_of(script, "in place", "both", gamma=4, tokens=7, wrong={1}, slips={2})
    # Two kept drafts are right and the new block is wrong at once: of it the drafter has nothing that stands.
    assert both == [(4, 1, (1, 1, 1, 1)), (2 + 4, 2, (1, 1, 1, 1)), (4, 4, (3, 1, 1, 1))]


def test_a_replacement_found_among_the_drafts_moves_them(script):
    rejected = script.Rejected(0, [7, 8, 9, 5, 6], [7, 9, 1, 2, 3, 4], num_accepted=1)
    assert rejected.kept("in place") == [9, 5, 6]
    assert rejected.kept("realigned") == [5, 6]
    assert rejected.kept("refreshed") == [1, 2, 3, 4]


@pytest.mark.parametrize("drafter", ["demo:drafter", "lookup"])
def test_blocks_are_those_that_the_engine_settles(script, drafter):
    ensemble = Ensemble(["demo:math"], proposer=drafter, schedule="fixed", gamma=3)
    prompt, params = demo.prompts()[0], SamplingParams(max_tokens=40, temperature=0, ignore_eos=True)
    settled = [[token.token for token in event.tokens] for event in ensemble.stream([prompt], params) if event.tokens]
    decoding = script.decoded(ensemble, prompt, 0.0, 4, seed=0)
    rounds, _ = script.simulated(script.Way(), 3, decoding, 24)
    assert [1 + each.num_accepted for each in rounds] == [len(tokens) for tokens in settled][: len(rounds)]
    assert decoding.text[:24] == tuple(itertools.chain(*settled))[:24]


def test_noise_is_a_positions_and_a_seeds(script):
    """At temperature 1 what drafts for itself is always right, and another seed has another text."""
    ensemble = Ensemble(["demo:math"], schedule="plain")
    one, short, other = (script.decoded(ensemble, demo.prompts()[0], 1.0, *each) for each in ((20, 0), (1, 0), (20, 1)))
    assert one.text != other.text
    # The tokens of a pass over many positions are those of a pass each.
    assert tuple(short.target.along(one.text[:-1], 0)) == one.text
    itself = script.Decoding(one.text, one.target, one.target)
    rounds, rejections = script.simulated(script.Way(), 3, itself, 24)
    assert [each.num_accepted for each in rounds] == [3] * 6
    assert rejections == []


def test_the_command_line_prints_tables_and_writes_json(script, tmp_path, capsys):
    costs = ["--cost", "[[1, 10], [17, 20]]", "--drafter-cost", "[[1, 1], [17, 2]]"]
    file = tmp_path / "kept.json"
    script.main(["--member", "demo:math", "--texts", "1", "--tokens", "6", *costs, "--json", str(file)])
    assert "refreshed, checked" in capsys.readouterr().out
    result = json.loads(file.read_text())
    for own in result["temperatures"].values():
        gains = {row["way"]: row["gain"] for row in own["flat"]}
        assert gains["dropped"] == 0.0
        # The same drafts in no more passes of the drafter.
        assert gains["in place, checked"] >= 0.0


def test_a_drafter_that_is_a_member_is_refused(script):
    with pytest.raises(SystemExit, match="demo:math is a member; give a drafter that is none"):
        script.main(["--ensemble", "demo:we", "--drafter", "demo:math"])
