"""Members whose vocabularies agree but for entries behind all that they have in common."""

import logging

import pytest
import torch

from cospec import Ensemble, SamplingParams, VocabularyMismatch
from cospec.runner.hf.tokenizer import HfTokenizer
from cospec.toy import FunctionRunner

from .tokenizers import byte_level, finished

ENTRIES = ("<end>", "a", "b", "c", "d", "<pad>", "<extra>")


class Entries:
    """A tokenizer of the first entries."""

    end_ids = (0,)

    def __init__(self, size, **changes):
        self._entries = [changes.get(f"at_{i}", entry) for i, entry in enumerate(ENTRIES[:size])]

    def encode(self, text):
        return [self._entries.index(letter) for letter in text]

    def decode(self, ids):
        return "".join(self._entries[i] for i in ids if i)

    def entries(self):
        return self._entries


def runner(size, seed, cut=None, **changes):
    """A model of `size` entries, of whose rows only the first `cut` are left."""

    def fn(prefix):
        torch.manual_seed(hash((seed, prefix[-1])) % 2**31)
        # What lies behind the common entries is the most likely by far.
        return torch.cat((torch.randn(5, dtype=torch.float64), torch.full((2,), 9.0, dtype=torch.float64)))[
            : cut or size
        ]

    return FunctionRunner(cut or size, fn, end_ids=(0,), tokenizer=Entries(cut or size, **changes))


@pytest.mark.parametrize("schedule", ["plain", "alternate", "mixture", "fixed", "auto"])
@pytest.mark.parametrize("sizes", [(5, 6), (6, 5), (7, 6)])
def test_r_is_over_the_common_entries(schedule, sizes):
    params = SamplingParams(max_tokens=12, seed=4, ignore_eos=True, logprobs=3, n=4)
    verification = "token" if schedule == "mixture" else "coupled"
    common = min(sizes)
    texts = []
    for cut in (None, common):
        members = [runner(size, seed, cut) for seed, size in enumerate(sizes)]
        ensemble = Ensemble(members, schedule=schedule, verification=verification)
        assert ensemble.vocab_size == common
        texts.append([(result.token_ids, result.logprobs) for result in ensemble.generate("a", params)])
    assert texts[0] == texts[1]


@pytest.mark.parametrize("size", [5, 6])
def test_a_drafter_may_have_fewer_entries_or_more(size):
    members = [runner(6, seed) for seed in range(2)]
    params = SamplingParams(max_tokens=12, seed=4, ignore_eos=True)
    drafted = Ensemble(members, schedule="fixed", proposer=runner(size, 9), verification="coupled")
    plain = Ensemble(members, schedule="plain", verification="coupled")
    (result,) = drafted.generate("a", params)
    assert result.token_ids == plain.generate("a", params)[0].token_ids
    # r has an entry that the smaller one does not know.
    assert drafted.vocab_size == 6
    assert size == 6 or 5 in result.token_ids


def test_what_is_left_out_is_said_once_at_loading(caplog):
    with caplog.at_level(logging.WARNING, "cospec"):
        ensemble = Ensemble([runner(5, 0), runner(7, 1), runner(5, 2)], schedule="plain")
        ensemble.generate("a", SamplingParams(max_tokens=4))
    (record,) = caplog.records
    assert "'member-2' has 2 tokens more than others, from '<pad>' on" in record.getMessage()


def test_equal_vocabularies_say_nothing(caplog):
    with caplog.at_level(logging.WARNING, "cospec"):
        Ensemble([runner(5, 0), runner(5, 1)], schedule="plain")
    assert not caplog.records


def test_more_words_are_another_tokenizer():
    """Entries that a longer training has found split texts otherwise; those that were added do not."""
    small, large = (HfTokenizer(finished(byte_level(size=size))) for size in (300, 310))
    padded = finished(byte_level(size=300))
    padded.add_tokens(["<pad>", "<image>"])
    others = {"large": large, "padded": HfTokenizer(padded)}

    def pair(name):
        members = []
        for tokenizer in (small, others[name]):
            size = len(tokenizer.entries())
            members.append(FunctionRunner(size, lambda prefix, size=size: torch.zeros(size), tokenizer=tokenizer))
        return Ensemble(members, schedule="plain")

    with pytest.raises(VocabularyMismatch, match="has 300 tokens and 'member-2' 310; they first differ at id 300 "):
        pair("large")
    assert pair("padded").vocab_size == 300


def test_a_difference_before_the_end_is_refused():
    with pytest.raises(VocabularyMismatch, match=r"first differ at id 3 \('c' and 'C'\)"):
        Ensemble([runner(5, 0), runner(7, 1, at_3="C")])
