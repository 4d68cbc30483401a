"""Decoded sequences as objects for JSON, and as a table of their log-probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from ..core.events import Result
from ..core.spelling import TokenSpeller
from .prompts import PromptEntry
from .tables import FittedTable, TableColumn


@dataclass(frozen=True, kw_only=True)
class Records:
    """How results are written. max_tokens: that they were asked to have at most."""

    speller: TokenSpeller
    max_tokens: int

    def record(self, results: Sequence[Result], entry: PromptEntry) -> dict[str, Any]:
        """One prompt's results: the first sample's keys, and `samples` where there are several.

        Its `index` is the prompt's; in `samples` it is the sample's.
        """
        samples = [self._sample(result) for result in sorted(results, key=attrgetter("index"))]
        together = {"samples": samples} if len(samples) > 1 else {}
        return {**entry.extra, **samples[0], "index": results[0].prompt_index, **together}

    def is_cut(self, result: Result) -> bool:
        """Whether the members' context had no room for more."""
        return result.finish_reason == "length" and result.completion_tokens < self.max_tokens

    def table(self, result: Result) -> FittedTable:
        """The log-probabilities, a row for each token."""
        columns = [TableColumn(name="token"), TableColumn(name="log-probability", is_number=True)]
        rows = [[repr(self.speller.spell(each.token)), f"{each.logprob:.3f}"] for each in result.logprobs or []]
        num_others = max((len(each.top) for each in result.logprobs or []), default=0)
        if num_others:
            columns.append(TableColumn(name="most probable there", wraps=True))
            for row, each in zip(rows, result.logprobs or [], strict=True):
                row.append("  ".join(f"{self.speller.spell(token)!r} {logprob:.3f}" for token, logprob in each.top))
        return FittedTable(columns=columns, rows=rows)

    def _sample(self, result: Result) -> dict[str, Any]:
        sample = result.to_dict()
        if self.is_cut(result):
            sample["finish_reason"] = "context"
        for entry in sample["logprobs"] or []:  # type: ignore[attr-defined]
            entry["text"] = self.speller.spell(entry["token"])
            entry["top_texts"] = [self.speller.spell(token) for token, _ in entry["top"]]
        return sample
